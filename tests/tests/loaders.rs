//! Machines that start otherwise than the master client: by UEFI, with `/` on reiserfs, by LILO.
//!
//! One image serves all: it is captured once, and its copy is changed as an administrator would, in its master file and
//! in its /etc.

use std::path::{Path, PathBuf};
use std::time::Duration;

use systemimager_tests::lab::disk::Loop;
use systemimager_tests::lab::machine::{Boot, Bus, Machine};
use systemimager_tests::lab::run;
use systemimager_tests::need::{Need, skipped, test_name};
use systemimager_tests::require;
use systemimager_tests::story::{IMAGE, Story};

/// How long an emulated machine may take to install itself.
const INSTALL: Duration = Duration::from_secs(900);
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

fn directory(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(&format!("systemimager-{name}-")).tempdir_in("/var/tmp").expect("a directory")
}

/// A file of the story, changed.
fn change(path: &Path, edit: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    std::fs::write(path, edit(text)).expect("written");
}

fn master_file(story: &Story) -> PathBuf {
    story.root().join("tftpboot/systemimager").join(format!("{IMAGE}.master"))
}

/// The line of a text that begins so, replaced.
fn with_line(text: &str, begins: &str, new: &str) -> String {
    assert!(text.lines().any(|line| line.starts_with(begins)), "no {begins:?} in {text}");
    text.lines().map(|line| if line.starts_with(begins) { new } else { line }).collect::<Vec<_>>().join("\n") + "\n"
}

/// The part of a master file that describes one file system, changed.
fn with_file_system(text: &str, node: &str, edit: impl FnOnce(&str) -> String) -> String {
    let at = text.find(&format!("[[layout.filesystem]]\nnode = \"{node}\"")).expect("the file system is there");
    let end = text[at + 1..].find("\n\n").map_or(text.len(), |end| at + 1 + end);
    format!("{}{}{}", &text[..at], edit(&text[at..end]), &text[end..])
}

/// The partition table of an UEFI machine, in the words of a master file.
const EFI_DISK: &str = r#"[[layout.disk]]
node = "disk0"
label = "gpt"
size = "2 GiB"
match = { order = 0 }
[[layout.disk.partition]]
node = "disk0p3"
number = 1
size = "64 MiB"
type = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
name = "EFI"
[[layout.disk.partition]]
node = "disk0p1"
number = 2
size = "192 MiB"
type = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
[[layout.disk.partition]]
node = "disk0p2"
number = 3
size = "*"
type = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"

"#;
const ESP: &str = "\n[[layout.filesystem]]\nnode = \"esp\"\non = \"disk0p3\"\ntype = \"vfat\"\nuuid = \"ABCD-1234\"\nlabel = \"EFI\"\n\
                   options = { fat_size = \"32\" }\n\n[[layout.mount]]\nnode = \"esp\"\nat = \"/boot/efi\"\n";

/// Firmware for UEFI, with a memory of its own in `variables`.
fn uefi(machine: Machine, variables: &Path) -> Machine {
    machine.more(&[
        "-drive",
        &format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}"),
        "-drive",
        &format!("if=pflash,unit=1,format=raw,file={}", variables.display()),
    ])
}

/// The miniature system, started by QEMU as a loader would.
fn started_by_kernel(story: &Story) -> Boot {
    let tftp = story.root().join("tftpboot");
    Boot::Kernel {
        kernel: tftp.join("kernel"),
        initrd: Some(tftp.join("initrd.img")),
        append: "si.server=10.77.0.1 si.port=8069 console=tty0 console=ttyS0,115200 no_timer_check".into(),
    }
}

