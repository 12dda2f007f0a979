//! Tells in what two trees differ: everything that a copy of a machine has to keep.
//!
//! Type, mode, owner, time of modification to the nanosecond (also of directories and links),
//! size, content, link targets, hard-link groups, device numbers, every extended attribute (so
//! ACLs and capabilities too) and roughly the space taken. Times of access and of change are no
//! part of it, nor are the sizes of directories.
//!
//! It follows no symbolic link, copes with paths beyond `PATH_MAX`, and changes nothing (files
//! are opened with `O_NOATIME`). It must not forgive: what may differ is named in [`Options`].

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{FileType, OFlags};

use crate::at::{Dir, Meta, Shown};

/// In which respect a path differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It is in the first tree only; of a directory, all below it is missing too and not listed.
    Missing,
    /// It is in the second tree only; of a directory, all below it is extra too and not listed.
    Extra,
    /// One is a file and the other a link, say. Nothing else of them is compared.
    Type,
    /// Permission bits, suid, sgid, sticky.
    Mode,
    /// User or group.
    Owner,
    /// Time of modification.
    Mtime,
    /// Length of a file; its content is not compared then.
    Size,
    /// Bytes of a file of the same size.
    Content,
    /// Target of a symbolic link.
    LinkTarget,
    /// The set of names in the tree that are the same file.
    HardLinks,
    /// An extended attribute: absent on one side, or with another value.
    Xattrs {
        /// Its name, such as `user.comment` or `system.posix_acl_access`.
        name: String,
    },
    /// Device number.
    Device,
    /// Same content, but one takes much more space than the other: a hole was filled.
    Sparse,
}

/// One way in which one path differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The path below both roots, in bytes; empty for the roots themselves.
    pub path: Vec<u8>,
    /// The respect in which it differs.
    pub what: What,
    /// Both values, first tree first, for a reader.
    pub detail: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path: &[u8] = if self.path.is_empty() { b"." } else { &self.path };
        match &self.what {
            What::Xattrs { name } => write!(f, "{}: xattr {name}: {}", Shown(path), self.detail),
            what => write!(f, "{}: {what:?}: {}", Shown(path), self.detail),
        }
    }
}

/// What is allowed to differ. The default allows nothing.
///
/// Paths are relative to the roots, without a leading slash.
#[derive(Clone, Debug, Default)]
pub struct Options {
    ignored: Vec<Vec<u8>>,
    any_time: Vec<Vec<u8>>,
    whole_seconds: Vec<Vec<u8>>,
    may_be_sparser: bool,
}

impl Options {
    /// Nothing may differ.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out `path` and all below it, on both sides.
    pub fn ignore(mut self, path: impl AsRef<[u8]>) -> Self {
        self.ignored.push(trimmed(path.as_ref()));
        self
    }

    /// Leaves out the time of modification of exactly this path (the directory of an
    /// [ignored](Self::ignore) file, usually); empty is the root.
    pub fn ignore_time(mut self, path: impl AsRef<[u8]>) -> Self {
        self.any_time.push(trimmed(path.as_ref()));
        self
    }

    /// Compares times at and below this path in whole seconds: for a file system that keeps no more.
    pub fn whole_seconds(mut self, path: impl AsRef<[u8]>) -> Self {
        self.whole_seconds.push(trimmed(path.as_ref()));
        self
    }

    /// The second tree may take less space than the first (`rsync --sparse` makes holes of zeros).
    pub fn may_be_sparser(mut self) -> Self {
        self.may_be_sparser = true;
        self
    }
}

fn trimmed(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    path.strip_suffix(b"/").unwrap_or(path).to_vec()
}

fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    top.is_empty() || (path.starts_with(top) && matches!(path.get(top.len()), None | Some(b'/')))
}

/// Every difference between the trees at `a` and `b`, sorted by path.
///
/// Fails when a tree cannot be read; run it as root, or attributes `trusted.*` stay unseen.
pub fn compare(a: &Path, b: &Path, options: &Options) -> Result<Vec<Difference>> {
    let mut walk = Walk { options, found: Vec::new(), links: [HashMap::new(), HashMap::new()], shared: Vec::new() };
    let (dir_a, dir_b) = (Dir::open(a)?, Dir::open(b)?);
    walk.pair(&Side { dir: &dir_a, name: b"" }, &Side { dir: &dir_b, name: b"" }, b"")
        .with_context(|| format!("comparing {} with {}", a.display(), b.display()))?;
    walk.hard_links();
    walk.found.sort();
    Ok(walk.found)
}

/// The differences as one text, a line each, at most `most` of them, for the message of a test.
pub fn report(differences: &[Difference], most: usize) -> String {
    let mut text: String = differences.iter().take(most).map(|difference| format!("{difference}\n")).collect();
    if differences.len() > most {
        text.push_str(&format!("… and {} more\n", differences.len() - most));
    }
    text
}

