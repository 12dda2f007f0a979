//! Writing a tree: blocks in any order, each file under a name of its own until it is whole. What was there before stays until
//! then, and is never written into: other names may lead to it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;
use systemimager_core::{ErrorKind, PluginError};

use super::plan::Plan;
use crate::pack::manifest::{At, Entry, Kind, Piece};
use crate::tree::{Dir, modified, same_xattrs, shown};

/// Directories that are kept open.
const OPEN: usize = 200;

/// A tree that is being written.
pub struct Target {
    top: Dir,
    /// What is taken.
    pub plan: Plan,
    dirs: Mutex<HashMap<u32, Arc<Dir>>>,
    /// Files of which something is there and something lacks: how many parts.
    open: Mutex<HashMap<At, u32>>,
    /// Directories that were made just now: nothing is in them that was not written here.
    fresh: Mutex<HashSet<u32>>,
    written: AtomicU64,
    deleted: AtomicU64,
}

/// The name of a file that is not whole yet.
pub fn part_name(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    format!(".si-{}", hash.get(..32).unwrap_or_default()).into_bytes()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many parts a file comes in: of each piece one for each block.
pub fn parts(plan: &Plan, entry: &Entry<'_>) -> u32 {
    let Kind::File { pieces, .. } = &entry.kind else { return 0 };
    pieces.iter().map(|piece| plan.manifest.blocks_of(piece).len() as u32).sum()
}

/// An error of the file system, as what it is for those who decide.
pub fn failed(doing: &str, path: &[u8], error: &io::Error) -> PluginError {
    let full = error
        .raw_os_error()
        .is_some_and(|code| [Errno::NOSPC, Errno::DQUOT, Errno::FBIG].iter().any(|errno| errno.raw_os_error() == code));
    let kind = if full { ErrorKind::NoSpace } else { ErrorKind::Failed };
    PluginError::new(kind, format!("{doing} {}: {error}", shown(path)))
}

impl Target {
    /// Into this directory.
    pub fn new(top: Dir, plan: Plan) -> Self {
        Self {
            top,
            plan,
            dirs: Mutex::default(),
            open: Mutex::default(),
            fresh: Mutex::default(),
            written: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
        }
    }

    /// A directory of the tree, by its number.
    pub fn dir(&self, number: u32) -> io::Result<Arc<Dir>> {
        if let Some(dir) = lock(&self.dirs).get(&number) {
            return Ok(Arc::clone(dir));
        }
        let dir = Arc::new(self.top.below(&self.plan.manifest.directory(number))?);
        let mut dirs = lock(&self.dirs);
        if dirs.len() >= OPEN {
            dirs.clear();
        }
        dirs.insert(number, Arc::clone(&dir));
        Ok(dir)
    }

    /// Whether nothing is in a directory that was not written here.
    pub fn is_fresh(&self, number: u32) -> bool {
        lock(&self.fresh).contains(&number)
    }

    /// Files that were written, and what was deleted.
    pub fn counts(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.deleted.load(Ordering::Relaxed))
    }

    fn doing(&self, doing: &str, entry: &Entry<'_>, error: &io::Error) -> PluginError {
        failed(doing, &self.plan.manifest.path(entry), error)
    }

    /// Makes what has no contents: directories, links to names, devices, empty files.
    ///
    /// # Errors
    /// What could not be made.
    pub fn prepare(&self) -> Result<(), PluginError> {
        for (_, number, entry) in self.plan.entries() {
            if entry.name.is_empty() {
                continue;
            }
            let made = match &entry.kind {
                Kind::Directory => self.directory(&entry, number.unwrap_or_default()),
                Kind::File { size, pieces } if pieces.is_empty() => self.empty(&entry, *size),
                Kind::File { .. } | Kind::Link(..) => Ok(()),
                _ => self.node(&entry),
            };
            made.map_err(|error| self.doing("making", &entry, &error))?;
        }
        Ok(())
    }

    fn directory(&self, entry: &Entry<'_>, number: u32) -> io::Result<()> {
        let above = self.dir(entry.parent)?;
        match above.look(entry.name)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => return Ok(()),
            Some(_) => above.remove(entry.name)?,
            None => {}
        }
        above.make_directory(entry.name)?;
        lock(&self.fresh).insert(number);
        Ok(())
    }

    /// A file that is one hole, or nothing.
    fn empty(&self, entry: &Entry<'_>, size: u64) -> io::Result<()> {
        let dir = self.dir(entry.parent)?;
        if let Some(stat) = dir.look(entry.name)?
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_size.cast_unsigned() == size
            && stat.st_nlink == 1
            && (size == 0 || crate::tree::data(&dir.file(entry.name)?, &stat)?.is_empty())
        {
            return dir.dress(entry.name, &entry.attributes, false);
        }
        let part = part_name(entry.name);
        dir.writable(&part)?.set_len(0)?;
        self.finish(&dir, entry, &part)
    }

    fn node(&self, entry: &Entry<'_>) -> io::Result<()> {
        let dir = self.dir(entry.parent)?;
        let is_link = matches!(entry.kind, Kind::Symlink(_));
        if let Some(stat) = dir.look(entry.name)?
            && stat.st_nlink == 1
            && is_as(&dir, entry, &stat)?
        {
            return dir.dress(entry.name, &entry.attributes, is_link);
        }
        let part = part_name(entry.name);
        dir.remove(&part)?;
        match entry.kind {
            Kind::Symlink(target) => dir.make_symlink(&part, target)?,
            Kind::Character(major, minor) => dir.make_node(&part, FileType::CharacterDevice, (major, minor))?,
            Kind::Block(major, minor) => dir.make_node(&part, FileType::BlockDevice, (major, minor))?,
            Kind::Fifo => dir.make_node(&part, FileType::Fifo, (0, 0))?,
            _ => dir.make_node(&part, FileType::Socket, (0, 0))?,
        }
        dir.dress(&part, &entry.attributes, is_link)?;
        dir.rename_over(&part, entry.name)
    }

    /// Of a file, so many parts are there already, in the file that is not whole yet.
    pub fn begun(&self, at: At, lacks: u32) {
        lock(&self.open).insert(at, lacks);
    }

    /// Writes what a block has for the tree.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, block: u32, bytes: &[u8]) -> Result<(), PluginError> {
        for (at, entry, part) in self.plan.manifest.in_block(block) {
            let Some(entry) = self.plan.placed(at, entry) else { continue };
            let all = parts(&self.plan, &entry);
            let room = bytes.get(part.offset..part.offset + part.length).unwrap_or_default();
            self.write(at, &entry, all, part.at, room).map_err(|error| self.doing("writing", &entry, &error))?;
        }
        Ok(())
    }

    fn write(&self, at: At, entry: &Entry<'_>, all: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let dir = self.dir(entry.parent)?;
        let name = part_name(entry.name);
        let file = dir.writable(&name)?;
        file.write_all_at(bytes, offset)?;
        if all > 1 {
            let mut open = lock(&self.open);
            let lacks = open.entry(at).or_insert(all);
            *lacks = lacks.saturating_sub(1);
            if *lacks > 0 {
                return Ok(());
            }
            open.remove(&at);
        }
        self.finish(&dir, entry, &name)
    }

    /// A file that has all its parts gets its size, its attributes and its name.
    ///
    /// # Errors
    /// The kernel's.
    pub fn finish(&self, dir: &Dir, entry: &Entry<'_>, part: &[u8]) -> io::Result<()> {
        if let Kind::File { size, pieces } = &entry.kind {
            let stat = dir.stat(part)?;
            if stat.st_size.cast_unsigned() != *size {
                // Longer than it is to be, if it was begun for another image; or it ends with a hole.
                dir.writable(part)?.set_len(*size)?;
            }
            if entry.kind.has_holes() {
                empty_holes(&dir.writable(part)?, *size, pieces)?;
            }
        }
        dir.dress(part, &entry.attributes, false)?;
        dir.rename_over(part, entry.name)?;
        self.written.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes what depends on the rest: further names, then what is too much goes, then the attributes of directories.
    ///
    /// # Errors
    /// What could not be made or removed.
    pub fn complete(&self, tick: &mut dyn FnMut() -> Result<(), PluginError>) -> Result<(), PluginError> {
        for (_, _, entry) in self.plan.entries() {
            if let Kind::Link(parent, name) = entry.kind {
                tick()?;
                self.link(&entry, parent, name).map_err(|error| self.doing("linking", &entry, &error))?;
            }
        }
        self.clear(tick)?;
        // From the deepest on: what is changed in a directory changes its time.
        let mut directories: Vec<u32> = Vec::new();
        directories.extend(self.plan.entries().filter_map(|(_, number, _)| number));
        for number in directories.into_iter().rev() {
            tick()?;
            if self.plan.request.leave_above && !self.plan.takes_directory(number) {
                continue;
            }
            let Some(entry) = self.plan.manifest.directory_entry(number) else { continue };
            let dressed = self.dir(number).and_then(|dir| dir.dress(b"", &entry.attributes, false));
            dressed.map_err(|error| self.doing("setting the attributes of", &entry, &error))?;
        }
        Ok(())
    }

    fn link(&self, entry: &Entry<'_>, parent: u32, name: &[u8]) -> io::Result<()> {
        let (dir, of) = (self.dir(entry.parent)?, self.dir(parent)?);
        let Some(wanted) = of.look(name)? else {
            return Err(io::Error::other("what it is a further name of is not there"));
        };
        if let Some(stat) = dir.look(entry.name)?
            && (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino)
        {
            return Ok(());
        }
        let part = part_name(entry.name);
        dir.remove(&part)?;
        dir.make_link(&part, &of, name)?;
        dir.rename_over(&part, entry.name)
    }

    /// Removes what the image does not have.
    fn clear(&self, tick: &mut dyn FnMut() -> Result<(), PluginError>) -> Result<(), PluginError> {
        for (number, names) in self.plan.names(|number| !self.is_fresh(number)) {
            tick()?;
            let path = self.plan.manifest.directory(number);
            let clear = || -> io::Result<()> {
                let dir = self.dir(number)?;
                for name in dir.names()? {
                    let below = crate::pack::manifest::join(&path, &name);
                    if !names.contains(&name) && !self.plan.spares(&below) {
                        dir.remove(&name)?;
                        self.deleted.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            };
            clear().map_err(|error| failed("removing what the image does not have from", &path, &error))?;
        }
        Ok(())
    }
}

/// Empties what no piece of a file covers: one that was begun for another image has something there.
fn empty_holes(file: &File, size: u64, pieces: &[Piece]) -> io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    let mut pieces = pieces.iter().peekable();
    for (begin, length) in crate::tree::data(file, &stat)? {
        let (mut at, end) = (begin, begin + length);
        while at < end {
            while pieces.next_if(|piece| piece.at + piece.length <= at).is_some() {}
            let next = pieces.peek().map_or(size, |piece| piece.at).clamp(at, end);
            if next > at {
                crate::tree::empty(file, at, next - at)?;
            }
            at = pieces.peek().map_or(end, |piece| (piece.at + piece.length).min(end));
        }
    }
    Ok(())
}

/// Whether what is there is what an entry says, but for attributes; of files, only kind and size.
pub fn is_as(dir: &Dir, entry: &Entry<'_>, stat: &rustix::fs::Stat) -> io::Result<bool> {
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let kind = FileType::from_raw_mode(stat.st_mode);
    Ok(match &entry.kind {
        Kind::Directory => kind == FileType::Directory,
        Kind::File { size, .. } => kind == FileType::RegularFile && stat.st_size.cast_unsigned() == *size,
        Kind::Symlink(target) => kind == FileType::Symlink && dir.target(entry.name)? == *target,
        Kind::Link(..) => true,
        Kind::Character(major, minor) => kind == FileType::CharacterDevice && device == (*major, *minor),
        Kind::Block(major, minor) => kind == FileType::BlockDevice && device == (*major, *minor),
        Kind::Fifo => kind == FileType::Fifo,
        Kind::Socket => kind == FileType::Socket,
    })
}

/// What of an entry's attributes is not as it is to be, in a word; nothing: all is.
pub fn differs(dir: &Dir, entry: &Entry<'_>, name: &[u8], stat: &rustix::fs::Stat) -> io::Result<Option<&'static str>> {
    let wanted = &entry.attributes;
    let is_link = matches!(entry.kind, Kind::Symlink(_));
    Ok(if !is_link && stat.st_mode & 0o7777 != wanted.mode {
        Some("its mode")
    } else if (stat.st_uid, stat.st_gid) != wanted.owner {
        Some("its owner")
    } else if modified(stat) != wanted.modified {
        Some("its time")
    } else {
        let same = same_xattrs(&dir.xattrs(name)?, wanted);
        (!same).then_some("its extended attributes")
    })
}
