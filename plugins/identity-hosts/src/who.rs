//! Who a machine is. Pure.
//!
//! Sources are asked in order, and the first that knows a name decides it:
//! - `command-line`: `si.host=NAME` (or `hostname=NAME`), which somebody gave for this very boot; `si.image=NAME` asks
//!   for an image besides.
//! - `local-cfg`: `HOSTNAME` of a local.cfg on a medium that somebody put into the machine; `IMAGENAME` there asks for an
//!   image besides.
//! - `boot-mac`: the host whose MAC address is that of the interface the machine booted from (`BOOTIF`), in the
//!   image server's list of MACs.
//! - `macs`: the host that has any of the machine's MAC addresses, for boots that do not tell which one it was.
//! - `hosts-file`: the name of a lease's address in the image server's hosts file, as in the paper.
//! - `lease`: the host name that the DHCP server sent.
//!
//! A later source that knows another name does not change the answer, but is told with it: two facts that should agree
//! do not.
//!
//! The address is the lease's, with one exception: when the name did not come from the hosts file and the
//! hosts file declares another address for that name, the declared one counts, provided that it lies in
//! the lease's subnet. What contradicts itself is refused rather than guessed at: two machines with one
//! address are worse than one that waits for its administrator.

use std::net::IpAddr;

use systemimager_core::{HostFacts, HostName, Identity, ImageName, Lease, NetworkSettings, PluginError, Result};

use crate::hosts_file::{self, Entry, Named};
use crate::macs::{self, Line};
use crate::{local_cfg, subnet};

/// The sources, in the order in which they are asked by default.
pub const SOURCES: [&str; 6] = ["command-line", "local-cfg", "boot-mac", "macs", "hosts-file", "lease"];

/// What clients without a name call themselves.
const NO_NAMES: [&str; 4] = ["", "(none)", "localhost", "localhost.localdomain"];

/// Who a machine is.
pub struct Answer {
    /// The identity; disagreement stands in `found_in`.
    pub identity: Identity,
    /// Sources that know another name, if there are any: a sentence for people.
    pub warning: Option<String>,
}

struct Found<'a> {
    named: Named,
    /// The lease by which it was found, if it was.
    lease: Option<&'a Lease>,
    by_hosts_file: bool,
    found_in: String,
}

impl<'a> Found<'a> {
    fn new(name: HostName, lease: Option<&'a Lease>, found_in: String) -> Self {
        Self { named: Named { name, domain: None, line: 0 }, lease, by_hosts_file: false, found_in }
    }
}

/// What the sources look into.
struct Known<'a> {
    facts: &'a HostFacts,
    entries: Vec<Entry>,
    macs: Vec<Line>,
}

/// Who the machine with these facts is; `None` if they do not tell.
///
/// # Errors
/// `Invalid`: an unknown source, a malformed fact that would decide, facts that contradict each other.
pub fn who(facts: &HostFacts, sources: &[String]) -> Result<Option<Answer>> {
    let sources: Vec<&str> =
        if sources.is_empty() { SOURCES.to_vec() } else { sources.iter().map(String::as_str).collect() };
    if let Some(unknown) = sources.iter().find(|source| !SOURCES.contains(source)) {
        return Err(PluginError::invalid(format!(
            "the identity plugin hosts has no source {unknown:?}; it has {}",
            SOURCES.join(", ")
        )));
    }
    let known = Known { facts, entries: hosts_file::entries(&facts.hosts_file), macs: macs::lines(&facts.macs_file) };
    let mut left = sources.iter();
    let mut first = None;
    for source in left.by_ref() {
        first = known.ask(source)?;
        if first.is_some() {
            break;
        }
    }
    let Some(found) = first else { return Ok(None) };
    // What is malformed and does not decide is passed over.
    let mut others: Vec<Found<'_>> = Vec::new();
    for other in left.flat_map(|source| known.all(source)) {
        let told = |name: &HostName| same_machine(name, &other.named.name);
        if !told(&found.named.name) && !others.iter().any(|found| told(&found.named.name)) {
            others.push(other);
        }
    }
    let others: Vec<String> =
        others.iter().map(|other| format!("{} by the {}", other.named.name, other.found_in)).collect();
    let asked = |source: &str| sources.contains(&source);
    let by_command_line = if asked("command-line") { image(facts)? } else { None };
    let image = match by_command_line {
        None if asked("local-cfg") => image_of_local_cfg(facts)?,
        image => image,
    };
    let network = network(facts, &known.entries, &found)?;
    let Found { named: Named { name, .. }, mut found_in, .. } = found;
    let warning = (!others.is_empty()).then(|| {
        let others = others.join(", and ");
        let warning = format!("this machine is {name} by the {found_in}, but {others}; correct the one that is wrong");
        found_in.push_str(&format!("; but it is {others}"));
        warning
    });
    Ok(Some(Answer { identity: Identity { name, image, network, found_in }, warning }))
}

