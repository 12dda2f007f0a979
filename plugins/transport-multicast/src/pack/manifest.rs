//! The manifest of a pack: every entry of a tree, and the blocks that its contents lie in. docs/multicast.md has it byte by
//! byte. Pure.
//!
//! It stays as the bytes that it came as: those are what its hash is of, and a machine that installs has no memory for a
//! million structures. Entries are read anew from them each time; [`Manifest::parse`] has looked at all of them once.

use std::fmt;

use crate::codec::{Malformed, Reader, Writer};

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// First bytes of a manifest; the last is the version.
const MAGIC: &[u8; 4] = b"SIP\x01";
/// Largest block, bytes.
pub const BLOCK_MAX: u32 = 4 << 20;
/// Longest name of a file (limits.h, `NAME_MAX`), path, and value of an extended attribute (`XATTR_SIZE_MAX`).
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4096;
const VALUE_MAX: usize = 65536;
/// Bytes of a block's record: length and hash.
const BLOCK: usize = 4 + 32;
/// Least bytes of an entry: kind, parent, name's length.
const ENTRY_MIN: usize = 3;

/// Where an entry's record begins, from the manifest's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At(pub u32);

/// A stretch of a file that lies in the data space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the file.
    pub at: u64,
    /// How long it is.
    pub length: u64,
    /// Where it begins in the data space: number of the block × size of blocks + place in the block. It may run through
    /// several blocks, the first of them from its begin.
    pub place: u64,
}

/// The part of a piece that lies in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where in the file.
    pub at: u64,
    /// Where in the block.
    pub offset: usize,
    /// How long.
    pub length: usize,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory.
    Directory,
    /// A regular file; what no piece covers is a hole.
    File {
        /// Bytes.
        size: u64,
        /// By their place in the file.
        pieces: Vec<Piece>,
    },
    /// A symbolic link to this.
    Symlink(&'a [u8]),
    /// A further name of an entry before: its directory's number, and its name.
    Link(u32, &'a [u8]),
    /// A character device.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind<'_> {
    /// Whether it is a file of which some part is in no piece.
    pub fn has_holes(&self) -> bool {
        let Kind::File { size, pieces } = self else { return false };
        pieces.iter().map(|piece| piece.length).sum::<u64>() != *size
    }

    fn code(&self) -> u8 {
        match self {
            Kind::Directory => 0,
            Kind::File { .. } => 1,
            Kind::Symlink(_) => 2,
            Kind::Link(..) => 3,
            Kind::Character(..) => 4,
            Kind::Block(..) => 5,
            Kind::Fifo => 6,
            Kind::Socket => 7,
        }
    }
}

/// What an entry has besides its contents; of a further name, nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Last modified: seconds since 1970, nanoseconds.
    pub modified: (i64, u32),
    /// Extended attributes by name, ACLs and capabilities among them, as the kernel has them.
    pub xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The number of its directory; directories are numbered as they come, the tree's own is 0.
    pub parent: u32,
    /// Its name; of the tree's own directory, empty.
    pub name: &'a [u8],
    /// Attributes.
    pub attributes: Attributes<'a>,
    /// What it is.
    pub kind: Kind<'a>,
}

