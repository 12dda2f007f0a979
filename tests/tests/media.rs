//! Autoinstall media: made by the real programs from one kernel and one initrd, refused where they would destroy
//! something, and booted: each installs a machine whose local.cfg says who it is, and which then starts from its disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use systemimager_tests::lab::disk::{Loop, make_raw};
use systemimager_tests::lab::machine::{Boot, Bus, Machine, Running};
use systemimager_tests::lab::master::Marker;
use systemimager_tests::lab::monitor::Monitor;
use systemimager_tests::lab::run;
use systemimager_tests::lab::wait::wait_until;
use systemimager_tests::need::Need;
use systemimager_tests::require;
use systemimager_tests::story::{IMAGE, Story, stage};

/// How long an emulated machine may take for one thing.
const LONG: Duration = Duration::from_secs(600);
/// Where the file system of a stick begins, bytes.
const FAT_AT: u64 = 1 << 20;
const TOOLS: [Need; 7] = [
    Need::Program("syslinux"),
    Need::Program("xorriso"),
    Need::Program("mcopy"),
    Need::Program("mkfs.vfat"),
    Need::File("/usr/lib/ISOLINUX/isolinux.bin", "isolinux"),
    Need::File("/usr/lib/SYSLINUX.EFI/efi64/syslinux.efi", "syslinux-efi"),
    Need::File("/usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi", "grub-efi-amd64-bin"),
];

