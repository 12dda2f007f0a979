//! Whether the disks took what was written to them. Writing to a mounted file system succeeds long before its disk was
//! asked; what the disk then refuses is told only to who asks, and to nobody after the unmounting.
//!
//! It changes nothing. Sources: syncfs(2) (errors are told from Linux 5.8 on), statvfs(3), the kernel's log.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::StatVfsMountFlags;
use systemimager_core::{NodeName, Phase};

use crate::sys::kernel_log::{KernelLog, is_on};

/// A disk failed while it was written to. What stands on it is not to be trusted, also where it looks whole.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} did not take all that was written to it ({why}); look into dmesg at the machine's console, replace the disk, its \
     cable or its controller, and let the install go on: it then begins with the partition table"
)]
pub struct DiskFailed {
    /// Which: `/dev/sda2 (root)`.
    pub what: String,
    /// The kernel's reason.
    pub why: String,
}

/// How often file systems are looked at while they are written to.
const LOOK: Duration = Duration::from_secs(2);
/// What the C library calls EIO: what programs print of it.
const EIO: &str = "Input/output error";

/// The error of a step with what to do about it, where it says that a disk failed. A pull is left as it is: there the
/// server's disk may be meant.
pub(super) fn explained(error: anyhow::Error, phase: Phase, disks: &[String]) -> anyhow::Error {
    if phase == Phase::Pull || error.is::<DiskFailed>() || !format!("{error:#}").contains(EIO) {
        return error;
    }
    let what = if disks.is_empty() { "a disk of this machine".to_owned() } else { disks.join(" or ") };
    error.context(DiskFailed { what, why: EIO.to_owned() })
}

/// A mounted file system, held from its mounting on: an error that came before is another's.
#[derive(Debug)]
pub(super) struct Held {
    node: NodeName,
    device: PathBuf,
    dir: File,
    read_only: bool,
}

impl Held {
    /// The file system that was just mounted at `at`.
    pub(super) fn open(node: &NodeName, device: &Path, at: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let dir = File::open(at).with_context(|| format!("opening {}", at.display()))?;
        let read_only = options.iter().rev().find(|it| ["ro", "rw"].contains(it)) == Some(&"ro");
        Ok(Self { node: node.clone(), device: device.to_path_buf(), dir, read_only })
    }

    /// `/dev/sda2 (root)`.
    pub(super) fn named(&self) -> String {
        named(&self.node, &self.device)
    }

    /// `sda2`, also where it was mounted by a link to it.
    fn kernel_name(&self) -> String {
        let device = std::fs::canonicalize(&self.device).unwrap_or_else(|_| self.device.clone());
        device.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Lets go of it; its node and device.
    pub(super) fn close(self) -> (NodeName, PathBuf) {
        (self.node, self.device)
    }

    /// Has it written out.
    pub(super) fn write_out(&self) -> Result<(), DiskFailed> {
        if let Err(error) = rustix::fs::syncfs(&self.dir) {
            return Err(failed(&self.node, &self.device, std::io::Error::from(error).to_string()));
        }
        self.takes_writes()
    }

    /// Whether it is still what it was mounted as: an error in the journal stops a file system; what it held back is
    /// lost, and no call says so.
    fn takes_writes(&self) -> Result<(), DiskFailed> {
        let stopped = rustix::fs::fstatvfs(&self.dir).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::RDONLY));
        if stopped && !self.read_only {
            return Err(failed(&self.node, &self.device, "the kernel made it read-only after an error".into()));
        }
        Ok(())
    }
}

/// Does something long that writes to these file systems, and has it cancelled when one of them is stopped: it would go
/// on for thousands of files of which none can be written.
pub(super) fn watched<T>(
    held: &[Held],
    cancel: &AtomicBool,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let (end, ended) = channel::<()>();
        let watch = scope.spawn(move || {
            // A file system that is stopped tells nobody, and neither does one whose disk loses data: it is looked at
            // now and then. Who may not read the kernel's log hears of lost data at the end.
            let mut log = KernelLog::from_now().ok();
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let stopped = held.iter().find_map(|it| it.takes_writes().err());
                if let Some(failed) = stopped.or_else(|| refused(log.as_mut()?, held)) {
                    cancel.store(true, Ordering::Relaxed);
                    return Some(failed);
                }
            }
            None
        });
        let done = work();
        drop(end);
        match watch.join() {
            Ok(Some(failed)) => {
                // The next attempt is not to be cancelled too.
                cancel.store(false, Ordering::Relaxed);
                Err(failed.into())
            }
            _ => done,
        }
    })
}

