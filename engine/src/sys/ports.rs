//! Who holds a port of this machine: asked when one that we need is taken, so that the message can name it.
//!
//! Sockets are listed for the calling thread's network namespace (proc_net(5)); their owners are found by the
//! inodes among the open files of processes (proc_pid_fd(5)), so only root sees those of others. It must not
//! change anything.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest command line that is told, characters.
const LONGEST: usize = 120;

/// Which kind of port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Sockets that are bound.
    Udp,
    /// Sockets that listen.
    Tcp,
}

impl Protocol {
    fn tables(self) -> [&'static str; 2] {
        match self {
            Self::Udp => ["udp", "udp6"],
            Self::Tcp => ["tcp", "tcp6"],
        }
    }

    /// The state in the tables (include/net/tcp_states.h of the kernel): TCP_CLOSE is how an unconnected UDP socket
    /// is shown, TCP_LISTEN.
    fn state(self) -> &'static str {
        match self {
            Self::Udp => "07",
            Self::Tcp => "0A",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// A socket that holds a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// The address that it is bound to; the unspecified one stands for all.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its inode, by which its owner is found.
    pub inode: u64,
}

/// The sockets in the text of `/proc/net/{udp,udp6,tcp,tcp6}` that hold a port: those that listen, or that are
/// bound and not connected. Lines that are not understood are passed over.
pub fn sockets(table: &str, protocol: Protocol) -> Vec<Socket> {
    table.lines().skip(1).filter_map(|line| socket(line, protocol)).collect()
}

fn socket(line: &str, protocol: Protocol) -> Option<Socket> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let (address, port) = local.rsplit_once(':')?;
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(address)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(address.get(at * 8..at * 8 + 8)?)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    let socket = Socket { address, port: u16::from_str_radix(port, 16).ok()?, inode: inode.parse().ok()? };
    (state == protocol.state()).then_some(socket)
}

/// Four bytes of an address: a number in the machine's own order.
fn word(hex: &str) -> Option<[u8; 4]> {
    Some(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes())
}

/// A process that holds a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its command line, cut off where it is long; empty where it has none.
    pub command: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {}", self.name, self.pid)?;
        if !self.command.is_empty() {
            write!(f, ": {}", self.command)?;
        }
        f.write_str(")")
    }
}

/// The sockets that keep another from having this address and port.
pub fn holding(protocol: Protocol, address: IpAddr, port: u16) -> Vec<Socket> {
    let tables = protocol.tables().map(|name| format!("/proc/thread-self/net/{name}"));
    // A kernel without IPv6 has no such table.
    let texts = tables.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts
        .flat_map(|text| sockets(&text, protocol))
        .filter(|socket| socket.port == port)
        .filter(|it| it.address == address || it.address.is_unspecified() || address.is_unspecified())
        .collect()
}

/// The ids of the processes that hold this address and port, as far as they can be seen from here.
pub fn holders(protocol: Protocol, address: IpAddr, port: u16) -> Vec<u32> {
    let sockets = holding(protocol, address, port);
    if sockets.is_empty() { Vec::new() } else { owners(&sockets).iter().map(|owner| owner.pid).collect() }
}

/// Who holds this address and port, in words: `UDP port 67 is taken by dnsmasq (process 1234: dnsmasq --conf…)`.
/// `None`: nobody does.
pub fn taken(protocol: Protocol, address: IpAddr, port: u16) -> Option<String> {
    let sockets = holding(protocol, address, port);
    if sockets.is_empty() {
        return None;
    }
    let owners: Vec<String> = owners(&sockets).iter().map(Owner::to_string).collect();
    // The kernel itself may hold one (NFS), or a process that we are not let to look at.
    let by = if owners.is_empty() { "something that cannot be seen from here".to_owned() } else { owners.join(", ") };
    Some(format!("{protocol} port {port} is taken by {by}"))
}

/// The processes that have one of these sockets open, by their ids. One that forked after it took the port is
/// there with its children.
fn owners(sockets: &[Socket]) -> Vec<Owner> {
    let wanted: Vec<String> = sockets.iter().map(|socket| format!("socket:[{}]", socket.inode)).collect();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let has = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        // Processes and their files come and go while this looks.
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|to| wanted.iter().any(|it| to.as_os_str() == it.as_str()))
    };
    pids.into_iter().filter(has).map(owner).collect()
}

