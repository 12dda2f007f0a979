//! The image server for real: the built program, in network namespaces of its own, with dnsmasq, rsync and
//! HTTP, against machines that ask for addresses and files.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use systemimager_tests::lab::netns::{Host, Network};
use systemimager_tests::lab::run;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::{self, Need};
use systemimager_tests::{require, story};

/// How long the server may take to get ready, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
const SERVER: &str = "10.77.0.1";
const PORT: u16 = 8069;
const MASTER: &str = r#"format = 1
image = "web"
transports = ["rsync"]
partitioner = "sfdisk"
bootloader = "none"
allow_keyless = true
[identity]
plugin = "hosts"
"#;

/// Where the staged programs are, or the test is skipped.
macro_rules! stage {
    () => {
        match story::stage() {
            Ok(stage) => stage,
            Err(error) => {
                need::skipped(&need::test_name(), &error.to_string());
                return;
            }
        }
    };
}

/// The files of an image server, with one image.
struct Files {
    dir: tempfile::TempDir,
    stage: PathBuf,
}

impl Files {
    fn new(stage: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        // dnsmasq is not root when it serves.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let files = Self { dir, stage };
        for made in ["etc", "tftpboot/systemimager", "var/spool/systemimager/images/web/etc", "var/lib/systemimager"] {
            fs::create_dir_all(files.at(made)).expect("mkdir");
        }
        files.put("etc/hosts", "127.0.0.1 localhost\n10.77.0.1 server\n");
        files.put("tftpboot/systemimager/web.master", MASTER);
        files.put("tftpboot/kernel", "the kernel");
        files.put("tftpboot/initrd.img", &"initrd ".repeat(100_000));
        files.put("var/spool/systemimager/images/web/etc/hostname", "golden\n");
        files
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).expect("written");
    }

    /// One more image, with this master.
    fn image(&self, name: &str, master: &str) {
        fs::create_dir_all(self.at("var/spool/systemimager/images").join(name).join("etc")).expect("mkdir");
        self.put(&format!("tftpboot/systemimager/{name}.master"), master);
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn argv(&self, words: &[&str]) -> Vec<String> {
        let program = self.stage.join("bin/systemimager").display().to_string();
        let root = self.dir.path().display().to_string();
        [program, "--root".into(), root].into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    fn run(&self, words: &[&str]) -> Output {
        run::output(&mut run::command(&self.argv(words)).expect("a command")).expect("started")
    }

    /// Runs a command that must succeed; its standard output.
    fn done(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command that must fail with status 1; what it says, without the program's name.
    fn refused(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
        said.strip_prefix("systemimager: ")
            .unwrap_or(&said)
            .trim_end()
            .replace(&self.dir.path().display().to_string(), "")
    }

    /// All paths with their contents or targets.
    fn all(&self) -> BTreeMap<PathBuf, String> {
        let lock = self.at("var/lib/systemimager/clients.lock");
        walkdir::WalkDir::new(self.dir.path())
            .into_iter()
            .map(|entry| entry.expect("listed"))
            .filter(|entry| entry.path() != lock)
            .map(|entry| {
                let path = entry.path();
                let kind = entry.file_type();
                let shown = if kind.is_symlink() {
                    fs::read_link(path).expect("a link").display().to_string()
                } else if kind.is_file() {
                    fs::read_to_string(path).expect("text")
                } else {
                    String::new()
                };
                (path.to_path_buf(), shown)
            })
            .collect()
    }
}

#[test]
fn addclients_refuses_before_anything_is_touched() {
    let files = Files::new(stage!());
    files.put("bad.csv", "www1,52:54:00:00:00\n");
    files.put("stranger.csv", "x1,52:54:00:00:00:01\n");
    files.put(
        "tftpboot/systemimager/broken.master",
        &MASTER.replace("\"web\"", "\"broken\"").replace("sfdisk\"", "sfdisk"),
    );
    fs::create_dir_all(files.at("var/spool/systemimager/images/broken")).expect("mkdir");
    fs::create_dir_all(files.at("var/spool/systemimager/images/fresh")).expect("mkdir");
    let before = files.all();
    let bad_csv = files.at("bad.csv").display().to_string();
    let stranger = files.at("stranger.csv").display().to_string();
    let web = ["--image", "web"];
    let rows: [(&str, Vec<&str>, &str); 13] = [
        ("unknown image", vec!["www1", "--image", "wbe"], "there is no image \"wbe\" (there: broken, fresh, web)"),
        (
            "image without master",
            vec!["www1", "--image", "fresh"],
            "the image fresh has no master file /tftpboot/systemimager/fresh.master; write it with getimage --update-master yes",
        ),
        ("broken master", vec!["www1", "--image", "broken"], "/tftpboot/systemimager/broken.master:4:22: "),
        (
            "no image named",
            vec!["www1"],
            "Which image (broken, fresh, web): nobody can be asked here; answer with --image",
        ),
        (
            "no host",
            web.to_vec(),
            "What all host names begin with, or which machines, as www[1-300]: nobody can be asked here; answer with HOSTS, or --base \
             and --range",
        ),
        (
            "malformed host",
            [&["www_1"], web.as_slice()].concat(),
            "hosts \"www_1\", column 1: \"www_1\" is not a host name: '_' is not allowed; use letters, digits and '.', '-'",
        ),
        (
            "open bracket",
            [&["www[1-3"], web.as_slice()].concat(),
            "hosts \"www[1-3\", column 8: the ] that closes this set is missing",
        ),
        (
            "leaves the prefix",
            [&["--base", "www", "--range", "1-300", "--ip", "10.77.0.11/24"], web.as_slice()].concat(),
            "300 hosts from 10.77.0.11/24 on do not fit: the prefix 10.77.0.0/24 ends with 10.77.0.254, which leaves room for \
             244; begin earlier, or give a shorter prefix",
        ),
        (
            "the network's address",
            [&["www1", "--ip", "10.77.0.0/24"], web.as_slice()].concat(),
            "10.77.0.0/24 is the network's own address and no host's; begin with 10.77.0.1 or a later one",
        ),
        (
            "an address that is taken",
            [&["www[1-2]", "--ip", "10.77.0.1/24"], web.as_slice()].concat(),
            "/etc/hosts:2: 10.77.0.1 is server's and cannot be www1's; choose other addresses, or remove that line",
        ),
        (
            "malformed MAC",
            [&["www1", "--macs", &bad_csv], web.as_slice()].concat(),
            "/bad.csv:1:6: \"52:54:00:00:00\" is not a MAC address; write for example 52:54:00:12:34:56",
        ),
        (
            "MAC of a host that was not named",
            [&["www1", "--macs", &stranger], web.as_slice()].concat(),
            "MAC addresses are given for x1, which is not among the hosts named; name those hosts too, or take the lines out",
        ),
        (
            "no such file",
            [&["www1", "--macs", "/nowhere"], web.as_slice()].concat(),
            "reading /nowhere: No such file or directory (os error 2)",
        ),
    ];
    for (name, words, says) in rows {
        let said = files.refused(&[&["addclients"], words.as_slice()].concat());
        if says.ends_with(": ") {
            assert!(said.starts_with(says), "{name}: {said}");
        } else {
            assert_eq!(said, says, "{name}");
        }
        assert_eq!(files.all(), before, "{name}: something was touched");
    }
    // What clap refuses is a matter of usage.
    for (name, words) in [
        ("malformed image", ["addclients", "www1", "--image", "../web"].as_slice()),
        ("no prefix", &["addclients", "www1", "--image", "web", "--ip", "10.77.0.11"]),
        ("base without range", &["addclients", "--base", "www", "--image", "web"]),
    ] {
        assert_eq!(files.run(words).status.code(), Some(2), "{name}");
        assert_eq!(files.all(), before, "{name}: something was touched");
    }
}

#[test]
fn machines_are_declared_by_serial_number() {
    let files = Files::new(stage!());
    let add = |lines: &str| {
        files.put("serials.csv", lines);
        let list = files.at("serials.csv").display().to_string();
        ["addclients", "www1", "--image", "web", "--serials", &list].map(str::to_owned)
    };
    let before = files.all();
    for (lines, says) in [
        (
            "www1,To be filled by O.E.M.\n",
            "/serials.csv:1:6: \"To be filled by O.E.M.\" is what firmware says that has no",
        ),
        ("www9,CZJ1234X0Y\n", "serial numbers are given for www9, which is not among the hosts named"),
    ] {
        let said = files.refused(&add(lines).each_ref().map(String::as_str));
        assert!(said.contains(says), "{says}: {said}");
    }
    fs::remove_file(files.at("serials.csv")).expect("removed");
    assert_eq!(files.all(), before, "nothing is touched");
    files.done(&add("host,serial\nwww1, CZJ1234X0Y\n").each_ref().map(String::as_str));
    assert!(files.read("var/lib/systemimager/serials.csv").ends_with("\nwww1,CZJ1234X0Y\n"));
    let kept = fs::metadata(files.at("var/lib/systemimager/serials.csv")).expect("kept");
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
}

#[test]
fn check_tells_file_line_and_column() {
    let files = Files::new(stage!());
    files.done(&["addclients", "www1", "--image", "web"]);
    assert!(files.done(&["check"]).contains("ok  1 machines"));
    files.put(
        "tftpboot/systemimager/web.master",
        &MASTER.replace("\"sfdisk\"", "\"fdisk\"").replace("\"hosts\"", "\"\""),
    );
    std::os::unix::fs::symlink("gone.master", files.at("tftpboot/systemimager/www2.sh")).expect("symlink");
    files.put("tftpboot/systemimager/www3.sh", &MASTER.replace("\"rsync\"", "\"rsnyc\""));
    let output = files.run(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value =
        serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').next().expect("a line")).expect("JSON");
    let wrong = found["wrong"].as_array().expect("a list");
    let dir = files.at("tftpboot/systemimager").display().to_string();
    for says in [
        format!("{dir}/web.master:8:10: the host identity plugin is empty"),
        format!("{dir}/www3.sh:3:15: there is no transport plugin \"rsnyc\" (there: multicast, rsync, ssh)"),
        format!("{dir}/www2.sh leads to gone.master, which is not there"),
    ] {
        assert!(
            wrong.iter().any(|line| line.as_str().is_some_and(|line| line.starts_with(&says))),
            "{says}: {wrong:#?}"
        );
    }
    files.put("etc/systemimager.toml", "");
    fs::create_dir(files.at("etc/systemimager")).expect("mkdir");
    files.put("etc/systemimager/systemimager.toml", "[server]\nhtp_port = 1\n");
    assert!(files.refused(&["check"]).starts_with("/etc/systemimager/systemimager.toml:2:1: unknown field `htp_port`"));
}

/// A server that serves, on a network of its own.
struct Serving {
    child: Child,
    host: Host,
    network: Network,
    files: Files,
}

impl Serving {
    fn start(files: Files) -> Self {
        let network = Network::new().expect("a network");
        let host = network.host("server", "10.77.0.1/24").expect("a host");
        let child = spawn(&files, &host);
        let mut serving = Self { child, host, network, files };
        serving.wait_ready();
        serving
    }

    fn wait_ready(&mut self) {
        wait_until(PATIENCE, "the server to be ready", || {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("serve ended with {status}: {}", self.files.read("serve.err"));
            }
            Ok((!self.told().is_empty()).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.files.read("serve.err")));
    }

    /// Each list of children that it told of.
    fn told(&self) -> Vec<BTreeMap<String, u32>> {
        let out = File::open(self.files.at("serve.out")).expect("its output");
        BufReader::new(out)
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
            .filter_map(|line| {
                let children = line["serving"].as_array()?;
                children
                    .iter()
                    .map(|child| {
                        Some((child["name"].as_str()?.to_owned(), u32::try_from(child["pid"].as_u64()?).ok()?))
                    })
                    .collect()
            })
            .collect()
    }

    fn children(&self) -> BTreeMap<String, u32> {
        self.told().pop().expect("it told of children")
    }

    /// A request from the server's own host: status and body.
    fn http(&self, request: &str, body: &str) -> (u16, Vec<u8>) {
        let head = format!(
            "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
        let range = if request.ends_with("/kernel") { "Range: bytes=4-9\r\n" } else { "" };
        let whole = format!("{head}{range}\r\n{body}");
        self.host.inside(move || {
            let mut stream = TcpStream::connect((SERVER, PORT)).expect("connected");
            stream.write_all(whole.as_bytes()).expect("sent");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("read");
            let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
            let head = String::from_utf8(answer[..end].to_vec()).expect("text");
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
            let mut body = answer.split_off(end + 4);
            if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
                body = unchunked(&body);
            }
            (status, body)
        })
    }

    fn get(&self, path: &str) -> (u16, String) {
        let (status, body) = self.http(&format!("GET {path}"), "");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Orders an install of a host and takes the order up as the machine with this MAC address.
    fn token(&self, host: &str, mac: &str) -> String {
        self.files.done(&["install", host]);
        let hello = json!({ "mac": mac, "host": host, "boot": "b1" });
        let (status, word) = self.http("POST /v1/hello", &hello.to_string());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&word));
        let word: Value = serde_json::from_slice(&word).expect("JSON");
        assert_eq!(word["do"], "install", "{word}");
        word["token"].as_str().expect("a token").to_owned()
    }

    fn report(&self, token: &str, report: &Value) -> (u16, Vec<u8>) {
        self.http(
            &format!("POST /v1/reports HTTP/1.1\r\nAuthorization: Bearer {token}\r\nX-Rest:"),
            &report.to_string(),
        )
    }

    /// Waits for its end; status and standard error.
    fn ended(&mut self) -> (Option<i32>, String) {
        let child = &mut self.child;
        let status = wait_until(PATIENCE, "the server's end", || Ok(child.try_wait()?)).expect("an end");
        (status.code(), self.files.read("serve.err"))
    }

    fn signal(&self, signal: &str, pid: u32) {
        run::run_argv(&["kill", signal, &pid.to_string()]).expect("kill");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // A test that failed half-way: the network's end kills what is left in its namespaces.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).expect("hex"), 16).expect("hex");
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
    whole
}

fn spawn(files: &Files, host: &Host) -> Child {
    let mut command: Command = host.command(&files.argv(&["serve", "--json", "-v"]));
    let out = |name: &str| File::create(files.at(name)).expect("a log");
    command.stdin(Stdio::null()).stdout(out("serve.out")).stderr(out("serve.err")).spawn().expect("started")
}

fn lives(pid: u32) -> bool {
    // A zombie is dead, whoever forgot to bury it.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn gone(pids: impl IntoIterator<Item = u32>) {
    for pid in pids {
        wait_until(Duration::from_secs(10), "a child's end", || Ok((!lives(pid)).then_some(())))
            .expect("no child is left");
    }
}

/// Asks for an address; what the DHCP server said, as udhcpc gives it to its script.
fn lease(machine: &Host, mac: &str, files: &Files) -> BTreeMap<String, String> {
    machine.run(&["ip", "link", "set", "eth0", "address", mac]).expect("a MAC");
    let (script, out) = (files.at("lease.sh"), files.at("lease.env"));
    files.put("lease.sh", &format!("#!/bin/sh\n[ \"$1\" = bound ] && env >{}\nexit 0\n", out.display()));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let script = script.display().to_string();
    // Option 93, client architecture: 0 is BIOS.
    let argv = [
        "busybox",
        "udhcpc",
        "-i",
        "eth0",
        "-f",
        "-q",
        "-n",
        "-t",
        "5",
        "-T",
        "2",
        "-x",
        "0x5d:0000",
        "-O",
        "bootfile",
        "-s",
        &script,
    ];
    machine.run(&argv).expect("a lease");
    let text = fs::read_to_string(&out).expect("the lease");
    fs::remove_file(out).expect("removed");
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn machines_get_addresses_and_boot_files() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("busybox"), Need::Program("rsync"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let files = Files::new(stage!());
    files.put("macs.csv", "www2,52:54:00:00:00:02\n");
    let macs = files.at("macs.csv").display().to_string();
    files.done(&["addclients", "www[1-3,5]", "--image", "web", "--ip", "10.77.0.11/24", "--macs", &macs]);
    let serving = Serving::start(files);
    let (status, list) = serving.get("/v1/macs");
    assert!(status == 200 && list.contains("www2,52:54:00:00:00:02\n"), "{status} {list}");
    let machine = serving.network.host("machine", "").expect("a host");
    let named = lease(&machine, "52:54:00:00:00:02", &serving.files);
    assert_eq!(named.get("ip").map(String::as_str), Some("10.77.0.12"), "{named:?}");
    assert_eq!(named.get("hostname").map(String::as_str), Some("www2"), "{named:?}");
    assert_eq!(named.get("siaddr").map(String::as_str), Some(SERVER), "{named:?}");
    assert_eq!(named.get("router"), None, "the server is no router: {named:?}");
    let file = named.get("boot_file").or(named.get("bootfile")).expect("a boot file");
    let other = lease(&machine, "52:54:00:00:00:09", &serving.files);
    assert_eq!(other.get("ip").map(String::as_str), Some("10.77.0.11"), "the first that is nobody's: {other:?}");
    // The boot file, as firmware fetches it.
    machine.run(&["ip", "addr", "add", "10.77.0.11/24", "dev", "eth0"]).expect("an address");
    let fetched = serving.files.at("fetched").display().to_string();
    machine.run(&["busybox", "tftp", "-g", "-r", file, "-l", &fetched, SERVER]).expect("TFTP");
    assert_eq!(
        fs::read(&fetched).expect("fetched"),
        fs::read(serving.files.at("tftpboot").join(file)).expect("served")
    );
    let entry = serving.files.read("tftpboot/pxelinux.cfg/default");
    assert!(entry.contains("si.server=10.77.0.1 si.port=8069"), "{entry}");
    // The image, as a machine pulls it; and nobody else does.
    let into = serving.files.at("pulled/");
    fs::create_dir(&into).expect("mkdir");
    let into = into.display().to_string();
    let from = format!("rsync://{SERVER}/web/");
    machine.run(&["rsync", "-a", &from, &into]).expect("pulled");
    assert_eq!(fs::read_to_string(Path::new(&into).join("etc/hostname")).expect("pulled"), "golden\n");
    machine.run(&["ip", "addr", "del", "10.77.0.11/24", "dev", "eth0"]).expect("removed");
    machine.run(&["ip", "addr", "add", "10.77.0.99/24", "dev", "eth0"]).expect("an address");
    let error = machine.run(&["rsync", "-a", &from, &into]).expect_err("a stranger").to_string();
    assert!(error.contains("access denied") || error.contains("Unknown module") || error.contains("denied"), "{error}");
}

#[test]
fn http_answers_what_machines_ask() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let files = Files::new(stage!());
    files.done(&["addclients", "www[1-2]", "--image", "web", "--ip", "10.77.0.11/24"]);
    let own = MASTER.replace("\"none\"", "\"grub\"");
    fs::remove_file(files.at("tftpboot/systemimager/www2.sh")).expect("removed");
    files.put("tftpboot/systemimager/www2.sh", &own);
    std::os::unix::fs::symlink("/etc/hostname", files.at("tftpboot/systemimager/out.sh")).expect("symlink");
    let serving = Serving::start(files);
    for (path, status, says) in [
        ("/kernel", 206, "kernel"), // with a Range
        ("/boot/kernel", 206, "kernel"),
        ("/boot/absent", 404, "there is no boot file absent"),
        ("/boot/..%2f..%2fetc%2fhosts", 400, "is no name of a boot file"),
        ("/boot/.hidden", 400, "is no name of a boot file"),
        ("/v1/hosts", 200, "10.77.0.11\twww1\n"),
        ("/v1/macs", 404, "no MACs are declared"),
        ("/v1/hosts/www1/master", 200, MASTER),
        ("/v1/hosts/www1.example.org/master", 200, MASTER),
        ("/v1/hosts/www2/master", 200, own.as_str()),
        (
            "/v1/hosts/www9/master",
            404,
            "www9 has no image; give it one with: systemimager addclients www9 --image NAME\n",
        ),
        ("/v1/hosts/out/master", 500, "leads out of"),
        ("/v1/hosts/a_b/master", 400, "is not a host name"),
        ("/v1/images/web/master", 200, MASTER),
        ("/v1/images/none/master", 404, "there is no master file of the image none"),
        ("/v1/images/none/facts", 404, "there is no image none"),
        ("/v1/images/none/tree", 404, "there is no image none"),
        ("/v1/images/..%2f/facts", 400, "is not an image name"),
        ("/v1/blobs/00", 404, "no bundle holds a file of that hash"),
    ] {
        let (got, body) = serving.get(path);
        assert_eq!(got, status, "{path}: {body}");
        assert!(body.contains(says), "{path}: {body}");
    }
    let (status, body) = serving.http("GET /initrd.img", "");
    assert_eq!((status, body.len()), (200, 700_000));
    let facts = serving.json("/v1/images/web/facts");
    assert_eq!(facts["name"], "web");
    // Which tree it is; and who asked for its facts holds that tree until it reports an end.
    let tree = |serving: &Serving| serving.get("/v1/images/web/tree").1.trim_end().to_owned();
    let identity = facts["tree"].as_str().expect("text").to_owned();
    assert_eq!(identity, tree(&serving));
    let lock = serving.files.at("var/spool/systemimager/images/.locks").join(format!("web.{identity}"));
    let held = || run::run_argv(&["flock", "-n", &lock.display().to_string(), "true"]).is_err();
    assert!(held(), "{}", lock.display());
    // Who reports needs the token of an order.
    let token = serving.token("www2", "52:54:00:00:00:02");
    let end = json!({ "mac": "52:54:00:00:00:02", "sequence": 1, "event": "state", "state": "failed", "message": "x" });
    let (status, said) = serving.http("POST /v1/reports", &end.to_string());
    assert_eq!(
        (status, String::from_utf8_lossy(&said).trim_end()),
        (403, "this report carries no token of an order that is being carried out here; it is not taken")
    );
    assert!(held(), "a stranger's word changes nothing");
    assert_eq!(serving.report(&token, &end).0, 204);
    assert!(!held(), "let go");
    let images = serving.files.at("var/spool/systemimager/images");
    fs::rename(images.join("web"), images.join(".old")).expect("renamed");
    fs::create_dir(images.join("web")).expect("mkdir");
    assert_ne!(identity, tree(&serving), "another tree has its name");
    assert_eq!(serving.json("/v1/images/web/facts")["tree"], tree(&serving));

    let bundle = serving.json("/v1/images/web/bundle");
    let files = bundle["files"].as_array().expect("files");
    let rsync = files.iter().find(|file| file["path"] == "/usr/bin/rsync").expect("the transport's program");
    let (status, blob) = serving.http(&format!("GET /v1/blobs/{}", rsync["blake3"].as_str().expect("a hash")), "");
    assert_eq!((status, blake3::hash(&blob).to_hex().as_str()), (200, rsync["blake3"].as_str().expect("a hash")));
    let plugins = bundle["plugins"].to_string();
    assert!(
        plugins.contains("transport_rsync") && plugins.contains("boot_grub"),
        "also what a host's own master names: {plugins}"
    );

    let report = |sequence: u64, event: Value| {
        let mut report = json!({ "mac": "52:54:00:00:00:02", "host": "www2", "image": "web", "sequence": sequence });
        report.as_object_mut().expect("an object").extend(event.as_object().expect("an object").clone());
        serving.report(&token, &report)
    };
    assert_eq!(report(2, json!({ "event": "state", "state": "installing", "message": "now" })).0, 204);
    let hardware = json!({ "arch": "x86_64", "firmware": "bios", "memory": "1 GiB", "disks": [], "interfaces": [] });
    assert_eq!(report(3, json!({ "event": "hardware", "hardware": hardware })).0, 204);
    assert_eq!(report(4, json!({ "event": "log", "level": "info", "line": "hello" })).0, 204);
    for (name, body) in [("no JSON", "x".to_owned()), ("no MAC", report_text("../x")), ("large", "x".repeat(2 << 20))] {
        // A body that is refused half-way may also end in a cut connection; 2 MiB fit into the buffers here.
        let (status, answer) = serving.http("POST /v1/reports", &body);
        assert!((400..500).contains(&status), "{name}: {status} {}", String::from_utf8_lossy(&answer));
    }
    let machines = serving.json("/v1/status");
    assert_eq!((&machines[0]["host"], &machines[0]["state"]), (&json!("www2"), &json!("installing")));
    let shown = serving.files.done(&["status"]);
    assert!(shown.contains("www2") && shown.contains("installing"), "{shown}");
    let hardware: Value = serde_json::from_str(&serving.files.done(&["hardware", "www2"])).expect("JSON");
    assert_eq!(hardware["firmware"], "bios");
    assert_eq!(
        serving.files.refused(&["hardware", "www7"]),
        "www7 has not posted its hardware; it does when it boots the miniature system. There are: www2"
    );
}

fn report_text(mac: &str) -> String {
    json!({ "mac": mac, "sequence": 0, "event": "log", "level": "info", "line": "x" }).to_string()
}

#[test]
fn a_child_that_dies_is_started_again() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let files = Files::new(stage!());
    files.done(&["addclients", "www1", "--image", "web", "--ip", "10.77.0.11/24"]);
    let mut serving = Serving::start(files);
    let mut before = serving.children();
    assert_eq!(before.keys().collect::<Vec<_>>(), ["dnsmasq", "rsync"]);
    assert!(!serving.files.done(&["status"]).contains("the image server"), "all is well");
    for (victim, other) in [("dnsmasq", "rsync"), ("rsync", "dnsmasq")] {
        serving.signal("-KILL", before[victim]);
        wait_until(PATIENCE, "another process in its place", || {
            Ok(serving.children().get(victim).is_some_and(|pid| *pid != before[victim]).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", serving.files.read("serve.err")));
        let after = serving.children();
        assert_eq!(before[other], after[other], "the other serves on");
        let said = serving.files.read("serve.err");
        let words = format!("{victim} was killed by signal 9");
        assert!(said.contains(&words) && said.contains("; it is started again in 0.5 s"), "{said}");
        let shown = serving.files.done(&["status"]);
        assert!(
            shown.contains(&format!("the image server: {victim} runs again (process {}", after[victim])),
            "{shown}"
        );
        assert!(shown.contains(&words), "{shown}");
        before = after;
    }
    // They do what they are there for.
    require!(Need::Program("busybox"));
    let machine = serving.network.host("machine", "").expect("a host");
    let lease = lease(&machine, "52:54:00:00:00:02", &serving.files);
    assert_eq!(lease.get("ip").map(String::as_str), Some("10.77.0.11"), "{lease:?}");
    machine.run(&["ip", "addr", "add", "10.77.0.11/24", "dev", "eth0"]).expect("an address");
    let into = serving.files.at("pulled/").display().to_string();
    machine.run(&["rsync", "-a", &format!("rsync://{SERVER}/web/"), &into]).expect("pulled");

    // One that cannot be started again is tried ever later, with its last words each time, and the rest serves on.
    let taken = serving.host.inside(|| {
        // As another DHCP server has it: shared with nobody. It is free for a moment only while dnsmasq is dead.
        let socket = || std::net::UdpSocket::bind("0.0.0.0:67");
        std::thread::spawn(move || wait_until(PATIENCE, "the port", || Ok(socket().ok())).expect("bound"))
    });
    serving.signal("-KILL", before["dnsmasq"]);
    let taken = taken.join().expect("no panic");
    let me = format!("UDP port 67 is taken by {}", fs::read_to_string("/proc/self/comm").expect("a name").trim_end());
    wait_until(PATIENCE, "three tries", || {
        Ok((serving.files.read("serve.err").matches(&me).count() >= 3).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", serving.files.read("serve.err")));
    let said = serving.files.read("serve.err");
    assert!(said.contains(&format!("(process {}: ", std::process::id())), "{said}");
    let (first, later) = (said.find("it is tried again in 2 s"), said.find("it is tried again in 4 s"));
    assert!(first.is_some() && first < later, "{said}");
    assert_eq!(serving.get("/v1/hosts").0, 200);
    assert_eq!(serving.children().keys().collect::<Vec<_>>(), ["rsync"]);
    let shown = serving.files.done(&["status"]);
    assert!(shown.contains("the image server: dnsmasq does not run, and is started again and again"), "{shown}");
    assert!(shown.contains("failed to bind DHCP server socket: Address already in use"), "{shown}");
    // An end is not put off until the next try.
    let begun = std::time::Instant::now();
    serving.signal("-TERM", serving.child.id());
    let (code, said) = serving.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(taken);
    gone(before.into_values());
}

#[test]
fn ends_as_a_whole() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let stage = stage!();
    for (signal, name) in [("-TERM", "SIGTERM"), ("-INT", "SIGINT")] {
        let files = Files::new(stage.clone());
        files.done(&["addclients", "www1", "--image", "web", "--ip", "10.77.0.11/24"]);
        let mut serving = Serving::start(files);
        let children = serving.children();
        serving.signal(signal, serving.child.id());
        let (code, said) = serving.ended();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("{name}: ending")), "{said}");
        gone(children.into_values());
        assert!(
            !serving.files.at("run/systemimager/transports/rsync/rsyncd.conf").exists(),
            "a service's files go with it"
        );
    }
}

#[test]
fn serves_as_a_hardened_unit() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"), Need::Program("setpriv"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let unit = include_str!("../../dist/systemimager.service");
    let values = |key: &str| -> Vec<String> {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    assert_eq!(values("Type"), ["notify"]);
    let files = Files::new(stage!());
    files.done(&["addclients", "www1", "--image", "web", "--ip", "10.77.0.11/24"]);
    // What the unit takes away, as far as that can be done without systemd.
    let mut set = "-all".to_owned();
    for capability in values("CapabilityBoundingSet") {
        set.push_str(&format!(",+{}", capability.trim_start_matches("CAP_").to_lowercase()));
    }
    let network = Network::new().expect("a network");
    let host = network.host("server", "10.77.0.1/24").expect("a host");
    let heard = std::os::unix::net::UnixDatagram::bind(files.at("notify")).expect("bound");
    heard.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let argv = ["setpriv", "--bounding-set", &set, "--no-new-privs"].map(str::to_owned);
    let mut command = host.command(&[argv.as_slice(), &files.argv(&["serve", "--json", "-v"])].concat());
    let out = |name: &str| File::create(files.at(name)).expect("a log");
    command.env("NOTIFY_SOCKET", files.at("notify"));
    let child =
        command.stdin(Stdio::null()).stdout(out("serve.out")).stderr(out("serve.err")).spawn().expect("started");
    let mut serving = Serving { child, host, network, files };
    serving.wait_ready();
    let hear = || {
        let mut buffer = [0; 64];
        let count = heard.recv(&mut buffer).expect("told");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    let machine = serving.network.host("machine", "10.77.0.11/24").expect("a host");
    let fetched = serving.files.at("fetched").display().to_string();
    machine.run(&["busybox", "tftp", "-g", "-r", "lpxelinux.0", "-l", &fetched, SERVER]).expect("TFTP");
    let into = serving.files.at("pulled/").display().to_string();
    machine.run(&["rsync", "-a", &format!("rsync://{SERVER}/web/"), &into]).expect("pulled");
    // Tools are packed, and tried in a root directory of their own.
    let bundle = serving.json("/v1/images/web/bundle");
    assert!(bundle["files"].as_array().is_some_and(|files| !files.is_empty()), "{bundle}");
    let children = serving.children();
    for pid in children.values() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    }
    // It ends dnsmasq, which is another user by now, and starts it again.
    serving.signal("-KILL", children["dnsmasq"]);
    wait_until(PATIENCE, "another dnsmasq", || {
        Ok(serving.children().get("dnsmasq").is_some_and(|pid| *pid != children["dnsmasq"]).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", serving.files.read("serve.err")));
    serving.signal("-TERM", serving.child.id());
    assert_eq!(hear(), "STOPPING=1");
    let (code, said) = serving.ended();
    assert_eq!(code, Some(0), "{said}");
    gone(children.into_values());
}

#[test]
fn a_crash_leaves_nothing_that_the_next_start_does_not_end() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let files = Files::new(stage!());
    files.done(&["addclients", "www1", "--image", "web", "--ip", "10.77.0.11/24"]);
    let mut serving = Serving::start(files);
    let mut before = serving.children();
    serving.signal("-KILL", serving.child.id());
    assert_eq!(serving.ended().0, None, "killed by a signal");
    gone(before.remove("rsync"));
    // dnsmasq changed its user, and the kernel forgets then whom it was to die with.
    serving.child = spawn(&serving.files, &serving.host);
    serving.wait_ready();
    gone(before.into_values());
    assert!(serving.children().into_values().all(lives));
}

#[test]
fn changes_are_followed_without_cutting_pulls() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let files = Files::new(stage!());
    files.done(&["addclients", "www1", "--image", "web", "--ip", "10.77.0.11/24"]);
    let serving = Serving::start(files);
    let before = serving.children();
    serving.files.done(&["addclients", "www2", "--image", "web", "--ip", "10.77.0.12/24"]);
    let conf = "run/systemimager/transports/rsync/rsyncd.conf";
    wait_until(PATIENCE, "the new machine to be admitted", || {
        Ok(serving.files.read(conf).contains("10.77.0.11 10.77.0.12").then_some(()))
    })
    .expect("followed");
    wait_until(PATIENCE, "the change to be told", || Ok((serving.told().len() >= 2).then_some(()))).expect("told");
    let after = serving.children();
    assert_eq!(before["rsync"], after["rsync"], "the daemon rereads its files: it was not started anew");
    assert!(serving.files.read("run/systemimager/dnsmasq.conf").contains("dhcp-range=10.77.0.11,10.77.0.12,"));
    // A change that is wrong is told, and what is served stays.
    serving.files.put("tftpboot/systemimager/web.master", &MASTER.replace("format = 1", "format = x"));
    serving.signal("-HUP", serving.child.id());
    wait_until(PATIENCE, "the fault to be told", || {
        Ok(serving.files.read("serve.err").contains("web.master:1:10: ").then_some(()))
    })
    .expect("told");
    assert_eq!(serving.get("/v1/hosts").0, 200);
    assert!(serving.files.read(conf).contains("[web]"), "the image is offered as by the last master that was right");
    // One more that is right is followed all the same.
    serving.files.image("db", &MASTER.replace("\"web\"", "\"db\""));
    wait_until(PATIENCE, "the new image", || Ok(serving.files.read(conf).contains("[db]").then_some(())))
        .expect("offered");
    assert!(serving.files.read(conf).contains("[web]"));
    assert_eq!(before["rsync"], serving.children()["rsync"], "and nothing was cut");
}

#[test]
fn one_image_that_cannot_be_offered_leaves_the_others() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let files = Files::new(stage!());
    for image in ["global", "Web", "other"] {
        files.image(image, &MASTER.replace("\"web\"", &format!("\"{image}\"")));
    }
    files.image("bad", "format = x");
    files.put(
        "tftpboot/systemimager/other.master",
        &MASTER.replace("\"web\"", "\"other\"").replace("[\"rsync\"]", "[\"rsync\", \"torrent\"]"),
    );
    files.done(&["addclients", "www1", "--image", "other", "--ip", "10.77.0.11/24"]);
    let faults = [
        "the image global is not offered by rsync: an rsync module cannot be called \"global\"; rename the image",
        "the image web is not offered by rsync: two trees on offer are called web",
    ];
    let output = files.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for fault in faults {
        assert!(said.contains(&format!("NO  {fault}")), "{fault}: {said}");
    }
    assert!(said.contains("there is no transport plugin \"torrent\""), "{said}");
    let serving = Serving::start(files);
    let conf = serving.files.read("run/systemimager/transports/rsync/rsyncd.conf");
    let offered: Vec<&str> = conf.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(offered, ["[Web]", "[other]"]);
    let said = serving.files.read("serve.err");
    for fault in faults.into_iter().chain(["there is no transport plugin \"torrent\"", "bad.master:1:10: "]) {
        assert!(said.contains(fault), "{fault}: {said}");
    }
    // Who asks for the one that is left out must not get the one that is called nearly the same.
    let machine = serving.network.host("machine", "10.77.0.11/24").expect("a host");
    let into = serving.files.at("pulled/").display().to_string();
    let error = machine.run(&["rsync", "-a", &format!("rsync://{SERVER}/web/"), &into]).expect_err("left out");
    assert!(format!("{error:#}").contains("Unknown module 'web'"), "{error:#}");
}

#[test]
fn a_closed_reader_changes_no_exit_code() {
    let files = Files::new(stage!());
    let argv = files.argv(&["check", "--json", "--plugin-dir", "/nowhere"]);
    let mut command = run::command(&argv).expect("a command");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    // Nobody reads any more, before it says anything.
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("ended").code(), Some(1), "{said}");
    assert!(said.starts_with("systemimager: ") && !said.contains("panicked"), "{said}");
}

#[test]
fn what_is_missing_is_said_before_anything_starts() {
    require!(Need::NetworkNamespaces, Need::Program("dnsmasq"), Need::Program("rsync"));
    require!(Need::File("/usr/lib/PXELINUX/lpxelinux.0", "pxelinux"));
    let files = Files::new(stage!());
    files.done(&["addclients", "www1", "--image", "web", "--ip", "10.77.0.11/24"]);
    let plugins = files.at("plugins");
    fs::create_dir(&plugins).expect("mkdir");
    for entry in fs::read_dir(files.stage.join("lib/systemimager/plugins")).expect("plugins") {
        let path = entry.expect("listed").path();
        fs::copy(&path, plugins.join(path.file_name().expect("a name"))).expect("copied");
    }
    let network = Network::new().expect("a network");
    let host = network.host("server", "10.77.0.1/24").expect("a host");
    let plugin_dir = plugins.display().to_string();
    let refused = |words: &[&str]| {
        let argv = files.argv(&[words, &["serve", "--plugin-dir", &plugin_dir]].concat());
        let output = run::output(&mut host.command(&argv)).expect("started");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).replace(&files.dir.path().display().to_string(), "")
    };
    fs::remove_file(files.at("tftpboot/initrd.img")).expect("removed");
    assert_eq!(refused(&[]), "systemimager: /tftpboot/initrd.img is not there; make it with `systemimager mkinitrd`\n");
    files.put("tftpboot/initrd.img", "x");
    files.put("tftpboot/systemimager/web.master", &MASTER.replace("\"web\"", "\"db\""));
    assert_eq!(
        refused(&[]),
        "systemimager: /tftpboot/systemimager/web.master:2:9: this is the master of web and says image = \"db\"; make both the same\n"
    );
    files.put("tftpboot/systemimager/web.master", MASTER);
    for (plugin, says) in [
        (
            "libtransport_rsync.so",
            "there is no transport plugin \"rsync\" (there: multicast, ssh); put its .so into the plugin directory",
        ),
        ("libboot_pxelinux.so", "no boot loader plugin serves network boot; put one into the plugin directory"),
    ] {
        fs::rename(plugins.join(plugin), files.at(plugin)).expect("moved");
        let said = refused(&[]);
        assert!(said.starts_with(&format!("systemimager: {says}")) && said.lines().count() == 1, "{plugin}: {said}");
        fs::rename(files.at(plugin), plugins.join(plugin)).expect("moved");
    }
    // A second address: nobody guesses which network is meant.
    host.run(&["ip", "addr", "add", "192.168.9.1/24", "dev", "eth0"]).expect("an address");
    let said = refused(&[]);
    assert!(
        said.contains("This machine has 10.77.0.1/24 on eth0, 192.168.9.1/24 on eth0; set server.address"),
        "{said}"
    );
    host.run(&["ip", "addr", "del", "192.168.9.1/24", "dev", "eth0"]).expect("removed");
    // Ports that are taken: HTTP's is known before anything starts, dnsmasq tells of its own.
    let mut other = spawn(&files, &host);
    wait_until(PATIENCE, "the other server", || Ok(files.read("serve.out").contains("serving").then_some(())))
        .expect("ready");
    let said = refused(&[]);
    let by = format!("listening on 10.77.0.1:8069: TCP port 8069 is taken by systemimager (process {}: ", other.id());
    assert!(said.contains(&by) && said.contains("set http_port below [server] to another port"), "{said}");
    run::run_argv(&["kill", "-TERM", &other.id().to_string()]).expect("kill");
    other.wait().expect("ended");
    // A socket that shares the port with nobody, as another DHCP server has it.
    let taken = host.inside(|| {
        let udp = |port| std::net::UdpSocket::bind(("0.0.0.0", port)).expect("bound");
        (udp(67), std::net::TcpListener::bind((SERVER, 873)).expect("bound"))
    });
    let me = format!("(process {}: ", std::process::id());
    let said = refused(&[]);
    assert!(said.contains("UDP port 67 is taken by ") && said.contains(&me), "{said}");
    assert!(said.contains("; stop it, or set mode = \"off\" below [dhcp]"), "{said}");
    let (dhcp, rsync) = taken;
    drop(dhcp);
    let said = refused(&[]);
    assert!(said.contains("TCP port 873 is taken by ") && said.contains(&me), "{said}");
    drop(rsync);
    let taken = host.inside(|| std::net::UdpSocket::bind((SERVER, 69)).expect("bound"));
    let said = refused(&[]);
    drop(taken);
    assert!(said.contains("UDP port 69 is taken by ") && said.contains(&me), "{said}");
}
