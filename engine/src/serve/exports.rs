//! Which images are offered by which transports, to whom: read from the masters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use systemimager_core::{Export, Host, ImageName, Offer, OverrideName, Piece, PluginError, Registry, Service};

use super::admitted::{self, Admitted};
use crate::account;
use crate::config::Config;
use crate::door::Door;
use crate::store;
use crate::store::clients::Client;
use crate::store::host_links::{self, Found, HostLink};
use crate::store::image_store::ImageStore;
use crate::store::master::{Master, encrypted};
use crate::store::server_keys::ServerKeys;

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
        Ok(Some(found)) => match found.master() {
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

/// Images by the transport that masters name for them; `encrypted` tells of transports. What is refused when a machine is
/// installed is not offered either: who asks need not be a machine of ours.
pub fn wanted<'a>(
    masters: impl IntoIterator<Item = &'a Master>,
    encrypted: Encrypted<'_>,
) -> BTreeMap<&'a str, BTreeSet<&'a ImageName>> {
    let mut wanted: BTreeMap<&str, BTreeSet<&ImageName>> = BTreeMap::new();
    for master in masters {
        for transport in master.offered_by(encrypted) {
            wanted.entry(transport).or_default().insert(&master.image);
        }
    }
    wanted
}

/// Whether a transport is encrypted, where it is known.
type Encrypted<'a> = &'a dyn Fn(&str) -> Option<bool>;

/// Where a transport's own files go.
pub fn work_dir(config: &Config, transport: &str) -> PathBuf {
    config.run().join("transports").join(transport)
}

/// Where the door of a transport is.
pub fn door(config: &Config, transport: &str) -> PathBuf {
    config.run().join("doors").join(transport)
}

/// A transport's offer, and how it makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// What is offered to whom.
    pub offer: Offer,
    /// What the transport runs for it.
    pub service: Service,
}

/// What is offered, and what cannot be.
#[derive(Debug, Clone, Default)]
pub struct Services {
    /// How each transport is to offer its images, by its id.
    pub offered: BTreeMap<String, Offered>,
    /// Images and transports that cannot be offered: which, by what, and why.
    pub faults: Vec<String>,
}

