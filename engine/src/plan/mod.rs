//! The plan of an install: from what is known of image, machine and host to steps, as a value.
//!
//! Planning does no I/O of its own; plugins plan too. The executor ([`crate::install`]) is the only code
//! that acts on a plan. Everything that can be refused is refused here, before a disk is touched.

mod capacity;
mod disks;
pub(crate) mod drivers;
mod fstab;
pub mod making;
mod preserve;
mod shared;
pub mod site;
mod twins;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use systemimager_core::contract::{
    BootloaderPlan, FileSystemMount, IdentityScrub, IdentityWrite, PartitionerFit, PartitionerPlan,
};
use systemimager_core::{
    Action, Arg, BlockDevice, BootTarget, BytePath, Bytes, Contents, DiskLayout, ErrorKind, FileSystem, Hardware, Host,
    Identity, ImageFacts, Kind, Layout, MountLayout, NodeName, PartitionLayout, Phase, Registry, Step, Written,
};

use crate::config::MACHINE_STATE as STATE;
use crate::overrides::Layer;
use crate::store::master::{Master, NO_BOOTLOADER, encrypted};
use crate::tree::pattern::parent;

/// All that a plan is made from.
pub struct PlanInput<'a> {
    /// How the image is installed.
    pub master: &'a Master,
    /// What is known of the image.
    pub facts: &'a ImageFacts,
    /// What the machine is made of.
    pub hardware: &'a Hardware,
    /// Who the machine is.
    pub identity: &'a Identity,
    /// The plugins.
    pub registry: &'a Registry,
    /// What plugins see.
    pub host: &'a dyn Host,
    /// What is laid over the image.
    pub overrides: &'a [Layer],
}

/// What is going to be done to a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The machine's name.
    pub host: String,
    /// The image.
    pub image: String,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// The disk chosen for each disk of the layout.
    pub disks: BTreeMap<NodeName, BlockDevice>,
    /// The layout as fitted to those disks.
    pub layout: Layout,
    /// What will differ from the image afterwards.
    pub changes: Vec<Changed>,
    /// What an administrator should know, though nothing is refused for it.
    pub warnings: Vec<String>,
}

/// Why there is no plan: every problem that was found, not only the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct PlanError {
    /// One instructive message each.
    pub problems: Vec<String>,
}

/// How much of a path differs from the image afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// Its times only: a directory in which something changes.
    Times,
    /// The path itself.
    Path,
    /// The path and all below it.
    Below,
}

/// A path of the target that will differ from the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Changed {
    /// Absolute in the target.
    pub path: BytePath,
    /// How much of it.
    pub extent: Extent,
}

fn changes(steps: &[Step]) -> Vec<Changed> {
    let mut all: BTreeMap<BytePath, Extent> = BTreeMap::new();
    let mut add = |path: BytePath, extent: Extent| {
        let known = all.entry(path).or_insert(extent);
        *known = extent.max(*known);
    };
    for written in steps.iter().flat_map(Step::written) {
        add(parent(&written.path), Extent::Times);
        add(written.path, if written.below { Extent::Below } else { Extent::Path });
    }
    all.into_iter().map(|(path, extent)| Changed { path, extent }).collect()
}

impl Plan {
    /// Disks whose contents are destroyed, with what they are, for people.
    pub fn destroyed(&self) -> Vec<String> {
        let one = |(node, disk): (&NodeName, &BlockDevice)| {
            let kept = self.layout.disks.iter().filter(|it| it.node == *node).flat_map(preserved);
            let kept: Vec<String> = kept.map(|it| format!("partition {} ({})", it.number, it.node)).collect();
            let but = if kept.is_empty() { String::new() } else { format!("; {} stays as it is", kept.join(" and ")) };
            format!("{node} = {}{but}", disks::describe(disk))
        };
        self.disks.iter().map(one).collect()
    }
}

fn preserved(disk: &DiskLayout) -> impl Iterator<Item = &PartitionLayout> {
    disk.partitions.iter().filter(|it| it.preserve)
}

