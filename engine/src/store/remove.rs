//! Removing an image: what `rmimage` does. It is refused while hosts use the image, unless that is wanted.
//!
//! It can be interrupted anywhere and run again: what leads to the image goes before its files do.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::ImageName;

use super::host_links;
use super::image_store::ImageStore;
use super::master_text;
use super::orders::Orders;
use super::rename::list;
use super::users::{AllUsers, Users};
use crate::config::Config;

/// What went, and what stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// What had the name.
    pub image: ImageName,
    /// Hosts whose links and orders went. Masters of their own stay, and name an image that is no more.
    pub users: Users,
    /// Trees that are still read, with who reads them: they go with the next capture or removal.
    pub still_read: Vec<String>,
}

/// Removes an image, its master, and with `force` the links and orders of hosts that use it.
///
/// # Errors
/// There is no such image; hosts use it, or somebody reads it, and `force` is not given; it is being captured or installed.
pub fn remove(config: &Config, image: &ImageName, force: bool) -> Result<Removed> {
    let store = ImageStore::new(config);
    let held = Orders::hold(config)?;
    let _capture = store.capture_lock(image, "removal")?;
    let users = AllUsers::find(config)?.of(image);
    let master = master_text::master_path(config, image);
    let exists = store.exists(image)?;
    if !exists && !is_there(&master)? && users == Users::default() {
        store.tree(image)?;
    }
    if !users.begun.is_empty() {
        bail!(
            "{image} is being installed on {}; wait until that ends, or forget those installs with: systemimager cancel \
             --force {}",
            list(&users.begun),
            list(&users.begun).replace(", ", " ")
        );
    }
    if !force {
        let uses = [("links of", &users.linked), ("own masters of", &users.own_master), ("orders of", &users.ordered)];
        let uses: Vec<String> = uses
            .iter()
            .filter(|(_, hosts)| !hosts.is_empty())
            .map(|(what, hosts)| format!("{what} {}", list(hosts)))
            .collect();
        if !uses.is_empty() {
            bail!(
                "{image} is used by {}; give those hosts another image with addclients, or remove it all the same with \
                 --force",
                uses.join("; ")
            );
        }
        if exists && store.is_read(image)? {
            bail!("somebody reads the image {image} just now; try again later, or use --force");
        }
    }
    for host in &users.linked {
        gone(&host_links::path(config, host))?;
    }
    for host in &users.ordered {
        held.remove(host)?;
    }
    gone(&master)?;
    let still_read = store.remove(image)?;
    Ok(Removed { image: image.clone(), users, still_read })
}

fn is_there(path: &Path) -> Result<bool> {
    path.try_exists().with_context(|| format!("looking for {}", path.display()))
}

fn gone(path: &PathBuf) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
