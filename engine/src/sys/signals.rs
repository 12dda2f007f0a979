//! Being asked to end: SIGTERM, SIGINT and SIGHUP set a flag instead of ending the process, so that
//! guards run. A second one ends it at once.
//!
//! Call it before any thread is made: the others must not take the signals.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use super::calls;

/// Bytes of a `signalfd_siginfo` (signalfd(2)).
const RECORD: usize = 128;
/// Exit status after the second signal: as a shell shows SIGINT.
const INTERRUPTED: i32 = 130;

/// From now on the first of these signals sets `flag`.
///
/// # Errors
/// No descriptor or thread can be had.
pub fn cancel_on_signals(flag: Arc<AtomicBool>) -> io::Result<()> {
    on_signals(move |_| {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
        tracing::info!("asked to end");
    })
}

/// From now on `tell` is called, from a thread of its own, for each SIGTERM, SIGINT and SIGHUP.
///
/// # Errors
/// No descriptor or thread can be had.
pub fn on_signals(mut tell: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let mut file = File::from(calls::signals_as_file(&[Signal::TERM, Signal::INT, Signal::HUP])?);
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut record = [0; RECORD];
        while file.read_exact(&mut record).is_ok() {
            // `ssi_signo`, the first field.
            let number = record.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
            if let Some(signal) = i32::try_from(number).ok().and_then(Signal::from_named_raw) {
                tell(signal);
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Cmd;

    #[test]
    fn programs_are_not_deaf() {
        // In a thread of its own: the mask is the thread's, and the other tests keep theirs.
        let blocked = thread::spawn(|| {
            calls::signals_as_file(&[Signal::TERM]).expect("a descriptor");
            let masks = |cmd: Cmd| cmd.args(["SigBlk", "/proc/self/status"]).read_string().expect("grep");
            let grep = || Cmd::argv(["grep"]).expect("a name");
            [masks(grep()), masks(grep().outlive_us())]
        });
        let none = "SigBlk:\t0000000000000000".to_owned();
        assert_eq!(blocked.join().expect("no panic"), [none.clone(), none]);
    }
}
