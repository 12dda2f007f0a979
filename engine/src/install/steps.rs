//! One step after the other, with what lasts between them: mounts and the environment in the target.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use systemimager_core::{Action, Arg, BytePath, Layout, NodeName, PartitionLayout, Phase, Step};

use super::hook::{self, Hook};
use super::nodes::Nodes;
use super::record::{self, Record};
use super::written::{self, DiskFailed, Held};
use super::{Site, SiteKeys, lay_over, limits, pull, seal, unbooting, wipe};
use crate::plan::Plan;
use crate::sys::by_links::Names;
use crate::sys::mount::{MountGuard, Mounts};
use crate::sys::target_env::InTarget;
use crate::sys::{Cmd, Tool, atomic, boot_code};
use crate::tree::{self, Inside};

/// An install under way. Dropped before it is sealed, it undoes its mounts and sees that no half-written disk boots.
pub struct Run<'a> {
    plan: &'a Plan,
    site: &'a Site<'a>,
    nodes: Nodes,
    mounts: Mounts,
    /// The file systems of `mounts`.
    held: Vec<Held>,
    in_target: Option<InTarget>,
    /// What a pull leaves alone.
    left_alone: Vec<BytePath>,
    destroyed: Vec<NodeName>,
    journaled: bool,
    unbooted: bool,
    /// What boot loaders have put onto disks, by the disk, and has to wait until the rest is there.
    boot_code: BTreeMap<NodeName, [u8; boot_code::LENGTH]>,
    sealed: bool,
}

impl<'a> Run<'a> {
    /// Nothing done yet.
    ///
    /// # Errors
    /// The target's directory cannot be made, or something is mounted there.
    pub fn new(plan: &'a Plan, site: &'a Site<'a>, left_alone: Vec<BytePath>) -> Result<Self> {
        std::fs::create_dir_all(&site.target).with_context(|| format!("making {}", site.target.display()))?;
        if crate::sys::mount::is_mount_point(&site.target)? {
            bail!("something is already mounted on {}; unmount it first", site.target.display());
        }
        let nodes = Nodes::new(&plan.layout, &plan.disks);
        Ok(Self {
            plan,
            site,
            nodes,
            mounts: Mounts::new(),
            held: Vec::new(),
            in_target: None,
            left_alone,
            destroyed: Vec::new(),
            journaled: false,
            unbooted: false,
            boot_code: BTreeMap::new(),
            sealed: false,
        })
    }

    /// Whether the target is whole, written out and unmounted.
    pub fn sealed(&self) -> bool {
        self.sealed
    }

    /// Carries out one step. `say` gets the programs that it runs and what they print, line by line as it comes.
    ///
    /// # Errors
    /// Why it failed.
    pub fn step(&mut self, step: &Step, say: &mut dyn FnMut(String)) -> Result<()> {
        if let Action::Wipe { disks } = &step.action {
            // Before boot code goes: what is refused here has changed nothing, and a disk with swap takes no writes.
            wipe::begin(&self.targets(disks)?, limits::of(step.phase), say)?;
        }
        if !step.destroys.is_empty() {
            self.journal()?;
            self.unboot_first()?;
            // Before it begins: also a step that fails at once may have begun to write.
            self.destroyed.extend(step.destroys.iter().cloned());
        }
        match &step.action {
            Action::Run { argv, stdin } => {
                self.leave_target()?;
                let words = self.words(argv)?;
                run(&with_input(Cmd::argv(words)?, stdin).own_group().timeout(limits::of(step.phase)), say)?;
            }
            Action::InTarget { argv, stdin } => {
                let words = self.words(argv)?;
                let inside = self.enter_target()?;
                run(&with_input(inside.command(words)?, stdin).timeout(limits::of(step.phase)), say)?;
            }
            Action::Wipe { disks } => wipe::wipe(&self.targets(disks)?, limits::of(step.phase), say)?,
            Action::Settle { nodes } => {
                self.nodes.settle(nodes)?;
                let disks: Vec<NodeName> = self.plan.disks.keys().cloned().collect();
                wipe::see_kept(&self.targets(&disks)?)?;
            }
            Action::Mount { node, at, fstype, options } => self.mount(node, at, fstype, options)?,
            Action::Pull { image, transports } => {
                let into = BytePath::from(self.site.target.as_path());
                let cancel = self.site.host.cancel_flag();
                written::watched(&self.held, &cancel, || {
                    pull::pull(self.site, image, transports, &into, &self.left_alone)
                })?;
                // Before the next step builds upon it.
                self.write_out()?;
                if let Some(same_image) = self.site.same_image {
                    same_image()?;
                }
            }
            Action::Record { image } => {
                let image = image.parse().with_context(|| format!("the plan names the image {image}"))?;
                let record = Record { image, server: Some(self.site.server.clone()), tree: String::new() };
                let inside = self.inside()?;
                record::write(&inside, &record)?;
                if let Some(SiteKeys { identity, pins, .. }) = &self.site.keys {
                    record::write_keys(&inside, self.site.host.secret(identity)?, pins)?;
                }
            }
            Action::LayOver { overrides, image, transport } => {
                let cancel = self.site.host.cancel_flag();
                let over = || lay_over::lay_over(self.site, overrides, image, transport);
                written::watched(&self.held, &cancel, over)?;
                self.write_out()?;
            }
            Action::Hook { hook, program, environment, required } => {
                let hook = Hook { name: hook, program: program.as_path(), environment, required: *required };
                let server = self.site.server.clone();
                hook::in_target(&hook, &server, self.enter_target()?, limits::of(step.phase), say)?;
            }
            Action::Seal => self.seal()?,
            other => {
                if !tree::apply(&self.inside()?, other)? {
                    bail!("this program does not know the action {other:?}; use a newer systemimager");
                }
            }
        }
        if step.phase == Phase::Boot {
            self.hold_boot_code()?;
        }
        if step.phase == Phase::Partition && !step.destroys.is_empty() {
            // A partitioner's new table comes with code of zeroes, and a BIOS that starts those hangs.
            let nodes: Vec<&NodeName> = step.destroys.iter().collect();
            for disk in self.disks_of(&nodes) {
                unbooting::unboot(self.nodes.device(disk)?, &[])?;
            }
        }
        Ok(())
    }

