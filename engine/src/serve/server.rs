//! The image server while it runs: makes configuration, starts children, follows changes, ends everything.
//!
//! What cannot be started at the beginning ends the server: somebody is there to mend it. A child that dies later is
//! told of and started again, at first soon, then ever later, while the rest is served on: machines are being
//! installed. A change that cannot be followed ends nothing either.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{Offer, Registry, Service};

use super::exports::Offered;
use super::interface::Place;
use super::parts::{self, Part, PartState};
use super::{dnsmasq, dnsmasq_child, exports, watch};
use crate::account;
use crate::boot::{self, Boots};
use crate::config::{Config, Unknown};
use crate::door::Door;
use crate::helper;
use crate::host::EngineHost;
use crate::offer::{self, Offering};
use crate::store::clients::declared;
use crate::store::image_store::ImageStore;
use crate::store::master::Master;
use crate::store::orders::now;
use crate::store::server_keys::ServerKeys;
use crate::sys::lock::{Lock, Mode};
use crate::sys::ports::{self, Protocol};
use crate::sys::{ChildHandle, Exit, Signal, Supervisor, atomic};

/// Where dnsmasq writes its process id, in the run directory.
const PID_FILE: &str = "dnsmasq.pid";
/// How often replaced images are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How often changes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
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
    /// Orders changed, and with them who is admitted by which key. Whoever sent it hears when that is so everywhere.
    Admit(Option<Sender<bool>>),
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

/// What happens, with what was looked at early and is still to be acted upon.
struct Inbox<'a> {
    receiver: &'a Receiver<Happening>,
    kept: VecDeque<Happening>,
}

impl Inbox<'_> {
    /// The next happening; `None`: there was none until `deadline`.
    fn next(&mut self, deadline: Instant) -> Result<Option<Happening>> {
        if let Some(happening) = self.kept.pop_front() {
            return Ok(Some(happening));
        }
        match self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(happening) => Ok(Some(happening)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("nobody tells the server anything any more"),
        }
    }

    /// Whoever else waits for keys to be admitted; what else has come stays.
    fn admits(&mut self) -> Vec<Sender<bool>> {
        self.kept.extend(self.receiver.try_iter());
        let (admits, kept): (Vec<_>, Vec<_>) = self.kept.drain(..).partition(|it| matches!(it, Happening::Admit(_)));
        self.kept.extend(kept);
        let whoever =
            admits.into_iter().filter_map(|it| if let Happening::Admit(whoever) = it { whoever } else { None });
        whoever.collect()
    }

    /// Whether nobody wants an end yet: what waits for a child asks this.
    fn goes_on(&mut self) -> bool {
        self.kept.extend(self.receiver.try_iter());
        !self.kept.iter().any(|it| matches!(it, Happening::Stop(_) | Happening::Failed(_)))
    }
}

/// Whether the server is still wanted; asked while a child is waited for.
type Wanted<'a> = &'a mut dyn FnMut() -> bool;

/// A transport's service that runs, and the door behind it, which closes after it.
struct Opened {
    offering: Offering,
    door: Option<Door>,
}

