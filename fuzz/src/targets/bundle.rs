//! The index of a bundle, as the agent fetches it.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use systemimager_initrd::bundle::BundleIndex;

use crate::seen;

pub fn target(data: &[u8]) {
    let Ok(index) = serde_json::from_slice::<BundleIndex>(data) else { return };
    index.bytes();
    let json = serde_json::to_vec(&index).expect("JSON");
    assert_eq!(serde_json::from_slice::<BundleIndex>(&json).expect("read again"), index);
    if let Err(error) = index.check() {
        return seen::one_line(&format!("{error:#}"));
    }
    let mut places: BTreeSet<PathBuf> = BTreeSet::new();
    for file in &index.files {
        let path = file.path();
        seen::inside(path);
        let joined = Path::new("/root-of-it").join(path.as_path().strip_prefix("/").expect("absolute"));
        assert!(joined.starts_with("/root-of-it") && joined != Path::new("/root-of-it"));
        assert!(joined.components().all(|part| part != Component::ParentDir));
        // By what it means, not by how it is written.
        assert!(places.insert(joined.components().collect()), "{path} twice");
    }
    for plugin in &index.plugins {
        assert!(index.files.iter().any(|file| file.path() == plugin));
    }
}
