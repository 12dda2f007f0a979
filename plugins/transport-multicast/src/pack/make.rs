//! Making the pack of a tree: one walk, with the contents read only of what is new or changed since the last.
//!
//! A file's full blocks are its own; what is left of it, and small files, share blocks, whole. So what changes moves to new
//! blocks and takes nothing with it but what shared a block with it: machines that have the rest need not get it again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Stat};

use super::kept::{Kept, Stamp};
use super::manifest::{Attributes, Block, Entry, Kind, Manifest, Piece, join, write};
use crate::codec::Malformed;
use crate::tree::{self, Dir};

/// Bytes of a full block. Larger ones cost fewer symbols of repair, smaller ones less memory and less that goes again.
pub const BLOCK_SIZE: u32 = 1 << 20;
/// A file that changed so shortly before it was read may change again without a trace, seconds.
const FRESH: i64 = 2;

/// Why there is no pack.
#[derive(Debug)]
pub enum MakeError {
    /// This could not be read: path and error.
    Io(Vec<u8>, io::Error),
    /// This changed while it was read.
    Changed(Vec<u8>),
    /// What was made is no manifest, such as one that is too large.
    Malformed(Malformed),
}

impl std::fmt::Display for MakeError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MakeError::Io(path, error) => write!(out, "reading {}: {error}", tree::shown(path)),
            MakeError::Changed(path) => {
                write!(out, "{} changed while it was read; see that nobody changes the image", tree::shown(path))
            }
            MakeError::Malformed(why) => write!(out, "the image has no manifest: {why}"),
        }
    }
}

/// An entry as it was found.
struct Found {
    parent: u32,
    name: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    kind: FoundKind,
}

enum FoundKind {
    File { size: u64, pieces: Vec<Piece>, stamp: Stamp },
    Directory,
    Symlink(Vec<u8>),
    Link(u32, Vec<u8>),
    Node(FileType, u32, u32),
}

/// A pack's data space, as it grows.
struct Space {
    blocks: Vec<Block>,
    /// The shared block that is being filled.
    open: Option<(u32, Vec<u8>)>,
}

impl Space {
    fn number(&mut self, block: Block) -> u32 {
        self.blocks.push(block);
        (self.blocks.len() - 1) as u32
    }

    /// A block of its own for these bytes.
    fn own(&mut self, bytes: &[u8]) -> u64 {
        let number = self.number(Block { length: bytes.len() as u32, hash: hash(bytes) });
        u64::from(number) * u64::from(BLOCK_SIZE)
    }

    /// Room for less than a block's bytes in a shared one.
    fn share(&mut self, bytes: &[u8]) -> u64 {
        if self.open.as_ref().is_some_and(|(_, filled)| filled.len() + bytes.len() > BLOCK_SIZE as usize) {
            self.close();
        }
        let (number, mut filled) = match self.open.take() {
            Some(open) => open,
            None => (self.number(Block { length: 0, hash: [0; 32] }), Vec::with_capacity(BLOCK_SIZE as usize)),
        };
        let place = u64::from(number) * u64::from(BLOCK_SIZE) + filled.len() as u64;
        filled.extend_from_slice(bytes);
        self.open = Some((number, filled));
        place
    }

    fn close(&mut self) {
        if let Some((number, filled)) = self.open.take()
            && let Some(block) = self.blocks.get_mut(number as usize)
        {
            *block = Block { length: filled.len() as u32, hash: hash(&filled) };
        }
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// What was known of a file when the last pack was made.
struct Known {
    stamp: Stamp,
    size: u64,
    modified: (i64, u32),
    pieces: Vec<Piece>,
}

/// Makes the pack of a tree. `last` is the one that was made before, of which what did not change is taken.
///
/// # Errors
/// What could not be read, or changed meanwhile.
pub fn make(top: &Dir, last: Option<&Kept>) -> Result<Kept, MakeError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let mut walk = Walk { known: known(last), found: Vec::new(), names: HashMap::new(), directories: 0, now };
    walk.tree(top)?;
    let mut found = walk.found;
    let mut space = Space { blocks: Vec::new(), open: None };
    let stays = keep(last, &mut found, &mut space);
    // By directory, so that a path is opened once for all files in it.
    let mut directories: Vec<Vec<u8>> = Vec::new();
    let mut dir: Option<(u32, Dir)> = None;
    for (index, it) in found.iter_mut().enumerate() {
        let path = match it.parent {
            _ if index == 0 => Vec::new(),
            parent => join(directories.get(parent as usize).map_or(&[][..], |path| path), &it.name),
        };
        match &mut it.kind {
            FoundKind::Directory => directories.push(path),
            FoundKind::File { size, pieces, stamp } if !stays.contains(&index) && *size > 0 => {
                if dir.as_ref().is_none_or(|(of, _)| *of != it.parent) {
                    let parent = directories.get(it.parent as usize).map_or(&[][..], |path| path);
                    dir = Some((it.parent, top.below(parent).map_err(|error| MakeError::Io(parent.to_vec(), error))?));
                }
                let Some((_, dir)) = &dir else { continue };
                *pieces = place(dir, &it.name, &path, *stamp, &mut space)?;
            }
            _ => {}
        }
    }
    space.close();
    let stamps = found.iter().filter_map(|it| match &it.kind {
        FoundKind::File { stamp, .. } if stamp.changed.0 + FRESH > now => Some(Stamp::default()),
        FoundKind::File { stamp, .. } => Some(*stamp),
        _ => None,
    });
    let bytes = write(BLOCK_SIZE, &space.blocks, found.iter().map(Found::entry));
    Ok(Kept { stamps: stamps.collect(), manifest: Manifest::parse(bytes).map_err(MakeError::Malformed)? })
}

impl Found {
    /// Where it lay is not known any more.
    fn forget(&mut self) {
        if let FoundKind::File { pieces, .. } = &mut self.kind {
            pieces.clear();
        }
    }

