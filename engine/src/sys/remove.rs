//! Removing a whole directory tree, however awkward: never through a symbolic link, never into
//! another file system, with any names, and to any depth (paths longer than PATH_MAX, deeper than
//! there are file descriptors or stack).
//!
//! The way: instead of descending, subdirectories are moved up. One directory at a time is emptied;
//! the directories in it move to the top under a number, and wait there for their turn.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, fstat, openat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::error::{Result, SysError};

/// A directory that lies at the top and waits for its turn.
struct Waiting {
    /// Its name there.
    name: CString,
    /// Where it was, for messages.
    was: PathBuf,
}

/// The tree being removed.
struct Tree {
    top: OwnedFd,
    /// The next number to give.
    next: u64,
}

/// Removes the directory `path` and all below it. Nothing there is fine too.
///
/// # Errors
/// It is no directory (a symbolic link to one is none); a file system is mounted below it; an entry
/// cannot be removed (immutable: `chattr -i`). What was removed till then is gone, and moved
/// directories bear numbers; calling again goes on.
pub fn remove_tree(path: &Path) -> Result<()> {
    let top = match open_dir(CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(
                SysError::io("removing the tree", path, Errno::NOTDIR).advise("only directories are removed this way")
            );
        }
        Err(error) => return Err(SysError::io("opening", path, error)),
    };
    let device = fstat(&top).map_err(|e| SysError::io("looking at", path, e))?.st_dev;
    let mut tree = Tree { top, next: 0 };
    let mut queue = VecDeque::from(tree.empty(None, path)?);
    while let Some(waiting) = queue.pop_front() {
        let dir = match open_dir(&tree.top, waiting.name.as_c_str()) {
            Ok(dir) => dir,
            Err(error) => return Err(failed("opening", &waiting.was, error)),
        };
        if fstat(&dir).map_err(|e| failed("looking at", &waiting.was, e))?.st_dev != device {
            return Err(mounted(&waiting.was));
        }
        queue.extend(tree.empty(Some(dir), &waiting.was)?);
        unlinkat(&tree.top, waiting.name.as_c_str(), AtFlags::REMOVEDIR)
            .map_err(|e| failed("removing", &waiting.was, e))?;
    }
    unlinkat(CWD, path, AtFlags::REMOVEDIR).map_err(|e| failed("removing", path, e))
}