/// A running image server, without HTTP.
pub struct Server<'a> {
    config: &'a Config,
    registry: &'a Registry,
    host: EngineHost,
    keys: ServerKeys,
    place: Place,
    // Ended by the order of the fields: transports remove their files, then the supervisor ends what is left.
    /// By the transport's id.
    offered: BTreeMap<String, Part<Offered, Opened>>,
    /// Made from the text of its configuration.
    dnsmasq: Option<Part<String, ChildHandle>>,
    supervisor: Option<Supervisor>,
    /// By file, as they were last right.
    masters: BTreeMap<PathBuf, Master>,
    seen: u64,
    swept: Instant,
    /// Everything was started once.
    begun: bool,
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
        keys: ServerKeys,
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
        let lock = Lock::try_take(&run.join(parts::LOCK_FILE), Mode::Exclusive, "serving")?;
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
            keys,
            place,
            offered: BTreeMap::new(),
            dnsmasq: None,
            supervisor: Some(supervisor),
            masters: BTreeMap::new(),
            seen: watch::fingerprint(config),
            swept: Instant::now(),
            begun: false,
            _lock: lock,
        };
        let masters = server.read_masters()?;
        server.begin(masters)?;
        Ok((server, send, receive))
    }

    /// Starts everything for the first time: what cannot be started now is an error.
    fn begin(&mut self, masters: Vec<Master>) -> Result<()> {
        self.arrange(masters, &mut || true)?;
        let failed = self.dnsmasq.iter().map(|part| &part.fate).chain(self.offered.values().map(|part| &part.fate));
        if let Some(fate) = failed.into_iter().find(|fate| fate.due().is_some()) {
            bail!("{}", fate.words());
        }
        self.begun = true;
        self.write_down();
        Ok(())
    }

    /// Acts upon what happens until the end. `changed` is called when something was read anew, and when a child
    /// ended or runs again.
    ///
    /// # Errors
    /// HTTP failed. That somebody wants an end is no error, nor that a child died: it is started again.
    pub fn follow(&mut self, happenings: &Receiver<Happening>, changed: &mut dyn FnMut(&[Running])) -> Result<()> {
        let mut inbox = Inbox { receiver: happenings, kept: VecDeque::new() };
        let mut look = Instant::now() + LOOK_EVERY;
        loop {
            let happening = inbox.next(self.due().map_or(look, |due| due.min(look)))?;
            match happening {
                Some(Happening::Ended(exit)) => self.bury(exit, changed),
                Some(Happening::Failed(why)) => bail!("{why}"),
                Some(Happening::Stop(signal)) => {
                    tracing::info!("{signal}: ending");
                    return Ok(());
                }
                Some(Happening::Reload) => self.refresh(&mut || inbox.goes_on(), changed),
                Some(Happening::Admit(first)) => {
                    // One look at the orders answers all who ask just now.
                    let whoever: Vec<_> = first.into_iter().chain(inbox.admits()).collect();
                    let admitted = self.follow_keys(&mut || inbox.goes_on());
                    for one in whoever {
                        // They may not wait any more.
                        let _ = one.send(admitted);
                    }
                }
                None => {}
            }
            self.start_again(&mut || inbox.goes_on(), changed);
            if Instant::now() >= look {
                if watch::fingerprint(self.config) != self.seen {
                    self.refresh(&mut || inbox.goes_on(), changed);
                }
                if self.keys_are_over() {
                    self.follow_keys(&mut || inbox.goes_on());
                }
                if self.swept.elapsed() >= SWEEP_EVERY {
                    self.sweep();
                }
                look = Instant::now() + LOOK_EVERY;
            }
        }
    }

    /// When the next part is to be started again.
    fn due(&self) -> Option<Instant> {
        let offered = self.offered.values().filter_map(|part| part.fate.due());
        offered.chain(self.dnsmasq.iter().filter_map(|part| part.fate.due())).min()
    }

    /// A child ended: if it is one of ours and nobody asked for it, it is told, and to be started again.
    fn bury(&mut self, exit: Exit, changed: &mut dyn FnMut(&[Running])) {
        if exit.requested {
            return;
        }
        let pid = exit.pid;
        let fate = match &mut self.dnsmasq {
            Some(part) if part.running.as_ref().is_some_and(|handle| handle.pid() == pid) => {
                part.running = None;
                &mut part.fate
            }
            _ => {
                let is_it = |part: &&mut Part<Offered, Opened>| {
                    part.running.as_ref().is_some_and(|opened| opened.offering.handle().pid() == pid)
                };
                // One that ended before it served was told of by whoever started it.
                let Some(part) = self.offered.values_mut().find(is_it) else { return };
                part.running = None;
                &mut part.fate
            }
        };
        let words = last_words(exit);
        let wait = fate.died(Instant::now(), &words);
        tracing::error!("{words}; it is started again in {} s", wait.as_secs_f32());
        self.write_down();
        changed(&self.running());
    }

    /// Starts the parts that are due.
    fn start_again(&mut self, wanted: Wanted<'_>, changed: &mut dyn FnMut(&[Running])) {
        let now = Instant::now();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let dnsmasq = self.dnsmasq.take_if(|part| is_due(part.fate.due()));
        let due: Vec<String> =
            self.offered.iter().filter(|(_, part)| is_due(part.fate.due())).map(|(id, _)| id.clone()).collect();
        if dnsmasq.is_none() && due.is_empty() {
            return;
        }
        if let Some(part) = dnsmasq {
            self.dnsmasq = Some(self.started_dnsmasq(part, wanted));
        }
        for id in due {
            if let Some(part) = self.offered.remove(&id) {
                let part = self.started_transport(&id, part, wanted);
                self.offered.insert(id, part);
            }
        }
        self.write_down();
        changed(&self.running());
    }

    /// Tries to start dnsmasq by the configuration that was written; what fails is told, and tried again later.
    fn started_dnsmasq(&self, mut part: Part<String, ChildHandle>, wanted: Wanted<'_>) -> Part<String, ChildHandle> {
        let run = self.config.run();
        let (file, pid_file) = (run.join("dnsmasq.conf"), run.join(PID_FILE));
        let (address, mode) = (self.place.network.address, self.config.settings.dhcp.mode);
        let handle = self
            .supervisor()
            .and_then(|supervisor| dnsmasq_child::start(supervisor, &file, &pid_file, address, mode, wanted));
        part.running = fared(&mut part.fate, "dnsmasq", handle, self.begun && wanted());
        part
    }

    /// As [`Self::started_dnsmasq`], for a transport's service.
    fn started_transport(
        &self,
        id: &str,
        mut part: Part<Offered, Opened>,
        wanted: Wanted<'_>,
    ) -> Part<Offered, Opened> {
        let address = self.place.network.address;
        let Offered { offer, service } = &part.wanted;
        let opened = self.supervisor().and_then(|supervisor| {
            let helper = helper::words(self.registry, id)?;
            let door = match offer.door.is_empty() {
                true => None,
                false => Some(self.open_door(id, offer)?),
            };
            let secrets = self.keys.secrets(offer)?;
            let offering = Offering::start_while(service, &secrets, supervisor, id, &helper, wanted);
            let offering = offering.map_err(|error| {
                let owner = match service.ready {
                    systemimager_core::Probe::Tcp(port) => ports::taken(Protocol::Tcp, address, port),
                    systemimager_core::Probe::File(_) => None,
                };
                let error = error.context(format!("starting the transport {id} on {}", port_of(service, address)));
                match owner {
                    Some(owner) => error.context(format!("{owner}; stop it")),
                    None => error,
                }
            })?;
            Ok(Opened { offering, door })
        });
        part.running = fared(&mut part.fate, &format!("the transport {id}"), opened, self.begun && wanted());
        part
    }

    fn open_door(&self, id: &str, offer: &Offer) -> Result<Door> {
        let place = exports::door(self.config, id);
        let account = account::of(self.config)?;
        let door = Door::open(self.registry, id, offer, &place, account.as_ref())?;
        if account.is_some() {
            // On the way there, for who may enter but not list.
            for dir in place.ancestors().skip(1).take_while(|dir| dir.starts_with(self.config.run())) {
                offer::open_way(dir)?;
            }
        }
        Ok(door)
    }

    /// For `status`; that it cannot be written is no reason to serve nothing.
    fn write_down(&self) {
        let dnsmasq = self
            .dnsmasq
            .iter()
            .map(|part| PartState::of("dnsmasq", part.running.as_ref().map(ChildHandle::pid), &part.fate));
        let offered = self.offered.iter().map(|(id, part)| {
            PartState::of(id, part.running.as_ref().map(|opened| opened.offering.handle().pid()), &part.fate)
        });
        if let Err(error) = parts::write(self.config, &dnsmasq.chain(offered).collect::<Vec<_>>()) {
            tracing::warn!("{error:#}");
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

    fn refresh(&mut self, wanted: Wanted<'_>, changed: &mut dyn FnMut(&[Running])) {
        // Before reading: what changes meanwhile is then seen as another change.
        self.seen = watch::fingerprint(self.config);
        let result = self.read_masters().and_then(|masters| self.arrange(masters, wanted));
        match result {
            Ok(()) => tracing::info!("read anew"),
            Err(error) => tracing::error!("what was changed cannot be followed yet, what is served stays: {error:#}"),
        }
        self.write_down();
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

    /// The children that run.
    pub fn running(&self) -> Vec<Running> {
        let one = |handle: &ChildHandle| Running { name: handle.name().to_owned(), pid: handle.pid() };
        let dnsmasq = self.dnsmasq.iter().filter_map(|part| part.running.as_ref()).map(one);
        let offered = self.offered.values().filter_map(|part| part.running.as_ref());
        dnsmasq.chain(offered.map(|opened| one(opened.offering.handle()))).collect()
    }

    /// Makes what runs match what is wanted: everything is worked out first, then carried out. A child that cannot be
    /// started is tried again later, and keeps nothing else from being carried out.
    fn arrange(&mut self, masters: Vec<Master>, wanted: Wanted<'_>) -> Result<()> {
        let (config, address) = (self.config, self.place.network.address);
        let clients = declared(config)?;
        let network = boot::Network::new(config, address);
        let others = match config.settings.boot.unknown {
            Unknown::Wait => Boots::Autoinstall,
            Unknown::Disk => Boots::LocalDisk,
        };
        let network = network.plan(self.registry, &self.host, None, others)?;
        let services =
            exports::services(config, self.registry, &self.host, &masters, &clients, address).or_nothing()?;
        let tftp_root = config.tftp();
        let user = if dnsmasq_child::open_to_all(&tftp_root) {
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
        for note in &output.notes {
            tracing::info!("{note}");
        }
        boot::lay_out(&network, &tftp_root)?;
        self.arrange_dnsmasq(output.text, wanted)?;
        self.arrange_transports(services, wanted)
    }

    fn arrange_dnsmasq(&mut self, text: String, wanted: Wanted<'_>) -> Result<()> {
        // One that waits to be started again is left to that.
        if self.dnsmasq.as_ref().is_some_and(|part| part.wanted == text) {
            return Ok(());
        }
        let file = self.config.run().join("dnsmasq.conf");
        let fresh = self.config.run().join("dnsmasq.conf.new");
        atomic::write(&fresh, text.as_bytes(), 0o644)?;
        // What it would refuse must not end the one that runs.
        dnsmasq_child::test(&fresh)?;
        std::fs::rename(&fresh, &file).with_context(|| format!("renaming {}", fresh.display()))?;
        let mut part = Part { wanted: text, running: None, fate: parts::Fate::default() };
        if let Some(old) = self.dnsmasq.take() {
            part.fate = old.fate;
            if let Some(handle) = old.running {
                handle.stop(Signal::TERM, GRACE).context("stopping dnsmasq to start it anew")?;
            }
        }
        self.dnsmasq = Some(self.started_dnsmasq(part, wanted));
        Ok(())
    }

    /// The time of somebody who is admitted by a key is over.
    fn keys_are_over(&self) -> bool {
        let now = now();
        let exports = self.offered.values().flat_map(|part| &part.wanted.offer.exports);
        exports.flat_map(|export| &export.keys).any(|key| key.until.is_some_and(|until| until <= now))
    }

    /// Only who is admitted by which key has changed. False: it could not be followed, and that was told.
    fn follow_keys(&mut self, wanted: Wanted<'_>) -> bool {
        let admitted = self.admit(wanted);
        if let Err(error) = &admitted {
            tracing::error!("who is admitted by which key cannot be followed yet: {error:#}");
        }
        admitted.is_ok()
    }

    fn admit(&mut self, wanted: Wanted<'_>) -> Result<()> {
        let (config, address) = (self.config, self.place.network.address);
        let masters: Vec<Master> = self.masters.values().cloned().collect();
        let clients = declared(config)?;
        let services =
            exports::services(config, self.registry, &self.host, &masters, &clients, address).or_nothing()?;
        self.arrange_transports(services, wanted)
    }

    fn arrange_transports(&mut self, services: BTreeMap<String, Offered>, wanted: Wanted<'_>) -> Result<()> {
        let gone: Vec<String> = self.offered.keys().filter(|id| !services.contains_key(*id)).cloned().collect();
        for id in gone {
            if let Some(opened) = self.offered.remove(&id).and_then(|part| part.running) {
                opened.offering.stop()?;
            }
        }
        for (id, offered) in services {
            match self.offered.get_mut(&id) {
                Some(part) if part.wanted == offered => continue,
                Some(Part { wanted, running: Some(opened), .. })
                    if offered.service.rereads && same_program(&wanted.service, &offered.service) =>
                {
                    opened.offering.update(&offered.service, &self.keys.secrets(&offered.offer)?)?;
                    if let Some(door) = &opened.door {
                        door.update(&offered.offer);
                    }
                    *wanted = offered;
                    continue;
                }
                _ => {}
            }
            let mut part = Part { wanted: offered, running: None, fate: parts::Fate::default() };
            if let Some(old) = self.offered.remove(&id) {
                part.fate = old.fate;
                if let Some(opened) = old.running {
                    tracing::info!("the transport {id} is started anew; pulls that are going on are cut");
                    opened.offering.stop()?;
                }
            }
            let part = self.started_transport(&id, part, wanted);
            self.offered.insert(id, part);
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
        for opened in std::mem::take(&mut self.offered).into_values().filter_map(|part| part.running) {
            let stopped = opened.offering.stop();
            result = result.and(stopped);
        }
        if let Some(supervisor) = self.supervisor.take() {
            result = result.and(supervisor.shutdown(GRACE).context("ending the children"));
        }
        result
    }
}

/// What came of a start: what runs now, or when it is tried again.
/// Told only where it is not told otherwise: a first start ends in an error, and what an end cut off is no news.
fn fared<R>(fate: &mut parts::Fate, name: &str, result: Result<R>, told: bool) -> Option<R> {
    match result {
        Ok(running) => {
            fate.started(Instant::now());
            if fate.deaths() > 0 {
                tracing::info!("{name} runs again");
            }
            Some(running)
        }
        Err(error) => {
            let words = format!("{error:#}");
            let wait = fate.died(Instant::now(), &words);
            if told {
                tracing::error!("{words}; it is tried again in {} s", wait.as_secs_f32());
            }
            None
        }
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
    one.argv == other.argv && one.ready == other.ready && one.stop_signal == other.stop_signal
}

/// A death with the last lines that were printed before it, not all that are kept.
fn last_words(mut exit: Exit) -> String {
    let lines: Vec<&str> = exit.tail.lines().collect();
    exit.tail = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    exit.to_string()
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
}
