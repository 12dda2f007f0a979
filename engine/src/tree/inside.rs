//! Files inside the target: every path is resolved as if the target were the root, so that a link in an
//! image (`/etc/resolv.conf → /run/…`, or a hostile one) never leads out of it.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, ResolveFlags, Timestamps};
use rustix::io::Errno;
use systemimager_core::BytePath;

use crate::sys::attributes;

/// A tree whose files are changed from outside.
pub struct Inside {
    root: OwnedFd,
    shown: PathBuf,
}

/// What stands at a path.
struct Place {
    dir: OwnedFd,
    name: Vec<u8>,
}

impl Inside {
    /// The tree at `root`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(root: &Path) -> Result<Self> {
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("opening {}", root.display()))?;
        Ok(Self { root: fd, shown: root.to_path_buf() })
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = trim(path);
        let path = if path.is_empty() { b".".as_slice() } else { path };
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// The directory that holds `path`, and its name there. A link at `path` itself is not followed.
    fn place(&self, path: &BytePath) -> Result<Place> {
        let bytes = trim(path.as_bytes());
        let (dir, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (b".".as_slice(), bytes),
        };
        if name.is_empty() || name == b"." || name == b".." {
            bail!("{path} names no file");
        }
        let dir = self
            .open_at(dir, OFlags::RDONLY | OFlags::DIRECTORY)
            .with_context(|| format!("opening the directory of {path} in {}", self.shown.display()))?;
        Ok(Place { dir, name: name.to_vec() })
    }

    /// The path with links followed, if it ends at a link: the file that a write is to change. Where that would lie in a
    /// directory that is not there, this ends.
    ///
    /// # Errors
    /// The directory of `path` itself is not there, or the links lead round in circles.
    pub fn resolve(&self, path: &BytePath) -> Result<BytePath> {
        let mut path = path.clone();
        for step in 0..40 {
            let place = match self.place(&path) {
                Err(_) if step > 0 => return Ok(path),
                place => place?,
            };
            match rustix::fs::readlinkat(&place.dir, place.name.as_slice(), Vec::new()) {
                Ok(target) => {
                    let target = target.as_bytes();
                    path = if target.starts_with(b"/") {
                        BytePath::new(target)
                    } else {
                        let bytes = path.as_bytes();
                        let dir =
                            bytes.iter().rposition(|byte| *byte == b'/').map_or(b"".as_slice(), |at| &bytes[..at]);
                        BytePath::new([dir, b"/", target].concat())
                    };
                }
                Err(_) => return Ok(path),
            }
        }
        bail!("{path}: too many symbolic links");
    }

    /// Where the path's file is for this machine, links of its directory followed inside. A link at `path` itself is not
    /// followed.
    ///
    /// # Errors
    /// Its directory is not there.
    pub fn seen_from_outside(&self, path: &BytePath) -> Result<PathBuf> {
        let place = self.place(path)?;
        let fd = format!("/proc/thread-self/fd/{}", place.dir.as_raw_fd());
        let dir = std::fs::read_link(&fd).with_context(|| format!("finding the directory of {path}"))?;
        Ok(dir.join(std::ffi::OsStr::from_bytes(&place.name)))
    }

    /// The file's contents; `None` if it is not there.
    ///
    /// # Errors
    /// It is no regular file, or cannot be read.
    pub fn read(&self, path: &BytePath) -> Result<Option<Vec<u8>>> {
        let fd = match self.open_at(path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("opening {path}")),
        };
        let mut file = std::fs::File::from(fd);
        if !file.metadata()?.is_file() {
            bail!("{path} is not a regular file");
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("reading {path}"))?;
        Ok(Some(bytes))
    }

    /// Whether anything stands at the path (links followed inside).
    pub fn exists(&self, path: &BytePath) -> bool {
        self.open_at(path.as_bytes(), OFlags::PATH).is_ok()
    }

    /// Whether anything stands at the path itself, a link that leads nowhere too.
    pub fn stands(&self, path: &BytePath) -> bool {
        let Ok(place) = self.place(path) else { return false };
        // What cannot be looked at may be there.
        !matches!(rustix::fs::statat(&place.dir, place.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT))
    }

    /// Where the symbolic link at the path points; `None` if there is none.
    pub fn read_link(&self, path: &BytePath) -> Option<BytePath> {
        let place = self.place(path).ok()?;
        let target = rustix::fs::readlinkat(&place.dir, place.name.as_slice(), Vec::new()).ok()?;
        Some(BytePath::new(target.as_bytes()))
    }

    /// Whether a directory stands at the path (links followed inside).
    pub fn is_directory(&self, path: &BytePath) -> bool {
        self.open_at(path.as_bytes(), OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// Puts `contents` at the path in one move; mode, owner and xattrs of a file that is there stay.
    ///
    /// # Errors
    /// The directory is not there, or cannot be written.
    pub fn write(&self, path: &BytePath, contents: &[u8], mode: u32) -> Result<()> {
        let path = &match self.resolve(path) {
            // A link into a directory that is not there yet (/run) is replaced by the file itself.
            Ok(resolved) if self.place(&resolved).is_ok() => resolved,
            _ => path.clone(),
        };
        let place = self.place(path)?;
        let temporary = [b".".as_slice(), &place.name, b".systemimager"].concat();
        let what = || format!("writing {path} in {}", self.shown.display());
        let _ = rustix::fs::unlinkat(&place.dir, temporary.as_slice(), AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&place.dir, temporary.as_slice(), flags, Mode::RUSR | Mode::WUSR).with_context(what)?;
        let mut file = std::fs::File::from(fd);
        let written = (|| -> Result<()> {
            file.write_all(contents).with_context(what)?;
            self.take_after(&place, &file, mode).with_context(what)?;
            file.sync_all().with_context(what)?;
            rustix::fs::renameat(&place.dir, temporary.as_slice(), &place.dir, place.name.as_slice()).with_context(what)
        })();
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&place.dir, temporary.as_slice(), AtFlags::empty());
        }
        written
    }

    /// Mode, owner and xattrs of the file that is being replaced; `mode` if there is none.
    fn take_after(&self, place: &Place, file: &std::fs::File, mode: u32) -> Result<()> {
        let old = rustix::fs::openat(
            &place.dir,
            place.name.as_slice(),
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let Ok(old) = old else {
            rustix::fs::fchmod(file, Mode::from_raw_mode(mode as RawMode))?;
            return Ok(());
        };
        attributes::copy(&std::fs::File::from(old), file)?;
        Ok(())
    }

    /// Makes a directory and its parents, as far as they are not there.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn make_directory(&self, path: &BytePath, mode: u32) -> Result<()> {
        let parts: Vec<&[u8]> = trim(path.as_bytes()).split(|byte| *byte == b'/').filter(|it| !it.is_empty()).collect();
        let mut at = Vec::new();
        for part in parts {
            at.push(b'/');
            at.extend_from_slice(part);
            if self.open_at(&at, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
                continue;
            }
            let place = self.place(&BytePath::new(at.clone()))?;
            rustix::fs::mkdirat(&place.dir, place.name.as_slice(), Mode::from_raw_mode(mode as RawMode))
                .with_context(|| format!("making the directory {path} in {}", self.shown.display()))?;
        }
        Ok(())
    }

    /// Takes away a file, a link or an empty directory, if it is there.
    ///
    /// # Errors
    /// It is a directory with something in it.
    pub fn remove(&self, path: &BytePath) -> Result<()> {
        let Ok(place) = self.place(path) else { return Ok(()) };
        let flags = match rustix::fs::statat(&place.dir, place.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("looking at {path}")),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => AtFlags::REMOVEDIR,
            Ok(_) => AtFlags::empty(),
        };
        rustix::fs::unlinkat(&place.dir, place.name.as_slice(), flags)
            .with_context(|| format!("removing {path} in {}", self.shown.display()))
    }

    /// Makes a symbolic link in place of a file or link.
    ///
    /// # Errors
    /// A directory stands there.
    pub fn symlink(&self, path: &BytePath, to: &BytePath) -> Result<()> {
        self.remove(path)?;
        let place = self.place(path)?;
        rustix::fs::symlinkat(to.as_bytes(), &place.dir, place.name.as_slice())
            .with_context(|| format!("making the link {path} in {}", self.shown.display()))
    }

    /// The times of the directory that holds `path`, to be put back.
    pub fn parent_times(&self, path: &BytePath) -> Option<(OwnedFd, Timestamps)> {
        let place = self.place(path).ok()?;
        let stat = rustix::fs::fstat(&place.dir).ok()?;
        let time = |tv_sec: i64, tv_nsec: u64| rustix::fs::Timespec { tv_sec, tv_nsec: tv_nsec as _ };
        Some((
            place.dir,
            Timestamps {
                last_access: time(stat.st_atime, stat.st_atime_nsec),
                last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
            },
        ))
    }
}

