//! `revoke`: the keys of machines open nothing any more.

use anyhow::Result;
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::machine_keys;
use systemimager_engine::store::orders::Orders;

use crate::context::Context;

/// Take from machines what their keys open: the image, to be updated or installed
///
/// A machine that was installed has a key of its own, by which it may have its image where that goes over ssh. Once it is
/// revoked the machine is refused, at once, until it is installed anew. A pull that goes on is not cut.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager revoke www3\n  systemimager revoke 'www[1-20]'")]
pub struct Revoke {
    /// Machines, or sets such as www[1-20]
    #[arg(value_name = "HOSTS", required = true)]
    hosts: Vec<String>,
}

impl Revoke {
    /// Revokes all.
    pub fn run(self, context: &Context) -> Result<()> {
        let hosts = HostSet::from_words(self.hosts.iter().map(String::as_str))?;
        let orders = Orders::hold(&context.config)?;
        let mut revoked = Vec::new();
        for host in hosts.hosts() {
            let mut had = machine_keys::remove(&context.config, host)?;
            if let Some(mut order) = orders.get(host)?
                && order.key.take().is_some()
            {
                orders.put(&order)?;
                had = true;
            }
            match had {
                true => {
                    context.say(format_args!("{host}: its key opens nothing any more"));
                    revoked.push(host);
                }
                false => context.say(format_args!("{host}: had no key")),
            }
        }
        context.answer(&serde_json::json!({ "revoked": revoked }))
    }
}
