//! `makedhcpserver` and `makedhcpstatic` with the real servers: what they write makes dhcpd, dnsmasq and Kea name the
//! image server and the boot file, and machines keep the addresses that they have.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use systemimager_tests::lab::netns::{Host, Network};
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::{self, Need};
use systemimager_tests::{require, story};

/// How long a daemon may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);
/// Settings as an administrator has them, with the server's own DHCP on.
const SETTINGS: &str = "# ours\n[dhcp] # here\nmode = \"server\" # for now\ndomain = \"example.org\"\n";
/// A site's configuration for Kea: comments, its own lease file, no subnet.
const KEA: &str = "{\n# the site's own\n\"Dhcp4\": {\n    \"interfaces-config\": { \"interfaces\": [ ] }, // none yet\n    \
    \"lease-database\": { \"type\": \"memfile\", \"name\": \"LEASES\" }\n}\n}\n";

/// A daemon, ended with the test, or when it is stopped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A DHCP server's program: what it is called, where its files are below the root, and how it is run.
struct Program {
    flavor: &'static str,
    conf: &'static str,
    leases: &'static str,
    /// What it says once it serves.
    serves: &'static str,
    /// A line that it refuses, and what it stands after; nothing: at the end.
    wrong: (&'static str, &'static str),
    /// What it says of that line.
    says: &'static str,
}

const ISC: Program = Program {
    flavor: "isc",
    conf: "etc/dhcp/dhcpd.conf",
    leases: "var/lib/dhcp/dhcpd.leases",
    serves: "Server starting service",
    wrong: ("", "no-such-statement 1;\n"),
    says: "no-such-statement",
};
const DNSMASQ: Program = Program {
    flavor: "dnsmasq",
    conf: "etc/dnsmasq.d/systemimager.conf",
    leases: "var/lib/misc/dnsmasq.leases",
    serves: ": started, version",
    wrong: ("", "no-such-option=1\n"),
    says: "bad option at line 1",
};
const KEA4: Program = Program {
    flavor: "kea",
    conf: "etc/kea/kea-dhcp4.conf",
    leases: "var/lib/kea/kea-leases4.csv",
    serves: "DHCP4_STARTED",
    wrong: ("\"Dhcp4\": {\n", "    \"no-such-thing\": 1,\n"),
    says: "no-such-thing",
};

/// An image server's files, its network, and a machine.
struct Lab {
    program: Program,
    dir: tempfile::TempDir,
    stage: PathBuf,
    network: Network,
    server: Host,
}

impl Lab {
    fn new(program: Program) -> Option<Self> {
        let stage = story::stage().inspect_err(|error| need::skipped(&need::test_name(), &error.to_string())).ok()?;
        let dir = tempfile::tempdir().expect("a directory");
        // dnsmasq and Kea are not root in all places.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let network = Network::new().expect("a network");
        let server = network.host("server", "10.77.0.1/24").expect("a host");
        let lab = Self { program, dir, stage, network, server };
        for file in [lab.program.conf, lab.program.leases, "etc/systemimager/x", "tftpboot/systemimager/x"] {
            fs::create_dir_all(lab.at(file).parent().expect("a directory")).expect("mkdir");
        }
        fs::write(lab.at("etc/systemimager/systemimager.toml"), SETTINGS).expect("written");
        if lab.program.flavor == "kea" {
            let text = KEA.replace("LEASES", &lab.at(lab.program.leases).display().to_string());
            fs::write(lab.conf(), text).expect("written");
        }
        Some(lab)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn conf(&self) -> PathBuf {
        self.at(self.program.conf)
    }

    /// All that lies beside the configuration.
    fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.conf().parent().expect("a directory")).expect("listed");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn command(&self, words: &[&str]) -> Command {
        let program = self.stage.join("bin/systemimager").display().to_string();
        let root = self.dir.path().display().to_string();
        self.server.command(&[&[program.as_str(), "--root", &root], words].concat())
    }

