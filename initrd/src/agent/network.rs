//! The network: which interface, its address, router and name servers.
//!
//! Every wired interface with a link is asked for an address at once. The one the machine booted from is preferred:
//! its answer is waited for a little when others come first. An address counts only if the image server can be reached
//! with it; a second DHCP server, or a second network, must not lead a machine astray.
//!
//! Where a medium's local.cfg gives the address no DHCP server is asked: that address is tried on each interface, in the
//! same way. What it says of an interface, router, name servers and domain counts more than what a DHCP server says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use systemimager_core::{Lease, NetworkInterface};
use systemimager_engine::local_cfg::LocalCfg;
use systemimager_engine::sys::{Cmd, Tool};

use super::dhcp::Client;
use super::wait::{self, Events};
use super::{console, hardware};
use crate::places;

/// How long an interface may take to appear: its driver may just be loading.
const APPEARS: Duration = Duration::from_secs(30);
/// How long all of it may take. A switch that learns its tree is silent for 30 to 50 seconds.
const ANSWERS: Duration = Duration::from_secs(120);
/// How often is looked without an event, only for what is due by the clock: the constants below.
const TICK: Duration = Duration::from_secs(1);
/// A DHCP client that ended is started anew at this pace: one that fails at once must not make a hot loop.
const ANEW: Duration = Duration::from_secs(5);
/// How often it is said that nothing has come yet.
const SAY_EVERY: Duration = Duration::from_secs(15);
/// How long an answer on another interface waits for one on the interface that the machine booted from, where that has
/// a link: it had an answer for the firmware a moment ago.
const BOOT_ANSWERS: Duration = Duration::from_secs(10);
/// The same while it has no link, or is not there: its link or its driver may be just coming.
const BOOT_APPEARS: Duration = Duration::from_secs(5);