/// Whether these disks are enough for a layout: each of its disks finds one that fits its rule, or several. Says
/// nothing of whether more are still to be found, nor of whether the partitions go onto them; [`plan`] does the
/// latter.
pub fn enough(layout: &Layout, disks: &[BlockDevice]) -> bool {
    !disks::choose(&layout.disks, disks).lacking
}

/// Makes the plan.
///
/// # Errors
/// All problems at once: disks that do not fit, absent plugins, what plugins refuse, devices that the
/// image cannot drive, file systems that its fstab names and nothing makes. Only what would follow from
/// another problem is left out.
pub fn plan(input: &PlanInput<'_>) -> Result<Plan, PlanError> {
    let mut planner = Planner { input, steps: Vec::new(), problems: Vec::new(), warnings: Vec::new() };
    let (layout, disks) = planner.layout();
    if planner.problems.is_empty() {
        // Sizes are those of this machine only where all disks were fitted.
        capacity::check(&layout, input.facts, &mut planner.problems);
    }
    planner.filesystems(&layout);
    planner.pull();
    planner.identity();
    planner.selinux();
    planner.overrides(&layout);
    let facts = planner.preserved(&layout);
    fstab::check(&layout, &facts, &mut planner.problems, &mut planner.warnings);
    planner.bootloader(&layout, &disks);
    planner.hooks();
    planner.steps.push(Step {
        by: "engine".into(),
        ..Step::new(Phase::Finish, "check the target, write everything out, unmount", Action::Seal)
    });
    let Planner { mut steps, mut problems, warnings, .. } = planner;
    steps.sort_by_key(|step| step.phase);
    if problems.is_empty() {
        // Where steps are missing, others would seem to come too early.
        check_order(&layout, &steps, &mut problems);
        problems.extend(preserve::guard(&layout, &disks, &steps));
    }
    if !problems.is_empty() {
        return Err(PlanError { problems: problems.iter().map(|it| printable(it)).collect() });
    }
    Ok(Plan {
        host: input.identity.name.to_string(),
        image: input.master.image.to_string(),
        changes: changes(&steps),
        steps,
        disks,
        layout,
        warnings: warnings.iter().map(|it| printable(it)).collect(),
    })
}

/// Without what would act on a console: names and values come from disks, images and networks.
fn printable(text: &str) -> String {
    let acts = |letter: char| letter.is_control() && letter != '\n';
    text.chars().map(|letter| if acts(letter) { '?' } else { letter }).collect()
}

