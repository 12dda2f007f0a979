//! dnsmasq's configuration (dnsmasq(8)): DHCP or proxy DHCP, and TFTP for the installation network, no DNS. Pure.
//!
//! Beside a site's own DHCP server it is a proxy: PXE clients (PXE 2.1, section 2.2.3) take their address from the
//! site's offer and the boot file from ours; all others are not answered. What they take differs:
//! - firmware asks again on port 4011 for the only item of a menu, a `pxe-service` of its kind, which is booted without
//!   being shown; dnsmasq opens that port, and is a proxy at all, only if there is one;
//! - iPXE would do so too, but takes at once what `dhcp-boot` names if it is given no menu: then dnsmasq tells it in
//!   option 43 to skip discovery. It is known by its own option, 175 (ipxe.org/howto/dhcpd);
//! - loaders so old that they do not tell their kind have only `dhcp-boot`.
//!
//! Where it is the server it must not lose against another one that nobody meant to have: iPXE is told which to prefer.
//!
//! Every value that goes in is typed (addresses, MACs, host names) or checked here: a line break or comma in
//! one would be another option.

use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use systemimager_core::BootFile;

use super::interface::Place;
use crate::config::{DhcpMode, DhcpSettings};
use crate::store::addresses::runs;
use crate::store::clients::Client;

/// Seconds of a lease unless the settings say otherwise.
const LEASE_SECONDS: u32 = 3600;

/// What the configuration is made from.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// Interface and address.
    pub place: &'a Place,
    /// What DHCP hands out.
    pub dhcp: &'a DhcpSettings,
    /// The machines.
    pub clients: &'a [Client],
    /// What firmware is to ask for.
    pub boot_files: &'a [BootFile],
    /// The TFTP root.
    pub tftp_root: PathBuf,
    /// Where leases are kept.
    pub lease_file: PathBuf,
    /// Where its process id is written.
    pub pid_file: PathBuf,
    /// The user that dnsmasq becomes; absent: its own.
    pub user: Option<&'a str>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The text of the configuration.
    pub text: String,
    /// What an administrator should know: clients that get no address.
    pub warnings: Vec<String>,
    /// What the site's own DHCP server has to do.
    pub notes: Vec<String>,
}

/// iPXE takes the last offer that comes within two seconds, also one that names no boot file, unless another has a
/// higher priority (option 175.1); and it waits those seconds unless told that nothing else is to come (175.176;
/// ipxe.org/howto/dhcpd).
const IPXE: [&str; 2] = ["dhcp-option=encap:175,1,1b", "dhcp-option=encap:175,176,1b"];

/// Kinds of firmware (RFC 4578, section 2.1) that are PXE clients; from 15 on the IANA's registry has those that boot by
/// HTTP.
const TFTP_CLIENTS: std::ops::RangeInclusive<u16> = 0..=14;

