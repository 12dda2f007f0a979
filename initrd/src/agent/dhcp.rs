//! A DHCP client (RFC 2131) for one interface, in a thread: it asks until there is an answer, and renews the lease while
//! the machine is being installed.
//!
//! Of our own, because where several servers answer, one whose network does not lead to the image server has to be
//! passed over ([`Client::refuse`]): clients that take the first offer would take the same one again and again.

mod message;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use systemimager_core::Lease;
use systemimager_engine::sys::atomic;

use crate::places;
use message::{Asker, Kind, Reply};

/// How often is asked anew while nobody answers.
const RESEND: Duration = Duration::from_secs(2);
/// How long a server may take to confirm what it offered.
const CONFIRMS: Duration = Duration::from_secs(6);
/// How long another server is waited for when only refused ones answer.
const OTHERS: Duration = Duration::from_secs(6);
/// How soon it is noticed that the client is not wanted any more, or its lease refused.
const NOTICE: Duration = Duration::from_millis(500);
/// A lease for which no time is given is renewed as one of this many seconds.
const LEASE_SECONDS: u32 = 3600;
/// Most servers that are remembered as refused.
const MOST_REFUSED: usize = 16;

/// A client; it stops when dropped.
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    interface: String,
    mac: String,
    /// Where the lease is written, for people, and to wake who waits for it.
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    failed: Option<String>,
    /// The lease was refused, and another is to be found.
    refused: bool,
    stopped: bool,
}

impl Client {
    /// Starts asking.
    ///
    /// # Errors
    /// The MAC is none, or no thread can be had.
    pub fn start(interface: &str, mac: &str) -> Result<Self> {
        Self::start_in(interface, mac, Path::new(places::RUN_DIR))
    }

    fn start_in(interface: &str, mac: &str, dir: &Path) -> Result<Self> {
        let shared = Arc::new(Shared {
            interface: interface.to_owned(),
            mac: mac.to_owned(),
            file: dir.join(format!("lease-{interface}.json")),
            state: Mutex::default(),
        });
        let bytes = mac_bytes(mac).with_context(|| format!("{interface} has the MAC {mac:?}, which is none"))?;
        let client = Self { shared: Arc::clone(&shared) };
        std::thread::Builder::new()
            .name(format!("dhcp on {interface}"))
            .spawn(move || {
                if let Err(error) = Asking::new(&shared, bytes).and_then(|mut asking| asking.run()) {
                    shared.state().failed = Some(format!("the DHCP client on {} ended: {error:#}", shared.interface));
                }
            })
            .context("starting the thread of the DHCP client")?;
        Ok(client)
    }

    /// The lease, once there is one.
    ///
    /// # Errors
    /// The client has ended.
    pub fn lease(&self) -> Result<Option<Lease>> {
        let state = self.shared.state();
        match &state.failed {
            Some(why) => bail!("{why}"),
            None => Ok(state.lease.clone()),
        }
    }

    /// The lease is of no use: another server is asked for one, if there is another.
    pub fn refuse(&self) {
        let mut state = self.shared.state();
        state.lease = None;
        state.refused = true;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread has.
struct Asking<'a> {
    shared: &'a Shared,
    socket: UdpSocket,
    mac: [u8; 6],
    begun: Instant,
    /// Servers whose leases were of no use.
    refused: Vec<Ipv4Addr>,
}

impl<'a> Asking<'a> {
    fn new(shared: &'a Shared, mac: [u8; 6]) -> Result<Self> {
        let socket = open(&shared.interface).with_context(|| format!("opening a socket on {}", shared.interface))?;
        Ok(Self { shared, socket, mac, begun: Instant::now(), refused: Vec::new() })
    }