fn owner(pid: u32) -> Owner {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let name = shown(String::from_utf8_lossy(&read("comm")).trim_end());
    Owner { pid, name: if name.is_empty() { "a process".into() } else { name }, command: command(&read("cmdline")) }
}

/// A command line for people, of words that each end in NUL.
fn command(cmdline: &[u8]) -> String {
    let text = String::from_utf8_lossy(cmdline);
    let line = shown(text.trim_end_matches('\0'));
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Without what would change a terminal: any process may call itself anything.
fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    const REST: &str = "00000000:00000000 00:00000000 00000000     0        0";

    #[test]
    fn tables_are_read() {
        let v4 = |text: &str| text.parse::<IpAddr>().expect("an address");
        type Row<'a> = (&'a str, Protocol, String, Option<(IpAddr, u16)>);
        let rows: [Row<'_>; 9] = [
            (
                "bound to all",
                Protocol::Udp,
                format!("  1: 00000000:0043 00000000:0000 07 {REST} 77"),
                Some((v4("0.0.0.0"), 67)),
            ),
            (
                "to one",
                Protocol::Udp,
                format!("  1: 01004D0A:0045 00000000:0000 07 {REST} 77"),
                Some((v4("10.77.0.1"), 69)),
            ),
            ("connected", Protocol::Udp, format!("  1: 01004D0A:0045 01004D0A:8000 01 {REST} 77"), None),
            (
                "listens",
                Protocol::Tcp,
                format!("  1: 0100007F:2219 00000000:0000 0A {REST} 77"),
                Some((v4("127.0.0.1"), 8729)),
            ),
            ("a connection", Protocol::Tcp, format!("  1: 0100007F:2219 0100007F:8000 01 {REST} 77"), None),
            (
                "IPv6, all",
                Protocol::Tcp,
                format!("  1: {}:1F85 {}:0000 0A {REST} 77", "0".repeat(32), "0".repeat(32)),
                Some((v4("::"), 8069)),
            ),
            (
                "IPv4 in IPv6",
                Protocol::Tcp,
                format!("  1: 0000000000000000FFFF000001004D0A:1F85 {}:0000 0A {REST} 77", "0".repeat(32)),
                Some((v4("10.77.0.1"), 8069)),
            ),
            ("cut off", Protocol::Tcp, "  1: 0100007F:2219 00000000:0000 0A".into(), None),
            ("nonsense", Protocol::Tcp, format!("  1: é100007F:2219 00000000:0000 0A {REST} x"), None),
        ];
        for (name, protocol, line, expected) in rows {
            let found = sockets(&format!("{HEAD}{line}\n"), protocol);
            let expected: Vec<Socket> =
                expected.into_iter().map(|(address, port)| Socket { address, port, inode: 77 }).collect();
            if cfg!(target_endian = "little") {
                assert_eq!(found, expected, "{name}");
            }
        }
    }

    #[test]
    fn commands_are_for_people() {
        let long = "x".repeat(200);
        for (cmdline, expected) in [
            (&b"dnsmasq\0--conf-file=/a b\0"[..], "dnsmasq --conf-file=/a b".to_owned()),
            (b"", String::new()),
            (b"evil\x1b[2J\0", "evil [2J".to_owned()),
            (long.as_bytes(), format!("{}…", "x".repeat(LONGEST))),
        ] {
            assert_eq!(command(cmdline), expected);
        }
    }

    #[test]
    fn this_process_is_found() {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bound");
        let (udp, tcp_at) = (udp.local_addr().expect("its address"), tcp.local_addr().expect("its address"));
        let me = format!("(process {}: ", std::process::id());
        for (protocol, at) in [(Protocol::Udp, udp), (Protocol::Tcp, tcp_at)] {
            let said = taken(protocol, at.ip(), at.port()).expect("taken");
            assert!(said.starts_with(&format!("{protocol} port {} is taken by ", at.port())), "{said}");
            assert!(said.contains(&me), "{said}");
            assert!(
                taken(protocol, "0.0.0.0".parse().expect("all"), at.port()).is_some(),
                "all addresses hold this one"
            );
        }
        let _connected = TcpStream::connect(tcp_at).expect("connected");
        drop(tcp);
        assert_eq!(taken(Protocol::Tcp, tcp_at.ip(), tcp_at.port()), None, "a connection holds no port");
    }
}
