//! A machine of another distribution than the rest of the lab, through all stages: captured, installed on other hardware,
//! brought to a revision with another kernel, and installed anew from its own disk.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use systemimager_tests::lab::machine::{Boot, Rom};
use systemimager_tests::lab::master::{Distribution, UBUNTU_KEYS};
use systemimager_tests::lab::run;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::{IMAGE, Story, add_kernel};

const SERVER: &str = "10.77.0.1";
/// A release that sorts after that of the image.
const NEWER: &str = "6.99.0-lab";

#[test]
fn an_ubuntu_machine_is_captured_installed_updated_and_installed_anew() {
    require!(Need::VirtualMachines, Need::Long, Need::File(UBUNTU_KEYS, "ubuntu-keyring"));
    let directory =
        tempfile::Builder::new().prefix("systemimager-ubuntu-").tempdir_in("/var/tmp").expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut story = Story::begin(directory.path()).expect("a server");
    let mut master = story.boot_master_of(Distribution::Ubuntu).expect("the master client boots");
    story.capture(&master).expect("it is captured");
    let identity = master.ssh.run(&["cat", "/etc/machine-id"]).expect("read");
    master.power_off().expect("off");

    // Other disks and cards than the master client's.
    let clients = story.clients(2).expect("machines are declared");
    let client = &clients[1];
    story.serve().expect("the server serves");
    let mut bare = story.boot_bare(client).expect("it starts");
    story.wait_installed(client, &mut bare).expect("it is installed");
    drop(bare);
    let machine = story.machine(client).expect("a machine").rom(Rom::None).boot(Boot::Disk);
    let mut machine = machine.spawn().expect("it starts");
    let marker = story.wait_up(client, &mut machine).expect("it comes up from its own disk");
    println!("installed: {marker:?}");
    assert_eq!(marker.addresses, std::slice::from_ref(&client.address));
    let ssh = story.ssh(client).expect("ssh answers");
    assert!(ssh.run(&["cat", "/etc/os-release"]).expect("read").contains("ID=ubuntu"));
    assert_ne!(ssh.run(&["cat", "/etc/machine-id"]).expect("read"), identity, "it is a machine of its own");
    assert_eq!(ssh.run(&["systemctl", "--failed", "--no-legend", "--plain"]).expect("asked"), "");

    story.run(&["cpimage", IMAGE, "v2"]).expect("a revision");
    let v2 = story.image_of("v2");
    add_kernel(&v2, NEWER).expect("another kernel");
    fs::write(v2.join("etc/motd"), "v2\n").expect("written");
    story.put_client(&ssh, "updateclient").expect("copied");
    let words = ["updateclient", "--server", SERVER, "--yes", "--image", "v2"];
    let done = ssh.run(&words).expect("updated");
    assert!(done.contains("restart the machine to use the new kernel"), "{done}");
    let _ = ssh.run(&["systemctl", "reboot"]);
    let marker = story.wait_up(client, &mut machine).expect("it comes up again");
    println!("updated: {marker:?}");
    assert!(marker.command_line.contains(NEWER), "{marker:?}");
    assert_eq!(marker.addresses, std::slice::from_ref(&client.address));
    let ssh = story.ssh(client).expect("ssh answers");
    assert_eq!(ssh.run(&["cat", "/etc/motd"]).expect("read"), "v2\n");

    // Back to the first revision, from nothing: its own boot loader starts the miniature system once.
    story.run(&["install", &client.name, "--image", IMAGE]).expect("ordered");
    story.put_client(&ssh, "updateclient").expect("copied");
    let _ = run::output(&mut ssh.command(&["updateclient", "--autoinstall", "--server", SERVER, "--yes", "--reboot"]));
    let marker = story.wait_up(client, &mut machine).expect("it comes up once more");
    println!("installed anew: {marker:?}");
    assert!(!marker.command_line.contains(NEWER), "{marker:?}");
    let ssh = story.ssh(client).expect("ssh answers");
    assert!(!ssh.run(&["ls", "/boot"]).expect("listed").contains(NEWER), "nothing of v2 is left");
    let status = story.run(&["--json", "status", &client.name]).expect("status");
    assert!(status.contains("\"installed\""), "{status}");
    story.stop_serving().expect("the server ends in good order");
}
