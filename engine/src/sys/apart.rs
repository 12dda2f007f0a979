//! A tree that somebody works in: programs of it run by chroot(2), with surroundings that are nobody else's.
//!
//! Unlike in [`super::target_env`], where a miniature system is at the tree's service, the machine here has other work to
//! do. So nothing inside reaches its disks, its kernel's settings or its services: /dev holds no disks, /sys and
//! /proc/sys are read-only, /run and /tmp are empty and go with the session, and all processes are in a namespace of
//! their own, which ends with the program that was started, and with us. It keeps mistakes in, not enemies: who is root
//! inside is root.
//!
//! Nothing that is made here outlives its processes: the mounts are in a namespace of the calling thread
//! ([`super::namespace::in_following_mounts`]).

use std::ffi::OsStr;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::calls::give_terminal;
use super::command_error::CommandError;
use super::error::{Result, SysError};
use super::mount::{MountGuard, Mounts, is_mount_point};
use super::mount_points::MountPoints;
use super::run::{Cmd, Input};

/// The devices that every program may expect: name, major, minor (Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32); 7] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("ptmx", 5, 2),
];
const LINKS: [(&str, &str); 4] = [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")];
/// Of our own environment, what is passed on: how the terminal is, and how the network is reached.
const PASSED_ON: [&str; 6] = ["TERM", "COLORTERM", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy"];
/// How long a program may take that does nothing.
const TRIAL: Duration = Duration::from_secs(60);

/// A tree that can be worked in now.
#[derive(Debug)]
#[must_use = "dropping it undoes the mounts"]
pub struct Apart {
    root: PathBuf,
    mounts: Mounts,
}

impl Apart {
    /// Makes the surroundings. Mount points that are missing are made; they can be removed when this is gone. The mount
    /// table of the calling thread has to be its own.
    ///
    /// # Errors
    /// The tree is `/`, not a directory, or has something else where a mount point belongs; or the kernel refuses.
    pub fn enter(root: &Path, points: &mut MountPoints) -> Result<Self> {
        let root = fs::canonicalize(root).map_err(|e| SysError::io("entering", root, e))?;
        if root == Path::new("/") || !root.is_dir() {
            let why = format!("{} cannot be entered: name the directory of an image", super::quote::quote(&root));
            return Err(SysError::Refused(why));
        }
        let mut apart = Self { root, mounts: Mounts::new() };
        for name in ["dev", "proc", "sys"] {
            points.directory(&apart.root.join(name))?;
        }
        apart.devices()?;
        let sys = apart.root.join("sys");
        apart.mounts.push(MountGuard::bind_read_only(Path::new("/sys"), &sys)?);
        // Where a tree has none, or a link to a place that lasts, its programs do without ours.
        for (name, mode) in [("run", "mode=755"), ("tmp", "mode=1777")] {
            let place = apart.root.join(name);
            if fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
                apart.mounts.push(MountGuard::pseudo("tmpfs", &place, &["nosuid,nodev", mode])?);
                if name == "run" {
                    directory(&place.join("lock"), 0o1777)?;
                }
            }
        }
        Ok(apart)
    }

    /// A /dev without disks.
    fn devices(&mut self) -> Result<()> {
        let dev = self.root.join("dev");
        self.mounts.push(MountGuard::pseudo("tmpfs", &dev, &["nosuid,mode=755"])?);
        for (name, major, minor) in DEVICES {
            let place = dev.join(name);
            mknodat(CWD, &place, FileType::CharacterDevice, Mode::empty(), makedev(major, minor))
                .map_err(|e| SysError::io("making the device", &place, e))?;
            set_mode(&place, 0o666)?;
        }
        for (name, to) in LINKS {
            let place = dev.join(name);
            symlink(to, &place).map_err(|e| SysError::io("making the link", &place, e))?;
        }
        directory(&dev.join("shm"), 0o1777)?;
        let (pts, ours) = (dev.join("pts"), Path::new("/dev/pts"));
        directory(&pts, 0o755)?;
        // This machine's, so that the terminal that somebody works at has a name inside.
        self.mounts.push(if is_mount_point(ours)? {
            MountGuard::bind(ours, &pts)?
        } else {
            MountGuard::pseudo("devpts", &pts, &["nosuid,noexec,newinstance,gid=5,mode=620,ptmxmode=666"])?
        });
        Ok(())
    }

    /// The tree's directory, absolute, without symlinks.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the tree's /run is one of the session.
    #[must_use]
    pub fn has_run(&self) -> bool {
        self.mounts.targets().any(|target| target == self.root.join("run"))
    }

    /// Shows a file with these contents at `place`, a path of the tree without links, whatever is there. What is written
    /// to it goes when the session does. Without a file there, an empty one is made to mount it on.
    ///
    /// # Errors
    /// Something else than a file stands there, or its directory is not there.
    pub fn show(&mut self, place: &Path, contents: &[u8], mode: u32, points: &mut MountPoints) -> Result<()> {
        points.file(place)?;
        let file = self.root.join("dev/.systemimager");
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&file)
            .and_then(|mut open| open.write_all(contents));
        written.map_err(|e| SysError::io("writing", &file, e))?;
        set_mode(&file, mode)?;
        self.mounts.push(MountGuard::bind(&file, place)?);
        // What is mounted stays.
        fs::remove_file(&file).map_err(|e| SysError::io("removing", &file, e))
    }

    /// A program of the tree, reading our standard input. It, and all that it has started, has ended when its run returns.
    /// A signal that ends it shows as exit status 128 and its number.
    ///
    /// # Errors
    /// As [`Cmd::argv`].
    pub fn command<A: AsRef<OsStr>>(
        &self,
        argv: impl IntoIterator<Item = A>,
        terminal: bool,
    ) -> std::result::Result<Cmd, CommandError> {
        let cmd = Cmd::argv(argv)?.chroot(&self.root).apart(terminal).stdin(Input::Inherit);
        let known = PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        Ok(known.fold(cmd, |cmd, (name, value)| cmd.env(name, value)))
    }
}

