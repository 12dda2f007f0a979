//! File operations relative to an open directory, on names that are plain bytes.
//!
//! This is what lets maker and comparer work on paths longer than `PATH_MAX` and on names that
//! are no UTF-8. It never follows a symbolic link in the last component, and it has no opinion
//! about the tree: that belongs to its callers.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps, Uid};
use rustix::io::Errno;

/// A name or path as the kernel sees it, shown so that a reader can tell every byte:
/// what is not printable ASCII appears as `\n`, `\xff` and so on.
#[derive(Clone, Copy)]
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 400;
        let text = self.0.escape_ascii().to_string();
        if text.len() <= MOST {
            return f.write_str(&text);
        }
        write!(f, "{}…{} ({} bytes)", &text[..MOST / 2], &text[text.len() - MOST / 4..], self.0.len())
    }
}

/// A time as seconds since 1970 (negative before) and nanoseconds (always 0..10⁹).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Nanoseconds after `seconds`.
    pub nanoseconds: i64,
}

impl Time {
    /// `seconds` and `nanoseconds` as they stand.
    pub const fn new(seconds: i64, nanoseconds: i64) -> Self {
        Time { seconds, nanoseconds }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanoseconds)
    }
}

/// What `lstat` says, in one form for every architecture.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are those of stat(2)")]
pub struct Meta {
    pub dev: u64,
    pub ino: u64,
    pub mode: u32,
    pub nlink: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    /// Bytes that the file occupies on the disk.
    pub allocated: u64,
    pub mtime: Time,
    pub atime: Time,
}

impl Meta {
    /// The type bits of the mode.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// The permission bits of the mode, with suid, sgid and sticky.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }
}

/// An open directory. Every `path` below is relative to it, and shorter than `PATH_MAX`.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

