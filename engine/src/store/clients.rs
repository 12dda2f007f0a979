//! The machines that get images: what `addclients` is asked for, checked as a whole before anything is
//! written, and what is known of all of them afterwards.
//!
//! Three files and the links say it all: the hosts file (addresses; a marked block in it is ours), its copy
//! beside the masters (what machines under installation read), and `macs.csv` in the state directory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{HostName, ImageName};

use super::addresses::Network;
use super::declared_list;
use super::host_links::{self, HostLink, Linked};
use super::host_set::HostSet;
use super::hosts_file;
use super::image_store::ImageStore;
use super::macs::{self, Mac, Macs};
use super::master_text;
use super::read_or_empty;
use super::serials::{self, Serials};
use crate::config::Config;
use crate::sys::atomic;
use crate::sys::lock::{Lock, Mode};

/// What `addclients` is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The machines, in the order in which they get addresses.
    pub hosts: HostSet,
    /// The image they get.
    pub image: ImageName,
    /// The first one's address; absent: no addresses are given.
    pub first: Option<Network>,
    /// Their domain.
    pub domain: Option<HostName>,
    /// MAC addresses of some or all of them.
    pub macs: Macs,
    /// Their serial numbers, as far as they are known.
    pub serials: Serials,
    /// Replace masters of their own by links.
    pub force: bool,
}

/// One machine in an [`Outcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Added {
    /// Its name.
    pub host: HostName,
    /// Its address, if it was given one.
    pub address: Option<IpAddr>,
    /// What became of its link.
    pub link: Linked,
}

/// What adding clients did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The image.
    pub image: ImageName,
    /// The machines, in the order in which they were named.
    pub clients: Vec<Added>,
    /// Files that were written; empty: all was so already.
    pub written: Vec<PathBuf>,
}

/// A wish that was checked against all that is there: carrying it out can fail only for want of disk or rights.
#[derive(Debug)]
pub struct Checked {
    outcome: Outcome,
    force: bool,
    files: Vec<(PathBuf, Vec<u8>, u32)>,
    // Held until all is written: two at once would each lose the other's lines.
    _lock: Option<Lock>,
}

/// That an image and its master are there and the master is right.
///
/// # Errors
/// Which is not; an unknown image with the names of those that are there.
pub fn check_image(config: &Config, image: &ImageName) -> Result<()> {
    let images = ImageStore::new(config).names()?;
    if !images.contains(image) {
        let have = match images.as_slice() {
            [] => format!("there is none in {} yet; capture one with getimage", config.images().display()),
            names => format!("there: {}", names.iter().map(ImageName::as_str).collect::<Vec<_>>().join(", ")),
        };
        bail!("there is no image \"{image}\" ({have})");
    }
    let file = master_text::master_path(config, image);
    match host_links::master_of_image(config, image)? {
        Some(found) => found.master().map(drop),
        None => {
            bail!("the image {image} has no master file {}; write it with getimage --update-master yes", file.display())
        }
    }
}

