//! The install agent: from a bare machine to an installed one, in nine stages that a person can follow.
//!
//! Everything is fetched and checked first; only then [`systemimager_engine::install`] touches a disk.
//! The agent ends with a word for PID 1 ([`crate::places::FINAL`]): it restarts nothing by itself.

mod console;
mod dhcp;
mod drivers;
mod hardware;
mod http;
mod identify;
mod log;
mod network;
mod reports;
mod tools;
mod wait;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use systemimager_core::{Hardware, HostFacts, ImageFacts, Lease, Progress, Registry, loader};
use systemimager_engine::host::{EngineHost, Secrets};
use systemimager_engine::install::{self, Site};
use systemimager_engine::plan::{self, Plan, PlanInput};
use systemimager_engine::report::{Event, State};
use systemimager_engine::store::master::{FinalAction, Master};

use crate::pack::PLUGIN_DIR;
use crate::places::{self, Final};
use console::Stage;
use drivers::Drivers;
use http::Server;
use log::Log;
use reports::Reporter;

/// How long no device may have appeared before one goes on.
const QUIET: Duration = Duration::from_millis(400);
/// How long the first drivers may take.
const DRIVERS: Duration = Duration::from_secs(30);
/// How long disks that the layout wants may take to appear: a USB disk or a large controller.
const DISKS: Duration = Duration::from_secs(30);
/// How long the last reports may take.
const LAST_WORDS: Duration = Duration::from_secs(20);
/// How often progress is printed.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How often progress is reported to the server.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the image server may take to answer through a network that is being tried.
const TRY_SERVER: Duration = Duration::from_secs(5);
/// The port of `systemimager serve` where the kernel command line names none.
const DEFAULT_PORT: u16 = 8069;

/// The program.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().as_deref() == Some(OsStr::new("--version")) {
        console::line(env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if !Path::new(places::RUN_DIR).is_dir() {
        console::line(
            "systemimager-agent runs in the miniature system, started by its PID 1; it does nothing elsewhere",
        );
        return ExitCode::from(2);
    }
    attend()
}

