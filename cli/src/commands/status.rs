//! `status`: the machines that reported, the orders, and how far installs are.

use anyhow::Result;
use systemimager_engine::serve::machines::read_all;
use systemimager_engine::serve::{parts, sessions};
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::orders;

use super::rows;
use super::watch::{Until, Watch};
use crate::context::Context;

/// Show machines, orders, and how far installs are
///
/// Reads what `serve` writes down, whether it runs or not; progress may be five seconds old. A machine that should be at work
/// and was not heard for `server.stalled_after` seconds is STALLED.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  systemimager status\n  systemimager status 'www[1-20]' --watch\n  systemimager status --json"
)]
pub struct Status {
    /// Only these machines; sets such as www[1-300] too
    #[arg(value_name = "HOSTS")]
    hosts: Vec<String>,
    /// Also the last lines of each machine's log
    #[arg(long)]
    log: bool,
    /// Show changes as they come, until interrupted
    #[arg(short, long, conflicts_with = "log")]
    watch: bool,
}

impl Status {
    /// Prints the table.
    pub fn run(self, context: &Context) -> Result<()> {
        let hosts = HostSet::from_words(self.hosts.iter().map(String::as_str))?;
        if self.watch {
            return Watch { hosts, until: Until::Interrupted }.run(context);
        }
        if context.json {
            let mut machines = read_all(&context.config)?;
            let mut orders = orders::list(&context.config)?;
            if !hosts.is_empty() {
                machines.retain(|machine| machine.host.as_ref().is_some_and(|host| hosts.hosts().contains(host)));
                orders.retain(|order| hosts.hosts().contains(&order.host));
            }
            // Not the tokens: what is printed is copied into mails.
            orders.iter_mut().for_each(|order| order.token.clear());
            let troubled = parts::troubled(&context.config)?;
            return context.answer(&serde_json::json!({
                "machines": machines, "orders": orders, "server": troubled, "sessions": sessions::all(&context.config),
            }));
        }
        for part in parts::troubled(&context.config)? {
            context.say(format_args!("the image server: {part}"));
        }
        rows::print(context, &rows::all(&context.config, &hosts)?, self.log);
        if hosts.is_empty() {
            super::receivers::print(context, &sessions::all(&context.config));
        }
        Ok(())
    }
}
