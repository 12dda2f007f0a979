//! `bench load`: what the checks of the loader cost.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::median;
use crate::build;
use crate::run::{read, run};

/// How often each is measured.
const ROUNDS: usize = 21;

/// A process that loads all plugins, beside one that only opens each library.
pub fn load() -> Result<()> {
    build::install(&build::stage())?;
    run(build::cargo().args(["build", "--quiet", "--package", "systemimager-core", "--example", "load"]))?;
    let program = build::target().join("debug/examples/load");
    let dir = build::stage().join("lib/systemimager/plugins");
    let mut bare = Vec::new();
    let mut ours = Vec::new();
    for _ in 0..ROUNDS {
        // Each in a process of its own: a library is opened for the first time only once.
        bare.push(measure(&program, &dir, "dlopen")?);
        ours.push(measure(&program, &dir, "load")?);
    }
    let (bare, ours) = (median(bare), median(ours));
    println!("plugins in {}", dir.display());
    println!("  dlopen of each          {:>8.3} ms (median of {ROUNDS})", ms(bare));
    println!("  checked and loaded      {:>8.3} ms (median of {ROUNDS})", ms(ours));
    println!("  ratio                   {:>8.2}", ours.as_secs_f64() / bare.as_secs_f64());
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Asks the example for the time, in nanoseconds.
fn measure(program: &PathBuf, dir: &PathBuf, what: &str) -> Result<Duration> {
    let begun = Instant::now();
    let text = read(Command::new(program).arg(what).arg(dir))?;
    let nanoseconds: u64 = text.trim().parse().with_context(|| format!("{text:?} is no time"))?;
    anyhow::ensure!(Duration::from_nanos(nanoseconds) <= begun.elapsed(), "a time longer than the process ran");
    Ok(Duration::from_nanos(nanoseconds))
}
