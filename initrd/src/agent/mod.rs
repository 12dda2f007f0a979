//! The install agent: from a bare machine to an installed one, in nine stages that a person can follow.
//!
//! Everything is fetched and checked first; only then [`systemimager_engine::install`] touches a disk.
//! The agent ends with a word for PID 1 ([`crate::places::FINAL`]): it restarts nothing by itself.

mod back;
mod console;
mod dhcp;
mod drivers;
pub(crate) mod fuzzing;
mod given;
mod hardware;
mod http;
mod identify;
mod log;
mod media;
mod network;
mod order;
mod remains;
mod reports;
mod show;
mod site;
mod tools;
mod wait;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use systemimager_core::{
    BlockDevice, Hardware, HostFacts, Identity, ImageFacts, Lease, NodeName, Phase, Progress, Registry, loader,
};
use systemimager_engine::helper;
use systemimager_engine::host::{EngineHost, Secrets};
use systemimager_engine::install::{self, Site, SiteKeys};
use systemimager_engine::key::Key;
use systemimager_engine::local_cfg::LocalCfg;
use systemimager_engine::pins::{self, Pins};
use systemimager_engine::plan::{self, Plan, PlanInput};
use systemimager_engine::report::{BreakPoint, Event, State};
use systemimager_engine::store::master::{FinalAction, Master};

use crate::pack::PLUGIN_DIR;
use crate::places::{self, Final};
use back::Back;
use console::Stage;
use drivers::Drivers;
use http::{NotThere, Server};
use log::Log;
use media::Media;
use order::{Answer, Desk, Order};
use reports::Reporter;

/// How long no device may have appeared before one goes on.
const QUIET: Duration = Duration::from_millis(400);
/// How long the first drivers may take.
const DRIVERS: Duration = Duration::from_secs(30);
/// How long disks that the layout wants may take to appear: a USB disk or a large controller.
const DISKS: Duration = Duration::from_secs(30);
/// The pause before the network is tried anew.
const NETWORK_AGAIN: Duration = Duration::from_secs(10);
/// The pause before a server that had no order is asked again.
const ORDER_AGAIN: Duration = Duration::from_secs(30);
/// How long the last reports may take.
const LAST_WORDS: Duration = Duration::from_secs(20);
/// How often progress is printed.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How often progress is reported to the server, which writes it down as often.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// How long the image server may take to answer through a network that is being tried.
const TRY_SERVER: Duration = Duration::from_secs(5);
/// The port of `systemimager serve` where the kernel command line names none.
const DEFAULT_PORT: u16 = 8069;

/// The program.
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let load = |registry: &mut Registry, file: &Path| Ok(loader::load_file(registry, file).map(drop)?);
    if let Some(code) = helper::run(&words, load, || Ok(Registry::default())) {
        return code;
    }
    let after = match words.as_slice() {
        [word] if word == OsStr::new("--version") => {
            console::line(env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        // How the agent before this one ended, from PID 1.
        [word, how] if word == OsStr::new("--after") => Some(how.to_string_lossy().into_owned()),
        _ => None,
    };
    if !Path::new(places::RUN_DIR).is_dir() {
        console::line(
            "systemimager-agent runs in the miniature system, started by its PID 1; it does nothing elsewhere",
        );
        return ExitCode::from(2);
    }
    attend(after)
}

/// What a panic becomes: an error like any other, so that people hear of it and the install may go on.
fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(anyhow::anyhow!("the agent itself failed (a bug); please report what stands above")))
}

/// Runs the installation and leaves a word for PID 1, whatever happens.
fn attend(after: Option<String>) -> ExitCode {
    let mut agent = Agent::new(after);
    let result = guarded(|| agent.run());
    let (last, code) = match result {
        Ok(last) => (last, ExitCode::SUCCESS),
        Err(error) => {
            agent.failed(&error);
            agent.back.wait();
            (Final::Shell, ExitCode::FAILURE)
        }
    };
    if let Err(error) = std::fs::write(places::FINAL, last.word()) {
        console::line(format_args!("writing {}: {error}", places::FINAL));
        return ExitCode::FAILURE;
    }
    code
}

