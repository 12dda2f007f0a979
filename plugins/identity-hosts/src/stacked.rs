//! Interfaces that stand on others in an image's network configuration: bonds, teams, VLANs, bridges. They are not set
//! up yet, and a configuration for one plain interface in their place would cut a machine off: so they are found, to
//! be refused by name.
//!
//! Only the tool that configures the network is looked at. Each parser is pure.

use std::fmt;

use systemimager_core::Result;

use crate::tree::Tree;

/// What an interface is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Several interfaces as one.
    Bond,
    /// The same by teamd.
    Team,
    /// A tagged network.
    Vlan,
    /// A switch in software.
    Bridge,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Bond, Kind::Team, Kind::Vlan, Kind::Bridge];

    fn name(self) -> &'static str {
        match self {
            Kind::Bond => "bond",
            Kind::Team => "team",
            Kind::Vlan => "VLAN",
            Kind::Bridge => "bridge",
        }
    }

    fn by_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        // Open vSwitch and the wireless kinds have names of their own: `ovs-bridge`, `OVSBridge`.
        let name = name.trim_start_matches("ovs").trim_start_matches('-');
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// Such an interface, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stacked {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The file.
    pub file: String,
    /// The line in it, from 1.
    pub line: usize,
}

impl fmt::Display for Stacked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the {} {} ({} line {})", self.kind.name(), self.name, self.file, self.line)
    }
}

impl Stacked {
    /// As a line of a fact.
    pub fn to_line(&self) -> String {
        format!("{}\t{}\t{}\t{}", self.kind.name(), self.name, self.line, self.file)
    }

    /// Back from a line.
    pub fn from_line(line: &str) -> Option<Self> {
        if line.chars().any(|letter| letter.is_control() && letter != '\t') {
            return None;
        }
        let mut fields = line.splitn(4, '\t');
        let (kind, name) = (Kind::by_name(fields.next()?)?, fields.next()?.to_owned());
        let line = fields.next()?.parse().ok()?;
        let file = fields.next().filter(|file| !file.contains('\t'))?.to_owned();
        Some(Self { kind, name, line, file })
    }
}

/// Something found in a text: kind, name, line.
type Hit = (Kind, String, usize);

/// All in a tree whose network is configured by this tool, each once.
///
/// # Errors
/// A file or directory that is there cannot be read.
pub fn find(tree: &Tree<'_>, tool: Option<&str>) -> Result<Vec<Stacked>> {
    let any = |name: &str| !name.ends_with('~') && !name.starts_with('.');
    let ifcfg_names = |name: &str| name.starts_with("ifcfg-") && !name.ends_with(".template") && any(name);
    type Parser = fn(&str, &str) -> Vec<Hit>;
    let netdevs = tree.paths("/etc/systemd/network", |name| name.ends_with(".netdev"))?;
    let scripts = tree.paths("/etc/sysconfig/network-scripts", ifcfg_names)?;
    let files: Vec<(Vec<String>, Parser)> = match tool {
        Some("ifupdown") => {
            let mut files = vec!["/etc/network/interfaces".to_owned()];
            files.extend(tree.paths("/etc/network/interfaces.d", any)?);
            vec![(files, interfaces)]
        }
        Some("netplan") => {
            vec![(tree.paths("/etc/netplan", |name| name.ends_with(".yaml"))?, netplan), (netdevs, netdev)]
        }
        Some("NetworkManager") => {
            vec![(tree.paths("/etc/NetworkManager/system-connections", any)?, keyfile), (scripts, ifcfg)]
        }
        Some("systemd-networkd") => vec![(netdevs, netdev)],
        Some("wicked") => vec![(tree.paths("/etc/sysconfig/network", ifcfg_names)?, ifcfg)],
        Some("network-scripts") => vec![(scripts, ifcfg)],
        _ => Vec::new(),
    };
    let mut found: Vec<Stacked> = Vec::new();
    for (files, parse) in files {
        for file in files {
            let Some(text) = tree.text(&file)? else { continue };
            for (kind, name, line) in parse(&file, &text) {
                let name: String = name.chars().filter(|letter| !letter.is_control()).collect();
                if !found.iter().any(|known| known.kind == kind && known.name == name) {
                    found.push(Stacked { kind, name, file: file.clone(), line });
                }
            }
        }
    }
    Ok(found)
}

