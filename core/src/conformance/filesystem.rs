//! File systems: every served type is made and mounted; what the image's fstab will look for is given again.

use std::collections::BTreeMap;

use super::steps::{Bounds, mentions};
use super::{Check, HOSTILE, NONSENSE, NOWHERE, READING, Rules, any, node, shown};
use crate::contract::{FileSystemDescribe, FileSystemFacts, FileSystemMake, FileSystemMount, FileSystemType};
use crate::data::{
    Action, FileSystemLayout, FstabEntry, ImageFacts, Kernel, MountLayout, NodeName, Phase, Role, Size, Step,
};
use crate::error::ErrorKind;

const UUID: &str = "b8f08195-d958-4ccd-bfed-b00eee31ffd5";
const LABEL: &str = "chk";
const PLANS: Rules = Rules::pure(&[ErrorKind::Invalid, ErrorKind::Unsupported]);

impl Check<'_> {
    pub(super) fn filesystem(&mut self) {
        let types = self.ask("types", "types", &(), Rules::pure(&[]).answers(), |types: &Vec<FileSystemType>, _| {
            let names: Vec<_> = types.iter().map(|one| one.name.as_str()).collect();
            if names.is_empty() || names.iter().any(|name| name.is_empty() || name.contains(char::is_whitespace)) {
                return Err("it has to name the types that it serves, as in fstab".into());
            }
            Ok(names.join(", "))
        });
        let (Some(on), Some(it)) = (node("disk0p1"), node("check")) else { return };
        let describe = FileSystemDescribe { device: NOWHERE.into(), fstype: NONSENSE.into() };
        self.ask(
            "describe of an unknown type",
            "describe",
            &describe,
            Rules::reads(READING).refuses(),
            any::<FileSystemFacts>,
        );
        // It need not look. Where nothing is, it has to say so: another error would make the image unusable.
        let finds_nothing = Rules::reads(&[ErrorKind::Unsupported]);
        self.detects::<BTreeMap<String, String>>(finds_nothing);
        let Some(unknown) = plain(&it, &on, NONSENSE) else { return };
        self.ask("plan_make of an unknown type", "plan_make", &make(&unknown), PLANS.refuses(), any::<Vec<Step>>);
        for served in types.unwrap_or_default() {
            if let Some(layout) = plain(&it, &on, &served.name) {
                self.one_type(&served, &layout);
            }
        }
    }

    fn one_type(&mut self, served: &FileSystemType, layout: &FileSystemLayout) {
        let name = &served.name;
        let describe = FileSystemDescribe { device: NOWHERE.into(), fstype: name.clone() };
        let what = format!("describe of an absent {name}");
        self.ask(what, "describe", &describe, Rules::reads(READING).refuses(), any::<FileSystemFacts>);

        self.make(format!("plan_make of {name}"), layout, PLANS.answers(), |_| Ok(()));
        let with = FileSystemLayout { uuid: Some(UUID.into()), ..layout.clone() };
        self.make(format!("plan_make of {name} with a UUID"), &with, PLANS, |steps| {
            if mentions(steps, UUID) {
                return Ok(());
            }
            Err(format!(
                "the UUID {UUID} is in no step: the image's fstab would name one that nothing has; give it to mkfs, set \
                 it in a second step, or refuse it as Invalid"
            ))
        });
        let with = FileSystemLayout { new_uuid: true, ..with };
        self.make(format!("plan_make of {name} with a new UUID"), &with, PLANS.answers(), |steps| {
            if mentions(steps, UUID) {
                Err("new_uuid is set, and the old UUID is given all the same".into())
            } else {
                Ok(())
            }
        });
        let with = FileSystemLayout { label: Some(LABEL.into()), ..layout.clone() };
        self.make(format!("plan_make of {name} with a label"), &with, PLANS, |steps| {
            if mentions(steps, LABEL) {
                Ok(())
            } else {
                Err(format!("the label {LABEL} is in no step; fstab may name it"))
            }
        });
        let long = "x".repeat(300);
        for word in HOSTILE.into_iter().chain([long.as_str()]) {
            let label = FileSystemLayout { label: Some(word.into()), ..layout.clone() };
            self.make(format!("plan_make of {name} with the label {}", shown(word)), &label, PLANS, |_| Ok(()));
            let options = [(word.to_owned(), word.to_owned())].into();
            let odd = FileSystemLayout { uuid: Some(word.into()), options, ..layout.clone() };
            self.make(format!("plan_make of {name} with {} as UUID and option", shown(word)), &odd, PLANS, |_| Ok(()));
        }
        let id = self.plugin.identification.id.clone();
        for word in HOSTILE {
            let what = format!("plan_make of {name} with {} as every fact of the image", shown(word));
            let rules = Rules::pure(&[ErrorKind::Invalid, ErrorKind::Unsupported, ErrorKind::Missing]);
            self.made(what, &odd_image(layout, &id, word), rules, |_| Ok(()));
        }
        for (at, options) in [("/", ""), ("/srv/a b", "noatime")] {
            self.mount(served, layout, at, options);
        }
    }

    fn make(
        &mut self,
        what: String,
        layout: &FileSystemLayout,
        rules: Rules,
        more: impl FnOnce(&[Step]) -> Result<(), String>,
    ) {
        self.made(what, &make(layout), rules, more);
    }

    fn made(
        &mut self,
        what: String,
        request: &FileSystemMake,
        rules: Rules,
        more: impl FnOnce(&[Step]) -> Result<(), String>,
    ) {
        let (on, it) = (request.filesystem.on.clone(), request.filesystem.node.clone());
        let programs = self.programs.get(&Role::Installer).cloned().unwrap_or_default();
        self.ask(what, "plan_make", request, rules, |steps: &Vec<Step>, _| {
            let bounds = Bounds {
                phase: Phase::Format,
                there: vec![on.clone()],
                new: vec![it.clone()],
                programs: Some(&programs),
                devices: &[],
            };
            let told = bounds.judge(steps)?;
            if !steps.iter().any(|step| step.destroys.contains(&on)) {
                return Err(format!(
                    "no step says that it destroys {on}, what the file system is made on; add .destroying"
                ));
            }
            if !steps.iter().any(|step| step.provides.contains(&it)) {
                return Err(format!("no step says that it provides {it}, the file system; add .providing"));
            }
            more(steps)?;
            Ok(told)
        });
    }

    fn mount(&mut self, served: &FileSystemType, layout: &FileSystemLayout, at: &str, options: &str) {
        let mount = serde_json::json!({ "node": layout.node, "at": at, "options": options });
        let Ok(mount) = serde_json::from_value::<MountLayout>(mount) else { return };
        let request = FileSystemMount { filesystem: layout.clone(), mount };
        let programs = self.programs.get(&Role::Installer).cloned().unwrap_or_default();
        let what = format!("plan_mount of {} at {at}", served.name);
        self.ask(what, "plan_mount", &request, PLANS.answers(), |steps: &Vec<Step>, _| {
            let there = vec![layout.on.clone(), layout.node.clone()];
            let told = Bounds { phase: Phase::Mount, there, new: vec![], programs: Some(&programs), devices: &[] }
                .judge(steps)?;
            let mounts: Vec<_> = steps
                .iter()
                .filter_map(|step| match &step.action {
                    Action::Mount { at, options, .. } => Some((at, options)),
                    _ => None,
                })
                .collect();
            if served.mountable == mounts.is_empty() {
                let said =
                    if served.mountable { "mountable, and no step mounts" } else { "not mountable, and a step mounts" };
                return Err(format!("types() says that it is {said} it"));
            }
            if served.mountable && !mounts.iter().any(|(place, _)| **place == at.into()) {
                return Err(format!("nothing is mounted at {at}"));
            }
            let lost =
                options.split(',').find(|one| !mounts.iter().all(|(_, given)| given.split(',').any(|it| it == *one)));
            match lost.filter(|lost| served.mountable && !lost.is_empty()) {
                Some(lost) => Err(format!("the mount option {lost} of the master is not handed on")),
                None => Ok(told),
            }
        });
    }
}

