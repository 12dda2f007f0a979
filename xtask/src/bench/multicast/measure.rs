//! The measurements themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use systemimager_tests::compare;
use systemimager_tests::many::{Many, Running, write_noise};

use super::report::{Awkward, Loss, Row, Scale, Tree};
use super::{EIGHT, SIXTEEN, SPEEDS, raw, rivals};
use crate::bench::median;
use crate::run::run;

/// Of the file that is sent, bytes; nothing compresses it.
pub const BYTES: usize = 128 << 20;
/// How much longer than it has to the bare wire may take.
const SLACK: f64 = 1.04;
/// How often all of eight have to have all of it where 5 % is lost.
const ALL: usize = 10;
/// Lost of a thousand.
const LOSSES: [u32; 3] = [0, 10, 50];
const IMAGE: &str = "noise";
const BY: &str = "multicast";
/// Seconds that the first waits for the others, where all are to begin together.
const GATHER: u32 = 3;

/// What is measured on.
pub struct Bench {
    pub many: Many,
    pub rounds: usize,
    pub speed: Option<u32>,
}

/// How one run of ours went.
#[derive(Debug, Clone, Copy)]
pub struct Ours {
    /// From the start of the receivers' programs until the last has ended.
    pub wall: Duration,
    /// From the first datagram until the last receiver has ended.
    pub wire: Duration,
    /// Bytes sent, with all headers of each packet.
    pub bytes: u64,
}

fn seconds(all: impl IntoIterator<Item = Duration>) -> f64 {
    median(all.into_iter().collect()).as_secs_f64()
}

impl Bench {
    fn noise(&self) -> Result<PathBuf> {
        let file = self.many.image(IMAGE).join("file");
        if !file.exists() {
            fs::create_dir_all(self.many.image(IMAGE))?;
            write_noise(&file, 1, BYTES)?;
        }
        Ok(file)
    }

    /// The first speed at which the bare wire arrives whole at so many.
    fn shaped(&self, receivers: usize) -> Result<(u32, Duration)> {
        for speed in self.speed.into_iter().chain(SPEEDS) {
            self.many.server.shape(&format!("{speed}mbit"))?;
            let blast = raw::blast(&self.many, receivers, BYTES)?;
            println!(
                "bare wire: {speed} Mbit/s, {receivers} receivers: {:.2} s, whole: {}",
                blast.wall.as_secs_f64(),
                blast.whole
            );
            // Late is not whole: a computer that is too busy to send at this speed does not carry it.
            let ideal = raw::on_wire(BYTES) as f64 * 8.0 / 1e6 / f64::from(speed);
            let carried = blast.whole && blast.wall.as_secs_f64() < ideal * SLACK;
            if carried || self.speed.is_some() {
                return Ok((speed, blast.wall));
            }
        }
        anyhow::bail!("not even {} Mbit/s arrive whole here", SPEEDS[SPEEDS.len() - 1])
    }

    fn lose(&self, per_mille: u32) -> Result<()> {
        self.many.receivers.iter().try_for_each(|host| host.lose(per_mille))
    }

    fn settings(&self, speed: u32, gather: u32) -> Result<()> {
        self.many.settings(BY, &[("rate", &format!("{speed}mbit")), ("gather", &gather.to_string())])
    }

    /// Ours, to the first receivers, who all begin together; every copy is compared.
    fn ours(&self, image: &str, receivers: usize) -> Result<Ours> {
        let mut offer = self.offer(image, receivers)?;
        let begun = Instant::now();
        let mut pulls = (0..receivers).map(|it| self.many.pull(it, image, BY)).collect::<Result<Vec<_>>>()?;
        offer.wait_said(" begins with ")?;
        let first = Instant::now();
        for pull in &mut pulls {
            pull.succeeds()?;
        }
        let (wall, wire) = (begun.elapsed(), first.elapsed());
        self.ended(&mut offer)?;
        for receiver in 0..receivers {
            self.same(image, receiver)?;
        }
        let said = offer.said();
        let bytes = said.split(" bytes with all headers").next().and_then(|before| before.rsplit(' ').next());
        Ok(Ours {
            wall,
            wire,
            bytes: bytes.and_then(|it| it.parse().ok()).context("the sender does not say what it sent")?,
        })
    }

    fn offer(&self, image: &str, receivers: usize) -> Result<Running> {
        for receiver in 0..self.many.receivers.len() {
            let copy = self.many.copy(receiver);
            if copy.exists() {
                fs::remove_dir_all(&copy)?;
            }
            fs::create_dir(&copy)?;
        }
        let offer = self.many.offer(image, BY, &["--clients", &receivers.to_string()])?;
        // What was written before is not to be written out while it is measured.
        run(&mut Command::new("sync"))?;
        Ok(offer)
    }