    fn entry(&self) -> Entry<'_> {
        let kind = match &self.kind {
            FoundKind::Directory => Kind::Directory,
            FoundKind::File { size, pieces, .. } => Kind::File { size: *size, pieces: pieces.clone() },
            FoundKind::Symlink(target) => Kind::Symlink(target),
            FoundKind::Link(parent, name) => Kind::Link(*parent, name),
            FoundKind::Node(FileType::CharacterDevice, major, minor) => Kind::Character(*major, *minor),
            FoundKind::Node(FileType::BlockDevice, major, minor) => Kind::Block(*major, *minor),
            FoundKind::Node(FileType::Fifo, ..) => Kind::Fifo,
            FoundKind::Node(..) => Kind::Socket,
        };
        let attributes = match kind {
            Kind::Link(..) => Attributes::default(),
            _ => Attributes {
                mode: self.mode,
                owner: self.owner,
                modified: self.modified,
                xattrs: self.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect(),
            },
        };
        Entry { parent: self.parent, name: &self.name, attributes, kind }
    }
}

/// Files of the last pack that are to be believed, by their paths.
fn known(last: Option<&Kept>) -> HashMap<Vec<u8>, Known> {
    let mut known = HashMap::new();
    let Some(last) = last else { return known };
    let mut stamps = last.stamps.iter();
    for (_, entry) in last.manifest.entries() {
        let path = last.manifest.path(&entry);
        if let Kind::File { size, pieces } = entry.kind
            && let Some(stamp) = stamps.next()
            && *stamp != Stamp::default()
        {
            known.insert(path, Known { stamp: *stamp, size, modified: entry.attributes.modified, pieces });
        }
    }
    known
}

/// Takes over the blocks of the last pack of which all is as it was, and gives them numbers. Returns which entries need not be
/// read: the others are placed anew.
fn keep(last: Option<&Kept>, found: &mut [Found], space: &mut Space) -> HashSet<usize> {
    let pieces_of = |it: &Found| match &it.kind {
        FoundKind::File { pieces, .. } => pieces.clone(),
        _ => Vec::new(),
    };
    let mut stays: HashSet<usize> = HashSet::new();
    let Some(last) = last.map(|last| &last.manifest).filter(|last| last.block_size() == BLOCK_SIZE) else {
        for it in found {
            it.forget();
        }
        return stays;
    };
    stays.extend((0..found.len()).filter(|index| found.get(*index).is_some_and(|it| !pieces_of(it).is_empty())));
    let size = u64::from(BLOCK_SIZE);
    // A block stays only if all in it does; what shares it with something that is placed anew goes along, and so does what
    // else of that file there is.
    let mut held = vec![0_u64; last.block_count() as usize];
    loop {
        held.fill(0);
        for piece in stays.iter().filter_map(|index| found.get(*index)).flat_map(pieces_of) {
            for number in last.blocks_of(&piece) {
                let begin = piece.place.max(u64::from(number) * size);
                let end = (piece.place + piece.length).min((u64::from(number) + 1) * size);
                if let Some(held) = held.get_mut(number as usize) {
                    *held += end - begin;
                }
            }
        }
        let broken = |number: u32| held.get(number as usize) != Some(&u64::from(last.block(number).length));
        let leaves = |index: &usize| {
            let pieces = found.get(*index).map(pieces_of).unwrap_or_default();
            pieces.iter().any(|piece| last.blocks_of(piece).any(broken))
        };
        let leaving: Vec<usize> = stays.iter().copied().filter(|index| leaves(index)).collect();
        if leaving.is_empty() {
            break;
        }
        for index in leaving {
            stays.remove(&index);
            if let Some(it) = found.get_mut(index) {
                it.forget();
            }
        }
    }
    let mut numbers: HashMap<u64, u64> = HashMap::new();
    for number in (0..last.block_count()).filter(|number| held.get(*number as usize).is_some_and(|held| *held > 0)) {
        numbers.insert(number.into(), space.number(last.block(number)).into());
    }
    for index in &stays {
        if let Some(Found { kind: FoundKind::File { pieces, .. }, .. }) = found.get_mut(*index) {
            for piece in pieces {
                // Blocks that one piece runs through are its own, and have all stayed: their numbers still follow each other.
                let number = numbers.get(&(piece.place / size)).copied().unwrap_or_default();
                piece.place = number * size + piece.place % size;
            }
        }
    }
    stays
}