struct Planner<'a> {
    input: &'a PlanInput<'a>,
    steps: Vec<Step>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Planner<'_> {
    fn problem(&mut self, problem: impl std::fmt::Display) {
        self.problems.push(problem.to_string());
    }

    fn add(&mut self, kind: Kind, id: &str, steps: Vec<Step>) {
        let by = format!("{kind} {id}");
        self.steps.extend(steps.into_iter().map(|step| Step { by: by.clone(), ..step }));
    }

    /// The layout fitted to this machine's disks, with the steps that partition them.
    fn layout(&mut self) -> (Layout, BTreeMap<NodeName, BlockDevice>) {
        let PlanInput { master, hardware, registry, host, .. } = *self.input;
        let mut layout = master.layout.clone();
        if layout.is_empty() {
            self.problem(format!(
                "{}.master has no disks: the image can be pulled but not installed; \
                 capture it with its layout, or write [[layout.disk]] into the master file",
                master.image
            ));
        }
        if let Err(errors) = layout.check() {
            self.problems.extend(errors.iter().map(|error| format!("{}.master: layout.{error}", master.image)));
        }
        for volume in &layout.volumes {
            self.problems.push(format!(
                "{} is a {} volume, and no plugin serves volumes of that kind",
                volume.node, volume.kind
            ));
        }
        let disks::Choice { disks: chosen, problems, warnings, .. } = disks::choose(&layout.disks, &hardware.disks);
        self.problems.extend(problems);
        self.warnings.extend(warnings);
        self.problems.extend(shared::check(&chosen, &hardware.disks));
        self.problems.extend(twins::check(&layout, &chosen, &hardware.disks));
        let unkept = preserve::resolve(&mut layout, &chosen, &mut self.problems);
        self.wipe(&layout, &chosen);
        let partitioner = match registry.partitioner(&master.partitioner) {
            Ok(partitioner) => partitioner,
            Err(error) => {
                self.problem(format!("{}.master: {error}", master.image));
                return (layout, chosen);
            }
        };
        for disk in &mut layout.disks {
            let Some(device) = chosen.get(&disk.node).filter(|_| !unkept.contains(&disk.node)) else { continue };
            let fitted = partitioner.fit(host, PartitionerFit { layout: disk.clone(), disk: device.clone() }).and_then(
                |fitted| {
                    let steps = partitioner.plan(host, PartitionerPlan { layout: fitted.clone() })?;
                    Ok((fitted, steps))
                },
            );
            match fitted {
                Ok((fitted, steps)) => {
                    self.problems.extend(preserve::unkept(disk, &fitted));
                    *disk = fitted;
                    self.add(Kind::Partitioner, &master.partitioner, steps);
                }
                Err(error) => {
                    self.problem(format!("{} on {}: {error}", disk.node, disks::describe(device)));
                }
            }
        }
        (layout, chosen)
    }

    /// What stands on the disks goes before they are partitioned: of all at once, since it may lie on several.
    fn wipe(&mut self, layout: &Layout, chosen: &BTreeMap<NodeName, BlockDevice>) {
        let disks: Vec<NodeName> = chosen.keys().cloned().collect();
        if !disks.is_empty() {
            let names = disks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            let kept: Vec<String> =
                layout.disks.iter().flat_map(preserved).map(|partition| partition.node.to_string()).collect();
            let but = if kept.is_empty() { String::new() } else { format!(", all but {}", kept.join(" and ")) };
            let what = format!("take apart what stands on {names} and erase its signatures{but}");
            let step = Step::new(Phase::Partition, what, Action::Wipe { disks: disks.clone() }).destroying(disks);
            self.steps.push(Step { by: "engine".into(), ..step });
        }
    }

    fn filesystems(&mut self, layout: &Layout) {
        let PlanInput { master, registry, host, facts, .. } = *self.input;
        for fs in layout.filesystems.iter().filter(|fs| layout.preserved_under(&fs.node).is_none()) {
            match serving(registry, host, &fs.kind) {
                Ok((id, plugin)) => match plugin.plan_make(host, making::request(master, layout, fs, facts)) {
                    Ok(steps) => self.add(Kind::FileSystem, &id, steps),
                    Err(error) => self.problem(format!("file system {}: {error}", fs.node)),
                },
                Err(error) => self.problem(format!("file system {}: {error}", fs.node)),
            }
        }
        // Nothing of the image belongs into what is preserved: it is not mounted before the installed machine does.
        let of_preserved = |mount: &&MountLayout| layout.preserved_under(&mount.node).is_some();
        for mount in layout.mounts_in_order().into_iter().filter(|mount| !of_preserved(mount)) {
            let Some(fs) = layout.filesystems.iter().find(|fs| fs.node == mount.node) else { continue };
            // A type without plugin was named above.
            let Ok((id, plugin)) = serving(registry, host, &fs.kind) else { continue };
            let request = FileSystemMount { filesystem: fs.clone(), mount: mount.clone() };
            match plugin.plan_mount(host, request) {
                Ok(steps) => self.add(Kind::FileSystem, &id, steps),
                Err(error) => self.problem(format!("mounting {} at {}: {error}", fs.node, mount.at)),
            }
        }
    }

    fn pull(&mut self) {
        let PlanInput { master, registry, host, .. } = *self.input;
        for (index, id) in master.transports.iter().enumerate() {
            match registry.transport(id).and_then(|transport| transport.capabilities(host, ())) {
                Ok(can) if index + 1 == master.transports.len() && !can.reconciles => self.problem(format!(
                    "{}.master: {id} cannot be the last transport: it does not leave the tree exactly as the image; \
                     put one after it that does",
                    master.image
                )),
                Ok(_) => {}
                Err(error) => self.problem(format!("{}.master: {error}", master.image)),
            }
        }
        for id in master.plain_beside_encrypted(&encrypted(registry, host)) {
            self.problem(format!(
                "{}.master: {id} moves the image in the clear, beside a transport that does not; take it out of transports, \
                 or say that it may with allow_plain = true",
                master.image
            ));
        }
        let action = Action::Pull { image: master.image.to_string(), transports: master.transports.clone() };
        let what = format!("pull the image {} by {}", master.image, master.transports.join(", then "));
        self.steps.push(Step { by: "engine".into(), ..Step::new(Phase::Pull, what, action) });
    }

    fn identity(&mut self) {
        let PlanInput { master, registry, host, facts, identity, .. } = *self.input;
        let id = &master.identity.plugin;
        // Before the identity is written: it may put something of its own where something of the master client's was.
        self.scrub();
        let steps = registry.identity(id).and_then(|plugin| {
            let request = IdentityWrite { identity: identity.clone(), mode: master.network.mode, image: facts.clone() };
            plugin.plan_write(host, request)
        });
        match steps {
            Ok(steps) => self.add(Kind::HostIdentity, id, steps),
            Err(error) => self.problem(format!("identity of {}: {error}", identity.name)),
        }
        let record = Action::Record { image: master.image.to_string() };
        let step = Step::new(Phase::Identity, "write down which image it is, for updates", record)
            .writing([Written::below(STATE)]);
        self.steps.push(Step { by: "engine".into(), ..step });
    }

    /// What clones must not share is taken away or made anew.
    fn scrub(&mut self) {
        let PlanInput { master, registry, host, facts, identity, .. } = *self.input;
        let id = &master.identity.plugin;
        if master.identity.scrub.as_ref().is_some_and(Vec::is_empty) {
            self.warnings.push(format!(
                "{}.master says scrub = []: machines with this image share ssh host keys, machine-id and whatever else \
                 their master client had of its own",
                master.image
            ));
            return;
        }
        // An absent plugin is told with what it was to write.
        let Ok(plugin) = registry.identity(id) else { return };
        let request = IdentityScrub {
            image: facts.clone(),
            what: master.identity.scrub.clone().unwrap_or_default(),
            identity: Some(identity.clone()),
        };
        match plugin.plan_scrub(host, request) {
            Ok(steps) => self.add(Kind::HostIdentity, id, steps),
            Err(error) if error.kind == ErrorKind::Unsupported && master.identity.scrub.is_none() => {
                self.warnings.push(format!(
                    "the identity plugin {id} scrubs nothing ({error}): machines with this image share ssh host keys, \
                     machine-id and whatever else their master client had of its own"
                ));
            }
            Err(error) => self.problem(format!("scrubbing what {} must not share: {error}", identity.name)),
        }
    }

    /// Steps by which the installed machine mounts what was preserved; the facts of the image as they are then.
    fn preserved(&mut self, layout: &Layout) -> ImageFacts {
        let PlanInput { master, facts, .. } = *self.input;
        let (steps, fstab) = preserve::mounted_later(&master.layout, layout, &facts.fstab, &mut self.problems);
        self.steps.extend(steps);
        ImageFacts { fstab, ..facts.clone() }
    }

    /// SELinux labels are not those of the image where files were written while installing.
    fn selinux(&mut self) {
        if self.input.facts.selinux {
            let action = Action::WriteFile {
                path: "/.autorelabel".into(),
                contents: Contents::Bytes(Bytes::default()),
                mode: 0o644,
            };
            self.steps.push(Step {
                by: "engine".into(),
                ..Step::new(Phase::Identity, "have SELinux label the files at the first boot", action)
            });
        }
    }

    fn bootloader(&mut self, layout: &Layout, disks: &BTreeMap<NodeName, BlockDevice>) {
        let PlanInput { master, registry, host, facts, hardware, .. } = *self.input;
        let drivers = drivers::check(facts, layout, disks.values());
        self.problems.extend(drivers.problems);
        self.warnings.extend(drivers.warnings);
        let network = drivers::check_network(facts, hardware, self.input.identity);
        self.problems.extend(network.problems);
        self.warnings.extend(network.warnings);
        if master.bootloader == NO_BOOTLOADER {
            self.warnings.push(format!(
                "{}.master says bootloader = \"{NO_BOOTLOADER}\": nothing makes the machine boot from its disk",
                master.image
            ));
            if !drivers.missing.is_empty() {
                self.warnings.push(format!(
                    "the image's initramfs lacks {}, which this machine needs to find and mount its disks, and without \
                     a boot loader nothing makes it anew",
                    drivers.missing.join(", ")
                ));
            }
            return;
        }
        let plugin = match registry.bootloader(&master.bootloader) {
            Ok(plugin) => plugin,
            Err(error) => {
                self.problem(format!("boot loader: {error}"));
                return;
            }
        };
        let root = layout.mounted_at("/boot").or_else(|| layout.mounted_at("/"));
        let boot_disk = root.and_then(|fs| layout.disk_of(&fs.node)).map(|disk| disk.node.clone());
        // A layout that is no layout was named above; a boot loader would only complain of it again.
        if boot_disk.is_none() && !self.problems.is_empty() {
            return;
        }
        let target = BootTarget::Disk {
            disks: boot_disk.into_iter().collect(),
            firmware: hardware.firmware.clone(),
            image: Box::new(facts.clone()),
            missing_modules: drivers.missing,
        };
        let request = BootloaderPlan {
            layout: Some(layout.clone()),
            devices: disks.clone(),
            efivars: hardware.efivars,
            ..BootloaderPlan::new(target)
        };
        let plan = plugin.plan(host, request);
        match plan {
            Ok(plan) => self.add(Kind::Bootloader, &master.bootloader, plan.steps),
            Err(error) => self.problem(format!("boot loader: {error}")),
        }
    }
}

