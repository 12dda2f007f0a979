//! A log file a machine: every line that it reported, with the time, so that what failed at night can be read
//! in the morning. Bounded: a machine that says too much loses its oldest lines, nobody else's.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};

use super::machine::shortened;
use crate::config::Config;
use crate::store::macs::Mac;

/// A log that is longer is put aside and begun anew; one older part is kept. Bytes.
const LONGEST: u64 = 4 << 20;

/// Where logs are.
pub fn dir(config: &Config) -> PathBuf {
    config.state().join("logs")
}

/// The files of a machine's log, the older part first; those that are there.
pub fn files(config: &Config, mac: &str) -> Vec<PathBuf> {
    let dir = dir(config);
    [dir.join(format!("{mac}.log.1")), dir.join(format!("{mac}.log"))].into_iter().filter(|it| it.is_file()).collect()
}

/// The logs.
#[derive(Debug)]
pub struct Logs(PathBuf);

impl Logs {
    /// Makes their directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(config: &Config) -> Result<Self> {
        let dir = dir(config);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// A machine booted anew: what follows stands in a file of its own, the one before it is kept.
    pub fn begin(&self, mac: Mac) {
        self.put_aside(&self.file(mac));
    }

    /// One more line. That it cannot be written is told and stops nothing: the install goes on.
    pub fn add(&self, mac: Mac, line: &str) {
        let file = self.file(mac);
        if let Err(error) = self.append(&file, line) {
            tracing::warn!("writing {}: {error}", file.display());
        }
    }

    /// Forgets a machine.
    pub fn remove(&self, mac: Mac) {
        let file = self.file(mac);
        for file in [older(&file), file] {
            if let Err(error) = std::fs::remove_file(&file)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!("removing {}: {error}", file.display());
            }
        }
    }

    fn append(&self, file: &Path, line: &str) -> std::io::Result<()> {
        let mut text = String::new();
        // A message may have several lines: each is one, so that nobody can forge a line's time.
        for line in line.lines() {
            text.push_str(&format!("{} {}\n", humantime::format_rfc3339_seconds(SystemTime::now()), shortened(line)));
        }
        let mut log = open(file)?;
        if log.metadata()?.len() + text.len() as u64 > LONGEST {
            self.put_aside(file);
            log = open(file)?;
        }
        log.write_all(text.as_bytes())
    }

    fn put_aside(&self, file: &Path) {
        if let Err(error) = std::fs::rename(file, older(file))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("putting {} aside: {error}", file.display());
        }
    }

    fn file(&self, mac: Mac) -> PathBuf {
        self.0.join(format!("{mac}.log"))
    }
}

fn open(file: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(file)
}

fn older(file: &Path) -> PathBuf {
    file.with_extension("log.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_times_and_a_log_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let logs = Logs::open(&config).unwrap();
        let mac: Mac = "52:54:00:00:00:01".parse().unwrap();
        logs.add(mac, "one\ntwo\x1b[2J");
        let read = |file: &PathBuf| std::fs::read_to_string(file).unwrap();
        let text = read(&files(&config, &mac.to_string())[0]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("Z one") && lines[1].ends_with("Z two [2J"), "{text:?}");

        logs.begin(mac);
        logs.add(mac, "second boot");
        let both = files(&config, &mac.to_string());
        assert!(read(&both[0]).contains("one") && read(&both[1]).contains("second boot"));

        let long = "x".repeat(4000);
        for _ in 0..2500 {
            logs.add(mac, &long);
        }
        let total: u64 = files(&config, &mac.to_string()).iter().map(|it| it.metadata().unwrap().len()).sum();
        assert!(total <= 2 * LONGEST, "{total}");
        logs.remove(mac);
        assert!(files(&config, &mac.to_string()).is_empty());
    }
}