struct Agent {
    command_line: BTreeMap<String, String>,
    log: Log,
    reporter: Option<Reporter>,
    order: Option<Order>,
    stage: Stage,
    /// Break points of this order that were passed: it stops at each once.
    passed: RefCell<Vec<BreakPoint>>,
    /// The phase of the plan that is being carried out.
    phase: Option<Phase>,
    begun: Instant,
    /// What became of the agent before this one in the same boot.
    after: Option<String>,
    back: Back,
}

/// What stays the same through all attempts of a boot.
struct Ground {
    drivers: Drivers,
    media: Media,
    network: network::Network,
    server: Server,
    machine: Hardware,
    desk: Desk,
    reporter: Reporter,
    /// This machine's key, made for this boot, and the server's; none where this system knows none of the server's.
    keys: Option<SiteKeys>,
    /// What transports show who this machine is with.
    secrets: Secrets,
}

/// What an attempt installs with.
struct Means<'a> {
    registry: &'a Registry,
    host: &'a EngineHost,
    /// By which keys transports are asked; none where this system knows none of the server's.
    keys: Option<SiteKeys>,
}

/// What an attempt that failed leaves to the next one.
struct Left {
    plan: Plan,
    tree: String,
    /// Where the next one may begin, with the same plan.
    begin_at: Phase,
}

