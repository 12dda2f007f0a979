//! A capture beside the image, and the moment at which it takes its place.
//!
//! A new revision starts as the old one, so that only differences have to come over the network: what stays is
//! shared with the old tree until that goes ([`revision`]), or the old tree is copied (with reflinks where the
//! file system has them) if somebody reads it, or if the transport cannot say what differs.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use systemimager_core::{BytePath, ImageName};

use super::image_store::{ImageStore, Reading, identity};
use super::revision::{self, Differences};
use crate::sys::lock::Lock;
use crate::sys::remove::remove_tree;
use crate::sys::{Cmd, Stream, Tool, atomic};

/// How often what has arrived is written out.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// A tree in the making. Dropping it removes it; the image is as it was.
#[derive(Debug)]
pub struct Staging {
    store: ImageStore,
    image: ImageName,
    path: PathBuf,
    /// The store, open all the while: a write that failed is told once to each who had a file open then.
    disk: fs::File,
    done: bool,
    _lock: Lock,
}

impl Staging {
    /// Locks the image against other captures, and removes what a broken one left.
    ///
    /// # Errors
    /// Somebody captures this image just now (named), or the store cannot be written.
    pub fn begin(store: &ImageStore, image: &ImageName) -> Result<Self> {
        Self::begin_to(store, image, "capture")
    }

