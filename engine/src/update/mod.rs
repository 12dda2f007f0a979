//! Bringing a machine to its image, to another revision of it, or back: only differences move, and what is the machine's
//! own stays.
//!
//! The way: [`local`] says what stays; a dry run says what [differs](difference); what is new is [laid ready](stage) beside
//! what is there, on the same file systems; then it is [moved](commit) into place in one go; a last, small pull gives
//! their attributes to what differs in nothing else; the [boot loader](boot) hears of it; and only then goes what the machine booted by before. A
//! machine that is switched off at any moment starts as it was, or as it is to be, and the same command goes on.
//!
//! Everything that can be refused is refused before anything is laid ready.

pub mod autoinstall;
mod boot;
mod commit;
pub mod difference;
mod links;
pub mod list;
mod live;
pub mod local;
mod stage;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use systemimager_core::contract::IdentityOwn;
use systemimager_core::{
    BytePath, ChangeKind, ErrorKind, ImageFacts, OverrideName, PullReport, PullRequest, Registry, Source, Step,
};

use crate::facts::UPDATE_EXCLUDE;
use crate::host::EngineHost;
use crate::overrides::{Layer, Wire};
use crate::plan::drivers;
use crate::store::master::{Master, NO_BOOTLOADER};
use crate::sys::lock::{Lock, Mode};
use crate::sys::{mount, swaps, volatile};
use crate::transfer::{self, PATIENCE};
use crate::tree::Inside;
use crate::tree::pattern::{self, LeftOut, is_below, parent};
use commit::Journal;
use difference::Difference;
use local::{Local, MACHINE_LIST, Question};
use stage::Area;

/// How long a server that is away is waited for before anything changed.
const ASKING: Duration = Duration::from_secs(60);
/// Reasons that an error lists.
const LISTED: usize = 5;

/// What was asked besides image and server.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Patterns of what else is left alone.
    pub exclude: Vec<BytePath>,
    /// Compare contents, not only size and time.
    pub checksum: bool,
    /// The boot loader is left alone, whatever changes.
    pub no_bootloader: bool,
    /// Files are replaced one by one as they come, without room for both.
    pub in_place: bool,
}

/// The machine, and what it is brought to.
pub struct Machine<'a> {
    /// The plugins.
    pub registry: &'a Registry,
    /// What plugins see.
    pub host: &'a EngineHost,
    /// Where the image is pulled from.
    pub source: Source,
    /// The transport plugin.
    pub transport: String,
    /// Those that may bring the most of it before, in this order: the others of the chain.
    pub bulk: Vec<String>,
    /// The tree: `/`, or that of another system. Absolute, without links.
    pub target: PathBuf,
    /// What is known of the image.
    pub facts: &'a ImageFacts,
    /// How the image is installed.
    pub master: &'a Master,
    /// What is laid over the image, in this order.
    pub overrides: Vec<OverrideName>,
    /// What else was asked.
    pub asked: Asked,
    /// Asked when all is laid ready: whether the image is still the one of the facts.
    pub same_image: Option<&'a dyn Fn() -> Result<()>>,
}

impl Machine<'_> {
    /// Pulls, waiting for a server that is away, and judges what came.
    fn pull(&self, request: &PullRequest, patience: Duration) -> Result<PullReport> {
        transfer::exact(self.registry, self.host, &self.transport, request, patience)
    }

    /// Has the most of it brought by a transport of the chain that can; what none brings is left to [`Self::pull`].
    fn bring(&self, request: &PullRequest) -> u64 {
        for id in &self.bulk {
            let brought = self.registry.transport(id).map_err(anyhow::Error::from).and_then(|transport| {
                let able = transport.capabilities(&self.host.for_transport(self.registry, id), ())?;
                anyhow::ensure!(able.flat, "it cannot pull single paths");
                transfer::pull(self.registry, self.host, id, request, ASKING)
            });
            match brought {
                Ok(report) => return report.received,
                Err(error) => {
                    tracing::warn!("the transport {id} does not get through, the next one will be used: {error:#}")
                }
            }
        }
        0
    }

    /// Where overrides come from.
    fn wire(&self) -> Wire<'_> {
        Wire {
            registry: self.registry,
            host: self.host,
            transport: &self.transport,
            image: self.source.clone(),
            patience: ASKING,
        }
    }
}

