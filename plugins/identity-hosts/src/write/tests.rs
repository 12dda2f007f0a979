//! What is written, tool by tool: golden texts.

use systemimager_core::{
    Action, Contents, ErrorKind, HostName, Identity, ImageFacts, NetworkMode, NetworkSettings, Phase, PluginError, Step,
};

use super::*;
use crate::detect::Found;
use crate::stacked::{Kind, Stacked};

fn identity() -> Identity {
    Identity {
        name: HostName::try_from("www3").unwrap(),
        image: None,
        network: NetworkSettings {
            mac: "52:54:00:AA:00:03".into(),
            interface: "eth0".into(),
            address: Some("10.0.0.13".parse().unwrap()),
            prefix: Some(23),
            router: Some("10.0.1.1".parse().unwrap()),
            name_servers: vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
            domain: Some("example.org".into()),
        },
        found_in: "hosts file".into(),
    }
}

fn request(found: Found, mode: NetworkMode) -> IdentityWrite {
    let image = ImageFacts {
        name: "web".into(),
        identity: [(ID.to_owned(), found.into_facts())].into(),
        ..ImageFacts::default()
    };
    IdentityWrite { identity: identity(), mode, image }
}

fn with(tool: &str) -> Found {
    Found { network: Some(tool.into()), ..Found::default() }
}

/// The steps as text: a line with the action, then what is written.
fn shown(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        assert_eq!(step.phase, Phase::Identity);
        text.push_str(&match &step.action {
            Action::WriteFile { path, contents: Contents::Bytes(bytes), mode } => {
                format!("== {path} {mode:o}\n{}", bytes.text().unwrap())
            }
            Action::MakeDirectory { path, mode } => format!("== {path}/ {mode:o}\n"),
            Action::SetLine { path, prefix, line } => format!("== {path}: {prefix:?}\n{line}\n"),
            Action::SetBlock { path, begin, end, block } => format!("== {path}: block\n{begin}\n{block}{end}\n"),
            Action::Remove { path } => format!("== remove {path}\n"),
            other => format!("{other:?}\n"),
        });
    }
    text
}

const NAMES: &str = "== /etc/hostname 644\nwww3\n== /etc/hosts: block\n# systemimager: this machine\n\
    10.0.0.13\twww3.example.org www3\n# systemimager: this machine, end\n";
const LOCAL_NAMES: &str = "== /etc/hostname 644\nwww3\n== /etc/hosts: block\n# systemimager: this machine\n\
    127.0.1.1\twww3.example.org www3\n# systemimager: this machine, end\n";
const RULE: &str = "== /etc/udev/rules.d/ 755\n== /etc/udev/rules.d/70-systemimager-net.rules 644\n\
    # Written by SystemImager: the name by which this machine's network is configured.\n\
    SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{type}==\"1\", ATTR{address}==\"52:54:00:aa:00:03\", NAME=\"lan0\"\n";
const RESOLV: &str = "== /etc/resolv.conf 644\nsearch example.org\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n";
const INTERFACES: &str = "== /etc/network/interfaces 644\n\
    # Written by SystemImager. lan0 is the interface with the MAC address 52:54:00:aa:00:03, named so by\n\
    # /etc/udev/rules.d/70-systemimager-net.rules.\n";
const LAN0: &str = "\nauto lo\niface lo inet loopback\n\nauto lan0\nallow-hotplug lan0\niface lan0 inet";
const FIXED: &str = " static\n    address 10.0.0.13/23\n    gateway 10.0.1.1\n    dns-nameservers 10.0.0.1 10.0.0.2\n    \
    dns-search example.org\n";
const SOURCE: &str = "source /etc/network/interfaces.d/*\n";

