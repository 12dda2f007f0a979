//! Where images lie, and who may do what to them at the same time.
//!
//! ```text
//! images/NAME/               the image: its files, nothing else
//! images/.staging/NAME/      the next one, while it is captured or edited
//! images/.replaced/NAME.ID/  an old one that somebody still reads
//! images/.locks/             one file a capture, one a tree that is read
//! ```
//!
//! No image can be called `.staging`: names do not begin with a dot. A tree is known by device and
//! inode, so that a lock taken on it holds for it also after another tree got its name.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use systemimager_core::ImageName;

use crate::config::Config;
use crate::sys::atomic;
use crate::sys::lock::{Lock, Mode};
use crate::sys::remove::remove_tree;

/// The images of a server.
#[derive(Debug, Clone)]
pub struct ImageStore {
    images: PathBuf,
}

/// A tree that is being read: it stays until this goes, also when the image is replaced meanwhile.
#[derive(Debug)]
pub struct Reading {
    path: PathBuf,
    identity: String,
    _lock: Lock,
}

impl Reading {
    /// The image's directory. After a replacement the name leads to the new tree: open what is to be
    /// one tree throughout (or change into it) while it is fresh.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which tree it is: [`ImageStore::identity`] while the image is not replaced.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

impl ImageStore {
    /// The images of the server with this configuration.
    pub fn new(config: &Config) -> Self {
        Self { images: config.images() }
    }

    /// The directory that holds them.
    pub fn root(&self) -> &Path {
        &self.images
    }

    /// Where an image is, or would be.
    pub fn path(&self, image: &ImageName) -> PathBuf {
        self.images.join(image.as_str())
    }

    /// There is such an image.
    ///
    /// # Errors
    /// Something of that name is there that is no directory, or cannot be looked at.
    pub fn exists(&self, image: &ImageName) -> Result<bool> {
        Ok(identity(&self.path(image))?.is_some())
    }

    /// Which tree has the image's name now: device and inode as text; `None`: there is no such image.
    ///
    /// # Errors
    /// Something of that name is there that is no directory, or cannot be looked at.
    pub fn identity(&self, image: &ImageName) -> Result<Option<String>> {
        identity(&self.path(image))
    }

    /// All images, sorted.
    ///
    /// # Errors
    /// The directory cannot be read; that there is none means no images.
    pub fn names(&self) -> Result<Vec<ImageName>> {
        let entries = match fs::read_dir(&self.images) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("listing {}", self.images.display())),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("listing {}", self.images.display()))?;
            let name = entry.file_name();
            if let Some(name) = name.to_str().and_then(|name| ImageName::try_from(name).ok())
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The directory of an image that must be there.
    ///
    /// # Errors
    /// It is not; the message names those that are.
    pub fn tree(&self, image: &ImageName) -> Result<PathBuf> {
        if self.exists(image)? {
            return Ok(self.path(image));
        }
        let names: Vec<String> = self.names()?.iter().map(ToString::to_string).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        bail!(
            "there is no image {image} in {} (there: {there}); capture it with getimage, or name another",
            self.images.display()
        )
    }

    /// Holds an image's tree so that it stays while it is read.
    ///
    /// # Errors
    /// There is no such image, or the lock cannot be had.
    pub fn read(&self, image: &ImageName, purpose: &str) -> Result<Reading> {
        loop {
            let path = self.tree(image)?;
            let Some(id) = identity(&path)? else { continue };
            let lock = Lock::wait(&self.tree_lock(image.as_str(), &id)?, Mode::Shared, purpose)?;
            // It may have been replaced while we waited.
            if identity(&path)?.as_ref() == Some(&id) {
                return Ok(Reading { path, identity: id, _lock: lock });
            }
        }
    }

    /// Somebody holds the image's tree just now, or is at home in it.
    ///
    /// # Errors
    /// There is no such image, or its lock cannot be had.
    pub fn is_read(&self, image: &ImageName) -> Result<bool> {
        let path = self.tree(image)?;
        let Some(id) = identity(&path)? else { return Ok(false) };
        let lock = Lock::attempt(&self.tree_lock(image.as_str(), &id)?, Mode::Exclusive, "looking for readers")?;
        Ok(lock.is_none() || !processes_in(&path).is_empty())
    }

    /// Gives a tree that nobody reads another name. The caller holds both names against captures.
    pub(super) fn rename(&self, from: &ImageName, to: &ImageName) -> Result<()> {
        let (old, new) = (self.tree(from)?, self.path(to));
        let id = identity(&old)?.with_context(|| format!("{} has just gone", old.display()))?;
        let lock_path = self.tree_lock(from.as_str(), &id)?;
        let lock = Lock::attempt(&lock_path, Mode::Exclusive, &format!("renaming image {from}"))?;
        if lock.is_none() || !processes_in(&old).is_empty() {
            bail!("somebody reads the image {from} just now (a transfer, or a process at home in it); try again later");
        }
        fs::rename(&old, &new).with_context(|| format!("renaming {} to {}", old.display(), new.display()))?;
        atomic::sync_dir(&self.images)?;
        // Who waits for it finds no tree of the old name then; readers by the new one have a lock of their own.
        fs::remove_file(&lock_path).with_context(|| format!("removing {}", lock_path.display()))
    }

