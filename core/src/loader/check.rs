//! Whether a plugin keeps the contract, as far as calls without effects can tell: `plugin check`.
//!
//! Only methods that read or plan are called; a plan is looked at and never run. Each is called twice:
//! what plans purely answers the same again.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::abi::{decode_answer, encode};
use crate::contract::{
    BootOnce, BootloaderDetect, BootloaderPlan, BootloaderRefresh, FileSystemDescribe, FileSystemFacts, FileSystemMake,
    FileSystemMount, FileSystemType, IdentityDetect, IdentityScrub, IdentityWho, IdentityWrite, Kind,
    PartitionerCapture, PartitionerFit, PartitionerPlan,
};
use crate::data::{
    BlockDevice, BootEntry, BootPlan, BootTarget, BytePath, Capabilities, DiskLayout, DiskRule, Export,
    FileSystemLayout, HostFacts, HostName, Identity, ImageFacts, MountLayout, Needs, NetworkMode, NetworkSettings,
    NodeName, Offer, Place, Role, Service, Size, Step,
};
use crate::error::{ErrorKind, PluginError, Result};
use crate::host::Host;
use crate::registry::Plugin;

/// A word that nothing is called.
const NONSENSE: &str = "no-such-thing";
/// A place where nothing is.
const NOWHERE: &str = "/nonexistent";

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckLine {
    /// What: `types`, `describe of an unknown type`.
    pub what: String,
    /// The contract is kept.
    pub ok: bool,
    /// What was answered; where it is not ok, what is wrong and what to do.
    pub detail: String,
}

/// Tries a plugin. It may read through `host`, and changes nothing.
pub fn conformance(plugin: &Plugin, host: &dyn Host) -> Vec<CheckLine> {
    let mut check = Check { plugin, host, lines: Vec::new() };
    check.boundary();
    check.needs();
    match plugin.identification.kind {
        Kind::Transport => check.transport(),
        Kind::FileSystem => check.filesystem(),
        Kind::Partitioner => check.partitioner(),
        Kind::Bootloader => check.bootloader(),
        Kind::HostIdentity => check.identity(),
    }
    check.lines
}

struct Check<'a> {
    plugin: &'a Plugin,
    host: &'a dyn Host,
    lines: Vec<CheckLine>,
}

/// What an answer should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// An answer.
    Answer,
    /// An error, and not one that blames the plugin.
    Error,
    /// Either, but no error that blames the plugin.
    Either,
}

