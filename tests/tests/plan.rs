//! Plans of an image and a machine that exist only as files: refusals before anything is touched, and one
//! clear line for each plugin that is not there.
#![allow(clippy::disallowed_methods, reason = "tests start the program that they test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use systemimager_tests::{need, story};

const MASTER: &str = r#"format = 1
image = "web"
transports = ["rsync"]
partitioner = "sfdisk"
bootloader = "grub"
[identity]
plugin = "hosts"
[[layout.disk]]
node = "disk0"
label = "gpt"
size = "8 GiB"
[[layout.disk.partition]]
node = "disk0p1"
number = 1
size = "1 MiB"
type = "21686148-6449-6E6F-744E-656564454649"
[[layout.disk.partition]]
node = "disk0p2"
number = 2
type = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
[[layout.disk.partition]]
node = "disk0p3"
number = 3
size = "512 MiB"
type = "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"
[[layout.filesystem]]
node = "root"
on = "disk0p2"
type = "ext4"
uuid = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
[[layout.filesystem]]
node = "swap"
on = "disk0p3"
type = "swap"
uuid = "5a1b9c2d-7e3f-4a58-9b6c-0d1e2f3a4b5c"
[[layout.mount]]
node = "root"
at = "/"
"#;

const FSTAB: &str = "# /etc/fstab\n\
    UUID=1b4e28ba-2fa1-41d2-883f-0016d3cca427 / ext4 errors=remount-ro 0 1\n\
    UUID=5a1b9c2d-7e3f-4a58-9b6c-0d1e2f3a4b5c none swap sw 0 0\n\
    tmpfs /tmp tmpfs nosuid 0 0\n\
    /dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n";

/// The files of an image server: an image of a Debian machine as far as plans look at it.
struct Server {
    dir: tempfile::TempDir,
    stage: PathBuf,
}

impl Server {
    fn new() -> Option<Self> {
        let stage = story::stage().inspect_err(|error| need::skipped(&need::test_name(), &error.to_string())).ok()?;
        let server = Self { dir: tempfile::tempdir().expect("a directory"), stage };
        let image = "var/spool/systemimager/images/web";
        for (path, text) in [
            ("boot/vmlinuz-6.1.0-9-amd64", ""),
            (
                "lib/modules/6.1.0-9-amd64/modules.dep",
                "kernel/drivers/ata/ahci.ko:\nkernel/drivers/nvme/host/nvme.ko:\n",
            ),
            (
                "lib/modules/6.1.0-9-amd64/modules.builtin",
                "kernel/drivers/scsi/sd_mod.ko\nkernel/drivers/ata/ahci.ko\n",
            ),
            ("lib/modules/6.1.0-9-amd64/modules.alias", "alias pci:v*d*sv*sd*bc01sc08i02* nvme\n"),
            ("usr/sbin/grub-install", ""),
            ("usr/sbin/grub-mkconfig", ""),
            ("usr/sbin/update-grub", ""),
            ("usr/lib/grub/i386-pc/normal.mod", ""),
            ("boot/grub/grub.cfg", ""),
            ("etc/default/grub", "GRUB_CMDLINE_LINUX=\"quiet\"\n"),
            ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
            ("etc/network/interfaces", "auto lo\n"),
            ("usr/sbin/ifup", ""),
            ("etc/hosts", "127.0.0.1 localhost\n"),
            ("usr/lib/systemd/systemd", ""),
            ("etc/fstab", FSTAB),
        ] {
            server.put(&format!("{image}/{path}"), text);
        }
        fs::create_dir_all(server.at(&format!("{image}/sbin"))).expect("mkdir");
        // Absolute, as some distributions have it: it leads to a file of the image.
        std::os::unix::fs::symlink("/usr/lib/systemd/systemd", server.at(&format!("{image}/sbin/init")))
            .expect("a link");
        server.put("tftpboot/systemimager/web.master", MASTER);
        server.put("tftpboot/systemimager/hosts", "10.0.0.11 www1\n");
        std::os::unix::fs::symlink("web.master", server.at("tftpboot/systemimager/www1.sh")).expect("a link");
        for entry in fs::read_dir(server.stage.join("lib/systemimager/plugins")).expect("plugins") {
            let path = entry.expect("listed").path();
            fs::create_dir_all(server.at("plugins")).expect("mkdir");
            fs::copy(&path, server.at("plugins").join(path.file_name().expect("a name"))).expect("copied");
        }
        server.machine(&json!({}));
        Some(server)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
        fs::write(path, text).expect("written");
    }

