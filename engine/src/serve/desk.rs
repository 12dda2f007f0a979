//! The desk: where machines ask what to do and report what they did. It carries out what
//! [`admission`](super::admission) decides: takes orders up, lets them go, and keeps each machine's boot entry so that a machine
//! without an order starts from its own disk, also while nobody is at the desk.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use systemimager_core::{HostName, Registry};

use super::admission::{self, Decision, Known};
use super::allowance::Allowance;
use super::machines::{Machines, Met};
use crate::boot::from_disk::{self, FromDisk};
use crate::boot::{self, Boots, Network};
use crate::config::Config;
use crate::host::EngineHost;
use crate::key;
use crate::report::{Asks, Event, Hello, Report, State, Word};
use crate::store::clients::{self, Client};
use crate::store::machine_keys;
use crate::store::macs::Mac;
use crate::store::orders::{self, Order, Orders, Stage, now};
use crate::store::serials::{self, Serial};

/// Reports that a machine may send at once, and a second after that.
const REPORTS: (u32, u32) = (600, 100);
/// Hellos that a machine may send at once, and a second after that.
const HELLOS: (u32, u32) = (20, 2);
/// Machines whose hellos are counted; beyond it the count begins anew.
const MOST_COUNTED: usize = 20_000;

/// Why a report is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It carries no token of an order.
    #[error("this report carries no token of an order that is being carried out here; it is not taken")]
    Stranger,
    /// Too many in too short a time.
    #[error("too many messages from {mac}: {most} at once and {a_second} a second are taken; try again in a second")]
    TooMany {
        /// Whose.
        mac: String,
        /// At once.
        most: u32,
        /// In the long run.
        a_second: u32,
    },
    /// What it says cannot be.
    #[error("{0:#}")]
    Invalid(anyhow::Error),
    /// The server has a trouble of its own; the report may be sent again.
    #[error("{0:#}")]
    Trouble(anyhow::Error),
}

/// Who may report by a token.
#[derive(Debug)]
struct Bearer {
    mac: Mac,
    host: HostName,
    allowance: Allowance,
}

/// The desk.
pub struct Desk {
    config: Config,
    registry: Registry,
    host: EngineHost,
    network: Network,
    /// What machines reported.
    pub machines: Machines,
    bearers: Mutex<BTreeMap<String, Bearer>>,
    hellos: Mutex<BTreeMap<Mac, Allowance>>,
    /// The serial number that each said, in which boot.
    serials: Mutex<BTreeMap<Mac, (String, Option<Serial>)>>,
    /// What each machine's boot entry says, as far as it was written by this process.
    entries: Mutex<BTreeMap<Mac, Boots>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each of them is whole whenever its lock is free, also after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// What the machine at this address puts onto its own disk to be installed anew, and whether it is ordered to be.
    ///
    /// # Errors
    /// Kernel and initrd are not there, or a file of the server's cannot be read.
    pub fn from_disk(&self, peer: IpAddr) -> Result<FromDisk> {
        let Network { server, http_port, append } = &self.network;
        let client = clients::at(&self.config, peer)?;
        let order = match &client {
            Some(client) => orders::list(&self.config)?.into_iter().find(|order| order.host == client.host),
            None => None,
        };
        Ok(FromDisk {
            entry: crate::boot::autoinstall(server, *http_port, append),
            files: from_disk::files(&self.config.tftp())?,
            host: client.map(|client| client.host),
            ordered: order.is_some(),
            image: order.and_then(|order| order.image),
        })
    }

    /// With the orders and reports of an earlier server.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub fn open(config: &Config, registry: Registry, host: EngineHost, network: Network) -> Result<Self> {
        let desk = Self {
            config: config.clone(),
            registry,
            host,
            network,
            machines: Machines::open(config)?,
            bearers: Mutex::default(),
            hellos: Mutex::default(),
            serials: Mutex::default(),
            entries: Mutex::default(),
        };
        for dir in [orders::dir(config), machine_keys::dir(config)] {
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        for order in orders::list(config)? {
            if let Some(mac) = order.mac().and_then(|mac| mac.parse().ok()) {
                desk.bears(&order, mac);
            }
        }
        Ok(desk)
    }