/// What an update would do.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What stays.
    pub local: Local,
    /// What changes, sorted by path.
    pub differences: Vec<Difference>,
    /// An update before this one ended too early: what it laid ready is in place now.
    pub resumed: bool,
    apart: Vec<Vec<BytePath>>,
    areas: Vec<Area>,
    layers: Vec<Layer>,
    /// What the boot loader is told, planned before anything changes.
    refresh: Vec<Step>,
    boot_pending: bool,
}

impl Prepared {
    /// Whether there is nothing to do.
    pub fn nothing(&self) -> bool {
        self.differences.is_empty() && !self.boot_pending
    }

    /// A pull of the image onto the machine.
    fn whole(&self, machine: &Machine<'_>) -> PullRequest {
        whole(machine, &self.local, &self.layers)
    }

    /// What gets other attributes, and nothing else; and new directories into which an override brings something, after
    /// they had got their times.
    fn attributes(&self) -> BTreeSet<BytePath> {
        let metadata = self.differences.iter().filter(|it| it.kind == ChangeKind::Metadata).map(|it| it.path.clone());
        let created: BTreeSet<&BytePath> =
            self.differences.iter().filter(|it| it.kind == ChangeKind::Created).map(|it| &it.path).collect();
        let above = created
            .iter()
            .filter(|path| self.overridden(path))
            .map(|path| parent(path))
            .filter(|above| created.contains(above));
        metadata.chain(above).collect()
    }

    /// The directories of the image out of which something goes, and which stay; and those into which overrides bring
    /// something.
    fn above(&self) -> BTreeSet<BytePath> {
        let gone: BTreeSet<&BytePath> =
            self.differences.iter().filter(|it| it.kind == ChangeKind::Deleted).map(|it| &it.path).collect();
        let brought = self.differences.iter().map(|it| &it.path).filter(|path| self.overridden(path));
        let above = gone.iter().copied().chain(brought).map(parent);
        // One that becomes something else is named by that.
        above.filter(|above| !gone.contains(above) && !self.overridden(above)).collect()
    }

    /// Whether an override has something in this place.
    fn overridden(&self, path: &BytePath) -> bool {
        self.layers.iter().any(|layer| layer.has(path))
    }

    /// Those of these paths that the image gives, and those that each override does.
    fn by_source(&self, paths: &[BytePath]) -> (Vec<BytePath>, Vec<(&Layer, Vec<BytePath>)>) {
        let mut rest = paths.to_vec();
        let mut of_layers = Vec::new();
        for layer in &self.layers {
            let (own, others) = rest.into_iter().partition(|path| layer.has(path));
            rest = others;
            of_layers.push((layer, own));
        }
        (rest, of_layers)
    }

    /// Whether the boot loader has to hear of it.
    fn boot_changes(&self) -> bool {
        !self.refresh.is_empty()
    }
}

/// What an update did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Done {
    /// Bytes that came over the wire, the comparison included.
    pub received: u64,
    /// Files whose contents moved.
    pub transferred: u64,
    /// The boot loader was told.
    pub boot_loader: bool,
    /// Directories that the image does not have, and that stay since something of the machine's own is in them.
    pub kept: Vec<BytePath>,
}

/// Takes the lock of updates: two at a time would undo each other.
///
/// # Errors
/// Somebody else updates this machine.
pub fn lock(target: &Path) -> Result<Lock> {
    // By the directory itself, whatever names lead to it; nothing is written into a tree for it.
    let found = std::fs::metadata(target).with_context(|| format!("looking at {}", target.display()))?;
    let file = volatile::dir().join(format!("systemimager-update-{}-{}.lock", found.dev(), found.ino()));
    Ok(Lock::try_take(&file, Mode::Exclusive, &format!("update of {}", target.display()))?)
}

