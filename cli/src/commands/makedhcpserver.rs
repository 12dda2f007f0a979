//! `makedhcpserver`: the configuration of a site's own DHCP server, for machines that are to be installed.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};
use serde::Serialize;
use systemimager_core::{BootFile, HostName};
use systemimager_engine::boot::{Boots, Network as Boot};
use systemimager_engine::config::DhcpMode;
use systemimager_engine::host::Secrets;
use systemimager_engine::serve::site::{self, Flavor, Site, Span};
use systemimager_engine::store::addresses::{Network, runs};
use systemimager_engine::store::clients::declared;

use super::dhcp_file::{self, Target, Written, ask, parsed, v4};
use crate::context::Context;

/// Configure a DHCP server of your own, so that machines get addresses and boot from this image server
///
/// Writes a subnet into the configuration of ISC dhcpd, dnsmasq or Kea, with the boot files for each kind of firmware.
/// What others wrote there stays. The program itself checks the result before it takes the place of the old file, which is
/// kept. What is not said by options is asked on a terminal; in scripts the interface and the settings say it.
///
/// This server's own DHCP must then be off (mode = "off" below [dhcp] in systemimager.toml): --set-mode sees to it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  systemimager makedhcpserver\n  systemimager makedhcpserver --flavor isc --set-mode \
                        --network 10.0.0.0/23 --range 10.0.1.1-10.0.1.200 --router 10.0.0.254\n  \
                        systemimager makedhcpserver --flavor kea --range none --dry-run"
)]
pub struct MakeDhcpServer {
    #[command(flatten)]
    target: Target,
    /// Address of this image server, from which machines fetch what they boot
    #[arg(long, value_name = "ADDRESS")]
    server: Option<Ipv4Addr>,
    /// Network of the machines
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    network: Option<Network>,
    /// Interface that the DHCP server serves; only Kea's configuration names it
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Addresses for machines without an entry of their own, or none; give it several times for several ranges
    #[arg(long, value_name = "FIRST-LAST")]
    range: Vec<String>,
    /// The router that machines are told of, or none
    #[arg(long, value_name = "ADDRESS")]
    router: Option<String>,
    /// The name servers that they are told of, or none; several with commas
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    name_server: Vec<String>,
    /// Their domain, or none
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Seconds of a lease
    #[arg(long, value_name = "SECONDS")]
    lease: Option<u32>,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    written: &'a Written,
    site: &'a Site,
}

impl MakeDhcpServer {
    /// Asks, checks, writes.
    pub fn run(self, context: &Context) -> Result<()> {
        let opened = self.target.open(context)?;
        let site = self.site(context, opened.flavor)?;
        let text = site::with_site(opened.flavor, &opened.file, opened.text()?, &site).map_err(anyhow::Error::msg)?;
        let settings = self.target.own_mode(context, &[DhcpMode::Off])?;
        let written = self.target.write(opened, &text, settings)?;
        self.target.tell(context, &written);
        context.answer(&Answer { written: &written, site: &site })
    }

