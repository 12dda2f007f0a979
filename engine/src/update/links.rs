//! Files of a tree that have several names, and which of those the image has as files of their own.
//!
//! A dry run that is asked for them says which further names are as they should be; what it says nothing of may still be
//! a name too many here. No transfer mends that by itself: contents and attributes are the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use systemimager_core::{Aspect, BytePath, Change, ChangeKind, PullReport};

use crate::tree::pattern::{LeftOut, trimmed};

/// The names of each file that has several, as far as they lie in these file systems, each with what lies on it only, and
/// are not `left` alone. What cannot be read is left out: it is the transfer's to complain of.
pub fn several(target: &Path, areas: &[BytePath], left: &[BytePath]) -> Vec<Vec<BytePath>> {
    // Patterns that say more than a path are held against the few names that are found: a walk need not know them.
    let (paths, patterns): (Vec<_>, Vec<_>) = left.iter().cloned().partition(|pattern| {
        pattern.as_bytes().starts_with(b"/") && !path_of(pattern).iter().any(|byte| b"*?[\\".contains(byte))
    });
    let plain: HashSet<&[u8]> = paths.iter().map(path_of).collect();
    let mut found = HashMap::new();
    if let Ok(top) = rustix::fs::open(target, DIRECTORY, Mode::empty()) {
        for area in areas {
            walk(&top, area, &plain, &mut found);
        }
    }
    let left = LeftOut::new(&patterns);
    let mut groups: Vec<Vec<BytePath>> = found.into_values().filter(|names| names.len() > 1).collect();
    groups.iter_mut().for_each(|names| names.retain(|name| !left.has(name)));
    groups.retain(|names| names.len() > 1);
    groups.iter_mut().for_each(|names| names.sort());
    groups.sort();
    groups
}

/// The path of a pattern that says no more than a path, or all that lies below one.
fn path_of(pattern: &BytePath) -> &[u8] {
    let path = trimmed(pattern);
    path.strip_suffix(b"/*").unwrap_or(path)
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Walks one file system. It runs beside the comparison: nothing is made of what has one name, which is nearly all.
fn walk(top: &OwnedFd, area: &BytePath, plain: &HashSet<&[u8]>, found: &mut HashMap<(u64, u64), Vec<BytePath>>) {
    let mut device = None;
    let mut waiting = vec![BytePath::new(trimmed(area))];
    while let Some(path) = waiting.pop() {
        let inside = Path::new(".").join(OsStr::from_bytes(path.as_bytes().strip_prefix(b"/").unwrap_or_default()));
        let Ok(fd) = rustix::fs::openat(top, inside, DIRECTORY, Mode::empty()) else { continue };
        let Ok(stat) = rustix::fs::fstat(&fd) else { continue };
        if *device.get_or_insert(stat.st_dev) != stat.st_dev {
            continue;
        }
        let Ok(mut dir) = Dir::new(fd) else { continue };
        while let Some(Ok(entry)) = dir.read() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Only of what may be a file there is anything to know.
            let stat = match (entry.file_type(), dir.fd()) {
                (FileType::Directory, _) => None,
                (_, Err(_)) => break,
                (_, Ok(here)) => match rustix::fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => Some(stat).filter(|it| FileType::from_raw_mode(it.st_mode) != FileType::Directory),
                    Err(_) => continue,
                },
            };
            if stat.is_some_and(|it| it.st_nlink < 2) {
                continue;
            }
            let path = BytePath::new([path.as_bytes(), b"/", name.to_bytes()].concat());
            if plain.contains(path.as_bytes()) {
                continue;
            }
            match stat {
                Some(stat) => found.entry((stat.st_dev, stat.st_ino)).or_default().push(path),
                None => waiting.push(path),
            }
        }
    }
}

/// Those of the groups in which the image has more than one file, without names that it has not at all: from the report of
/// `all`, and that of the groups' `names`. One name of each file of the image is its first, which no report calls a
/// further one.
pub fn apart(groups: &[Vec<BytePath>], all: &PullReport, names: &PullReport) -> Vec<Vec<BytePath>> {
    let relinked = all.changes.iter().chain(&names.changes).filter(|change| change.link.is_some());
    let further: BTreeSet<&BytePath> = names.linked.iter().chain(relinked.map(|change| &change.path)).collect();
    // What leads to it is no directory in the image, say.
    let mut gone: BTreeSet<&BytePath> = names.failed.iter().map(|it| &it.path).collect();
    let mut changed: BTreeMap<&BytePath, ChangeKind> = BTreeMap::new();
    for change in &all.changes {
        if change.kind == ChangeKind::Deleted {
            gone.insert(&change.path);
        }
        changed.insert(&change.path, change.kind);
    }
    let mut apart = Vec::new();
    for names in groups {
        let names: Vec<BytePath> = names.iter().filter(|name| !gone.contains(name)).cloned().collect();
        // What is moved becomes a file of its own by that.
        let stay = |name: &&BytePath| !further.contains(*name) && changed.get(*name) != Some(&ChangeKind::Content);
        if names.iter().filter(stay).count() > 1 {
            apart.push(names);
        }
    }
    apart
}

