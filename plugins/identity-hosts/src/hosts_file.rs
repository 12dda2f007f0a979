//! The hosts file (hosts(5)): which name an address has, which address a name has. Pure.
//!
//! Lines that hold no address are passed over: resolvers do so too. A line that decides must be right.

use std::net::IpAddr;

use systemimager_core::{HostName, PluginError, Result};

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Line number, from 1.
    pub line: usize,
    /// The address.
    pub address: IpAddr,
    /// The names as they stand there, at least one.
    pub names: Vec<String>,
}

/// The name that a line gives a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name: the short one where the line has `name.domain` and `name` both, as host links are named.
    pub name: HostName,
    /// The domain, where the line has one.
    pub domain: Option<String>,
    /// Line number, from 1.
    pub line: usize,
}

/// All lines with an address and a name.
pub fn entries(text: &str) -> Vec<Entry> {
    let entry = |(index, line): (usize, &str)| {
        let line_without_comment = line.split('#').next().unwrap_or_default();
        let mut words = line_without_comment.split_whitespace();
        let address = words.next()?.parse().ok()?;
        let names: Vec<String> = words.map(str::to_owned).collect();
        (!names.is_empty()).then_some(Entry { line: index + 1, address, names })
    };
    text.lines().enumerate().filter_map(entry).collect()
}

/// The name of an address; `None` if no line has it.
///
/// # Errors
/// `Invalid`: the line's first name is none, or two lines give the address different names.
pub fn name_of(entries: &[Entry], address: IpAddr) -> Result<Option<Named>> {
    let mut found: Option<Named> = None;
    for entry in entries.iter().filter(|entry| entry.address == address) {
        let named = named(entry)?;
        match &found {
            Some(first) if !first.name.as_str().eq_ignore_ascii_case(named.name.as_str()) => {
                return Err(PluginError::invalid(format!(
                    "the hosts file gives {address} two names: {} in line {} and {} in line {}; leave one of the lines",
                    first.name, first.line, named.name, named.line
                )));
            }
            Some(_) => {}
            None => found = Some(named),
        }
    }
    Ok(found)
}

/// The entry of a name (its short or its full form), loopback addresses apart; `None` if no line has it.
/// With several addresses the one that `prefer` likes, else the first.
pub fn entry_of<'a>(entries: &'a [Entry], name: &HostName, prefer: impl Fn(IpAddr) -> bool) -> Option<&'a Entry> {
    let mut with_name = entries.iter().filter(|entry| {
        !entry.address.is_loopback() && entry.names.iter().any(|other| other.eq_ignore_ascii_case(name.as_str()))
    });
    let first = with_name.next()?;
    Some(std::iter::once(first).chain(with_name).find(|entry| prefer(entry.address)).unwrap_or(first))
}

/// The name and domain that a line gives.
///
/// # Errors
/// `Invalid`: its first name is not a host name.
pub fn named(entry: &Entry) -> Result<Named> {
    let first = entry.names.first().map(String::as_str).unwrap_or_default();
    let name = HostName::try_from(first).map_err(|error| {
        PluginError::invalid(format!(
            "the hosts file, line {} (for {}): {error}; correct it",
            entry.line, entry.address
        ))
    })?;
    let Some((short, domain)) = first.split_once('.') else {
        // `www3 www3.example.org` has its domain in an alias.
        let of_alias = entry.names.iter().find_map(|alias| alias.strip_prefix(first)?.strip_prefix('.'));
        let domain = of_alias.filter(|domain| HostName::try_from(*domain).is_ok()).map(str::to_owned);
        return Ok(Named { name, domain, line: entry.line });
    };
    let has_short = entry.names.iter().any(|alias| alias.eq_ignore_ascii_case(short));
    let name = if has_short { HostName::try_from(short).unwrap_or(name) } else { name };
    Ok(Named { name, domain: Some(domain.to_owned()), line: entry.line })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "127.0.0.1 localhost\n# comment\n\n10.0.0.11\twww1.example.org www1 # first\n10.0.0.12 www2\n\
        10.0.0.13 www3 www3.example.org\n10.0.0.14 db.example.org\nnonsense www9\n10.0.0.15\n10.0.0.16 a_b\n\
        10.0.0.17 x\n10.0.0.17 y\n10.0.0.18 z\n10.0.0.18 z.example.org Z\nfd77::1 six\n192.0.2.1 www2\n";

    #[test]
    fn names_of_addresses() {
        let name = |name: &str, domain: Option<&str>, line| {
            Ok(Some(Named { name: HostName::try_from(name).unwrap(), domain: domain.map(str::to_owned), line }))
        };
        let domain = Some("example.org");
        let rows: Vec<(&str, Result<Option<Named>, &str>)> = vec![
            ("10.0.0.11", name("www1", domain, 4)),
            ("10.0.0.12", name("www2", None, 5)),
            ("10.0.0.13", name("www3", domain, 6)),
            ("10.0.0.14", name("db.example.org", domain, 7)),
            ("10.0.0.15", Ok(None)),
            (
                "10.0.0.16",
                Err("the hosts file, line 10 (for 10.0.0.16): \"a_b\" is not a host name: '_' is not allowed; use \
                     letters, digits and '.', '-'; correct it"),
            ),
            (
                "10.0.0.17",
                Err("the hosts file gives 10.0.0.17 two names: x in line 11 and y in line 12; leave one of the lines"),
            ),
            ("10.0.0.18", name("z", None, 13)),
            ("fd77::1", name("six", None, 15)),
            ("10.9.9.9", Ok(None)),
        ];
        for (address, expected) in rows {
            let found = name_of(&entries(FILE), address.parse().unwrap()).map_err(|error| error.message);
            assert_eq!(found, expected.map_err(str::to_owned), "{address}");
        }
    }

    #[test]
    fn addresses_of_names() {
        let rows: [(&str, &str, Option<usize>); 6] = [
            ("www1", "10.", Some(4)),
            ("WWW1.example.org", "10.", Some(4)),
            ("www2", "10.", Some(5)),
            ("www2", "192.", Some(16)),
            ("localhost", "", None),
            ("nobody", "", None),
        ];
        for (name, prefer, expected) in rows {
            let entries = entries(FILE);
            let name = HostName::try_from(name).unwrap();
            let found = entry_of(&entries, &name, |address| address.to_string().starts_with(prefer));
            assert_eq!(found.map(|entry| entry.line), expected, "{name}");
        }
    }
}
