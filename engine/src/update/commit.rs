//! Moving what was laid ready into place, in one go, with a journal: a machine that is switched off in the middle has
//! some files of the one state and some of the other for as long as a few thousand renames take, and the next run goes
//! on where this one ended.
//!
//! What the machine boots by comes last, and what it booted by until then stays beside it until the boot loader knows
//! the new.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use systemimager_core::{BytePath, ChangeKind};

use super::live::{Live, Modified, Stands};
use super::stage::Area;
use super::{Machine, Prepared};
use crate::config::MACHINE_STATE as STATE;
use crate::tree::Inside;
use crate::tree::pattern::{self, is_below};

/// What is going to be moved and removed, written down before the first of it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The image that the machine is brought to.
    pub image: String,
    /// What is moved, by file system.
    pub areas: Vec<Area>,
    /// Those of it that are directories. What changes places with one is told by this from what was to come.
    pub directories: BTreeSet<BytePath>,
    /// What is removed, what lies deepest first.
    pub gone: Vec<BytePath>,
    /// The boot loader has still to hear of it.
    pub boot: bool,
}

/// Where it lies.
fn file() -> BytePath {
    BytePath::from(STATE).join("update.json")
}

impl Journal {
    /// Of an update, of which all is laid ready.
    ///
    /// # Errors
    /// What was laid ready cannot be looked at.
    pub fn of(machine: &Machine<'_>, prepared: &Prepared) -> Result<Self> {
        let removed = prepared.differences.iter().filter(|it| it.kind == ChangeKind::Deleted);
        let waits = prepared.boot_changes();
        let mut gone: Vec<BytePath> = removed.filter(|it| !(waits && it.boot)).map(|it| it.path.clone()).collect();
        gone.sort_by(|a, b| b.cmp(a));
        let mut directories = BTreeSet::new();
        for area in &prepared.areas {
            let tree = Live::open(&area.tree(&machine.target))?;
            for path in &area.paths {
                if tree.stands(path)? == Stands::Directory {
                    directories.insert(path.clone());
                }
            }
        }
        Ok(Self { image: machine.facts.name.clone(), areas: prepared.areas.clone(), directories, gone, boot: waits })
    }

    /// The one that an update left that did not end.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn left(inside: &Inside) -> Result<Option<Self>> {
        let Some(text) = inside.read(&file())? else { return Ok(None) };
        let none = || format!("{} is no journal of an update; remove it, and the update begins anew", file());
        let journal: Self = serde_json::from_slice(&text).with_context(none)?;
        let points = journal.areas.iter().map(|area| &area.at);
        let paths = journal.areas.iter().flat_map(|area| &area.paths).chain(&journal.gone);
        if !points.chain(paths).all(is_plain) {
            bail!("{}", none());
        }
        Ok(Some(journal))
    }

    /// Writes it down, for good.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, inside: &Inside) -> Result<()> {
        inside.make_directory(&STATE.into(), 0o700)?;
        inside.write(&file(), &serde_json::to_vec(self)?, 0o600)
    }

    /// The update has ended.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn close(inside: &Inside) -> Result<()> {
        inside.remove(&file())
    }
}

/// Whether a path leads from the top downwards only.
fn is_plain(path: &BytePath) -> bool {
    path.as_bytes().starts_with(b"/") && !path.as_bytes().split(|byte| *byte == b'/').any(|part| part == b"..")
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Directories that could not be removed since something of the machine's own is in them.
    pub kept: Vec<BytePath>,
    /// Directories that were to come, and that somebody else had made meanwhile.
    pub met: Vec<BytePath>,
}

/// Moves and removes all that the journal names. What was done before is left as it is, so that it can be called
/// again.
///
/// # Errors
/// What could not be moved or removed. The journal stays.
pub fn carry_out(machine: &Machine<'_>, journal: &Journal) -> Result<Moved> {
    let target = &machine.target;
    let live = Live::open(target)?;
    let trees: Vec<(&Area, Live)> = journal
        .areas
        .iter()
        // It goes when all is done.
        .filter(|area| area.tree(target).is_dir())
        .map(|area| Ok((area, Live::open(&area.tree(target))?)))
        .collect::<Result<_>>()?;
    let boot: BytePath = "/boot".into();
    let (mut moved, mut times) = (Moved::default(), Times::default());
    for last in [false, true] {
        for (area, tree) in &trees {
            let old = match last {
                true => Some(keep(machine, area)?),
                false => None,
            };
            for (number, path) in area.paths.iter().enumerate() {
                let comes = tree.stands(path)?;
                let came =
                    comes == Stands::Nothing || (comes == Stands::Directory) != journal.directories.contains(path);
                if is_below(path, &boot) != last || came {
                    continue;
                }
                let there = live.stands(path)?;
                if comes == Stands::Directory && there == Stands::Directory {
                    moved.met.push(path.clone());
                    continue;
                }
                if let (Some(old), Stands::File(_)) = (&old, there) {
                    let name = BytePath::from(format!("/{number}"));
                    if old.stands(&name)? == Stands::Nothing {
                        live.link(path, old, &name)?;
                    }
                }
                times.keep(&live, path)?;
                tree.move_to(path, &live, path)?;
            }
        }
    }
    for path in &journal.gone {
        times.keep(&live, path)?;
        if !live.remove(path)? {
            moved.kept.push(path.clone());
        }
    }
    times.give_back(&live)?;
    for (_, tree) in &trees {
        tree.write_out()?;
    }
    if !trees.iter().any(|(area, _)| area.at.as_bytes() == b"/") {
        live.write_out()?;
    }
    Ok(moved)
}

