//! Drivers: a module for every device that names one, now and when a device appears later.
//!
//! A thread listens to the kernel's events (netlink, `NETLINK_KOBJECT_UEVENT`) from before the first look
//! at /sys: nothing can appear unseen in between.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use systemimager_engine::sys::modules;

/// The multicast group of the kernel's own events (udev's are in group 2).
const KERNEL_EVENTS: u32 = 1;
/// Room for events while modules load, bytes: a machine with many disks sends thousands at once.
const EVENT_ROOM: usize = 8 << 20;
/// Modules that no device names.
const ALWAYS: [&str; 2] = ["af_packet", "efivarfs"];

/// The thread, seen from outside.
pub struct Drivers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The first round is over.
    cold_done: bool,
    /// Rounds of events so far.
    rounds: u64,
    /// When the last event came.
    last_event: Option<Instant>,
    /// Modules that were loaded.
    loaded: BTreeSet<String>,
}

impl Drivers {
    /// Starts listening and loading.
    ///
    /// # Errors
    /// The kernel's events cannot be listened to.
    pub fn start() -> Result<Self> {
        let socket = listen().context("listening to the kernel's device events")?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("drivers".into())
            .spawn(move || run(&socket, &theirs))
            .context("starting the thread that loads drivers")?;
        Ok(Self { shared })
    }

    /// Waits until the first round is over and no device has appeared for `quiet`; at most `limit`.
    pub fn settle(&self, quiet: Duration, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let idle = state.last_event.map_or(quiet, |at| now.duration_since(at));
            if (state.cold_done && idle >= quiet) || now >= deadline {
                return;
            }
            let wait = if state.cold_done { quiet.saturating_sub(idle) } else { quiet };
            let wait = wait.min(deadline.saturating_duration_since(now));
            state = self.shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Where the kernel's events have come to, for [`Self::wait_for_more`].
    pub fn seen(&self) -> u64 {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).rounds
    }

    /// Waits until something happened to a device after `seen`; `false` if nothing did within `limit`.
    pub fn wait_for_more(&self, seen: u64, limit: Duration) -> bool {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.changed.wait_timeout_while(state, limit, |state| state.rounds == seen);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Names of the modules that were loaded so far.
    pub fn loaded(&self) -> Vec<String> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).loaded.iter().cloned().collect()
    }
}

fn listen() -> Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(KOBJECT_UEVENT),
    )?;
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, EVENT_ROOM).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, EVENT_ROOM)?;
    }
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL_EVENTS))?;
    Ok(socket)
}

fn run(socket: &OwnedFd, shared: &Shared) {
    let mut known = BTreeSet::new();
    note(shared, modules::load(&ALWAYS.map(str::to_owned)).map(|loaded| loaded.new));
    cold(&mut known, shared);
    shared.state.lock().unwrap_or_else(PoisonError::into_inner).cold_done = true;
    shared.changed.notify_all();
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        // Without end: it is for as long as the agent runs. Interrupted: looked at all the same.
        let _ = poll(&mut fds, None);
        let events = take(socket);
        if events.count == 0 {
            continue;
        }
        if events.lost {
            cold(&mut known, shared);
        }
        let new: Vec<String> = events.modaliases.into_iter().filter(|alias| known.insert(alias.clone())).collect();
        if !new.is_empty() {
            note(shared, modules::load_by_modalias(&new).map(|loaded| loaded.new));
        }
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last_event = Some(Instant::now());
        state.rounds += 1;
        drop(state);
        shared.changed.notify_all();
    }
}

/// Every device that is there: again and again until loading a driver brings no new device.
fn cold(known: &mut BTreeSet<String>, shared: &Shared) {
    loop {
        let all = match modules::collect_modaliases(Path::new("/sys")) {
            Ok(all) => all,
            Err(error) => return tracing::warn!("{error}"),
        };
        let new: Vec<String> = all.into_iter().filter(|alias| known.insert(alias.clone())).collect();
        if new.is_empty() {
            return;
        }
        note(shared, modules::load_by_modalias(&new).map(|loaded| loaded.new));
    }
}

fn note<E: std::fmt::Display>(shared: &Shared, loaded: Result<Vec<String>, E>) {
    match loaded {
        Ok(names) => shared.state.lock().unwrap_or_else(PoisonError::into_inner).loaded.extend(names),
        Err(error) => tracing::warn!("loading drivers: {error}"),
    }
}

#[derive(Default)]
struct Events {
    count: usize,
    lost: bool,
    modaliases: Vec<String>,
}

fn take(socket: &OwnedFd) -> Events {
    let mut events = Events::default();
    let mut bytes = [0_u8; 16 * 1024];
    loop {
        match rustix::net::recv(socket, bytes.as_mut_slice(), RecvFlags::empty()) {
            Ok((count, _)) => {
                events.count += 1;
                events.modaliases.extend(added_modalias(bytes.get(..count).unwrap_or_default()));
            }
            Err(rustix::io::Errno::INTR) => {}
            // More came than there was room for: which, only /sys knows.
            Err(rustix::io::Errno::NOBUFS) => {
                events.count += 1;
                events.lost = true;
            }
            Err(_) => return events,
        }
    }
}

/// The modalias of a device that was added: `add@PATH`, then `NAME=value` fields, each ended by NUL.
fn added_modalias(event: &[u8]) -> Option<String> {
    let mut fields = event.split(|byte| *byte == 0);
    if !fields.next()?.starts_with(b"add@") {
        return None;
    }
    let alias = fields.find_map(|field| field.strip_prefix(b"MODALIAS="))?;
    String::from_utf8(alias.to_vec()).ok().filter(|alias| !alias.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_an_event_after_the_last_look() {
        let drivers = Drivers { shared: Arc::default() };
        let seen = drivers.seen();
        assert!(!drivers.wait_for_more(seen, Duration::from_millis(20)), "nothing happened");
        let theirs = Arc::clone(&drivers.shared);
        let begun = Instant::now();
        let kernel = std::thread::spawn(move || {
            theirs.state.lock().expect("a lock").rounds += 1;
            theirs.changed.notify_all();
        });
        assert!(drivers.wait_for_more(seen, Duration::from_secs(60)));
        assert!(begun.elapsed() < Duration::from_secs(30));
        kernel.join().expect("no panic");
        // It has happened already: no wait at all.
        assert!(drivers.wait_for_more(seen, Duration::ZERO));
        assert!(!drivers.wait_for_more(drivers.seen(), Duration::ZERO));
    }

    #[test]
    fn events_name_what_was_added() {
        for (name, event, expected) in [
            (
                "added",
                &b"add@/devices/pci0/virtio0\0ACTION=add\0SUBSYSTEM=virtio\0MODALIAS=virtio:d2v1AF4\0SEQNUM=7\0"[..],
                Some("virtio:d2v1AF4"),
            ),
            ("removed", b"remove@/devices/x\0MODALIAS=virtio:d2\0", None),
            ("without a modalias", b"add@/devices/x\0SUBSYSTEM=block\0", None),
            ("empty", b"", None),
            ("udev's own", b"libudev\0\xfe\xed\xca\xfe", None),
        ] {
            assert_eq!(added_modalias(event).as_deref(), expected, "{name}");
        }
    }
}
