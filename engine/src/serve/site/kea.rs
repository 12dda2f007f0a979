//! Kea's configuration (Administrator Reference Manual, "The DHCPv4 Server"): JSON, changed as text so that comments and
//! everything else of the site's stay byte for byte. Pure.
//!
//! Ours are client classes whose names begin with [`CLASS`], the subnet and the reservations that say so in their
//! `user-context`. The classes are evaluated for our subnet only, because it alone requires them.

use std::net::Ipv4Addr;
use std::path::Path;

use serde::Serialize;
use systemimager_core::BootFile;

use super::json_text::{self, Edits, Kind, Node, indent_of, pattern, shown};
use super::{Entry, FIRST_HTTP_ARCH, Found, Reservation, Site, Span, at, word};
use crate::config::line_column;
use crate::store::addresses::Network;

/// What names of our client classes begin with.
const CLASS: &str = "systemimager-arch-";
/// The member of a user context that says that something is ours.
const MARK: &str = "systemimager";

/// What a file is that has nothing in it yet.
const NOTHING: &str = "{\n  \"Dhcp4\": {\n  }\n}\n";

#[derive(Serialize)]
struct Context {
    systemimager: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Class {
    name: String,
    test: String,
    only_if_required: bool,
    next_server: Ipv4Addr,
    boot_file_name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    option_data: Vec<Opt>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Opt {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    csv_format: Option<bool>,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    always_send: Option<bool>,
}

#[derive(Serialize)]
struct Pool {
    pool: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Subnet {
    id: u64,
    subnet: String,
    user_context: Context,
    authoritative: bool,
    valid_lifetime: u32,
    next_server: Ipv4Addr,
    pools: Vec<Pool>,
    option_data: Vec<Opt>,
    require_client_classes: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Reserved {
    hw_address: String,
    ip_address: Ipv4Addr,
    hostname: String,
    user_context: Context,
}

/// A configuration that was read.
struct Doc<'a> {
    file: &'a Path,
    text: &'a str,
    root: Node,
}

impl<'a> Doc<'a> {
    fn read(file: &'a Path, text: &'a str) -> Result<Self, String> {
        let root = json_text::parse(text).map_err(|(offset, why)| at(file, line_column(text, offset).0, why))?;
        let doc = Self { file, text, root };
        let dhcp4 = doc.dhcp4()?;
        if !matches!(dhcp4.kind, Kind::Object(_)) {
            return Err(doc.wrong(dhcp4, "Dhcp4 is no object in braces"));
        }
        doc.once(&doc.root, "Dhcp4")?;
        for name in ["interfaces-config", "client-classes", "subnet4", "shared-networks", "reservations"] {
            doc.once(dhcp4, name)?;
        }
        Ok(doc)
    }

    fn line(&self, node: &Node) -> usize {
        line_column(self.text, node.span.start).0
    }

    fn wrong(&self, node: &Node, why: impl std::fmt::Display) -> String {
        at(self.file, self.line(node), why)
    }

    fn dhcp4(&self) -> Result<&Node, String> {
        self.root
            .get("Dhcp4")
            .ok_or_else(|| self.wrong(&self.root, "there is no \"Dhcp4\" in it; is it a Kea configuration?"))
    }

    /// Two members of one name: which of them counts is the reader's whim.
    fn once(&self, object: &Node, name: &str) -> Result<(), String> {
        let Kind::Object(members) = &object.kind else { return Ok(()) };
        match members.iter().filter(|(it, _)| it == name).nth(1) {
            Some((_, second)) => Err(self.wrong(second, format!("\"{name}\" is there twice; make one of them"))),
            None => Ok(()),
        }
    }

    /// The array of this name, if the member is there.
    fn array<'b>(&self, object: &'b Node, name: &str) -> Result<Option<&'b Node>, String> {
        self.once(object, name)?;
        match object.get(name) {
            None => Ok(None),
            Some(node) if matches!(node.kind, Kind::Array(_)) => Ok(Some(node)),
            Some(node) => Err(self.wrong(node, format!("\"{name}\" is no list in brackets"))),
        }
    }

    /// All subnets, those of shared networks too.
    fn subnets(&self) -> Result<Vec<&Node>, String> {
        let dhcp4 = self.dhcp4()?;
        let mut all = Vec::new();
        let shared = self.array(dhcp4, "shared-networks")?.map(Node::elements).unwrap_or_default();
        for parent in std::iter::once(dhcp4).chain(shared) {
            all.extend(self.array(parent, "subnet4")?.map(Node::elements).unwrap_or_default());
        }
        Ok(all)
    }

    fn number(&self, node: &Node) -> Option<u64> {
        self.text.get(node.span.clone())?.parse().ok()
    }

    fn entry(&self, node: &Node) -> Entry {
        let text = |name: &str| node.get(name).and_then(Node::text);
        Entry {
            line: self.line(node),
            name: text("hostname").map(str::to_owned),
            mac: text("hw-address").and_then(|it| it.parse().ok()),
            address: text("ip-address").and_then(|it| it.parse().ok()),
            ours: is_ours(node),
        }
    }
}

fn is_ours(node: &Node) -> bool {
    node.get("user-context").is_some_and(|context| context.get(MARK).is_some())
}

fn is_class(node: &Node) -> bool {
    node.get("name").and_then(Node::text).is_some_and(|name| name.starts_with(CLASS))
}

/// Text that has nothing but blanks becomes a configuration that says nothing.
fn or_nothing(text: &str) -> &str {
    if text.trim().is_empty() { NOTHING } else { text }
}

/// What the configuration has.
///
/// # Errors
/// `FILE:LINE: what is wrong`.
pub fn read(file: &Path, text: &str) -> Result<Found, String> {
    let doc = Doc::read(file, or_nothing(text))?;
    let mut found = Found::default();
    let mut holders = vec![doc.dhcp4()?];
    for subnet in doc.subnets()? {
        holders.push(subnet);
        if is_ours(subnet) {
            found.served = Some(doc.line(subnet));
            continue;
        }
        for pool in doc.array(subnet, "pools")?.map(Node::elements).unwrap_or_default() {
            let range = pool.get("pool").and_then(Node::text).and_then(|it| it.parse::<Span>().ok());
            found.ranges.extend(range.map(|range| (doc.line(pool), range)));
        }
    }
    for holder in holders {
        let entries = doc.array(holder, "reservations")?.map(Node::elements).unwrap_or_default();
        found.entries.extend(entries.iter().map(|node| doc.entry(node)));
    }
    Ok(found)
}

fn base(network: Network) -> String {
    format!("{}/{}", network.base(), network.prefix)
}

/// The configuration with our subnet, and the classes that name its boot files, in it.
///
/// # Errors
/// `FILE:LINE: what is wrong`: no Kea configuration, or somebody else has this subnet.
pub fn with_site(file: &Path, text: &str, site: &Site) -> Result<String, String> {
    let text = or_nothing(text);
    let doc = Doc::read(file, text)?;
    let dhcp4 = doc.dhcp4()?;
    let subnet = base(site.network);
    let all = doc.subnets()?;
    let old = all.iter().copied().find(|node| is_ours(node));
    let network = |node: &Node| node.get("subnet").and_then(Node::text)?.parse::<Network>().ok().map(base);
    if let Some(other) = all.iter().find(|node| !is_ours(node) && network(node).as_ref() == Some(&subnet)) {
        return Err(doc.wrong(
            other,
            format!(
                "this declares {subnet}, and Kea takes a subnet once only; take it out, or write elsewhere with --output \
                 and bring the two together"
            ),
        ));
    }
    let ids: Vec<u64> = all.iter().filter_map(|node| doc.number(node.get("id")?)).collect();
    // Subnets without a number are numbered by Kea from 1 on.
    let free = ids.iter().copied().max().unwrap_or(0).max(all.len() as u64).saturating_add(1);
    let id = old.and_then(|node| doc.number(node.get("id")?)).unwrap_or(free);

    let mut edits = Edits::default();
    interfaces(&doc, dhcp4, &site.interface, &mut edits)?;
    let classes = classes(site)?;
    let names = classes.iter().map(|class| class.name.clone()).collect();
    put(&doc, dhcp4, "client-classes", &is_class, &classes, &mut edits)?;
    let value = wanted(site, id, names);
    match old {
        Some(old) => {
            let indent = indent_of(text, old, None);
            let indent = indent.strip_suffix("  ").unwrap_or_default();
            let mut new = shown(&value, indent)?;
            // Static entries stay as they are, whoever wrote them.
            let entries = doc.array(old, "reservations")?.and_then(|node| text.get(node.span.clone()));
            if let (Some(entries), Some(body)) = (entries, new.strip_suffix(&format!("\n{indent}}}"))) {
                new = format!("{body},\n{indent}  \"reservations\": {entries}\n{indent}}}");
            }
            edits.replace(old.span.clone(), new);
        }
        None => put(&doc, dhcp4, "subnet4", &|_| false, &[value], &mut edits)?,
    }
    Ok(edits.apply(text))
}

/// Puts elements into an array that may not be there yet.
fn put(
    doc: &Doc<'_>,
    parent: &Node,
    name: &str,
    ours: &dyn Fn(&Node) -> bool,
    new: &[impl Serialize],
    edits: &mut Edits,
) -> Result<(), String> {
    match doc.array(parent, name)? {
        Some(array) => {
            let indent = indent_of(doc.text, array, pattern(array, ours));
            let new = new.iter().map(|value| shown(value, &indent)).collect::<Result<Vec<_>, _>>()?;
            edits.put_elements(doc.text, array, ours, &new);
        }
        None if new.is_empty() => {}
        None => {
            let last = match &parent.kind {
                Kind::Object(members) => members.last().map(|(_, node)| node),
                _ => None,
            };
            edits.add_member(doc.text, parent, name, &shown(&new, &indent_of(doc.text, parent, last))?);
        }
    }
    Ok(())
}

/// That Kea listens where the machines are.
fn interfaces(doc: &Doc<'_>, dhcp4: &Node, interface: &str, edits: &mut Edits) -> Result<(), String> {
    let quoted = serde_json::Value::from(interface).to_string();
    let Some(config) = dhcp4.get("interfaces-config") else {
        edits.add_member(doc.text, dhcp4, "interfaces-config", &format!("{{ \"interfaces\": [ {quoted} ] }}"));
        return Ok(());
    };
    match doc.array(config, "interfaces")? {
        None => edits.add_member(doc.text, config, "interfaces", &format!("[ {quoted} ]")),
        Some(list) => {
            let is_it = |node: &Node| {
                node.text().is_some_and(|it| it == "*" || it == interface || it.split('/').next() == Some(interface))
            };
            if !list.elements().iter().any(is_it) {
                edits.put_elements(doc.text, list, &|_| false, &[quoted]);
            }
        }
    }
    Ok(())
}

fn classes(site: &Site) -> Result<Vec<Class>, String> {
    let class = |file: &BootFile| {
        let arch = file.client_arch;
        let told = format!("substring(option[93].hex, 0, 2) == 0x{arch:04x}");
        let mut option_data = Vec::new();
        if arch >= FIRST_HTTP_ARCH {
            option_data.push(Opt {
                name: Some("vendor-class-identifier"),
                data: "HTTPClient".into(),
                always_send: Some(true),
                ..Opt::default()
            });
        }
        Ok(Class {
            name: format!("{CLASS}{arch}"),
            // The oldest BIOS loaders do not tell their kind.
            test: if arch == 0 { format!("not option[93].exists or {told}") } else { told },
            only_if_required: true,
            next_server: site.server,
            boot_file_name: word("the boot file's name", &file.name)?.to_owned(),
            option_data,
        })
    };
    site.boot_files.iter().map(class).collect()
}

fn wanted(site: &Site, id: u64, require_client_classes: Vec<String>) -> Subnet {
    let list = |addresses: &[Ipv4Addr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut option_data = Vec::new();
    let mut say = |name, data| option_data.push(Opt { name: Some(name), data, ..Opt::default() });
    if let Some(router) = site.router {
        say("routers", router.to_string());
    }
    if !site.name_servers.is_empty() {
        say("domain-name-servers", list(&site.name_servers));
    }
    if let Some(domain) = &site.domain {
        say("domain-name", domain.to_string());
    }
    if !site.boot_files.is_empty() {
        // iPXE need not wait for a second server (ipxe.org/howto/dhcpd).
        option_data.push(Opt { code: Some(175), csv_format: Some(false), data: "b00101".into(), ..Opt::default() });
    }
    Subnet {
        id,
        subnet: base(site.network),
        user_context: Context { systemimager: "written by makedhcpserver, which writes it anew; reservations stay" },
        authoritative: true,
        valid_lifetime: site.lease_seconds,
        next_server: site.server,
        pools: site.ranges.iter().map(|Span { first, last }| Pool { pool: format!("{first} - {last}") }).collect(),
        option_data,
        require_client_classes,
    }
}

/// The configuration with these static entries in the place of ours, in our subnet or the one of this network.
///
/// # Errors
/// `FILE:LINE: what is wrong`: no Kea configuration, or no such subnet.
pub fn with_entries(file: &Path, text: &str, network: Network, entries: &[Reservation]) -> Result<String, String> {
    let text = or_nothing(text);
    let doc = Doc::read(file, text)?;
    let all = doc.subnets()?;
    let wanted = base(network);
    let is_it = |node: &&&Node| {
        node.get("subnet").and_then(Node::text).and_then(|it| it.parse().ok()).map(base).as_ref() == Some(&wanted)
    };
    let Some(subnet) = all.iter().find(is_it) else {
        return Err(format!(
            "{}: the subnet {wanted} is not there; write it with makedhcpserver --flavor kea, or name another with --network",
            file.display()
        ));
    };
    let reserved = |entry: &Reservation| Reserved {
        hw_address: entry.mac.to_string(),
        ip_address: entry.address,
        hostname: entry.host.short().to_owned(),
        user_context: Context { systemimager: "written by makedhcpstatic" },
    };
    let new: Vec<Reserved> = entries.iter().map(reserved).collect();
    let mut edits = Edits::default();
    put(&doc, subnet, "reservations", &is_ours, &new, &mut edits)?;
    Ok(edits.apply(text))
}
