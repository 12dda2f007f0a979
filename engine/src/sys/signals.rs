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
    let mut file = File::from(calls::signals_as_file(&[Signal::TERM, Signal::INT, Signal::HUP])?);
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut record = [0; RECORD];
        while file.read_exact(&mut record).is_ok() {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED);
            }
            tracing::info!("asked to end");
        }
    })?;
    Ok(())
}
