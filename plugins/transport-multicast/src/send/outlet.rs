//! Where the datagrams of a session go out: numbered and sealed, and a few at a time, because a call for each costs more than all
//! the rest that is done for it.

use std::io::IoSlice;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use socket2::Socket;

use super::group::FRAME;
use super::pace::Pace;
use crate::wire::datagram::{Datagram, Sealer};

/// Datagrams that go out at once, at most: what a switch takes in one piece without losing any.
const BATCH: usize = 32;
/// What goes out at once takes no longer than this part of a second on the wire.
const PART: u64 = 1000;

/// The way out of one session.
pub struct Outlet {
    sealer: Sealer,
    /// To the group, if there is one.
    socket: Option<Socket>,
    pace: Arc<Pace>,
    /// Of the next datagram.
    number: u64,
    buffers: Vec<Vec<u8>>,
    /// How many of the buffers are full, and how many may be.
    full: usize,
    most: usize,
    /// Bytes with all headers so far.
    bytes: u64,
}

impl Outlet {
    /// To this group, at this pace.
    pub fn new(sealer: Sealer, socket: Option<Socket>, pace: Arc<Pace>) -> Self {
        Self { sealer, socket, pace, number: 1, buffers: vec![Vec::new(); BATCH], full: 0, most: 1, bytes: 0 }
    }

    /// Whether there is a group.
    pub fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Of the next datagram.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes that were sent, with all headers.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many bytes a second are sent from now on.
    pub fn set_rate(&mut self, rate: u64, datagram: usize) {
        self.pace.set(rate);
        let most = rate / PART / (datagram + FRAME).max(1) as u64;
        self.most = usize::try_from(most).unwrap_or(BATCH).clamp(1, BATCH);
    }

    /// A datagram is to go out: now, or with the next ones.
    pub fn put(&mut self, datagram: &Datagram<'_>) {
        if let Some(buffer) = self.buffers.get_mut(self.full) {
            self.sealer.seal(self.number, datagram, buffer);
            self.number += 1;
            self.full += 1;
        }
        if self.full >= self.most {
            self.flush();
        }
    }

    /// Nothing is left behind.
    pub fn flush(&mut self) {
        let full = self.buffers.get(..std::mem::take(&mut self.full)).unwrap_or_default();
        let bytes: usize = full.iter().map(|buffer| buffer.len() + FRAME).sum();
        if bytes == 0 {
            return;
        }
        self.pace.take(bytes);
        self.bytes += bytes as u64;
        let Some(socket) = &self.socket else { return };
        let slices: Vec<[IoSlice<'_>; 1]> = full.iter().map(|buffer| [IoSlice::new(buffer)]).collect();
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(slices.len(), None);
        let mut left = slices.as_slice();
        while !left.is_empty() {
            // The socket knows where to.
            let to = vec![None; left.len()];
            let sent = sendmmsg(socket.as_raw_fd(), &mut headers, left, to, [], MsgFlags::empty());
            // What cannot be sent just now is lost, as on the way: it is repaired.
            let sent = sent.map_or(1, |sent| sent.count().max(1));
            left = left.get(sent..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::wire::datagram::Kind;

    #[test]
    fn all_go_out_in_order() {
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.connect(there.local_addr().unwrap()).unwrap();
        let sealer = Sealer::new(7, &[1; 32]);
        let mut outlet = Outlet::new(Sealer::new(7, &[1; 32]), Some(here.into()), Arc::new(Pace::new(100_000_000)));
        for rate in [1, 1_000_000, 1_000_000_000] {
            outlet.set_rate(rate, 1000);
            // A rate that is this low is for the size of the batch alone.
            outlet.pace.set(100_000_000);
            let first = outlet.number();
            for symbol in 0..70 {
                let bytes = &[symbol as u8; 100];
                outlet.put(&Datagram { kind: Kind::Plain, block: 3, length: 9000, symbol, bytes });
            }
            outlet.flush();
            assert_eq!(outlet.number(), first + 70);
            for symbol in 0..70_u16 {
                let mut room = [0; 2000];
                let length = there.recv(&mut room).unwrap();
                let (number, datagram) = sealer.open(&mut room[..length]).unwrap();
                assert_eq!((number, datagram.symbol), (first + u64::from(symbol), symbol));
                assert_eq!(datagram.bytes, &[symbol as u8; 100]);
            }
        }
        let each = 100 + crate::wire::datagram::OVERHEAD + FRAME;
        assert_eq!(outlet.bytes(), 210 * each as u64);
    }
}
