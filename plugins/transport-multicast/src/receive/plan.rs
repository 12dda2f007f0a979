//! What of a manifest is taken, by what was asked for. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use systemimager_core::left_out::LeftOut;
use systemimager_core::{BytePath, PullRequest};

use crate::bits::Bits;
use crate::pack::manifest::{At, Entry, Kind, Manifest};

/// What is taken of a manifest.
pub struct Plan {
    /// All there is.
    pub manifest: Arc<Manifest>,
    /// Entries that are not taken.
    skipped: HashSet<At>,
    /// Of those, the ones that have a further name that is taken: it comes in their place.
    instead: HashMap<At, At>,
    /// The same, by the directories and names of those that are not taken.
    first: HashMap<(u32, Vec<u8>), At>,
    /// Directories that are only on the way to what is taken, by their numbers.
    on_way: HashSet<u32>,
    left_out: LeftOut,
    /// What the request says.
    pub request: PullRequest,
}

fn trimmed(path: &BytePath) -> &[u8] {
    let bytes = path.as_bytes();
    let begin = bytes.iter().take_while(|byte| **byte == b'/').count();
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == b'/').count();
    bytes.get(begin..end.max(begin)).unwrap_or_default()
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
}

impl Plan {
    /// Of what was asked for.
    pub fn new(manifest: Arc<Manifest>, request: PullRequest) -> Self {
        let left_out = LeftOut::new(&request.exclude);
        let only: Option<Vec<Vec<u8>>> =
            request.only.as_ref().map(|only| only.iter().map(|path| trimmed(path).to_vec()).collect());
        let (mut skipped, mut on_way) = (HashSet::new(), HashSet::new());
        let (mut instead, mut first) = (HashMap::new(), HashMap::new());
        let mut names: HashMap<(u32, &[u8]), At> = HashMap::new();
        // Directories with nothing of them taken: no need to look at what is below.
        let mut gone: HashSet<u32> = HashSet::new();
        let mut directories = 0;
        for (at, entry) in manifest.entries() {
            let is_directory = entry.kind == Kind::Directory;
            let number = directories;
            directories += u32::from(is_directory);
            if request.exclude.is_empty() && only.is_none() {
                continue;
            }
            let is_root = entry.name.is_empty();
            if !is_root && gone.contains(&entry.parent) {
                skipped.insert(at);
                names.insert((entry.parent, entry.name), at);
                gone.extend(is_directory.then_some(number));
                continue;
            }
            let path = manifest.path(&entry);
            let asked = only.as_ref().is_none_or(|only| {
                only.iter().any(|one| if request.flat { path == *one } else { is_below(&path, one) })
            });
            let leads = || only.iter().flatten().any(|one| is_below(one, &path));
            if !is_root && left_out.has(&absolute(&path)) || !(asked || is_directory && leads()) {
                skipped.insert(at);
                names.insert((entry.parent, entry.name), at);
                gone.extend(is_directory.then_some(number));
            } else if !asked {
                on_way.insert(number);
            } else if let Kind::Link(parent, name) = entry.kind
                && let Some(of) = names.get(&(parent, name))
                && !instead.contains_key(of)
            {
                instead.insert(*of, at);
                first.insert((parent, name.to_vec()), *of);
            }
        }
        Self { manifest, skipped, instead, first, on_way, left_out, request }
    }

    /// Whether an entry is taken, or is a directory on the way to one that is.
    fn takes(&self, at: At) -> bool {
        !self.skipped.contains(&at)
    }

    /// An entry with the name by which it is taken: its own, or, if that is left out, its first further name that is not.
    pub fn placed<'a>(&'a self, at: At, entry: Entry<'a>) -> Option<Entry<'a>> {
        if self.takes(at) {
            return Some(entry);
        }
        let Entry { parent, name, .. } = self.manifest.entry(*self.instead.get(&at)?)?;
        Some(Entry { parent, name, ..entry })
    }

    /// Whether a directory is taken for itself: it becomes as the image's, and what is in it and not in the image is removed.
    pub fn takes_directory(&self, number: u32) -> bool {
        !self.on_way.contains(&number)
    }

    /// Whether what the image does not have is removed from a directory.
    pub fn clears(&self, number: u32) -> bool {
        self.request.delete && !self.request.flat && self.takes_directory(number)
    }

