//! What a sender is told: which trees for whom, and the site's settings. The engine writes it out as a file, which is read anew
//! when it changes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use systemimager_core::{AdmittedKey, BytePath, Offer, PluginError};

use crate::wire::key::{self, Public};
use crate::wire::message::Over;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The address to listen on; absent: all.
    pub bind: Option<IpAddr>,
    /// The TCP port.
    pub port: u16,
    /// `[transport.multicast]`.
    pub settings: BTreeMap<String, String>,
    /// The trees.
    pub exports: Vec<Export>,
}

/// A tree, and who may have it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub tree: BytePath,
    /// Addresses and prefixes from which alone.
    pub allow: Vec<String>,
    /// Keys of who may have it.
    pub keys: Vec<AdmittedKey>,
}

impl Config {
    /// Of an offer.
    pub fn of(offer: &Offer) -> Self {
        let exports = offer.exports.iter().map(|export| Export {
            name: export.name.clone(),
            tree: export.tree.clone(),
            allow: export.allow.clone(),
            keys: export.keys.clone(),
        });
        Self { bind: offer.bind, port: offer.port, settings: offer.settings.clone(), exports: exports.collect() }
    }

    /// The tree that somebody with this key, from this address, may have by this name, at this second since 1970.
    ///
    /// # Errors
    /// They may not: which of the reasons, and words for them. Nobody hears of trees that are not for them.
    pub fn admits(&self, name: &str, who: &Public, from: IpAddr, now: u64) -> Result<&Export, (Over, String)> {
        let shows = |it: &&AdmittedKey| key::public(&it.key).is_ok_and(|key| key == *who);
        let mine = |export: &Export| export.keys.iter().find(shows).cloned();
        let Some((export, admitted)) =
            self.exports.iter().find(|export| export.name == name).and_then(|export| Some((export, mine(export)?)))
        else {
            let denied = format!("this machine's key is not admitted to {name:?}, or no longer, or there is none");
            return Err((Over::Denied, denied));
        };
        if admitted.until.is_some_and(|until| until <= now) {
            return Err((Over::Denied, format!("this machine's key was admitted to {name:?}, and its time is over")));
        }
        if !holds(&export.allow, from) || !(admitted.from.is_empty() || holds(&admitted.from, from)) {
            return Err((Over::Denied, format!("{name:?} is not for {from}")));
        }
        Ok(export)
    }
}

/// Whether an address is among addresses and prefixes.
fn holds(list: &[String], address: IpAddr) -> bool {
    list.iter().any(|one| {
        let (net, length) = one.split_once('/').map_or((one.as_str(), None), |(net, length)| (net, Some(length)));
        let Ok(net) = net.parse::<IpAddr>() else { return false };
        let (a, b, bits) = match (net.to_canonical(), address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96, 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
            _ => return false,
        };
        let Ok(length) = length.map_or(Ok(bits), str::parse::<u32>) else { return false };
        length <= bits && (length == 0 || (a ^ b) >> (128 - length) == 0)
    })
}

/// `[transport.multicast]`, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bytes a second that are sent at most, by all sessions together with all headers; absent: 90 % of the interface.
    pub rate: Option<u64>,
    /// The interface that groups are on; absent: the one that has the address machines come to.
    pub interface: Option<String>,
    /// Where group addresses are from.
    pub groups: (Ipv4Addr, u8),
    /// How many routers a datagram may pass, and one more.
    pub ttl: u32,
    /// The UDP port of the groups.
    pub port: u16,
    /// How long the first machine of a session waits for others.
    pub gather: Duration,
    /// Largest packet, bytes; absent: what the interface carries, at most 1500.
    pub mtu: Option<usize>,
    /// Bytes of memory for blocks that may be wanted again.
    pub cache: usize,
}

/// The UDP port when no other is named; the same number as TCP's.
pub const PORT: u16 = 8067;

impl Default for Settings {
    fn default() -> Self {
        Self {
            rate: None,
            interface: None,
            // Of the addresses that stay within an organisation (RFC 2365).
            groups: (Ipv4Addr::new(239, 192, 0, 0), 14),
            ttl: 1,
            port: PORT,
            gather: Duration::ZERO,
            mtu: None,
            cache: 128 << 20,
        }
    }
}

