//! Blocks of a pack, read out of the image's own files and held against their hashes: what was changed since is never sent.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::io::Errno;

use super::manifest::Manifest;
use crate::tree::{self, Dir};

/// How often, and how long each time, a descriptor is waited for.
const PATIENCE: u32 = 200;
const WAIT: Duration = Duration::from_millis(50);

/// A tree and its manifest. The tree stays the one that it was, also when another takes its name.
#[derive(Debug, Clone)]
pub struct Contents {
    top: Arc<Dir>,
    manifest: Arc<Manifest>,
}

/// A tree and its manifest, as long as somebody else has them.
#[derive(Debug, Default)]
pub struct WeakContents(Weak<Dir>, Weak<Manifest>);

impl WeakContents {
    /// They themselves, if somebody has them.
    pub fn upgrade(&self) -> Option<Contents> {
        Some(Contents { top: self.0.upgrade()?, manifest: self.1.upgrade()? })
    }
}

/// Why a block is not to be had.
#[derive(Debug)]
pub enum ContentsError {
    /// A file of it is not what it was when the manifest was made.
    Edited(Vec<u8>),
    /// A file of it could not be read.
    Io(Vec<u8>, io::Error),
}

impl std::fmt::Display for ContentsError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ContentsError::Edited(path) => write!(
                out,
                "{} of the image was changed while the image was on its way; change a copy, with `systemimager image edit`",
                tree::shown(path)
            ),
            ContentsError::Io(path, error) => write!(out, "reading {} of the image: {error}", tree::shown(path)),
        }
    }
}

/// Opens something, and waits a while where there are no descriptors left: an image is not wrong for that.
fn patiently<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let full = |error: &io::Error| {
        [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    };
    for _ in 0..PATIENCE {
        match open() {
            Err(error) if full(&error) => std::thread::sleep(WAIT),
            other => return other,
        }
    }
    open()
}

impl Contents {
    /// Of a tree whose manifest this is.
    pub fn new(top: Dir, manifest: Arc<Manifest>) -> Self {
        Self { top: Arc::new(top), manifest }
    }

    /// Whether they are of this very directory.
    pub fn is_of(&self, top: &Dir) -> bool {
        let of = |dir: &Dir| dir.stat(b"").map(|stat| (stat.st_dev, stat.st_ino)).ok();
        of(top).is_some_and(|it| of(&self.top) == Some(it))
    }

    /// For who does not want to keep them.
    pub fn downgrade(&self) -> WeakContents {
        WeakContents(Arc::downgrade(&self.top), Arc::downgrade(&self.manifest))
    }

    /// The manifest.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The bytes of a block, verified.
    ///
    /// # Errors
    /// The image was edited since, or cannot be read.
    pub fn block(&self, number: u32) -> Result<Vec<u8>, ContentsError> {
        let block = self.manifest.block(number);
        let mut bytes = vec![0; block.length as usize];
        let mut first = None;
        for (_, entry, part) in self.manifest.in_block(number) {
            let path = self.manifest.path(&entry);
            let failed = |error: io::Error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => ContentsError::Edited(path.clone()),
                _ => ContentsError::Io(path.clone(), error),
            };
            let file = patiently(|| self.top.file(&path)).map_err(failed)?;
            let room = bytes.get_mut(part.offset..part.offset + part.length).unwrap_or_default();
            tree::read_at(&file, part.at, room).map_err(failed)?;
            first.get_or_insert(path);
        }
        match blake3::hash(&bytes).as_bytes() == &block.hash {
            true => Ok(bytes),
            false => Err(ContentsError::Edited(first.unwrap_or_default())),
        }
    }
}
