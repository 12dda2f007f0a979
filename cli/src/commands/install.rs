//! `install`: order installs. The machines carry them out when they next boot over the network.

use anyhow::Result;
use systemimager_core::{HostName, ImageName};
use systemimager_engine::report::BreakPoint;
use systemimager_engine::store::clients::check_image;
use systemimager_engine::store::host_links::{self, Linked};
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::orders::{self, Ordered};

use super::watch::{Until, Watch};
use crate::context::Context;

/// Order an install of machines, each carried out once
///
/// A machine takes its order up when it boots over the network next; without one it starts from its own disk. The order goes
/// when the machine is installed and stays when that fails. Everything on the disks that the master file names is overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager install 'www[1-20]' --watch\n  \
    systemimager install www3 --image web-v2\n  systemimager install www3 --break before-partition\n  systemimager install www3 --for 2h\n\n\
    Exit codes with --watch: 0 all are installed, 3 one failed or stopped.")]
pub struct Install {
    /// Machines, or sets such as www[1-20]
    #[arg(value_name = "HOSTS", required = true)]
    hosts: Vec<String>,
    /// Give them this image from now on
    #[arg(long, value_name = "NAME")]
    image: Option<ImageName>,
    /// Stop there for a person: before-partition, before-pull, before-boot, before-reboot, …
    #[arg(long = "break", value_name = "POINT")]
    breaks: Vec<BreakPoint>,
    /// Also give the image to machines that have a master file of their own
    #[arg(long, requires = "image")]
    force: bool,
    /// Take the order back by itself after this time: 2h, 30min, 1day
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<std::time::Duration>,
    /// Show how far they are until all are installed or one fails
    #[arg(long)]
    watch: bool,
}

impl Install {
    /// Orders; then watches, if asked.
    pub fn run(self, context: &Context) -> Result<()> {
        let hosts = HostSet::from_words(self.hosts.iter().map(String::as_str))?;
        if let Some(image) = &self.image {
            self.link(context, hosts.hosts(), image)?;
        }
        let until = self.time.map(|time| orders::now().saturating_add(time.as_secs()));
        let done = orders::order(&context.config, hosts.hosts(), &self.breaks, until)?;
        context.answer(&serde_json::json!({ "ordered": done }))?;
        for (host, did) in &done {
            context.say(match did {
                Ordered::Made => format!("{host}: ordered; it begins when {host} next boots over the network"),
                Ordered::Already => format!("{host}: was ordered already"),
                Ordered::GoesOn => format!("{host}: goes on with its order"),
                Ordered::UnderWay => format!("{host}: is being installed just now"),
            });
        }
        if !self.watch {
            return Ok(());
        }
        Watch { hosts, until: Until::Installed }.run(context)
    }

    /// All are looked at before one is changed.
    fn link(&self, context: &Context, hosts: &[HostName], image: &ImageName) -> Result<()> {
        let config = &context.config;
        check_image(config, image)?;
        for host in hosts {
            if host_links::would_set(config, host, image, self.force)? == Linked::Kept {
                anyhow::bail!("{host} has a master file of its own; edit it, or replace it with --force");
            }
        }
        for host in hosts {
            if let Linked::Changed { from } = host_links::set(config, host, image, self.force)? {
                context.say(format_args!("{host} had the image {from} before"));
            }
        }
        Ok(())
    }
}
