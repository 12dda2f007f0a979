//! What clones must not share: what of it an image has, and the steps that take it away or make it anew. Pure apart
//! from [`find::find`], which reads a tree.
//!
//! Each name in [`WHAT`] can be left out in a master. What a system makes anew by itself is taken away; what it does
//! not is made anew before the first boot: ssh host keys by the target's own program, so that no key is ever in a
//! plan; names of initiators from who the machine is, so that the same machine gets the same ones each time.

pub mod find;
mod fresh;
mod ssh;

use systemimager_core::contract::IdentityScrub;
use systemimager_core::{Action, Contents, Identity, Phase, PluginError, Result, Step};

use crate::ID;
use find::Held;

/// The names, in the order of their steps.
pub const WHAT: [&str; 7] =
    ["machine-id", "ssh-host-keys", "random-seed", "dhcp-leases", "interface-names", "iscsi-name", "nvme-host"];

/// The steps.
///
/// # Errors
/// `Invalid`: an unknown name; the image was not looked at; a key of a kind that cannot be made anew. `Missing`: the
/// image has keys and lacks the program that makes new ones.
pub fn plan(request: &IdentityScrub) -> Result<Vec<Step>> {
    if let Some(unknown) = request.what.iter().find(|name| !WHAT.contains(&name.as_str())) {
        return Err(PluginError::invalid(format!(
            "the identity plugin hosts scrubs no {unknown:?}; it scrubs {} ([identity] scrub in the master file)",
            WHAT.join(", ")
        )));
    }
    let image = &request.image;
    let held = image.identity.get(ID).map(Held::from_facts).ok_or_else(|| {
        PluginError::invalid(format!(
            "the image {} was not looked at by the identity plugin hosts; put that plugin into the image server's plugin \
             directory and start the install again",
            image.name
        ))
    })?;
    let identity = request.identity.as_ref().ok_or_else(|| {
        PluginError::invalid("who the machine is was not said with what to scrub; use a newer systemimager")
    })?;
    let mut steps = Vec::new();
    for name in WHAT.into_iter().filter(|name| request.what.is_empty() || request.what.iter().any(|it| it == name)) {
        match name {
            "machine-id" => steps.extend(machine_id(&held)),
            "ssh-host-keys" => steps.extend(ssh::plan(&held, identity, &image.name)?),
            "random-seed" => steps.extend(removed("the random seed", &held.random_seed)),
            "dhcp-leases" => steps.extend(removed("what DHCP knew the master client by", &held.dhcp)),
            "interface-names" => {
                steps.extend(removed("names that the master client's interfaces were given", &held.interface_names));
            }
            "iscsi-name" => steps.extend(iscsi(&held, identity)),
            _ => steps.extend(nvme(&held, identity)),
        }
    }
    Ok(steps)
}

fn step(what: impl Into<String>, action: Action) -> Step {
    Step::new(Phase::Identity, what, action)
}

fn remove(what: &str, path: &str) -> Step {
    step(format!("remove {what}: {path}"), Action::Remove { path: path.into() })
}

fn removed(what: &str, paths: &[String]) -> Vec<Step> {
    paths.iter().map(|path| remove(what, path)).collect()
}

fn write(what: &str, path: &str, text: String, mode: u32) -> Step {
    let action = Action::WriteFile { path: path.into(), contents: Contents::Bytes(text.into()), mode };
    step(format!("{what}: {path}"), action)
}

/// machine-id(5). systemd fills an empty file at the first boot; an absent one would make that boot a "first boot" with
/// questions, and cannot be filled while the root file system is read-only.
fn machine_id(held: &Held) -> Vec<Step> {
    if held.systemd {
        let mut steps =
            vec![write("empty the machine-id, which systemd fills", find::MACHINE_ID, String::new(), 0o444)];
        if held.dbus_id {
            // A file of its own there would be taken over into the empty one.
            let action = Action::Symlink { path: find::DBUS_ID.into(), to: find::MACHINE_ID.into() };
            steps.push(step("have D-Bus use the machine-id", action));
        }
        return steps;
    }
    // dbus-uuidgen makes an absent one, and refuses an empty one.
    let there = [(held.machine_id, find::MACHINE_ID), (held.dbus_id, find::DBUS_ID)];
    there.into_iter().filter(|(is, _)| *is).map(|(_, path)| remove("the machine-id", path)).collect()
}

/// `InitiatorName=` with the naming authority of the image's own (RFC 3720, 3.2.6.3).
fn iscsi(held: &Held, identity: &Identity) -> Option<Step> {
    let old = held.iscsi_name.as_deref()?;
    let line = format!("{}{}", find::ISCSI_KEY, fresh::initiator(old, identity));
    let action = Action::SetLine { path: find::ISCSI.into(), prefix: find::ISCSI_KEY.into(), line };
    Some(step(format!("give the iSCSI initiator a name of its own: {}", find::ISCSI), action))
}

fn nvme(held: &Held, identity: &Identity) -> Vec<Step> {
    let mut steps = Vec::new();
    let uuid = fresh::uuid("nvme host", identity);
    if let Some(old) = &held.nvme_name {
        let text = format!("{}\n", fresh::nvme_name(old, &uuid));
        steps.push(write("give the NVMe host a name of its own", find::NVME_NAME, text, 0o644));
    }
    if held.nvme_id {
        steps.push(write("give the NVMe host an id of its own", find::NVME_ID, format!("{uuid}\n"), 0o644));
    }
    steps
}

#[cfg(test)]
mod tests;
