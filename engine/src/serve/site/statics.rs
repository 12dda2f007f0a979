//! Which machines get static entries: what is leased, what is declared, and what the configuration has already, brought
//! together. Pure.
//!
//! Nothing is guessed: where two sources disagree on a machine, a name or an address, that is a conflict, told with all
//! sides of it; what is left out is told too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use systemimager_core::HostName;

use super::leases::{Ends, Lease};
use super::{Entry, Reservation};
use crate::store::addresses::Network;
use crate::store::macs::Mac;

/// A machine that the image server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub host: HostName,
    /// The address that it was given with `addclients`.
    pub address: Option<Ipv4Addr>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
}

/// Whose word counts where a machine was given one address and holds another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefer {
    /// The address that `addclients` gave it.
    Declared,
    /// The one that it has.
    Leased,
}

/// What is brought together.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// The subnet of the entries.
    pub network: Network,
    /// The image server's own address, where it is known.
    pub server: Option<Ipv4Addr>,
    /// Leases, each file's with its name.
    pub leases: &'a [(String, Vec<Lease>)],
    /// Machines that are declared.
    pub known: &'a [Known],
    /// Static entries that the configuration has.
    pub entries: &'a [Entry],
    /// Now, seconds since 1970.
    pub now: u64,
    /// Leases that have ended count too.
    pub expired: bool,
    /// Whose word counts; absent: a difference is a conflict.
    pub prefer: Option<Prefer>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Statics {
    /// Our static entries, by address.
    pub entries: Vec<Reservation>,
    /// Machines and leases that get none, and why.
    pub skipped: Vec<String>,
    /// What cannot be true at once; none of it is in the entries.
    pub conflicts: Vec<String>,
}

/// An address of a machine, and who says so.
#[derive(Debug, Clone)]
struct Claim {
    address: Ipv4Addr,
    host: Option<HostName>,
    from: String,
}

/// All that is said of one machine.
#[derive(Debug, Default)]
struct Claims {
    declared: Option<Claim>,
    entry: Option<Claim>,
    leased: Vec<Claim>,
}

/// Brings it together.
pub fn plan(input: &Input<'_>) -> Statics {
    let mut out = Statics::default();
    let mut machines: BTreeMap<Mac, Claims> = BTreeMap::new();
    let by_mac: BTreeMap<Mac, &Known> = input.known.iter().filter_map(|it| Some((it.mac?, it))).collect();
    let by_address: BTreeMap<Ipv4Addr, &Known> = input.known.iter().filter_map(|it| Some((it.address?, it))).collect();

    for known in input.known {
        let (Some(mac), Some(address)) = (known.mac, known.address) else { continue };
        if !input.network.holds_host(address.into()) {
            out.skipped.push(format!("{} ({address}): outside of {}", known.host, shown(input.network)));
            continue;
        }
        let claim = Claim { address, host: Some(known.host.clone()), from: "as declared with addclients".into() };
        machines.entry(mac).or_default().declared = Some(claim);
    }
    for entry in input.entries.iter().filter(|entry| entry.ours) {
        let host = entry.name.as_deref().and_then(|name| HostName::try_from(name).ok());
        let (Some(mac), Some(address)) = (entry.mac, entry.address) else { continue };
        let host = by_mac.get(&mac).map(|known| known.host.clone()).or(host);
        let from = format!("by the static entry in line {}", entry.line);
        machines.entry(mac).or_default().entry = Some(Claim { address, host, from });
    }
    for (file, leases) in input.leases {
        for lease in leases {
            if let Err(why) = take(input, file, lease, &by_mac, &by_address, &mut machines) {
                let name = lease.name.as_deref().map(plain).unwrap_or_default();
                let mac = lease.mac.map(|mac| mac.to_string()).unwrap_or_default();
                let who: Vec<&str> = [name.as_str(), mac.as_str()].into_iter().filter(|it| !it.is_empty()).collect();
                out.skipped.push(format!("{} ({}), {file}:{}: {why}", lease.address, who.join(", "), lease.line));
            }
        }
    }
    let chosen = choose(input, machines, &mut out);
    let unique = one_each(chosen, &mut out);
    beside_others(input, unique, &mut out);
    out.entries.sort();
    out
}

