//! Who could have written a plugin file: root alone, or it is not loaded. It must not read contents.
//!
//! Permission bits suffice: with an ACL the group bits are the mask of all that it grants (acl(5)).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::data::BytePath;
use crate::loader::error::LoadError;

/// Which inode was read, so that what is opened later is known to be the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inode {
    device: u64,
    number: u64,
    mode: u32,
    uid: u32,
}

impl From<&Metadata> for Inode {
    fn from(found: &Metadata) -> Self {
        Self { device: found.dev(), number: found.ino(), mode: found.mode(), uid: found.uid() }
    }
}

/// What part an object has in the way to the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    File,
    /// The directory that holds it: whoever may add names there may add plugins, so being sticky is not enough.
    Directory,
    /// One above: sticky suffices, since then only root renames what root owns.
    Ancestor,
}

const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

/// Others than root may write this object.
fn others_may_write(part: Part, mode: u32) -> bool {
    mode & OTHERS_WRITE != 0 && !(part == Part::Ancestor && mode & STICKY != 0)
}

/// Checks the file and every directory down to it; returns its path without symbolic links.
///
/// # Errors
/// [`LoadError::Permissions`], then [`LoadError::NotRootOwned`], then [`LoadError::SymbolicLink`];
/// `Unreadable` if it went away or was replaced.
pub(super) fn check(file: &Path, read: &Inode) -> Result<PathBuf, LoadError> {
    let unreadable = |why: String| LoadError::Unreadable { file: file.into(), why };
    let name = file.file_name().ok_or_else(|| unreadable("the path names no file".into()))?;
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = directory.canonicalize().map_err(|error| unreadable(error.to_string()))?;

    let mut objects = vec![(Part::File, file.to_owned(), read.mode, read.uid)];
    for (depth, path) in directory.ancestors().enumerate() {
        let found = path.symlink_metadata().map_err(|error| unreadable(error.to_string()))?;
        let part = if depth == 0 { Part::Directory } else { Part::Ancestor };
        objects.push((part, path.to_owned(), found.mode(), found.uid()));
    }
    for (part, path, mode, _) in &objects {
        if others_may_write(*part, *mode) {
            let object = BytePath::from(path.as_path());
            let advice = if *part == Part::Directory && mode & STICKY != 0 {
                "keep plugins in a directory that only root may write".to_owned()
            } else {
                format!("run: chmod go-w {object}")
            };
            return Err(LoadError::Permissions { file: file.into(), object, mode: mode & 0o7777, advice });
        }
    }
    for (_, path, _, uid) in &objects {
        if *uid != 0 {
            return Err(LoadError::NotRootOwned { file: file.into(), object: path.as_path().into(), uid: *uid });
        }
    }
    let path = directory.join(name);
    let found = path.symlink_metadata().map_err(|error| unreadable(error.to_string()))?;
    if found.file_type().is_symlink() {
        return Err(LoadError::SymbolicLink { file: file.into() });
    }
    if Inode::from(&found) != *read {
        return Err(unreadable("it was replaced while it was being looked at; try again".into()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_write() {
        for (name, part, mode, expected) in [
            ("plain file", Part::File, 0o100_644, false),
            ("group-writable file", Part::File, 0o100_664, true),
            ("world-writable file", Part::File, 0o100_646, true),
            ("sticky file", Part::File, 0o101_666, true),
            ("plain directory", Part::Directory, 0o040_755, false),
            ("group-writable directory", Part::Directory, 0o040_775, true),
            ("sticky directory of the file", Part::Directory, 0o041_777, true),
            ("plain ancestor", Part::Ancestor, 0o040_755, false),
            ("world-writable ancestor", Part::Ancestor, 0o040_777, true),
            ("/tmp", Part::Ancestor, 0o041_777, false),
        ] {
            assert_eq!(others_may_write(part, mode), expected, "{name}");
        }
    }
}
