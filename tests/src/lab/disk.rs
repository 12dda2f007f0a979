//! Disk images of virtual machines, and a look into them from the host.
//!
//! The host's kernel may know no partition tables, so partitions are added by `partx`. Mounting
//! a disk that a running machine writes destroys it: power the machine off first.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use super::{owner, run};

/// Makes an empty raw image; it takes no space until it is written.
pub fn make_raw(path: &Path, bytes: u64) -> Result<()> {
    let file = std::fs::File::create_new(path).with_context(|| format!("making the disk image {}", path.display()))?;
    file.set_len(bytes).with_context(|| format!("giving {} {bytes} bytes", path.display()))
}

/// Copies a raw image, holes as holes, and without copying anything where the file system can share.
pub fn copy_raw(from: &Path, to: &Path) -> Result<()> {
    run::run(run::program("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to)).map(drop)
}

/// A raw image attached as a loop device with its partitions.
#[derive(Debug)]
pub struct Loop {
    device: String,
    note: PathBuf,
    read_only: bool,
}

impl Loop {
    /// Attaches `image` for reading and writing.
    pub fn attach(image: &Path) -> Result<Loop> {
        Self::attach_as(image, false)
    }

    /// Attaches `image` so that nothing can write to it.
    pub fn attach_read_only(image: &Path) -> Result<Loop> {
        Self::attach_as(image, true)
    }

    fn attach_as(image: &Path, read_only: bool) -> Result<Loop> {
        owner::reclaim_disks();
        let image = image.canonicalize().with_context(|| format!("looking for the disk image {}", image.display()))?;
        let mut command = run::program("losetup");
        command.args(["-f", "--show"]).args(read_only.then_some("-r")).arg(&image);
        let device = run::run(&mut command)?.trim().to_owned();
        let note = owner::account()?.join(device.trim_start_matches("/dev/").replace("loop", "loop-"));
        let attached = Loop { device, note, read_only };
        std::fs::write(&attached.note, image.to_string_lossy().as_bytes())
            .with_context(|| format!("writing {}", attached.note.display()))?;
        attached.read_partitions()?;
        Ok(attached)
    }

    /// Makes the partitions' devices agree with the table; to be called when it was written.
    pub fn read_partitions(&self) -> Result<()> {
        // A disk without a table has no partitions, which partx reports as an error.
        let _ = run::output(run::program("partx").args(["-u", &self.device]))?;
        Ok(())
    }

    /// The loop device, such as `/dev/loop0`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The device of partition `number`, counted from 1.
    pub fn partition(&self, number: u32) -> String {
        format!("{}p{number}", self.device)
    }

    /// Mounts partition `number`. A disk attached read-only is mounted `ro,noload`: also a
    /// journal that wants to be replayed stays as it is.
    pub fn mount(&self, number: u32) -> Result<Mount> {
        self.mount_device(&self.partition(number))
    }

    /// Mounts the file system on a disk without partitions, as [`mount`](Self::mount) does.
    pub fn mount_whole(&self) -> Result<Mount> {
        self.mount_device(&self.device)
    }

    fn mount_device(&self, device: &str) -> Result<Mount> {
        let options = self.mount_options(device)?;
        let mount = Mount::point()?;
        run::run(run::program("mount").args(["-o", options, device]).arg(&mount.path))?;
        Ok(mount)
    }

    /// Mounts partition `number` on `directory` below a mount that is there already; it is
    /// unmounted with that one.
    pub fn mount_at(&self, number: u32, directory: &Path) -> Result<()> {
        let device = self.partition(number);
        let options = self.mount_options(&device)?;
        run::run(run::program("mount").args(["-o", options, &device]).arg(directory)).map(drop)
    }

    fn mount_options(&self, device: &str) -> Result<&'static str> {
        let kind = run::run_argv(&["blkid", "-p", "-o", "value", "-s", "TYPE", device])
            .with_context(|| format!("{device} holds no file system that could be mounted"))?;
        Ok(match (self.read_only, kind.trim()) {
            (false, _) => "rw",
            (true, "ext3" | "ext4") => "ro,noload",
            (true, "xfs") => "ro,norecovery",
            (true, _) => "ro",
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        match owner::detach(&self.device) {
            Ok(()) => {
                let _ = std::fs::remove_file(&self.note); // gone with its directory, at the latest
            }
            Err(error) => eprintln!("lab: {error:#}"),
        }
    }
}

/// A mounted file system, with all that is mounted below it.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
}

impl Mount {
    fn point() -> Result<Mount> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let path = owner::account()?.join(format!("mount-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Mount { path })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts it, with what is mounted below.
    pub fn close(self) -> Result<()> {
        self.undo()
    }

    fn undo(&self) -> Result<()> {
        for target in owner::mounts_below(&self.path)? {
            run::run(run::program("umount").arg(&target))?;
        }
        match std::fs::remove_dir(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            eprintln!("lab: {error:#}");
        }
    }
}
