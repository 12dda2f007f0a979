//! Boot loaders: each kind of target is planned or refused, an image that lacks the loader is named.

use std::collections::BTreeMap;

use super::steps::Bounds;
use super::{Check, HOSTILE, NONSENSE, NOWHERE, READING, Rules, any, is_clean, node, shown};
use crate::contract::{BootOnce, BootloaderDetect, BootloaderPlan, BootloaderRefresh};
use crate::data::{
    BlockDevice, BootEntry, BootPlan, BootTarget, Booted, BootedMount, BytePath, ImageFacts, Kernel, Layout, NodeName,
    Phase, Place, Role, Size, Spawn, Step,
};
use crate::error::ErrorKind;

/// A network or medium's own files are looked for on the machine that plans, so the host may be asked.
const PLANS: Rules = Rules::reads(&[
    ErrorKind::Invalid,
    ErrorKind::Unsupported,
    ErrorKind::Missing,
    ErrorKind::NotFound,
    ErrorKind::Denied,
]);

impl Check<'_> {
    pub(super) fn bootloader(&mut self) {
        let detect = BootloaderDetect { place: Place::Tree { root: NOWHERE.into() } };
        let found = any::<Option<BTreeMap<String, String>>>;
        self.ask("detect in an absent tree", "detect", &detect, Rules::reads(READING), found);
        self.detects::<Option<BTreeMap<String, String>>>(Rules::reads(&[]).answers());
        let Some(disk) = node("disk0") else { return };
        let id = self.plugin.identification.id.clone();
        let entry = |name: &str| BootEntry {
            name: name.into(),
            title: name.into(),
            kernel: Some("kernel".into()),
            initrd: Some("initrd.img".into()),
            command_line: "quiet".into(),
        };
        let on_disk = |firmware: &str, image: ImageFacts| BootloaderPlan {
            efivars: true,
            layout: layout(),
            devices: BTreeMap::from([(disk.clone(), device())]),
            ..BootloaderPlan::new(BootTarget::Disk {
                disks: vec![disk.clone()],
                firmware: firmware.into(),
                image: Box::new(image),
                missing_modules: vec![],
            })
        };
        let network = |server: &str, mac: Option<&str>, names: &[&str]| {
            let mac = mac.map(str::to_owned);
            BootloaderPlan {
                entries: names.iter().map(|name| entry(name)).collect(),
                default: names.first().map(|name| (*name).to_owned()),
                ..BootloaderPlan::new(BootTarget::Network { server: server.into(), http_port: 80, mac })
            }
        };
        let media = |kind: &str| BootloaderPlan {
            entries: vec![entry("check")],
            default: Some("check".into()),
            ..BootloaderPlan::new(BootTarget::Media { kind: kind.into() })
        };
        for (firmware, facts) in [("bios", None), ("uefi", None), ("bios", Some("")), ("uefi", Some("a\nb"))] {
            let what = format!("plan of a {firmware} disk{}", facts.map_or("", |_| ", with odd facts of the image"));
            self.plan_of(what, &on_disk(firmware, image(&id, facts)), Some(&disk), PLANS);
        }
        self.plan_of(
            "plan of an unknown firmware".into(),
            &on_disk(NONSENSE, image(&id, None)),
            Some(&disk),
            PLANS.refuses(),
        );
        let mac = Some("52:54:00:12:34:56");
        self.plan_of("plan of a network root".into(), &network("10.0.0.1", None, &["check"]), None, PLANS);
        self.plan_of(
            "plan of a network root for one machine".into(),
            &network("10.0.0.1", mac, &["check"]),
            None,
            PLANS,
        );
        for kind in ["usb", "cd"] {
            self.plan_of(format!("plan of a {kind} medium"), &media(kind), None, PLANS);
        }
        self.plan_of("plan of an unknown medium".into(), &media(NONSENSE), None, PLANS.refuses());
        for word in HOSTILE {
            let plan = network(word, Some(word), &[word, "check"]);
            self.plan_of(format!("plan of a network root with {} everywhere", shown(word)), &plan, None, PLANS);
            let mut odd = image(&id, Some(word));
            odd.kernels = vec![Kernel { release: word.into(), path: word.into(), ..Kernel::default() }];
            self.plan_of(
                format!("plan of a disk with {} everywhere", shown(word)),
                &on_disk("bios", odd),
                Some(&disk),
                PLANS,
            );
        }
        for firmware in ["bios", "uefi", NONSENSE] {
            let what = format!("plan of a {firmware} disk of which only the nodes are known");
            let plan = BootloaderPlan { layout: None, devices: BTreeMap::new(), ..on_disk(firmware, image(&id, None)) };
            self.plan_of(what, &plan, Some(&disk), PLANS);
        }
        self.installed(&id);
    }

    /// What is planned on a system that is installed: its steps name devices, and no others than they were told.
    fn installed(&mut self, id: &str) {
        let entry = |word: &str| BootEntry {
            name: word.into(),
            title: word.into(),
            kernel: Some(format!("/boot/{word}")),
            initrd: Some(format!("/boot/{word}.img")),
            command_line: word.into(),
        };
        let judge = |steps: &Vec<Step>, _: &[Spawn]| {
            let devices = ["/dev/check", "/dev/check1"];
            Bounds { phase: Phase::Boot, there: vec![], new: vec![], programs: None, devices: &devices }.judge(steps)
        };
        for word in HOSTILE.into_iter().chain(["check"]) {
            for persistent in [false, true] {
                let once = BootOnce { entry: entry(word), persistent, booted: Some(booted("bios")) };
                let what = format!("boot_once of {}{}", shown(word), if persistent { ", for good" } else { "" });
                self.ask(what, "boot_once", &once, PLANS, judge);
            }
        }
        let once = BootOnce { entry: entry("check"), persistent: false, booted: None };
        self.ask("boot_once on a system of which nothing is known", "boot_once", &once, PLANS, judge);
        let image = |facts| image(id, facts);
        for (what, image, firmware, changed) in [
            ("an image without the loader", image(None), "bios", None),
            ("an image without the loader, where nothing changed", image(None), "bios", Some(vec![])),
            ("an image with odd facts", image(Some("a\nb")), "uefi", Some(vec!["/boot".into()])),
            ("an unknown firmware", image(None), NONSENSE, Some(HOSTILE.map(BytePath::from).into())),
        ] {
            let booted = Some(booted(firmware));
            let refresh = BootloaderRefresh { image, missing_modules: vec![], booted, changed };
            self.ask(format!("refresh of {what}"), "refresh", &refresh, PLANS, judge);
        }
        let refresh = BootloaderRefresh {
            image: image(None),
            missing_modules: HOSTILE.map(String::from).into(),
            booted: None,
            changed: None,
        };
        self.ask("refresh of a system of which nothing is known", "refresh", &refresh, PLANS, judge);
    }

    fn plan_of(&mut self, what: String, request: &BootloaderPlan, disk: Option<&NodeName>, rules: Rules) {
        // Only what an install runs is carried out on the installer.
        let programs = disk.map(|_| self.programs.get(&Role::Installer).cloned().unwrap_or_default());
        self.ask(what, "plan", request, rules, |plan: &BootPlan, _| {
            let medium = matches!(request.target, BootTarget::Media { .. }).then(|| node("medium")).flatten();
            let there = disk.cloned().into_iter().chain(medium).collect();
            let told = Bounds { phase: Phase::Boot, there, new: vec![], programs: programs.as_ref(), devices: &[] }
                .judge(&plan.steps)?;
            let odd = plan.boot_files.iter().find(|file| !is_clean(&BytePath::from("/").join(file.name.as_str())));
            match odd {
                Some(file) => Err(format!("the boot file {:?} is no plain path below the network root", file.name)),
                None => Ok(told),
            }
        });
    }
}

