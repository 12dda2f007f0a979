//! Which plugin a command uses when none is named.

use anyhow::{Result, bail};
use systemimager_engine::host::Secrets;

use crate::context::Context;

/// The transport that is named; without a name the only one there is, or the only one that works without keys.
///
/// # Errors
/// There is none of that name, none at all, or a choice.
pub fn transport(context: &Context, named: Option<&str>) -> Result<String> {
    let registry = context.registry()?;
    if let Some(id) = named {
        registry.transport(id)?;
        return Ok(id.to_owned());
    }
    let host = context.host(Secrets::default());
    let (mut plain, mut all) = (Vec::new(), Vec::new());
    for (id, transport) in registry.transports() {
        all.push(id);
        if !transport.capabilities(&host, ())?.encrypted {
            plain.push(id);
        }
    }
    match (all.as_slice(), plain.as_slice()) {
        ([id], _) | (_, [id]) => Ok((*id).to_owned()),
        ([], _) => bail!("there is no transport plugin; put one into the plugin directory"),
        (several, _) => bail!("there are several transports ({}); name one with --transport", several.join(", ")),
    }
}
