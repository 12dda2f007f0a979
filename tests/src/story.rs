//! The whole way once: a master client is captured, bare machines are installed over the network with
//! its image, and come up from their own disks.
//!
//! The demo tells this story to a person, the end-to-end tests look at each of its stages. It drives the
//! programs as an administrator would, by their command lines.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::disk;
use crate::lab::machine::{Boot, Bus, Machine, Model, Running};
use crate::lab::master::{
    Distribution, Marker, Master, Table, boot_master, cache_directory, cached, disk_image, ssh_key,
};
use crate::lab::netns::{Host, Network};
use crate::lab::run;
use crate::lab::ssh::Ssh;
use crate::lab::wait::wait_until;

/// Name of the image.
pub const IMAGE: &str = "demo";
/// The image server's address, and that of its network.
const SERVER: &str = "10.77.0.1/24 fd77::1/64";
/// Size of a bare machine's disk: larger than the master client's.
const DISK: u64 = 3 << 30;
/// How long an emulated machine may take to install itself.
const INSTALL: Duration = Duration::from_secs(600);
/// How long it may take to come up from its disk.
const COME_UP: Duration = Duration::from_secs(600);

/// Where the built programs lie, as `cargo xtask install` lays them out.
pub fn stage() -> Result<PathBuf> {
    if let Some(stage) = std::env::var_os("SYSTEMIMAGER_STAGE") {
        return Ok(stage.into());
    }
    let exe = std::env::current_exe().context("finding the running program")?;
    exe.ancestors()
        .map(|dir| dir.join("stage"))
        .find(|dir| dir.join("bin/systemimager").is_file())
        .context("nothing is staged; run `cargo xtask test`, or `cargo xtask install --prefix target/stage`")
}

/// A hash of all that decides what a capture yields: the staged programs and the master client's disk.
fn staged_hash(stage: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(disk_image(Distribution::Debian, Table::Mbr)?.as_os_str().as_encoded_bytes());
    for entry in walkdir::WalkDir::new(stage).sort_by_file_name() {
        let entry = entry.context("reading the stage")?;
        hasher.update(entry.path().as_os_str().as_encoded_bytes());
        if entry.file_type().is_file() {
            hasher.update_reader(File::open(entry.path())?).with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(hasher.finalize().to_hex()[..12].to_owned())
}

/// Each build of the programs leaves a capture and an installed disk in the cache: those of yesterday go.
fn forget_old_captures() -> Result<()> {
    let old = SystemTime::now() - Duration::from_secs(24 * 3600);
    for entry in std::fs::read_dir(cache_directory()?).context("reading the cache")? {
        let entry = entry.context("reading the cache")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let metadata = entry.metadata();
        if !metadata.as_ref().is_ok_and(|it| it.modified().is_ok_and(|made| made < old)) {
            continue;
        }
        let gone = match name.split('-').next() {
            Some("captured" | "installed") if entry.path().is_dir() => std::fs::remove_dir_all(entry.path()),
            Some("captured" | "installed") => std::fs::remove_file(entry.path()),
            _ => continue,
        };
        gone.with_context(|| entry.path().display().to_string())?;
    }
    Ok(())
}

/// The server's keys, and those of machines that it installed.
fn copy_keys(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for name in ["keys", "machine-keys"] {
        // Made anew, not added to: a machine of an earlier server knows no other.
        let to = to.join(name);
        if to.exists() {
            std::fs::remove_dir_all(&to).with_context(|| to.display().to_string())?;
        }
        let words = ["cp", "--archive", "--no-target-directory"];
        run::run(run::command(&words)?.arg(from.join(name)).arg(to))?;
    }
    Ok(())
}

/// The kernel of an image once more, under the name of another release: what is booted is told by a boot loader's menu,
/// not by the kernel.
pub fn add_kernel(image: &Path, release: &str) -> Result<()> {
    let boot = image.join("boot");
    let entries = std::fs::read_dir(&boot).with_context(|| boot.display().to_string())?;
    let first =
        entries.flatten().find_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()));
    let first = first.with_context(|| format!("no kernel in {}", boot.display()))?;
    for prefix in ["vmlinuz", "initrd.img", "config", "System.map"] {
        let from = boot.join(format!("{prefix}-{first}"));
        if from.exists() {
            std::fs::copy(&from, boot.join(format!("{prefix}-{release}"))).context("copying a kernel")?;
        }
    }
    let modules = image.join("usr/lib/modules");
    let words = ["cp", "--archive", "--reflink=auto", "--no-target-directory"];
    run::run(run::command(&words)?.arg(modules.join(&first)).arg(modules.join(release))).map(drop)
}