/// Checks everything and writes nothing.
///
/// # Errors
/// The first kind of thing that is wrong, with all cases of it.
pub fn check(config: &Config, wanted: &Wanted) -> Result<Checked> {
    check_image(config, &wanted.image)?;
    if wanted.hosts.is_empty() {
        bail!("no host is named; give host names, or --base and --range");
    }
    let given: [(&str, Vec<&HostName>); 2] =
        [("MAC addresses", wanted.macs.keys().collect()), ("serial numbers", wanted.serials.keys().collect())];
    for (what, hosts) in given {
        let strangers: Vec<&str> =
            hosts.into_iter().filter(|host| !wanted.hosts.hosts().contains(host)).map(HostName::as_str).collect();
        if !strangers.is_empty() {
            bail!(
                "{what} are given for {}, which is not among the hosts named; name those hosts too, or take the lines out",
                strangers.join(", ")
            );
        }
    }
    let lock = if config.state().is_dir() {
        Some(Lock::try_take(&config.state().join("clients.lock"), Mode::Exclusive, "adding clients")?)
    } else {
        None
    };
    let mut addresses: Vec<Option<IpAddr>> = vec![None; wanted.hosts.len()];
    let hosts_path = real(&config.hosts());
    let before = read_or_empty(&hosts_path)?;
    let mut after = before.clone();
    if let Some(first) = &wanted.first {
        let given = first.sequence(wanted.hosts.len()).map_err(anyhow::Error::msg)?;
        if let Some(own) = config.settings.server.address.filter(|own| given.contains(own)) {
            bail!("{own} is the address of this image server and can be no client's; begin with another address");
        }
        let clients: Vec<hosts_file::Client> = wanted
            .hosts
            .hosts()
            .iter()
            .zip(&given)
            .map(|(host, address)| hosts_file::Client {
                host: host.clone(),
                address: *address,
                domain: wanted.domain.as_ref().map(ToString::to_string),
            })
            .collect();
        after = hosts_file::with_clients(&before, &clients).map_err(|error| at_file(&hosts_path, &error))?;
        addresses = given.into_iter().map(Some).collect();
    }
    let clients = wanted
        .hosts
        .hosts()
        .iter()
        .zip(addresses)
        .map(|(host, address)| {
            Ok(Added {
                host: host.clone(),
                address,
                link: host_links::would_set(config, host, &wanted.image, wanted.force)?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let known = read_macs(config)?;
    let merged = declared_list::merge(&known, &wanted.macs)
        .map_err(|error| anyhow::anyhow!("{}: {error}", macs::file(config).display()))?;
    let known_serials = serials::read(config)?;
    let serials = declared_list::merge(&known_serials, &wanted.serials)
        .map_err(|error| anyhow::anyhow!("{}: {error}", serials::file(config).display()))?;

    let mut files = Vec::new();
    let copy = config.masters().join("hosts");
    if after != before {
        let mode = std::fs::metadata(&hosts_path).map_or(0o644, |metadata| {
            use std::os::unix::fs::PermissionsExt as _;
            metadata.permissions().mode() & 0o777
        });
        files.push((hosts_path, after.clone(), mode));
    }
    if read_or_empty(&copy)? != after {
        files.push((copy, after, 0o644));
    }
    if merged != known {
        files.push((macs::file(config), declared_list::render(&merged).into_bytes(), 0o644));
    }
    if serials != known_serials {
        // What a machine is known by is nobody else's business.
        files.push((serials::file(config), declared_list::render(&serials).into_bytes(), 0o600));
    }
    let mut written: Vec<PathBuf> = files.iter().map(|(path, _, _)| path.clone()).collect();
    written.extend(
        clients
            .iter()
            .filter(|client| !matches!(client.link, Linked::Already | Linked::Kept))
            .map(|client| host_links::path(config, &client.host)),
    );
    let outcome = Outcome { image: wanted.image.clone(), clients, written };
    Ok(Checked { outcome, force: wanted.force, files, _lock: lock })
}

impl Checked {
    /// What it is going to do.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Does it.
    ///
    /// # Errors
    /// A file cannot be written; run again when that is put right, what is done stays.
    pub fn apply(self, config: &Config) -> Result<Outcome> {
        for (path, contents, mode) in &self.files {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
            }
            atomic::write(path, contents, *mode)?;
        }
        for client in &self.outcome.clients {
            host_links::set(config, &client.host, &self.outcome.image, self.force)?;
        }
        Ok(self.outcome)
    }
}

/// Where writing goes: through a link, so that /etc/hosts stays the link it may be.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Faults that begin with `line N: ` become `FILE:N: `; others keep the file before them.
fn at_file(file: &Path, faults: &str) -> anyhow::Error {
    let lines: Vec<String> = faults
        .lines()
        .map(|fault| match fault.strip_prefix("line ") {
            Some(rest) => format!("{}:{rest}", file.display()),
            None => format!("{}: {fault}", file.display()),
        })
        .collect();
    anyhow::anyhow!(lines.join("\n"))
}

/// The MAC addresses that the server knows.
///
/// # Errors
/// The file cannot be read, or is wrong: with line and column.
pub fn read_macs(config: &Config) -> Result<Macs> {
    declared_list::read(&macs::file(config))
}

/// Writes down that a host has this MAC address, in place of another that it had.
///
/// # Errors
/// It is another host's, or the list cannot be written.
pub fn know_mac(config: &Config, host: &HostName, mac: Mac) -> Result<()> {
    let _lock = Lock::wait(&config.state().join("clients.lock"), Mode::Exclusive, "writing down a MAC address")?;
    let merged = declared_list::merge(&read_macs(config)?, &Macs::from([(host.clone(), mac)]))
        .map_err(|error| anyhow::anyhow!("{}: {error}", macs::file(config).display()))?;
    Ok(atomic::write(&macs::file(config), declared_list::render(&merged).as_bytes(), 0o644)?)
}

/// A machine that gets an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Its name.
    pub host: HostName,
    /// Its link, or that it has a master of its own.
    pub link: HostLink,
    /// Its address, from the hosts copy.
    pub address: Option<IpAddr>,
    /// Its canonical name there, with domain.
    pub full_name: Option<String>,
    /// Its MAC address, if it was given.
    #[serde(serialize_with = "shown")]
    pub mac: Option<Mac>,
}

fn shown<S: serde::Serializer>(mac: &Option<Mac>, serializer: S) -> Result<S::Ok, S::Error> {
    mac.map(|mac| mac.to_string()).serialize(serializer)
}

/// All machines that have a link or a master of their own.
///
/// # Errors
/// One of the files cannot be read, or is wrong: named, with the line.
pub fn declared(config: &Config) -> Result<Vec<Client>> {
    let copy = config.masters().join("hosts");
    let text = read_or_empty(&copy)?;
    let entries = hosts_file::entries(&text).map_err(|error| at_file(&copy, &error))?;
    // The first line of a name counts, as in resolving.
    let mut by_name: BTreeMap<String, &hosts_file::Entry> = BTreeMap::new();
    for entry in &entries {
        for name in &entry.names {
            by_name.entry(name.to_ascii_lowercase()).or_insert(entry);
        }
    }
    let macs = read_macs(config)?;
    Ok(host_links::list(config)?
        .into_iter()
        .map(|(host, link)| {
            let entry =
                [host.as_str(), host.short()].into_iter().find_map(|name| by_name.get(&name.to_ascii_lowercase()));
            Client {
                address: entry.map(|entry| entry.address),
                full_name: entry.and_then(|entry| entry.names.first().cloned()),
                mac: macs.get(&host).copied(),
                host,
                link,
            }
        })
        .collect())
}

/// The machine that is declared with this address.
///
/// # Errors
/// As [`declared`].
pub fn at(config: &Config, address: IpAddr) -> Result<Option<Client>> {
    Ok(declared(config)?.into_iter().find(|client| client.address == Some(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &str = "format = 1\nimage = \"web\"\ntransports = [\"t\"]\npartitioner = \"p\"\nbootloader = \"none\"\n\
                          [identity]\nplugin = \"i\"\n";

    fn server() -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        for made in [
            config.masters(),
            config.state(),
            config.images().join("web"),
            config.images().join("db"),
            dir.path().join("etc"),
        ] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::fs::write(config.masters().join("web.master"), MASTER).unwrap();
        std::fs::write(config.hosts(), "127.0.0.1 localhost\n10.0.0.1 server\n").unwrap();
        (dir, config)
    }

    fn wanted(hosts: &str, image: &str, first: Option<&str>) -> Wanted {
        Wanted {
            hosts: hosts.parse().unwrap(),
            image: ImageName::try_from(image).unwrap(),
            first: first.map(|first| first.parse().unwrap()),
            domain: None,
            macs: Macs::new(),
            serials: Serials::new(),
            force: false,
        }
    }

    /// Every path below `dir` with its contents, so that "nothing touched" can be compared.
    fn all(dir: &Path) -> BTreeMap<PathBuf, String> {
        walkdir::WalkDir::new(dir)
            .into_iter()
            .map(Result::unwrap)
            .filter(|entry| entry.file_name() != "clients.lock")
            .map(|entry| {
                let shown = match entry.file_type() {
                    kind if kind.is_symlink() => std::fs::read_link(entry.path()).unwrap().display().to_string(),
                    kind if kind.is_file() => std::fs::read_to_string(entry.path()).unwrap(),
                    _ => String::new(),
                };
                (entry.into_path(), shown)
            })
            .collect()
    }

    #[test]
    fn added_once_and_the_same_twice() {
        let (dir, config) = server();
        let mut wish = wanted("www[1-3]", "web", Some("10.0.0.11/24"));
        wish.macs = declared_list::parse(Path::new("m"), "www2,52:54:00:12:34:56").unwrap();
        wish.domain = Some(HostName::try_from("example.org").unwrap());
        let checked = check(&config, &wish).unwrap();
        assert!(host_links::list(&config).unwrap().is_empty(), "checking writes nothing");
        let outcome = checked.apply(&config).unwrap();
        assert_eq!(outcome.written.len(), 6, "{outcome:?}");
        let hosts = std::fs::read_to_string(config.hosts()).unwrap();
        assert!(hosts.contains("10.0.0.13\twww3.example.org\twww3\n"), "{hosts}");
        assert_eq!(std::fs::read_to_string(config.masters().join("hosts")).unwrap(), hosts);
        let declared = declared(&config).unwrap();
        assert_eq!(declared.len(), 3);
        assert_eq!(declared[1].address, Some("10.0.0.12".parse().unwrap()));
        assert_eq!(declared[1].full_name.as_deref(), Some("www2.example.org"));
        assert_eq!(declared[1].mac.map(|mac| mac.to_string()).as_deref(), Some("52:54:00:12:34:56"));
        let before = all(dir.path());
        let again = check(&config, &wish).unwrap().apply(&config).unwrap();
        assert_eq!(again.written, Vec::<PathBuf>::new());
        assert!(again.clients.iter().all(|client| client.link == Linked::Already));
        assert_eq!(all(dir.path()), before);
    }

    type Spoil = fn(&Config, &mut Wanted);

    #[test]
    fn refused_as_a_whole() {
        let rows: [(&str, Spoil, &str); 9] = [
            (
                "unknown image",
                |_, w| w.image = ImageName::try_from("wbe").unwrap(),
                "there is no image \"wbe\" (there: db, web)",
            ),
            ("no master", |_, w| w.image = ImageName::try_from("db").unwrap(), "the image db has no master file"),
            (
                "wrong master",
                |c, _| std::fs::write(c.masters().join("web.master"), MASTER.replace("\"web\"", "\"db\"")).unwrap(),
                "web.master:2:9: this is the master of web",
            ),
            (
                "address of another",
                |_, w| w.first = Some("10.0.0.1/24".parse().unwrap()),
                "etc/hosts:2: 10.0.0.1 is server's and cannot be www1's",
            ),
            (
                "leaves the prefix",
                |_, w| w.first = Some("10.0.0.254/24".parse().unwrap()),
                "2 hosts from 10.0.0.254/24 on do not fit",
            ),
            (
                "MAC of a stranger",
                |_, w| w.macs = declared_list::parse(Path::new("m"), "x,52:54:00:12:34:56").unwrap(),
                "MAC addresses are given for x, which is not among the hosts named",
            ),
            (
                "MAC of another",
                |c, w| {
                    std::fs::write(macs::file(c), "other,52:54:00:12:34:56\n").unwrap();
                    w.macs = declared_list::parse(Path::new("m"), "www1,52:54:00:12:34:56").unwrap();
                },
                "52:54:00:12:34:56, given to www1, is already other's",
            ),
            (
                "something in a link's place",
                |c, _| std::fs::create_dir(c.masters().join("www2.sh")).unwrap(),
                "www2.sh is neither a link nor a file; remove it",
            ),
            (
                "broken block",
                |c, _| std::fs::write(c.hosts(), "# systemimager begin\n").unwrap(),
                "etc/hosts:1: \"# systemimager begin\" without",
            ),
        ];
        for (name, spoil, says) in rows {
            let (dir, config) = server();
            let mut wish = wanted("www[1-2]", "web", Some("10.0.0.11/24"));
            spoil(&config, &mut wish);
            let before = all(dir.path());
            let error = format!("{:#}", check(&config, &wish).expect_err(name));
            assert!(error.contains(says), "{name}: {error}");
            assert_eq!(all(dir.path()), before, "{name}: something was touched");
        }
    }

    #[test]
    fn a_copy_in_a_link_s_place_is_kept() {
        let (_dir, config) = server();
        std::fs::write(config.masters().join("www1.sh"), MASTER).unwrap();
        let outcome = check(&config, &wanted("www[1-2]", "web", None)).unwrap().apply(&config).unwrap();
        assert_eq!(
            outcome.clients.iter().map(|client| &client.link).collect::<Vec<_>>(),
            [&Linked::Kept, &Linked::Created]
        );
        assert_eq!(std::fs::read_to_string(config.masters().join("www1.sh")).unwrap(), MASTER);
    }
}