impl Agent {
    fn new(after: Option<String>) -> Self {
        let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let command_line = crate::command_line::parse(&command_line);
        let back = Back::new(command_line.get("si.back").map(String::as_str));
        let log = Log::start(command_line.get("si.log").map(String::as_str));
        Self {
            command_line,
            log,
            reporter: None,
            order: None,
            stage: Stage::Drivers,
            passed: RefCell::default(),
            phase: None,
            begun: Instant::now(),
            after: after.map(|how| remains::died(&how)),
            back,
        }
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.command_line.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn at(&mut self, stage: Stage, what: impl std::fmt::Display) {
        self.stage = stage;
        remains::at(&stage);
        console::stage(stage, what);
    }

    fn report(&self, event: Event) {
        if let Some(reporter) = &self.reporter {
            reporter.post(event);
        }
    }

    fn run(&mut self) -> Result<Final> {
        // Before anything else: a word that is none must not be found out about in the middle.
        self.own_breaks()?;
        self.back.begin();
        if self.after.is_some() {
            remains::clear();
        }
        let ground = self.ground()?;
        while let Answer::Disk(why) = self.ask_for_order(&ground)? {
            console::line(format_args!("nothing is installed: {why}"));
            if !self.back.never() {
                return Ok(self.to_own_disk(&ground));
            }
            console::line("the own disk starts this system at each start, so it asks again until there is an order");
            order::ask_for_shells();
            wait::pause(ORDER_AGAIN);
        }
        if let Some(words) = self.after.take() {
            console::line(&words);
            ground.reporter.state(State::Failed, words);
            self.flush(&ground.reporter);
            self.back.begin();
            self.wait_to_go_on(&ground)?;
        }
        let mut left = None;
        loop {
            let error = match guarded(|| self.attempt(&ground, &mut left)) {
                Ok(last) => return Ok(last),
                Err(error) => error,
            };
            self.failed(&error);
            self.back.begin();
            self.wait_to_go_on(&ground)?;
        }
    }

    /// What comes before any order: drivers, media, network, the server.
    fn ground(&mut self) -> Result<Ground> {
        let pins = Pins::read(Path::new(pins::PLACE))?;
        self.at(Stage::Drivers, "loading for every device");
        let drivers = Drivers::start()?;
        drivers.settle(QUIET, DRIVERS);
        console::line(format_args!("{} modules loaded", drivers.loaded().len()));

        network::refuse_stacked(&self.command_line)?;
        let media = self.media(&drivers)?;
        let nothing = LocalCfg::default();
        let local = media.local.as_ref().map_or(&nothing, |local| &local.cfg);
        let options = self.server_options(local)?;
        if let (Some(file), Some(_), None) = (&media.local, local.address, &options.host) {
            bail!(
                "local.cfg on {} gives an address, so no DHCP server is asked, and nothing names the image server; add \
                 IMAGESERVER=ADDRESS there, and start this machine again",
                file.place
            );
        }
        let begins = if local.address.is_some() { "trying the address of local.cfg" } else { "looking for an address" };
        self.at(Stage::Network, begins);
        let reachable = |lease: &Lease| options.of(lease, pins.as_ref())?.0.answers(TRY_SERVER);
        let network = loop {
            match network::set_up(self.option("BOOTIF"), local, &reachable) {
                Ok(network) => break network,
                // Nothing was touched yet, and a switch or a server may come back: a machine that gave up here would
                // stand there in the morning.
                Err(error) => {
                    console::line(format_args!("{error:#}"));
                    console::line("trying again; to start from its own disk, restart this machine without the network");
                    order::ask_for_shells();
                    wait::pause(NETWORK_AGAIN);
                }
            }
        };
        self.at(Stage::Network, show::lease(&network.lease));

        self.stage = Stage::Server;
        let (server, from) = options.of(&network.lease, pins.as_ref())?;
        self.at(Stage::Server, format_args!("{} ({from})", server.base()));
        let machine = hardware::collect(&network.lease)?;
        let mac = network.boot_mac.clone().unwrap_or_else(|| network.lease.mac.clone());
        let key = Key::make()?;
        let desk = Desk::new(&server, &mac, &machine, &key, self.after.is_some())?;
        let reporter = Reporter::start(server.clone(), &mac).context("starting the thread that sends reports")?;
        self.reporter = Some(reporter.clone());
        let (keys, secrets) = pins.map(|pins| SiteKeys::new(&key, pins)).transpose()?.unzip();
        let secrets = secrets.unwrap_or_default();
        Ok(Ground { drivers, media, network, server, machine, desk, reporter, keys, secrets })
    }

    fn ask_for_order(&mut self, ground: &Ground) -> Result<Answer> {
        self.at(Stage::Identity, "asking for an order");
        let host = self.plugin_host(ground);
        let plugins = boot_plugins();
        let mut said = String::new();
        let answer = ground.desk.ask(&ground.machine, &mut || match self.who(ground, &plugins, &host) {
            Ok((_, identity)) => Some(identity.name),
            Err(error) => {
                let error = format!("{error:#}");
                if error != said {
                    console::line(&error);
                    said = error;
                }
                None
            }
        })?;
        if let Answer::Install(order) = &answer {
            self.takes(ground, order.clone());
            let machine = hardware::show(&ground.machine);
            ground.reporter.state(State::Booted, format!("order {} is taken up by {machine}", order.id));
            ground.reporter.post(Event::Hardware { hardware: Box::new(ground.machine.clone()) });
        }
        Ok(answer)
    }

    fn takes(&mut self, ground: &Ground, order: Order) {
        self.back.stop();
        ground.reporter.may(&order.token);
        ground.reporter.is_host(&order.host);
        self.log.report_to(&ground.reporter);
        if self.order.as_ref().is_some_and(|before| before.id != order.id) {
            self.passed.borrow_mut().clear();
        }
        self.order = Some(order);
    }

    /// Who this machine is by the plugins of the initrd; where they do not tell, by its order.
    fn who(&self, ground: &Ground, plugins: &Registry, host: &EngineHost) -> Result<(HostFacts, Identity)> {
        let mut facts = self.facts(ground)?;
        let identity = match (identify::first_answer(plugins, host, &facts), &self.order) {
            (Err(_), Some(order)) => {
                facts.command_line.insert("si.host".into(), order.host.to_string());
                identify::first_answer(plugins, host, &facts)?
            }
            (answer, _) => answer?,
        };
        Ok((facts, identity))
    }

    /// From an order to an installed machine.
    fn attempt(&mut self, ground: &Ground, left: &mut Option<Left>) -> Result<Final> {
        let Ground { server, reporter, .. } = ground;
        self.phase = None;
        self.stage = Stage::Identity;
        let host = self.plugin_host(ground);
        let boot = boot_plugins();
        let (facts, first) = self.who(ground, &boot, &host)?;
        reporter.is_host(&first.name);
        self.at(Stage::Identity, format_args!("this is {} (by {})", first.name, first.found_in));

        self.stage = Stage::Master;
        let (first, master) = identify::master_of(&boot, &host, &facts, server, first)?;
        reporter.is_host(&first.name);
        reporter.is_image(master.image.as_str());
        reporter.state(State::Preparing, format!("{} gets the image {}", first.name, master.image));
        self.at(Stage::Master, format_args!("installs the image {}", master.image));
        let about: ImageFacts = server.json(&format!("/v1/images/{}/facts", master.image))?;

        self.stage = Stage::Tools;
        let (index, fetched) = tools::fetch(server, master.image.as_str())?;
        let registry = tools::open_plugins(&index.plugins)?;
        self.at(
            Stage::Tools,
            format_args!(
                "{} files ({} KiB fetched), {} plugins",
                fetched.entries,
                fetched.bytes.div_ceil(1024),
                registry.all().len()
            ),
        );

        let tried = tools::try_programs(&registry, &host, &master.image)?;
        console::line(format_args!("{tried} programs tried: they run here"));

        self.stage = Stage::Plan;
        let identity = identify::as_master_says(&registry, &host, &facts, &master, &first)?;
        // Anew each time: a person may have changed it.
        let keys = ground.keys.clone().map(|keys| keys.told_by(server)).transpose()?;
        let overrides = site::overrides(server, &master, &identity, &registry, &host, keys.as_ref())?;
        self.pre_install(server, &master, &identity)?;
        let mut machine = wait_for_disks(&ground.drivers, &ground.network.lease, &master)?;
        systemimager_engine::hardware::look_at(&mut machine.disks);
        reporter.post(Event::Hardware { hardware: Box::new(machine.clone()) });
        let input = PlanInput {
            master: &master,
            facts: &about,
            hardware: &machine,
            identity: &identity,
            registry: &registry,
            host: &host,
            overrides: &overrides,
        };
        let plan = plan::plan(&input)?;
        self.announce(&plan, reporter);
        let begin_at = left.take().filter(|left| left.suits(&plan, &about.tree)).map(|left| left.begin_at);
        if let Some(phase) = begin_at {
            console::line(format_args!("the plan is the same as before; going on at the phase {}", phase.name()));
        }

        reporter.state(State::Installing, format!("{} steps", plan.steps.len()));
        let means = Means { registry: &registry, host: &host, keys };
        if let Err(error) = self.install(ground, means, &plan, &about.tree, begin_at) {
            // What was done before this attempt still is.
            let reached = self.phase.unwrap_or(begin_at.unwrap_or(Phase::Partition));
            let begin_at = install::begin_after(&error, reached, begin_at);
            *left = Some(Left { plan, tree: about.tree, begin_at });
            return Err(error);
        }

        self.at(Stage::Finish, "every step is done and checked");
        self.stop_at(ground, BreakPoint::BeforeReboot)?;
        let last = final_action(master.final_action);
        let took = self.begun.elapsed().as_secs();
        reporter.state(State::Installed, format!("installed in {took} s; {}", last.word()));
        self.tell_the_end(reporter);
        // The line by which whoever watches the console (people, tests) knows the end.
        console::line(format_args!("installed {} as {} in {took} s; {}", master.image, identity.name, last.word()));
        Ok(last)
    }

    /// Waits until the server knows that the order is done: a machine that restarted before would be installed again.
    fn tell_the_end(&self, reporter: &Reporter) {
        let mut said = false;
        while reporter.flush(LAST_WORDS) > 0 {
            if !said {
                said = true;
                console::line(
                    "this machine is installed; it waits for the image server to take the last report and restarts then \
                     (type reboot to restart at once: its order then stays, and it is installed again)",
                );
                order::ask_for_shells();
            }
        }
    }

    fn breaks_at(&self, point: BreakPoint) -> bool {
        if self.passed.borrow().contains(&point) {
            return false;
        }
        let ordered = self.order.as_ref().is_some_and(|order| order.breaks.contains(&point));
        ordered || self.own_breaks().is_ok_and(|own| own.contains(&point))
    }

    /// Those of `si.break=` on the kernel command line, separated by commas.
    fn own_breaks(&self) -> Result<Vec<BreakPoint>> {
        let words = self.option("si.break").unwrap_or_default().split(',').filter(|word| !word.is_empty());
        words
            .map(|word| {
                word.parse().map_err(|error: String| anyhow::anyhow!("si.break on the kernel command line: {error}"))
            })
            .collect()
    }

    /// Stops at a break point until a person lets the install go on.
    fn stop_at(&self, ground: &Ground, point: BreakPoint) -> Result<()> {
        if !self.breaks_at(point) {
            return Ok(());
        }
        let Some(order) = &self.order else { return Ok(()) };
        self.passed.borrow_mut().push(point);
        console::line(format_args!("stopped at the break point {point}"));
        ground.reporter.state(State::Paused, format!("at the break point {point}"));
        ground.reporter.flush(LAST_WORDS);
        ground.desk.wait_to_go_on(&order.host)?;
        console::line("going on");
        ground.reporter.state(State::Installing, format!("went on after {point}"));
        Ok(())
    }

    fn wait_to_go_on(&mut self, ground: &Ground) -> Result<()> {
        let Some(order) = self.order.clone() else { bail!("there is no order to go on with") };
        if let Some(order) = ground.desk.wait_to_go_on(&order.host)? {
            self.takes(ground, order);
        }
        self.back.stop();
        console::line("going on");
        Ok(())
    }

    /// All by which this machine may be told; the server's part is asked for anew.
    fn facts(&self, ground: &Ground) -> Result<HostFacts> {
        let Ground { network, machine, server, .. } = ground;
        // Where no machine is declared there is no such file.
        let hosts_file = match server.text("/v1/hosts") {
            Ok(text) => text,
            Err(error) if error.is::<NotThere>() => String::new(),
            Err(error) => return Err(error),
        };
        Ok(HostFacts {
            leases: vec![network.lease.clone()],
            boot_mac: network.boot_mac.clone(),
            macs: machine.interfaces.iter().map(|it| it.mac.clone()).collect(),
            hosts_file,
            macs_file: identify::macs_file(server)?,
            dmi: machine.dmi.clone(),
            ..identify::local_facts(&self.command_line, ground.media.local.as_ref().map(|local| local.cfg.plain()))
        })
    }

    /// What plugins see: their log lines and progress go where ours go.
    fn plugin_host(&self, ground: &Ground) -> EngineHost {
        let log = self.log.clone();
        // When progress was last reported, and last printed.
        let last = Mutex::new((None::<Instant>, Instant::now()));
        let reporter = ground.reporter.clone();
        EngineHost::new(ground.secrets.clone())
            .with_log(Arc::new(move |level, line| {
                // Louder than debug only: a person reads along.
                if level <= systemimager_core::Level::Info {
                    log.say(level, line);
                }
            }))
            .with_progress(Arc::new(move |progress: &Progress| {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.0.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                    last.0 = Some(Instant::now());
                    reporter
                        .post(Event::Progress { phase: systemimager_core::Phase::Pull, progress: progress.clone() });
                }
                if last.1.elapsed() >= PROGRESS_EVERY {
                    last.1 = Instant::now();
                    console::line(show::progress(progress));
                }
            }))
    }

