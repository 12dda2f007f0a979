//! Putting a transport's [`Service`] into effect: its files, its program, and when it is ready.
//!
//! Used where a tree is offered: by the master client for a capture, by the server for its images.
//! It must not know what the program is, or what its files say.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use systemimager_core::{Finished, Piece, Probe, Service, ServiceFile};

use crate::helper;
use crate::host::{Secrets, texts};
use crate::sys::ports::{self, Protocol};
use crate::sys::{ChildHandle, ChildOutput, Cmd, Signal, Supervisor, leftover};

/// How long a service may take until it is ready.
const READY: Duration = Duration::from_secs(20);
/// How often its readiness is looked at; its death is noticed at once.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long it may take to end in order.
const GRACE: Duration = Duration::from_secs(5);

/// A service that runs. Dropping it ends it and removes its files, secrets among them.
#[derive(Debug)]
pub struct Offering {
    handle: ChildHandle,
    files: Vec<PathBuf>,
    stop_signal: Signal,
    finished: Option<Finished>,
    stopped: bool,
}

impl Offering {
    /// Writes the service's files, starts its program under `supervisor`, and waits until it is ready.
    /// `name` is how logs call it, `helper` what [starts](crate::helper::words) its plugin's helper.
    ///
    /// # Errors
    /// A file that cannot be written, a secret that was not given, a program that is missing, that ends
    /// (its last lines are told: a port that is taken, say), or that is not ready in time.
    pub fn start(
        service: &Service,
        secrets: &Secrets,
        supervisor: &Supervisor,
        name: &str,
        helper: &[OsString],
    ) -> Result<Self> {
        Self::start_while(service, secrets, supervisor, name, helper, &mut || true)
    }

    /// As [`Self::start`], but gives up as soon as `wanted` says that nobody waits for it any more.
    ///
    /// # Errors
    /// As [`Self::start`]; and that it was not wanted any more.
    pub fn start_while(
        service: &Service,
        secrets: &Secrets,
        supervisor: &Supervisor,
        name: &str,
        helper: &[OsString],
        wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Self> {
        let stop_signal = Signal::from_named_raw(service.stop_signal)
            .with_context(|| format!("{} is no signal to stop {name} with", service.stop_signal))?;
        let words = words(service, helper)?;
        if let Probe::Tcp(port) = service.ready
            && leftover::end_holders(port, words.get(1..).unwrap_or_default(), GRACE)?
        {
            // Told to end when that run was killed, it may still have been about to.
            tracing::warn!("ended the {name} of an earlier run");
        }
        let mut cmd = Cmd::argv(words)?;
        for file in &service.files {
            for piece in &file.contents {
                if let Piece::Secret(secret) = piece {
                    cmd = cmd.hide(String::from_utf8_lossy(secrets.get(secret)?).as_ref());
                }
            }
        }
        let mut written = Written(Vec::new());
        for file in &service.files {
            let path = file.path.as_path();
            write(file, secrets).with_context(|| format!("writing {} for {name}", path.display()))?;
            written.0.push(path.to_path_buf());
        }
        if let Some(Finished::FileNotEmpty(path)) = &service.finished {
            // One left from an earlier run would say so at once.
            remove(path.as_path()).with_context(|| format!("removing {path}"))?;
            written.0.push(path.as_path().to_path_buf());
        }
        let handle = supervisor.spawn(name, cmd, ChildOutput::Log).with_context(|| format!("starting {name}"))?;
        let offering = Self {
            handle,
            files: std::mem::take(&mut written.0),
            stop_signal,
            finished: service.finished.clone(),
            stopped: false,
        };
        offering.await_ready(&service.ready, wanted)?;
        Ok(offering)
    }

    fn await_ready(&self, probe: &Probe, wanted: &mut dyn FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            if is_ready(probe, self.handle.pid())? {
                return Ok(());
            }
            if let Some(status) = self.handle.wait_timeout(LOOK_EVERY)? {
                // Its last lines may still be on their way; this waits for them.
                self.handle.stop(self.stop_signal, GRACE)?;
                let how = crate::sys::command_error::ended(status);
                bail!("{} {how} instead of serving:\n{}", self.handle.name(), self.handle.tail());
            }
            if !wanted() {
                bail!("{} was stopped before it was ready", self.handle.name());
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} was not ready within {} seconds:\n{}",
                    self.handle.name(),
                    READY.as_secs(),
                    self.handle.tail()
                );
            }
        }
    }

    /// Replaces the files of a service whose program rereads them ([`Service::rereads`]); the program runs on.
    /// Each is replaced as a whole, so that the program finds the old or the new one.
    ///
    /// # Errors
    /// A file cannot be written, or a secret was not given; files before it are replaced already.
    pub fn update(&mut self, service: &Service, secrets: &Secrets) -> Result<()> {
        let mut written = Vec::new();
        for file in &service.files {
            let path = file.path.as_path();
            let writing = || format!("writing {} for {}", path.display(), self.handle.name());
            let mut contents = Vec::new();
            for piece in &file.contents {
                match piece {
                    Piece::Text(text) => contents.extend_from_slice(text.as_bytes()),
                    Piece::Secret(secret) => contents.extend_from_slice(secrets.get(secret)?),
                }
            }
            if let Some(parent) = path.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).with_context(writing)?;
            }
            crate::sys::atomic::write(path, &contents, file.mode).with_context(writing)?;
            written.push(path.to_path_buf());
        }
        for path in self.files.iter().filter(|path| !written.contains(path)) {
            remove(path).with_context(|| format!("removing {}", path.display()))?;
        }
        self.files = written;
        Ok(())
    }

    /// The other side has said that it is finished.
    pub fn finished(&self) -> bool {
        match &self.finished {
            Some(Finished::FileNotEmpty(path)) => fs::metadata(path.as_path()).is_ok_and(|file| file.len() > 0),
            None => false,
        }
    }

    /// How it ended, if it has, with its last lines.
    ///
    /// # Errors
    /// Its status was lost.
    pub fn ended(&self) -> Result<Option<String>> {
        Ok(self.handle.try_wait()?.map(|status| {
            format!("{} {}: {}", self.handle.name(), crate::sys::command_error::ended(status), self.handle.tail())
        }))
    }

    /// The program.
    pub fn handle(&self) -> &ChildHandle {
        &self.handle
    }

    /// Ends it in order and removes its files.
    ///
    /// # Errors
    /// It does not die, or a file cannot be removed.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        self.handle.stop(self.stop_signal, GRACE).with_context(|| format!("stopping {}", self.handle.name()))?;
        for path in &self.files {
            remove(path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }
}