    fn site(&self, context: &Context, flavor: Flavor) -> Result<Site> {
        let settings = &context.config.settings;
        let place = dhcp_file::here(context);
        let network = dhcp_file::network(context, self.network, place.as_ref())?;
        let server = match self.server {
            Some(server) => server,
            None => {
                let known = place.as_ref().map(|place| place.network.address).or(settings.server.address);
                let known = known.map(|address| address.to_string());
                parsed(&ask(context, "Address of this image server", known.as_deref(), "--server")?, "--server")?
            }
        };
        let known = place.as_ref().map(|place| place.interface.as_str());
        let interface = match (&self.interface, flavor) {
            (Some(interface), _) => interface.clone(),
            (None, Flavor::Kea) => ask(context, "Interface that the DHCP server serves", known, "--interface")?,
            // The others are told of it elsewhere.
            (None, Flavor::Isc | Flavor::Dnsmasq) => known.unwrap_or("any").to_owned(),
        };
        let ranges = self.ranges(context, network)?;
        let words = |addresses: &[IpAddr]| match addresses {
            [] => "none".to_owned(),
            several => several.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        };
        let dhcp = &settings.dhcp;
        let router = one_of(context, &self.router, "Router, or none", &words(dhcp.router.as_slice()), "--router")?;
        let name_servers = match self.name_server.as_slice() {
            [] => ask(context, "Name servers, or none", Some(&words(&dhcp.name_servers)), "--name-server")?,
            given => given.join(","),
        };
        let domain =
            one_of(context, &self.domain, "Domain, or none", dhcp.domain.as_deref().unwrap_or("none"), "--domain")?;
        let lease_seconds = match self.lease {
            Some(seconds) => seconds,
            None => {
                let known = dhcp.lease_seconds.unwrap_or(3600).to_string();
                parsed(&ask(context, "Seconds of a lease", Some(&known), "--lease")?, "--lease")?
            }
        };
        Ok(Site {
            network,
            server,
            interface,
            ranges,
            router: unless_none(&router, "--router")?,
            name_servers: match name_servers.trim() {
                "none" => Vec::new(),
                several => several
                    .split(',')
                    .map(|one| parsed(one.trim(), "--name-server"))
                    .collect::<Result<Vec<Ipv4Addr>>>()?,
            },
            domain: match domain.as_str() {
                "none" => None,
                domain => Some(HostName::try_from(domain)?),
            },
            lease_seconds,
            boot_files: boot_files(context, server)?,
        })
    }

    /// The addresses that are free for all. By default those of declared machines whose MAC addresses are not known: by
    /// the address that it gets a machine knows its name.
    fn ranges(&self, context: &Context, network: Network) -> Result<Vec<Span>> {
        let answer = match self.range.as_slice() {
            [] => {
                let clients: Vec<_> = declared(&context.config)?
                    .into_iter()
                    .filter_map(|client| Some((client.address?, client.mac)))
                    .filter(|(address, _)| network.holds_host(*address))
                    .collect();
                let open = clients.iter().filter(|(_, mac)| mac.is_none()).map(|(address, _)| *address);
                let open: Vec<String> = runs(open)
                    .into_iter()
                    .filter_map(|(first, last)| Some(Span { first: v4(first)?, last: v4(last)? }.to_string()))
                    .collect();
                let default = match (open.as_slice(), clients.as_slice()) {
                    ([], []) => None,
                    ([], _) => Some("none".to_owned()),
                    (open, _) => Some(open.join(",")),
                };
                let question =
                    "Addresses for machines without an entry of their own, as 10.0.0.100-10.0.0.200, or none";
                ask(context, question, default.as_deref(), "--range")?
            }
            given => given.join(","),
        };
        match answer.trim() {
            "none" => Ok(Vec::new()),
            several => several.split(',').map(|range| parsed(range.trim(), "--range")).collect(),
        }
    }
}

/// What an option says, or what is answered.
fn one_of(context: &Context, given: &Option<String>, question: &str, default: &str, option: &str) -> Result<String> {
    given.as_ref().map_or_else(|| ask(context, question, Some(default), option), |given| Ok(given.clone()))
}

fn unless_none(answer: &str, option: &str) -> Result<Option<Ipv4Addr>> {
    if answer == "none" { Ok(None) } else { parsed(answer, option).map(Some) }
}

/// What firmware is to ask for, by the boot loader plugin that serves networks.
fn boot_files(context: &Context, server: Ipv4Addr) -> Result<Vec<BootFile>> {
    let network = Boot::new(&context.config, server.into());
    let plan = network.plan(context.registry()?, &context.host(Secrets::default()), None, Boots::LocalDisk)?;
    if plan.boot_files.is_empty() {
        bail!("the boot loader plugin names no file that machines could boot; run `systemimager doctor`");
    }
    Ok(plan.boot_files)
}
