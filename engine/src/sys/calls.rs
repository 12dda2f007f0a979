//! The few calls that Rust cannot check.
//!
//! Everything here is wrapped so that the rest of `sys` stays safe code; nothing else may use
//! `unsafe` (the workspace lint forbids it).
#![allow(unsafe_code, reason = "pre_exec, unshare and signalfd have no safe form")]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

/// What a child does to itself between fork and exec.
#[derive(Debug, Clone, Default)]
pub(super) struct BeforeExec {
    /// The signal the child gets when the *thread* that forked it ends.
    pub(super) death_signal: Option<Signal>,
    /// Root directory, then working directory inside it.
    pub(super) chroot: Option<(CString, CString)>,
}

/// Arranges for `setup` to happen in the child.
pub(super) fn before_exec(command: &mut Command, setup: BeforeExec) {
    let parent = rustix::process::getpid();
    let hook = move || in_child(&setup, parent);
    // SAFETY: after fork in a process with threads only async-signal-safe things may happen in the
    // child. `in_child` makes plain system calls (rustix calls the kernel directly, sigemptyset and
    // pthread_sigmask are async-signal-safe as of signal-safety(7)) on values made before the fork: it
    // allocates nothing, takes no lock, and cannot panic.
    unsafe {
        command.pre_exec(hook);
    }
}

/// Runs in the child: system calls only.
fn in_child(setup: &BeforeExec, parent: Pid) -> io::Result<()> {
    unblock_signals()?;
    if let Some(signal) = setup.death_signal {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the line above: then nobody would ever tell us.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
    }
    if let Some((root, dir)) = &setup.chroot {
        rustix::process::chroot(root.as_c_str())?;
        rustix::process::chdir(dir.as_c_str())?;
    }
    Ok(())
}

/// A program inherits what its parent blocks ([`signals_as_file`]): it could then be ended by SIGKILL only,
/// and would survive our death.
fn unblock_signals() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given a valid pointer to; pthread_sigmask reads it.
    let error = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Gives the calling thread a mount table of its own.
pub(super) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the danger of unshare is `FILES` (threads that no longer share descriptors); only
    // NEWNS is passed, which concerns the mount table and, implied, the working directory.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.map_err(io::Error::from)
}

/// Blocks signals for the calling thread (threads it makes later inherit that, programs do not: see
/// [`in_child`]) and makes them readable from a descriptor instead.
pub(super) fn signals_as_file(signals: &[Signal]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given a valid pointer to; the following calls
    // get that set and constants only; signalfd returns a new descriptor that nobody else owns.
    let fd = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        let blocked = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: checked to be a descriptor, and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