/// A lease as a claim.
fn take(
    input: &Input<'_>,
    file: &str,
    lease: &Lease,
    by_mac: &BTreeMap<Mac, &Known>,
    by_address: &BTreeMap<Ipv4Addr, &Known>,
    machines: &mut BTreeMap<Mac, Claims>,
) -> Result<(), String> {
    match lease.ends {
        Ends::Gone if !input.expired => return Err("the lease was given back; --expired takes it all the same".into()),
        Ends::At(end) if end <= input.now && !input.expired => {
            return Err(format!("the lease ended at {}; --expired takes it all the same", time(end)));
        }
        _ => {}
    }
    if !input.network.holds_host(lease.address.into()) {
        return Err(format!("outside of {}", shown(input.network)));
    }
    let mac = lease.mac.ok_or("it has no Ethernet address")?;
    if Some(lease.address) == input.server {
        return Err("this is the image server's own address; no machine may keep it".into());
    }
    let known = by_mac.get(&mac).or_else(|| {
        // Who has the address is who has the name: so it was before MAC addresses were known.
        by_address.get(&lease.address).filter(|known| known.mac.is_none())
    });
    let own_name = lease.name.as_deref().and_then(|name| HostName::try_from(name).ok());
    let claims = machines.entry(mac).or_default();
    let earlier = claims.entry.as_ref().and_then(|claim| claim.host.clone());
    let host = known.map(|known| known.host.clone()).or(earlier).or(own_name);
    let claim = Claim { address: lease.address, host, from: format!("by its lease, {file}:{}", lease.line) };
    if known.is_some_and(|known| known.mac.is_none()) && claims.declared.is_none() {
        claims.declared = Some(Claim { from: "as declared with addclients".into(), ..claim.clone() });
    }
    if let Some(same) = claims.leased.iter_mut().find(|other| other.address == claim.address) {
        same.host = same.host.take().or(claim.host);
    } else {
        claims.leased.push(claim);
    }
    Ok(())
}

/// One address for each machine.
fn choose(
    input: &Input<'_>,
    machines: BTreeMap<Mac, Claims>,
    out: &mut Statics,
) -> Vec<(Mac, HostName, Ipv4Addr, String)> {
    let mut chosen = Vec::new();
    for (mac, claims) in machines {
        let leases = |leased: &[Claim]| -> String {
            leased.iter().map(|it| format!("{} {}", it.address, it.from)).collect::<Vec<_>>().join(", ")
        };
        let host = [&claims.declared, &claims.entry]
            .into_iter()
            .flatten()
            .chain(&claims.leased)
            .find_map(|claim| claim.host.clone());
        let who = host.as_ref().map_or_else(|| mac.to_string(), |host| format!("{host} ({mac})"));
        let first = match (&claims.declared, &claims.entry, claims.leased.as_slice()) {
            (_, _, [only]) if input.prefer == Some(Prefer::Leased) => only,
            (Some(declared), entry, leased) => {
                let given = declared.address;
                // Firmware and system may each hold a lease of their own; what was declared is among them.
                let held = leased.is_empty() || leased.iter().any(|it| it.address == given);
                let agreed = held && entry.as_ref().is_none_or(|entry| entry.address == given);
                if input.prefer == Some(Prefer::Declared) || agreed {
                    declared
                } else {
                    let mut others = entry.iter().filter(|it| it.address != given).cloned().collect::<Vec<_>>();
                    others.extend(leased.iter().filter(|it| it.address != given).cloned());
                    out.conflicts.push(format!(
                        "{who} has {given} {}, but {}; say which with --prefer declared or --prefer leased",
                        declared.from,
                        leases(&others)
                    ));
                    continue;
                }
            }
            (None, Some(entry), _) => entry,
            (None, None, [only]) => only,
            (None, None, several) => {
                out.conflicts.push(format!(
                    "{who} has several addresses: {}; end all leases but one, or give it one with addclients --ip",
                    leases(several)
                ));
                continue;
            }
        };
        for lease in claims.leased.iter().filter(|lease| lease.address != first.address) {
            out.skipped
                .push(format!("{who}: {} {}; it gets {} {}", lease.address, lease.from, first.address, first.from));
        }
        match host {
            Some(host) => chosen.push((mac, host, first.address, first.from.clone())),
            None => out.skipped.push(format!(
                "{mac} ({}): it has no name; give it one with addclients, by its address or its MAC address",
                first.address
            )),
        }
    }
    chosen
}

