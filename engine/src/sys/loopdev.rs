//! Disk images as block devices: a guard that detaches.
//!
//! Partitions are announced with partx, not `losetup -P`: that needs a partition parser in the
//! kernel, which a small host kernel lacks.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::block::partition_path;
use super::command_error::CommandError;
use super::error::{Result, SysError};
use super::run::Cmd;
use super::tool::Tool;

/// How long a device or partition may still be in use: udev, or a child of ours that is just being
/// forked, has it open for a moment. Nothing tells when that is over, so we look again.
const DETACH_WAIT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An image file attached as `/dev/loopN`.
#[derive(Debug)]
#[must_use = "dropping the guard detaches"]
pub struct LoopDevice {
    path: PathBuf,
    partitions: bool,
    attached: bool,
}

impl LoopDevice {
    /// Attaches a file.
    ///
    /// # Errors
    /// losetup's reason: no such file, no free device.
    pub fn attach(image: &Path, read_only: bool) -> std::result::Result<Self, CommandError> {
        let mut cmd = Cmd::tool(Tool::Losetup).args(["--find", "--show"]);
        if read_only {
            cmd = cmd.arg("--read-only");
        }
        let path = cmd.arg(image).read_string()?.into();
        Ok(Self { path, partitions: false, attached: true })
    }

    /// `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Announces the partitions of its table to the kernel. Again after the table changed.
    ///
    /// # Errors
    /// There is no table.
    pub fn add_partitions(&mut self) -> std::result::Result<(), CommandError> {
        if self.partitions {
            self.remove_partitions()?;
        }
        Cmd::tool(Tool::Partx).arg("--add").arg(&self.path).run()?;
        self.partitions = true;
        Ok(())
    }

    fn remove_partitions(&mut self) -> std::result::Result<(), CommandError> {
        let deadline = Instant::now() + DETACH_WAIT;
        // Those that are gone already are no error the next time.
        while let Err(error) = Cmd::tool(Tool::Partx).arg("--delete").arg(&self.path).run() {
            if Instant::now() >= deadline {
                return Err(error);
            }
            thread::sleep(LOOK_EVERY);
        }
        self.partitions = false;
        Ok(())
    }

    /// The device of a partition, from 1, after [`Self::add_partitions`].
    #[must_use]
    pub fn partition(&self, number: u32) -> PathBuf {
        partition_path(&self.path, number)
    }

    /// Detaches.
    ///
    /// # Errors
    /// It is in use, as a mounted file system.
    pub fn close(mut self) -> Result<()> {
        self.detach()
    }

    fn detach(&mut self) -> Result<()> {
        if self.partitions {
            self.remove_partitions()?;
        }
        Cmd::tool(Tool::Losetup).arg("--detach").arg(&self.path).run()?;
        self.attached = false;
        // Of a device in use losetup only marks that it should go, and reports success.
        let backing = Path::new("/sys/block").join(self.path.file_name().unwrap_or_default()).join("loop");
        let deadline = Instant::now() + DETACH_WAIT;
        while backing.is_dir() {
            if Instant::now() >= deadline {
                let why = format!("{} is still in use; it goes when the last user does", self.path.display());
                return Err(SysError::Refused(why));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if self.attached
            && let Err(error) = self.detach()
        {
            tracing::warn!(device = %self.path.display(), %error, "a loop device stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mount::can_mount;
    use super::*;
    use std::io::Read;

    #[test]
    fn an_image_and_its_partitions() {
        if !can_mount() {
            return;
        }
        let image = tempfile::NamedTempFile::new().expect("temporary file");
        image.as_file().set_len(16 << 20).expect("sized");
        Cmd::tool(Tool::Sfdisk)
            .args(["--quiet", "--no-reread", "--no-tell-kernel"])
            .arg(image.path())
            .stdin_bytes(*b"label: dos\nsize=4MiB\nsize=4MiB\n")
            .run()
            .expect("partitioned");
        let mut device = match LoopDevice::attach(image.path(), false) {
            Ok(device) => device,
            Err(error) => return eprintln!("SKIPPED: no loop device can be had: {error}"),
        };
        if let Err(error) = device.add_partitions() {
            return eprintln!("SKIPPED: the kernel takes no partitions: {error}");
        }
        device.add_partitions().expect("again");
        let second = device.partition(2);
        if second.exists() {
            let mut bytes = Vec::new();
            std::fs::File::open(&second).expect("opened").read_to_end(&mut bytes).expect("read");
            assert_eq!(bytes.len(), 4 << 20);
        } else {
            eprintln!("SKIPPED: /dev has no devtmpfs, {} is absent", second.display());
        }
        let path = device.path().to_path_buf();
        device.close().expect("detached");
        assert!(!Path::new("/sys/block").join(path.file_name().expect("name")).join("loop").exists());
        assert!(LoopDevice::attach(Path::new("/no/such/image"), true).is_err());
    }
}
