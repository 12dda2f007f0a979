//! The network: which interface, its address, router and name servers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use systemimager_core::{Lease, NetworkInterface};
use systemimager_engine::sys::{Cmd, Tool};

use super::dhcp::Client;
use super::wait::{self, Events};
use super::{console, hardware};
use crate::places;

/// How long an interface may take to appear: its driver may just be loading.
const APPEARS: Duration = Duration::from_secs(30);
/// How long a DHCP server may take to answer. A switch that learns its tree is silent for 30 to 50 seconds.
const ANSWERS: Duration = Duration::from_secs(120);
/// How often is looked without an event, only for what is due by the clock: a DHCP client that ended is
/// started anew at this pace (one that fails at once must not make a hot loop), and [`SAY_EVERY`].
const TICK: Duration = Duration::from_secs(5);
/// How often it is said that nothing has come yet.
const SAY_EVERY: Duration = Duration::from_secs(15);

/// A network that was set up.
pub struct Network {
    /// The lease.
    pub lease: Lease,
    /// The interface that the firmware booted from, if it told (`BOOTIF`).
    pub boot_mac: Option<String>,
    /// Renews the lease while this lives.
    _client: Client,
}

/// The MAC of `BOOTIF=01-52-54-00-12-34-56` (the hardware type comes first, as pxelinux writes it).
///
/// # Errors
/// It is no such thing.
pub fn boot_mac(value: &str) -> Result<String> {
    let parts: Vec<&str> = value.split(['-', ':']).collect();
    let mac = match parts.len() {
        7 => parts.get(1..).unwrap_or_default(),
        _ => parts.as_slice(),
    };
    if mac.len() != 6 || mac.iter().any(|part| part.len() != 2 || u8::from_str_radix(part, 16).is_err()) {
        bail!("BOOTIF={value} on the kernel command line is not a MAC address such as 01-52-54-00-12-34-56");
    }
    Ok(mac.join(":").to_lowercase())
}

/// Sets the network up: on the interface the machine booted from, else on the first that gets an answer.
///
/// # Errors
/// No interface, no carrier, no answer within two minutes.
pub fn set_up(bootif: Option<&str>) -> Result<Network> {
    let boot_mac = bootif.map(boot_mac).transpose()?;
    run_ip(&["link", "set", "dev", "lo", "up"])?;
    let interfaces = Events::of_interfaces()?;
    let chosen = choose(boot_mac.as_deref(), &interfaces)?;
    for interface in &chosen {
        run_ip(&["link", "set", "dev", &interface.name, "up"])?;
    }
    let (client, lease) = ask(&chosen, &interfaces)?;
    apply(&lease)?;
    Ok(Network { lease, boot_mac, _client: client })
}

/// The interface of the boot MAC alone, else all.
fn choose(boot_mac: Option<&str>, events: &Events) -> Result<Vec<NetworkInterface>> {
    let sys = Path::new("/sys");
    if let Some(mac) = boot_mac {
        let look = || hardware::interfaces(sys).into_iter().find(|it| it.mac == mac);
        let found = wait::until(APPEARS, APPEARS, &[events], look);
        match found {
            Some(interface) => {
                console::line(format_args!("booted from {} ({mac})", interface.name));
                return Ok(vec![interface]);
            }
            None => console::line(format_args!(
                "no interface has the MAC {mac} of BOOTIF after {} seconds; trying all others",
                APPEARS.as_secs()
            )),
        }
    }
    let some = || Some(hardware::interfaces(sys)).filter(|all| !all.is_empty());
    wait::until(APPEARS, APPEARS, &[events], some).context(
        "this machine has no wired network interface that the kernel in this initrd drives; \
         make the initrd with a kernel that has its driver (lspci -nn names the device)",
    )
}

