//! The lab itself: hosts reach each other and nothing else, machines boot, and nothing is left.
#![allow(clippy::disallowed_methods, reason = "the lab starts real programs")]

use std::time::{Duration, Instant};

use systemimager_tests::at::Dir;
use systemimager_tests::compare::{Options, compare, report};
use systemimager_tests::lab::disk::{self, Loop};
use systemimager_tests::lab::machine::{Boot, Machine};
use systemimager_tests::lab::master::{self, Distribution, Table};
use systemimager_tests::lab::netns::Network;
use systemimager_tests::lab::run;
use systemimager_tests::need::Need;
use systemimager_tests::require;

#[test]
fn hosts_reach_each_other_and_nothing_else() {
    require!(Need::NetworkNamespaces, Need::Program("ping"));
    let network = Network::new().unwrap();
    let one = network.host("one", "10.77.0.1/24 fd77::1/64").unwrap();
    let two = network.host("two", "10.77.0.2/24 fd77::2/64").unwrap();
    // A second network with the same addresses is in nobody's way.
    let other = Network::new().unwrap();
    let third = other.host("one", "10.77.0.3/24").unwrap();
    one.run(&["ping", "-c1", "-W5", &two.address]).unwrap();
    two.run(&["ping", "-c1", "-W5", "fd77::1"]).unwrap();
    let error = one.run(&["ping", "-c1", "-W1", &third.address]).unwrap_err().to_string();
    assert!(error.contains("100% packet loss") || error.contains("Unreachable"), "{error}");
    assert_eq!(one.run(&["ip", "-4", "route", "show", "default"]).unwrap(), "");

    let namespaces = || std::fs::read_dir("/run/netns").unwrap().flatten().map(|entry| entry.file_name());
    let is_one = |name: &std::ffi::OsString| name.to_str() == Some(one.namespace());
    assert!(namespaces().any(|name| is_one(&name)));
    let mut sleeper = one.command(&["sleep", "1000"]).spawn().unwrap();
    drop(network);
    assert!(!namespaces().any(|name| is_one(&name)), "the namespace was removed");
    assert!(!sleeper.wait().unwrap().success(), "what ran in it was killed");
}

#[test]
fn a_disk_is_partitioned_mounted_and_let_go() {
    require!(Need::LoopDevices, Need::Program("partx"), Need::Program("sfdisk"), Need::Program("mkfs.ext4"));
    let place = tempfile::tempdir().unwrap();
    let image = place.path().join("disk.raw");
    disk::make_raw(&image, 64 << 20).unwrap();
    let script = place.path().join("script");
    std::fs::write(&script, "label: dos\nsize=16M\n;\n").unwrap();
    run::run(run::program("sfdisk").arg("-q").arg(&image).stdin(std::fs::File::open(&script).unwrap())).unwrap();
    {
        let attached = Loop::attach(&image).unwrap();
        run::run_argv(&["mkfs.ext4", "-q", &attached.partition(2)]).unwrap();
        let mount = attached.mount(2).unwrap();
        std::fs::write(mount.path().join("file"), "content").unwrap();
        mount.close().unwrap();
    }
    let attached = run::run(run::program("losetup").arg("-j").arg(&image)).unwrap();
    assert_eq!(attached, "", "the image is let go");
    let copy = place.path().join("copy.raw");
    disk::copy_raw(&image, &copy).unwrap();
    let attached = Loop::attach_read_only(&copy).unwrap();
    let mount = attached.mount(2).unwrap();
    assert_eq!(std::fs::read_to_string(mount.path().join("file")).unwrap(), "content");
    assert!(std::fs::write(mount.path().join("file"), "other").is_err(), "it is read-only");
}

#[test]
fn a_machine_without_a_system_is_reported_with_its_last_words() {
    require!(Need::VirtualMachines);
    let place = tempfile::tempdir().unwrap();
    let nothing = place.path().join("nothing");
    std::fs::write(&nothing, "no kernel").unwrap();
    let boot = Boot::Kernel { kernel: nothing, initrd: None, append: String::new() };
    let mut machine = Machine::new("broken", place.path()).boot(boot).spawn().unwrap();
    let begin = Instant::now();
    let error = format!("{:#}", machine.wait_serial("login:", Duration::from_secs(60)).unwrap_err());
    assert!(begin.elapsed() < Duration::from_secs(30), "an ended machine is noticed at once");
    assert!(error.contains("the machine broken ended (exit status: 1); QEMU said:\nqemu"), "{error}");
}

