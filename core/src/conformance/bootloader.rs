//! Boot loaders: each kind of target is planned or refused, an image that lacks the loader is named.

use std::collections::BTreeMap;

use super::steps::Bounds;
use super::{Check, HOSTILE, NONSENSE, NOWHERE, READING, Rules, any, is_clean, node, shown};
use crate::contract::{BootOnce, BootloaderDetect, BootloaderPlan, BootloaderRefresh};
use crate::data::{BootEntry, BootPlan, BootTarget, BytePath, ImageFacts, Kernel, NodeName, Phase, Place, Role, Step};
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
            target: BootTarget::Disk {
                disks: vec![disk.clone()],
                firmware: firmware.into(),
                image: Box::new(image),
                missing_modules: vec![],
            },
            entries: vec![],
            default: None,
        };
        let network = |server: &str, mac: Option<&str>, names: &[&str]| BootloaderPlan {
            target: BootTarget::Network { server: server.into(), http_port: 80, mac: mac.map(str::to_owned) },
            entries: names.iter().map(|name| entry(name)).collect(),
            default: names.first().map(|name| (*name).to_owned()),
        };
        let media = |kind: &str| BootloaderPlan {
            target: BootTarget::Media { kind: kind.into() },
            entries: vec![entry("check")],
            default: Some("check".into()),
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
        let once = BootOnce { entry: entry("check"), persistent: false };
        self.ask("boot_once", "boot_once", &once, PLANS, any::<Vec<Step>>);
        let refresh = BootloaderRefresh { image: image(&id, None), missing_modules: vec![] };
        self.ask("refresh of an image without the loader", "refresh", &refresh, PLANS, any::<Vec<Step>>);
    }

    fn plan_of(&mut self, what: String, request: &BootloaderPlan, disk: Option<&NodeName>, rules: Rules) {
        // Only what an install runs is carried out on the installer.
        let programs = disk.map(|_| self.programs.get(&Role::Installer).cloned().unwrap_or_default());
        self.ask(what, "plan", request, rules, |plan: &BootPlan, _| {
            let medium = matches!(request.target, BootTarget::Media { .. }).then(|| node("medium")).flatten();
            let there = disk.cloned().into_iter().chain(medium).collect();
            let told =
                Bounds { phase: Phase::Boot, there, new: vec![], programs: programs.as_ref() }.judge(&plan.steps)?;
            let odd = plan.boot_files.iter().find(|file| !is_clean(&BytePath::from("/").join(file.name.as_str())));
            match odd {
                Some(file) => Err(format!("the boot file {:?} is no plain path below the network root", file.name)),
                None => Ok(told),
            }
        });
    }
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