    /// Until the client is dropped.
    fn run(&mut self) -> Result<()> {
        while !self.stopped() {
            let Some(offer) = self.offer()? else { continue };
            let Some(server) = offer.server else { continue };
            let taken = self.confirmed(&Asks::For(offer.address), server)?;
            if let Some(reply) = taken {
                let (address, seconds) = (reply.address, reply.seconds);
                self.publish(reply)?;
                self.keep(address, server, seconds)?;
            }
            // Not confirmed, or refused: others first, from now on.
            self.refused.retain(|known| *known != server);
            self.refused.push(server);
            if self.refused.len() > MOST_REFUSED {
                self.refused.remove(0);
            }
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.shared.state().stopped
    }

    fn asker(&self) -> Asker {
        let secs = u16::try_from(self.begun.elapsed().as_secs()).unwrap_or(u16::MAX);
        // A random number, from the keys of a new hash.
        let xid = RandomState::new().build_hasher().finish().to_be_bytes();
        Asker { mac: self.mac, xid: u32::from_be_bytes([xid[0], xid[1], xid[2], xid[3]]), secs }
    }

    /// An offer of a server that was not refused; of a refused one where no other answers for a while.
    fn offer(&mut self) -> Result<Option<Reply>> {
        let mut second: Option<(Reply, Instant)> = None;
        let asker = self.asker();
        let message = message::write(&asker, Kind::Discover, None, None);
        let refused = self.refused.clone();
        let found = self.exchange(&message, &asker, None, &mut |reply| {
            let server = reply.server.filter(|_| reply.kind == Kind::Offer)?;
            if !refused.contains(&server) {
                return Some(reply);
            }
            let (first, since) = second.get_or_insert((reply, Instant::now()));
            (since.elapsed() >= OTHERS).then(|| first.clone())
        })?;
        Ok(found)
    }

    /// What the server confirms of what it is asked for.
    fn confirmed(&mut self, asks: &Asks, server: Ipv4Addr) -> Result<Option<Reply>> {
        let asker = self.asker();
        let (takes, has) = match asks {
            Asks::For(address) => (Some((*address, server)), None),
            Asks::ToKeep(address) => (None, Some(*address)),
        };
        let message = message::write(&asker, Kind::Request, takes, has);
        let reply =
            self.exchange(&message, &asker, Some(CONFIRMS), &mut |reply| decides(&reply, server).then_some(reply))?;
        Ok(reply.filter(|reply| reply.kind == Kind::Ack && !reply.address.is_unspecified()))
    }

    /// Sends, again and again, until an answer is taken, or the time is over, or the client is dropped.
    fn exchange(
        &mut self,
        message: &[u8],
        asker: &Asker,
        limit: Option<Duration>,
        take: &mut dyn FnMut(Reply) -> Option<Reply>,
    ) -> Result<Option<Reply>> {
        let begun = Instant::now();
        let mut sent: Option<Instant> = None;
        let mut bytes = [0; 4096];
        while !self.stopped() && limit.is_none_or(|limit| begun.elapsed() < limit) {
            if sent.is_none_or(|at| at.elapsed() >= RESEND) {
                sent = Some(Instant::now());
                // A network that is just down comes again; who waits has the deadline.
                if let Err(error) = self.socket.send_to(message, (Ipv4Addr::BROADCAST, 67)) {
                    tracing::debug!("DHCP on {}: {error}", self.shared.interface);
                }
            }
            match self.socket.recv(&mut bytes) {
                Ok(length) => {
                    let reply = bytes.get(..length).and_then(|bytes| message::read(bytes, asker));
                    if let Some(taken) = reply.and_then(&mut *take) {
                        return Ok(Some(taken));
                    }
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error).context("waiting for an answer"),
            }
        }
        Ok(None)
    }

    fn publish(&self, reply: Reply) -> Result<()> {
        let lease = reply.lease(&self.shared.interface, &self.shared.mac);
        let text = serde_json::to_vec(&lease)?;
        {
            let mut state = self.shared.state();
            state.lease = Some(lease);
            state.refused = false;
        }
        // Last: it wakes who waits.
        atomic::write(&self.shared.file, &text, 0o644)?;
        Ok(())
    }

    /// Renews the lease at half of its time, until it is refused or the client dropped. An address that the server
    /// does not confirm any more stays until the machine ends: a half-installed machine without one is worse.
    fn keep(&mut self, address: Ipv4Addr, server: Ipv4Addr, seconds: Option<u32>) -> Result<()> {
        let mut renew = Instant::now() + half(seconds);
        loop {
            {
                let state = self.shared.state();
                if state.stopped || state.refused {
                    return Ok(());
                }
            }
            if Instant::now() >= renew {
                let reply = self.confirmed(&Asks::ToKeep(address), server)?;
                if reply.is_none() {
                    tracing::warn!("DHCP on {}: the lease of {address} was not renewed", self.shared.interface);
                }
                renew = Instant::now() + half(reply.and_then(|reply| reply.seconds).or(seconds)) / 2;
            }
            // Also throws away what comes for nobody.
            let mut bytes = [0; 4096];
            match self.socket.recv(&mut bytes) {
                Err(error) if !is_passing(&error) => return Err(error).context("keeping the lease"),
                _ => {}
            }
        }
    }
}

/// What a server is asked to confirm.
enum Asks {
    /// An address that it offered.
    For(Ipv4Addr),
    /// The address that it gave a while ago.
    ToKeep(Ipv4Addr),
}

/// Whether a reply decides what `server` was asked. The question goes to all, and one that thinks itself the only
/// server of its network says no to what it did not give.
fn decides(reply: &Reply, server: Ipv4Addr) -> bool {
    matches!(reply.kind, Kind::Ack | Kind::Nak) && reply.server.is_none_or(|other| other == server)
}

fn half(seconds: Option<u32>) -> Duration {
    // A lease of seconds would have us ask without end.
    Duration::from_secs(u64::from(seconds.unwrap_or(LEASE_SECONDS) / 2).max(10))
}

/// Nothing came in time, or the network is down for a moment.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, NetworkDown, NetworkUnreachable, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted | NetworkDown | NetworkUnreachable)
}

/// A socket that sends and hears broadcasts on one interface, which has no address yet.
fn open(interface: &str) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into())?;
    socket.set_read_timeout(Some(NOTICE))?;
    Ok(socket.into())
}

/// The lease in a datagram, if it is an answer to this client.
pub(super) fn lease_in(datagram: &[u8], mac: [u8; 6], xid: u32) -> Option<Lease> {
    let shown = mac.map(|byte| format!("{byte:02x}")).join(":");
    Some(message::read(datagram, &Asker { mac, xid, secs: 0 })?.lease("eth0", &shown))
}

fn mac_bytes(mac: &str) -> Option<[u8; 6]> {
    let parts: Vec<u8> = mac.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect::<Option<_>>()?;
    parts.try_into().ok()
}

#[cfg(test)]
mod tests;
