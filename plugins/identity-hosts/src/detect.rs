//! Which tool configures the network in a tree, and what else has to be known before its files are
//! written. It reads; nothing of the image is run. The answer crosses the boundary as pairs of strings.
//!
//! A tree often holds several tools. The one counts that would act: a front end over its back ends, and
//! among the others the one that is enabled and has something to do.

use std::collections::BTreeMap;

use systemimager_core::host::read_if_there;
use systemimager_core::{BytePath, Host, Place, Result};

use crate::stacked::{self, Stacked};
use crate::tree::{Tree, is_path};

/// Tools that are known, as they stand in the facts.
pub const TOOLS: [&str; 6] = ["ifupdown", "netplan", "NetworkManager", "systemd-networkd", "wicked", "network-scripts"];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// One of [`TOOLS`]; `None`: none of them.
    pub network: Option<String>,
    /// Something in the image takes name servers from the network tool and writes resolv.conf itself.
    pub resolver: bool,
    /// The image has no /etc/hosts.
    pub no_hosts: bool,
    /// Its /etc/hosts has a line for 127.0.1.1 (Debian's own way to name a machine): that line's beginning.
    pub own_line: Option<String>,
    /// Its /etc/hosts has a block of ours: it was captured from an installed machine.
    pub own_block: bool,
    /// The host name stands in /etc/HOSTNAME (old SUSE) and not in /etc/hostname.
    pub capital_hostname: bool,
    /// Files that give interfaces their addresses and would stand in the way: removed when ours are written.
    pub others: Vec<String>,
    /// Files in interfaces.d that are about interfaces: our file does not include them.
    pub interfaces_d: Vec<String>,
    /// Bonds, VLANs and the like, which are not set up yet.
    pub stacked: Vec<Stacked>,
}

/// The line before what is written into /etc/hosts.
pub const BLOCK_BEGIN: &str = "# systemimager: this machine";

impl Found {
    /// As pairs; what is absent has none.
    pub fn into_facts(self) -> BTreeMap<String, String> {
        let yes = |is: bool| is.then(|| "yes".to_owned());
        let lines = |lines: Vec<String>| (!lines.is_empty()).then(|| lines.join("\n"));
        [
            ("network", self.network),
            ("resolver", yes(self.resolver)),
            ("no-hosts", yes(self.no_hosts)),
            ("own-line", self.own_line),
            ("own-block", yes(self.own_block)),
            ("capital-hostname", yes(self.capital_hostname)),
            ("others", lines(self.others)),
            ("interfaces-d", lines(self.interfaces_d)),
            ("stacked", lines(self.stacked.iter().map(Stacked::to_line).collect())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }

    /// Back from pairs.
    pub fn from_facts(facts: &BTreeMap<String, String>) -> Self {
        let yes = |key: &str| facts.contains_key(key);
        let lines = |key: &str| -> Vec<String> {
            facts.get(key).map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
        };
        let paths = |key: &str| -> Vec<String> { lines(key).into_iter().filter(|path| is_path(path)).collect() };
        let of_a_line = |text: &&String| text.chars().all(|letter| letter == '\t' || !letter.is_control());
        Self {
            network: facts.get("network").filter(of_a_line).cloned(),
            resolver: yes("resolver"),
            no_hosts: yes("no-hosts"),
            own_line: facts.get("own-line").filter(of_a_line).cloned(),
            own_block: yes("own-block"),
            capital_hostname: yes("capital-hostname"),
            others: paths("others"),
            interfaces_d: paths("interfaces-d"),
            stacked: lines("stacked").iter().filter_map(|line| Stacked::from_line(line)).collect(),
        }
    }
}

/// Looks at a tree.
///
/// # Errors
/// A file or directory that is there cannot be read.
pub fn detect(host: &dyn Host, place: &Place) -> Result<Found> {
    let tree = Tree { host, place };
    let network = tree.network()?;
    let mut found = Found { resolver: tree.resolver(network)?, ..Found::default() };
    match network {
        Some("ifupdown") => found.interfaces_d = tree.interfaces_d()?,
        Some("netplan") => found.others = tree.netplan_with_interfaces()?,
        Some("wicked") => found.others = tree.ifcfg("/etc/sysconfig/network")?,
        Some("network-scripts") => found.others = tree.ifcfg("/etc/sysconfig/network-scripts")?,
        _ => {}
    }
    found.stacked = stacked::find(&tree, network)?;
    found.network = network.map(str::to_owned);
    match read_if_there(host, place, "/etc/hosts")? {
        None => found.no_hosts = true,
        Some(text) => {
            let text = text.lossy();
            found.own_line = text.lines().find_map(own_line).map(str::to_owned);
            found.own_block = text.lines().any(|line| line == BLOCK_BEGIN);
        }
    }
    let etc = tree.names("/etc")?;
    let has = |name: &str| etc.contains(&BytePath::from(name));
    found.capital_hostname = has("HOSTNAME") && !has("hostname");
    Ok(found)
}

/// `127.0.1.1` with the one blank after it, so that 127.0.1.10 is not meant.
fn own_line(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("127.0.1.1")?;
    let blank = rest.chars().next().filter(|letter| matches!(letter, ' ' | '\t'))?;
    line.get(.."127.0.1.1".len() + blank.len_utf8())
}

impl Tree<'_> {
    fn network(&self) -> Result<Option<&'static str>> {
        let program = |name: &str| self.program(name);
        if program("netplan")? && self.names("/etc/netplan")?.iter().any(|name| name.as_bytes().ends_with(b".yaml")) {
            return Ok(Some("netplan"));
        }
        let ifupdown = program("ifup")? && self.there("/etc/network/interfaces")?;
        if ifupdown && self.interfaces_has_work()? {
            return Ok(Some("ifupdown"));
        }
        for (unit, tool) in [
            ("NetworkManager.service", "NetworkManager"),
            ("wicked.service", "wicked"),
            ("systemd-networkd.service", "systemd-networkd"),
        ] {
            if self.enabled(unit)? {
                return Ok(Some(tool));
            }
        }
        if ifupdown {
            return Ok(Some("ifupdown"));
        }
        let scripts = self.names("/etc/sysconfig/network-scripts")?;
        Ok(scripts.contains(&"ifup-eth".into()).then_some("network-scripts"))
    }

