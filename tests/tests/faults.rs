//! What becomes of an install when something fails in each of its phases: the server is killed, the network is cut, a disk
//! does not take what is written to it, it is full, the agent is killed, the power goes. Each test prints its part of a table:
//! the state and the message that the server shows, what the next boot does, and whether the install is finished.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use systemimager_tests::compare::{Options, compare, report};
use systemimager_tests::lab::disk::Loop;
use systemimager_tests::lab::machine::{Boot, Machine, Model, Running};
use systemimager_tests::lab::master::Marker;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::{Client, IMAGE, Story};

/// How long anything may take that an emulated machine does.
const LONG: Duration = Duration::from_secs(900);
/// How long the server may take to know.
const SOON: Duration = Duration::from_secs(180);
const PHASES: [&str; 7] = ["partition", "format", "mount", "pull", "identity", "boot", "finish"];
const NODE: &str = "node1";
/// That of the first machine of a story.
const MAC: &str = "52:54:00:77:01:01";
/// What a machine says when it has stopped, failed, ended.
const STOPPED: &str = "stopped at the break point before-";
const FAILED: &str = "install failed at";
const KILLED: &str = "systemimager: the agent was killed by signal";
const INSTALLED: &str = "systemimager: installed";

/// QEMU's monitor (QMP, docs/interop/qmp-spec of QEMU).
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(path: &Path) -> Self {
        let stream = wait_until(SOON, "QEMU's monitor", || Ok(UnixStream::connect(path).ok())).expect("a monitor");
        let mut monitor = Self(BufReader::new(stream));
        let mut greeting = String::new();
        monitor.0.read_line(&mut greeting).expect("a greeting");
        monitor.tell("qmp_capabilities", json!({}));
        monitor
    }

    fn tell(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.0.get_mut(), "{line}").expect("the monitor listens");
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).expect("an answer") > 0, "QEMU has ended");
            let answer: Value = serde_json::from_str(&line).expect("JSON");
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(answer) = answer.get("return") {
                return answer.clone();
            }
        }
    }

    /// From now on the disk refuses every write, or takes them again.
    fn disk_refuses(&mut self, refuses: bool) {
        let below = if refuses {
            let rules: Vec<Value> = ["write", "write-zeroes"]
                .iter()
                .map(|kind| json!({ "event": "none", "iotype": kind, "errno": 5, "once": false }))
                .collect();
            let faulty = json!({ "driver": "blkdebug", "node-name": "faulty", "image": "file", "inject-error": rules });
            self.tell("blockdev-add", faulty);
            "faulty"
        } else {
            "file"
        };
        let disk = json!({ "driver": "raw", "node-name": "disk", "file": below, "discard": "unmap" });
        self.tell("blockdev-reopen", json!({ "options": [disk] }));
        if !refuses {
            self.tell("blockdev-del", json!({ "node-name": "faulty" }));
        }
    }

    /// Types on the keyboard; `\n` is Return.
    fn types(&mut self, text: &str) {
        for letter in text.chars() {
            let key = match letter {
                ' ' => "spc".to_owned(),
                '-' => "minus".to_owned(),
                '\n' => "ret".to_owned(),
                letter => letter.to_string(),
            };
            self.tell("send-key", json!({ "keys": [{ "type": "qcode", "data": key }], "hold-time": 20 }));
            std::thread::sleep(Duration::from_millis(60));
        }
    }
}

/// A machine that is being installed, and its server.
struct Rig {
    machine: Running,
    monitor: Monitor,
    client: Client,
    story: Story,
    table: Vec<String>,
    _directory: tempfile::TempDir,
}

impl Rig {
    /// An order that stops before each phase is being carried out. `prepare` is done before anything is served.
    fn begin(prepare: impl FnOnce(&Story)) -> Self {
        let directory =
            tempfile::Builder::new().prefix("systemimager-faults-").tempdir_in("/var/tmp").expect("a directory");
        let mut story = Story::with_image(directory.path()).expect("a server with an image");
        let client = story.clients(1).expect("a machine is declared").remove(0);
        prepare(&story);
        story.serve().expect("the server serves");
        order(&story);
        let (machine, monitor) = boot(&story, &client, Boot::Network);
        Self { machine, monitor, client, story, table: Vec::new(), _directory: directory }
    }

    /// The next line of the agent with one of these: which, and the line.
    fn next_of(&mut self, patterns: &[&str]) -> (usize, String) {
        loop {
            let line = self.machine.wait_serial("systemimager: ", LONG).unwrap_or_else(|error| {
                panic!("{patterns:?}: {error:#}\n{}\nserve said:\n{}", self.log(), self.story.serve_log())
            });
            if let Some(at) = patterns.iter().position(|pattern| line.contains(pattern)) {
                return (at, line);
            }
        }
    }