    fn ended(&self, offer: &mut Running) -> Result<()> {
        offer.succeeds().context("the sender")
    }

    fn same(&self, image: &str, receiver: usize) -> Result<()> {
        let differences =
            compare::compare(&self.many.image(image), &self.many.copy(receiver), &compare::Options::new())?;
        ensure!(differences.is_empty(), "receiver {receiver}: {}", compare::report(&differences, 5));
        Ok(())
    }

    /// Eight receivers, and a wire that loses more and more.
    pub fn loss(&self) -> Result<Option<Loss>> {
        let file = self.noise()?;
        let (speed, _) = self.shaped(EIGHT)?;
        self.settings(speed, GATHER)?;
        let mut rows: Vec<Row> = Vec::new();
        for loss in LOSSES {
            let (mut floor, mut ours, mut udpcast, mut rsync) = (vec![], vec![], vec![], vec![]);
            let (mut uftp, mut told) = (vec![], vec![]);
            for round in 0..self.rounds {
                self.lose(0)?;
                floor.push(raw::blast(&self.many, EIGHT, BYTES)?.wall);
                self.lose(loss)?;
                ours.push(self.ours(IMAGE, EIGHT)?);
                uftp.push(rivals::uftp(&self.many, EIGHT, &file, (speed, false))?);
                told.push(rivals::uftp(&self.many, EIGHT, &file, (speed, true))?);
                udpcast.push(rivals::udpcast(&self.many, EIGHT, &file, speed)?);
                rsync.push(rivals::rsync(&self.many, EIGHT, &self.many.image(IMAGE))?);
                println!(
                    "{loss}‰, round {}: bare {:.2} s, ours {:.2} s on the wire, {:.2} s in all; uftp {:.2} s ({} of 8), told who comes \
                     {:.2} s ({} of 8), udpcast {:.2} s ({} of 8), rsync {:.1} s",
                    round + 1,
                    floor[round].as_secs_f64(),
                    ours[round].wire.as_secs_f64(),
                    ours[round].wall.as_secs_f64() - f64::from(GATHER),
                    uftp[round].wall.as_secs_f64(),
                    uftp[round].intact,
                    told[round].wall.as_secs_f64(),
                    told[round].intact,
                    udpcast[round].wall.as_secs_f64(),
                    udpcast[round].intact,
                    rsync[round].as_secs_f64(),
                );
            }
            let least = |runs: &[rivals::Run]| runs.iter().map(|run| run.intact).min().unwrap_or(0);
            rows.push(Row {
                loss,
                floor: seconds(floor),
                wire: seconds(ours.iter().map(|it| it.wire)),
                wall: seconds(ours.iter().map(|it| it.wall)) - f64::from(GATHER),
                sent: ours.iter().map(|it| it.bytes as f64).sum::<f64>()
                    / ours.len() as f64
                    / raw::on_wire(BYTES) as f64,
                uftp: (seconds(uftp.iter().map(|it| it.wall)), least(&uftp)),
                told: (seconds(told.iter().map(|it| it.wall)), least(&told)),
                udpcast: (seconds(udpcast.iter().map(|it| it.wall)), least(&udpcast)),
                rsync: seconds(rsync),
            });
        }
        self.lose(50)?;
        let mut complete = 0;
        for _ in 0..ALL {
            complete += usize::from(self.ours(IMAGE, EIGHT).is_ok());
        }
        println!("5 %: all of 8 have all of it in {complete} of {ALL}");
        self.lose(0)?;
        Ok(Some(Loss { speed, rows, complete, of: ALL }))
    }

    /// One receiver to sixteen, at a speed that this computer carries for sixteen.
    pub fn scale(&self) -> Result<Option<Scale>> {
        self.noise()?;
        let (speed, _) = self.shaped(SIXTEEN)?;
        self.settings(speed, GATHER)?;
        let mut walls = Vec::new();
        for receivers in [1, 2, 4, EIGHT, SIXTEEN] {
            let runs = (0..self.rounds).map(|_| self.ours(IMAGE, receivers)).collect::<Result<Vec<_>>>()?;
            walls.push((receivers, seconds(runs.iter().map(|it| it.wire))));
            println!("{receivers} receivers at {speed} Mbit/s: {:.2} s", walls.last().map_or(0.0, |it| it.1));
        }
        Ok(Some(Scale { speed, walls }))
    }