    /// As [`Self::begin`], for something else than a capture: `doing` is what others are told.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn begin_to(store: &ImageStore, image: &ImageName, doing: &str) -> Result<Self> {
        let lock = store.capture_lock(image, doing)?;
        let path = store.staging(image.as_str())?;
        remove_tree(&path).context("removing what an earlier capture left")?;
        store.sweep()?;
        let disk = fs::File::open(store.root()).with_context(|| format!("opening {}", store.root().display()))?;
        Ok(Self { store: store.clone(), image: image.clone(), path, disk, done: false, _lock: lock })
    }

    /// Makes the tree, whatever was made before: a copy of the image if there is one, else an empty directory.
    ///
    /// # Errors
    /// The disk is full, or copying fails.
    pub fn fill(&self) -> Result<()> {
        remove_tree(&self.path).context("removing what was begun")?;
        if !self.store.exists(&self.image)? {
            return fs::create_dir(&self.path).with_context(|| format!("making {}", self.path.display()));
        }
        let old = self.store.read(&self.image, &format!("copying image {}", self.image))?;
        copy_tree(old.path(), &self.path)
            .run()
            .with_context(|| format!("copying {} to begin the new revision with", old.path().display()))?;
        single_names(&self.path)
    }

    /// Makes the tree as a whole copy of another, with reflinks where the file system has them. `files` is told now and
    /// then how many have been copied; returns how many there are.
    ///
    /// # Errors
    /// The disk is full, or copying fails.
    pub fn copy(&self, other: &Reading, files: &mut dyn FnMut(u64)) -> Result<u64> {
        remove_tree(&self.path).context("removing what was begun")?;
        let mut copied: u64 = 0;
        // A line for each, in whatever way it is written.
        copy_tree(other.path(), &self.path)
            .arg("--verbose")
            .run_lines(&mut |stream, _| {
                if stream == Stream::Stdout {
                    copied += 1;
                    files(copied);
                }
            })
            .with_context(|| format!("copying {}", other.path().display()))?;
        Ok(copied)
    }

    /// Makes the tree of what stays of the old one. Returns what is to be pulled, flat.
    ///
    /// # Errors
    /// The store cannot be written; what was made till then is gone.
    pub fn share(&self, old: &Reading, differences: Differences) -> Result<Vec<BytePath>> {
        revision::begin(old.path(), &self.path, differences)
            .with_context(|| format!("beginning a new revision of {}", self.image))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image it is going to be.
    pub fn image(&self) -> &ImageName {
        &self.image
    }

    /// The tree, however it is called by then.
    ///
    /// # Errors
    /// It is not there, or cannot be opened.
    pub fn open(&self) -> Result<fs::File> {
        fs::File::open(&self.path).with_context(|| format!("opening {}", self.path.display()))
    }

    /// Writes out what has arrived again and again while `work` goes on, so that little is left when the tree takes its
    /// place.
    ///
    /// # Errors
    /// The disk fails, or `work`'s own.
    pub fn writing<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let (working, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || {
                while ended.recv_timeout(WRITE_EVERY) == Err(RecvTimeoutError::Timeout) {
                    self.write_out()?;
                }
                Ok(())
            });
            let result = work();
            drop(working);
            let written = writing.join().unwrap_or_else(|_| bail!("a bug: writing out panicked"));
            // Whatever failed else may come of a disk that does.
            written.and(result)
        })
    }

    fn write_out(&self) -> Result<()> {
        rustix::fs::syncfs(&self.disk).with_context(|| format!("writing {} out", self.path.display()))
    }

    /// Gives it the image's name, after everything is safe on disk. Returns replaced trees that are
    /// still read, with who reads them: they go later.
    ///
    /// # Errors
    /// The disk fails; the old image is whole then.
    pub fn swap_in(mut self) -> Result<Vec<String>> {
        self.write_out()?;
        let image = self.store.path(&self.image);
        match identity(&image)? {
            None => fs::rename(&self.path, &image)
                .with_context(|| format!("renaming {} to {}", self.path.display(), image.display()))?,
            Some(old) => {
                let replaced = self.store.replaced(&self.image, &old)?;
                atomic::exchange(&image, &self.path)?;
                // The staging path now holds the old tree.
                fs::rename(&self.path, &replaced)
                    .with_context(|| format!("moving the old image to {}", replaced.display()))?;
            }
        }
        self.done = true;
        atomic::sync_dir(self.store.root())?;
        self.store.sweep()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!("removing {}: {error}", self.path.display());
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> Cmd {
    Cmd::tool(Tool::Cp).args(["--archive", "--reflink=auto", "--sparse=auto", "--no-target-directory"]).args([from, to])
}

/// Leaves each file one of its names. A transfer then makes the other names that the source has;
/// left as they are, names that the source no longer joins would stay joined where nothing else of
/// them changed.
fn single_names(tree: &Path) -> Result<()> {
    let mut seen = HashSet::new();
    let mut surplus = Vec::new();
    for entry in walkdir::WalkDir::new(tree).sort_by_file_name() {
        let entry = entry.with_context(|| format!("walking {}", tree.display()))?;
        if entry.file_type().is_dir() {
            continue;
        }
        let metadata = entry.metadata().with_context(|| format!("looking at {}", entry.path().display()))?;
        if metadata.nlink() > 1 && !seen.insert(metadata.ino()) {
            surplus.push(entry.into_path());
        }
    }
    for path in surplus {
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::sys::lock::Mode;

    fn store() -> (tempfile::TempDir, ImageStore, ImageName) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        fs::create_dir_all(config.images()).unwrap();
        let store = ImageStore::new(&config);
        (dir, store, ImageName::try_from("web").unwrap())
    }

    fn capture(store: &ImageStore, image: &ImageName, text: &str) -> Vec<String> {
        let staging = Staging::begin(store, image).unwrap();
        staging.fill().unwrap();
        fs::write(staging.path().join("f"), text).unwrap();
        staging.swap_in().unwrap()
    }

    fn text(store: &ImageStore, image: &ImageName) -> String {
        fs::read_to_string(store.path(image).join("f")).unwrap()
    }

    #[test]
    fn swapped_in_when_complete() {
        let (_dir, store, image) = store();
        assert_eq!(capture(&store, &image, "one"), Vec::<String>::new());
        assert_eq!(text(&store, &image), "one");
        let staging = Staging::begin(&store, &image).unwrap();
        staging.fill().unwrap();
        fs::write(staging.path().join("f"), "half").unwrap();
        let error = Staging::begin(&store, &image).unwrap_err().to_string();
        assert!(error.contains("is locked by capture of image web"), "{error}");
        let path = staging.path().to_path_buf();
        drop(staging);
        assert!(!path.exists(), "a failed capture leaves nothing");
        assert_eq!(text(&store, &image), "one", "and the image is as it was");
        assert_eq!(capture(&store, &image, "two"), Vec::<String>::new());
        assert_eq!(text(&store, &image), "two");
        assert_eq!(fs::read_dir(store.root().join(".replaced")).unwrap().count(), 0);
    }

    #[test]
    fn a_tree_that_is_read_stays() {
        let (_dir, store, image) = store();
        capture(&store, &image, "one");
        let reading = store.read(&image, "an install").unwrap();
        let open = rustix::fs::open(reading.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let left = capture(&store, &image, "two");
        assert!(left.len() == 1 && left[0].contains("an install"), "{left:?}");
        let file = rustix::fs::openat(&open, "f", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        let mut old = String::new();
        std::io::Read::read_to_string(&mut fs::File::from(file), &mut old).unwrap();
        assert_eq!(old, "one");
        drop(reading);
        assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
        assert_eq!(fs::read_dir(store.root().join(".replaced")).unwrap().count(), 0);
        assert_eq!(text(&store, &image), "two");
        // The new tree has a lock of its own.
        assert!(Lock::attempt(&store.root().join(".locks/web.capture"), Mode::Exclusive, "x").unwrap().is_some());
    }

    #[test]
    fn a_copy_has_each_file_once() {
        let (_dir, store, image) = store();
        capture(&store, &image, "one");
        fs::hard_link(store.path(&image).join("f"), store.path(&image).join("g")).unwrap();
        let staging = Staging::begin(&store, &image).unwrap();
        staging.fill().unwrap();
        let names: Vec<_> = fs::read_dir(staging.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, vec!["f"]);
        let ino = |path: PathBuf| fs::metadata(path).unwrap().ino();
        assert_ne!(ino(staging.path().join("f")), ino(store.path(&image).join("f")), "images share no inodes");
    }
}
