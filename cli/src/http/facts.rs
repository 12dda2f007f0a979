//! What is known of images, kept while their trees are as they were: many machines ask at once, and each answer
//! is a walk through a whole tree.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use systemimager_core::{Host, ImageFacts, ImageName, Registry};
use systemimager_engine::facts::image_facts;
use systemimager_engine::store::image_store::{ImageStore, Reading};

/// How long an answer holds at most: a tree that somebody changes by hand may look the same.
const LONGEST: Duration = Duration::from_secs(60);
/// Whose times tell of most changes by hand, below the tree.
const LOOKED_AT: [&str; 7] = ["", "boot", "etc", "etc/fstab", "lib/modules", "usr/lib/modules", "usr/sbin"];
/// How often an image may be replaced under our eyes.
const TRIES: usize = 3;

/// Device, inode, and times of what is looked at; absent: it is not there.
type Print = Vec<Option<(u64, u64, i64, i64, i64, i64)>>;

/// An answer, what it was made from, and when.
struct Known {
    print: Print,
    since: Instant,
    facts: ImageFacts,
}

/// The facts of an image; locked while they are being read.
type Place = Arc<Mutex<Option<Known>>>;

/// The facts of all images.
#[derive(Default)]
pub struct Facts {
    images: Mutex<BTreeMap<ImageName, Place>>,
}

impl Facts {
    /// The facts of the image whose tree is held by `reading`. Who asks while they are being read waits for them.
    ///
    /// # Errors
    /// The tree cannot be read, or is replaced again and again.
    pub fn of(
        &self,
        image: &ImageName,
        reading: &Reading,
        store: &ImageStore,
        registry: &Registry,
        host: &dyn Host,
    ) -> Result<ImageFacts> {
        let read = || image_facts(image, reading.path(), registry, host);
        self.kept(image, store, &read)
    }

    fn kept(&self, image: &ImageName, store: &ImageStore, read: &dyn Fn() -> Result<ImageFacts>) -> Result<ImageFacts> {
        let place = {
            let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            // Only images that are there: the list is no longer than theirs.
            images.retain(|name, _| name == image || store.path(name).is_dir());
            Arc::clone(images.entry(image.clone()).or_default())
        };
        let mut known = place.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..TRIES {
            let Some(identity) = store.identity(image)? else { bail!("the image {image} was removed just now") };
            let print = print(&store.path(image));
            if let Some(known) = known
                .as_ref()
                .filter(|known| known.facts.tree == identity && known.print == print && known.since.elapsed() < LONGEST)
            {
                return Ok(known.facts.clone());
            }
            let facts = ImageFacts { tree: identity.clone(), ..read()? };
            // Read by its name, which may have gone to another tree meanwhile.
            if store.identity(image)? == Some(identity) {
                *known = Some(Known { print, since: Instant::now(), facts: facts.clone() });
                return Ok(facts);
            }
        }
        bail!("the image {image} is being replaced; try again when its capture has ended")
    }
}

fn print(tree: &Path) -> Print {
    let look = |path: &&str| {
        let metadata = tree.join(path).symlink_metadata().ok()?;
        let (dev, ino) = (metadata.dev(), metadata.ino());
        Some((dev, ino, metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()))
    };
    LOOKED_AT.iter().map(look).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use systemimager_engine::config::Config;

    fn store() -> (tempfile::TempDir, ImageStore, ImageName) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let (store, image) = (ImageStore::new(&config), ImageName::try_from("web").unwrap());
        std::fs::create_dir_all(store.path(&image).join("boot")).unwrap();
        (dir, store, image)
    }

    #[test]
    fn read_again_when_something_changed() {
        let (dir, store, image) = store();
        let (facts, count) = (Facts::default(), Cell::new(0));
        let read = || {
            count.set(count.get() + 1);
            Ok(ImageFacts::default())
        };
        let tree = store.path(&image);
        let other = dir.path().join("other");
        type Change<'a> = (&'a str, usize, Box<dyn Fn() + 'a>);
        let changes: [Change<'_>; 4] = [
            ("the first", 1, Box::new(|| {})),
            ("the same", 1, Box::new(|| {})),
            ("a kernel more", 2, Box::new(|| std::fs::write(tree.join("boot/vmlinuz-1"), "").unwrap())),
            (
                "another tree",
                3,
                Box::new(|| {
                    std::fs::rename(&tree, &other).unwrap();
                    std::fs::create_dir(&tree).unwrap();
                }),
            ),
        ];
        for (name, times, change) in changes {
            change();
            let found = facts.kept(&image, &store, &read).unwrap();
            assert_eq!(count.get(), times, "{name}");
            assert_eq!(Some(found.tree), store.identity(&image).unwrap(), "{name}");
        }
    }

    #[test]
    fn of_one_tree_or_none() {
        let (dir, store, image) = store();
        let count = Cell::new(0);
        let replaced = |until: usize| {
            let (tree, dir, count, store, image) = (store.path(&image), dir.path(), &count, &store, &image);
            move || {
                let was = store.identity(image)?.unwrap_or_default();
                count.set(count.get() + 1);
                if count.get() <= until {
                    std::fs::rename(&tree, dir.join(count.get().to_string()))?;
                    std::fs::create_dir(&tree)?;
                }
                Ok(ImageFacts { arch: was, ..ImageFacts::default() })
            }
        };
        let found = Facts::default().kept(&image, &store, &replaced(2)).unwrap();
        assert_eq!((count.get(), &found.arch), (3, &found.tree), "read until it stayed");
        let error = Facts::default().kept(&image, &store, &replaced(99)).unwrap_err().to_string();
        assert!(error.starts_with("the image web is being replaced"), "{error}");
    }

    #[test]
    fn who_asks_at_once_waits_for_one_answer() {
        let (_dir, store, image) = store();
        let (facts, count) = (Facts::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let read = || {
                        count.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(50));
                        Ok(ImageFacts::default())
                    };
                    facts.kept(&image, &store, &read).unwrap();
                });
            }
        });
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