    /// Who writes resolv.conf: a resolver service, or the network tool itself.
    fn resolver(&self, network: Option<&str>) -> Result<bool> {
        let writes_itself = matches!(network, Some("NetworkManager" | "wicked" | "network-scripts"));
        Ok(writes_itself || self.enabled("systemd-resolved.service")? || self.program("resolvconf")?)
    }

    /// interfaces(5) describes more than the loopback.
    fn interfaces_has_work(&self) -> Result<bool> {
        let main = read_if_there(self.host, self.place, "/etc/network/interfaces")?;
        Ok(main.is_some_and(|text| has_interface(&text.lossy())) || !self.interfaces_d()?.is_empty())
    }

    fn interfaces_d(&self) -> Result<Vec<String>> {
        self.files_with("/etc/network/interfaces.d", |_| true, has_interface)
    }

    fn netplan_with_interfaces(&self) -> Result<Vec<String>> {
        let has_ethernets = |text: &str| {
            // Inline or in a block: `ethernets:` is a key of netplan's only.
            text.lines().any(|line| line.split('#').next().unwrap_or_default().contains("ethernets"))
        };
        self.files_with("/etc/netplan", |name| name.ends_with(".yaml"), has_ethernets)
    }

    fn ifcfg(&self, directory: &str) -> Result<Vec<String>> {
        let wanted = |name: &str| {
            name.starts_with("ifcfg-") && name != "ifcfg-lo" && name != "ifcfg-lan0" && !name.ends_with(".template")
        };
        self.files_with(directory, wanted, |_| true)
    }
}

