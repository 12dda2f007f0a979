//! `cargo xtask test`: everything that has to pass, with one summary at the end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::build::{self, cargo};
use crate::run::run;
use crate::{docs, fuzz, require, tidy};

/// Everything that has to pass
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Leave the virtual machines out
    #[arg(long)]
    quick: bool,
    /// What takes long too: machines with many disks, with faults at each phase, with clones; and then ten minutes of
    /// fuzzing for each parser
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// How long each parser is fuzzed.
const FUZZ: Duration = Duration::from_secs(600);

/// Targets and names of the tests that take longest: they boot machines one after the other and leave half of this
/// one idle, so the others run beside them.
const LONGEST: [(&str, &str); 2] =
    [("install", "a_bare_machine_becomes_one_of_its_own"), ("media", "a_stick_with_a_local_cfg_installs_a_machine")];

#[derive(Debug, Default)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
}

impl Test {
    /// Runs all, stops at the first stage that fails, except that all tests are run.
    pub fn run(self) -> Result<()> {
        require::all(require::BUILD)?;
        require::all(require::SERVE)?;
        require::all(require::SITE)?;
        require::all(require::LAB)?;
        let mut count = Count::default();
        stage("format", || run(cargo().args(["fmt", "--all", "--check"])))?;
        stage("lints", || {
            run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        })?;
        stage("conventions", || tidy::check(&build::root()))?;
        stage("reference", || docs::check(&build::root()))?;
        stage("licences and bans", || deny(&mut count))?;
        stage("build", || build::install(&build::stage()))?;
        let begun = Instant::now();
        println!("== tests");
        let ok = self.tests(&mut count)?;
        println!("== tests: {} s", begun.elapsed().as_secs());
        for line in &count.skipped {
            println!("{line}");
        }
        println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped.len());
        if !ok || count.failed > 0 {
            bail!("tests failed");
        }
        if self.full && self.filter.is_none() {
            stage("fuzzing", || fuzz::all(FUZZ))?;
        }
        Ok(())
    }

    fn tests(&self, count: &mut Count) -> Result<bool> {
        let all = Lane { name: "", select: Vec::new(), filter: self.filter.iter().map(String::as_str).collect() };
        if self.quick || self.full || self.filter.is_some() {
            return self.lane(&all, count);
        }
        let names = || LONGEST.iter().map(|(_, test)| *test);
        let alone = Lane {
            name: "longest",
            select: LONGEST.iter().flat_map(|(target, _)| ["--test", target]).collect(),
            filter: names().chain(["--exact"]).collect(),
        };
        let rest = Lane { filter: names().flat_map(|test| ["--skip", test]).collect(), ..all };
        // cargo builds one thing at a time: what is needed first comes first.
        run(cargo().args(["test", "--quiet", "--workspace", "--no-run"]).args(&alone.select))?;
        let mut counts = [Count::default(), Count::default()];
        let [of_alone, of_rest] = &mut counts;
        let ok = std::thread::scope(|scope| {
            let beside = scope.spawn(|| self.lane(&alone, of_alone));
            let rest = self.lane(&rest, of_rest);
            let beside = beside.join().map_err(|_| anyhow!("reading the output of cargo test failed"))?;
            anyhow::Ok(rest? & beside?)
        })?;
        for counted in counts {
            count.passed += counted.passed;
            count.failed += counted.failed;
            count.skipped.extend(counted.skipped);
        }
        Ok(ok)
    }

    fn lane(&self, lane: &Lane<'_>, count: &mut Count) -> Result<bool> {
        let mut command = cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]).args(&lane.select);
        // Tests share two cores with the machines they boot: one at a time where they boot any.
        command.args(["--", "--nocapture", "--test-threads=2"]).args(&lane.filter);
        if self.quick {
            command.env("SYSTEMIMAGER_QUICK", "1");
        }
        if self.full {
            command.env("SYSTEMIMAGER_FULL", "1");
        }
        // One pipe for both: a skipped test says so on standard error, which no test harness captures.
        let (output, writer) = std::io::pipe().context("making a pipe")?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().context("starting cargo test")?;
        // The command keeps its ends of the pipe open.
        drop(command);
        let prefix = if lane.name.is_empty() { String::new() } else { format!("{}: ", lane.name) };
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("reading the output of cargo test")?;
            let text = String::from_utf8_lossy(&line);
            let _ = writeln!(std::io::stdout(), "{prefix}{text}");
            note(&text, count);
        }
        Ok(child.wait()?.success())
    }
}

/// Tests that run one after the other, beside those of another lane.
struct Lane<'a> {
    /// What its lines begin with.
    name: &'a str,
    /// cargo's words that say which.
    select: Vec<&'a str>,
    /// The test harness's.
    filter: Vec<&'a str>,
}

/// Reads cargo's summaries (`test result: ok. 3 passed; 0 failed; …`) and our own lines for skipped tests.
fn note(line: &str, count: &mut Count) {
    if let Some(rest) = line.strip_prefix("test result: ") {
        let number = |what: &str| -> u64 {
            rest.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
                .unwrap_or_default()
        };
        count.passed += number("passed");
        count.failed += number("failed");
    }
    if let Some(at) = line.find("SKIPPED: ") {
        count.skipped.push(line[at..].to_owned());
    }
}

fn stage(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    println!("== {name}");
    work().with_context(|| name.to_owned())?;
    println!("== {name}: {} s", begun.elapsed().as_secs());
    Ok(())
}

/// Where big things are kept between runs, outside the checkout.
pub fn cache() -> PathBuf {
    std::env::var_os("SYSTEMIMAGER_CACHE").map_or_else(|| "/var/cache/systemimager-lab".into(), PathBuf::from)
}

fn deny(count: &mut Count) -> Result<()> {
    let tool = cargo_deny()?;
    let deny = || {
        let mut command = Command::new(&tool);
        command.current_dir(build::root());
        command
    };
    run(deny().args(["--log-level", "error", "check", "bans", "licenses", "sources"]))?;
    let advisories =
        deny().args(["--log-level", "error", "check", "advisories"]).output().context("starting cargo-deny")?;
    if advisories.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&advisories.stderr).into_owned();
    if text.contains("failed to fetch") || text.contains("advisory database") {
        let line = "SKIPPED: cargo deny check advisories: the advisory database cannot be reached".to_owned();
        println!("{line}");
        count.skipped.push(line);
        return Ok(());
    }
    bail!("cargo deny check advisories: {text}")
}

/// cargo-deny: the installed one, or one built once into the cache.
fn cargo_deny() -> Result<PathBuf> {
    const VERSION: &str = "0.20.2";
    let installed = Command::new("cargo-deny").arg("--version").output();
    if installed.is_ok_and(|output| output.status.success()) {
        return Ok("cargo-deny".into());
    }
    let place = cache().join(format!("cargo-deny-{VERSION}"));
    let program = place.join("bin/cargo-deny");
    if !program.is_file() {
        println!("building cargo-deny {VERSION} once, into {}", place.display());
        run(cargo()
            // Its checks take a second either way; built without optimisation it is there in half the time.
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .args(["install", "--debug", "--quiet", "--locked", "--version", VERSION, "cargo-deny", "--root"])
            .arg(&place))?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_counted() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "SKIPPED: boots: no QEMU",
            "noise",
        ] {
            note(line, &mut count);
        }
        assert_eq!((count.passed, count.failed, count.skipped.len()), (5, 1, 1));
    }
}
