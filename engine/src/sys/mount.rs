//! Mounting by system call, with guards that unmount.
//!
//! mount(8) is not run: it would need the program in the initrd, and would write tables. So there is
//! no probing of the type and no helper either: every mount names its type.
//!
//! On the way of success call `close`, which says what kept a mount busy. Dropping a guard unmounts
//! too, lazily as a last resort, and logs instead of failing.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use super::error::{Result, SysError};
use super::quote::quote;

/// A mount that is undone when this goes.
#[derive(Debug)]
#[must_use = "dropping the guard unmounts"]
pub struct MountGuard {
    target: PathBuf,
    /// What is mounted there, for messages: `/dev/sda2`, `tmpfs`.
    what: String,
    active: bool,
}

impl MountGuard {
    /// Mounts a device with a file system of this type. Options are those of fstab(5); what only
    /// mount(8) understands (`noauto`, `nofail`, `x-…`) is left out.
    ///
    /// # Errors
    /// The kernel's reason; for a type it does not know, how to give it that.
    pub fn mount(source: &Path, target: &Path, fstype: &str, options: &[impl AsRef<str>]) -> Result<Self> {
        let (flags, data) = split_options(options);
        let data = CString::new(data)
            .map_err(|_| SysError::Refused(format!("the mount options of {} hold a NUL byte", quote(target))))?;
        mount(source, target, fstype, flags, data.as_c_str()).map_err(|error| {
            let advice = match error {
                Errno::NODEV => format!("the kernel does not know {fstype}: load its module, `modprobe {fstype}`"),
                Errno::INVAL => format!("is there really a file system of type {fstype} on it?"),
                Errno::BUSY => "it is mounted already, or used by something else".to_owned(),
                Errno::NOENT => "the device or the directory is not there".to_owned(),
                _ => String::new(),
            };
            SysError::io(format!("mounting {} ({fstype}) on", quote(source)), target, error).advise(advice)
        })?;
        Ok(Self::active(target, quote(source)))
    }

    /// A file system that needs no device: `tmpfs`, `devtmpfs`, `proc`, `sysfs`, `devpts`, `efivarfs`.
    ///
    /// # Errors
    /// As [`Self::mount`].
    pub fn pseudo(fstype: &str, target: &Path, options: &[impl AsRef<str>]) -> Result<Self> {
        Self::mount(Path::new(fstype), target, fstype, options)
    }

    /// Shows a directory or file at a second place. Mounts below it are not shown there.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn bind(source: &Path, target: &Path) -> Result<Self> {
        mount_bind(source, target).map_err(|e| SysError::io(format!("binding {} to", quote(source)), target, e))?;
        Ok(Self::active(target, quote(source)))
    }

    /// As [`Self::bind`], and nothing can be written through the second place.
    ///
    /// # Errors
    /// The kernel's reason; nothing stays mounted then.
    pub fn bind_read_only(source: &Path, target: &Path) -> Result<Self> {
        let guard = Self::bind(source, target)?;
        // The kernel ignores MS_RDONLY in the first call; and the second one sets *all* flags of this
        // mount, so those it has must be given again or a `nosuid` would be lost.
        let flags = MountFlags::BIND | MountFlags::RDONLY | kept_flags(target)?;
        mount_remount(target, flags, c"")
            .map_err(|e| SysError::io(format!("binding {} read-only to", quote(source)), target, e))?;
        Ok(guard)
    }

    /// Takes over a mount that somebody else made.
    pub fn adopt(target: &Path) -> Self {
        Self::active(target, quote(target))
    }

    fn active(target: &Path, what: String) -> Self {
        tracing::debug!(what, target = %target.display(), "mounted");
        Self { target: target.to_path_buf(), what, active: true }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Unmounts.
    ///
    /// # Errors
    /// It is busy; the message names the processes that keep it so. It is then unmounted lazily
    /// (as by dropping): the error tells that something is wrong, not that it is still to be done.
    pub fn close(mut self) -> Result<()> {
        match unmount(&self.target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {
                self.active = false;
                Ok(())
            }
            Err(error) => {
                let mut failure = SysError::io(format!("unmounting {} from", self.what), &self.target, error);
                if error == Errno::BUSY {
                    failure = failure.advise(who_uses(&self.target));
                }
                Err(failure)
            }
        }
    }

    /// As [`Self::close`], for one that processes may still be leaving: busy counts only when it is so after `limit`.
    ///
    /// # Errors
    /// As [`Self::close`].
    pub fn close_within(mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        // No event tells that a mount is not used any more.
        while Instant::now() < deadline {
            match unmount(&self.target, UnmountFlags::NOFOLLOW) {
                Ok(()) => {
                    self.active = false;
                    return Ok(());
                }
                Err(Errno::BUSY) => std::thread::park_timeout(Duration::from_millis(20)),
                Err(_) => break,
            }
        }
        self.close()
    }

    /// Leaves it mounted for good.
    pub fn keep(mut self) -> PathBuf {
        self.active = false;
        self.target.clone()
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if !self.active || unmount(&self.target, UnmountFlags::NOFOLLOW).is_ok() {
            return;
        }
        let target = self.target.display();
        match unmount(&self.target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
            Ok(()) => tracing::warn!(%target, what = self.what, "was busy; unmounted lazily"),
            Err(error) => tracing::warn!(%target, what = self.what, %error, "could not be unmounted"),
        }
    }
}