/// The same name, with its domain or without.
fn same_machine(one: &HostName, other: &HostName) -> bool {
    let full = |name: &HostName| name.as_str().contains('.');
    one.as_str().eq_ignore_ascii_case(other.as_str())
        || (full(one) != full(other) && one.short().eq_ignore_ascii_case(other.short()))
}

impl<'a> Known<'a> {
    fn ask(&self, source: &str) -> Result<Option<Found<'a>>> {
        match source {
            "command-line" => by_command_line(self.facts),
            "local-cfg" => by_local_cfg(self.facts),
            "boot-mac" => self.by_boot_mac(),
            "macs" => self.by_macs(),
            "hosts-file" => by_hosts_file(self.facts, &self.entries),
            _ => by_lease(self.facts),
        }
    }

    /// All answers of a source that does not decide.
    fn all(&self, source: &str) -> Vec<Found<'a>> {
        if source == "macs" {
            return self.each_mac().into_iter().filter_map(Result::ok).map(|(found, _)| found).collect();
        }
        self.ask(source).ok().flatten().into_iter().collect()
    }

    fn by_boot_mac(&self) -> Result<Option<Found<'a>>> {
        let Some(mac) = &self.facts.boot_mac else { return Ok(None) };
        Ok(macs::host_of(&self.macs, mac)?.map(|(name, line)| {
            let found_in = format!("MAC {} it booted from, line {line} of the list of MACs", mac.to_ascii_lowercase());
            Found::new(name, self.lease_of(mac), found_in)
        }))
    }

    fn by_macs(&self) -> Result<Option<Found<'a>>> {
        let mut first: Option<(Found<'a>, &str)> = None;
        for found in self.each_mac() {
            let (other, mac) = found?;
            match &first {
                Some((found, known)) if !same_machine(&found.named.name, &other.named.name) => {
                    return Err(PluginError::invalid(format!(
                        "this machine has the MACs of two hosts in the list of MACs: {known} is {}'s and {mac} is {}'s; \
                         correct the list, or give si.host=NAME on the kernel command line",
                        found.named.name, other.named.name
                    )));
                }
                Some(_) => {}
                None => first = Some((other, mac)),
            }
        }
        Ok(first.map(|(found, _)| found))
    }

    /// The hosts of all MACs of the machine: that of its first lease first.
    fn each_mac(&self) -> Vec<Result<(Found<'a>, &'a str)>> {
        let all = leases(self.facts).map(|lease| &lease.mac).chain(&self.facts.macs);
        all.filter_map(|mac| {
            let found = macs::host_of(&self.macs, mac).transpose()?;
            Some(found.map(|(name, line)| {
                let found_in = format!("MAC {} that it has, line {line} of the list of MACs", mac.to_ascii_lowercase());
                (Found::new(name, self.lease_of(mac), found_in), mac.as_str())
            }))
        })
        .collect()
    }

    fn lease_of(&self, mac: &str) -> Option<&'a Lease> {
        let mac = macs::normal(mac)?;
        leases(self.facts).find(|lease| macs::normal(&lease.mac).as_ref() == Some(&mac))
    }
}

fn by_command_line(facts: &HostFacts) -> Result<Option<Found<'_>>> {
    for key in ["si.host", "hostname"] {
        if let Some(value) = facts.command_line.get(key) {
            let name = HostName::try_from(value.as_str()).map_err(|error| {
                PluginError::invalid(format!("the kernel command line, {key}: {error}; correct it"))
            })?;
            return Ok(Some(Found::new(name, None, format!("kernel command line, {key}"))));
        }
    }
    Ok(None)
}

