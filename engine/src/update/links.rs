//! Files of a tree that have several names, and which of those the image has as files of their own.
//!
//! A dry run says which further names are as they should be; what it says nothing of may still be a name too many here.
//! No transfer mends that by itself: contents and attributes are the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use systemimager_core::{BytePath, ChangeKind, PullReport};

/// The names of each file that has several, as far as they lie in these file systems, each with what lies on it only.
/// What cannot be read is left out: it is the transfer's to complain of.
pub fn several(target: &Path, areas: &[BytePath], left: &[BytePath]) -> Vec<Vec<BytePath>> {
    let mut found: HashMap<(u64, u64), Vec<BytePath>> = HashMap::new();
    // Patterns that say more than a path are not judged here: then a name is looked at in vain.
    let plain: BTreeSet<&[u8]> = left
        .iter()
        .map(|pattern| pattern.as_bytes().strip_suffix(b"/*").unwrap_or(pattern.as_bytes()))
        .filter(|path| !path.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\')))
        .collect();
    for area in areas {
        let top = target.join(area.as_path().strip_prefix("/").unwrap_or(area.as_path()));
        let mut walk = walkdir::WalkDir::new(&top).same_file_system(true).into_iter();
        while let Some(entry) = walk.next() {
            let Ok(entry) = entry else { continue };
            let Ok(inside) = entry.path().strip_prefix(target) else { continue };
            let path = BytePath::from("/").join(inside.as_os_str().as_bytes());
            if plain.contains(path.as_bytes()) {
                if entry.file_type().is_dir() {
                    walk.skip_current_dir();
                }
                continue;
            }
            if entry.file_type().is_dir() {
                continue;
            }
            if let Ok(metadata) = entry.metadata()
                && metadata.nlink() > 1
            {
                found.entry((metadata.dev(), metadata.ino())).or_default().push(path);
            }
        }
    }
    let mut groups: Vec<Vec<BytePath>> = found.into_values().filter(|names| names.len() > 1).collect();
    groups.iter_mut().for_each(|names| names.sort());
    groups.sort();
    groups
}

/// Those of the groups in which the image has more than one file, without names that it has not at all. One name of each
/// file of the image is its first, which no report calls a further one.
pub fn apart(groups: Vec<Vec<BytePath>>, report: &PullReport) -> Vec<Vec<BytePath>> {
    let mut further: BTreeSet<&BytePath> = report.linked.iter().collect();
    let mut gone = BTreeSet::new();
    let mut changed: BTreeMap<&BytePath, ChangeKind> = BTreeMap::new();
    for change in &report.changes {
        if change.link.is_some() {
            further.insert(&change.path);
        }
        if change.kind == ChangeKind::Deleted {
            gone.insert(&change.path);
        }
        changed.insert(&change.path, change.kind);
    }
    let mut all = Vec::new();
    for mut names in groups {
        names.retain(|name| !gone.contains(name));
        // What is moved becomes a file of its own by that.
        let stay = |name: &&BytePath| !further.contains(*name) && changed.get(*name) != Some(&ChangeKind::Content);
        if names.iter().filter(stay).count() > 1 {
            all.push(names);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::Change;

    #[test]
    fn names_of_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "single", "x"] {
            std::fs::write(at(name), name).unwrap();
        }
        for name in ["sub", "left", "left/deep"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::hard_link(at("a"), at("sub/b")).unwrap();
        std::fs::hard_link(at("a"), at("left/c")).unwrap();
        std::fs::hard_link(at("x"), at("left/deep/x")).unwrap();
        let found = several(dir.path(), &["/".into()], &["/left/*".into(), "/s*".into()]);
        assert_eq!(found, [["/a", "/sub/b"].map(BytePath::from)]);
    }

    #[test]
    fn which_are_files_of_their_own() {
        let group = |names: &[&str]| names.iter().map(|name| BytePath::from(*name)).collect::<Vec<_>>();
        let change = |path: &str, kind, link: Option<&str>| Change {
            path: path.into(),
            kind,
            link: link.map(BytePath::from),
            ..Change::default()
        };
        let three = || vec![group(&["/a", "/b", "/c"])];
        for (name, linked, changes, expected) in [
            ("as in the image", &["/b", "/c"][..], vec![], vec![]),
            ("two files in the image", &["/b"], vec![], three()),
            ("three files in the image", &[], vec![], three()),
            ("one name is gone", &["/b"], vec![change("/c", ChangeKind::Deleted, None)], vec![]),
            ("one becomes another's", &["/b"], vec![change("/c", ChangeKind::Content, Some("/x"))], vec![]),
            ("one gets contents of its own", &["/b"], vec![change("/c", ChangeKind::Content, None)], vec![]),
            ("attributes change", &["/b", "/c"], vec![change("/a", ChangeKind::Metadata, None)], vec![]),
        ] {
            let linked = group(linked);
            let report = PullReport { linked, changes, ..PullReport::default() };
            assert_eq!(apart(three(), &report), expected, "{name}");
        }
    }
}
