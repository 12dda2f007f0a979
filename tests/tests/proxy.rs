//! The image server beside a site's own DHCP server: that one gives addresses and names, ours tells what to boot, to
//! machines with real firmware; or leaves DHCP alone altogether.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use systemimager_core::BootFile;
use systemimager_engine::config::{DhcpMode, DhcpSettings};
use systemimager_engine::serve::{dnsmasq, interface};
use systemimager_tests::lab::machine::{Boot, Machine, Model, Rom};
use systemimager_tests::lab::netns::{Host, Network};
use systemimager_tests::lab::run;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::{self, Need};
use systemimager_tests::{require, story};

const SERVER: &str = "10.77.0.1";
const MAC: &str = "52:54:00:00:00:07";
/// How long a daemon may take to serve.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long emulated firmware may take.
const FIRMWARE: Duration = Duration::from_secs(90);
const MASTER: &str = r#"format = 1
image = "web"
transports = ["rsync"]
partitioner = "sfdisk"
bootloader = "none"
[identity]
plugin = "hosts"
"#;

/// A daemon, ended with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(mut command: Command, log: &Path) -> Daemon {
    let file = File::create(log).expect("a log");
    let command = command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log")).stderr(file);
    Daemon(command.spawn().expect("started"))
}

fn wait_for(log: &Path, words: &str) {
    wait_until(PATIENCE, words, || Ok(fs::read_to_string(log)?.contains(words).then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fs::read_to_string(log).unwrap_or_default()));
}

/// The site's DHCP server, which knows nothing of ours; and its leases.
fn site(network: &Network, dir: &Path) -> (Daemon, PathBuf) {
    let host = network.host("site", "10.77.0.2/24").expect("a host");
    let (log, leases) = (dir.join("site.log"), dir.join("site.leases"));
    let argv = [
        "dnsmasq",
        "--keep-in-foreground",
        "--log-facility=-",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--pid-file=",
        "--interface=eth0",
        "--bind-interfaces",
        "--no-hosts",
        "--no-resolv",
        "--dhcp-authoritative",
        "--dhcp-range=10.77.0.100,10.77.0.150,255.255.255.0,600",
        &format!("--dhcp-host={MAC},10.77.0.42,golden7"),
        &format!("--dhcp-leasefile={}", leases.display()),
    ];
    let daemon = spawn(host.command(&argv), &log);
    wait_for(&log, ": started, version");
    (daemon, leases)
}

/// An image server's files, with this mode.
fn files(dir: &Path, mode: &str) {
    // dnsmasq is not root when it serves.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    for made in
        ["etc/systemimager", "tftpboot/systemimager", "var/spool/systemimager/images/web/etc", "var/lib/systemimager"]
    {
        fs::create_dir_all(dir.join(made)).expect("mkdir");
    }
    for (path, text) in [
        ("etc/hosts", "127.0.0.1 localhost\n"),
        ("etc/systemimager/systemimager.toml", &format!("[dhcp]\nmode = \"{mode}\"\n")),
        ("tftpboot/systemimager/web.master", MASTER),
        ("tftpboot/kernel", "no kernel at all"),
        ("tftpboot/initrd.img", "x"),
    ] {
        fs::write(dir.join(path), text).expect("written");
    }
}

fn serve(stage: &Path, dir: &Path, server: &Host) -> (Daemon, PathBuf) {
    let (program, root) = (stage.join("bin/systemimager"), dir.display().to_string());
    let program = program.display().to_string();
    let log = dir.join("serve.log");
    let daemon = spawn(server.command(&[&program, "--root", &root, "serve", "-v"]), &log);
    wait_for(&log, "ready: ");
    (daemon, log)
}