/// Finds out what an update would do; with `change`, one that was interrupted is brought to its end first.
///
/// # Errors
/// The image is not for this machine, a list is wrong, something cannot be written, the server does not answer: with
/// nothing changed.
pub fn prepare(machine: &Machine<'_>, change: bool) -> Result<(Prepared, PullReport)> {
    fits(machine)?;
    let inside = Inside::open(&machine.target)?;
    let left = Journal::left(&inside)?;
    let resumed = left.is_some() && change;
    if let Some(journal) = left.as_ref().filter(|_| change) {
        tracing::warn!("an update to {} was interrupted; what it had laid ready comes into place first", journal.image);
        commit::carry_out(machine, journal)?;
    }
    let boot_paths = boot::paths(machine.facts, &machine.master.bootloader);
    let missing_modules = missing_modules(machine)?;
    let mut own = boot_paths.own;
    if !missing_modules.is_empty() {
        own.extend(own_initramfs(machine.facts, &inside));
    }
    let local = stays(machine, &inside, own)?;
    let mut layers = machine.wire().look(&machine.overrides).context("nothing was changed")?;
    let firm = LeftOut::new(&local.firm);
    layers.iter_mut().for_each(|layer| layer.paths.retain(|path| !firm.has(path)));
    let (mut report, apart) = compare(machine, &local, &layers)?;
    let names = apart.iter().flatten().cloned().collect();
    lay_over(machine, &layers, &mut report)?;
    let differences = difference::differences(std::mem::take(&mut report.changes), &boot_paths.reads, &names);
    let boot_pending = left.is_some_and(|journal| journal.boot) && !machine.asked.no_bootloader;
    let mut changed: Vec<BytePath> = differences.iter().filter(|it| it.boot).map(|it| it.path.clone()).collect();
    if boot_pending {
        changed.push("/boot".into());
    }
    let refresh = match machine.asked.no_bootloader {
        true => Vec::new(),
        false => boot::plan(machine, &missing_modules, changed)?,
    };
    let areas = stage::areas(&differences, &apart, &local.areas);
    Ok((Prepared { local, differences, resumed, apart, areas, layers, refresh, boot_pending }, report))
}

/// Whether the image can run here.
fn fits(machine: &Machine<'_>) -> Result<()> {
    let Machine { facts, transport, .. } = machine;
    let name = &facts.name;
    let here = rustix::system::uname().machine().to_string_lossy().into_owned();
    let same = |arch: &str| arch == here || (arch == "x86" && here.starts_with('i') && here.ends_with("86"));
    if machine.target == Path::new("/") && !facts.arch.is_empty() && !same(&facts.arch) {
        bail!(
            "the image {name} is for {}, and this machine is {here}: nothing of it would run here. Name another image; \
             nothing was changed",
            facts.arch
        );
    }
    if !facts.has_init {
        bail!(
            "the image {name} has nothing that could be started as the first process: it is no system, and this machine \
             would not start with it. Nothing was changed"
        );
    }
    let can = machine.registry.transport(transport)?.capabilities(machine.host, ())?;
    if !(can.reconciles && can.delete && can.dry_run) {
        bail!(
            "the transport {transport} cannot say what differs and leave a tree exactly as the image; name another with \
             --transport"
        );
    }
    if !can.flat && !machine.asked.in_place {
        bail!(
            "the transport {transport} cannot pull single paths, which an update needs; name another, or give --in-place"
        );
    }
    Ok(())
}

