//! Laying ready all that is new, in a directory of its own on each file system: nothing of the machine changes by it,
//! and a machine that is switched off meanwhile starts as it was.
//!
//! What changes begins as a further name of the file that is there, so that only differences move. A transfer puts a
//! new file in the place of a name and leaves the file itself alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use systemimager_core::{BytePath, PullReport, PullRequest, Size};

use super::difference::Difference;
use super::live::{Live, Stands};
use super::local::AREA;
use super::{Machine, Prepared, over};
use crate::sys::attributes::keeping_times;
use crate::sys::{holes, remove, statfs};
use crate::tree::pattern::{any_below, is_below};

/// How long an update waits for a server that is away, before anything changed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How things stand where something fails.
const UNCHANGED: &str = "nothing was changed yet; what has come is kept beside the system, and is not pulled again when \
                         the update is started anew";
/// Where a file is larger than this, bytes, all come with their holes: to write zeroes only to take them out again would
/// take longer than to find them as they come.
const DENSE_MAX: u64 = 16 << 20;
/// From so many bytes on the transports are asked that bring much at once.
const BULK: u64 = 4 << 20;
/// Room that is left free on each file system, bytes: what is written meanwhile by others, and what names take.
const SPARE: u64 = 16 << 20;

/// What is laid ready on one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// Its mount point, from the target's top.
    pub at: BytePath,
    /// What is to be moved into place, sorted.
    pub paths: Vec<BytePath>,
}

impl Area {
    /// The directory in which all of the file system's lies.
    pub fn dir(&self, target: &Path) -> PathBuf {
        below(target, &self.at).join(AREA)
    }

    /// The tree in it: paths are those of the target.
    pub fn tree(&self, target: &Path) -> PathBuf {
        self.dir(target).join("tree")
    }

    /// Where files wait that are still booted by.
    pub fn old(&self, target: &Path) -> PathBuf {
        self.dir(target).join("old")
    }
}

/// A path of the tree, on this machine.
pub fn below(target: &Path, path: &BytePath) -> PathBuf {
    target.join(path.as_path().strip_prefix("/").unwrap_or(path.as_path()))
}

/// What has to be laid ready, by file system. Pure.
pub fn areas(differences: &[Difference], apart: &[Vec<BytePath>], points: &[BytePath]) -> Vec<Area> {
    let mut paths: BTreeSet<&BytePath> = apart.iter().flatten().collect();
    for it in differences.iter().filter(|it| it.moves()) {
        paths.insert(&it.path);
        // A transfer makes a further name only of what it knows too.
        paths.extend(&it.link);
    }
    let mut by_point: BTreeMap<&BytePath, Vec<BytePath>> = BTreeMap::new();
    for path in paths {
        let point = points.iter().filter(|point| is_below(path, point)).max_by_key(|point| point.as_bytes().len());
        // The top itself never moves, and neither does a mount point.
        if let Some(point) = point.filter(|point| *point != path) {
            by_point.entry(point).or_default().push(path.clone());
        }
    }
    by_point.into_iter().map(|(at, paths)| Area { at: at.clone(), paths }).collect()
}