/// Runs a shell that may have the terminal for itself meanwhile, with job control, where we have it.
///
/// # Errors
/// As [`Cmd::output`].
pub fn run(
    cmd: impl FnOnce(bool) -> std::result::Result<Cmd, CommandError>,
    shell: bool,
) -> std::result::Result<ExitStatus, CommandError> {
    let us = rustix::process::getpgrp();
    let ours = shell
        && std::io::stdin().is_terminal()
        && rustix::termios::tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|group| group == us);
    let ended = cmd(ours)?.output();
    if ours && let Err(error) = give_terminal(us) {
        tracing::warn!(%error, "taking the terminal back");
    }
    Ok(ended?.status)
}

/// Runs a program of the tree that is to do nothing, on a read-only view of it: whether this machine can run what the tree
/// holds at all. The mount table of the calling thread has to be its own.
///
/// # Errors
/// As [`Cmd::run`].
pub fn try_in<A: AsRef<OsStr>>(root: &Path, argv: impl IntoIterator<Item = A>) -> Result<()> {
    let root = fs::canonicalize(root).map_err(|e| SysError::io("entering", root, e))?;
    let shown = MountGuard::bind_read_only(&root, &root)?;
    let tried = Cmd::argv(argv)?.chroot(&root).own_group().timeout(TRIAL).run();
    shown.close()?;
    Ok(tried?)
}

fn directory(place: &Path, mode: u32) -> Result<()> {
    fs::create_dir(place).map_err(|e| SysError::io("making", place, e))?;
    set_mode(place, mode)
}

fn set_mode(place: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(place, fs::Permissions::from_mode(mode))
        .map_err(|e| SysError::io("setting the mode of", place, e))
}

#[cfg(test)]
mod tests {
    use super::super::mount::can_mount;
    use super::super::namespace::{in_following_mounts, in_private_mounts};
    use super::super::process::dies;
    use super::*;

