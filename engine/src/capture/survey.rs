//! Counts what a capture will hold, and finds what it cannot hold: flags of chattr(1).

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{IFlags, OFlags};

/// Flags that an administrator sets and a capture loses; the others are the file system's own affair.
const SET_BY_PEOPLE: IFlags = IFlags::IMMUTABLE
    .union(IFlags::APPEND)
    .union(IFlags::NODUMP)
    .union(IFlags::NOATIME)
    .union(IFlags::SYNC)
    .union(IFlags::DIRSYNC)
    .union(IFlags::COMPRESSED)
    .union(IFlags::NOCOW)
    .union(IFlags::PROJECT_INHERIT);

/// How many flagged files are named.
const NAMED: usize = 5;

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Bytes on disk; a file with several names counts once.
    pub bytes: u64,
    /// Files, directories, links; each name counts, since a copy may have to make it.
    pub inodes: u64,
    /// How many files have flags.
    pub flagged: u64,
    /// Some of them, from the top of the tree.
    pub examples: Vec<PathBuf>,
    /// What could not be looked at: `PATH: why`.
    pub unseen: Vec<String>,
}

/// Walks a tree. `tick` is called now and then with the files so far; it ends the walk by an error.
///
/// # Errors
/// The top cannot be read, or `tick`'s own.
pub fn survey(top: &Path, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<Survey> {
    let mut survey = Survey::default();
    let mut linked = std::collections::HashSet::new();
    std::fs::read_dir(top).with_context(|| format!("reading {}", top.display()))?;
    for entry in walkdir::WalkDir::new(top) {
        survey.inodes += 1;
        if survey.inodes.is_multiple_of(4096) {
            tick(survey.inodes)?;
        }
        let looked = entry.and_then(|entry| entry.metadata().map(|metadata| (entry, metadata)));
        let (entry, metadata) = match looked {
            Ok(found) => found,
            Err(error) => {
                // A file may vanish under our eyes; the transfer will say what it could not read.
                let gone = error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
                if !gone && survey.unseen.len() < NAMED {
                    survey.unseen.push(error.to_string());
                }
                continue;
            }
        };
        if metadata.nlink() == 1 || metadata.is_dir() || linked.insert((metadata.dev(), metadata.ino())) {
            survey.bytes = survey.bytes.saturating_add(metadata.blocks().saturating_mul(512));
        }
        if (metadata.is_file() || metadata.is_dir()) && flagged(entry.path()) {
            survey.flagged += 1;
            if survey.examples.len() < NAMED {
                survey.examples.push(entry.path().strip_prefix(top).unwrap_or(entry.path()).to_path_buf());
            }
        }
    }
    Ok(survey)
}

/// A file system without flags has no flagged files.
fn flagged(path: &Path) -> bool {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
    let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    opened.is_ok_and(|file| rustix::fs::ioctl_getflags(&file).is_ok_and(|flags| flags.intersects(SET_BY_PEOPLE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_once_and_flags_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let file = File::open(dir.path().join("a")).unwrap();
        // nodump needs no privilege, and does not keep the test from cleaning up.
        let can_flag = rustix::fs::ioctl_setflags(&file, IFlags::NODUMP).is_ok();
        let found = survey(dir.path(), &mut |_| Ok(())).unwrap();
        assert_eq!(found.inodes, 3);
        assert!((100_000..200_000).contains(&found.bytes), "{}", found.bytes);
        if can_flag {
            assert_eq!(found.flagged, 2, "both names of the file");
            assert_eq!(found.examples.len(), 2);
        } else {
            println!("SKIPPED: counted_once_and_flags_found: this file system has no flags");
        }
        assert!(survey(&dir.path().join("absent"), &mut |_| Ok(())).is_err());
    }
}