/// What a machine that does not boot gets: name and value of each variable that udhcpc gives its script.
fn lease(machine: &Host, dir: &Path) -> Vec<String> {
    let (script, out) = (dir.join("lease.sh"), dir.join("lease.env"));
    fs::write(&script, format!("#!/bin/sh\n[ \"$1\" = bound ] && env >{}\nexit 0\n", out.display())).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let script = script.display().to_string();
    machine.run(&["busybox", "udhcpc", "-i", "eth0", "-fqn", "-t", "5", "-T", "2", "-s", &script]).expect("a lease");
    fs::read_to_string(&out).expect("the lease").lines().map(str::to_owned).collect()
}

#[test]
fn a_bios_machine_boots_beside_a_sites_dhcp() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"), Need::Program("busybox"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let stage = match story::stage() {
        Ok(stage) => stage,
        Err(error) => return need::skipped(&need::test_name(), &error.to_string()),
    };
    let dir = tempfile::tempdir().expect("a directory");
    files(dir.path(), "proxy");
    let network = Network::new().expect("a network");
    let server = network.host("server", "10.77.0.1/24").expect("a host");
    let (_site, leases) = site(&network, dir.path());
    let (_serve, log) = serve(&stage, dir.path(), &server);

    // Who does not boot hears nothing of us.
    let machine = network.host("machine", "").expect("a host");
    let lease = lease(&machine, dir.path());
    let says = |line: &str| lease.iter().any(|it| it == line);
    assert!(says("serverid=10.77.0.2"), "{lease:?}");
    assert!(!lease.iter().any(|it| it.starts_with("boot_file=") || it == "siaddr=10.77.0.1"), "{lease:?}");

    require!(Need::VirtualMachines);
    // iPXE, as a BIOS machine's network card: address from the site, loader from us, and the rest over HTTP.
    let tap = network.tap().expect("a tap");
    let machine = Machine::new("bios", dir.path()).memory(256).exit_on_restart().boot(Boot::Network);
    let mut running = machine.nic(&tap, MAC, Model::E1000).spawn().expect("it starts");
    let loading = running.wait_serial("Loading http://10.77.0.1:8069/", FIRMWARE);
    let said = fs::read_to_string(&log).expect("the log");
    loading.unwrap_or_else(|error| panic!("{error:#}\n{}", run::tail(&said, 40)));
    assert!(said.contains(&format!("PXE(eth0) {MAC} proxy")), "{said}");
    assert!(!said.contains("DHCPACK(eth0)"), "no address came from us: {said}");
    let leases = fs::read_to_string(leases).expect("the leases");
    assert!(leases.contains(&format!("{MAC} 10.77.0.42 golden7")), "{leases}");
}

/// Boots a machine beside a site's DHCP server with the configuration of a proxy that names `loader.0` and `loader.efi`,
/// as `adapt` changes it, until it has fetched `file`.
fn fetches(file: &str, machine: Machine, model: Model, rom: Rom, dir: &Path, adapt: impl Fn(String) -> String) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    let network = Network::new().expect("a network");
    let server = network.host("server", "10.77.0.1/24").expect("a host");
    let (_site, leases) = site(&network, dir);
    let tftp = dir.join("tftpboot");
    fs::create_dir(&tftp).expect("mkdir");
    fs::write(tftp.join(file), "no program at all").expect("written");
    let place =
        interface::Place { interface: "eth0".into(), network: "10.77.0.1/24".parse().expect("a network"), ula: None };
    let input = dnsmasq::Input {
        place: &place,
        dhcp: &DhcpSettings { mode: DhcpMode::Proxy, ..DhcpSettings::default() },
        clients: &[],
        boot_files: &[
            BootFile { client_arch: 0, name: "loader.0".into() },
            BootFile { client_arch: 7, name: "loader.efi".into() },
        ],
        tftp_root: tftp,
        lease_file: dir.join("leases"),
        pid_file: dir.join("pid"),
        user: None,
    };
    let (conf, log) = (dir.join("dnsmasq.conf"), dir.join("dnsmasq.log"));
    fs::write(&conf, adapt(dnsmasq::config(&input).expect("a configuration").text)).expect("written");
    let conf = format!("--conf-file={}", conf.display());
    let argv = ["dnsmasq", "--keep-in-foreground", "--log-facility=-", "--user=root", &conf];
    let _ours = spawn(server.command(&argv), &log);
    wait_for(&log, ": started, version");

    let tap = network.tap().expect("a tap");
    let machine = machine.exit_on_restart().boot(Boot::Network).nic(&tap, MAC, model).rom(rom);
    let _running = machine.spawn().expect("it starts");
    let sent = format!("{file} to 10.77.0.42");
    let fetched = wait_until(FIRMWARE, "the loader to be fetched", || {
        let said = fs::read_to_string(&log)?;
        Ok(said.lines().any(|line| line.contains(" sent ") && line.contains(&sent)).then_some(said))
    });
    let said = fetched.unwrap_or_else(|error| {
        let log = fs::read_to_string(&log).unwrap_or_default();
        panic!("{error:#}\n{}", run::tail(&log, 40))
    });
    assert!(!said.contains("DHCPACK(eth0)"), "{said}");
    let leases = fs::read_to_string(leases).expect("the leases");
    assert!(leases.contains(&format!("{MAC} 10.77.0.42 golden7")), "{leases}");
}