    /// The names that the image has in these of the directories that are [cleared](Self::clears), also of what is not taken: that stays
    /// as it is.
    pub fn names(&self, wanted: impl Fn(u32) -> bool) -> HashMap<u32, HashSet<Vec<u8>>> {
        let numbers = self.entries().filter_map(|(_, number, _)| number);
        let wanted = numbers.filter(|number| self.clears(*number) && wanted(*number));
        let mut names: HashMap<u32, HashSet<Vec<u8>>> = wanted.map(|number| (number, HashSet::new())).collect();
        for (_, entry) in self.manifest.entries().filter(|(_, entry)| !entry.name.is_empty()) {
            if let Some(names) = names.get_mut(&entry.parent) {
                names.insert(entry.name.to_vec());
            }
        }
        names
    }

    /// Whether something that the image does not have stays where the others are removed.
    pub fn spares(&self, path: &[u8]) -> bool {
        !self.request.delete_excluded && self.left_out.has(&absolute(path))
    }

    /// Blocks with something in them that is taken.
    pub fn blocks(&self) -> Bits {
        let count = self.manifest.block_count();
        let mut blocks = Bits::none(count);
        if self.skipped.is_empty() {
            return Bits::of_runs(&[(0, count)], count);
        }
        for (at, entry) in self.manifest.entries() {
            if let Kind::File { pieces, .. } = &entry.kind
                && (self.takes(at) || self.instead.contains_key(&at))
            {
                for block in pieces.iter().flat_map(|piece| self.manifest.blocks_of(piece)) {
                    blocks.insert(block);
                }
            }
        }
        blocks
    }

    /// All that is taken, each directory before what is in it, with the numbers of directories.
    pub fn entries(&self) -> impl Iterator<Item = (At, Option<u32>, Entry<'_>)> {
        let mut directories = 0;
        self.manifest.entries().filter_map(move |(at, entry)| {
            let number = (entry.kind == Kind::Directory).then_some(directories);
            directories += u32::from(number.is_some());
            self.takes(at).then(|| (at, number, self.renamed(at, entry)))
        })
    }

    /// A further name of what is left out is the thing itself, or a further name of the one that is.
    fn renamed<'a>(&'a self, at: At, entry: Entry<'a>) -> Entry<'a> {
        let Kind::Link(parent, name) = entry.kind else { return entry };
        if self.first.is_empty() {
            return entry;
        }
        let Some(of) = self.first.get(&(parent, name.to_vec())) else { return entry };
        let Some(link) = self.instead.get(of) else { return entry };
        let Entry { parent, name, .. } = entry;
        if *link == at {
            return self.manifest.entry(*of).map_or(entry, |it| Entry { parent, name, ..it });
        }
        let kind = self.manifest.entry(*link).map(|it| Kind::Link(it.parent, it.name));
        Entry { kind: kind.unwrap_or(entry.kind), ..entry }
    }
}

/// A path as requests have it.
pub fn absolute(path: &[u8]) -> BytePath {
    BytePath::new([b"/", path].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::make::make;
    use crate::tree::Dir;

    #[test]
    fn what_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["etc/a", "etc/deep/b", "etc/deep/c.bak", "var/log/x", "var/y"] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let manifest = Arc::new(make(&Dir::open(dir.path()).unwrap(), None).unwrap().manifest);
        let all =
            ["", "etc", "etc/a", "etc/deep", "etc/deep/b", "etc/deep/c.bak", "var", "var/log", "var/log/x", "var/y"];
        for (name, exclude, only, flat, expected) in [
            ("all", &[][..], None, false, all.to_vec()),
            (
                "without backups",
                &["*.bak"],
                None,
                false,
                all.iter().copied().filter(|it| !it.ends_with("bak")).collect(),
            ),
            ("no contents", &["/var/*"], None, false, [&all[..7]].concat()),
            (
                "one below",
                &[],
                Some(&["/etc/deep"][..]),
                false,
                vec!["", "etc", "etc/deep", "etc/deep/b", "etc/deep/c.bak"],
            ),
            ("one itself", &[], Some(&["/etc/deep/"]), true, vec!["", "etc", "etc/deep"]),
            ("nothing", &["/"], Some(&["/no/such"]), false, vec![""]),
        ] {
            let paths = |list: &[&str]| list.iter().map(|it| BytePath::from(*it)).collect::<Vec<_>>();
            let request =
                PullRequest { exclude: paths(exclude), only: only.map(paths), flat, ..PullRequest::default() };
            let plan = Plan::new(Arc::clone(&manifest), request);
            let taken: Vec<String> =
                plan.entries().map(|(_, _, entry)| String::from_utf8(manifest.path(&entry)).unwrap()).collect();
            assert_eq!(taken, expected, "{name}");
        }
        let only = Some(vec!["/etc/deep".into()]);
        let plan = Plan::new(manifest, PullRequest { only, delete: true, ..PullRequest::default() });
        assert!(!plan.clears(0) && !plan.clears(1) && plan.clears(2));
        assert_eq!(plan.blocks().len(), 1);
    }
}