/// What is told as the story goes on.
pub type Teller<'a> = &'a mut dyn FnMut(&str);

/// The server and what belongs to it.
pub struct Story {
    /// Everything the story makes lies below.
    pub directory: PathBuf,
    /// The network.
    pub network: Network,
    /// The image server's host.
    pub server: Host,
    stage: PathBuf,
    serve: Option<Child>,
}

/// A machine that was bare.
pub struct Client {
    /// Its name.
    pub name: String,
    /// Its address, with prefix.
    pub address: String,
    /// Its disk, a raw image.
    pub disk: PathBuf,
    mac: String,
    bus: Bus,
    model: Model,
}

impl Client {
    /// The n-th (from 1) of a story; every second one has other hardware.
    fn new(number: usize, directory: &Path) -> Result<Self> {
        let name = format!("node{number}");
        let disk = directory.join(format!("{name}.raw"));
        disk::make_raw(&disk, DISK)?;
        let (bus, model) = if number % 2 == 1 { (Bus::Ahci, Model::E1000) } else { (Bus::Nvme, Model::E1000e) };
        Ok(Self {
            address: format!("10.77.0.{}/24", 10 + number),
            mac: format!("52:54:00:77:01:{number:02x}"),
            name,
            disk,
            bus,
            model,
        })
    }

    /// Its MAC address.
    pub fn mac(&self) -> &str {
        &self.mac
    }

    /// The kernel's name of its disk.
    pub fn kernel_name(&self) -> &'static str {
        if self.bus == Bus::Nvme { "nvme0n1" } else { "sda" }
    }
}

impl Story {
    /// A network with an image server that has nothing yet.
    pub fn begin(directory: &Path) -> Result<Self> {
        let network = Network::new()?;
        let server = network.host("server", SERVER)?;
        // The server's own hosts file must not be the computer's.
        Ok(Self { directory: directory.to_path_buf(), network, server, stage: stage()?, serve: None })
    }

    /// The same with the image in place already: captured once from the lab's master client by the staged
    /// programs, and kept in the lab's cache. The image is a copy of the story's own, to be changed at will.
    pub fn with_image(directory: &Path) -> Result<Self> {
        let story = Self::begin(directory)?;
        let captured = cached(&format!("captured-{}", staged_hash(&story.stage)?), |new| {
            forget_old_captures()?;
            let place = new.parent().context("the cache has no directory")?;
            let story = Self::begin(place)?;
            let mut master = story.boot_master()?;
            story.capture(&master)?;
            master.power_off()?;
            std::fs::rename(story.root(), new).context("keeping what was captured")
        })?;
        let words = ["cp", "--archive", "--reflink=auto", "--no-target-directory"];
        run::run(run::command(&words)?.arg(&captured).arg(story.root()))?;
        Ok(story)
    }

    /// The same with a machine that was installed with the image, its disk not an ordinary one (NVMe: the image's
    /// initramfs had to be made anew for it); installed once by the staged programs, and kept in the lab's cache. The
    /// machine is switched off, nothing is served, and there is no order.
    pub fn with_installed(directory: &Path) -> Result<(Self, Client)> {
        let story = Self::with_image(directory)?;
        let hash = staged_hash(&story.stage)?;
        let installed = cached(&format!("installed-{hash}"), |new| {
            let place = new.parent().context("the cache has no directory")?;
            let mut story = Self::with_image(place)?;
            let mut clients = story.clients(2)?;
            let client = clients.pop().context("two machines")?;
            story.serve()?;
            let mut machine = story.boot_bare(&client)?;
            story.wait_installed(&client, &mut machine)?;
            drop(machine);
            story.stop_serving()?;
            // With what the server and the machine know each other by.
            std::fs::create_dir(new).context("making a place for what was installed")?;
            std::fs::rename(&client.disk, new.join("disk.raw")).context("keeping what was installed")?;
            copy_keys(&story.state(), new)
        })?;
        copy_keys(&installed, &story.state())?;
        let mut clients = story.clients(2)?;
        let client = clients.pop().context("two machines")?;
        for number in 1..=2 {
            story.run(&["cancel", &format!("node{number}")])?;
        }
        std::fs::remove_file(&client.disk).context("removing an empty disk")?;
        disk::copy_raw(&installed.join("disk.raw"), &client.disk)?;
        Ok((story, client))
    }

