//! What machines under installation report: kept in memory, written to a file a machine, so that it outlives
//! the server and `status` needs no server.
//!
//! Everything here comes from the network: it is bounded, and names become file names only as types that
//! cannot lead anywhere.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use systemimager_core::{Hardware, HostName, ImageName};

use super::logs::Logs;
use super::machine::{Machine, logged, shortened};
use crate::config::Config;
use crate::report::{Asks, Event, Hello, Report, State};
use crate::store::host_set::MOST_HOSTS;
use crate::store::json_files;
use crate::store::macs::Mac;
use crate::sys::atomic;

/// Progress and log lines come often: they are written down at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Strangers that are kept at most; beyond it the one that was silent longest goes.
const MOST_STRANGERS: usize = 1000;

/// A machine that said hello.
#[derive(Debug)]
pub struct Met<'a> {
    /// What it said.
    pub hello: &'a Hello,
    /// Its MAC.
    pub mac: Mac,
    /// Its name, as far as it is known.
    pub host: Option<HostName>,
}

/// The machines that a server heard of.
#[derive(Debug)]
pub struct Machines {
    dir: PathBuf,
    hardware: PathBuf,
    logs: Logs,
    known: Mutex<BTreeMap<Mac, (Machine, Option<Instant>)>>,
}

/// Where machines' states are.
pub fn machines_dir(config: &Config) -> PathBuf {
    config.state().join("machines")
}

/// Where machines' hardware is: a JSON file each, named by host, or by MAC until the name is known.
pub fn hardware_dir(config: &Config) -> PathBuf {
    config.state().join("hardware")
}

impl Machines {
    /// With what an earlier server wrote down.
    ///
    /// # Errors
    /// The state directory cannot be made or read.
    pub fn open(config: &Config) -> Result<Self> {
        let (dir, hardware) = (machines_dir(config), hardware_dir(config));
        for made in [&dir, &hardware] {
            std::fs::create_dir_all(made).with_context(|| format!("making {}", made.display()))?;
        }
        let known = read_all(config)?
            .into_iter()
            .filter_map(|machine| Some((machine.mac.parse().ok()?, (machine, None))))
            .collect();
        Ok(Self { dir, hardware, logs: Logs::open(config)?, known: Mutex::new(known) })
    }

    /// When a machine was heard last, seconds since 1970.
    pub fn heard(&self, mac: Mac) -> Option<u64> {
        self.lock().get(&mac).map(|(machine, _)| machine.heard)
    }

    /// Where a machine is.
    pub fn state(&self, mac: Mac) -> Option<State> {
        self.lock().get(&mac).map(|(machine, _)| machine.state)
    }

    /// Takes a hello, and what the machine was told. With another boot than before everything that it did before is
    /// forgotten: it says nothing about this boot.
    ///
    /// # Errors
    /// There are too many machines, or the disk is full.
    pub fn met(&self, met: &Met<'_>, state: State, message: &str, order: Option<&str>) -> Result<()> {
        let now = crate::store::orders::now();
        let mac = met.mac;
        let line = format!("{}: {message}", state.name());
        let (text, fresh) = {
            let mut known = self.lock();
            if !known.contains_key(&mac) {
                self.make_room(&mut known)?;
            }
            let (machine, _) = known.entry(mac).or_insert_with(|| (Machine::new(mac, now), None));
            let fresh = machine.boot != met.hello.boot;
            if fresh {
                *machine = Machine { boot: met.hello.boot.clone(), ..Machine::new(mac, now) };
            }
            let before = machine.host.clone();
            let known_as = met.host.clone().or(machine.host.take());
            let news = fresh || machine.state != state || machine.message != message || known_as != before;
            machine.host = known_as;
            machine.heard = now;
            // A machine that waits after a failure keeps what it said of it.
            if met.hello.asks == Asks::Order || state != State::Waiting {
                machine.state = state;
                machine.message = shortened(message);
            }
            machine.order = order.map(str::to_owned).or(machine.order.take());
            if news && met.hello.asks == Asks::Order {
                machine.log(line.clone());
            }
            let host = machine.host.clone();
            if let Some(host) = host.as_ref().filter(|host| before.as_ref() != Some(host)) {
                self.name_hardware(mac, host)?;
            }
            if let Some(hardware) = &met.hello.hardware {
                self.write_hardware(hardware, mac, host.as_ref())?;
            }
            (news.then(|| serde_json::to_vec(machine)).transpose()?, fresh)
        };
        if fresh {
            self.logs.begin(mac);
        }
        if let Some(text) = text {
            self.logs.add(mac, &line);
            atomic::write(&self.dir.join(format!("{mac}.json")), &text, 0o644)?;
        }
        Ok(())
    }