/// interfaces(5), with the options of ifenslave, vlan and bridge-utils.
fn interfaces(_: &str, text: &str) -> Vec<Hit> {
    let mut hits = Vec::new();
    let mut current = String::new();
    for (number, line) in numbered(text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((first, rest)) = words.split_first() else { continue };
        let value = rest.first().copied().unwrap_or_default();
        match *first {
            "iface" => {
                value.clone_into(&mut current);
                // eth0.10, with an alias eth0.10:1.
                let plain = value.split(':').next().unwrap_or_default();
                if plain.rsplit_once('.').is_some_and(|(_, tag)| is_number(tag)) {
                    hits.push((Kind::Vlan, plain.to_owned(), number));
                }
            }
            "up" | "pre-up" | "post-up" => hits.extend(command(rest).map(|(kind, name)| (kind, name, number))),
            option => {
                let option = option.replace('_', "-");
                let hit = match option.as_str() {
                    // In the stanza of a member.
                    "bond-master" => Some((Kind::Bond, value)),
                    "slaves" => Some((Kind::Bond, current.as_str())),
                    "vlan-raw-device" | "vlan-id" => Some((Kind::Vlan, current.as_str())),
                    _ if option.starts_with("bond-") => Some((Kind::Bond, current.as_str())),
                    _ if option.starts_with("bridge-") => Some((Kind::Bridge, current.as_str())),
                    _ => None,
                };
                hits.extend(hit.map(|(kind, name)| (kind, name.to_owned(), number)));
            }
        }
    }
    hits
}

/// `ip link add link eth0 name eth0.10 type vlan id 10`, `vconfig add eth0 10`, `brctl addbr br0`.
fn command(words: &[&str]) -> Option<(Kind, String)> {
    let after = |word: &str| words.iter().position(|it| *it == word).and_then(|at| words.get(at + 1)).copied();
    let program = words.first()?.rsplit('/').next().unwrap_or_default();
    match program {
        "ip" if words.contains(&"add") => {
            let kind = after("type").and_then(Kind::by_name)?;
            let name = after("name").or_else(|| after("dev")).or_else(|| after("add"))?;
            Some((kind, name.to_owned()))
        }
        "vconfig" => Some((Kind::Vlan, format!("{}.{}", words.get(2)?, words.get(3)?))),
        "brctl" => Some((Kind::Bridge, after("addbr")?.to_owned())),
        "ifenslave" => Some((Kind::Bond, words.iter().skip(1).find(|word| !word.starts_with('-'))?.to_string())),
        _ => None,
    }
}

/// Lines with their numbers from 1, without comments; those that end in a backslash go on.
fn numbered(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, whole)) => whole.push_str(part),
            None => lines.push((index + 1, part.to_owned())),
        }
        goes_on = more;
    }
    lines.retain(|(_, line)| !line.trim_start().starts_with('#'));
    lines
}

/// netplan(5): `bonds:`, `vlans:`, `bridges:` with their interfaces as keys, in blocks or in braces.
fn netplan(_: &str, text: &str) -> Vec<Hit> {
    const KEYS: [(&str, Kind); 3] = [("bonds", Kind::Bond), ("vlans", Kind::Vlan), ("bridges", Kind::Bridge)];
    let mut hits = Vec::new();
    // The key under which we are: its kind, its indentation, that of its first interface.
    let mut within: Option<(Kind, usize, Option<usize>)> = None;
    for (index, line) in text.lines().enumerate() {
        let line = without_comment(line);
        if line.trim().is_empty() {
            continue;
        }
        let indentation = line.len() - line.trim_start().len();
        if let Some((kind, outer, inner)) = &mut within {
            if indentation > *outer {
                if *inner.get_or_insert(indentation) == indentation {
                    hits.extend(key(line).map(|(name, _)| (*kind, name.to_owned(), index + 1)));
                }
                continue;
            }
            within = None;
        }
        for (word, kind) in KEYS {
            if let Some((name, rest)) = key(line)
                && name == word
                && !rest.starts_with('{')
            {
                within = Some((kind, indentation, None));
            } else if let Some(inside) = braces(line, word) {
                let name = inside.split([':', '}']).next().unwrap_or_default();
                let name = name.trim().trim_matches(['"', '\'']);
                if !name.is_empty() {
                    hits.push((kind, name.to_owned(), index + 1));
                }
            }
        }
    }
    hits
}

