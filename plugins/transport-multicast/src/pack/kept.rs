//! A pack as it is kept beside the images, so that it is made once for each state of an image: the manifest, and by what each of
//! its files is known again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use super::manifest::Manifest;
use crate::codec::{Malformed, Reader, Writer};

/// First bytes of the file; the last is the version.
const MAGIC: &[u8; 4] = b"SIK\x01";
/// The directory beside the trees. No image is called so.
const DIRECTORY: &str = ".packs";

/// By what a file is known to be as it was, besides its size and its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Its inode; 0: nothing is to be believed of it.
    pub inode: u64,
    /// When its inode last changed: seconds since 1970, nanoseconds.
    pub changed: (i64, u32),
}

impl Stamp {
    /// That of a file.
    pub fn of(stat: &Stat) -> Self {
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
        Self { inode: stat.st_ino, changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u32) }
    }
}

/// A manifest with the stamps of its regular files, in its order.
#[derive(Debug)]
pub struct Kept {
    /// The manifest.
    pub manifest: Manifest,
    /// One for each regular file.
    pub stamps: Vec<Stamp>,
}

/// Where a tree's pack is kept.
pub fn file(tree: &Path) -> Option<PathBuf> {
    Some(tree.parent()?.join(DIRECTORY).join(tree.file_name()?))
}

/// The pack of a tree that was kept. One that cannot be read is as good as none: it is made anew.
pub fn load(tree: &Path) -> Option<Kept> {
    read(&fs::read(file(tree)?).ok()?).ok()
}

/// Keeps it, as a whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn store(tree: &Path, kept: &Kept) -> io::Result<()> {
    let file = file(tree).ok_or_else(|| io::Error::other("the tree has no name"))?;
    let directory = file.parent().unwrap_or(Path::new("/"));
    // What files an image has, and what is in small ones, is nobody's business.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let fresh = file.with_file_name(format!("{}~", file.file_name().unwrap_or_default().display()));
    let _ = fs::remove_file(&fresh);
    let mut out: File = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let written = out.write_all(&write(kept)).and_then(|()| out.sync_all()).and_then(|()| fs::rename(&fresh, &file));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

/// Removes what is kept of trees that are gone.
pub fn sweep(trees: &Path) {
    let Ok(entries) = fs::read_dir(trees.join(DIRECTORY)) else { return };
    for entry in entries.flatten() {
        if !trees.join(entry.file_name()).is_dir() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn write(kept: &Kept) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(MAGIC).blob(kept.manifest.bytes());
    for stamp in &kept.stamps {
        out.number(stamp.inode).signed(stamp.changed.0).number(stamp.changed.1.into());
    }
    let hash = blake3::hash(&out.0);
    out.bytes(hash.as_bytes());
    out.0
}

/// Reads what [`store`] wrote.
///
/// # Errors
/// It is something else, or was damaged.
pub fn read(bytes: &[u8]) -> Result<Kept, Malformed> {
    let (body, hash) = bytes.split_last_chunk::<32>().ok_or(Malformed("it ends too early"))?;
    if blake3::hash(body).as_bytes() != hash {
        return Err(Malformed("it is damaged"));
    }
    let mut reader = Reader::new(body);
    if &reader.array::<4>()? != MAGIC {
        return Err(Malformed("it is no pack, or one of another version"));
    }
    let manifest = Manifest::parse(reader.blob(usize::MAX)?.to_vec())?;
    let (files, _) = manifest.files();
    let mut stamps = Vec::new();
    for _ in 0..files {
        let inode = reader.number()?;
        let changed = (reader.signed()?, reader.at_most(999_999_999)? as u32);
        stamps.push(Stamp { inode, changed });
    }
    reader.end()?;
    Ok(Kept { manifest, stamps })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::make::make;
    use crate::tree::Dir;

    #[test]
    fn it_is_kept_beside_the_tree_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("web");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("a"), "b").unwrap();
        let kept = make(&Dir::open(&tree).unwrap(), None).unwrap();
        assert!(load(&tree).is_none());
        store(&tree, &kept).unwrap();
        let again = load(&tree).unwrap();
        assert_eq!((again.manifest.root(), &again.stamps), (kept.manifest.root(), &kept.stamps));
        sweep(dir.path());
        assert!(load(&tree).is_some());
        let mut bytes = fs::read(file(&tree).unwrap()).unwrap();
        bytes[20] ^= 1;
        assert_eq!(read(&bytes).unwrap_err(), Malformed("it is damaged"));
        fs::remove_dir_all(&tree).unwrap();
        sweep(dir.path());
        assert!(load(&tree).is_none());
    }
}
