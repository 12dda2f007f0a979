//! Pulling the image into the target, through the chain of transports of the master file.
//!
//! The first transport that works moves the bulk; the last of the chain then leaves the tree exactly as
//! the image. With one transport both are the same pull. What the last one reports is judged: a file that
//! failed or vanished makes no complete install.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use systemimager_core::{BytePath, ErrorKind, PluginError, PullRequest, Source, Transport};

use super::{Site, SiteKeys};
use crate::host::EngineHost;
use crate::transfer::{self, PATIENCE};
use crate::tree::pattern::{self, literal, trimmed};

/// The same before a disk is touched, where it may just as well be a packet filter.
const ASKING: Duration = Duration::from_secs(120);
/// How long a transport is taken up again that another stands in for.
const SHORT: Duration = Duration::from_secs(60);
/// Names that an error lists.
const LISTED: usize = 5;

/// Asks each transport of the chain whether the server gives this machine the image, before a disk is
/// touched: by a dry run of one directory. One that works is enough; the last of a chain has to.
///
/// Returns patterns of those of the mount points that the image lacks, for [`pull`] to leave alone, as far as a transport
/// with dry runs could tell. In `preserved`, mount points of what is preserved, the image must have nothing.
///
/// # Errors
/// The last transport does not get through, with its reason; the image has files where something is preserved.
pub fn probe(
    site: &Site<'_>,
    image: &str,
    transports: &[String],
    points: &[BytePath],
    preserved: &[BytePath],
) -> Result<Vec<BytePath>> {
    // Nothing is mounted there yet: what a transport without dry runs leaves stays in memory, below the mount.
    std::fs::create_dir_all(&site.target).with_context(|| format!("making {}", site.target.display()))?;
    let mut absent = None;
    for (index, id) in transports.iter().enumerate() {
        let transport = site.registry.transport(id)?;
        let host = site.host.for_transport(site.registry, id);
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
            true => transfer::pull(site.registry, site.host, id, &request, ASKING).map(drop),
            false => transport.pull(&host, request).map(drop).map_err(anyhow::Error::new),
        };
        let mut hidden = Vec::new();
        let asked = asked.and_then(|()| {
            if dry_run && absent.is_none() {
                let asked = Asked { site, transport, host: &host, image };
                hidden = below_preserved(&asked, preserved)?;
                absent = Some(lacking(&asked, points)?);
            }
            Ok(())
        });
        if !hidden.is_empty() {
            bail!("{}; no disk was touched", hidden.join("; "));
        }
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
    Ok(absent.unwrap_or_default().iter().map(literal).collect())
}

/// A transport of the chain that is asked for what an image has.
#[derive(Clone, Copy)]
struct Asked<'a> {
    site: &'a Site<'a>,
    transport: &'a dyn Transport,
    host: &'a EngineHost,
    image: &'a str,
}

/// Patterns of all that lies below mount points: what is preserved is not mounted there, and what an image has there would
/// lie hidden on the disk.
pub fn contents(points: &[BytePath]) -> Vec<BytePath> {
    points.iter().map(pattern::contents).collect()
}

/// What the image has at mount points of preserved file systems, as sentences. It would never be seen, and it may
/// be what somebody takes for the contents.
fn below_preserved(asked: &Asked<'_>, points: &[BytePath]) -> systemimager_core::Result<Vec<String>> {
    let image = asked.image;
    let mut said = Vec::new();
    for point in points {
        // A level is enough to tell, whatever lies below it.
        let changes = listed(asked, point, literal(point).join("*/*"))?;
        let mut names: Vec<String> = changes
            .iter()
            .filter(|path| path.as_bytes() != trimmed(point))
            .map(ToString::to_string)
            .filter(|path| !path.ends_with("/lost+found"))
            .collect();
        names.sort();
        if !names.is_empty() {
            let more = if names.len() > LISTED { ", …" } else { "" };
            names.truncate(LISTED);
            said.push(format!(
                "the image {image} has files at {point} ({}{more}), where a preserved file system is mounted, into which \
                 nothing is pulled: remove them from the image, or mount it elsewhere in the master file",
                names.join(", ")
            ));
        }
    }
    Ok(said)
}

/// What a pull of one path of the image into nothing would make, with this left out.
fn listed(asked: &Asked<'_>, path: &BytePath, exclude: BytePath) -> systemimager_core::Result<Vec<BytePath>> {
    let Asked { site, transport, host, image } = *asked;
    let request = PullRequest {
        from: source(site, image),
        only: Some(vec![path.clone()]),
        exclude: vec![exclude],
        ..PullRequest::default()
    };
    let report = transfer::into_nothing(&site.target, request, |request| transport.pull(host, request))?;
    let on_the_way = |at: &BytePath| at.as_bytes().starts_with(trimmed(path));
    Ok(report.changes.into_iter().map(|change| change.path).filter(on_the_way).collect())
}

/// The mount points that the image does not have. A pull that deletes would try to remove them, and fail
/// on what is mounted there.
fn lacking(asked: &Asked<'_>, points: &[BytePath]) -> systemimager_core::Result<Vec<BytePath>> {
    let image = asked.image;
    let mut absent = Vec::new();
    for point in points {
        // The directory itself is asked for, not the thousands of files below it.
        let found = listed(asked, point, pattern::contents(point))?;
        if !found.iter().any(|path| path.as_bytes() == trimmed(point)) {
            tracing::warn!("the image {image} has no {point}; what is mounted there is left as it was made");
            absent.push(point.clone());
        }
    }
    Ok(absent)
}

pub fn source(site: &Site<'_>, image: &str) -> Source {
    let source = Source { server: site.server.clone(), export: image.to_owned(), ..Source::default() };
    SiteKeys::of(site.keys.as_ref(), source)
}

/// Pulls `image` into the target. `left_alone` are patterns of what neither comes nor goes: mount points that the image
/// lacks, and what is below those of preserved file systems.
///
/// # Errors
/// No transport works (each with its reason), or files could not be read on the server, or vanished there
/// while they were pulled, twice.
pub fn pull(
    site: &Site<'_>,
    image: &str,
    transports: &[String],
    into: &BytePath,
    left_alone: &[BytePath],
) -> Result<()> {
    let (mut refused, mut full) = (Vec::new(), false);
    let Some(last) = transports.last() else { bail!("the master file names no transport") };
    let request = PullRequest {
        from: source(site, image),
        into: into.clone(),
        delete: true,
        exclude: left_alone.to_vec(),
        ..PullRequest::default()
    };
    for id in transports {
        // For one that another stands in for, it is not waited as long.
        let patience = if id == last { PATIENCE } else { SHORT };
        match transfer::pull(site.registry, site.host, id, &request, patience) {
            Ok(report) if id == last => {
                return transfer::complete(site.registry, site.host, id, &request, report).map(drop);
            }
            Ok(_) => {
                let report = transfer::pull(site.registry, site.host, last, &request, PATIENCE)
                    .with_context(|| format!("reconciling by {last} after the pull by {id}"))?;
                return transfer::complete(site.registry, site.host, last, &request, report).map(drop);
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