/// Whether there is room for it, told before anything is written.
///
/// # Errors
/// Each file system that has not enough, with figures.
pub fn room(machine: &Machine<'_>, prepared: &Prepared) -> Result<()> {
    let sizes: BTreeMap<&BytePath, u64> =
        prepared.differences.iter().filter_map(|it| Some((&it.path, it.bytes?))).collect();
    let mut lacking = Vec::new();
    for area in &prepared.areas {
        let laid = Live::open(&area.tree(&machine.target)).ok();
        let is_laid = |path: &BytePath, size| {
            laid.as_ref().is_some_and(|tree| matches!(tree.stands(path), Ok(Stands::File(is)) if is == size))
        };
        let wanted: u64 = area
            .paths
            .iter()
            .filter_map(|path| Some((path, *sizes.get(path)?)))
            .filter(|(path, size)| !is_laid(path, *size))
            .map(|(_, size)| size)
            .sum();
        let free = statfs::space(&below(&machine.target, &area.at))?.free_bytes;
        if wanted.saturating_add(SPARE) > free {
            lacking.push(format!(
                "{} has {} free, and the update needs {} there",
                area.at,
                Size(free),
                Size(wanted.saturating_add(SPARE))
            ));
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    bail!(
        "{}: what is new lies beside what is there until all of it has come. Make room and start again, or give \
         --in-place: then files are replaced one by one as they come, and a machine that is switched off meanwhile may not \
         start. Nothing was changed",
        lacking.join("; ")
    )
}

/// Lays it ready and has it written out.
///
/// # Errors
/// What could not be pulled or written. The machine is as it was; what has come stays, and is not pulled again.
pub fn lay(machine: &Machine<'_>, prepared: &Prepared) -> Result<PullReport> {
    let mut all = PullReport::default();
    for area in &prepared.areas {
        begin(machine, prepared, area).with_context(|| format!("preparing {}", area.dir(&machine.target).display()))?;
        let top = area.tree(&machine.target);
        let dense = may_be_dense(prepared, area) && holes::can_be_made(&top);
        let asked = |only: Vec<BytePath>, whole: PullRequest| PullRequest {
            into: top.as_path().into(),
            only: Some(only),
            flat: true,
            delete: true,
            dense,
            // What begins as what is there has its size and time.
            checksum: machine.asked.checksum,
            ..whole
        };
        let (of_image, of_layers) = prepared.by_source(&area.paths);
        let mut reports = Vec::new();
        if !of_image.is_empty() {
            let large = bytes(prepared, &of_image) >= BULK;
            let request = asked(of_image, prepared.whole(machine));
            if large {
                all.received += machine.bring(&PullRequest { delete: false, ..request.clone() });
            }
            reports.push(machine.pull(&request, PATIENCE).context(UNCHANGED)?);
        }
        for (layer, only) in of_layers {
            reports.push(machine.wire().bring(layer, asked(only, over(machine))).context(UNCHANGED)?);
        }
        let tree = Live::open(&top)?;
        if dense {
            area.paths.iter().try_for_each(|path| tree.make_holes(path)).context(UNCHANGED)?;
        }
        tree.write_out()?;
        for report in reports {
            all.received += report.received;
            all.transferred += report.transferred;
        }
    }
    Ok(all)
}

/// How much of these paths is new or other in the image, bytes. Pure.
fn bytes(prepared: &Prepared, paths: &[BytePath]) -> u64 {
    let moves = prepared.differences.iter().filter(|it| it.moves());
    moves.filter(|it| paths.binary_search(&it.path).is_ok()).filter_map(|it| it.bytes).sum()
}

/// Whether no file of it is so large that holes in it are better kept than made again. Pure.
fn may_be_dense(prepared: &Prepared, area: &Area) -> bool {
    let large = prepared.differences.iter().filter(|it| it.bytes.is_some_and(|bytes| bytes > DENSE_MAX));
    // Of names that part, sizes are not known.
    prepared.apart.is_empty() && !large.map(|it| &it.path).any(|path| area.paths.binary_search(path).is_ok())
}

/// The directory, with what changes under its old contents.
fn begin(machine: &Machine<'_>, prepared: &Prepared, area: &Area) -> Result<()> {
    let target = &machine.target;
    let begun_before = area.tree(target).is_dir();
    keeping_times(&area.dir(target), || make(&area.dir(target)))?;
    make(&area.tree(target))?;
    let (live, tree) = (Live::open(target)?, Live::open(&area.tree(target))?);
    prune(&area.tree(target), &tree, &area.paths)?;
    if begun_before {
        let come: BTreeSet<&BytePath> =
            prepared.differences.iter().filter(|it| it.moves() && it.link.is_none()).map(|it| &it.path).collect();
        area.paths.iter().try_for_each(|path| tree.distrust(path, come.contains(path)))?;
    }
    // One name of a file whose names part is enough: the transfer makes the others.
    let mut later: BTreeSet<&BytePath> = prepared.apart.iter().flat_map(|names| names.iter().skip(1)).collect();
    later.extend(prepared.differences.iter().filter(|it| it.link.is_some()).map(|it| &it.path));
    for path in area.paths.iter().filter(|path| !later.contains(path)) {
        if matches!(live.stands(path)?, Stands::File(_)) && tree.stands(path)? == Stands::Nothing {
            tree.make_parents(path)?;
            live.link(path, &tree, path)?;
        }
    }
    Ok(())
}

/// A directory for root alone.
fn make(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = std::fs::symlink_metadata(dir)?;
            if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
                bail!("{} is not a directory of this program's; remove it", dir.display());
            }
            Ok(())
        }
        done => Ok(done?),
    }
}

