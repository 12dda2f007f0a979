//! Addresses for a set of hosts: sequential from the first, inside one prefix. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and the length of its network's prefix: `10.0.0.11/23`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// An address in the network.
    pub address: IpAddr,
    /// Length of the prefix, bits.
    pub prefix: u8,
}

impl Network {
    /// An address with its prefix.
    ///
    /// # Errors
    /// The prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, String> {
        let bits = bits(address);
        if prefix > bits {
            return Err(format!("{address}/{prefix}: the prefix has at most {bits} bits"));
        }
        Ok(Self { address, prefix })
    }

    /// First and last address of the network, whatever they are used for.
    fn ends(&self) -> (u128, u128) {
        let hosts = u32::from(bits(self.address) - self.prefix);
        // A shift by all 128 bits is not one.
        let mask = 1_u128.checked_shl(hosts).map_or(u128::MAX, |size| size - 1);
        let first = number(self.address) & !mask;
        (first, first | mask)
    }

    /// First and last address that a host may have. In IPv4 the first is the network's own and the last its
    /// broadcast, but for /31 (RFC 3021) and /32; in IPv6 the first is the routers' (RFC 4291, 2.6.1).
    fn usable(&self) -> (u128, u128) {
        let (first, last) = self.ends();
        match (self.address, last - first) {
            (_, 0 | 1) => (first, last),
            (IpAddr::V4(_), _) => (first + 1, last - 1),
            (IpAddr::V6(_), _) => (first + 1, last),
        }
    }

    /// The address of the network itself: `10.0.0.0`.
    pub fn base(&self) -> IpAddr {
        self.ip(self.ends().0)
    }

    /// The netmask: `255.255.254.0`.
    pub fn mask(&self) -> IpAddr {
        let hosts = u32::from(bits(self.address) - self.prefix);
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::MAX.checked_shl(hosts).unwrap_or(0)).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(u128::MAX.checked_shl(hosts).unwrap_or(0)).into(),
        }
    }

    /// The address is in the network and may be a host's.
    pub fn holds_host(&self, address: IpAddr) -> bool {
        let (first, last) = self.usable();
        address.is_ipv4() == self.address.is_ipv4() && (first..=last).contains(&number(address))
    }

    fn ip(&self, value: u128) -> IpAddr {
        match self.address {
            // Values of an IPv4 network have 32 bits.
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(value).unwrap_or(u32::MAX)).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(value).into(),
        }
    }

    /// `count` addresses in a row, beginning with this one.
    ///
    /// # Errors
    /// One of them would leave the prefix, or be the network's own or the broadcast address.
    pub fn sequence(&self, count: usize) -> Result<Vec<IpAddr>, String> {
        let start = number(self.address);
        let (first, last) = self.usable();
        let this = format!("{}/{}", self.address, self.prefix);
        if start < first || start > last {
            let (network, _) = self.ends();
            let what = match (self.address, start == network) {
                (IpAddr::V4(_), true) => "the network's own address",
                (IpAddr::V4(_), false) => "the broadcast address",
                (IpAddr::V6(_), _) => "the routers' address",
            };
            return Err(format!("{this} is {what} and no host's; begin with {} or a later one", self.ip(first)));
        }
        let room = last - start + 1;
        if count as u128 > room {
            return Err(format!(
                "{count} hosts from {this} on do not fit: the prefix {}/{} ends with {}, which leaves room for {room}; \
                 begin earlier, or give a shorter prefix",
                self.base(),
                self.prefix,
                self.ip(last)
            ));
        }
        Ok((start..).take(count).map(|value| self.ip(value)).collect())
    }
}

impl FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let explain = || format!("{text:?} is not an address with a prefix; write for example 10.0.0.11/23");
        let (address, prefix) = text.split_once('/').ok_or_else(explain)?;
        let address: IpAddr = address.parse().map_err(|_| explain())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| digits).ok_or_else(explain)?;
        Self::new(address, prefix)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

