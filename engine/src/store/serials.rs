//! Which serial number each host's computer has, as its firmware tells it (DMI, `product_serial`): CSV lines `host,serial`. Pure.
//!
//! For machines whose network cards are not known beforehand, or are replaced. The administrator's list and the server's own
//! (`serials.csv` in its state directory) have the same form.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use systemimager_core::{Hardware, HostName};

use super::declared_list::{self, Kind, List};
use crate::config::Config;

/// The DMI fact.
const FACT: &str = "product_serial";
/// Longest that is taken, letters; SMBIOS has no limit of its own.
const LONGEST: usize = 128;
/// What firmware says that has none: many machines have the same.
const NONE: [&str; 14] = [
    "0",
    "00000000",
    "123456789",
    "0123456789",
    "1234567890",
    "chassis serial number",
    "default string",
    "empty",
    "n/a",
    "none",
    "not applicable",
    "not specified",
    "system serial number",
    "to be filled by o.e.m.",
];

/// A serial number: text without control characters, as it stands in the firmware but for blanks around it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl FromStr for Serial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > LONGEST || text.contains(',') || text.chars().any(char::is_control)
        {
            return Err(format!("{text:?} is not a serial number; see what systemimager hardware shows as {FACT}"));
        }
        let lower = text.to_lowercase();
        if NONE.contains(&lower.as_str())
            || lower.chars().all(|letter| letter == lower.chars().next().unwrap_or(letter))
        {
            return Err(format!(
                "{text:?} is what firmware says that has no serial number; name the machine by its MAC address"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Kind for Serial {
    const FIELD: &'static str = "serial";
    const EXAMPLE: &'static str = "CZJ1234X0Y";
    const WHAT: &'static str = "a serial number";
    const OPTION: &'static str = "--serials";
}

/// Hosts with their serial numbers.
pub type Serials = List<Serial>;

/// What a machine's firmware says, if that tells it from others.
pub fn of(hardware: &Hardware) -> Option<Serial> {
    hardware.dmi.get(FACT)?.parse().ok()
}

/// Whose it is.
pub fn owner<'a>(serials: &'a Serials, serial: &Serial) -> Option<&'a HostName> {
    serials.iter().find(|(_, declared)| *declared == serial).map(|(host, _)| host)
}

/// Where the server keeps them.
pub fn file(config: &Config) -> PathBuf {
    config.state().join("serials.csv")
}

/// The server's own.
///
/// # Errors
/// As [`declared_list::read`].
pub fn read(config: &Config) -> anyhow::Result<Serials> {
    declared_list::read(&file(config))
}

#[cfg(test)]
mod tests {
    use super::super::declared_list::parse;
    use super::*;
    use std::path::Path;

    #[test]
    fn what_tells_machines_apart() {
        let file = Path::new("s.csv");
        let serials: Serials = parse(file, "host,serial\nwww1, CZJ1234X0Y \nwww2,\"VMware-56 4d\"\n").unwrap();
        assert_eq!(serials.values().map(ToString::to_string).collect::<Vec<_>>(), ["CZJ1234X0Y", "VMware-56 4d"]);
        for (text, says) in [
            ("www1,To Be Filled By O.E.M.", "is what firmware says that has no serial number"),
            ("www1,XXXXXXXX", "is what firmware says that has no serial number"),
            ("www1,", "is not a serial number"),
            ("www1,a\nwww2,a", "is what firmware"),
            ("www1,ab\nwww2,ab", "s.csv:2:6: ab is already www1's; a serial number belongs to one host"),
            ("www1", "is not host,serial; write for example www1,CZJ1234X0Y"),
        ] {
            let error = parse::<Serial>(file, text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let hardware = |serial: &str| Hardware {
            dmi: [("product_serial".to_owned(), serial.to_owned())].into(),
            ..Hardware::default()
        };
        assert_eq!(of(&hardware("CZJ1234X0Y\n")).and_then(|it| owner(&serials, &it)).unwrap().as_str(), "www1");
        assert_eq!(of(&hardware("None")), None);
        assert_eq!(of(&Hardware::default()), None);
    }
}