/// Asks on every interface as soon as it has a carrier; the first answer counts.
fn ask(chosen: &[NetworkInterface], interfaces: &Events) -> Result<(Client, Lease)> {
    let leases = Events::of_files_in(Path::new(places::RUN_DIR))?;
    let begun = Instant::now();
    let mut said = begun;
    let mut clients: Vec<Client> = Vec::new();
    // When a client was last started on each, by name.
    let mut started: BTreeMap<String, Instant> = BTreeMap::new();
    let mut broken = None;
    let answer = wait::until(ANSWERS, TICK, &[interfaces, &leases], || {
        for interface in hardware::interfaces(Path::new("/sys")) {
            let ours = chosen.iter().any(|it| it.name == interface.name);
            let asked = clients.iter().any(|it| it.interface() == interface.name)
                || started.get(&interface.name).is_some_and(|at| at.elapsed() < TICK);
            if ours && interface.link && !asked {
                started.insert(interface.name.clone(), Instant::now());
                console::line(format_args!("asking for an address on {} ({})", interface.name, interface.mac));
                match Client::start(&interface.name, &interface.mac) {
                    Ok(client) => clients.push(client),
                    Err(error) => return Some(Err(error)),
                }
            }
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            console::line(format_args!("{} after {} s", waiting_for(&clients), begun.elapsed().as_secs()));
        }
        for index in 0..clients.len() {
            match clients.get(index).map(Client::lease) {
                Some(Ok(Some(lease))) => return Some(Ok((clients.swap_remove(index), lease))),
                Some(Err(error)) => {
                    // Another interface may still get an answer; this one is asked on anew.
                    clients.swap_remove(index);
                    broken = Some(error);
                    return None;
                }
                _ => {}
            }
        }
        None
    });
    match (answer, broken) {
        (Some(answer), _) => answer,
        (None, Some(error)) => Err(error),
        (None, None) => {
            let names: Vec<&str> = chosen.iter().map(|it| it.name.as_str()).collect();
            bail!(
                "{} after {} seconds on {}; check the cable, and that the DHCP server (systemimager serve) runs in this network",
                waiting_for(&clients),
                ANSWERS.as_secs(),
                names.join(", ")
            )
        }
    }
}

fn waiting_for(clients: &[Client]) -> &'static str {
    if clients.is_empty() { "no carrier" } else { "no answer from a DHCP server" }
}

/// Gives the interface its address, the machine its router and name servers.
fn apply(lease: &Lease) -> Result<()> {
    let address = lease.address.context("the lease has no address")?;
    let device = lease.interface.as_str();
    let prefix = lease.prefix.unwrap_or(if address.is_ipv4() { 24 } else { 64 });
    run_ip(&["addr", "flush", "dev", device])?;
    run_ip(&["addr", "add", &format!("{address}/{prefix}"), "dev", device])?;
    if let Some(router) = lease.routers.first() {
        run_ip(&["route", "replace", "default", "via", &router.to_string(), "dev", device])
            .with_context(|| format!("setting the router {router} that the DHCP server named"))?;
    }
    let text = resolv_conf(lease);
    std::fs::write("/etc/resolv.conf", text).context("writing /etc/resolv.conf")
}

fn resolv_conf(lease: &Lease) -> String {
    let mut text = String::new();
    let plain = |domain: &&String| domain.chars().all(|it| it.is_ascii_alphanumeric() || ".-_".contains(it));
    if let Some(domain) = lease.domain.as_ref().filter(plain) {
        let _ = writeln!(text, "search {domain}");
    }
    for server in &lease.name_servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

fn run_ip(args: &[&str]) -> Result<()> {
    Ok(Cmd::tool(Tool::Busybox).arg("ip").args(args).timeout(Duration::from_secs(20)).run()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootif_is_a_mac() {
        for (name, value, expected) in [
            ("pxelinux", "01-52-54-00-AB-cd-01", Ok("52:54:00:ab:cd:01")),
            ("without type", "52:54:00:ab:cd:01", Ok("52:54:00:ab:cd:01")),
            ("too short", "01-52-54", Err(())),
            ("no hexadecimal", "01-52-54-00-ab-cd-0g", Err(())),
            ("empty", "", Err(())),
        ] {
            assert_eq!(boot_mac(value).as_deref().map_err(drop), expected, "{name}");
        }
    }

    #[test]
    fn name_servers_without_surprises() {
        let server = "10.0.0.1".parse().expect("an address");
        let lease =
            |domain: &str| Lease { domain: Some(domain.into()), name_servers: vec![server], ..Lease::default() };
        assert_eq!(resolv_conf(&lease("example.org")), "search example.org\nnameserver 10.0.0.1\n");
        assert_eq!(resolv_conf(&lease("x\nnameserver 6.6.6.6")), "nameserver 10.0.0.1\n");
    }
}
