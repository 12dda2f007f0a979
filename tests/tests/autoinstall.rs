//! `updateclient --autoinstall`: an installed machine starts the miniature system from its own disk and installs itself
//! anew, with nobody near it; what becomes of it where that fails, and where its power goes.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use systemimager_tests::compare::{Options, compare, report};
use systemimager_tests::lab::disk::{self, Loop};
use systemimager_tests::lab::machine::{Boot, Rom, Running};
use systemimager_tests::lab::master::{Marker, cached};
use systemimager_tests::lab::run;
use systemimager_tests::lab::ssh::Ssh;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::{Need, skipped, test_name};
use systemimager_tests::require;
use systemimager_tests::story::{Client, IMAGE, Story};

const SERVER: &str = "10.77.0.1";
const NODE: &str = "node2";
/// How long anything may take that an emulated machine does.
const LONG: Duration = Duration::from_secs(900);
const SOON: Duration = Duration::from_secs(120);
/// Seconds within which the miniature system has to have an order: more than an emulated machine needs for one.
const BACK: &str = "120";
/// What is begun on the machine.
const AUTOINSTALL: [&str; 5] = ["updateclient", "--autoinstall", "--server", SERVER, "--yes"];
/// The entry and the files by which GRUB starts it.
const LAID: [&str; 2] = ["/boot/systemimager/kernel", "/boot/systemimager/initrd.img"];

struct Site {
    story: Story,
    client: Client,
    directory: tempfile::TempDir,
}

impl Site {
    /// An installed machine, switched off; its image, and another one, `v2`.
    fn new() -> Self {
        let directory =
            tempfile::Builder::new().prefix("systemimager-again-").tempdir_in("/var/tmp").expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let (mut story, client) = Story::with_installed(directory.path()).expect("an installed machine");
        story.run(&["cpimage", IMAGE, "v2"]).expect("another image");
        fs::write(story.image_of("v2").join("etc/motd"), "v2\n").expect("written");
        let settings = story.root().join("etc/systemimager");
        fs::create_dir_all(&settings).expect("mkdir");
        let text = format!("[boot]\nappend = \"no_timer_check si.back={BACK}\"\n");
        fs::write(settings.join("systemimager.toml"), text).expect("settings");
        story.serve().expect("serving");
        Self { story, client, directory }
    }

    /// From its disk, and from nothing else.
    fn boot(&self) -> Running {
        let machine = self.story.machine(&self.client).expect("a machine");
        machine.rom(Rom::None).boot(Boot::Disk).spawn().expect("it starts")
    }

    /// From its disk; from the network where that does not boot.
    fn boot_disk_then_network(&self) -> Running {
        // A firmware goes on in its list of what to boot, and the network is in it.
        self.story.machine(&self.client).expect("a machine").boot(Boot::Disk).spawn().expect("it starts")
    }

    fn up(&self, machine: &mut Running) -> (Ssh, Marker) {
        let marker = self.story.wait_up(&self.client, machine).unwrap_or_else(|error| {
            panic!("{error:#}\n{}\nserve said:\n{}", self.log(), run::tail(&self.story.serve_log(), 20))
        });
        (self.story.ssh(&self.client).expect("ssh answers"), marker)
    }

    /// Puts the program onto the machine.
    fn furnish(&self, ssh: &Ssh) {
        self.story.put_client(ssh, "updateclient").expect("copied");
    }

    fn order(&self, more: &[&str]) {
        self.story.run(&[&["install", NODE, "--image", "v2"], more].concat()).expect("ordered");
    }

    fn cancel(&self) {
        // Where it came up before its install had ended, the server takes it for busy.
        self.story.run(&["cancel", NODE, "--force"]).expect("cancelled");
    }

    fn log(&self) -> String {
        self.story.run(&["logs", NODE]).unwrap_or_default()
    }

    /// The machine's state, and whether it has an order.
    fn status(&self) -> (String, bool) {
        let status = self.story.run(&["--json", "status", NODE]).expect("status");
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let state = status["machines"][0]["state"].as_str().unwrap_or_default().to_owned();
        (state, status["orders"].as_array().is_some_and(|orders| !orders.is_empty()))
    }

