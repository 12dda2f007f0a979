//! `bench multicast`: one image to many receivers at once, beside what else does that, on a wire of a known speed and badness.
//!
//! Every receiver is a namespace; what a sender sends is shaped, and what a receiver gets is lost by chance. All in one run, in
//! turns; every receiver's copy is compared. The floor is the bare wire ([`raw`]): at a speed at which not even that arrives whole on
//! this computer nothing is measured, but at the next lower one.

mod measure;
mod plot;
mod raw;
mod report;
mod rivals;

use anyhow::{Result, ensure};
use systemimager_tests::many::Many;

use self::measure::Bench;
use crate::{build, require};

/// What the rivals need.
const RIVALS: &[require::Needed] = &[
    ("/usr/bin/uftp", "uftp"),
    ("/usr/bin/udp-sender", "udpcast"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/tc", "iproute2"),
    ("/usr/bin/rsync", "rsync"),
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
];
/// Receivers of most measurements, and the most that there are.
const EIGHT: usize = 8;
const SIXTEEN: usize = 16;
/// Speeds of the wire, Mbit/s: the first that this computer carries.
const SPEEDS: [u32; 4] = [200, 100, 50, 25];

/// One image to many receivers, beside uftp, udpcast, rsync and the bare wire
#[derive(Debug, clap::Args)]
pub struct Multicast {
    /// How often each is measured; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these parts; without any, all of them
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// The speed of the wire, Mbit/s, whatever this computer carries
    #[arg(long)]
    speed: Option<u32>,
    /// Write the tables and plots into docs/bench
    #[arg(long)]
    write: bool,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Eight receivers and a wire that loses nothing, 1 % and 5 %, beside the others
    Loss,
    /// One receiver to sixteen
    Scale,
    /// One that is slow, one that comes late
    Awkward,
    /// A Debian system
    Tree,
}

impl Multicast {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        require::all(require::BUILD)?;
        require::all(RIVALS)?;
        build::install(&build::stage())?;
        ensure!(self.rounds > 0, "--rounds 0 measures nothing");
        // Each part has its own network: every namespace costs this computer time, also one that is sent to in vain.
        let bench = |receivers| -> Result<Bench> {
            let many = Many::new(build::stage().join("bin/systemimager"), receivers)?;
            for host in many.receivers.iter().chain([&many.server]) {
                // The others ask the routes where groups are.
                host.run(&["ip", "route", "add", "224.0.0.0/4", "dev", "eth0"])?;
            }
            Ok(Bench { many, rounds: self.rounds, speed: self.speed })
        };
        let wants = |part| self.only.is_empty() || self.only.contains(&part);
        let mut found = report::Found::default();
        if wants(Part::Loss) {
            found.loss = bench(EIGHT)?.loss()?;
        }
        if wants(Part::Scale) {
            found.scale = bench(SIXTEEN)?.scale()?;
        }
        if wants(Part::Awkward) {
            found.awkward = bench(EIGHT)?.awkward()?;
        }
        if wants(Part::Tree) {
            found.tree = bench(SIXTEEN)?.tree()?;
        }
        let text = report::text(&found);
        println!("\n{text}");
        if self.write {
            report::write(&build::root().join("docs/bench"), &found, &text)?;
        }
        Ok(())
    }
}