/// Runs the installation and leaves a word for PID 1, whatever happens.
fn attend() -> ExitCode {
    let mut agent = Agent::new();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| agent.run()))
        .unwrap_or_else(|_| Err(anyhow::anyhow!("the agent itself failed (a bug); please report what stands above")));
    let (last, code) = match result {
        Ok(last) => (last, ExitCode::SUCCESS),
        Err(error) => {
            agent.failed(&error);
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
    stage: Stage,
    begun: Instant,
}

impl Agent {
    fn new() -> Self {
        let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let command_line = crate::command_line::parse(&command_line);
        let log = Log::start(command_line.get("si.log").map(String::as_str));
        Self { command_line, log, reporter: None, stage: Stage::Drivers, begun: Instant::now() }
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.command_line.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn at(&mut self, stage: Stage, what: impl std::fmt::Display) {
        self.stage = stage;
        console::stage(stage, what);
    }

    fn report(&self, event: Event) {
        if let Some(reporter) = &self.reporter {
            reporter.post(event);
        }
    }

    fn run(&mut self) -> Result<Final> {
        self.at(Stage::Drivers, "loading for every device");
        let drivers = Drivers::start()?;
        drivers.settle(QUIET, DRIVERS);
        console::line(format_args!("{} modules loaded", drivers.loaded().len()));

        self.at(Stage::Network, "looking for an address");
        network::refuse_stacked(&self.command_line)?;
        let options = self.server_options()?;
        let network =
            network::set_up(self.option("BOOTIF"), &|lease| server_of(&options, lease)?.0.answers(TRY_SERVER))?;
        self.at(Stage::Network, show_lease(&network.lease));

        let server = self.find_server(&network)?;
        let hosts = server.text("/v1/hosts")?;
        let machine = hardware::collect(&network.lease)?;
        let facts = HostFacts { macs_file: identify::macs_file(&server)?, ..self.facts(&network, &machine, hosts) };
        let mac = network.boot_mac.clone().unwrap_or_else(|| network.lease.mac.clone());
        let reporter = Reporter::start(server.clone(), &mac).context("starting the thread that sends reports")?;
        self.log.report_to(&reporter);
        self.reporter = Some(reporter.clone());
        reporter.state(State::Booted, format!("the agent runs on {}", show_machine(&machine)));
        reporter.post(Event::Hardware { hardware: Box::new(machine.clone()) });
        self.at(Stage::Server, format_args!("{} answers", server.base()));

        self.stage = Stage::Identity;
        let host = self.plugin_host(&reporter);
        let boot = boot_plugins();
        let first = identify::first_answer(&boot, &host, &facts)?;
        reporter.is_host(&first.name);
        self.at(Stage::Identity, format_args!("this is {} (by {})", first.name, first.found_in));

        self.stage = Stage::Master;
        let (first, master) = identify::master_of(&boot, &host, &facts, &server, first)?;
        reporter.is_host(&first.name);
        reporter.is_image(master.image.as_str());
        reporter.state(State::Preparing, format!("{} gets the image {}", first.name, master.image));
        self.at(Stage::Master, format_args!("installs the image {}", master.image));
        let about: ImageFacts = server.json(&format!("/v1/images/{}/facts", master.image))?;

        self.stage = Stage::Tools;
        let (index, fetched) = tools::fetch(&server, master.image.as_str())?;
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
        let machine = wait_for_disks(&drivers, &network.lease, &master)?;
        reporter.post(Event::Hardware { hardware: Box::new(machine.clone()) });
        let input = PlanInput {
            master: &master,
            facts: &about,
            hardware: &machine,
            identity: &identity,
            registry: &registry,
            host: &host,
        };
        let plan = plan::plan(&input)?;
        self.announce(&plan, &reporter);

        reporter.state(State::Installing, format!("{} steps", plan.steps.len()));
        self.install(&plan, &registry, &host, &server, &about.tree)?;

        let last = final_action(master.final_action);
        let took = self.begun.elapsed().as_secs();
        self.at(Stage::Finish, "every step is done and checked");
        reporter.state(State::Installed, format!("installed in {took} s; {}", last.word()));
        let unsent = reporter.flush(LAST_WORDS);
        if unsent > 0 {
            console::line(format_args!("{unsent} reports did not reach the image server"));
        }
        // The line by which whoever watches the console (people, tests) knows the end.
        console::line(format_args!("installed {} as {} in {took} s; {}", master.image, identity.name, last.word()));
        Ok(last)
    }

    /// Name or address (`si.server`), where one is given, and port of the image server.
    fn server_options(&self) -> Result<(Option<String>, u16)> {
        let port = match self.option("si.port") {
            None => DEFAULT_PORT,
            Some(text) => text.parse().ok().filter(|port| *port != 0).with_context(|| {
                format!("si.port={text} on the kernel command line is not a port; give a number from 1 to 65535")
            })?,
        };
        let host = self.option("si.server");
        let plain = |letter: char| letter.is_ascii_alphanumeric() || ".:-_".contains(letter);
        if let Some(host) = host.filter(|host| !host.chars().all(plain)) {
            bail!("si.server={host} on the kernel command line is not a name or an address");
        }
        Ok((host.map(str::to_owned), port))
    }

    fn find_server(&mut self, network: &network::Network) -> Result<Server> {
        self.stage = Stage::Server;
        let (server, from) = server_of(&self.server_options()?, &network.lease)?;
        self.at(Stage::Server, format_args!("{} ({from})", server.base()));
        Ok(server)
    }

    fn facts(&self, network: &network::Network, machine: &Hardware, hosts_file: String) -> HostFacts {
        HostFacts {
            leases: vec![network.lease.clone()],
            boot_mac: network.boot_mac.clone(),
            macs: machine.interfaces.iter().map(|it| it.mac.clone()).collect(),
            hosts_file,
            dmi: machine.dmi.clone(),
            ..identify::local_facts(&self.command_line)
        }
    }

    /// What plugins see: their log lines and progress go where ours go.
    fn plugin_host(&self, reporter: &Reporter) -> EngineHost {
        let log = self.log.clone();
        // When progress was last reported, and last printed.
        let last = Mutex::new((None::<Instant>, Instant::now()));
        let reporter = reporter.clone();
        EngineHost::new(Secrets::default())
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
                    console::line(show_progress(progress));
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
        plan: &Plan,
        registry: &Registry,
        host: &EngineHost,
        server: &Server,
        tree: &str,
    ) -> Result<()> {
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
        let site = Site {
            registry,
            host,
            server: server_host(server),
            target: PathBuf::from(places::TARGET),
            journal: Some(PathBuf::from(places::DESTROYED)),
            same_image: Some(&same_image),
        };
        std::fs::create_dir_all(places::TARGET).with_context(|| format!("making {}", places::TARGET))?;
        install::execute(plan, &site, &mut |event| {
            match &event {
                Event::StepBegins { index } => {
                    if let Some(step) = plan.steps.get(*index) {
                        console::stage(
                            Stage::Install,
                            format_args!(
                                "step {} of {}: {}: {}",
                                index + 1,
                                plan.steps.len(),
                                step.phase.name(),
                                step.what
                            ),
                        );
                    }
                }
                Event::Log { line, .. } => console::line(line),
                _ => {}
            }
            self.report(event);
        })
    }

    /// Says what failed, on the console and to the server.
    fn failed(&self, error: &anyhow::Error) {
        console::line(format_args!("install failed at {}:", self.stage));
        console::line(format_args!("{error:#}"));
        if let Some(reporter) = &self.reporter {
            reporter.state(State::Failed, format!("{}: {error:#}", self.stage));
            let unsent = reporter.flush(LAST_WORDS);
            if unsent > 0 {
                console::line(format_args!("{unsent} reports did not reach the image server"));
            }
        }
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

/// The image server as the kernel command line names it, else as this lease does; and which of them it was.
fn server_of(options: &(Option<String>, u16), lease: &Lease) -> Result<(Server, &'static str)> {
    let (named, port) = options;
    match (named, lease.server) {
        (Some(host), _) => Ok((Server::new(host, *port), "si.server on the kernel command line")),
        (None, Some(address)) => Ok((Server::new(&address.to_string(), *port), "the DHCP server")),
        (None, None) => bail!("nothing names the image server; give si.server=ADDRESS on the kernel command line"),
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

fn show_lease(lease: &Lease) -> String {
    let show = |address: Option<std::net::IpAddr>| address.map_or("none".to_owned(), |it| it.to_string());
    format!(
        "{} has {}/{} (DHCP server {})",
        lease.interface,
        show(lease.address),
        lease.prefix.map_or("?".to_owned(), |it| it.to_string()),
        show(lease.server)
    )
}

fn show_machine(machine: &Hardware) -> String {
    let fact = |name: &str| machine.dmi.get(name).map(String::as_str).unwrap_or_default();
    let model = format!("{} {}", fact("sys_vendor"), fact("product_name"));
    format!(
        "{} ({}, {} MiB, {} disks, {} network interfaces)",
        if model.trim().is_empty() { "an unnamed machine" } else { model.trim() },
        machine.firmware,
        machine.memory.0 >> 20,
        machine.disks.len(),
        machine.interfaces.len()
    )
}

fn show_progress(progress: &Progress) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let bytes = match progress.total_bytes {
        Some(total) if total > 0 => {
            format!("{} of {} MiB ({} %)", mib(progress.bytes), mib(total), progress.bytes.saturating_mul(100) / total)
        }
        _ => format!("{} MiB", mib(progress.bytes)),
    };
    match progress.total_files {
        Some(files) => format!("pulled {bytes}, {} of {files} files", progress.files),
        None => format!("pulled {bytes}, {} files", progress.files),
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
            assert_eq!(show_progress(&progress), expected);
        }
    }
}
