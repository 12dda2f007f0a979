//! `addclients`: which machines get which image, with names and addresses.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use systemimager_core::{HostName, ImageName};
use systemimager_engine::store::addresses::Network;
use systemimager_engine::store::clients::{self, Outcome, Wanted};
use systemimager_engine::store::host_links::Linked;
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::image_store::ImageStore;
use systemimager_engine::store::macs::{self, Macs};
use systemimager_engine::store::orders;

use crate::context::Context;

/// Say which machines get which image, with names and addresses
///
/// Everything is checked before anything is written; what is so already stays as it is. For each machine that is new its first
/// install is ordered.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  systemimager addclients --base www --range 1-300 --image web-v1 --ip 10.0.0.11/23\n  \
                        systemimager addclients 'n[001-064,099]' --image web-v1 --ip 10.0.0.11/23 --macs macs.csv"
)]
pub struct AddClients {
    /// Host names, or sets such as www[1-300,310]
    #[arg(value_name = "HOSTS", conflicts_with_all = ["base", "range"])]
    hosts: Vec<String>,
    /// What all host names begin with
    #[arg(long, value_name = "NAME", requires = "range")]
    base: Option<String>,
    /// The numbers that follow it, such as 1-300
    #[arg(long, value_name = "RANGE", requires = "base")]
    range: Option<String>,
    /// The image they get
    #[arg(long, value_name = "NAME")]
    image: Option<ImageName>,
    /// Address of the first one and length of the network's prefix; the others get the next ones
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    ip: Option<Network>,
    /// Their domain (the one that DHCP hands out, unless given)
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<HostName>,
    /// MAC addresses, lines host,mac: machines that are listed always get their own address
    #[arg(long, value_name = "FILE.csv")]
    macs: Option<PathBuf>,
    /// Also replace master files that hosts have of their own
    #[arg(long)]
    force: bool,
    /// Order no install of machines that are new
    #[arg(long)]
    no_install: bool,
}

impl AddClients {
    /// Checks everything, then writes it.
    pub fn run(self, context: &Context) -> Result<()> {
        let hosts = self.hosts(context)?;
        let image = self.image(context)?;
        let first = match self.ip {
            Some(first) => Some(first),
            None if context.interactive() => {
                match context.ask("Address of the first one, as 10.0.0.11/23", Some("none"), "--ip")?.as_str() {
                    "none" => None,
                    text => Some(text.parse().map_err(anyhow::Error::msg)?),
                }
            }
            None => None,
        };
        let domain = match (&self.domain, &context.config.settings.dhcp.domain) {
            (Some(domain), _) => Some(domain.clone()),
            (None, Some(domain)) => Some(
                HostName::try_from(domain.as_str())
                    .with_context(|| format!("dhcp.domain in {}", context.config.settings_file().display()))?,
            ),
            (None, None) => None,
        };
        let wanted = Wanted { hosts, image, first, domain, macs: self.macs()?, force: self.force };
        let outcome = clients::check(&context.config, &wanted)?.apply(&context.config)?;
        let new: Vec<HostName> = match self.no_install {
            true => Vec::new(),
            false => outcome
                .clients
                .iter()
                .filter(|client| client.link == Linked::Created)
                .map(|client| client.host.clone())
                .collect(),
        };
        let ordered = orders::order(&context.config, &new, &[])?;
        context.answer(&Answer { outcome: &outcome, ordered: ordered.iter().map(|(host, _)| host).collect() })?;
        tell(context, &outcome);
        if !ordered.is_empty() {
            context.say(format_args!(
                "{} installs ordered: machines that boot over the network now are OVERWRITTEN, each once",
                ordered.len()
            ));
        }
        Ok(())
    }

    fn hosts(&self, context: &Context) -> Result<HostSet> {
        if let (Some(base), Some(range)) = (&self.base, &self.range) {
            return Ok(HostSet::from_base(base, range)?);
        }
        if !self.hosts.is_empty() {
            return Ok(HostSet::from_words(self.hosts.iter().map(String::as_str))?);
        }
        Ok(context.ask("Which machines, as www[1-300]", None, "HOSTS, or --base and --range")?.parse::<HostSet>()?)
    }

    fn image(&self, context: &Context) -> Result<ImageName> {
        if let Some(image) = &self.image {
            return Ok(image.clone());
        }
        let store = ImageStore::new(&context.config);
        let names = store.names()?;
        match names.as_slice() {
            [] => bail!("there is no image in {} yet; capture one with getimage", store.root().display()),
            // Asked for rather than taken in silence: the wrong image wipes machines.
            [only] => Ok(context.ask("Which image", Some(only.as_str()), "--image")?.parse()?),
            several => {
                let list: Vec<&str> = several.iter().map(ImageName::as_str).collect();
                Ok(context.ask(&format!("Which image ({})", list.join(", ")), None, "--image")?.parse()?)
            }
        }
    }

    fn macs(&self) -> Result<Macs> {
        let Some(file) = &self.macs else { return Ok(Macs::new()) };
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        macs::parse(file, &text).map_err(anyhow::Error::msg)
    }
}

/// What was done, as JSON.
#[derive(serde::Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    ordered: Vec<&'a HostName>,
}

fn tell(context: &Context, outcome: &Outcome) {
    let count = |fits: fn(&Linked) -> bool| outcome.clients.iter().filter(|client| fits(&client.link)).count();
    let made = count(|link| !matches!(link, Linked::Already | Linked::Kept));
    let already = count(|link| *link == Linked::Already);
    context.say(format_args!(
        "{} machines get the image {}: {made} links made, {already} there already",
        outcome.clients.len(),
        outcome.image
    ));
    for client in &outcome.clients {
        match &client.link {
            Linked::Kept => {
                context.say(format_args!("{} keeps the master file of its own; --force replaces it", client.host))
            }
            Linked::Changed { from } => context.say(format_args!("{} got the image {from} before", client.host)),
            Linked::Already | Linked::Created | Linked::Replaced => {}
        }
    }
    if let (Some(first), Some(last)) = (outcome.clients.first(), outcome.clients.last())
        && let (Some(from), Some(to)) = (first.address, last.address)
    {
        context.say(format_args!("addresses {from} ({}) to {to} ({})", first.host, last.host));
    }
    if outcome.written.is_empty() {
        context.say("all of it was so already");
    }
}
