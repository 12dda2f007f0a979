//! dnsmasq as a child: tested configuration in, a daemon that serves out, or why it does not.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::config::DhcpMode;
use crate::sys::command_error::ended;
use crate::sys::ports::{self, Protocol};
use crate::sys::{ChildHandle, ChildOutput, Cmd, Signal, Supervisor, Tool, leftover};

/// How long it may take until it serves.
const READY: Duration = Duration::from_secs(20);
/// How long it may take to end in order.
const GRACE: Duration = Duration::from_secs(5);

/// Has dnsmasq read a configuration, and nothing else.
///
/// # Errors
/// What it says against it.
pub fn test(file: &Path) -> Result<()> {
    let argument = format!("--conf-file={}", file.display());
    Cmd::tool(Tool::Dnsmasq).args(["--test", &argument]).timeout(GRACE).run().context("testing dnsmasq's configuration")
}

/// Starts it and waits until it says that it serves. One that an earlier run left behind is ended first.
///
/// # Errors
/// It cannot be started, ends, or does not serve in time: its last words, and who has its port if that is why; or
/// it is not `wanted` any more.
pub fn start(
    supervisor: &Supervisor,
    file: &Path,
    pid_file: &Path,
    address: IpAddr,
    dhcp: DhcpMode,
    wanted: &mut dyn FnMut() -> bool,
) -> Result<ChildHandle> {
    // It changes its user, and so survives a crash of ours. A second one would be let onto the same port.
    if leftover::end(pid_file, file, GRACE)? {
        tracing::warn!("ended the dnsmasq of an earlier run");
    }
    let (tell, started) = mpsc::channel();
    let output = ChildOutput::Lines(Box::new(move |_, line| {
        tracing::info!(target: "dnsmasq", "{line}");
        // dnsmasq(8) has no other sign: it says so once its sockets are bound and its files read.
        if line.contains(": started, version") {
            // Only the first time somebody waits for it.
            let _ = tell.send(());
        }
    }));
    let cmd = Cmd::tool(Tool::Dnsmasq).args([
        "--keep-in-foreground",
        "--log-facility=-",
        &format!("--conf-file={}", file.display()),
    ]);
    let handle = supervisor.spawn("dnsmasq", cmd, output).context("starting dnsmasq")?;
    let deadline = Instant::now() + READY;
    loop {
        match started.recv_timeout(Duration::from_millis(50)) {
            Ok(()) => return Ok(handle),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if let Some(status) = handle.wait_timeout(Duration::from_millis(10))? {
            // Its last lines may still be on their way; this waits for them.
            handle.stop(Signal::TERM, GRACE)?;
            let tail = handle.tail();
            bail!("dnsmasq {} instead of serving: {tail}{}", ended(status), advice(&tail, address, dhcp));
        }
        let late = Instant::now() >= deadline;
        if late || !wanted() {
            let tail = handle.tail();
            handle.stop(Signal::TERM, GRACE)?;
            if late {
                bail!("dnsmasq did not serve within {} seconds: {tail}", READY.as_secs());
            }
            bail!("dnsmasq was stopped before it served");
        }
    }
}

/// What to do about the commonest of its last words.
fn advice(tail: &str, address: IpAddr, dhcp: DhcpMode) -> String {
    let taken = |ports: &[u16]| ports.iter().find_map(|port| ports::taken(Protocol::Udp, address, *port));
    let in_use = tail.contains("Address already in use");
    if in_use && tail.contains("DHCP") {
        // 4011 is that of PXE boot servers.
        let owner = taken(&[67, 4011]).unwrap_or_else(|| "UDP port 67 is taken".into());
        let other = match dhcp {
            DhcpMode::Off => "",
            DhcpMode::Server | DhcpMode::Proxy => {
                ", or set mode = \"off\" below [dhcp] and have that server name the boot file"
            }
        };
        format!("\n{owner}; stop it{other}")
    } else if in_use {
        let owner = taken(&[69]).unwrap_or_else(|| "UDP port 69 is taken by another TFTP server".into());
        format!("\n{owner}; stop it")
    } else if tail.contains("Permission denied") || tail.contains("Operation not permitted") {
        "\nserve needs root for DHCP and TFTP: run it as root".into()
    } else {
        String::new()
    }
}

/// Whether a user who is nobody in particular can get to a directory: dnsmasq is not root when it serves.
pub fn open_to_all(dir: &Path) -> bool {
    let real = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    real.ancestors().all(|dir| std::fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_directory_decides() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let inner = dir.path().join("tftpboot");
        std::fs::create_dir(&inner).unwrap();
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!open_to_all(&inner));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(open_to_all(&inner));
    }

    #[test]
    fn last_words_have_advice() {
        let address = IpAddr::from([127, 0, 0, 1]);
        for (tail, mode, says) in [
            ("dnsmasq: bad option at line 3", DhcpMode::Server, ""),
            ("failed to create socket: Operation not permitted", DhcpMode::Server, "serve needs root"),
        ] {
            let advice = advice(tail, address, mode);
            assert!(if says.is_empty() { advice.is_empty() } else { advice.contains(says) }, "{tail}: {advice}");
        }
    }
}
