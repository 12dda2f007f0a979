//! A hosts file (hosts(5)), with a marked block that is ours. Pure: bytes in, bytes out.
//!
//! All outside the block stays byte for byte. What is there wins: an address that has another name
//! outside the block, or a name that has another address, is refused, never changed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use systemimager_core::HostName;

/// The line before our block.
pub const BEGIN: &str = "# systemimager begin: written by `systemimager addclients`; put your own lines outside";
/// The line after our block.
pub const END: &str = "# systemimager end";
/// What the line before our block begins with; what follows is for people.
const BEGIN_MARK: &str = "# systemimager begin";

/// A line that gives an address its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Line, from 1.
    pub line: usize,
    /// The address.
    pub address: IpAddr,
    /// The names, the first is the canonical one.
    pub names: Vec<String>,
    /// It stands in our block.
    pub ours: bool,
}

impl Entry {
    /// One of its names is this host's: its full or its short one.
    pub fn names_host(&self, host: &HostName) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(host.as_str()))
            || self.names.iter().any(|name| name.eq_ignore_ascii_case(host.short()))
    }
}

/// A host's line in our block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub host: HostName,
    /// Its address.
    pub address: IpAddr,
    /// Its domain, unless its name has one.
    pub domain: Option<String>,
}

impl Client {
    /// The names in the order of the line: with domain first, as hosts(5) wants the canonical one.
    fn names(&self) -> Vec<String> {
        let host = self.host.as_str();
        match &self.domain {
            Some(domain) if !host.contains('.') => vec![format!("{host}.{domain}"), host.to_owned()],
            _ if host.contains('.') => vec![host.to_owned(), self.host.short().to_owned()],
            _ => vec![host.to_owned()],
        }
    }
}