impl Services {
    /// All that can be offered, with what cannot be told in the log.
    ///
    /// # Errors
    /// Nothing can be offered, and something should be: all that is wrong.
    pub fn or_nothing(self) -> Result<BTreeMap<String, Offered>> {
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
    let admitted = admitted::now(config, clients).unwrap_or_else(|error| {
        services.faults.push(format!("no machine is admitted by its key: {error:#}"));
        Vec::new()
    });
    let encrypted = encrypted(registry, host);
    for master in masters {
        for id in master.plain_beside_encrypted(&encrypted) {
            services.faults.push(format!(
                "a master of the image {} names {id}, which moves it in the clear, beside a transport that does not; it is not \
                 offered by {id}: take it out of transports, or say that it may with allow_plain = true",
                master.image
            ));
        }
    }
    let mut over = overrides(config, masters, clients, &allow, (&admitted, &encrypted), &mut services.faults);
    for (id, images) in wanted(masters, &encrypted) {
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
            let open = keyless(masters.iter().filter(|it| it.image == *image), id, &encrypted);
            let closed = encrypted(id) == Some(true);
            let whoever = Whoever { allow: &allow, by_key: closed || !open };
            // What goes in the clear is for any revision that a machine of ours is brought to; what does not, for its own image alone.
            let mine = admitted.iter().filter(|it| !closed || it.image.as_ref() == Some(image));
            exports.push(whoever.export(image.to_string(), store.path(image), mine));
        }
        if exports.is_empty() {
            continue;
        }
        match by_transport(config, registry, host, id, exports, bind, &mut ports) {
            Ok((offered, faults)) => {
                services.offered.insert(id.to_owned(), offered);
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
    (admitted, encrypted): (&[Admitted], Encrypted<'_>),
    faults: &mut Vec<String>,
) -> BTreeMap<&'a str, Vec<Export>> {
    // To whom, and whether to anybody without a key; and whether a master names it.
    let mut wanted: BTreeMap<(&str, OverrideName), (BTreeSet<String>, bool)> = BTreeMap::new();
    let mut named = BTreeSet::new();
    let mut absent = BTreeSet::new();
    for master in masters {
        let Some(last) = brings(master, encrypted) else { continue };
        for name in &master.overrides {
            if store::overrides::exists(config, name) {
                named.insert(name.clone());
                let (allow, open) = wanted.entry((last, name.clone())).or_insert_with(|| (BTreeSet::new(), true));
                allow.extend(all.iter().cloned());
                *open &= master.allow_keyless;
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
    for client in clients {
        let (Some(address), Some(own)) = (client.address, store::overrides::of_host(config, &client.host)) else {
            continue;
        };
        // By what brings that host's own image, and by nothing else: it may hold what only that host is to have.
        let Ok(Some(found)) = host_links::master_of(config, &client.host) else { continue };
        let Ok(own_master) = found.master() else { continue };
        let Some(last) = brings(&own_master, encrypted) else { continue };
        let Some(last) = masters.iter().flat_map(|it| &it.transports).find(|id| *id == last) else { continue };
        let (allow, open) = wanted.entry((last, own)).or_insert_with(|| (BTreeSet::new(), true));
        allow.insert(address.to_string());
        *open &= own_master.allow_keyless;
    }
    let mut exports: BTreeMap<&str, Vec<Export>> = BTreeMap::new();
    for ((transport, name), (allow, open)) in wanted {
        let allow: Vec<String> = allow.into_iter().collect();
        let closed = encrypted(transport) == Some(true);
        let whoever = Whoever { allow: &allow, by_key: closed || !open };
        // As with images: what goes in the clear is for updates to other revisions too, but for what is one host's own.
        let revisions = !closed && named.contains(&name);
        let mine = admitted.iter().filter(|it| revisions || it.overrides.contains(&name));
        let export = whoever.export(name.export(), store::overrides::path(config, &name), mine);
        exports.entry(transport).or_default().push(export);
    }
    exports
}

/// Whether all masters that offer it by this transport say that nobody needs a key.
fn keyless<'a>(masters: impl Iterator<Item = &'a Master>, id: &str, encrypted: Encrypted<'_>) -> bool {
    let mut offering = masters.filter(|master| master.offered_by(encrypted).contains(&id)).peekable();
    offering.peek().is_some() && offering.all(|master| master.allow_keyless)
}

/// What an offer's secrets are in, where its transport asks for secrets at all.
fn asks_for_secrets(offer: &Offer, service: &Service) -> bool {
    let pieces = || service.files.iter().flat_map(|file| &file.contents);
    offer
        .exports
        .iter()
        .flat_map(|export| &export.secrets)
        .all(|own| pieces().any(|it| *it == Piece::Secret(own.secret.clone())))
}

/// Who may have a tree.
struct Whoever<'a> {
    /// From which addresses.
    allow: &'a [String],
    /// Nobody without a key that is admitted.
    by_key: bool,
}

impl Whoever<'_> {
    fn export<'a>(&self, name: String, tree: PathBuf, admitted: impl Iterator<Item = &'a Admitted>) -> Export {
        let admitted: Vec<&Admitted> = admitted.collect();
        let from_anywhere = admitted.iter().any(|it| it.from().is_empty());
        let admits = |address: &&String| from_anywhere || admitted.iter().any(|it| it.from().contains(address));
        Export {
            name,
            tree: tree.into(),
            // From the addresses of those who are admitted, so that nobody else gets as far as being asked for a secret.
            allow: self.allow.iter().filter(|it| !self.by_key || admits(it)).cloned().collect(),
            keys: admitted.iter().map(|it| it.key()).collect(),
            secrets: if self.by_key { admitted.iter().map(|it| it.secret()).collect() } else { Vec::new() },
            ..Export::default()
        }
    }
}

/// The transport that brings an image's overrides: the last of the chain, unless that is refused.
fn brings<'a>(master: &'a Master, encrypted: Encrypted<'_>) -> Option<&'a str> {
    let last = master.transports.last()?.as_str();
    master.offered_by(encrypted).contains(&last).then_some(last)
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
) -> Result<(Offered, Vec<String>)> {
    let transport = registry.transport(id)?;
    let able = transport.capabilities(host, ()).with_context(|| format!("asking the transport {id}"))?;
    let port = able.default_port;
    if let Some(other) = ports.get(&port) {
        bail!(
            "the transports {other} and {id} both want port {port}, and {other} has it; name one of them in the masters"
        );
    }
    // Who is known by keys is answered at a door.
    let door = if able.encrypted { Door::words(&door(config, id))? } else { Vec::new() };
    let account = if able.encrypted { account::of(config)?.map(|account| account.name) } else { None };
    let all = Offer {
        bind: Some(bind),
        port,
        work_dir: work_dir(config, id).into(),
        host_key: able.encrypted.then(ServerKeys::host_key),
        door,
        account,
        settings: config.settings.of_transport(id),
        ..Offer::default()
    };
    let offer = |exports: &[Export]| -> systemimager_core::Result<Offered> {
        let offer = Offer { exports: exports.to_vec(), ..all.clone() };
        let service = transport.offer(host, offer.clone())?;
        if !able.encrypted && !asks_for_secrets(&offer, &service) {
            return Err(PluginError::unsupported(format!(
                "the transport {id} does not ask for the secrets of machines, so that addresses alone would open it; take it out of \
                 transports, or say in the master file that they may: allow_keyless = true"
            )));
        }
        Ok(Offered { service, offer })
    };
    let (offered, faults) = match offer(&exports) {
        Ok(offered) => (offered, Vec::new()),
        // Which of them it is only the transport knows: they are added one by one.
        Err(first) => {
            let (mut fine, mut faults, mut last) = (Vec::new(), Vec::new(), None);
            for export in exports {
                let name = export.name.clone();
                fine.push(export);
                match offer(&fine) {
                    Ok(offered) => last = Some(offered),
                    Err(error) => {
                        fine.pop();
                        faults.push(format!("the image {name} is not offered by {id}: {error}"));
                    }
                }
            }
            let Some(offered) = last else {
                return Err(first).with_context(|| format!("offering images by {id}"));
            };
            (offered, faults)
        }
    };
    ports.insert(port, id);
    Ok((offered, faults))
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
        let shown: Vec<String> =
            wanted(&good, &|_| None).iter().map(|(id, images)| format!("{id}: {images:?}")).collect();
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
