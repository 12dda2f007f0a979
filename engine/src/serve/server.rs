//! The image server while it runs: makes configuration, starts children, follows changes, ends everything.
//!
//! A child that dies unasked ends the server: half an image server installs nothing, and what supervises us
//! (systemd, an administrator) has to learn of it. A change that cannot be followed does not: machines are
//! being installed with what is there.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use systemimager_core::{Registry, Service};

use super::interface::Place;
use super::{dnsmasq, exports, watch};
use crate::boot::{self, Boots};
use crate::config::{Config, Unknown};
use crate::host::{EngineHost, Secrets};
use crate::offer::Offering;
use crate::store::clients::declared;
use crate::store::image_store::ImageStore;
use crate::store::master::Master;
use crate::sys::command_error::ended;
use crate::sys::lock::{Lock, Mode};
use crate::sys::{ChildHandle, ChildOutput, Cmd, Exit, Signal, Supervisor, Tool, atomic, leftover};

/// Where dnsmasq writes its process id, in the run directory.
const PID_FILE: &str = "dnsmasq.pid";
/// How often replaced images are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How often changes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long dnsmasq may take until it serves.
const READY: Duration = Duration::from_secs(20);
/// How long a child may take to end in order.
const GRACE: Duration = Duration::from_secs(5);

/// How many of a dead child's last lines are told.
const LAST_LINES: usize = 5;

/// Something the server has to act upon.
#[derive(Debug)]
pub enum Happening {
    /// A child ended.
    Ended(Exit),
    /// Somebody wants an end: the signal's name.
    Stop(&'static str),
    /// Somebody wants everything read anew (SIGHUP).
    Reload,
    /// A part that is not a child failed: the HTTP server.
    Failed(String),
}

/// A child, for people and tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

/// A transport's service, and the process that runs it.
struct Offered {
    service: Service,
    offering: Offering,
}

/// A running image server, without HTTP.
pub struct Server<'a> {
    config: &'a Config,
    registry: &'a Registry,
    host: EngineHost,
    place: Place,
    // Ended by the order of the fields: transports remove their files, then the supervisor ends what is left.
    offered: BTreeMap<String, Offered>,
    dnsmasq: Option<(String, ChildHandle)>,
    supervisor: Option<Supervisor>,
    /// By file, as they were last right.
    masters: BTreeMap<PathBuf, Master>,
    seen: u64,
    swept: Instant,
    _lock: Lock,
}

impl<'a> Server<'a> {
    /// Checks everything, writes configuration, starts the children. Deaths and other happenings come through the
    /// receiver; the sender is for whoever else has something to tell.
    ///
    /// # Errors
    /// What is wrong or missing, before any child is started; or the child that could not be, with its last words.
    pub fn start(
        config: &'a Config,
        registry: &'a Registry,
        host: EngineHost,
        place: Place,
    ) -> Result<(Self, Sender<Happening>, Receiver<Happening>)> {
        require_kernel(config)?;
        for dir in [config.state(), config.masters()] {
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let run = config.run();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&run)
            .with_context(|| format!("making {}", run.display()))?;
        let lock = Lock::try_take(&run.join("serve.lock"), Mode::Exclusive, "serving")?;
        let (supervisor, exits) = Supervisor::start().context("starting the supervising thread")?;
        let (send, receive) = mpsc::channel();
        let forward = send.clone();
        std::thread::Builder::new()
            .name("exits".into())
            .spawn(move || {
                for exit in exits {
                    // Nobody listens any more: the server is at its end.
                    let _ = forward.send(Happening::Ended(exit));
                }
            })
            .context("starting the thread that tells of deaths")?;
        let mut server = Self {
            config,
            registry,
            host,
            place,
            offered: BTreeMap::new(),
            dnsmasq: None,
            supervisor: Some(supervisor),
            masters: BTreeMap::new(),
            seen: watch::fingerprint(config),
            swept: Instant::now(),
            _lock: lock,
        };
        let masters = server.read_masters()?;
        server.arrange(masters)?;
        Ok((server, send, receive))
    }