/// What stays, besides what is known already to be the machine's `own`.
fn stays(machine: &Machine<'_>, inside: &Inside, mut own: Vec<BytePath>) -> Result<Local> {
    let Machine { registry, host, master, facts, target, .. } = machine;
    let plugin = registry.identity(&master.identity.plugin)?;
    match plugin.own_paths(*host, IdentityOwn { image: (*facts).clone() }) {
        Ok(paths) => own.extend(paths),
        Err(error) if error.kind == ErrorKind::Unsupported => bail!(
            "the identity plugin {} does not say what of a machine is its own ({error}): name, addresses and keys would be \
             lost. Nothing was changed; use a newer one",
            master.identity.plugin
        ),
        Err(error) => return Err(error).context("asking the identity plugin what is the machine's own"),
    }
    let mut served = Vec::new();
    for (_, plugin) in registry.filesystems() {
        served.extend(plugin.types(*host, ())?.into_iter().filter(|it| it.mountable).map(|it| it.name));
    }
    let machine_list = inside.read(&MACHINE_LIST.into())?;
    let swaps: Vec<PathBuf> = swaps::parse(&swaps::table()).into_iter().map(|area| area.path).collect();
    let image_name = format!("{}:{UPDATE_EXCLUDE}", facts.name);
    let question = Question {
        target,
        mounts: &mount::table().context("reading the mount table")?,
        swaps: &swaps,
        layout: &master.layout,
        served: &served,
        image_list: facts.update_exclude.as_ref().map(|text| (image_name.as_str(), text.0.as_slice())),
        machine_list: machine_list.as_ref().map(|text| (MACHINE_LIST, text.as_slice())),
        own,
        asked: &machine.asked.exclude,
    };
    local::decide(&question).map_err(|problems| anyhow::anyhow!("{}\nnothing was changed", problems.join("\n")))
}

/// Modules that the image's initramfs lacks for this machine's disks: it is made anew with them.
///
/// # Errors
/// The image's kernel drives this machine's disks not at all.
fn missing_modules(machine: &Machine<'_>) -> Result<Vec<String>> {
    if machine.target != Path::new("/") || machine.master.bootloader == NO_BOOTLOADER || machine.asked.no_bootloader {
        return Ok(Vec::new());
    }
    let disks = crate::hardware::block_devices().context("looking at this machine's disks")?;
    let used = disks.iter().filter(|disk| !disk.in_use.is_empty());
    let found = drivers::check(machine.facts, &machine.master.layout, used);
    if !found.problems.is_empty() {
        let problems: Vec<String> = found.problems.into_iter().take(LISTED).collect();
        bail!("{}\nnothing was changed", problems.join("\n"));
    }
    for warning in found.warnings {
        tracing::warn!("{warning}");
    }
    Ok(found.missing)
}

/// The initramfs files that this machine has made for itself, where those of the image lack a driver that it needs: they
/// would leave it without one until they are made anew.
fn own_initramfs(facts: &ImageFacts, inside: &Inside) -> Vec<BytePath> {
    let files = facts.kernels.iter().filter_map(|kernel| kernel.initramfs.as_ref());
    files.filter(|path| inside.exists(path)).map(pattern::literal).collect()
}

/// The comparison; with the names of one file here that are files of their own in the image, which are looked for
/// meanwhile.
fn compare(machine: &Machine<'_>, local: &Local, layers: &[Layer]) -> Result<(PullReport, Vec<Vec<BytePath>>)> {
    let Machine { registry, host, transport, target, .. } = machine;
    let request = PullRequest { dry_run: true, checksum: machine.asked.checksum, ..whole(machine, local, layers) };
    let ask = |request: &PullRequest| {
        transfer::pull(registry, host, transport, request, ASKING)
            .context("comparing this machine with the image; nothing was changed")
    };
    let several = || -> Result<(Vec<Vec<BytePath>>, PullReport)> {
        let groups = links::several(target, &local.areas, &request.exclude);
        if groups.is_empty() {
            return Ok((groups, PullReport::default()));
        }
        // Of these alone: to hear of each file of the image that it is as it should be costs a tenth more on the wire.
        let only = Some(groups.concat());
        let asked = PullRequest { only, links: true, delete: false, exclude: Vec::new(), ..request.clone() };
        Ok((groups, ask(&asked)?))
    };
    let (all, names) = std::thread::scope(|scope| {
        let names = scope.spawn(several);
        (ask(&request), names.join())
    });
    let mut all = all?;
    if let Some(failed) = all.failed.first() {
        bail!("{} cannot be compared with the image: {}; nothing was changed", failed.path, failed.why);
    }
    let (groups, names) = names.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    all.received += names.received;
    let apart = links::apart(&groups, &all, &names);
    let beside = links::beside(&groups, &all, &apart);
    all.changes.extend(beside);
    Ok((all, apart))
}