    /// The directories whose changes mean that [`Self::arrange`] is to be called.
    pub fn watched(&self) -> Vec<PathBuf> {
        let keys = machine_keys::dir(&self.config);
        vec![orders::dir(&self.config), keys, self.config.masters(), self.config.state()]
    }

    fn bears(&self, order: &Order, mac: Mac) {
        let mut bearers = lock(&self.bearers);
        // An order that was cancelled and made anew has another token; the old one is worth nothing any more.
        bearers.retain(|token, bearer| bearer.host != order.host || *token == order.token);
        bearers.entry(order.token.clone()).or_insert_with(|| Bearer {
            mac,
            host: order.host.clone(),
            allowance: Allowance::new(REPORTS.0, REPORTS.1, Instant::now()),
        });
    }

    /// Writes the boot entry of each machine whose MAC address is known, where it is not so already.
    ///
    /// # Errors
    /// The first that cannot be written; the others are written all the same.
    pub fn arrange(&self) -> Result<()> {
        let clients = clients::declared(&self.config)?;
        let ordered = orders::list(&self.config)?;
        let mut wanted: BTreeMap<Mac, Boots> = BTreeMap::new();
        let boots = |host: &HostName| match ordered.iter().any(|order| order.host == *host) {
            true => Boots::Autoinstall,
            false => Boots::LocalDisk,
        };
        for machine in self.machines.list() {
            let Ok(mac) = machine.mac.parse() else { continue };
            if let Some(client) = machine.host.as_ref().and_then(|host| client_of(&clients, host)) {
                wanted.insert(mac, boots(&client.host));
            }
        }
        // What was declared counts more than what was reported.
        for client in &clients {
            if let Some(mac) = client.mac {
                wanted.insert(mac, boots(&client.host));
            }
        }
        self.forget_tokens(&ordered);
        let mut result = Ok(());
        for (mac, boots) in wanted {
            let written = self.entry(mac, boots);
            result = result.and(written);
        }
        result
    }

    /// The token of a cancelled order is worth nothing; that of one that was carried out is for a last report sent again.
    fn forget_tokens(&self, orders: &[Order]) {
        let installed = |mac: Mac| self.machines.state(mac) == Some(State::Installed);
        lock(&self.bearers)
            .retain(|token, bearer| orders.iter().any(|order| order.token == *token) || installed(bearer.mac));
    }

    fn entry(&self, mac: Mac, boots: Boots) -> Result<()> {
        let mut entries = lock(&self.entries);
        if entries.get(&mac) == Some(&boots) {
            return Ok(());
        }
        let plan = self.network.plan(&self.registry, &self.host, Some(mac.to_string()), boots)?;
        boot::lay_out(&plan, &self.config.tftp()).with_context(|| format!("writing what the machine {mac} boots"))?;
        entries.insert(mac, boots);
        Ok(())
    }

    /// Answers a machine that asks what to do. What has to be so before it acts upon the answer is so: its boot entry,
    /// its order.
    ///
    /// # Errors
    /// It says what cannot be, or too much; or the server has a trouble of its own.
    pub fn hello(&self, hello: &Hello) -> Result<Word, Refused> {
        self.count_hello(mac_of(hello)?)?;
        self.asks_again(hello)
    }