fn device() -> BlockDevice {
    BlockDevice {
        name: "check".into(),
        path: "/dev/check".into(),
        size: Size(8 << 30),
        sector_size: 512,
        ..BlockDevice::default()
    }
}

fn booted(firmware: &str) -> Booted {
    let mount = BootedMount {
        at: "/".into(),
        device: "/dev/check1".into(),
        fstype: "ext4".into(),
        uuid: "b8f08195-d958-4ccd-bfed-b00eee31ffd5".into(),
        made_of: String::new(),
    };
    let place = Place::Tree { root: NOWHERE.into() };
    Booted {
        firmware: firmware.into(),
        efivars: true,
        disks: vec![device()],
        mounts: vec![mount],
        ..Booted::new(place)
    }
}

/// One disk with one partition. From JSON, as masters are: fields that a later version appends have their defaults.
fn layout() -> Option<Layout> {
    serde_json::from_value(serde_json::json!({
        "disk": [{ "node": "disk0", "label": "dos", "size": Size(8 << 30), "partition": [
            { "node": "disk0p1", "number": 1, "start": Size(1 << 20), "size": Size(1 << 30), "type": "83" },
        ] }],
        "filesystem": [{ "node": "root", "on": "disk0p1", "type": "ext4" }],
        "mount": [{ "node": "root", "at": "/" }],
    }))
    .ok()
}

/// An image; with facts that the plugin itself would hardly have found.
fn image(id: &str, facts: Option<&str>) -> ImageFacts {
    let found = facts.map(|word| (id.to_owned(), BTreeMap::from([(word.to_owned(), word.to_owned())])));
    ImageFacts {
        name: "check".into(),
        arch: std::env::consts::ARCH.into(),
        kernels: vec![Kernel {
            release: "6.1.0".into(),
            path: "/boot/vmlinuz-6.1.0".into(),
            initramfs: Some("/boot/initrd.img-6.1.0".into()),
            ..Kernel::default()
        }],
        bootloaders: found.into_iter().collect(),
        initramfs_tool: Some("update-initramfs".into()),
        ..ImageFacts::default()
    }
}
