//! One thread that owns all long-running children, tells of deaths, and ends everything in order.
//!
//! Children get SIGTERM when the thread that spawned them ends, so that none survives a crash of
//! ours; hence one thread that lives as long as the children spawns them all. It inherits the mount
//! namespace of the thread that starts it.
//!
//! It decides nothing: whether a death matters is for the receiver of the [`Exit`] to say. Dropping
//! the supervisor ends the children.

use std::io;
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::child::{Child, Output};
use super::command_error::{CommandError, ended};
use super::run::Cmd;
use super::running::Running;

/// How long a child may take to end in a shutdown by `Drop`.
const DROP_GRACE: Duration = Duration::from_secs(5);

/// A child has ended.
#[derive(Debug, Clone)]
pub struct Exit {
    /// The name it was spawned under.
    pub name: String,
    /// Its process id while it lived.
    pub pid: u32,
    /// How it ended; `None` where the status was lost.
    pub status: Option<ExitStatus>,
    /// The last lines it printed, secrets masked.
    pub tail: String,
    /// Whether [`ChildHandle::stop`] or a shutdown asked for it.
    pub requested: bool,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = self.status.map_or_else(|| "ended, nobody knows how".to_owned(), ended);
        write!(f, "{} {how}", self.name)?;
        if self.tail.is_empty() { Ok(()) } else { write!(f, ": {}", self.tail.replace('\n', " | ")) }
    }
}

enum Message {
    Spawn { name: String, cmd: Cmd, output: Output, reply: Sender<Result<ChildHandle, CommandError>> },
    Start { name: String, cmd: Cmd, reply: Sender<Result<Running, CommandError>> },
    Ended(u64),
    Shutdown { grace: Duration, reply: Sender<Result<(), CommandError>> },
}

/// The thread and the way to talk to it.
#[derive(Debug)]
pub struct Supervisor {
    send: Sender<Message>,
    thread: Option<thread::JoinHandle<()>>,
}

/// One supervised child. Dropping the handle leaves the child alone.
#[derive(Debug, Clone)]
pub struct ChildHandle {
    child: Arc<Child>,
    requested: Arc<Mutex<bool>>,
}

impl ChildHandle {
    /// Its process id, which is also that of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.child.name()
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    /// As [`Child::try_wait`].
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, CommandError> {
        self.child.try_wait()
    }

    /// Waits at most this long. `None`: it runs still.
    ///
    /// # Errors
    /// As [`Child::wait_timeout`].
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>, CommandError> {
        self.child.wait_timeout(limit)
    }

    /// Sends a signal to its group (SIGHUP to reread its configuration).
    ///
    /// # Errors
    /// As [`Child::signal`].
    pub fn signal(&self, signal: Signal) -> Result<(), CommandError> {
        self.child.signal(signal)
    }

    /// Ends it: `signal`, then after `grace` SIGKILL to its group. Its [`Exit`] says `requested`.
    ///
    /// # Errors
    /// As [`Child::stop`].
    pub fn stop(&self, signal: Signal, grace: Duration) -> Result<ExitStatus, CommandError> {
        // One that has died by itself is not to be reported as stopped by us.
        if self.child.try_wait()?.is_none() {
            *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
        self.child.stop(signal, grace)
    }

    /// The last lines it printed.
    #[must_use]
    pub fn tail(&self) -> String {
        self.child.tail()
    }
}

impl Supervisor {
    /// Starts the thread. Deaths come through the receiver, in the order they happen.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start() -> io::Result<(Self, Receiver<Exit>)> {
        let (send, receive) = mpsc::channel();
        let (exits, exits_receiver) = mpsc::channel();
        let loopback = send.clone();
        let thread =
            thread::Builder::new().name("supervisor".into()).spawn(move || supervise(&receive, &loopback, &exits))?;
        Ok((Self { send, thread: Some(thread) }, exits_receiver))
    }

    /// Starts a child, which is watched from then on.
    ///
    /// # Errors
    /// As [`Child::spawn`].
    pub fn spawn(&self, name: &str, cmd: Cmd, output: Output) -> Result<ChildHandle, CommandError> {
        let (reply, answer) = mpsc::channel();
        self.ask(Message::Spawn { name: name.to_owned(), cmd, output, reply }, name)?;
        answer.recv().unwrap_or_else(|_| Err(gone(name)))
    }

    /// Starts a process whose output the caller reads. The caller owns it: it is not part of
    /// [`Self::shutdown`] and its death is not reported here.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn start_running(&self, name: &str, cmd: Cmd) -> Result<Running, CommandError> {
        let (reply, answer) = mpsc::channel();
        self.ask(Message::Start { name: name.to_owned(), cmd, reply }, name)?;
        answer.recv().unwrap_or_else(|_| Err(gone(name)))
    }

    /// Ends all children, the youngest first: SIGTERM, then after `grace` SIGKILL to the whole group.
    /// The thread ends too.
    ///
    /// # Errors
    /// The first child that could not be ended; the others are ended all the same.
    pub fn shutdown(mut self, grace: Duration) -> Result<(), CommandError> {
        self.end(grace)
    }

    fn end(&mut self, grace: Duration) -> Result<(), CommandError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let (reply, answer) = mpsc::channel();
        self.ask(Message::Shutdown { grace, reply }, "supervisor")?;
        let result = answer.recv().unwrap_or_else(|_| Err(gone("supervisor")));
        thread.join().map_err(|_| gone("supervisor"))?;
        result
    }

    fn ask(&self, message: Message, name: &str) -> Result<(), CommandError> {
        self.send.send(message).map_err(|_| gone(name))
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Err(error) = self.end(DROP_GRACE) {
            tracing::warn!(%error, "ending the supervised children");
        }
    }
}