/// One entry of an archive of the kind newc.
fn newc(name: &str) -> Vec<u8> {
    let fields = [0, 0o100_644, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() + 1, 0];
    let mut bytes = b"070701".to_vec();
    fields.iter().for_each(|field| bytes.extend(format!("{field:08X}").bytes()));
    // The inode is the first field, the size the seventh, the length of the name the twelfth.
    bytes.extend(name.bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A server with a kernel of this release and an initrd with the drivers of that one; neither boots.
fn server(directory: &Path, release: &str, drivers: &str) -> PathBuf {
    let root = directory.join("server");
    let tftp = root.join("tftpboot");
    std::fs::create_dir_all(&tftp).expect("a directory");
    // The header of a bzImage: magic, offset of the release's text.
    let mut kernel = vec![0x90; 1 << 20];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x400_u16.to_le_bytes());
    let text = format!("{release} (lab)\0");
    kernel[0x600..0x600 + text.len()].copy_from_slice(text.as_bytes());
    std::fs::write(tftp.join("kernel"), kernel).expect("written");
    let module = format!("usr/lib/modules/{drivers}/kernel/fs/ext4.ko");
    let initrd = [newc("init"), newc(&module), newc("TRAILER!!!"), vec![0; 1 << 20]].concat();
    std::fs::write(tftp.join("initrd.img"), initrd).expect("written");
    root
}

fn command(root: &Path, words: &[&str]) -> Command {
    let mut command = run::program(stage().expect("a stage").join("bin/systemimager"));
    command.arg("--root").arg(root).args(words);
    command
}

fn refusal(root: &Path, words: &[&str]) -> String {
    let output = run::output(&mut command(root, words)).expect("it runs");
    assert!(!output.status.success(), "{words:?} was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn directory(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(&format!("systemimager-{name}-")).tempdir_in("/var/tmp").expect("a directory")
}

/// The words of a command with more.
fn with<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [words, more].concat()
}

/// A file in the FAT file system of a stick's image.
fn on_stick(image: &Path, file: &str) -> Vec<u8> {
    let mut command = run::program("mcopy");
    command.env("MTOOLS_SKIP_CHECK", "1").args(["-i", &format!("{}@@{FAT_AT}", image.display()), file, "-"]);
    let output = run::output(&mut command).expect("mcopy runs");
    assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn media_are_judged_before_they_are_made() {
    require!(TOOLS[0], TOOLS[1], TOOLS[2], TOOLS[3], TOOLS[4], TOOLS[5], TOOLS[6]);
    let directory = directory("media");
    let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (stick, cd) = (at("stick.img"), at("cd.iso"));
    let to_stick = ["makeautoinstalldiskette", "--output", &stick];
    let empty = directory.path().join("empty");
    let says = refusal(&empty, &to_stick);
    assert!(says.contains("kernel is not there; make it with `systemimager mkinitrd`"), "{says}");

    let root = server(directory.path(), "6.1.0-lab", "5.10.0-lab");
    let says = refusal(&root, &to_stick);
    assert!(says.contains("is the kernel 6.1.0-lab, and ") && says.contains("has the drivers of 5.10.0-lab"), "{says}");
    run::run(&mut command(&root, &[to_stick.as_slice(), &["--any-kernel"]].concat())).expect("somebody knows better");

    let root = server(directory.path(), "6.1.0-lab", "6.1.0-lab");
    std::fs::write(at("bad.cfg"), "HOSTNMAE=a\nHOSTNAME=$(reboot)\nIPADDR=10.0.0.1\n").expect("written");
    std::fs::write(at("long.cfg"), vec![b'a'; 1 << 20]).expect("written");
    std::fs::write(at("nul.cfg"), "HOSTNAME=a\0b\n").expect("written");
    std::fs::create_dir(at("folder")).expect("a directory");
    let before = std::fs::read(&stick).expect("the first one");
    let (bad, long, nul, absent) = (at("bad.cfg"), at("long.cfg"), at("nul.cfg"), at("absent/cd.iso"));
    for (name, words, expected) in [
        ("local.cfg", with(&to_stick, &["--local-cfg", &bad]), "line 2: '$' in the value"),
        ("local.cfg, the next line", with(&to_stick, &["--local-cfg", &bad]), "line 3: IPADDR has no netmask"),
        ("a long local.cfg", with(&to_stick, &["--local-cfg", &long]), "the file has more than 65536 bytes"),
        ("NUL", with(&to_stick, &["--local-cfg", &nul]), "line 1: '\\0' is no character of a text"),
        ("no server", with(&to_stick, &["--server", "a b"]), "--server: \"a b\" is neither"),
        ("two lines", with(&to_stick, &["--append", "a\nLABEL b"]), "--append has '\\n'"),
        (
            "too small",
            with(&to_stick, &["--size", "8MiB"]),
            "8 MiB are too small: the medium must have at least 49 MiB",
        ),
        ("a folder", vec!["makeautoinstallcd", "--output", "/"], "/ is no file"),
        ("a file as device", vec!["makeautoinstalldiskette", "--device", &stick], "is no disk; to make an image in"),
        ("nothing named", vec!["makeautoinstalldiskette"], "answer with --device or --output"),
        ("no place", vec!["makeautoinstallcd", "--output", &absent], "making a directory in"),
    ] {
        let says = refusal(&root, &words);
        assert!(says.contains(expected), "{name}: {says}");
    }
    assert!(std::fs::read(&stick).expect("the first one") == before, "what is refused replaces nothing");

    let example = stage().expect("a stage").join("share/doc/systemimager/local.cfg");
    let example = example.to_string_lossy();
    std::fs::create_dir_all(root.join("etc/systemimager")).expect("a directory");
    std::fs::write(root.join("etc/systemimager/systemimager.toml"), "[boot]\nappend = \"nomodeset\"\n")
        .expect("written");
    let words = ["--json", "makeautoinstalldiskette", "--output", &stick, "--local-cfg", &example, "--size", "80MiB"];
    let more = ["--server", "images.example.org", "--append", "si.log=debug"];
    let made = run::run(&mut command(&root, &[words.as_slice(), &more].concat())).expect("a stick");
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!((&made["bytes"], &made["kernel"]), (&(80 << 20).into(), &"6.1.0-lab".into()));
    let kernel = std::fs::read(root.join("tftpboot/kernel")).expect("the kernel");
    assert!(on_stick(Path::new(&stick), "::/kernel") == kernel);
    assert!(on_stick(Path::new(&stick), "::/local.cfg") == std::fs::read(&*example).expect("the example"));
    let id = String::from_utf8(on_stick(Path::new(&stick), "::/medium.id")).expect("text");
    let menu = String::from_utf8(on_stick(Path::new(&stick), "::/syslinux.cfg")).expect("text");
    let line = format!(
        "APPEND si.medium={} si.server=images.example.org si.port=8069 console=tty0 console=ttyS0,115200 nomodeset \
         si.log=debug\n",
        id.trim()
    );
    assert!(menu.contains(&line), "{menu}");
    assert_eq!(on_stick(Path::new(&stick), "::/EFI/BOOT/syslinux.cfg"), menu.as_bytes(), "one configuration");

    // A kernel of one's own, copied to the TFTP root, is on all media made from then on.
    let root = server(directory.path(), "6.6.6-own", "6.6.6-own");
    let made = run::run(&mut command(&root, &["--json", "makeautoinstallcd", "--output", &cd])).expect("a CD");
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["kernel"], "6.6.6-own");
    let out = at("kernel");
    run::run_argv(&["xorriso", "-indev", &cd, "-osirrox", "on", "-extract", "/kernel", &out]).expect("extracted");
    assert!(std::fs::read(&out).expect("it") == std::fs::read(root.join("tftpboot/kernel")).expect("the kernel"));
    let boots = run::run_argv(&["xorriso", "-indev", &cd, "-report_el_torito", "plain"]).expect("a report");
    assert!(boots.contains("BIOS") && boots.contains("UEFI"), "{boots}");
    let left: Vec<_> =
        std::fs::read_dir(directory.path()).expect("listed").flatten().map(|it| it.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with('.')), "nothing is left over: {left:?}");
}