    fn announce(&mut self, plan: &Plan, reporter: &Reporter) {
        for warning in &plan.warnings {
            self.log.say(systemimager_core::Level::Warn, warning);
        }
        for disk in plan.destroyed() {
            console::line(format_args!("will be overwritten: {disk}"));
        }
        reporter.post(Event::Plan { steps: plan.steps.clone() });
        self.at(Stage::Plan, format_args!("{} steps; every check that needs no disk has passed", plan.steps.len()));
    }

    fn install(
        &mut self,
        ground: &Ground,
        means: Means<'_>,
        plan: &Plan,
        tree: &str,
        begin_at: Option<Phase>,
    ) -> Result<()> {
        let Means { registry, host, keys } = means;
        let server = &ground.server;
        self.stage = Stage::Install;
        // A plan for one tree must not be carried out with another: kernel and boot loader may differ.
        let same_image = || -> Result<()> {
            let now = server.text(&format!("/v1/images/{}/tree", plan.image))?;
            if !tree.is_empty() && now.trim() != tree {
                bail!(
                    "the image {} was captured anew while this machine was being installed with it; start it once more",
                    plan.image
                );
            }
            Ok(())
        };
        let reached = Cell::new(None);
        let result = {
            let pause = |phase: Phase| {
                reached.set(Some(phase));
                self.stop_at(ground, BreakPoint::Before(phase))
            };
            let site = Site {
                registry,
                host,
                server: server_host(server),
                keys,
                target: PathBuf::from(places::TARGET),
                journal: Some(PathBuf::from(places::DESTROYED)),
                same_image: Some(&same_image),
                begin_at,
                pause: Some(&pause),
            };
            std::fs::create_dir_all(places::TARGET).with_context(|| format!("making {}", places::TARGET))?;
            install::execute(plan, &site, &mut |event| {
                show::event(plan, &event);
                self.report(event);
            })
        };
        self.phase = reached.get();
        result
    }