impl Dir {
    /// Opens the directory `path`.
    pub fn open(path: &Path) -> Result<Dir> {
        let fd = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("opening the directory {}", path.display()))?;
        Ok(Dir { fd })
    }

    /// Opens a directory below this one; a symbolic link in its place is an error.
    pub fn child(&self, path: &[u8]) -> Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, path, flags, Mode::empty())
            .with_context(|| format!("opening the directory {}", Shown(path)))?;
        Ok(Dir { fd })
    }

    /// The names in it, without `.` and `..`, sorted.
    pub fn names(&self) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).context("reading a directory")? {
            let name = entry.context("reading a directory")?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// What `lstat` says of `path`; an empty path is the directory itself.
    pub fn meta(&self, path: &[u8]) -> Result<Meta> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let stat = fs::statat(&self.fd, path, flags).with_context(|| format!("lstat of {}", Shown(path)))?;
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "the widths differ by architecture")]
        Ok(Meta {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            mode: stat.st_mode,
            nlink: stat.st_nlink as u64,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev as u64,
            size: stat.st_size as u64,
            allocated: stat.st_blocks as u64 * 512,
            mtime: Time::new(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            atime: Time::new(stat.st_atime as i64, stat.st_atime_nsec as i64),
        })
    }

    /// Whether something of that name is there, a dangling link included.
    pub fn has(&self, path: &[u8]) -> Result<bool> {
        match fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("lstat of {}", Shown(path))),
        }
    }

    /// Makes a directory (mode 0755) and opens it.
    pub fn make_dir(&self, path: &[u8]) -> Result<Dir> {
        fs::mkdirat(&self.fd, path, Mode::from_raw_mode(0o755))
            .with_context(|| format!("making the directory {}", Shown(path)))?;
        self.chmod(path, 0o755)?;
        self.child(path)
    }

    /// Makes a new file (mode 0644) with that content; an existing one is an error.
    pub fn make_file(&self, path: &[u8], content: &[u8]) -> Result<()> {
        let file = self.open_file(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        file.write_at(0, content)?;
        self.chmod(path, 0o644)
    }

    /// Opens a file without following a link; `flags` are added to `O_CLOEXEC`.
    pub fn open_file(&self, path: &[u8], flags: OFlags) -> Result<OpenFile> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = fs::openat(&self.fd, path, flags, Mode::from_raw_mode(0o644))
            .with_context(|| format!("opening the file {}", Shown(path)))?;
        Ok(OpenFile { fd })
    }

    /// The whole content of a small file.
    pub fn read(&self, path: &[u8]) -> Result<Vec<u8>> {
        let size = usize::try_from(self.meta(path)?.size).context("a file too large to be read whole")?;
        let mut content = vec![0; size];
        self.open_file(path, OFlags::RDONLY)?.read_at(0, &mut content)?;
        Ok(content)
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, path: &[u8], target: &[u8]) -> Result<()> {
        fs::symlinkat(target, &self.fd, path).with_context(|| format!("making the link {}", Shown(path)))
    }

    /// Where a symbolic link points.
    pub fn link_target(&self, path: &[u8]) -> Result<Vec<u8>> {
        let target = fs::readlinkat(&self.fd, path, Vec::new());
        Ok(target.with_context(|| format!("reading the link {}", Shown(path)))?.into_bytes())
    }

    /// Gives the file `old` the second name `new`.
    pub fn make_hard_link(&self, old: &[u8], new: &[u8]) -> Result<()> {
        fs::linkat(&self.fd, old, &self.fd, new, AtFlags::empty())
            .with_context(|| format!("linking {} to {}", Shown(new), Shown(old)))
    }

    /// Makes a fifo, socket or device; `rdev` is `(major, minor)`, `(0, 0)` where it means nothing.
    pub fn make_node(&self, path: &[u8], kind: FileType, rdev: (u32, u32)) -> Result<()> {
        fs::mknodat(&self.fd, path, kind, Mode::from_raw_mode(0o644), fs::makedev(rdev.0, rdev.1))
            .with_context(|| format!("making the node {}", Shown(path)))?;
        self.chmod(path, 0o644)
    }

    /// Sets the permission bits. Not for symbolic links, which have none.
    pub fn chmod(&self, path: &[u8], mode: u32) -> Result<()> {
        fs::chmodat(&self.fd, path, Mode::from_raw_mode(mode), AtFlags::empty())
            .with_context(|| format!("setting the mode of {}", Shown(path)))
    }

    /// Sets owner and group. It clears suid, sgid and capabilities of files: set those later.
    pub fn chown(&self, path: &[u8], uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fs::chownat(&self.fd, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| format!("setting the owner of {}", Shown(path)))
    }

    /// Sets the time of last modification; the time of access becomes the same.
    pub fn set_mtime(&self, path: &[u8], time: Time) -> Result<()> {
        #[allow(clippy::unnecessary_cast, reason = "the widths differ by architecture")]
        let time = Timespec { tv_sec: time.seconds as _, tv_nsec: time.nanoseconds as _ };
        let times = Timestamps { last_access: time, last_modification: time };
        fs::utimensat(&self.fd, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| format!("setting the time of {}", Shown(path)))
    }

    /// Renames within this directory; what has the new name already is replaced.
    pub fn rename(&self, old: &[u8], new: &[u8]) -> Result<()> {
        fs::renameat(&self.fd, old, &self.fd, new).with_context(|| format!("renaming {} to {}", Shown(old), Shown(new)))
    }

    /// Removes a file or a whole tree, of any depth.
    pub fn remove(&self, path: &[u8]) -> Result<()> {
        if self.meta(path)?.is_dir() {
            let child = self.child(path)?;
            for name in child.names()? {
                child.remove(&name)?;
            }
            return fs::unlinkat(&self.fd, path, AtFlags::REMOVEDIR)
                .with_context(|| format!("removing the directory {}", Shown(path)));
        }
        fs::unlinkat(&self.fd, path, AtFlags::empty()).with_context(|| format!("removing {}", Shown(path)))
    }

    /// There is no `setxattrat` before Linux 6.13, but the kernel resolves this path through the
    /// open directory, so that its length does not grow with the depth of the tree.
    fn by_proc(&self, path: &[u8]) -> Vec<u8> {
        let mut proc_path = format!("/proc/self/fd/{}/", self.fd.as_fd().as_raw_fd()).into_bytes();
        proc_path.extend_from_slice(if path.is_empty() { b"." } else { path });
        proc_path
    }

    /// Sets an extended attribute, `system.posix_acl_access` and `security.capability` included.
    pub fn set_xattr(&self, path: &[u8], name: &[u8], value: &[u8]) -> Result<()> {
        fs::lsetxattr(self.by_proc(path), name, value, fs::XattrFlags::empty())
            .with_context(|| format!("setting the attribute {} of {}", Shown(name), Shown(path)))
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(&self, path: &[u8], name: &[u8]) -> Result<()> {
        fs::lremovexattr(self.by_proc(path), name)
            .with_context(|| format!("removing the attribute {} of {}", Shown(name), Shown(path)))
    }

    /// Every extended attribute with its value, sorted by name. A file system without
    /// attributes has none.
    pub fn xattrs(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        const LARGEST: usize = 65536; // XATTR_SIZE_MAX and XATTR_LIST_MAX
        let proc_path = self.by_proc(path);
        let mut list = vec![0; LARGEST];
        let length = match fs::llistxattr(&proc_path, &mut *list) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(error) => {
                return Err(error).with_context(|| format!("listing the attributes of {}", Shown(path)));
            }
        };
        let mut xattrs = Vec::new();
        let mut value = vec![0; if length == 0 { 0 } else { LARGEST }];
        for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let size = fs::lgetxattr(&proc_path, name, &mut *value)
                .with_context(|| format!("reading the attribute {} of {}", Shown(name), Shown(path)))?;
            xattrs.push((name.to_vec(), value[..size].to_vec()));
        }
        xattrs.sort();
        Ok(xattrs)
    }
}

