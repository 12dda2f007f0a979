//! Another name for an image: what `mvimage` does. Its master, the links of hosts, masters that hosts have of their own,
//! and orders follow.
//!
//! It can be interrupted anywhere and run again. No host is without a master at any moment: the new one is there before
//! links lead to it, and the old one goes last.

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{HostName, ImageName};

use super::host_links;
use super::image_store::ImageStore;
use super::master_text;
use super::orders::{self, Orders};
use super::users::{AllUsers, Users};
use crate::config::Config;
use crate::sys::atomic;

/// What followed an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Renamed {
    /// Its name now.
    pub image: ImageName,
    /// Hosts whose links, masters or orders name it now.
    pub users: Users,
}

/// Renames an image.
///
/// # Errors
/// There is no such image; there is one of the new name, or a master of that name that is another; somebody captures,
/// reads or installs it; a master is wrong.
pub fn rename(config: &Config, from: &ImageName, to: &ImageName) -> Result<Renamed> {
    let store = ImageStore::new(config);
    if from == to {
        bail!("{from} has that name already");
    }
    // Nobody begins an install, or a capture, meanwhile.
    let held = Orders::hold(config)?;
    let _captures = [store.capture_lock(from, "renaming")?, store.capture_lock(to, "renaming")?];
    let all = AllUsers::find(config)?;
    let users = all.of(from);
    if let Some(fault) = all.faults.first() {
        bail!("a host's own master may name {from}, and cannot be read: {fault}");
    }
    if !users.begun.is_empty() {
        bail!("{from} is being installed on {}; wait until that ends, or cancel it", list(&users.begun));
    }
    let master = host_links::master_of_image(config, from)?;
    match (store.exists(from)?, store.exists(to)?) {
        (true, true) => bail!("there is an image {to} already; remove it with rmimage, or choose another name"),
        // Before a master is written; the renaming looks again.
        (true, false) if store.is_read(from)? => bail!("somebody reads the image {from} just now; try again later"),
        // An earlier run was interrupted.
        (false, true) if master.is_some() || users != Users::default() => {}
        (false, _) => store.tree(from).map(drop)?,
        (true, false) => {}
    }
    if let Some(found) = &master {
        let text = master_text::retitled(&found.file, &found.text, to)?;
        match host_links::master_of_image(config, to)? {
            Some(there) if there.text != text => bail!(
                "there is a master {} without an image; move it away, or choose another name",
                there.file.display()
            ),
            Some(_) => {}
            None => atomic::write(&master_text::master_path(config, to), text.as_bytes(), 0o644)?,
        }
    }
    if store.exists(from)? {
        store.rename(from, to)?;
    }
    follow(config, &held, &users, to)?;
    if master.is_some() {
        let path = master_text::master_path(config, from);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(Renamed { image: to.clone(), users })
}

fn follow(config: &Config, held: &Orders, users: &Users, to: &ImageName) -> Result<()> {
    for host in &users.linked {
        host_links::set(config, host, to, false)?;
    }
    for host in &users.own_master {
        if let Some(found) = host_links::master_of(config, host)? {
            let text = master_text::retitled(&found.file, &found.text, to)?;
            atomic::write(&host_links::path(config, host), text.as_bytes(), 0o644)?;
        }
    }
    for host in &users.ordered {
        if let Some(order) = held.get(host)? {
            held.put(&orders::Order { image: Some(to.clone()), ..order })?;
        }
    }
    Ok(())
}

/// Names, a few of them.
pub(super) fn list(hosts: &[HostName]) -> String {
    const SHOWN: usize = 10;
    let names: Vec<&str> = hosts.iter().take(SHOWN).map(HostName::as_str).collect();
    let more = if hosts.len() > SHOWN { format!(" and {} more", hosts.len() - SHOWN) } else { String::new() };
    format!("{}{more}", names.join(", "))
}
