//! `bench capture`: getimage beside rsync, on the lab's root file system.
//!
//! Both read the same tree over loopback, in turns. rsync alone writes nothing out and checks nothing
//! afterwards; a column with `sync` says what it takes until the copy is as safe as a captured image is.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use systemimager_tests::lab::master::{Distribution, rootfs_tar};

use super::{median, timed};
use crate::run::{read, run};
use crate::{build, require};

/// getimage beside rsync
#[derive(Debug, clap::Args)]
pub struct Capture {
    /// How often each is measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Capture this directory instead of the lab's root file system; its copy changes, not it
    #[arg(long)]
    tree: Option<PathBuf>,
}

/// What rsync is asked for: what getimage keeps too.
const OPTIONS: [&str; 2] = ["-aHAXS", "--numeric-ids"];
const SECRET: &str = "secret-of-the-bench-0123456789\n";

/// A child that ends with the measurement.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Default)]
struct Times {
    ours: Vec<Duration>,
    rsync: Vec<Duration>,
    synced: Vec<Duration>,
}

impl Times {
    fn print(self, what: &str, reference: &str) {
        let [ours, rsync, synced] = [self.ours, self.rsync, self.synced].map(|all| median(all).as_secs_f64());
        println!("{what}");
        println!("  getimage                      {ours:>7.3} s");
        println!("  {reference:<29} {rsync:>7.3} s   ratio {:>5.2}", ours / rsync);
        println!("  {:<29} {synced:>7.3} s   ratio {:>5.2}", format!("{reference}, sync"), ours / synced);
    }
}

impl Capture {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        require::all(require::BUILD)?;
        require::all(require::SERVE)?;
        require::all(require::LAB)?;
        build::install(&build::stage())?;
        let directory = tempfile::Builder::new().prefix("systemimager-bench-").tempdir_in("/var/tmp")?;
        let place = Place::new(directory.path(), self.tree.as_deref())?;
        let (mut first, mut changed) = (Times::default(), Times::default());
        for round in 0..self.rounds {
            let image = format!("bench{round}");
            let copy = place.path(&format!("copy{round}"));
            place.settle()?;
            // Whoever is second reads what the first left in the page cache; they take turns.
            let rsync = |times: &mut Times| place.rsync(times, &copy, None);
            let ours = |times: &mut Times| place.getimage(times, &image);
            in_turns(round, &mut first, ours, rsync)?;
            place.change(round)?;
            place.settle()?;
            let next = place.path(&format!("next{round}"));
            let rsync = |times: &mut Times| place.rsync(times, &next, Some(&copy));
            in_turns(round, &mut changed, ours, rsync)?;
            for path in [&next, &copy, &place.image(&image)] {
                fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        println!("{} files, medians of {} rounds", place.files()?.len(), self.rounds);
        first.print("first capture", "rsync -aHAXS --numeric-ids");
        changed.print("1% changed", "rsync --link-dest and rename");
        Ok(())
    }
}

fn in_turns(
    round: usize,
    times: &mut Times,
    ours: impl Fn(&mut Times) -> Result<()>,
    rsync: impl Fn(&mut Times) -> Result<()>,
) -> Result<()> {
    if round.is_multiple_of(2) {
        ours(times)?;
        rsync(times)
    } else {
        rsync(times)?;
        ours(times)
    }
}

/// The tree, the copies, and the rsync daemon that offers the tree as prepareclient does.
struct Place {
    directory: PathBuf,
    tree: PathBuf,
    port: u16,
    _daemon: Ended,
}

impl Place {
    fn new(directory: &Path, given: Option<&Path>) -> Result<Self> {
        let tree = directory.join("tree");
        match given {
            Some(given) => run(Command::new("cp").args(["--archive", "--no-target-directory"]).arg(given).arg(&tree))?,
            None => {
                fs::create_dir(&tree)?;
                let words = ["--extract", "--zstd", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*"];
                run(Command::new("tar")
                    .args(words)
                    .arg("--file")
                    .arg(rootfs_tar(Distribution::Debian)?)
                    .arg("--directory")
                    .arg(&tree))?;
            }
        }
        let port = free_port()?;
        let config = directory.join("rsyncd.conf");
        let text = format!(
            "address = 127.0.0.1\nport = {port}\nuse chroot = no\nuid = 0\ngid = 0\nlog file = {}\n[tree]\npath = {}\nread only = yes\n",
            directory.join("rsyncd.log").display(),
            tree.display()
        );
        fs::write(&config, text)?;
        let mut daemon = Command::new("rsync");
        daemon.args(["--daemon", "--no-detach"]).arg(format!("--config={}", config.display()));
        let daemon = Ended(daemon.stdin(Stdio::null()).spawn().context("starting an rsync daemon")?);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "the rsync daemon does not answer");
            std::thread::yield_now();
        }
        let secret = directory.join("secret");
        fs::write(&secret, SECRET)?;
        run(Command::new("chmod").arg("600").arg(&secret))?;
        Ok(Self { directory: directory.to_path_buf(), tree, port, _daemon: daemon })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn image(&self, name: &str) -> PathBuf {
        self.path("server/var/spool/systemimager/images").join(name)
    }