    /// `--root` of the server.
    pub fn root(&self) -> PathBuf {
        self.directory.join("server")
    }

    /// What the server keeps.
    fn state(&self) -> PathBuf {
        self.root().join("var/lib/systemimager")
    }

    /// The image's tree.
    pub fn image(&self) -> PathBuf {
        self.image_of(IMAGE)
    }

    /// The tree of another image.
    pub fn image_of(&self, name: &str) -> PathBuf {
        self.root().join("var/spool/systemimager/images").join(name)
    }

    /// Puts the client program onto a machine, by the name that says what it is to do.
    pub fn put_client(&self, ssh: &Ssh, name: &str) -> Result<()> {
        let program = self.stage.join("lib/systemimager/client/systemimager-client");
        ssh.copy_in(&program, &format!("/usr/local/sbin/{name}"))
    }

    /// A `systemimager` command on the image server.
    pub fn command(&self, words: &[&str]) -> Command {
        self.command_by(&[], words)
    }

    /// The same, started by a program that these words begin.
    fn command_by(&self, by: &[String], words: &[&str]) -> Command {
        let mut argv: Vec<std::ffi::OsString> = by.iter().map(Into::into).collect();
        argv.extend([self.stage.join("bin/systemimager").into(), "--root".into(), self.root().into_os_string()]);
        argv.extend(words.iter().map(std::ffi::OsString::from));
        self.server.command(&argv)
    }