/// A write to the disk of one of these that was refused since the kernel's log was read last.
fn refused(log: &mut KernelLog, held: &[Held]) -> Option<DiskFailed> {
    let on = |disk: &str| held.iter().find(|it| is_on(&it.kernel_name(), disk));
    let refused = log.refused(|disk| on(disk).is_some())?;
    on(&refused.disk).map(|it| failed(&it.node, &it.device, format!("the kernel says: {}", refused.says)))
}

/// Has a disk or partition written out, and empties the disk's own cache.
pub(super) fn write_out(node: &NodeName, device: &Path) -> Result<(), DiskFailed> {
    let synced = File::open(device).and_then(|it| it.sync_all());
    synced.map_err(|error| failed(node, device, error.to_string()))
}

/// `/dev/sda2 (root)`.
pub(super) fn named(node: &NodeName, device: &Path) -> String {
    format!("{} ({node})", device.display())
}

fn failed(node: &NodeName, device: &Path, why: String) -> DiskFailed {
    DiskFailed { what: named(node, device), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_failing_disk_are_explained() {
        let disk = ["/dev/sda (disk0)".to_owned()];
        for (phase, says, disks, expected) in [
            (Phase::Partition, "sfdisk: write failed: Input/output error", &disk[..], "/dev/sda (disk0) did not take"),
            (Phase::Boot, "grub-install: Input/output error", &[], "a disk of this machine did not take"),
            (Phase::Pull, "rsync: read errors: Input/output error (5)", &disk, ""),
            (Phase::Format, "mke2fs: no such option", &disk, ""),
        ] {
            let error = explained(anyhow::anyhow!(says), phase, disks);
            assert_eq!(error.is::<DiskFailed>(), !expected.is_empty(), "{says}");
            assert!(format!("{error:#}").starts_with(if expected.is_empty() { says } else { expected }), "{error:#}");
        }
    }

    #[test]
    fn a_file_system_that_is_stopped_ends_what_writes_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (from, at) = (dir.path().join("from"), dir.path().join("at"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&at).unwrap();
        let node = NodeName::try_from("root").unwrap();
        let held = |options: &[&str]| [Held::open(&node, Path::new("/dev/sda2"), &at, options).unwrap()];
        let cancel = AtomicBool::new(false);
        assert_eq!(watched(&held(&[]), &cancel, || Ok(7)).unwrap(), 7, "nothing is wrong");
        let Ok(_bound) = crate::sys::mount::MountGuard::bind_read_only(&from, &at) else {
            let line = b"SKIPPED: a_file_system_that_is_stopped_ends_what_writes_to_it: it needs root\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
            return;
        };
        let error = watched::<()>(&held(&[]), &cancel, || {
            while !cancel.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            anyhow::bail!("cancelled")
        })
        .unwrap_err();
        assert!(error.is::<DiskFailed>() && error.to_string().starts_with("/dev/sda2 (root) did not take"), "{error}");
        assert!(!cancel.load(Ordering::Relaxed), "the next attempt is not cancelled");
        assert_eq!(watched(&held(&["ro"]), &cancel, || Ok(7)).unwrap(), 7, "it was meant to be read-only");
    }

    #[test]
    fn what_fails_is_named() {
        let node = NodeName::try_from("root").unwrap();
        let error = write_out(&node, Path::new("/dev/absent")).unwrap_err().to_string();
        assert!(
            error.starts_with("/dev/absent (root) did not take all that was written to it (No such file"),
            "{error}"
        );
        // No directory of a test can fail as a disk does; one that takes everything is no failure.
        let dir = tempfile::tempdir().unwrap();
        let held = Held::open(&node, Path::new("/dev/x"), dir.path(), &["ro", "rw"]).unwrap();
        held.write_out().unwrap();
        // Read-only without having been asked for.
        let held = |options: &[&str]| Held::open(&node, Path::new("/dev/x"), Path::new("/sys"), options).unwrap();
        if rustix::fs::statvfs("/sys").is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::RDONLY)) {
            assert!(held(&["noatime"]).write_out().unwrap_err().why.contains("read-only"));
        }
        held(&["ro"]).write_out().unwrap();
    }
}