fn image(facts: &HostFacts) -> Result<Option<ImageName>> {
    let named = facts.command_line.get("si.image").map(|value| {
        ImageName::try_from(value.as_str())
            .map_err(|error| PluginError::invalid(format!("the kernel command line, si.image: {error}; correct it")))
    });
    named.transpose()
}

/// What local.cfg says, and in which line.
fn said<'a>(facts: &'a HostFacts, name: &str) -> Option<(&'a str, usize)> {
    local_cfg::value(facts.local_cfg.as_deref()?, name)
}

fn by_local_cfg(facts: &HostFacts) -> Result<Option<Found<'_>>> {
    let Some((text, line)) = said(facts, "HOSTNAME") else { return Ok(None) };
    let name = HostName::try_from(text)
        .map_err(|error| PluginError::invalid(format!("local.cfg, line {line}, HOSTNAME: {error}; correct it")))?;
    Ok(Some(Found::new(name, None, format!("local.cfg, line {line}"))))
}

fn image_of_local_cfg(facts: &HostFacts) -> Result<Option<ImageName>> {
    let Some((text, line)) = said(facts, "IMAGENAME") else { return Ok(None) };
    ImageName::try_from(text)
        .map(Some)
        .map_err(|error| PluginError::invalid(format!("local.cfg, line {line}, IMAGENAME: {error}; correct it")))
}

fn by_hosts_file<'a>(facts: &'a HostFacts, entries: &[Entry]) -> Result<Option<Found<'a>>> {
    for lease in leases(facts) {
        let Some(address) = lease.address.filter(|address| !address.is_loopback()) else { continue };
        if let Some(named) = hosts_file::name_of(entries, address)? {
            let found_in = format!("hosts file, line {}, by {address}", named.line);
            return Ok(Some(Found { named, lease: Some(lease), by_hosts_file: true, found_in }));
        }
    }
    Ok(None)
}

fn by_lease(facts: &HostFacts) -> Result<Option<Found<'_>>> {
    for lease in leases(facts) {
        let Some(sent) = &lease.host_name else { continue };
        // Some servers end the option with a NUL or a dot.
        let text = sent.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0').trim_end_matches('.');
        if NO_NAMES.contains(&text.to_ascii_lowercase().as_str()) {
            continue;
        }
        let name = HostName::try_from(text).map_err(|error| {
            PluginError::invalid(format!(
                "the host name in the DHCP lease of {}: {error}; correct it in the DHCP server",
                lease.interface
            ))
        })?;
        let found_in = format!("DHCP lease of {}, host name option", lease.interface);
        return Ok(Some(Found::new(name, Some(lease), found_in)));
    }
    Ok(None)
}

/// The leases, the boot interface's first.
fn leases(facts: &HostFacts) -> impl Iterator<Item = &Lease> {
    let boot = move |lease: &&Lease| facts.boot_mac.as_ref().is_some_and(|mac| mac.eq_ignore_ascii_case(&lease.mac));
    facts.leases.iter().filter(boot).chain(facts.leases.iter().filter(move |lease| !boot(lease)))
}