    /// Acts upon what happens until the end. `changed` is called when something was read anew.
    ///
    /// # Errors
    /// A child died, or HTTP failed: which, how, and its last lines. That somebody wants an end is none.
    pub fn follow(&mut self, happenings: &Receiver<Happening>, changed: &mut dyn FnMut(&[Running])) -> Result<()> {
        loop {
            match happenings.recv_timeout(LOOK_EVERY) {
                Ok(Happening::Ended(exit)) if exit.requested => {}
                Ok(Happening::Ended(exit)) => {
                    return Err(anyhow!("{}", last_words(exit))
                        .context("a part of the server ended by itself, so all of it ends"));
                }
                Ok(Happening::Failed(why)) => bail!("{why}"),
                Ok(Happening::Stop(signal)) => {
                    tracing::info!("{signal}: ending");
                    return Ok(());
                }
                Ok(Happening::Reload) => self.refresh(changed),
                Err(RecvTimeoutError::Timeout) => {
                    if watch::fingerprint(self.config) != self.seen {
                        self.refresh(changed);
                    }
                    if self.swept.elapsed() >= SWEEP_EVERY {
                        self.sweep();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => bail!("nobody tells the server anything any more"),
            }
        }
    }

    /// Removes image trees that were replaced while machines pulled them, once their last reader has ended.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        match ImageStore::new(self.config).sweep() {
            Ok(read) if read.is_empty() => {}
            Ok(read) => tracing::debug!("replaced images that are still read: {}", read.join(", ")),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }

    fn refresh(&mut self, changed: &mut dyn FnMut(&[Running])) {
        // Before reading: what changes meanwhile is then seen as another change.
        self.seen = watch::fingerprint(self.config);
        let result = self.read_masters().and_then(|masters| self.arrange(masters));
        match result {
            Ok(()) => tracing::info!("read anew"),
            Err(error) => tracing::error!("what was changed cannot be followed yet, what is served stays: {error:#}"),
        }
        changed(&self.running());
    }

    /// The masters that are followed. One that is wrong is told and left out, or followed as it was when it was right:
    /// machines are being installed by it.
    ///
    /// # Errors
    /// All are wrong, or the directories cannot be read.
    fn read_masters(&mut self) -> Result<Vec<Master>> {
        let found = exports::masters(self.config)?;
        let mut masters: BTreeMap<PathBuf, Master> =
            found.good.into_iter().map(|(place, master)| (place.file, master)).collect();
        if !found.faults.is_empty() {
            for (file, master) in &self.masters {
                if file.symlink_metadata().is_ok() {
                    masters.entry(file.clone()).or_insert_with(|| master.clone());
                }
            }
            if masters.is_empty() {
                bail!("{}", found.faults.join("\n"));
            }
            for fault in &found.faults {
                tracing::error!("{fault}");
            }
        }
        self.masters = masters;
        Ok(self.masters.values().cloned().collect())
    }

    /// The children.
    pub fn running(&self) -> Vec<Running> {
        let one = |handle: &ChildHandle| Running { name: handle.name().to_owned(), pid: handle.pid() };
        let dnsmasq = self.dnsmasq.iter().map(|(_, handle)| one(handle));
        dnsmasq.chain(self.offered.values().map(|offered| one(offered.offering.handle()))).collect()
    }

    /// Makes what runs match what is wanted: everything is worked out first, then carried out.
    fn arrange(&mut self, masters: Vec<Master>) -> Result<()> {
        let (config, address) = (self.config, self.place.network.address);
        let clients = declared(config)?;
        let network = boot::Network { server: address.to_string(), http_port: config.settings.server.http_port };
        let others = match config.settings.boot.unknown {
            Unknown::Wait => Boots::Autoinstall,
            Unknown::Disk => Boots::LocalDisk,
        };
        let network = network.plan(self.registry, &self.host, None, others)?;
        let services =
            exports::services(config, self.registry, &self.host, &masters, &clients, address).or_nothing()?;
        let tftp_root = config.tftp();
        let user = if open_to_all(&tftp_root) {
            None
        } else {
            tracing::warn!(
                "{} is not open to all users; dnsmasq keeps running as root to read it",
                tftp_root.display()
            );
            Some("root")
        };
        let input = dnsmasq::Input {
            place: &self.place,
            dhcp: &config.settings.dhcp,
            clients: &clients,
            boot_files: &network.boot_files,
            tftp_root: tftp_root.clone(),
            lease_file: config.state().join("dhcp.leases"),
            pid_file: config.run().join(PID_FILE),
            user,
        };
        let output = dnsmasq::config(&input).map_err(anyhow::Error::msg)?;
        for warning in &output.warnings {
            tracing::warn!("{warning}");
        }
        boot::lay_out(&network, &tftp_root)?;
        self.arrange_dnsmasq(output.text)?;
        self.arrange_transports(services)
    }

    fn arrange_dnsmasq(&mut self, text: String) -> Result<()> {
        if self.dnsmasq.as_ref().is_some_and(|(now, _)| *now == text) {
            return Ok(());
        }
        let file = self.config.run().join("dnsmasq.conf");
        let fresh = self.config.run().join("dnsmasq.conf.new");
        atomic::write(&fresh, text.as_bytes(), 0o644)?;
        // What it would refuse must not end the one that runs.
        let test = |path: &Path| {
            Cmd::tool(Tool::Dnsmasq).args(["--test", &format!("--conf-file={}", path.display())]).timeout(GRACE).run()
        };
        test(&fresh).context("testing dnsmasq's configuration")?;
        std::fs::rename(&fresh, &file).with_context(|| format!("renaming {}", fresh.display()))?;
        match self.dnsmasq.take() {
            Some((_, old)) => {
                old.stop(Signal::TERM, GRACE).context("stopping dnsmasq to start it anew")?;
            }
            // It changes its user, and so survives a crash of ours. A second one would be let onto the same port.
            None => {
                if leftover::end(&self.config.run().join(PID_FILE), &file, GRACE)? {
                    tracing::warn!("ended the dnsmasq of an earlier run");
                }
            }
        }
        let handle = start_dnsmasq(self.supervisor()?, &file)?;
        self.dnsmasq = Some((text, handle));
        Ok(())
    }

    fn arrange_transports(&mut self, services: BTreeMap<String, Service>) -> Result<()> {
        let gone: Vec<String> = self.offered.keys().filter(|id| !services.contains_key(*id)).cloned().collect();
        for id in gone {
            if let Some(offered) = self.offered.remove(&id) {
                offered.offering.stop()?;
            }
        }
        for (id, service) in services {
            match self.offered.get_mut(&id) {
                Some(offered) if offered.service == service => continue,
                Some(offered) if service.rereads && same_program(&offered.service, &service) => {
                    offered.offering.update(&service, &Secrets::default())?;
                    offered.service = service;
                    continue;
                }
                _ => {}
            }
            if let Some(old) = self.offered.remove(&id) {
                tracing::info!("the transport {id} is started anew; pulls that are going on are cut");
                old.offering.stop()?;
            }
            let offering =
                Offering::start(&service, &Secrets::default(), self.supervisor()?, &id).with_context(|| {
                    format!("starting the transport {id} on {}", port_of(&service, self.place.network.address))
                })?;
            self.offered.insert(id, Offered { service, offering });
        }
        Ok(())
    }

    fn supervisor(&self) -> Result<&Supervisor> {
        self.supervisor.as_ref().context("the server is at its end")
    }

    /// Ends everything, the youngest first.
    ///
    /// # Errors
    /// The first that could not be ended; the others are ended all the same.
    pub fn stop(mut self) -> Result<()> {
        let mut result = Ok(());
        for (_, offered) in std::mem::take(&mut self.offered) {
            let stopped = offered.offering.stop();
            result = result.and(stopped);
        }
        if let Some(supervisor) = self.supervisor.take() {
            result = result.and(supervisor.shutdown(GRACE).context("ending the children"));
        }
        result
    }
}

fn port_of(service: &Service, address: std::net::IpAddr) -> String {
    match service.ready {
        systemimager_core::Probe::Tcp(port) => format!("{address} port {port}"),
        systemimager_core::Probe::File(_) => address.to_string(),
    }
}

/// They differ in the contents of files at most.
fn same_program(one: &Service, other: &Service) -> bool {
    let files = |service: &Service| service.files.iter().map(|file| (file.path.clone(), file.mode)).collect::<Vec<_>>();
    one.argv == other.argv
        && one.ready == other.ready
        && one.stop_signal == other.stop_signal
        && files(one).len() <= files(other).len()
}

/// A death with the last lines that were printed before it, not all that are kept.
fn last_words(mut exit: Exit) -> String {
    let lines: Vec<&str> = exit.tail.lines().collect();
    exit.tail = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    exit.to_string()
}

/// Whether a user who is nobody in particular can get to a directory.
fn open_to_all(dir: &Path) -> bool {
    let real = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    real.ancestors().all(|dir| std::fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0))
}