fn trim(path: &[u8]) -> &[u8] {
    &path[path.iter().take_while(|byte| **byte == b'/').count()..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn writes_stay_inside() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("target");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(outer.path().join("secret"), "keep").unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("etc/climb")).unwrap();
        std::os::unix::fs::symlink("/etc/real", root.join("etc/link")).unwrap();
        std::os::unix::fs::symlink("../run/none/x", root.join("etc/dangling")).unwrap();
        let inside = Inside::open(&root).unwrap();
        inside.write(&"/etc/climb".into(), b"new", 0o644).unwrap();
        inside.write(&"/etc/link".into(), b"via link", 0o600).unwrap();
        inside.write(&"/etc/dangling".into(), b"in place", 0o644).unwrap();
        assert_eq!(std::fs::read(outer.path().join("secret")).unwrap(), b"keep");
        assert_eq!(std::fs::read(root.join("secret")).unwrap(), b"new");
        assert_eq!(std::fs::read(root.join("etc/real")).unwrap(), b"via link");
        assert_eq!(std::fs::metadata(root.join("etc/real")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(root.join("etc/dangling")).unwrap(), b"in place");
        assert!(inside.write(&"/..".into(), b"", 0o644).is_err());
        std::os::unix::fs::symlink("/etc", root.join("absolute")).unwrap();
        let real = std::fs::canonicalize(&root).unwrap();
        for (path, place) in [("/absolute/link", "etc/link"), ("/etc/../../x", "x"), ("/x", "x")] {
            assert_eq!(inside.seen_from_outside(&path.into()).unwrap(), real.join(place), "{path}");
        }
        assert!(inside.seen_from_outside(&"/run/none/x".into()).is_err());
        assert!(inside.write(&"/no/such/dir/x".into(), b"", 0o644).is_err());
    }

    #[test]
    fn an_existing_file_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "1").unwrap();
        std::fs::set_permissions(dir.path().join("a"), std::fs::Permissions::from_mode(0o640)).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        inside.write(&"/a".into(), b"2", 0o644).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        inside.make_directory(&"/x/y/z".into(), 0o755).unwrap();
        inside.symlink(&"/a".into(), &"x".into()).unwrap();
        assert!(dir.path().join("a").is_dir());
        inside.remove(&"/a".into()).unwrap();
        inside.remove(&"/a".into()).unwrap();
        assert!(inside.remove(&"/x".into()).is_err(), "a directory with something in it");
        assert_eq!(inside.read(&"/nothing".into()).unwrap(), None);
    }
}
