//! The server's parts (its children) as they fare: running, or waiting to be started again after a death.
//!
//! [`Fate`] decides when one is started again, purely; [`write`] and [`troubled`] let `status` tell of parts that
//! keep dying, because nobody else may be watching the server's log.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::sys::atomic;
use crate::sys::lock::{Lock, Mode};

/// How long is waited after the first death; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A part that ran so long is well again: what was before is forgotten.
pub const HEALTHY: Duration = Duration::from_secs(60);

/// The lock that a running server holds, in the run directory.
pub const LOCK_FILE: &str = "serve.lock";
const STATE_FILE: &str = "parts.json";

/// How one part fared so far.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    deaths: u32,
    words: String,
    since: Option<Instant>,
    due: Option<Instant>,
}

impl Fate {
    /// It was started, and serves.
    pub fn started(&mut self, now: Instant) {
        self.since = Some(now);
        self.due = None;
    }

    /// It died, or could not be started, with these last words. Returns how long to wait until the next try: 0.5 s,
    /// 1 s, 2 s … 30 s, and 0.5 s again for one that was well.
    pub fn died(&mut self, now: Instant, words: &str) -> Duration {
        if self.since.take().is_some_and(|since| now.saturating_duration_since(since) >= HEALTHY) {
            self.deaths = 0;
        }
        let wait = FIRST_WAIT.saturating_mul(1 << self.deaths.min(16)).min(LONGEST_WAIT);
        self.deaths = self.deaths.saturating_add(1);
        words.clone_into(&mut self.words);
        self.due = Some(now + wait);
        wait
    }

    /// How often it died without being well in between.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }

    /// What it said last before it died; empty: it never did.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// When it is to be started again; `None` while it runs.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// A part: what it is to be, and what runs of it.
#[derive(Debug)]
pub struct Part<W, R> {
    /// What it was made from: the text of a configuration, a service.
    pub wanted: W,
    /// What runs; absent while it waits to be started again.
    pub running: Option<R>,
    /// How it fared.
    pub fate: Fate,
}

/// One part as it is written down for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartState {
    /// Its name.
    pub name: String,
    /// Its process; absent while it waits to be started again.
    pub pid: Option<u32>,
    /// How often it died without being well in between.
    pub deaths: u32,
    /// What it said last before that.
    pub words: String,
    /// When this was written down, seconds since 1970.
    pub written: u64,
}

impl PartState {
    /// A part, now.
    pub fn of(name: &str, pid: Option<u32>, fate: &Fate) -> Self {
        Self { name: name.to_owned(), pid, deaths: fate.deaths, words: fate.words.clone(), written: now() }
    }

    /// Whether it died and has not been well since.
    fn is_troubled(&self, now: u64) -> bool {
        self.deaths > 0 && (self.pid.is_none() || now.saturating_sub(self.written) < HEALTHY.as_secs())
    }
}

impl std::fmt::Display for PartState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, deaths, words, .. } = self;
        match self.pid {
            Some(pid) => {
                write!(f, "{name} runs again (process {pid}) after dying {deaths} times; the last time: {words}")
            }
            None => write!(f, "{name} does not run, and is started again and again ({deaths} times so far): {words}"),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn file(config: &Config) -> PathBuf {
    config.run().join(STATE_FILE)
}

/// Writes down how the parts are.
///
/// # Errors
/// The run directory cannot be written.
pub fn write(config: &Config, parts: &[PartState]) -> Result<()> {
    let text = serde_json::to_vec(parts).context("writing down how the server's parts are")?;
    Ok(atomic::write(&file(config), &text, 0o644)?)
}

/// The parts of a running server that died and have not been well since; none where no server runs.
///
/// # Errors
/// What the server wrote down cannot be read.
pub fn troubled(config: &Config) -> Result<Vec<PartState>> {
    let lock = config.run().join(LOCK_FILE);
    // Held by a server that runs. A user who may not open it is told what was written down last.
    if !lock.exists() || Lock::attempt(&lock, Mode::Shared, "asking how the server is").is_ok_and(|free| free.is_some())
    {
        return Ok(Vec::new());
    }
    let file = file(config);
    let text = match std::fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let parts: Vec<PartState> = serde_json::from_slice(&text).with_context(|| format!("reading {}", file.display()))?;
    let now = now();
    Ok(parts.into_iter().filter(|part| part.is_troubled(now)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_it_is_well() {
        let begun = Instant::now();
        let at = |seconds: f64| begun + Duration::from_secs_f64(seconds);
        let mut fate = Fate::default();
        fate.started(begun);
        assert_eq!(fate.due(), None);
        // When it dies, whether it ran just before (since when), and how long is waited then.
        let rows: [(f64, Option<f64>, f64); 11] = [
            (1.0, Some(0.0), 0.5),
            (2.0, Some(1.5), 1.0),
            (3.0, None, 2.0),
            (4.0, None, 4.0),
            (5.0, None, 8.0),
            (6.0, None, 16.0),
            (7.0, None, 30.0),
            (8.0, None, 30.0),
            (100.0, Some(41.0), 30.0),
            (200.0, Some(140.0), 0.5),
            (201.0, Some(200.5), 1.0),
        ];
        for (died, started, wait) in rows {
            if let Some(started) = started {
                fate.started(at(started));
                assert_eq!(fate.due(), None);
            }
            assert_eq!(fate.died(at(died), "x").as_secs_f64(), wait, "at {died}");
            assert_eq!(fate.due(), Some(at(died + wait)));
        }
        for _ in 0..100 {
            assert!(fate.died(at(300.0), "x") <= LONGEST_WAIT);
        }
    }

    #[test]
    fn only_a_running_server_has_troubles() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        assert_eq!(troubled(&config).unwrap(), [], "nothing is there");
        std::fs::create_dir_all(config.run()).unwrap();
        let mut fate = Fate::default();
        let well = PartState::of("well", Some(1), &fate);
        fate.died(Instant::now(), "no memory");
        let waits = PartState::of("waits", None, &fate);
        let again = PartState::of("again", Some(2), &fate);
        let long_ago = PartState { written: 0, ..PartState::of("long ago", Some(3), &fate) };
        let still = PartState { written: 0, ..PartState::of("still", None, &fate) };
        write(&config, &[well, waits.clone(), again.clone(), long_ago, still.clone()]).unwrap();
        assert_eq!(troubled(&config).unwrap(), [], "no server runs");
        let lock = Lock::try_take(&config.run().join(LOCK_FILE), Mode::Exclusive, "serving").unwrap();
        assert_eq!(troubled(&config).unwrap(), [waits.clone(), again.clone(), still]);
        assert_eq!(waits.to_string(), "waits does not run, and is started again and again (1 times so far): no memory");
        std::fs::write(file(&config), "x").unwrap();
        assert!(troubled(&config).is_err());
        drop(lock);
    }
}
