//! A mount table of one's own, so that mounts made for a moment are seen by nobody else and vanish
//! with the last process that uses them, even after a crash.
//!
//! A mount namespace belongs to a **thread**. Threads and children started afterwards inherit it,
//! threads that exist already do not. So either call [`private_mounts`] while the process has one
//! thread, or do the work inside [`in_private_mounts`].

use std::path::Path;
use std::thread;

use rustix::mount::{MountPropagationFlags, mount_change};

use super::calls;
use super::error::{Result, SysError};

/// Moves the calling thread into a mount namespace of its own, for good; what it mounts from then on
/// reaches no other. In a process with several threads only this one is moved: see the module.
///
/// # Errors
/// Not root, or the kernel refuses.
pub fn private_mounts() -> Result<()> {
    // The copy still passes mounts on to the original where that is "shared", as systemd makes it.
    own_mounts(MountPropagationFlags::PRIVATE)
}

fn own_mounts(propagation: MountPropagationFlags) -> Result<()> {
    let root = Path::new("/");
    calls::unshare_mounts()
        .map_err(|e| SysError::io("making a private mount namespace for", root, e).advise("this needs root"))?;
    mount_change(root, propagation | MountPropagationFlags::REC)
        .map_err(|e| SysError::io("making mounts private below", root, e))
}

/// Runs `work` in a thread with a mount namespace of its own, which ends with it.
///
/// # Errors
/// As [`private_mounts`]; `work` did not run then.
pub fn in_private_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    in_own_mounts(MountPropagationFlags::PRIVATE, work)
}

/// As [`in_private_mounts`], for work that lasts: what is unmounted outside is unmounted there too where mounts are "shared",
/// as systemd makes them, so that a disk does not stay busy for the work's sake.
///
/// # Errors
/// As [`private_mounts`]; `work` did not run then.
pub fn in_following_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    in_own_mounts(MountPropagationFlags::DOWNSTREAM, work)
}

fn in_own_mounts<T: Send>(propagation: MountPropagationFlags, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let result = thread::Builder::new()
            .name("private mounts".into())
            .spawn_scoped(scope, move || own_mounts(propagation).map(|()| work()))
            .map_err(|e| SysError::io("starting a thread for", "/proc/thread-self", e))?
            .join();
        // A panic in `work` is the caller's own, and goes on as if there were no thread between.
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::super::mount::{MountGuard, can_mount, is_mount_point};
    use super::*;

    #[test]
    fn mounts_stay_inside() {
        if !can_mount() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        in_private_mounts(|| {
            MountGuard::pseudo("tmpfs", dir.path(), &[""; 0]).expect("mounted").keep();
            assert!(is_mount_point(dir.path()).expect("table"));
            let child = super::super::Cmd::argv(["findmnt", "-n", "-M"]).expect("argv").arg(dir.path());
            assert!(child.run().is_ok(), "children see it");
        })
        .expect("namespace");
        assert!(!is_mount_point(dir.path()).expect("table"));
    }

    #[test]
    fn what_goes_outside_goes_inside_that_follows() {
        if !can_mount() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = dir.path();
        // Outside is a table of the test's own, and shared.
        in_private_mounts(|| {
            mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).expect("shared");
            for follows in [false, true] {
                let guard = MountGuard::pseudo("tmpfs", place, &[""; 0]).expect("mounted");
                let (inside, outside) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
                let work = || {
                    let inner = place.join("inner");
                    std::fs::create_dir(&inner).expect("mkdir");
                    MountGuard::pseudo("tmpfs", &inner, &[""; 0]).expect("mounted").close().expect("unmounted");
                    inside.wait();
                    outside.wait();
                    is_mount_point(place).expect("table")
                };
                thread::scope(|scope| {
                    let worker =
                        scope.spawn(|| if follows { in_following_mounts(work) } else { in_private_mounts(work) });
                    inside.wait();
                    guard.close().expect("unmounted");
                    outside.wait();
                    assert_eq!(worker.join().expect("no panic").expect("namespace"), !follows);
                });
            }
        })
        .expect("namespace");
    }
}