impl Drop for Offering {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!("ending {}: {error:#}", self.handle.name());
        }
    }
}

/// Files written so far: removed again if the start fails.
struct Written(Vec<PathBuf>);

impl Drop for Written {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = remove(path) {
                tracing::warn!("removing {}: {error}", path.display());
            }
        }
    }
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Lets everybody through a directory of ours, to what they may use below it; nobody lists it.
pub(crate) fn open_way(dir: &Path) -> Result<()> {
    let doing = || format!("opening the way through {}", dir.display());
    let mode = fs::metadata(dir).with_context(doing)?.mode() & 0o7777;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o011)).with_context(doing)
}

/// The program and its arguments.
fn words(service: &Service, helper: &[OsString]) -> Result<Vec<OsString>> {
    let mut words = texts(&service.argv).map_err(anyhow::Error::msg)?;
    helper::stand_for_self(&mut words, helper);
    Ok(words)
}

/// Writes a file anew: never through a link that lies there, and never readable for others in between.
fn write(file: &ServiceFile, secrets: &Secrets) -> Result<()> {
    let path = file.path.as_path();
    if !path.is_absolute() {
        bail!("the path is not absolute");
    }
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    remove(path)?;
    let mut out = OpenOptions::new().write(true).create_new(true).mode(file.mode & 0o7777).open(path)?;
    for piece in &file.contents {
        match piece {
            Piece::Text(text) => out.write_all(text.as_bytes())?,
            Piece::Secret(secret) => out.write_all(secrets.get(secret)?)?,
        }
    }
    Ok(())
}

fn is_ready(probe: &Probe, pid: u32) -> Result<bool> {
    match probe {
        Probe::File(path) => Ok(path.as_path().exists()),
        Probe::Tcp(port) => {
            let sockets = sockets_of(pid);
            // Of the calling thread's network namespace, which the program inherited.
            let listening = ports::holding(Protocol::Tcp, IpAddr::V4(Ipv4Addr::UNSPECIFIED), *port);
            Ok(listening.iter().any(|socket| sockets.contains(&socket.inode)))
        }
    }
}

/// Inodes of the sockets that a process has open; none when it has ended.
fn sockets_of(pid: u32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| fs::metadata(entry.path()).ok()).map(|file| file.ino()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{Arg, Secret};

    fn service(dir: &Path, argv: &[&str]) -> Service {
        Service {
            files: vec![ServiceFile {
                path: dir.join("deep/secrets").into(),
                mode: 0o600,
                contents: vec![Piece::Text("user:".into()), Piece::Secret(Secret("s".into()))],
            }],
            argv: Arg::words(argv.iter().copied()),
            ready: Probe::File(dir.join("ready").into()),
            stop_signal: 15,
            finished: Some(Finished::FileNotEmpty(dir.join("done").into())),
            rereads: true,
        }
    }

    #[test]
    fn files_are_there_while_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (supervisor, _exits) = Supervisor::start().unwrap();
        fs::write(dir.path().join("ready"), "").unwrap();
        fs::write(dir.path().join("done"), "from an earlier run").unwrap();
        let secrets = Secrets::default().with("s", "hush");
        let service = service(dir.path(), &["sleep", "60"]);
        let offering = Offering::start(&service, &secrets, &supervisor, "sleeper", &[]).unwrap();
        let secret = dir.path().join("deep/secrets");
        assert_eq!(fs::read(&secret).unwrap(), b"user:hush");
        assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o7777, 0o600);
        assert!(!offering.finished());
        fs::write(dir.path().join("done"), "x").unwrap();
        assert!(offering.finished());
        let mut changed = service.clone();
        changed.files[0].contents.push(Piece::Text(" more".into()));
        let mut offering = offering;
        offering.update(&changed, &secrets).unwrap();
        assert_eq!(fs::read(&secret).unwrap(), b"user:hush more");
        assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o7777, 0o600);
        assert!(offering.ended().unwrap().is_none(), "it runs on");
        offering.stop().unwrap();
        assert!(!secret.exists());
    }

    #[test]
    fn what_fails_says_so_and_leaves_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let (supervisor, _exits) = Supervisor::start().unwrap();
        let secrets = Secrets::default().with("s", "hush");
        for (name, argv, secrets, says) in [
            ("ends", &["ls", "/does-not-exist"][..], &secrets, "cannot access '/does-not-exist'"),
            ("missing", &["no-such-program-here"], &secrets, "no-such-program-here"),
            ("no secret", &["sleep", "9"], &Secrets::default(), "the secret \"s\" was not given"),
        ] {
            let error = Offering::start(&service(dir.path(), argv), secrets, &supervisor, name, &[]).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(says), "{name}: {error}");
            assert!(!dir.path().join("deep/secrets").exists(), "{name}");
        }
    }
}