    /// The disks were written by an earlier attempt: all that this plan destroys counts as destroyed.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn takes_over(&mut self) -> Result<()> {
        self.journal()?;
        self.unbooted = true;
        self.destroyed = self.all_destroyed().into_iter().cloned().collect();
        Ok(())
    }

    /// Before anything else of a disk is destroyed its boot code is: a power cut from here on leaves no disk that
    /// starts half a system.
    fn unboot_first(&mut self) -> Result<()> {
        if !self.unbooted {
            for node in self.disks_of(&self.all_destroyed()) {
                let old = self.plan.disks.get(node).map(unbooting::of_device).unwrap_or_default();
                unbooting::unboot(self.nodes.device(node)?, &old)?;
            }
            self.unbooted = true;
        }
        Ok(())
    }

    /// Takes the boot code that a boot loader has just put onto a disk away until the target is whole and written out: a
    /// power cut in between would leave a loader without its menu, or half of its files.
    fn hold_boot_code(&mut self) -> Result<()> {
        let has_table = |node: &NodeName| {
            // Of a disk without one the first sector is a file system's.
            self.plan.layout.disks.iter().any(|disk| disk.node == *node && !disk.partitions.is_empty())
        };
        for node in self.disks_of(&self.all_destroyed()).into_iter().filter(|node| has_table(node)) {
            if let Some(code) = unbooting::take(self.nodes.device(node)?)? {
                self.boot_code.insert(node.clone(), code);
            }
        }
        Ok(())
    }

    fn inside(&self) -> Result<Inside> {
        Inside::open(&self.site.target)
    }

    /// Disks with those of their partitions that stay as they are.
    fn targets(&self, disks: &[NodeName]) -> Result<Vec<wipe::Target>> {
        let one = |node: &NodeName| {
            let layout = self.plan.layout.disks.iter().find(|disk| disk.node == *node);
            let preserved = layout.iter().flat_map(|disk| &disk.partitions).filter(|it| it.preserve);
            let keep = |it: &PartitionLayout| {
                let (start, size) = it.start.zip(it.size).with_context(|| format!("{} has no place", it.node))?;
                Ok(wipe::Kept { number: it.number, start: start.0, size: size.0 })
            };
            let keep = preserved.map(keep).collect::<Result<_>>()?;
            Ok(wipe::Target { path: self.nodes.device(node)?.to_path_buf(), keep })
        };
        disks.iter().map(one).collect()
    }

    fn words(&self, argv: &[Arg]) -> Result<Vec<OsString>> {
        argv.iter()
            .map(|arg| {
                Ok(match arg {
                    Arg::Text(text) => text.as_os_str().to_owned(),
                    Arg::Device(node) => self.nodes.device(node)?.into(),
                    Arg::PrefixedDevice(prefix, node) => {
                        let mut word = OsString::from(prefix);
                        word.push(self.nodes.device(node)?);
                        word
                    }
                    Arg::Target(path) => {
                        PathBuf::from(BytePath::from(self.site.target.as_path()).join(path.as_bytes())).into()
                    }
                })
            })
            .collect()
    }

    fn mount(&mut self, node: &NodeName, at: &BytePath, fstype: &str, options: &str) -> Result<()> {
        let target = BytePath::from(self.site.target.as_path()).join(at.as_bytes());
        if at.as_bytes() != b"/" {
            // The pull gives mount points the image's mode and owner.
            self.inside()?.make_directory(at, 0o755)?;
        }
        let options: Vec<&str> = options.split(',').filter(|it| !it.is_empty()).collect();
        let device = self.nodes.device(node)?;
        self.mounts.push(MountGuard::mount(device, target.as_path(), fstype, &options)?);
        self.held.push(Held::open(node, device, target.as_path(), &options)?);
        Ok(())
    }

    fn enter_target(&mut self) -> Result<&InTarget> {
        if self.in_target.is_none() {
            let mut inside = InTarget::enter(&self.site.target)?;
            // Tools in the target name disks by these links; without a udev here nobody else makes them.
            inside.link_devices(&self.names()?)?;
            self.in_target = Some(inside);
        }
        self.in_target.as_ref().context("the target was just entered")
    }

    fn leave_target(&mut self) -> Result<()> {
        match self.in_target.take() {
            Some(inside) => Ok(inside.close()?),
            None => Ok(()),
        }
    }

    /// What the by-… links are to say of each partition and file system.
    fn names(&self) -> Result<Vec<Names>> {
        let mut all = Vec::new();
        for disk in &self.plan.layout.disks {
            let whole = std::iter::once(&disk.node).filter(|_| disk.partitions.is_empty());
            for node in disk.partitions.iter().map(|partition| &partition.node).chain(whole) {
                all.push(probe(self.nodes.device(node)?)?);
            }
        }
        Ok(all)
    }

    fn seal(&mut self) -> Result<()> {
        self.leave_target()?;
        seal::check(self.plan, &self.inside()?)?;
        self.write_out()?;
        // Closed, or they could not be unmounted.
        let held: Vec<_> = std::mem::take(&mut self.held).into_iter().map(Held::close).collect();
        std::mem::take(&mut self.mounts).close()?;
        // Unmounting writes too, and the kernel keeps what a partition refused apart from what its disk did.
        for (node, device) in &held {
            written::write_out(node, device)?;
        }
        for node in self.plan.disks.keys() {
            written::write_out(node, self.nodes.device(node)?)?;
        }
        // All else is on the disks.
        for (node, code) in &self.boot_code {
            unbooting::give_back(self.nodes.device(node)?, code)?;
            written::write_out(node, self.nodes.device(node)?)?;
        }
        self.sealed = true;
        if let Some(journal) = self.site.journal.as_ref().filter(|_| self.journaled)
            && let Err(error) = std::fs::remove_file(journal)
        {
            // The machine is installed all the same.
            tracing::warn!("{} stays, though nothing is half written any more: {error}", journal.display());
        }
        Ok(())
    }

    /// The nodes that a step destroys, with their devices, for people.
    fn destroyed_by(&self, step: &Step) -> Vec<String> {
        let named = |node| self.nodes.device(node).map(|device| written::named(node, device)).ok();
        step.destroys.iter().filter_map(named).collect()
    }

    /// What a step may write to, with the devices, for people: what it destroys, else all that is mounted.
    pub fn written_by(&self, step: &Step) -> Vec<String> {
        let destroyed = self.destroyed_by(step);
        if destroyed.is_empty() { self.held.iter().map(Held::named).collect() } else { destroyed }
    }

    /// Has everything written out that the target holds.
    ///
    /// # Errors
    /// A disk did not take it.
    pub fn write_out(&self) -> Result<(), DiskFailed> {
        // All, whatever the first says.
        self.held.iter().map(Held::write_out).fold(Ok(()), Result::and)
    }

    /// Writes down, before the first of them is touched, all disks that the plan destroys.
    fn journal(&mut self) -> Result<()> {
        let Some(journal) = self.site.journal.as_ref().filter(|_| !self.journaled) else { return Ok(()) };
        let mut text = Vec::new();
        for disk in self.disks_of(&self.all_destroyed()) {
            let device = self.nodes.device(disk)?.as_os_str().as_bytes();
            for offset in [0].into_iter().chain(unbooting::of_layout(&self.plan.layout, disk)) {
                text.extend_from_slice(device);
                // Of the disk's own boot code nothing more is said.
                if offset > 0 {
                    text.extend_from_slice(format!("\t{offset}").as_bytes());
                }
                text.push(b'\n');
            }
        }
        if let Some(dir) = journal.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        atomic::write(journal, &text, 0o600).context("listing the disks that are going to be overwritten")?;
        self.journaled = true;
        Ok(())
    }

    /// After a failure: undoes the mounts, and sees that no half-written disk boots.
    fn abandon(&mut self) {
        drop(self.in_target.take());
        self.held.clear();
        drop(std::mem::take(&mut self.mounts));
        let nodes: Vec<&NodeName> = self.destroyed.iter().collect();
        for node in self.disks_of(&nodes) {
            let new = unbooting::of_layout(&self.plan.layout, node);
            match self.nodes.device(node).and_then(|disk| unbooting::unboot(disk, &new)) {
                Ok(()) => tracing::warn!("{node} was half written; its boot code is erased, it does not boot"),
                Err(error) => tracing::error!("{node} was half written and may try to boot: {error:#}"),
            }
        }
    }

    /// The nodes whose contents the plan destroys, from its first step to its last.
    fn all_destroyed(&self) -> Vec<&'a NodeName> {
        self.plan.steps.iter().flat_map(|step| &step.destroys).collect()
    }

    /// The disks that nodes lie on.
    fn disks_of(&self, nodes: &[&NodeName]) -> Vec<&'a NodeName> {
        let plan = self.plan;
        plan.disks.keys().filter(|disk| nodes.iter().any(|node| lies_on(&plan.layout, node, disk))).collect()
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !self.sealed {
            self.abandon();
        }
    }
}

