//! Orders: which machines are to be installed. One file an order, in `orders/` of the state directory, so that
//! commands and the server see the same, whichever of them runs.
//!
//! An order is carried out once: it goes when its machine has been installed, and stays when the install failed.
//! This file keeps orders; whether a machine that asks gets one is decided in [`crate::serve::admission`].

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use systemimager_core::{HostName, ImageName};
use uuid::Uuid;

use crate::config::Config;
use crate::report::BreakPoint;
use crate::store::host_links;
use crate::sys::atomic;
use crate::sys::lock::{Lock, Mode};

/// Where an order is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Stage {
    /// No machine has taken it yet.
    Ordered,
    /// A machine carries it out.
    Begun {
        /// MAC of that machine.
        mac: String,
        /// Its boot.
        boot: String,
    },
    /// The machine that has it failed, or stopped at a break point, and waits.
    Stopped {
        /// MAC of that machine.
        mac: String,
        /// Its boot.
        boot: String,
    },
    /// The machine that waits may go on.
    GoOn {
        /// MAC of that machine.
        mac: String,
        /// Its boot.
        boot: String,
    },
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its number: drawn by chance, never used twice.
    pub id: String,
    /// The machine, by the name of its host link.
    pub host: HostName,
    /// The image its link led to when it was ordered; what counts is the link when the machine asks.
    pub image: Option<ImageName>,
    /// When it was made, seconds since 1970.
    pub made: u64,
    /// What reports have to carry; known to the server and the machine that took the order.
    pub token: String,
    /// How often a machine began it.
    #[serde(default)]
    pub attempts: u32,
    /// Where the install is to stop for a person.
    #[serde(default)]
    pub breaks: Vec<BreakPoint>,
    /// Seconds since 1970 from which on no machine may take it, and none that took it may have the image by its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// The public key of the machine that took it, made in its memory at its boot: by it the machine may have its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where it is.
    pub stage: Stage,
}

impl Order {
    /// A new order, made now.
    pub fn new(host: HostName, image: Option<ImageName>, breaks: Vec<BreakPoint>) -> Self {
        let id = Uuid::new_v4().simple().to_string();
        Self {
            id: id.get(..8).unwrap_or(&id).to_owned(),
            host,
            image,
            made: now(),
            token: Uuid::new_v4().simple().to_string(),
            attempts: 0,
            breaks,
            until: None,
            key: None,
            stage: Stage::Ordered,
        }
    }

    /// Its time is over.
    pub fn is_over(&self, now: u64) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// MAC of the machine that took it.
    pub fn mac(&self) -> Option<&str> {
        match &self.stage {
            Stage::Ordered => None,
            Stage::Begun { mac, .. } | Stage::Stopped { mac, .. } | Stage::GoOn { mac, .. } => Some(mac),
        }
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Where orders are.
pub fn dir(config: &Config) -> PathBuf {
    config.state().join("orders")
}

/// All orders, held: nobody else changes one until this goes.
#[derive(Debug)]
pub struct Orders {
    dir: PathBuf,
    _lock: Lock,
}

impl Orders {
    /// Waits for whoever holds them, then holds them. Never for long: no holder does more than change files.
    ///
    /// # Errors
    /// The directory cannot be made or locked.
    pub fn hold(config: &Config) -> Result<Self> {
        let dir = dir(config);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        // Beside the directory, not in it: whoever watches it is to be woken by orders alone.
        let lock = Lock::wait(&config.state().join("orders.lock"), Mode::Exclusive, "changing orders")?;
        Ok(Self { dir, _lock: lock })
    }

    /// The order of a machine.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn get(&self, host: &HostName) -> Result<Option<Order>> {
        let file = self.file(host);
        match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is no order; cancel it and order anew", file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// Writes an order down, in place of that machine's earlier one.
    ///
    /// # Errors
    /// The disk is full, or the directory cannot be written.
    pub fn put(&self, order: &Order) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(order)?;
        text.push(b'\n');
        // The token lets who has it speak for the machine.
        Ok(atomic::write(&self.file(&order.host), &text, 0o600)?)
    }

    /// Takes an order away; false: there was none.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn remove(&self, host: &HostName) -> Result<bool> {
        let file = self.file(host);
        match std::fs::remove_file(&file) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("removing {}", file.display())),
        }
    }

    fn file(&self, host: &HostName) -> PathBuf {
        self.dir.join(format!("{host}.json"))
    }
}

/// All orders as they are now, by host. A file that is none is warned about and passed over.
///
/// # Errors
/// The directory cannot be read; an absent one is empty.
pub fn list(config: &Config) -> Result<Vec<Order>> {
    let mut orders = Vec::new();
    for file in super::json_files(&dir(config))? {
        match std::fs::read(&file) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(order) => orders.push(order),
                Err(error) => tracing::warn!("{} is no order ({error}); passed over", file.display()),
            },
            // Carried out or cancelled since the directory was read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }
    Ok(orders)
}

/// What ordering an install did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ordered {
    /// A new order.
    Made,
    /// It was ordered already, and nobody has taken it: that order stays, with the new break points.
    Already,
    /// The machine that failed it, or stopped at a break point, waits; it may go on with this order.
    GoesOn,
    /// It is being carried out: nothing changed.
    UnderWay,
}

