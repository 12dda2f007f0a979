//! One image's lilo.conf (`golden/image.conf`) made that of machines with disks of different kinds: `golden/KIND.conf`.
//! `UPDATE_GOLDEN=1` writes them anew.

use std::collections::BTreeMap;
use std::path::Path;

use boot_lilo::Lilo;
use systemimager_core::contract::{BootloaderDetect, BootloaderPlan, BootloaderRefresh};
use systemimager_core::testing::RecordedHost;
use systemimager_core::{
    Action, Arg, BlockDevice, BootTarget, Booted, BootedMount, Bootloader as _, BytePath, Contents, ErrorKind,
    ImageFacts, Kernel, Layout, NodeName, Phase, Place, Size, Step,
};

const UUID: &str = "b8f08195-d958-4ccd-bfed-b00eee31ffd5";

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn tree() -> RecordedHost {
    let text = std::fs::read_to_string(golden("image.conf")).unwrap();
    ["/sbin/lilo", "/boot/vmlinuz", "/boot/initrd.img", "/boot/vmlinuz.small", "/boot/map"]
        .into_iter()
        .fold(RecordedHost::new().file("/etc/lilo.conf", text), |host, path| host.file(path, ""))
}

fn image(host: &RecordedHost) -> ImageFacts {
    let found = Lilo.detect(host, BootloaderDetect { place: Place::Tree { root: "/i".into() } }).unwrap();
    ImageFacts {
        name: "web".into(),
        arch: "x86_64".into(),
        bootloaders: found.into_iter().map(|found| ("lilo".to_owned(), found)).collect(),
        initramfs_tool: Some("update-initramfs".into()),
        kernels: vec![Kernel {
            release: "6.1".into(),
            path: "/boot/vmlinuz-6.1".into(),
            initramfs: Some("/boot/initrd.img-6.1".into()),
            ..Kernel::default()
        }],
        ..ImageFacts::default()
    }
}

/// A root file system on the second partition of a disk, or on one of a high number.
fn layout(number: u32) -> Layout {
    serde_json::from_value(serde_json::json!({
        "disk": [{ "node": "disk0", "label": "dos", "size": Size(8 << 30), "partition": [
            { "node": "disk0p1", "number": 1, "size": Size(1 << 28), "type": "83" },
            { "node": "root-part", "number": number, "size": Size(1 << 30), "type": "83" },
        ] }],
        "filesystem": [
            { "node": "boot", "on": "disk0p1", "type": "ext2" },
            { "node": "root", "on": "root-part", "type": "ext4", "uuid": UUID },
        ],
        "mount": [{ "node": "root", "at": "/" }, { "node": "boot", "at": "/boot" }],
    }))
    .unwrap()
}

fn device(name: &str) -> BlockDevice {
    BlockDevice {
        name: name.into(),
        path: format!("/dev/{name}").as_str().into(),
        size: Size(8 << 30),
        ..BlockDevice::default()
    }
}

fn request(image: ImageFacts, name: &str, number: u32, firmware: &str) -> BootloaderPlan {
    let disk = NodeName::try_from("disk0").unwrap();
    BootloaderPlan {
        layout: Some(layout(number)),
        devices: BTreeMap::from([(disk.clone(), device(name))]),
        ..BootloaderPlan::new(BootTarget::Disk {
            disks: vec![disk],
            firmware: firmware.into(),
            image: Box::new(image),
            missing_modules: Vec::new(),
        })
    }
}

fn written(steps: &[Step]) -> String {
    let texts: Vec<&str> = steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::WriteFile { contents: Contents::Bytes(bytes), .. } => bytes.text().ok(),
            _ => None,
        })
        .collect();
    let [text] = texts.as_slice() else { panic!("{steps:?}") };
    (*text).to_owned()
}

/// The words of the programs that are run in the target.
fn programs(steps: &[Step]) -> Vec<String> {
    let word = |arg: &Arg| match arg {
        Arg::Text(text) => text.to_string(),
        other => format!("{other:?}"),
    };
    steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::InTarget { argv, .. } => Some(argv.iter().map(word).collect::<Vec<_>>().join(" ")),
            _ => None,
        })
        .collect()
}

const RUNS: [&str; 2] = ["cp -p -- /boot/map /boot/map.before-lilo", "lilo -S /boot/boot-sector.before-lilo"];