struct Walk {
    known: HashMap<Vec<u8>, Known>,
    found: Vec<Found>,
    /// The first name of what has several, by device and inode.
    names: HashMap<(u64, u64), (u32, Vec<u8>)>,
    directories: u32,
    now: i64,
}

/// A directory on the way down, and what of it is still to be looked at, the last first.
struct Level {
    dir: Dir,
    number: u32,
    path: Vec<u8>,
    names: Vec<Vec<u8>>,
}

impl Walk {
    fn tree(&mut self, top: &Dir) -> Result<(), MakeError> {
        let open = |at: &Dir, name: &[u8], path: &[u8]| {
            let dir = at.below(name)?;
            let mut names = dir.names()?;
            names.reverse();
            io::Result::Ok(Level { dir, number: 0, path: path.to_vec(), names })
        };
        let failed = |path: &[u8]| {
            let path = path.to_vec();
            move |error| MakeError::Io(path, error)
        };
        self.entry(top, 0, b"", b"")?;
        let mut way = vec![open(top, b"", b"").map_err(failed(b""))?];
        while let Some(level) = way.last_mut() {
            let Some(name) = level.names.pop() else {
                way.pop();
                continue;
            };
            let path = join(&level.path, &name);
            let number = self.directories;
            if self.entry(&level.dir, level.number, &name, &path)? {
                let next = open(&level.dir, &name, &path).map_err(failed(&path))?;
                way.push(Level { number, ..next });
            }
        }
        Ok(())
    }

    /// Writes down what has that name; whether it is a directory.
    fn entry(&mut self, dir: &Dir, parent: u32, name: &[u8], path: &[u8]) -> Result<bool, MakeError> {
        let failed = |error| MakeError::Io(path.to_vec(), error);
        let stat = dir.stat(name).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let several = stat.st_nlink > 1 && kind != FileType::Directory;
        let found = match self.names.get(&(stat.st_dev, stat.st_ino)) {
            Some((first, of)) if several => FoundKind::Link(*first, of.clone()),
            _ => match kind {
                FileType::Directory => FoundKind::Directory,
                FileType::Symlink => FoundKind::Symlink(dir.target(name).map_err(failed)?),
                FileType::RegularFile => self.file(path, &stat),
                kind => FoundKind::Node(kind, rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            },
        };
        if several {
            self.names.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| (parent, name.to_vec()));
        }
        let is_directory = kind == FileType::Directory;
        self.directories += u32::from(is_directory);
        self.found.push(Found {
            parent,
            name: name.to_vec(),
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
            modified: tree::modified(&stat),
            xattrs: match &found {
                FoundKind::Link(..) => Vec::new(),
                _ => dir.xattrs(name).map_err(failed)?,
            },
            kind: found,
        });
        Ok(is_directory)
    }

    fn file(&self, path: &[u8], stat: &Stat) -> FoundKind {
        let stamp = Stamp::of(stat);
        let size = stat.st_size.cast_unsigned();
        let same = |known: &&Known| {
            known.stamp == stamp
                && known.size == size
                && known.modified == tree::modified(stat)
                && stamp.changed.0 <= self.now
        };
        let pieces = self.known.get(path).filter(same).map_or_else(Vec::new, |known| known.pieces.clone());
        FoundKind::File { size, pieces, stamp }
    }
}