/// A stanza for an interface other than the loopback.
fn has_interface(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        let stanza = words.next().unwrap_or_default();
        (stanza == "iface" || stanza == "auto" || stanza.starts_with("allow-"))
            && words.next().is_some_and(|name| name != "lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::RecordedHost;

    /// Name, files with contents, what is found.
    type Row<'a> = (&'a str, Vec<(&'a str, &'a str)>, Found);

    #[test]
    fn trees() {
        const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
        let tool = |name: &str| Some(name.to_owned());
        let nm = format!("{WANTS}/NetworkManager.service");
        let networkd = format!("{WANTS}/systemd-networkd.service");
        let resolved = "/etc/systemd/system/sysinit.target.wants/systemd-resolved.service";
        let wicked = "/etc/systemd/system/multi-user.target.wants/wicked.service";
        let hosts = ("/etc/hosts", "127.0.0.1 localhost\n");
        let rows: Vec<Row<'_>> = vec![
            ("nothing", vec![hosts], Found::default()),
            ("no hosts", vec![], Found { no_hosts: true, ..Found::default() }),
            (
                "ifupdown, fresh",
                vec![
                    ("/usr/sbin/ifup", ""),
                    ("/etc/network/interfaces", "source /etc/network/interfaces.d/*\n"),
                    hosts,
                ],
                Found { network: tool("ifupdown"), ..Found::default() },
            ),
            (
                "ifupdown with a file of cloud-init, a name at 127.0.1.1",
                vec![
                    ("/sbin/ifup", ""),
                    ("/etc/network/interfaces", "auto lo\niface lo inet loopback\n"),
                    ("/etc/network/interfaces.d/50-cloud", "auto ens3\niface ens3 inet dhcp\n"),
                    ("/etc/network/interfaces.d/lo", "auto lo\n"),
                    ("/etc/hosts", "127.0.1.10 x\n127.0.1.1\tmaster\n# systemimager: this machine\n"),
                ],
                Found {
                    network: tool("ifupdown"),
                    interfaces_d: vec!["/etc/network/interfaces.d/50-cloud".into()],
                    own_line: Some("127.0.1.1\t".into()),
                    own_block: true,
                    ..Found::default()
                },
            ),
            (
                "ifupdown with work goes before an enabled NetworkManager",
                vec![
                    ("/usr/sbin/ifup", ""),
                    ("/usr/sbin/resolvconf", ""),
                    ("/etc/network/interfaces", "allow-hotplug eth0\niface eth0 inet dhcp\n"),
                    (&nm, ""),
                    hosts,
                ],
                Found { network: tool("ifupdown"), resolver: true, ..Found::default() },
            ),
            (
                "ifupdown without work does not",
                vec![("/usr/sbin/ifup", ""), ("/etc/network/interfaces", "auto lo\n"), (&nm, ""), hosts],
                Found { network: tool("NetworkManager"), resolver: true, ..Found::default() },
            ),
            (
                "networkd and resolved",
                vec![(&networkd, ""), (resolved, ""), hosts],
                Found { network: tool("systemd-networkd"), resolver: true, ..Found::default() },
            ),
            (
                "networkd alone",
                vec![(&networkd, ""), hosts],
                Found { network: tool("systemd-networkd"), ..Found::default() },
            ),
            (
                "netplan over networkd",
                vec![
                    ("/usr/sbin/netplan", ""),
                    ("/etc/netplan/01-renderer.yaml", "network:\n  renderer: networkd\n"),
                    ("/etc/netplan/50-cloud-init.yaml", "network:\n  ethernets:\n    ens3: {dhcp4: true}\n"),
                    (&networkd, ""),
                    (resolved, ""),
                    hosts,
                ],
                Found {
                    network: tool("netplan"),
                    resolver: true,
                    others: vec!["/etc/netplan/50-cloud-init.yaml".into()],
                    ..Found::default()
                },
            ),
            (
                "an old SUSE",
                vec![
                    (wicked, ""),
                    ("/etc/sysconfig/network/ifcfg-lo", ""),
                    ("/etc/sysconfig/network/ifcfg-eth0", ""),
                    ("/etc/sysconfig/network/ifcfg.template", ""),
                    ("/etc/HOSTNAME", "master\n"),
                    hosts,
                ],
                Found {
                    network: tool("wicked"),
                    resolver: true,
                    others: vec!["/etc/sysconfig/network/ifcfg-eth0".into()],
                    capital_hostname: true,
                    ..Found::default()
                },
            ),
            (
                "an old Red Hat",
                vec![
                    ("/etc/sysconfig/network-scripts/ifup-eth", ""),
                    ("/etc/sysconfig/network-scripts/ifcfg-ens3", ""),
                    ("/etc/sysconfig/network-scripts/ifcfg-lo", ""),
                    hosts,
                ],
                Found {
                    network: tool("network-scripts"),
                    resolver: true,
                    others: vec!["/etc/sysconfig/network-scripts/ifcfg-ens3".into()],
                    ..Found::default()
                },
            ),
        ];
        for (name, files, expected) in rows {
            let host = files.iter().fold(RecordedHost::new(), |host, (path, contents)| host.file(path, *contents));
            let found = detect(&host, &Place::Tree { root: "/i".into() }).unwrap();
            assert_eq!(found, expected, "{name}");
            assert!(found.network.as_deref().is_none_or(|tool| TOOLS.contains(&tool)), "{name}");
            assert_eq!(Found::from_facts(&found.clone().into_facts()), found, "{name}: there and back");
        }
    }
}