/// The file system plugin that serves a type.
///
/// # Errors
/// None does: names the type and what is served.
pub fn serving<'a>(
    registry: &'a Registry,
    host: &dyn Host,
    kind: &str,
) -> systemimager_core::Result<(String, &'a dyn FileSystem)> {
    let mut served = Vec::new();
    for (id, plugin) in registry.filesystems() {
        let types = plugin.types(host, ())?;
        if types.iter().any(|it| it.name == kind) {
            return Ok((id.to_owned(), plugin));
        }
        served.extend(types.into_iter().map(|it| it.name));
    }
    let served = if served.is_empty() { "none".to_owned() } else { served.join(", ") };
    Err(systemimager_core::PluginError::new(
        systemimager_core::ErrorKind::Missing,
        format!(
            "no plugin serves the file system type {kind} (served: {served}); \
             put a file-system plugin for {kind} into the plugin directory"
        ),
    ))
}

/// A plugin's steps are held against the layout: nodes that exist, nothing used before it is there,
/// nothing destroyed after it was filled.
fn check_order(layout: &Layout, steps: &[Step], problems: &mut Vec<String>) {
    let mut there: BTreeSet<&NodeName> = layout.disks.iter().map(|disk| &disk.node).collect();
    let mut filled: BTreeSet<&NodeName> = BTreeSet::new();
    for step in steps {
        // A table that is written around what is preserved destroys partitions of the old one, and provides them.
        let mut used: Vec<&NodeName> = step.destroys.iter().filter(|node| !step.provides.contains(node)).collect();
        match &step.action {
            Action::Run { argv, .. } | Action::InTarget { argv, .. } => {
                used.extend(argv.iter().filter_map(|arg| match arg {
                    Arg::Device(node) | Arg::PrefixedDevice(_, node) => Some(node),
                    _ => None,
                }));
            }
            Action::Mount { node, .. } => {
                used.push(node);
                filled.insert(node);
            }
            Action::Settle { nodes } => used.extend(nodes),
            _ => {}
        }
        for node in used {
            if !there.contains(node) {
                problems.push(format!(
                    "{}: the step \"{}\" uses {node}, which no step before it provides; report it to the plugin's author",
                    step.by, step.what
                ));
            }
        }
        for node in &step.destroys {
            let mounted = layout.filesystems.iter().find(|fs| filled.contains(&fs.node) && fs.on == *node);
            if mounted.is_some() {
                problems.push(format!(
                    "{}: the step \"{}\" would destroy {node} after it was mounted; report it to the plugin's author",
                    step.by, step.what
                ));
            }
        }
        there.extend(step.provides.iter());
    }
}

#[cfg(test)]
mod tests;
