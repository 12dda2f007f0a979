//! The few calls that Rust cannot check.
//!
//! Everything here is wrapped so that the rest of `sys` stays safe code; nothing else may use
//! `unsafe` (the workspace lint forbids it).
#![allow(unsafe_code, reason = "pre_exec, unshare, fork, signal masks and signalfd have no safe form")]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::UnshareFlags;

/// What a child does to itself between fork and exec.
#[derive(Debug, Clone, Default)]
pub(super) struct BeforeExec {
    /// The signal the child gets when the *thread* that forked it ends.
    pub(super) death_signal: Option<Signal>,
    /// Root directory, then working directory inside it.
    pub(super) chroot: Option<(CString, CString)>,
    /// Processes of its own, before that.
    pub(super) apart: Option<Apart>,
}

/// A program with a process namespace of its own (pid_namespaces(7)): all that it starts ends with it, and with us.
#[derive(Debug, Clone)]
pub(super) struct Apart {
    /// The directory where that namespace's /proc is mounted; the mount table is one of our own ([`unshare_mounts`]).
    pub(super) proc: CString,
    /// Its `sys`, which is shown read-only: what it sets is this machine's.
    pub(super) proc_sys: CString,
    /// The terminal of standard input becomes the program's, in a process group of its own.
    pub(super) terminal: bool,
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
    if let Some(apart) = &setup.apart {
        go_apart(apart)?;
    }
    if let Some((root, dir)) = &setup.chroot {
        rustix::process::chroot(root.as_c_str())?;
        rustix::process::chdir(dir.as_c_str())?;
    }
    Ok(())
}

/// Goes on in a process namespace of its own. Two processes stay behind, which do nothing but wait: the one that our
/// program knows as its child, outside, and the first one of the namespace, with which the kernel ends all others there.
/// (The program itself is not the first: signals would not end it.)
fn go_apart(setup: &Apart) -> io::Result<()> {
    let outside = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    // SAFETY: as in `unshare_mounts`; this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }?;
    if let Some(first) = fork()? {
        stand_in(first, true);
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before the line above, and its id is 0 from here.
    let mut died = [PollFd::new(&outside, PollFlags::IN)];
    if rustix::event::poll(&mut died, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0 {
        return Err(io::Error::from(rustix::io::Errno::SRCH));
    }
    // Only who is in the namespace can mount its /proc.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"proc", setup.proc.as_c_str(), c"proc", flags, None)?;
    mount_bind(setup.proc_sys.as_c_str(), setup.proc_sys.as_c_str())?;
    mount_remount(setup.proc_sys.as_c_str(), flags | MountFlags::BIND | MountFlags::RDONLY, c"")?;
    if let Some(program) = fork()? {
        stand_in(program, false);
    }
    if setup.terminal {
        rustix::process::setpgid(None, None)?;
        // Without a terminal to control there is none to give.
        let _ = give_terminal(rustix::process::getpid());
        heed_the_terminal();
    }
    unblock_signals()
}

/// fork(2): the child's id, or nothing in the child.
fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: the calling process is itself fresh from a fork and has one thread; both sides go on with system calls
    // only. fork is async-signal-safe as of signal-safety(7).
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child)),
    }
}

/// Waits for `child`, reaping whatever else ends, and ends as it did (128 and the signal's number, as shells say it).
/// With `stoppable` SIGTERM kills the child, and waiting goes on: who waits for us knows then that all is over.
fn stand_in(child: libc::pid_t, stoppable: bool) -> ! {
    let mut status = 0;
    let mut waited_for = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: as in `in_child`: system calls, and functions that are async-signal-safe, on values of this function. The
    // descriptors that are closed are this process's copies, which nothing uses any more: it never returns.
    unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
        libc::sigemptyset(waited_for.as_mut_ptr());
        libc::sigaddset(waited_for.as_mut_ptr(), libc::SIGCHLD);
        libc::sigaddset(waited_for.as_mut_ptr(), libc::SIGTERM);
        // Nobody is to wait for the end of a pipe that only we hold open. (The call came with Linux 5.9.)
        if libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) != 0 {
            for descriptor in 0..1024 {
                libc::close(descriptor);
            }
        }
        loop {
            match libc::waitpid(-1, &raw mut status, libc::WNOHANG) {
                0 => {
                    if libc::sigwaitinfo(waited_for.as_ptr(), std::ptr::null_mut()) == libc::SIGTERM && stoppable {
                        libc::kill(child, libc::SIGKILL);
                    }
                }
                -1 => libc::_exit(255),
                ended if ended != child => {}
                _ if libc::WIFEXITED(status) => libc::_exit(libc::WEXITSTATUS(status)),
                _ => libc::_exit(128 + libc::WTERMSIG(status)),
            }
        }
    }
}

/// Makes a process group the one that reads the terminal of standard input.
///
/// # Errors
/// It is not the terminal that controls this session.
pub(super) fn give_terminal(group: Pid) -> io::Result<()> {
    let (mut set, mut before) = (MaybeUninit::<libc::sigset_t>::uninit(), MaybeUninit::<libc::sigset_t>::uninit());
    // SAFETY: the set is initialised by sigemptyset before it is read, `before` by the first pthread_sigmask before the
    // second; all are async-signal-safe.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        // Who is not in the foreground is stopped by this signal for what follows, unless it is blocked.
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTOU);
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let given = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), group);
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        Ok(given?)
    }
}

/// Who has a terminal heeds its keys, whatever we were started by: a shell ignores them for what it runs in the background,
/// a program inherits that, and a shell does not undo it for its jobs.
fn heed_the_terminal() {
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP] {
        // SAFETY: signal is async-signal-safe as of signal-safety(7), and no handler of ours is involved.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
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

/// Gives the calling thread a network, and means of talking between processes, that nobody else is in.
pub(super) fn unshare_network() -> io::Result<()> {
    // SAFETY: as in `unshare_mounts`; nothing here concerns descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWIPC) }.map_err(io::Error::from)
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
