//! DHCP messages (RFC 2131, options by RFC 2132): written and read. Pure; what comes from the network is checked before
//! it is believed.

use std::net::{IpAddr, Ipv4Addr};

use systemimager_core::Lease;

/// Bytes before the options, with the cookie that begins them.
const FIXED: usize = 240;
/// Shortest message that every server and relay takes (that of BOOTP).
const SHORTEST: usize = 300;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

/// What a message is (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who has an address for me?
    Discover = 1,
    /// I have one.
    Offer = 2,
    /// I take it; or: I want to keep it.
    Request = 3,
    /// It is yours.
    Ack = 5,
    /// It is not.
    Nak = 6,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// MAC address.
    pub mac: [u8; 6],
    /// Number of this exchange, by which answers to it are known.
    pub xid: u32,
    /// Seconds since it began.
    pub secs: u16,
}

/// A message from a client. `takes`: the address of an offer, and the server that made it; `has`: the address it has
/// already and wants to keep.
pub fn write(asker: &Asker, kind: Kind, takes: Option<(Ipv4Addr, Ipv4Addr)>, has: Option<Ipv4Addr>) -> Vec<u8> {
    // A request, of Ethernet, with addresses of 6 bytes, through no relay.
    let mut bytes = vec![1, 1, 6, 0];
    bytes.extend(asker.xid.to_be_bytes());
    bytes.extend(asker.secs.to_be_bytes());
    // Answers by broadcast: without an address none else would be taken in.
    bytes.extend(0x8000_u16.to_be_bytes());
    bytes.extend(has.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    bytes.extend([0; 12]);
    bytes.extend(asker.mac);
    bytes.resize(FIXED - COOKIE.len(), 0);
    bytes.extend(COOKIE);
    let mut option = |code: u8, value: &[u8]| {
        // All of ours are short.
        bytes.extend([code, u8::try_from(value.len()).unwrap_or_default()]);
        bytes.extend(value);
    };
    option(53, &[kind as u8]);
    // The same client id as ever for this interface, whatever the system on the disk says.
    option(61, &[&[1], asker.mac.as_slice()].concat());
    if let Some((address, server)) = takes {
        option(50, &address.octets());
        option(54, &server.octets());
    }
    option(60, b"systemimager");
    // Subnet mask, routers, name servers, host name, domain, lease time, server.
    option(55, &[1, 3, 6, 12, 15, 51, 54]);
    bytes.push(255);
    bytes.resize(bytes.len().max(SHORTEST), 0);
    bytes
}

/// An answer of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it is.
    pub kind: Kind,
    /// The address.
    pub address: Ipv4Addr,
    /// The server.
    pub server: Option<Ipv4Addr>,
    /// How long the address may be used, seconds.
    pub seconds: Option<u32>,
    prefix: Option<u8>,
    routers: Vec<IpAddr>,
    name_servers: Vec<IpAddr>,
    host_name: Option<String>,
    domain: Option<String>,
}