fn network(facts: &HostFacts, entries: &[Entry], found: &Found<'_>) -> Result<NetworkSettings> {
    let Some(lease) = found.lease.or_else(|| leases(facts).next()) else {
        return Ok(NetworkSettings { mac: facts.boot_mac.clone().unwrap_or_default(), ..NetworkSettings::default() });
    };
    let mut address = lease.address;
    let mut domain = found.named.domain.clone();
    if !found.by_hosts_file {
        let name = &found.named.name;
        let near = |other: IpAddr| match (lease.address, lease.prefix) {
            (Some(address), Some(prefix)) => subnet::same(address, other, prefix),
            _ => false,
        };
        match hosts_file::entry_of(entries, name, near) {
            Some(entry) => {
                // An address that somebody wrote down for this very machine is not quietly exchanged for another.
                if let Some((_, line)) = said(facts, "IPADDR")
                    && Some(entry.address) != lease.address
                {
                    return Err(PluginError::invalid(format!(
                        "local.cfg, line {line}, gives {name} the address {}, and the hosts file, line {}, declares {} for \
                         it; correct the one that is wrong",
                        show(lease),
                        entry.line,
                        entry.address
                    )));
                }
                if Some(entry.address) != lease.address && !near(entry.address) {
                    return Err(PluginError::invalid(format!(
                        "the hosts file, line {}, declares {} for {name}, which is not in the subnet of {}'s DHCP lease \
                         ({}); correct the hosts file, or connect the machine to the network it belongs to",
                        entry.line,
                        entry.address,
                        lease.interface,
                        show(lease)
                    )));
                }
                address = Some(entry.address);
                domain = hosts_file::named(entry)?.domain;
            }
            None => {
                if let Some(other) =
                    lease.address.map(|address| hosts_file::name_of(entries, address)).transpose()?.flatten()
                {
                    return Err(PluginError::invalid(format!(
                        "this machine is {name} by the {}, but its address {} is that of {} in the hosts file, line {}; \
                         add a line for {name} to the hosts file, or correct the name",
                        found.found_in,
                        show(lease),
                        other.name,
                        other.line
                    )));
                }
            }
        }
    }
    Ok(NetworkSettings {
        mac: lease.mac.to_ascii_lowercase(),
        interface: lease.interface.clone(),
        address,
        prefix: lease.prefix,
        router: lease.routers.first().copied(),
        name_servers: lease.name_servers.clone(),
        domain: match domain {
            Some(domain) if said(facts, "DOMAINNAME").is_none() => Some(domain),
            _ => lease_domain(lease)?,
        },
    })
}

/// It goes into configuration files, and came over the network.
fn lease_domain(lease: &Lease) -> Result<Option<String>> {
    let Some(domain) = lease.domain.as_deref().map(|text| text.trim().trim_end_matches('.')) else { return Ok(None) };
    if domain.is_empty() {
        return Ok(None);
    }
    HostName::try_from(domain).map(|name| Some(name.into())).map_err(|error| {
        PluginError::invalid(format!(
            "the domain in the DHCP lease of {}: {error}; correct it in the DHCP server",
            lease.interface
        ))
    })
}