#[test]
fn a_device_in_use_is_no_medium() {
    require!(TOOLS[0], TOOLS[2], TOOLS[3], Need::LoopDevices, Need::Program("sfdisk"), Need::Program("wipefs"));
    let directory = directory("stick");
    let root = server(directory.path(), "6.1.0-lab", "6.1.0-lab");
    let disk = |name: &str, bytes| {
        let path = directory.path().join(name);
        make_raw(&path, bytes).expect("a disk");
        path
    };
    let file = disk("stick.raw", 100 << 20);
    let table = "label: gpt\nsize=20MiB\nsize=20MiB\n";
    let script = directory.path().join("script");
    std::fs::write(&script, table).expect("written");
    let sfdisk = format!("sfdisk --quiet {} < {}", file.display(), script.display());
    run::run_argv(&["sh", "-c", &sfdisk]).expect("a table");
    let stick = Loop::attach(&file).expect("a loop device");
    let device = stick.device();
    fn make<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [["makeautoinstalldiskette", "--device"].as_slice(), more].concat()
    }
    let says = refusal(&root, &make(&[device, "--yes"]));
    assert!(
        says.contains("it cannot be taken out of this machine; if it is meant all the same, give --fixed-disk"),
        "{says}"
    );
    let first = stick.partition(1);
    let says = refusal(&root, &make(&[&first, "--fixed-disk", "--yes"]));
    assert!(says.contains(&format!("is a partition; a medium is a whole disk, name {device}")), "{says}");
    run::run_argv(&["mke2fs", "-q", "-t", "ext2", "-L", "data", &first]).expect("a file system");
    let mount = stick.mount(1).expect("mounted");
    let says = refusal(&root, &make(&[device, "--fixed-disk", "--yes"]));
    assert!(says.contains(&format!("{first} is mounted on {}; unmount it", mount.path().display())), "{says}");
    mount.close().expect("unmounted");
    let says = refusal(&root, &make(&[device, "--fixed-disk"]));
    assert!(says.contains(&format!("{first}: ext2 \"data\" (20 MiB)")), "what is lost is shown: {says}");
    assert!(says.contains("nobody can be asked here; answer with --yes"), "{says}");
    let small_file = disk("small.raw", 20 << 20);
    let small = Loop::attach(&small_file).expect("a loop device");
    let says = refusal(&root, &make(&[small.device(), "--fixed-disk", "--yes"]));
    assert!(says.contains("is too small: the medium needs 49 MiB (51380224 bytes), and it has 20 MiB"), "{says}");
    assert!(std::fs::read(&small_file).expect("it").iter().all(|byte| *byte == 0), "nothing was written");
    drop(small);

    let words = make(&[device, "--fixed-disk", "--yes"]);
    let made = run::run(&mut command(&root, &[["--json"].as_slice(), &words].concat())).expect("a stick");
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!((&made["medium"], &made["bytes"]), (&device.into(), &(49 << 20).into()));
    drop(stick);
    assert!(on_stick(&file, "::/kernel") == std::fs::read(root.join("tftpboot/kernel")).expect("the kernel"));
    let marks = run::run_argv(&["wipefs", "--json", &file.to_string_lossy()]).expect("marks");
    assert!(marks.contains("\"dos\"") && !marks.contains("gpt"), "the old table is gone at both ends: {marks}");
    let state = root.join("var/lib/systemimager");
    assert_eq!(std::fs::read_dir(state).expect("listed").count(), 0, "nothing is left over");
}

/// A server that serves, and hosts node1, node2, … that are known by name alone. The directory goes with it.
fn serving(directory: &Path) -> Story {
    serving_by(directory, "rsync")
}

