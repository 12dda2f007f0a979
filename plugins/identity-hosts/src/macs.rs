//! Which host has which MAC address: the image server's own list, lines `host,mac` (`addclients --macs`). Pure.
//!
//! Lines that name no machine's MAC are passed over; a line that decides must be right, and alone.

use systemimager_core::{HostName, PluginError, Result};

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Line number, from 1.
    pub number: usize,
    /// The host, as it stands there: not yet a valid name.
    pub host: String,
    /// The MAC address, lower case with colons.
    pub mac: String,
}

/// All lines that have a host and a MAC address.
pub fn lines(text: &str) -> Vec<Line> {
    let line = |(index, line): (usize, &str)| {
        let (host, mac) = line.split_once(',').filter(|(host, _)| !host.trim_start().starts_with('#'))?;
        let mac = normal(mac.trim().trim_matches('"'))?;
        Some(Line { number: index + 1, host: host.trim().trim_matches('"').to_owned(), mac })
    };
    text.lines().enumerate().filter_map(line).collect()
}

/// The host that a MAC address belongs to, with its line's number; `None` if no line has it.
///
/// # Errors
/// `Invalid`: the line's host is no host name, or two lines give the address to different hosts.
pub fn host_of(lines: &[Line], mac: &str) -> Result<Option<(HostName, usize)>> {
    let Some(mac) = normal(mac) else { return Ok(None) };
    let mut found: Option<(HostName, usize)> = None;
    for line in lines.iter().filter(|line| line.mac == mac) {
        let host = HostName::try_from(line.host.as_str()).map_err(|error| {
            PluginError::invalid(format!("the list of MACs, line {} (for {mac}): {error}; correct it", line.number))
        })?;
        match &found {
            Some((first, number)) if !first.as_str().eq_ignore_ascii_case(host.as_str()) => {
                return Err(PluginError::invalid(format!(
                    "the list of MACs gives {mac} to two hosts: {first} in line {number} and {host} in line {}; leave one \
                     of the lines (macs.csv on the image server)",
                    line.number
                )));
            }
            Some(_) => {}
            None => found = Some((host, line.number)),
        }
    }
    Ok(found)
}

/// Six pairs of hexadecimal digits in lower case with colons; `None` if it is no MAC address.
pub fn normal(mac: &str) -> Option<String> {
    let pairs: Vec<&str> = mac.split([':', '-']).collect();
    let is_pair = |pair: &&str| pair.len() == 2 && pair.bytes().all(|letter| letter.is_ascii_hexdigit());
    (pairs.len() == 6 && pairs.iter().all(is_pair)).then(|| pairs.join(":").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "host,mac\n# www0,52:54:00:00:00:00\nwww1,52:54:00:00:00:01\n \"www2\" , 52-54-00-00-00-0A \n\
        bad_name,52:54:00:00:00:03\nwww4,52:54:00:00:00:04\nwww5,52:54:00:00:00:04\nwww6,52:54:00:00:00:06\n\
        WWW6,52:54:00:00:00:06\nwww7,nonsense\nwww8\n";

    #[test]
    fn hosts_of_macs() {
        let found = |name: &str, line| Ok(Some((name.to_owned(), line)));
        type Row<'a> = (&'a str, Result<Option<(String, usize)>, &'a str>);
        let rows: Vec<Row<'_>> = vec![
            ("52:54:00:00:00:00", Ok(None)),
            ("52:54:00:00:00:01", found("www1", 3)),
            ("52:54:00:00:00:0a", found("www2", 4)),
            ("52-54-00-00-00-0A", found("www2", 4)),
            (
                "52:54:00:00:00:03",
                Err("the list of MACs, line 5 (for 52:54:00:00:00:03): \"bad_name\" is not a host name: '_' is not \
                     allowed; use letters, digits and '.', '-'; correct it"),
            ),
            (
                "52:54:00:00:00:04",
                Err(
                    "the list of MACs gives 52:54:00:00:00:04 to two hosts: www4 in line 6 and www5 in line 7; leave one \
                     of the lines (macs.csv on the image server)",
                ),
            ),
            ("52:54:00:00:00:06", found("www6", 8)),
            ("nonsense", Ok(None)),
            ("", Ok(None)),
        ];
        for (mac, expected) in rows {
            let found = host_of(&lines(LIST), mac).map(|found| found.map(|(name, line)| (name.to_string(), line)));
            assert_eq!(found.map_err(|error| error.message), expected.map_err(str::to_owned), "{mac}");
        }
    }
}