    /// The answer as JSON, or exit code and standard error.
    fn run(&self, words: &[&str]) -> Result<Value, (Option<i32>, String)> {
        let mut command = self.command(&[&["--json"], words].concat());
        let output = command.stdin(Stdio::null()).output().expect("it starts");
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).expect("JSON"));
        }
        Err((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// What `makedhcpserver` is told in all these tests.
    fn make(&self, more: &[&str]) -> Result<Value, (Option<i32>, String)> {
        let words = ["makedhcpserver", "--flavor", self.program.flavor, "--range", "10.77.0.50-10.77.0.60"];
        self.run(&[&words, ["--router", "10.77.0.254"].as_slice(), more].concat())
    }

    fn fix(&self, more: &[&str]) -> Result<Value, (Option<i32>, String)> {
        self.run(&[&["makedhcpstatic", "--flavor", self.program.flavor], more].concat())
    }

    /// Starts the server with what was written, and no leases.
    fn serve(&self) -> Daemon {
        let (conf, leases) = (self.conf().display().to_string(), self.at(self.program.leases));
        for old in ["", "~", ".1", ".2"] {
            let mut name = leases.clone().into_os_string();
            name.push(old);
            let _ = fs::remove_file(name);
        }
        let (leases_name, dir) = (leases.display().to_string(), self.dir.path().display().to_string());
        let mut command = match self.program.flavor {
            "isc" => {
                fs::write(&leases, "").expect("written");
                self.server.command(&["dhcpd", "-4", "-f", "-d", "--no-pid", "-cf", &conf, "-lf", &leases_name, "eth0"])
            }
            "dnsmasq" => self.server.command(&[
                "dnsmasq",
                "--keep-in-foreground",
                "--log-facility=-",
                "--port=0",
                "--user=root",
                "--pid-file=",
                "--interface=eth0",
                "--bind-interfaces",
                &format!("--conf-file={conf}"),
                &format!("--dhcp-leasefile={leases_name}"),
            ]),
            _ => self.server.command(&["kea-dhcp4", "-c", &conf]),
        };
        command.env("KEA_LOCKFILE_DIR", "none").env("KEA_PIDFILE_DIR", &dir).env("KEA_DHCP_DATA_DIR", &dir);
        let log = self.at("server.log");
        let file = File::create(&log).expect("a log");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log")).stderr(file);
        let daemon = Daemon(command.spawn().expect("started"));
        let serves = self.program.serves;
        wait_until(PATIENCE, serves, || Ok(fs::read_to_string(&log)?.contains(serves).then_some(())))
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.log()));
        daemon
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("server.log")).unwrap_or_default()
    }

    /// What a machine gets that sends these options besides: each variable that udhcpc gives its script.
    fn lease(&self, machine: &Host, more: &[&str]) -> Lease {
        let (script, out) = (self.at("lease.sh"), self.at("lease.env"));
        let _ = fs::remove_file(&out);
        fs::write(&script, format!("#!/bin/sh\n[ \"$1\" = bound ] && env >{}\nexit 0\n", out.display()))
            .expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
        let script = script.display().to_string();
        let words =
            ["busybox", "udhcpc", "-i", "eth0", "-fqn", "-t", "5", "-T", "3", "-O", "hostname", "-s", script.as_str()];
        machine.run(&[&words, more].concat()).unwrap_or_else(|error| panic!("{error:#}\n{}", self.log()));
        Lease(fs::read_to_string(&out).expect("the lease"))
    }
}

/// Lines `NAME=VALUE`.
struct Lease(String);