/// The same, with the image by this transport.
fn serving_by(directory: &Path, transport: &str) -> Story {
    let mut story = Story::with_image(directory).expect("a server with an image");
    let master = story.root().join(format!("tftpboot/systemimager/{IMAGE}.master"));
    let text = std::fs::read_to_string(&master).expect("a master file");
    let by = format!("transports = [\"{transport}\"]");
    std::fs::write(&master, text.replace("transports = [\"rsync\"]", &by)).expect("written");
    let words = ["addclients", "--base", "node", "--range", "1-3", "--image", IMAGE, "--ip", "10.77.0.11/24"];
    story.run(&words).expect("hosts are declared");
    let words = ["addclients", "--base", "idle", "--range", "1-1", "--image", IMAGE, "--ip", "10.77.0.31/24"];
    story.run(&[words.as_slice(), &["--no-install"]].concat()).expect("one that is not to be installed");
    story.serve().expect("the server serves");
    story
}

/// A medium, made by the server.
fn medium(story: &Story, kind: &str, name: &str, local_cfg: Option<&str>) -> PathBuf {
    let path = story.directory.join(name);
    let shown = path.to_string_lossy().into_owned();
    let cfg = story.directory.join(format!("{name}.cfg"));
    let mut words = vec![kind, "--output", &shown];
    let cfg_shown = cfg.to_string_lossy().into_owned();
    if let Some(text) = local_cfg {
        std::fs::write(&cfg, text).expect("written");
        words.extend(["--local-cfg", &cfg_shown]);
    }
    story.run(&words).expect("a medium is made");
    path
}

