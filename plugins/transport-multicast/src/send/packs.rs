//! The packs of the trees on offer: each is made once for each state of its tree, by whoever wants it first; who comes meanwhile
//! waits for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::pack::contents::{Contents, WeakContents};
use crate::pack::kept;
use crate::pack::make::{MakeError, make};
use crate::tree::Dir;

/// How often it is tried where a tree changes meanwhile.
const TRIES: usize = 3;

/// What was made last of a tree, and when that was begun.
type Last = Option<(Instant, WeakContents)>;

/// The packs, by where their trees are.
#[derive(Debug, Default)]
pub struct Packs(Mutex<HashMap<PathBuf, Arc<Mutex<Last>>>>);

impl Packs {
    /// A tree as it is now or in a moment, with its manifest.
    ///
    /// # Errors
    /// There is no such tree, it cannot be read, or it changes all the time.
    pub fn of(&self, tree: &Path) -> Result<Contents, String> {
        let asked = Instant::now();
        let one = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(tree.to_path_buf()).or_default())
        };
        let mut one = one.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((begun, contents)) = &*one
            && *begun >= asked
            && let Some(contents) = contents.upgrade()
        {
            return Ok(contents);
        }
        let mut begun = Instant::now();
        let mut last = kept::load(tree);
        let mut tries = 1;
        loop {
            let top = Dir::open(tree).map_err(|error| format!("opening {}: {error}", tree.display()))?;
            match make(&top, last.as_ref()) {
                Ok(made) => {
                    let same = last
                        .as_ref()
                        .is_some_and(|last| last.manifest.root() == made.manifest.root() && last.stamps == made.stamps);
                    if !same && let Err(error) = kept::store(tree, &made) {
                        eprintln!("the manifest of {} is not kept: {error}; it is made anew each time", tree.display());
                    }
                    // One that somebody has is the same one: so those who wait find it too.
                    let before = one.as_ref().and_then(|(_, contents)| contents.upgrade());
                    let contents = before
                        .filter(|before| before.is_of(&top) && before.manifest().root() == made.manifest.root())
                        .unwrap_or_else(|| Contents::new(top, Arc::new(made.manifest)));
                    *one = Some((begun, contents.downgrade()));
                    return Ok(contents);
                }
                // An image that was captured anew just then is whole by now.
                Err(MakeError::Changed(_)) if tries < TRIES => tries += 1,
                Err(error) => return Err(format!("{}: {error}", tree.display())),
            }
            begun = Instant::now();
            last = kept::load(tree);
        }
    }
}