    /// Says what failed, on the console and to the server.
    fn failed(&self, error: &anyhow::Error) {
        console::line(format_args!("install failed at {}:", self.stage));
        console::line(format_args!("{error:#}"));
        if let (Some(reporter), Some(_)) = (&self.reporter, &self.order) {
            reporter.state(State::Failed, format!("{}: {error:#}", self.stage));
            self.flush(reporter);
        }
    }

    /// Gives reports a little time to arrive; they are sent on in any case.
    fn flush(&self, reporter: &Reporter) {
        let unsent = reporter.flush(LAST_WORDS);
        if unsent > 0 {
            console::line(format_args!(
                "{unsent} reports did not reach the image server yet; they are sent as soon as it answers"
            ));
        }
    }
}

impl Left {
    /// Whether what was done by this plan is what the new one would do: the same steps, for the same tree, on the same disks.
    fn suits(&self, plan: &Plan, tree: &str) -> bool {
        let disks = |plan: &Plan| -> Vec<_> {
            let one = |(node, disk): (&NodeName, &BlockDevice)| {
                (node.clone(), disk.path.clone(), disk.serial.clone(), disk.wwn.clone(), disk.size, disk.sysfs.clone())
            };
            plan.disks.iter().map(one).collect()
        };
        self.tree == tree
            && self.plan.steps == plan.steps
            && self.plan.layout == plan.layout
            && disks(&self.plan) == disks(plan)
    }
}