/// An open file, read and written at offsets.
#[derive(Debug)]
pub struct OpenFile {
    fd: OwnedFd,
}

impl OpenFile {
    /// Writes all of `content` at `offset`.
    pub fn write_at(&self, offset: u64, content: &[u8]) -> Result<()> {
        let mut written = 0;
        while written < content.len() {
            written += rustix::io::pwrite(&self.fd, &content[written..], offset + written as u64)
                .with_context(|| format!("writing at byte {offset}"))?;
        }
        Ok(())
    }

    /// Fills `buffer` from `offset`; the file's end before that is an error.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            let count = rustix::io::pread(&self.fd, &mut buffer[filled..], offset + filled as u64)
                .with_context(|| format!("reading at byte {offset}"))?;
            anyhow::ensure!(count > 0, "the file ended at byte {}; it shrank while being read", offset + filled as u64);
            filled += count;
        }
        Ok(())
    }

    /// Sets the size; growth makes a hole.
    pub fn set_size(&self, size: u64) -> Result<()> {
        fs::ftruncate(&self.fd, size).with_context(|| format!("setting a file's size to {size}"))
    }

    /// Frees `length` bytes at `offset`; they read as zeros afterwards.
    pub fn punch_hole(&self, offset: u64, length: u64) -> Result<()> {
        let flags = fs::FallocateFlags::PUNCH_HOLE | fs::FallocateFlags::KEEP_SIZE;
        fs::fallocate(&self.fd, flags, offset, length).with_context(|| format!("punching a hole at byte {offset}"))
    }

    /// The ranges `start..end` that hold data, as `SEEK_DATA` tells; all of the file where
    /// the file system cannot tell.
    pub fn data_ranges(&self, size: u64) -> Result<Vec<(u64, u64)>> {
        let mut ranges = Vec::new();
        let mut position = 0;
        while position < size {
            let start = match fs::seek(&self.fd, SeekFrom::Data(position)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![(0, size)]),
                Err(error) => return Err(error).context("seeking data"),
            };
            let end = fs::seek(&self.fd, SeekFrom::Hole(start)).context("seeking a hole")?.min(size);
            if start >= end {
                break;
            }
            ranges.push((start, end));
            position = end;
        }
        Ok(ranges)
    }
}