#[test]
fn an_uefi_machine_boots_from_its_disk_with_its_entry_and_without() {
    require!(Need::VirtualMachines, Need::Long, Need::Program("mkfs.vfat"), Need::Program("mcopy"));
    require!(Need::File(FIRMWARE, "ovmf"), Need::File(VARIABLES, "ovmf"));
    let directory = directory("uefi");
    let mut story = Story::with_image(directory.path()).expect("a server with an image");
    let clients = story.clients(1).expect("a machine is declared");
    let client = &clients[0];
    let variables = directory.path().join("vars.fd");
    std::fs::copy(VARIABLES, &variables).expect("copied");

    story.serve().expect("the server serves");
    // What the master client's layout has no place for is said before anything is touched.
    let machine = || uefi(story.machine(client).expect("a machine"), &variables).boot(started_by_kernel(&story));
    let mut bare = machine().exit_on_restart().spawn().expect("it starts");
    bare.wait_serial("the layout has no EFI system partition that is mounted", INSTALL).expect("refused");
    let first = std::fs::read(&client.disk).map(|bytes| bytes.iter().all(|byte| *byte == 0)).expect("its disk");
    assert!(first, "what is refused touches no disk");
    bare.kill().expect("switched off");

    change(&master_file(&story), |text| {
        let (at, end) =
            (text.find("[[layout.disk]]").expect("a disk"), text.find("# File systems and swap").expect("then"));
        let swap = with_file_system(&format!("{}{EFI_DISK}{}", &text[..at], &text[end..]), "swap", |_| String::new());
        format!("{swap}{ESP}")
    });
    change(&story.image().join("etc/fstab"), |text| {
        let kept: Vec<&str> = text.lines().filter(|line| !line.contains(" swap ")).collect();
        format!("{}\nUUID=ABCD-1234 /boot/efi vfat umask=0077 0 1\n", kept.join("\n"))
    });
    std::fs::create_dir_all(story.image().join("boot/efi/EFI/lab")).expect("made");
    std::fs::write(story.image().join("boot/efi/EFI/lab/read me.txt"), "kept on the partition\n").expect("written");
    story.run(&["install", &client.name]).expect("ordered");
    // From a stick, as where there is no network boot; the firmware finds it by its own order.
    let stick = directory.path().join("stick.img");
    let shown = stick.to_string_lossy().into_owned();
    story.run(&["makeautoinstalldiskette", "--output", &shown]).expect("a stick");
    let machine = || uefi(story.machine(client).expect("a machine"), &variables).boot(Boot::Disk);
    let mut bare =
        machine().disk(&stick, Bus::Usb).property("bootindex=1").exit_on_restart().spawn().expect("it starts");
    story.wait_installed(client, &mut bare).expect("it is installed");
    drop(bare);

    for (what, keep) in [("by its entry", true), ("without an entry", false)] {
        if !keep {
            std::fs::copy(VARIABLES, &variables).expect("a firmware without a memory");
        }
        let machine = uefi(story.machine(client).expect("a machine"), &variables).boot(Boot::Disk);
        let mut installed = machine.spawn().expect("it starts");
        let marker = story.wait_up(client, &mut installed).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert!(marker.command_line.contains("root=UUID="), "{what}: {}", marker.command_line);
        let ssh = story.ssh(client).expect("ssh answers");
        let entries = ssh.run(&["efibootmgr", "-v"]).expect("entries");
        assert_eq!(entries.to_lowercase().contains("\\efi\\debian\\"), keep, "{what}: {entries}");
        let kept = ssh.run(&["cat", "/boot/efi/EFI/lab/read me.txt"]).expect("the file");
        assert_eq!(kept, "kept on the partition\n", "{what}");
        installed.kill().expect("switched off");
    }
    story.stop_serving().expect("the server ends in good order");
}

