//! `updateclient` on an installed machine: to another revision with another kernel, and back, with a restart each time;
//! and with its power cut at ten moments of an update.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use systemimager_tests::compare::{Difference, Options, compare, report};
use systemimager_tests::lab::disk::Loop;
use systemimager_tests::lab::machine::{Boot, Running};
use systemimager_tests::lab::master::Marker;
use systemimager_tests::lab::ssh::Ssh;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::{Client, IMAGE, Story, add_kernel};

const SERVER: &str = "10.77.0.1";
/// A release that sorts after that of the image, and is booted by default where it is there.
const NEWER: &str = "6.99.0-lab";
/// What systemd and programs write while a machine runs and goes down, besides what an update leaves alone.
const WRITTEN_BY_RUNNING: [&str; 9] = [
    "var/lib/systemd",
    "var/cache",
    "var/lib/dhcp",
    "var/lib/private",
    "var/lib/logrotate",
    "var/lib/dpkg/lock",
    "etc/systemimager",
    "root",
    "usr/local/sbin/updateclient",
];

struct Site {
    story: Story,
    client: Client,
    _directory: tempfile::TempDir,
}

impl Site {
    /// An installed machine, switched off; the image of it, and its revision `v2`, with another kernel.
    fn new() -> Self {
        let directory =
            tempfile::Builder::new().prefix("systemimager-updates-").tempdir_in("/var/tmp").expect("a directory");
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let (mut story, client) = Story::with_installed(directory.path()).expect("an installed machine");
        story.run(&["cpimage", IMAGE, "v2"]).expect("a revision");
        let v2 = story.image_of("v2");
        add_kernel(&v2, NEWER).expect("another kernel");
        fs::write(v2.join("etc/motd"), "v2\n").expect("written");
        fs::remove_file(v2.join("usr/share/common-licenses/GPL-2")).ok();
        let defaults = v2.join("etc/default/grub");
        let text = fs::read_to_string(&defaults).expect("GRUB's settings");
        fs::write(&defaults, format!("{text}\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX lab.revision=2\"\n"))
            .expect("written");
        arm_image(&story);
        for (file, text) in [("kernel", "a kernel"), ("initrd.img", "an initrd")] {
            fs::write(story.root().join("tftpboot").join(file), text).expect("boot files");
        }
        story.serve_again().expect("serving");
        Self { story, client, _directory: directory }
    }

    fn boot(&self) -> Running {
        self.story.machine(&self.client).expect("a machine").boot(Boot::Disk).spawn().expect("it starts")
    }

    fn up(&self, machine: &mut Running) -> (Ssh, Marker) {
        let marker = self.story.wait_up(&self.client, machine).expect("it comes up");
        (self.story.ssh(&self.client).expect("ssh answers"), marker)
    }

    /// Puts the program onto the machine, and what is its own.
    fn furnish(&self, ssh: &Ssh) {
        self.story.put_client(ssh, "updateclient").expect("copied");
        for argv in [
            &["mkdir", "-p", "/home/user", "/etc/systemimager"][..],
            &[
                "sh",
                "-c",
                "echo dear > /home/user/letter; echo /usr/local/sbin/updateclient > /etc/systemimager/update.local.exclude",
            ],
        ] {
            ssh.run(argv).expect("furnished");
        }
    }
}