/// `name: rest`, quoted or not.
fn key(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.trim().split_once(':')?;
    Some((name.trim().trim_matches(['"', '\'']), rest.trim()))
}

/// What follows `word: {` in a line.
fn braces<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let at = line.find(word)?;
    let before = line.get(..at)?.chars().next_back();
    if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '-' || letter == '_') {
        return None;
    }
    let rest = line.get(at + word.len()..)?.trim_start_matches(['"', '\'']).trim_start().strip_prefix(':')?;
    rest.trim_start().strip_prefix('{')
}

fn without_comment(line: &str) -> &str {
    // A `#` begins a comment only after a blank.
    let at = line.char_indices().find(|(at, letter)| {
        *letter == '#' && (*at == 0 || line.get(..*at).is_some_and(|before| before.ends_with([' ', '\t'])))
    });
    at.and_then(|(at, _)| line.get(..at)).unwrap_or(line)
}

/// nm-settings-keyfile(5).
fn keyfile(file: &str, text: &str) -> Vec<Hit> {
    let values = sections(text);
    let value = |key: &str| values.iter().find(|it| it.section == "connection" && it.key == key);
    let own = file_name(file).trim_end_matches(".nmconnection");
    let name = value("interface-name").or_else(|| value("id")).map_or(own, |it| it.value);
    let own = value("type").and_then(|it| Some((Kind::by_name(it.value)?, name.to_owned(), it.line)));
    // A member of one that may be described nowhere else.
    let member = ["slave-type", "port-type"].iter().find_map(|key| value(key)).and_then(|it| {
        let of = value("master").or_else(|| value("controller")).map_or(name, |of| of.value);
        Some((Kind::by_name(it.value)?, of.to_owned(), it.line))
    });
    own.into_iter().chain(member).collect()
}

/// systemd.netdev(5).
fn netdev(file: &str, text: &str) -> Vec<Hit> {
    let values = sections(text);
    let value = |key: &str| values.iter().find(|it| it.section == "NetDev" && it.key == key);
    let name = value("Name").map_or_else(|| file_name(file).trim_end_matches(".netdev"), |it| it.value);
    value("Kind").and_then(|it| Some((Kind::by_name(it.value)?, name.to_owned(), it.line))).into_iter().collect()
}

/// A value of a file in sections.
struct Value<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a str,
    line: usize,
}

fn sections(text: &str) -> Vec<Value<'_>> {
    let mut section = "";
    let mut values = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            values.push(Value { section, key: key.trim(), value: value.trim(), line: index + 1 });
        }
    }
    values
}

