//! One pull, from the knock to the end.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use systemimager_core::{ErrorKind, Level, PluginError, PullReport, PullRequest};

use super::compare;
use super::network::{self, Session, lost, over};
use super::plan::Plan;
use super::scan;
use super::talk;
use super::target::Target;
use super::verify;
use crate::pack::manifest::Manifest;
use crate::tree::Dir;
use crate::wire::channel;
use crate::wire::key;
use crate::wire::message::{Said, Told, Welcome};

/// Longest that a connection may take to come about.
const CONNECT: u32 = 30;
/// Largest manifest that is taken, bytes: it is kept in memory. One of a million files has 60 MB.
const MANIFEST_MAX: u64 = 48 << 20;
/// Blocks between two looks at the clock.
const LOOK: u32 = 64;

/// Pulls what was asked for, with this private key. Without a directory that exists nothing is done.
///
/// # Errors
/// As [`Transport::pull`](systemimager_core::Transport::pull).
pub fn pull(request: PullRequest, identity: &str) -> Result<PullReport, PluginError> {
    let (welcome, manifest, reading, writing) = knock(&request, identity)?;
    let (files, bytes) = manifest.files();
    let root = manifest.root();
    let top = Dir::open(request.into.as_path())
        .map_err(|error| PluginError::failed(format!("opening {}: {error}", request.into)))?;
    let again = || {
        Dir::open(request.into.as_path())
            .map_err(|error| PluginError::failed(format!("opening {}: {error}", request.into)))
    };
    let plan = Plan::new(Arc::new(manifest), request.clone());
    if request.dry_run {
        return compare::changes(&plan, &top);
    }
    let target = Arc::new(Target::new(top, plan));
    let mut session = Session { reading, writing, welcome };
    let done = prepare(&target, &request, &mut session);
    let needs = match done {
        Ok(needs) => needs,
        Err(error) => {
            let _ = session.writing.message(&Said::Failed(error.to_string()).write());
            return Err(error);
        }
    };
    let mut had = network::get(session, &target, needs)?;
    let received = had.received;
    let mut last = Instant::now();
    let mut finish = || {
        target.complete(&mut || {
            had.heartbeat(&mut last);
            Ok(())
        })?;
        verify::wrong(&target.plan, &again()?, &mut || {
            had.heartbeat(&mut last);
            Ok(())
        })
    };
    match finish() {
        Ok(failed) => {
            let (transferred, deleted) = target.counts();
            let said = match failed.first() {
                None => Said::Done(root),
                Some(first) => Said::Failed(format!("{} is not as in the image: {}", first.path, first.why)),
            };
            had.end(&said);
            Ok(PullReport { files, bytes, received, transferred, deleted, failed, ..PullReport::default() })
        }
        Err(error) => {
            had.end(&Said::Failed(error.to_string()));
            Err(error)
        }
    }
}

/// Makes what has no contents, and looks at what is there already.
fn prepare(target: &Target, request: &PullRequest, session: &mut Session) -> Result<crate::bits::Bits, PluginError> {
    target.prepare()?;
    let basis = match &request.basis {
        Some(basis) => {
            Some(Dir::open(basis.as_path()).map_err(|error| PluginError::failed(format!("opening {basis}: {error}")))?)
        }
        None => None,
    };
    let mut last = Instant::now();
    scan::lacking(target, basis.as_ref(), &mut |block| {
        if block % LOOK == 0 && last.elapsed() > Duration::from_secs(1) {
            last = Instant::now();
            session.writing.message(&Said::still_here().write()).map_err(|error| lost(&error))?;
        }
        Ok(())
    })
}

type Knocked = (Welcome, Manifest, channel::Reading, channel::Writing);

fn knock(request: &PullRequest, identity: &str) -> Result<Knocked, PluginError> {
    let from = &request.from;
    let lacks = |what: &str| {
        PluginError::new(
            ErrorKind::Denied,
            format!("{what} is known for {}; without it nothing is asked for", from.server),
        )
    };
    let own = key::own(identity).map_err(|_| lacks("no key of one's own"))?;
    let sender = key::public(from.host_key.as_deref().ok_or_else(|| lacks("no key of the other side"))?)?;
    let port = from.port.unwrap_or(crate::PORT);
    let stream = connect(&from.server, port, request.timeout_secs.clamp(1, CONNECT))?;
    let unreachable =
        |error: io::Error| PluginError::new(ErrorKind::Unreachable, format!("{} port {port}: {error}", from.server));
    stream.set_nodelay(true).map_err(unreachable)?;
    // The sender says something every ten seconds, whatever it does.
    let patience = Duration::from_secs(request.timeout_secs.max(25).into());
    stream.set_read_timeout(Some(patience)).map_err(unreachable)?;
    stream.set_write_timeout(Some(patience)).map_err(unreachable)?;
    let hello = Said::Hello { export: from.export.clone(), has: None }.write();
    let (mut reading, writing) = channel::knock(stream, &own, &sender, &hello).map_err(|error| {
        PluginError::new(
            ErrorKind::Denied,
            format!(
                "{} port {port} does not answer as the server whose key is known here ({error}); if its key was made anew, this \
                 machine has to learn it: for media and for network boot, `systemimager mkinitrd`",
                from.server
            ),
        )
    })?;
    let mut next = || -> Result<Told, PluginError> {
        let message = reading.message().map_err(|error| lost(&error))?;
        Told::read(&message).map_err(|why| PluginError::failed(format!("the sender says what it cannot say: {why}")))
    };
    let mut waited = false;
    let welcome = loop {
        match next()? {
            Told::Welcome(welcome) => break welcome,
            Told::Over(why, words) => return Err(over(why, &words)),
            Told::Wait if !waited => {
                waited = true;
                talk::log(Level::Info, "the sender makes the image's manifest; this waits for it");
            }
            _ => {}
        }
    };
    let (size, compressed) = welcome.manifest;
    if size > MANIFEST_MAX || compressed > MANIFEST_MAX {
        return Err(PluginError::unsupported(format!(
            "the image has so many files that its manifest takes {} MB of memory; have it brought by another transport",
            size / 1_000_000
        )));
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < compressed {
        match next()? {
            Told::Manifest(more) => bytes.extend_from_slice(&more),
            Told::Over(why, words) => return Err(over(why, &words)),
            _ => {}
        }
    }
    let wrong = || PluginError::failed("the manifest that came is not the one that was announced");
    let plain = zstd::bulk::decompress(&bytes, usize::try_from(size).unwrap_or(usize::MAX)).map_err(|_| wrong())?;
    let manifest =
        Manifest::parse(plain).map_err(|why| PluginError::failed(format!("the manifest that came: {why}")))?;
    if manifest.root() != welcome.root {
        return Err(wrong());
    }
    Ok((welcome, manifest, reading, writing))
}

fn connect(server: &str, port: u16, patience: u32) -> Result<TcpStream, PluginError> {
    let unreachable = |error: &io::Error| {
        PluginError::new(
            ErrorKind::Unreachable,
            format!(
                "{server} port {port} is not to be reached: {error}; see that the image server runs and offers this image"
            ),
        )
    };
    let addresses = (server, port).to_socket_addrs().map_err(|error| unreachable(&error))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, Duration::from_secs(patience.into())) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(unreachable(&last))
}