/// One side of a pair: a name in an open directory, or the directory itself if it is empty.
struct Side<'a> {
    dir: &'a Dir,
    name: &'a [u8],
}

impl Side<'_> {
    fn meta(&self) -> Result<Meta> {
        self.dir.meta(self.name)
    }

    fn open_dir(&self) -> Result<Dir> {
        self.dir.child(if self.name.is_empty() { b"." } else { self.name })
    }
}

/// A file is known by device and inode.
type FileId = (u64, u64);

struct Walk<'o> {
    options: &'o Options,
    found: Vec<Difference>,
    /// For each side: the names, in the tree and not ignored, of every file that has several.
    links: [HashMap<FileId, Vec<Vec<u8>>>; 2],
    /// Paths that are on both sides with the same type, with their files.
    shared: Vec<(Vec<u8>, [FileId; 2])>,
}

impl Walk<'_> {
    fn add(&mut self, path: &[u8], what: What, detail: String) {
        self.found.push(Difference { path: path.to_vec(), what, detail });
    }

    fn pair(&mut self, a: &Side, b: &Side, path: &[u8]) -> Result<()> {
        let (meta_a, meta_b) = (a.meta()?, b.meta()?);
        self.note_links(0, &meta_a, path);
        self.note_links(1, &meta_b, path);
        if meta_a.file_type() != meta_b.file_type() {
            self.add(path, What::Type, format!("{:?} and {:?}", meta_a.file_type(), meta_b.file_type()));
            return Ok(());
        }
        self.attributes(a, b, &meta_a, &meta_b, path)?;
        if meta_a.is_dir() {
            return self.directories(&a.open_dir()?, &b.open_dir()?, path);
        }
        if meta_a.nlink > 1 || meta_b.nlink > 1 {
            self.shared.push((path.to_vec(), [(meta_a.dev, meta_a.ino), (meta_b.dev, meta_b.ino)]));
        }
        match meta_a.file_type() {
            FileType::RegularFile => self.files(a, b, &meta_a, &meta_b, path)?,
            FileType::Symlink => {
                let (target_a, target_b) = (a.dir.link_target(a.name)?, b.dir.link_target(b.name)?);
                if target_a != target_b {
                    let detail = format!("{} and {}", Shown(&target_a), Shown(&target_b));
                    self.add(path, What::LinkTarget, detail);
                }
            }
            FileType::CharacterDevice | FileType::BlockDevice if meta_a.rdev != meta_b.rdev => {
                let number = |rdev| format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev));
                self.add(path, What::Device, format!("{} and {}", number(meta_a.rdev), number(meta_b.rdev)));
            }
            _ => {}
        }
        Ok(())
    }

    /// What things of every type have.
    fn attributes(&mut self, a: &Side, b: &Side, meta_a: &Meta, meta_b: &Meta, path: &[u8]) -> Result<()> {
        // A symbolic link has no mode: what stat shows depends on the file system.
        if meta_a.permissions() != meta_b.permissions() && meta_a.file_type() != FileType::Symlink {
            self.add(path, What::Mode, format!("{:04o} and {:04o}", meta_a.permissions(), meta_b.permissions()));
        }
        if (meta_a.uid, meta_a.gid) != (meta_b.uid, meta_b.gid) {
            let detail = format!("{}:{} and {}:{}", meta_a.uid, meta_a.gid, meta_b.uid, meta_b.gid);
            self.add(path, What::Owner, detail);
        }
        let coarse = self.options.whole_seconds.iter().any(|top| is_at_or_below(path, top));
        let same_time = meta_a.mtime.seconds == meta_b.mtime.seconds
            && (coarse || meta_a.mtime.nanoseconds == meta_b.mtime.nanoseconds);
        if !same_time && !self.options.any_time.iter().any(|any| any == path) {
            self.add(path, What::Mtime, format!("{} and {}", meta_a.mtime, meta_b.mtime));
        }
        let mut both: BTreeMap<Vec<u8>, [Option<Vec<u8>>; 2]> = BTreeMap::new();
        for (index, side) in [a, b].into_iter().enumerate() {
            for (name, value) in side.dir.xattrs(side.name)? {
                both.entry(name).or_default()[index] = Some(value);
            }
        }
        for (name, [value_a, value_b]) in both {
            if value_a != value_b {
                let show = |value: &Option<Vec<u8>>| match value {
                    Some(value) => format!("\"{}\"", Shown(value)),
                    None => "none".to_owned(),
                };
                let what = What::Xattrs { name: name.escape_ascii().to_string() };
                self.add(path, what, format!("{} and {}", show(&value_a), show(&value_b)));
            }
        }
        Ok(())
    }

    fn directories(&mut self, a: &Dir, b: &Dir, path: &[u8]) -> Result<()> {
        let mut names: BTreeMap<Vec<u8>, [bool; 2]> = BTreeMap::new();
        for (index, dir) in [a, b].into_iter().enumerate() {
            for name in dir.names().with_context(|| format!("in {}", Shown(path)))? {
                names.entry(name).or_default()[index] = true;
            }
        }
        for (name, on) in names {
            let path = join(path, &name);
            if self.options.ignored.iter().any(|top| is_at_or_below(&path, top)) {
                continue;
            }
            let (side_a, side_b) = (Side { dir: a, name: &name }, Side { dir: b, name: &name });
            match on {
                [true, true] => {
                    self.pair(&side_a, &side_b, &path).with_context(|| format!("at {}", Shown(&name)))?;
                }
                [first, _] => {
                    let (what, side) = if first { (What::Missing, side_a) } else { (What::Extra, side_b) };
                    let meta = side.meta()?;
                    self.note_links(usize::from(!first), &meta, &path);
                    self.add(&path, what, format!("{:?}", meta.file_type()));
                }
            }
        }
        Ok(())
    }

    fn files(&mut self, a: &Side, b: &Side, meta_a: &Meta, meta_b: &Meta, path: &[u8]) -> Result<()> {
        if meta_a.size != meta_b.size {
            self.add(path, What::Size, format!("{} and {} bytes", meta_a.size, meta_b.size));
            return Ok(());
        }
        if let Some(offset) = first_difference(a, b, meta_a.size)? {
            self.add(path, What::Content, format!("they differ at byte {offset} of {}", meta_a.size));
        }
        let (less, more) = (meta_a.allocated.min(meta_b.allocated), meta_a.allocated.max(meta_b.allocated));
        let sparser = meta_b.allocated < meta_a.allocated;
        if more > less + less / 4 + SLACK && !(sparser && self.options.may_be_sparser) {
            let detail = format!("{} and {} of {} bytes take space", meta_a.allocated, meta_b.allocated, meta_a.size);
            self.add(path, What::Sparse, detail);
        }
        Ok(())
    }

    fn note_links(&mut self, side: usize, meta: &Meta, path: &[u8]) {
        if meta.nlink > 1 && !meta.is_dir() {
            self.links[side].entry((meta.dev, meta.ino)).or_default().push(path.to_vec());
        }
    }

    /// A path that is on one side only is reported as such already, so it does not make its
    /// former fellows differ as well: groups are compared by the names that both sides have.
    fn hard_links(&mut self) {
        let shared = std::mem::take(&mut self.shared);
        let both: std::collections::HashSet<&[u8]> = shared.iter().map(|(path, _)| path.as_slice()).collect();
        let mut found = Vec::new();
        for (path, ids) in &shared {
            let group = |side: usize| -> Vec<&[u8]> {
                let names = self.links[side].get(&ids[side]).map(Vec::as_slice).unwrap_or_default();
                let fellows = names.iter().map(Vec::as_slice).filter(|name| *name != path && both.contains(name));
                fellows.collect()
            };
            let (group_a, group_b) = (group(0), group(1));
            if group_a != group_b {
                let show = |group: &[&[u8]]| match group {
                    [] => "no other name".to_owned(),
                    names => names.iter().map(|name| Shown(name).to_string()).collect::<Vec<_>>().join(", "),
                };
                let detail = format!("same file as {}; and as {}", show(&group_a), show(&group_b));
                found.push(Difference { path: path.clone(), what: What::HardLinks, detail });
            }
        }
        self.found.append(&mut found);
    }
}

