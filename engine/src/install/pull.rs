//! Pulling the image into the target, through the chain of transports of the master file.
//!
//! The first transport that works moves the bulk; the last of the chain then leaves the tree exactly as
//! the image. With one transport both are the same pull. What the last one reports is judged: a file that
//! failed or vanished makes no complete install.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use systemimager_core::{BytePath, ErrorKind, PluginError, PullReport, PullRequest, Source, Transport};

use super::Site;

/// How long a pull is taken up again while the other side does not answer: a switch restarts, a server does.
const PATIENCE: Duration = Duration::from_secs(600);
/// The same before a disk is touched, where it may just as well be a packet filter.
const ASKING: Duration = Duration::from_secs(120);
/// The first pause between two tries, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A try that lasted longer than this had moved something: patience begins anew.
const MOVED: Duration = Duration::from_secs(60);
/// Names that an error lists.
const LISTED: usize = 5;

/// Asks each transport of the chain whether the server gives this machine the image, before a disk is
/// touched: by a dry run of one directory. One that works is enough; the last of a chain has to.
///
/// Returns those of the mount points that the image lacks, for [`pull`] to leave alone, as far as a transport
/// with dry runs could tell.
///
/// # Errors
/// The last transport does not get through, with its reason.
pub fn probe(site: &Site<'_>, image: &str, transports: &[String], points: &[BytePath]) -> Result<Vec<BytePath>> {
    // Nothing is mounted there yet: what a transport without dry runs leaves stays in memory, below the mount.
    std::fs::create_dir_all(&site.target).with_context(|| format!("making {}", site.target.display()))?;
    let mut absent = None;
    for (index, id) in transports.iter().enumerate() {
        let transport = site.registry.transport(id)?;
        let host = site.host.for_transport();
        let dry_run = transport.capabilities(&host, ())?.dry_run;
        let request = PullRequest {
            from: source(site, image),
            into: site.target.as_path().into(),
            only: Some(vec!["/etc".into()]),
            dry_run,
            ..PullRequest::default()
        };
        let last = index + 1 == transports.len();
        let asked = match last {
            // Its server may be restarting just now.
            true => pull_by(site, id, &request, ASKING).map(drop),
            false => transport.pull(&host, request).map(drop).map_err(anyhow::Error::new),
        };
        let asked = asked.and_then(|()| {
            if dry_run && absent.is_none() {
                absent = Some(lacking(site, transport, image, points)?);
            }
            Ok(())
        });
        match asked {
            Ok(()) => {}
            Err(error) if last => {
                return Err(error.context(format!(
                    "the image {image} cannot be had from {} by {id}; no disk was touched",
                    site.server
                )));
            }
            Err(error) => tracing::warn!("transport {id} does not get through, the next one will be used: {error:#}"),
        }
    }
    Ok(absent.unwrap_or_default())
}

/// The mount points that the image does not have. A pull that deletes would try to remove them, and fail
/// on what is mounted there.
fn lacking(
    site: &Site<'_>,
    transport: &dyn Transport,
    image: &str,
    points: &[BytePath],
) -> systemimager_core::Result<Vec<BytePath>> {
    let host = site.host.for_transport();
    let unready = |error: std::io::Error| {
        systemimager_core::PluginError::new(ErrorKind::Failed, format!("making a temporary directory: {error}"))
    };
    let mut absent = Vec::new();
    for point in points {
        // Into an empty directory: there all that the image has is new, and so is told.
        let empty = tempfile::tempdir_in(&site.target).map_err(unready)?;
        let report = transport.pull(
            &host,
            PullRequest {
                from: source(site, image),
                into: empty.path().into(),
                only: Some(vec![point.clone()]),
                // The directory itself is asked for, not the thousands of files below it.
                exclude: vec![literal(point).join("*")],
                dry_run: true,
                ..PullRequest::default()
            },
        )?;
        if !report.changes.iter().any(|change| change.path == *point) {
            tracing::warn!("the image {image} has no {point}; what is mounted there is left as it was made");
            absent.push(point.clone());
        }
    }
    Ok(absent)
}

/// A path as a pattern that matches only itself.
fn literal(path: &BytePath) -> BytePath {
    let mut bytes = path.as_bytes();
    while let [head @ .., b'/'] = bytes {
        bytes = head;
    }
    let mut pattern = Vec::with_capacity(bytes.len());
    for byte in bytes {
        if matches!(byte, b'*' | b'?' | b'[' | b'\\') {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    BytePath::new(pattern)
}

fn source(site: &Site<'_>, image: &str) -> Source {
    Source { server: site.server.clone(), port: None, export: image.to_owned(), secret: None }
}

/// Pulls `image` into the target. `absent` are mount points that the image lacks: they and what is below
/// them stay.
///
/// # Errors
/// No transport works (each with its reason), or files could not be read on the server, or vanished there
/// while they were pulled, twice.
pub fn pull(site: &Site<'_>, image: &str, transports: &[String], into: &BytePath, absent: &[BytePath]) -> Result<()> {
    let (mut refused, mut full) = (Vec::new(), false);
    let Some(last) = transports.last() else { bail!("the master file names no transport") };
    let request = PullRequest {
        from: source(site, image),
        into: into.clone(),
        delete: true,
        exclude: absent.iter().map(literal).collect(),
        ..PullRequest::default()
    };
    for id in transports {
        match pull_by(site, id, &request, PATIENCE) {
            Ok(report) if id == last => return complete(site, id, &request, report),
            Ok(_) => {
                let report = pull_by(site, last, &request, PATIENCE)
                    .with_context(|| format!("reconciling by {last} after the pull by {id}"))?;
                return complete(site, last, &request, report);
            }
            Err(error) => {
                tracing::warn!("transport {id}: {error:#}");
                full |= error.downcast_ref::<PluginError>().is_some_and(|it| it.kind == ErrorKind::NoSpace);
                refused.push(format!("{id}: {error:#}"));
            }
        }
    }
    let advice = match full {
        true => {
            "; give its partitions more room in the master file or take files out of the image, then let the install go on"
        }
        false => "",
    };
    bail!("the image {image} could not be pulled from {}: {}{advice}", site.server, refused.join("; "))
}

/// Judges a report. What vanished may have been replaced just then: one more pull tells.
fn complete(site: &Site<'_>, id: &str, request: &PullRequest, mut report: PullReport) -> Result<()> {
    if report.failed.is_empty() && !report.vanished.is_empty() {
        tracing::warn!("{} files vanished while they were pulled by {id}; pulling again", report.vanished.len());
        report = pull_by(site, id, request, PATIENCE).context("pulling again after files vanished")?;
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
             see that nobody changes the image, and install again",
            report.vanished.len(),
            request.from.server
        );
    }
    Ok(())
}

/// Pulls by one transport, and takes it up again while the server is away, at most for `patience`.
fn pull_by(site: &Site<'_>, id: &str, request: &PullRequest, patience: Duration) -> Result<PullReport> {
    let transport = site.registry.transport(id)?;
    let host = site.host.for_transport();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_patterns_of_themselves() {
        for (path, expected) in [("/data", "/data"), ("/a*b", "/a\\*b"), ("/a[1]?\\", "/a\\[1]\\?\\\\"), ("/x/", "/x")]
        {
            assert_eq!(literal(&path.into()), BytePath::from(expected), "{path}");
        }
    }
}