/// An address and a name belong to one machine; those that two want go to none.
fn one_each(
    chosen: Vec<(Mac, HostName, Ipv4Addr, String)>,
    out: &mut Statics,
) -> Vec<(Mac, HostName, Ipv4Addr, String)> {
    let mut wrong: BTreeSet<Mac> = BTreeSet::new();
    let mut addresses: BTreeMap<Ipv4Addr, Vec<usize>> = BTreeMap::new();
    let mut names: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, (_, host, address, _)) in chosen.iter().enumerate() {
        addresses.entry(*address).or_default().push(index);
        names.entry(host.short().to_ascii_lowercase()).or_default().push(index);
    }
    let mut clash = |what: String, indices: &[usize]| {
        if indices.len() > 1 {
            let all = indices.iter().filter_map(|index| chosen.get(*index));
            let told: Vec<String> =
                all.clone().map(|(mac, host, address, from)| format!("{host} ({mac}) {address} {from}")).collect();
            wrong.extend(all.map(|(mac, ..)| *mac));
            out.conflicts.push(format!("{what} would be that of {} machines: {}", indices.len(), told.join(", ")));
        }
    };
    addresses.iter().for_each(|(address, indices)| clash(address.to_string(), indices));
    names.iter().for_each(|(name, indices)| clash(format!("the name {name}"), indices));
    chosen.into_iter().filter(|(mac, ..)| !wrong.contains(mac)).collect()
}

/// What others wrote into the configuration stays, and holds.
fn beside_others(input: &Input<'_>, chosen: Vec<(Mac, HostName, Ipv4Addr, String)>, out: &mut Statics) {
    for (mac, host, address, from) in chosen {
        let touches = |entry: &&Entry| {
            let named = entry
                .name
                .as_deref()
                .is_some_and(|name| name.split('.').next().unwrap_or(name).eq_ignore_ascii_case(host.short()));
            !entry.ours && (entry.mac == Some(mac) || entry.address == Some(address) || named)
        };
        match input.entries.iter().find(touches) {
            None => out.entries.push(Reservation { address, host, mac }),
            Some(entry) if entry.mac == Some(mac) && entry.address == Some(address) => {
                out.skipped.push(format!("{host} ({mac}): line {} has it already, and is not ours", entry.line));
            }
            Some(entry) => {
                let known = |text: Option<String>| text.unwrap_or_else(|| "nothing".to_owned());
                out.conflicts.push(format!(
                    "{host} ({mac}) has {address} {from}, but line {}, which is not ours, gives {} to {}; change that line, \
                     or take it out",
                    entry.line,
                    known(entry.address.map(|it| it.to_string())),
                    known(entry.mac.map(|it| it.to_string()).or_else(|| entry.name.as_deref().map(plain))),
                ));
            }
        }
    }
}

fn shown(network: Network) -> String {
    format!("{}/{}", network.base(), network.prefix)
}

/// A text from a file that may act on a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(80).collect()
}