#[test]
fn every_tool_and_mode() {
    use NetworkMode::{Dhcp, Keep, Static};
    let rows: Vec<(&str, Found, NetworkMode, Vec<&str>)> = vec![
        ("keep, with an unknown tool", Found::default(), Keep, vec![LOCAL_NAMES]),
        ("ifupdown", with("ifupdown"), Static, vec![NAMES, RULE, INTERFACES, SOURCE, LAN0, FIXED, RESOLV]),
        ("ifupdown, DHCP", with("ifupdown"), Dhcp, vec![LOCAL_NAMES, RULE, INTERFACES, SOURCE, LAN0, " dhcp\n"]),
        (
            "ifupdown with resolvconf and a file of the master's",
            Found {
                resolver: true,
                interfaces_d: vec!["/etc/network/interfaces.d/50-cloud".into()],
                ..with("ifupdown")
            },
            Static,
            vec![
                NAMES,
                RULE,
                INTERFACES,
                "# Not included, because they are about the master client's interfaces:\n\
                 #   /etc/network/interfaces.d/50-cloud\n",
                LAN0,
                FIXED,
            ],
        ),
        (
            "netplan",
            Found { resolver: true, others: vec!["/etc/netplan/50-cloud-init.yaml".into()], ..with("netplan") },
            Static,
            vec![
                NAMES,
                "== remove /etc/netplan/50-cloud-init.yaml\n",
                "== /etc/netplan/99-systemimager.yaml 600\n# Written by SystemImager.\nnetwork:\n  version: 2\n  \
                 ethernets:\n    systemimager:\n      match:\n        macaddress: \"52:54:00:aa:00:03\"\n",
                "      addresses:\n        - \"10.0.0.13/23\"\n      routes:\n        - to: \"0.0.0.0/0\"\n          \
                 via: \"10.0.1.1\"\n      nameservers:\n        search: [\"example.org\"]\n        \
                 addresses: [\"10.0.0.1\", \"10.0.0.2\"]\n",
            ],
        ),
        (
            "netplan, DHCP",
            with("netplan"),
            Dhcp,
            vec![
                LOCAL_NAMES,
                "== /etc/netplan/99-systemimager.yaml 600\n# Written by SystemImager.\nnetwork:\n  version: 2\n  \
                 ethernets:\n    systemimager:\n      match:\n        macaddress: \"52:54:00:aa:00:03\"\n      \
                 dhcp4: true\n      dhcp-identifier: mac\n",
            ],
        ),
        (
            "networkd without resolved",
            with("systemd-networkd"),
            Static,
            vec![
                NAMES,
                "== /etc/systemd/network/ 755\n== /etc/systemd/network/00-systemimager.network 644\n\
                 # Written by SystemImager.\n[Match]\nMACAddress=52:54:00:aa:00:03\nType=ether\n\n[Network]\n\
                 Address=10.0.0.13/23\nGateway=10.0.1.1\nDNS=10.0.0.1\nDNS=10.0.0.2\nDomains=example.org\n",
                RESOLV,
            ],
        ),
        (
            "networkd, DHCP",
            with("systemd-networkd"),
            Dhcp,
            vec![
                LOCAL_NAMES,
                "== /etc/systemd/network/ 755\n== /etc/systemd/network/00-systemimager.network 644\n\
                 # Written by SystemImager.\n[Match]\nMACAddress=52:54:00:aa:00:03\nType=ether\n\n[Network]\nDHCP=yes\n\n\
                 [DHCPv4]\nClientIdentifier=mac\n",
            ],
        ),
        (
            "NetworkManager",
            Found { resolver: true, ..with("NetworkManager") },
            Static,
            vec![
                NAMES,
                "== /etc/NetworkManager/system-connections/ 700\n\
                 == /etc/NetworkManager/system-connections/systemimager.nmconnection 600\n\
                 # Written by SystemImager.\n[connection]\nid=systemimager\ntype=ethernet\nautoconnect=true\n\
                 autoconnect-priority=100\n\n[ethernet]\nmac-address=52:54:00:aa:00:03\n\n\
                 [ipv4]\nmethod=manual\naddress1=10.0.0.13/23,10.0.1.1\ndns=10.0.0.1;10.0.0.2;\n\
                 dns-search=example.org;\n\n[ipv6]\nmethod=auto\n",
            ],
        ),
        (
            "NetworkManager, DHCP",
            Found { resolver: true, ..with("NetworkManager") },
            Dhcp,
            vec![
                LOCAL_NAMES,
                "== /etc/NetworkManager/system-connections/ 700\n\
                 == /etc/NetworkManager/system-connections/systemimager.nmconnection 600\n\
                 # Written by SystemImager.\n[connection]\nid=systemimager\ntype=ethernet\nautoconnect=true\n\
                 autoconnect-priority=100\n\n[ethernet]\nmac-address=52:54:00:aa:00:03\n\n\
                 [ipv4]\nmethod=auto\ndhcp-client-id=mac\n\n[ipv6]\nmethod=auto\n",
            ],
        ),
        (
            "network scripts",
            Found {
                resolver: true,
                others: vec!["/etc/sysconfig/network-scripts/ifcfg-ens3".into()],
                ..with("network-scripts")
            },
            Static,
            vec![
                NAMES,
                "== remove /etc/sysconfig/network-scripts/ifcfg-ens3\n",
                "== /etc/sysconfig/network-scripts/ifcfg-lan0 644\n# Written by SystemImager.\nDEVICE=lan0\n\
                 HWADDR=52:54:00:AA:00:03\nTYPE=Ethernet\nONBOOT=yes\nBOOTPROTO=none\nIPADDR=10.0.0.13\nPREFIX=23\n\
                 GATEWAY=10.0.1.1\nDNS1=10.0.0.1\nDNS2=10.0.0.2\nDOMAIN=example.org\n",
            ],
        ),
        (
            "wicked",
            Found { resolver: true, ..with("wicked") },
            Static,
            vec![
                NAMES,
                RULE,
                "== /etc/sysconfig/network/ifcfg-lan0 644\n# Written by SystemImager.\nSTARTMODE='auto'\n\
                 BOOTPROTO='static'\nIPADDR='10.0.0.13/23'\n\
                 == /etc/sysconfig/network/ifroute-lan0 644\ndefault 10.0.1.1 - lan0\n\
                 == /etc/sysconfig/network/config: \"NETCONFIG_DNS_STATIC_SERVERS=\"\n\
                 NETCONFIG_DNS_STATIC_SERVERS=\"10.0.0.1 10.0.0.2\"\n\
                 == /etc/sysconfig/network/config: \"NETCONFIG_DNS_STATIC_SEARCHLIST=\"\n\
                 NETCONFIG_DNS_STATIC_SEARCHLIST=\"example.org\"\n",
            ],
        ),
        (
            "wicked, DHCP",
            Found { resolver: true, ..with("wicked") },
            Dhcp,
            vec![
                LOCAL_NAMES,
                RULE,
                "== /etc/sysconfig/network/ifcfg-lan0 644\n# Written by SystemImager.\nSTARTMODE='auto'\n\
                 BOOTPROTO='dhcp'\nDHCLIENT_CLIENT_ID='01:52:54:00:aa:00:03'\n",
            ],
        ),
    ];
    for (name, found, mode, expected) in rows {
        assert_eq!(shown(&plan(&request(found, mode)).unwrap()), expected.concat(), "{name}");
    }
}

