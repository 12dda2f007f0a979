//! PID 1 of the miniature system: mounts, starts the agent, brings its words to every console, reaps,
//! and does what the agent left to be done. One thread; it installs nothing and knows no network.
//!
//! It must never end and never panic: either would be a panic of the kernel. It never restarts the
//! machine by itself when something failed: a machine that loops is worse than one that waits. An agent that was killed
//! is followed by another, which only tells of it and waits.

mod consoles;
pub(crate) mod half_written;
mod mounts;
mod shells;
mod signals;
mod spawn;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitOptions, WaitStatus};
use systemimager_engine::sys::power::{self, Power};

use crate::places::{self, Final};
use consoles::Consoles;
use shells::Shells;
use signals::Order;

/// How long output may still come when the agent has ended: something it left behind may hold the pipe.
const AFTERGLOW: Duration = Duration::from_millis(500);
/// How long processes may take to end before the machine does.
const GRACE: Duration = Duration::from_secs(3);

/// How often an agent that was killed is followed by another, in one boot.
const MOST_DEATHS: u32 = 3;

/// Runs for ever.
pub fn run() -> ! {
    // A panic here is a bug; it must still not end PID 1.
    if std::panic::catch_unwind(supervise).is_err() {
        wait_for_ever();
    }
    wait_for_ever()
}

fn wait_for_ever() -> ! {
    loop {
        // Interrupted or not: there is nothing left to do but to be there.
        let _ = poll(&mut [], None);
    }
}

fn supervise() {
    let complaints = mounts::mount_all();
    let mut consoles = Consoles::open(Path::new("/sys/class/tty/console/active"), Path::new("/dev"));
    for complaint in &complaints {
        consoles.say(complaint);
    }
    let signals = match signals::Signals::block() {
        Ok(signals) => Some(signals),
        Err(error) => {
            consoles.say(&format!("signals cannot be watched ({error}); reboot and poweroff need -f"));
            None
        }
    };
    // Control-Alt-Delete is to come to us instead of restarting at once: writing out comes first.
    if let Err(error) = rustix::system::reboot(rustix::system::RebootCommand::CadOff) {
        consoles.say(&format!("Control-Alt-Delete restarts without writing out ({error})"));
    }
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let command_line = crate::command_line::parse(&command_line);
    let mut pid1 = Pid1 { consoles, signals, shells: Shells::default(), agent: None, output: None, deaths: 0 };
    if command_line.contains_key("si.shell") {
        pid1.consoles.say("si.shell: a shell is on the consoles; the installation goes on beside it");
        pid1.shells.open(&pid1.consoles);
    }
    pid1.start_agent(None);
    pid1.watch();
}

struct Pid1 {
    consoles: Consoles,
    signals: Option<signals::Signals>,
    shells: Shells,
    agent: Option<Pid>,
    output: Option<OwnedFd>,
    /// How often the agent was killed.
    deaths: u32,
}

/// How the agent ended, and when.
struct Ended {
    how: String,
    well: bool,
    at: Instant,
}

impl Pid1 {
    fn start_agent(&mut self, after: Option<&str>) {
        match spawn::agent(Path::new(places::AGENT), after) {
            Ok((pid, output)) => {
                self.agent = Some(pid);
                self.output = Some(output);
            }
            Err(error) => {
                self.consoles.say(&format!("the agent {} does not start: {error}", places::AGENT));
                self.offer_shell();
            }
        }
    }

    /// The loop: output of the agent, ends of processes, orders.
    fn watch(&mut self) {
        let mut ended: Option<Ended> = None;
        loop {
            self.wait_for_something(ended.as_ref());
            // Signals are taken before processes are: the end of one that comes in between wakes us again. The
            // other way round its signal would be taken, and the process left until something else happens.
            let orders = self.signals.as_ref().map(signals::Signals::take).unwrap_or_default();
            self.take_output();
            if let Some(end) = self.reap() {
                ended = Some(end);
            }
            let quiet = self.output.is_none();
            if ended.as_ref().is_some_and(|end| quiet || end.at.elapsed() >= AFTERGLOW)
                && let Some(end) = ended.take()
            {
                self.output = None;
                self.after_agent(&end);
            }
            self.shells.reopen(&self.consoles, Instant::now());
            for order in orders {
                match order {
                    Order::Child => {}
                    Order::Reboot => self.end(Power::Reboot),
                    Order::Poweroff => self.end(Power::Off),
                    Order::Shells => self.offer_shell(),
                }
            }
        }
    }