    fn log(&self) -> String {
        self.story.run(&["logs", NODE]).unwrap_or_default()
    }

    /// Waits until it stops before a phase; its name.
    fn stop(&mut self) -> String {
        let (which, line) = self.next_of(&[STOPPED, FAILED, KILLED]);
        assert_eq!(which, 0, "{line}\n{}", self.log());
        line.rsplit('-').next().unwrap_or_default().trim().to_owned()
    }

    /// Goes on from stop to stop until it is before this phase.
    fn go_to(&mut self, phase: &str) {
        loop {
            let stopped = self.stop();
            if stopped == phase {
                return;
            }
            self.retry();
        }
    }

    /// Waits until the server knows of a state with this message, and lets the machine go on.
    fn retry(&self) {
        let say = || Ok(self.story.run(&["retry", NODE]).ok());
        wait_until(SOON, "retry to be taken", say).unwrap_or_else(|error| panic!("{error:#}\n{}", self.shown()));
    }

    fn shown(&self) -> String {
        self.story.run(&["status", NODE]).expect("status")
    }

    /// State and message, as the server has them now.
    fn status(&self) -> (String, String) {
        let status = self.story.run(&["--json", "status", NODE]).expect("status");
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let text = |name: &str| status["machines"][0][name].as_str().unwrap_or_default().to_owned();
        (text("state"), text("message"))
    }

    /// Waits for a state, with a message that contains this.
    fn wait_state(&self, state: &str, message: &str) -> String {
        wait_until(SOON, state, || Ok(Some(self.status()).filter(|(is, says)| is == state && says.contains(message))))
            .unwrap_or_else(|error| panic!("{error:#}: {message}\n{}", self.shown()))
            .1
    }

    fn row(&mut self, fault: &str, phase: &str, state: &str, message: &str, next_boot: &str, retry: &str) {
        let message = message.replace('|', "\\|").replace('\n', " ");
        let row = format!("| {fault} | {phase} | {state} | {message} | {next_boot} | {retry} |");
        println!("{row}");
        self.table.push(row);
    }

    /// Lets it go on after its last stop, and waits until it is up from its disk.
    fn finish(&mut self) {
        self.retry();
        self.next_of(&[INSTALLED]);
        self.wait_up();
    }

    /// Waits until it is up from its disk, however slow it is.
    fn wait_up(&mut self) {
        Marker::wait(&mut self.machine, NODE, LONG).expect("up from its disk");
    }

    /// All that the image has below /usr is on the disk.
    fn compare(&mut self) {
        self.story.ssh(&self.client).expect("ssh").power_off().expect("it goes down");
        self.machine.wait_exit(LONG).expect("it is off");
        let disk = Loop::attach_read_only(&self.client.disk).expect("the disk is there");
        let root = disk.mount(2).expect("the root file system mounts");
        let image = self.story.image().join("usr");
        let differences = compare(&image, &root.path().join("usr"), &Options::new()).expect("both can be read");
        assert!(differences.is_empty(), "{}", report(&differences, 50));
        root.close().expect("unmounts");
    }

    /// Starts the machine anew as somebody would who finds it hanging.
    fn power_cycle(&mut self, from: Boot) {
        self.machine.kill().expect("killed");
        (self.machine, self.monitor) = boot(&self.story, &self.client, from);
    }

    fn print(&self) {
        println!("\n| fault | phase | state | message | next boot | finished by |\n|---|---|---|---|---|---|");
        self.table.iter().for_each(|row| println!("{row}"));
    }
}

fn order(story: &Story) {
    let points: Vec<String> = PHASES.iter().chain(&["reboot"]).map(|it| format!("--break=before-{it}")).collect();
    let mut words = vec!["install", NODE];
    words.extend(points.iter().map(String::as_str));
    story.run(&words).expect("ordered");
}