#[test]
fn the_master_client_boots_answers_and_powers_off() {
    require!(Need::VirtualMachines);
    let begin = Instant::now();
    let passed = |what: &str| println!("{:6.1} s: {what}", begin.elapsed().as_secs_f32());
    let image = master::disk_image(Distribution::Debian, Table::Mbr).unwrap();
    passed("disk image at hand");
    let place = tempfile::tempdir().unwrap();
    let network = Network::new().unwrap();
    let server = network.host("server", &format!("{} {}", master::SERVER_ADDRESS, master::SERVER_ADDRESS_6)).unwrap();
    let mut master = master::boot_master(&network, &server, place.path(), Distribution::Debian, Table::Mbr).unwrap();
    passed("up, and ssh answers");
    println!("{:?}", master.marker);
    assert_eq!(master.marker.addresses, ["10.77.0.5/24"]);
    assert_eq!(master.marker.root_device, "/dev/vda2");
    assert!(master.marker.command_line.contains(&format!("root=UUID={}", master.marker.root_uuid)));

    master.ssh.run(&["true"]).unwrap();
    let odd = "two  words, 'quotes', $HOME * and a\nnew line";
    assert_eq!(master.ssh.run(&["printf", "%s", odd]).unwrap(), odd, "words arrive as they are");
    let error = master.ssh.run(&["sh", "-c", "echo no >&2; exit 7"]).unwrap_err().to_string();
    assert!(error.ends_with("exit status: 7:\nno"), "{error}");
    let script = place.path().join("script");
    std::fs::write(&script, "#!/bin/sh\necho from the script\n").unwrap();
    run::run(run::program("chmod").arg("755").arg(&script)).unwrap();
    master.ssh.copy_in(&script, "/root/script").unwrap();
    assert_eq!(master.ssh.run(&["/root/script"]).unwrap(), "from the script\n");
    println!("{}", master.ssh.run(&["systemctl", "--failed", "--no-legend"]).unwrap());
    println!("{}", master.ssh.run(&["systemd-analyze"]).unwrap());
    println!(
        "{}",
        master.ssh.run(&["systemd-analyze", "blame"]).unwrap().lines().take(15).collect::<Vec<_>>().join("\n")
    );
    println!("{}", master.ssh.run(&["df", "-h"]).unwrap());
    passed("commands done");
    master.power_off().unwrap();
    passed("powered off");

    // What a copy has to keep is there; and the original disk, against the one that ran, shows
    // only what a running machine changes.
    let (before, after) = (Loop::attach_read_only(&image).unwrap(), Loop::attach_read_only(&master.disk).unwrap());
    let (before, after) = (before.mount(2).unwrap(), after.mount(2).unwrap());
    let special = Dir::open(&after.path().join("srv/lab")).unwrap();
    let names = |path: &[u8]| -> Vec<String> {
        let attributes = special.xattrs(path).unwrap();
        attributes.into_iter().map(|(name, _)| String::from_utf8(name).unwrap()).collect()
    };
    assert_eq!(names(b"acl"), ["system.posix_acl_access"]);
    assert_eq!(names(b"capable"), ["security.capability"]);
    assert_eq!(names(b"xattr"), ["trusted.comment", "user.comment"]);
    assert_eq!(special.meta(b"xattr").unwrap().mtime.to_string(), "-14182940.123456789");
    assert_eq!(special.meta(b"there/two").unwrap().nlink, 2);
    let sparse = special.meta(b"sparse").unwrap();
    assert!(sparse.size == 64 << 20 && sparse.allocated < 1 << 20, "{sparse:?}");
    let differences = compare(before.path(), after.path(), &Options::new().ignore("var").ignore("etc")).unwrap();
    println!("changed by running, outside /etc and /var:\n{}", report(&differences, 40));
    assert!(differences.len() < 10, "{}", report(&differences, 40));
    passed("disks compared");
}
