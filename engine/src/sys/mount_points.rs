//! Places for mounts in a tree: made where they are missing, and taken away again. What is in the tree does not change by
//! that, the times of its directories included.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::attributes::keeping_times;
use super::error::{Result, SysError};
use super::quote::quote;

/// The places that were made.
#[derive(Debug, Default)]
pub struct MountPoints(Vec<PathBuf>);

impl MountPoints {
    /// Sees to it that there is a real directory.
    ///
    /// # Errors
    /// Something else stands there, a symbolic link among others, which mounting would follow; or it cannot be made.
    pub(super) fn directory(&mut self, place: &Path) -> Result<()> {
        match fs::symlink_metadata(place) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(SysError::Refused(format!(
                "{} is not a directory (perhaps a symbolic link); nothing can be mounted there: repair the image",
                quote(place)
            ))),
            Err(error) if error.kind() == ErrorKind::NotFound => self.make(place, || fs::create_dir(place)),
            Err(error) => Err(SysError::io("looking at", place, error)),
        }
    }

    /// Sees to it that there is a regular file.
    ///
    /// # Errors
    /// As [`Self::directory`].
    pub(super) fn file(&mut self, place: &Path) -> Result<()> {
        match fs::symlink_metadata(place) {
            Ok(found) if found.is_file() => Ok(()),
            Ok(_) => Err(SysError::Refused(format!("{} is not a file; nothing can be shown there", quote(place)))),
            Err(error) if error.kind() == ErrorKind::NotFound => self
                .make(place, || fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(place).map(drop)),
            Err(error) => Err(SysError::io("looking at", place, error)),
        }
    }

    fn make(&mut self, place: &Path, make: impl FnOnce() -> io::Result<()>) -> Result<()> {
        keeping_times(place, make).map_err(|e| SysError::io("making the mount point", place, e))?;
        self.0.push(place.to_path_buf());
        Ok(())
    }

    /// Takes away what was made and is still empty; what somebody has put there since is theirs. Nothing may be mounted.
    pub fn remove(&mut self) {
        for place in self.0.drain(..).rev() {
            let removed = match fs::symlink_metadata(&place) {
                Ok(found) if found.is_dir() => keeping_times(&place, || fs::remove_dir(&place)),
                Ok(found) if found.is_file() && found.len() == 0 => keeping_times(&place, || fs::remove_file(&place)),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            match removed {
                // It lay on one of the mounts.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(place = %place.display(), %error, "a mount point that was made stays"),
                Ok(()) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_was_made_goes_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("dir")).expect("mkdir");
        fs::write(at("file"), "text").expect("written");
        std::os::unix::fs::symlink("/etc", at("link")).expect("symlink");
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(dir.path()).and_then(|dir| dir.set_modified(old)).expect("an old directory");
        let mut points = MountPoints::default();
        for (name, fine) in [("dir", true), ("new-dir", true), ("filled-dir", true), ("file", false), ("link", false)] {
            assert_eq!(points.directory(&at(name)).is_ok(), fine, "{name}");
        }
        for (name, fine) in [("file", true), ("new-file", true), ("taken", true), ("dir", false), ("link", false)] {
            assert_eq!(points.file(&at(name)).is_ok(), fine, "{name}");
        }
        let time = || fs::metadata(dir.path()).and_then(|found| found.modified()).expect("a time");
        assert_eq!(time(), old);
        fs::write(at("filled-dir/file"), "theirs").expect("written");
        fs::write(at("taken"), "theirs").expect("written");
        points.remove();
        assert_eq!(time(), old);
        for (name, there) in [
            ("dir", true),
            ("file", true),
            ("filled-dir", true),
            ("taken", true),
            ("new-dir", false),
            ("new-file", false),
        ] {
            assert_eq!(at(name).exists(), there, "{name}");
        }
        points.remove();
    }
}