/// As a story's own machine is, with a disk that can be made to fail.
fn boot(story: &Story, client: &Client, from: Boot) -> (Running, Monitor) {
    let monitor = story.directory.join("monitor");
    let mut machine = Machine::new(NODE, &story.directory)
        .more(&["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())])
        .more(&["-chardev", &format!("file,id=bios,path={}", bios_log(story).display())])
        .more(&["-device", "isa-debugcon,iobase=0x402,chardev=bios"])
        .more(&["-blockdev", &format!("driver=file,node-name=file,filename={},discard=unmap", client.disk.display())])
        .more(&["-blockdev", "driver=raw,node-name=disk,file=file,discard=unmap"])
        .more(&["-device", "ich9-ahci,id=ahci,addr=0xb", "-device", "ide-hd,bus=ahci.0,drive=disk,serial=lab0"]);
    // A firmware that finds nothing on the disk would ask the network.
    if !matches!(from, Boot::Disk) {
        machine = machine.nic(&story.network.tap().expect("a tap"), MAC, Model::E1000).slot(21);
    }
    let machine = machine.boot(from);
    // The socket of the machine before.
    let _ = std::fs::remove_file(&monitor);
    let machine = machine.spawn().expect("it starts");
    (machine, Monitor::connect(&monitor))
}

/// What the firmware says.
fn bios_log(story: &Story) -> PathBuf {
    story.directory.join("bios")
}

/// What the agent says in the middle of a phase.
fn within(phase: &str) -> String {
    if phase == "pull" { "pulled ".to_owned() } else { format!(": {phase}: ") }
}

const AGAIN: &str = "the network first: installs from the start";
const OWN: &str = "its own disk";
const ITSELF: &str = "by itself";
const RETRY: &str = "`retry`";

/// The server or the network goes away in each phase, and comes back. `cut(rig, true)` takes it away.
fn away(rig: &mut Rig, fault: &str, cut: &dyn Fn(&mut Rig, bool)) {
    rig.next_of(&["[4/9] identity: this is"]);
    cut(rig, true);
    rig.next_of(&["trying for", "asking again"]);
    let (state, message) = rig.status();
    cut(rig, false);
    assert_eq!(rig.stop(), "partition");
    rig.row(fault, "prepare", &state, &message, AGAIN, ITSELF);
    for (phase, next) in PHASES.iter().zip(PHASES.iter().skip(1).chain(&["reboot"])) {
        rig.wait_state("paused", phase);
        rig.retry();
        rig.next_of(&["going on"]);
        if *phase == "pull" {
            rig.next_of(&["pulled "]);
        }
        cut(rig, true);
        let (state, message) = if *phase == "pull" {
            // A connection outlives a cable that is out for minutes; what it stood for is seen by its silence.
            let shown = wait_until(LONG, "silence to be noticed", || {
                Ok(Some(rig.shown()).filter(|shown| shown.contains("STALLED")))
            });
            ("STALLED".to_owned(), shown.expect("STALLED").lines().last().unwrap_or_default().to_owned())
        } else {
            // It needs nobody.
            assert_eq!(rig.stop(), *next);
            let (state, message) = rig.status();
            (format!("{state} (STALLED after a while)"), message)
        };
        cut(rig, false);
        if *phase == "pull" {
            assert_eq!(rig.stop(), *next);
        }
        rig.wait_state("paused", next);
        rig.row(fault, phase, &state, &message, AGAIN, ITSELF);
    }
    rig.retry();
    rig.next_of(&["going on"]);
    cut(rig, true);
    rig.next_of(&["it waits for the image server"]);
    let (state, message) = rig.status();
    cut(rig, false);
    rig.next_of(&[INSTALLED]);
    rig.wait_up();
    rig.row(fault, "last report", &format!("{state} (STALLED after a while)"), &message, OWN, ITSELF);
}

#[test]
fn the_server_is_killed() {
    require!(Need::VirtualMachines, Need::Long);
    let mut rig = Rig::begin(|_| {});
    away(&mut rig, "server killed", &|rig, away| match away {
        true => rig.story.kill_serving().expect("killed"),
        false => rig.story.serve_again().expect("it serves again, whatever the old one left"),
    });
    rig.compare();
    rig.print();
}

#[test]
fn the_network_is_cut() {
    require!(Need::VirtualMachines, Need::Long);
    let mut rig = Rig::begin(|_| {});
    away(&mut rig, "network cut", &|rig, away| rig.story.network.plug_last(!away).expect("the cable"));
    rig.compare();
    rig.print();
}

#[test]
fn a_disk_fails() {
    require!(Need::VirtualMachines, Need::Long);
    let mut rig = Rig::begin(|_| {});
    loop {
        let phase = rig.stop();
        if phase == "reboot" {
            break;
        }
        rig.monitor.disk_refuses(true);
        rig.retry();
        // What is written to a file system is refused later.
        while rig.next_of(&[STOPPED, FAILED]).0 == 0 {
            rig.retry();
        }
        let message = rig.wait_state("failed", "");
        assert!(message.contains("/dev/sda"), "{message}");
        rig.monitor.disk_refuses(false);
        rig.retry();
        rig.row("disk error", &phase, "FAILED", &message, AGAIN, RETRY);
    }
    rig.finish();
    rig.compare();
    rig.print();
}

#[test]
fn the_agent_is_killed() {
    require!(Need::VirtualMachines, Need::Long);
    let mut rig = Rig::begin(|_| {});
    for (index, phase) in PHASES.iter().enumerate() {
        rig.go_to(phase);
        rig.monitor.types("killall -9 agent");
        // The phase of mounting is over in a moment.
        if *phase != "mount" {
            rig.retry();
            rig.next_of(&[&within(phase)]);
        }
        rig.monitor.types("\n");
        let (_, line) = rig.next_of(&[KILLED]);
        if index == 3 {
            // The fourth in one boot.
            assert!(line.contains("does not restart by itself"), "{line}");
            let (state, message) = rig.status();
            rig.power_cycle(Boot::Network);
            rig.row("agent killed, the fourth time", phase, &state, &message, AGAIN, "the next boot");
            continue;
        }
        rig.next_of(&[": the agent was killed by signal 9 at"]);
        let message = rig.wait_state("failed", "killed");
        rig.retry();
        rig.row("agent killed", phase, "FAILED", &message, AGAIN, RETRY);
    }
    rig.go_to("reboot");
    rig.finish();
    rig.compare();
    rig.print();
}

#[test]
fn the_power_goes_and_the_disk_is_full() {
    require!(Need::VirtualMachines, Need::Long);
    let mut rig = Rig::begin(small_root);
    for phase in ["partition", "format", "pull", "boot"] {
        rig.go_to(phase);
        rig.retry();
        rig.next_of(&[&within(phase)]);
        let (state, _) = rig.status();
        let shown = rig.shown();
        let message = shown.lines().last().unwrap_or_default().to_owned();
        rig.power_cycle(Boot::Disk);
        let bios = bios_log(&rig.story);
        let ends = ["No bootable device", "Booting from 0000:7c00"];
        let says = wait_until(LONG, "the firmware to try the disk", || {
            let text = std::fs::read_to_string(&bios).unwrap_or_default();
            Ok(text.lines().find(|line| ends.iter().any(|end| line.contains(end))).map(str::to_owned))
        });
        println!("{phase}: the firmware says {:?}", says.expect("it tries"));
        let mut code = [0xff; 440];
        std::io::Read::read_exact(&mut std::fs::File::open(&rig.client.disk).expect("disk"), &mut code).expect("read");
        // `int 18h`: the firmware goes on with what it boots next.
        let erased = [&[0xcd, 0x18, 0xeb, 0xfe][..], &[0; 436]].concat();
        // The table itself is written by a program that leaves zeroes there, for a moment.
        let zeroes = phase == "partition" && code == [0; 440];
        assert!(code == erased[..] || zeroes, "the disk has boot code after a power cut in {phase}");
        assert!(!rig.machine.serial().contains("Linux"), "{}", rig.machine.serial());
        rig.power_cycle(Boot::Network);
        rig.row("power cut", phase, &format!("{state} (STALLED after a while)"), &message, AGAIN, "the next boot");
    }
    rig.go_to("pull");
    let big = rig.story.image().join("usr/local/big");
    let mut random = std::io::Read::take(std::fs::File::open("/dev/urandom").expect("random"), 500 << 20);
    std::io::copy(&mut random, &mut std::fs::File::create(&big).expect("a file")).expect("written");
    rig.retry();
    rig.next_of(&[FAILED]);
    let message = rig.wait_state("failed", "no space left");
    std::fs::remove_file(&big).expect("removed");
    rig.retry();
    rig.next_of(&["going on at the phase pull"]);
    rig.row("disk full", "pull", "FAILED", &message, AGAIN, RETRY);
    rig.go_to("reboot");
    rig.finish();
    rig.compare();
    rig.print();
}

/// A root file system that has little room besides the image.
fn small_root(story: &Story) {
    let file = story.root().join("tftpboot/systemimager").join(format!("{IMAGE}.master"));
    let text = std::fs::read_to_string(&file).expect("a master file");
    let (head, rest) = text.split_once("number = 2\n").expect("a second partition");
    let (before, rest) = rest.split_once("size = \"").expect("its size");
    let (_, rest) = rest.split_once('"').expect("its end");
    std::fs::write(&file, format!("{head}number = 2\n{before}size = \"700 MiB\"{rest}")).expect("written");
}