#[test]
fn a_machine_with_its_root_on_reiserfs() {
    require!(Need::VirtualMachines, Need::Long, Need::Program("mkreiserfs"));
    let directory = directory("reiserfs");
    let mut story = Story::with_image(directory.path()).expect("a server with an image");
    let clients = story.clients(1).expect("a machine is declared");
    let client = &clients[0];
    change(&master_file(&story), |text| {
        with_file_system(&text, "root", |part| {
            let kept: Vec<&str> = part.lines().filter(|line| !line.starts_with("options")).collect();
            kept.join("\n").replace("\"ext4\"", "\"reiserfs\"")
        })
    });
    change(&story.image().join("etc/fstab"), |text| {
        text.replace("/     ext4 errors=remount-ro", "/     reiserfs defaults")
    });
    story.serve().expect("the server serves");
    let mut bare = story.boot_bare(client).expect("it starts");
    story.wait_installed(client, &mut bare).expect("it is installed");
    drop(bare);
    let disk = Loop::attach_read_only(&client.disk).expect("the disk is there");
    let kind = |number: u32| {
        let words = ["blkid", "-p", "-o", "value", "-s", "TYPE", &disk.partition(number)];
        run::run_argv(&words).expect("a file system").trim().to_owned()
    };
    assert_eq!((kind(1), kind(2)), ("ext2".to_owned(), "reiserfs".to_owned()));
    drop(disk);
    let (_machine, marker) = story.boot_installed(client).expect("it comes up from its disk");
    println!("up from {} with {}", marker.root_device, marker.command_line);
    let ssh = story.ssh(client).expect("ssh answers");
    let mounts = ssh.run(&["findmnt", "-n", "-o", "TARGET,FSTYPE", "/"]).expect("mounts");
    assert!(mounts.contains("reiserfs"), "{mounts}");
    story.stop_serving().expect("the server ends in good order");
}

#[test]
fn lilo_boots_once_and_from_now_on() {
    require!(Need::VirtualMachines, Need::Long);
    let Some(lilo) = std::env::var_os("LILO").map(PathBuf::from).filter(|path| path.is_file()) else {
        return skipped(
            &test_name(),
            "no real LILO: no Debian release has it any more; name its program with LILO=FILE",
        );
    };
    let directory = directory("lilo");
    let mut story = Story::with_image(directory.path()).expect("a server with an image");
    let clients = story.clients(1).expect("a machine is declared");
    let client = &clients[0];
    let program = story.image().join("sbin/lilo");
    std::fs::copy(&lilo, &program).expect("LILO goes into the image");
    run::run(run::program("chmod").arg("755").arg(&program)).expect("it can be run");
    let boot = std::fs::read_dir(story.image().join("boot")).expect("/boot").flatten();
    let names: Vec<String> = boot.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let first = |prefix: &str| names.iter().find(|name| name.starts_with(prefix)).expect(prefix).clone();
    let (kernel, initrd) = (first("vmlinuz-"), first("initrd.img-"));
    let entry = |label: &str| {
        format!(
            "image = /boot/{kernel}\n\tlabel = {label}\n\tinitrd = /boot/{initrd}\n\tread-only\n\
             \tappend = \"console=ttyS0,115200 no_timer_check entry={label}\"\n"
        )
    };
    // As the master's: on another disk.
    let conf = format!(
        "boot = /dev/hda\nroot = /dev/hda2\ninstall = text\nlba32\ncompact\ntimeout = 10\nprompt\ndefault = first\n{}{}",
        entry("first"),
        entry("second")
    );
    std::fs::write(story.image().join("etc/lilo.conf"), conf).expect("written");
    change(&master_file(&story), |text| with_line(&text, "bootloader = ", "bootloader = \"lilo\""));
    story.serve().expect("the server serves");
    let mut bare = story.boot_bare(client).expect("it starts");
    story.wait_installed(client, &mut bare).expect("it is installed");
    drop(bare);

    let (mut machine, marker) = story.boot_installed(client).expect("LILO starts it");
    assert!(marker.command_line.contains("entry=first"), "{}", marker.command_line);
    let mut restarted = |words: &[&str], expected: &str| {
        if !words.is_empty() {
            story.ssh(client).expect("ssh").run(words).expect("LILO takes it");
        }
        // The connection may end before the answer comes.
        let _ = story.ssh(client).expect("ssh").run(&["systemctl", "reboot"]);
        let marker = story.wait_up(client, &mut machine).expect("it comes up again");
        assert!(marker.command_line.contains(&format!("entry={expected}")), "{words:?}: {}", marker.command_line);
    };
    restarted(&["lilo", "-R", "second"], "second");
    restarted(&[], "first");
    restarted(&["lilo", "-D", "second"], "second");
    restarted(&[], "second");
    story.stop_serving().expect("the server ends in good order");
}
