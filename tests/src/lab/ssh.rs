//! Commands on a machine of the lab, over ssh from one of its hosts.
//!
//! The machines are the lab's own and live for minutes, so nobody checks their host keys.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::netns::Host;
use super::run::{self, quoted};
use super::wait::wait_until;

/// A way to be root on a machine.
#[derive(Clone, Debug)]
pub struct Ssh {
    from: Host,
    address: String,
    key: PathBuf,
}

impl Ssh {
    /// From `from` to the machine at `address`, whose root accepts `key`.
    pub fn new(from: &Host, address: &str, key: &Path) -> Ssh {
        Ssh { from: from.clone(), address: address.to_owned(), key: key.to_owned() }
    }

    /// The command that runs `argv` on the machine. Its words arrive there as they are.
    pub fn command(&self, argv: &[&str]) -> Command {
        let key = self.key.to_string_lossy();
        let options = [
            "ssh",
            "-i",
            &key,
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            // The default begins with a post-quantum exchange, which costs an emulated processor a second.
            "KexAlgorithms=curve25519-sha256",
            "-o",
            "HostKeyAlgorithms=ssh-ed25519",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "ServerAliveInterval=10",
        ];
        let mut command = self.from.command(&options);
        command.arg(format!("root@{}", self.address)).arg("--");
        command.arg(argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        command
    }

    /// Runs `argv` on the machine and gives its output; any status but 0 is an error.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        run::run(&mut self.command(argv))
    }

    /// Waits until the machine lets us in.
    pub fn wait(&self, limit: Duration) -> Result<()> {
        wait_until(limit, &format!("ssh to {}", self.address), || {
            Ok(run::output(&mut self.command(&["true"]))?.status.success().then_some(()))
        })
    }

    /// Copies a file into the machine, with its permissions.
    pub fn copy_in(&self, local: &Path, remote: &str) -> Result<()> {
        let file = File::open(local).with_context(|| format!("opening {}", local.display()))?;
        let mode = file.metadata().with_context(|| format!("looking at {}", local.display()))?.permissions().mode();
        let script = r#"cat > "$1" && chmod "$2" "$1""#;
        let mut command = self.command(&["sh", "-c", script, "sh", remote, &format!("{:o}", mode & 0o7777)]);
        run::run(command.stdin(file)).with_context(|| format!("copying {} into the machine", local.display()))?;
        Ok(())
    }

    /// Tells the machine to power off. The connection may end before the answer comes, so wait
    /// for the machine's exit to know that it did.
    pub fn power_off(&self) -> Result<()> {
        // The answer does not matter, and often is that the connection was closed.
        run::output(&mut self.command(&["systemctl", "poweroff"])).map(drop)
    }
}
