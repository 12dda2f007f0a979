//! Measurements, each beside what it is compared with, in one run: on a shared machine only ratios of
//! medians say something.

mod capture;
mod load;
mod multicast;
mod ssh;
mod status;
mod update;

use std::time::{Duration, Instant};

use anyhow::Result;

/// Measure, side by side in one run
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Loading all plugins, beside one bare dlopen of each
    Load,
    /// getimage beside rsync: the first capture, and one of a tree of which 1% changed
    Capture(capture::Capture),
    /// One image to many receivers at once, beside uftp, udpcast, rsync and the bare wire
    Multicast(multicast::Multicast),
    /// A pull over ssh beside rsync -e ssh, at once and with a round trip of 20 ms; and a small change of a large file
    Ssh(ssh::Ssh),
    /// What serve takes of memory and processor while many machines install
    Status(status::Status),
    /// updateclient beside rsync: nothing, 1% or one file in eight changed
    Update(update::Update),
}

impl Bench {
    /// Measures, and prints.
    pub fn run(self) -> Result<()> {
        match self {
            Bench::Load => load::load(),
            Bench::Capture(capture) => capture.run(),
            Bench::Multicast(multicast) => multicast.run(),
            Bench::Ssh(ssh) => ssh.run(),
            Bench::Status(status) => status.run(),
            Bench::Update(update) => update.run(),
        }
    }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

/// How long the work takes.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}