impl Settings {
    /// Of the words that stand there.
    ///
    /// # Errors
    /// `Invalid`: a word that there is not, or that says what cannot be.
    pub fn of(words: &BTreeMap<String, String>) -> Result<Self, PluginError> {
        let mut settings = Self::default();
        for (name, value) in words {
            let wrong = |wanted: &str| {
                PluginError::invalid(format!("[transport.multicast] {name} = {value:?}: it is {wanted}"))
            };
            let number = |least: u64, most: u64, wanted: &str| match value.parse::<u64>() {
                Ok(number) if (least..=most).contains(&number) => Ok(number),
                _ => Err(wrong(wanted)),
            };
            match name.as_str() {
                "rate" => {
                    settings.rate = Some(rate(value).ok_or_else(|| wrong("a rate such as \"400mbit\" or \"2.5gbit\""))?)
                }
                "interface" => {
                    let fine = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
                    if value.is_empty() || value.len() > 15 || !value.bytes().all(fine) {
                        return Err(wrong("the name of a network interface"));
                    }
                    settings.interface = Some(value.clone());
                }
                "groups" => {
                    settings.groups = groups(value).ok_or_else(|| {
                        wrong("addresses for groups, such as \"239.192.0.0/14\", all of them between 224.0.0.0 and 239.255.255.255")
                    })?;
                }
                "ttl" => settings.ttl = number(1, 255, "how many networks it may reach, 1 to 255")? as u32,
                "port" => settings.port = number(1024, 65535, "a UDP port from 1024 on")? as u16,
                "gather" => settings.gather = Duration::from_secs(number(0, 3600, "seconds, at most 3600")?),
                "mtu" => settings.mtu = Some(number(576, 65535, "bytes of a packet, from 576 on")? as usize),
                "cache" => settings.cache = (number(16, 1 << 20, "MiB, from 16 on")? as usize) << 20,
                _ => {
                    return Err(PluginError::invalid(format!(
                        "[transport.multicast] {name}: there is no such setting; there are cache, gather, groups, interface, mtu, \
                         port, rate and ttl"
                    )));
                }
            }
        }
        Ok(settings)
    }
}

/// Bytes a second of `400mbit`, as tc(8) writes rates.
fn rate(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let units = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
    let (number, unit) = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let bits = number.trim().parse::<f64>().ok()? * unit;
    // Slower ones would have machines wait for days; faster wires there are not.
    (64e3..=1e12).contains(&bits).then_some((bits / 8.0) as u64)
}

fn groups(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (net, length) = text.split_once('/')?;
    let (net, length) = (net.parse::<Ipv4Addr>().ok()?, length.parse::<u8>().ok()?);
    (net.is_multicast() && (4..=32).contains(&length)).then_some((net, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::key::of_seed;

    #[test]
    fn settings_are_understood() {
        let of = |name: &str, value: &str| Settings::of(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert_eq!(of("rate", "400mbit").unwrap().rate, Some(50_000_000));
        assert_eq!(of("rate", "2.5 Gbit").unwrap().rate, Some(312_500_000));
        assert_eq!(of("gather", "20").unwrap().gather, Duration::from_secs(20));
        assert_eq!(of("groups", "239.1.0.0/16").unwrap().groups, (Ipv4Addr::new(239, 1, 0, 0), 16));
        for (name, value, says) in [
            ("rate", "fast", "a rate such as"),
            ("rate", "-1mbit", "a rate such as"),
            ("rate", "infbit", "a rate such as"),
            ("interface", "../x", "the name of a network interface"),
            ("groups", "10.0.0.0/8", "between 224.0.0.0"),
            ("groups", "239.0.0.0/3", "between 224.0.0.0"),
            ("ttl", "0", "1 to 255"),
            ("port", "80", "from 1024 on"),
            ("speed", "1", "there is no such setting"),
        ] {
            let error = of(name, value).unwrap_err().to_string();
            assert!(error.contains(says), "{name} {value}: {error}");
        }
    }

    #[test]
    fn who_is_let_in() {
        let keys = [of_seed(1).1, of_seed(2).1, of_seed(3).1];
        let admitted = |key: &str, until, from: &[&str]| AdmittedKey {
            key: key.into(),
            until,
            from: from.iter().map(|it| (*it).to_owned()).collect(),
        };
        let config = Config {
            exports: vec![Export {
                name: "web".into(),
                allow: vec!["10.0.0.0/24".into(), "fd00::/8".into()],
                keys: vec![admitted(&keys[0], Some(100), &[]), admitted(&keys[1], None, &["10.0.0.7"])],
                ..Export::default()
            }],
            ..Config::default()
        };
        let asks = |name: &str, key: usize, from: &str, now| {
            let who = key::public(&keys[key]).unwrap();
            config.admits(name, &who, from.parse().unwrap(), now).map(|_| ()).map_err(|(_, why)| why)
        };
        assert_eq!(asks("web", 0, "10.0.0.9", 99), Ok(()));
        assert_eq!(asks("web", 0, "fd77::1", 99), Ok(()));
        assert_eq!(asks("web", 1, "::ffff:10.0.0.7", 1000), Ok(()));
        for (name, key, from, now, says) in [
            ("web", 0, "10.0.0.9", 100, "its time is over"),
            ("web", 0, "10.0.1.9", 99, "is not for 10.0.1.9"),
            ("web", 1, "10.0.0.9", 99, "is not for 10.0.0.9"),
            ("web", 2, "10.0.0.9", 99, "not admitted"),
            ("db", 0, "10.0.0.9", 99, "not admitted"),
        ] {
            let error = asks(name, key, from, now).unwrap_err();
            assert!(error.contains(says), "{name} {key} {from}: {error}");
        }
    }
}