    /// Anyone can say hello: a stranger makes room for another, never a machine that has a name.
    fn make_room(&self, known: &mut BTreeMap<Mac, (Machine, Option<Instant>)>) -> Result<()> {
        let strangers = || known.iter().filter(|(_, (machine, _))| machine.host.is_none());
        if known.len() < MOST_HOSTS && strangers().count() < MOST_STRANGERS {
            return Ok(());
        }
        let oldest = strangers().min_by_key(|(_, (machine, _))| machine.heard).map(|(mac, _)| *mac);
        let Some(mac) = oldest else {
            bail!("this server knows {MOST_HOSTS} machines already; remove old ones from {}", self.dir.display());
        };
        known.remove(&mac);
        for file in [self.dir.join(format!("{mac}.json")), self.hardware.join(format!("{mac}.json"))] {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", file.display()));
                }
                _ => {}
            }
        }
        self.logs.remove(mac);
        Ok(())
    }

    /// Takes a report of the machine that bears this host's order.
    ///
    /// # Errors
    /// Its image is none, or the disk is full.
    pub fn take(&self, mac: Mac, host: HostName, report: Report) -> Result<()> {
        let report = &report;
        let image = report.image.as_deref().map(ImageName::try_from).transpose()?;
        let now = crate::store::orders::now();
        let often = matches!(report.event, Event::Progress { .. } | Event::Log { .. });
        let text = {
            let mut known = self.lock();
            let (machine, written) = known.entry(mac).or_insert_with(|| (Machine::new(mac, now), None));
            if !machine.take(report, image, now) {
                return Ok(());
            }
            machine.host = Some(host.clone());
            if often && written.is_some_and(|at| at.elapsed() < WRITE_EVERY) {
                None
            } else {
                *written = Some(Instant::now());
                Some(serde_json::to_vec(machine)?)
            }
        };
        if let Some(line) = logged(report) {
            self.logs.add(mac, &line);
        }
        if let Event::Hardware { hardware } = &report.event {
            self.write_hardware(hardware, mac, Some(&host))?;
        }
        if let Some(text) = text {
            // How far a pull was is no loss in a power cut; a state is.
            let write = if often { atomic::replace } else { atomic::write };
            write(&self.dir.join(format!("{mac}.json")), &text, 0o644)?;
        }
        Ok(())
    }

    fn write_hardware(&self, hardware: &Hardware, mac: Mac, host: Option<&HostName>) -> Result<()> {
        let name = host.map_or_else(|| mac.to_string(), ToString::to_string);
        let mut text = serde_json::to_vec_pretty(hardware)?;
        text.push(b'\n');
        Ok(atomic::write(&self.hardware.join(format!("{name}.json")), &text, 0o644)?)
    }

    fn name_hardware(&self, mac: Mac, host: &HostName) -> Result<()> {
        let (from, to) = (self.hardware.join(format!("{mac}.json")), self.hardware.join(format!("{host}.json")));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("renaming {} to {}", from.display(), to.display()))
            }
            _ => Ok(()),
        }
    }

    /// All machines, by MAC.
    pub fn list(&self) -> Vec<Machine> {
        self.lock().values().map(|(machine, _)| machine.clone()).collect()
    }

    /// Writes down what was held back; at the end.
    ///
    /// # Errors
    /// The disk is full.
    pub fn flush(&self) -> Result<()> {
        for (mac, (machine, _)) in self.lock().iter() {
            atomic::write(&self.dir.join(format!("{mac}.json")), &serde_json::to_vec(machine)?, 0o644)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Mac, (Machine, Option<Instant>)>> {
        // Each entry is whole whenever the lock is free, also after a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machines that were written down, by host name, then MAC. A file that is none is warned about and passed over.
///
/// # Errors
/// The directory cannot be read; an absent one is empty.
pub fn read_all(config: &Config) -> Result<Vec<Machine>> {
    let mut machines: Vec<Machine> = Vec::new();
    for file in json_files(&machines_dir(config))? {
        let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        match serde_json::from_slice(&text) {
            Ok(machine) => machines.push(machine),
            Err(error) => tracing::warn!("{} is not a machine's state ({error}); passed over", file.display()),
        }
    }
    machines.sort_by(|one, other| (&one.host, &one.mac).cmp(&(&other.host, &other.mac)));
    Ok(machines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{Action, Level, Phase, Progress, Step};

    const MAC: &str = "52:54:00:12:34:56";

    fn mac() -> Mac {
        MAC.parse().unwrap()
    }

    fn www1() -> HostName {
        HostName::try_from("www1").unwrap()
    }

    fn report(sequence: u64, event: Event) -> Report {
        Report { mac: MAC.into(), host: Some(www1()), image: Some("web".into()), sequence, event }
    }

    fn state(state: State, message: &str) -> Event {
        Event::State { state, message: message.into() }
    }

    fn step(what: &str) -> Step {
        Step::new(Phase::Format, what, Action::Seal)
    }

    fn hello(boot: &str) -> Hello {
        let hardware = Hardware { arch: "x86_64".into(), ..Hardware::default() };
        Hello { mac: MAC.into(), boot: boot.into(), hardware: Some(Box::new(hardware)), ..Hello::default() }
    }

    fn server() -> (tempfile::TempDir, Config, Machines) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let machines = Machines::open(&config).unwrap();
        (dir, config, machines)
    }

    #[test]
    fn an_install_is_followed() {
        let (_dir, config, machines) = server();
        let hello = hello("b1");
        let met = |host: Option<HostName>| Met { hello: &hello, mac: mac(), host };
        machines.met(&met(None), State::Waiting, "nothing tells who this is", None).unwrap();
        assert!(hardware_dir(&config).join("52:54:00:12:34:56.json").is_file());
        assert_eq!(machines.state(mac()), Some(State::Waiting));
        machines.met(&met(Some(www1())), State::Booted, "begins", Some("0123abcd")).unwrap();
        assert!(hardware_dir(&config).join("www1.json").is_file());
        assert!(!hardware_dir(&config).join("52:54:00:12:34:56.json").exists());

        let take = |report: Report| machines.take(mac(), www1(), report).unwrap();
        take(report(1, Event::Plan { steps: vec![step("one"), step("two")] }));
        take(report(2, state(State::Installing, "")));
        take(report(3, Event::StepBegins { index: 0 }));
        let done = Event::StepDone { index: 0, step: Box::new(step("one")), milliseconds: 7 };
        take(report(4, done.clone()));
        take(report(4, done));
        take(report(5, Event::StepBegins { index: 1 }));
        let progress = Progress { bytes: 5 << 20, total_bytes: Some(9 << 20), ..Progress::default() };
        take(report(6, Event::Progress { phase: Phase::Pull, progress }));
        take(report(7, Event::Log { level: Level::Warn, line: "a\nb\x1b[2J".into() }));
        let machine = &machines.list()[0];
        assert_eq!(machine.done.len(), 1, "a report that was sent again counts once");
        assert_eq!(machine.progress_words(), "step 2 of 2, pull 5 of 9 MiB");
        assert_eq!(machine.log.back().map(String::as_str), Some("warning: a b [2J"));
        assert_eq!((machine.order.as_deref(), machine.boot.as_str()), (Some("0123abcd"), "b1"));
        assert_eq!(machine.stalled(machine.heard + 100, 180), None);
        assert_eq!(machine.stalled(machine.heard + 181, 180), Some(181));
        machines.flush().unwrap();
        assert_eq!(&read_all(&config).unwrap(), &machines.list());
        let log = std::fs::read_to_string(&super::super::logs::files(&config, MAC)[0]).unwrap();
        assert!(
            log.contains("step 1 done in 7 ms: format: one")
                && log.contains(" warning: a\n")
                && log.contains(" b [2J\n"),
            "{log}"
        );

        // After a retry what need not be done again counts as done.
        take(report(8, state(State::Failed, "disk full")));
        assert_eq!(machines.list()[0].stalled(u64::MAX, 1), None, "a machine that waits does not stall");
        take(report(9, Event::Plan { steps: vec![step("one"), step("two")] }));
        take(report(10, Event::StepKept { index: 0 }));
        take(report(11, Event::StepKept { index: 7 }));
        let done: Vec<(usize, bool)> = machines.list()[0].done.iter().map(|it| (it.index, it.kept)).collect();
        assert_eq!(done, [(0, true)]);
    }

    #[test]
    fn a_new_boot_forgets_and_a_machine_that_waits_keeps_what_failed() {
        let (_dir, config, machines) = server();
        let first = hello("b1");
        let met = |hello: &Hello, state, message: &str| {
            let host = Some(www1());
            machines.met(&Met { hello, mac: mac(), host }, state, message, Some("0123abcd")).unwrap();
        };
        met(&first, State::Booted, "begins");
        machines.take(mac(), www1(), report(1, state(State::Failed, "disk full"))).unwrap();
        met(&Hello { asks: Asks::GoOn, ..first }, State::Waiting, "it goes on with retry");
        let machine = machines.list().remove(0);
        assert_eq!((machine.state, machine.message.as_str()), (State::Failed, "disk full"));

        met(&hello("b2"), State::Booted, "begins");
        let machine = machines.list().remove(0);
        assert_eq!((machine.state, machine.sequence, machine.log.len()), (State::Booted, 0, 1));
        machines.take(mac(), www1(), report(1, state(State::Preparing, "again"))).unwrap();
        assert_eq!(machines.list()[0].state, State::Preparing);
        let logs = super::super::logs::files(&config, MAC);
        assert!(std::fs::read_to_string(&logs[0]).unwrap().contains("disk full"), "the log of the boot before is kept");
    }

    #[test]
    fn what_comes_from_the_network_is_bounded() {
        let (_dir, _config, machines) = server();
        let met = hello("b1");
        machines.met(&Met { hello: &met, mac: mac(), host: Some(www1()) }, State::Booted, "", None).unwrap();
        for sequence in 1..=500 {
            let line = "x".repeat(100_000);
            machines.take(mac(), www1(), report(sequence, Event::Log { level: Level::Info, line })).unwrap();
        }
        let machine = &machines.list()[0];
        assert_eq!((machine.log.len(), machine.log[0].len()), (200, 4096));
        let mut bad = report(501, state(State::Booted, ""));
        bad.image = Some("../x".into());
        let error = machines.take(mac(), www1(), bad).unwrap_err().to_string();
        assert!(error.contains("is not an image name"), "{error}");

        let stranger = Hello { mac: String::new(), ..met };
        for number in 0..MOST_STRANGERS as u32 + 5 {
            let mac: Mac = format!("02:00:00:00:{:02x}:{:02x}", number >> 8, number & 255).parse().unwrap();
            machines.met(&Met { hello: &stranger, mac, host: None }, State::Waiting, "", None).unwrap();
        }
        assert_eq!(machines.list().len(), MOST_STRANGERS + 1, "strangers make room, a machine with a name does not");
        assert!(machines.state(mac()).is_some());
    }

    #[test]
    fn a_file_that_is_no_machine_is_passed_over() {
        let (_dir, config, machines) = server();
        let met = hello("b1");
        machines.met(&Met { hello: &met, mac: mac(), host: None }, State::Waiting, "", None).unwrap();
        std::fs::write(machines_dir(&config).join("x.json"), "{").unwrap();
        assert_eq!(read_all(&config).unwrap().len(), 1);
    }
}
