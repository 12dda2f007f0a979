//! The surroundings in which programs of an installed tree can run: its own `grub-install`,
//! `update-initramfs`, … by chroot(2), with /dev, /proc, /sys and /run of this machine.
//!
//! Everything that is mounted or made here is undone. What the programs themselves write is theirs.
//! /run is this machine's, so a daemon of the running system can be reached from inside: meant for
//! the miniature system, where there is none.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::by_links::{Names, populate_by_links, remove_links};
use super::command_error::CommandError;
use super::error::{Result, SysError};
use super::mount::{MountGuard, Mounts};
use super::mount_points::MountPoints;
use super::quote::quote;
use super::run::Cmd;

/// What is bound, in this order. The last only where this machine has it.
const BINDS: [(&str, bool); 5] = [("dev", true), ("proc", true), ("sys", true), ("run", true), ("dev/pts", false)];
/// Where the firmware's variables are seen, its boot entries among them (Documentation/filesystems/efivarfs.rst).
const EFIVARS: &str = "sys/firmware/efi/efivars";

/// A tree in which programs can be run now.
#[derive(Debug)]
#[must_use = "dropping it undoes the mounts"]
pub struct InTarget {
    root: PathBuf,
    mounts: Mounts,
    /// Directories that were missing and were made for the mounts.
    made: MountPoints,
    /// Links in /dev/disk that were missing.
    links: Vec<PathBuf>,
}

impl InTarget {
    /// Binds what programs need into the tree.
    ///
    /// # Errors
    /// The tree is `/`, not a directory, or has a symbolic link where a mount point belongs (mounting
    /// would follow it out of the tree); or the kernel refuses. Nothing stays mounted then.
    pub fn enter(root: &Path) -> Result<Self> {
        Self::enter_from(Path::new("/"), root)
    }

    fn enter_from(host: &Path, root: &Path) -> Result<Self> {
        let root = fs::canonicalize(root).map_err(|e| SysError::io("entering", root, e))?;
        if root == Path::new("/") || !root.is_dir() {
            let why = format!("{} cannot be entered: name the directory of an installed tree", quote(&root));
            return Err(SysError::Refused(why));
        }
        // From here on dropping undoes what was done so far.
        let mut target = Self { root, mounts: Mounts::new(), made: MountPoints::default(), links: Vec::new() };
        for (name, required) in BINDS {
            let source = host.join(name);
            if required || source.is_dir() {
                let place = target.root.join(name);
                if required {
                    target.made.directory(&place)?;
                }
                target.mounts.push(MountGuard::bind(&source, &place)?);
            }
        }
        target.firmware(host)?;
        Ok(target)
    }

    /// Shows the variables of an UEFI machine: those that are mounted here, else mounted anew. Programs do without them
    /// where the kernel has no efivarfs.
    fn firmware(&mut self, host: &Path) -> Result<()> {
        let (source, place) = (host.join(EFIVARS), self.root.join(EFIVARS));
        if !source.is_dir() {
            return Ok(());
        }
        if super::mount::is_mount_point(&source)? {
            self.mounts.push(MountGuard::bind(&source, &place)?);
            return Ok(());
        }
        match MountGuard::pseudo("efivarfs", &place, &[] as &[&str]) {
            Ok(mounted) => self.mounts.push(mounted),
            Err(error) => tracing::warn!("the firmware's boot entries cannot be written: {error}"),
        }
        Ok(())
    }

    /// The tree's directory, absolute, without symlinks.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The tree's /dev, which is this machine's.
    #[must_use]
    pub fn dev(&self) -> PathBuf {
        self.root.join("dev")
    }

    /// Makes these devices known under /dev/disk/by-uuid and the like, as udev would. The links lie in
    /// this machine's /dev, which the tree shares, and go with the rest.
    ///
    /// # Errors
    /// As [`populate_by_links`].
    pub fn link_devices(&mut self, devices: &[Names]) -> Result<()> {
        self.links.extend(populate_by_links(&self.dev(), devices)?);
        Ok(())
    }

    /// A command inside, to be refined and run while this lives. The program is one of the tree.
    /// `HOME` is /root, `PATH` the standard one.
    ///
    /// # Errors
    /// As [`Cmd::argv`].
    pub fn command<A: AsRef<OsStr>>(
        &self,
        argv: impl IntoIterator<Item = A>,
    ) -> std::result::Result<Cmd, CommandError> {
        Ok(Cmd::argv(argv)?.chroot(&self.root).own_group())
    }

    /// Runs a program inside; anything but status 0 is an error.
    ///
    /// # Errors
    /// [`CommandError::NotInTree`] where the tree lacks it, and as [`Cmd::run`].
    pub fn run<A: AsRef<OsStr>>(
        &self,
        argv: impl IntoIterator<Item = A>,
        env: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)],
    ) -> std::result::Result<(), CommandError> {
        let cmd = self.command(argv)?;
        env.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value)).run()
    }

    /// Undoes the mounts.
    ///
    /// # Errors
    /// A program that was run inside runs still; the message names it.
    pub fn close(mut self) -> Result<()> {
        remove_links(&std::mem::take(&mut self.links));
        let closed = std::mem::take(&mut self.mounts).close();
        self.made.remove();
        closed
    }
}