/// File systems round up, and copiers find holes in units of their own.
const SLACK: u64 = 256 * 1024;

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// The offset of the first byte that differs. Ranges that are holes on both sides are not read.
fn first_difference(a: &Side, b: &Side, size: u64) -> Result<Option<u64>> {
    const CHUNK: usize = 1 << 20;
    if size == 0 {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOATIME;
    let (file_a, file_b) = (a.dir.open_file(a.name, flags)?, b.dir.open_file(b.name, flags)?);
    let ranges = union(file_a.data_ranges(size)?, file_b.data_ranges(size)?);
    let longest = ranges.iter().map(|(start, end)| end - start).max().unwrap_or(0);
    let chunk = usize::try_from(longest).unwrap_or(CHUNK).min(CHUNK);
    let (mut buffer_a, mut buffer_b) = (vec![0; chunk], vec![0; chunk]);
    for (start, end) in ranges {
        let mut position = start;
        while position < end {
            let length = usize::try_from(end - position).unwrap_or(chunk).min(chunk);
            let (part_a, part_b) = (&mut buffer_a[..length], &mut buffer_b[..length]);
            file_a.read_at(position, part_a)?;
            file_b.read_at(position, part_b)?;
            if part_a != part_b {
                let within = part_a.iter().zip(part_b.iter()).position(|(a, b)| a != b).unwrap_or(0);
                return Ok(Some(position + within as u64));
            }
            position += length as u64;
        }
    }
    Ok(None)
}

/// The ranges that are in either list, merged and in order.
fn union(mut a: Vec<(u64, u64)>, b: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    a.extend(b);
    a.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in a {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}