    fn wait_for_something(&self, ended: Option<&Ended>) {
        let mut fds = Vec::new();
        if let Some(output) = &self.output {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        if let Some(signals) = &self.signals {
            fds.push(PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN));
        }
        let mut limit = self.shells.next();
        if ended.is_some() {
            limit = Some(limit.unwrap_or(AFTERGLOW).min(AFTERGLOW));
        }
        if self.signals.is_none() {
            // Ends of processes do not wake us then.
            limit = Some(limit.unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1)));
        }
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        // An error is an interruption: the loop looks at everything anyway.
        let _ = poll(&mut fds, limit.as_ref());
    }

    fn take_output(&mut self) {
        let Some(output) = &self.output else { return };
        let mut bytes = [0; 16 * 1024];
        loop {
            match rustix::io::read(output, &mut bytes) {
                Ok(0) => break,
                Ok(count) => self.consoles.pass(bytes.get(..count).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.consoles.end_line();
        self.output = None;
    }

    /// Takes the status of every process that has ended; of the agent it is returned.
    fn reap(&mut self) -> Option<Ended> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            self.shells.ended(pid, Instant::now());
            if self.agent == Some(pid) {
                self.agent = None;
                let (how, well) = describe(status);
                ended = Some(Ended { how, well, at: Instant::now() });
            }
        }
        ended
    }

    fn after_agent(&mut self, end: &Ended) {
        let text = std::fs::read_to_string(places::FINAL).unwrap_or_default();
        let last = Final::parse(&text);
        if !end.well || last.is_none() {
            // An agent that was killed could not do it itself; doing it twice does no harm.
            for line in half_written::unboot_all(Path::new(places::DESTROYED)) {
                self.consoles.say(&line);
            }
        }
        match (end.well, last) {
            (true, Some(Final::Reboot)) => self.end(Power::Reboot),
            (true, Some(Final::Poweroff)) => self.end(Power::Off),
            (_, Some(Final::Shell)) => {
                self.consoles.say("this machine now waits for a person");
                self.offer_shell();
            }
            _ if self.deaths < MOST_DEATHS => {
                self.deaths += 1;
                self.consoles.say(&format!(
                    "the agent {} without saying what to do next; another one is started, which tells the image server and \
                     installs nothing before it is told to",
                    end.how
                ));
                self.start_agent(Some(&end.how));
                self.offer_shell();
            }
            _ => {
                self.consoles.say(&format!(
                    "the agent {} again without saying what to do next; this machine waits and does not restart by itself",
                    end.how
                ));
                self.offer_shell();
            }
        }
    }

    fn offer_shell(&mut self) {
        self.consoles
            .say(&format!("a shell is on every console; the log is {}; type reboot to try again", consoles::LOG));
        self.shells.open(&self.consoles);
    }

    /// Ends the machine, if it can be ended.
    fn end(&mut self, power: Power) {
        self.consoles.say(match power {
            Power::Reboot => "restarting",
            _ => "switching off",
        });
        let signals = self.signals.as_ref();
        spawn::end_all(GRACE, signals.map(signals::Signals::as_fd), &mut || {
            // What else is ordered now changes nothing: the machine ends.
            signals.map(signals::Signals::take);
        });
        match power::end(power) {
            Ok(never) => match never {},
            Err(error) => {
                self.consoles.say(&format!("{error}; switch this machine off by hand"));
                self.offer_shell();
            }
        }
    }
}

fn describe(status: WaitStatus) -> (String, bool) {
    if let Some(signal) = status.terminating_signal() {
        return (format!("was killed by signal {signal}"), false);
    }
    match status.exit_status() {
        Some(0) => ("ended".to_owned(), true),
        Some(code) => (format!("failed with status {code}"), false),
        None => ("ended in an unknown way".to_owned(), false),
    }
}
