//! Signals as events: SIGCHLD, and the orders that `reboot` and `poweroff` of busybox give to PID 1.
//!
//! They are blocked and read from a descriptor; no handler ever runs. What is started gets an empty mask
//! again ([`unblocked`]): a program that inherits a blocked SIGTERM could not be stopped in order.
#![allow(unsafe_code, reason = "signalfd(2), sigprocmask(2) and pre_exec have no safe form")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a signal means to PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// A process has ended.
    Child,
    /// Restart (SIGTERM; SIGINT is Control-Alt-Delete).
    Reboot,
    /// Switch off (SIGUSR2; SIGUSR1 says halt).
    Poweroff,
    /// Put shells on the consoles: the agent waits for a person (SIGHUP).
    Shells,
}

const SIGNALS: [(libc::c_int, Order); 6] = [
    (libc::SIGHUP, Order::Shells),
    (libc::SIGCHLD, Order::Child),
    (libc::SIGTERM, Order::Reboot),
    (libc::SIGINT, Order::Reboot),
    (libc::SIGUSR1, Order::Poweroff),
    (libc::SIGUSR2, Order::Poweroff),
];

/// Bytes of a `signalfd_siginfo`; its first four are the signal's number.
const RECORD: usize = 128;

/// The descriptor.
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Blocks these signals for this thread and makes them readable.
    pub(super) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that it is given a valid pointer to; the following calls
        // get that set and constants only; signalfd returns a new descriptor that nobody else owns.
        let fd = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for (signal, _) in SIGNALS {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: checked to be a descriptor, and ours alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// What has come, without waiting.
    pub(super) fn take(&self) -> Vec<Order> {
        let mut bytes = [0; RECORD * 16];
        let count = rustix::io::read(&self.0, &mut bytes).unwrap_or(0);
        let records = bytes.get(..count).unwrap_or_default().chunks_exact(RECORD);
        let number = |record: &[u8]| record.first_chunk().map(|first| u32::from_ne_bytes(*first));
        let order = |number: u32| {
            SIGNALS.iter().find(|(signal, _)| u32::try_from(*signal) == Ok(number)).map(|(_, order)| *order)
        };
        records.filter_map(number).filter_map(order).collect()
    }
}

/// Sees to it that the program starts with no signal blocked.
pub(super) fn unblocked(command: &mut Command) {
    let unblock = || {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set; sigprocmask reads it.
        let failed = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()) != 0
        };
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; both are (signal-safety(7)), and
    // nothing is allocated.
    unsafe {
        command.pre_exec(unblock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_and_children_do_not_inherit_the_mask() {
        // A thread of its own: the mask is the thread's.
        let seen = std::thread::spawn(|| {
            let signals = Signals::block().expect("signalfd");
            let thread = rustix::thread::gettid();
            // SAFETY: a signal to our own thread, which blocks it.
            unsafe { libc::syscall(libc::SYS_tkill, thread.as_raw_nonzero().get(), libc::SIGUSR2) };
            let mask = super::super::spawn::mask_of_a_child();
            (signals.take(), mask)
        });
        let (orders, mask) = seen.join().expect("no panic");
        // The child that told its mask may be seen to end.
        let orders: Vec<Order> = orders.into_iter().filter(|order| *order != Order::Child).collect();
        assert_eq!(orders, [Order::Poweroff]);
        assert_eq!(mask.as_deref(), Some("0000000000000000"));
    }
}