impl Drop for InTarget {
    fn drop(&mut self) {
        remove_links(&std::mem::take(&mut self.links)); // they lie on the mounts
        drop(std::mem::take(&mut self.mounts)); // before the directories below them
        self.made.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::super::mount::{can_mount, table};
    use super::super::namespace::in_private_mounts;
    use super::*;

    /// A tree with just enough of this machine to run programs.
    fn tree() -> (tempfile::TempDir, Vec<MountGuard>) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut binds = Vec::new();
        for name in ["usr", "etc"] {
            let place = dir.path().join(name);
            fs::create_dir(&place).expect("mkdir");
            binds.push(MountGuard::bind_read_only(&Path::new("/").join(name), &place).expect("bound"));
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), dir.path().join(name)).expect("symlink");
        }
        (dir, binds)
    }

    /// Not all mounts: those of other tests vanish from every namespace when their directories go.
    fn mounts_below(dir: &Path) -> usize {
        table().expect("table").iter().filter(|mount| mount.mount_point.starts_with(dir)).count()
    }

    const NO_ENV: [(&str, &str); 0] = [];

    #[test]
    fn programs_of_the_tree_run_inside() {
        if !can_mount() {
            return;
        }
        in_private_mounts(|| {
            let (dir, _binds) = tree();
            let before = mounts_below(dir.path());
            let mut target = InTarget::enter(dir.path()).expect("entered");
            let inside = |script: &str| {
                target.command(["sh", "-c", script]).expect("argv").read_string().map_err(|e| e.to_string())
            };
            assert_eq!(
                inside("echo $PWD $HOME $PATH"),
                Ok("/ /root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())
            );
            assert_eq!(
                inside("test -c /dev/null && test -r /proc/self/stat && test -d /sys/class && echo yes"),
                Ok("yes".into())
            );
            target.run(["sh", "-c", "test $A = b"], &[("A", "b")]).expect("variables pass");
            let error = target.run(["no-such-program"], &NO_ENV).expect_err("absent").to_string();
            let place = fs::canonicalize(dir.path()).expect("path");
            assert_eq!(error, format!("no-such-program is not in the tree {}; the image lacks it", place.display()));
            let error = target.run(["sh", "-c", "echo bad >&2; exit 4"], &NO_ENV).expect_err("status 4");
            assert!(
                error.to_string().ends_with(&format!("(in {}) exited with status 4: bad", place.display())),
                "{error}"
            );
            // /dev is shared with other runs of this test.
            let uuid = format!("systemimager-test-{}", std::process::id());
            let link = Path::new("/dev/disk/by-uuid").join(&uuid);
            let names = Names { dev: "/dev/null".into(), uuid: Some(uuid), ..Names::default() };
            target.link_devices(&[names]).expect("linked");
            target.run(["test", "-c"].map(OsStr::new).into_iter().chain([link.as_os_str()]), &NO_ENV).expect("inside");
            target.close().expect("undone");
            assert!(!link.is_symlink());
            assert_eq!(mounts_below(dir.path()), before);
            assert!(!dir.path().join("dev").exists() && !dir.path().join("run").exists(), "made and removed");
        })
        .expect("namespace");
    }

    #[test]
    fn a_link_where_a_mount_point_belongs_is_refused() {
        if !can_mount() {
            return;
        }
        in_private_mounts(|| {
            let (dir, _binds) = tree();
            std::os::unix::fs::symlink("/sys", dir.path().join("sys")).expect("symlink");
            let before = mounts_below(dir.path());
            let error = InTarget::enter(dir.path()).expect_err("refused").to_string();
            assert!(error.contains("/sys is not a directory (perhaps a symbolic link)"), "{error}");
            assert_eq!(mounts_below(dir.path()), before, "what was mounted before is undone");
            assert!(!dir.path().join("dev").exists());
        })
        .expect("namespace");
    }

    #[test]
    fn the_running_system_is_no_target() {
        let error = InTarget::enter(Path::new("/")).expect_err("refused").to_string();
        assert_eq!(error, "/ cannot be entered: name the directory of an installed tree");
    }

    #[test]
    fn what_is_left_running_is_named() {
        if !can_mount() {
            return;
        }
        in_private_mounts(|| {
            let (dir, _binds) = tree();
            let target = InTarget::enter(dir.path()).expect("entered");
            let cmd = target.command(["sleep", "1000"]).expect("argv").dir("/dev");
            let child = super::super::Child::spawn("daemon", cmd, Default::default()).expect("started");
            let error = target.close().expect_err("busy").to_string();
            assert!(error.contains(&format!("used by {} (sleep)", child.pid())), "{error}");
        })
        .expect("namespace");
    }
}
