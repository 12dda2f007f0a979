//! What machines under installation report: kept in memory, written to a file a machine, so that it outlives
//! the server and `status` needs no server.
//!
//! Everything here comes from the network: it is bounded, and names become file names only as types that
//! cannot lead anywhere.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use systemimager_core::{HostName, ImageName, Level, Phase, Progress, Step};

use crate::config::Config;
use crate::report::{Event, Report, State};
use crate::store::host_set::MOST_HOSTS;
use crate::store::macs::Mac;
use crate::sys::atomic;

/// Lines of a machine's log that are kept.
const LOG_LINES: usize = 200;
/// Most bytes of a line or message that are kept.
const LONGEST_LINE: usize = 4096;
/// Most steps of a plan.
const MOST_STEPS: usize = 10_000;
/// Progress and log lines come often: they are written down at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// A step that a machine has done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Its number in the plan, from 0.
    pub index: usize,
    /// The step as it was carried out.
    pub step: Step,
    /// Wall time.
    pub milliseconds: u64,
}

/// A machine, as it reported itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// MAC of the interface it booted from.
    pub mac: String,
    /// Its name, once known.
    #[serde(default)]
    pub host: Option<HostName>,
    /// The image it gets, once known.
    #[serde(default)]
    pub image: Option<ImageName>,
    /// Where it is.
    pub state: State,
    /// What it said when it got there.
    #[serde(default)]
    pub message: String,
    /// The last report's number in this boot.
    pub sequence: u64,
    /// When it booted the miniature system, seconds since 1970.
    pub booted: u64,
    /// When it was heard last, seconds since 1970.
    pub heard: u64,
    /// The steps of its plan.
    #[serde(default)]
    pub plan: Vec<Step>,
    /// Those it has done, in order.
    #[serde(default)]
    pub done: Vec<Done>,
    /// The number of the step it is at.
    #[serde(default)]
    pub step: Option<usize>,
    /// How far that is.
    #[serde(default)]
    pub progress: Option<(Phase, Progress)>,
    /// The last lines of its log.
    #[serde(default)]
    pub log: VecDeque<String>,
}

impl Machine {
    fn new(mac: Mac, now: u64) -> Self {
        Self {
            mac: mac.to_string(),
            host: None,
            image: None,
            state: State::Booted,
            message: String::new(),
            sequence: 0,
            booted: now,
            heard: now,
            plan: Vec::new(),
            done: Vec::new(),
            step: None,
            progress: None,
            log: VecDeque::new(),
        }
    }

    /// Takes a report in; false: it was there already (sent again because the answer was lost).
    fn take(&mut self, report: &Report, image: Option<ImageName>, now: u64) -> bool {
        if report.sequence == self.sequence && report.sequence != 0 {
            return false;
        }
        self.sequence = report.sequence;
        self.heard = now;
        self.host = report.host.clone().or(self.host.take());
        self.image = image.or(self.image.take());
        match &report.event {
            Event::State { state, message } => {
                self.state = *state;
                self.message = shortened(message);
                self.log(format!("{state:?}: {message}").to_lowercase());
            }
            Event::Hardware { .. } => {}
            Event::Plan { steps } => {
                self.plan = steps.iter().take(MOST_STEPS).cloned().collect();
                self.done.clear();
                self.step = None;
            }
            Event::StepBegins { index } => {
                self.step = Some(*index);
                self.progress = None;
            }
            Event::StepDone { index, step, milliseconds } => {
                if self.done.len() < MOST_STEPS {
                    self.done.push(Done { index: *index, step: (**step).clone(), milliseconds: *milliseconds });
                }
                self.progress = None;
            }
            Event::Progress { phase, progress } => self.progress = Some((*phase, progress.clone())),
            Event::Log { level, line } => self.log(match level {
                Level::Error => format!("error: {line}"),
                Level::Warn => format!("warning: {line}"),
                _ => line.clone(),
            }),
        }
        true
    }

    fn log(&mut self, line: String) {
        while self.log.len() >= LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(shortened(&line));
    }

    /// How much of it is done, for people: `step 4 of 19, pull 230 of 447 MiB`.
    pub fn progress_words(&self) -> String {
        let mut words = match (self.step, self.plan.len()) {
            (Some(step), total) if total > 0 && self.state == State::Installing => {
                format!("step {} of {total}", step + 1)
            }
            _ => String::new(),
        };
        if let (Some((phase, progress)), State::Installing) = (&self.progress, self.state) {
            let mib = progress.bytes >> 20;
            let total = progress.total_bytes.map(|total| format!(" of {}", total >> 20)).unwrap_or_default();
            words.push_str(&format!(", {} {mib}{total} MiB", phase.name()));
        }
        words
    }
}

