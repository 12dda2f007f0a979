//! A new revision begins as the old one: what stays is the old tree's own files under second names, so that neither
//! the network nor the store's disk carries what does not change.
//!
//! Why nothing of the old tree can change by it: only what a transport found to be different is pulled, and nothing
//! else is touched ([`PullRequest::flat`]) but directories, which are never shared; whatever is pulled has been
//! copied before, or is not there. Files with several names are pulled too, and begin with one of them: the
//! transfer makes the names that the source has now.
//!
//! The two trees share files until the old one goes, which it does as soon as nobody reads it: images share none.
//! What still another tree shares, one that was replaced earlier and is still read, is copied.
//!
//! [`PullRequest::flat`]: systemimager_core::PullRequest::flat

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use systemimager_core::{BytePath, Change, ChangeKind};

use crate::sys::{Cmd, Tool, attributes};

/// Most bytes of names that one run of cp(1) gets.
const NAMES: usize = 64 << 10;

/// What differs between the old tree and the source.
#[derive(Debug, Default)]
pub struct Differences {
    gone: HashSet<BytePath>,
    other: BTreeSet<BytePath>,
}

impl Differences {
    /// Of what a transport's dry run into the old tree found.
    pub fn new(changes: Vec<Change>) -> Self {
        let mut found = Self::default();
        for change in changes {
            // A file that gets a further name is not changed by that; both names have to be pulled together.
            found.other.extend(change.link);
            match change.kind {
                ChangeKind::Deleted => found.gone.insert(change.path),
                _ => found.other.insert(change.path),
            };
        }
        found
    }

    /// How many paths are gone from the source.
    pub fn gone(&self) -> usize {
        self.gone.len()
    }
}

/// Makes the tree `new` of what stays of `old`. Returns what is to be pulled, sorted.
///
/// # Errors
/// The store cannot be written, or a name of the old tree cannot be read.
pub fn begin(old: &Path, new: &Path, differences: Differences) -> Result<Vec<BytePath>> {
    let Differences { gone, other: mut pulled } = differences;
    let (mut copied, mut directories) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut walk = walkdir::WalkDir::new(old).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.with_context(|| format!("walking {}", old.display()))?;
        let inside = entry.path().strip_prefix(old).unwrap_or(entry.path());
        let path = BytePath::from("/").join(inside.as_os_str().as_bytes());
        let is_dir = entry.file_type().is_dir();
        if gone.contains(&path) {
            if is_dir {
                walk.skip_current_dir();
            }
            continue;
        }
        let to = new.join(inside);
        if is_dir {
            fs::DirBuilder::new().mode(0o700).create(&to).with_context(|| format!("making {}", to.display()))?;
            directories.push((entry.into_path(), to));
            continue;
        }
        let metadata = entry.metadata().with_context(|| format!("looking at {}", entry.path().display()))?;
        if metadata.nlink() > 1 {
            pulled.insert(path);
            if seen.insert(metadata.ino()) {
                copied.push(inside.to_owned());
            }
        } else if pulled.contains(&path) {
            copied.push(inside.to_owned());
        } else if let Err(error) = fs::hard_link(entry.path(), &to) {
            // Immutable, or one that has as many names as the file system knows.
            if !matches!(error.raw_os_error(), Some(libc::EPERM | libc::EMLINK)) {
                return Err(error).with_context(|| format!("linking {} to {}", entry.path().display(), to.display()));
            }
            pulled.insert(path);
            copied.push(inside.to_owned());
        }
    }
    copy(old, new, &copied).with_context(|| format!("copying what changes of {}", old.display()))?;
    // Last, since what is made in a directory changes its time.
    for (from, to) in directories {
        (|| attributes::alike(&fs::File::open(&from)?, &fs::File::open(&to)?))()
            .with_context(|| format!("giving {} the attributes of {}", to.display(), from.display()))?;
    }
    Ok(pulled.into_iter().collect())
}

