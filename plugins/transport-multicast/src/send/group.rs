//! Where a session's group is: the interface, what it carries, and an address of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use nix::net::if_::InterfaceFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::config::Settings;

/// Largest packet, unless the settings say that all machines take larger ones.
const MTU: usize = 1500;
/// Of IPv4 and UDP.
const HEADERS: usize = 20 + 8;
/// Of Ethernet, which counts as sent too.
pub const FRAME: usize = HEADERS + 14;
/// Bytes a second of an interface that does not say how fast it is.
const UNKNOWN: u64 = 125_000_000;

/// An interface with an IPv4 address that takes multicast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Bytes a second that are sent at most.
    pub rate: u64,
    /// Largest datagram, bytes.
    pub datagram: usize,
}

/// The interface for machines that come to this address of ours.
///
/// # Errors
/// There is none for a group, in words: then each machine is sent to alone.
pub fn interface(settings: &Settings, local: IpAddr) -> Result<Interface, String> {
    let all = nix::ifaddrs::getifaddrs().map_err(|error| format!("the interfaces are not told: {error}"))?;
    let IpAddr::V4(local) = local.to_canonical() else {
        return Err(format!("machines come to {local}, and groups have IPv4 addresses"));
    };
    let mut named = false;
    for one in all {
        let Some(address) = one.address.and_then(|it| it.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip)) else {
            continue;
        };
        let wanted = settings.interface.as_ref().map_or(address == local, |name| *name == one.interface_name);
        if !wanted {
            continue;
        }
        named = true;
        let flags = one.flags;
        if !flags.contains(InterfaceFlags::IFF_MULTICAST) && !flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let name = one.interface_name;
        let number = |what: &str| {
            std::fs::read_to_string(format!("/sys/class/net/{name}/{what}")).ok()?.trim().parse::<i64>().ok()
        };
        let mtu = number("mtu").and_then(|mtu| usize::try_from(mtu).ok()).unwrap_or(MTU);
        let mtu = settings.mtu.unwrap_or(MTU).min(mtu.max(576));
        let speed = number("speed").filter(|megabits| *megabits > 0).map(|megabits| megabits.cast_unsigned() * 125_000);
        let rate = settings.rate.unwrap_or_else(|| speed.unwrap_or(UNKNOWN) / 10 * 9);
        return Ok(Interface { name, address, rate, datagram: mtu - HEADERS });
    }
    let name = settings.interface.as_deref().unwrap_or("the interface that machines come to");
    Err(match named {
        true => format!("{name} takes no multicast"),
        false => format!("{name} is not there, or has no IPv4 address"),
    })
}

/// Bytes a second that are sent at most by all sessions there.
pub fn most(interface: &Result<Interface, String>, settings: &Settings) -> u64 {
    let alone = settings.rate.unwrap_or(u32::MAX.into());
    interface.as_ref().map_or(alone, |interface| interface.rate)
}

/// A group's address for a session, from the site's range. Sessions have numbers that are as good as chance.
pub fn address(range: (Ipv4Addr, u8), session: u32) -> Ipv4Addr {
    let (net, length) = range;
    let mask = u32::MAX.checked_shr(length.into()).unwrap_or(0);
    let mut host = session & mask;
    // Addresses that end in 0 or 255 are mishandled here and there.
    if mask > 0xff && matches!(host & 0xff, 0 | 0xff) {
        host = (host & !0xff) | 0x55;
    }
    Ipv4Addr::from_bits((net.to_bits() & !mask) | host)
}

/// A socket that sends to a group.
///
/// # Errors
/// The kernel's.
pub fn sending(interface: &Interface, group: SocketAddrV4, ttl: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_multicast_if_v4(&interface.address)?;
    socket.set_multicast_ttl_v4(ttl)?;
    // Receivers on this very machine hear it too.
    socket.set_multicast_loop_v4(true)?;
    socket.bind(&SocketAddrV4::new(interface.address, 0).into())?;
    socket.connect(&group.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_in_the_range() {
        let range = (Ipv4Addr::new(239, 192, 0, 0), 14);
        for session in [0, 1, 255, 256, u32::MAX, 0x1234_5678] {
            let address = address(range, session);
            assert_eq!(address.to_bits() >> 18, range.0.to_bits() >> 18, "{address}");
            assert!(!matches!(address.octets()[3], 0 | 255), "{address}");
        }
        assert_eq!(address((Ipv4Addr::new(239, 1, 2, 3), 32), 77), Ipv4Addr::new(239, 1, 2, 3));
    }

    #[test]
    fn what_is_not_there_is_told() {
        let settings = Settings { interface: Some("nosuch0".into()), ..Settings::default() };
        let error = interface(&settings, Ipv4Addr::LOCALHOST.into()).unwrap_err();
        assert!(error.contains("nosuch0 is not there"), "{error}");
        let error = interface(&Settings::default(), "fd00::1".parse().unwrap()).unwrap_err();
        assert!(error.contains("IPv4"), "{error}");
        let found = interface(&Settings::default(), Ipv4Addr::LOCALHOST.into()).unwrap();
        assert_eq!((found.name.as_str(), found.datagram), ("lo", 1472));
    }
}