/// An image for machines of another kind.
fn arm_image(story: &Story) {
    let tree = story.image_of("arm");
    for dir in ["usr/bin", "sbin"] {
        fs::create_dir_all(tree.join(dir)).expect("mkdir");
    }
    let mut header = [0; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    header[18] = 0xb7;
    fs::write(tree.join("usr/bin/env"), header).expect("written");
    fs::write(tree.join("sbin/init"), header).expect("written");
    let masters = story.root().join("tftpboot/systemimager");
    let text = fs::read_to_string(masters.join(format!("{IMAGE}.master"))).expect("a master");
    let text = text.replace(&format!("image = \"{IMAGE}\""), "image = \"arm\"");
    fs::write(masters.join("arm.master"), text).expect("written");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Whether a path is among patterns that an update left alone: literal ones, and contents of directories.
fn left_alone(difference: &Difference, patterns: &[String]) -> bool {
    let path = format!("/{}", String::from_utf8_lossy(&difference.path));
    patterns.iter().any(|pattern| {
        let literal = pattern.strip_suffix("/*").unwrap_or(pattern);
        match literal.split_once('*') {
            None => path == literal || path.starts_with(&format!("{literal}/")),
            Some((head, tail)) => path.starts_with(head) && (tail.is_empty() || path.contains(tail.trim_matches('*'))),
        }
    })
}

/// The powered-off machine's disk, held against an image.
fn compare_with(site: &Site, name: &str, patterns: &[String]) {
    let disk = Loop::attach_read_only(&site.client.disk).expect("the disk is there");
    let root = disk.mount(2).expect("the root file system mounts");
    disk.mount_at(1, &root.path().join("boot")).expect("/boot mounts");
    let mut options = Options::new().may_be_sparser();
    for path in WRITTEN_BY_RUNNING {
        options = options.ignore(path);
    }
    let found = compare(&site.story.image_of(name), root.path(), &options).expect("comparable");
    let (own, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|it| left_alone(it, patterns));
    // Directories in which something of the machine's own lies.
    let others: Vec<Difference> =
        others.into_iter().filter(|it| !format!("{:?}", it.what).starts_with("Mtime")).collect();
    println!("{name}: {} differences are the machine's own", own.len());
    assert!(others.is_empty(), "{name}: the machine differs:\n{}", report(&others, 40));
    assert!(own.iter().any(|it| it.path == b"etc/hostname"), "it has a name of its own");
    root.close().expect("unmounts");
}

#[test]
fn an_installed_machine_goes_to_another_revision_and_back() {
    require!(Need::VirtualMachines, Need::Long);
    let site = Site::new();
    let mut machine = site.boot();
    let (ssh, before) = site.up(&mut machine);
    site.furnish(&ssh);
    let update = ["updateclient", "--server", SERVER, "--yes", "--image"];
    let own = |ssh: &Ssh| {
        let one = |path: &str| ssh.run(&["cat", path]).expect("read");
        ["/etc/hostname", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/fstab", "/home/user/letter"]
            .map(one)
    };
    let was = own(&ssh);

    let error = ssh.run(&[&update[..], &["arm"]].concat()).expect_err("refused").to_string();
    assert!(error.contains("is for aarch64, and this machine is x86_64"), "{error}");
    let told = json(&ssh.run(&[&update[..], &["v2", "--dry-run", "--json"]].concat()).expect("a dry run"));
    let differences = told["differences"].as_array().expect("a list");
    let boots = |path: &str| differences.iter().any(|it| it["path"] == path && it["boot"] == true);
    assert!(boots(&format!("/boot/vmlinuz-{NEWER}")) && boots("/etc/default/grub"), "{told}");
    assert!(!differences.iter().any(|it| it["path"] == "/etc/hostname" || it["path"] == "/etc/fstab"), "{told}");
    assert!(!ssh.run(&["ls", "/boot"]).expect("listed").contains(NEWER), "a dry run changes nothing");

    let done = ssh.run(&[&update[..], &["v2"]].concat()).expect("updated");
    assert!(done.contains("restart the machine to use the new kernel"), "{done}");
    let _ = ssh.run(&["systemctl", "reboot"]);
    let (ssh, marker) = site.up(&mut machine);
    assert!(marker.command_line.contains(NEWER), "it starts with the new kernel: {}", marker.command_line);
    assert!(marker.command_line.contains("lab.revision=2"), "and the new settings: {}", marker.command_line);
    assert_eq!((&marker.host, &marker.root_uuid), (&before.host, &before.root_uuid));
    assert_eq!(own(&ssh), was);
    assert_eq!(ssh.run(&["cat", "/etc/motd"]).expect("read"), "v2\n");
    let patterns = |told: &Value| -> Vec<String> {
        told["left_alone"].as_array().expect("a list").iter().filter_map(|it| Some(it.as_str()?.to_owned())).collect()
    };
    ssh.power_off().expect("off");
    machine.wait_exit(Duration::from_secs(120)).expect("off");
    compare_with(&site, "v2", &patterns(&told));

    // And back: the kernel that it runs now goes.
    let mut machine = site.boot();
    let (ssh, _) = site.up(&mut machine);
    let _ = ssh.run(&[&update[..], &[IMAGE, "--reboot"]].concat());
    let (ssh, marker) = site.up(&mut machine);
    assert!(!marker.command_line.contains(NEWER) && !marker.command_line.contains("lab.revision"), "{marker:?}");
    assert_eq!(own(&ssh), was);
    assert!(!ssh.run(&["ls", "/boot", "/usr/lib/modules"]).expect("listed").contains(NEWER));
    // It knows image and server now.
    let told = json(&ssh.run(&["updateclient", "--dry-run", "--json"]).expect("a dry run"));
    assert_eq!(told["image"], IMAGE);
    assert_eq!(told["count"]["boot"], 0, "{told}");
    ssh.power_off().expect("off");
    machine.wait_exit(Duration::from_secs(120)).expect("off");
    compare_with(&site, IMAGE, &patterns(&told));
}

#[test]
fn the_power_goes_at_ten_moments_of_an_update() {
    const MOMENTS: u32 = 10;
    require!(Need::VirtualMachines, Need::Long);
    let site = Site::new();
    let mut machine = site.boot();
    let (ssh, _) = site.up(&mut machine);
    site.furnish(&ssh);
    let words = |image: &'static str| ["updateclient", "--server", SERVER, "--yes", "--image", image];
    let begun = Instant::now();
    ssh.run(&words("v2")).expect("updated");
    let whole = begun.elapsed();
    ssh.run(&["sync"]).expect("written out");
    let mut ssh = ssh;
    let (mut from, mut to) = ("v2", IMAGE);
    println!("| moment | of | it came up with | what was left of the update |");
    for moment in 1..=MOMENTS {
        let mut child = ssh.command(&words(to)).spawn().expect("started");
        // Not for synchronisation: the moment is arbitrary, and each of them must be survived.
        std::thread::sleep(whole * moment / (MOMENTS + 1));
        machine.kill().expect("the power goes");
        let _ = child.kill();
        child.wait().expect("gone");
        machine = site.boot();
        let (again, marker) = site.up(&mut machine);
        ssh = again;
        let kernel = if marker.command_line.contains(NEWER) { "v2's kernel" } else { "v1's kernel" };
        let motd = ssh.run(&["cat", "/etc/motd"]).expect("read");
        let left = ssh.run(&["ls", "/var/lib/systemimager"]).expect("listed");
        println!(
            "| {} s | {} → {to} | {kernel}, files of {} | {} |",
            (whole * moment / (MOMENTS + 1)).as_secs(),
            from,
            if motd == "v2\n" { "v2" } else { "v1" },
            if left.contains("update.json") { "a journal: half moved" } else { "nothing, or what was laid ready" }
        );
        ssh.run(&words(to)).expect("the same command ends it");
        let told = json(&ssh.run(&[&words(to)[..], &["--dry-run", "--json"]].concat()).expect("a dry run"));
        assert_eq!(told["count"]["boot"], 0, "{told}");
        assert_eq!(ssh.run(&["cat", "/etc/motd"]).expect("read") == "v2\n", to == "v2");
        ssh.run(&["sync"]).expect("written out");
        (from, to) = (to, from);
    }
    let _ = ssh.run(&["systemctl", "reboot"]);
    let (_, marker) = site.up(&mut machine);
    assert_eq!(marker.command_line.contains(NEWER), from == "v2", "{marker:?}");
}
