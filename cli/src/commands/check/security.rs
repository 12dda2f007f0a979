//! `check --security`: what the server has open to whom, in words.

use anyhow::{Result, bail};
use systemimager_engine::account;
use systemimager_engine::host::Secrets;
use systemimager_engine::serve::{exports, exposure};
use systemimager_engine::store::clients::declared;
use systemimager_engine::store::master::Master;

use super::ANY;
use crate::context::Context;

/// Lists it.
///
/// # Errors
/// Something can be changed or read by others than root; or it cannot be found out.
pub fn run(context: &Context) -> Result<()> {
    let config = &account::settle(&context.config)?;
    let registry = context.registry()?;
    let host = context.host(Secrets::default());
    let clients = declared(config)?;
    let masters: Vec<Master> = exports::masters(config)?.good.into_iter().map(|(_, master)| master).collect();
    let services = exports::services(config, registry, &host, &masters, &clients, ANY);
    let mut found = exposure::look(config, registry, &host, &clients, &masters, &services)?;
    found.care.extend(services.faults);
    context.answer(&found)?;
    for opening in &found.openings {
        context.say(format_args!(
            "{}\n    by    {}\n    to    {}\n    wire  {}",
            opening.what, opening.by, opening.to, opening.wire
        ));
    }
    found.care.iter().for_each(|line| context.say(format_args!("CARE  {line}")));
    found.wrong.iter().for_each(|line| context.say(format_args!("NO    {line}")));
    match found.wrong.len() {
        0 => Ok(()),
        1 => bail!("one thing is open that must not be"),
        several => bail!("{several} things are open that must not be"),
    }
}
