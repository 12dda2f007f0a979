//! Who uses images: hosts whose links lead to them, hosts with masters of their own, and orders.
//!
//! It reads and changes nothing. Who reads an image's files just now is [`ImageStore::is_read`]'s to say.
//!
//! [`ImageStore::is_read`]: super::image_store::ImageStore::is_read

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use systemimager_core::{HostName, ImageName};

use super::host_links::{self, HostLink};
use super::orders::{self, Stage};
use crate::config::Config;

/// Who uses an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Users {
    /// Hosts whose links lead to its master.
    pub linked: Vec<HostName>,
    /// Hosts with a master of their own that installs it.
    pub own_master: Vec<HostName>,
    /// Hosts that are ordered to be installed with it, and have not begun.
    pub ordered: Vec<HostName>,
    /// Hosts that are being installed with it, or stopped in the middle of it.
    pub begun: Vec<HostName>,
}

/// All that use images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllUsers {
    users: BTreeMap<ImageName, Users>,
    /// Masters of hosts that cannot be read, so that nobody knows which image they install: `FILE:LINE:COLUMN: why`.
    pub faults: Vec<String>,
}

impl AllUsers {
    /// Finds them.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn find(config: &Config) -> Result<Self> {
        let mut found = Self::default();
        for (host, link) in host_links::list(config)? {
            match link {
                HostLink::Link { image } => found.of_mut(image).linked.push(host),
                HostLink::Copy => match own_image(config, &host) {
                    Ok(Some(image)) => found.of_mut(image).own_master.push(host),
                    Ok(None) => {}
                    Err(error) => found.faults.push(format!("{error:#}")),
                },
                // It leads to no image.
                HostLink::Other { .. } => {}
            }
        }
        for order in orders::list(config)? {
            let Some(image) = order.image else { continue };
            let users = found.of_mut(image);
            let list = if order.stage == Stage::Ordered { &mut users.ordered } else { &mut users.begun };
            list.push(order.host);
        }
        Ok(found)
    }

    /// Those of an image.
    pub fn of(&self, image: &ImageName) -> Users {
        self.users.get(image).cloned().unwrap_or_default()
    }

    fn of_mut(&mut self, image: ImageName) -> &mut Users {
        self.users.entry(image).or_default()
    }
}

fn own_image(config: &Config, host: &HostName) -> Result<Option<ImageName>> {
    let Some(found) = host_links::master_of(config, host)? else { return Ok(None) };
    Ok(Some(found.master()?.image))
}
