//! Pulling the image into the target, through the chain of transports of the master file.
//!
//! The first transport that works moves the bulk; the last of the chain then leaves the tree exactly as
//! the image. With one transport both are the same pull.

use anyhow::{Context, Result, bail};
use systemimager_core::{BytePath, PullReport, PullRequest, Source};

use super::Site;

/// How often a pull is taken up again after the other side went away.
const RESUMES: u32 = 3;

/// Asks each transport of the chain whether the server gives this machine the image, before a disk is
/// touched: by a dry run of one directory. One that works is enough; the last of a chain has to.
///
/// # Errors
/// The last transport does not get through, with its reason.
pub fn probe(site: &Site<'_>, image: &str, transports: &[String]) -> Result<()> {
    // Nothing is mounted there yet: what a transport without dry runs leaves stays in memory, below the mount.
    std::fs::create_dir_all(&site.target).with_context(|| format!("making {}", site.target.display()))?;
    for (index, id) in transports.iter().enumerate() {
        let transport = site.registry.transport(id)?;
        let host = site.host.for_transport();
        let request = PullRequest {
            from: source(site, image),
            into: site.target.as_path().into(),
            only: Some(vec!["/etc".into()]),
            dry_run: transport.capabilities(&host, ())?.dry_run,
            ..PullRequest::default()
        };
        match transport.pull(&host, request) {
            Ok(_) => {}
            Err(error) if index + 1 == transports.len() => {
                return Err(anyhow::Error::new(error).context(format!(
                    "the image {image} cannot be had from {} by {id}; no disk was touched",
                    site.server
                )));
            }
            Err(error) => tracing::warn!("transport {id} does not get through, the next one will be used: {error}"),
        }
    }
    Ok(())
}

fn source(site: &Site<'_>, image: &str) -> Source {
    Source { server: site.server.clone(), port: None, export: image.to_owned(), secret: None }
}

/// Pulls `image` into the target.
///
/// # Errors
/// No transport works (each with its reason), or files could not be read on the server.
pub fn pull(site: &Site<'_>, image: &str, transports: &[String], into: &BytePath) -> Result<()> {
    let mut refused = Vec::new();
    let Some(last) = transports.last() else { bail!("the master file names no transport") };
    for id in transports {
        match pull_by(site, image, id, into) {
            Ok(report) => {
                complete(id, &report)?;
                if id != last {
                    let report = pull_by(site, image, last, into)
                        .with_context(|| format!("reconciling by {last} after the pull by {id}"))?;
                    complete(last, &report)?;
                }
                return Ok(());
            }
            Err(error) => {
                tracing::warn!("transport {id}: {error:#}");
                refused.push(format!("{id}: {error:#}"));
            }
        }
    }
    bail!("the image {image} could not be pulled from {}: {}", site.server, refused.join("; "))
}

fn complete(id: &str, report: &PullReport) -> Result<()> {
    if report.failed.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = report.failed.iter().take(5).map(|it| format!("{} ({})", it.path, it.why)).collect();
    bail!("{} files could not be pulled by {id}: {}", report.failed.len(), list.join(", "))
}

fn pull_by(site: &Site<'_>, image: &str, id: &str, into: &BytePath) -> Result<PullReport> {
    let transport = site.registry.transport(id)?;
    let host = site.host.for_transport();
    let resumes = transport.capabilities(&host, ())?.resume;
    let request = PullRequest {
        from: source(site, image),
        into: into.clone(),
        delete: true,
        ..PullRequest::default()
    };
    let mut tries = 0;
    loop {
        match transport.pull(&host, request.clone()) {
            Ok(report) => return Ok(report),
            Err(error) if error.kind == systemimager_core::ErrorKind::Unreachable && resumes && tries < RESUMES => {
                tries += 1;
                tracing::warn!("{error}; taking the pull up again ({tries} of {RESUMES})");
            }
            Err(error) => return Err(error.into()),
        }
    }
}