/// The answer in a datagram; `None` if it is none to this client in this exchange, or malformed.
pub fn read(bytes: &[u8], asker: &Asker) -> Option<Reply> {
    let has = |at: usize, what: &[u8]| bytes.get(at..at + what.len()) == Some(what);
    if !has(0, &[2, 1, 6]) || !has(4, &asker.xid.to_be_bytes()) || !has(28, &asker.mac) || !has(236, &COOKIE) {
        return None;
    }
    let mut options = options(bytes.get(FIXED..)?);
    // Options may go on where names would stand (option 52).
    let overload = find(&options, 52).and_then(|value| value.first().copied()).unwrap_or_default();
    for (bit, place) in [(1, FILE), (2, SNAME)] {
        if overload & bit != 0 {
            options.extend(self::options(bytes.get(place)?));
        }
    }
    let kind = match find(&options, 53)?.as_slice() {
        [2] => Kind::Offer,
        [5] => Kind::Ack,
        [6] => Kind::Nak,
        _ => return None,
    };
    let addresses = |code: u8| -> Vec<Ipv4Addr> {
        let value = find(&options, code).unwrap_or_default();
        value.chunks_exact(4).filter_map(address).collect()
    };
    let all = |code: u8| addresses(code).into_iter().map(IpAddr::V4).collect();
    let text = |code: u8| {
        let text = String::from_utf8(find(&options, code)?).ok()?;
        let text = text.trim_end_matches('\0').trim();
        // It comes to consoles and into files: no name holds a control character.
        (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
    };
    let seconds = find(&options, 51).and_then(|value| Some(u32::from_be_bytes(value.try_into().ok()?)));
    let (mask, server) = (addresses(1).first().copied(), addresses(54).first().copied());
    Some(Reply {
        kind,
        address: address(bytes.get(16..20)?)?,
        server,
        seconds,
        prefix: mask.and_then(prefix_of),
        routers: all(3),
        name_servers: all(6),
        host_name: text(12),
        domain: text(15),
    })
}

impl Reply {
    /// As a lease of an interface.
    pub fn lease(self, interface: &str, mac: &str) -> Lease {
        Lease {
            interface: interface.to_owned(),
            mac: mac.to_owned(),
            address: Some(self.address.into()),
            prefix: self.prefix,
            routers: self.routers,
            name_servers: self.name_servers,
            host_name: self.host_name,
            domain: self.domain,
            server: self.server.map(Into::into),
        }
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// Codes with values, until their end or until they make no sense any more.
fn options(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((code, rest)) = bytes.split_first() {
        match code {
            0 => bytes = rest,
            255 => break,
            code => {
                let Some((length, rest)) = rest.split_first() else { break };
                let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
                found.push((*code, value.to_vec()));
                bytes = rest;
            }
        }
    }
    found
}

/// The value of an option; one that is given in pieces is put together (RFC 3396).
fn find(options: &[(u8, Vec<u8>)], code: u8) -> Option<Vec<u8>> {
    let mut pieces = options.iter().filter(|(other, _)| *other == code).map(|(_, value)| value.as_slice()).peekable();
    pieces.peek()?;
    Some(pieces.collect::<Vec<_>>().concat())
}

/// `255.255.254.0` is 23; `None` if its bits are not in one piece.
fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then(|| u8::try_from(ones).ok())?
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const ASKER: Asker = Asker { mac: [0x52, 0x54, 0, 0, 0, 1], xid: 0x1234_5678, secs: 3 };

    /// A server's answer to a message: this kind, address, and options as they are.
    pub fn answer(to: &[u8], kind: u8, address: Ipv4Addr, options: &[u8]) -> Vec<u8> {
        let mut bytes = to[..FIXED].to_vec();
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&address.octets());
        bytes.extend([53, 1, kind]);
        bytes.extend(options);
        bytes.push(255);
        bytes
    }

    /// The value of an option of a client's message.
    pub fn option(message: &[u8], code: u8) -> Option<Vec<u8>> {
        find(&options(&message[FIXED..]), code)
    }

    #[test]
    fn what_is_written() {
        let (a, s) = (Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 1));
        let discover = write(&ASKER, Kind::Discover, None, None);
        assert_eq!(discover.len(), SHORTEST);
        assert_eq!(&discover[..12], &[1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78, 0, 3, 0x80, 0]);
        assert_eq!(&discover[28..34], &ASKER.mac);
        assert_eq!(option(&discover, 53), Some(vec![1]));
        assert_eq!(option(&discover, 61), Some(vec![1, 0x52, 0x54, 0, 0, 0, 1]));
        assert_eq!((option(&discover, 50), option(&discover, 54)), (None, None));
        let take = write(&ASKER, Kind::Request, Some((a, s)), None);
        assert_eq!((option(&take, 50), option(&take, 54)), (Some(vec![10, 0, 0, 11]), Some(vec![10, 0, 0, 1])));
        assert_eq!(&take[12..16], &[0; 4]);
        let keep = write(&ASKER, Kind::Request, None, Some(a));
        assert_eq!((&keep[12..16], option(&keep, 50)), ([10, 0, 0, 11].as_slice(), None));
    }

    #[test]
    fn what_is_read() {
        let discover = write(&ASKER, Kind::Discover, None, None);
        let options: Vec<u8> = [
            [1, 4, 255, 255, 254, 0].as_slice(),
            &[0, 0, 3, 8, 10, 0, 0, 1, 10, 0, 0, 2],
            &[6, 5, 10, 0, 0, 1, 9],
            // In two pieces.
            &[12, 2, b'w', b'w', 12, 6, b'w', b'3', b';', b' ', b'x', 0],
            &[15, 4, b'l', b'a', b'n', 0, 51, 4, 0, 0, 14, 16, 54, 4, 10, 0, 0, 1],
        ]
        .concat();
        let bytes = answer(&discover, 2, Ipv4Addr::new(10, 0, 0, 11), &options);
        let reply = read(&bytes, &ASKER).expect("an offer");
        assert_eq!((reply.kind, reply.seconds), (Kind::Offer, Some(3600)));
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let expected = Lease {
            interface: "eth0".into(),
            mac: "52:54:00:00:00:01".into(),
            address: Some(address("10.0.0.11")),
            prefix: Some(23),
            routers: vec![address("10.0.0.1"), address("10.0.0.2")],
            name_servers: vec![address("10.0.0.1")],
            // Kept as sent; whoever makes a name of it refuses it.
            host_name: Some("www3; x".into()),
            domain: Some("lan".into()),
            server: Some(address("10.0.0.1")),
        };
        assert_eq!(reply.lease("eth0", "52:54:00:00:00:01"), expected);
        // Options where the boot file would stand.
        let mut overloaded = answer(&discover, 5, Ipv4Addr::new(10, 0, 0, 11), &[52, 1, 1]);
        overloaded[FILE.start..FILE.start + 7].copy_from_slice(&[54, 4, 10, 0, 0, 9, 255]);
        let reply = read(&overloaded, &ASKER).expect("an acknowledgement");
        assert_eq!((reply.kind, reply.server), (Kind::Ack, Some(Ipv4Addr::new(10, 0, 0, 9))));
    }

    #[test]
    fn what_is_not_for_us_or_malformed() {
        let good = answer(&write(&ASKER, Kind::Discover, None, None), 2, Ipv4Addr::new(10, 0, 0, 11), &[]);
        type Spoil = fn(&mut Vec<u8>);
        let rows: [(&str, Spoil); 8] = [
            ("a client's", |bytes| bytes[0] = 1),
            ("another exchange's", |bytes| bytes[4] ^= 1),
            ("another machine's", |bytes| bytes[30] ^= 1),
            ("no cookie", |bytes| bytes[236] = 0),
            ("no kind", |bytes| bytes[240] = 255),
            ("an unknown kind", |bytes| bytes[242] = 99),
            ("an option beyond its end", |bytes| bytes[241] = 200),
            ("nothing", Vec::clear),
        ];
        assert!(read(&good, &ASKER).is_some());
        for (name, spoil) in rows {
            let mut bytes = good.clone();
            spoil(&mut bytes);
            assert_eq!(read(&bytes, &ASKER), None, "{name}");
        }
        for length in 0..good.len() {
            // Cut off anywhere: no panic.
            let _ = read(&good[..length], &ASKER);
        }
    }

    #[test]
    fn subnets_in_one_piece() {
        for (mask, prefix) in
            [([255, 255, 255, 0], Some(24)), ([0; 4], Some(0)), ([255, 0, 255, 0], None), ([255; 4], Some(32))]
        {
            assert_eq!(prefix_of(mask.into()), prefix, "{mask:?}");
        }
    }
}
