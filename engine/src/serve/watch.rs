//! Whether what the server's configuration is made from has changed: masters, host links, hosts, MACs, images,
//! overrides.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::config::Config;
use crate::store::{macs, serials};

/// Looks at names, sizes, inodes and times of all of it, at no contents. Another number means: something changed.
/// What cannot be looked at counts as absent; whoever reads it then says why.
pub fn fingerprint(config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (dir, trees) in [(config.masters(), false), (config.images(), true), (config.overrides(), true)] {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        for name in names {
            let path = dir.join(&name);
            // An image that is captured lies in a directory whose name begins with a dot, and does not concern us yet.
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            name.hash(&mut hasher);
            look(&path, trees, &mut hasher);
        }
    }
    look(&macs::file(config), false, &mut hasher);
    look(&serials::file(config), false, &mut hasher);
    hasher.finish()
}

fn look(path: &Path, tree: bool, hasher: &mut DefaultHasher) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    metadata.ino().hash(hasher);
    // The top directory of an image or an override changes its times with every file made in it: only another tree matters.
    if !tree {
        (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let (masters, web) = (config.masters(), config.images().join("web"));
        type Change<'a> = (&'a str, bool, Box<dyn Fn() + 'a>);
        let changes: [Change<'_>; 8] = [
            ("directories", false, Box::new(|| std::fs::create_dir_all(&masters).unwrap())),
            ("a master", true, Box::new(|| std::fs::write(masters.join("web.master"), "a").unwrap())),
            ("other contents", true, Box::new(|| std::fs::write(masters.join("web.master"), "bc").unwrap())),
            ("a link", true, Box::new(|| std::os::unix::fs::symlink("web.master", masters.join("www1.sh")).unwrap())),
            ("an image", true, Box::new(|| std::fs::create_dir_all(&web).unwrap())),
            ("a file in an image", false, Box::new(|| std::fs::write(web.join("file"), "").unwrap())),
            (
                "a capture that is going on",
                false,
                Box::new(|| std::fs::create_dir(config.images().join(".staging")).unwrap()),
            ),
            ("nothing", false, Box::new(|| {})),
        ];
        let mut before = fingerprint(&config);
        for (name, changed, change) in changes {
            change();
            let after = fingerprint(&config);
            assert_eq!(before != after, changed, "{name}");
            before = after;
        }
    }
}