/// Reads a file and finds room for what is in it.
fn place(dir: &Dir, name: &[u8], path: &[u8], stamp: Stamp, space: &mut Space) -> Result<Vec<Piece>, MakeError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => MakeError::Changed(path.to_vec()),
        _ => MakeError::Io(path.to_vec(), error),
    };
    let file: File = dir.file(name).map_err(failed)?;
    let stat = || rustix::fs::fstat(&file).map_err(|error| failed(error.into()));
    let before = stat()?;
    if Stamp::of(&before) != stamp {
        return Err(MakeError::Changed(path.to_vec()));
    }
    let mut buffer = vec![0; BLOCK_SIZE as usize];
    let full = u64::from(BLOCK_SIZE);
    let mut pieces = Vec::new();
    for (begin, length) in tree::data(&file, &before).map_err(failed)? {
        let mut at = begin;
        let end = begin + length;
        let mut own: Option<Piece> = None;
        while end - at >= full {
            tree::read_at(&file, at, &mut buffer).map_err(failed)?;
            let place = space.own(&buffer);
            match &mut own {
                Some(piece) if piece.place + piece.length == place => piece.length += full,
                _ => {
                    pieces.extend(own.take());
                    own = Some(Piece { at, length: full, place });
                }
            }
            at += full;
        }
        pieces.extend(own);
        if at < end {
            let rest = buffer.get_mut(..(end - at) as usize).unwrap_or_default();
            tree::read_at(&file, at, rest).map_err(failed)?;
            pieces.push(Piece { at, length: end - at, place: space.share(rest) });
        }
    }
    if Stamp::of(&stat()?) != stamp || stat()?.st_size != before.st_size {
        return Err(MakeError::Changed(path.to_vec()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    use std::path::Path;

    fn pack(tree: &Path, last: Option<&Kept>) -> Kept {
        make(&Dir::open(tree).unwrap(), last).unwrap()
    }

    /// Old enough to be believed: as if it had been there for long.
    fn aged(mut kept: Kept, tree: &Path) -> Kept {
        let mut stamps = kept.stamps.iter_mut();
        for (_, entry) in kept.manifest.entries() {
            if matches!(entry.kind, Kind::File { .. }) {
                let path = tree.join(String::from_utf8(kept.manifest.path(&entry)).unwrap());
                let stat = rustix::fs::lstat(&path).unwrap();
                *stamps.next().unwrap() = Stamp::of(&stat);
            }
        }
        kept
    }

    fn blocks(kept: &Kept) -> Vec<Block> {
        (0..kept.manifest.block_count()).map(|number| kept.manifest.block(number)).collect()
    }

    #[test]
    fn what_changes_moves_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        for name in 0..40 {
            fs::write(tree.join(format!("small{name:02}")), vec![name; 60_000]).unwrap();
        }
        let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
        fs::write(tree.join("large"), &large).unwrap();
        fs::hard_link(tree.join("large"), tree.join("large.again")).unwrap();
        let sparse = fs::File::create(tree.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        sparse.write_all_at(b"here", 1 << 29).unwrap();
        drop(sparse);
        let first = aged(pack(tree, None), tree);
        assert_eq!(first.manifest.root(), pack(tree, None).manifest.root(), "the same again");
        assert_eq!(first.manifest.root(), pack(tree, Some(&first)).manifest.root());
        let (files, bytes) = first.manifest.files();
        assert_eq!((files, bytes), (42, 40 * 60_000 + 3_000_000 + (1 << 30)));
        assert!(first.manifest.data_bytes() < 40 * 60_000 + 3_000_000 + (1 << 20));
        let again = first.manifest.entries().find(|(_, entry)| entry.name == b"large.again").unwrap().1;
        assert_eq!(again.kind, Kind::Link(0, b"large"));

        // One small file: one shared block goes, what shared it is placed anew, the large file's stay.
        fs::write(tree.join("small20"), vec![99; 70_000]).unwrap();
        let second = pack(tree, Some(&first));
        let before = blocks(&first);
        let new = blocks(&second).iter().filter(|block| !before.contains(block)).count();
        assert!((1..=2).contains(&new), "{new} new blocks of {}", before.len());
        assert_eq!(second.manifest.root(), make_hashes(tree, &second));

        // What is gone leaves no hole.
        let second = aged(second, tree);
        fs::remove_file(tree.join("small03")).unwrap();
        let third = pack(tree, Some(&second));
        assert_eq!(third.manifest.root(), make_hashes(tree, &third));
    }

    /// The root, after each block was held against the files.
    fn make_hashes(tree: &Path, kept: &Kept) -> [u8; 32] {
        for number in 0..kept.manifest.block_count() {
            let block = kept.manifest.block(number);
            let mut bytes = vec![0; block.length as usize];
            for (_, entry, part) in kept.manifest.in_block(number) {
                let file = fs::File::open(tree.join(String::from_utf8(kept.manifest.path(&entry)).unwrap())).unwrap();
                file.read_exact_at(&mut bytes[part.offset..part.offset + part.length], part.at).unwrap();
            }
            assert_eq!(hash(&bytes), block.hash, "block {number}");
        }
        kept.manifest.root()
    }

    #[test]
    fn a_file_that_was_written_just_now_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "one").unwrap();
        let kept = pack(dir.path(), None);
        assert_eq!(kept.stamps, [Stamp::default()]);
        assert_ne!(fs::metadata(dir.path().join("a")).unwrap().ino(), 0);
    }
}
