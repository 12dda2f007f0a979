//! A site's dnsmasq (dnsmasq(8)): a marked block of options for a subnet, and one of static entries. Pure.
//!
//! What is said holds for our subnet alone, by a tag, so that others which the same dnsmasq serves stay as they are. It
//! spares the addresses of named machines by itself. What `serve` makes for its own dnsmasq is
//! [`crate::serve::dnsmasq`]'s.

use std::net::Ipv4Addr;
use std::path::Path;

use super::block::{HOSTS, SITE, both, within};
use super::{Entry, FIRST_HTTP_ARCH, Found, Reservation, Site, Span, at, word};

/// The tag of machines in our subnet.
const TAG: &str = "systemimager";

/// The line where our subnet begins, if it is there.
pub(super) fn served(text: &str) -> Option<usize> {
    SITE.lines(text).ok()?.map(|block| block.start)
}

/// What the configuration has.
///
/// # Errors
/// `FILE:LINE: what is wrong`: a block is not whole.
pub fn read(file: &Path, text: &str) -> Result<Found, String> {
    let wrong = |(line, why): (usize, String)| at(file, line, why);
    let [site, hosts] = both(text).map_err(wrong)?;
    let mut found = Found { served: site.as_ref().map(|block| block.start), ..Found::default() };
    for (line, option, value) in options(text) {
        match option {
            "dhcp-host" => found.entries.extend(entry(value).map(|entry| Entry {
                line,
                ours: within(&site, line) || within(&hosts, line),
                ..entry
            })),
            "dhcp-range" if !within(&site, line) => {
                found.ranges.extend(range(value).map(|range| (line, range)));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The lines that set something: number, option, value.
fn options(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    (1..).zip(text.lines()).filter_map(|(number, line)| {
        let line = line.trim();
        // A remark may follow a value after a blank.
        let line = line.find(" #").and_then(|at| line.get(..at)).unwrap_or(line);
        if line.starts_with('#') {
            return None;
        }
        let (option, value) = line.split_once('=')?;
        Some((number, option.trim(), value.trim()))
    })
}

/// `dhcp-host=[MAC][,id:…][,set:TAG][,tag:TAG][,ADDRESS][,NAME][,LEASE][,ignore]`.
fn entry(value: &str) -> Option<Entry> {
    let mut entry = Entry { line: 0, name: None, mac: None, address: None, ours: false };
    for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        if let Ok(mac) = word.parse() {
            entry.mac.get_or_insert(mac);
        } else if let Ok(address) = word.parse::<Ipv4Addr>() {
            entry.address.get_or_insert(address);
        } else if !word.contains(':') && word != "ignore" && word != "infinite" && !is_time(word) {
            entry.name.get_or_insert_with(|| word.to_owned());
        }
    }
    (entry.mac.is_some() || entry.name.is_some()).then_some(entry)
}

/// A lease time: `600`, `45m`, `12h`.
fn is_time(word: &str) -> bool {
    let digits = word.strip_suffix(|it: char| "smhdwSMHDW".contains(it)).unwrap_or(word);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn range(value: &str) -> Option<Span> {
    let mut words = value.split(',').map(str::trim).skip_while(|word| word.contains(':') || word.is_empty());
    let first = words.next()?.parse().ok()?;
    Some(Span { first, last: words.next()?.parse().ok()? })
}

/// The configuration with our subnet in it.
///
/// # Errors
/// `FILE:LINE: what is wrong`: a range of somebody else reaches into ours, or a block is not whole.
pub fn with_site(file: &Path, text: &str, site: &Site) -> Result<String, String> {
    for (line, range) in read(file, text)?.ranges {
        if site.ranges.iter().any(|own| own.first <= range.last && range.first <= own.last) {
            return Err(at(
                file,
                line,
                format!("the range {range} overlaps with ours; take it out, or choose another with --range"),
            ));
        }
    }
    SITE.put(text, &block(site)?).map_err(|(line, why)| at(file, line, why))
}

fn block(site: &Site) -> Result<String, String> {
    let (base, mask, lease, server) = (site.network.base(), site.network.mask(), site.lease_seconds, site.server);
    let mut lines = vec![
        "dhcp-authoritative".to_owned(),
        // Named machines get their addresses also where no range is open to others.
        format!("dhcp-range=set:{TAG},{base},static,{mask},{lease}"),
    ];
    for Span { first, last } in &site.ranges {
        lines.push(format!("dhcp-range=set:{TAG},{first},{last},{mask},{lease}"));
    }
    // Without a value it names nobody: dnsmasq names itself if nothing is said.
    let said = |option: &str, values: &[Ipv4Addr]| {
        let values: String = values.iter().map(|value| format!(",{value}")).collect();
        format!("dhcp-option=tag:{TAG},option:{option}{values}")
    };
    lines.push(said("router", site.router.as_slice()));
    lines.push(said("dns-server", &site.name_servers));
    if let Some(domain) = &site.domain {
        lines.push(format!("dhcp-option=tag:{TAG},option:domain-name,{domain}"));
    }
    if !site.boot_files.is_empty() {
        lines.push("# What machines boot, and from where; option 93 (RFC 4578) tells the kind of firmware.".into());
        lines.push(format!("dhcp-match=set:{TAG}-arch,option:client-arch"));
    }
    for file in &site.boot_files {
        let (arch, name) = (file.client_arch, word("the boot file's name", &file.name)?);
        lines.push(format!("dhcp-match=set:{TAG}-arch{arch},option:client-arch,{arch}"));
        lines.push(format!("dhcp-boot=tag:{TAG},tag:{TAG}-arch{arch},{name},,{server}"));
        if arch == 0 {
            lines.push(format!("dhcp-boot=tag:{TAG},tag:!{TAG}-arch,{name},,{server}"));
        } else if arch >= FIRST_HTTP_ARCH {
            lines.push(format!("dhcp-option-force=tag:{TAG},tag:{TAG}-arch{arch},option:vendor-class,HTTPClient"));
        }
    }
    if !site.boot_files.is_empty() {
        lines.push("# iPXE need not wait for a second server (ipxe.org/howto/dhcpd).".into());
        lines.push(format!("dhcp-option=tag:{TAG},encap:175,176,1b"));
    }
    Ok(lines.join("\n") + "\n")
}

/// The configuration with these static entries in the place of ours.
///
/// # Errors
/// `FILE:LINE: what is wrong`: a block is not whole.
pub fn with_entries(file: &Path, text: &str, entries: &[Reservation]) -> Result<String, String> {
    read(file, text)?;
    let lines: String = entries
        .iter()
        .map(|Reservation { host, mac, address }| format!("dhcp-host={mac},{address},{}\n", host.short()))
        .collect();
    HOSTS.put(text, &lines).map_err(|(line, why)| at(file, line, why))
}