impl Lease {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

fn machine_mac(machine: &Host) -> String {
    let link = machine.run(&["ip", "-json", "link", "show", "eth0"]).expect("a link");
    let link: Value = serde_json::from_str(&link).expect("JSON");
    link[0]["address"].as_str().expect("a MAC address").to_owned()
}

/// From nothing to static entries, with the real server.
fn story(program: Program) {
    require!(Need::NetworkNamespaces, Need::Program("busybox"), Need::Program("rsync"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let Some(lab) = Lab::new(program) else { return };
    let settings = || fs::read_to_string(lab.at("etc/systemimager/systemimager.toml")).expect("settings");
    let before = fs::read_to_string(lab.conf()).unwrap_or_default();

    // Two servers are not on by mistake, and nothing is guessed in a script.
    let (code, says) = lab.make(&[]).expect_err("two servers");
    assert!(code == Some(2) && says.contains("answer with --set-mode"), "{code:?} {says}");
    let (code, says) = lab.run(&["makedhcpserver", "--flavor", lab.program.flavor]).expect_err("no range");
    assert!(code == Some(2) && says.contains("answer with --range"), "{code:?} {says}");
    let dry = lab.make(&["--dry-run"]).expect("shown");
    assert!(dry["changed"] == true && dry["written"] == false, "{dry}");
    assert!(dry["diff"].as_str().is_some_and(|diff| diff.contains("10.77.0.50")), "{dry}");
    assert_eq!(settings(), SETTINGS);
    assert_eq!(fs::read_to_string(lab.conf()).unwrap_or_default(), before);
    let elsewhere = lab.at("elsewhere.conf").display().to_string();
    lab.make(&["--output", &elsewhere]).expect("written elsewhere");
    assert_eq!(fs::read_to_string(lab.conf()).unwrap_or_default(), before);

    let made = lab.make(&["--set-mode"]).expect("made");
    assert!(made["written"] == true && made["checked"] == true && made["mode_set"] == true, "{made}");
    assert_eq!(settings(), SETTINGS.replace("mode = \"server\"", "mode = \"off\""), "comments stay");
    let served = fs::read_to_string(lab.conf()).expect("written");
    assert_eq!(fs::read_to_string(&elsewhere).expect("written"), served);
    let again = lab.make(&[]).expect("made again");
    assert!(again["written"] == false && again["changed"] == false, "{again}");

    // Machines of each kind are told what to boot, and from where.
    let machine = lab.network.host("machine", "").expect("a host");
    let daemon = lab.serve();
    let boot_files = made["site"]["boot_files"].as_array().expect("boot files");
    assert!(!boot_files.is_empty(), "{made}");
    let told = |more: &[&str], name: &Value| {
        let lease = lab.lease(&machine, &[&["-x", "hostname:golden7"], more].concat());
        assert_eq!(lease.get("siaddr"), Some("10.77.0.1"), "{more:?}: {}", lease.0);
        assert_eq!(lease.get("boot_file"), name.as_str(), "{more:?}: {}", lease.0);
        assert_eq!(lease.get("router"), Some("10.77.0.254"), "{more:?}: {}", lease.0);
        assert_eq!(lease.get("domain"), Some("example.org"), "{more:?}: {}", lease.0);
        lease
    };
    for file in boot_files {
        let arch = file["client_arch"].as_u64().expect("a number");
        let lease = told(&["-x", &format!("0x5d:{arch:04x}")], &file["name"]);
        assert_eq!(lease.get("mask"), Some("24"), "{}", lease.0);
        if arch == 0 {
            told(&[], &file["name"]);
        }
    }
    // Firmware that nothing is there for is told nothing wrong.
    let lease = lab.lease(&machine, &["-x", "hostname:golden7", "-x", "0x5d:0bad"]);
    assert_eq!(lease.get("boot_file"), None, "{}", lease.0);
    let address = lease.get("ip").expect("an address").to_owned();
    drop(daemon);

    // It keeps the address, by an entry of its name.
    let mac = machine_mac(&machine);
    let fixed = lab.fix(&[]).expect("fixed");
    assert_eq!(
        fixed["entries"],
        serde_json::json!([{ "address": address, "host": "golden7", "mac": mac }]),
        "{fixed}\n{}",
        fs::read_to_string(lab.at(lab.program.leases)).unwrap_or_default()
    );
    assert!(fixed["checked"] == true && fixed["backup"].is_string(), "{fixed}");
    assert_eq!(fs::read_to_string(fixed["backup"].as_str().expect("a path")).expect("kept"), served);
    let entries = fs::read_to_string(lab.conf()).expect("written");
    assert_eq!(lab.fix(&[]).expect("again")["changed"], false);
    assert_eq!(lab.make(&[]).expect("the rest again")["changed"], false);

    // Whoever comes first gets another address, and the machine its own, with its name.
    let daemon = lab.serve();
    let other = lab.network.host("other", "").expect("a host");
    for _ in 0..2 {
        assert_ne!(lab.lease(&other, &[]).get("ip"), Some(address.as_str()));
    }
    let lease = lab.lease(&machine, &[]);
    assert_eq!(lease.get("ip"), Some(address.as_str()), "{}", lab.log());
    assert_eq!(lease.get("hostname"), Some("golden7"), "{}", lease.0);
    assert!(lease.get("boot_file").is_some() && lease.get("siaddr") == Some("10.77.0.1"), "{}", lease.0);
    drop(daemon);

    // The other one has no name: it gets no entry, and is told of. The first one's stays without its lease.
    let rest = lab.fix(&[]).expect("fixed");
    assert_eq!(rest["entries"], fixed["entries"], "{rest}");
    assert!(rest["skipped"].to_string().contains("it has no name"), "{rest}");
    assert_eq!(fs::read_to_string(lab.conf()).expect("there"), entries);

    refusals(&lab, &entries);
}

/// What is garbled or refused changes nothing.
fn refusals(lab: &Lab, entries: &str) {
    let leases = lab.at(lab.program.leases);
    let good = fs::read_to_string(&leases).expect("leases");
    let files = lab.beside();
    fs::write(&leases, format!("{good}\n1 2 \u{1b}[2J\nlease x {{\n")).expect("written");
    let (_, says) = lab.fix(&[]).expect_err("garbled");
    assert!(says.contains("cannot be read") && says.contains("--skip-wrong") && !says.contains('\u{1b}'), "{says}");
    let left_out = lab.fix(&["--skip-wrong"]).expect("the rest");
    assert_ne!(left_out["unreadable"], serde_json::json!([]), "{left_out}");
    fs::write(&leases, [good.as_bytes(), b"\xff\xfe\n"].concat()).expect("written");
    let (_, says) = lab.fix(&[]).expect_err("no text");
    assert!(says.contains("this is no text (UTF-8)"), "{says}");
    fs::write(&leases, &good).expect("written");
    assert_eq!(fs::read_to_string(lab.conf()).expect("there"), entries);

    // A configuration that the server's own program refuses.
    let (after, wrong) = lab.program.wrong;
    let broken = match after {
        "" => format!("{wrong}{entries}"),
        after => entries.replacen(after, &format!("{after}{wrong}"), 1),
    };
    fs::write(lab.conf(), &broken).expect("written");
    let (code, says) = lab.make(&["--lease", "77"]).expect_err("refused");
    let wanted = format!("refuses the configuration, and {} stays as it is", lab.conf().display());
    assert!(code == Some(1) && says.contains(&wanted) && says.contains(lab.program.says), "{says}");
    assert_eq!(fs::read_to_string(lab.conf()).expect("there"), broken);
    assert_eq!(lab.beside(), files, "nothing is left over");
    lab.make(&["--lease", "77", "--no-check"]).expect("as one likes");
    fs::write(lab.conf(), entries).expect("written");

    // The contradiction is noticed by all that look.
    fs::write(lab.at("etc/systemimager/systemimager.toml"), SETTINGS).expect("written");
    let served = lab.command(&["serve"]).stdin(Stdio::null()).output().expect("it starts");
    let says = String::from_utf8_lossy(&served.stderr);
    assert!(!served.status.success() && says.contains("two servers would answer"), "{says}");
    for command in ["check", "doctor"] {
        let output = lab.command(&[command]).stdin(Stdio::null()).output().expect("it starts");
        let says = String::from_utf8_lossy(&output.stdout);
        let told = says.lines().any(|line| line.starts_with("NO") && line.contains("two servers would answer"));
        assert!(told, "{command}: {says}");
    }
    let (code, says) = lab.fix(&[]).expect_err("its own DHCP is on");
    assert!(code == Some(2) && says.contains("answer with --set-mode"), "{says}");
}

#[test]
fn isc_dhcpd_serves_what_is_written() {
    require!(Need::Program("dhcpd"));
    story(ISC);
}

#[test]
fn dnsmasq_serves_what_is_written() {
    require!(Need::Program("dnsmasq"));
    story(DNSMASQ);
}

#[test]
fn kea_serves_what_is_written() {
    require!(Need::Program("kea-dhcp4"));
    story(KEA4);
}

/// On a terminal everything is asked for, with what is known as default.
#[test]
fn a_terminal_is_asked() {
    require!(Need::NetworkNamespaces, Need::Program("dhcpd"), Need::Program("script"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let Some(lab) = Lab::new(ISC) else { return };
    let program = lab.stage.join("bin/systemimager").display().to_string();
    let words = format!("{program} --root {} makedhcpserver", lab.dir.path().display());
    let mut command = lab.server.command(&["script", "-qec", &words, "/dev/null"]);
    let answers = lab.at("answers");
    // Program, network, server, range, router, name servers, domain, lease, and whether the mode may be set.
    fs::write(&answers, "isc\n\n\n10.77.0.50-10.77.0.60\n\n10.77.0.2\n\n900\nyes\n").expect("written");
    let output = command.stdin(File::open(&answers).expect("answers")).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for asked in [
        "Which program serves DHCP (isc, dnsmasq, kea)",
        "Network of the machines, as 10.0.0.0/23 [10.77.0.0/24]: ",
        "Address of this image server [10.77.0.1]: ",
        "or none: ",
        "Router, or none [none]: ",
        "Name servers, or none [none]: ",
        "Domain, or none [example.org]: ",
        "Seconds of a lease [3600]: ",
        "two servers must not; set the mode",
    ] {
        assert!(said.contains(asked), "{asked}: {said}");
    }
    let conf = fs::read_to_string(lab.conf()).expect("written");
    for line in ["  range 10.77.0.50 10.77.0.60;\n", "option domain-name-servers 10.77.0.2;\n", "-lease-time 900;\n"] {
        assert!(conf.contains(line), "{line}: {conf}");
    }
    let settings = fs::read_to_string(lab.at("etc/systemimager/systemimager.toml")).expect("settings");
    assert_eq!(settings, SETTINGS.replace("mode = \"server\"", "mode = \"off\""));
}

/// A machine keeps what `serve`'s own dnsmasq gave it, when the site's server takes over.
#[test]
fn leases_of_our_own_server_count() {
    require!(Need::NetworkNamespaces, Need::Program("dhcpd"));
    let Some(lab) = Lab::new(ISC) else { return };
    let leases = lab.at("var/lib/systemimager/dhcp.leases");
    fs::create_dir_all(leases.parent().expect("a directory")).expect("mkdir");
    fs::write(&leases, "0 52:54:00:00:00:01 10.77.0.9 golden1 *\n0 52:54:00:00:00:02 10.9.0.9 golden2 *\n")
        .expect("written");
    let fixed = lab.fix(&["--set-mode"]).expect("fixed");
    let entry = serde_json::json!([{ "address": "10.77.0.9", "host": "golden1", "mac": "52:54:00:00:00:01" }]);
    assert_eq!(fixed["entries"], entry, "{fixed}");
    assert!(fixed["skipped"].to_string().contains("outside of 10.77.0.0/24"), "{fixed}");
    assert!(Path::new(&lab.conf()).exists(), "{fixed}");
}