/// ifcfg files of the Red Hat family (sysconfig.txt of initscripts) and of wicked (ifcfg(5)).
fn ifcfg(file: &str, text: &str) -> Vec<Hit> {
    let own = file_name(file).trim_start_matches("ifcfg-");
    let values: Vec<(&str, &str, usize)> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with('#'))
        .filter_map(|(index, line)| {
            let (key, value) = line.split_once('=')?;
            Some((key.trim().trim_start_matches("export "), value.trim().trim_matches(['"', '\'']), index + 1))
        })
        .filter(|(_, value, _)| !value.is_empty())
        .collect();
    let device = values.iter().find(|(key, ..)| *key == "DEVICE").map_or(own, |(_, value, _)| *value);
    let mut hits = Vec::new();
    for (key, value, line) in &values {
        let yes = matches!(value.to_ascii_lowercase().as_str(), "yes" | "true" | "1" | "on");
        let hit = match *key {
            "TYPE" | "DEVICETYPE" => Kind::by_name(value).map(|kind| (kind, device)),
            "VLAN" if yes => Some((Kind::Vlan, device)),
            "ETHERDEVICE" | "VLAN_ID" | "PHYSDEV" => Some((Kind::Vlan, device)),
            "BONDING_MASTER" if yes => Some((Kind::Bond, device)),
            "BONDING_OPTS" | "BONDING_MODULE_OPTS" => Some((Kind::Bond, device)),
            // Of members: what they belong to.
            "MASTER" | "MASTER_UUID" => Some((Kind::Bond, *value)),
            "BRIDGE" if yes => Some((Kind::Bridge, device)),
            "BRIDGE" if !matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0" | "off") => {
                Some((Kind::Bridge, *value))
            }
            "TEAM_MASTER" => Some((Kind::Team, *value)),
            "TEAM_RUNNER" | "TEAM_CONFIG" => Some((Kind::Team, device)),
            _ => None,
        };
        hits.extend(hit.map(|(kind, name)| (kind, name.to_owned(), *line)));
    }
    hits
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|letter| letter.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::Place;
    use systemimager_core::testing::RecordedHost;

    #[test]
    fn each_tool_s_way() {
        const INTERFACES: &str = "/etc/network/interfaces";
        const NETPLAN: &str = "/etc/netplan/50-x.yaml";
        const NM: &str = "/etc/NetworkManager/system-connections/x.nmconnection";
        const NETDEV: &str = "/etc/systemd/network/10-x.netdev";
        const RED_HAT: &str = "/etc/sysconfig/network-scripts/ifcfg-x";
        const WICKED: &str = "/etc/sysconfig/network/ifcfg-x";
        type Row<'a> = (&'a str, &'a str, &'a str, &'a str, &'a [&'a str]);
        let rows: &[Row<'_>] = &[
            (
                "plain ifupdown",
                "ifupdown",
                INTERFACES,
                "auto eth0\niface eth0 inet static\n  address 10.0.0.1/24\n  gateway 10.0.0.2\n  up ip link set eth0 up\n",
                &[],
            ),
            (
                "a bond of ifupdown",
                "ifupdown",
                INTERFACES,
                "auto lo\niface lo inet loopback\n\n# bond-mode 0\nauto bond0\niface bond0 inet dhcp\n  bond-slaves eth0 \\\n   \
                 eth1\n  bond-mode 1\n",
                &["the bond bond0 (/etc/network/interfaces line 7)"],
            ),
            ("an old one", "ifupdown", INTERFACES, "iface bond0 inet dhcp\nslaves eth0 eth1\n", &["the bond bond0 ("]),
            (
                "a member of one",
                "ifupdown",
                "/etc/network/interfaces.d/eth0",
                "iface eth0 inet manual\n  bond_master bond1\n",
                &["the bond bond1 (/etc/network/interfaces.d/eth0 line 2)"],
            ),
            (
                "VLANs of ifupdown",
                "ifupdown",
                INTERFACES,
                "iface eth0.10 inet dhcp\niface eth0.10:1 inet static\niface vlan20 inet dhcp\nvlan-raw-device eth0\n",
                &[
                    "the VLAN eth0.10 (/etc/network/interfaces line 1)",
                    "the VLAN vlan20 (/etc/network/interfaces line 4)",
                ],
            ),
            (
                "bridge of ifupdown",
                "ifupdown",
                INTERFACES,
                "iface br0 inet dhcp\n bridge_ports eth0\n",
                &["the bridge br0 ("],
            ),
            (
                "by commands",
                "ifupdown",
                INTERFACES,
                "iface eth0 inet dhcp\n up /sbin/ip link add link eth0 name v5 type vlan id 5\n post-up vconfig add eth0 6\n \
                 pre-up brctl addbr br1\n pre-up ip link add bond3 type bond\n up ip route add default via 10.0.0.1\n",
                &[
                    "the VLAN v5 (/etc/network/interfaces line 2)",
                    "the VLAN eth0.6 (",
                    "the bridge br1 (",
                    "the bond bond3 (",
                ],
            ),
            (
                "plain netplan",
                "netplan",
                NETPLAN,
                "network:\n  ethernets:\n    bonds0: {dhcp4: true}\n  # bonds:\n  bridges: {}\n",
                &[],
            ),
            (
                "netplan",
                "netplan",
                NETPLAN,
                "network:\n  version: 2\n  bonds:\n    # two\n    bond0:\n      interfaces: [a, b]\n      parameters:\n        \
                 mode: x\n    \"bond1\":\n      dhcp4: true\n  vlans:\n    v10:\n      id: 10\n  bridges:\n    br0: {}\n",
                &[
                    "the bond bond0 (/etc/netplan/50-x.yaml line 5)",
                    "the bond bond1 (/etc/netplan/50-x.yaml line 9)",
                    "the VLAN v10 (/etc/netplan/50-x.yaml line 12)",
                    "the bridge br0 (/etc/netplan/50-x.yaml line 15)",
                ],
            ),
            (
                "netplan in braces",
                "netplan",
                NETPLAN,
                "network: {version: 2, \"bonds\": {bond0: {interfaces: [a]}}, vlans: {}}\n",
                &["the bond bond0 (/etc/netplan/50-x.yaml line 1)"],
            ),
            (
                "networkd below netplan",
                "netplan",
                NETDEV,
                "[NetDev]\nName=br9\nKind=bridge\n",
                &["the bridge br9 (/etc/systemd/network/10-x.netdev line 3)"],
            ),
            ("plain NetworkManager", "NetworkManager", NM, "[connection]\nid=x\ntype=ethernet\n[bond]\ntype=x\n", &[]),
            (
                "NetworkManager",
                "NetworkManager",
                NM,
                "[connection]\nid=my bond\ntype=bond\ninterface-name=bond0\n",
                &["the bond bond0 (/etc/NetworkManager/system-connections/x.nmconnection line 3)"],
            ),
            ("its VLAN", "NetworkManager", NM, "[connection]\nid=office\ntype=vlan\n", &["the VLAN office ("]),
            (
                "its member",
                "NetworkManager",
                NM,
                "[connection]\ntype=ethernet\nslave-type=bridge\nmaster=br0\n",
                &["the bridge br0 ("],
            ),
            ("its ifcfg", "NetworkManager", RED_HAT, "DEVICE=team0\nDEVICETYPE=Team\n", &["the team team0 ("]),
            (
                "networkd's VLAN",
                "systemd-networkd",
                NETDEV,
                "[NetDev]\nKind=vlan\nName=v1\n[VLAN]\nId=1\n",
                &["the VLAN v1 ("],
            ),
            ("networkd's tunnel", "systemd-networkd", NETDEV, "[NetDev]\nKind=wireguard\nName=wg0\n", &[]),
            ("plain ifcfg", "network-scripts", RED_HAT, "DEVICE=eth0\nTYPE=Ethernet\nVLAN=no\nBRIDGE=no\n", &[]),
            (
                "Red Hat's bond",
                "network-scripts",
                RED_HAT,
                "DEVICE=\"bond0\"\nTYPE=Bond\nBONDING_MASTER=yes\nBONDING_OPTS=\"mode=1\"\n",
                &["the bond bond0 (/etc/sysconfig/network-scripts/ifcfg-x line 2)"],
            ),
            ("its member", "network-scripts", RED_HAT, "DEVICE=eth0\nMASTER=bond2\nSLAVE=yes\n", &["the bond bond2 ("]),
            ("Red Hat's VLAN", "network-scripts", RED_HAT, "DEVICE=eth0.5\nVLAN=yes\n", &["the VLAN eth0.5 ("]),
            ("in a bridge", "network-scripts", RED_HAT, "DEVICE=eth0\nBRIDGE=br3\n", &["the bridge br3 ("]),
            ("wicked's bond", "wicked", WICKED, "BONDING_MASTER='yes'\nBONDING_SLAVE0='eth0'\n", &["the bond x ("]),
            ("wicked's VLAN", "wicked", WICKED, "# ETHERDEVICE=a\nETHERDEVICE='eth0'\n", &["the VLAN x ("]),
            ("wicked's bridge", "wicked", WICKED, "BRIDGE='yes'\nBRIDGE_PORTS='eth0'\n", &["the bridge x ("]),
            ("not the tool in use", "ifupdown", NETDEV, "[NetDev]\nKind=bond\nName=bond0\n", &[]),
        ];
        for (name, tool, file, text, expected) in rows {
            let host = RecordedHost::new().file(file, *text);
            let place = Place::Tree { root: "/i".into() };
            let found = find(&Tree { host: &host, place: &place }, Some(tool)).unwrap();
            let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(shown.len(), expected.len(), "{name}: {shown:?}");
            for (shown, expected) in shown.iter().zip(*expected) {
                assert!(shown.starts_with(expected), "{name}: {shown:?}, expected {expected:?}");
            }
            for one in &found {
                assert_eq!(Stacked::from_line(&one.to_line()).as_ref(), Some(one), "{name}: there and back");
            }
        }
    }
}
