//! Host name and hosts file.
//!
//! With a written-down address the machine's name resolves to it. With DHCP, or a network that is left
//! alone, it resolves to 127.0.1.1 as Debian's installer has it: always there, never somebody else's.

use systemimager_core::contract::IdentityWrite;
use systemimager_core::{Action, HostName, NetworkMode, Phase, Step};

use super::file;
use crate::detect::{BLOCK_BEGIN, Found};

/// The line after what is ours.
const BLOCK_END: &str = "# systemimager: this machine, end";
/// A hosts file where the image has none.
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// The steps that write both.
pub fn plan(request: &IdentityWrite, found: &Found) -> Vec<Step> {
    let identity = &request.identity;
    let full = full_name(request);
    let short = identity.name.short();
    let names = if full == short { short.to_owned() } else { format!("{full} {short}") };

    let mut steps = Vec::new();
    if found.capital_hostname {
        steps.push(file("the host name", "/etc/HOSTNAME", format!("{full}\n"), 0o644));
    } else {
        // The Red Hat family keeps the full name there, the others the short one (hostname(5)).
        let written = if is_red_hat(request) { &full } else { short };
        steps.push(file("the host name", "/etc/hostname", format!("{written}\n"), 0o644));
    }

    let address = identity.network.address.filter(|_| request.mode == NetworkMode::Static);
    let own = match address {
        Some(address) => format!("{address}\t{names}\n"),
        None => format!("127.0.1.1\t{names}\n"),
    };
    let what = format!("have /etc/hosts name this machine {full}");
    if found.no_hosts {
        let text = format!("{LOCALHOST}{BLOCK_BEGIN}\n{own}{BLOCK_END}\n");
        steps.push(file("no hosts file is in the image", "/etc/hosts", text, 0o644));
        return steps;
    }
    let block = |block: String| {
        let (begin, end) = (BLOCK_BEGIN.into(), BLOCK_END.into());
        Step::new(Phase::Identity, what.clone(), Action::SetBlock { path: "/etc/hosts".into(), begin, end, block })
    };
    let Some(prefix) = &found.own_line else {
        steps.push(block(own));
        return steps;
    };
    let set_line = |what: String, line: String| {
        let action = Action::SetLine { path: "/etc/hosts".into(), prefix: prefix.clone(), line };
        Step::new(Phase::Identity, what, action)
    };
    if address.is_some() {
        // The line stays, so that writing it twice changes nothing; but it names nobody any more.
        let line = format!("{prefix}localhost");
        steps.push(set_line("take the master client's name out of /etc/hosts".into(), line));
        steps.push(block(own));
    } else {
        steps.push(set_line(what.clone(), format!("{prefix}{names}")));
        if found.own_block {
            // The image was captured from an installed machine: its address must go.
            steps.push(block(String::new()));
        }
    }
    steps
}

/// The name with its domain, if it has one anywhere.
fn full_name(request: &IdentityWrite) -> String {
    let name = &request.identity.name;
    match &request.identity.network.domain {
        Some(domain) if !name.as_str().contains('.') => {
            let full = format!("{name}.{domain}");
            // A domain that makes no valid name is left out here; where it is written, it is refused.
            HostName::try_from(full.as_str()).map(String::from).unwrap_or_else(|_| name.to_string())
        }
        _ => name.to_string(),
    }
}

fn is_red_hat(request: &IdentityWrite) -> bool {
    let os = &request.image.os;
    ["ID", "ID_LIKE"]
        .iter()
        .filter_map(|key| os.get(*key))
        .flat_map(|value| value.split_whitespace())
        .any(|id| matches!(id.trim_matches(['"', '\'']), "rhel" | "fedora" | "centos"))
}