/// The configuration.
///
/// # Errors
/// A value that dnsmasq's format cannot hold: says which.
pub fn config(input: &Input<'_>) -> Result<Output, String> {
    let place = input.place;
    let mut output = Output { text: String::new(), warnings: Vec::new(), notes: Vec::new() };
    let mut lines: Vec<String> = vec![
        "# Made by `systemimager serve` at each start and change; what you change here is lost.".into(),
        "port=0".into(),
        format!("interface={}", word("the interface's name", &place.interface)?),
        "bind-interfaces".into(),
        "no-resolv".into(),
        "no-hosts".into(),
        format!("pid-file={}", path("the pid file", &input.pid_file)?),
        "enable-tftp".into(),
        format!("tftp-root={}", path("the TFTP root", &input.tftp_root)?),
    ];
    if let Some(user) = input.user {
        lines.push(format!("user={}", word("the user", user)?));
        lines.push(format!("group={}", word("the group", user)?));
    }
    if let Some(client) = input.clients.iter().find(|it| it.address == Some(place.network.address)) {
        return Err(format!(
            "{} has the address {}, which is this server's; give it another with addclients",
            client.host, place.network.address
        ));
    }
    match input.dhcp.mode {
        DhcpMode::Server => {
            serve(input, &mut lines, &mut output.warnings)?;
            boot_files(input, &mut lines)?;
            lines.extend(IPXE.map(str::to_owned));
        }
        DhcpMode::Proxy => {
            unused(input.dhcp, &mut output.warnings);
            lines.push(format!("dhcp-leasefile={}", path("the lease file", &input.lease_file)?));
            lines.push("log-dhcp".into());
            lines.push(format!("dhcp-range={},proxy,{}", place.network.base(), place.network.mask()));
            boot_files(input, &mut lines)?;
            lines.push("dhcp-match=set:ipxe,175".into());
            for file in input.boot_files.iter().filter(|file| TFTP_CLIENTS.contains(&file.client_arch)) {
                let (arch, name) = (file.client_arch, word("the boot file's name", &file.name)?);
                if !name.contains('.') {
                    return Err(format!(
                        "the boot file {name} cannot be named to PXE clients with dhcp.mode = \"proxy\": they add .0 to a \
                         name without a dot; use mode = \"server\", or \"off\" with the site's own server naming it"
                    ));
                }
                lines.push(format!("pxe-service=tag:!ipxe,{arch},SystemImager,{name},{}", place.network.address));
            }
        }
        DhcpMode::Off => {
            unused(input.dhcp, &mut output.warnings);
            let files: Vec<String> = input
                .boot_files
                .iter()
                .map(|file| format!("{} for clients of architecture {}", file.name, file.client_arch))
                .collect();
            output.notes.push(format!(
                "DHCP is the site's: its server has to name {} as the next server, and the boot file (option 93 tells \
                 the architecture): {}",
                place.network.address,
                files.join(", ")
            ));
        }
    }
    output.text = lines.join("\n") + "\n";
    Ok(output)
}

/// Settings of a DHCP server, where this is none.
fn unused(dhcp: &DhcpSettings, warnings: &mut Vec<String>) {
    for (key, set) in [
        ("router", dhcp.router.is_some()),
        ("name_servers", !dhcp.name_servers.is_empty()),
        ("lease_seconds", dhcp.lease_seconds.is_some()),
    ] {
        if set {
            warnings.push(format!(
                "dhcp.{key} has no effect with mode = \"{}\": the site's DHCP server hands that out; take it out",
                dhcp.mode
            ));
        }
    }
}

/// What a DHCP server does: addresses, names, routes.
fn serve(input: &Input<'_>, lines: &mut Vec<String>, warnings: &mut Vec<String>) -> Result<(), String> {
    let place = input.place;
    lines.extend([
        format!("dhcp-leasefile={}", path("the lease file", &input.lease_file)?),
        "dhcp-sequential-ip".into(),
        "log-dhcp".into(),
    ]);
    let lease = input.dhcp.lease_seconds.unwrap_or(LEASE_SECONDS);
    let (base, mask) = (place.network.base(), place.network.mask());
    // Named machines get their addresses also where no range is open to others.
    lines.push(format!("dhcp-range={base},static,{mask},{lease}"));
    let (mut open, mut elsewhere): (Vec<IpAddr>, Vec<&Client>) = (Vec::new(), Vec::new());
    for client in input.clients {
        match (client.address, client.mac) {
            (Some(address), _) if !place.network.holds_host(address) => elsewhere.push(client),
            (Some(address), Some(mac)) => lines.push(format!("dhcp-host={mac},{address},{},{lease}", client.host)),
            (Some(address), None) => open.push(address),
            (None, Some(mac)) => {
                warnings.push(format!("{} ({mac}) has no address; give it one with addclients --ip", client.host))
            }
            // Hosts that get addresses elsewhere are no fault: they boot from media, or have their own DHCP server.
            (None, None) => {}
        }
    }
    if let Some(first) = elsewhere.first() {
        let (address, network) =
            (first.address.map(|address| address.to_string()).unwrap_or_default(), place.network.base());
        warnings.push(format!(
            "{} of the declared machines have addresses outside {network}/{} on {} (the first is {}, {address}); they get none from here",
            elsewhere.len(),
            place.network.prefix,
            place.interface,
            first.host
        ));
    }
    if open.is_empty() {
        // Declared machines that took another server's offer are told to come back, and known leases to be given again;
        // all others on this wire are somebody else's, and would never get an address if they were told so too.
        lines.extend(["dhcp-authoritative".into(), "dhcp-ignore=tag:!known".into()]);
    }
    for (first, last) in runs(open) {
        lines.push(format!("dhcp-range={first},{last},{mask},{lease}"));
    }
    match input.dhcp.router {
        Some(router) => lines.push(format!("dhcp-option=option:router,{router}")),
        // Without this line dnsmasq names itself, and this server is no router.
        None => lines.push("dhcp-option=option:router".into()),
    }
    if !input.dhcp.name_servers.is_empty() {
        let servers: Vec<String> = input.dhcp.name_servers.iter().map(ToString::to_string).collect();
        lines.push(format!("dhcp-option=option:dns-server,{}", servers.join(",")));
    }
    if let Some(domain) = &input.dhcp.domain {
        lines.push(format!("domain={}", word("dhcp.domain", domain)?));
    }
    if let Some(ula) = &place.ula {
        lines.push("enable-ra".into());
        lines.push(format!("dhcp-range={},ra-only,{}", ula.base(), ula.prefix));
        // A lifetime of 0: nobody is to take this server for a router.
        lines.push(format!("ra-param={},60,0", place.interface));
    }
    Ok(())
}

