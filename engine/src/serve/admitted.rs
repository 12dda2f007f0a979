//! Who is admitted by a key, to what: machines that carry out an order, and those that were installed, to their image and its
//! overrides.

use anyhow::Result;
use systemimager_core::{AdmittedKey, HostName, ImageName, OverrideName, UserSecret};

use crate::config::Config;
use crate::key;
use crate::machine_secret;
use crate::store::clients::Client;
use crate::store::host_links;
use crate::store::machine_keys;
use crate::store::orders::{self, Stage};
use crate::store::overrides;

/// A machine with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The machine.
    pub host: HostName,
    /// The one image that it may have, of those that are for one machine's key alone; `None`: its master file is wrong.
    pub image: Option<ImageName>,
    /// What is laid over that.
    pub overrides: Vec<OverrideName>,
    key: String,
    until: Option<u64>,
    /// The machine's own address, where it is declared.
    from: Vec<String>,
}

impl Admitted {
    /// As transports are told.
    pub fn key(&self) -> AdmittedKey {
        AdmittedKey { key: self.key.clone(), until: self.until, from: self.from.clone() }
    }

    /// As a transport is told that knows who asks by secrets.
    pub fn secret(&self) -> UserSecret {
        machine_secret::named(&self.key)
    }

    /// The machine's own address; empty: it is not declared.
    pub fn from(&self) -> &[String] {
        &self.from
    }

    /// Until when, in seconds since 1970, where that ends by itself.
    pub fn until(&self) -> Option<u64> {
        self.until
    }
}

/// All that are admitted now. A machine whose master file is wrong is admitted to no image of its own.
///
/// # Errors
/// Orders cannot be read.
pub fn now(config: &Config, clients: &[Client]) -> Result<Vec<Admitted>> {
    let by_order = orders::list(config)?.into_iter().filter(|order| order.stage != Stage::Ordered);
    let by_order = by_order.filter_map(|order| Some((order.host, order.key?, order.until)));
    let installed = machine_keys::list(config)?.into_iter().map(|(host, key)| (host, key, None));
    let mut admitted = Vec::new();
    for (host, key, until) in by_order.chain(installed) {
        if until.is_some_and(|until| until <= orders::now()) || !key::is_public(&key) {
            continue;
        }
        // What is wrong with masters is told where they are read.
        let Ok(Some(found)) = host_links::master_of(config, &host) else { continue };
        let master = found.master().ok();
        let mut over = master.as_ref().map(|master| master.overrides.clone()).unwrap_or_default();
        over.extend(overrides::of_host(config, &host));
        let address = clients.iter().find(|client| client.host == host).and_then(|client| client.address);
        let from = address.iter().map(ToString::to_string).collect();
        admitted.push(Admitted { host, image: master.map(|master| master.image), overrides: over, key, until, from });
    }
    Ok(admitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::store::orders::{self, Order, Orders};

    #[test]
    fn who_carries_out_an_order_is_admitted_to_its_image() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        std::fs::create_dir_all(config.masters()).unwrap();
        std::fs::create_dir_all(config.state()).unwrap();
        let master = "format = 1\nimage = \"web\"\ntransports = [\"t\"]\npartitioner = \"p\"\nbootloader = \"none\"\n\
                      overrides = [\"all\"]\n[identity]\nplugin = \"i\"\n";
        std::fs::write(config.masters().join("web.master"), master).unwrap();
        let key = Key::of_seed(&[1; 32]).unwrap().public().to_owned();
        let orders = Orders::hold(&config).unwrap();
        let begun = Stage::Begun { mac: "m".into(), boot: "b".into() };
        for (name, key, stage) in [
            ("carries", Some(key.clone()), begun.clone()),
            ("without", None, begun.clone()),
            ("waits", Some(key.clone()), Stage::Ordered),
            ("bad", Some(key.clone()), begun),
        ] {
            let host = HostName::try_from(name).unwrap();
            let image = ImageName::try_from("web").unwrap();
            host_links::set(&config, &host, &image, false).unwrap();
            orders.put(&Order { key, stage, ..Order::new(host, Some(image), Vec::new()) }).unwrap();
        }
        let link = config.masters().join("bad.sh");
        std::fs::remove_file(&link).unwrap();
        std::fs::write(&link, "nonsense").unwrap();
        let admitted = now(&config, &[]).unwrap();
        let shown: Vec<_> = admitted
            .iter()
            .map(|it| (it.host.as_str(), it.image.as_ref().map(ImageName::as_str), it.overrides.len()))
            .collect();
        assert_eq!(shown, [("bad", None, 0), ("carries", Some("web"), 1)]);
        assert_eq!(admitted[1].key().key, key);
        orders.remove(&HostName::try_from("bad").unwrap()).unwrap();
        // Installed, it may be updated; and an order whose time is over opens nothing any more.
        let carries = HostName::try_from("carries").unwrap();
        let over = Order {
            until: Some(orders::now() - 1),
            ..super::orders::list(&config).unwrap().into_iter().find(|it| it.host == carries).unwrap()
        };
        orders.put(&over).unwrap();
        assert_eq!(now(&config, &[]).unwrap(), []);
        machine_keys::put(&config, &carries, &key).unwrap();
        assert_eq!(now(&config, &[]).unwrap()[0].key(), AdmittedKey { key, ..AdmittedKey::default() });
        drop(orders);
    }
}
