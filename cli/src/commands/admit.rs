//! `admit`: say who a machine is that waits as a stranger.

use anyhow::{Context as _, Result, bail};
use systemimager_core::{HostName, ImageName};
use systemimager_engine::store::clients::{self, Wanted};
use systemimager_engine::store::declared_list;
use systemimager_engine::store::host_links;
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::macs::{self, Mac, Macs};
use systemimager_engine::store::orders;
use systemimager_engine::store::serials::Serials;
use systemimager_engine::sys::atomic;

use crate::context::Context;

/// Say who a machine is that waits, and have it installed
///
/// `status` shows the machines that wait, with their MAC addresses and why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager admit 52:54:00:12:34:56 --as www3 --image web-v1\n  \
    systemimager admit 52:54:00:12:34:56 --as www3 --no-install")]
pub struct Admit {
    /// Its MAC address
    #[arg(value_name = "MAC")]
    mac: Mac,
    /// The name it gets. A machine that had this name before loses it: its MAC address is replaced
    #[arg(long = "as", value_name = "HOST")]
    host: HostName,
    /// The image it gets; not needed if the host has one
    #[arg(long, value_name = "NAME")]
    image: Option<ImageName>,
    /// Order no install: it starts from its own disk
    #[arg(long)]
    no_install: bool,
}

impl Admit {
    /// Checks, then writes it down.
    pub fn run(self, context: &Context) -> Result<()> {
        let config = &context.config;
        let image = match (self.image.clone(), host_links::image_of(config, &self.host)?) {
            (Some(image), _) | (None, Some(image)) => image,
            (None, None) => bail!("{} has no image yet; name one with --image", self.host),
        };
        let known = clients::read_macs(config)?;
        if let Some((other, _)) = known.iter().find(|(host, mac)| **mac == self.mac && **host != self.host) {
            bail!("{} is the MAC address of {other}; take it out of {} first", self.mac, macs::file(config).display());
        }
        if known.get(&self.host).is_some_and(|mac| *mac != self.mac) {
            // The machine was replaced: the new one has the name now.
            let mut others = known;
            others.remove(&self.host);
            let file = macs::file(config);
            atomic::write(&file, declared_list::render(&others).as_bytes(), 0o644)
                .with_context(|| format!("replacing the MAC address of {}", self.host))?;
        }
        let wanted = Wanted {
            hosts: HostSet::from_words([self.host.as_str()])?,
            image,
            first: None,
            domain: None,
            macs: Macs::from([(self.host.clone(), self.mac)]),
            serials: Serials::new(),
            force: false,
        };
        let outcome = clients::check(config, &wanted)?.apply(config)?;
        let ordered = match self.no_install {
            true => Vec::new(),
            false => orders::order(config, std::slice::from_ref(&self.host), &[], None)?,
        };
        context.answer(&serde_json::json!({ "admitted": outcome, "ordered": ordered }))?;
        context.say(format_args!(
            "{} is {} and gets the image {}{}",
            self.mac,
            self.host,
            outcome.image,
            if self.no_install { "; no install was ordered" } else { "; it is installed now if it waits" }
        ));
        Ok(())
    }
}
