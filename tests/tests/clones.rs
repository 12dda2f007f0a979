//! Clones are not twins, and find their way among networks that lead nowhere.
//!
//! The image is that of a careless golden machine: it holds all that a running system gathers about itself. The
//! networks are those of a careless site: a second DHCP server answers beside ours, and before it.
#![allow(clippy::disallowed_methods, reason = "tests start the programs that they need")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use systemimager_core::BootFile;
use systemimager_engine::config::{DhcpMode, DhcpSettings};
use systemimager_engine::serve::{dnsmasq, interface};
use systemimager_engine::store::clients::Client as Declared;
use systemimager_engine::store::host_links::HostLink;
use systemimager_tests::lab::machine::{Boot, Machine, Model, Rom, Running};
use systemimager_tests::lab::monitor::Monitor;
use systemimager_tests::lab::netns::{Host, Network};
use systemimager_tests::lab::run;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::{Client, Story};

/// How long an emulated machine may take to install itself, among others.
const INSTALL: Duration = Duration::from_secs(1200);
/// How long its miniature system may take to say something.
const AGENT: Duration = Duration::from_secs(400);
/// How long a daemon may take to serve.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long emulated firmware may take.
const FIRMWARE: Duration = Duration::from_secs(90);
/// How long the image server's DHCP server is deaf to a new asker, seconds: a foreign one is always first.
const HEAD_START: u16 = 4;

/// The golden machine's, as they were left in the image.
const ISCSI: &str = "etc/iscsi/initiatorname.iscsi";
const HOSTNQN: &str = "etc/nvme/hostnqn";
const HOSTID: &str = "etc/nvme/hostid";
const MACHINE_ID: &str = "etc/machine-id";
const RANDOM_SEED: &str = "var/lib/systemd/random-seed";
/// What no clone needs.
const GONE: [&str; 8] = [
    "etc/udev/rules.d/70-persistent-net.rules",
    "etc/systemd/network/10-lan.link",
    "etc/ssh/ssh_host_rsa_key.old",
    "var/lib/dhcp/dhclient.ens3.leases",
    "var/lib/dhcp/dhclient6.ens3.leases",
    "var/lib/dhcpcd/duid",
    "var/lib/NetworkManager/secret_key",
    "var/lib/systemd/credential.secret",
];
/// What belongs to a person, and stays.
const OWN_RULES: &str = "etc/udev/rules.d/60-site.rules";

