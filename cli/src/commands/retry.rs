//! `retry`: let machines go on that failed or stopped at a break point.

use anyhow::{Result, bail};
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::orders::{Orders, Stage};

use super::watch::{Until, Watch};
use crate::context::Context;

/// Let installs go on that failed, or that stopped at a break point
///
/// A machine that waits begins again at the phase that failed where that is safe, and otherwise at the start. One that was
/// switched off begins at the start by itself when it boots over the network.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager retry www3 --watch\n  systemimager retry 'www[1-20]'\n\n\
    Exit codes with --watch: 0 all are installed, 3 one failed or stopped.")]
pub struct Retry {
    /// Machines, or sets such as www[1-20]
    #[arg(value_name = "HOSTS", required = true)]
    hosts: Vec<String>,
    /// Show how far they are until all are installed or one fails
    #[arg(long)]
    watch: bool,
}

impl Retry {
    /// Checks all, then lets all go on.
    pub fn run(self, context: &Context) -> Result<()> {
        let hosts = HostSet::from_words(self.hosts.iter().map(String::as_str))?;
        {
            let held = Orders::hold(&context.config)?;
            let mut wait = Vec::new();
            let mut not = Vec::new();
            for host in hosts.hosts() {
                match held.get(host)? {
                    None => not.push(format!("{host} has no order; order one with: systemimager install {host}")),
                    Some(order) => match order.stage.clone() {
                        Stage::Stopped { mac, boot } => wait.push((order, mac, boot)),
                        Stage::Ordered => {
                            not.push(format!("{host} has not begun; it does when it boots over the network"))
                        }
                        Stage::Begun { .. } => not.push(format!(
                            "{host} is being installed just now; if it is dead, start it again: it begins anew when it boots \
                             over the network"
                        )),
                        Stage::GoOn { .. } => not.push(format!(
                            "{host} was told to go on and has not answered yet; if it is dead, start it again: it begins anew \
                             when it boots over the network"
                        )),
                    },
                }
            }
            if wait.is_empty() {
                bail!("{}", not.join("\n"));
            }
            not.iter().for_each(|line| context.say(line));
            let mut going = Vec::new();
            for (mut order, mac, boot) in wait {
                order.stage = Stage::GoOn { mac, boot };
                held.put(&order)?;
                context.say(format_args!("{}: goes on", order.host));
                going.push(order.host);
            }
            context.answer(&serde_json::json!({ "going-on": going, "not": not }))?;
        }
        if !self.watch {
            return Ok(());
        }
        Watch { hosts, until: Until::Installed }.run(context)
    }
}
