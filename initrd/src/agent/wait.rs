//! Waiting for something with a deadline: woken by the kernel's events, never by looking again and again.
//!
//! Whoever waits opens the source of events first and looks then: nothing can happen unseen in between.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use systemimager_engine::sys::dirwatch::DirWatch;

/// The multicast group of network interfaces (`RTMGRP_LINK`, rtnetlink(7)): they appear, go, get a carrier.
const LINKS: u32 = 1;

/// A descriptor that becomes readable when something happened. What it says is thrown away: the waiting one
/// looks at the thing itself.
pub struct Events(OwnedFd);

impl Events {
    /// An interface appears, goes, or changes its carrier.
    ///
    /// # Errors
    /// The kernel has no rtnetlink(7).
    pub fn of_interfaces() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .and_then(|socket| rustix::net::bind(&socket, &SocketAddrNetlink::new(0, LINKS)).map(|()| socket));
        socket.map(Self).context("listening to the kernel's events of network interfaces (rtnetlink)")
    }

    /// Something changes in this directory: a file appears, is written and closed, or goes.
    ///
    /// # Errors
    /// The directory cannot be watched.
    pub fn of_files_in(dir: &Path) -> Result<Self> {
        Ok(Self(DirWatch::new([dir])?.into()))
    }

    /// Throws away what has come.
    fn empty(&self) {
        let mut bytes = [0_u8; 16 * 1024];
        loop {
            match rustix::io::read(&self.0, &mut bytes) {
                // More came than there was room for: looked at all the same.
                Ok(1..) | Err(Errno::INTR | Errno::NOBUFS) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }
}

/// Looks at the beginning and after every event until `condition` gives something, or the time is over.
/// `tick` is how often it looks although nothing happened, for what is due by the clock.
pub fn until<T>(
    limit: Duration,
    tick: Duration,
    events: &[&Events],
    mut condition: impl FnMut() -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        for source in events {
            source.empty();
        }
        if let Some(value) = condition() {
            return Some(value);
        }
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        let mut fds: Vec<PollFd<'_>> = events.iter().map(|source| PollFd::new(&source.0, PollFlags::IN)).collect();
        let time = tick.min(left);
        let time = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        // Interrupted: looked at all the same.
        let _ = poll(&mut fds, Some(&time));
    }
}

/// Lets time pass between two tries of asking another machine: no event tells when it is back. Never for
/// synchronisation: what can be waited for is waited for with [`until`].
pub fn pause(time: Duration) {
    std::thread::park_timeout(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn an_event_wakes_long_before_the_time_is_over() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let events = Events::of_files_in(dir.path()).expect("a watch");
        let interfaces = Events::of_interfaces().expect("rtnetlink");
        let (from, to) = (dir.path().join("other"), dir.path().join("lease"));
        let begun = Instant::now();
        let (looked, looks) = std::sync::mpsc::channel();
        let writer = {
            let to = to.clone();
            std::thread::spawn(move || {
                // Not before it has been looked for in vain.
                looks.recv().expect("looked");
                std::fs::create_dir(&from).expect("a directory nobody asked for");
                let part = from.join("part");
                std::fs::write(&part, "whole").expect("written");
                std::fs::rename(&part, &to).expect("moved");
            })
        };
        let found = until(LONG, LONG, &[&events, &interfaces], || {
            let text = std::fs::read_to_string(&to).ok();
            let _ = looked.send(());
            text
        });
        writer.join().expect("no panic");
        assert_eq!(found.as_deref(), Some("whole"));
        assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    }

    #[test]
    fn ends_with_the_time() {
        let begun = Instant::now();
        assert_eq!(until::<()>(Duration::from_millis(150), LONG, &[], || None), None);
        assert!((Duration::from_millis(150)..LONG / 2).contains(&begun.elapsed()));
        let mut count = 0;
        let third = until(LONG, Duration::from_millis(1), &[], || {
            count += 1;
            (count == 3).then_some(count)
        });
        assert_eq!(third, Some(3), "the clock wakes too");
    }

    #[test]
    fn what_has_happened_is_thrown_away() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let events = Events::of_files_in(dir.path()).expect("a watch");
        for name in ["a", "b"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        let mut looks = 0;
        let none = until::<()>(Duration::from_millis(100), LONG, &[&events], || {
            looks += 1;
            None
        });
        assert_eq!(none, None);
        assert!(looks <= 3, "a source that is not emptied would never let it wait: {looks}");
    }

    #[test]
    fn a_new_interface_is_an_event() {
        let begun = Instant::now();
        let seen = std::thread::spawn(|| {
            // A network of its own, on this thread alone.
            #[expect(
                deprecated,
                reason = "the danger is in sharing descriptors no longer (FILES), which is not asked"
            )]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).ok()?;
            let events = Events::of_interfaces().expect("rtnetlink");
            let mut rounds = 0;
            until(LONG, LONG, &[&events], || {
                rounds += 1;
                if rounds == 1 {
                    let ip = systemimager_engine::sys::Tool::Ip;
                    systemimager_engine::sys::Cmd::tool(ip).args(["link", "set", "lo", "up"]).run().ok()?;
                }
                (rounds == 2).then_some(())
            })
        });
        match seen.join().expect("no panic") {
            Some(()) => assert!(begun.elapsed() < LONG / 2),
            None => {
                let line = b"SKIPPED: a_new_interface_is_an_event: it needs root and ip(8)\n";
                let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
            }
        }
    }
}