/// Everything that makes a machine itself, a line each: its path below `$1`, a tab, what is in it. Binary files and
/// private keys by their hash.
const COLLECT: &str = r#"
cd "$1"
for file in etc/machine-id var/lib/dbus/machine-id etc/iscsi/* etc/nvme/* etc/ssh/ssh_host_* etc/udev/rules.d/* \
    etc/systemd/network/* var/lib/dhcp/* var/lib/dhcpcd/* var/lib/NetworkManager/* var/lib/systemd/random-seed \
    var/lib/systemd/credential.secret; do
    [ -f "$file" ] || continue
    case $file in
        *.pub | *machine-id | etc/iscsi/* | etc/nvme/*) printf '%s\t%s\n' "$file" "$(tr '\n' ' ' < "$file")" ;;
        *) printf '%s\t%s\n' "$file" "$(sha256sum < "$file")" ;;
    esac
done
"#;

/// A daemon, ended with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A DHCP server that knows nothing of ours: its leases lead to itself, where nobody routes.
/// `late`: by how many seconds its offers come later.
fn foreign_dhcp(host: &Host, name: &str, late: u16, dir: &Path) -> (Daemon, PathBuf) {
    let log = dir.join(format!("{name}.log"));
    let net = host.address.rsplit_once('.').expect("an address").0;
    let argv = [
        "dnsmasq",
        "--keep-in-foreground",
        "--log-facility=-",
        "--log-dhcp",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        "--pid-file=",
        "--interface=eth0",
        "--bind-interfaces",
        "--no-hosts",
        "--no-resolv",
        "--no-ping",
        "--dhcp-authoritative",
        &format!("--dhcp-reply-delay={late}"),
        &format!("--dhcp-range={net}.50,{net}.90,255.255.255.0,600"),
        &format!("--dhcp-leasefile={}", dir.join(format!("{name}.leases")).display()),
    ];
    (spawn_dnsmasq(host, &argv, &log), log)
}

fn spawn_dnsmasq(host: &Host, argv: &[&str], log: &Path) -> Daemon {
    let file = File::create(log).expect("a log");
    let mut command = host.command(argv);
    let command = command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log")).stderr(file);
    let daemon = Daemon(command.spawn().expect("dnsmasq starts"));
    wait_until(PATIENCE, "dnsmasq", || Ok(fs::read_to_string(log)?.contains(": started, version").then_some(())))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fs::read_to_string(log).unwrap_or_default()));
    daemon
}

/// How many leases firmware, and others, took of a DHCP server with this log.
fn leases(log: &Path) -> (usize, usize) {
    let text = fs::read_to_string(log).expect("a log");
    // `dnsmasq-dhcp[PID]: NUMBER what`: the number is that of the exchange.
    let exchange = |line: &str| line.split("]: ").nth(1)?.split(' ').next().map(str::to_owned);
    let of = |what: &str| text.lines().filter(|line| line.contains(what)).filter_map(exchange).collect::<BTreeSet<_>>();
    let (all, firmware) = (of(" DHCPACK(eth0)"), of(" vendor class: PXEClient"));
    (all.intersection(&firmware).count(), all.difference(&firmware).count())
}

/// From here on the agents' first DISCOVERs do not reach the image server; firmware's do.
fn slow_down(server: &Host) {
    let nft = |words: &[&str]| server.run(&[["nft"].as_slice(), words].concat()).expect("nft");
    nft(&["add", "table", "ip", "slow"]);
    nft(&["add", "chain", "ip", "slow", "in", "{ type filter hook input priority 0; }"]);
    // BOOTP begins 8 bytes after UDP. The options of an agent's DISCOVER begin with its kind and a client id; in its
    // bytes 8 and 9 it says for how many seconds it has been asking.
    let seconds = HEAD_START.to_string();
    let kind = "0x3501013d";
    let rule = ["udp", "dport", "67", "@th,1984,32", kind, "@th,128,16", "<", &seconds, "counter", "drop"];
    nft(&[["add", "rule", "ip", "slow", "in"].as_slice(), &rule].concat());
}

/// How many of them were lost.
fn lost(server: &Host) -> u32 {
    let text = server.run(&["nft", "list", "table", "ip", "slow"]).expect("nft");
    let count = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|it| it.parse().ok());
    count.unwrap_or_else(|| panic!("no counter: {text}"))
}

/// Leaves in an image what its administrator did not think of.
fn be_careless(image: &Path) {
    let id = fs::read_to_string(image.join(MACHINE_ID)).expect("the golden machine's id");
    let rsa = fs::read(image.join("etc/ssh/ssh_host_rsa_key")).expect("the golden machine's key");
    let lease = "lease {\n  interface \"ens3\";\n  fixed-address 10.77.0.5;\n}\n";
    let rule = "SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"52:54:00:77:00:05\", NAME=\"lan0\"\n";
    let files: [(&str, &[u8]); 13] = [
        (RANDOM_SEED, &[7; 512]),
        ("var/lib/dbus/machine-id", id.as_bytes()),
        (ISCSI, b"## Nobody else may have it.\nInitiatorName=iqn.1993-08.org.debian:01:5dc5b3a5f0e1\n"),
        (HOSTNQN, b"nqn.2014-08.org.nvmexpress:uuid:3b8f9c52-8d8b-4b4e-9b0c-2a4c1f0e7d11\n"),
        (HOSTID, b"3b8f9c52-8d8b-4b4e-9b0c-2a4c1f0e7d11\n"),
        (GONE[0], rule.as_bytes()),
        (GONE[1], b"[Match]\nMACAddress=52:54:00:77:00:05\n[Link]\nName=lan0\n"),
        (GONE[2], &rsa),
        (GONE[3], lease.as_bytes()),
        (GONE[4], b"default-duid \"\\000\\001\\000\\001-TR\\000w\\000\\005\";\n"),
        (GONE[5], b"00:01:00:01:2d:54:52:00:77:00:05\n"),
        (GONE[6], b"nm-v2:golden\n"),
        (GONE[7], &[9; 64]),
    ];
    let site = "SUBSYSTEM==\"block\", KERNEL==\"sr0\", SYMLINK+=\"golden\"\n";
    for (path, bytes) in files.into_iter().chain([(OWN_RULES, site.as_bytes())]) {
        let path = image.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        fs::write(path, bytes).expect("written");
    }
}

/// What makes a machine itself: contents by path.
type Own = BTreeMap<String, String>;

fn own(text: &str) -> Own {
    let pair = |line: &str| {
        let (path, contents) = line.split_once('\t').unwrap_or_else(|| panic!("no pair: {line}"));
        (path.to_owned(), contents.trim().to_owned())
    };
    text.lines().map(pair).collect()
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.chars().all(|it| it.is_ascii_digit() || ('a'..='f').contains(&it))
}

/// The files of host keys that sshd has.
fn keys(own: &Own) -> BTreeSet<&str> {
    own.keys().map(String::as_str).filter(|path| path.starts_with("etc/ssh/ssh_host_")).collect()
}

/// None of a machine's keys, ids and names is another's, or the image's; what is no use to it is gone.
fn nobody_is_a_twin(image: &Own, clones: &[(String, Own)]) {
    let mut wanted: Vec<&str> = keys(image).into_iter().filter(|path| !GONE.contains(path)).collect();
    assert!(wanted.len() >= 6, "the image has keys of several types: {wanted:?}");
    for (name, clone) in clones {
        assert_eq!(keys(clone).into_iter().collect::<Vec<_>>(), wanted, "{name}: keys of the same types");
        let left: Vec<_> = GONE.iter().filter(|path| clone.contains_key(**path)).collect();
        assert!(left.is_empty(), "{name} still has {left:?}");
        let leases: Vec<_> = clone.keys().filter(|path| path.contains("lease") || path.contains("duid")).collect();
        assert!(leases.is_empty(), "{name}: {leases:?}");
        assert_eq!(clone.get(OWN_RULES), image.get(OWN_RULES), "{name}: what is the site's stays");
        assert!(is_hex(&clone[MACHINE_ID], 32), "{name}: {:?}", clone[MACHINE_ID]);
        assert_eq!(clone["var/lib/dbus/machine-id"], clone[MACHINE_ID], "{name}: one id for all");
        assert_eq!(clone[HOSTNQN], format!("nqn.2014-08.org.nvmexpress:uuid:{}", clone[HOSTID]), "{name}");
        assert!(clone[ISCSI].contains("InitiatorName=iqn.1993-08.org.debian:01:"), "{name}: {}", clone[ISCSI]);
    }
    wanted.extend([MACHINE_ID, RANDOM_SEED, ISCSI, HOSTNQN, HOSTID]);
    for path in wanted {
        let all = clones.iter().map(|(name, own)| (name.as_str(), own)).chain([("the image", image)]);
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, own) in all {
            let text = own.get(path).unwrap_or_else(|| panic!("{name} has no {path}"));
            // The comment after a key names its machine, and would make twins look different.
            let text =
                if path.ends_with(".pub") { text.rsplit_once(' ').map_or(text.as_str(), |it| it.0) } else { text };
            if let Some(other) = seen.insert(text, name) {
                panic!("{name} and {other} share {path}: {text}");
            }
        }
        println!("{path}: {} different ones", seen.len());
    }
}

/// The lines of a serial log that are about the way to the network.
fn way(serial: &str) -> Vec<&str> {
    let about = ["asking for an address", "of no use", "booted from", "network:", "link,", "renewed"];
    serial.lines().filter(|line| about.iter().any(|it| line.contains(it))).collect()
}

/// The third machine has three network cards, that from which it boots last of them: one leads elsewhere, one nowhere.
fn with_three_cards(story: &Story, client: &Client, dir: &Path) -> (Machine, Monitor, Host) {
    let (elsewhere, tap) = story.network.beside("elsewhere", "172.31.9.1/24").expect("another network");
    let idle = story.network.tap().expect("a tap");
    let machine = story.machine(client).expect("a machine").boot(Boot::Network);
    let machine = machine.nic(&tap, "52:54:00:77:03:01", Model::E1000).rom(Rom::None).slot(4);
    let machine = machine.nic(&idle, "52:54:00:77:03:02", Model::E1000).rom(Rom::None).slot(5);
    let (machine, monitor) = Monitor::of(machine, &dir.join("three.qmp"));
    (machine, monitor, elsewhere)
}

fn installed(client: &Client, machine: &mut Running, dir: &Path) {
    let line = machine.wait_serial("systemimager: install", INSTALL).unwrap_or_else(|error| {
        let log = |name: &str| run::tail(&fs::read_to_string(dir.join(name)).unwrap_or_default(), 30);
        panic!("{}: {error:#}\nserve:\n{}\nforeign:\n{}", client.name, log("serve.log"), log("foreign.log"))
    });
    assert!(line.contains("installed"), "{}: {line}\n{}", client.name, run::tail(&machine.serial(), 40));
}

/// The image server's DHCP server as `serve` configures it for one declared machine; and its log.
fn our_dhcp(server: &Host, mac: &str, dir: &Path) -> (Daemon, PathBuf) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    let tftp = dir.join("tftpboot");
    fs::create_dir(&tftp).expect("mkdir");
    fs::write(tftp.join("loader.0"), "no program at all").expect("written");
    let declared = Declared {
        host: "node1".try_into().expect("a name"),
        link: HostLink::Copy,
        address: Some("10.77.0.11".parse().expect("an address")),
        full_name: None,
        mac: Some(mac.parse().expect("a MAC")),
    };
    let place =
        interface::Place { interface: "eth0".into(), network: "10.77.0.1/24".parse().expect("a network"), ula: None };
    let input = dnsmasq::Input {
        place: &place,
        dhcp: &DhcpSettings { mode: DhcpMode::Server, ..DhcpSettings::default() },
        clients: &[declared],
        boot_files: &[BootFile { client_arch: 0, name: "loader.0".into() }],
        tftp_root: tftp,
        lease_file: dir.join("leases"),
        pid_file: dir.join("pid"),
        user: None,
    };
    let (conf, log) = (dir.join("dnsmasq.conf"), dir.join("dnsmasq.log"));
    fs::write(&conf, dnsmasq::config(&input).expect("a configuration").text).expect("written");
    let conf = format!("--conf-file={}", conf.display());
    let argv = ["dnsmasq", "--keep-in-foreground", "--log-facility=-", "--user=root", &conf];
    (spawn_dnsmasq(server, &argv, &log), log)
}

/// The rest of a wire is somebody else's: who is not declared gets an address from the site's server, undisturbed.
#[test]
fn a_stranger_is_left_to_the_sites_dhcp() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("busybox"));
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    let network = Network::new().expect("a network");
    let server = network.host("server", "10.77.0.1/24").expect("a host");
    let site = network.host("site", "192.168.66.1/24").expect("a host");
    let (_ours, log) = our_dhcp(&server, "52:54:00:77:01:01", dir);
    let (_site, site_log) = foreign_dhcp(&site, "site", 0, dir);
    let stranger = network.host("stranger", "").expect("a host");
    let asked = stranger.run(&["busybox", "udhcpc", "-i", "eth0", "-fqn", "-t", "4", "-T", "2", "-s", "/bin/true"]);
    let said = |log: &Path| fs::read_to_string(log).expect("a log");
    assert!(asked.is_ok(), "{asked:?}\nours:\n{}\nthe site's:\n{}", said(&log), said(&site_log));
    assert_eq!(leases(&site_log), (0, 1), "{}", said(&site_log));
    assert!(!said(&log).contains("DHCPNAK"), "{}", said(&log));
}

/// iPXE by itself takes the last offer that it hears, of whomever.
#[test]
fn firmware_takes_the_image_servers_offer() {
    require!(Need::VirtualMachines, Need::Program("dnsmasq"));
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path();
    let (mac, network) = ("52:54:00:77:01:01", Network::new().expect("a network"));
    let server = network.host("server", "10.77.0.1/24").expect("a host");
    let foreign = network.host("foreign", "192.168.66.1/24").expect("a host");
    let (_foreign, foreign_log) = foreign_dhcp(&foreign, "foreign", 1, dir);
    let (_ours, log) = our_dhcp(&server, mac, dir);
    let tap = network.tap().expect("a tap");
    let machine = Machine::new("firmware", dir).memory(256).exit_on_restart().boot(Boot::Network);
    let _running = machine.nic(&tap, mac, Model::E1000).spawn().expect("it starts");
    let told = wait_until(FIRMWARE, "an end of it", || {
        let said = fs::read_to_string(&log)?;
        let fetched = said.lines().any(|line| line.contains(" sent ") && line.contains("loader.0 to 10.77.0.11"));
        let led_astray = leases(&foreign_log).0 > 0;
        Ok((fetched || led_astray).then_some(fetched))
    });
    let show = || {
        let end = |log: &Path| run::tail(&fs::read_to_string(log).unwrap_or_default(), 40);
        format!("ours:\n{}\nforeign:\n{}", end(&log), end(&foreign_log))
    };
    assert!(told.unwrap_or_else(|error| panic!("{error:#}\n{}", show())), "it took the foreign offer; {}", show());
    wait_until(PATIENCE, "the foreign server's offer", || {
        Ok(fs::read_to_string(&foreign_log)?.contains("DHCPOFFER(eth0) 192.168.66.").then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}; {}", show()));
}

#[test]
fn three_clones_are_no_twins() {
    require!(Need::VirtualMachines, Need::Long, Need::Program("dnsmasq"), Need::Program("nft"));
    let directory =
        tempfile::Builder::new().prefix("systemimager-clones-").tempdir_in("/var/tmp").expect("a directory");
    let dir = directory.path();
    let mut story = Story::with_image(dir).expect("a server with an image");
    be_careless(&story.image());
    let image = run::run_argv(&["sh", "-c", COLLECT, "sh", &story.image().to_string_lossy()]).expect("the image's own");
    let image = own(&image);

    let foreign = story.network.host("foreign", "192.168.66.1/24").expect("a host");
    let (_foreign, foreign_log) = foreign_dhcp(&foreign, "foreign", 0, dir);
    let clients = story.clients(3).expect("machines are declared");
    slow_down(&story.server);
    story.serve().expect("the server serves");
    let (third, monitor, elsewhere) = with_three_cards(&story, &clients[2], dir);
    let (_elsewhere, elsewhere_log) = foreign_dhcp(&elsewhere, "elsewhere", 0, dir);

    // At once; and all of them ask the network first at every start, as firmware often does.
    let mut machines: Vec<Running> =
        clients[..2].iter().map(|it| story.boot_by_network(it).expect("it starts")).collect();
    machines.push(third.spawn().expect("it starts"));
    monitor.cable(2, false).expect("the third card has no link");
    for (client, machine) in clients.iter().zip(&mut machines) {
        installed(client, machine, dir);
        println!("{}:\n  {}", client.name, way(&machine.serial()).join("\n  "));
    }
    for (client, machine) in clients.iter().zip(&machines) {
        let serial = machine.serial();
        // The foreign server was first, its lease was tried, and given up.
        let tried = serial.lines().find(|line| line.contains("of no use") && line.contains("192.168.66.1:"));
        assert!(tried.is_some(), "{}: {:?}", client.name, way(&serial));
        assert!(serial.contains(&format!("this is {} (by ", client.name)), "{}", client.name);
    }
    let serial = machines[2].serial();
    assert!(serial.contains("booted from eth2"), "the boot card is the last: {:?}", way(&serial));
    assert!(!serial.contains("asking for an address on eth1"), "it has no link: {:?}", way(&serial));
    assert!(lost(&story.server) >= 3, "every agent asked in vain at first");
    println!(
        "leases of firmware and agents: {:?} foreign, {:?} elsewhere",
        leases(&foreign_log),
        leases(&elsewhere_log)
    );
    assert_eq!(leases(&foreign_log).0, 0, "firmware is told whose offer to take");
    assert!(leases(&foreign_log).1 >= 3 && leases(&elsewhere_log).1 >= 1);

    let mut clones = Vec::new();
    for (client, machine) in clients.iter().zip(&mut machines) {
        let marker = story.wait_up(client, machine).expect("it comes up from its disk");
        assert_eq!(marker.host, client.name);
        assert_eq!(marker.addresses, [client.address.as_str()], "the declared one, and no other");
        assert!(marker.root_device.contains(client.kernel_name()), "{marker:?}");
        let ssh = story.ssh(client).expect("ssh answers");
        let clone = own(&ssh.run(&["sh", "-c", COLLECT, "sh", "/"]).expect("its own"));
        // What sshd shows to others is what is on the disk, of every type.
        let address = client.address.split('/').next().unwrap_or_default();
        let shown = story.server.run(&["ssh-keyscan", "-T", "60", address]).expect("ssh-keyscan");
        for path in keys(&clone).into_iter().filter(|path| path.ends_with(".pub")) {
            let words: Vec<&str> = clone[path].split(' ').collect();
            assert!(shown.contains(&words[..2].join(" ")), "{}: {path} is not shown:\n{shown}", client.name);
        }
        // Asks nothing: no question of a first boot, no unit that failed, and an id that lasts.
        let serial = machine.serial();
        assert!(!serial.contains("Press any key") && !serial.contains("Welcome to your new"), "{}", client.name);
        let failed = ssh.run(&["systemctl", "--failed", "--plain", "--no-legend"]).expect("systemctl");
        assert_eq!(failed.trim(), "", "{}: units failed", client.name);
        let asked = ssh.run(&["systemctl", "show", "-P", "ConditionResult", "systemd-firstboot"]).expect("systemctl");
        assert_eq!(asked.trim(), "no", "{}: systemd-firstboot ran", client.name);
        let over = ssh.run(&["sh", "-c", "findmnt -n /etc/machine-id || true"]).expect("findmnt");
        assert_eq!(over.trim(), "", "{}: the machine-id is on the disk", client.name);
        let links = ssh.run(&["ip", "-br", "link"]).expect("ip");
        println!("{} is up as {:?}\n{links}", client.name, marker.addresses);
        clones.push((client.name.clone(), clone));
    }
    nobody_is_a_twin(&image, &clones);
    story.stop_serving().expect("the server ends in good order");
}

#[test]
fn a_switch_may_be_slow() {
    require!(Need::VirtualMachines, Need::Long);
    let directory =
        tempfile::Builder::new().prefix("systemimager-clones-").tempdir_in("/var/tmp").expect("a directory");
    let dir = directory.path();
    let mut story = Story::with_image(dir).expect("a server with an image");
    let clients = story.clients(2).expect("machines are declared");
    story.serve().expect("the server serves");
    // From a medium: firmware would have to wait for the switch as well.
    let boot = story.root().join("tftpboot");
    let machine = |name: &str, mac: &str| {
        let (kernel, initrd) = (boot.join("kernel"), Some(boot.join("initrd.img")));
        let append =
            format!("console=ttyS0,115200 no_timer_check si.server=10.77.0.1 BOOTIF=01-{}", mac.replace(':', "-"));
        let tap = story.network.tap().expect("a tap");
        let machine = Machine::new(name, dir).boot(Boot::Kernel { kernel, initrd, append });
        (machine.nic(&tap, mac, Model::E1000).rom(Rom::None).exit_on_restart(), tap)
    };
    // One card has no link for so long; the other's port passes nothing, as a switch does that learns its tree.
    let (first, _) = machine("node1", clients[0].mac());
    let (first, monitor) = Monitor::of(first, &dir.join("one.qmp"));
    let (second, tap) = machine("node2", clients[1].mac());
    tap.silence(true).expect("silenced");
    let mut machines = [first.spawn().expect("it starts"), second.spawn().expect("it starts")];
    monitor.cable(0, false).expect("the cable is out");
    for (machine, says) in machines.iter_mut().zip([": no link, not asked", ": link, no answer from a DHCP server"]) {
        // The network has been waited for since the drivers were loaded, and is asked about every 15 seconds.
        for _ in 0..3 {
            let line = machine.wait_serial("after ", AGENT).expect("it says what it waits for");
            assert!(line.contains(says), "{line}");
        }
    }
    monitor.cable(0, true).expect("the cable is in");
    tap.silence(false).expect("it passes again");
    for (client, machine) in clients.iter().zip(&mut machines) {
        let line = machine.wait_serial("[2/9] network: ", AGENT).expect("it has the network");
        let line = if line.contains(" has ") { line } else { machine.wait_serial(" has ", AGENT).expect("a lease") };
        println!("{line}");
        assert!(line.contains(&format!("has {} (DHCP server 10.77.0.1)", client.address)), "{line}");
        assert!(!machine.serial().contains("trying again"), "{}", run::tail(&machine.serial(), 30));
        machine.wait_serial(&format!("this is {} (by ", client.name), AGENT).expect("it knows who it is");
        machine.kill().expect("nothing more is asked of it");
    }
    story.stop_serving().expect("the server ends in good order");
}
