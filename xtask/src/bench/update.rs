//! `bench update`: updateclient beside rsync, against the same image of the same server, over a network of the lab's.
//!
//! Both bring a tree of their own to the image, in turns. rsync alone moves files into place one by one and writes
//! nothing out; a column with `sync` says what it takes until the result is as safe.
//!
//! The trees lie on a file system of their own, with a journal, as a machine's do: without one, ext4 takes ever longer to
//! make a file where many were removed in the last minutes, which the rounds do.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use systemimager_tests::lab::disk::{Loop, Mount};
use systemimager_tests::lab::master::{Distribution, rootfs_tar};
use systemimager_tests::lab::netns::Host;
use systemimager_tests::story::Story;

use super::{median, timed};
use crate::run::run;
use crate::{build, require};

/// updateclient beside rsync
#[derive(Debug, clap::Args)]
pub struct Update {
    /// How often each is measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

/// Room for the two trees and what is laid ready, bytes.
const DISK: u64 = 6 << 30;
const MASTER: &str = "format = 1\nimage = \"IMAGE\"\ntransports = [\"rsync\"]\npartitioner = \"sfdisk\"\n\
    bootloader = \"none\"\nallow_keyless = true\n[identity]\nplugin = \"hosts\"\n";
/// Every how many files changes, in each image beside the first.
const IMAGES: [(&str, usize); 2] = [("changed", 100), ("revision", 8)];

#[derive(Default)]
struct Times {
    ours: Vec<Duration>,
    rsync: Vec<Duration>,
    synced: Vec<Duration>,
    ours_bytes: u64,
    rsync_bytes: u64,
}

impl Times {
    fn print(self, what: &str) {
        let [ours, rsync, synced] = [self.ours, self.rsync, self.synced].map(|all| median(all).as_secs_f64());
        println!("{what}");
        println!("  updateclient                  {ours:>7.3} s   {:>11} bytes received", self.ours_bytes);
        let ratio = self.ours_bytes as f64 / self.rsync_bytes.max(1) as f64;
        println!(
            "  rsync -aHAXS --delete         {rsync:>7.3} s   ratio {:>5.2}   {:>11} bytes, ratio {ratio:.3}",
            ours / rsync,
            self.rsync_bytes
        );
        println!("  the same, sync                {synced:>7.3} s   ratio {:>5.2}", ours / synced);
    }
}

impl Update {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        require::all(require::BUILD)?;
        require::all(require::SERVE)?;
        require::all(require::LAB)?;
        build::install(&build::stage())?;
        let directory = tempfile::Builder::new().prefix("systemimager-bench-").tempdir_in("/var/tmp")?;
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let place = Place::new(directory.path())?;
        let mut rows = Vec::new();
        for (what, image) in
            [("no change", "first"), ("1% changed", "changed"), ("one new revision (1 file in 8)", "revision")]
        {
            let mut times = Times::default();
            for round in 0..self.rounds {
                for whose in ["ours", "rsync"] {
                    place.reset(whose)?;
                }
                run(&mut Command::new("sync"))?;
                // Whoever is second reads what the first left in the page cache; they take turns.
                let turns: [&str; 2] = if round.is_multiple_of(2) { ["ours", "rsync"] } else { ["rsync", "ours"] };
                for whose in turns {
                    match whose {
                        "ours" => place.updateclient(&mut times, image)?,
                        _ => place.rsync(&mut times, image)?,
                    }
                }
            }
            rows.push((what, times));
        }
        println!("medians of {} rounds", self.rounds);
        rows.into_iter().for_each(|(what, times)| times.print(what));
        Ok(())
    }
}

/// A server with images, and a machine that has a tree for each of the two.
struct Place {
    story: Story,
    client: Host,
    patterns: PathBuf,
    trees: Mount,
    _disk: Loop,
}

