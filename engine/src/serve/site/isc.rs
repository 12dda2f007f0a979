//! ISC dhcpd's configuration (dhcpd.conf(5)): a subnet in one marked block, static entries in another. Pure.
//!
//! dhcpd gives an address of a range to anybody, also when it is a named machine's: ranges are written without those
//! addresses, and the whole range stands beside them as a remark, so that it grows again when an entry goes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use systemimager_core::BootFile;

use super::block::{HOSTS, SITE, both, within};
use super::isc_words::{Statement, statements};
use super::{Entry, FIRST_HTTP_ARCH, Found, Reservation, Site, Span, at, word};
use crate::store::addresses::Network;

/// What a remark with a whole range begins with, and ends with.
const WHOLE: (&str, &str) = ("  # range ", ", without the addresses of named machines:");

/// The line where our subnet begins, if it is there.
pub(super) fn served(text: &str) -> Option<usize> {
    SITE.lines(text).ok()?.map(|block| block.start)
}

/// What the configuration has.
///
/// # Errors
/// `FILE:LINE: what is wrong`.
pub fn read(file: &Path, text: &str) -> Result<Found, String> {
    let wrong = |(line, why): (usize, String)| at(file, line, why);
    let [site, hosts] = both(text).map_err(wrong)?;
    let ours = |line: usize| within(&site, line) || within(&hosts, line);
    let all = statements(text).map_err(wrong)?;
    let mut found = Found { served: site.as_ref().map(|block| block.start), ..Found::default() };
    for block in [&site, &hosts] {
        if let Some(first) = all.iter().find(|it| within(block, it.line)).filter(|it| it.depth > 0) {
            return Err(at(
                file,
                first.line,
                "our block stands inside of the braces of something else, which would end up in it; move it out of them",
            ));
        }
    }
    for (index, statement) in all.iter().enumerate() {
        if statement.begins(&["host"]) && statement.opens {
            let body = all.iter().skip(index + 1).take_while(|inner| inner.depth > statement.depth);
            let mut entry = Entry {
                line: statement.line,
                name: statement.word(1).map(str::to_owned),
                mac: None,
                address: None,
                ours: ours(statement.line),
            };
            for inner in body {
                if inner.begins(&["hardware", "ethernet"]) {
                    entry.mac = inner.word(2).and_then(mac);
                } else if inner.begins(&["fixed-address"]) {
                    entry.address = inner.word(1).and_then(|it| it.parse().ok());
                }
            }
            found.entries.push(entry);
        } else if statement.begins(&["range"]) && !within(&site, statement.line) {
            found.ranges.extend(range(statement).map(|range| (statement.line, range)));
        }
    }
    Ok(found)
}

/// dhcpd takes `0:1:2:a:b:c` too.
fn mac(text: &str) -> Option<crate::store::macs::Mac> {
    let parts: Vec<String> = text.split(':').map(|part| format!("{part:0>2}")).collect();
    parts.join(":").parse().ok()
}

fn range(statement: &Statement) -> Option<Span> {
    let mut addresses = statement.words.iter().skip(1).filter_map(|word| word.text()?.parse::<Ipv4Addr>().ok());
    let first = addresses.next()?;
    Some(Span { first, last: addresses.next().unwrap_or(first) })
}

/// The configuration with our subnet in it.
///
/// # Errors
/// `FILE:LINE: what is wrong`: somebody else declares this subnet, or a block is not whole.
pub fn with_site(file: &Path, text: &str, site: &Site) -> Result<String, String> {
    let found = read(file, text)?;
    let wrong = |(line, why): (usize, String)| at(file, line, why);
    let own = SITE.lines(text).map_err(wrong)?;
    for statement in statements(text).map_err(wrong)?.iter().filter(|it| it.begins(&["subnet"])) {
        if within(&own, statement.line) {
            continue;
        }
        if let Some(network) = subnet(statement).filter(|network| overlap(*network, site.network)) {
            return Err(at(
                file,
                statement.line,
                format!(
                    "this declares {network}, and a subnet can be declared once only; take it out, or write elsewhere with \
                     --output and bring the two together"
                ),
            ));
        }
    }
    let named: BTreeSet<Ipv4Addr> =
        found.entries.iter().filter(|entry| !within(&own, entry.line)).filter_map(|entry| entry.address).collect();
    SITE.put(text, &block(site, &named)?).map_err(wrong)
}

fn subnet(statement: &Statement) -> Option<Network> {
    let base: Ipv4Addr = statement.word(1)?.parse().ok()?;
    let mask: Ipv4Addr = statement.word(3)?.parse().ok()?;
    Network::new(base.into(), u8::try_from(mask.to_bits().leading_ones()).ok()?).ok()
}