    /// Takes a tree its name, and removes it when nobody reads it; returns trees that somebody does read, with who. That
    /// there is none is no error. The caller holds the name against captures.
    pub(super) fn remove(&self, image: &ImageName) -> Result<Vec<String>> {
        let path = self.path(image);
        if let Some(id) = identity(&path)? {
            let replaced = self.replaced(image, &id)?;
            fs::rename(&path, &replaced).with_context(|| format!("moving {} away", path.display()))?;
            atomic::sync_dir(&self.images)?;
        }
        self.sweep()
    }

    /// Removes replaced trees that nobody reads any more; returns those that somebody does, with who.
    ///
    /// # Errors
    /// A tree cannot be removed (an immutable file, say).
    pub fn sweep(&self) -> Result<Vec<String>> {
        let replaced = self.images.join(".replaced");
        let entries = match fs::read_dir(&replaced) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("listing {}", replaced.display())),
        };
        let mut read = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("listing {}", replaced.display()))?;
            let tree = entry.path();
            let lock_path = self.directory(".locks")?.join(entry.file_name());
            let readers = processes_in(&tree);
            let lock = Lock::attempt(&lock_path, Mode::Exclusive, "removing a replaced image")?;
            match lock {
                Some(_lock) if readers.is_empty() => {
                    remove_tree(&tree).with_context(|| format!("removing the replaced image {}", tree.display()))?;
                    // Nobody can want this lock again: its tree is gone, and only its readers knew the name.
                    fs::remove_file(&lock_path).with_context(|| format!("removing {}", lock_path.display()))?;
                }
                Some(_) => read.push(format!("{} (processes {})", tree.display(), readers.join(", "))),
                None => read.push(format!("{} ({})", tree.display(), crate::sys::lock::holders(&lock_path).join(", "))),
            }
        }
        Ok(read)
    }

    /// Where a tree waits that lost its name.
    pub(super) fn replaced(&self, image: &ImageName, id: &str) -> Result<PathBuf> {
        Ok(self.directory(".replaced")?.join(format!("{image}.{id}")))
    }

    pub(super) fn staging(&self, name: &str) -> Result<PathBuf> {
        Ok(self.directory(".staging")?.join(name))
    }

    /// Holds an image's name against captures, edits, renaming and removal. `doing` is what others are told: `capture`.
    pub(super) fn capture_lock(&self, image: &ImageName, doing: &str) -> Result<Lock> {
        let path = self.directory(".locks")?.join(format!("{image}.capture"));
        Ok(Lock::try_take(&path, Mode::Exclusive, &format!("{doing} of image {image}"))?)
    }

    fn tree_lock(&self, image: &str, id: &str) -> Result<PathBuf> {
        Ok(self.directory(".locks")?.join(format!("{image}.{id}")))
    }

    /// A directory of the store's own. Images hold what only root may read, set-user-id programs too.
    fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.images.join(name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("making {}; is the store's disk mounted, and are you root?", path.display()))?;
        Ok(path)
    }
}

/// Device and inode of a directory; `None`: nothing is there.
pub(super) fn identity(path: &Path) -> Result<Option<String>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Some(format!("{:x}-{:x}", metadata.dev(), metadata.ino()))),
        Ok(_) => bail!("{} is no directory; move it away, images are directories", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
    }
}

/// Processes that are at home in a tree: a daemon that changed its root into it, mostly. They know
/// nothing of locks.
fn processes_in(tree: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let own = std::process::id().to_string();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let inside = |link: &str| fs::read_link(process.path().join(link)).is_ok_and(|to| to.starts_with(tree));
        // A service that reads trees without entering them holds their directory open; what this very process reads, it holds by
        // locks.
        let open = || fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let holds = || pid != own && open().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == tree));
        if inside("root") || inside("cwd") || holds() {
            found.push(pid.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let store = ImageStore::new(&config);
        (dir, store)
    }

    fn image(name: &str) -> ImageName {
        ImageName::try_from(name).unwrap()
    }

    #[test]
    fn only_images_are_listed() {
        let (_dir, store) = store();
        assert_eq!(store.names().unwrap(), vec![]);
        for name in ["web-v2", "web-v1", ".staging", "not a name"] {
            fs::create_dir_all(store.root().join(name)).unwrap();
        }
        fs::write(store.root().join("file"), "").unwrap();
        assert_eq!(store.names().unwrap(), vec![image("web-v1"), image("web-v2")]);
        let error = store.tree(&image("db")).unwrap_err().to_string();
        assert!(error.contains("there is no image db in") && error.contains("(there: web-v1, web-v2)"), "{error}");
        let error = store.exists(&image("file")).unwrap_err().to_string();
        assert!(error.contains("is no directory"), "{error}");
    }
}
