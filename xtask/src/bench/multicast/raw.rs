//! The floor: datagrams sent to a group as fast as the wire takes them, with no word back, and counted where they arrive. Nobody
//! who sends the same bytes can be faster.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt};
use socket2::SockRef;
use systemimager_tests::many::Many;

/// Bytes of a datagram that fills a packet of Ethernet.
pub const DATAGRAM: usize = 1472;
/// Headers of IPv4, UDP and Ethernet.
const HEADERS: usize = 20 + 8 + 14;
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 192, 9, 9), 9009);
/// Datagrams in one call.
const BATCH: usize = 32;
/// Nothing for so long: that was all.
const END: Duration = Duration::from_millis(700);

/// What came of it.
pub struct Blast {
    /// Until the last datagram arrived anywhere.
    pub wall: Duration,
    /// All arrived everywhere.
    pub whole: bool,
}

/// What so many bytes take on the wire.
pub fn on_wire(bytes: usize) -> usize {
    bytes.div_ceil(DATAGRAM) * (DATAGRAM + HEADERS)
}

/// Sends so many bytes to the first receivers.
pub fn blast(many: &Many, receivers: usize, bytes: usize) -> Result<Blast> {
    let count = bytes.div_ceil(DATAGRAM);
    let ready = Arc::new(AtomicUsize::new(0));
    let mut counting = Vec::new();
    for host in many.receivers.iter().take(receivers) {
        let (host, ready) = (host.clone(), Arc::clone(&ready));
        counting.push(std::thread::spawn(move || host.inside(move || count_arrivals(&ready, count))));
    }
    while ready.load(Ordering::SeqCst) < receivers {
        std::thread::sleep(Duration::from_millis(2));
    }
    let begun = Instant::now();
    many.server.inside(move || send(count)).context("sending")?;
    let mut blast = Blast { wall: Duration::ZERO, whole: true };
    for thread in counting {
        let (last, arrived) = thread.join().map_err(|_| anyhow::anyhow!("a receiver panicked"))?.context("counting")?;
        blast.whole &= arrived == count;
        blast.wall = blast.wall.max(last.saturating_duration_since(begun));
    }
    Ok(blast)
}

fn send(count: usize) -> std::io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    SockRef::from(&socket).set_multicast_if_v4(&local()?)?;
    let datagram = [7_u8; DATAGRAM];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut left = count;
    let to = Some(SockaddrIn::from(GROUP));
    while left > 0 {
        let now = left.min(BATCH);
        let slices = vec![[IoSlice::new(&datagram)]; now];
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, vec![to; now], [], MsgFlags::empty())?.count();
        left -= sent;
    }
    Ok(())
}

fn count_arrivals(ready: &AtomicUsize, all: usize) -> std::io::Result<(Instant, usize)> {
    let socket = UdpSocket::bind(GROUP)?;
    socket.join_multicast_v4(GROUP.ip(), &local()?)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
    socket.set_read_timeout(Some(END))?;
    ready.fetch_add(1, Ordering::SeqCst);
    let mut buffers = vec![vec![0_u8; 2048]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let (mut arrived, mut last) = (0, Instant::now());
    let begun = Instant::now();
    while arrived < all {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = buffers.iter_mut().map(|it| [IoSliceMut::new(it)]).collect();
        match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
            Ok(messages) => {
                arrived += messages.count();
                last = Instant::now();
            }
            // Before the first the sender may still be getting ready.
            Err(nix::errno::Errno::EAGAIN) if arrived == 0 && begun.elapsed() < END * 10 => {}
            Err(nix::errno::Errno::EAGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok((last, arrived))
}

fn local() -> std::io::Result<Ipv4Addr> {
    let all = nix::ifaddrs::getifaddrs()?;
    let mut addresses =
        all.filter(|it| it.interface_name == "eth0").filter_map(|it| Some(it.address?.as_sockaddr_in()?.ip()));
    addresses.next().ok_or_else(|| std::io::Error::other("eth0 has no address"))
}