#[test]
fn a_uefi_machine_is_told_what_to_boot() {
    require!(Need::VirtualMachines, Need::Program("dnsmasq"));
    require!(Need::File("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"));
    require!(Need::File("/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf"));
    let dir = tempfile::tempdir().expect("a directory");
    let variables = dir.path().join("vars.fd");
    fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables).expect("copied");
    let more = [
        "-drive",
        "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
        "-drive",
        &format!("if=pflash,unit=1,format=raw,file={}", variables.display()),
        "-device",
        "virtio-rng-pci",
    ];
    let machine = Machine::new("uefi", dir.path()).memory(512).more(&more);
    // No ROM: the firmware's own driver.
    fetches("loader.efi", machine, Model::VirtioNet, Rom::None, dir.path(), |conf| conf);
}

#[test]
fn a_bios_card_that_is_no_ipxe_is_told_what_to_boot() {
    require!(Need::VirtualMachines, Need::Program("dnsmasq"));
    let dir = tempfile::tempdir().expect("a directory");
    let machine = Machine::new("card", dir.path()).memory(256);
    // iPXE again, but not known as such: it has to go by the menu and ask on port 4011, as PXE 2.1 says.
    let unknown = |conf: String| {
        assert!(conf.contains("dhcp-match=set:ipxe,175\n"), "{conf}");
        conf.replace("dhcp-match=set:ipxe,175\n", "")
    };
    fetches("loader.0", machine, Model::E1000, Rom::Ipxe, dir.path(), unknown);
}

#[test]
fn dhcp_can_be_left_alone() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"), Need::Program("busybox"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let stage = match story::stage() {
        Ok(stage) => stage,
        Err(error) => return need::skipped(&need::test_name(), &error.to_string()),
    };
    let dir = tempfile::tempdir().expect("a directory");
    files(dir.path(), "off");
    let network = Network::new().expect("a network");
    let server = network.host("server", "10.77.0.1/24").expect("a host");
    // Another DHCP server on this very machine, which shares its port with nobody.
    let held = dir.path().join("held");
    fs::write(&held, "").expect("written");
    let _dhcp = spawn(server.command(&["busybox", "nc", "-u", "-l", "-p", "67"]), &held);
    let (_serve, log) = serve(&stage, dir.path(), &server);
    let said = fs::read_to_string(&log).expect("the log");
    assert!(said.contains("DHCP is the site's: its server has to name 10.77.0.1 as the next server"), "{said}");
    let machine = network.host("machine", "10.77.0.9/24").expect("a host");
    let fetched = dir.path().join("fetched").display().to_string();
    machine.run(&["busybox", "tftp", "-g", "-r", "lpxelinux.0", "-l", &fetched, SERVER]).expect("TFTP");
    assert_eq!(
        fs::read(&fetched).expect("fetched"),
        fs::read(dir.path().join("tftpboot/lpxelinux.0")).expect("served")
    );
}
