//! A pull that outlasts a server that is away for a while, and is judged: a file that failed or vanished makes nothing
//! complete. What is pulled, and into what, its callers say.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use systemimager_core::{ErrorKind, PluginError, PullReport, PullRequest, Registry};

use crate::host::EngineHost;

/// How long a pull that moved something is taken up again: a switch restarts, a server does.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// The first pause between two tries, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A try that lasted longer than this had moved something: patience begins anew.
const MOVED: Duration = Duration::from_secs(60);
/// Names that an error lists.
const LISTED: usize = 5;

/// Judges a report. What vanished may have been replaced just then: one more pull tells.
///
/// # Errors
/// What could not be pulled, or vanished twice.
pub fn complete(
    registry: &Registry,
    host: &EngineHost,
    id: &str,
    request: &PullRequest,
    mut report: PullReport,
) -> Result<PullReport> {
    if report.failed.is_empty() && !report.vanished.is_empty() {
        tracing::warn!("{} files vanished while they were pulled by {id}; pulling again", report.vanished.len());
        report = pull(registry, host, id, request, PATIENCE).context("pulling again after files vanished")?;
    }
    let list = |names: &mut dyn Iterator<Item = String>| names.take(LISTED).collect::<Vec<_>>().join(", ");
    if !report.failed.is_empty() {
        let names = list(&mut report.failed.iter().map(|it| format!("{} ({})", it.path, it.why)));
        bail!("{} files could not be pulled by {id}: {names}", report.failed.len());
    }
    if !report.vanished.is_empty() {
        let names = list(&mut report.vanished.iter().map(ToString::to_string));
        bail!(
            "{} files vanished on {} while they were pulled by {id}, twice: {names}; \
             see that nobody changes the image, and try again",
            report.vanished.len(),
            request.from.server
        );
    }
    Ok(report)
}

/// Pulls and judges what came: what is there afterwards is what was asked for.
///
/// # Errors
/// As [`pull`] and [`complete`].
pub fn exact(
    registry: &Registry,
    host: &EngineHost,
    id: &str,
    request: &PullRequest,
    patience: Duration,
) -> Result<PullReport> {
    let report = pull(registry, host, id, request, patience)?;
    complete(registry, host, id, request, report)
}

/// Has it told what a pull would bring, all of it: as a dry run into a directory in which there is nothing, made in
/// `scratch` meanwhile.
///
/// # Errors
/// That of `pull`; or the directory cannot be made.
pub fn into_nothing<E: From<PluginError>>(
    scratch: &Path,
    request: PullRequest,
    pull: impl FnOnce(PullRequest) -> Result<PullReport, E>,
) -> Result<PullReport, E> {
    let empty = tempfile::tempdir_in(scratch)
        .map_err(|error| PluginError::new(ErrorKind::Failed, format!("making a temporary directory: {error}")))?;
    pull(PullRequest { into: empty.path().into(), dry_run: true, ..request })
}

/// Pulls by one transport, and takes it up again while the server is away, at most for `patience`.
///
/// # Errors
/// The transport is not there, or does not get through.
pub fn pull(
    registry: &Registry,
    host: &EngineHost,
    id: &str,
    request: &PullRequest,
    patience: Duration,
) -> Result<PullReport> {
    let transport = registry.transport(id)?;
    let host = host.for_transport(registry, id);
    let resumes = transport.capabilities(&host, ())?.resume;
    let (mut pause, longest) = PAUSES;
    let mut away = Instant::now();
    loop {
        let begun = Instant::now();
        match transport.pull(&host, request.clone()) {
            Ok(report) => return Ok(report),
            Err(error) if error.kind == ErrorKind::Unreachable && resumes => {
                if begun.elapsed() >= MOVED {
                    (pause, away) = (PAUSES.0, Instant::now());
                }
                if away.elapsed() + pause > patience {
                    return Err(anyhow::Error::new(error).context(format!(
                        "{} was not to be reached for {} minutes",
                        request.from.server,
                        patience.as_secs() / 60
                    )));
                }
                tracing::warn!("{error}; taking the pull up again in {} s", pause.as_secs());
                // No event tells when another machine is back.
                std::thread::sleep(pause);
                pause = (pause * 2).min(longest);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
