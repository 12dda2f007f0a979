//! A tree whose files are moved and linked by name, without ever following a symbolic link: neither at a path nor on the
//! way to it. A link that stands where the image has a directory would lead an update elsewhere.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use systemimager_core::BytePath;

use crate::sys::holes;

/// A tree, opened.
pub struct Live {
    root: OwnedFd,
    shown: PathBuf,
    /// The directory that was opened last: paths come sorted, many of one directory.
    last: RefCell<Option<(PathBuf, Rc<OwnedFd>)>>,
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

/// When a directory's contents changed last, and which directory it is.
#[derive(Debug, Clone, Copy)]
pub struct Modified {
    time: Timespec,
    inode: u64,
}

struct Place {
    dir: Rc<OwnedFd>,
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
        Ok(Self { root: fd, shown: root.to_path_buf(), last: RefCell::default() })
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
        let dir = inside.parent().unwrap_or(inside);
        let found = self.directory(dir).with_context(|| format!("opening the directory of {}", self.shown(path)))?;
        Ok(found.map(|dir| Place { dir, name: name.as_bytes().to_vec() }))
    }

    /// Opens the directory at a path from the top; `None` where there is no such directory.
    fn directory(&self, inside: &Path) -> Result<Option<Rc<OwnedFd>>> {
        if let Some((path, dir)) = &*self.last.borrow()
            && path == inside
        {
            return Ok(Some(Rc::clone(dir)));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.root, Path::new(".").join(inside), flags, Mode::empty(), resolve) {
            Ok(fd) => {
                let dir = Rc::new(fd);
                self.last.replace(Some((inside.to_path_buf(), Rc::clone(&dir))));
                Ok(Some(dir))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
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
        let Some((_, stat)) = self.look(path)? else { return Ok(Stands::Nothing) };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Stands::Directory,
            FileType::RegularFile => Stands::File(u64::try_from(stat.st_size).unwrap_or_default()),
            _ => Stands::Other,
        })
    }

    /// Looks at a path, without following a link there; `None` where nothing stands.
    fn look(&self, path: &BytePath) -> Result<Option<(Place, Stat)>> {
        let Some(place) = self.place(path)? else { return Ok(None) };
        match rustix::fs::statat(&place.dir, place.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((place, stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("looking at {}", self.shown(path))),
        }
    }

    /// Looks at a path where a regular file stands.
    fn look_at_file(&self, path: &BytePath) -> Result<Option<(Place, Stat)>> {
        let is_file = |(_, stat): &(Place, Stat)| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(self.look(path)?.filter(is_file))
    }

    /// Makes the directories above a path, for root alone.
    ///
    /// # Errors
    /// Something else stands there.
    pub fn make_parents(&self, path: &BytePath) -> Result<()> {
        if self.place(path)?.is_some() {
            return Ok(());
        }
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

    /// Takes the blocks that hold zeroes out of the regular file at a path. One that has other names is left alone, they may
    /// be those of a file in use, and so is a program with capabilities, which would lose them, and what is smaller than
    /// two blocks.
    ///
    /// # Errors
    /// It cannot be read, or its time is lost.
    pub fn make_holes(&self, path: &BytePath) -> Result<()> {
        let making = || format!("making the holes of {}", self.shown(path));
        let Some((place, stat)) = self.look_at_file(path)? else { return Ok(()) };
        if stat.st_nlink > 1 || u64::try_from(stat.st_size).is_ok_and(|size| size <= holes::BLOCK) {
            return Ok(());
        }
        let open = |flags| {
            let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&place.dir, place.name.as_slice(), flags, Mode::empty()).map(File::from)
        };
        let file = open(OFlags::RDONLY).with_context(making)?;
        let stretches = holes::find(&file).with_context(making)?;
        let mut no_value: [u8; 0] = [];
        let capable = rustix::fs::fgetxattr(&file, "security.capability", &mut no_value).is_ok();
        if stretches.is_empty() || capable {
            return Ok(());
        }
        let file = open(OFlags::RDWR).with_context(making)?;
        match holes::make(&file, &stretches) {
            // It takes more room than it need.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::OPNOTSUPP | Errno::NOSPC | Errno::IO)) => {
                Ok(())
            }
            done => done.with_context(making),
        }
    }

    /// Sees to it that a transfer does not take a regular file at a path for what it is to become, though its size and
    /// time say so: they may have been written out before its contents. One that has other names, or is not to be
    /// `kept`, goes.
    ///
    /// # Errors
    /// It cannot be changed.
    pub fn distrust(&self, path: &BytePath, kept: bool) -> Result<()> {
        let Some((place, stat)) = self.look_at_file(path)? else { return Ok(()) };
        if stat.st_nlink > 1 || !kept {
            return self.remove(path).map(drop);
        }
        let no_time = Timespec { tv_sec: 0, tv_nsec: 1 };
        let times = Timestamps { last_access: no_time, last_modification: no_time };
        rustix::fs::utimensat(&place.dir, place.name.as_slice(), &times, AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| format!("setting the time of {}", self.shown(path)))
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
        if comes == Stands::Directory || there == Stands::Directory {
            self.last.take();
            other.last.take();
        }
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
        if flags == AtFlags::REMOVEDIR {
            self.last.take();
        }
        match rustix::fs::unlinkat(&place.dir, place.name.as_slice(), flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            // A mount point is busy.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("removing {}", self.shown(path))),
        }
    }

