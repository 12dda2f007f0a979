//! An image server that offers an image by hand, and several receivers that pull it: each the built program in a namespace of
//! its own, on one switch.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::lab::netns::{Host, Network};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What both sides know, as it is in their files.
pub const SECRET: &str = "correct-horse\n";

/// A server and its receivers. Dropped, all of it goes.
pub struct Many {
    /// What they are on.
    pub network: Network,
    /// The server.
    pub server: Host,
    /// The receivers.
    pub receivers: Vec<Host>,
    program: PathBuf,
    dir: tempfile::TempDir,
}

/// A program that was started; ended when dropped.
pub struct Running {
    child: Child,
    /// What it says, both outputs.
    pub log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// What it said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has said something.
    pub fn wait_said(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.said().contains(text) {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status} before it said {text:?}:\n{}", self.said());
            }
            if Instant::now() > deadline {
                bail!("it did not say {text:?} in time:\n{}", self.said());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Its end, which must come in time.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        self.ended_within(PATIENCE)
    }

    /// The same, in this time.
    pub fn ended_within(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("it does not end:\n{}", self.said());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// That it ends well.
    pub fn succeeds(&mut self) -> Result<()> {
        let status = self.ended()?;
        if !status.success() {
            bail!("it ended with {status}:\n{}", self.said());
        }
        Ok(())
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Asks it to end, and waits for that.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)?;
        self.ended()
    }

    /// Ends it at once, with all that it started: as when the machine is switched off.
    pub fn kill(mut self) -> Result<()> {
        let group = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Many {
    /// A server with an address, and so many receivers.
    pub fn new(program: PathBuf, receivers: usize) -> Result<Self> {
        let network = Network::new()?;
        let server = network.host("server", "10.67.0.1/16")?;
        let receivers = (0..receivers)
            .map(|number| network.host(&format!("r{number}"), &format!("10.67.1.{}/16", number + 1)))
            .collect::<Result<_>>()?;
        let dir = tempfile::Builder::new().prefix("systemimager-many-").tempdir_in("/var/tmp")?;
        let many = Self { network, server, receivers, program, dir };
        fs::write(many.path("secret"), SECRET)?;
        fs::create_dir_all(many.image(""))?;
        Ok(many)
    }

    /// A path below its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The tree of an image.
    pub fn image(&self, name: &str) -> PathBuf {
        self.path("server/var/spool/systemimager/images").join(name)
    }

    /// Where a receiver puts it.
    pub fn copy(&self, receiver: usize) -> PathBuf {
        self.path(&format!("copy{receiver}"))
    }

    /// The server's settings of a transport.
    pub fn settings(&self, transport: &str, words: &[(&str, &str)]) -> Result<()> {
        let mut text = format!("[transport.{transport}]\n");
        for (name, value) in words {
            text.push_str(&format!("{name} = {value:?}\n"));
        }
        let dir = self.path("server/etc/systemimager");
        fs::create_dir_all(&dir)?;
        Ok(fs::write(dir.join("systemimager.toml"), text)?)
    }

    /// The program on a host.
    pub fn command(&self, host: &Host, root: &str, words: &[&str]) -> Command {
        let mut command = host.command(&[&self.program]);
        command.arg("--root").arg(self.path(root)).args(words).stdin(Stdio::null());
        command
    }

    /// Starts something; what it says goes to a file of that name.
    pub fn start(&self, name: &str, command: &mut Command) -> Result<Running> {
        use std::os::unix::process::CommandExt as _;
        let log = self.path(&format!("{name}.log"));
        let out = File::create(&log)?;
        let child = command
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Running { child, log })
    }

    /// Offers an image by hand, and waits until it can be pulled.
    pub fn offer(&self, image: &str, transport: &str, more: &[&str]) -> Result<Running> {
        let mut command = self.command(
            &self.server,
            "server",
            &["-v", "offer", "--image", image, "--transport", transport, "--address"],
        );
        command.args([&self.server.address, "--secret-file"]).arg(self.path("secret")).args(more);
        let mut running = self.start("offer", &mut command)?;
        running.wait_said("ready. Run")?;
        Ok(running)
    }

    /// Bytes of the image that a receiver has, as the sender knows it of its last session.
    pub fn has(&self, receiver: usize) -> u64 {
        let services = fs::read_dir(self.path("server/run/systemimager")).into_iter().flatten().flatten();
        let states = services.filter_map(|it| fs::read(it.path().join("service/state.json")).ok());
        let states = states.filter_map(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
        let address = self.receivers.get(receiver).map(|host| host.address.clone()).unwrap_or_default();
        let lists = states.flat_map(|state| state["sessions"].as_array().cloned().unwrap_or_default());
        let all = lists.flat_map(|session| session["receivers"].as_array().cloned().unwrap_or_default());
        all.filter(|it| it["address"] == address.as_str()).filter_map(|it| it["bytes"].as_u64()).last().unwrap_or(0)
    }

    /// Waits until it has so many.
    pub fn wait_has(&self, receiver: usize, bytes: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.has(receiver) < bytes {
            if Instant::now() > deadline {
                bail!("receiver {receiver} has {} of {bytes} bytes", self.has(receiver));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Pulls it on a receiver.
    pub fn pull(&self, receiver: usize, image: &str, transport: &str) -> Result<Running> {
        let host = &self.receivers[receiver];
        let mut command =
            self.command(host, &format!("receiver{receiver}"), &["pull", "--image", image, "--transport", transport]);
        command.args(["--yes", "--server", &self.server.address, "--secret-file"]).arg(self.path("secret"));
        command.arg("--to").arg(self.copy(receiver));
        self.start(&format!("pull{receiver}"), &mut command)
    }
}

/// Bytes that nothing compresses, the same each time (xorshift64).
pub fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// Writes a file of such bytes.
pub fn write_noise(path: &Path, seed: u64, count: usize) -> Result<()> {
    fs::write(path, noise(seed, count)).with_context(|| format!("writing {}", path.display()))
}