fn show(lease: &Lease) -> String {
    match (lease.address, lease.prefix) {
        (Some(address), Some(prefix)) => format!("{address}/{prefix}"),
        (Some(address), None) => address.to_string(),
        _ => "no address".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = "127.0.0.1 localhost\n10.0.0.11 www1.example.org www1\n10.0.0.12 www2\n10.0.0.13 bad_name\n\
        10.9.0.1 far\n";

    fn lease(interface: &str, mac: &str, address: &str) -> Lease {
        Lease {
            interface: interface.into(),
            mac: mac.into(),
            address: Some(address.parse().unwrap()),
            prefix: Some(24),
            routers: vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
            name_servers: vec!["10.0.0.1".parse().unwrap()],
            ..Lease::default()
        }
    }

    fn facts(address: &str, command_line: &[(&str, &str)], host_name: Option<&str>) -> HostFacts {
        let mut lease = lease("eth0", "52:54:00:AA:00:01", address);
        lease.host_name = host_name.map(str::to_owned);
        lease.domain = Some("lan.example.".into());
        HostFacts {
            command_line: command_line.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            leases: vec![lease],
            boot_mac: Some("52:54:00:aa:00:01".into()),
            hosts_file: HOSTS.into(),
            ..HostFacts::default()
        }
    }

    /// `name address domain, found_in`.
    fn ask(facts: &HostFacts, sources: &[&str]) -> Result<Option<String>, String> {
        let sources: Vec<String> = sources.iter().map(|source| (*source).to_owned()).collect();
        let answer = who(facts, &sources).map_err(|error| error.message)?;
        Ok(answer.map(|Answer { identity, warning }| {
            assert_eq!(warning.is_some(), identity.found_in.contains("; but it is "), "{warning:?}");
            let address = identity.network.address.map_or("-".to_owned(), |address| address.to_string());
            let domain = identity.network.domain.unwrap_or_else(|| "-".into());
            format!("{} {address} {domain}, {}", identity.name, identity.found_in)
        }))
    }

    #[test]
    fn local_cfg_goes_before_what_the_server_knows() {
        let with = |address: &str, command_line: &[(&str, &str)], text: &str| HostFacts {
            local_cfg: Some(text.into()),
            ..facts(address, command_line, Some("x"))
        };
        type Row<'a> = (&'a str, HostFacts, &'a [&'a str], Result<&'a str, &'a str>);
        let rows: Vec<Row<'_>> = vec![
            (
                "its name, and the declared address",
                with("10.0.0.50", &[], "\nHOSTNAME=www1\nIMAGENAME=web\n"),
                &[],
                Ok(
                    "www1 10.0.0.11 example.org web, local.cfg, line 2; but it is x by the DHCP lease of eth0, host name",
                ),
            ),
            (
                "the kernel command line before it",
                with("10.0.0.50", &[("si.host", "www1"), ("si.image", "other")], "HOSTNAME=www2\nIMAGENAME=web\n"),
                &[],
                Ok(
                    "www1 10.0.0.11 example.org other, kernel command line, si.host; but it is www2 by the local.cfg, line 1",
                ),
            ),
            (
                "not asked",
                with("10.0.0.50", &[], "HOSTNAME=www1\nIMAGENAME=web\n"),
                &["lease"],
                Ok("x 10.0.0.50 lan.example -, DHCP lease of eth0, host name option"),
            ),
            (
                "an image alone",
                with("10.0.0.50", &[], "IMAGENAME=web\n"),
                &[],
                Ok("x 10.0.0.50 lan.example web, DHCP lease of eth0, host name option"),
            ),
            (
                "its domain",
                with("10.0.0.11", &[], "HOSTNAME=www1\nDOMAINNAME=lan.example\n"),
                &[],
                Ok("www1 10.0.0.11 lan.example -, local.cfg, line 1"),
            ),
            (
                "the address that is declared too",
                with("10.0.0.11", &[], "HOSTNAME=www1\nIPADDR=10.0.0.11/24\n"),
                &[],
                Ok("www1 10.0.0.11 example.org -, local.cfg, line 1"),
            ),
            (
                "another address than declared",
                with("10.0.0.50", &[], "HOSTNAME=www1\nIPADDR=10.0.0.50/24\n"),
                &[],
                Err("local.cfg, line 2, gives www1 the address 10.0.0.50/24, and the hosts file, line 2, declares \
                     10.0.0.11 for it; correct the one that is wrong"),
            ),
            (
                "no name",
                with("10.0.0.50", &[], "HOSTNAME=$(reboot)\n"),
                &[],
                Err("local.cfg, line 1, HOSTNAME: \"$(reboot)\" is not a host name"),
            ),
            (
                "no image",
                with("10.0.0.50", &[], "IMAGENAME=../x\n"),
                &[],
                Err("local.cfg, line 1, IMAGENAME: \"../x\" is not an image name"),
            ),
        ];
        for (name, facts, sources, expected) in rows {
            let sources: Vec<String> = sources.iter().map(|it| (*it).to_owned()).collect();
            let said = who(&facts, &sources).map(|answer| {
                let Identity { name, image, network, found_in } = answer.expect("known").identity;
                let show = |it: Option<String>| it.unwrap_or_else(|| "-".into());
                let address = show(network.address.map(|it| it.to_string()));
                let image = show(image.map(|it| it.to_string()));
                format!("{name} {address} {} {image}, {found_in}", show(network.domain))
            });
            match (said, expected) {
                (Ok(said), Ok(expected)) => assert!(said.starts_with(expected), "{name}: {said}"),
                (Err(error), Err(says)) => assert!(error.message.starts_with(says), "{name}: {error}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }

    #[test]
    fn sources_in_order() {
        type Row<'a> = (&'a str, HostFacts, &'a [&'a str], Result<Option<&'a str>, &'a str>);
        let mut two = facts("10.0.0.99", &[], None);
        two.leases.push(lease("eth1", "52:54:00:aa:00:02", "10.0.0.12"));
        let mut bad_domain = facts("10.0.0.12", &[], None);
        bad_domain.leases[0].domain = Some("a\nb".into());
        let rows: Vec<Row<'_>> = vec![
            ("nothing", HostFacts::default(), &[], Ok(None)),
            (
                "hosts file",
                facts("10.0.0.11", &[], None),
                &[],
                Ok(Some("www1 10.0.0.11 example.org, hosts file, line 2, by 10.0.0.11")),
            ),
            (
                "its domain from the lease",
                facts("10.0.0.12", &[], None),
                &[],
                Ok(Some("www2 10.0.0.12 lan.example, hosts file, line 3, by 10.0.0.12")),
            ),
            (
                "hosts file before lease",
                facts("10.0.0.11", &[], Some("x")),
                &[],
                Ok(Some(
                    "www1 10.0.0.11 example.org, hosts file, line 2, by 10.0.0.11; but it is x by the DHCP lease of eth0, \
                     host name option",
                )),
            ),
            (
                "lease",
                facts("10.0.0.50", &[], Some("x1.\0")),
                &[],
                Ok(Some("x1 10.0.0.50 lan.example, DHCP lease of eth0, host name option")),
            ),
            (
                "lease first",
                facts("10.0.0.50", &[], Some("x1")),
                &["lease", "hosts-file"],
                Ok(Some("x1 10.0.0.50 lan.example, DHCP lease of eth0, host name option")),
            ),
            ("no name in the lease", facts("10.0.0.50", &[], Some("localhost")), &[], Ok(None)),
            ("none in the lease", facts("10.0.0.50", &[], Some("(none)")), &[], Ok(None)),
            ("not asked", facts("10.0.0.11", &[("si.host", "y")], None), &["lease"], Ok(None)),
            ("another lease", two, &[], Ok(Some("www2 10.0.0.12 -, hosts file, line 3, by 10.0.0.12"))),
            (
                "command line",
                facts("10.0.0.50", &[("si.host", "y")], None),
                &[],
                Ok(Some("y 10.0.0.50 lan.example, kernel command line, si.host")),
            ),
            (
                "command line, hostname",
                facts("10.0.0.50", &[("hostname", "y")], None),
                &[],
                Ok(Some("y 10.0.0.50 lan.example, kernel command line, hostname")),
            ),
            (
                "the declared address counts",
                facts("10.0.0.50", &[("si.host", "www1")], None),
                &[],
                Ok(Some("www1 10.0.0.11 example.org, kernel command line, si.host")),
            ),
            (
                "the same as the lease's",
                facts("10.0.0.11", &[("si.host", "www1")], None),
                &[],
                Ok(Some("www1 10.0.0.11 example.org, kernel command line, si.host")),
            ),
            (
                "declared elsewhere",
                facts("10.0.0.50", &[("si.host", "far")], None),
                &[],
                Err(
                    "the hosts file, line 5, declares 10.9.0.1 for far, which is not in the subnet of eth0's DHCP lease \
                     (10.0.0.50/24); correct the hosts file, or connect the machine to the network it belongs to",
                ),
            ),
            (
                "another's address",
                facts("10.0.0.12", &[("si.host", "y")], None),
                &[],
                Err(
                    "this machine is y by the kernel command line, si.host, but its address 10.0.0.12/24 is that of www2 in \
                     the hosts file, line 3; add a line for y to the hosts file, or correct the name",
                ),
            ),
            (
                "malformed on the command line",
                facts("10.0.0.11", &[("si.host", "a b")], None),
                &[],
                Err("the kernel command line, si.host: \"a b\" is not a host name: ' ' is not allowed; use letters, \
                     digits and '.', '-'; correct it"),
            ),
            (
                "malformed image",
                facts("10.0.0.11", &[("si.image", "../x")], None),
                &[],
                Err("the kernel command line, si.image: \"../x\" is not an image name: '/' is not allowed; use \
                     letters, digits and '.', '_', '-'; correct it"),
            ),
            (
                "malformed in the hosts file",
                facts("10.0.0.13", &[], None),
                &[],
                Err(
                    "the hosts file, line 4 (for 10.0.0.13): \"bad_name\" is not a host name: '_' is not allowed; use \
                     letters, digits and '.', '-'; correct it",
                ),
            ),
            (
                "malformed in the lease",
                facts("10.0.0.50", &[], Some("$(reboot)")),
                &[],
                Err(
                    "the host name in the DHCP lease of eth0: \"$(reboot)\" is not a host name: '$' is not allowed; use \
                     letters, digits and '.', '-'; correct it in the DHCP server",
                ),
            ),
            (
                "malformed domain",
                bad_domain,
                &[],
                Err("the domain in the DHCP lease of eth0: \"a\\nb\" is not a host name: '\\n' is not allowed; use \
                     letters, digits and '.', '-'; correct it in the DHCP server"),
            ),
            (
                "unknown source",
                facts("10.0.0.11", &[], None),
                &["dmi"],
                Err(
                    "the identity plugin hosts has no source \"dmi\"; it has command-line, local-cfg, boot-mac, macs, hosts-file, lease",
                ),
            ),
        ];
        for (name, facts, sources, expected) in rows {
            let expected = expected.map(|answer| answer.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(ask(&facts, sources), expected, "{name}");
        }
    }

    const MACS: &str = "host,mac\nwww2,52:54:00:aa:00:01\nwww4,52:54:00:aa:00:04\nwww2,52:54:00:aa:00:05\n\
        a_b,52:54:00:aa:00:06\nfar,52:54:00:aa:00:07\n";

    #[test]
    fn macs_in_order() {
        /// The boot MAC, all MACs, the lease's address and name, words of the kernel command line.
        struct Machine<'a>(Option<&'a str>, &'a [&'a str], &'a str, Option<&'a str>, &'a [(&'a str, &'a str)]);
        type Row<'a> = (&'a str, Machine<'a>, &'a [&'a str], Result<Option<&'a str>, &'a str>);
        let boot = Some("52:54:00:AA:00:01");
        let by_boot = "MAC 52:54:00:aa:00:01 it booted from, line 2 of the list of MACs";
        let agrees = format!("www2 10.0.0.12 lan.example, {by_boot}");
        let but_lease = format!("{agrees}; but it is www4 by the DHCP lease of eth0, host name option");
        let but_hosts = format!("{agrees}; but it is www1 by the hosts file, line 2, by 10.0.0.11");
        let but_both = format!("{but_hosts}, and x by the DHCP lease of eth0, host name option");
        let but_mac =
            format!("{agrees}; but it is www4 by the MAC 52:54:00:aa:00:04 that it has, line 3 of the list of MACs");
        let rows: Vec<Row<'_>> = vec![
            ("boot MAC", Machine(boot, &[], "10.0.0.12", None, &[]), &[], Ok(Some(&agrees))),
            ("its declared address", Machine(boot, &[], "10.0.0.50", None, &[]), &[], Ok(Some(&agrees))),
            ("agrees with the lease", Machine(boot, &[], "10.0.0.12", Some("WWW2.lan"), &[]), &[], Ok(Some(&agrees))),
            ("the lease does not", Machine(boot, &[], "10.0.0.12", Some("www4"), &[]), &[], Ok(Some(&but_lease))),
            ("the address does not", Machine(boot, &[], "10.0.0.11", None, &[]), &[], Ok(Some(&but_hosts))),
            ("neither does", Machine(boot, &[], "10.0.0.11", Some("x"), &[]), &[], Ok(Some(&but_both))),
            (
                "another is malformed",
                Machine(boot, &["52:54:00:aa:00:06"], "10.0.0.13", Some("a b"), &[]),
                &[],
                Ok(Some(&agrees)),
            ),
            (
                "somebody asked for a name",
                Machine(boot, &[], "10.0.0.50", None, &[("si.host", "y")]),
                &[],
                Ok(Some(
                    "y 10.0.0.50 lan.example, kernel command line, si.host; but it is www2 by the MAC 52:54:00:aa:00:01 \
                     it booted from, line 2 of the list of MACs",
                )),
            ),
            (
                "the master wants the lease first",
                Machine(boot, &[], "10.0.0.50", Some("x1"), &[]),
                &["lease", "boot-mac"],
                Ok(Some(
                    "x1 10.0.0.50 lan.example, DHCP lease of eth0, host name option; but it is www2 by the MAC \
                     52:54:00:aa:00:01 it booted from, line 2 of the list of MACs",
                )),
            ),
            ("not asked", Machine(boot, &[], "10.0.0.50", None, &[]), &["hosts-file", "lease"], Ok(None)),
            (
                "a MAC that is not in the list",
                Machine(Some("52:54:00:aa:00:99"), &["52:54:00:aa:00:99"], "10.0.0.11", None, &[]),
                &["boot-mac", "hosts-file"],
                Ok(Some("www1 10.0.0.11 example.org, hosts file, line 2, by 10.0.0.11")),
            ),
            (
                "any MAC, where none is known to be the boot's",
                Machine(None, &["52:54:00:aa:00:99", "52:54:00:aa:00:04"], "10.0.0.50", None, &[]),
                &["macs"],
                Err("this machine has the MACs of two hosts in the list of MACs: 52:54:00:AA:00:01 is www2's and \
                     52:54:00:aa:00:04 is www4's; correct the list, or give si.host=NAME on the kernel command line"),
            ),
            (
                "two MACs of one host",
                Machine(None, &["52:54:00:aa:00:05"], "10.0.0.12", None, &[]),
                &["boot-mac", "macs"],
                Ok(Some("www2 10.0.0.12 lan.example, MAC 52:54:00:aa:00:01 that it has, line 2 of the list of MACs")),
            ),
            (
                "the boot MAC before the others",
                Machine(boot, &["52:54:00:aa:00:04"], "10.0.0.12", None, &[]),
                &[],
                Ok(Some(&but_mac)),
            ),
            (
                "malformed where it decides",
                Machine(Some("52:54:00:aa:00:06"), &[], "10.0.0.12", None, &[]),
                &[],
                Err(
                    "the list of MACs, line 5 (for 52:54:00:aa:00:06): \"a_b\" is not a host name: '_' is not allowed; \
                     use letters, digits and '.', '-'; correct it",
                ),
            ),
            (
                "in the wrong network",
                Machine(Some("52:54:00:aa:00:07"), &[], "10.0.0.50", None, &[]),
                &[],
                Err(
                    "the hosts file, line 5, declares 10.9.0.1 for far, which is not in the subnet of eth0's DHCP lease \
                     (10.0.0.50/24); correct the hosts file, or connect the machine to the network it belongs to",
                ),
            ),
        ];
        for (name, Machine(boot, macs, address, host_name, command_line), sources, expected) in rows {
            let mut facts = facts(address, command_line, host_name);
            facts.boot_mac = boot.map(str::to_owned);
            facts.macs = macs.iter().map(|mac| (*mac).to_owned()).collect();
            facts.macs_file = MACS.into();
            let expected = expected.map(|answer| answer.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(ask(&facts, sources), expected, "{name}");
        }
    }

    #[test]
    fn the_network_is_that_of_the_boot_interface() {
        let mut facts = facts("10.0.0.11", &[("si.image", "web")], None);
        facts.leases.insert(0, lease("eth9", "52:54:00:aa:00:09", "10.0.0.12"));
        let identity = who(&facts, &[]).unwrap().unwrap().identity;
        assert_eq!(identity.name.as_str(), "www1");
        assert_eq!(identity.image.unwrap().as_str(), "web");
        let network = identity.network;
        assert_eq!((network.mac.as_str(), network.interface.as_str()), ("52:54:00:aa:00:01", "eth0"));
        assert_eq!((network.prefix, network.router), (Some(24), Some("10.0.0.1".parse().unwrap())));
    }

    #[test]
    fn a_name_without_a_network() {
        let facts = HostFacts {
            command_line: [("si.host".to_owned(), "y".to_owned())].into(),
            boot_mac: Some("52:54:00:aa:00:01".into()),
            ..HostFacts::default()
        };
        let network = who(&facts, &[]).unwrap().unwrap().identity.network;
        assert_eq!(network, NetworkSettings { mac: "52:54:00:aa:00:01".into(), ..NetworkSettings::default() });
    }
}