/// The other names of files that come anew for their contents alone: size and time are the same, so that nothing tells of
/// them. Where the image has one file, they become names of the new one.
pub fn beside(groups: &[Vec<BytePath>], all: &PullReport, apart: &[Vec<BytePath>]) -> Vec<Change> {
    let changed: BTreeMap<&BytePath, &Change> = all.changes.iter().map(|change| (&change.path, change)).collect();
    let apart: BTreeSet<&BytePath> = apart.iter().flatten().collect();
    let anew = |name: &&BytePath| {
        changed.get(*name).is_some_and(|change| change.kind == ChangeKind::Content && change.link.is_none())
    };
    let mut found = Vec::new();
    for names in groups.iter().filter(|names| !names.iter().any(|name| apart.contains(name))) {
        let Some(first) = names.iter().find(anew) else { continue };
        found.extend(names.iter().filter(|name| !changed.contains_key(*name)).map(|name| Change {
            path: name.clone(),
            kind: ChangeKind::Content,
            aspects: vec![Aspect::Content],
            link: Some(first.clone()),
            ..Change::default()
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::FailedPath;

    fn group(names: &[&str]) -> Vec<BytePath> {
        names.iter().map(|name| BytePath::from(*name)).collect()
    }

    fn change(path: &str, kind: ChangeKind, link: Option<&str>) -> Change {
        Change { path: path.into(), kind, link: link.map(BytePath::from), ..Change::default() }
    }

    #[test]
    fn names_of_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "single", "x", "m.o"] {
            std::fs::write(at(name), name).unwrap();
        }
        for name in ["sub", "left", "left/deep"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::hard_link(at("a"), at("sub/b")).unwrap();
        std::fs::hard_link(at("a"), at("left/c")).unwrap();
        std::fs::hard_link(at("x"), at("left/deep/x")).unwrap();
        std::fs::hard_link(at("m.o"), at("n.o")).unwrap();
        std::fs::hard_link(at("a"), at("a.o")).unwrap();
        let found = several(dir.path(), &["/".into()], &["/left/*".into(), "*.o".into()]);
        assert_eq!(found, [["/a", "/sub/b"].map(BytePath::from)]);
    }

    #[test]
    fn which_are_files_of_their_own() {
        let three = || vec![group(&["/a", "/b", "/c"])];
        for (name, linked, changes, expected) in [
            ("as in the image", &["/b", "/c"][..], vec![], vec![]),
            ("two files in the image", &["/b"], vec![], three()),
            ("three files in the image", &[], vec![], three()),
            ("one name is gone", &["/b"], vec![change("/c", ChangeKind::Deleted, None)], vec![]),
            ("one becomes another's", &["/b"], vec![change("/c", ChangeKind::Content, Some("/x"))], vec![]),
            ("one gets contents of its own", &["/b"], vec![change("/c", ChangeKind::Content, None)], vec![]),
            ("one cannot be asked for", &["/b"], vec![], vec![]),
            ("attributes change", &["/b", "/c"], vec![change("/a", ChangeKind::Metadata, None)], vec![]),
        ] {
            let failed = if name == "one cannot be asked for" { group(&["/c"]) } else { Vec::new() };
            let failed = failed.into_iter().map(|path| FailedPath { path, why: "Not a directory".into() }).collect();
            let names = PullReport { linked: group(linked), failed, ..PullReport::default() };
            let all = PullReport { changes, ..PullReport::default() };
            assert_eq!(apart(&three(), &all, &names), expected, "{name}");
        }
    }

    #[test]
    fn other_names_of_what_comes_anew() {
        let (content, metadata) = (ChangeKind::Content, ChangeKind::Metadata);
        for (name, changes, apart, expected) in [
            ("as in the image", vec![], vec![], vec![]),
            ("one is told", vec![change("/b", content, None)], vec![], vec![("/a", "/b"), ("/c", "/b")]),
            (
                "two are told",
                vec![change("/a", content, None), change("/b", content, Some("/a"))],
                vec![],
                vec![("/c", "/a")],
            ),
            ("attributes change", vec![change("/a", metadata, None)], vec![], vec![]),
            ("a name of another file", vec![change("/a", content, Some("/x"))], vec![], vec![]),
            ("they part", vec![change("/a", content, None)], vec![group(&["/a", "/c"])], vec![]),
        ] {
            let all = PullReport { changes, ..PullReport::default() };
            let found = beside(&[group(&["/a", "/b", "/c"])], &all, &apart);
            let found: Vec<_> = found.iter().map(|it| (it.path.clone(), it.link.clone().unwrap())).collect();
            let expected: Vec<_> =
                expected.into_iter().map(|(path, link)| (BytePath::from(path), BytePath::from(link))).collect();
            assert_eq!(found, expected, "{name}");
        }
    }
}