fn shortened(text: &str) -> String {
    let end = (0..=LONGEST_LINE.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    // Control characters of a machine's console would act on the administrator's.
    text[..end].chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// The machines that a server heard of.
#[derive(Debug)]
pub struct Machines {
    dir: PathBuf,
    hardware: PathBuf,
    known: Mutex<BTreeMap<Mac, (Machine, Option<Instant>)>>,
}

/// Where machines' states are.
fn machines_dir(config: &Config) -> PathBuf {
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
        Ok(Self { dir, hardware, known: Mutex::new(known) })
    }

    /// Takes a report.
    ///
    /// # Errors
    /// Its MAC address or image is none, there are too many machines, or the disk is full.
    pub fn take(&self, report: Report) -> Result<()> {
        let report = &report;
        let mac: Mac = report.mac.parse().map_err(anyhow::Error::msg)?;
        let image = report.image.as_deref().map(ImageName::try_from).transpose()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (file, text) = {
            let mut known = self.lock();
            if !known.contains_key(&mac) && known.len() >= MOST_HOSTS {
                bail!("this server knows {MOST_HOSTS} machines already; remove old ones from {}", self.dir.display());
            }
            let (machine, written) = known.entry(mac).or_insert_with(|| (Machine::new(mac, now), None));
            if report.sequence == 0 || report.sequence < machine.sequence {
                // It booted anew: what an earlier attempt did says nothing about this one.
                *machine = Machine::new(mac, now);
            }
            let before = machine.host.clone();
            if !machine.take(report, image, now) {
                return Ok(());
            }
            if let Some(host) = machine.host.clone().filter(|host| before.as_ref() != Some(host)) {
                self.name_hardware(mac, &host)?;
            }
            let often = matches!(report.event, Event::Progress { .. } | Event::Log { .. });
            if often && written.is_some_and(|at| at.elapsed() < WRITE_EVERY) {
                return self.take_hardware(report, mac, machine.host.as_ref());
            }
            *written = Some(Instant::now());
            self.take_hardware(report, mac, machine.host.as_ref())?;
            (self.dir.join(format!("{mac}.json")), serde_json::to_vec(machine)?)
        };
        atomic::write(&file, &text, 0o644)?;
        Ok(())
    }

    fn take_hardware(&self, report: &Report, mac: Mac, host: Option<&HostName>) -> Result<()> {
        let Event::Hardware { hardware } = &report.event else { return Ok(()) };
        let name = host.map_or_else(|| mac.to_string(), ToString::to_string);
        let mut text = serde_json::to_vec_pretty(hardware)?;
        text.push(b'\n');
        atomic::write(&self.hardware.join(format!("{name}.json")), &text, 0o644)?;
        Ok(())
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

/// The files that end in `.json`, sorted; an absent directory has none.
///
/// # Errors
/// The directory cannot be read.
pub fn json_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("listing {}", dir.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("listing {}", dir.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{Action, Hardware};

    fn report(sequence: u64, host: Option<&str>, event: Event) -> Report {
        Report {
            mac: "52:54:00:12:34:56".into(),
            host: host.map(|host| HostName::try_from(host).unwrap()),
            image: host.map(|_| "web".into()),
            sequence,
            event,
        }
    }

    fn step(what: &str) -> Step {
        Step::new(Phase::Format, what, Action::Seal)
    }

    #[test]
    fn an_install_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let machines = Machines::open(&config).unwrap();
        let state = |state, message: &str| Event::State { state, message: message.into() };
        let log = |line: &str| Event::Log { level: Level::Warn, line: line.into() };
        let hardware =
            Event::Hardware { hardware: Box::new(Hardware { arch: "x86_64".into(), ..Hardware::default() }) };
        machines.take(report(0, None, state(State::Booted, "hello"))).unwrap();
        machines.take(report(1, None, hardware)).unwrap();
        assert!(hardware_dir(&config).join("52:54:00:12:34:56.json").is_file());
        let www1 = Some("www1");
        machines.take(report(2, www1, Event::Plan { steps: vec![step("one"), step("two")] })).unwrap();
        assert!(
            hardware_dir(&config).join("www1.json").is_file()
                && !hardware_dir(&config).join("52:54:00:12:34:56.json").exists()
        );
        machines.take(report(3, www1, state(State::Installing, ""))).unwrap();
        machines.take(report(4, www1, Event::StepBegins { index: 0 })).unwrap();
        let done = Event::StepDone { index: 0, step: Box::new(step("one")), milliseconds: 7 };
        machines.take(report(5, www1, done.clone())).unwrap();
        machines.take(report(5, www1, done)).unwrap();
        machines.take(report(6, www1, Event::StepBegins { index: 1 })).unwrap();
        let progress = Progress { bytes: 5 << 20, total_bytes: Some(9 << 20), ..Progress::default() };
        machines.take(report(7, www1, Event::Progress { phase: Phase::Pull, progress })).unwrap();
        machines.take(report(8, www1, log("a\nb\x1b[2J"))).unwrap();
        let machine = &machines.list()[0];
        assert_eq!(machine.done.len(), 1, "a report that was sent again counts once");
        assert_eq!(machine.progress_words(), "step 2 of 2, pull 5 of 9 MiB");
        assert_eq!(machine.log.back().map(String::as_str), Some("warning: a b [2J"));
        machines.flush().unwrap();
        assert_eq!(&read_all(&config).unwrap(), &machines.list());
        assert_eq!(Machines::open(&config).unwrap().list(), machines.list(), "it outlives the server");
        machines.take(report(0, None, state(State::Booted, "again"))).unwrap();
        assert_eq!((machines.list()[0].done.len(), machines.list()[0].plan.len()), (0, 0), "a new boot begins anew");
    }

    #[test]
    fn what_comes_in_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let machines = Machines::open(&config).unwrap();
        for sequence in 0..(LOG_LINES as u64 + 50) {
            let line = "ü".repeat(LONGEST_LINE);
            machines.take(report(sequence, None, Event::Log { level: Level::Info, line })).unwrap();
        }
        let log = &machines.list()[0].log;
        assert_eq!((log.len(), log[0].len()), (LOG_LINES, LONGEST_LINE));
        let mut bad = report(0, None, Event::StepBegins { index: 0 });
        bad.mac = "../../etc/passwd".into();
        assert!(machines.take(bad.clone()).unwrap_err().to_string().contains("is not a MAC address"));
        bad.mac = "52:54:00:12:34:56".into();
        bad.image = Some("../x".into());
        assert!(machines.take(bad.clone()).unwrap_err().to_string().contains("is not an image name"));
    }
}
