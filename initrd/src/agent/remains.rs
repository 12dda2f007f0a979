//! What an agent that was killed leaves behind: programs that it had started, mounts of the target, and the word how far
//! it was. The next one clears them away and tells; of what stands on disks it touches the boot code of those that are half written.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use systemimager_engine::sys::mount::{MountGuard, table};

use super::console;
use crate::init::half_written;
use crate::places;

/// How long what was killed may take to end; a program that waits for a broken disk may never.
const ENDS: Duration = Duration::from_secs(10);

/// Writes down how far this agent is.
pub fn at(what: &dyn Display) {
    // Only for the message after a death: an install must not fail for it.
    let _ = std::fs::write(places::AT, what.to_string());
}

/// What is said of the agent before this one: `how` it ended, in PID 1's words, and how far it was.
pub fn died(how: &str) -> String {
    words(how, &std::fs::read_to_string(places::AT).unwrap_or_default())
}

fn words(how: &str, at: &str) -> String {
    let at = if at.is_empty() { String::new() } else { format!(" at {at}") };
    let why = if how.contains("signal 9") {
        "; it was killed by a person, or by the kernel because memory ran out (dmesg in a shell on the console tells)"
    } else {
        "; what it said last is on the console and in the log"
    };
    format!("the agent {how}{at}{why}; nothing that it began goes on, and the install begins anew when it is let go on")
}

/// Ends its programs, sees that no half-written disk boots, and undoes its mounts; says what it could not.
pub fn clear() {
    let target = Path::new(places::TARGET);
    let left: Vec<Process> = processes(Path::new("/proc")).into_iter().filter(|it| it.is_left(target)).collect();
    end(&left);
    // Once more: what has just ended may have been a boot loader's installation.
    for line in half_written::unboot_all(Path::new(places::DESTROYED)) {
        console::line(line);
    }
    let mounts = table().unwrap_or_default();
    for at in mounts.into_iter().map(|it| it.mount_point).filter(|at| at.starts_with(target)).rev() {
        if let Err(error) = MountGuard::adopt(&at).close() {
            console::line(format_args!("warning: {error}"));
        }
    }
}

/// A process, as /proc tells (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
    name: String,
    root: Option<PathBuf>,
}

impl Process {
    /// Started by an agent, and not this one: a shell on a console has a session of its own, what the kernel started has
    /// the parent 2. What runs in the target may have left our session.
    fn is_left(&self, target: &Path) -> bool {
        let in_target = self.root.as_ref().is_some_and(|root| root.starts_with(target));
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        self.pid > 2 && self.parent != 2 && self.pid != me && (in_target || self.session == 0)
    }
}

fn processes(proc: &Path) -> Vec<Process> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (parent, session, name) = fields(&stat)?;
            Some(Process { pid, parent, session, name, root: std::fs::read_link(entry.path().join("root")).ok() })
        })
        .collect()
}

/// Parent, session and name of `12 (a name) S 1 12 0 …`; the name may hold blanks and brackets.
fn fields(stat: &str) -> Option<(i32, i32, String)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut rest = rest.split_whitespace().skip(1);
    let (parent, _group, session) = (rest.next()?, rest.next()?, rest.next()?);
    Some((parent.parse().ok()?, session.parse().ok()?, name.to_owned()))
}

fn end(left: &[Process]) {
    // Those that cannot be opened have ended.
    let open: Vec<_> = left
        .iter()
        .filter_map(|it| Some((it, pidfd_open(Pid::from_raw(it.pid)?, PidfdFlags::empty()).ok()?)))
        .collect();
    for (_, process) in &open {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    let deadline = Instant::now() + ENDS;
    for (it, process) in &open {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        if !matches!(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)), Ok(1..)) {
            console::line(format_args!(
                "warning: {} (process {}) of the agent before does not end; it may wait for a disk that fails",
                it.name, it.pid
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_told_with_its_place() {
        let text = words("was killed by signal 9", "[8/9] install: step 9 of 19: pull: pull the image web");
        assert!(
            text.starts_with(
                "the agent was killed by signal 9 at [8/9] install: step 9 of 19: pull: pull the image web;"
            ),
            "{text}"
        );
        assert!(text.contains("memory ran out"), "{text}");
        assert!(words("failed with status 101", "").starts_with("the agent failed with status 101; what it said last"));
    }

    #[test]
    fn what_was_left_is_told_from_the_rest() {
        let target = Path::new("/mnt/target");
        for (stat, root, left) in [
            ("1 (init) S 0 0 0 0", "/", None),
            ("40 (kworker/0:1) I 2 0 0 0", "/", Some(false)),
            ("50 (rsync) S 1 50 0 0", "/", Some(true)),
            ("51 (a (b) c) S 1 51 0 0", "/", Some(true)),
            ("60 (sh) S 1 60 60 0", "/", Some(false)),
            ("70 (daemon) S 1 70 70 0", "/mnt/target", Some(true)),
            ("71 (other) S 1 70 70 0", "/mnt/targets", Some(false)),
        ] {
            let pid = stat.split_whitespace().next().unwrap_or_default().parse().expect("a number");
            let (parent, session, name) = fields(stat).expect("fields");
            let process = Process { pid, parent, session, name, root: Some(root.into()) };
            assert_eq!(process.is_left(target), left.unwrap_or(false), "{stat}");
        }
        assert_eq!(fields("51 (a (b) c) S 1 51 7 0"), Some((1, 7, "a (b) c".into())));
        assert_eq!(fields(""), None);
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(processes(Path::new("/proc")).iter().any(|it| it.pid == me));
        let own = Process { pid: me, parent: 1, session: 0, name: "agent".into(), root: None };
        assert!(!own.is_left(target), "not ourselves");
    }
}