/// Addresses as runs without gaps, `(first, last)`, in order. IPv4 and IPv6 never share a run.
pub fn runs(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<(IpAddr, IpAddr)> {
    let sorted: std::collections::BTreeSet<IpAddr> = addresses.into_iter().collect();
    let mut runs: Vec<(IpAddr, IpAddr)> = Vec::new();
    for address in sorted {
        match runs.last_mut() {
            Some((_, last))
                if last.is_ipv4() == address.is_ipv4() && number(*last).checked_add(1) == Some(number(address)) =>
            {
                *last = address;
            }
            _ => runs.push((address, address)),
        }
    }
    runs
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text, how many, and what comes of them: the first and the last.
    type Row = (&'static str, usize, Result<(&'static str, &'static str), &'static str>);

    #[test]
    fn sequences() {
        let rows: [Row; 15] = [
            ("10.0.0.11/23", 300, Ok(("10.0.0.11", "10.0.1.54"))),
            ("10.0.0.1/24", 254, Ok(("10.0.0.1", "10.0.0.254"))),
            ("10.0.0.0/31", 2, Ok(("10.0.0.0", "10.0.0.1"))),
            ("10.0.0.7/32", 1, Ok(("10.0.0.7", "10.0.0.7"))),
            ("1.2.3.4/0", 2, Ok(("1.2.3.4", "1.2.3.5"))),
            ("fd77::10/64", 16, Ok(("fd77::10", "fd77::1f"))),
            ("::1/0", 1, Ok(("::1", "::1"))),
            (
                "10.0.0.11/24",
                300,
                Err(
                    "300 hosts from 10.0.0.11/24 on do not fit: the prefix 10.0.0.0/24 ends with 10.0.0.254, which leaves \
                     room for 244; begin earlier, or give a shorter prefix",
                ),
            ),
            (
                "10.0.0.1/24",
                255,
                Err(
                    "255 hosts from 10.0.0.1/24 on do not fit: the prefix 10.0.0.0/24 ends with 10.0.0.254, which leaves \
                     room for 254; begin earlier, or give a shorter prefix",
                ),
            ),
            (
                "10.0.0.0/24",
                1,
                Err("10.0.0.0/24 is the network's own address and no host's; begin with 10.0.0.1 or a later one"),
            ),
            (
                "10.0.0.255/24",
                1,
                Err("10.0.0.255/24 is the broadcast address and no host's; begin with 10.0.0.1 or a later one"),
            ),
            ("fd77::/64", 1, Err("fd77::/64 is the routers' address and no host's; begin with fd77::1 or a later one")),
            ("10.0.0.1/33", 1, Err("10.0.0.1/33: the prefix has at most 32 bits")),
            ("10.0.0.1", 1, Err("\"10.0.0.1\" is not an address with a prefix; write for example 10.0.0.11/23")),
            ("10.0.0/24", 1, Err("\"10.0.0/24\" is not an address with a prefix; write for example 10.0.0.11/23")),
        ];
        for (text, count, expected) in rows {
            let result = text.parse::<Network>().and_then(|network| network.sequence(count));
            match (result, expected) {
                (Ok(list), Ok((first, last))) => {
                    let ends = (list.first().unwrap().to_string(), list.last().unwrap().to_string());
                    assert_eq!((list.len(), ends), (count, (first.into(), last.into())), "{text}");
                }
                (result, expected) => {
                    assert_eq!(result.map(|_| ()), expected.map(|_| ()).map_err(str::to_owned), "{text}")
                }
            }
        }
        for bad in ["10.0.0.1/", "10.0.0.1/+8", "10.0.0.1/999", "x/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks() {
        let network: Network = "10.0.0.11/23".parse().unwrap();
        assert_eq!(
            (network.base().to_string(), network.mask().to_string()),
            ("10.0.0.0".into(), "255.255.254.0".into())
        );
        for (address, holds) in
            [("10.0.1.254", true), ("10.0.1.255", false), ("10.0.0.0", false), ("10.0.2.1", false), ("::1", false)]
        {
            assert_eq!(network.holds_host(address.parse().unwrap()), holds, "{address}");
        }
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert_eq!(all.mask().to_string(), "0.0.0.0");
    }

    #[test]
    fn runs_without_gaps() {
        let list =
            ["10.0.0.12", "10.0.0.11", "10.0.0.14", "10.0.1.0", "10.0.0.255", "::1"].map(|text| text.parse().unwrap());
        let shown: Vec<String> = runs(list).into_iter().map(|(a, b)| format!("{a}-{b}")).collect();
        assert_eq!(shown, ["10.0.0.11-10.0.0.12", "10.0.0.14-10.0.0.14", "10.0.0.255-10.0.1.0", "::1-::1"]);
    }
}