/// Starts dnsmasq and waits until it says that it serves.
fn start_dnsmasq(supervisor: &Supervisor, file: &Path) -> Result<ChildHandle> {
    let (tell, started) = mpsc::channel();
    let output = ChildOutput::Lines(Box::new(move |_, line| {
        tracing::info!(target: "dnsmasq", "{line}");
        // dnsmasq(8) has no other sign: it says so once its sockets are bound and its files read.
        if line.contains(": started, version") {
            // Only the first time somebody waits for it.
            let _ = tell.send(());
        }
    }));
    let conf: PathBuf = file.to_path_buf();
    let cmd = Cmd::tool(Tool::Dnsmasq).args([
        "--keep-in-foreground",
        "--log-facility=-",
        &format!("--conf-file={}", conf.display()),
    ]);
    let handle = supervisor.spawn("dnsmasq", cmd, output).context("starting dnsmasq")?;
    let deadline = Instant::now() + READY;
    loop {
        match started.recv_timeout(Duration::from_millis(50)) {
            Ok(()) => return Ok(handle),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if let Some(status) = handle.wait_timeout(Duration::from_millis(10))? {
            bail!("dnsmasq {} instead of serving: {}{}", ended(status), handle.tail(), advice(&handle.tail()));
        }
        if Instant::now() >= deadline {
            let tail = handle.tail();
            handle.stop(Signal::TERM, GRACE)?;
            bail!("dnsmasq did not serve within {} seconds: {tail}", READY.as_secs());
        }
    }
}

/// What to do about the commonest of its last words.
fn advice(tail: &str) -> &'static str {
    let taken = tail.contains("Address already in use");
    if taken && tail.contains("DHCP") {
        "\nUDP port 67 is taken: stop the other DHCP server on this machine"
    } else if taken {
        "\nUDP port 69 is taken: stop the other TFTP server on this machine"
    } else if tail.contains("Permission denied") || tail.contains("Operation not permitted") {
        "\nserve needs root for DHCP and TFTP: run it as root"
    } else {
        ""
    }
}

/// That kernel and initrd are in the TFTP root.
///
/// # Errors
/// One of them is not: says how it is made.
pub fn require_kernel(config: &Config) -> Result<()> {
    let mut absent = Vec::new();
    for name in [boot::KERNEL, boot::INITRD] {
        let path = config.tftp().join(name);
        if !path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
            absent.push(path.display().to_string());
        }
    }
    match absent.as_slice() {
        [] => Ok(()),
        [one] => bail!("{one} is not there; make it with `systemimager mkinitrd`"),
        several => bail!("{} are not there; make them with `systemimager mkinitrd`", several.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        std::fs::create_dir_all(config.tftp()).unwrap();
        let error = require_kernel(&config).unwrap_err().to_string();
        assert!(
            error.ends_with("/tftpboot/initrd.img are not there; make them with `systemimager mkinitrd`"),
            "{error}"
        );
        std::fs::write(config.tftp().join(boot::KERNEL), "").unwrap();
        let error = require_kernel(&config).unwrap_err().to_string();
        assert!(error.ends_with("/tftpboot/initrd.img is not there; make it with `systemimager mkinitrd`"), "{error}");
        std::fs::write(config.tftp().join(boot::INITRD), "").unwrap();
        require_kernel(&config).unwrap();
    }

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
}