/// Mounts made one on top of the other; undone the last one first.
#[derive(Debug, Default)]
#[must_use = "dropping the stack unmounts all of it"]
pub struct Mounts(Vec<MountGuard>);

impl Mounts {
    /// An empty stack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the newest.
    pub fn push(&mut self, guard: MountGuard) {
        self.0.push(guard);
    }

    /// Where they are, oldest first.
    pub fn targets(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(MountGuard::target)
    }

    /// Unmounts all.
    ///
    /// # Errors
    /// The first that failed; the others are unmounted all the same.
    pub fn close(self) -> Result<()> {
        self.close_within(Duration::ZERO)
    }

    /// The same, where processes may still be leaving ([`MountGuard::close_within`]).
    ///
    /// # Errors
    /// As [`Self::close`].
    pub fn close_within(mut self, limit: Duration) -> Result<()> {
        let mut result = Ok(());
        while let Some(guard) = self.0.pop() {
            let closed = guard.close_within(limit);
            if result.is_ok() {
                result = closed;
            }
        }
        result
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        while self.0.pop().is_some() {} // a Vec would drop the oldest first
    }
}

/// fstab options as the kernel wants them: flags, and the rest as one text for the file system.
fn split_options(options: &[impl AsRef<str>]) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for option in options.iter().flat_map(|o| o.as_ref().split(',')).filter(|o| !o.is_empty()) {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => flags -= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "suid" => flags -= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "dev" => flags -= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "exec" => flags -= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "lazytime" => flags |= MountFlags::LAZYTIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            "defaults" | "auto" | "noauto" | "user" | "nouser" | "users" | "owner" | "group" | "nofail" | "_netdev"
            | "async" | "atime" | "diratime" | "norelatime" | "nostrictatime" => {}
            other if other.starts_with("x-") || other.starts_with("comment=") => {}
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// The flags of a mount as they would have to be given to a remount.
fn kept_flags(target: &Path) -> Result<MountFlags> {
    let stat = rustix::fs::statvfs(target).map_err(|e| SysError::io("reading the mount flags of", target, e))?;
    let pairs = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    Ok(pairs.into_iter().filter(|(has, _)| stat.f_flag.contains(*has)).map(|(_, give)| give).collect())
}

/// The processes that keep a mount busy, as advice: `used by 812 (udevd), 9 (sh); end them`.
fn who_uses(target: &Path) -> String {
    let mut users = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        if name.as_bytes().iter().all(u8::is_ascii_digit) && uses(&process.path(), target) {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            users.push(format!("{} ({})", name.display(), comm.trim()));
        }
    }
    if users.is_empty() {
        "something is mounted below it, or a process in another mount namespace uses it".to_owned()
    } else {
        format!("used by {}; end them first", users.join(", "))
    }
}

fn uses(process: &Path, target: &Path) -> bool {
    let below = |link: PathBuf| fs::read_link(link).is_ok_and(|to| to.starts_with(target));
    let named = ["root", "cwd", "exe"].iter().any(|name| below(process.join(name)));
    named || fs::read_dir(process.join("fd")).into_iter().flatten().flatten().any(|fd| below(fd.path()))
}

/// Whether something is mounted on exactly this directory, by /proc/self/mountinfo.
///
/// # Errors
/// /proc is not mounted, or its table cannot be read.
pub fn is_mount_point(path: &Path) -> Result<bool> {
    Ok(table()?.iter().any(|mount| mount.mount_point == path))
}