impl Tree {
    /// Removes all files of a directory (`None`: the top itself), moves its directories to the top,
    /// and returns those.
    fn empty(&mut self, dir: Option<OwnedFd>, was: &Path) -> Result<Vec<Waiting>> {
        let at_top = dir.is_none();
        let entries = {
            let fd = dir.as_ref().map_or(self.top.as_fd(), AsFd::as_fd);
            list(fd).map_err(|e| failed("listing", was, e))?
        };
        let mut found = Vec::new();
        for (name, kind) in entries {
            let fd = dir.as_ref().map_or(self.top.as_fd(), AsFd::as_fd);
            let was = place(was, &name);
            let is_dir = match kind {
                FileType::Unknown => {
                    let stat = statat(fd, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(|e| failed("looking at", &was, e))?;
                    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                }
                kind => kind == FileType::Directory,
            };
            if !is_dir {
                unlinkat(fd, name.as_c_str(), AtFlags::empty()).map_err(|e| failed("removing", &was, e))?;
                continue;
            }
            // Mostly it is not empty; but this is also how the kernel tells of a mount on it, even of a
            // bind from the same file system, which no device number would show.
            match unlinkat(fd, name.as_c_str(), AtFlags::REMOVEDIR) {
                Ok(()) => continue,
                Err(Errno::BUSY) => return Err(mounted(&was)),
                Err(_) => {}
            }
            if at_top {
                found.push(Waiting { name, was });
            } else {
                let name = move_up(&self.top, &mut self.next, fd, &name).map_err(|e| match e {
                    Errno::BUSY | Errno::XDEV => mounted(&was),
                    e => failed("moving", &was, e),
                })?;
                found.push(Waiting { name, was });
            }
        }
        Ok(found)
    }
}

/// Gives a directory a free name at the top.
fn move_up(top: &OwnedFd, next: &mut u64, dir: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<CString> {
    loop {
        let free = CString::new(format!(".systemimager-rm-{}", *next)).map_err(|_| Errno::INVAL)?;
        *next += 1;
        match renameat_with(dir, name.as_c_str(), top, free.as_c_str(), RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(free),
            Err(Errno::EXIST) => {}
            // A file system without NOREPLACE. Replacing is no loss here: everything goes.
            Err(Errno::INVAL | Errno::NOSYS) => {
                match rustix::fs::renameat(dir, name.as_c_str(), top, free.as_c_str()) {
                    Ok(()) => return Ok(free),
                    Err(Errno::NOTEMPTY | Errno::NOTDIR | Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// A path for messages, shortened when it is longer than anyone reads: a deep tree would otherwise
/// cost the square of its depth.
fn place(dir: &Path, name: &CString) -> PathBuf {
    let dir = if dir.as_os_str().len() > 4096 { Path::new("…") } else { dir };
    dir.join(OsStr::from_bytes(name.as_bytes()))
}

fn open_dir(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

/// All names but `.` and `..`, read before anything changes.
fn list(fd: BorrowedFd<'_>) -> rustix::io::Result<Vec<(CString, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

fn failed(doing: &str, path: &Path, error: Errno) -> SysError {
    let advice = match error {
        Errno::BUSY => "something is mounted on it; unmount that first",
        Errno::PERM => "it may be immutable: `chattr -i` on it and its directory",
        _ => "",
    };
    SysError::io(doing, path, error).advise(advice)
}

fn mounted(path: &Path) -> SysError {
    failed("removing", path, Errno::BUSY)
}

#[cfg(test)]
mod tests {
    use super::super::mount::{MountGuard, can_mount};
    use super::super::namespace::in_private_mounts;
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn awkward_trees_go_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).expect("mkdir");
        fs::write(kept.join("file"), "x").expect("written");
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).expect("mkdir");
        fs::create_dir_all(tree.join("a/.systemimager-rm-0/x")).expect("mkdir");
        fs::create_dir_all(tree.join(".systemimager-rm-1/x/y")).expect("mkdir");
        fs::create_dir(tree.join("empty")).expect("mkdir");
        symlink(&kept, tree.join("link")).expect("symlink");
        symlink(&kept, tree.join("a/b/link")).expect("symlink");
        fs::write(tree.join(OsStr::from_bytes(b"a/b/\xff\n")), "x").expect("written");
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
        assert!(kept.join("file").exists());
        remove_tree(&tree).expect("absent is fine");
        let link = dir.path().join("link");
        symlink(&kept, &link).expect("symlink");
        assert!(remove_tree(&link).expect_err("a link").to_string().contains("only directories are removed this way"));
        assert!(kept.join("file").exists());
    }

    #[test]
    fn deeper_than_any_path() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).expect("mkdir");
        let mut at = open_dir(CWD, tree.as_path()).expect("opened");
        // 3,000 levels of 200 bytes: more than PATH_MAX, and than there are descriptors.
        let name = "d".repeat(200);
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o755)).expect("mkdir");
            at = open_dir(&at, name.as_str()).expect("opened");
        }
        remove_tree(&tree).expect("removed");
        assert!(!tree.exists());
    }

    #[test]
    fn another_file_system_is_left_alone() {
        if !can_mount() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        in_private_mounts(|| {
            for place in ["tree/mnt", "tree/a/mnt"] {
                let place = dir.path().join(place);
                fs::create_dir_all(&place).expect("mkdir");
                let guard = MountGuard::pseudo("tmpfs", &place, &[""; 0]).expect("mounted");
                fs::write(place.join("file"), "x").expect("written");
                let error = remove_tree(&dir.path().join("tree")).expect_err("mounted").to_string();
                assert!(error.contains("mnt: ") && error.contains("unmount that first"), "{error}");
                assert_eq!(fs::read_to_string(place.join("file")).ok().as_deref(), Some("x"));
                guard.close().expect("unmounted");

                let other = dir.path().join("other");
                fs::create_dir_all(&other).expect("mkdir");
                fs::write(other.join("file"), "x").expect("written");
                let guard = MountGuard::bind(&other, &place).expect("bound");
                let error = remove_tree(&dir.path().join("tree")).expect_err("bound").to_string();
                assert!(error.contains("unmount that first"), "{error}");
                assert!(other.join("file").exists(), "the same file system, but not below the tree");
                guard.close().expect("unmounted");
            }
            remove_tree(&dir.path().join("tree")).expect("now it goes");
        })
        .expect("namespace");
    }
}