/// A stick that only has a local.cfg; without a partition table.
fn second_stick(story: &Story, name: &str, kind: &str, local_cfg: &str) -> PathBuf {
    let path = story.directory.join(name);
    let file = story.directory.join("local.cfg");
    std::fs::write(&file, local_cfg).expect("written");
    let (shown, file) = (path.to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    make_raw(&path, 8 << 20).expect("a stick");
    match kind {
        "fat" => {
            run::run_argv(&["mkfs.vfat", &shown]).expect("FAT");
            run::run_argv(&["mcopy", "-i", &shown, &file, "::/LOCAL.CFG"]).expect("copied");
        }
        _ => {
            let folder = story.directory.join("ext2");
            std::fs::create_dir(&folder).expect("a directory");
            std::fs::copy(&file, folder.join("local.cfg")).expect("copied");
            run::run_argv(&["mke2fs", "-q", "-t", "ext2", "-d", &folder.to_string_lossy(), &shown]).expect("ext2");
        }
    }
    path
}

/// A bare machine of this number, without its medium.
fn bare(story: &Story, number: u8) -> Machine {
    let disk = story.directory.join(format!("disk{number}.raw"));
    make_raw(&disk, 3 << 30).expect("a disk");
    let (tap, mac) = (story.network.tap().expect("a tap"), format!("52:54:00:77:02:{number:02x}"));
    let machine = Machine::new(&format!("machine{number}"), &story.directory).memory(1024).boot(Boot::Disk);
    let machine = machine.nic(&tap, &mac, systemimager_tests::lab::machine::Model::E1000).slot(21);
    machine.disk(&disk, Bus::Ahci).property("bootindex=2").slot(11)
}

fn monitored(story: &Story, machine: Machine, name: &str) -> (Running, Monitor) {
    let (machine, monitor) = Monitor::of(machine, &story.directory.join(format!("{name}.qmp")));
    (machine.spawn().expect("it starts"), monitor)
}

/// The machine installs itself, restarts into the medium, which it is not installed from again, and when that is taken
/// out it is up from its disk.
fn is_installed_once(machine: &mut Running, host: &str, address: &str, take_out: &dyn Fn()) {
    let line = machine.wait_serial("systemimager: install", LONG).expect("an end");
    assert!(line.contains(&format!("installed {IMAGE} as {host}")), "{line}");
    let line = machine.wait_serial("nothing is installed: ", LONG).expect("it is back in the medium");
    assert!(line.contains(&format!("{host} has no order")), "{line}");
    machine.wait_serial("take out the medium that this machine was started from", LONG).expect("what to do");
    take_out();
    machine.wait_serial("the medium is out; restarting from this machine's own disk", LONG).expect("it is noticed");
    let marker = Marker::wait(machine, host, LONG).expect("it comes up from its disk");
    assert!(marker.addresses.iter().any(|it| it == address), "{marker:?}");
    assert!(marker.root_device.contains("sda"), "{marker:?}");
}

#[test]
fn a_stick_with_a_local_cfg_installs_a_machine() {
    require!(Need::VirtualMachines, TOOLS[0], TOOLS[2], TOOLS[3], TOOLS[5]);
    let directory = directory("usb");
    let story = serving(directory.path());
    // No DHCP server is asked: the address and the server are in the file.
    let cfg = "HOSTNAME=\"node1\"\nIPADDR=10.77.0.11\nNETMASK=255.255.255.0\nIMAGESERVER=10.77.0.1\nHOSTNMAE=typo\n";
    let stick = medium(&story, "makeautoinstalldiskette", "stick.img", Some(cfg));
    let machine = bare(&story, 1).disk(&stick, Bus::Usb).property("bootindex=1,id=stick");
    let (mut machine, monitor) = monitored(&story, machine, "m1");
    machine.wait_serial("there is no variable HOSTNMAE; is HOSTNAME meant?", LONG).expect("a warning");
    let line = machine.wait_serial("local.cfg on /dev/", LONG).expect("which file counts");
    assert!(line.ends_with("(vfat) gives HOSTNAME, IPADDR, NETMASK, IMAGESERVER"), "{line}");
    is_installed_once(&mut machine, "node1", "10.77.0.11/24", &|| monitor.unplug("stick").expect("pulled out"));
    assert!(!machine.serial().contains("asking for an address on"), "no DHCP");
}

#[test]
fn a_second_stick_decides_who_the_machine_is() {
    require!(Need::VirtualMachines, Need::Long, TOOLS[0], TOOLS[1], TOOLS[2], TOOLS[3], TOOLS[4], TOOLS[5], TOOLS[6]);
    let directory = directory("cd");
    let mut story = serving(directory.path());
    let iso = medium(&story, "makeautoinstallcd", "cd.iso", Some("HOSTNAME=node9\n"));
    let cfg =
        |host: &str, address: &str| format!("HOSTNAME={host}\r\nIPADDR={address}/24\r\nIMAGESERVER=10.77.0.1\r\n");
    let second = second_stick(&story, "fat.img", "fat", &cfg("node2", "10.77.0.12"));
    let drive = format!("if=none,id=iso,media=cdrom,readonly=on,format=raw,file={}", iso.display());
    let cd = ["-drive", &drive, "-device", "ide-cd,id=cd,drive=iso,bus=ide.1,bootindex=1"];
    let machine = bare(&story, 2).disk(&second, Bus::Usb).more(&cd);
    let (mut machine, monitor) = monitored(&story, machine, "m2");
    machine.wait_serial("local.cfg on /dev/sr0 (iso9660) is ignored: the one on /dev/sd", LONG).expect("the CD's");
    is_installed_once(&mut machine, "node2", "10.77.0.12/24", &|| monitor.eject("cd").expect("taken out"));
    drop(machine);

    let stick = medium(&story, "makeautoinstalldiskette", "stick.img", None);
    let second = second_stick(&story, "ext2.img", "ext2", &cfg("node3", "10.77.0.13"));
    let machine = bare(&story, 3).disk(&stick, Bus::Usb).property("bootindex=1,id=stick").disk(&second, Bus::Usb);
    let (mut machine, monitor) = monitored(&story, machine, "m3");
    let line = machine.wait_serial("local.cfg on /dev/", LONG).expect("which file counts");
    assert!(line.ends_with("(ext4) gives HOSTNAME, IPADDR, IMAGESERVER"), "{line}");
    is_installed_once(&mut machine, "node3", "10.77.0.13/24", &|| monitor.unplug("stick").expect("pulled out"));
    drop(machine);

    // A wrong one stops before the network is used.
    let second = second_stick(&story, "wrong.img", "fat", "HOSTNAME=a_b\nIPADDR=10.77.0.14\n");
    let machine = bare(&story, 4).disk(&stick, Bus::Usb).property("bootindex=1").disk(&second, Bus::Usb);
    let (mut machine, _monitor) = monitored(&story, machine, "m4");
    machine.wait_serial("(vfat) is wrong:", LONG).expect("which file");
    machine.wait_serial("line 1: HOSTNAME: \"a_b\" is not a host name", LONG).expect("the first line");
    machine.wait_serial("line 2: IPADDR has no netmask", LONG).expect("the second line");
    machine.wait_serial("nothing was changed, and the network was not used", LONG).expect("no harm");
    story.stop_serving().expect("the server ends in good order");
}

/// Processes that this one has started, whichever of its threads did.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    texts.flat_map(|text| text.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Ends the sessions that the server's sshd has; how many there were.
fn cut_sessions(story: &Story) -> usize {
    let is_sshd =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sshd");
    let started = children(story.serve_pid().expect("it serves"));
    let sessions: Vec<u32> = started.into_iter().filter(is_sshd).flat_map(children).collect();
    for session in &sessions {
        // Ended by itself meanwhile, it needs no signal.
        let _ = run::run_argv(&["kill", "-KILL", &session.to_string()]);
    }
    sessions.len()
}

#[test]
fn a_cd_with_pinned_keys_installs_over_ssh_whatever_the_clock_says_and_however_often_it_is_cut() {
    require!(Need::VirtualMachines, Need::Long, Need::Program("sshd"));
    require!(TOOLS[0], TOOLS[1], TOOLS[2], TOOLS[3], TOOLS[4], TOOLS[5], TOOLS[6]);
    let directory = directory("cd-ssh");
    let mut story = serving_by(directory.path(), "ssh");
    let iso = medium(
        &story,
        "makeautoinstallcd",
        "cd.iso",
        Some("HOSTNAME=node1\nIPADDR=10.77.0.11/24\nIMAGESERVER=10.77.0.1\n"),
    );
    let drive = format!("if=none,id=iso,media=cdrom,readonly=on,format=raw,file={}", iso.display());
    let machine = bare(&story, 1).more(&["-drive", &drive, "-device", "ide-cd,id=cd,drive=iso,bus=ide.1,bootindex=1"]);
    let machine = machine.more(&["-rtc", "base=2016-11-30T12:00:00"]);
    let (mut machine, monitor) = monitored(&story, machine, "m1");
    // At the very first; when the pull has begun.
    let cut = |what: &str| {
        wait_until(LONG, what, || Ok((cut_sessions(&story) > 0).then_some(()))).expect(what);
    };
    cut("a session that asks for the image");
    machine.wait_serial("pulled ", LONG).expect("it pulls");
    cut("a session that pulls");
    is_installed_once(&mut machine, "node1", "10.77.0.11/24", &|| monitor.eject("cd").expect("taken out"));
    let log = story.serve_log();
    // The pull that was cut was begun anew.
    assert!(log.matches("Accepted publickey for ").count() > 2, "{log}");
    story.stop_serving().expect("the server ends in good order");
}

#[test]
fn uefi_machines_boot_from_media() {
    let firmware = Need::File("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf");
    require!(
        Need::VirtualMachines,
        Need::Long,
        firmware,
        TOOLS[0],
        TOOLS[1],
        TOOLS[2],
        TOOLS[3],
        TOOLS[4],
        TOOLS[5],
        TOOLS[6]
    );
    let directory = directory("uefi");
    let story = serving(directory.path());
    let cfg = "HOSTNAME=idle1\nIPADDR=10.77.0.31/24\nIMAGESERVER=10.77.0.1\n";
    let stick = medium(&story, "makeautoinstalldiskette", "stick.img", Some(cfg));
    let iso = medium(&story, "makeautoinstallcd", "cd.iso", Some(cfg));
    for number in [5, 6] {
        let variables = story.directory.join(format!("vars{number}.fd"));
        std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &variables).expect("the firmware's memory");
        let code = "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
        let variables = format!("if=pflash,format=raw,file={}", variables.display());
        let machine = bare(&story, number).more(&["-drive", code, "-drive", &variables]);
        let drive = format!("if=none,id=iso,media=cdrom,readonly=on,format=raw,file={}", iso.display());
        let machine = match number {
            5 => machine.disk(&stick, Bus::Usb).property("bootindex=1"),
            _ => machine.more(&["-drive", &drive, "-device", "ide-cd,drive=iso,bus=ide.1,bootindex=1"]),
        };
        let mut machine = machine.spawn().expect("it starts");
        machine.wait_serial("nothing is installed: idle1 has no order", LONG).expect("it asked the server");
        let status: Value = serde_json::from_str(&story.run(&["--json", "status"]).expect("status")).expect("JSON");
        let machines = status["machines"].as_array().expect("a list");
        let mac = format!("52:54:00:77:02:{number:02x}");
        let known = machines.iter().find(|it| it["mac"] == mac.as_str()).expect("it is known");
        assert_eq!((&known["host"], &known["state"]), (&"idle1".into(), &"local-disk".into()), "{known}");
        machine.kill().expect("switched off");
    }
}
