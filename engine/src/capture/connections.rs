//! Whether the image server is connected, and how long a master client waits for it.
//!
//! A capture is several connections, one after the other, with pauses in which the server works by itself:
//! it copies the old revision before it pulls the new one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How long after its last connection the server is still taken to be at work.
const PAUSE: Duration = Duration::from_secs(15 * 60);
/// How often connections are looked at: a machine that serves many has long tables.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// TCP_ESTABLISHED of the kernel's include/net/tcp_states.h, as proc(5) shows it.
const ESTABLISHED: &str = "01";

/// The time limit of an offer.
#[derive(Debug)]
pub struct Patience {
    /// Absent: so late that no clock gets there.
    deadline: Option<Instant>,
    /// When the server was connected last.
    seen: Option<Instant>,
    /// When that was looked at last.
    looked: Option<Instant>,
}

impl Patience {
    /// Waits for `limit` from `now` on.
    pub fn new(now: Instant, limit: Duration) -> Self {
        Self { deadline: now.checked_add(limit), seen: None, looked: None }
    }

    /// To be asked often: looks at connections now and then, and once more before it gives up.
    pub fn is_over(&mut self, now: Instant, connected: &dyn Fn() -> bool) -> bool {
        let within = |then: Option<Instant>, span| then.is_some_and(|then| now.saturating_duration_since(then) < span);
        let late = self.deadline.is_some_and(|deadline| now >= deadline);
        // Looked at before the limit too: it may be reached in a pause.
        if !within(self.looked, LOOK_EVERY) || late && !within(self.seen, PAUSE) {
            self.looked = Some(now);
            if connected() {
                self.seen = Some(now);
            }
        }
        late && !within(self.seen, PAUSE)
    }
}

/// Whether `peer` has a connection to this port of ours. What cannot be read counts as none.
pub fn connected(peer: IpAddr, port: u16) -> bool {
    // Of the calling thread, whose network namespace the service inherited.
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .any(|table| peers(&table, port).any(|found| found == peer.to_canonical()))
}

/// Who has a connection to a port, by a table of proc(5): number, local and remote address, state, …
pub(crate) fn peers(table: &str, port: u16) -> impl Iterator<Item = IpAddr> + '_ {
    table.lines().filter_map(move |line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (_, local_port) = local.rsplit_once(':')?;
        let (address, _) = remote.rsplit_once(':')?;
        let ours = state == ESTABLISHED && u16::from_str_radix(local_port, 16) == Ok(port);
        if ours { self::address(address) } else { None }
    })
}

/// `0100007F`: words of 32 bits, each as this machine has it in memory.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_waits_for_who_is_at_work() {
        let start = Instant::now();
        let minutes = |minutes: u64| start + Duration::from_secs(minutes * 60);
        // Name, limit in minutes, then at which minute: connected or not, and whether it is over.
        type Row<'a> = (&'a str, u64, &'a [(u64, bool, bool)]);
        let rows: [Row<'_>; 5] = [
            ("nobody comes", 10, &[(0, false, false), (9, false, false), (10, false, true)]),
            ("at once", 0, &[(0, false, true)]),
            ("in the middle", 10, &[(9, true, false), (10, true, false), (90, true, false), (106, false, true)]),
            (
                "a pause at the limit",
                10,
                &[(9, true, false), (10, false, false), (11, true, false), (20, false, false)],
            ),
            ("long ago", 100, &[(1, true, false), (99, false, false), (100, false, true)]),
        ];
        for (name, limit, looks) in rows {
            let mut patience = Patience::new(start, Duration::from_secs(limit * 60));
            for (minute, connected, over) in looks {
                assert_eq!(patience.is_over(minutes(*minute), &|| *connected), *over, "{name}, minute {minute}");
            }
        }
        assert!(!Patience::new(start, Duration::MAX).is_over(minutes(1 << 20), &|| false), "no clock gets there");
    }

    #[test]
    fn connections_are_seen() {
        for host in ["127.0.0.1", "::1"] {
            let peer: IpAddr = host.parse().unwrap();
            let Ok(listener) = std::net::TcpListener::bind((peer, 0)) else {
                println!("SKIPPED: connections_are_seen: no address {host} here");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            assert!(!connected(peer, port), "{host}: nobody came yet");
            let there = std::net::TcpStream::connect((peer, port)).unwrap();
            let (here, _) = listener.accept().unwrap();
            assert!(connected(peer, port), "{host}");
            assert!(!connected("10.0.0.1".parse().unwrap(), port), "somebody else");
            drop((there, here));
            assert!(!connected(peer, port), "{host}: gone again");
        }
    }

    #[test]
    fn tables_are_read() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let line = |local: &str, remote: &str, state: &str| {
            format!("{head}   0: {local} {remote} {state} 00000000:00000000\n")
        };
        let v4 = format!("{:08X}", u32::from_ne_bytes([10, 0, 0, 1]));
        let half = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        let mapped = format!("{:016X}{half:08X}{v4}", 0);
        let peer = Some(IpAddr::from([10, 0, 0, 1]));
        for (name, table, expected) in [
            ("a connection", line("00000000:0369", &format!("{v4}:ABCD"), "01"), peer),
            ("one of the other family's socket", line("00000000:0369", &format!("{mapped}:ABCD"), "01"), peer),
            ("another port", line("00000000:0370", &format!("{v4}:ABCD"), "01"), None),
            ("listens", line("00000000:0369", "00000000:0000", "0A"), None),
            ("waits", line("00000000:0369", &format!("{v4}:ABCD"), "06"), None),
            ("no address", line("00000000:0369", "0:ABCD", "01"), None),
            ("not ASCII", line("00000000:0369", "üüüü:ABCD", "01"), None),
            ("nothing", String::new(), None),
        ] {
            assert_eq!(peers(&table, 0x369).next(), expected, "{name}");
        }
    }
}