    /// Waits for a line of the miniature system's.
    fn says(&self, machine: &mut Running, words: &str) -> String {
        machine.wait_serial(words, LONG).unwrap_or_else(|error| {
            panic!("{error:#}\n{}\nserve said:\n{}", self.log(), run::tail(&self.story.serve_log(), 20))
        })
    }
}

/// Which image a machine was installed with.
fn runs(ssh: &Ssh) -> &'static str {
    if ssh.run(&["cat", "/etc/motd"]).expect("read") == "v2\n" { "v2" } else { "v1" }
}

fn restart(ssh: &Ssh) {
    // The answer often is that the connection was closed.
    let _ = run::output(&mut ssh.command(&["systemctl", "reboot"]));
}

/// Starts what ends the connection: the machine restarts by itself.
fn begin(ssh: &Ssh, more: &[&str]) {
    let output = run::output(&mut ssh.command(&[&AUTOINSTALL[..], more].concat())).expect("ssh runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("installs itself anew"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// It came up as `v2`, and the server knows.
fn is_installed_anew(site: &Site, machine: &mut Running, before: &Marker) -> Ssh {
    let (ssh, marker) = site.up(machine);
    assert_eq!(runs(&ssh), "v2");
    assert_eq!((&marker.host, &marker.addresses), (&before.host, &before.addresses));
    assert!(!marker.command_line.contains("si.server"), "{marker:?}");
    assert_eq!(site.status(), ("installed".to_owned(), false));
    for path in LAID {
        assert!(ssh.run(&["cat", path]).is_err(), "{path} is of the old system");
    }
    ssh
}

#[test]
fn an_installed_machine_installs_itself_anew_without_hands() {
    require!(Need::VirtualMachines, Need::Long);
    let site = Site::new();
    let mut machine = site.boot();
    let (ssh, before) = site.up(&mut machine);
    site.furnish(&ssh);
    assert_eq!(runs(&ssh), "v1");

    let error = ssh.run(&AUTOINSTALL).expect_err("there is no order").to_string();
    assert!(error.contains("systemimager install node2"), "{error}");
    site.order(&[]);
    let told = ssh.run(&[&AUTOINSTALL[..], &["--dry-run", "--json"]].concat()).expect("a dry run");
    let told: Value = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
    assert_eq!((told["host"].as_str(), told["started_by"].as_str()), (Some(NODE), Some("grub")), "{told}");
    let line = told["entry"]["command_line"].as_str().unwrap_or_default();
    assert!(line.contains("BOOTIF=01-52-54-00-77-01-02") && line.contains(&format!("si.back={BACK}")), "{line}");
    assert!(ssh.run(&["cat", LAID[0]]).is_err(), "a dry run changes nothing");

    begin(&ssh, &["--reboot"]);
    site.says(&mut machine, "installs the image v2");
    site.says(&mut machine, "systemimager: installed v2 as node2");
    let ssh = is_installed_anew(&site, &mut machine, &before);
    ssh.power_off().expect("off");
    machine.wait_exit(SOON).expect("off");
}

#[test]
fn what_fails_leads_back_to_the_old_system() {
    require!(Need::VirtualMachines, Need::Long);
    let mut site = Site::new();
    let mut machine = site.boot();
    let (ssh, before) = site.up(&mut machine);
    site.furnish(&ssh);

    // A kernel that is none: GRUB starts the old system.
    site.order(&[]);
    begin(&ssh, &[]);
    ssh.run(&["sh", "-c", "head -c 1000000 /dev/urandom > /boot/systemimager/kernel"]).expect("spoiled");
    restart(&ssh);
    site.says(&mut machine, "error: ");
    let (ssh, marker) = site.up(&mut machine);
    assert_eq!((runs(&ssh), &marker), ("v1", &before));
    println!("a kernel that is none: the old system");

    // The order is taken back before the machine asks.
    begin(&ssh, &[]);
    site.cancel();
    restart(&ssh);
    site.says(&mut machine, "nothing is installed: node2 has no order");
    let (ssh, marker) = site.up(&mut machine);
    assert_eq!((runs(&ssh), &marker), ("v1", &before));
    println!("no order: the old system");

    // The image server is gone.
    site.order(&[]);
    begin(&ssh, &[]);
    site.story.stop_serving().expect("it ends");
    restart(&ssh);
    site.says(&mut machine, "where nothing comes of it within");
    site.says(&mut machine, "nothing came of it; restarting");
    let (ssh, marker) = site.up(&mut machine);
    assert_eq!((runs(&ssh), &marker), ("v1", &before));
    site.story.serve_again().expect("it serves");
    println!("no server: the old system");

    // A plan that is refused: nothing was touched.
    let master = site.story.root().join("tftpboot/systemimager/v2.master");
    let text = fs::read_to_string(&master).expect("a master");
    fs::write(&master, text.replace("partitioner = \"sfdisk\"", "partitioner = \"none-such\"")).expect("written");
    begin(&ssh, &[]);
    restart(&ssh);
    site.says(&mut machine, "install failed at");
    site.says(&mut machine, "nothing came of it; restarting");
    let (ssh, marker) = site.up(&mut machine);
    assert_eq!((runs(&ssh), &marker), ("v1", &before));
    assert_eq!(site.status(), ("failed".to_owned(), true));
    fs::write(&master, text).expect("written");
    println!("a plan that is refused: the old system");

    // For good: each start leads to the miniature system until it is installed.
    site.cancel();
    site.order(&["--break=before-partition"]);
    begin(&ssh, &["--persistent"]);
    restart(&ssh);
    for _ in 0..2 {
        site.says(&mut machine, "stopped at the break point before-partition");
        machine.kill().expect("the power goes");
        machine = site.boot();
    }
    site.says(&mut machine, "stopped at the break point before-partition");
    let retry = || Ok(site.story.run(&["retry", NODE]).ok());
    wait_until(SOON, "retry to be taken", retry).expect("it goes on");
    site.says(&mut machine, "systemimager: installed v2 as node2");
    is_installed_anew(&site, &mut machine, &before);
    println!("--persistent: the miniature system three times, then v2");
}

/// Debian's kexec-tools with all packages that an image lacks for it: the lab's master client does not have it.
fn kexec_tools(image: &Path) -> Option<Vec<PathBuf>> {
    let status = image.join("var/lib/dpkg/status");
    let found = cached("kexec-tools", |new| {
        fs::create_dir_all(new.join("partial"))?;
        let mut apt = run::program("apt-get");
        apt.args(["--quiet", "--yes", "--download-only", "--no-install-recommends", "-o"]);
        apt.arg(format!("Dir::Cache::archives={}/", new.display())).arg("-o");
        apt.arg(format!("Dir::State::status={}", status.display())).args(["install", "kexec-tools"]);
        run::run(&mut apt).map(drop)
    });
    let found = found.and_then(|place| {
        let files = fs::read_dir(place)?.flatten().map(|entry| entry.path());
        Ok(files.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect())
    });
    found.inspect_err(|error| skipped(&test_name(), &format!("kexec-tools cannot be had: {error:#}"))).ok()
}

#[test]
fn it_is_started_without_a_boot_loader() {
    require!(Need::VirtualMachines, Need::Long);
    let site = Site::new();
    let Some(packages) = kexec_tools(&site.story.image()) else { return };
    let mut machine = site.boot();
    let (ssh, before) = site.up(&mut machine);
    site.furnish(&ssh);
    site.order(&[]);
    let error = ssh.run(&[&AUTOINSTALL[..], &["--kexec"]].concat()).expect_err("no kexec").to_string();
    assert!(error.contains("kexec-tools"), "{error}");
    assert!(ssh.run(&["ls", "/var/lib/systemimager/autoinstall"]).is_err(), "nothing was fetched");
    ssh.run(&["mkdir", "/root/packages"]).expect("mkdir");
    for package in &packages {
        let name = package.file_name().expect("a name").to_string_lossy();
        ssh.copy_in(package, &format!("/root/packages/{name}")).expect("copied");
    }
    let install = "DEBIAN_FRONTEND=noninteractive dpkg --install /root/packages/*.deb";
    ssh.run(&["sh", "-c", install]).expect("installed");
    begin(&ssh, &["--kexec", "--reboot"]);
    site.says(&mut machine, "installs the image v2");
    site.says(&mut machine, "systemimager: installed v2 as node2");
    is_installed_anew(&site, &mut machine, &before);
}

/// All that the image has below /usr is on the disk of a machine that is switched off.
fn compare_usr(site: &Site) {
    let disk = Loop::attach_read_only(&site.client.disk).expect("the disk is there");
    let root = disk.mount(2).expect("the root file system mounts");
    let options = Options::new().ignore("local/sbin/updateclient");
    let found = compare(&site.story.image_of("v2").join("usr"), &root.path().join("usr"), &options);
    let found = found.expect("both can be read");
    assert!(found.is_empty(), "{}", report(&found, 40));
    root.close().expect("unmounts");
}

/// What stands at the front of a disk.
fn boot_code(path: &Path) -> &'static str {
    let mut code = [0xff; 440];
    std::io::Read::read_exact(&mut fs::File::open(path).expect("disk"), &mut code).expect("read");
    match code {
        _ if code == [0; 440] => "zeroes",
        [0xcd, 0x18, ..] => "erased",
        _ => "GRUB",
    }
}

/// Ten moments of a reinstall: their names, what the machine says then, and how often.
const MOMENTS: [(&str, &str, usize); 10] = [
    ("GRUB starts the entry", "Booting `Install this machine", 1),
    ("drivers are loaded", "[1/9] drivers", 1),
    ("the disk is partitioned", ": partition: ", 1),
    ("the pull begins", "pulled ", 1),
    ("later in the pull", "pulled ", 8),
    ("identity", ": identity: ", 1),
    ("GRUB is put onto the disk", "Installation finished. No error reported", 1),
    ("the menu is written", "write GRUB's menu", 1),
    ("the target is written out", "finish: check the target", 1),
    ("it is installed", "systemimager: installed v2", 1),
];

#[test]
fn the_power_goes_at_ten_moments_of_a_reinstall() {
    require!(Need::VirtualMachines, Need::Long);
    let site = Site::new();
    let mut machine = site.boot();
    let (ssh, _) = site.up(&mut machine);
    site.furnish(&ssh);
    site.order(&[]);
    begin(&ssh, &[]);
    ssh.power_off().expect("off");
    machine.wait_exit(SOON).expect("off");
    // All that is left to do is to switch it on.
    let armed = site.directory.path().join("armed.raw");
    disk::copy_raw(&site.client.disk, &armed).expect("copied");

    println!("| moment | after | boot code | switched on again | ended as |\n|---|---|---|---|---|");
    for (name, says, times) in MOMENTS {
        fs::remove_file(&site.client.disk).expect("removed");
        disk::copy_raw(&armed, &site.client.disk).expect("copied");
        if site.status().1 {
            site.cancel();
        }
        site.order(&[]);
        let begun = Instant::now();
        machine = site.boot_disk_then_network();
        for _ in 0..times {
            site.says(&mut machine, says);
        }
        machine.kill().expect("the power goes");
        let (after, code) = (begun.elapsed().as_secs(), boot_code(&site.client.disk));
        machine = site.boot_disk_then_network();
        let (ssh, _) = site.up(&mut machine);
        let anew = machine.serial().contains("systemimager: installed v2");
        let (runs, (state, ordered)) = (runs(&ssh), site.status());
        println!(
            "| {name} | {after} s | {code} | {} | {runs}{} |",
            if anew { "the network installs it" } else { "it comes up from its disk" },
            if ordered { ", the order stays" } else { "" }
        );
        ssh.power_off().expect("off");
        machine.wait_exit(SOON).expect("off");
        if anew {
            assert_eq!((runs, state.as_str(), ordered), ("v2", "installed", false), "{name}");
        }
        if runs == "v2" {
            compare_usr(&site);
        } else {
            assert_eq!(code, "GRUB", "{name}: the old system is whole");
        }
    }
}