    /// Runs one to its end; its standard output.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        run::run(&mut self.command(words))
    }

    /// Boots the master client.
    pub fn boot_master(&self) -> Result<Master> {
        self.boot_master_of(Distribution::Debian)
    }

    /// Boots one of that distribution.
    pub fn boot_master_of(&self, distribution: Distribution) -> Result<Master> {
        boot_master(&self.network, &self.server, &self.directory, distribution, Table::Mbr)
    }

    /// prepareclient on the master client, getimage on the server.
    pub fn capture(&self, master: &Master) -> Result<()> {
        self.capture_by(master, &[])
    }

    /// The same with more words for both, such as which transport.
    pub fn capture_by(&self, master: &Master, more: &[&str]) -> Result<()> {
        self.put_client(&master.ssh, "prepareclient")?;
        let secret = self.directory.join("secret");
        std::fs::write(&secret, "secret-of-the-lab-0123456789\n").context("writing the secret")?;
        run::run_argv(&["chmod", "600", &secret.to_string_lossy()])?;
        master.ssh.copy_in(&secret, "/run/secret")?;
        let prepare =
            ["/usr/local/sbin/prepareclient", "--server", &self.server.address, "--secret-file", "/run/secret"];
        let told = master.ssh.run(&[prepare.as_slice(), more].concat())?;
        ensure!(told.contains("getimage"), "prepareclient does not say how to go on: {told}");
        let get =
            ["getimage", "--master-client", crate::lab::master::ADDRESS, "--image", IMAGE, "--yes", "--secret-file"];
        self.run(&[get.as_slice(), &[&secret.to_string_lossy()], more].concat()).map(drop)
    }

    /// Bare machines, declared to the server with names, addresses and MACs.
    pub fn clients(&self, count: usize) -> Result<Vec<Client>> {
        let clients = (1..=count).map(|number| Client::new(number, &self.directory)).collect::<Result<Vec<_>>>()?;
        let macs: String = clients.iter().map(|client| format!("{},{}\n", client.name, client.mac)).collect();
        let file = self.directory.join("macs.csv");
        std::fs::write(&file, macs).context("writing the list of MACs")?;
        let range = format!("1-{count}");
        let first = clients.first().map(|client| client.address.clone()).unwrap_or_default();
        self.run(&[
            "addclients",
            "--base",
            "node",
            "--range",
            &range,
            "--image",
            IMAGE,
            "--ip",
            &first,
            "--macs",
            &file.to_string_lossy(),
        ])?;
        Ok(clients)
    }

    /// Makes what bare machines boot, and starts to serve.
    pub fn serve(&mut self) -> Result<()> {
        self.run(&["mkinitrd", "--image", IMAGE])?;
        let settings = self.root().join("etc/systemimager/systemimager.toml");
        if !settings.exists() {
            std::fs::create_dir_all(settings.parent().context("no directory")?)
                .context("making the settings' place")?;
            std::fs::write(&settings, "[boot]\nappend = \"no_timer_check\"\n").context("writing the settings")?;
        }
        self.serve_again()
    }

    /// Starts to serve what is there.
    pub fn serve_again(&mut self) -> Result<()> {
        self.serve_by(&[])
    }

    /// The same, started by a program that these words begin.
    pub fn serve_by(&mut self, by: &[String]) -> Result<()> {
        let log = File::create(self.directory.join("serve.log")).context("making serve.log")?;
        let mut command = self.command_by(by, &["-v", "serve"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.serve = Some(command.spawn().context("starting serve")?);
        wait_until(Duration::from_secs(60), "serve to answer", || {
            if let Some(child) = &mut self.serve
                && let Some(status) = child.try_wait()?
            {
                bail!("serve ended ({status}):\n{}", self.serve_log());
            }
            Ok(self.run(&["--json", "status"]).ok().filter(|_| self.serve_log().contains("ready: ")))
        })
        .map(drop)
    }

    /// The process that serves.
    pub fn serve_pid(&self) -> Option<u32> {
        self.serve.as_ref().map(Child::id)
    }

    /// What serve has said.
    pub fn serve_log(&self) -> String {
        std::fs::read_to_string(self.directory.join("serve.log")).unwrap_or_default()
    }

    /// Boots a bare machine over the network.
    pub fn boot_bare(&self, client: &Client) -> Result<Running> {
        self.machine(client)?.boot(Boot::Network).exit_on_restart().spawn()
    }

    /// Waits until it has installed itself and goes down to restart.
    pub fn wait_installed(&self, client: &Client, machine: &mut Running) -> Result<()> {
        let line = machine
            .wait_serial("systemimager: install", INSTALL)
            .with_context(|| format!("{}; serve said:\n{}", client.name, run::tail(&self.serve_log(), 30)))?;
        ensure!(line.contains("installed"), "{}: {line}\n{}", client.name, run::tail(&machine.serial(), 40));
        machine.wait_exit(Duration::from_secs(60))
    }

    /// Boots an installed machine from its disk, and waits until it says who it is.
    pub fn boot_installed(&self, client: &Client) -> Result<(Running, Marker)> {
        let mut machine = self.machine(client)?.boot(Boot::Disk).spawn()?;
        let marker = self.wait_up(client, &mut machine)?;
        Ok((machine, marker))
    }

    /// Switches a machine on that asks the network first at every start, and goes on through restarts.
    pub fn boot_by_network(&self, client: &Client) -> Result<Running> {
        self.machine(client)?.boot(Boot::Network).spawn()
    }

    /// Waits until an installed machine says who it is, after whatever it said before.
    pub fn wait_up(&self, client: &Client, machine: &mut Running) -> Result<Marker> {
        Marker::wait(machine, &client.name, COME_UP)
    }

    /// A way to be root on an installed machine.
    pub fn ssh(&self, client: &Client) -> Result<Ssh> {
        let address = client.address.split('/').next().unwrap_or_default();
        let ssh = Ssh::new(&self.server, address, &ssh_key()?);
        ssh.wait(Duration::from_secs(60))?;
        Ok(ssh)
    }

    /// The machine of a client, to be switched on, or to be given more first.
    pub fn machine(&self, client: &Client) -> Result<Machine> {
        Ok(self.diskless(client)?.disk(&client.disk, client.bus).slot(11))
    }

    /// The same without its disk, for those that have others.
    pub fn diskless(&self, client: &Client) -> Result<Machine> {
        let tap = self.network.tap()?;
        Ok(Machine::new(&client.name, &self.directory).memory(1024).nic(&tap, &client.mac, client.model).slot(21))
    }

    /// Ends serve.
    pub fn stop_serving(&mut self) -> Result<()> {
        let Some(mut child) = self.serve.take() else { return Ok(()) };
        run::run_argv(&["kill", "-TERM", &child.id().to_string()])?;
        let status = child.wait().context("waiting for serve")?;
        ensure!(status.success(), "serve ended with {status}:\n{}", self.serve_log());
        Ok(())
    }
}

impl Story {
    /// Has the image brought by this transport, and what that left by the one that reconciles.
    pub fn bring_by(&self, transport: &str) -> Result<()> {
        let master = self.root().join(format!("tftpboot/systemimager/{IMAGE}.master"));
        let text = std::fs::read_to_string(&master).context("reading the master file")?;
        let by = format!("transports = [{transport:?}, {LAST:?}]");
        ensure!(text.contains("transports = [\"rsync\"]"), "the master file has other transports:\n{text}");
        std::fs::write(&master, text.replace("transports = [\"rsync\"]", &by)).context("writing the master file")
    }

    /// Looks at `status` now and then, and says what it says of receivers.
    fn look(&self, ended: &AtomicBool, say: &Sender<Said>) {
        let mut last = String::new();
        while !ended.load(Ordering::Relaxed) {
            let status = self.run(&["status"]).unwrap_or_default();
            let lines: Vec<&str> = status.lines().skip_while(|line| !line.contains(" on eth0, ")).collect();
            let now = lines.join("\n");
            if now != last && !now.is_empty() {
                lines.iter().for_each(|line| drop(say.send(Said::Line(format!("          status: {line}")))));
                last = now;
            }
            std::thread::sleep(Duration::from_secs(5));
        }
    }

    /// Kills serve as a crash does: what it had started is left to itself.
    pub fn kill_serving(&mut self) -> Result<()> {
        let Some(mut child) = self.serve.take() else { bail!("nothing is served") };
        child.kill().context("killing serve")?;
        child.wait().context("waiting for serve").map(drop)
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(mut child) = self.serve.take() {
            // A test that failed half-way: what it started ends with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What is to be told.
enum Said {
    /// Something has come to pass.
    Phase(String),
    /// How it stands.
    Line(String),
}

/// How much later than the others the third machine, and those after it, are switched on: some always are.
const LATE: Duration = Duration::from_secs(20);
/// What brings an image after another transport brought the most of it.
const LAST: &str = "ssh";

/// Tells the whole story; the machines are installed by this transport, if one is named.
///
/// # Errors
/// The stage that failed.
pub fn tell(directory: &Path, count: usize, transport: Option<&str>, teller: Teller<'_>) -> Result<()> {
    let begun = Instant::now();
    let mut last = begun;
    let mut phase = |teller: &mut dyn FnMut(&str), what: &str| {
        teller(&format!("{:>6.1} s  {what}", last.elapsed().as_secs_f64()));
        last = Instant::now();
    };
    let mut story = Story::begin(directory)?;
    let mut master = story.boot_master()?;
    phase(teller, &format!("master client up ({})", master.marker.root_device));
    story.capture(&master)?;
    phase(teller, &format!("captured as image {IMAGE}"));
    master.power_off()?;
    if let Some(transport) = transport {
        story.bring_by(transport)?;
    }
    let clients = story.clients(count)?;
    story.serve()?;
    phase(teller, "kernel and initrd made, serving");
    let mut machines = Vec::new();
    for (index, client) in clients.iter().enumerate() {
        if index == 2 {
            std::thread::sleep(LATE);
        }
        machines.push(story.boot_bare(client)?);
        teller(&format!("          {} switched on", client.name));
    }
    // Some wait for the machines, and some look at what is told of them meanwhile; both are told as they come.
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (story, ended) = (&story, &ended);
        let (say, heard) = channel();
        let says = say.clone();
        scope.spawn(move || story.look(ended, &says));
        let (clients, machines) = (&clients, &mut machines);
        let waiting = scope.spawn(move || {
            let mut installed = Ok(());
            for (client, machine) in clients.iter().zip(machines) {
                installed = story.wait_installed(client, machine);
                if installed.is_err() {
                    break;
                }
                let _ = say.send(Said::Phase(format!("{} installed", client.name)));
            }
            ended.store(true, Ordering::Relaxed);
            installed
        });
        for said in heard {
            match said {
                Said::Phase(what) => phase(teller, &what),
                Said::Line(line) => teller(&line),
            }
        }
        waiting.join().map_err(|_| anyhow::anyhow!("waiting for the machines panicked"))?
    })?;
    drop(machines);
    for client in &clients {
        let (_machine, marker) = story.boot_installed(client)?;
        phase(teller, &format!("{} is up from {} as {}", client.name, marker.root_device, marker.addresses.join(", ")));
        ensure!(marker.addresses.contains(&client.address), "{} has {:?}", client.name, marker.addresses);
        teller(&format!("demo: ok {}", marker.host));
    }
    story.stop_serving()?;
    teller(&format!("{:>6.1} s  in all", begun.elapsed().as_secs_f64()));
    Ok(())
}