/// Orders an install of each of these machines, until a time, if there is one.
///
/// # Errors
/// The first that has no image (all that have none are named, and nothing is ordered), or files cannot be written.
pub fn order(
    config: &Config,
    hosts: &[HostName],
    breaks: &[BreakPoint],
    until: Option<u64>,
) -> Result<Vec<(HostName, Ordered)>> {
    let mut without = Vec::new();
    let mut images = Vec::new();
    for host in hosts {
        match host_links::master_of(config, host)? {
            Some(found) => images.push(found.master()?.image),
            None => without.push(host.as_str()),
        }
    }
    if !without.is_empty() {
        anyhow::bail!(
            "{}: no image; give one with: systemimager addclients {} --image NAME (nothing was ordered)",
            without.join(", "),
            without.join(" ")
        );
    }
    let orders = Orders::hold(config)?;
    let mut done = Vec::new();
    for (host, image) in hosts.iter().zip(images) {
        let did = match orders.get(host)? {
            Some(mut order) => match order.stage {
                Stage::Ordered => {
                    (order.image, order.breaks, order.until) = (Some(image), breaks.to_vec(), until);
                    orders.put(&order)?;
                    Ordered::Already
                }
                Stage::Stopped { mac, boot } => {
                    order.stage = Stage::GoOn { mac, boot };
                    (order.image, order.breaks, order.until) = (Some(image), breaks.to_vec(), until);
                    orders.put(&order)?;
                    Ordered::GoesOn
                }
                Stage::Begun { .. } | Stage::GoOn { .. } => Ordered::UnderWay,
            },
            None => {
                orders.put(&Order { until, ..Order::new(host.clone(), Some(image), breaks.to_vec()) })?;
                Ordered::Made
            }
        };
        done.push((host.clone(), did));
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::try_from(name).unwrap()
    }

    fn server(hosts: &[&str]) -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        std::fs::create_dir_all(config.masters()).unwrap();
        std::fs::create_dir_all(config.state()).unwrap();
        let master = "format = 1\nimage = \"web\"\ntransports = [\"t\"]\npartitioner = \"p\"\nbootloader = \"none\"\n\
                      [identity]\nplugin = \"i\"\n";
        std::fs::write(config.masters().join("web.master"), master).unwrap();
        for name in hosts {
            host_links::set(&config, &host(name), &ImageName::try_from("web").unwrap(), false).unwrap();
        }
        (dir, config)
    }

    #[test]
    fn an_order_is_made_once_and_kept_secret() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, config) = server(&["www1", "www2"]);
        let both = [host("www1"), host("www2")];
        assert_eq!(list(&config).unwrap(), []);
        let made = order(&config, &both, &[], None).unwrap();
        assert!(made.iter().all(|(_, did)| *did == Ordered::Made));
        let first = list(&config).unwrap();
        assert_eq!(first.iter().map(|order| order.host.as_str()).collect::<Vec<_>>(), ["www1", "www2"]);
        assert_ne!(first[0].token, first[1].token);
        let mode = std::fs::metadata(dir(&config).join("www1.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let again = order(&config, &both[..1], &["before-pull".parse().unwrap()], None).unwrap();
        assert_eq!(again, [(host("www1"), Ordered::Already)]);
        let kept = list(&config).unwrap().remove(0);
        assert_eq!((kept.id.as_str(), kept.breaks.len()), (first[0].id.as_str(), 1));

        for (stage, expected) in [
            (Stage::Begun { mac: "m".into(), boot: "b".into() }, Ordered::UnderWay),
            (Stage::Stopped { mac: "m".into(), boot: "b".into() }, Ordered::GoesOn),
            (Stage::GoOn { mac: "m".into(), boot: "b".into() }, Ordered::UnderWay),
        ] {
            let held = Order { stage: stage.clone(), ..kept.clone() };
            std::fs::write(dir(&config).join("www1.json"), serde_json::to_vec(&held).unwrap()).unwrap();
            assert_eq!(order_one(&config), expected, "{stage:?}");
        }
        let orders = Orders::hold(&config).unwrap();
        assert!(orders.remove(&both[0]).unwrap());
        assert!(!orders.remove(&both[0]).unwrap());
    }

    fn order_one(config: &Config) -> Ordered {
        order(config, &[host("www1")], &[], None).unwrap().remove(0).1
    }

    #[test]
    fn all_machines_without_an_image_are_named_and_nothing_is_ordered() {
        let (_dir, config) = server(&["www1"]);
        let error = order(&config, &[host("www1"), host("a"), host("b")], &[], None).unwrap_err().to_string();
        assert!(error.starts_with("a, b: no image; give one with: systemimager addclients a b --image"), "{error}");
        assert_eq!(list(&config).unwrap(), []);
    }

    #[test]
    fn a_file_that_is_no_order_hides_no_other() {
        let (_dir, config) = server(&["www1"]);
        order(&config, &[host("www1")], &[], None).unwrap();
        std::fs::write(dir(&config).join("aaa.json"), "{").unwrap();
        assert_eq!(list(&config).unwrap().len(), 1);
        assert!(Orders::hold(&config).unwrap().get(&host("aaa")).unwrap_err().to_string().contains("is no order"));
    }
}
