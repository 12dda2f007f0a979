//! Laying overrides over the image that was pulled, by the transport that made it exact.

use anyhow::Result;
use systemimager_core::{OverrideName, PullRequest};

use super::Site;
use super::pull::source;
use crate::overrides::Wire;
use crate::transfer::PATIENCE;

/// Brings what these overrides hold into the target. What is there is found out anew: since the plan was made somebody may
/// have changed them.
///
/// # Errors
/// They do not fit the image any more, or cannot be had.
pub fn lay_over(site: &Site<'_>, overrides: &[OverrideName], image: &str, transport: &str) -> Result<()> {
    let wire =
        Wire { registry: site.registry, host: site.host, transport, image: source(site, image), patience: PATIENCE };
    for layer in wire.look(overrides)? {
        let request = PullRequest {
            into: site.target.as_path().into(),
            only: Some(layer.paths.clone()),
            ..PullRequest::default()
        };
        wire.bring(&layer, request)?;
    }
    Ok(())
}