impl Place {
    fn new(directory: &Path) -> Result<Self> {
        let mut story = Story::begin(directory)?;
        for made in ["tftpboot/systemimager", "var/spool/systemimager/images", "etc"] {
            fs::create_dir_all(story.root().join(made))?;
        }
        fs::write(story.root().join("etc/hosts"), "127.0.0.1 localhost\n10.77.0.1 server\n")?;
        for file in ["kernel", "initrd.img"] {
            fs::write(story.root().join("tftpboot").join(file), "of the bench")?;
        }
        let image = |name: &str| story.root().join("var/spool/systemimager/images").join(name);
        fs::create_dir(image("first"))?;
        let words = ["--extract", "--zstd", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*"];
        run(Command::new("tar")
            .args(words)
            .arg("--file")
            .arg(rootfs_tar(Distribution::Debian)?)
            .arg("--directory")
            .arg(image("first")))?;
        for (name, every) in IMAGES {
            copy(&image("first"), &image(name))?;
            change(&image(name), every)?;
        }
        for name in ["first", "changed", "revision"] {
            let file = story.root().join(format!("tftpboot/systemimager/{name}.master"));
            fs::write(file, MASTER.replace("IMAGE", name))?;
        }
        story.run(&["addclients", "node1", "--image", "first", "--ip", "10.77.0.11/24", "--no-install"])?;
        let client = story.network.host("client", "10.77.0.11/24 fd77::11/64")?;
        story.serve_again()?;
        let raw = directory.join("trees.raw");
        File::create(&raw)?.set_len(DISK)?;
        let disk = Loop::attach(&raw)?;
        run(Command::new("mkfs.ext4").args(["-q", disk.device()]))?;
        let place =
            Self { patterns: directory.join("patterns"), story, client, trees: disk.mount_whole()?, _disk: disk };
        for whose in ["ours", "rsync"] {
            copy(&place.image("first"), &place.tree(whose))?;
        }
        // Both leave the same alone.
        let told = place.told(&place.tree("ours"), "first", &["--dry-run"])?;
        let left = told["left_alone"].as_array().context("no list of what is left alone")?;
        let text: String = left.iter().filter_map(|it| it.as_str()).map(|pattern| format!("{pattern}\n")).collect();
        fs::write(&place.patterns, text)?;
        Ok(place)
    }

    fn image(&self, name: &str) -> PathBuf {
        self.story.root().join("var/spool/systemimager/images").join(name)
    }

    fn tree(&self, whose: &str) -> PathBuf {
        self.trees.path().join(whose)
    }

    /// The tree is as the first image again.
    fn reset(&self, whose: &str) -> Result<()> {
        let from = format!("{}/", self.image("first").display());
        run(Command::new("rsync")
            .args(["-aHAXS", "--numeric-ids", "--delete", "--modify-window=-1", &from])
            .arg(self.tree(whose)))
    }

    fn told(&self, tree: &Path, image: &str, more: &[&str]) -> Result<serde_json::Value> {
        let program = build::stage().join("lib/systemimager/client/systemimager-client").display().to_string();
        let tree = tree.display().to_string();
        let words = [program.as_str(), "--json", "updateclient", "--server", "10.77.0.1", "--yes"];
        let words = [&words[..], &["--image", image, "--target", &tree], more].concat();
        let output = self.client.command(&words).stderr(Stdio::inherit()).output().context("updateclient")?;
        ensure!(output.status.success(), "updateclient ended with {}", output.status);
        let text = String::from_utf8(output.stdout)?;
        Ok(serde_json::from_str(text.lines().last().unwrap_or_default())?)
    }

    fn updateclient(&self, times: &mut Times, image: &str) -> Result<()> {
        let tree = self.tree("ours");
        let mut told = serde_json::Value::Null;
        times.ours.push(timed(|| {
            told = self.told(&tree, image, &[])?;
            Ok(())
        })?);
        times.ours_bytes = told["done"]["received"].as_u64().context("it does not say what came over the wire")?;
        Ok(())
    }

    fn rsync(&self, times: &mut Times, image: &str) -> Result<()> {
        let tree = self.tree("rsync");
        let from = format!("rsync://systemimager@10.77.0.1:873/{image}/");
        let exclude = format!("--exclude-from={}", self.patterns.display());
        let to = format!("{}/", tree.display());
        let words = ["rsync", "-aHAXS", "--numeric-ids", "--delete", "--stats", &exclude, &from, &to];
        let mut command = self.client.command(&words);
        command.env("RSYNC_PASSWORD", "");
        let mut text = String::new();
        let plain = timed(|| {
            let output = command.output().context("rsync")?;
            ensure!(output.status.success(), "rsync: {}", String::from_utf8_lossy(&output.stderr));
            text = String::from_utf8(output.stdout)?;
            Ok(())
        })?;
        times.rsync.push(plain);
        times.synced.push(plain + timed(|| run(Command::new("sync").arg("--file-system").arg(&tree)))?);
        let line = text.lines().find_map(|line| line.strip_prefix("Total bytes received: "));
        let digits: String = line.unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
        times.rsync_bytes = digits.parse().context("rsync does not say what came over the wire")?;
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["--archive", "--no-target-directory"]).arg(from).arg(to))
}

/// One regular file in so many gets another end.
fn change(tree: &Path, every: usize) -> Result<()> {
    let files = walkdir::WalkDir::new(tree).sort_by_file_name().into_iter().filter_map(Result::ok);
    let files = files.filter(|it| it.file_type().is_file() && it.metadata().is_ok_and(|found| found.len() > 0));
    for entry in files.step_by(every) {
        let mut file = fs::OpenOptions::new().append(true).open(entry.path())?;
        writeln!(file, "changed").with_context(|| format!("changing {}", entry.path().display()))?;
    }
    Ok(())
}