#[test]
fn a_bond_may_be_kept() {
    let stacked = Stacked { kind: Kind::Bond, name: "bond0".into(), file: "/x".into(), line: 7 };
    let found = Found { stacked: vec![stacked], ..with("ifupdown") };
    assert_eq!(shown(&plan(&request(found.clone(), NetworkMode::Keep)).unwrap()), LOCAL_NAMES);
    assert!(plan(&request(found, NetworkMode::Dhcp)).is_err());
}

#[test]
fn names() {
    use NetworkMode::{Keep, Static};
    let own = |found: Found| Found { own_line: Some("127.0.1.1\t".into()), ..found };
    let ifupdown = || with("ifupdown");
    let rows: Vec<(&str, Found, NetworkMode, &str)> = vec![
        (
            "no hosts file",
            Found { no_hosts: true, ..ifupdown() },
            Static,
            "== /etc/hostname 644\nwww3\n== /etc/hosts 644\n127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n# systemimager: this machine\n\
             10.0.0.13\twww3.example.org www3\n# systemimager: this machine, end\n",
        ),
        (
            "a line for 127.0.1.1",
            own(ifupdown()),
            Static,
            "== /etc/hostname 644\nwww3\n== /etc/hosts: \"127.0.1.1\\t\"\n127.0.1.1\tlocalhost\n\
             == /etc/hosts: block\n# systemimager: this machine\n10.0.0.13\twww3.example.org www3\n\
             # systemimager: this machine, end\n",
        ),
        (
            "a line for 127.0.1.1, network kept",
            own(ifupdown()),
            Keep,
            "== /etc/hostname 644\nwww3\n== /etc/hosts: \"127.0.1.1\\t\"\n127.0.1.1\twww3.example.org www3\n",
        ),
        (
            "the same, captured from an installed machine",
            Found { own_block: true, ..own(ifupdown()) },
            Keep,
            "== /etc/hostname 644\nwww3\n== /etc/hosts: \"127.0.1.1\\t\"\n127.0.1.1\twww3.example.org www3\n\
             == /etc/hosts: block\n# systemimager: this machine\n# systemimager: this machine, end\n",
        ),
        (
            "an old SUSE",
            Found { capital_hostname: true, ..with("wicked") },
            Keep,
            "== /etc/HOSTNAME 644\nwww3.example.org\n== /etc/hosts: block\n# systemimager: this machine\n\
             127.0.1.1\twww3.example.org www3\n# systemimager: this machine, end\n",
        ),
    ];
    for (name, found, mode, expected) in rows {
        let text = shown(&plan(&request(found, mode)).unwrap());
        assert!(text.starts_with(expected), "{name}: {text}");
        assert!(mode == Static || text == expected, "{name}: {text}");
    }

    let mut red_hat = request(with("NetworkManager"), Keep);
    red_hat.image.os =
        [("ID".to_owned(), "rocky".to_owned()), ("ID_LIKE".to_owned(), "rhel centos fedora".to_owned())].into();
    let text = shown(&plan(&red_hat).unwrap());
    assert!(text.starts_with("== /etc/hostname 644\nwww3.example.org\n"), "{text}");

    let mut full = request(with("ifupdown"), Keep);
    full.identity.name = HostName::try_from("db.other.org").unwrap();
    let text = shown(&plan(&full).unwrap());
    assert!(text.contains("127.0.1.1\tdb.other.org db\n") && text.contains("/etc/hostname 644\ndb\n"), "{text}");

    let mut alone = request(with("ifupdown"), Keep);
    alone.identity.network.domain = None;
    let text = shown(&plan(&alone).unwrap());
    assert!(text.contains("127.0.1.1\twww3\n"), "{text}");
}

