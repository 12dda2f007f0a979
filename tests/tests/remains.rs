//! A test that is killed cannot clean up: its machines die with it, and the next test that uses
//! the lab removes the rest.
#![allow(clippy::disallowed_methods, reason = "the lab starts real programs")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use systemimager_tests::lab::disk::{self, Loop};
use systemimager_tests::lab::machine::{Machine, Rom};
use systemimager_tests::lab::netns::Network;
use systemimager_tests::lab::run;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::Need;
use systemimager_tests::require;

/// Set in the process that plays the killed test; its value is the directory that it uses.
const VICTIM: &str = "SYSTEMIMAGER_LAB_VICTIM";
/// Set in the process that comes after it.
const SUCCESSOR: &str = "SYSTEMIMAGER_LAB_SUCCESSOR";

/// Uses some of everything, says so, and waits to be killed.
#[test]
fn victim() {
    let Some(directory) = std::env::var_os(VICTIM) else { return };
    let directory = Path::new(&directory);
    let network = Network::new().unwrap();
    let host = network.host("host", "10.77.0.1/24").unwrap();
    host.put_etc("hosts", "127.0.0.1 localhost\n").unwrap();
    let mut inside = host.command(&["sleep", "1000"]).spawn().unwrap();
    let tap = network.tap().unwrap();
    let nic =
        Machine::new("idle", directory).nic(&tap, "52:54:00:77:00:99", systemimager_tests::lab::machine::Model::E1000);
    let machine = nic.rom(Rom::None).memory(64).spawn().unwrap();
    let image = directory.join("disk.raw");
    disk::make_raw(&image, 16 << 20).unwrap();
    run::run(run::program("mkfs.ext4").arg("-q").arg(&image)).unwrap();
    let attached = Loop::attach(&image).unwrap();
    let mount = attached.mount_whole().unwrap();
    let words = [
        host.namespace().to_owned(),
        inside.id().to_string(),
        machine.pid().to_string(),
        attached.device().to_owned(),
        mount.path().display().to_string(),
    ];
    println!("\nREADY {}", words.join(" "));
    inside.wait().unwrap();
}

/// Uses the lab, which is all that it takes to remove what the victim left.
#[test]
fn successor() {
    if std::env::var_os(SUCCESSOR).is_none() {
        return;
    }
    Network::new().unwrap();
    let place = tempfile::tempdir().unwrap();
    let image = place.path().join("disk.raw");
    disk::make_raw(&image, 1 << 20).unwrap();
    Loop::attach(&image).unwrap();
}

fn myself(test: &str, variable: &str, value: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(variable, value);
    command
}

#[test]
fn what_a_killed_test_leaves_is_removed() {
    require!(Need::NetworkNamespaces, Need::LoopDevices, Need::Program("qemu-system-x86_64"), Need::Program("setpriv"));
    let place = tempfile::tempdir().unwrap();
    let mut victim = myself("victim", VICTIM, place.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ready = lines.find(|line| line.starts_with("READY ")).expect("the victim got ready");
    let words: Vec<&str> = ready.split(' ').skip(1).collect();
    let [namespace, inside, machine, device, mount] = words[..] else { panic!("{ready}") };
    let number = device.trim_start_matches("/dev/");
    let is_running = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with(|state: char| state.is_alphabetic() && state != 'Z'))
    };
    let mounted = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!(" {mount} "));
    let backing = || std::fs::read_to_string(format!("/sys/block/{number}/loop/backing_file")).unwrap_or_default();
    let image = place.path().join("disk.raw").display().to_string();
    assert!(is_running(inside) && is_running(machine) && mounted() && backing().contains(&image));

    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until(Duration::from_secs(20), "the victim's machine to die with it", || {
        Ok((!is_running(machine)).then_some(()))
    })
    .unwrap();

    let output = run::output(&mut myself("successor", SUCCESSOR, place.path())).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!Path::new("/run/netns").join(namespace).exists(), "the namespace is gone");
    assert!(!Path::new("/etc/netns").join(namespace).exists(), "its files are gone");
    assert!(!is_running(inside), "what ran in it is gone");
    assert!(!mounted(), "the mount is gone");
    assert!(!backing().contains(&image), "the loop device is free");
}
