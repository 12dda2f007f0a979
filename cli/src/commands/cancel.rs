//! `cancel`: take orders back that no machine has begun.

use anyhow::{Result, bail};
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::orders::{Orders, Stage};

use crate::context::Context;

/// Take back orders of installs
///
/// Nothing is cancelled if one of the machines has begun: its disk is being written, and stopping there leaves it dead.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager cancel 'www[1-20]'\n  systemimager cancel www3 --force")]
pub struct Cancel {
    /// Machines, or sets such as www[1-20]
    #[arg(value_name = "HOSTS", required = true)]
    hosts: Vec<String>,
    /// Also forget orders that were begun; such a machine ends its install, but reports of it are no longer taken
    #[arg(long)]
    force: bool,
}

impl Cancel {
    /// Checks all, then removes all.
    pub fn run(self, context: &Context) -> Result<()> {
        let hosts = HostSet::from_words(self.hosts.iter().map(String::as_str))?;
        let orders = Orders::hold(&context.config)?;
        let mut begun = Vec::new();
        for host in hosts.hosts() {
            match orders.get(host) {
                Ok(Some(order)) if matches!(order.stage, Stage::Begun { .. } | Stage::GoOn { .. }) => {
                    begun.push(host.as_str())
                }
                // What is no order is to be cancelled all the same.
                _ => {}
            }
        }
        if !begun.is_empty() && !self.force {
            bail!(
                "{}: being installed just now, so nothing was cancelled; let it end, or use --force to forget the order",
                begun.join(", ")
            );
        }
        let mut cancelled = Vec::new();
        for host in hosts.hosts() {
            match orders.remove(host)? {
                true => {
                    context.say(format_args!("{host}: cancelled"));
                    cancelled.push(host);
                }
                false => context.say(format_args!("{host}: had no order")),
            }
        }
        context.answer(&serde_json::json!({ "cancelled": cancelled }))
    }
}
