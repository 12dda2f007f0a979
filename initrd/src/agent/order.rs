//! The order: asking the image server what to do, and waiting for a word to go on, from there or from a person at the
//! console. Waits without end where a machine has nothing else to do; says on the console what it waits for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use systemimager_core::{Hardware, HostName};
use systemimager_engine::key::Key;
use systemimager_engine::report::{Asks, BreakPoint, Hello, Word};

use super::http::{PostError, Server};
use super::{console, wait};
use crate::places;

/// How long the server may keep its answer back, seconds.
const PATIENCE: u32 = 25;
/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(PATIENCE as u64 + 20);
/// The pause before a server that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(5);
/// When shells are put on the consoles though the server may still answer.
const SHELLS_AFTER: Duration = Duration::from_secs(60);
/// How often the console says again what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(300);

/// An order that this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub id: String,
    /// What reports carry.
    pub token: String,
    /// The name by which the server knows this machine.
    pub host: HostName,
    /// Where to stop.
    pub breaks: Vec<BreakPoint>,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Install.
    Install(Order),
    /// Start from the own disk.
    Disk(String),
}

/// Who asks.
#[derive(Clone)]
pub struct Desk {
    server: Server,
    hello: Hello,
}

impl Desk {
    /// For this machine. `again`: an agent ran in this boot before; what it said is not to be taken for ours.
    ///
    /// # Errors
    /// The kernel does not tell this boot's number.
    pub fn new(server: &Server, mac: &str, hardware: &Hardware, key: &Key, again: bool) -> Result<Self> {
        let file = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
        let mut boot: String = boot.chars().filter(char::is_ascii_alphanumeric).collect();
        if again {
            boot.push_str(&format!("a{}", std::process::id()));
        }
        let hello = Hello {
            mac: mac.to_owned(),
            macs: hardware.interfaces.iter().map(|it| it.mac.clone()).collect(),
            boot,
            patience: PATIENCE,
            key: Some(key.public().to_owned()),
            ..Hello::default()
        };
        Ok(Self { server: server.clone(), hello })
    }

    /// Asks for an order until there is one, or the answer is the machine's own disk. `who` finds out anew each time who
    /// this machine is: somebody may just be writing it down.
    ///
    /// # Errors
    /// The server says that the question itself is wrong.
    pub fn ask(&self, hardware: &Hardware, who: &mut dyn FnMut() -> Option<HostName>) -> Result<Answer> {
        let mut hardware = Some(Box::new(hardware.clone()));
        let (begun, mut shells) = (Instant::now(), false);
        let mut said: Option<(String, Instant)> = None;
        loop {
            let hello = Hello { host: who(), hardware: hardware.clone(), ..self.hello.clone() };
            match self.say(&hello)? {
                Said::Word(Word::Install { order, token, host, breaks }) => {
                    return Ok(Answer::Install(Order { id: order, token, host, breaks }));
                }
                Said::Word(Word::Disk { why }) => return Ok(Answer::Disk(why)),
                Said::Word(Word::Wait { why }) => {
                    hardware = None;
                    remind(&mut said, format!("this machine waits and changes nothing: {why}"));
                }
                Said::Nothing(why) => {
                    remind(&mut said, format!("{why}; asking again until it answers"));
                    wait::pause(AGAIN);
                }
            }
            if !shells && begun.elapsed() >= SHELLS_AFTER {
                shells = true;
                ask_for_shells();
            }
        }
    }

    /// Waits until this machine may go on: a new word from the server, or `None` where a person at the console said so.
    ///
    /// # Errors
    /// The file by which a person says so cannot be watched.
    pub fn wait_to_go_on(&self, host: &HostName) -> Result<Option<Order>> {
        let (directory, file) = (Path::new(places::RUN_DIR), Path::new(places::GO_ON));
        let events = wait::Events::of_files_in(directory)?;
        remove(file)?;
        console::line(format_args!(
            "to go on: systemimager retry {host} on the image server, or here in a shell: touch {}",
            places::GO_ON
        ));
        ask_for_shells();
        let over = Arc::new(AtomicBool::new(false));
        let (answer, answered) = std::sync::mpsc::channel();
        let (desk, mine) = (self.clone(), Arc::clone(&over));
        let name = host.clone();
        std::thread::Builder::new()
            .name("go-on".into())
            .spawn(move || {
                if let Some(order) = desk.ask_to_go_on(&name, &mine)
                    && answer.send(order).is_ok()
                {
                    // By the same file as a person: one thing to wait for.
                    let _ = std::fs::write(places::GO_ON, "");
                }
            })
            .context("starting the thread that asks whether to go on")?;
        while wait::until(Duration::from_secs(3600), Duration::from_secs(3600), &[&events], || {
            file.exists().then_some(())
        })
        .is_none()
        {}
        over.store(true, Ordering::SeqCst);
        remove(file)?;
        Ok(answered.try_recv().ok())
    }

    fn ask_to_go_on(&self, host: &HostName, over: &AtomicBool) -> Option<Order> {
        let hello = Hello { host: Some(host.clone()), asks: Asks::GoOn, ..self.hello.clone() };
        let mut said = None;
        while !over.load(Ordering::SeqCst) {
            match self.say(&hello) {
                Ok(Said::Word(Word::Install { order, token, host, breaks })) => {
                    return (!over.load(Ordering::SeqCst)).then_some(Order { id: order, token, host, breaks });
                }
                Ok(Said::Word(_)) => {}
                Ok(Said::Nothing(_)) => wait::pause(AGAIN),
                Err(error) => {
                    remind(&mut said, format!("{error:#}"));
                    wait::pause(SHELLS_AFTER);
                }
            }
        }
        None
    }

    fn say(&self, hello: &Hello) -> Result<Said> {
        let json = serde_json::to_vec(hello)?;
        match self.server.ask("/v1/hello", &json, ANSWER) {
            Ok(word) => Ok(Said::Word(word)),
            Err(error @ PostError::Later { .. }) => Ok(Said::Nothing(error.to_string())),
            Err(error @ PostError::Refused { .. }) => bail!("{error}"),
        }
    }
}

/// What came of one question.
enum Said {
    Word(Word),
    Nothing(String),
}

/// Says it if it is news, or has not been said for a while.
fn remind(said: &mut Option<(String, Instant)>, text: String) {
    if said.as_ref().is_none_or(|(before, at)| *before != text || at.elapsed() >= SAY_EVERY) {
        console::line(&text);
        *said = Some((text, Instant::now()));
    }
}

/// Has PID 1 put a shell on every console.
pub fn ask_for_shells() {
    // Only below our own PID 1: elsewhere this signal would end or reload something else.
    if std::os::unix::process::parent_id() != 1 {
        return;
    }
    if let Err(error) = rustix::process::kill_process(Pid::INIT, Signal::HUP) {
        console::line(format_args!("no shell can be had: {error}"));
    }
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}
