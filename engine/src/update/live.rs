//! A tree whose files are moved and linked by name, without ever following a symbolic link: neither at a path nor on the
//! way to it. A link that stands where the image has a directory would lead an update elsewhere.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use systemimager_core::BytePath;

/// A tree, opened.
pub struct Live {
    root: OwnedFd,
    shown: PathBuf,
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stands {
    /// Nothing, or a directory on the way to it is none.
    Nothing,
    /// A directory.
    Directory,
    /// A regular file of this size.
    File(u64),
    /// A link, a device, a socket, a pipe.
    Other,
}

struct Place {
    dir: OwnedFd,
    name: Vec<u8>,
}

impl Live {
    /// The tree at `root`.
    ///
    /// # Errors
    /// It is no directory, or cannot be opened.
    pub fn open(root: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty()).with_context(|| format!("opening {}", root.display()))?;
        Ok(Self { root: fd, shown: root.to_path_buf() })
    }

    fn shown(&self, path: &BytePath) -> String {
        self.shown.join(relative(path)).display().to_string()
    }

    /// The directory that holds `path`, and its name there; `None` where there is no such directory.
    fn place(&self, path: &BytePath) -> Result<Option<Place>> {
        let inside = relative(path);
        let Some(name) = inside.file_name().filter(|_| inside.as_os_str() != "/") else {
            bail!("{path} names no file");
        };
        let dir = match inside.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            Some(dir) => dir,
            None => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.root, dir, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(Place { dir: fd, name: name.as_bytes().to_vec() })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("opening the directory of {}", self.shown(path))),
        }
    }

    fn there(&self, path: &BytePath) -> Result<Place> {
        self.place(path)?.with_context(|| {
            format!(
                "the directory of {} is not there, or is a link; somebody else changes this tree: run the update again",
                self.shown(path)
            )
        })
    }

    /// What stands at a path.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn stands(&self, path: &BytePath) -> Result<Stands> {
        let Some(place) = self.place(path)? else { return Ok(Stands::Nothing) };
        match rustix::fs::statat(&place.dir, place.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Stands::Directory,
                FileType::RegularFile => Stands::File(u64::try_from(stat.st_size).unwrap_or_default()),
                _ => Stands::Other,
            }),
            Err(Errno::NOENT) => Ok(Stands::Nothing),
            Err(error) => Err(error).with_context(|| format!("looking at {}", self.shown(path))),
        }
    }

    /// Makes the directories above a path, for root alone.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn make_parents(&self, path: &BytePath) -> Result<()> {
        let mut at = PathBuf::new();
        for part in relative(path).parent().into_iter().flat_map(Path::components) {
            at.push(part);
            let place = self.there(&BytePath::from(at.as_path()))?;
            match rustix::fs::mkdirat(&place.dir, place.name.as_slice(), Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).with_context(|| format!("making {}", self.shown.join(&at).display())),
            }
        }
        Ok(())
    }

    /// Makes `other`'s `to` a further name of the file at `from`. `false`: this file system, or this file, takes none.
    ///
    /// # Errors
    /// Another failure than that.
    pub fn link(&self, from: &BytePath, other: &Live, to: &BytePath) -> Result<bool> {
        let (a, b) = (self.there(from)?, other.there(to)?);
        match rustix::fs::linkat(&a.dir, a.name.as_slice(), &b.dir, b.name.as_slice(), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::XDEV | Errno::ACCESS) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("linking {} to {}", self.shown(from), other.shown(to))),
        }
    }

    /// Moves what stands at `from` to `other`'s `to`, in place of what stands there; a directory in the way, or one that
    /// comes in the place of something else, changes places with it.
    ///
    /// # Errors
    /// It is not there, or cannot be moved.
    pub fn move_to(&self, from: &BytePath, other: &Live, to: &BytePath) -> Result<()> {
        let moving = || format!("moving {} into place", other.shown(to));
        let (a, b) = (self.there(from)?, other.there(to)?);
        let (comes, there) = (self.stands(from)?, other.stands(to)?);
        let swap = there != Stands::Nothing && (comes == Stands::Directory) != (there == Stands::Directory);
        let flags = if swap { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(&a.dir, a.name.as_slice(), &b.dir, b.name.as_slice(), flags).with_context(moving)
    }

    /// Takes away a file or an empty directory. `false`: something is still in the directory.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, path: &BytePath) -> Result<bool> {
        let flags = match self.stands(path)? {
            Stands::Nothing => return Ok(true),
            Stands::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        let place = self.there(path)?;
        match rustix::fs::unlinkat(&place.dir, place.name.as_slice(), flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            // A mount point is busy.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("removing {}", self.shown(path))),
        }
    }

    /// Has the file system written out that the tree's top lies on.
    ///
    /// # Errors
    /// Its disk did not take it.
    pub fn write_out(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root).with_context(|| format!("writing out {}", self.shown.display()))
    }
}

/// Without the slash that it begins with.
fn relative(path: &BytePath) -> &Path {
    let bytes = path.as_bytes();
    Path::new(OsStr::from_bytes(&bytes[bytes.iter().take_while(|byte| **byte == b'/').count()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    #[test]
    fn links_are_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["live", "area", "outside", "live/d"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("outside/victim"), "keep").unwrap();
        fs::write(at("area/victim"), "new").unwrap();
        symlink("../outside", at("live/way")).unwrap();
        let (live, area) = (Live::open(&at("live")).unwrap(), Live::open(&at("area")).unwrap());
        assert_eq!(live.stands(&"/way/victim".into()).unwrap(), Stands::Nothing);
        assert!(area.move_to(&"/victim".into(), &live, &"/way/victim".into()).is_err());
        assert!(live.remove(&"/way/victim".into()).unwrap(), "nothing there is fine");
        assert!(live.make_parents(&"/way/x/y".into()).is_err());
        for path in ["/", "/..", "/../outside/victim", ""] {
            assert!(live.remove(&path.into()).is_err(), "{path}");
        }
        assert_eq!(fs::read(at("outside/victim")).unwrap(), b"keep");
        live.make_parents(&"/d/e/f/name".into()).unwrap();
        assert!(at("live/d/e/f").is_dir());
        assert!(!live.remove(&"/d".into()).unwrap(), "something is in it");
    }

    #[test]
    fn what_is_of_another_kind_changes_places() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["live", "live/lib", "area", "area/etc"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("live/lib/old"), "").unwrap();
        fs::write(at("area/etc/new"), "").unwrap();
        fs::write(at("live/file"), "old").unwrap();
        fs::write(at("area/file"), "new").unwrap();
        symlink("usr/lib", at("area/lib")).unwrap();
        symlink("elsewhere", at("live/etc")).unwrap();
        let (live, area) = (Live::open(&at("live")).unwrap(), Live::open(&at("area")).unwrap());
        for path in ["/lib", "/etc", "/file"] {
            area.move_to(&path.into(), &live, &path.into()).unwrap();
        }
        assert_eq!(fs::read_link(at("live/lib")).unwrap(), Path::new("usr/lib"));
        assert!(at("live/etc/new").is_file() && at("area/lib/old").is_file());
        assert_eq!(fs::read(at("live/file")).unwrap(), b"new");
        assert!(area.stands(&"/file".into()).unwrap() == Stands::Nothing);
        assert!(live.link(&"/file".into(), &area, &"/name".into()).unwrap());
        assert_eq!(fs::metadata(at("live/file")).unwrap().ino(), fs::metadata(at("area/name")).unwrap().ino());
        live.write_out().unwrap();
    }
}
