//! A tree on disk, by paths that follow no symbolic link: what lies there cannot lead anybody out of it. Reading and writing of
//! single objects; what is to be read or written, others decide.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps,
    XattrFlags,
};
use rustix::io::Errno;

use crate::pack::manifest::Attributes;

/// Extended attributes of the kernel's own that are part of a tree: access control lists.
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Zeroes that are written at a time.
const ZEROES: usize = 64 << 10;

/// A directory that is open.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

fn cut(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(if path.is_empty() { b"." } else { path })
}

impl Dir {
    /// A directory by its path, which may lead over links.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// A directory below, by its path from here without a slash before it; empty: this one again.
    pub fn below(&self, path: &[u8]) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat2(&self.0, cut(path), DIRECTORY, Mode::empty(), INSIDE)?))
    }

    /// A file below, for reading.
    pub fn file(&self, path: &[u8]) -> io::Result<File> {
        // A fifo must not block who looks.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat2(&self.0, cut(path), flags, Mode::empty(), INSIDE);
        // Whoever is no owner of it may not ask for that.
        let file = match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags)?,
            other => other?,
        };
        Ok(File::from(file))
    }

    /// Its names, sorted, without `.` and `..`.
    pub fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What has that name; nothing is followed. Empty: this directory.
    pub fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        match name {
            [] => Ok(rustix::fs::fstat(&self.0)?),
            _ => Ok(rustix::fs::statat(&self.0, cut(name), AtFlags::SYMLINK_NOFOLLOW)?),
        }
    }

    /// The same, of what may be absent.
    pub fn look(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        match self.stat(name) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a symbolic link points.
    pub fn target(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, cut(name), Vec::new())?.into_bytes())
    }

    /// Extended attributes that are part of a tree, by name.
    pub fn xattrs(&self, name: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let path = self.through_proc(name)?;
        let list = match growing(|buffer| rustix::fs::llistxattr(&path, buffer)) {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for name in list.split(|byte| *byte == 0).filter(|name| is_part(name)) {
            let key = CString::new(name)?;
            match growing(|buffer| rustix::fs::lgetxattr(&path, &key, buffer)) {
                Ok(value) => found.push((name.to_vec(), value)),
                // Gone between the two calls.
                Err(Errno::NODATA) => {}
                Err(error) => return Err(error.into()),
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// A name of this directory for calls that know no directories: the last part of it is not followed.
    fn through_proc(&self, name: &[u8]) -> io::Result<CString> {
        let fd = self.0.as_raw_fd();
        let path = match name {
            [] => format!("/proc/self/fd/{fd}/.").into_bytes(),
            _ => [format!("/proc/self/fd/{fd}/").as_bytes(), name].concat(),
        };
        Ok(CString::new(path)?)
    }

    /// A new directory, for its owner alone.
    pub fn make_directory(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, cut(name), Mode::RWXU)?)
    }

    /// A new symbolic link.
    pub fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(cut(target), &self.0, cut(name))?)
    }

    /// A new device, fifo or socket, for its owner alone.
    pub fn make_node(&self, name: &[u8], kind: FileType, device: (u32, u32)) -> io::Result<()> {
        let device = rustix::fs::makedev(device.0, device.1);
        Ok(rustix::fs::mknodat(&self.0, cut(name), kind, Mode::RUSR | Mode::WUSR, device)?)
    }

    /// A further name, in another directory of the same file system.
    pub fn make_link(&self, name: &[u8], of: &Dir, old: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::linkat(&of.0, cut(old), &self.0, cut(name), AtFlags::empty())?)
    }

    /// A file for writing, new or as it is; its owner's alone if it is new.
    pub fn writable(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.0, cut(name), flags, Mode::RUSR | Mode::WUSR)?);
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
            return Err(io::Error::other("something else lies where the file is to be written"));
        }
        Ok(file)
    }

    /// Puts what has one name in the place of another, in this directory. A directory there goes with all that is in it.
    pub fn rename_over(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.0, cut(from), &self.0, cut(to), RenameFlags::empty()) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                self.remove(to)?;
                Ok(rustix::fs::renameat(&self.0, cut(from), &self.0, cut(to))?)
            }
            other => Ok(other?),
        }
    }

    /// Removes what has that name, with all that is in it. Absent: nothing to do. A mount point is not entered.
    pub fn remove(&self, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, cut(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        // Deep trees have no room on a stack: the path from here down is a list.
        let resolve = INSIDE | ResolveFlags::NO_XDEV;
        let open = |at: &Dir, name: &[u8]| -> io::Result<Dir> {
            Ok(Dir(rustix::fs::openat2(&at.0, cut(name), DIRECTORY, Mode::empty(), resolve)?))
        };
        let mut way = vec![(open(self, name)?, name.to_vec())];
        while let Some((dir, _)) = way.last() {
            let mut deeper = None;
            for name in dir.names()? {
                match rustix::fs::unlinkat(&dir.0, cut(&name), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR | Errno::PERM) => {
                        deeper = Some((open(dir, &name)?, name));
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if let Some(next) = deeper {
                way.push(next);
            } else if let Some((_, name)) = way.pop() {
                let above = way.last().map_or(self, |(dir, _)| dir);
                rustix::fs::unlinkat(&above.0, cut(&name), AtFlags::REMOVEDIR)?;
            }
        }
        Ok(())
    }

    /// Gives what has that name (empty: this directory) its attributes; of what it has already, nothing is written.
    pub fn dress(&self, name: &[u8], wanted: &Attributes<'_>, is_link: bool) -> io::Result<()> {
        let stat = self.stat(name)?;
        let (uid, gid) = wanted.owner;
        if (stat.st_uid, stat.st_gid) != (uid, gid) {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::chownat(&self.0, cut(name), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        self.dress_xattrs(name, wanted)?;
        // After the owner and the lists, which change it.
        if !is_link && self.stat(name)?.st_mode & 0o7777 != wanted.mode {
            // Nothing of a tree of ours is a link here: the name was looked at just now.
            rustix::fs::chmodat(&self.0, cut(name), Mode::from_raw_mode(wanted.mode), AtFlags::empty())?;
        }
        let time = Timespec { tv_sec: wanted.modified.0, tv_nsec: wanted.modified.1.into() };
        if modified(&self.stat(name)?) != wanted.modified {
            let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
            let times = Timestamps { last_access: omit, last_modification: time };
            rustix::fs::utimensat(&self.0, cut(name), &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn dress_xattrs(&self, name: &[u8], wanted: &Attributes<'_>) -> io::Result<()> {
        let present = self.xattrs(name)?;
        if same_xattrs(&present, wanted) {
            return Ok(());
        }
        let path = self.through_proc(name)?;
        for (key, _) in present.iter().filter(|(key, _)| !wanted.xattrs.iter().any(|(it, _)| it == key)) {
            rustix::fs::lremovexattr(&path, &CString::new(&key[..])?)?;
        }
        for (key, value) in &wanted.xattrs {
            rustix::fs::lsetxattr(&path, &CString::new(*key)?, value, XattrFlags::empty())?;
        }
        Ok(())
    }
}

/// Whether these extended attributes are all that is wanted.
pub fn same_xattrs(present: &[(Vec<u8>, Vec<u8>)], wanted: &Attributes<'_>) -> bool {
    let present = present.iter().map(|(name, value)| (&name[..], &value[..]));
    present.eq(wanted.xattrs.iter().copied())
}

/// When something was last modified.
pub fn modified(stat: &Stat) -> (i64, u32) {
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    (stat.st_mtime as i64, stat.st_mtime_nsec as u32)
}

fn is_part(name: &[u8]) -> bool {
    !name.is_empty() && (!name.starts_with(b"system.") || ACLS.contains(&name))
}

/// Calls with more and more room until the answer fits.
fn growing(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Where a file of this size has data, as (begin, length); all of it, if its file system does not tell.
pub fn data(file: &File, stat: &Stat) -> io::Result<Vec<(u64, u64)>> {
    let size = stat.st_size.cast_unsigned();
    if stat.st_blocks.cast_unsigned().saturating_mul(512) >= size {
        return Ok(if size == 0 { Vec::new() } else { vec![(0, size)] });
    }
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // A hole to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(begin))?.min(size);
        if begin >= end {
            break;
        }
        found.push((begin, end - begin));
        at = end;
    }
    Ok(found)
}

/// Makes a stretch of a file a hole, or zeroes where its file system has none.
pub fn empty(file: &File, begin: u64, length: u64) -> io::Result<()> {
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, how, begin, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeroes = vec![0; ZEROES];
            let mut at = begin;
            while at < begin + length {
                let now = (begin + length - at).min(ZEROES as u64);
                file.write_all_at(zeroes.get(..now as usize).unwrap_or_default(), at)?;
                at += now;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Reads exactly so much, from there.
pub fn read_at(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(buffer, at)
}

/// For messages: a path as people see it.
pub fn shown(path: &[u8]) -> String {
    format!("/{}", systemimager_core::BytePath::new(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in/deep")).unwrap();
        std::fs::write(dir.path().join("outside"), "x").unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("in/up")).unwrap();
        std::os::unix::fs::symlink("../outside", dir.path().join("in/file")).unwrap();
        let tree = Dir::open(&dir.path().join("in")).unwrap();
        for path in ["../outside", "up/outside", "file", "/etc/passwd"] {
            assert!(tree.file(path.as_bytes()).is_err(), "{path}");
            assert!(tree.writable(path.as_bytes()).is_err() || !path.contains("file"), "{path}");
        }
        assert!(tree.below(b"up").is_err() && tree.below(b"..").is_err());
        assert!(tree.below(b"deep").is_ok() && tree.below(b"").is_ok());
    }

    #[test]
    fn trees_go_and_what_links_point_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("tree/a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(dir.path().join("kept"), "x").unwrap();
        std::fs::write(deep.join("f"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path(), deep.join("l")).unwrap();
        let top = Dir::open(dir.path()).unwrap();
        top.remove(b"tree").unwrap();
        top.remove(b"tree").unwrap();
        assert_eq!(top.names().unwrap(), [b"kept"]);
    }

    #[test]
    fn holes_are_found() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"x", 4 << 20).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let found = data(&file, &stat).unwrap();
        assert_eq!((found.len(), found[0].0), (1, 4 << 20));
        assert!(found[0].1 <= 1 << 20);
        empty(&file, (4 << 20) - 5, 100).unwrap();
        let mut bytes = [1; 10];
        read_at(&file, (4 << 20) - 5, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 10]);
    }
}
