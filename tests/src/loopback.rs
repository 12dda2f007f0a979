//! A master client and an image server on loopback: the built program, each side with a root of its own, and a free port.
//!
//! Nothing of the computer is changed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long prepareclient may take to get ready, and to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The built program, with its plugins where it finds them. Absent: the runner did not stage it.
pub fn program() -> Option<PathBuf> {
    Some(crate::story::stage().ok()?.join("bin/systemimager"))
}

/// A master client and an image server in one directory.
pub struct Lab {
    /// The built program.
    pub program: PathBuf,
    /// All that it makes lies below.
    pub dir: tempfile::TempDir,
    /// Where the master client offers itself.
    pub port: u16,
    /// The transport that is named, if any.
    pub transport: Option<&'static str>,
}

/// prepareclient in the foreground; ended when dropped.
pub struct Offered {
    /// The process.
    pub child: Child,
    /// What it said when it was ready.
    pub ready: serde_json::Value,
}

impl Drop for Offered {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Offered {
    /// Asks it to end, as a shutdown would.
    pub fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    }

    /// Its exit status, which must come soon.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        wait_until("prepareclient has ended", || self.child.try_wait().expect("it is our child"))
    }
}

/// Waits for something, with a deadline.
pub fn wait_until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "within {} seconds: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What it said on both outputs.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Lab {
    /// With a secret and a free port.
    pub fn new(program: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        fs::write(dir.path().join("secret"), "correct-horse\n").expect("written");
        Self { program, dir, port, transport: None }
    }

    /// The same by another transport.
    #[must_use]
    pub fn by_transport(self, id: &'static str) -> Self {
        Self { transport: Some(id), ..self }
    }

    /// How the transport is named.
    pub fn by(&self) -> Vec<&'static str> {
        self.transport.map(|id| vec!["--transport", id]).unwrap_or_default()
    }

    /// A path below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The tree of an image.
    pub fn image(&self, name: &str) -> PathBuf {
        self.path("server/var/spool/systemimager/images").join(name)
    }

    /// The program, for one of the two sides.
    pub fn command(&self, root: &str, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.path(root)).args(words).stdin(Stdio::null());
        command
    }

    /// `prepareclient` of a directory.
    pub fn prepare_command(&self, source: &Path) -> Command {
        let mut command = self.command("client", &["prepareclient", "--server", "127.0.0.1", "--foreground", "--json"]);
        command.arg("--source").arg(source).arg("--port").arg(self.port.to_string());
        command.arg("--secret-file").arg(self.path("secret")).args(self.by());
        command
    }

    /// Offers a directory and waits until it can be captured.
    pub fn offer(&self, source: &Path) -> Offered {
        self.start(&mut self.prepare_command(source))
    }

    /// Starts a prepareclient and waits until its machine can be captured.
    pub fn start(&self, command: &mut Command) -> Offered {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        let Ok(ready) = serde_json::from_str(&line) else {
            let _ = child.kill();
            panic!("prepareclient said {line:?} and ended with {:?}", child.wait());
        };
        Offered { child, ready }
    }

    /// `getimage`, whatever comes of it.
    pub fn get(&self, more: &[&str]) -> Output {
        let port = self.port.to_string();
        let secret = self.path("secret").display().to_string();
        let mut words = vec!["getimage", "--master-client", "127.0.0.1", "--port", &port, "--image", "web"];
        if !more.contains(&"--secret-file") {
            words.extend(["--secret-file", &secret]);
        }
        words.extend(self.by());
        words.extend(more);
        self.command("server", &words).output().expect("the program starts")
    }

    /// A capture that must succeed, the end of prepareclient included.
    pub fn capture(&self, source: &Path, more: &[&str]) -> String {
        let mut offered = self.offer(source);
        let output = self.get(more);
        assert!(output.status.success(), "getimage {more:?}: {}", text(&output));
        assert!(offered.ended().success(), "prepareclient ends well after the capture");
        text(&output)
    }

    /// Nothing of a capture lies beside the images.
    pub fn assert_clean(&self) {
        for name in [".staging", ".replaced"] {
            let left: Vec<_> = fs::read_dir(self.image(name)).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{name} holds {left:?}");
        }
    }
}
