//! rsync as the side that pulls: started through the host, read as it prints, told to stop.

use systemimager_core::host::run_to_end;
use systemimager_core::{Capabilities, ErrorKind, Exit, Host, PluginError, PullRequest, Result, Source, Spawn};

use crate::request::{self, Way};
use crate::stream::{Outcome, Stream};

/// How long one wait for output lasts: cancellation is looked at in between, milliseconds.
const WAIT_MS: u32 = 500;

/// Longest that a connection may take to come about, seconds.
const LONGEST_PATIENCE: u32 = 30;
/// The same to say that one is finished.
const TO_FINISH: u32 = 15;

/// What a transport can that moves trees by rsync.
pub fn capabilities(encrypted: bool, default_port: u16) -> Capabilities {
    Capabilities {
        delta: true,
        delete: true,
        resume: true,
        dry_run: true,
        reconciles: true,
        encrypted,
        flat: true,
        default_port,
    }
}

/// How the other side is reached, with how many seconds for the connection to come about.
pub type Reach = fn(&Source, u32) -> Result<Way>;

/// A pull: how rsync ended, and what it said.
///
/// # Errors
/// What cannot be asked for so; as [`run`].
pub fn pull(host: &dyn Host, request: &PullRequest, reach: Reach, stream: Stream) -> Result<(Exit, Outcome)> {
    let way = reach(&request.from, request.timeout_secs.clamp(1, LONGEST_PATIENCE))?;
    ended(host, &request::pull(request, &way)?, stream)
}

/// Opens an export and looks at its root, no more: that one is finished.
///
/// # Errors
/// As [`pull`].
pub fn finish(host: &dyn Host, from: &Source, reach: Reach) -> Result<(Exit, Outcome)> {
    ended(host, &request::list(&reach(from, TO_FINISH)?), Stream::of_list())
}

fn ended(host: &dyn Host, spawn: &Spawn, mut stream: Stream) -> Result<(Exit, Outcome)> {
    let exit = run(host, spawn, &mut stream)?;
    Ok((exit, stream.finish()))
}

/// Runs rsync to its end, feeding the stream what it prints.
///
/// # Errors
/// It cannot be started or read, or a signal of somebody else's ended it.
fn run(host: &dyn Host, spawn: &Spawn, stream: &mut Stream) -> Result<Exit> {
    let exit = run_to_end(host, spawn, WAIT_MS, &mut |bytes| {
        if let Some(progress) = stream.push(bytes) {
            host.progress(&progress);
        }
    })?;
    if exit.code.is_none() && !host.cancelled() {
        return Err(PluginError::new(
            ErrorKind::Failed,
            format!("rsync was ended by signal {}; start the transfer again", exit.signal.unwrap_or_default()),
        ));
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use systemimager_core::Arg;
    use systemimager_core::testing::RecordedHost;

    fn start(host: &RecordedHost) -> Result<Exit> {
        run(host, &Spawn { argv: Arg::words(["rsync"]), ..Spawn::default() }, &mut Stream::of_list())
    }

    #[test]
    fn cancellation_ends_it() {
        let host = RecordedHost::new().program(&["x\n"], Exit { signal: Some(15), ..Exit::default() });
        host.cancel.store(true, Ordering::Relaxed);
        assert_eq!(start(&host).unwrap().signal, Some(15));
    }

    #[test]
    fn a_signal_from_elsewhere_is_told() {
        let host = RecordedHost::new().program(&[], Exit { signal: Some(9), ..Exit::default() });
        let error = start(&host).unwrap_err();
        assert_eq!((error.kind, error.message.contains("signal 9")), (ErrorKind::Failed, true), "{error}");
    }
}
