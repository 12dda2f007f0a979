//! The file systems that every program expects, mounted first of all.

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

/// What, where, options, and how strictly.
const MOUNTS: [(&str, &str, Option<&std::ffi::CStr>, MountFlags); 5] = [
    ("proc", "/proc", None, MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
    ("sysfs", "/sys", None, MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
    ("devtmpfs", "/dev", Some(c"mode=0755"), MountFlags::NOSUID),
    ("devpts", "/dev/pts", Some(c"gid=5,mode=620,ptmxmode=666"), MountFlags::NOSUID.union(MountFlags::NOEXEC)),
    ("tmpfs", "/run", Some(c"mode=0755"), MountFlags::NOSUID.union(MountFlags::NODEV)),
];

/// Mounts all of them. What fails is returned in words: PID 1 goes on with what it has.
pub(super) fn mount_all() -> Vec<String> {
    let mut complaints = Vec::new();
    for (kind, at, options, flags) in MOUNTS {
        if let Err(error) = std::fs::create_dir_all(at) {
            complaints.push(format!("making {at}: {error}"));
        }
        match mount(kind, at, kind, flags, options) {
            // Busy: a kernel that mounts devtmpfs itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => complaints.push(format!("mounting {kind} on {at}: {error}")),
        }
    }
    if let Err(error) = std::fs::create_dir_all(crate::places::RUN_DIR) {
        complaints.push(format!("making {}: {error}", crate::places::RUN_DIR));
    }
    // Kernel messages below "warning" stay in dmesg: they would tear the agent's lines apart.
    if Path::new("/proc/sys/kernel/printk").exists()
        && let Err(error) = std::fs::write("/proc/sys/kernel/printk", "4\n")
    {
        complaints.push(format!("quieting the kernel: {error}"));
    }
    complaints
}