/// A network that was set up.
pub struct Network {
    /// The lease.
    pub lease: Lease,
    /// The interface that the firmware booted from, if it told (`BOOTIF`).
    pub boot_mac: Option<String>,
    /// Renews the lease while this lives; none where no DHCP server was asked.
    _client: Option<Client>,
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

/// Words of the kernel command line that ask for an interface which stands on others (dracut.cmdline(7)).
const STACKED: [(&str, &str); 4] = [("bond", "bonds"), ("vlan", "VLANs"), ("team", "teams"), ("bridge", "bridges")];

/// Refuses a kernel command line that asks for what is not set up yet.
///
/// # Errors
/// Names the word.
pub fn refuse_stacked(command_line: &BTreeMap<String, String>) -> Result<()> {
    for (word, what) in STACKED {
        if let Some(value) = command_line.get(word) {
            bail!(
                "the kernel command line asks for {word}={value}, and {what} are not set up while installing yet; take that \
                 word out, and let the switch give this machine's port the network untagged"
            );
        }
    }
    Ok(())
}

/// Sets the network up. `local`: what a local.cfg says. `reachable`: whether the image server answers, asked while this
/// lease is in force.
///
/// # Errors
/// No interface; or within two minutes no lease with which the server is reachable: what came of each interface.
pub fn set_up(bootif: Option<&str>, local: &LocalCfg, reachable: &dyn Fn(&Lease) -> Result<()>) -> Result<Network> {
    let boot_mac = bootif.map(boot_mac).transpose()?;
    run_ip(&["link", "set", "dev", "lo", "up"])?;
    let interfaces = Events::of_interfaces()?;
    let leases = Events::of_files_in(Path::new(places::RUN_DIR))?;
    let begun = Instant::now();
    let mut said = begun;
    let mut nics: Vec<Nic> = Vec::new();
    let found = wait::until(ANSWERS, TICK, &[&interfaces, &leases], || {
        let mut seen = hardware::interfaces(Path::new("/sys"));
        let there: Vec<String> = seen.iter().map(|it| format!("{} ({})", it.name, it.mac)).collect();
        if let Some(device) = &local.device {
            seen.retain(|it| device.is(&it.name, &it.mac));
        }
        nics_now(&mut nics, &seen, boot_mac.as_deref());
        if nics.is_empty() {
            return (begun.elapsed() >= APPEARS).then(|| {
                if let (Some(device), false) = (&local.device, there.is_empty()) {
                    bail!("DEVICE={device} in local.cfg: there is no such interface; there is {}", there.join(", "));
                }
                Err(anyhow::anyhow!(
                    "this machine has no wired network interface that the kernel in this initrd drives; \
                     make the initrd with a kernel that has its driver (lspci -nn names the device)"
                ))
            });
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            console::line(format_args!("after {} s: {}", begun.elapsed().as_secs(), told(&nics, "; ")));
        }
        for nic in &mut nics {
            match local.lease(&nic.name, &nic.mac) {
                Some(lease) => nic.take_given(lease),
                None => nic.ask(),
            }
        }
        while let Some(index) = next(&nics, boot_mac.is_some(), Instant::now()) {
            let nic = nics.get_mut(index)?;
            let State::Leased { lease, .. } = &nic.state else { return None };
            let lease = local.over(lease.clone());
            match apply(&lease).and_then(|()| reachable(&lease)) {
                Ok(()) => return Some(Ok((nic.client.take(), lease))),
                Err(error) => {
                    let why = format!("{error:#}");
                    console::line(format_args!("{}: of no use: {why}", show(&lease)));
                    // Routes go with the address.
                    if let Err(error) = run_ip(&["addr", "flush", "dev", &nic.name]) {
                        // The interface went away; so did its address.
                        console::line(format_args!("{}: {error:#}", nic.name));
                    }
                    nic.useless(&lease, why);
                }
            }
        }
        None
    });
    match found {
        Some(Ok((client, lease))) => Ok(Network { lease, boot_mac, _client: client }),
        Some(Err(error)) => Err(error),
        None if local.address.is_some() => bail!(
            "no network within {} seconds with the address that local.cfg gives:\n  {}\ncheck the cables, IPADDR, NETMASK, \
             GATEWAY and IMAGESERVER, and that the image server answers",
            ANSWERS.as_secs(),
            told(&nics, "\n  ")
        ),
        None => bail!(
            "no network within {} seconds:\n  {}\ncheck the cables, and that a DHCP server (systemimager serve, or the \
             site's own) and the image server are in one of these networks",
            ANSWERS.as_secs(),
            told(&nics, "\n  ")
        ),
    }
}

/// How far an interface is.
enum State {
    /// No answer yet.
    Asking,
    /// It has one, not tried yet.
    Leased { lease: Lease, since: Instant },
}

/// A wired interface.
struct Nic {
    name: String,
    mac: String,
    is_boot: bool,
    link: bool,
    client: Option<Client>,
    /// When the client was last started.
    started: Option<Instant>,
    state: State,
    /// What its last answer was worth, or why its client failed.
    trouble: Option<String>,
    /// A lease of it was tried and was of no use.
    tried: bool,
}

impl Nic {
    fn new(interface: &NetworkInterface, is_boot: bool) -> Self {
        Self {
            name: interface.name.clone(),
            mac: interface.mac.clone(),
            is_boot,
            link: interface.link,
            client: None,
            started: None,
            state: State::Asking,
            trouble: None,
            tried: false,
        }
    }

    /// Starts a client where there is a link and none yet, and takes its answer.
    fn ask(&mut self) {
        if self.link && self.client.is_none() && self.started.is_none_or(|at| at.elapsed() >= ANEW) {
            console::line(format_args!("asking for an address on {} ({})", self.name, self.mac));
            self.started = Some(Instant::now());
            match Client::start(&self.name, &self.mac) {
                Ok(client) => self.client = Some(client),
                Err(error) => self.trouble = Some(format!("{error:#}")),
            }
        }
        if !matches!(self.state, State::Asking) {
            return;
        }
        match self.client.as_ref().map(Client::lease) {
            Some(Ok(Some(lease))) => self.state = State::Leased { lease, since: Instant::now() },
            Some(Err(error)) => {
                // Asked anew after a while; another interface may have an answer meanwhile.
                self.trouble = Some(format!("{error:#}"));
                self.client = None;
            }
            Some(Ok(None)) | None => {}
        }
    }

