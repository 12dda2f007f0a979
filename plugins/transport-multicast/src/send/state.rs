//! What the sender is doing, for `status` and whoever else wants to know: a file that is replaced as a whole.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use systemimager_core::{ReceiverEnd, ReceiverState, ServiceState, SessionState};

/// How often it is written, at most.
const EVERY: Duration = Duration::from_millis(400);
/// Sessions that have ended and are still told of.
const PAST: usize = 20;

#[derive(Debug, Default)]
struct Inner {
    state: ServiceState,
    /// The number of each session, in the same order.
    numbers: Vec<u64>,
    next: u64,
    changed: bool,
}

/// The board.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Inner>>);

/// A receiver's line on it.
#[derive(Debug, Clone)]
pub struct Line {
    board: Board,
    session: u64,
    receiver: usize,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it written to a file from now on.
    pub fn keep(&self, file: PathBuf) {
        let board = self.clone();
        // What an earlier one told is over.
        board.lock().changed = true;
        std::thread::spawn(move || {
            loop {
                let text = {
                    let mut inner = board.lock();
                    std::mem::take(&mut inner.changed).then(|| serde_json::to_vec(&inner.state).unwrap_or_default())
                };
                if let Some(text) = text {
                    let fresh = file.with_extension("new");
                    let written = std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &file));
                    if let Err(error) = written {
                        eprintln!("writing {}: {error}", file.display());
                    }
                }
                std::thread::sleep(EVERY);
            }
        });
    }

    /// A session begins; returns by which number it is told of.
    pub fn session(&self, export: &str, how: &str) -> u64 {
        let mut inner = self.lock();
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let is_past = |it: &SessionState| it.receivers.iter().all(|receiver| receiver.ended.is_some());
        while inner.state.sessions.len() >= PAST
            && let Some(oldest) = inner.state.sessions.iter().position(is_past)
        {
            inner.state.sessions.remove(oldest);
            inner.numbers.remove(oldest);
        }
        let (export, how) = (export.to_owned(), how.to_owned());
        inner.state.sessions.push(SessionState { export, how, began, receivers: Vec::new() });
        inner.next += 1;
        let number = inner.next;
        inner.numbers.push(number);
        inner.changed = true;
        number
    }

    /// How a session goes now.
    pub fn how(&self, session: u64, how: &str) {
        self.with(session, |it| how.clone_into(&mut it.how));
    }

    /// Somebody gets it.
    pub fn receiver(&self, session: u64, address: &str) -> Line {
        let mut receiver = usize::MAX;
        self.with(session, |it| {
            receiver = it.receivers.len();
            it.receivers.push(ReceiverState { address: address.to_owned(), ..ReceiverState::default() });
        });
        Line { board: self.clone(), session, receiver }
    }

    fn with(&self, session: u64, change: impl FnOnce(&mut SessionState)) {
        let mut inner = self.lock();
        let at = inner.numbers.iter().position(|number| *number == session);
        if let Some(found) = at.and_then(|at| inner.state.sessions.get_mut(at)) {
            change(found);
            inner.changed = true;
        }
    }
}

impl Line {
    fn with(&self, change: impl FnOnce(&mut ReceiverState)) {
        self.board.with(self.session, |it| {
            if let Some(receiver) = it.receivers.get_mut(self.receiver) {
                change(receiver);
            }
        });
    }

    /// It has so many bytes of so many.
    pub fn has(&self, bytes: u64, total: u64) {
        self.with(|it| (it.bytes, it.total) = (bytes, total));
    }

    /// How it gets them.
    pub fn how(&self, how: &str) {
        self.with(|it| how.clone_into(&mut it.how));
    }

    /// How it ended, if that was not told already.
    pub fn ended(&self, end: ReceiverEnd) {
        self.with(|it| {
            if it.ended.is_none() {
                it.ended = Some(end);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_of_each_and_how_it_ended_first() {
        let board = Board::default();
        let session = board.session("web", "239.1.1.1");
        let lines = [board.receiver(session, "10.0.0.1"), board.receiver(session, "10.0.0.2")];
        lines[1].has(5, 10);
        lines[0].ended(ReceiverEnd::Done("ab".into()));
        lines[0].ended(ReceiverEnd::Failed("gone".into()));
        let inner = board.lock();
        let receivers = &inner.state.sessions[0].receivers;
        assert_eq!(receivers[0].ended, Some(ReceiverEnd::Done("ab".into())));
        assert_eq!((receivers[1].bytes, receivers[1].ended.is_none()), (5, true));
    }
}
