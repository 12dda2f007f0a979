//! Feature names, as dumpe2fs(8) prints and mke2fs(8) takes them (ext4(5), e2p's table of names).

/// What mke2fs can be told to make (`ok_features` in its source, without `journal_dev`: that is no file system).
pub const MAKEABLE: [&str; 31] = [
    "64bit",
    "bigalloc",
    "casefold",
    "dir_index",
    "dir_nlink",
    "ea_inode",
    "encrypt",
    "ext_attr",
    "extent",
    "extra_isize",
    "fast_commit",
    "filetype",
    "flex_bg",
    "has_journal",
    "huge_file",
    "inline_data",
    "large_dir",
    "large_file",
    "meta_bg",
    "metadata_csum",
    "metadata_csum_seed",
    "mmp",
    "orphan_file",
    "project",
    "quota",
    "resize_inode",
    "sparse_super",
    "sparse_super2",
    "stable_inodes",
    "uninit_bg",
    "verity",
];

/// States of a file system in use, or of one image file; a new one has none of them.
const STATES: [&str; 3] = ["needs_recovery", "orphan_present", "shared_blocks"];

/// What becomes of a feature name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// mke2fs makes it.
    Makeable,
    /// It describes a moment, not the file system.
    State,
    /// Neither: newer than this plugin, or without use since long.
    Unknown,
}

/// Sorts a name.
pub fn sort(name: &str) -> Feature {
    if MAKEABLE.contains(&name) {
        Feature::Makeable
    } else if STATES.contains(&name) {
        Feature::State
    } else {
        Feature::Unknown
    }
}