/// The times of directories in which something comes or goes: those of the image, where nothing else is said of them.
#[derive(Default)]
struct Times(BTreeMap<BytePath, Modified>);

impl Times {
    /// Remembers that of the directory of a path that is going to change.
    fn keep(&mut self, live: &Live, path: &BytePath) -> Result<()> {
        let above = pattern::parent(path);
        if !self.0.contains_key(&above)
            && let Some(time) = live.modified(&above)?
        {
            self.0.insert(above, time);
        }
        Ok(())
    }

    /// To each of the directories that are there still.
    fn give_back(&self, live: &Live) -> Result<()> {
        self.0.iter().try_for_each(|(dir, time)| live.set_modified(dir, time))
    }
}

/// The directory for files that are still booted by: LILO's map, say, names their blocks.
fn keep(machine: &Machine<'_>, area: &Area) -> Result<Live> {
    let dir = area.old(&machine.target);
    match std::fs::create_dir(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("making {}", dir.display()))
        }
        _ => Live::open(&dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    use systemimager_core::{ImageFacts, Registry, Source};

    use crate::host::{EngineHost, Secrets};
    use crate::update::Asked;

    /// A tree and, laid ready on its only file system, what is to come.
    fn laid(dir: &Path) -> Journal {
        let at = |name: &str| dir.join(name);
        let area = |name: &str| at(".systemimager-update/tree").join(name);
        for name in ["usr/lib", "lib", "boot", "gone/sub"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["usr/lib/a", "lib/old", "boot/k", "gone/sub/x", "gone/mine"] {
            fs::write(at(name), "old").unwrap();
        }
        for name in ["usr/lib", "new/deep", "boot"] {
            fs::create_dir_all(area(name)).unwrap();
        }
        for name in ["usr/lib/a", "new/deep/b", "boot/k"] {
            fs::write(area(name), "new").unwrap();
        }
        symlink("usr/lib", area("lib")).unwrap();
        let paths = ["/boot/k", "/lib", "/new", "/new/deep", "/new/deep/b", "/usr/lib/a", "/vanished"];
        Journal {
            image: "web".into(),
            areas: vec![Area { at: "/".into(), paths: paths.map(BytePath::from).to_vec() }],
            directories: ["/new", "/new/deep"].map(BytePath::from).into(),
            gone: ["/lib/old", "/gone/sub/x", "/gone/sub", "/gone"].map(BytePath::from).to_vec(),
            boot: true,
        }
    }

    fn with<T>(dir: &Path, run: impl FnOnce(&Machine<'_>) -> T) -> T {
        let (registry, host, facts) = (Registry::default(), EngineHost::new(Secrets::default()), ImageFacts::default());
        let source = Source { server: "s".into(), export: "web".into(), ..Source::default() };
        let master = crate::update::tests::master();
        run(&Machine {
            registry: &registry,
            host: &host,
            source,
            transport: "rsync".into(),
            bulk: Vec::new(),
            target: dir.to_path_buf(),
            facts: &facts,
            master: &master,
            overrides: Vec::new(),
            asked: Asked::default(),
            same_image: None,
        })
    }

    fn state(dir: &Path) -> String {
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_else(|_| "-".into());
        let link = fs::read_link(dir.join("lib")).is_ok();
        format!(
            "{} {} {} {link} {}",
            read("usr/lib/a"),
            read("new/deep/b"),
            read("boot/k"),
            dir.join("gone/sub").exists()
        )
    }

    #[test]
    fn all_comes_into_place_however_often_it_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let journal = laid(dir.path());
        with(dir.path(), |machine| {
            let inside = Inside::open(dir.path()).unwrap();
            journal.write(&inside).unwrap();
            assert_eq!(Journal::left(&inside).unwrap().as_ref(), Some(&journal));
            let times = || {
                ["", "usr/lib", "gone", "boot"].map(|name| fs::metadata(dir.path().join(name)).unwrap().mtime_nsec())
            };
            let before = times();
            for _ in 0..2 {
                assert_eq!(
                    carry_out(machine, &journal).unwrap().kept,
                    [BytePath::from("/gone")],
                    "it holds another file"
                );
                assert_eq!(state(dir.path()), "new new new true false");
                assert_eq!(times(), before, "of directories of which nothing else is said");
            }
            // What was booted by is still there, for a loader that knows files by their blocks.
            assert_eq!(fs::read(dir.path().join(".systemimager-update/old/0")).unwrap(), b"old");
            super::super::stage::clear(dir.path(), &["/".into()]).unwrap();
            assert!(!dir.path().join(".systemimager-update").exists());
            carry_out(machine, &journal).unwrap();
            Journal::close(&inside).unwrap();
            assert_eq!(Journal::left(&inside).unwrap(), None);
        });
        assert_eq!(fs::read(dir.path().join("gone/mine")).unwrap(), b"old");
    }

    #[test]
    fn a_journal_that_is_none_is_said() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("var/lib/systemimager")).unwrap();
        let up =
            r#"{"image": "x", "areas": [{"at": "/../x", "paths": []}], "directories": [], "gone": [], "boot": false}"#;
        for text in ["{\"image\": 7}", up, &up.replace("/../x", "relative"), "\0"] {
            fs::write(dir.path().join("var/lib/systemimager/update.json"), text).unwrap();
            let error = Journal::left(&Inside::open(dir.path()).unwrap()).unwrap_err().to_string();
            let says = "/var/lib/systemimager/update.json is no journal of an update; remove it";
            assert!(error.starts_with(says), "{text}: {error}");
        }
    }
}
