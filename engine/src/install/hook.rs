//! Running a site's hooks: what they print is said line by line, and their exit status decides.
//!
//! They are programs of the image server that came with the image's bundle, named by their hashes; nothing else runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use systemimager_core::HookName;

use super::steps::run;
use crate::sys::Cmd;
use crate::sys::target_env::InTarget;

/// How long a hook before an install may take.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// A hook to be run.
pub struct Hook<'a> {
    /// Its name.
    pub name: &'a HookName,
    /// Where it lies on this machine.
    pub program: &'a Path,
    /// Variables of its environment.
    pub environment: &'a BTreeMap<String, String>,
    /// Whether its failure is ours.
    pub required: bool,
}

/// Runs a hook on this machine, in the miniature system.
///
/// # Errors
/// It failed or took longer than twenty minutes, and is required.
pub fn here(hook: &Hook<'_>, server: &str, say: &mut dyn FnMut(String)) -> Result<()> {
    let cmd = told(Cmd::argv([hook.program])?.own_group(), hook, server).timeout(LIMIT);
    judge(hook, run(&cmd, say))
}

/// Runs a hook inside the target. It lies there only meanwhile, where the installed system does not see it.
///
/// # Errors
/// As [`here`], within `limit`.
pub(super) fn in_target(
    hook: &Hook<'_>,
    server: &str,
    target: &InTarget,
    limit: Duration,
    say: &mut dyn FnMut(String),
) -> Result<()> {
    // This machine's /run is that of the target too.
    let place =
        tempfile::Builder::new().prefix("systemimager-hook-").tempdir_in("/run").context("making room for it")?;
    let program = place.path().join(hook.name.as_str());
    std::fs::copy(hook.program, &program)
        .with_context(|| format!("bringing the hook {} into the target", hook.program.display()))?;
    let cmd = told(target.command([&program])?, hook, server).timeout(limit);
    judge(hook, run(&cmd, say))
}

fn told(cmd: Cmd, hook: &Hook<'_>, server: &str) -> Cmd {
    hook.environment.iter().fold(cmd.env("SI_SERVER", server), |cmd, (name, value)| cmd.env(name, value))
}

fn judge(hook: &Hook<'_>, result: Result<()>) -> Result<()> {
    let Err(error) = result else { return Ok(()) };
    let error = error.context(format!("the hook {} failed", hook.name));
    if hook.required {
        return Err(error.context(
            "the master file says that the install stops where it fails; mend it, or say on_failure = \"warn\" there",
        ));
    }
    tracing::warn!("{error:#}; the master file says that the install goes on");
    Ok(())
}