    /// As [`Self::hello`], for a machine whose hello was counted and is still to be answered.
    ///
    /// # Errors
    /// As [`Self::hello`].
    pub fn asks_again(&self, hello: &Hello) -> Result<Word, Refused> {
        let mac = mac_of(hello)?;
        if hello.boot.is_empty()
            || hello.boot.len() > 64
            || !hello.boot.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(Refused::Invalid(anyhow::anyhow!("the hello of {mac} does not tell its boot")));
        }
        if hello.key.as_deref().is_some_and(|key| !key::is_public(key)) {
            return Err(Refused::Invalid(anyhow::anyhow!("the key that {mac} offers is no ssh-ed25519 key")));
        }
        self.answer(hello, mac).map_err(Refused::Trouble)
    }

    fn count_hello(&self, mac: Mac) -> Result<(), Refused> {
        let (most, a_second) = HELLOS;
        let mut hellos = lock(&self.hellos);
        if hellos.len() >= MOST_COUNTED {
            hellos.clear();
        }
        let now = Instant::now();
        match hellos.entry(mac).or_insert_with(|| Allowance::new(most, a_second, now)).take(now) {
            true => Ok(()),
            false => Err(Refused::TooMany { mac: mac.to_string(), most, a_second }),
        }
    }

    /// Whose serial number this machine's firmware says: it says so when it asks for the first time in a boot, and is remembered by
    /// what it said itself, never by what lies under a name that anybody can say.
    fn by_serial(&self, hello: &Hello, mac: Mac) -> Result<Option<HostName>> {
        let mut said = lock(&self.serials);
        if let Some(hardware) = &hello.hardware {
            if said.len() >= MOST_COUNTED {
                said.clear();
            }
            said.insert(mac, (hello.boot.clone(), serials::of(hardware)));
        }
        let said = said.get(&mac).filter(|(boot, _)| *boot == hello.boot);
        let Some(serial) = said.and_then(|(_, serial)| serial.as_ref()) else { return Ok(None) };
        Ok(serials::owner(&serials::read(&self.config)?, serial).cloned())
    }

    fn answer(&self, hello: &Hello, mac: Mac) -> Result<Word> {
        let clients = clients::declared(&self.config)?;
        let macs = clients::read_macs(&self.config)?;
        let mine = |declared: &Mac| *declared == mac || hello.macs.iter().any(|it| it.parse() == Ok(*declared));
        let by_mac = macs.iter().find(|(_, declared)| **declared == mac);
        let by_mac = by_mac.or_else(|| macs.iter().find(|(_, declared)| mine(declared))).map(|(host, _)| host);
        let by_serial = match by_mac {
            Some(_) => None,
            None => self.by_serial(hello, mac)?,
        };
        if let Some(host) = &by_serial {
            tracing::info!("{mac} is {host} by its serial number");
            clients::know_mac(&self.config, host, mac)?;
            if hello.host.as_ref().is_some_and(|says| says.short() != host.short()) {
                // It has somebody else's address, by which it would be refused what is its own.
                let why = format!(
                    "by its serial number this machine is {host}, whose address it does not have yet; its MAC address is \
                     known now: restart it"
                );
                self.machines.met(&Met { hello, mac, host: Some(host.clone()) }, State::Waiting, &why, None)?;
                return Ok(Word::Wait { why });
            }
        }
        let by_mac = by_mac.or(by_serial.as_ref());
        let name = admission::name(hello, by_mac).cloned();
        let client = name.as_ref().and_then(|name| client_of(&clients, name));
        let held = Orders::hold(&self.config)?;
        let order = match client {
            Some(client) => held.get(&client.host)?,
            None => None,
        };
        let taker = order.as_ref().and_then(Order::mac).and_then(|mac| mac.parse().ok());
        let known = Known {
            by_mac,
            mac_of_name: client
                .and_then(|client| client.mac)
                .filter(|declared| !mine(declared))
                .map(|it| it.to_string()),
            client: client.map(|client| &client.host),
            order: order.as_ref(),
            taker_heard: taker.and_then(|taker| self.machines.heard(taker)),
        };
        let decision = admission::decide(hello, &known, now());
        let client = client.map(|client| client.host.clone());
        let met = Met { hello, mac, host: client.clone().or(name) };
        match (decision, order, client) {
            (Decision::Install, Some(mut order), Some(client)) => {
                let (boot, mac_text) = (hello.boot.clone(), mac.to_string());
                let begun = Stage::Begun { mac: mac_text, boot };
                if order.stage == begun && order.key != hello.key {
                    // A boot has one key: this is somebody else, who knows its number.
                    tracing::warn!(
                        "{mac}, which carries out the order of {client}, asks with another key; it is not taken"
                    );
                    return Ok(Word::Wait { why: "another key carries out this order; restart this machine".into() });
                }
                if order.stage != begun {
                    if let Some(before) = order.key.as_ref().filter(|key| Some(*key) != hello.key.as_ref()) {
                        tracing::warn!(
                            "{mac} begins the order of {client} with a new key; {before} opens nothing any more"
                        );
                    }
                    order.attempts = order.attempts.saturating_add(1);
                    order.stage = begun;
                    order.key.clone_from(&hello.key);
                    held.put(&order)?;
                }
                drop(held);
                self.bears(&order, mac);
                // Also if it is switched off in the middle: what is half written is begun anew.
                self.entry(mac, Boots::Autoinstall)?;
                let (state, does) = match hello.asks {
                    Asks::Order => (State::Booted, "begins"),
                    Asks::GoOn => (State::Preparing, "goes on with"),
                };
                self.machines.met(&met, state, &format!("{does} order {}", order.id), Some(&order.id))?;
                Ok(Word::Install { order: order.id, token: order.token, host: client, breaks: order.breaks })
            }
            (Decision::Disk(why), ..) => {
                drop(held);
                self.entry(mac, Boots::LocalDisk)?;
                self.machines.met(&met, State::LocalDisk, &why, None)?;
                Ok(Word::Disk { why })
            }
            (Decision::Wait(why), ..) => {
                drop(held);
                self.machines.met(&met, State::Waiting, &why, None)?;
                Ok(Word::Wait { why })
            }
            (Decision::Install, ..) => anyhow::bail!("an install without an order was decided; this is a bug"),
        }
    }

    /// Takes a report. When it says that the machine is installed, its order has gone and its boot entry leads to its own
    /// disk before this returns.
    ///
    /// # Errors
    /// Each of [`Refused`].
    pub fn report(&self, token: Option<&str>, report: Report) -> Result<(), Refused> {
        let (mac, host) = {
            let mut bearers = lock(&self.bearers);
            let bearer = token.and_then(|token| bearers.get_mut(token)).ok_or(Refused::Stranger)?;
            if report.mac.parse() != Ok(bearer.mac) {
                return Err(Refused::Stranger);
            }
            if !bearer.allowance.take(Instant::now()) {
                let (most, a_second) = REPORTS;
                return Err(Refused::TooMany { mac: bearer.mac.to_string(), most, a_second });
            }
            (bearer.mac, bearer.host.clone())
        };
        if let Event::State { state, .. } = &report.event {
            self.move_order(mac, &host, token.unwrap_or_default(), *state).map_err(Refused::Trouble)?;
        }
        self.machines.take(mac, host, report).map_err(Refused::Trouble)
    }

    fn move_order(&self, mac: Mac, host: &HostName, token: &str, state: State) -> Result<()> {
        let held = Orders::hold(&self.config)?;
        // Only the order that the token is of: it may have been cancelled and made anew meanwhile.
        let Some(mut order) = held.get(host)?.filter(|order| order.token == token) else { return Ok(()) };
        let (Stage::Begun { mac: by, boot } | Stage::GoOn { mac: by, boot } | Stage::Stopped { mac: by, boot }) =
            order.stage.clone()
        else {
            return Ok(());
        };
        let stage = match state {
            State::Installed => {
                match &order.key {
                    Some(key) => machine_keys::put(&self.config, host, key)?,
                    // That of an earlier install is on no disk any more.
                    None => machine_keys::remove(&self.config, host).map(drop)?,
                }
                held.remove(host)?;
                drop(held);
                return self.entry(mac, Boots::LocalDisk);
            }
            State::Failed | State::Paused => Stage::Stopped { mac: by, boot },
            // It went on, told by a person at its console.
            State::Preparing | State::Installing => Stage::Begun { mac: by, boot },
            State::Booted | State::Waiting | State::LocalDisk => return Ok(()),
        };
        if order.stage != stage {
            order.stage = stage;
            held.put(&order)?;
        }
        Ok(())
    }
}

