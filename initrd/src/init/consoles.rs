//! Every console the kernel was given with `console=`: whoever looks at one of them, screen or serial
//! line, sees all that is said. The same lines go into a log.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Everything that was said, for a person in the shell.
pub(super) const LOG: &str = "/run/systemimager/log";
const PREFIX: &str = "systemimager: ";
/// How long a console may keep us waiting for one piece; a serial line with nobody at its end and flow
/// control would hold the installation up for ever.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Longest line that is held back for its end.
const LONGEST_LINE: usize = 4096;

/// A console.
struct Console {
    path: PathBuf,
    fd: OwnedFd,
    /// It kept us waiting; until it takes something again it gets one chance without waiting.
    stuck: bool,
}

/// All of them, and the log.
pub(super) struct Consoles {
    consoles: Vec<Console>,
    log: Option<File>,
    line: Vec<u8>,
}

impl Consoles {
    /// Opens what `active` names (`tty0 ttyS0`) below `dev`; `console` there if it names nothing.
    pub(super) fn open(active: &Path, dev: &Path) -> Self {
        let text = std::fs::read_to_string(active).unwrap_or_default();
        let mut consoles: Vec<Console> = names(&text).into_iter().filter_map(|name| console(dev.join(name))).collect();
        if consoles.is_empty() {
            consoles.extend(console(dev.join("console")));
        }
        let log = File::create(LOG).ok();
        Self { consoles, log, line: Vec::new() }
    }

    /// Paths of the consoles.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.consoles.iter().map(|console| console.path.as_path())
    }

    /// One line of our own.
    pub(super) fn say(&mut self, line: &str) {
        self.end_line();
        self.pass(line.as_bytes());
        self.end_line();
    }

    /// Bytes of the agent: whole lines are passed on, the rest waits for its end.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.write_line();
            } else {
                self.line.push(*byte);
                if self.line.len() >= LONGEST_LINE {
                    self.write_line();
                }
            }
        }
    }

    /// Passes on what waits for its end.
    pub(super) fn end_line(&mut self) {
        if !self.line.is_empty() {
            self.write_line();
        }
    }

    fn write_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let mut out = PREFIX.as_bytes().to_vec();
        out.extend(line.iter().filter(|byte| **byte != b'\r'));
        out.push(b'\n');
        if let Some(log) = &mut self.log {
            // A full /run must not silence the consoles.
            let _ = log.write_all(&out);
        }
        for console in &mut self.consoles {
            console.write(&out);
        }
    }
}

impl Console {
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(count) => {
                    self.stuck = false;
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if !self.stuck => {
                    let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
                    self.stuck = !matches!(poll(&mut fds, Some(&PATIENCE)), Ok(1..));
                }
                // Nobody takes it there: the other consoles and the log have it.
                Err(_) => return,
            }
        }
    }
}

fn console(path: PathBuf) -> Option<Console> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).ok()?;
    Some(Console { path, fd, stuck: false })
}

/// Names in /sys/class/tty/console/active. `tty0` is whichever screen is shown: a shell needs one for
/// certain, and the first is shown after boot.
fn names(active: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in active.split_whitespace().filter(|name| !name.contains('/')) {
        let name = if name == "tty0" { "tty1" } else { name };
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_active_consoles() {
        let rows: &[(&str, &str, &[&str])] = &[
            ("both", "tty0 ttyS0\n", &["tty1", "ttyS0"]),
            ("once", "tty0 tty1", &["tty1"]),
            ("none", "\n", &[]),
            ("no paths", "../x ttyS0", &["ttyS0"]),
        ];
        for (name, text, expected) in rows {
            assert_eq!(names(text), *expected, "{name}");
        }
    }

    #[test]
    fn whole_lines_go_to_every_console() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for name in ["ttyS0", "hvc0"] {
            std::fs::write(dir.path().join(name), "").expect("write");
        }
        std::fs::write(dir.path().join("active"), "hvc0 ttyS0 absent\n").expect("write");
        let mut consoles = Consoles::open(&dir.path().join("active"), dir.path());
        assert_eq!(consoles.paths().count(), 2);
        consoles.pass(b"[1/9] dri");
        consoles.pass(b"vers\r\nhalf");
        consoles.say("ended");
        for name in ["ttyS0", "hvc0"] {
            let text = std::fs::read_to_string(dir.path().join(name)).expect("read");
            assert_eq!(text, "systemimager: [1/9] drivers\nsystemimager: half\nsystemimager: ended\n", "{name}");
        }
    }

    #[test]
    fn a_console_that_takes_nothing_does_not_hold_us() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fifo = dir.path().join("ttyS0");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("fifo");
        // Held open at the other end, never read.
        let _reader = rustix::fs::open(&fifo, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).expect("open");
        std::fs::write(dir.path().join("active"), "ttyS0").expect("write");
        let mut consoles = Consoles::open(&dir.path().join("active"), dir.path());
        let begun = std::time::Instant::now();
        for _ in 0..2000 {
            consoles.say(&"x".repeat(1000));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