/// Whether a disk, with or without partitions, holds a node or a part of it: a volume may lie on several.
fn lies_on(layout: &Layout, node: &NodeName, disk: &NodeName) -> bool {
    if let Some(volume) = layout.volumes.iter().find(|volume| volume.node == *node) {
        return volume.on.iter().any(|on| on != node && lies_on(layout, on, disk));
    }
    if let Some(fs) = layout.filesystems.iter().find(|fs| fs.node == *node) {
        return fs.on != *node && lies_on(layout, &fs.on, disk);
    }
    node == disk || layout.disk_of(node).is_some_and(|it| it.node == *disk)
}

/// Runs a program, saying what it is and what it prints.
pub(crate) fn run(cmd: &Cmd, say: &mut dyn FnMut(String)) -> Result<()> {
    say(format!("+ {}", cmd.describe()));
    cmd.run_lines(&mut |_, line| {
        // Programs draw progress with backspaces; a log wants words.
        let line: String = line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        if !line.trim().is_empty() {
            say(format!("  {}", line.trim_end()));
        }
    })?;
    Ok(())
}

/// A program with what it reads, if it reads anything.
pub(crate) fn with_input(cmd: Cmd, stdin: &Option<String>) -> Cmd {
    match stdin {
        Some(text) => cmd.stdin_bytes(text.clone()),
        None => cmd,
    }
}

/// UUID, label and the like of what is on a partition, by blkid(8)'s low-level probe.
fn probe(device: &Path) -> Result<Names> {
    let mut names = Names { dev: device.to_path_buf(), ..Names::default() };
    // -d: without it blanks, and letters beyond ASCII, come as escapes, and a link gets another name than udev's.
    let output = Cmd::tool(Tool::Blkid).args(["-p", "-d", "-o", "export"]).arg(device).output()?;
    // 2: nothing is on it, an extended partition say.
    if !matches!(output.status.code(), Some(0 | 2)) {
        bail!("blkid {} {}: {}", device.display(), output.status, output.stderr);
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let field = match key {
            "UUID" => &mut names.uuid,
            "LABEL" => &mut names.label,
            "PART_ENTRY_UUID" => &mut names.partuuid,
            "PART_ENTRY_NAME" => &mut names.partlabel,
            _ => continue,
        };
        *field = Some(value.to_owned());
    }
    Ok(names)
}