fn mac_of(hello: &Hello) -> Result<Mac, Refused> {
    hello.mac.parse().map_err(|error: String| Refused::Invalid(anyhow::Error::msg(error)))
}

/// The declared client of this name, with or without domain.
fn client_of<'a>(clients: &'a [Client], name: &HostName) -> Option<&'a Client> {
    let is = |wanted: &str| clients.iter().find(|client| client.host.as_str() == wanted);
    is(name.as_str()).or_else(|| is(name.short()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::abi::private::Instance;
    use systemimager_core::contract::{Bootloader, BootloaderDetect, BootloaderPlan};
    use systemimager_core::registry::Origin;
    use systemimager_core::{Action, BootPlan, BootTarget, Contents, Host, Needs, Phase, PluginError, Role, Step};

    use crate::host::Secrets;

    const MAC: &str = "52:54:00:00:00:01";

    /// Writes `default` into a file named by the MAC.
    struct Loader;

    impl Bootloader for Loader {
        fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs, PluginError> {
            Ok(Needs::default())
        }
        fn detect(&self, _: &dyn Host, _: BootloaderDetect) -> Result<Option<BTreeMap<String, String>>, PluginError> {
            Ok(None)
        }
        fn plan(&self, _: &dyn Host, request: BootloaderPlan) -> Result<BootPlan, PluginError> {
            let BootTarget::Network { mac: Some(mac), .. } = request.target else { panic!("a machine's own") };
            let default = request.default.unwrap_or_default();
            let contents = Contents::Bytes(default.as_str().into());
            let action = Action::WriteFile { path: format!("/{mac}").as_str().into(), contents, mode: 0o644 };
            Ok(BootPlan { steps: vec![Step::new(Phase::Boot, "write", action)], boot_files: vec![] })
        }
    }

    struct Lab {
        _dir: tempfile::TempDir,
        config: Config,
        desk: Desk,
    }

    fn host(name: &str) -> HostName {
        HostName::try_from(name).unwrap()
    }

    fn desk(config: &Config) -> Desk {
        let mut registry = Registry::default();
        let identification = serde_json::from_value(serde_json::json!({
            "id": "fake", "kind": "bootloader", "about": "", "version": "1.0.0", "panic": "unwind",
            "contract": systemimager_core::CONTRACT_VERSION, "arch": std::env::consts::ARCH,
        }))
        .unwrap();
        registry.add(identification, Origin::Linked, Instance::Bootloader(Box::new(Loader))).unwrap();
        let network = Network { server: "10.0.0.1".into(), http_port: 80, append: String::new() };
        Desk::open(config, registry, EngineHost::new(Secrets::default()), network).unwrap()
    }

    fn lab() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        for made in [config.masters(), config.state(), config.images().join("web")] {
            std::fs::create_dir_all(made).unwrap();
        }
        let master = "format = 1\nimage = \"web\"\ntransports = [\"t\"]\npartitioner = \"p\"\nbootloader = \"none\"\n\
                      [identity]\nplugin = \"i\"\n";
        std::fs::write(config.masters().join("web.master"), master).unwrap();
        let image = systemimager_core::ImageName::try_from("web").unwrap();
        crate::store::host_links::set(&config, &host("www1"), &image, false).unwrap();
        let desk = desk(&config);
        Lab { _dir: dir, config, desk }
    }

    #[test]
    fn a_machine_is_known_by_its_serial_number() {
        let lab = lab();
        std::fs::write(serials::file(&lab.config), "www1,CZJ1234X0Y\n").unwrap();
        let hello = |serial: Option<&str>| {
            let hardware = |serial: &str| systemimager_core::Hardware {
                dmi: [("product_serial".to_owned(), serial.to_owned())].into(),
                ..systemimager_core::Hardware::default()
            };
            Hello {
                mac: MAC.into(),
                boot: "b".into(),
                hardware: serial.map(hardware).map(Box::new),
                ..Hello::default()
            }
        };
        let macs = || std::fs::read_to_string(crate::store::macs::file(&lab.config)).unwrap_or_default();
        let other = lab.desk.hello(&hello(Some("CZJ1234X0Z"))).unwrap();
        assert!(matches!(&other, Word::Wait { why } if why.contains("nothing tells who this machine is")), "{other:?}");
        assert!(!macs().contains("www1,"), "{}", macs());
        // It has the address of another one.
        let elsewhere = Hello { host: Some(host("www2")), ..hello(Some("CZJ1234X0Y")) };
        let word = lab.desk.hello(&elsewhere).unwrap();
        assert!(matches!(&word, Word::Wait { why } if why.contains("known now: restart it")), "{word:?}");
        assert!(macs().contains(&format!("www1,{MAC}")), "{}", macs());
        std::fs::remove_file(crate::store::macs::file(&lab.config)).unwrap();
        // It asks again without saying what it is made of.
        let again = Hello { host: Some(host("www1")), ..hello(None) };
        let word = lab.desk.hello(&again).unwrap();
        assert!(matches!(&word, Word::Disk { .. }) && macs().contains("www1,"), "{word:?}");
        std::fs::remove_file(crate::store::macs::file(&lab.config)).unwrap();
        let known = lab.desk.hello(&hello(Some("CZJ1234X0Y"))).unwrap();
        assert!(matches!(&known, Word::Disk { why } if why.contains("www1 has no order")), "{known:?}");
        lab.order();
        let word = lab.desk.hello(&hello(None)).unwrap();
        assert!(matches!(&word, Word::Install { host, .. } if host.as_str() == "www1"), "{word:?}");
    }

    impl Lab {
        fn order(&self) {
            orders::order(&self.config, &[host("www1")], &[], None).unwrap();
        }

        fn boots(&self) -> String {
            std::fs::read_to_string(self.config.tftp().join(MAC)).unwrap_or_default()
        }

        fn says(&self, boot: &str, asks: Asks) -> Word {
            let hello =
                Hello { mac: MAC.into(), host: Some(host("www1")), boot: boot.into(), asks, ..Hello::default() };
            self.desk.hello(&hello).unwrap()
        }

        fn report(&self, token: &str, sequence: u64, state: State) -> Result<(), Refused> {
            let event = Event::State { state, message: "words".into() };
            let report = Report { mac: MAC.into(), host: None, image: Some("web".into()), sequence, event };
            self.desk.report(Some(token), report)
        }

        fn token(&self, boot: &str) -> String {
            match self.says(boot, Asks::Order) {
                Word::Install { token, .. } => token,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_order_is_carried_out_once() {
        let lab = lab();
        assert!(matches!(lab.says("b1", Asks::Order), Word::Disk { .. }), "no order: its own disk");
        assert_eq!(lab.boots(), "local");
        lab.order();
        lab.desk.arrange().unwrap();
        assert_eq!(lab.boots(), "autoinstall");
        let token = lab.token("b2");
        assert_eq!(lab.token("b2"), token, "asked again in the same boot it is the same order");
        assert_eq!(orders::list(&lab.config).unwrap()[0].attempts, 1);
        lab.report(&token, 1, State::Installing).unwrap();
        lab.desk.arrange().unwrap();
        assert_eq!(lab.boots(), "autoinstall", "half installed it is not to start from its disk");
        lab.report(&token, 2, State::Installed).unwrap();
        assert_eq!(lab.boots(), "local");
        assert_eq!(orders::list(&lab.config).unwrap(), []);
        lab.desk.arrange().unwrap();
        lab.report(&token, 2, State::Installed).expect("a last report may be sent again");
        for boot in ["b3", "b4"] {
            assert!(matches!(lab.says(boot, Asks::Order), Word::Disk { .. }));
        }
        // Another server, the same files.
        let later = Lab { desk: desk(&lab.config), ..lab };
        assert!(matches!(later.says("b5", Asks::Order), Word::Disk { .. }));
    }

    #[test]
    fn a_failed_install_stays_ordered_and_goes_on_when_told() {
        let lab = lab();
        lab.order();
        let token = lab.token("b1");
        lab.report(&token, 1, State::Failed).unwrap();
        assert!(matches!(lab.says("b1", Asks::GoOn), Word::Wait { why } if why.contains("retry www1")));
        lab.order();
        assert!(matches!(lab.says("b1", Asks::GoOn), Word::Install { token: same, .. } if same == token));
        assert_eq!(orders::list(&lab.config).unwrap()[0].attempts, 2);
        let now = lab.desk.machines.list().remove(0);
        assert_eq!(now.state, State::Preparing, "{}", now.message);
        assert!(now.message.starts_with("goes on with order "), "{}", now.message);
        lab.report(&token, 2, State::Failed).unwrap();
        lab.report(&token, 3, State::Preparing).expect("a person at the console let it go on");
        assert!(matches!(orders::list(&lab.config).unwrap()[0].stage, Stage::Begun { .. }));
        // Switched off in the middle, and the server restarted as well.
        let later = Lab { desk: desk(&lab.config), ..lab };
        later.report(&token, 4, State::Preparing).expect("the token outlives the server");
        assert_eq!(later.token("b2"), token);
        assert_eq!(later.boots(), "autoinstall");
    }

    #[test]
    fn reports_of_others_are_refused() {
        let lab = lab();
        lab.order();
        let token = lab.token("b1");
        let refused = |result: Result<(), Refused>| result.unwrap_err().to_string();
        let stranger = "this report carries no token of an order that is being carried out here; it is not taken";
        assert_eq!(refused(lab.report("x", 1, State::Installed)), stranger);
        let event = Event::State { state: State::Installed, message: String::new() };
        let report = |mac: &str| Report { mac: mac.into(), host: None, image: None, sequence: 1, event: event.clone() };
        assert_eq!(refused(lab.desk.report(Some(&token), report("52:54:00:00:00:02"))), stranger);
        assert_eq!(refused(lab.desk.report(None, report(MAC))), stranger);
        Orders::hold(&lab.config).unwrap().remove(&host("www1")).unwrap();
        lab.desk.arrange().unwrap();
        assert_eq!(refused(lab.report(&token, 1, State::Failed)), stranger, "the order was cancelled");
    }

    #[test]
    fn who_says_too_much_is_told_to_wait() {
        let lab = lab();
        lab.order();
        let token = lab.token("b1");
        // Progress is not written down each time: it comes faster than the allowance grows on any machine.
        let progress = |sequence: u64| {
            let event = Event::Progress { phase: Phase::Pull, progress: systemimager_core::Progress::default() };
            lab.desk.report(Some(&token), Report { mac: MAC.into(), host: None, image: None, sequence, event })
        };
        let error = (1..100_000).find_map(|sequence| progress(sequence).err()).expect("an end");
        assert!(error.to_string().starts_with("too many messages from 52:54:00:00:00:01: 600 at once"), "{error}");

        let hello = |boot: &str| Hello { mac: "52:54:00:00:00:09".into(), boot: boot.into(), ..Hello::default() };
        let counted = || lab.desk.count_hello("52:54:00:00:00:09".parse().unwrap());
        let error = (1..100_000).find_map(|_| counted().err()).expect("an end");
        assert!(error.to_string().contains(": 20 at once and 2 a second are taken"), "{error}");
        for boot in ["", "../x", &"b".repeat(65)] {
            assert!(
                matches!(lab.desk.hello(&hello(boot)), Err(Refused::Invalid(_) | Refused::TooMany { .. })),
                "{boot}"
            );
        }
        let stranger = Hello { mac: "no".into(), boot: "b".into(), ..Hello::default() };
        assert!(lab.desk.hello(&stranger).unwrap_err().to_string().contains("is not a MAC address"));
    }
}
