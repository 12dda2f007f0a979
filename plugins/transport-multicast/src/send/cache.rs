//! Blocks ready to be sent, as many as a bounded memory holds: read, verified and compressed once for all who want them, and
//! ahead of the time at which they are wanted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::block::Encoded;
use crate::pack::contents::{Contents, ContentsError};

/// Threads that read ahead: compression takes longer than reading.
const LOADERS: usize = 2;

#[derive(Default)]
struct State {
    held: HashMap<u32, (Arc<Encoded>, u64)>,
    bytes: usize,
    clock: u64,
    loading: HashSet<u32>,
    ahead: VecDeque<u32>,
    closed: bool,
}

/// The blocks of one session.
pub struct Cache {
    contents: Contents,
    symbol_size: u16,
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// Something is lost on the way: symbols of repair will be wanted too.
    lossy: AtomicBool,
}

impl Cache {
    /// Of a pack's contents, with at most so many bytes held.
    pub fn new(contents: Contents, symbol_size: u16, most: usize) -> Arc<Self> {
        let cache = Self {
            contents,
            symbol_size,
            most,
            state: Mutex::default(),
            changed: Condvar::new(),
            lossy: AtomicBool::new(false),
        };
        let cache = Arc::new(cache);
        for _ in 0..LOADERS {
            let mine = Arc::clone(&cache);
            std::thread::spawn(move || mine.load_ahead());
        }
        cache
    }

    /// The contents.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block, at once if it is there.
    ///
    /// # Errors
    /// The image was edited, or cannot be read.
    pub fn get(&self, number: u32) -> Result<Arc<Encoded>, ContentsError> {
        let mut state = self.lock();
        loop {
            state.clock += 1;
            let clock = state.clock;
            if let Some((block, used)) = state.held.get_mut(&number) {
                *used = clock;
                return Ok(Arc::clone(block));
            }
            if state.loading.insert(number) {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.load(number)
    }

    /// These will be wanted soon, in this order, and no others.
    pub fn ahead(&self, numbers: &[u32]) {
        let mut state = self.lock();
        let new: VecDeque<u32> = numbers
            .iter()
            .copied()
            .filter(|number| !state.held.contains_key(number) && !state.loading.contains(number))
            .collect();
        if new.is_empty() {
            return;
        }
        state.ahead = new;
        drop(state);
        self.changed.notify_all();
    }

    /// From now on symbols of repair are made ahead too.
    pub fn expect_repair(&self) {
        self.lossy.store(true, Ordering::Relaxed);
    }

    /// Nothing is wanted any more.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.held.clear();
        state.bytes = 0;
        drop(state);
        self.changed.notify_all();
    }

    fn load_ahead(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some(number) = state.ahead.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if !state.held.contains_key(&number) && state.loading.insert(number) {
                drop(state);
                // Whoever wants it hears of what is wrong with it.
                let loaded = self.load(number);
                if let Ok(block) = loaded
                    && self.lossy.load(Ordering::Relaxed)
                {
                    block.prepare_repair();
                }
                state = self.lock();
            }
        }
    }

    /// Loads one that was marked as being loaded.
    fn load(&self, number: u32) -> Result<Arc<Encoded>, ContentsError> {
        let loaded = self.contents.block(number).map(|plain| Arc::new(Encoded::new(plain, self.symbol_size)));
        let mut state = self.lock();
        state.loading.remove(&number);
        if let Ok(block) = &loaded {
            state.bytes += block.size();
            let clock = state.clock;
            state.held.insert(number, (Arc::clone(block), clock));
            while state.bytes > self.most && state.held.len() > 1 {
                let oldest = state.held.iter().min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
                let Some((gone, _)) = oldest.and_then(|number| state.held.remove(&number)) else { break };
                state.bytes = state.bytes.saturating_sub(gone.size());
            }
        }
        drop(state);
        self.changed.notify_all();
        loaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::make::{BLOCK_SIZE, make};
    use crate::tree::Dir;
    use std::fs;

    fn cache(tree: &std::path::Path, most: usize) -> Arc<Cache> {
        let kept = make(&Dir::open(tree).unwrap(), None).unwrap();
        Cache::new(Contents::new(Dir::open(tree).unwrap(), Arc::new(kept.manifest)), 1436, most)
    }

    #[test]
    fn memory_is_bounded_and_edits_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; BLOCK_SIZE as usize * 8];
        getrandom::fill(&mut bytes).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, &bytes).unwrap();
        let cache = cache(dir.path(), BLOCK_SIZE as usize * 3);
        cache.ahead(&[0, 1, 2, 3]);
        for number in 0..8 {
            let at = number as usize * BLOCK_SIZE as usize;
            assert_eq!(cache.get(number).unwrap().wire(), &bytes[at..at + BLOCK_SIZE as usize]);
        }
        assert!(cache.lock().bytes <= BLOCK_SIZE as usize * 3 + (1 << 16));
        bytes[1] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert!(matches!(cache.get(0), Err(ContentsError::Edited(path)) if path == b"file"));
        assert!(cache.get(7).is_ok(), "it is held, and was right when it was read");
        cache.close();
    }
}