/// From JSON, as masters are: fields that a later version appends have their defaults.
fn plain(node: &NodeName, on: &NodeName, kind: &str) -> Option<FileSystemLayout> {
    serde_json::from_value(serde_json::json!({ "node": node, "on": on, "type": kind })).ok()
}

fn make(layout: &FileSystemLayout) -> FileSystemMake {
    FileSystemMake {
        filesystem: layout.clone(),
        boot_loader: None,
        image: ImageFacts { name: "check".into(), ..ImageFacts::default() },
        size: None,
    }
}

/// Facts have been in a file between `detect` and `plan_make`; anything may stand in them.
fn odd_image(layout: &FileSystemLayout, id: &str, word: &str) -> FileSystemMake {
    let facts = BTreeMap::from([(word.to_owned(), word.to_owned())]);
    let image = ImageFacts {
        name: word.into(),
        arch: word.into(),
        os: facts.clone(),
        kernels: vec![Kernel {
            release: word.into(),
            path: word.into(),
            initramfs_modules: Some(vec![word.into()]),
            builtin: vec![word.into()],
            ..Kernel::default()
        }],
        bootloaders: [(word.to_owned(), facts.clone())].into(),
        filesystems: [(id.to_owned(), facts)].into(),
        fstab: vec![FstabEntry {
            spec: word.into(),
            file: word.into(),
            fstype: word.into(),
            options: vec![word.into()],
        }],
        ..ImageFacts::default()
    };
    FileSystemMake { filesystem: layout.clone(), boot_loader: Some(word.into()), image, size: Some(Size(0)) }
}