    /// When the directory at a path changed last; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn modified(&self, path: &BytePath) -> Result<Option<Modified>> {
        let found = self.dated(path).with_context(|| format!("looking at {}", self.shown(path)))?;
        Ok(found.map(|(_, modified)| modified))
    }

    /// Gives a directory its time back, where it is the same one still.
    ///
    /// # Errors
    /// Its time cannot be set.
    pub fn set_modified(&self, path: &BytePath, to: &Modified) -> Result<()> {
        let setting = || format!("setting the time of {}", self.shown(path));
        let Some((dir, is)) = self.dated(path).with_context(setting)? else { return Ok(()) };
        if is.inode != to.inode {
            return Ok(());
        }
        let as_it_is = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: as_it_is, last_modification: to.time };
        rustix::fs::futimens(&dir, &times).with_context(setting)
    }

    fn dated(&self, path: &BytePath) -> Result<Option<(Rc<OwnedFd>, Modified)>> {
        let Some(dir) = self.directory(relative(path))? else { return Ok(None) };
        let stat = rustix::fs::fstat(&dir)?;
        let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or_default() };
        Ok(Some((dir, Modified { time, inode: stat.st_ino })))
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
    fn holes_are_made_in_what_nobody_else_uses() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        if !holes::can_be_made(dir.path()) {
            eprintln!("SKIPPED: holes_are_made_in_what_nobody_else_uses: this file system makes no holes");
            return;
        }
        let at = |name: &str| dir.path().join(name);
        let mut contents = vec![0; 5 * 4096];
        contents[0] = 7;
        for name in ["alone", "named", "capable", "running"] {
            fs::write(at(name), &contents).unwrap();
        }
        fs::hard_link(at("named"), at("other")).unwrap();
        // cap_net_raw=ep, as `setcap` writes it (linux/capability.h, revision 2).
        let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let capable =
            rustix::fs::setxattr(at("capable"), "security.capability", &capability, rustix::fs::XattrFlags::empty());
        symlink("alone", at("link")).unwrap();
        let tree = Live::open(dir.path()).unwrap();
        let blocks = |name: &str| {
            File::open(at(name)).unwrap().sync_all().unwrap();
            fs::metadata(at(name)).unwrap().blocks() / 8
        };
        let before = fs::metadata(at("alone")).unwrap();
        for path in ["/alone", "/named", "/capable", "/link", "/none", "/none/x"] {
            tree.make_holes(&path.into()).unwrap();
        }
        let after = fs::metadata(at("alone")).unwrap();
        assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
        assert_eq!((blocks("alone"), blocks("named")), (1, 5));
        assert!(fs::read(at("alone")).unwrap() == contents);
        match capable {
            Ok(()) => {
                let mut found = [0; 64];
                let size = rustix::fs::getxattr(at("capable"), "security.capability", &mut found).unwrap();
                assert_eq!(&found[..size], &capability);
            }
            Err(error) => eprintln!("SKIPPED: capabilities of a program that gets no holes: {error}"),
        }
    }

    #[test]
    fn what_was_left_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["own", "named", "for a link"] {
            fs::write(at(name), "x").unwrap();
        }
        fs::hard_link(at("named"), at("outside")).unwrap();
        symlink("own", at("link")).unwrap();
        let tree = Live::open(dir.path()).unwrap();
        let was = fs::metadata(at("outside")).unwrap().modified().unwrap();
        for (path, kept) in
            [("/own", true), ("/named", true), ("/for a link", false), ("/link", false), ("/none", true)]
        {
            tree.distrust(&path.into(), kept).unwrap();
        }
        let own = fs::metadata(at("own")).unwrap();
        assert_eq!((own.mtime(), own.mtime_nsec()), (0, 1));
        assert!(!at("named").exists() && !at("for a link").exists() && at("link").is_symlink());
        assert_eq!(fs::metadata(at("outside")).unwrap().modified().unwrap(), was);
    }

    #[test]
    fn a_directory_that_was_moved_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["live/d", "area/d"] {
            fs::create_dir_all(at(name)).unwrap();
            fs::write(at(name).join("of"), name).unwrap();
        }
        let (live, area) = (Live::open(&at("live")).unwrap(), Live::open(&at("area")).unwrap());
        assert_eq!(live.stands(&"/d/of".into()).unwrap(), Stands::File(6));
        fs::remove_file(at("live/d/of")).unwrap();
        assert!(live.remove(&"/d".into()).unwrap());
        assert_eq!(live.stands(&"/d/of".into()).unwrap(), Stands::Nothing);
        assert_eq!(area.stands(&"/d/of".into()).unwrap(), Stands::File(6));
        area.move_to(&"/d".into(), &live, &"/d".into()).unwrap();
        assert_eq!(area.stands(&"/d/of".into()).unwrap(), Stands::Nothing);
        assert_eq!(live.stands(&"/d/of".into()).unwrap(), Stands::File(6));
    }

    #[test]
    fn a_directory_gets_its_time_back() {
        let dir = tempfile::tempdir().unwrap();
        let time = |name: &str| fs::metadata(dir.path().join(name)).unwrap().modified().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let live = Live::open(dir.path()).unwrap();
        for name in ["d", ""] {
            let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
            File::open(dir.path().join(name)).unwrap().set_modified(long_ago).unwrap();
        }
        let (was, top) = (time("d"), time(""));
        let [d, root] = ["/d", "/"].map(|path| live.modified(&path.into()).unwrap().unwrap());
        fs::write(dir.path().join("d/file"), "").unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(time("d") > was && time("") > top);
        live.set_modified(&"/d".into(), &d).unwrap();
        live.set_modified(&"/".into(), &root).unwrap();
        assert_eq!((time("d"), time("")), (was, top));
        // Another directory, a file, nothing: none of them is given another's time.
        fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let other = time("d");
        live.set_modified(&"/d".into(), &d).unwrap();
        assert_eq!(time("d"), other);
        assert!(live.modified(&"/file".into()).unwrap().is_none() && live.modified(&"/x".into()).unwrap().is_none());
        live.set_modified(&"/x".into(), &d).unwrap();
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
