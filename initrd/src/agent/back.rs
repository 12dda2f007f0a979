//! The way back of a machine that its own disk started into the miniature system, with nobody near it: where no order is
//! taken up within a time, or an attempt fails before a disk was touched and nobody lets it go on, it restarts. Its boot
//! loader has forgotten the entry by then, and the system that it has comes up.
//!
//! Asked for by `si.back=SECONDS` on the kernel command line, which `updateclient --autoinstall` writes there;
//! `si.back=never` says that the loader does not forget (`--persistent`), so that a restart would only lead here again.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::console;
use crate::places::{self, Final};

/// The time where the kernel command line has no number.
const USUAL: u64 = 600;

/// What the word on the kernel command line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Not started by the own disk: as ever.
    Nothing,
    /// By a loader that does not forget.
    Never,
    /// After this time.
    After(Duration),
}

fn parse(word: Option<&str>) -> Said {
    match word {
        None => Said::Nothing,
        Some("never") => Said::Never,
        // A slip must not leave a machine standing there.
        Some(word) => Said::After(Duration::from_secs(word.parse().unwrap_or(USUAL))),
    }
}

/// The way back, where there is one.
pub struct Back {
    said: Said,
    clock: Arc<Clock>,
    /// The thread that waits was started.
    runs: AtomicBool,
}

#[derive(Default)]
struct Clock {
    /// When the machine restarts.
    at: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Clock {
    fn at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the time has come, holding the lock: nobody can begin to install any more.
    fn wait(&self) -> MutexGuard<'_, Option<Instant>> {
        let mut at = self.at();
        loop {
            let left = at.map(|at| at.saturating_duration_since(Instant::now()));
            at = match left {
                Some(Duration::ZERO) => return at,
                Some(left) => self.changed.wait_timeout(at, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(at).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Back {
    /// By the word on the kernel command line. Nothing runs before [`Self::begin`].
    pub fn new(word: Option<&str>) -> Self {
        Self { said: parse(word), clock: Arc::default(), runs: AtomicBool::new(false) }
    }

    /// Whether the own disk started this machine, so that a restart leads to the system on it.
    pub fn leads_home(&self) -> bool {
        matches!(self.said, Said::After(_))
    }

    /// Whether the own disk starts the miniature system at each start.
    pub fn never(&self) -> bool {
        self.said == Said::Never
    }

    /// From now on the time runs, unless a disk was touched: then nothing leads back.
    pub fn begin(&self) {
        let Said::After(limit) = self.said else { return };
        if Path::new(places::DESTROYED).exists() {
            return;
        }
        console::line(format_args!(
            "nothing was touched: where nothing comes of it within {} s this machine restarts, and its own system is back",
            limit.as_secs()
        ));
        *self.clock.at() = Some(Instant::now() + limit);
        self.clock.changed.notify_all();
        if self.runs.swap(true, Ordering::SeqCst) {
            return;
        }
        let clock = Arc::clone(&self.clock);
        let started = std::thread::Builder::new().name("back".into()).spawn(move || {
            let _nobody_begins = clock.wait();
            console::line("nothing came of it; restarting, and this machine's own system is back");
            match std::fs::write(places::FINAL, Final::Reboot.word()) {
                Ok(()) => std::process::exit(0),
                Err(error) => console::line(format_args!("writing {}: {error}; type reboot", places::FINAL)),
            }
        });
        if let Err(error) = started {
            console::line(format_args!("warning: nothing will restart this machine: {error}"));
        }
    }

    /// An order was taken up, or somebody lets it go on: from now on it stays.
    pub fn stop(&self) {
        *self.clock.at() = None;
        self.clock.changed.notify_all();
    }

    /// Waits for the restart, where the time runs; returns at once where it does not.
    pub fn wait(&self) {
        if self.clock.at().is_some() {
            loop {
                std::thread::park();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_on_the_command_line() {
        for (word, expected) in [
            (None, Said::Nothing),
            (Some("never"), Said::Never),
            (Some("90"), Said::After(Duration::from_secs(90))),
            (Some(""), Said::After(Duration::from_secs(USUAL))),
            (Some("-1"), Said::After(Duration::from_secs(USUAL))),
        ] {
            assert_eq!(parse(word), expected, "{word:?}");
        }
        assert!(Back::new(Some("5")).leads_home() && !Back::new(None).leads_home() && Back::new(Some("never")).never());
    }

    #[test]
    fn the_time_can_be_stopped_and_begun_again() {
        let clock = Arc::new(Clock::default());
        *clock.at() = Some(Instant::now() + Duration::from_secs(3600));
        let (said, heard) = std::sync::mpsc::channel();
        let waits = {
            let clock = Arc::clone(&clock);
            std::thread::spawn(move || {
                let at = clock.wait();
                said.send(at.is_some()).expect("somebody listens");
            })
        };
        *clock.at() = None;
        clock.changed.notify_all();
        assert!(heard.try_recv().is_err(), "it was stopped");
        *clock.at() = Some(Instant::now());
        clock.changed.notify_all();
        assert!(heard.recv().expect("the time has come"));
        waits.join().expect("no panic");
        // Where nothing runs nothing is waited for.
        Back::new(None).wait();
    }
}