impl Entry<'_> {
    /// Appends its record.
    pub fn write(&self, out: &mut Writer) {
        out.bytes(&[self.kind.code()]).number(self.parent.into()).blob(self.name);
        if let Kind::Link(parent, name) = self.kind {
            out.number(parent.into()).blob(name);
            return;
        }
        let Attributes { mode, owner, modified, xattrs } = &self.attributes;
        out.number((*mode).into()).number(owner.0.into()).number(owner.1.into());
        out.signed(modified.0).number(modified.1.into()).number(xattrs.len() as u64);
        for (name, value) in xattrs {
            out.blob(name).blob(value);
        }
        match &self.kind {
            Kind::Directory | Kind::Link(..) | Kind::Fifo | Kind::Socket => {}
            Kind::File { size, pieces } => {
                out.number(*size).number(pieces.len() as u64);
                let mut end = 0;
                for piece in pieces {
                    out.number(piece.at.saturating_sub(end)).number(piece.length).number(piece.place);
                    end = piece.at.saturating_add(piece.length);
                }
            }
            Kind::Symlink(target) => {
                out.blob(target);
            }
            Kind::Character(major, minor) | Kind::Block(major, minor) => {
                out.number((*major).into()).number((*minor).into());
            }
        }
    }

    fn read<'a>(reader: &mut Reader<'a>) -> Result<Entry<'a>, Malformed> {
        let code = reader.byte()?;
        let (parent, name) = (reader.small()?, reader.blob(NAME_MAX)?);
        if code == 3 {
            let kind = Kind::Link(reader.small()?, reader.blob(NAME_MAX)?);
            return Ok(Entry { parent, name, attributes: Attributes::default(), kind });
        }
        let mode = reader.at_most(0o7777)? as u32;
        let owner = (reader.small()?, reader.small()?);
        let modified = (reader.signed()?, reader.at_most(999_999_999)? as u32);
        let mut xattrs = Vec::new();
        for _ in 0..reader.count(2)? {
            let (name, value) = (reader.blob(NAME_MAX)?, reader.blob(VALUE_MAX)?);
            if name.is_empty() || name.contains(&0) {
                return Err(Malformed("the name of an extended attribute is none"));
            }
            xattrs.push((name, value));
        }
        let kind = match code {
            0 => Kind::Directory,
            1 => {
                let size = reader.at_most(i64::MAX.cast_unsigned())?;
                let mut pieces = Vec::new();
                let mut end = 0_u64;
                for _ in 0..reader.count(3)? {
                    let outside = Malformed("a piece lies outside its file");
                    let at = end.checked_add(reader.number()?).ok_or(outside)?;
                    let (length, place) = (reader.number()?, reader.number()?);
                    end = at.checked_add(length).filter(|end| *end <= size && length > 0).ok_or(outside)?;
                    pieces.push(Piece { at, length, place });
                }
                Kind::File { size, pieces }
            }
            2 => Kind::Symlink(reader.blob(PATH_MAX)?),
            4 => Kind::Character(reader.small()?, reader.small()?),
            5 => Kind::Block(reader.small()?, reader.small()?),
            6 => Kind::Fifo,
            7 => Kind::Socket,
            _ => return Err(Malformed("there is no such kind of entry")),
        };
        Ok(Entry { parent, name, attributes: Attributes { mode, owner, modified, xattrs }, kind })
    }
}

/// A block: how many bytes it has, and their hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Bytes; at least one, at most the size of blocks.
    pub length: u32,
    /// Of them, as they are in the files.
    pub hash: Hash,
}

#[derive(Debug, Clone, Copy)]
struct Directory {
    at: At,
    parent: u32,
}

/// The use of a block by a piece of an entry.
#[derive(Debug, Clone, Copy)]
struct Use {
    at: At,
    piece: u32,
}

/// A manifest that was looked through.
pub struct Manifest {
    bytes: Vec<u8>,
    root: Hash,
    block_size: u32,
    block_count: u32,
    blocks_at: usize,
    entries_at: usize,
    entry_count: usize,
    directories: Vec<Directory>,
    /// Uses of all blocks, block by block, by their place in it; and where each block's begin.
    uses: Vec<Use>,
    begins: Vec<u32>,
    files: u64,
    file_bytes: u64,
    data_bytes: u64,
}

impl fmt::Debug for Manifest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Manifest of {} entries in {} blocks", self.entry_count, self.block_count)
    }
}

/// The bytes of a manifest.
pub fn write<'a>(block_size: u32, blocks: &[Block], entries: impl ExactSizeIterator<Item = Entry<'a>>) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(MAGIC).bytes(&block_size.to_le_bytes()).bytes(&(blocks.len() as u32).to_le_bytes());
    for block in blocks {
        out.bytes(&block.length.to_le_bytes()).bytes(&block.hash);
    }
    out.number(entries.len() as u64);
    for entry in entries {
        entry.write(&mut out);
    }
    out.0
}