    /// A tree with just enough of this machine to run programs.
    fn tree() -> (tempfile::TempDir, MountGuard) {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["usr", "etc", "run"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), dir.path().join(name)).expect("symlink");
        }
        fs::write(dir.path().join("etc/file"), "ours").expect("written");
        let usr = MountGuard::bind_read_only(Path::new("/usr"), &dir.path().join("usr")).expect("bound");
        (dir, usr)
    }

    #[test]
    fn a_session_ends_with_its_program() {
        if !can_mount() {
            return;
        }
        let outer = in_private_mounts(|| {
            let (dir, usr) = tree();
            let mut points = MountPoints::default();
            let run = |points: &mut MountPoints, script: &str| {
                in_following_mounts(|| {
                    let mut apart = Apart::enter(dir.path(), points).expect("entered");
                    apart.show(&dir.path().join("etc/file"), b"shown", 0o755, points).expect("shown");
                    apart.show(&dir.path().join("etc/none"), b"shown", 0o755, points).expect("shown");
                    assert!(apart.show(&dir.path().join("run"), b"", 0o755, points).is_err(), "a directory");
                    assert!(apart.has_run());
                    let cmd = apart.command(["sh", "-c", script], false).expect("argv").stdin(Input::Null);
                    let output = cmd.output().expect("it runs");
                    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
                })
                .expect("namespace")
            };
            let script = "cat /etc/file /etc/none; echo; set -- /proc/[0-9]*; echo $#; echo no > /etc/file; echo $PPID";
            let (code, said) = run(&mut points, script);
            // The first process and the shell.
            assert_eq!((code, said.as_str()), (Some(0), "shownshown\n2\n1\n"));
            assert_eq!(run(&mut points, "kill -KILL $$").0, Some(137));
            let started = std::time::Instant::now();
            let (code, said) = run(&mut points, "sleep 1000 > /dev/null & grep -o '^NSpid.*' /proc/$!/status; exit 9");
            assert_eq!(code, Some(9), "{said}");
            assert!(started.elapsed() < Duration::from_secs(900), "nobody waited for it");
            points.remove();
            assert_eq!(fs::read_to_string(dir.path().join("etc/file")).expect("it"), "ours");
            for gone in ["etc/none", "dev", "proc", "sys"] {
                assert!(!dir.path().join(gone).exists(), "{gone}");
            }
            usr.close().expect("unmounted");
        });
        outer.expect("namespace");
    }

    #[test]
    fn a_program_that_is_stopped_has_ended_with_all_it_started() {
        if !can_mount() {
            return;
        }
        in_private_mounts(|| {
            let (dir, _usr) = tree();
            let mut points = MountPoints::default();
            let started = in_following_mounts(|| {
                let apart = Apart::enter(dir.path(), &mut points).expect("entered");
                let cmd = apart.command(["sh", "-c", "trap '' TERM; echo ready; sleep 1000"], false).expect("argv");
                let (send, lines) = std::sync::mpsc::channel();
                let sink: super::super::child::LineSink = Box::new(move |_, line| {
                    let _ = send.send(line.to_owned());
                });
                let child =
                    super::super::Child::spawn("shell", cmd.stdin(Input::Null), super::super::ChildOutput::Lines(sink))
                        .expect("started");
                assert_eq!(lines.recv_timeout(TRIAL).as_deref(), Ok("ready"));
                let inside =
                    fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.pid())).expect("its child");
                child.stop(super::super::Signal::TERM, TRIAL).expect("stopped");
                inside.trim().to_owned()
            });
            let first = started.expect("namespace");
            assert!(!Path::new("/proc").join(&first).exists(), "reaped before the one outside ended");
            assert!(dies(&first));
            points.remove();
        })
        .expect("namespace");
    }

    #[test]
    fn a_trial_writes_nothing() {
        if !can_mount() {
            return;
        }
        in_private_mounts(|| {
            // What is mounted below a tree is none of it.
            let dir = tempfile::tempdir().expect("temporary directory");
            let needed = Cmd::argv(["ldd", "/bin/sh"]).expect("argv").read_string().expect("ldd");
            let libraries = needed.split_whitespace().filter(|word| word.starts_with('/'));
            let copy = Cmd::argv(["cp", "--parents", "--dereference", "/bin/sh"]).expect("argv");
            copy.args(libraries).arg(dir.path()).run().expect("copied");
            try_in(dir.path(), ["/bin/sh", "-c", ":"]).expect("it runs");
            let error = try_in(dir.path(), ["/bin/sh", "-c", "echo x > /x"]).expect_err("refused").to_string();
            assert!(error.contains("Read-only file system"), "{error}");
            assert!(Apart::enter(Path::new("/"), &mut MountPoints::default()).is_err(), "the running system");
        })
        .expect("namespace");
    }
}
