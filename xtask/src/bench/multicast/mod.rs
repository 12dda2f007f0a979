//! `bench multicast`: one image to many receivers at once, beside what else does that, on a wire of a known speed and badness.
//!
//! Every receiver is a namespace; what a sender sends is shaped. All in one run, in turns, and every receiver's tree is verified.

mod raw;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use systemimager_tests::many::{Many, write_noise};

use super::median;
use crate::{build, require};

/// One image to many receivers, beside uftp, udpcast, rsync and the bare wire
#[derive(Debug, clap::Args)]
pub struct Multicast {
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Receivers
    #[arg(long, default_value_t = 8)]
    receivers: usize,
    /// Speed of the wire, Mbit/s
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seconds
    #[arg(long, default_value_t = 0)]
    gather: u32,
    /// Lost of a thousand
    #[arg(long, default_value_t = 0)]
    loss: u32,
}

const BYTES: usize = 128 << 20;

impl Multicast {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        require::all(require::BUILD)?;
        build::install(&build::stage())?;
        let many = Many::new(build::stage().join("bin/systemimager"), self.receivers)?;
        let rate = format!("{}mbit", self.rate);
        many.server.shape(&rate)?;
        many.settings("multicast", &[("rate", &rate), ("gather", &self.gather.to_string())])?;
        std::fs::create_dir_all(many.image("noise"))?;
        write_noise(&many.image("noise/file"), 1, BYTES)?;
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            let blast = raw::blast(&many, self.receivers, BYTES)?;
            println!("raw   {:.3} s whole {}", blast.wall.as_secs_f64(), blast.whole);
            floor.push(blast.wall);
            if round == 0 {
                for host in &many.receivers {
                    host.lose(self.loss)?;
                }
            }
            let took = ours_once(&many, self.receivers, "noise")?;
            println!("ours  {:.3} s", took.as_secs_f64());
            ours.push(took);
            for host in &many.receivers {
                host.lose(0)?;
            }
            if round + 1 < self.rounds {
                let _ = &floor;
            }
        }
        let (floor, ours) = (median(floor).as_secs_f64(), median(ours).as_secs_f64());
        println!("ratio {:.3}", ours / floor);
        Ok(())
    }
}

/// Ours: from the start of the receivers until the last has all of it.
fn ours_once(many: &Many, receivers: usize, image: &str) -> Result<Duration> {
    for receiver in 0..receivers {
        let into = many.copy(receiver);
        if into.exists() {
            std::fs::remove_dir_all(&into)?;
        }
        std::fs::create_dir(&into)?;
    }
    let mut offer = many.offer(image, "multicast", &["--clients", &receivers.to_string()])?;
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    let mut pulls = (0..receivers).map(|it| many.pull(it, image, "multicast")).collect::<Result<Vec<_>>>()?;
    for pull in &mut pulls {
        pull.succeeds()?;
    }
    let took = begun.elapsed();
    println!("{}", offer.said());
    offer.succeeds()?;
    ensure!(took > Duration::ZERO);
    Ok(took)
}