impl Manifest {
    /// Looks a manifest through: every entry and every piece, whatever its hash says.
    ///
    /// # Errors
    /// It is none: what is wrong with it.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Malformed> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(Malformed("it is larger than 4 GiB"));
        }
        let mut reader = Reader::new(&bytes);
        if &reader.array::<4>()? != MAGIC {
            return Err(Malformed("it is no manifest, or one of another version"));
        }
        let block_size = u32::from_le_bytes(reader.array()?);
        if block_size == 0 || block_size > BLOCK_MAX {
            return Err(Malformed("its blocks have a size that none may have"));
        }
        let block_count = u32::from_le_bytes(reader.array()?);
        let blocks_at = bytes.len() - reader.left();
        let mut data_bytes = 0;
        let mut records = Reader::new(reader.bytes((block_count as usize).saturating_mul(BLOCK))?);
        for _ in 0..block_count {
            let length = u32::from_le_bytes(records.array()?);
            records.bytes(32)?;
            if length == 0 || length > block_size {
                return Err(Malformed("a block has a length that none may have"));
            }
            data_bytes += u64::from(length);
        }
        let entry_count = reader.count(ENTRY_MIN)?;
        let entries_at = bytes.len() - reader.left();
        let mut manifest = Self {
            root: *blake3::hash(&bytes).as_bytes(),
            bytes,
            block_size,
            block_count,
            blocks_at,
            entries_at,
            entry_count,
            directories: Vec::new(),
            uses: Vec::new(),
            begins: Vec::new(),
            files: 0,
            file_bytes: 0,
            data_bytes,
        };
        manifest.look_through()?;
        Ok(manifest)
    }

    fn look_through(&mut self) -> Result<(), Malformed> {
        let mut reader = Reader::new(self.bytes.get(self.entries_at..).unwrap_or_default());
        let total = reader.left();
        let mut directories: Vec<Directory> = Vec::new();
        // The last name in each directory: they come sorted, so none comes twice.
        let mut last: Vec<&[u8]> = Vec::new();
        let mut uses: Vec<(u64, u32, Use)> = Vec::new();
        for index in 0..self.entry_count {
            let at = At((self.entries_at + total - reader.left()) as u32);
            let entry = Entry::read(&mut reader)?;
            if index == 0 {
                if entry.kind != Kind::Directory || entry.parent != 0 || !entry.name.is_empty() {
                    return Err(Malformed("its first entry is not the tree's own directory"));
                }
            } else {
                if !is_name(entry.name) {
                    return Err(Malformed("a name of it can be none of a file"));
                }
                let before = last.get_mut(entry.parent as usize);
                let before = before.ok_or(Malformed("an entry comes before its directory"))?;
                if *before >= entry.name {
                    return Err(Malformed("its names are not sorted, or one comes twice"));
                }
                *before = entry.name;
            }
            match &entry.kind {
                Kind::Directory => {
                    directories.push(Directory { at, parent: entry.parent });
                    last.push(&[]);
                }
                Kind::File { size, pieces } => {
                    self.files += 1;
                    self.file_bytes = self.file_bytes.saturating_add(*size);
                    for (number, piece) in pieces.iter().enumerate() {
                        let size = u64::from(self.block_size);
                        let end = piece.place.checked_add(piece.length);
                        let end = end.filter(|end| end.div_ceil(size) <= self.block_count.into());
                        let end = end.ok_or(Malformed("a piece lies outside the blocks"))?;
                        let mut place = piece.place;
                        while place < end {
                            let length = (size - place % size).min(end - place);
                            uses.push((place, length as u32, Use { at, piece: number as u32 }));
                            place += length;
                        }
                    }
                }
                Kind::Link(parent, name) if !is_name(name) || *parent as usize >= directories.len() => {
                    return Err(Malformed("a further name is one of nothing"));
                }
                Kind::Symlink(target) if target.is_empty() || target.contains(&0) => {
                    return Err(Malformed("a symbolic link points to nothing"));
                }
                _ => {}
            }
        }
        reader.end()?;
        if self.entry_count == 0 {
            return Err(Malformed("it has no entry"));
        }
        self.covered(uses)?;
        self.directories = directories;
        Ok(())
    }

    /// Each byte of each block belongs to one piece.
    fn covered(&mut self, mut uses: Vec<(u64, u32, Use)>) -> Result<(), Malformed> {
        uses.sort_unstable_by_key(|(place, ..)| *place);
        let size = u64::from(self.block_size);
        let mut begins = Vec::with_capacity(self.block_count as usize + 1);
        let mut next = uses.iter().enumerate().peekable();
        for number in 0..self.block_count {
            begins.push(next.peek().map_or(uses.len(), |(index, _)| *index) as u32);
            let begin = u64::from(number) * size;
            let end = begin + u64::from(self.block(number).length);
            let mut at = begin;
            while let Some((_, (place, length, _))) = next.next_if(|(_, (place, ..))| *place < begin + size) {
                if *place != at {
                    return Err(Malformed("its pieces do not cover its blocks"));
                }
                at += u64::from(*length);
            }
            if at != end {
                return Err(Malformed("its pieces do not cover its blocks"));
            }
        }
        begins.push(uses.len() as u32);
        self.uses = uses.into_iter().map(|(_, _, it)| it).collect();
        self.begins = begins;
        Ok(())
    }

    /// The bytes that it is.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash of the whole: of the manifest, which has those of the contents.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Bytes of a block that is full.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u32 {
        self.block_count
    }

    /// Regular files, each once, and their bytes with holes.
    pub fn files(&self) -> (u64, u64) {
        (self.files, self.file_bytes)
    }

    /// Bytes of all blocks.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// A block. One that there is not has no bytes.
    pub fn block(&self, number: u32) -> Block {
        let record = || {
            let at = self.blocks_at + (number as usize) * BLOCK;
            let mut reader = Reader::new(self.bytes.get(at..at + BLOCK)?);
            Some(Block { length: u32::from_le_bytes(reader.array().ok()?), hash: reader.array().ok()? })
        };
        let there = if number < self.block_count { record() } else { None };
        there.unwrap_or(Block { length: 0, hash: [0; 32] })
    }

    /// All entries, each directory before what is in it.
    pub fn entries(&self) -> impl Iterator<Item = (At, Entry<'_>)> {
        let mut reader = Reader::new(self.bytes.get(self.entries_at..).unwrap_or_default());
        let total = reader.left();
        (0..self.entry_count).map_while(move |_| {
            let at = At((self.entries_at + total - reader.left()) as u32);
            Some((at, Entry::read(&mut reader).ok()?))
        })
    }

    /// The entry whose record begins there, one that [`Self::entries`] gave.
    pub fn entry(&self, at: At) -> Option<Entry<'_>> {
        Entry::read(&mut Reader::new(self.bytes.get(at.0 as usize..)?)).ok()
    }

    /// The path of a directory from the tree's own, without a slash at either end; of the tree's own, empty.
    pub fn directory(&self, number: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut number = number;
        while number != 0 {
            let Some(directory) = self.directories.get(number as usize) else { break };
            names.push(self.entry(directory.at).map_or(&[][..], |entry| entry.name));
            // A directory's own comes before it, so this ends.
            number = directory.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The entry of a directory.
    pub fn directory_entry(&self, number: u32) -> Option<Entry<'_>> {
        self.entry(self.directories.get(number as usize)?.at)
    }

    /// The path of an entry, as [`Self::directory`] has it.
    pub fn path(&self, entry: &Entry<'_>) -> Vec<u8> {
        join(&self.directory(entry.parent), entry.name)
    }

    /// What lies in a block, by its place there: each entry with the part of it.
    pub fn in_block(&self, number: u32) -> Vec<(At, Entry<'_>, Part)> {
        let range = self.begins.get(number as usize).zip(self.begins.get(number as usize + 1));
        let Some((begin, end)) = range else { return Vec::new() };
        let uses = self.uses.get(*begin as usize..*end as usize).unwrap_or_default();
        let part = |it: &Use| {
            let entry = self.entry(it.at)?;
            let Kind::File { pieces, .. } = &entry.kind else { return None };
            let part = self.part(pieces.get(it.piece as usize)?, number);
            Some((it.at, entry, part))
        };
        uses.iter().filter_map(part).collect()
    }

    /// Which blocks a piece runs through.
    pub fn blocks_of(&self, piece: &Piece) -> std::ops::Range<u32> {
        let size = u64::from(self.block_size);
        (piece.place / size) as u32..piece.place.saturating_add(piece.length).div_ceil(size) as u32
    }

    /// The part of a piece that lies in a block.
    fn part(&self, piece: &Piece, number: u32) -> Part {
        let size = u64::from(self.block_size);
        let begin = piece.place.max(u64::from(number) * size);
        let end = (piece.place + piece.length).min((u64::from(number) + 1) * size);
        Part {
            at: piece.at + (begin - piece.place),
            offset: (begin % size) as usize,
            length: end.saturating_sub(begin) as usize,
        }
    }
}

