//! `addclients`: which machines get which image, with names and addresses.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use systemimager_core::{HostName, ImageName};
use systemimager_engine::store::addresses::Network;
use systemimager_engine::store::clients::{self, Outcome, Wanted};
use systemimager_engine::store::declared_list::{self, Kind, List};
use systemimager_engine::store::host_links::Linked;
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::image_store::ImageStore;
use systemimager_engine::store::macs::Macs;
use systemimager_engine::store::orders;
use systemimager_engine::store::serials::Serials;

use super::answer::yes;
use crate::context::Context;

/// Say which machines get which image, with names and addresses
///
/// Everything is checked before anything is written; what is so already stays as it is. For each machine that is new its first
/// install is ordered. Without machines on the command line all of it is asked for on a terminal.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  systemimager addclients\n  systemimager addclients --base www --range 1-300 --image web-v1 --ip 10.0.0.11/23\n  \
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
    /// Address of the first one and length of the network's prefix; the others get the next ones. Or none
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    ip: Option<OrNone<Network>>,
    /// Their domain, or none (the one that DHCP hands out, unless given)
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<OrNone<HostName>>,
    /// MAC addresses, lines host,mac: machines that are listed always get their own address. Or none
    #[arg(long, value_name = "FILE.csv")]
    macs: Option<PathBuf>,
    /// Serial numbers as firmware tells them, lines host,serial: for machines whose MAC addresses are not known
    #[arg(long, value_name = "FILE.csv")]
    serials: Option<PathBuf>,
    /// Also replace master files that hosts have of their own
    #[arg(long)]
    force: bool,
    /// Order no install of machines that are new
    #[arg(long)]
    no_install: bool,
}

/// A value, or the word `none`, by which a question is answered too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OrNone<T> {
    None,
    Some(T),
}

impl<T: FromStr<Err: Display>> FromStr for OrNone<T> {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == NONE { Ok(Self::None) } else { text.parse().map(Self::Some).map_err(|error| error.to_string()) }
    }
}

impl<T> OrNone<T> {
    fn some(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::Some(value) => Some(value),
        }
    }
}

/// The word.
const NONE: &str = "none";

/// An answer, with the option that gives it in advance where it cannot be understood.
fn understood<T: FromStr<Err: Display>>(answer: &str, option: &str) -> Result<OrNone<T>> {
    answer.parse().map_err(|error: String| anyhow::anyhow!("{answer:?}: {error}; answer with {option}"))
}

impl AddClients {
    /// All of it is to be asked for, but the image.
    pub fn of_image(image: ImageName) -> Self {
        Self {
            hosts: Vec::new(),
            base: None,
            range: None,
            image: Some(image),
            ip: None,
            domain: None,
            macs: None,
            serials: None,
            force: false,
            no_install: false,
        }
    }

    /// Checks everything, then writes it.
    pub fn run(self, context: &Context) -> Result<()> {
        // Who names the machines names the rest of what matters too.
        let guided = self.hosts.is_empty() && self.base.is_none() && context.interactive();
        let hosts = self.hosts(context)?;
        let image = self.image(context)?;
        let first = match self.ip {
            Some(first) => first.some(),
            None if context.interactive() => {
                let answer = context.ask("Address of the first one, as 10.0.0.11/23, or none", Some(NONE), "--ip")?;
                understood::<Network>(&answer, "--ip")?.some()
            }
            None => None,
        };
        let domain = self.domain(context, guided)?;
        let macs = self.macs(context, guided)?;
        let serials = match &self.serials {
            Some(file) => list(file)?,
            None => Serials::new(),
        };
        let wanted = Wanted { hosts, image, first, domain, macs, serials, force: self.force };
        let checked = clients::check(&context.config, &wanted)?;
        let question =
            "Order the first install of those that are new; booting over the network OVERWRITES them, once (yes/no)";
        let no_install = self.no_install || (guided && !yes(&context.ask(question, Some("yes"), "--no-install")?)?);
        let outcome = checked.apply(&context.config)?;
        let new: Vec<HostName> = match no_install {
            true => Vec::new(),
            false => outcome
                .clients
                .iter()
                .filter(|client| client.link == Linked::Created)
                .map(|client| client.host.clone())
                .collect(),
        };
        let ordered = orders::order(&context.config, &new, &[], None)?;
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
        let question = "What all host names begin with, or which machines, as www[1-300]";
        let base = context.ask(question, None, "HOSTS, or --base and --range")?;
        if base.contains(['[', ',']) || !context.interactive() {
            return Ok(base.parse::<HostSet>()?);
        }
        match context.ask("The numbers that follow it, as 1-300, or none", Some(NONE), "--range")?.as_str() {
            NONE => Ok(base.parse::<HostSet>()?),
            range => Ok(HostSet::from_base(&base, range)?),
        }
    }

    fn domain(&self, context: &Context, guided: bool) -> Result<Option<HostName>> {
        if let Some(domain) = &self.domain {
            return Ok(domain.clone().some());
        }
        let known = context.config.settings.dhcp.domain.as_deref();
        if guided {
            let answer = context.ask("Their domain, or none", Some(known.unwrap_or(NONE)), "--domain")?;
            return Ok(understood::<HostName>(&answer, "--domain")?.some());
        }
        known
            .map(|domain| {
                HostName::try_from(domain)
                    .with_context(|| format!("dhcp.domain in {}", context.config.settings_file().display()))
            })
            .transpose()
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

    fn macs(&self, context: &Context, guided: bool) -> Result<Macs> {
        let file = match &self.macs {
            Some(file) => file.clone(),
            None if guided => {
                let question = "File with their MAC addresses, lines host,mac, or none";
                context.ask(question, Some(NONE), "--macs")?.into()
            }
            None => NONE.into(),
        };
        if file == Path::new(NONE) {
            return Ok(Macs::new());
        }
        list(&file)
    }
}

fn list<T: Kind>(file: &Path) -> Result<List<T>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    declared_list::parse(file, &text).map_err(anyhow::Error::msg)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_or_none() {
        assert_eq!("none".parse::<OrNone<HostName>>().unwrap().some(), None);
        assert_eq!("example.org".parse::<OrNone<HostName>>().unwrap().some(), Some("example.org".parse().unwrap()));
        assert_eq!("10.0.0.1/8".parse::<OrNone<Network>>().unwrap().some(), Some("10.0.0.1/8".parse().unwrap()));
        let error = understood::<Network>("10.0.0.1", "--ip").unwrap_err().to_string();
        assert!(error.starts_with("\"10.0.0.1\": ") && error.ends_with("; answer with --ip"), "{error}");
    }
}