/// The entries of a hosts file. Lines that are none (hosts(5) knows only addresses with names) are passed over.
///
/// # Errors
/// Our block is not whole: says the line.
pub fn entries(text: &[u8]) -> Result<Vec<Entry>, String> {
    let (begin, end) = block_lines(text)?.unwrap_or((0, 0));
    Ok(lines(text)
        .enumerate()
        .filter_map(|(index, line)| {
            let line = String::from_utf8_lossy(line);
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.parse().ok()?;
            let names: Vec<String> = words.map(str::to_owned).collect();
            let number = index + 1;
            (!names.is_empty()).then_some(Entry { line: number, address, names, ours: begin < number && number < end })
        })
        .collect())
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

/// Numbers, from 1, of the lines that begin and end our block.
fn block_lines(text: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut found = None;
    let mut open: Option<usize> = None;
    for (index, line) in lines(text).enumerate() {
        let number = index + 1;
        let line = line.trim_ascii();
        if line.starts_with(BEGIN_MARK.as_bytes()) {
            if let Some(first) = open.or(found.map(|(begin, _)| begin)) {
                return Err(format!(
                    "line {number}: a second \"{BEGIN_MARK}\" (the first is line {first}); remove one block"
                ));
            }
            open = Some(number);
        } else if line == END.as_bytes() {
            match open.take() {
                Some(begin) => found = Some((begin, number)),
                None => {
                    return Err(format!(
                        "line {number}: \"{END}\" without \"{BEGIN_MARK}\" before it; remove the line"
                    ));
                }
            }
        }
    }
    match open {
        Some(begin) => Err(format!(
            "line {begin}: \"{BEGIN_MARK}\" without \"{END}\" after it; add that line where the block ends"
        )),
        None => Ok(found),
    }
}

/// The file with these clients added to our block, in whose lines they replace their own older ones. The same
/// bytes if all of them are there already.
///
/// # Errors
/// All conflicts, a line each, beginning with `line N: `; or our block is not whole.
pub fn with_clients(text: &[u8], clients: &[Client]) -> Result<Vec<u8>, String> {
    let all = entries(text)?;
    let new: BTreeMap<&HostName, &Client> = clients.iter().map(|client| (&client.host, client)).collect();
    let mut faults = Vec::new();
    let mut outside: Vec<&HostName> = Vec::new();
    // A large set against a large file must not take the product of both.
    let mut by_address: BTreeMap<IpAddr, &Client> = BTreeMap::new();
    let mut by_name: BTreeMap<String, &Client> = BTreeMap::new();
    for client in clients {
        if let Some(other) = by_address.insert(client.address, client) {
            faults.push(format!("{} is given to both {} and {}", client.address, other.host, client.host));
        }
        for name in client.names() {
            by_name.insert(name.to_ascii_lowercase(), client);
        }
    }
    let mut kept: Vec<&Entry> = Vec::new();
    for entry in &all {
        let named = entry.names.iter().find_map(|name| by_name.get(&name.to_ascii_lowercase()));
        match (named, by_address.get(&entry.address)) {
            (Some(named), Some(addressed)) if named.host == addressed.host => {
                if !entry.ours && !entry.names_host(&named.host) {
                    faults.push(format!(
                        "line {}: {} is {}'s there, which does not name {} itself; add that name to the line",
                        entry.line,
                        entry.address,
                        entry.names.join(" "),
                        named.host
                    ));
                }
                outside.extend((!entry.ours).then_some(&named.host));
            }
            // Its old line in our block goes; the new one takes its place.
            (Some(named), None) if entry.ours && new.contains_key(&named.host) => {}
            (Some(_), Some(_)) if entry.ours => {}
            (named, Some(addressed)) if !entry.ours || named.is_none() => faults.push(format!(
                "line {}: {} is {}'s and cannot be {}'s; choose other addresses, or remove that line",
                entry.line,
                entry.address,
                entry.names.join(" "),
                addressed.host
            )),
            // Loopback names of this very server, IPv6 beside IPv4 and the like: only one family is given out.
            (Some(named), None) if !entry.ours && entry.address.is_ipv4() == named.address.is_ipv4() => {
                faults.push(format!(
                    "line {}: {} has the address {} there and cannot have {}; choose another name, or remove that line",
                    entry.line, named.host, entry.address, named.address
                ))
            }
            _ if entry.ours => kept.push(entry),
            _ => {}
        }
    }
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    let mut block: Vec<(IpAddr, String)> = kept.iter().map(|entry| (entry.address, entry.names.join("\t"))).collect();
    block.extend(
        clients
            .iter()
            .filter(|client| !outside.contains(&&client.host))
            .map(|client| (client.address, client.names().join("\t"))),
    );
    block.sort_by_key(|(address, _)| *address);
    Ok(with_block(text, &block, block_lines(text)?))
}

fn with_block(text: &[u8], block: &[(IpAddr, String)], place: Option<(usize, usize)>) -> Vec<u8> {
    let mut ours = String::new();
    for (address, names) in block {
        ours.push_str(&format!("{address}\t{names}\n"));
    }
    let mut out = Vec::with_capacity(text.len() + ours.len() + 128);
    match place {
        Some((begin, end)) => {
            for (index, line) in lines(text).enumerate() {
                let number = index + 1;
                // The marks stay as they are, and so the file does when nothing changed.
                if number <= begin || number >= end {
                    out.extend_from_slice(line);
                }
                if number == begin {
                    out.extend_from_slice(ours.as_bytes());
                }
            }
        }
        None => {
            out.extend_from_slice(text);
            if block.is_empty() {
                return out;
            }
            if !text.is_empty() && !text.ends_with(b"\n") {
                out.push(b'\n');
            }
            out.extend_from_slice(format!("{BEGIN}\n{ours}{END}\n").as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(host: &str, address: &str, domain: Option<&str>) -> Client {
        Client {
            host: HostName::try_from(host).unwrap(),
            address: address.parse().unwrap(),
            domain: domain.map(str::to_owned),
        }
    }

    #[test]
    fn the_rest_stays_byte_for_byte() {
        let before = b"127.0.0.1 localhost\n\xff odd line \n10.0.0.1\tserver # us".as_slice();
        let clients = [client("www1", "10.0.0.11", Some("example.org")), client("www2", "10.0.0.12", None)];
        let once = with_clients(before, &clients).unwrap();
        let expected =
            [before, format!("\n{BEGIN}\n10.0.0.11\twww1.example.org\twww1\n10.0.0.12\twww2\n{END}\n").as_bytes()]
                .concat();
        assert_eq!(String::from_utf8_lossy(&once), String::from_utf8_lossy(&expected));
        assert_eq!(with_clients(&once, &clients).unwrap(), once, "twice is the same as once");
        // Text after the block, and its own words on the first mark, stay.
        let edited = [b"# systemimager begin: mine\n# systemimager end\n".as_slice(), before].concat();
        let twice = with_clients(&edited, &clients[1..]).unwrap();
        let expected =
            [b"# systemimager begin: mine\n10.0.0.12\twww2\n# systemimager end\n".as_slice(), before].concat();
        assert_eq!(twice, expected);
        assert_eq!(with_clients(before, &[]).unwrap(), before);
    }

    #[test]
    fn clients_are_added_and_moved() {
        let text = with_clients(b"", &[client("a", "10.0.0.11", None), client("b", "10.0.0.12", None)]).unwrap();
        let rows: [(&str, Vec<Client>, &[&str]); 5] = [
            ("another", vec![client("c", "10.0.0.10", None)], &["10.0.0.10\tc", "10.0.0.11\ta", "10.0.0.12\tb"]),
            ("moved", vec![client("a", "10.0.0.13", None)], &["10.0.0.12\tb", "10.0.0.13\ta"]),
            (
                "exchanged",
                vec![client("a", "10.0.0.12", None), client("b", "10.0.0.11", None)],
                &["10.0.0.11\tb", "10.0.0.12\ta"],
            ),
            ("a domain now", vec![client("a", "10.0.0.11", Some("d.org"))], &["10.0.0.11\ta.d.org\ta", "10.0.0.12\tb"]),
            (
                "full name",
                vec![client("c.d.org", "10.0.0.9", Some("x"))],
                &["10.0.0.9\tc.d.org\tc", "10.0.0.11\ta", "10.0.0.12\tb"],
            ),
        ];
        for (name, clients, expected) in rows {
            let after = with_clients(&text, &clients).unwrap();
            let after = String::from_utf8(after).unwrap();
            let lines: Vec<&str> = after.lines().filter(|line| !line.starts_with('#')).collect();
            assert_eq!(lines, expected, "{name}");
        }
    }

    #[test]
    fn what_is_there_wins() {
        let text = b"10.0.0.1 server\n10.0.0.2 www2 alias\n# systemimager begin\n10.0.0.11\told\n# systemimager end\n";
        let full = with_clients(b"10.0.0.11 www1.d.org\n", &[client("www1", "10.0.0.11", Some("d.org"))]).unwrap_err();
        assert!(full.contains("line 1: 10.0.0.11 is www1.d.org's there, which does not name www1 itself"), "{full}");
        let rows: [(&str, Client, Result<bool, &str>); 6] = [
            (
                "address taken outside",
                client("www1", "10.0.0.1", None),
                Err("line 1: 10.0.0.1 is server's and cannot be www1's; choose other addresses, or remove that line"),
            ),
            (
                "name has another address outside",
                client("www2", "10.0.0.12", None),
                Err(
                    "line 2: www2 has the address 10.0.0.2 there and cannot have 10.0.0.12; choose another name, or remove that line",
                ),
            ),
            (
                "address taken in the block",
                client("www3", "10.0.0.11", None),
                Err("line 4: 10.0.0.11 is old's and cannot be www3's; choose other addresses, or remove that line"),
            ),
            ("there already, outside", client("www2", "10.0.0.2", None), Ok(false)),
            ("there already, in the block", client("old", "10.0.0.11", None), Ok(false)),
            ("new", client("www4", "10.0.0.14", None), Ok(true)),
        ];
        for (name, client, expected) in rows {
            let result = with_clients(text, &[client]).map(|after| after != text);
            assert_eq!(result, expected.map_err(str::to_owned), "{name}");
        }
        let both = [client("a", "10.0.0.50", None), client("b", "10.0.0.50", None)];
        assert_eq!(with_clients(text, &both).unwrap_err(), "10.0.0.50 is given to both a and b");
    }

    #[test]
    fn broken_blocks_are_refused() {
        for (name, text, says) in [
            (
                "no end",
                "x\n# systemimager begin\n",
                "line 2: \"# systemimager begin\" without \"# systemimager end\" after it; add that line where the block ends",
            ),
            (
                "no begin",
                "# systemimager end\n",
                "line 1: \"# systemimager end\" without \"# systemimager begin\" before it; remove the line",
            ),
            (
                "two",
                "# systemimager begin\n# systemimager end\n# systemimager begin\n# systemimager end\n",
                "line 3: a second \"# systemimager begin\" (the first is line 1); remove one block",
            ),
        ] {
            assert_eq!(entries(text.as_bytes()).unwrap_err(), says, "{name}");
        }
    }

    #[test]
    fn entries_are_read() {
        let text = b"127.0.0.1 localhost\nfe80::1%lo0 x\n10.0.0.1\n# 10.0.0.2 no\n::1 ip6 # c\n";
        let read = entries(text).unwrap();
        assert_eq!(read.iter().map(|entry| entry.line).collect::<Vec<_>>(), [1, 5]);
        assert!(read[0].names_host(&HostName::try_from("localhost").unwrap()));
    }
}