/// A path below a directory's.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        [] => name.to_vec(),
        _ => [directory, b"/", name].concat(),
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(parent: u32, name: &'a [u8], kind: Kind<'a>) -> Entry<'a> {
        let attributes = match kind {
            Kind::Link(..) => Attributes::default(),
            _ => Attributes {
                mode: 0o644,
                owner: (1, 70_000),
                modified: (-5, 7),
                xattrs: vec![(b"user.x".as_slice(), b"\0y".as_slice())],
            },
        };
        Entry { parent, name, attributes, kind }
    }

    fn file<'a>(parent: u32, name: &'a [u8], size: u64, pieces: &[(u64, u64, u64)]) -> Entry<'a> {
        let pieces =
            pieces.iter().map(|(at, length, place)| Piece { at: *at, length: *length, place: *place }).collect();
        entry(parent, name, Kind::File { size, pieces })
    }

    fn blocks(lengths: &[u32]) -> Vec<Block> {
        lengths.iter().map(|length| Block { length: *length, hash: [7; 32] }).collect()
    }

    fn all() -> Vec<Entry<'static>> {
        vec![
            entry(0, b"", Kind::Directory),
            entry(0, b"dev", Kind::Directory),
            entry(1, b"c", Kind::Character(1, 300)),
            entry(1, b"d", Kind::Block(259, 1 << 20)),
            entry(1, b"p", Kind::Fifo),
            entry(1, b"s", Kind::Socket),
            file(0, b"large", 1 << 40, &[(0, 25, 10), (1 << 39, 3, 5)]),
            file(0, b"small", 5, &[(0, 5, 0)]),
            entry(0, b"to", Kind::Symlink(b"dev/c")),
            entry(0, b"too", Kind::Link(0, b"small")),
        ]
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let written = write(10, &blocks(&[8, 10, 10, 5]), all().into_iter());
        let manifest = Manifest::parse(written.clone()).unwrap();
        let read: Vec<Entry<'_>> = manifest.entries().map(|(_, entry)| entry).collect();
        assert_eq!(read, all());
        assert_eq!(manifest.bytes(), written);
        assert_eq!((manifest.files(), manifest.data_bytes()), ((2, (1 << 40) + 5), 33));
        let paths: Vec<String> = read.iter().map(|entry| String::from_utf8(manifest.path(entry)).unwrap()).collect();
        assert_eq!(paths[..3], ["", "dev", "dev/c"]);
        let shown = |number| -> Vec<(String, Part)> {
            let lies = manifest.in_block(number).into_iter();
            lies.map(|(_, entry, part)| (String::from_utf8_lossy(entry.name).into_owned(), part)).collect()
        };
        let part = |at, offset, length| Part { at, offset, length };
        assert_eq!(shown(0), [("small".to_owned(), part(0, 0, 5)), ("large".to_owned(), part(1 << 39, 5, 3))]);
        assert_eq!(shown(1), [("large".to_owned(), part(0, 0, 10))]);
        assert_eq!(shown(3), [("large".to_owned(), part(20, 0, 5))]);
        assert!(shown(4).is_empty() && manifest.block(4).length == 0);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let change = |change: &dyn Fn(&mut Vec<Entry<'static>>)| {
            let mut entries = all();
            change(&mut entries);
            write(10, &blocks(&[8, 10, 10, 5]), entries.into_iter())
        };
        let cut = change(&|_| {});
        for (name, bytes, says) in [
            ("nothing", vec![], "ends too early"),
            ("another version", b"SIP\x02aaaaaaaa".to_vec(), "another version"),
            ("cut", cut[..cut.len() - 1].to_vec(), "ends too early"),
            ("more", [&cut[..], b"x"].concat(), "follows its end"),
            ("no directory first", change(&|it| drop(it.remove(0))), "first entry"),
            ("a name twice", change(&|it| it[8].name = b"small"), "one comes twice"),
            ("not sorted", change(&|it| it.swap(7, 8)), "not sorted"),
            ("up", change(&|it| it[9].name = b".."), "none of a file"),
            ("a path", change(&|it| it[9].name = b"z/y"), "none of a file"),
            ("no such directory", change(&|it| it[9].parent = 7), "before its directory"),
            ("a name of nothing", change(&|it| it[9].kind = Kind::Link(9, b"x")), "one of nothing"),
            ("outside the file", change(&|it| it[7] = file(0, b"small", 4, &[(0, 5, 0)])), "outside its file"),
            ("outside the blocks", change(&|it| it[7] = file(0, b"small", 5, &[(0, 5, 38)])), "outside the blocks"),
            ("not covered", change(&|it| it[7] = file(0, b"small", 4, &[(0, 4, 0)])), "do not cover"),
            ("twice", change(&|it| it[7] = file(0, b"small", 5, &[(0, 5, 3)])), "do not cover"),
            ("blocks too large", write(BLOCK_MAX + 1, &[], all().into_iter()), "a size that none"),
            ("an empty block", write(10, &blocks(&[0]), all().into_iter()), "a length that none"),
        ] {
            let error = Manifest::parse(bytes).unwrap_err();
            assert!(error.0.contains(says), "{name}: {error}");
        }
    }
}
