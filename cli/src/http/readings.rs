//! Trees that machines install from: held, so that a capture does not remove one while it is pulled.
//!
//! A machine asks for an image's facts first; from then on it is taken to read the tree, until it reports an
//! end, or too long has passed. Machines that read the same tree share one lock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use systemimager_core::ImageName;
use systemimager_engine::store::image_store::{ImageStore, Reading};

/// How long a machine may install: one that was switched off never reports its end.
const LONGEST: Duration = Duration::from_secs(2 * 60 * 60);

/// By machine and image: its tree, and since when.
type Held = BTreeMap<(IpAddr, ImageName), (Arc<Reading>, Instant)>;

/// The trees that are held.
#[derive(Debug, Default)]
pub struct Readings {
    held: Mutex<Held>,
}

impl Readings {
    /// Holds the tree that the image is now for a machine, in place of one that it had.
    ///
    /// # Errors
    /// There is no such image, or its lock cannot be had.
    pub fn hold(&self, machine: IpAddr, image: &ImageName, store: &ImageStore, now: Instant) -> Result<Arc<Reading>> {
        let current = store.identity(image)?;
        let shared = self
            .lock()
            .iter()
            .find(|((_, of), (reading, _))| of == image && Some(reading.identity()) == current.as_deref())
            .map(|(_, (reading, _))| Arc::clone(reading));
        // Outside the lock: it waits while the tree is being removed.
        let reading = match shared {
            Some(reading) => reading,
            None => Arc::new(store.read(image, "machines that install it")?),
        };
        self.lock().insert((machine.to_canonical(), image.clone()), (Arc::clone(&reading), now));
        Ok(reading)
    }

    /// A machine is at its end.
    pub fn let_go(&self, machine: IpAddr) {
        self.lock().retain(|(of, _), _| *of != machine.to_canonical());
    }

    /// Machines that were not heard of again.
    pub fn let_go_of_old(&self, now: Instant) {
        self.lock().retain(|_, (_, since)| now.saturating_duration_since(*since) < LONGEST);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Each entry is whole whenever the lock is free, also after a panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_engine::config::Config;
    use systemimager_engine::store::staging::Staging;

    fn capture(store: &ImageStore, image: &ImageName) -> Vec<String> {
        let staging = Staging::begin(store, image).unwrap();
        staging.fill().unwrap();
        staging.swap_in().unwrap()
    }

    #[test]
    fn a_tree_stays_while_machines_install_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        std::fs::create_dir_all(config.images()).unwrap();
        let (store, image) = (ImageStore::new(&config), ImageName::try_from("web").unwrap());
        capture(&store, &image);
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let (readings, start) = (Readings::default(), Instant::now());
        let of_one = readings.hold(one, &image, &store, start).unwrap().identity().to_owned();
        let of_two = readings.hold(two, &image, &store, start).unwrap().identity().to_owned();
        assert_eq!(of_one, of_two);
        assert_eq!(capture(&store, &image).len(), 1, "the old tree is held");
        assert_ne!(store.identity(&image).unwrap(), Some(of_one), "the name leads to the new one");
        readings.let_go(one);
        assert_eq!(store.sweep().unwrap().len(), 1, "by the other machine still");
        readings.let_go_of_old(start + LONGEST - Duration::from_secs(1));
        assert_eq!(store.sweep().unwrap().len(), 1);
        readings.let_go_of_old(start + LONGEST);
        assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
        // A machine that begins anew holds the tree of now alone.
        readings.hold(one, &image, &store, start).unwrap();
        assert_eq!(capture(&store, &image).len(), 1);
        readings.hold(one, &image, &store, start).unwrap();
        assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
    }
}