/// The boot file for each kind of firmware: option 93 (RFC 4578) tells it; the oldest BIOS loaders do not send it.
fn boot_files(input: &Input<'_>, lines: &mut Vec<String>) -> Result<(), String> {
    let server = input.place.network.address;
    lines.push("dhcp-match=set:arch,option:client-arch".into());
    for file in input.boot_files {
        let name = word("the boot file's name", &file.name)?;
        let arch = file.client_arch;
        lines.push(format!("dhcp-match=set:arch{arch},option:client-arch,{arch}"));
        lines.push(format!("dhcp-boot=tag:arch{arch},{name},,{server}"));
        if arch == 0 {
            lines.push(format!("dhcp-boot=tag:!arch,{name},,{server}"));
        }
    }
    Ok(())
}

fn word<'a>(what: &str, text: &'a str) -> Result<&'a str, String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "._-/+@".contains(letter);
    if !text.is_empty() && text.chars().all(fits) {
        return Ok(text);
    }
    Err(format!(
        "{what} is {text:?}, which dnsmasq's configuration cannot hold; use letters, digits, '.', '_', '-', '/', '+' and '@'"
    ))
}

fn path<'a>(what: &str, path: &'a std::path::Path) -> Result<&'a str, String> {
    let text = std::str::from_utf8(path.as_os_str().as_bytes())
        .map_err(|_| format!("{what} is {path:?}, which is not UTF-8"))?;
    word(what, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::host_links::HostLink;
    use systemimager_core::HostName;

    fn client(host: &str, address: Option<&str>, mac: Option<&str>) -> Client {
        Client {
            host: HostName::try_from(host).unwrap(),
            link: HostLink::Copy,
            address: address.map(|address| address.parse().unwrap()),
            full_name: None,
            mac: mac.map(|mac| mac.parse().unwrap()),
        }
    }

    fn place(ula: bool) -> Place {
        Place {
            interface: "eth0".into(),
            network: "10.0.0.1/23".parse().unwrap(),
            ula: ula.then(|| "fd77::1/64".parse().unwrap()),
        }
    }

    fn input<'a>(
        place: &'a Place,
        dhcp: &'a DhcpSettings,
        clients: &'a [Client],
        boot_files: &'a [BootFile],
    ) -> Input<'a> {
        Input {
            place,
            dhcp,
            clients,
            boot_files,
            tftp_root: "/tftpboot".into(),
            lease_file: "/var/lib/systemimager/dhcp.leases".into(),
            pid_file: "/run/systemimager/dnsmasq.pid".into(),
            user: None,
        }
    }

    #[test]
    fn the_whole() {
        let place = place(true);
        let dhcp = DhcpSettings {
            mode: DhcpMode::Server,
            router: Some([10, 0, 0, 254].into()),
            name_servers: vec![[10, 0, 0, 2].into(), [10, 0, 0, 3].into()],
            domain: Some("example.org".into()),
            lease_seconds: Some(600),
        };
        let clients = [
            client("www1", Some("10.0.0.11"), Some("52:54:00:00:00:01")),
            client("www2", Some("10.0.0.12"), None),
            client("www3", Some("10.0.0.13"), None),
            client("www5", Some("10.0.0.15"), None),
            client("far", Some("10.9.0.1"), None),
            client("medium", None, None),
            client("lost", None, Some("52:54:00:00:00:09")),
        ];
        let files =
            [BootFile { client_arch: 0, name: "x.0".into() }, BootFile { client_arch: 7, name: "x.efi".into() }];
        let output = config(&input(&place, &dhcp, &clients, &files)).unwrap();
        let expected = "\
# Made by `systemimager serve` at each start and change; what you change here is lost.
port=0
interface=eth0
bind-interfaces
no-resolv
no-hosts
pid-file=/run/systemimager/dnsmasq.pid
enable-tftp
tftp-root=/tftpboot
dhcp-leasefile=/var/lib/systemimager/dhcp.leases
dhcp-sequential-ip
log-dhcp
dhcp-range=10.0.0.0,static,255.255.254.0,600
dhcp-host=52:54:00:00:00:01,10.0.0.11,www1,600
dhcp-range=10.0.0.12,10.0.0.13,255.255.254.0,600
dhcp-range=10.0.0.15,10.0.0.15,255.255.254.0,600
dhcp-option=option:router,10.0.0.254
dhcp-option=option:dns-server,10.0.0.2,10.0.0.3
domain=example.org
enable-ra
dhcp-range=fd77::,ra-only,64
ra-param=eth0,60,0
dhcp-match=set:arch,option:client-arch
dhcp-match=set:arch0,option:client-arch,0
dhcp-boot=tag:arch0,x.0,,10.0.0.1
dhcp-boot=tag:!arch,x.0,,10.0.0.1
dhcp-match=set:arch7,option:client-arch,7
dhcp-boot=tag:arch7,x.efi,,10.0.0.1
dhcp-option=encap:175,1,1b
dhcp-option=encap:175,176,1b
";
        assert_eq!(output.text, expected);
        assert_eq!(
            output.warnings,
            [
                "lost (52:54:00:00:00:09) has no address; give it one with addclients --ip",
                "1 of the declared machines have addresses outside 10.0.0.0/23 on eth0 (the first is far, 10.9.0.1); they get none from here",
            ]
        );
    }

    #[test]
    fn only_the_declared_are_told_no() {
        let place = place(false);
        let dhcp = DhcpSettings { mode: DhcpMode::Server, ..DhcpSettings::default() };
        let known = client("www1", Some("10.0.0.11"), Some("52:54:00:00:00:01"));
        let open = client("www2", Some("10.0.0.12"), None);
        for (name, clients, expected) in
            [("all by their MACs", vec![known.clone()], true), ("one without", vec![known, open], false)]
        {
            let text = config(&input(&place, &dhcp, &clients, &[])).unwrap().text;
            for line in ["\ndhcp-authoritative\n", "\ndhcp-ignore=tag:!known\n"] {
                assert_eq!(text.contains(line), expected, "{name}: {text}");
            }
        }
    }

    #[test]
    fn beside_a_sites_own_dhcp() {
        let place = place(true);
        let clients =
            [client("www1", Some("10.0.0.11"), Some("52:54:00:00:00:01")), client("far", Some("10.9.0.1"), None)];
        let files =
            [BootFile { client_arch: 0, name: "x.0".into() }, BootFile { client_arch: 7, name: "x.efi".into() }];
        let head = "\
# Made by `systemimager serve` at each start and change; what you change here is lost.
port=0
interface=eth0
bind-interfaces
no-resolv
no-hosts
pid-file=/run/systemimager/dnsmasq.pid
enable-tftp
tftp-root=/tftpboot
";
        let proxy = "\
dhcp-leasefile=/var/lib/systemimager/dhcp.leases
log-dhcp
dhcp-range=10.0.0.0,proxy,255.255.254.0
dhcp-match=set:arch,option:client-arch
dhcp-match=set:arch0,option:client-arch,0
dhcp-boot=tag:arch0,x.0,,10.0.0.1
dhcp-boot=tag:!arch,x.0,,10.0.0.1
dhcp-match=set:arch7,option:client-arch,7
dhcp-boot=tag:arch7,x.efi,,10.0.0.1
dhcp-match=set:ipxe,175
pxe-service=tag:!ipxe,0,SystemImager,x.0,10.0.0.1
pxe-service=tag:!ipxe,7,SystemImager,x.efi,10.0.0.1
";
        let note = "DHCP is the site's: its server has to name 10.0.0.1 as the next server, and the boot file (option 93 \
                    tells the architecture): x.0 for clients of architecture 0, x.efi for clients of architecture 7";
        for (mode, tail, notes) in [(DhcpMode::Proxy, proxy, vec![]), (DhcpMode::Off, "", vec![note])] {
            let dhcp = DhcpSettings { mode, domain: Some("example.org".into()), ..DhcpSettings::default() };
            let output = config(&input(&place, &dhcp, &clients, &files)).unwrap();
            assert_eq!(output.text, format!("{head}{tail}"), "{mode}");
            assert_eq!(output.notes, notes, "{mode}");
            assert_eq!(output.warnings, Vec::<String>::new(), "{mode}: the site gives addresses");
            let dhcp = DhcpSettings { router: Some([10, 0, 0, 254].into()), lease_seconds: Some(1), ..dhcp };
            let output = config(&input(&place, &dhcp, &clients, &files)).unwrap();
            let says = format!("dhcp.router has no effect with mode = \"{mode}\": ");
            assert!(output.warnings.len() == 2 && output.warnings[0].starts_with(&says), "{:?}", output.warnings);
        }
    }

    #[test]
    fn what_it_cannot_hold_is_refused() {
        let place = place(false);
        let dhcp = DhcpSettings::default();
        let odd = DhcpSettings { domain: Some("a\ndhcp-script=/bin/sh".into()), ..dhcp.clone() };
        assert!(
            config(&input(&place, &odd, &[], &[]))
                .unwrap_err()
                .starts_with("dhcp.domain is \"a\\ndhcp-script=/bin/sh\"")
        );
        let files = [BootFile { client_arch: 0, name: "x,y".into() }];
        assert!(config(&input(&place, &dhcp, &[], &files)).unwrap_err().starts_with("the boot file's name is \"x,y\""));
        let mut spaced = input(&place, &dhcp, &[], &[]);
        spaced.tftp_root = "/tftp boot".into();
        assert!(config(&spaced).unwrap_err().starts_with("the TFTP root is \"/tftp boot\""));
        let own = [client("www1", Some("10.0.0.1"), None)];
        assert_eq!(
            config(&input(&place, &dhcp, &own, &[])).unwrap_err(),
            "www1 has the address 10.0.0.1, which is this server's; give it another with addclients"
        );
        let proxy = DhcpSettings { mode: DhcpMode::Proxy, ..dhcp.clone() };
        let files = [BootFile { client_arch: 0, name: "loader".into() }];
        let error = config(&input(&place, &proxy, &[], &files)).unwrap_err();
        assert!(error.starts_with("the boot file loader cannot be named to PXE clients"), "{error}");
        let plain = config(&input(&place, &dhcp, &[], &[])).unwrap().text;
        assert!(plain.contains("\ndhcp-option=option:router\n") && !plain.contains("enable-ra"), "{plain}");
    }
}