impl Check<'_> {
    fn line(&mut self, what: impl Into<String>, judgement: Result<String, String>) {
        let (ok, detail) = match judgement {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        self.lines.push(CheckLine { what: what.into(), ok, detail });
    }

    /// What does not depend on the kind: requests that are none.
    fn boundary(&mut self) {
        let rows: [(&str, &str, &[u8], ErrorKind); 4] = [
            ("an unknown method", "no_such_method", b"null", ErrorKind::Unsupported),
            ("a request that is no JSON", "needs", b"{\"", ErrorKind::Invalid),
            ("a request of another shape", "needs", b"{\"x\":[1,2]}", ErrorKind::Invalid),
            ("a request that is no text", "needs", b"\xff\x00\xfe", ErrorKind::Invalid),
        ];
        for (what, method, input, expected) in rows {
            let judgement = match self.plugin.call(method, input, self.host) {
                Err(error) if error.kind == expected => Ok(one_line(&error.message)),
                Err(error) => Err(format!("answers {:?}, not {expected:?}: {}", error.kind, one_line(&error.message))),
                Ok(_) => Err(format!("answers as if it had understood; the contract wants the error {expected:?}")),
            };
            self.line(what, judgement);
        }
    }

    fn needs(&mut self) {
        for role in [Role::MasterClient, Role::Server, Role::Installer, Role::InstalledClient] {
            self.ask(format!("needs of {role:?}"), "needs", &role, Expect::Answer, |needs: &Needs| {
                if let Some(program) = needs.programs.iter().find(|program| program.name.contains('/')) {
                    return Err(format!("the program {} is a path; name it, and the host looks it up", program.name));
                }
                if let Some(program) = needs.programs.iter().find(|one| one.name.is_empty() || one.package.is_empty()) {
                    return Err(format!("the program {:?} lacks its name or its package", program.name));
                }
                if let Some(file) = needs.files.iter().find(|file| !is_clean(file)) {
                    return Err(format!("the file {file} is not an absolute path without . and .."));
                }
                let programs: Vec<_> = needs.programs.iter().map(|program| program.name.as_str()).collect();
                Ok(if programs.is_empty() { "no programs".into() } else { programs.join(", ") })
            });
        }
    }

    fn transport(&mut self) {
        self.ask("capabilities", "capabilities", &(), Expect::Answer, |able: &Capabilities| {
            Ok(format!("default port {}, reconciles: {}", able.default_port, able.reconciles))
        });
        let work_dir = BytePath::from("/run/systemimager-check");
        let offer = |tree: &str| Offer {
            exports: vec![Export {
                name: "check".into(),
                tree: tree.into(),
                allow: vec!["192.0.2.1".into()],
                secret: None,
            }],
            bind: None,
            port: 8730,
            work_dir: work_dir.clone(),
            finish: None,
        };
        self.ask("an offer", "offer", &offer("/srv/check"), Expect::Either, |service: &Service| {
            if service.argv.is_empty() {
                return Err("the service has no program".into());
            }
            let mut inside = work_dir.as_bytes().to_vec();
            inside.push(b'/');
            match service.files.iter().find(|file| !file.path.as_bytes().starts_with(&inside) || !is_clean(&file.path))
            {
                Some(file) => Err(format!("{} lies outside the service's directory", file.path)),
                None => Ok(format!("{} files", service.files.len())),
            }
        });
        self.ask("an offer of an odd tree", "offer", &offer("/srv/a\nb = c]"), Expect::Either, any::<Service>);
    }

    fn filesystem(&mut self) {
        let types = self.ask("types", "types", &(), Expect::Answer, |types: &Vec<FileSystemType>| {
            let names: Vec<_> = types.iter().map(|one| one.name.as_str()).collect();
            if names.is_empty() || names.contains(&"") { Err("serves no type".into()) } else { Ok(names.join(", ")) }
        });
        let Some(node) = Nodes::new() else { return };
        let filesystem = |kind: &str| FileSystemLayout {
            node: node.filesystem.clone(),
            on: node.partition.clone(),
            kind: kind.into(),
            uuid: None,
            new_uuid: false,
            label: None,
            options: BTreeMap::new(),
        };
        let make = |kind: &str| FileSystemMake {
            filesystem: filesystem(kind),
            image: ImageFacts::default(),
            boot_loader: None,
        };
        let mount = |kind: &str| FileSystemMount {
            filesystem: filesystem(kind),
            mount: MountLayout {
                node: node.filesystem.clone(),
                at: "/".into(),
                options: String::new(),
                subvolume: None,
            },
        };
        let describe = FileSystemDescribe { device: NOWHERE.into(), fstype: NONSENSE.into() };
        self.ask("describing an unknown type", "describe", &describe, Expect::Error, any::<FileSystemFacts>);
        self.ask("making an unknown type", "plan_make", &make(NONSENSE), Expect::Error, any::<Vec<Step>>);
        for served in types.unwrap_or_default() {
            let what = format!("making {}", served.name);
            self.ask(what, "plan_make", &make(&served.name), Expect::Answer, |steps: &Vec<Step>| {
                if !steps.iter().any(|step| step.destroys.contains(&node.partition)) {
                    return Err(format!("no step says that it destroys {}", node.partition));
                }
                if !steps.iter().any(|step| step.provides.contains(&node.filesystem)) {
                    return Err(format!("no step says that it provides {}", node.filesystem));
                }
                Ok(told(steps))
            });
            let what = format!("mounting {}", served.name);
            self.ask(what, "plan_mount", &mount(&served.name), Expect::Answer, |steps: &Vec<Step>| {
                match (served.mountable, steps.is_empty()) {
                    (true, true) => Err("it is said to be mountable, and no step mounts it".into()),
                    (false, false) => Err("it is said not to be mountable, and steps mount it".into()),
                    _ => Ok(told(steps)),
                }
            });
        }
    }

    fn partitioner(&mut self) {
        let labels = self.ask("labels", "labels", &(), Expect::Answer, |labels: &Vec<String>| {
            if labels.is_empty() { Err("serves no label".into()) } else { Ok(labels.join(", ")) }
        });
        let Some(node) = Nodes::new() else { return };
        let disk = BlockDevice {
            name: NONSENSE.into(),
            path: NOWHERE.into(),
            size: Size(8 << 30),
            sector_size: 512,
            ..BlockDevice::default()
        };
        let layout = |label: &str| DiskLayout {
            node: node.disk.clone(),
            label: label.into(),
            id: None,
            size: Size(8 << 30),
            sector_size: 512,
            rule: DiskRule::default(),
            partitions: Vec::new(),
        };
        let capture = PartitionerCapture { disk: disk.clone(), node: node.disk.clone() };
        self.ask("capturing an absent disk", "capture", &capture, Expect::Error, any::<DiskLayout>);
        let fit = PartitionerFit { layout: layout(NONSENSE), disk: disk.clone() };
        self.ask("fitting an unknown label", "fit", &fit, Expect::Error, any::<DiskLayout>);
        let plan = PartitionerPlan { layout: layout(NONSENSE) };
        self.ask("planning an unknown label", "plan", &plan, Expect::Error, any::<Vec<Step>>);
        for label in labels.unwrap_or_default() {
            let fit = PartitionerFit { layout: layout(&label), disk: disk.clone() };
            self.ask(format!("fitting {label}"), "fit", &fit, Expect::Either, any::<DiskLayout>);
            let plan = PartitionerPlan { layout: layout(&label) };
            self.ask(format!("planning {label}"), "plan", &plan, Expect::Either, any::<Vec<Step>>);
        }
    }

    fn bootloader(&mut self) {
        let detect = BootloaderDetect { place: nowhere() };
        let found = any::<Option<BTreeMap<String, String>>>;
        self.ask("looking into an absent tree", "detect", &detect, Expect::Either, found);
        let entry = BootEntry { name: "check".into(), title: "check".into(), ..BootEntry::default() };
        let plan = BootloaderPlan {
            target: BootTarget::Media { kind: NONSENSE.into() },
            entries: vec![entry.clone()],
            default: Some("check".into()),
        };
        self.ask("planning an unknown medium", "plan", &plan, Expect::Error, any::<BootPlan>);
        let once = BootOnce { entry, persistent: false };
        self.ask("booting an entry once", "boot_once", &once, Expect::Either, any::<Vec<Step>>);
        let refresh = BootloaderRefresh { image: ImageFacts::default(), missing_modules: Vec::new() };
        self.ask("refreshing an unknown image", "refresh", &refresh, Expect::Either, any::<Vec<Step>>);
    }

    fn identity(&mut self) {
        let who = |sources: &[&str]| IdentityWho {
            facts: HostFacts::default(),
            sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        };
        self.ask("who, without any fact", "who", &who(&[]), Expect::Answer, |who: &Option<Identity>| match who {
            None => Ok("nobody".into()),
            Some(who) => Err(format!("claims to be {} without any fact", who.name)),
        });
        self.ask("who, of an unknown source", "who", &who(&[NONSENSE]), Expect::Either, any::<Option<Identity>>);
        let detect = IdentityDetect { place: nowhere() };
        let found = any::<BTreeMap<String, String>>;
        self.ask("looking into an absent tree", "detect", &detect, Expect::Either, found);
        let Ok(name) = HostName::try_from("check") else { return };
        let write = IdentityWrite {
            identity: Identity {
                name,
                image: None,
                network: NetworkSettings::default(),
                found_in: "plugin check".into(),
            },
            mode: NetworkMode::Keep,
            image: ImageFacts::default(),
        };
        self.ask("writing a name", "plan_write", &write, Expect::Either, any::<Vec<Step>>);
        let scrub = IdentityScrub { image: ImageFacts::default(), what: vec![NONSENSE.into()], identity: None };
        self.ask("scrubbing what is unknown", "plan_scrub", &scrub, Expect::Either, any::<Vec<Step>>);
    }

    /// Calls twice, compares, judges; returns the answer if there is one.
    fn ask<O: DeserializeOwned>(
        &mut self,
        what: impl Into<String>,
        method: &str,
        request: &impl Serialize,
        expect: Expect,
        judge: impl FnOnce(&O) -> Result<String, String>,
    ) -> Option<O> {
        let call = || self.plugin.call(method, &encode(request)?, self.host);
        let (first, second) = (call(), call());
        let same = first == second;
        let answer = first.and_then(|json| decode_answer::<O>(&json));
        let judgement = match &answer {
            _ if !same => Err("answers differently when asked again; it must depend on the request alone".into()),
            Err(error) if error.kind == ErrorKind::PluginBug => Err(one_line(&error.message)),
            Err(error) if expect == Expect::Answer => Err(format!("an error: {}", one_line(&error.message))),
            Err(error) => told_error(error),
            Ok(_) if expect == Expect::Error => Err("answers as if it could; the contract wants an error".into()),
            Ok(answer) => judge(answer),
        };
        self.line(what, judgement);
        answer.ok()
    }
}

