//! `makedhcpstatic`: machines keep the addresses that they have, by static entries in the DHCP server's configuration.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use systemimager_engine::config::{DhcpMode, below};
use systemimager_engine::serve::site::leases::{self, Lease};
use systemimager_engine::serve::site::replace;
use systemimager_engine::serve::site::statics::{self, Input, Known, Prefer, Statics};
use systemimager_engine::serve::site::{self, Flavor};
use systemimager_engine::store::addresses::Network;
use systemimager_engine::store::clients::declared;

use super::dhcp_file::{self, Target, Written, v4};
use crate::context::{Context, note};

/// How many lines of one kind are told; all of them are in the JSON.
const TOLD: usize = 20;

/// Give each machine the address that it has for good, by static entries in the DHCP server's configuration
///
/// Reads the leases that the DHCP server handed out, those of this image server's own DHCP, and the machines that it
/// knows by addclients. A machine gets its entry under its host name. Where they disagree nothing is written, and all that
/// is in conflict is named. Entries that were made before stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager makedhcpstatic --flavor isc --dry-run\n  \
    systemimager makedhcpstatic --flavor kea --leases /var/lib/kea/kea-leases4.csv --skip-wrong")]
pub struct MakeDhcpStatic {
    #[command(flatten)]
    target: Target,
    /// Leases that the DHCP server wrote [default: where it keeps them, and this image server's own]
    #[arg(long, value_name = "FILE")]
    leases: Vec<PathBuf>,
    /// Network of the machines
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    network: Option<Network>,
    /// Also leases that have ended
    #[arg(long)]
    expired: bool,
    /// What counts where a machine was given one address by addclients and holds a lease on another
    #[arg(long, value_enum, value_name = "WHICH")]
    prefer: Option<Which>,
    /// Leave out what is in conflict or cannot be read, and write the rest
    #[arg(long)]
    skip_wrong: bool,
}

/// `--prefer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// The address given by addclients
    Declared,
    /// The address it has
    Leased,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    written: &'a Written,
    #[serde(flatten)]
    statics: &'a Statics,
    /// Lines of leases files that cannot be read.
    unreadable: &'a [String],
    leases: Vec<&'a Path>,
}

impl MakeDhcpStatic {
    /// Brings together, checks, writes.
    pub fn run(self, context: &Context) -> Result<()> {
        let opened = self.target.open(context)?;
        let place = dhcp_file::here(context);
        let network = dhcp_file::network(context, self.network, place.as_ref())?;
        let found = site::read(opened.flavor, &opened.file, opened.text()?).map_err(anyhow::Error::msg)?;
        let (leases, unreadable) = self.read_leases(context, opened.flavor)?;
        let known: Vec<Known> = declared(&context.config)?
            .into_iter()
            .map(|client| Known { host: client.host, address: client.address.and_then(v4), mac: client.mac })
            .collect();
        let server = place.map(|place| place.network.address).or(context.config.settings.server.address);
        let statics = statics::plan(&Input {
            network,
            server: server.and_then(v4),
            leases: &leases,
            known: &known,
            entries: &found.entries,
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            expired: self.expired,
            prefer: self.prefer.map(|which| match which {
                Which::Declared => Prefer::Declared,
                Which::Leased => Prefer::Leased,
            }),
        });
        some("left out: ", &statics.skipped);
        let wrong = !unreadable.is_empty() || !statics.conflicts.is_empty();
        if wrong && !self.skip_wrong {
            some("cannot be read: ", &unreadable);
            some("conflict: ", &statics.conflicts);
            bail!(
                "{} lines cannot be read and {} conflicts are there, so nothing was written; mend that, or leave all of \
                 it out with --skip-wrong",
                unreadable.len(),
                statics.conflicts.len()
            );
        }
        some("cannot be read, left out: ", &unreadable);
        some("conflict, left out: ", &statics.conflicts);
        let open: Vec<String> = statics
            .entries
            .iter()
            .filter(|_| opened.flavor == Flavor::Isc)
            .filter_map(|entry| {
                let (line, range) = found.ranges.iter().find(|(_, range)| range.holds(entry.address))?;
                Some(format!("{} ({}) lies in the range {range} of line {line}", entry.address, entry.host))
            })
            .collect();
        some("dhcpd may give it to others too; take it out of the range: ", &open);
        let text = site::with_entries(opened.flavor, &opened.file, opened.text()?, network, &statics.entries)
            .map_err(anyhow::Error::msg)?;
        let settings = self.target.own_mode(context, &[DhcpMode::Off, DhcpMode::Proxy])?;
        let written = self.target.write(opened, &text, settings)?;
        context.say(format_args!("{} machines have static entries", statics.entries.len()));
        self.target.tell(context, &written);
        let leases = leases.iter().map(|(file, _)| Path::new(file)).collect();
        context.answer(&Answer { written: &written, statics: &statics, unreadable: &unreadable, leases })
    }

    /// All leases, a file each, and what cannot be read of them.
    #[allow(clippy::type_complexity, reason = "it is taken apart at once")]
    fn read_leases(&self, context: &Context, flavor: Flavor) -> Result<(Vec<(String, Vec<Lease>)>, Vec<String>)> {
        let config = &context.config;
        let mut files: Vec<(Flavor, PathBuf)> = self.leases.iter().map(|file| (flavor, file.clone())).collect();
        if files.is_empty() {
            files.extend(flavor.lease_files().iter().map(|file| (flavor, below(&config.root, Path::new(file)))));
            files.push((Flavor::Dnsmasq, config.state().join("dhcp.leases")));
        }
        let (mut all, mut unreadable) = (Vec::new(), Vec::new());
        for (flavor, file) in files {
            let read = with_aside(flavor, &file)?;
            if read.is_empty() && !self.leases.is_empty() {
                bail!("{} is not there; name the leases file with --leases", file.display());
            }
            for (file, read) in read {
                unreadable.extend(read.faults);
                all.push((file.display().to_string(), read.leases));
            }
        }
        if all.is_empty() {
            note("no leases file is there; only machines with a MAC address given to addclients get entries");
        }
        Ok((all, unreadable))
    }
}

/// A leases file; before Kea's what it put aside while it tidies up, which is older (its manual, "Lease File Cleanup").
/// What a newer file says of an address is taken out of the older ones.
fn with_aside(flavor: Flavor, file: &Path) -> Result<Vec<(PathBuf, leases::Read)>> {
    let mut all: Vec<(PathBuf, leases::Read)> = Vec::new();
    let aside: &[&str] = if flavor == Flavor::Kea { &[".2", ".1", ""] } else { &[""] };
    for ending in aside {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        let name = PathBuf::from(name);
        let Some((bytes, _)) = replace::read(&name).context("reading leases")? else { continue };
        let read = leases::read(flavor, &name, &bytes);
        let newer: BTreeSet<Ipv4Addr> = read.leases.iter().map(|lease| lease.address).collect();
        for (_, older) in &mut all {
            older.leases.retain(|lease| !newer.contains(&lease.address));
        }
        all.push((name, read));
    }
    Ok(all)
}

/// Tells some of these lines.
fn some(what: &str, lines: &[String]) {
    lines.iter().take(TOLD).for_each(|line| note(format_args!("{what}{line}")));
    if lines.len() > TOLD {
        note(format_args!("{what}{} more; --json tells all", lines.len() - TOLD));
    }
}