#[test]
fn each_kind_of_disk() {
    for (kind, name, number) in
        [("ide", "hda", 2), ("scsi", "sda", 2), ("virtio", "vda", 2), ("virtio-many", "vda", 9), ("nvme", "nvme0n1", 2)]
    {
        let host = tree();
        let steps = Lilo.plan(&host, request(image(&host), name, number, "bios")).unwrap().steps;
        assert_eq!(programs(&steps), RUNS, "{kind}");
        assert!(steps.iter().all(|step| step.phase == Phase::Boot));
        assert!(
            host.logged.lock().unwrap().iter().any(|(_, line)| line.contains("\"Windows\" boots /dev/hda1")),
            "{kind}"
        );
        let (text, file) = (written(&steps), golden(&format!("{kind}.conf")));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&file).unwrap_or_default(), "{}", file.display());
    }
}

#[test]
fn an_image_without_lilo_conf_boots_its_kernels() {
    let host = RecordedHost::new().file("/usr/sbin/lilo", "");
    let steps = Lilo.plan(&host, request(image(&host), "sda", 2, "bios")).unwrap().steps;
    assert_eq!(programs(&steps), RUNS[1..]);
    let text = written(&steps);
    let expected = format!(
        "image=/boot/vmlinuz-6.1\n\tlabel=Linux\n\tread-only\n\tinitrd=/boot/initrd.img-6.1\n\troot=\"UUID={UUID}\"\n"
    );
    assert!(text.ends_with(&expected), "{text}");
}

#[test]
fn what_changed_decides_whether_it_is_run_again() {
    let host = tree();
    let mount = |at: &str, device: &str, uuid: &str| BootedMount {
        at: at.into(),
        device: device.into(),
        fstype: "ext4".into(),
        uuid: uuid.into(),
        made_of: String::new(),
    };
    let booted = Booted {
        firmware: "bios".into(),
        disks: vec![device("vda")],
        mounts: vec![mount("/", "/dev/vda2", UUID), mount("/boot", "/dev/vda1", "")],
        ..Booted::new(Place::Running)
    };
    let ask = |changed: Option<&[&str]>, modules: &[&str]| {
        let request = BootloaderRefresh {
            image: image(&host),
            missing_modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            booted: Some(booted.clone()),
            changed: changed.map(|paths| paths.iter().map(|path| BytePath::from(*path)).collect()),
        };
        Lilo.refresh(&host, request).unwrap()
    };
    for (name, changed, runs) in [
        ("nothing", Some([].as_slice()), false),
        ("nothing that matters", Some(&["/etc/motd", "/bootstrap"]), false),
        ("a kernel", Some(&["/boot/vmlinuz"]), true),
        ("the configuration", Some(&["/etc/lilo.conf"]), true),
        ("who knows", None, true),
    ] {
        let steps = ask(changed, &[]);
        assert_eq!(programs(&steps), if runs { &RUNS[..] } else { &[] }, "{name}");
        if runs {
            assert_eq!(written(&steps), std::fs::read_to_string(golden("virtio.conf")).unwrap(), "{name}");
        }
    }
    let steps = ask(Some(&[]), &["ahci"]);
    assert_eq!(programs(&steps), ["update-initramfs -u -k 6.1", RUNS[0], RUNS[1]]);
}

#[test]
fn refusals() {
    let host = tree();
    let with = |from: &str, to: &str| {
        let text = std::fs::read_to_string(golden("image.conf")).unwrap().replace(from, to);
        image(&tree().file("/etc/lilo.conf", text))
    };
    let bare = image(&RecordedHost::new());
    let mut lost = request(image(&host), "sda", 2, "bios");
    lost.devices.clear();
    let rows = [
        ("uefi", request(image(&host), "sda", 2, "uefi"), ErrorKind::Unsupported, "LILO starts from a BIOS only"),
        ("no LILO", request(bare, "sda", 2, "bios"), ErrorKind::Missing, "install the package lilo in the image"),
        (
            "no kernel of that name",
            request(with("vmlinuz.small", "gone"), "sda", 2, "bios"),
            ErrorKind::Missing,
            "/etc/lilo.conf of the image web names /boot/gone, which the image lacks",
        ),
        (
            "a device name",
            request(with("net.ifnames=0", "resume=/dev/hda3"), "sda", 2, "bios"),
            ErrorKind::Invalid,
            "a device name that only the master client had: resume=/dev/hda3",
        ),
        ("no device", lost, ErrorKind::Invalid, "nobody said which disk of this machine disk0 is"),
        (
            "nothing to boot",
            request(image(&tree().file("/etc/lilo.conf", "other=/dev/hda1\n")), "sda", 2, "bios"),
            ErrorKind::Invalid,
            "has no image= to boot",
        ),
    ];
    for (name, request, kind, says) in rows {
        let error = Lilo.plan(&host, request).unwrap_err();
        assert_eq!(error.kind, kind, "{name}: {error}");
        assert!(error.message.contains(says), "{name}: {error}");
    }
}