    /// The machine www1 with one disk; `other` replaces fields of that disk.
    fn machine(&self, other: &Value) {
        let mut disk = json!({
            "name": "sda", "path": "/dev/sda", "size": "16 GiB", "sector_size": 512, "removable": false,
            "read_only": false, "rotational": false, "model": "DISK", "bus": "ata", "drivers": ["sd_mod", "ahci"],
        });
        for (key, value) in other.as_object().expect("fields") {
            disk[key] = value.clone();
        }
        let interface = json!({ "name": "eth0", "mac": "52:54:00:00:00:11", "link": true });
        let lease = json!({ "interface": "eth0", "mac": "52:54:00:00:00:11", "address": "10.0.0.11", "prefix": 24 });
        let hardware = json!({
            "arch": "x86_64", "firmware": "bios", "memory": "1 GiB", "disks": [disk], "interfaces": [interface],
            "lease": lease,
        });
        self.put("var/lib/systemimager/hardware/www1.json", &hardware.to_string());
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(self.stage.join("bin/systemimager"));
        command.arg("--root").arg(self.dir.path()).arg("--plugin-dir").arg(self.at("plugins"));
        command.args(words).output().expect("it starts")
    }

    /// What a plan of www1 is refused with.
    fn refusal(&self) -> String {
        let output = self.run(&["plan", "web", "--host", "www1"]);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.stdout.is_empty(), "a plan that is refused prints no step");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_plan_is_the_same_each_time() {
    let Some(server) = Server::new() else { return };
    let first = server.run(&["--json", "plan", "web", "--host", "www1"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let plan: Value = serde_json::from_slice(&first.stdout).expect("JSON");
    let phases: Vec<&str> =
        plan["steps"].as_array().expect("steps").iter().filter_map(|it| it["phase"].as_str()).collect();
    let mut sorted = phases.clone();
    sorted.dedup();
    assert_eq!(sorted, ["partition", "format", "mount", "pull", "identity", "boot", "finish"]);
    assert_eq!(plan["disks"]["disk0"]["path"], "/dev/sda");
    assert_eq!(first.stdout, server.run(&["--json", "plan", "web", "--host", "www1"]).stdout);
    // As text, for a person.
    let shown = text(&server.run(&["plan", "web", "--host", "www1"]).stdout);
    assert!(shown.contains("destroys disk0 = /dev/sda (DISK, 16 GiB, ata)"), "{shown}");
    assert!(!shown.contains("/dev/sda1"), "steps name nodes, not devices: {shown}");
}

#[test]
fn each_missing_plugin_gives_one_clear_line() {
    let Some(server) = Server::new() else { return };
    let rows = [
        ("libtransport_rsync.so", "there is no transport plugin \"rsync\""),
        ("libfs_ext2.so", "no plugin serves the file system type ext4"),
        ("libfs_swap.so", "no plugin serves the file system type swap"),
        ("libpart_sfdisk.so", "there is no partitioner plugin \"sfdisk\""),
        ("libboot_grub.so", "there is no bootloader plugin \"grub\""),
        ("libidentity_hosts.so", "there is no host-identity plugin \"hosts\""),
    ];
    for (file, says) in rows {
        fs::rename(server.at("plugins").join(file), server.at(file)).expect("moved");
        let plan = server.refusal();
        let check = server.run(&["check"]);
        fs::rename(server.at(file), server.at("plugins").join(file)).expect("moved");
        assert_eq!(plan.lines().filter(|line| line.contains(says)).count(), 1, "{file}: {plan}");
        assert_eq!(plan.lines().count(), 1, "{file}: {plan}");
        assert_eq!(check.status.code(), Some(1), "{file}");
        let check = text(&check.stdout) + &text(&check.stderr);
        let kind = says.split('"').nth(1).unwrap_or(says.rsplit(' ').next().unwrap_or_default());
        let lines: Vec<&str> =
            check.lines().filter(|line| line.contains("web.master:") && line.contains(kind)).collect();
        assert_eq!(lines.len(), 1, "{file}: {check}");
    }
    let output = server.run(&["check"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn disks_that_do_not_fit_are_refused_with_what_was_found() {
    let Some(server) = Server::new() else { return };
    let rows = [
        ("too small", json!({ "size": "256 MiB" }), "disk0 on /dev/sda (DISK, 256 MiB, ata): "),
        ("on USB", json!({ "bus": "usb" }), "/dev/sda (DISK, 16 GiB, usb) is removable or on USB; name it by serial"),
        ("in use", json!({ "in_use": ["/dev/sda1 is mounted on /"] }), "is in use (/dev/sda1 is mounted on /)"),
        (
            "no driver in the image",
            json!({ "drivers": ["hpsa"] }),
            "has no driver for /dev/sda (DISK, 16 GiB, ata): it needs hpsa",
        ),
        (
            "driver outside a missing initramfs",
            json!({ "drivers": ["nvme"] }),
            "has no initramfs, and /dev/sda (DISK, 16 GiB, ata) need nvme, which it has as modules",
        ),
    ];
    for (name, other, says) in rows {
        server.machine(&other);
        let said = server.refusal();
        assert!(said.contains(says), "{name}: {said}");
    }
    let hardware = server.at("var/lib/systemimager/hardware/www1.json");
    let mut machine: Value = serde_json::from_slice(&fs::read(&hardware).expect("hardware")).expect("JSON");
    machine["disks"] = json!([]);
    fs::write(&hardware, machine.to_string()).expect("written");
    assert!(server.refusal().contains("disk0: no disk of this machine fits; no disk was found at all"));
}

#[test]
fn images_that_would_not_come_up_are_refused() {
    let Some(server) = Server::new() else { return };
    let fstab = "var/spool/systemimager/images/web/etc/fstab";
    let master = |text: &str| server.put("tftpboot/systemimager/web.master", text);
    let rows = [
        (
            "a UUID that nothing makes",
            format!("{FSTAB}UUID=1234-ABCD /boot/efi vfat umask=0077 0 1\n"),
            MASTER.to_owned(),
            "the image's /etc/fstab names UUID=1234-ABCD (for /boot/efi), which the layout does not make",
        ),
        (
            "a kernel's name",
            FSTAB.replace("UUID=5a1b9c2d-7e3f-4a58-9b6c-0d1e2f3a4b5c", "/dev/sda3"),
            MASTER.to_owned(),
            "names /dev/sda3 (for swap), a kernel's name, which is another disk's on another machine; \
             write UUID=5a1b9c2d-7e3f-4a58-9b6c-0d1e2f3a4b5c in its place",
        ),
        (
            "a UUID that is made anew",
            FSTAB.to_owned(),
            MASTER.replace("\ntype = \"swap\"", "\ntype = \"swap\"\nnew_uuid = true"),
            "and the layout has new_uuid = true for swap: no machine would have that UUID",
        ),
    ];
    for (name, text, layout, says) in rows {
        server.put(fstab, &text);
        master(&layout);
        let said = server.refusal();
        assert!(said.contains(says) && said.lines().count() == 1, "{name}: {said}");
    }
    master(MASTER);
    fs::remove_file(server.at(fstab)).expect("removed");
    // The file is there on the machine that plans, not in the image.
    fs::remove_file(server.at("var/spool/systemimager/images/web/usr/lib/systemd/systemd")).expect("removed");
    let said = server.refusal();
    assert!(said.contains("the image web has no /etc/fstab"), "{said}");
    assert!(said.contains("the image web has none of /sbin/init, "), "{said}");
    assert_eq!(said.lines().count(), 2, "all that is wrong, at once: {said}");
}

#[test]
fn a_choice_among_disks_is_said() {
    let Some(server) = Server::new() else { return };
    let hardware = server.at("var/lib/systemimager/hardware/www1.json");
    let mut machine: Value = serde_json::from_slice(&fs::read(&hardware).expect("hardware")).expect("JSON");
    let mut second = machine["disks"][0].clone();
    second["name"] = json!("sdb");
    second["path"] = json!("/dev/sdb");
    machine["disks"].as_array_mut().expect("disks").push(second);
    fs::write(&hardware, machine.to_string()).expect("written");
    let said = server.refusal();
    assert!(said.contains("disk0: 2 disks of this machine fit, and its rule does not say which"), "{said}");
    let ordered = MASTER.replace("size = \"8 GiB\"\n", "size = \"8 GiB\"\nmatch = { order = 0 }\n");
    server.put("tftpboot/systemimager/web.master", &ordered);
    let output = server.run(&["--json", "plan", "web", "--host", "www1"]);
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(plan["disks"]["disk0"]["path"], "/dev/sda");
    let warnings = plan["warnings"].to_string();
    assert!(warnings.contains("chosen by order; /dev/sdb (DISK, 16 GiB, ata) would fit too"), "{warnings}");
}

#[test]
fn wrong_masters_are_refused_with_line_and_column() {
    let Some(server) = Server::new() else { return };
    // Without a link of its own the host gets the image's master, which is then named by its own name.
    fs::remove_file(server.at("tftpboot/systemimager/www1.sh")).expect("removed");
    let master = |text: &str| server.put("tftpboot/systemimager/web.master", text);
    let rows = [
        ("not TOML", MASTER.replace("format = 1", "format = "), "web.master:1:"),
        ("unknown key", MASTER.replace("partitioner =", "partitoner ="), "web.master:4:1: "),
        (
            "an absent file system",
            MASTER.replace("type = \"ext4\"", "type = \"zfs\""),
            "no plugin serves the file system type zfs",
        ),
        ("a node that is not there", MASTER.replace("on = \"disk0p3\"", "on = \"disk7\""), "disk7"),
        ("another format", MASTER.replace("format = 1", "format = 9"), "web.master:1:10: "),
        (
            "an option that the file system does not have",
            MASTER.replace("type = \"ext4\"", "type = \"ext4\"\noptions = { su = \"64k\" }"),
            "the option su = \"64k\" is unknown",
        ),
    ];
    let mut told = String::new();
    for (name, text, says) in rows {
        master(&text);
        let said = server.refusal();
        assert!(said.contains(says), "{name}: {said}");
        let check = server.run(&["check"]);
        assert_eq!(check.status.code(), Some(1), "{name}");
        told = crate::text(&check.stdout);
    }
    assert!(told.contains("web.master:26:1: file system root: ") && told.contains("su = \"64k\" is unknown"), "{told}");
}

#[test]
fn names_are_checked_before_anything() {
    let Some(server) = Server::new() else { return };
    for (words, code, says) in [
        (vec!["plan", "../etc", "--host", "www1"], 2, "is not an image name"),
        (vec!["plan", "db", "--host", "www1"], 1, "there is no image db"),
        (vec!["plan", "web", "--host", "a/b"], 2, "is not a host name"),
        (vec!["plan", "web"], 1, "name one with --host"),
        (vec!["plan", "web", "--host", "www9"], 1, "a machine reports it when it boots"),
        (vec!["-plan"], 2, "unexpected argument"),
    ] {
        let output = server.run(&words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(says), "{words:?}: {}", text(&output.stderr));
    }
    assert!(Path::new(&server.at("tftpboot")).is_dir());
}
