//! What is done to a running machine from outside (QEMU's monitor, QMP): a cable is pulled, or put in; a medium is taken
//! out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::machine::Machine;
use super::wait::wait_until;

/// How long QEMU may take to answer.
const ANSWERS: Duration = Duration::from_secs(30);

/// The way to a machine's monitor.
#[derive(Clone, Debug)]
pub struct Monitor(PathBuf);

impl Monitor {
    /// Gives a machine that is being built a monitor; its socket lies at `path`, of at most 107 bytes (unix(7)).
    pub fn of(machine: Machine, path: &Path) -> (Machine, Monitor) {
        let words = ["-qmp", &format!("unix:{},server=on,wait=off", path.display())];
        (machine.more(&words), Monitor(path.to_owned()))
    }

    /// Puts in or pulls the cable of the machine's n-th network card, counted from 0 as they were given.
    pub fn cable(&self, nic: usize, is_in: bool) -> Result<()> {
        self.execute(r#"{"execute": "qmp_capabilities"}"#, &set_link(nic, is_in))
    }

    /// Pulls out a USB device, by its `id=`.
    pub fn unplug(&self, id: &str) -> Result<()> {
        let command = format!(r#"{{"execute": "device_del", "arguments": {{"id": "{id}"}}}}"#);
        self.execute(r#"{"execute": "qmp_capabilities"}"#, &command)
    }

    /// Takes the CD out of the drive with this `id=`, also where its door is locked.
    pub fn eject(&self, id: &str) -> Result<()> {
        let command = format!(r#"{{"execute": "eject", "arguments": {{"id": "{id}", "force": true}}}}"#);
        self.execute(r#"{"execute": "qmp_capabilities"}"#, &command)
    }

    /// `first`, which QEMU wants to hear before anything else, and a command.
    fn execute(&self, first: &str, command: &str) -> Result<()> {
        let what = format!("the monitor at {}", self.0.display());
        let stream = wait_until(ANSWERS, &what, || Ok(UnixStream::connect(&self.0).ok()))?;
        stream.set_read_timeout(Some(ANSWERS)).context("a limit for the monitor")?;
        let mut lines = BufReader::new(stream.try_clone().context("the monitor's other end")?).lines();
        for words in [first, command] {
            writeln!(&stream, "{words}").with_context(|| format!("telling {what} {words}"))?;
            loop {
                let line = lines.next().with_context(|| format!("{what} ended"))?.with_context(|| what.clone())?;
                match answer(&line)? {
                    Some(Ok(())) => break,
                    Some(Err(why)) => bail!("{what} refuses {words}: {why}"),
                    // A greeting, or an event.
                    None => {}
                }
            }
        }
        Ok(())
    }
}

fn set_link(nic: usize, up: bool) -> String {
    format!(r#"{{"execute": "set_link", "arguments": {{"name": "net{nic}", "up": {up}}}}}"#)
}

/// Whether a line ends a command, and how.
fn answer(line: &str) -> Result<Option<Result<(), String>>> {
    let value: serde_json::Value = serde_json::from_str(line).with_context(|| format!("reading {line:?}"))?;
    Ok(match (value.get("return"), value.get("error")) {
        (Some(_), _) => Some(Ok(())),
        (_, Some(error)) => Some(Err(error.to_string())),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says() {
        assert_eq!(answer(r#"{"QMP": {"version": {}, "capabilities": []}}"#).unwrap(), None);
        assert_eq!(answer(r#"{"event": "RESET", "data": {}}"#).unwrap(), None);
        assert_eq!(answer(r#"{"return": {}}"#).unwrap(), Some(Ok(())));
        let refused = answer(r#"{"error": {"class": "DeviceNotFound"}}"#).unwrap();
        assert_eq!(refused, Some(Err(r#"{"class":"DeviceNotFound"}"#.to_owned())));
        assert!(answer("no JSON").is_err());
        assert_eq!(set_link(2, false), r#"{"execute": "set_link", "arguments": {"name": "net2", "up": false}}"#);
    }
}
