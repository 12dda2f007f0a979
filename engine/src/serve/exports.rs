//! Which images are offered by which transports, to whom: read from the masters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use systemimager_core::{Export, Host, ImageName, Offer, OverrideName, Registry, Service};

use crate::config::Config;
use crate::store;
use crate::store::clients::Client;
use crate::store::host_links::{self, Found, HostLink};
use crate::store::image_store::ImageStore;
use crate::store::master::Master;
use crate::store::master_text;

/// The masters of a server: of its images, and those that hosts have of their own.
#[derive(Debug, Clone, Default)]
pub struct Masters {
    /// Those that are right.
    pub good: Vec<(Found, Master)>,
    /// What is wrong with the others: `FILE:LINE:COLUMN: …`.
    pub faults: Vec<String>,
}

/// Reads them all.
///
/// # Errors
/// The directories cannot be read. What is wrong with a single master is not an error, but among the faults.
pub fn masters(config: &Config) -> Result<Masters> {
    let mut masters = Masters::default();
    let mut add = |found: Result<Option<Found>>| match found {
        Ok(Some(found)) => match master_text::parse(&found.file, &found.text) {
            Ok(master) => masters.good.push((found, master)),
            Err(error) => masters.faults.push(format!("{error:#}")),
        },
        Ok(None) => {}
        Err(error) => masters.faults.push(format!("{error:#}")),
    };
    for image in ImageStore::new(config).names()? {
        add(host_links::master_of_image(config, &image));
    }
    for (host, link) in host_links::list(config)? {
        if link == HostLink::Copy {
            add(host_links::master_of(config, &host));
        }
    }
    Ok(masters)
}

/// Images by the transport that masters name for them.
pub fn wanted<'a>(masters: impl IntoIterator<Item = &'a Master>) -> BTreeMap<&'a str, BTreeSet<&'a ImageName>> {
    let mut wanted: BTreeMap<&str, BTreeSet<&ImageName>> = BTreeMap::new();
    for master in masters {
        for transport in &master.transports {
            wanted.entry(transport).or_default().insert(&master.image);
        }
    }
    wanted
}

/// Where a transport's own files go.
pub fn work_dir(config: &Config, transport: &str) -> PathBuf {
    config.run().join("transports").join(transport)
}

/// What is offered, and what cannot be.
#[derive(Debug, Clone, Default)]
pub struct Services {
    /// How each transport is to offer its images, by its id.
    pub offered: BTreeMap<String, Service>,
    /// Images and transports that cannot be offered: which, by what, and why.
    pub faults: Vec<String>,
}

impl Services {
    /// All that can be offered, with what cannot be told in the log.
    ///
    /// # Errors
    /// Nothing can be offered, and something should be: all that is wrong.
    pub fn or_nothing(self) -> Result<BTreeMap<String, Service>> {
        if self.offered.is_empty() && !self.faults.is_empty() {
            bail!("{}", self.faults.join("\n"));
        }
        for fault in &self.faults {
            tracing::error!("{fault}");
        }
        Ok(self.offered)
    }
}

/// How each transport is to offer its images to the declared machines. An image that a transport cannot offer is
/// left out, and so is a transport that is absent, or that wants the port of another: the others are served.
pub fn services(
    config: &Config,
    registry: &Registry,
    host: &dyn Host,
    masters: &[Master],
    clients: &[Client],
    bind: IpAddr,
) -> Services {
    let allow: Vec<String> =
        clients.iter().filter_map(|client| client.address).map(|address| address.to_string()).collect();
    let store = ImageStore::new(config);
    let mut services = Services::default();
    let mut ports: BTreeMap<u16, &str> = BTreeMap::new();
    let mut over = overrides(config, masters, clients, &allow, &mut services.faults);
    for (id, images) in wanted(masters) {
        let mut exports = over.remove(id).unwrap_or_default();
        for image in images {
            match store.exists(image) {
                Ok(true) => {}
                // A host's own master may outlive the image it names.
                Ok(false) => {
                    tracing::warn!("a master names the image {image}, which is not there; it is not offered");
                    continue;
                }
                Err(error) => {
                    services.faults.push(format!("the image {image} is not offered: {error:#}"));
                    continue;
                }
            }
            let export =
                Export { name: image.to_string(), tree: store.path(image).into(), allow: allow.clone(), secret: None };
            exports.push(export);
        }
        if exports.is_empty() {
            continue;
        }
        match by_transport(config, registry, host, id, exports, bind, &mut ports) {
            Ok((service, faults)) => {
                services.offered.insert(id.to_owned(), service);
                services.faults.extend(faults);
            }
            Err(error) => services.faults.push(format!("{error:#}")),
        }
    }
    services
}