/// What lies there and is not to be moved goes: of an attempt to another image, or a file of a transfer that was cut off,
/// which would come along with a new directory.
fn prune(top: &Path, tree: &Live, sorted: &[BytePath]) -> Result<()> {
    let mut walk = walkdir::WalkDir::new(top).min_depth(1).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.with_context(|| format!("looking at what was laid ready in {}", top.display()))?;
        let inside = entry.path().strip_prefix(top).unwrap_or(entry.path());
        let path = BytePath::from(Path::new("/").join(inside));
        if sorted.binary_search(&path).is_ok() || any_below(sorted, &path) {
            continue;
        }
        if entry.file_type().is_dir() {
            walk.skip_current_dir();
            remove::remove_tree(entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
        } else {
            tree.remove(&path)?;
        }
    }
    Ok(())
}

/// Takes away what was laid ready or is left of it.
///
/// # Errors
/// It cannot be removed.
pub fn clear(target: &Path, points: &[BytePath]) -> Result<()> {
    for at in points {
        let dir = below(target, at).join(AREA);
        if std::fs::symlink_metadata(&dir).is_err() {
            continue;
        }
        let remove = || remove::remove_tree(&dir).map_err(anyhow::Error::from);
        keeping_times(&dir, remove).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::ChangeKind;

    #[test]
    fn what_is_not_to_be_moved_goes() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["new/kept", "new/.kept.K2g3Qb", "other/a/b", "file", "deep/er/x", "deep/y", "new.x/z"] {
            let file = dir.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let paths = ["/absent", "/deep/er/x", "/new", "/new/kept"].map(BytePath::from);
        prune(dir.path(), &Live::open(dir.path()).unwrap(), &paths).unwrap();
        let mut left: Vec<_> = walkdir::WalkDir::new(dir.path())
            .into_iter()
            .flatten()
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| entry.path().strip_prefix(dir.path()).unwrap().display().to_string())
            .collect();
        left.sort();
        assert_eq!(left, ["deep/er/x", "new/kept"]);
        assert!(!dir.path().join("other").exists() && !dir.path().join("new.x").exists());
    }

    #[test]
    fn each_file_system_has_its_own() {
        let moved = |path: &str, kind, link: Option<&str>| Difference {
            path: path.into(),
            kind,
            aspects: vec![],
            link: link.map(BytePath::from),
            bytes: None,
            boot: false,
        };
        let differences = [
            moved("/", ChangeKind::Metadata, None),
            moved("/a", ChangeKind::Created, None),
            moved("/b", ChangeKind::Metadata, None),
            moved("/boot", ChangeKind::Created, None),
            moved("/boot/k", ChangeKind::Content, None),
            moved("/bootx", ChangeKind::Created, Some("/c")),
            moved("/gone", ChangeKind::Deleted, None),
        ];
        let apart = [vec![BytePath::from("/p"), "/q".into()]];
        let areas = areas(&differences, &apart, &["/".into(), "/boot".into()]);
        let shown: Vec<(String, Vec<String>)> = areas
            .iter()
            .map(|area| (area.at.to_string(), area.paths.iter().map(ToString::to_string).collect()))
            .collect();
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            shown,
            [
                ("/".to_owned(), strings(&["/a", "/bootx", "/c", "/p", "/q"])),
                ("/boot".to_owned(), strings(&["/boot/k"]))
            ]
        );
    }
}