/// Adds what differs from the overrides.
fn lay_over(machine: &Machine<'_>, layers: &[Layer], report: &mut PullReport) -> Result<()> {
    let wire = machine.wire();
    for layer in layers {
        let asked = PullRequest {
            only: Some(layer.paths.clone()),
            dry_run: true,
            checksum: machine.asked.checksum,
            ..over(machine)
        };
        let found = wire.bring(layer, asked).context("nothing was changed")?;
        report.received += found.received;
        // What the image does not have, and an override does, does not go.
        report.changes.retain(|change| !layer.has(&change.path));
        report.changes.extend(found.changes);
    }
    Ok(())
}

/// A pull of the image onto the machine: all but what overrides have in its place.
fn whole(machine: &Machine<'_>, local: &Local, layers: &[Layer]) -> PullRequest {
    let held = layers.iter().flat_map(Layer::held).map(pattern::literal);
    PullRequest {
        from: machine.source.clone(),
        into: machine.target.as_path().into(),
        delete: true,
        compress: true,
        exclude: local.patterns.iter().cloned().chain(held).collect(),
        ..PullRequest::default()
    }
}

/// A pull of an override onto the machine.
fn over(machine: &Machine<'_>) -> PullRequest {
    PullRequest { into: machine.target.as_path().into(), delete: true, compress: true, ..PullRequest::default() }
}

/// Does what was prepared. `say` gets a line for each thing that is begun, and what programs print.
///
/// # Errors
/// What failed. Before anything was moved the machine is as it was; afterwards the same update goes on where it was.
pub fn carry_out(machine: &Machine<'_>, prepared: &Prepared, say: &mut dyn FnMut(String)) -> Result<Done> {
    let mut done = Done::default();
    let inside = Inside::open(&machine.target)?;
    if machine.asked.in_place {
        replace(machine, prepared, &mut done, say)?;
    } else {
        stage::room(machine, prepared)?;
        say(format!(
            "laying ready what is new ({} paths)",
            prepared.areas.iter().map(|it| it.paths.len()).sum::<usize>()
        ));
        let report = stage::lay(machine, prepared)?;
        (done.received, done.transferred) = (report.received, report.transferred);
        if let Some(same_image) = machine.same_image {
            same_image()?;
        }
        let journal = Journal::of(machine, prepared)?;
        journal.write(&inside)?;
        say("moving it into place".into());
        let moved = commit::carry_out(machine, &journal)
            .context("the update is in its middle; start the same command again, and it goes on where it was")?;
        done.kept = moved.kept;
        done.received += settle(machine, prepared, moved.met)?.received;
    }
    tell_boot_loader(machine, prepared, &mut done, say)?;
    end(machine, prepared)?;
    Ok(done)
}

/// Takes away what an update laid ready, this one or one before it that was interrupted, and its journal.
///
/// # Errors
/// It cannot be removed.
pub fn end(machine: &Machine<'_>, prepared: &Prepared) -> Result<()> {
    stage::clear(&machine.target, &prepared.local.areas)?;
    Journal::close(&Inside::open(&machine.target)?)?;
    live::Live::open(&machine.target)?.write_out()
}

/// Attributes and times of what changed in nothing else, and of directories that were `met`. What was laid ready has them
/// already.
fn settle(machine: &Machine<'_>, prepared: &Prepared, met: Vec<BytePath>) -> Result<PullReport> {
    let only: BTreeSet<BytePath> = prepared.attributes().into_iter().chain(met).collect();
    let only: Vec<BytePath> = only.into_iter().collect();
    if only.is_empty() {
        return Ok(PullReport::default());
    }
    let middle = "all files are in place, but not all attributes; start the same command again";
    let (of_image, of_layers) = prepared.by_source(&only);
    let mut all = PullReport::default();
    if !of_image.is_empty() {
        let request = PullRequest { only: Some(of_image), flat: true, ..prepared.whole(machine) };
        all = machine.pull(&request, PATIENCE).context(middle)?;
    }
    for (layer, only) in of_layers {
        let asked = PullRequest { only: Some(only), ..over(machine) };
        all.received += machine.wire().bring(layer, asked).context(middle)?.received;
    }
    Ok(all)
}

