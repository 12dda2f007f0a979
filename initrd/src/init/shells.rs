//! A shell for a person on each console, opened again when it ends, but never in a hot loop: a terminal
//! that nobody holds makes each shell end at once.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::consoles::Consoles;
use super::spawn;

const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// A shell that lived this long was used by somebody.
const USED: Duration = Duration::from_secs(5);

struct Shell {
    terminal: PathBuf,
    pid: Option<Pid>,
    started: Instant,
    delay: Duration,
}

/// The shells.
#[derive(Default)]
pub(super) struct Shells(Vec<Shell>);

impl Shells {
    /// One for each console that has none yet.
    pub(super) fn open(&mut self, consoles: &Consoles) {
        let now = Instant::now();
        let terminals: Vec<PathBuf> = consoles.paths().map(Path::to_path_buf).collect();
        for terminal in terminals {
            if !self.0.iter().any(|shell| shell.terminal == terminal) {
                self.0.push(Shell { terminal, pid: None, started: now, delay: Duration::ZERO });
            }
        }
        self.reopen(consoles, now);
    }

    /// Starts those whose time has come.
    pub(super) fn reopen(&mut self, _: &Consoles, now: Instant) {
        for shell in self.0.iter_mut().filter(|shell| shell.pid.is_none() && now >= shell.started + shell.delay) {
            shell.started = now;
            match spawn::shell(&shell.terminal) {
                Ok(pid) => shell.pid = Some(pid),
                Err(_) => shell.fall_back(),
            }
        }
    }

    /// A process has ended; perhaps it was one of ours.
    pub(super) fn ended(&mut self, pid: Pid, now: Instant) {
        for shell in self.0.iter_mut().filter(|shell| shell.pid == Some(pid)) {
            shell.pid = None;
            if now.duration_since(shell.started) >= USED {
                shell.delay = FIRST_DELAY;
            } else {
                shell.fall_back();
            }
            shell.started = now;
        }
    }

    /// How long until one is to be started; `None` if none is.
    pub(super) fn next(&self) -> Option<Duration> {
        let now = Instant::now();
        let waiting = self.0.iter().filter(|shell| shell.pid.is_none());
        waiting.map(|shell| (shell.started + shell.delay).saturating_duration_since(now)).min()
    }
}

impl Shell {
    fn fall_back(&mut self) {
        self.delay = (self.delay * 2).clamp(FIRST_DELAY, LONGEST_DELAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_that_end_at_once_come_back_ever_later() {
        let begin = Instant::now();
        let pid = Pid::from_raw(12345);
        let shell = Shell { terminal: "/dev/none".into(), pid, started: begin, delay: Duration::ZERO };
        let mut shells = Shells(vec![shell]);
        let mut delays = Vec::new();
        for _ in 0..8 {
            shells.ended(pid.expect("a number"), begin);
            delays.push(shells.0[0].delay.as_millis());
            shells.0[0].pid = pid;
        }
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        shells.ended(pid.expect("a number"), begin + USED);
        assert_eq!(shells.0[0].delay, FIRST_DELAY, "a shell that was used comes back soon");
        shells.ended(Pid::INIT, begin);
        assert!(shells.0[0].pid.is_none());
    }
}