/// The mount table of the calling thread.
///
/// # Errors
/// /proc is not mounted, or its table cannot be read.
pub fn table() -> Result<Vec<super::mountinfo::MountInfo>> {
    // Not /proc/self, which is the main thread: this one may have a mount namespace of its own.
    let path = Path::new("/proc/thread-self/mountinfo");
    let text = fs::read(path).map_err(|e| SysError::io("reading", path, e).advise("is /proc mounted?"))?;
    super::mountinfo::parse(&text).map_err(|e| SysError::Refused(e.to_string()))
}

/// Whether mounting may be tested here; says so if not.
#[cfg(test)]
pub(super) fn can_mount() -> bool {
    let can = super::namespace::in_private_mounts(|| ()).is_ok();
    if !can {
        eprintln!("SKIPPED: mounting needs root (CAP_SYS_ADMIN)");
    }
    can
}

#[cfg(test)]
mod tests {
    use super::super::namespace::in_private_mounts;
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn options() {
        use MountFlags as F;
        let rows: &[(&str, &[&str], F, &str)] = &[
            ("none", &[], F::empty(), ""),
            ("defaults", &["defaults"], F::empty(), ""),
            ("flags", &["ro", "nosuid,nodev"], F::RDONLY | F::NOSUID | F::NODEV, ""),
            ("the last wins", &["ro", "rw"], F::empty(), ""),
            ("for the file system", &["errors=remount-ro", "noatime", "acl"], F::NOATIME, "errors=remount-ro,acl"),
            ("for mount(8)", &["nofail", "x-systemd.automount", "noauto", "comment=x"], F::empty(), ""),
        ];
        for (name, options, flags, data) in rows {
            assert_eq!(split_options(options), (*flags, (*data).to_owned()), "{name}");
        }
    }

    #[test]
    fn mounts_come_and_go() {
        if !can_mount() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        in_private_mounts(|| {
            let guard = MountGuard::pseudo("tmpfs", dir.path(), &["size=1m", "nosuid"]).expect("mounted");
            fs::write(dir.path().join("file"), "x").expect("written");
            let below = dir.path().join("below");
            fs::create_dir(&below).expect("mkdir");
            let ro = MountGuard::bind_read_only(dir.path(), &below).expect("bound");
            let error = fs::write(below.join("new"), "x").expect_err("read-only");
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            fs::write(dir.path().join("new"), "x").expect("still writable at the first place");
            let mounts = table().expect("table");
            let options = &mounts.iter().find(|m| m.mount_point == below).expect("listed").options;
            assert!(options.contains(&"nosuid".to_owned()), "kept: {options:?}");
            ro.close().expect("unmounted");
            assert!(is_mount_point(dir.path()).expect("table"));
            guard.close().expect("unmounted");
            assert!(!is_mount_point(dir.path()).expect("table"));
        })
        .expect("namespace");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }

    #[test]
    fn a_busy_mount_names_its_users_and_goes_all_the_same() {
        if !can_mount() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        in_private_mounts(|| {
            let guard = MountGuard::pseudo("tmpfs", dir.path(), &NONE).expect("mounted");
            let _open = fs::File::create(dir.path().join("open")).expect("created");
            let error = guard.close().expect_err("busy").to_string();
            assert!(error.contains(&format!("used by {} (", std::process::id())), "{error}");
            assert!(!is_mount_point(dir.path()).expect("table"));
        })
        .expect("namespace");
    }

    #[test]
    fn a_stack_is_undone_in_reverse() {
        if !can_mount() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        in_private_mounts(|| {
            for dropped in [true, false] {
                let mut mounts = Mounts::new();
                mounts.push(MountGuard::pseudo("tmpfs", dir.path(), &NONE).expect("mounted"));
                let inner = dir.path().join("inner");
                fs::create_dir(&inner).expect("mkdir");
                mounts.push(MountGuard::pseudo("tmpfs", &inner, &NONE).expect("mounted"));
                assert_eq!(mounts.targets().last(), Some(inner.as_path()));
                if dropped {
                    drop(mounts)
                } else {
                    mounts.close().expect("unmounted")
                }
                assert!(!is_mount_point(dir.path()).expect("table"));
            }
        })
        .expect("namespace");
    }

    #[test]
    fn errors_instruct() {
        if !can_mount() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        in_private_mounts(|| {
            let error = MountGuard::mount(Path::new("/dev/null"), dir.path(), "nosuchfs", &NONE).expect_err("unknown");
            let error = error.to_string();
            assert!(error.contains("the kernel does not know nosuchfs: load its module"), "{error}");
        })
        .expect("namespace");
    }
}