fn time(seconds: u64) -> String {
    // humantime ends with the year 9999.
    const LAST: u64 = 253_402_300_799;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1000;

    fn lease(address: &str, mac: &str, name: &str, ends: Ends) -> Lease {
        Lease {
            line: 7,
            address: address.parse().unwrap(),
            mac: mac.parse().ok(),
            name: (!name.is_empty()).then(|| name.to_owned()),
            ends,
        }
    }

    fn known(host: &str, address: &str, mac: &str) -> Known {
        Known { host: host.try_into().unwrap(), address: address.parse().ok(), mac: mac.parse().ok() }
    }

    fn entry(name: &str, mac: &str, address: &str, ours: bool) -> Entry {
        Entry { line: 3, name: Some(name.to_owned()), mac: mac.parse().ok(), address: address.parse().ok(), ours }
    }

    const A: &str = "52:54:00:00:00:0a";
    const B: &str = "52:54:00:00:00:0b";
    const LIVE: Ends = Ends::At(NOW + 1);

    /// Name, leases, known, entries, and what comes of them: entries, and a piece of each that is skipped and in conflict.
    type Row = (
        &'static str,
        Vec<Lease>,
        Vec<Known>,
        Vec<Entry>,
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
    );

    fn rows() -> Vec<Row> {
        vec![
            ("by its own name", vec![lease("10.0.0.5", A, "www1", LIVE)], vec![], vec![], "www1 0a 10.0.0.5", &[], &[]),
            (
                "by its address",
                vec![lease("10.0.0.5", A, "localhost", Ends::Never)],
                vec![known("www1", "10.0.0.5", "")],
                vec![],
                "www1 0a 10.0.0.5",
                &[],
                &[],
            ),
            (
                "by its MAC",
                vec![lease("10.0.0.5", A, "x", LIVE)],
                vec![known("www1", "", A)],
                vec![],
                "www1 0a 10.0.0.5",
                &[],
                &[],
            ),
            ("declared only", vec![], vec![known("www1", "10.0.0.5", A)], vec![], "www1 0a 10.0.0.5", &[], &[]),
            (
                "no name",
                vec![lease("10.0.0.5", A, "", LIVE), lease("10.0.0.6", B, "-odd\u{1b}name", LIVE)],
                vec![],
                vec![],
                "",
                &["(10.0.0.5): it has no name", "(10.0.0.6): it has no name"],
                &[],
            ),
            (
                "ended",
                vec![lease("10.0.0.5", A, "www1", Ends::At(NOW)), lease("10.0.0.6", B, "www2", Ends::Gone)],
                vec![],
                vec![],
                "",
                &[
                    "10.0.0.5 (www1, 52:54:00:00:00:0a), l:7: the lease ended at 1970-01-01T00:16:40Z",
                    "10.0.0.6 (www2, 52:54:00:00:00:0b), l:7: the lease was given back",
                ],
                &[],
            ),
            (
                "outside",
                vec![lease("10.9.0.5", A, "www1", LIVE), lease("10.0.0.255", B, "www2", LIVE)],
                vec![known("far", "10.9.0.9", "52:54:00:00:00:0c")],
                vec![],
                "",
                &["far (10.9.0.9): outside of 10.0.0.0/24", "10.9.0.5 (www1", "10.0.0.255 (www2"],
                &[],
            ),
            ("no Ethernet", vec![lease("10.0.0.5", "", "ib", LIVE)], vec![], vec![], "", &["no Ethernet address"], &[]),
            (
                "the server's",
                vec![lease("10.0.0.1", A, "x", LIVE)],
                vec![],
                vec![],
                "",
                &["the image server's own"],
                &[],
            ),
            (
                "two machines, one name",
                vec![lease("10.0.0.5", A, "www1", LIVE), lease("10.0.0.6", B, "WWW1", LIVE)],
                vec![],
                vec![],
                "",
                &[],
                &["the name www1 would be that of 2 machines: www1 (52:54:00:00:00:0a) 10.0.0.5 by its lease, l:7, "],
            ),
            (
                "two machines, one address",
                vec![lease("10.0.0.5", A, "www1", LIVE)],
                vec![known("www2", "10.0.0.5", B)],
                vec![],
                "",
                &[],
                &["10.0.0.5 would be that of 2 machines: www1 (52:54:00:00:00:0a) 10.0.0.5 by its lease, l:7, www2"],
            ),
            (
                "one machine, two addresses",
                vec![lease("10.0.0.5", A, "www1", LIVE), lease("10.0.0.6", A, "", LIVE)],
                vec![],
                vec![],
                "",
                &[],
                &["www1 (52:54:00:00:00:0a) has several addresses: 10.0.0.5 by its lease, l:7, 10.0.0.6 by its lease"],
            ),
            (
                "two addresses, one is declared",
                vec![lease("10.0.0.5", A, "", LIVE), lease("10.0.0.6", A, "", LIVE)],
                vec![known("www1", "10.0.0.6", "")],
                vec![],
                "www1 0a 10.0.0.6",
                &["10.0.0.5 by its lease, l:7; it gets 10.0.0.6 as declared"],
                &[],
            ),
            (
                "declared and leased differ",
                vec![lease("10.0.0.5", A, "", LIVE)],
                vec![known("www1", "10.0.0.6", A)],
                vec![],
                "",
                &[],
                &[
                    "www1 (52:54:00:00:00:0a) has 10.0.0.6 as declared with addclients, but 10.0.0.5 by its lease, l:7; say",
                ],
            ),
            (
                "an entry stays",
                vec![lease("10.0.0.5", A, "other", LIVE)],
                vec![],
                vec![entry("www1", A, "10.0.0.9", true)],
                "www1 0a 10.0.0.9",
                &["10.0.0.5 by its lease, l:7; it gets 10.0.0.9 by the static entry in line 3"],
                &[],
            ),
            (
                "an entry that is out of date",
                vec![],
                vec![known("www1", "10.0.0.5", A)],
                vec![entry("www1", A, "10.0.0.9", true)],
                "",
                &[],
                &["but 10.0.0.9 by the static entry in line 3"],
            ),
            (
                "written by hand already",
                vec![lease("10.0.0.5", A, "www1", LIVE)],
                vec![],
                vec![entry("x", A, "10.0.0.5", false)],
                "",
                &["line 3 has it already"],
                &[],
            ),
            (
                "written by hand otherwise",
                vec![lease("10.0.0.5", A, "www1", LIVE)],
                vec![],
                vec![entry("x", A, "10.0.0.6", false)],
                "",
                &[],
                &["but line 3, which is not ours, gives 10.0.0.6 to 52:54:00:00:00:0a"],
            ),
            (
                "its name is another's by hand",
                vec![lease("10.0.0.5", A, "www1", LIVE)],
                vec![],
                vec![entry("WWW1.example.org", "", "", false)],
                "",
                &[],
                &["gives nothing to WWW1.example.org"],
            ),
        ]
    }

    fn run(row: &Row, expired: bool, prefer: Option<Prefer>) -> (String, Statics) {
        let leases = [("l".to_owned(), row.1.clone())];
        let out = plan(&Input {
            network: "10.0.0.1/24".parse().unwrap(),
            server: Some([10, 0, 0, 1].into()),
            leases: &leases,
            known: &row.2,
            entries: &row.3,
            now: NOW,
            expired,
            prefer,
        });
        let last = |mac: Mac| mac.to_string().rsplit(':').next().unwrap_or_default().to_owned();
        let shown: Vec<String> =
            out.entries.iter().map(|it| format!("{} {} {}", it.host, last(it.mac), it.address)).collect();
        (shown.join(", "), out)
    }

    #[test]
    fn who_gets_what() {
        for row in rows() {
            let (entries, out) = run(&row, false, None);
            let (name, skipped, conflicts) = (row.0, row.5, row.6);
            assert_eq!(entries, row.4, "{name}: {out:?}");
            for (what, told, says) in [("skipped", &out.skipped, skipped), ("conflicts", &out.conflicts, conflicts)] {
                assert_eq!(told.len(), says.len(), "{name}: {what}: {told:?}");
                for (told, says) in told.iter().zip(says) {
                    assert!(told.contains(says) && !told.contains(char::is_control), "{name}: {what}: {told}");
                }
            }
        }
    }

    #[test]
    fn options_decide() {
        let row = |name: &str| rows().into_iter().find(|row| row.0 == name).unwrap();
        let differ = "declared and leased differ";
        for (name, expired, prefer, expected) in [
            ("ended", true, None, "www1 0a 10.0.0.5, www2 0b 10.0.0.6"),
            (differ, false, Some(Prefer::Declared), "www1 0a 10.0.0.6"),
            (differ, false, Some(Prefer::Leased), "www1 0a 10.0.0.5"),
            ("an entry stays", false, Some(Prefer::Leased), "www1 0a 10.0.0.5"),
            ("an entry that is out of date", false, Some(Prefer::Declared), "www1 0a 10.0.0.5"),
        ] {
            assert_eq!(run(&row(name), expired, prefer).0, expected, "{name}");
        }
    }

    #[test]
    fn the_end_of_time_can_be_told() {
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