    /// What earlier measurements left to be written is written.
    fn settle(&self) -> Result<()> {
        run(&mut Command::new("sync"))
    }

    fn rsync(&self, times: &mut Times, copy: &Path, old: Option<&Path>) -> Result<()> {
        let staging = self.path("staging");
        let mut command = Command::new("rsync");
        command.args(OPTIONS).args(old.iter().map(|old| format!("--link-dest={}", old.display())));
        command.arg(format!("rsync://127.0.0.1:{}/tree/", self.port)).arg(&staging);
        let plain = timed(|| {
            run(&mut command)?;
            Ok(fs::rename(&staging, copy)?)
        })?;
        times.rsync.push(plain);
        times.synced.push(plain + timed(|| run(Command::new("sync").arg("--file-system").arg(copy)))?);
        Ok(())
    }

    fn getimage(&self, times: &mut Times, image: &str) -> Result<()> {
        let program = build::stage().join("bin/systemimager");
        let (port, secret) = (free_port()?.to_string(), self.path("secret"));
        let mut prepare = Command::new(&program);
        prepare.arg("--root").arg(self.path("client")).args(["prepareclient", "--server", "127.0.0.1", "--foreground"]);
        prepare.args(["--json", "--port", &port, "--secret-file"]).arg(&secret).arg("--source").arg(&self.tree);
        let log = File::create(self.path("prepareclient.log"))?;
        let mut offered =
            Ended(prepare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().context("prepareclient")?);
        let mut ready = String::new();
        let output = offered.0.stdout.take().context("prepareclient has no output")?;
        BufReader::new(output).read_line(&mut ready)?;
        if ready.is_empty() {
            bail!("prepareclient: {}", fs::read_to_string(self.path("prepareclient.log"))?);
        }
        let mut get = Command::new(&program);
        get.arg("--root").arg(self.path("server")).args(["--json", "getimage", "--master-client", "127.0.0.1"]);
        get.args(["--port", &port, "--image", image, "--yes", "--secret-file"]).arg(&secret);
        times.ours.push(timed(|| read(&mut get).map(drop))?);
        let status = offered.0.wait()?;
        ensure!(status.success(), "prepareclient ended with {status}");
        Ok(())
    }

    /// Regular files with something in them, in an order of their own.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in walkdir::WalkDir::new(&self.tree).sort_by_file_name() {
            let entry = entry?;
            if entry.file_type().is_file() && entry.metadata()?.len() > 0 {
                files.push(entry.into_path());
            }
        }
        Ok(files)
    }

    /// One file in a hundred gets another end.
    fn change(&self, round: usize) -> Result<()> {
        for path in self.files()?.iter().skip(round % 100).step_by(100) {
            let mut file = fs::OpenOptions::new().append(true).open(path)?;
            writeln!(file, "changed in round {round}").with_context(|| format!("changing {}", path.display()))?;
        }
        Ok(())
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("looking for a free port")?.local_addr()?.port())
}