    /// One that gets a fifth of the speed, and one that comes late.
    pub fn awkward(&self) -> Result<Option<Awkward>> {
        self.noise()?;
        let (speed, _) = self.shaped(EIGHT)?;
        self.settings(speed, 0)?;
        let (mut clean, mut others, mut late, mut first) = (vec![], vec![], vec![], vec![]);
        for _ in 0..self.rounds {
            clean.push(self.first_ends(EIGHT, None)?.0);
            self.many.receivers[EIGHT - 1].hold(&format!("{}kbit", speed * 200))?;
            others.push(self.first_ends(EIGHT, None)?.0);
            self.many.receivers[EIGHT - 1].hold("10gbit")?;
            let alone = self.first_ends(1, None)?.0;
            let (one, other) = self.first_ends(2, Some(alone / 2))?;
            first.push(one.as_secs_f64() / alone.as_secs_f64());
            late.push(other.as_secs_f64() / alone.as_secs_f64());
            println!(
                "clean {:.2} s, beside a slow one {:.2} s; the first {:.3}, the late one {:.3} of the time alone",
                clean.last().map_or(0.0, Duration::as_secs_f64),
                others.last().map_or(0.0, Duration::as_secs_f64),
                first.last().unwrap_or(&0.0),
                late.last().unwrap_or(&0.0)
            );
        }
        let middle = |mut all: Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        Ok(Some(Awkward {
            speed,
            clean: seconds(clean),
            beside: seconds(others),
            first: middle(first),
            late: middle(late),
        }))
    }

    /// When all but the last receiver have ended, and how long the last took from its own start; it starts so much later. All of them
    /// have to have all of it, in the end.
    fn first_ends(&self, receivers: usize, late: Option<Duration>) -> Result<(Duration, Duration)> {
        let mut offer = self.offer(IMAGE, receivers)?;
        let begun = Instant::now();
        let (last, all) = (receivers - 1, receivers.max(2) - 1);
        let mut pulls = (0..all).map(|it| self.many.pull(it, IMAGE, BY)).collect::<Result<Vec<_>>>()?;
        if let Some(late) = late {
            std::thread::sleep(late);
        }
        let started = Instant::now();
        let mut other = if last >= all { Some(self.many.pull(last, IMAGE, BY)?) } else { None };
        for pull in &mut pulls {
            pull.succeeds()?;
        }
        let wall = begun.elapsed();
        if let Some(other) = &mut other {
            other.succeeds()?;
        }
        let took = started.elapsed();
        self.ended(&mut offer)?;
        (0..receivers).try_for_each(|receiver| self.same(IMAGE, receiver))?;
        Ok((wall, took))
    }

    /// A Debian system.
    pub fn tree(&self) -> Result<Option<Tree>> {
        let tree = debian()?;
        let image = self.many.image("debian");
        run(Command::new("cp").args(["--archive", "--no-target-directory"]).arg(&tree).arg(&image))?;
        let (speed, _) = self.shaped(SIXTEEN)?;
        self.settings(speed, GATHER)?;
        let (mut one, mut eight, mut rsync) = (vec![], vec![], vec![]);
        for _ in 0..self.rounds {
            one.push(self.ours("debian", 1)?.wall - Duration::from_secs(GATHER.into()));
            eight.push(self.ours("debian", EIGHT)?.wall - Duration::from_secs(GATHER.into()));
            rsync.push(rivals::rsync(&self.many, 1, &image)?);
            println!(
                "a Debian system at {speed} Mbit/s: one {:.1} s, eight {:.1} s, rsync to one {:.1} s",
                one.last().map_or(0.0, Duration::as_secs_f64),
                eight.last().map_or(0.0, Duration::as_secs_f64),
                rsync.last().map_or(0.0, Duration::as_secs_f64)
            );
        }
        Ok(Some(Tree { speed, one: seconds(one), eight: seconds(eight), rsync: seconds(rsync) }))
    }
}

/// A small Debian system as a tree; made once, and kept in the cache.
fn debian() -> Result<PathBuf> {
    let cache =
        std::env::var_os("SYSTEMIMAGER_CACHE").map_or_else(|| "/var/cache/systemimager-lab".into(), PathBuf::from);
    let tree = cache.join("bench-debian-2");
    if !tree.join("etc/debian_version").exists() {
        fs::create_dir_all(&cache)?;
        let packages = "--include=python3,perl,vim-tiny,openssh-server,rsync,less,locales,gcc";
        run(Command::new("mmdebstrap")
            .args(["--variant=important", "--quiet", packages, "bookworm"])
            .arg(&tree)
            .env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    ensure!(Path::new(&tree).is_dir(), "{} is not there", tree.display());
    Ok(tree)
}