/// Without room for both: the transfer replaces each file as it comes. What is removed goes last.
fn replace(machine: &Machine<'_>, prepared: &Prepared, done: &mut Done, say: &mut dyn FnMut(String)) -> Result<()> {
    say("replacing files one by one".into());
    let request =
        PullRequest { delete: !prepared.boot_changes(), checksum: machine.asked.checksum, ..prepared.whole(machine) };
    let middle = "the update is in its middle; start the same command again before this machine is restarted";
    let mut pull = |request: &PullRequest| -> Result<()> {
        let report = machine.pull(request, PATIENCE).context(middle)?;
        done.received += report.received;
        done.transferred += report.transferred;
        Ok(())
    };
    pull(&request)?;
    // Names of one file that are files of their own in the image, and of the same contents: no transfer parts them.
    let live = live::Live::open(&machine.target)?;
    for names in &prepared.apart {
        for name in names.iter().skip(1) {
            live.remove(name)?;
        }
        pull(&PullRequest { only: Some(names.clone()), flat: true, delete: false, ..prepared.whole(machine) })?;
    }
    for layer in &prepared.layers {
        let asked = PullRequest { only: Some(layer.paths.clone()), checksum: machine.asked.checksum, ..over(machine) };
        let report = machine.wire().bring(layer, asked).context(middle)?;
        done.received += report.received;
        done.transferred += report.transferred;
    }
    Ok(())
}

/// The boot loader hears of what changed, as if what the machine booted by before were gone; then that goes.
fn tell_boot_loader(
    machine: &Machine<'_>,
    prepared: &Prepared,
    done: &mut Done,
    say: &mut dyn FnMut(String),
) -> Result<()> {
    if !prepared.boot_changes() {
        return Ok(());
    }
    let again = "the files are in place, but the boot loader does not know of them; mend what stands above and start the \
                 same command again before this machine is restarted";
    let live = live::Live::open(&machine.target)?;
    let waited = prepared.differences.iter().filter(|it| it.kind == ChangeKind::Deleted);
    let mut waited: Vec<BytePath> =
        waited.filter(|it| it.boot || machine.asked.in_place).map(|it| it.path.clone()).collect();
    waited.sort_by(|a, b| b.cmp(a));
    let boot: BytePath = "/boot".into();
    let mut kernels = Vec::new();
    for path in waited.iter().filter(|path| is_below(path, &boot)) {
        if matches!(live.stands(path)?, live::Stands::File(_)) {
            kernels.push(path.clone());
        }
    }
    boot::carry_out_without(&machine.target, &prepared.refresh, &kernels, say).context(again)?;
    done.boot_loader = true;
    write_out(machine, prepared)?;
    for path in &waited {
        if !live.remove(path)? {
            done.kept.push(path.clone());
        }
    }
    if !waited.is_empty() {
        let only = Some(prepared.above().into_iter().collect());
        let request = PullRequest { only, flat: true, delete: false, ..prepared.whole(machine) };
        done.received += machine.pull(&request, PATIENCE)?.received;
    }
    Ok(())
}

/// Has all file systems of the system written out: a menu has to be on the disk before what the menu before it named goes,
/// and they lie on /boot, often a file system of its own.
fn write_out(machine: &Machine<'_>, prepared: &Prepared) -> Result<()> {
    prepared.local.areas.iter().try_for_each(|at| live::Live::open(&stage::below(&machine.target, at))?.write_out())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn master() -> Master {
        let text = "format = 1\nimage = \"web\"\ntransports = [\"rsync\"]\npartitioner = \"p\"\nbootloader = \"none\"\n\
                    [identity]\nplugin = \"i\"\n";
        crate::store::master_text::parse(Path::new("web.master"), text).unwrap()
    }
}
