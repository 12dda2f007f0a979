//! rsync as the side that pulls: started through the host, read as it prints, told to stop.

use systemimager_core::{ErrorKind, Exit, Host, PluginError, Result, Spawn};

use crate::stream::Stream;

/// How long one wait for output lasts: cancellation is looked at in between, milliseconds.
const WAIT_MS: u32 = 500;

/// Runs rsync to its end, feeding the stream what it prints.
///
/// # Errors
/// It cannot be started or read, or a signal of somebody else's ended it.
pub fn run(host: &dyn Host, spawn: &Spawn, stream: &mut Stream) -> Result<Exit> {
    let process = host.spawn(spawn)?;
    let mut stopped = false;
    loop {
        if host.cancelled() && !stopped {
            host.stop(process)?;
            stopped = true;
        }
        let chunk = match host.read_output(process, WAIT_MS) {
            Ok(chunk) => chunk,
            Err(error) => {
                // Nobody reads it any more: it must not linger on a full pipe.
                host.stop(process)?;
                host.wait(process)?;
                return Err(error);
            }
        };
        if let Some(progress) = stream.push(&chunk.stdout) {
            host.progress(&progress);
        }
        if chunk.ended {
            break;
        }
    }
    let exit = host.wait(process)?;
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

    fn pull(host: &RecordedHost) -> Result<Exit> {
        run(host, &Spawn { argv: Arg::words(["rsync"]), ..Spawn::default() }, &mut Stream::of_list())
    }

    #[test]
    fn cancellation_ends_it() {
        let host = RecordedHost::new().program(&["x\n"], Exit { signal: Some(15), ..Exit::default() });
        host.cancel.store(true, Ordering::Relaxed);
        assert_eq!(pull(&host).unwrap().signal, Some(15));
    }

    #[test]
    fn a_signal_from_elsewhere_is_told() {
        let host = RecordedHost::new().program(&[], Exit { signal: Some(9), ..Exit::default() });
        let error = pull(&host).unwrap_err();
        assert_eq!((error.kind, error.message.contains("signal 9")), (ErrorKind::Failed, true), "{error}");
    }
}
