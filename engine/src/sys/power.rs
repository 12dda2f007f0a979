//! The end: writing everything out, and restarting or switching off the machine.
//!
//! Only the miniature system calls [`end`], after its own checks; there is no going back. An installed system is asked
//! to end by itself, with [`restart`].

use std::convert::Infallible;
use std::path::Path;

use rustix::system::{RebootCommand, reboot};

use super::error::{Result, SysError};
use super::run::Cmd;
use super::tool::Tool;

/// What becomes of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Starts again through the firmware.
    Reboot,
    /// Switches off.
    Off,
    /// Stops and stays on.
    Halt,
    /// Jumps into the kernel that `kexec -l` loaded.
    Kexec,
}

/// Writes all cached data of all file systems to their disks; returns when that is done.
pub fn sync() {
    rustix::fs::sync();
}

/// Writes everything out and does it. Returns only on failure.
///
/// # Errors
/// Not root; for [`Power::Kexec`], no kernel was loaded.
pub fn end(power: Power) -> Result<Infallible> {
    sync();
    let (command, doing) = match power {
        Power::Reboot => (RebootCommand::Restart, "restarting"),
        Power::Off => (RebootCommand::PowerOff, "switching off"),
        Power::Halt => (RebootCommand::Halt, "halting"),
        Power::Kexec => (RebootCommand::Kexec, "jumping into the loaded kernel on"),
    };
    let machine = Path::new("this machine");
    match reboot(command) {
        Err(error) => Err(SysError::io(doing, machine, error)),
        Ok(()) => Err(SysError::Refused(format!("{doing} this machine: the kernel took the order and did nothing"))),
    }
}

/// As [`restart`], into the kernel that kexec(8) has loaded.
///
/// # Errors
/// Nothing is loaded, or a program is not there.
pub fn restart_by_kexec() -> Result<()> {
    if Path::new("/run/systemd/system").is_dir() {
        return Ok(Cmd::tool(Tool::Systemctl).args(["kexec"]).run()?);
    }
    sync();
    Ok(Cmd::tool(Tool::Kexec).args(["--exec"]).run()?)
}

/// Asks the system that runs to restart the machine in order, as shutdown(8) does. Returns when it has taken the order.
///
/// # Errors
/// The program is not there, or fails.
pub fn restart() -> Result<()> {
    Ok(Cmd::tool(Tool::Shutdown).args(["-r", "now"]).run()?)
}
