//! Which plugin a command uses when none is named.

use anyhow::{Result, bail};
use systemimager_core::Registry;

/// The transport that is named; without a name the only one there is.
///
/// # Errors
/// There is none of that name, none at all, or a choice.
pub fn transport(registry: &Registry, named: Option<&str>) -> Result<String> {
    if let Some(id) = named {
        registry.transport(id)?;
        return Ok(id.to_owned());
    }
    let all = registry.transports();
    match all.as_slice() {
        [(id, _)] => Ok((*id).to_owned()),
        [] => bail!("there is no transport plugin; put one into the plugin directory"),
        several => {
            let ids: Vec<&str> = several.iter().map(|(id, _)| *id).collect();
            bail!("there are several transports ({}); name one with --transport", ids.join(", "))
        }
    }
}