fn overlap(one: Network, other: Network) -> bool {
    let wide = if one.prefix < other.prefix { one } else { other };
    let same = |it: Network| Network::new(it.address, wide.prefix).map(|it| it.base());
    same(one) == same(other)
}

fn block(site: &Site, named: &BTreeSet<Ipv4Addr>) -> Result<String, String> {
    let mut out = format!("subnet {} netmask {} {{\n  authoritative;\n", site.network.base(), site.network.mask());
    site.ranges.iter().for_each(|range| ranges(&mut out, *range, named));
    let mut line = |text: String| out.push_str(&format!("  {text}\n"));
    line(format!("default-lease-time {};", site.lease_seconds));
    line(format!("max-lease-time {};", site.lease_seconds));
    if let Some(router) = site.router {
        line(format!("option routers {router};"));
    }
    if !site.name_servers.is_empty() {
        let servers: Vec<String> = site.name_servers.iter().map(ToString::to_string).collect();
        line(format!("option domain-name-servers {};", servers.join(", ")));
    }
    if let Some(domain) = &site.domain {
        line(format!("option domain-name \"{domain}\";"));
    }
    line("# What machines boot, and from where; option 93 (RFC 4578) tells the kind of firmware.".into());
    line(format!("next-server {};", site.server));
    let mut word = "if";
    for file in &site.boot_files {
        for test in tests(file) {
            line(format!("{word} {test} {{ {}}}", boots(file)?));
            word = "elsif";
        }
    }
    if !site.boot_files.is_empty() {
        line("# iPXE need not wait for a second server (ipxe.org/howto/dhcpd).".into());
        line("option unknown-175 b0:01:01;".into());
    }
    out.push_str("}\n");
    Ok(out)
}

fn ranges(out: &mut String, whole: Span, named: &BTreeSet<Ipv4Addr>) {
    let (begin, end) = WHOLE;
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{begin}{whole}{end}");
    for Span { first, last } in whole.without(named) {
        let _ = writeln!(out, "  range {first} {last};");
    }
}

/// The oldest BIOS loaders do not tell their kind.
fn tests(file: &BootFile) -> Vec<String> {
    let [high, low] = file.client_arch.to_be_bytes();
    let told = format!("substring(option pxe-system-type, 0, 2) = {high:02x}:{low:02x}");
    match file.client_arch {
        0 => vec!["not exists pxe-system-type".to_owned(), told],
        _ => vec![told],
    }
}

fn boots(file: &BootFile) -> Result<String, String> {
    let name = word("the boot file's name", &file.name)?;
    let class = if file.client_arch < FIRST_HTTP_ARCH { "" } else { "option vendor-class-identifier \"HTTPClient\"; " };
    Ok(format!("{class}filename \"{name}\"; "))
}

/// The configuration with these static entries in the place of ours.
///
/// # Errors
/// `FILE:LINE: what is wrong`: a block is not whole.
pub fn with_entries(file: &Path, text: &str, entries: &[Reservation]) -> Result<String, String> {
    let wrong = |(line, why): (usize, String)| at(file, line, why);
    let mut named: BTreeSet<Ipv4Addr> =
        read(file, text)?.entries.iter().filter(|entry| !entry.ours).filter_map(|entry| entry.address).collect();
    named.extend(entries.iter().map(|entry| entry.address));
    let mut text = text.to_owned();
    if let Some(inner) = SITE.inner(&text).map_err(wrong)? {
        text = SITE.put(&text, &split_anew(&inner, &named)).map_err(wrong)?;
    }
    let lines: String = entries
        .iter()
        .map(|Reservation { host, mac, address }| {
            format!(
                "host {host} {{ hardware ethernet {mac}; fixed-address {address}; option host-name \"{}\"; }}\n",
                host.short()
            )
        })
        .collect();
    HOSTS.put(&text, &lines).map_err(wrong)
}

/// Our subnet with its ranges split anew.
fn split_anew(inner: &str, named: &BTreeSet<Ipv4Addr>) -> String {
    let (begin, end) = WHOLE;
    let mut out = String::new();
    let mut splitting = false;
    for line in inner.split_inclusive('\n') {
        let whole = line.trim_end().strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)).map(str::parse::<Span>);
        if let Some(Ok(whole)) = whole {
            ranges(&mut out, whole, named);
            splitting = true;
        } else if !(splitting && line.starts_with("  range ")) {
            splitting = false;
            out.push_str(line);
        }
    }
    out
}