/// Copies these files of `old`, which no link leads to: they come from a walk.
fn copy(old: &Path, new: &Path, mut names: &[PathBuf]) -> Result<()> {
    while !names.is_empty() {
        let mut bytes = 0;
        let many = names.iter().take_while(|name| {
            bytes += name.as_os_str().len() + 1;
            bytes <= NAMES
        });
        let (now, later) = names.split_at(many.count().max(1));
        Cmd::tool(Tool::Cp)
            .args(["--archive", "--reflink=auto", "--sparse=auto", "--parents", "--"])
            .args(now)
            .arg(new)
            .dir(old)
            .run()?;
        names = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn change(path: &str, kind: ChangeKind, link: Option<&str>) -> Change {
        Change { path: path.into(), kind, link: link.map(BytePath::from), ..Change::default() }
    }

    #[test]
    fn what_stays_is_shared_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir_all(old.join("a/b")).unwrap();
        fs::create_dir(old.join("gone")).unwrap();
        for name in ["same", "a/edited", "a/b/same", "a/b/gone", "gone/inside", "two", "joined"] {
            fs::write(old.join(name), name).unwrap();
        }
        fs::hard_link(old.join("two"), old.join("a/two")).unwrap();
        symlink("/etc", old.join("etc")).unwrap();
        let differences = Differences::new(vec![
            change("/a/edited", ChangeKind::Content, None),
            change("/a/b/gone", ChangeKind::Deleted, None),
            change("/gone", ChangeKind::Deleted, None),
            change("/gone/inside", ChangeKind::Deleted, None),
            change("/a/new", ChangeKind::Created, Some("/joined")),
            // Through a link of the old tree: not followed.
            change("/etc/passwd", ChangeKind::Created, None),
        ]);
        assert_eq!(differences.gone(), 3);
        let pulled = begin(&old, &new, differences).unwrap();
        let expected = ["/a/edited", "/a/new", "/a/two", "/etc/passwd", "/joined", "/two"].map(BytePath::from);
        assert_eq!(pulled, expected);
        let inode = |root: &Path, name: &str| fs::symlink_metadata(root.join(name)).ok().map(|found| found.ino());
        let mut there = Vec::new();
        for entry in walkdir::WalkDir::new(&new).min_depth(1).sort_by_file_name() {
            there.push(entry.unwrap().path().strip_prefix(&new).unwrap().display().to_string());
        }
        // One name of the file with two.
        assert_eq!(there, ["a", "a/b", "a/b/same", "a/edited", "a/two", "etc", "joined", "same"]);
        for (name, shared) in
            [("same", true), ("a/b/same", true), ("etc", true), ("a/edited", false), ("joined", false)]
        {
            assert_eq!(inode(&old, name) == inode(&new, name), shared, "{name}");
        }
        assert_ne!(inode(&old, "two"), inode(&new, "a/two"));
        let attributes = |root: &Path| {
            let found = fs::metadata(root.join("a")).unwrap();
            (found.mode(), found.uid(), found.mtime(), found.mtime_nsec())
        };
        assert_eq!(attributes(&old), attributes(&new));
    }

    #[test]
    fn what_a_third_tree_shares_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir(&old).unwrap();
        fs::write(old.join("file"), "text").unwrap();
        fs::hard_link(old.join("file"), dir.path().join("elsewhere")).unwrap();
        assert_eq!(begin(&old, &new, Differences::default()).unwrap(), [BytePath::from("/file")]);
        assert_ne!(fs::metadata(old.join("file")).unwrap().ino(), fs::metadata(new.join("file")).unwrap().ino());
    }

    #[test]
    fn many_names_are_copied_in_several_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir(&old).unwrap();
        let names: Vec<String> = (0..1000).map(|n| format!("-{n:0>200}")).collect();
        for name in &names {
            fs::write(old.join(name), name).unwrap();
        }
        let changes = names.iter().map(|name| change(&format!("/{name}"), ChangeKind::Metadata, None)).collect();
        assert_eq!(begin(&old, &new, Differences::new(changes)).unwrap().len(), 1000);
        assert_eq!(fs::read_dir(&new).unwrap().count(), 1000);
    }
}
