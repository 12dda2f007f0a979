//! Host links: `HOST.sh` → `IMAGE.master`, relative, side by side below the TFTP root. A host that is to
//! differ has a copy of the master in place of its link.
//!
//! Nothing here follows a link out of that directory.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Serialize;
use systemimager_core::{HostName, ImageName};

use super::master::Master;
use super::master_text::{self, MASTER_SUFFIX};
use crate::config::Config;

/// How a host link's name ends, as in the paper.
pub const LINK_SUFFIX: &str = ".sh";
/// Most bytes that a master may have.
const LARGEST_MASTER: u64 = 1 << 20;

/// What stands in a host's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum HostLink {
    /// A link to an image's master, as `addclients` makes it. The master need not be there.
    Link {
        /// The image.
        image: ImageName,
    },
    /// A master of its own.
    Copy,
    /// Something else: a link elsewhere, a directory.
    Other {
        /// What it is, and what to do.
        why: String,
    },
}

/// What setting a link did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "did")]
pub enum Linked {
    /// It was so already.
    Already,
    /// There was none.
    Created,
    /// It led to another image.
    Changed {
        /// That image.
        from: ImageName,
    },
    /// A master of the host's own was replaced, because that was asked for.
    Replaced,
    /// The host has a master of its own, which was kept.
    Kept,
}

/// Where a host's link is.
pub fn path(config: &Config, host: &HostName) -> PathBuf {
    config.masters().join(format!("{host}{LINK_SUFFIX}"))
}

/// What stands in a host's place; `None`: nothing.
///
/// # Errors
/// The directory cannot be read.
pub fn look(config: &Config, host: &HostName) -> Result<Option<HostLink>> {
    look_at(&path(config, host))
}

fn look_at(path: &Path) -> Result<Option<HostLink>> {
    let kind = match path.symlink_metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("looking at the host link {}", path.display())),
    };
    if kind.is_file() {
        return Ok(Some(HostLink::Copy));
    }
    if !kind.is_symlink() {
        return Ok(Some(HostLink::Other {
            why: format!("{} is neither a link nor a file; remove it", path.display()),
        }));
    }
    let to = std::fs::read_link(path).with_context(|| format!("reading the host link {}", path.display()))?;
    let image =
        to.to_str().and_then(|text| text.strip_suffix(MASTER_SUFFIX)).and_then(|name| ImageName::try_from(name).ok());
    Ok(Some(match image {
        Some(image) => HostLink::Link { image },
        None => HostLink::Other {
            why: format!(
                "{} leads to {}, which is no master beside it; make it anew with addclients",
                path.display(),
                to.display()
            ),
        },
    }))
}

/// What [`set`] would do.
///
/// # Errors
/// Something stands there that is neither a link to a master nor a copy of one, and `force` is not given.
pub fn would_set(config: &Config, host: &HostName, image: &ImageName, force: bool) -> Result<Linked> {
    Ok(match look(config, host)? {
        None => Linked::Created,
        Some(HostLink::Link { image: now }) if now == *image => Linked::Already,
        Some(HostLink::Link { image: now }) => Linked::Changed { from: now },
        Some(HostLink::Copy) if force => Linked::Replaced,
        Some(HostLink::Copy) => Linked::Kept,
        Some(HostLink::Other { .. }) if force && !path(config, host).is_dir() => Linked::Replaced,
        Some(HostLink::Other { why }) => bail!("{why}"),
    })
}

/// Leads a host to an image's master. A master of the host's own is kept unless `force`.
///
/// # Errors
/// As [`would_set`]; or the directory cannot be written.
pub fn set(config: &Config, host: &HostName, image: &ImageName, force: bool) -> Result<Linked> {
    let linked = would_set(config, host, image, force)?;
    if matches!(linked, Linked::Already | Linked::Kept) {
        return Ok(linked);
    }
    let path = path(config, host);
    let making = || format!("making the host link {}", path.display());
    // Made under another name and moved, so that the machine that asks just now finds the old or the new.
    let place = tempfile::Builder::new().prefix(".link-").tempdir_in(config.masters()).with_context(making)?;
    let fresh = place.path().join("link");
    std::os::unix::fs::symlink(format!("{image}{MASTER_SUFFIX}"), &fresh).with_context(making)?;
    std::fs::rename(&fresh, &path).with_context(making)?;
    Ok(linked)
}

/// All hosts that have a link or a master of their own, by name.
///
/// # Errors
/// The directory cannot be read; an absent one is empty.
pub fn list(config: &Config) -> Result<Vec<(HostName, HostLink)>> {
    let dir = config.masters();
    let reading = || format!("reading the host links in {}", dir.display());
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(reading),
    };
    let mut hosts = Vec::new();
    for entry in entries {
        let entry = entry.with_context(reading)?;
        let name = entry.file_name();
        let host = name
            .to_str()
            .and_then(|name| name.strip_suffix(LINK_SUFFIX))
            .and_then(|name| HostName::try_from(name).ok());
        if let Some(host) = host
            && let Some(link) = look_at(&entry.path())?
        {
            hosts.push((host, link));
        }
    }
    hosts.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(hosts)
}

/// A master as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name in the directory of masters: what errors about the text are to name.
    pub file: PathBuf,
    /// The text.
    pub text: String,
}

impl Found {
    /// What the file says.
    ///
    /// # Errors
    /// As [`master_text::parse`].
    pub fn master(&self) -> Result<Master> {
        master_text::parse(&self.file, &self.text)
    }
}