/// Overrides by the transports that bring them: the last of each master's chain. Those that masters name are for all declared
/// machines, as images are; a host's own for that host alone.
fn overrides<'a>(
    config: &Config,
    masters: &'a [Master],
    clients: &[Client],
    all: &[String],
    faults: &mut Vec<String>,
) -> BTreeMap<&'a str, Vec<Export>> {
    let mut wanted: BTreeMap<(&str, OverrideName), BTreeSet<String>> = BTreeMap::new();
    let mut absent = BTreeSet::new();
    for master in masters {
        let Some(last) = master.transports.last() else { continue };
        for name in &master.overrides {
            if store::overrides::exists(config, name) {
                wanted.entry((last, name.clone())).or_default().extend(all.iter().cloned());
            } else if absent.insert((&master.image, name)) {
                faults.push(format!(
                    "a master of the image {} names the override {name}, which is not there; make the directory {}, or take \
                     it out of the master file",
                    master.image,
                    store::overrides::path(config, name).display()
                ));
            }
        }
    }
    let lasts: BTreeSet<&str> = masters.iter().filter_map(|it| it.transports.last()).map(String::as_str).collect();
    for client in clients {
        let (Some(address), Some(own)) = (client.address, store::overrides::of_host(config, &client.host)) else {
            continue;
        };
        for last in &lasts {
            wanted.entry((last, own.clone())).or_default().insert(address.to_string());
        }
    }
    let mut exports: BTreeMap<&str, Vec<Export>> = BTreeMap::new();
    for ((transport, name), allow) in wanted {
        exports.entry(transport).or_default().push(Export {
            name: name.export(),
            tree: store::overrides::path(config, &name).into(),
            allow: allow.into_iter().collect(),
            secret: None,
        });
    }
    exports
}

/// One transport's service, and which of its images it leaves out.
fn by_transport<'a>(
    config: &Config,
    registry: &Registry,
    host: &dyn Host,
    id: &'a str,
    exports: Vec<Export>,
    bind: IpAddr,
    ports: &mut BTreeMap<u16, &'a str>,
) -> Result<(Service, Vec<String>)> {
    let transport = registry.transport(id)?;
    let port = transport.capabilities(host, ()).with_context(|| format!("asking the transport {id}"))?.default_port;
    if let Some(other) = ports.get(&port) {
        bail!(
            "the transports {other} and {id} both want port {port}, and {other} has it; name one of them in the masters"
        );
    }
    let offer = |exports: &[Export]| {
        let work_dir = work_dir(config, id).into();
        transport.offer(host, Offer { exports: exports.to_vec(), bind: Some(bind), port, work_dir, finish: None })
    };
    let (service, faults) = match offer(&exports) {
        Ok(service) => (service, Vec::new()),
        // Which of them it is only the transport knows: they are added one by one.
        Err(first) => {
            let (mut fine, mut faults, mut last) = (Vec::new(), Vec::new(), None);
            for export in exports {
                let name = export.name.clone();
                fine.push(export);
                match offer(&fine) {
                    Ok(service) => last = Some(service),
                    Err(error) => {
                        fine.pop();
                        faults.push(format!("the image {name} is not offered by {id}: {error}"));
                    }
                }
            }
            let Some(service) = last else {
                return Err(first).with_context(|| format!("offering images by {id}"));
            };
            (service, faults)
        }
    };
    ports.insert(port, id);
    Ok((service, faults))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &str = "format = 1\nimage = \"IMAGE\"\ntransports = TRANSPORTS\npartitioner = \"p\"\nbootloader = \"none\"\n\
                          [identity]\nplugin = \"i\"\n";

    #[test]
    fn images_by_transport() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let text = |image: &str, transports: &str| MASTER.replace("IMAGE", image).replace("TRANSPORTS", transports);
        for image in ["web", "db", "bad", "none"] {
            std::fs::create_dir_all(config.images().join(image)).unwrap();
        }
        std::fs::create_dir_all(config.masters()).unwrap();
        for (file, text) in [
            ("web.master", text("web", "[\"a\", \"b\"]")),
            ("db.master", text("db", "[\"b\"]")),
            ("bad.master", text("bad", "[]")),
            ("www1.sh", text("db", "[\"c\"]")),
        ] {
            std::fs::write(config.masters().join(file), text).unwrap();
        }
        let masters = masters(&config).unwrap();
        assert_eq!(masters.faults.len(), 1, "{:?}", masters.faults);
        assert!(masters.faults[0].contains("bad.master:3:14: no transport is named"), "{:?}", masters.faults);
        let good: Vec<Master> = masters.good.into_iter().map(|(_, master)| master).collect();
        let shown: Vec<String> = wanted(&good).iter().map(|(id, images)| format!("{id}: {images:?}")).collect();
        let names =
            |names: &[&str]| names.iter().map(|name| format!("ImageName(\"{name}\")")).collect::<Vec<_>>().join(", ");
        assert_eq!(
            shown,
            [("a", vec!["web"]), ("b", vec!["db", "web"]), ("c", vec!["db"])]
                .map(|(id, images)| format!("{id}: {{{}}}", names(&images)))
        );
        let host = systemimager_core::testing::RecordedHost::new();
        let services = services(&config, &Registry::default(), &host, &good, &[], [10, 0, 0, 1].into());
        assert_eq!(services.faults.len(), 3, "{:?}", services.faults);
        let error = services.or_nothing().unwrap_err().to_string();
        assert!(error.starts_with("there is no transport plugin \"a\"") && error.lines().count() == 3, "{error}");
    }
}