/// The plugins that came with the initrd. One that is refused is said, and missed where it is needed.
fn boot_plugins() -> Registry {
    let mut registry = Registry::default();
    for (path, result) in loader::load_dir(&mut registry, Path::new(PLUGIN_DIR)) {
        if let Err(error) = result {
            console::line(format_args!("warning: {}: not loaded: {error}", path.display()));
        }
    }
    registry
}

/// Looks again with every device that comes until the layout's disks can be chosen and no more devices come;
/// after the deadline with what there is: the plan says best what is missing.
fn wait_for_disks(drivers: &Drivers, lease: &Lease, master: &Master) -> Result<Hardware> {
    let deadline = Instant::now() + DISKS;
    let mut said = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A disk that comes a moment later may be the one that a rule means.
        drivers.settle(QUIET, left);
        let seen = drivers.seen();
        let machine = hardware::collect(lease)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || plan::enough(&master.layout, &machine.disks) {
            return Ok(machine);
        }
        if !said {
            said = true;
            console::line(format_args!(
                "the {} disks of the layout cannot be chosen yet among the {} that are there; waiting up to {} s",
                master.layout.disks.len(),
                machine.disks.len(),
                left.as_secs()
            ));
        }
        drivers.wait_for_more(seen, left);
    }
}

/// The server's address for transports.
fn server_host(server: &Server) -> String {
    let base = server.base().trim_start_matches("http://");
    base.rsplit_once(':').map_or(base, |(host, _)| host).trim_matches(['[', ']']).to_owned()
}

fn final_action(action: FinalAction) -> Final {
    match action {
        FinalAction::Reboot => Final::Reboot,
        FinalAction::Poweroff => Final::Poweroff,
        FinalAction::Shell => Final::Shell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_get_the_address_alone() {
        for (host, expected) in
            [("10.0.0.1", "10.0.0.1"), ("fd77::1", "fd77::1"), ("server.example.org", "server.example.org")]
        {
            assert_eq!(server_host(&Server::new(host, 8069)), expected);
        }
    }

    #[test]
    fn progress_for_people() {
        let progress = |bytes, total_bytes| Progress { bytes, total_bytes, files: 3, ..Progress::default() };
        for (progress, expected) in [
            (progress(10 << 20, Some(40 << 20)), "pulled 10 of 40 MiB (25 %), 3 files"),
            (progress(10 << 20, None), "pulled 10 MiB, 3 files"),
            (progress(u64::MAX, Some(0)), "pulled 17592186044415 MiB, 3 files"),
        ] {
            assert_eq!(show::progress(&progress), expected);
        }
    }
}