fn gone(name: &str) -> CommandError {
    CommandError::Io {
        doing: "supervising",
        argv: name.to_owned(),
        error: io::Error::other("the supervising thread is gone"),
    }
}

fn supervise(messages: &Receiver<Message>, loopback: &Sender<Message>, exits: &Sender<Exit>) {
    let mut children: Vec<(u64, ChildHandle)> = Vec::new();
    let mut next = 0;
    while let Ok(message) = messages.recv() {
        match message {
            Message::Spawn { name, cmd, output, reply } => {
                let id = next;
                next += 1;
                let tell = loopback.clone();
                let child = Child::spawn_with(&name, cmd, output, move || {
                    let _ = tell.send(Message::Ended(id)); // fails only after a shutdown
                });
                let handle = child.map(|child| ChildHandle { child: Arc::new(child), requested: Arc::default() });
                if let Ok(handle) = &handle {
                    children.push((id, handle.clone()));
                }
                let _ = reply.send(handle); // a caller that went away no longer wants it
            }
            Message::Start { name, cmd, reply } => {
                let _ = reply.send(Running::start(&name, cmd));
            }
            Message::Ended(id) => {
                if let Some(at) = children.iter().position(|(other, _)| *other == id) {
                    report(&children.remove(at).1, exits);
                }
            }
            Message::Shutdown { grace, reply } => {
                let mut result = Ok(());
                for (_, handle) in children.drain(..).rev() {
                    if let Err(error) = handle.stop(Signal::TERM, grace)
                        && result.is_ok()
                    {
                        result = Err(error);
                    }
                    report(&handle, exits);
                }
                let _ = reply.send(result);
                return;
            }
        }
    }
}

fn report(handle: &ChildHandle, exits: &Sender<Exit>) {
    let status = handle.try_wait().unwrap_or_else(|error| {
        tracing::warn!(name = handle.name(), %error, "the exit status was lost");
        None
    });
    let requested = *handle.requested.lock().unwrap_or_else(PoisonError::into_inner);
    let exit = Exit { name: handle.name().to_owned(), pid: handle.pid(), status, tail: handle.tail(), requested };
    let _ = exits.send(exit); // nobody has to listen
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn sh(script: &str) -> Cmd {
        Cmd::argv(["sh", "-c", script]).expect("sh is a name")
    }

    #[test]
    fn a_death_is_reported_with_its_last_words() {
        let (supervisor, exits) = Supervisor::start().expect("thread");
        let handle = supervisor.spawn("dnsmasq", sh("echo address in use >&2; exit 2"), Output::Log).expect("started");
        let exit = exits.recv_timeout(LONG).expect("an exit");
        assert_eq!(exit.to_string(), "dnsmasq exited with status 2: address in use");
        assert_eq!((exit.pid, exit.requested), (handle.pid(), false));
        supervisor.shutdown(LONG).expect("nothing left");
    }

    #[test]
    fn survives_the_thread_that_asked() {
        let (supervisor, exits) = Supervisor::start().expect("thread");
        let handle = std::thread::scope(|scope| {
            let asked = scope.spawn(|| supervisor.spawn("daemon", sh("exec sleep 1000"), Output::Log));
            asked.join().expect("no panic").expect("started")
        });
        assert_eq!(handle.wait_timeout(Duration::from_millis(200)).expect("status"), None);
        handle.stop(Signal::TERM, LONG).expect("stopped");
        assert!(exits.recv_timeout(LONG).expect("an exit").requested);
    }

    #[test]
    fn shutdown_ends_the_youngest_first() {
        let (supervisor, exits) = Supervisor::start().expect("thread");
        for name in ["first", "second", "third"] {
            supervisor.spawn(name, sh("exec sleep 1000"), Output::Log).expect("started");
        }
        supervisor.shutdown(LONG).expect("ended");
        let order: Vec<String> = exits.iter().map(|exit| exit.name).collect();
        assert_eq!(order, ["third", "second", "first"]);
    }

    #[test]
    fn dropping_ends_all() {
        let (supervisor, exits) = Supervisor::start().expect("thread");
        let handle = supervisor.spawn("daemon", sh("exec sleep 1000"), Output::Log).expect("started");
        drop(supervisor);
        assert!(handle.try_wait().expect("status").is_some());
        assert_eq!(exits.iter().count(), 1);
    }

    #[test]
    fn what_cannot_start_is_said_at_once() {
        let (supervisor, _exits) = Supervisor::start().expect("thread");
        let cmd = Cmd::argv(["/no/such"]).expect("argv");
        let error = supervisor.spawn("x", cmd, Output::Log).expect_err("absent");
        assert_eq!(error.to_string(), "/no/such is not an executable file");
    }
}