    /// Takes the address that it is given instead of asking; again after a while where it was of no use.
    fn take_given(&mut self, lease: Lease) {
        let due = self.started.is_none_or(|at| at.elapsed() >= ANEW);
        if self.link && due && matches!(self.state, State::Asking) {
            self.started = Some(Instant::now());
            self.state = State::Leased { lease, since: Instant::now() };
        }
    }

    /// The answer leads nowhere: another DHCP server is asked, if there is another.
    fn useless(&mut self, lease: &Lease, why: String) {
        self.trouble = Some(format!("{}, {why}", show(lease)));
        self.tried = true;
        self.state = State::Asking;
        if let Some(client) = &self.client {
            client.refuse();
        }
    }
}

/// Brings the list up to date: interfaces that are new are switched on, which is what makes a link come.
fn nics_now(nics: &mut Vec<Nic>, seen: &[NetworkInterface], boot_mac: Option<&str>) {
    for interface in seen {
        if let Some(nic) = nics.iter_mut().find(|nic| nic.name == interface.name) {
            nic.link = interface.link;
            continue;
        }
        let is_boot = boot_mac == Some(interface.mac.as_str());
        if is_boot {
            console::line(format_args!("booted from {} ({})", interface.name, interface.mac));
        }
        let mut nic = Nic::new(interface, is_boot);
        if let Err(error) = run_ip(&["link", "set", "dev", &interface.name, "up"]) {
            nic.trouble = Some(format!("{error:#}"));
        }
        nics.push(nic);
    }
    nics.retain(|nic| seen.iter().any(|interface| interface.name == nic.name));
}

/// The interface whose lease is to be tried now. `boot_known`: the firmware told which interface it used, so that one
/// is waited for a while.
fn next(nics: &[Nic], boot_known: bool, now: Instant) -> Option<usize> {
    let leased = |nic: &Nic| match &nic.state {
        State::Leased { since, .. } => Some(*since),
        State::Asking => None,
    };
    let boot = nics.iter().find(|nic| nic.is_boot);
    if let Some(index) = nics.iter().position(|nic| nic.is_boot && leased(nic).is_some()) {
        return Some(index);
    }
    let first = nics.iter().enumerate().filter_map(|(index, nic)| Some((leased(nic)?, index))).min()?;
    let patience = match boot {
        _ if !boot_known => Duration::ZERO,
        Some(boot) if boot.tried => Duration::ZERO,
        Some(boot) if boot.link => BOOT_ANSWERS,
        _ => BOOT_APPEARS,
    };
    (now.saturating_duration_since(first.0) >= patience).then_some(first.1)
}

/// What came of each interface.
fn told(nics: &[Nic], between: &str) -> String {
    let one = |nic: &Nic| {
        let boot = if nic.is_boot { ", booted from" } else { "" };
        let state = match (&nic.state, &nic.trouble) {
            (State::Leased { lease, .. }, _) => format!("has {}, not tried yet", show(lease)),
            (State::Asking, Some(trouble)) => trouble.clone(),
            (State::Asking, None) if nic.started.is_some() => "no answer from a DHCP server".into(),
            (State::Asking, None) => "not asked".into(),
        };
        format!("{} ({}{boot}): {}, {state}", nic.name, nic.mac, if nic.link { "link" } else { "no link" })
    };
    if nics.is_empty() { "no interface yet".into() } else { nics.iter().map(one).collect::<Vec<_>>().join(between) }
}

/// `10.0.0.11/24 on eth0 from the DHCP server 10.0.0.1`.
fn show(lease: &Lease) -> String {
    let address = lease.address.map_or_else(|| "no address".to_owned(), |address| address.to_string());
    let prefix = lease.prefix.map(|prefix| format!("/{prefix}")).unwrap_or_default();
    let server = lease.server.map(|server| format!(" from the DHCP server {server}")).unwrap_or_default();
    format!("{address}{prefix} on {}{server}", lease.interface)
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

pub(super) fn resolv_conf(lease: &Lease) -> String {
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
    fn what_is_not_set_up_is_refused_by_name() {
        let line = |text: &str| crate::command_line::parse(text);
        assert!(refuse_stacked(&line("si.server=10.0.0.1 console=ttyS0 bonding.debug=1")).is_ok());
        for (text, says) in [
            ("quiet bond=bond0:eth0,eth1:mode=1", "asks for bond=bond0:eth0,eth1:mode=1, and bonds are not set up"),
            ("vlan=eth0.10:eth0", "asks for vlan=eth0.10:eth0, and VLANs are not"),
            ("team", "asks for team=, and teams are not"),
            ("bridge=br0:eth0", "bridges are not"),
        ] {
            let error = refuse_stacked(&line(text)).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    /// An interface: `boot`, `link`, seconds since its lease came, whether an earlier one was of no use.
    struct Given(bool, bool, Option<u64>, bool);

    fn nics(given: &[Given], now: Instant) -> Vec<Nic> {
        given
            .iter()
            .enumerate()
            .map(|(index, Given(boot, link, ago, tried))| {
                let name = format!("eth{index}");
                let mac = format!("52:54:00:00:00:0{index}");
                let interface = NetworkInterface { name, mac, link: *link, ..NetworkInterface::default() };
                let mut nic = Nic::new(&interface, *boot);
                nic.tried = *tried;
                if let Some(ago) = ago {
                    let since = now.checked_sub(Duration::from_secs(*ago)).expect("a time");
                    nic.state = State::Leased { lease: Lease::default(), since };
                }
                nic
            })
            .collect()
    }

    #[test]
    fn the_boot_interface_is_preferred_for_a_while() {
        // Later than a machine's start, so that there is a time before it.
        let now = Instant::now() + Duration::from_secs(3600);
        let other = |ago| Given(false, true, ago, false);
        let rows: [(&str, bool, &[Given], Option<usize>); 13] = [
            ("nothing", true, &[], None),
            ("nobody answered", true, &[other(None), Given(true, true, None, false)], None),
            ("the first of several", false, &[other(Some(0)), other(Some(2)), other(Some(1))], Some(1)),
            (
                "the boot interface, last of three",
                true,
                &[other(Some(9)), other(Some(1)), Given(true, true, Some(0), false)],
                Some(2),
            ),
            ("it is waited for", true, &[other(Some(9)), Given(true, true, None, false)], None),
            ("but not for ever", true, &[other(Some(10)), Given(true, true, None, false)], Some(0)),
            ("its link is waited for", true, &[other(Some(4)), Given(true, false, None, false)], None),
            ("for a shorter time", true, &[other(Some(5)), Given(true, false, None, false)], Some(0)),
            ("it is not there yet", true, &[other(Some(4))], None),
            ("and never will be", true, &[other(Some(5))], Some(0)),
            ("it was of no use", true, &[other(Some(0)), Given(true, true, None, true)], Some(0)),
            ("it has another answer", true, &[other(Some(0)), Given(true, true, Some(0), true)], Some(1)),
            ("an answer outlives its link", true, &[Given(true, false, Some(1), false)], Some(0)),
        ];
        for (name, boot_known, given, expected) in rows {
            assert_eq!(next(&nics(given, now), boot_known, now), expected, "{name}");
        }
    }

    #[test]
    fn each_interface_is_told() {
        let now = Instant::now();
        let lease = Lease {
            interface: "eth1".into(),
            address: Some("10.9.0.5".parse().expect("an address")),
            prefix: Some(24),
            server: Some("10.9.0.1".parse().expect("an address")),
            ..Lease::default()
        };
        let mut all = nics(
            &[Given(false, false, None, false), Given(false, true, None, false), Given(true, true, None, false)],
            now,
        );
        all[1].useless(&lease, "no image server".into());
        all[2].started = Some(now);
        assert_eq!(
            told(&all, "\n"),
            "eth0 (52:54:00:00:00:00): no link, not asked\n\
             eth1 (52:54:00:00:00:01): link, 10.9.0.5/24 on eth1 from the DHCP server 10.9.0.1, no image server\n\
             eth2 (52:54:00:00:00:02, booted from): link, no answer from a DHCP server"
        );
        assert_eq!(told(&[], "; "), "no interface yet");
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