/// Any answer of this shape will do.
fn any<O>(_: &O) -> Result<String, String> {
    Ok("an answer".into())
}

/// An error has to tell a person something.
fn told_error(error: &PluginError) -> Result<String, String> {
    if error.message.trim().is_empty() {
        return Err(format!("an error of kind {:?} without a message; say what failed and what to do", error.kind));
    }
    Ok(one_line(&error.message))
}

fn told(steps: &[Step]) -> String {
    if steps.is_empty() {
        return "no steps".into();
    }
    steps.iter().map(|step| step.what.as_str()).collect::<Vec<_>>().join("; ")
}

fn nowhere() -> Place {
    Place::Tree { root: NOWHERE.into() }
}

fn is_clean(path: &BytePath) -> bool {
    let bytes = path.as_bytes();
    bytes.starts_with(b"/") && !bytes.split(|byte| *byte == b'/').any(|part| part == b".." || part == b".")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Nodes for layouts that nothing is made of.
struct Nodes {
    disk: NodeName,
    partition: NodeName,
    filesystem: NodeName,
}

impl Nodes {
    fn new() -> Option<Self> {
        let node = |name: &str| NodeName::try_from(name).ok();
        Some(Self { disk: node("disk0")?, partition: node("disk0p1")?, filesystem: node("check")? })
    }
}
