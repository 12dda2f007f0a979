//! Changing files and directories so that everyone sees the old or the new, never a mixture; also
//! after a power cut.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::error::{Result, SysError};
use super::quote::quote;

/// Replaces a file's contents. A symbolic link at `path` is itself replaced, not what it leads to:
/// that is how a host's own master file takes the place of its link.
///
/// # Errors
/// The directory is not there, or cannot be written; the old file is whole then.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace_with(path, bytes, mode, File::sync_all)?;
    sync_dir(parent(path)?)
}

/// The same, for what may be lost in a power cut: it is not written out at once, which costs a disk much where
/// it comes often. After a power cut the file may be the old one, the new one, or damaged.
///
/// # Errors
/// As [`write`].
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace_with(path, bytes, mode, |_| Ok(()))
}

fn replace_with(path: &Path, bytes: &[u8], mode: u32, sync: fn(&File) -> std::io::Result<()>) -> Result<()> {
    let io = |e| SysError::io("writing", path, e);
    let dir = parent(path)?;
    let mut file = tempfile::Builder::new()
        .prefix(".systemimager-")
        .permissions(Permissions::from_mode(0o600)) // until it is whole
        .tempfile_in(dir)
        .map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.as_file().set_permissions(Permissions::from_mode(mode & 0o7777)).map_err(io)?;
    sync(file.as_file()).map_err(io)?;
    file.persist(path).map(drop).map_err(|e| io(e.error))
}

/// Exchanges two files or directories on one file system; both must exist.
///
/// Where the file system cannot do that in one step (some network ones), three renames do it, and
/// for a moment `a` is absent; a failure in the middle is undone.
///
/// # Errors
/// One of them is absent, or they lie on different file systems.
pub fn exchange(a: &Path, b: &Path) -> Result<()> {
    let io = |e| SysError::io(format!("exchanging {} with", quote(a)), b, e);
    match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => exchange_in_steps(a, b).map_err(io)?,
        Err(error) => return Err(io(error.into())),
    }
    sync_dir(parent(a)?)?;
    sync_dir(parent(b)?)
}

fn exchange_in_steps(a: &Path, b: &Path) -> std::io::Result<()> {
    b.symlink_metadata()?;
    let dir = a.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // An empty directory reserves a name; it goes again when the exchange is done.
    let place = tempfile::Builder::new().prefix(".systemimager-").tempdir_in(dir)?;
    let aside = place.path().join("aside");
    std::fs::rename(a, &aside)?;
    if let Err(error) = std::fs::rename(b, a) {
        std::fs::rename(&aside, a)?;
        return Err(error);
    }
    if let Err(error) = std::fs::rename(&aside, b) {
        std::fs::rename(a, b)?;
        std::fs::rename(&aside, a)?;
        return Err(error);
    }
    Ok(())
}

/// Makes a directory's own entries (names made, renamed, removed) safe on disk.
///
/// # Errors
/// The directory cannot be opened or written out.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| SysError::io("writing out the directory", dir, e))
}

fn parent(path: &Path) -> Result<&Path> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(dir) => Ok(dir),
        None => Err(SysError::Refused(format!("{} cannot be replaced", quote(path)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_are_replaced_whole() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("web.master");
        for (contents, mode) in [("one", 0o644), ("two", 0o600)] {
            let way = if contents == "one" { write } else { replace };
            way(&path, contents.as_bytes(), mode).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), contents);
            assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, mode);
        }
        let link = dir.path().join("www3.sh");
        symlink("web.master", &link).expect("symlink");
        write(&link, b"own", 0o644).expect("written");
        assert!(fs::symlink_metadata(&link).expect("stat").is_file());
        assert_eq!(fs::read_to_string(&path).expect("read"), "two");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2, "nothing is left over");
        let error = write(&dir.path().join("no/file"), b"", 0o644).expect_err("no directory").to_string();
        assert!(error.starts_with("writing ") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn directories_change_places() {
        type Exchange = fn(&Path, &Path) -> std::result::Result<(), String>;
        let ways: [(&str, Exchange); 2] = [
            ("in one step", |a, b| exchange(a, b).map_err(|e| e.to_string())),
            ("in three steps", |a, b| exchange_in_steps(a, b).map_err(|e| e.to_string())),
        ];
        for (name, way) in ways {
            let dir = tempfile::tempdir().expect("temporary directory");
            let (a, b) = (dir.path().join("web"), dir.path().join("web.new"));
            fs::create_dir(&a).expect("mkdir");
            fs::write(a.join("old"), "").expect("written");
            assert!(way(&a, &b).is_err(), "{name}: b is absent");
            assert!(a.join("old").exists(), "{name}: nothing changed");
            fs::create_dir(&b).expect("mkdir");
            fs::write(b.join("new"), "").expect("written");
            way(&a, &b).expect(name);
            assert!(a.join("new").exists() && b.join("old").exists(), "{name}");
            assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2, "{name}");
        }
    }
}
