//! `bench ssh`: a pull by the transport ssh beside `rsync -e ssh` with the same cipher, of the same tree, on loopback; and the same
//! through a relay that keeps all back for 10 ms each way. Both write into an empty directory, in turns.
//!
//! Ours is measured as a person sees it: with the start of the program, and the keys that are made of the secret.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use systemimager_tests::loopback::{Lab, Offered};
use systemimager_tests::relay::Relay;

use super::{median, timed};
use crate::run::run;
use crate::{build, require};

/// A pull over ssh beside rsync -e ssh
#[derive(Debug, clap::Args)]
pub struct Ssh {
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Files of the tree, and bytes of each.
const FILES: (usize, usize) = (5_000, 100_000);
/// Bytes of the file that changes a little.
const LARGE: usize = 200 << 20;
const ONE_WAY: Duration = Duration::from_millis(10);
const CIPHER: &str = "chacha20-poly1305@openssh.com";

impl Ssh {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        require::all(require::BUILD)?;
        require::all(require::SERVE)?;
        build::install(&build::stage())?;
        let place = Place::new(Lab::new(build::stage().join("bin/systemimager")).by_transport("ssh"))?;
        println!("medians of {} rounds, {} files, {} MB", self.rounds, FILES.0, FILES.0 * FILES.1 / 1_000_000);
        for delay in [None, Some(ONE_WAY)] {
            let relays = delay.map(|delay| -> Result<_> {
                Ok([Relay::delaying(place.lab.port, delay)?, Relay::delaying(place.other.port, delay)?])
            });
            let relays = relays.transpose()?;
            let ports = relays
                .as_ref()
                .map_or([place.lab.port, place.other.port], |relays| relays.each_ref().map(|it| it.port));
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for round in 0..self.rounds {
                // Whoever is second reads what the first left in the page cache; they take turns.
                for whose in if round.is_multiple_of(2) { [0, 1] } else { [1, 0] } {
                    let into = place.empty(if whose == 0 { "ours" } else { "theirs" })?;
                    run(&mut Command::new("sync"))?;
                    match whose {
                        0 => ours.push(timed(|| place.pull(&into, ports[0]).map(drop))?),
                        _ => theirs.push(timed(|| place.rsync(&into, ports[1]))?),
                    }
                }
            }
            let [ours, theirs] = [ours, theirs].map(|all| median(all).as_secs_f64());
            println!("{}", if delay.is_some() { "round trip of 20 ms" } else { "loopback" });
            println!("  transport ssh   {ours:>7.3} s");
            println!("  rsync -e ssh    {theirs:>7.3} s   ratio {:>5.2}", ours / theirs);
        }
        place.delta()
    }
}

/// rsync's own way there: a plain sshd.
struct Other {
    child: Child,
    port: u16,
    key: PathBuf,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Place {
    other: Other,
    source: PathBuf,
    _offered: Offered,
    lab: Lab,
}

impl Place {
    fn new(lab: Lab) -> Result<Self> {
        let source = lab.path("source");
        let mut noise = Noise(1);
        for number in 0..FILES.0 {
            let directory = source.join(format!("d{}", number / 100));
            fs::create_dir_all(&directory)?;
            fs::write(directory.join(format!("f{number}")), noise.bytes(FILES.1))?;
        }
        let other = sshd(&lab)?;
        let offered = lab.offer(&source);
        Ok(Self { other, source, _offered: offered, lab })
    }

    fn empty(&self, name: &str) -> Result<PathBuf> {
        let into = self.lab.path(name);
        if into.exists() {
            fs::remove_dir_all(&into)?;
        }
        fs::create_dir(&into)?;
        Ok(into)
    }

    /// Bytes received.
    fn pull(&self, into: &Path, port: u16) -> Result<u64> {
        let port = port.to_string();
        let words = [
            "--json",
            "pull",
            "--server",
            "127.0.0.1",
            "--image",
            "root",
            "--transport",
            "ssh",
            "--yes",
            "--port",
            &port,
        ];
        let mut command = self.lab.command("server", &words);
        command.arg("--secret-file").arg(self.lab.path("secret")).arg("--to").arg(into);
        let output = command.stderr(Stdio::inherit()).output().context("pull")?;
        ensure!(output.status.success(), "pull ended with {}", output.status);
        let text = String::from_utf8(output.stdout)?;
        let told: serde_json::Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
        told["received"].as_u64().or_else(|| told["report"]["received"].as_u64()).context("it does not say what came")
    }

    fn rsync(&self, into: &Path, port: u16) -> Result<()> {
        let key = self.other.key.display();
        let ssh = format!(
            "ssh -p {port} -i {key} -c {CIPHER} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        );
        let from = format!("root@127.0.0.1:{}/", self.source.display());
        run(Command::new("rsync")
            .args(["-aHAXS", "--numeric-ids", "-e", &ssh, &from])
            .arg(format!("{}/", into.display())))
    }

    /// What moves when little of a large file changes.
    fn delta(&self) -> Result<()> {
        let into = self.lab.path("ours");
        let large = self.source.join("large");
        File::create(&large)?.write_all(&Noise(2).bytes(LARGE))?;
        self.pull(&into, self.lab.port)?;
        File::options().write(true).open(&large)?.write_all_at(&Noise(3).bytes(4096), (LARGE / 2) as u64)?;
        let received = self.pull(&into, self.lab.port)?;
        println!("4 KiB changed in {} MB: {} kB received", LARGE >> 20, received / 1000);
        Ok(())
    }
}

fn sshd(lab: &Lab) -> Result<Other> {
    let directory = lab.path("sshd");
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
    for name in ["host", "user"] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(directory.join(name)))?;
    }
    fs::copy(directory.join("user.pub"), directory.join("authorized"))?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = directory.join("config");
    let at = directory.display();
    fs::write(
        &config,
        format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized\nPidFile none\nStrictModes no\n\
             PermitRootLogin prohibit-password\nUsePAM no\nCompression no\n"
        ),
    )?;
    fs::create_dir_all("/run/sshd")?;
    let child = Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(&config).stderr(Stdio::null()).spawn();
    Ok(Other { child: child.context("starting sshd")?, port, key: directory.join("user") })
}

/// Bytes that nothing compresses, the same each time (xorshift64).
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
