//! Which MAC address each host has: CSV lines `host,mac`. Pure.
//!
//! The administrator's list and the server's own (`macs.csv` in its state directory) have the same form,
//! so that one can be edited, or given to `addclients` again, like the other.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::declared_list::{Kind, List};
use crate::config::Config;

/// An Ethernet address. Text form: six pairs of hexadecimal digits, lower case, with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = String;

    /// Takes colons or dashes, either case.
    fn from_str(text: &str) -> Result<Self, String> {
        let explain = || format!("{text:?} is not a MAC address; write for example 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(explain)?;
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+')).ok_or_else(explain)?;
        }
        if parts.next().is_some() {
            return Err(explain());
        }
        if bytes == [0; 6] || bytes[0] & 1 == 1 {
            return Err(format!("{text:?} is no machine's MAC address (it is zero or of a group)"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.map(|byte| format!("{byte:02x}"));
        out.write_str(&words.join(":"))
    }
}

impl Kind for Mac {
    const FIELD: &'static str = "mac";
    const EXAMPLE: &'static str = "52:54:00:12:34:56";
    const WHAT: &'static str = "a MAC address";
    const OPTION: &'static str = "--macs";
}

/// Hosts with their MAC addresses.
pub type Macs = List<Mac>;

/// Where the server keeps them: the server's own, not an administrator's file. Machines under installation read it by
/// HTTP, to know who they are.
pub fn file(config: &Config) -> PathBuf {
    config.state().join("macs.csv")
}

#[cfg(test)]
mod tests {
    use super::super::declared_list::{merge, parse, render};
    use super::*;
    use std::path::Path;

    #[test]
    fn lists() {
        let file = Path::new("m.csv");
        let text = "host, mac\n# ours\n\nwww1,52:54:00:12:34:56\r\n www2 , \"52-54-00-12-34-AB\"\n";
        let macs: Macs = parse(file, text).unwrap();
        assert_eq!(
            render(&macs).lines().skip(1).collect::<Vec<_>>(),
            ["www1,52:54:00:12:34:56", "www2,52:54:00:12:34:ab"]
        );
        assert_eq!(parse(file, &render(&macs)).unwrap(), macs);
        for (name, text, says) in [
            (
                "no comma",
                "www1 52:54:00:12:34:56",
                "m.csv:1:1: \"www1 52:54:00:12:34:56\" is not host,mac; write for example www1,52:54:00:12:34:56",
            ),
            (
                "short",
                "www1,52:54:00:12:34",
                "m.csv:1:6: \"52:54:00:12:34\" is not a MAC address; write for example 52:54:00:12:34:56",
            ),
            (
                "long",
                "www1, 52:54:00:12:34:56:78",
                "m.csv:1:7: \"52:54:00:12:34:56:78\" is not a MAC address; write for example 52:54:00:12:34:56",
            ),
            (
                "sign",
                "www1,+2:54:00:12:34:56",
                "m.csv:1:6: \"+2:54:00:12:34:56\" is not a MAC address; write for example 52:54:00:12:34:56",
            ),
            (
                "group",
                "www1,01:00:5e:00:00:01",
                "m.csv:1:6: \"01:00:5e:00:00:01\" is no machine's MAC address (it is zero or of a group)",
            ),
            (
                "host",
                "a_b,52:54:00:12:34:56",
                "m.csv:1:1: \"a_b\" is not a host name: '_' is not allowed; use letters, digits and '.', '-'",
            ),
            (
                "host twice",
                "a,52:54:00:12:34:56\na,52:54:00:12:34:57",
                "m.csv:2:1: a is there twice; name each host once",
            ),
            (
                "mac twice",
                "a,52:54:00:12:34:56\nb,52:54:00:12:34:56",
                "m.csv:2:3: 52:54:00:12:34:56 is already a's; a MAC address belongs to one host",
            ),
            (
                "two faults",
                "a\nb",
                "m.csv:1:1: \"a\" is not host,mac; write for example www1,52:54:00:12:34:56\nm.csv:2:1: \"b\" is not host,mac; write for example www1,52:54:00:12:34:56",
            ),
        ] {
            assert_eq!(parse::<Mac>(file, text).unwrap_err(), says, "{name}");
        }
    }

    #[test]
    fn merging() {
        let list = |text: &str| -> Macs { parse(Path::new("m"), text).unwrap() };
        let old = list("a,52:54:00:12:34:56\nb,52:54:00:12:34:57");
        assert_eq!(merge(&old, &list("a,52:54:00:12:34:58")).unwrap().len(), 2);
        assert_eq!(
            merge(&old, &list("c,52:54:00:12:34:57")).unwrap_err(),
            "52:54:00:12:34:57, given to c, is already b's; a MAC address belongs to one host"
        );
        let swapped = list("a,52:54:00:12:34:57\nb,52:54:00:12:34:56");
        assert_eq!(merge(&old, &swapped).unwrap(), swapped, "two hosts may exchange theirs");
    }
}