/// The text of a host's master, under its full or else its short name; `None`: it has none.
///
/// # Errors
/// Its link dangles or leads out of the directory, or what it leads to is no text of at most 1 MiB.
pub fn master_of(config: &Config, host: &HostName) -> Result<Option<Found>> {
    for name in [host.as_str(), host.short()] {
        if let Some(found) = read(config, &format!("{name}{LINK_SUFFIX}"))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The text of an image's master; `None`: it has none.
///
/// # Errors
/// As [`master_of`].
pub fn master_of_image(config: &Config, image: &ImageName) -> Result<Option<Found>> {
    read(config, &format!("{image}{MASTER_SUFFIX}"))
}

/// Reads `name` in the directory of masters, following links inside it only.
fn read(config: &Config, name: &str) -> Result<Option<Found>> {
    let dir = config.masters();
    let file = dir.join(name);
    let base = match rustix::fs::open(&dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(base) => base,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", dir.display())),
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = match rustix::fs::openat2(base, name, flags, Mode::empty(), ResolveFlags::BENEATH) {
        Ok(opened) => File::from(opened),
        Err(Errno::NOENT) => match rustix::fs::statat(CWD, &file, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            _ => {
                let to = std::fs::read_link(&file).unwrap_or_default();
                bail!(
                    "{} leads to {}, which is not there; capture that image, or run addclients",
                    file.display(),
                    to.display()
                )
            }
        },
        Err(Errno::XDEV) => bail!("{} leads out of {}; make it anew with addclients", file.display(), dir.display()),
        Err(error) => return Err(error).with_context(|| format!("opening {}", file.display())),
    };
    if !opened.metadata().with_context(|| format!("looking at {}", file.display()))?.is_file() {
        bail!("{} is no file; remove it", file.display());
    }
    let mut text = String::new();
    opened.take(LARGEST_MASTER + 1).read_to_string(&mut text).with_context(|| format!("reading {}", file.display()))?;
    if text.len() as u64 > LARGEST_MASTER {
        bail!("{} is larger than {LARGEST_MASTER} bytes; that is no master", file.display());
    }
    Ok(Some(Found { file, text }))
}

/// The image that a host gets: its link's, or the one its own master names.
///
/// # Errors
/// As [`master_of`], or its own master is wrong: with line and column.
pub fn image_of(config: &Config, host: &HostName) -> Result<Option<ImageName>> {
    if let Some(HostLink::Link { image }) = look(config, host)? {
        return Ok(Some(image));
    }
    match master_of(config, host)? {
        Some(found) => Ok(Some(found.master()?.image)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn host(name: &str) -> HostName {
        HostName::try_from(name).unwrap()
    }

    fn image(name: &str) -> ImageName {
        ImageName::try_from(name).unwrap()
    }

    fn config() -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        std::fs::create_dir_all(config.masters()).unwrap();
        (dir, config)
    }

    #[test]
    fn links_are_set_once_and_copies_kept() {
        let (_dir, config) = config();
        let www1 = host("www1");
        std::fs::write(config.masters().join("web.master"), "the master").unwrap();
        assert_eq!(set(&config, &www1, &image("web"), false).unwrap(), Linked::Created);
        assert_eq!(std::fs::read_link(path(&config, &www1)).unwrap(), Path::new("web.master"));
        assert_eq!(set(&config, &www1, &image("web"), false).unwrap(), Linked::Already);
        assert_eq!(set(&config, &www1, &image("db"), false).unwrap(), Linked::Changed { from: image("web") });
        std::fs::remove_file(path(&config, &www1)).unwrap();
        std::fs::write(path(&config, &www1), "own").unwrap();
        assert_eq!(set(&config, &www1, &image("web"), false).unwrap(), Linked::Kept);
        assert_eq!(master_of(&config, &www1).unwrap().unwrap().text, "own");
        assert_eq!(set(&config, &www1, &image("web"), true).unwrap(), Linked::Replaced);
        assert_eq!(master_of(&config, &www1).unwrap().unwrap().text, "the master");
        assert_eq!(
            master_of(&config, &host("www1.example.org")).unwrap().unwrap().text,
            "the master",
            "by its short name"
        );
        let names: Vec<_> =
            std::fs::read_dir(config.masters()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing is left over: {names:?}");
        assert_eq!(list(&config).unwrap(), [(www1, HostLink::Link { image: image("web") })]);
    }

    #[test]
    fn no_link_leads_out() {
        let (dir, config) = config();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        for (name, to, says) in [
            ("absolute", "/etc/hostname", "leads out of"),
            ("climbing", "../../secret", "leads out of"),
            ("dangling", "gone.master", "leads to gone.master, which is not there; capture that image"),
            ("itself", "itself.sh", "opening"),
            ("directory", ".", "is no file"),
        ] {
            symlink(to, path(&config, &host(name))).unwrap();
            let error = format!("{:#}", master_of(&config, &host(name)).expect_err(name));
            assert!(error.contains(says), "{name}: {error}");
        }
        assert_eq!(master_of(&config, &host("absent")).unwrap(), None);
        assert!(would_set(&config, &host("absolute"), &image("web"), false).is_err());
        assert_eq!(would_set(&config, &host("absolute"), &image("web"), true).unwrap(), Linked::Replaced);
    }
}
