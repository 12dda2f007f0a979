//! `cargo xtask fuzz`: libFuzzer over the targets of `fuzz/`, guided by what of the program each input reaches.
//!
//! The compiler's own instrumentation, which the stable toolchain has too, is turned on by flags of LLVM, as cargo-fuzz
//! does it; no sanitizer, which would need another standard library: overflows, bounds and panics are found without one.
//! What is found to reach further is kept in the cache, outside the checkout, for the next run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build::{self, cargo};
use crate::require;
use crate::run::run;
use crate::test::cache;

/// The only one for which the flags below are known to work.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Coverage of each edge, counted, with comparisons told to libFuzzer.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// Most that run beside each other.
const AT_ONCE: usize = 2;
/// Longest input, bytes; a plugin is a whole shared object.
const LONGEST: u64 = 16 << 10;
const LONGEST_PLUGIN: u64 = 64 << 10;
/// What builds libFuzzer.
const NEEDED: &[require::Needed] = &[("/usr/bin/g++", "g++")];

/// libFuzzer over the parsers of what comes from outside
#[derive(Debug, clap::Args)]
pub struct Fuzz {
    /// How long each target is fuzzed
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Only this one: the name of a directory in fuzz/corpus
    #[arg(long)]
    target: Option<String>,
}

impl Fuzz {
    /// Builds and fuzzes.
    pub fn run(self) -> Result<()> {
        let each = Duration::from_secs(self.seconds);
        match &self.target {
            None => all(each),
            Some(target) => some(each, Some(target)),
        }
    }
}

/// Fuzzes each target for so long, two at a time, with a line for each.
///
/// # Errors
/// Something was found: the inputs' files, and how to run them again. Or nothing can be built.
pub fn all(each: Duration) -> Result<()> {
    some(each, None)
}

fn some(each: Duration, only: Option<&str>) -> Result<()> {
    require::all(require::BUILD)?;
    require::all(NEEDED)?;
    let mut names = targets()?;
    if let Some(only) = only {
        if !names.iter().any(|name| name == only) {
            bail!("there is no fuzz target {only:?}; there are {}", names.join(", "));
        }
        names.retain(|name| name == only);
    }
    let program = built()?;
    println!("{:16} {:>12} {:>9} {:>9}  findings", "target", "executions", "coverage", "new units");
    names.reverse();
    let (left, failed) = (Mutex::new(names), Mutex::new(Vec::new()));
    let at_once = AT_ONCE.min(std::thread::available_parallelism().map_or(1, usize::from));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(name) = lock(&left).pop() {
                    let line = match one(&program, &name, each) {
                        Ok(outcome) => {
                            lock(&failed).extend(outcome.finding.clone());
                            outcome.line(&name)
                        }
                        Err(error) => {
                            let line = format!("{name:16} {error:#}");
                            lock(&failed).push(line.clone());
                            line
                        }
                    };
                    println!("{line}");
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if !failed.is_empty() {
        bail!("{} fuzz targets found something:\n{}", failed.len(), failed.join("\n"));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn corpus() -> PathBuf {
    build::root().join("fuzz/corpus")
}

/// The targets, by their directories: a test of the crate holds both against each other.
fn targets() -> Result<Vec<String>> {
    let entries = std::fs::read_dir(corpus()).context("reading fuzz/corpus")?;
    let mut names =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// The program that holds all targets.
fn built() -> Result<PathBuf> {
    let dir = build::root().join("fuzz/libfuzzer");
    let target = build::target().join("fuzz");
    println!("building the fuzz targets");
    run(cargo()
        .current_dir(&dir)
        .args(["build", "--quiet", "--release", "--target", TRIPLE, "--target-dir"])
        .arg(&target)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", FLAGS.join(" ")))?;
    Ok(target.join(TRIPLE).join("release/systemimager-libfuzzer"))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    executions: String,
    coverage: String,
    new_units: String,
    /// What was found, and how to run it again.
    finding: Option<String>,
}

impl Outcome {
    /// By what libFuzzer prints.
    fn of(output: &str) -> Self {
        let after = |key: &str| {
            let found = output.lines().rev().find_map(|line| line.split_once(key));
            found.and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or("?").to_owned()
        };
        Self {
            executions: after("stat::number_of_executed_units:"),
            coverage: after(" cov: "),
            new_units: after("stat::new_units_added:"),
            finding: None,
        }
    }

    fn line(&self, name: &str) -> String {
        let Self { executions, coverage, new_units, finding } = self;
        let found = finding.as_deref().unwrap_or("none");
        format!("{name:16} {executions:>12} {coverage:>9} {new_units:>9}  {found}")
    }
}

fn one(program: &Path, name: &str, each: Duration) -> Result<Outcome> {
    let kept = cache().join("fuzz");
    let (grown, found) = (kept.join("corpus").join(name), kept.join("found"));
    for dir in [&grown, &found] {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let longest = if name == "plugin_identity" { LONGEST_PLUGIN } else { LONGEST };
    // New inputs go to the first directory; the seeds are only read.
    let output = Command::new(program)
        .env("SYSTEMIMAGER_FUZZ", name)
        // The time is by the clock: a machine that is busy with other things must not make a finding.
        .args(["-rss_limit_mb=512", "-timeout=30", "-print_final_stats=1"])
        .arg(format!("-max_len={longest}"))
        .arg(format!("-max_total_time={}", each.as_secs().max(1)))
        .arg(format!("-artifact_prefix={}/{name}-", found.display()))
        .args([&grown, &corpus().join(name)])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let mut outcome = Outcome::of(&text);
    if !output.status.success() {
        let file = text.lines().rev().find_map(|line| line.split_once("Test unit written to ")).map(|(_, file)| file);
        let why = text.lines().find(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"));
        let log = found.join(format!("{name}.log"));
        std::fs::write(&log, &output.stderr).with_context(|| format!("writing {}", log.display()))?;
        outcome.finding = Some(match file {
            Some(file) => format!(
                "{file} ({}; all of it: {}); again: SYSTEMIMAGER_FUZZ={name} {} {file}",
                why.unwrap_or("no panic").trim(),
                log.display(),
                program.display()
            ),
            None => format!("it ended with {} and left no input; see {}", output.status, log.display()),
        });
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_prints_is_read() {
        let output = "INFO: seed corpus: files: 5\n#6\tINITED cov: 120 ft: 200 corp: 5/1Kb exec/s: 0 rss: 30Mb\n\
            #9\tNEW    cov: 130 ft: 222 corp: 6/1Kb lim: 40 exec/s: 0 rss: 30Mb\nDone 1000 runs in 2 second(s)\n\
            stat::number_of_executed_units: 1000\nstat::average_exec_per_sec:     500\nstat::new_units_added:          7\n";
        let outcome = Outcome::of(output);
        assert_eq!((outcome.executions.as_str(), outcome.coverage.as_str()), ("1000", "130"));
        assert_eq!(outcome.line("macs").split_whitespace().collect::<Vec<_>>(), ["macs", "1000", "130", "7", "none"]);
        assert_eq!(Outcome::of("").executions, "?");
    }
}
