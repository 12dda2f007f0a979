//! Whether the disks took what was written to them. Writing to a mounted file system succeeds long before its disk was
//! asked; what the disk then refuses is told only to who asks, and to nobody after the unmounting.
//!
//! It changes nothing. Sources: syncfs(2) (errors are told from Linux 5.8 on), statvfs(3).

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::StatVfsMountFlags;
use systemimager_core::{NodeName, Phase};

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

    /// Lets go of it; its node and device.
    pub(super) fn close(self) -> (NodeName, PathBuf) {
        (self.node, self.device)
    }

    /// Has it written out.
    pub(super) fn write_out(&self) -> Result<(), DiskFailed> {
        if let Err(error) = rustix::fs::syncfs(&self.dir) {
            return Err(failed(&self.node, &self.device, std::io::Error::from(error).to_string()));
        }
        // An error in the journal stops the file system; what it held back is lost, and no call says so.
        let stopped = rustix::fs::fstatvfs(&self.dir).is_ok_and(|it| it.f_flag.contains(StatVfsMountFlags::RDONLY));
        if stopped && !self.read_only {
            return Err(failed(&self.node, &self.device, "the kernel made it read-only after an error".into()));
        }
        Ok(())
    }
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