#[test]
fn addresses_of_the_other_family() {
    let rows: [(&str, &str); 4] = [
        (
            "ifupdown",
            "iface lan0 inet6 static\n    address fd77::13/64\n    gateway fd77::1\n    dns-nameservers fd77::1\n",
        ),
        ("netplan", "        - to: \"::/0\"\n          via: \"fd77::1\"\n"),
        (
            "NetworkManager",
            "[ipv4]\nmethod=disabled\n\n[ipv6]\nmethod=manual\naddress1=fd77::13/64,fd77::1\ndns=fd77::1;\n",
        ),
        ("network-scripts", "IPV6ADDR=fd77::13/64\nIPV6_DEFAULTGW=fd77::1\n"),
    ];
    for (tool, expected) in rows {
        let mut request = request(with(tool), NetworkMode::Static);
        let network = &mut request.identity.network;
        network.address = Some("fd77::13".parse().unwrap());
        network.prefix = Some(64);
        network.router = Some("fd77::1".parse().unwrap());
        network.name_servers = vec!["fd77::1".parse().unwrap()];
        let text = shown(&plan(&request).unwrap());
        assert!(text.contains(expected), "{tool}: {text}");
    }
}

type Spoil = fn(&mut IdentityWrite);

#[test]
fn refusals() {
    let rows: &[(&str, Spoil, ErrorKind, &str)] = &[
        (
            "no tool",
            |r| r.image.identity = [(ID.to_owned(), Found::default().into_facts())].into(),
            ErrorKind::Unsupported,
            "the image web configures its network with no tool that the identity plugin hosts knows (ifupdown, netplan, \
             NetworkManager, systemd-networkd, wicked, network-scripts); enable one of them in the image, or leave it \
             as it was captured: [network] mode = \"keep\" in its master file",
        ),
        (
            "unknown tool",
            |r| r.image.identity = [(ID.to_owned(), with("connman").into_facts())].into(),
            ErrorKind::Unsupported,
            "with connman, which is not one that",
        ),
        (
            "a bond",
            |r| {
                let stacked =
                    Stacked { kind: Kind::Bond, name: "bond0".into(), file: "/etc/network/interfaces".into(), line: 7 };
                let found = Found { stacked: vec![stacked], ..with("ifupdown") };
                r.image.identity = [(ID.to_owned(), found.into_facts())].into();
            },
            ErrorKind::Unsupported,
            "the network of the image web has the bond bond0 (/etc/network/interfaces line 7); bonds, teams, VLANs and \
             bridges are not set up yet: leave the network as it was captured, with [network] mode = \"keep\"",
        ),
        ("not looked at", |r| r.image.identity.clear(), ErrorKind::Invalid, "was not looked at"),
        (
            "no address",
            |r| r.identity.network.address = None,
            ErrorKind::Invalid,
            "no address with a prefix length is known for www3",
        ),
        (
            "no prefix",
            |r| r.identity.network.prefix = None,
            ErrorKind::Invalid,
            "no address with a prefix length is known",
        ),
        ("prefix", |r| r.identity.network.prefix = Some(33), ErrorKind::Invalid, "a prefix length is at most 32"),
        (
            "router",
            |r| r.identity.network.prefix = Some(24),
            ErrorKind::Invalid,
            "the router 10.0.1.1 of www3 is not in the subnet of 10.0.0.13/24",
        ),
        ("mac", |r| r.identity.network.mac = "52:54\n".into(), ErrorKind::Invalid, "has the MAC address \"52:54\\n\""),
        (
            "mac letters",
            |r| r.identity.network.mac = "52:54:00:aa:00:0x".into(),
            ErrorKind::Invalid,
            "has the MAC address",
        ),
        (
            "domain",
            |r| r.identity.network.domain = Some("a b".into()),
            ErrorKind::Invalid,
            "the domain of www3: \"a b\" is not",
        ),
    ];
    for (name, spoil, kind, says) in rows {
        let mut request = request(with("ifupdown"), NetworkMode::Static);
        spoil(&mut request);
        let error: PluginError = plan(&request).unwrap_err();
        assert_eq!(error.kind, *kind, "{name}: {error}");
        assert!(error.message.contains(says), "{name}: {error}");
    }
}
