//! On the master client: look, show everything read-only in one place, offer it, wait.
//!
//! All of it happens in a private mount namespace, below a tmpfs of its own: nothing that is written
//! here can get into the capture, no other process sees it, and when this process ends, however it
//! ends, mounts, secret and facts are gone. It does not come back after a reboot.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use systemimager_core::{Export, Host as _, Layout, NetworkMode, Offer, Place, Registry, Role, Secret, Size};

use super::connections::{self, Patience};
use super::facts::{
    CaptureFacts, FACTS_EXPORT, FACTS_FILE, FACTS_FORMAT, FINISH_EXPORT, LeftOutMount, ROOT_EXPORT, SECRET, TakenMount,
};
use super::mount_table::{self, Backing, Question, Table, Taken};
use super::pairing;
use super::{advice, describe, stack, survey};
use crate::door::Door;
use crate::helper;
use crate::host::EngineHost;
use crate::offer::Offering;
use crate::sys::block::{self, Which};
use crate::sys::mount::{self, MountGuard, Mounts};
use crate::sys::mountinfo::MountInfo;
use crate::sys::swaps::{self, SwapArea};
use crate::sys::{Supervisor, namespace, tool};

/// How long sessions of a transport may take to end with it.
const LEAVING: Duration = Duration::from_secs(5);
/// How often the end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is to be offered, and to whom.
pub struct Prepare<'a> {
    /// The image server: it alone is admitted.
    pub server: IpAddr,
    /// The directory to capture: `/`, or a tree.
    pub source: PathBuf,
    /// The layout for a tree; a whole machine's is found out.
    pub layout: Option<Layout>,
    /// The transport plugin.
    pub transport: String,
    /// The port; absent: the transport's.
    pub port: Option<u16>,
    /// What the image server must know.
    pub secret: Vec<u8>,
    /// How long to wait for the capture; one that goes on at the end of it is not cut.
    pub limit: Duration,
    /// A directory for this run, such as /run/systemimager/capture; made if absent.
    pub run_dir: PathBuf,
    /// Plugins.
    pub registry: &'a Registry,
    /// For plugins; its cancel flag ends everything.
    pub host: &'a EngineHost,
}

/// It can be captured now.
#[derive(Debug)]
pub struct Ready<'a> {
    /// The port it is offered on.
    pub port: u16,
    /// What is offered.
    pub facts: &'a CaptureFacts,
}

/// Why it ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The image server said that it has everything.
    Captured,
    /// Nobody did in time.
    TimeLimit,
    /// It was told to end.
    Cancelled,
}

/// Offers until captured, cancelled, or late. `say` gets a line a stage, `ready` is called once.
///
/// # Errors
/// Something that forbids a capture (all of it at once), a missing plugin or program, a port that is taken.
pub fn prepare(
    request: &Prepare<'_>,
    say: &mut (dyn FnMut(&str) + Send),
    ready: &mut (dyn FnMut(&Ready<'_>) -> Result<()> + Send),
) -> Result<Ended> {
    let source = fs::canonicalize(&request.source)
        .with_context(|| format!("looking at --source {}", request.source.display()))?;
    if !source.is_dir() {
        bail!("--source {} is no directory; name the directory that is to become the image", source.display());
    }
    namespace::in_private_mounts(|| in_namespace(request, &source, say, ready))?
}

fn in_namespace(
    request: &Prepare<'_>,
    source: &Path,
    say: &mut (dyn FnMut(&str) + Send),
    ready: &mut (dyn FnMut(&Ready<'_>) -> Result<()> + Send),
) -> Result<Ended> {
    say("looking at mounts, disks and file systems");
    let swaps = swaps::parse(&swaps::table());
    let table = look(request, source)?;
    let mut facts = gather(request, source, &table, &swaps)?;

    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&request.run_dir)
        .with_context(|| format!("making {}", request.run_dir.display()))?;
    let mut mounts = Mounts::new();
    mounts.push(MountGuard::pseudo("tmpfs", &request.run_dir, &["mode=0700,nosuid,nodev"])?);
    let root = request.run_dir.join("root");
    fs::create_dir(&root)?;
    for taken in &table.taken {
        mounts.push(MountGuard::bind_read_only(&taken.at, &root.join(&taken.inside))?);
    }

    say("counting files");
    let cancelled = || request.host.cancelled();
    let surveyed = survey::survey(&root, &mut |_| {
        anyhow::ensure!(!cancelled(), "cancelled");
        Ok(())
    });
    if cancelled() {
        return Ok(Ended::Cancelled);
    }
    let surveyed = surveyed?;
    facts.bytes = Size(surveyed.bytes);
    facts.inodes = surveyed.inodes;
    facts.advice.extend(advice::of_survey(&surveyed));

    let facts_dir = request.run_dir.join("facts");
    fs::create_dir(&facts_dir)?;
    fs::write(facts_dir.join(FACTS_FILE), serde_json::to_vec_pretty(&facts)?)?;
    let ended = offer(request, &root, &facts_dir, &facts, ready)?;
    // Whoever was served may still be on their way out.
    mounts.close_within(LEAVING)?;
    Ok(ended)
}

fn offer(
    request: &Prepare<'_>,
    root: &Path,
    facts_dir: &Path,
    facts: &CaptureFacts,
    ready: &mut (dyn FnMut(&Ready<'_>) -> Result<()> + Send),
) -> Result<Ended> {
    let transport = request.registry.transport(&request.transport)?;
    let able = transport.capabilities(request.host, ())?;
    for program in transport.needs(request.host, Role::MasterClient)?.programs {
        if !tool::is_there(&program.name) {
            bail!(
                "the transport {} needs the program {} here; install the package {}, or name another transport with \
                 --transport",
                request.transport,
                program.name,
                program.package
            );
        }
    }
    let port = request.port.unwrap_or(able.default_port);
    let (secrets, keys, host_key) = pairing::for_offer(&able, &request.secret)?;
    let export = |name: &str, tree: &Path| Export {
        name: name.to_owned(),
        tree: tree.into(),
        allow: vec![request.server.to_string()],
        secret: Some(Secret(SECRET.to_owned())),
        keys: keys.clone(),
        ..Export::default()
    };
    let door = request.run_dir.join("door");
    let offer = Offer {
        exports: vec![export(ROOT_EXPORT, root), export(FACTS_EXPORT, facts_dir)],
        // One family only: a daemon that gets a port of one family and not of the other would seem ready.
        bind: Some(match request.server {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        }),
        port,
        work_dir: request.run_dir.join("service").into(),
        finish: Some(FINISH_EXPORT.to_owned()),
        host_key,
        door: Door::words(&door)?,
        ..Offer::default()
    };
    let service = transport.offer(request.host, offer.clone())?;
    let _door = Door::open(request.registry, &request.transport, &offer, &door, None)?;
    let (supervisor, exits) = Supervisor::start().context("starting the supervisor")?;
    let name = format!("transport {}", request.transport);
    let helper = helper::words(request.registry, &request.transport)?;
    let offering = Offering::start(&service, &secrets, &supervisor, &name, &helper)
        .with_context(|| format!("offering this machine on port {port}; name another with --port if it is taken"))?;
    ready(&Ready { port, facts })?;
    let mut patience = Patience::new(Instant::now(), request.limit);
    let ended = loop {
        match exits.recv_timeout(LOOK_EVERY) {
            Ok(exit) => bail!("{exit}; the capture cannot go on, start prepareclient again"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the supervisor of {name} is gone"),
        }
        if offering.finished() {
            break Ended::Captured;
        }
        if request.host.cancelled() {
            break Ended::Cancelled;
        }
        if patience.is_over(Instant::now(), &|| connections::connected(request.server, port)) {
            break Ended::TimeLimit;
        }
    };
    offering.stop()?;
    Ok(ended)
}

/// The mounts of this machine, decided upon.
fn look(request: &Prepare<'_>, source: &Path) -> Result<Table> {
    let mounts = mount::table()?;
    let disks = block::list(Path::new("/sys"), Which::Disks).context("listing disks")?;
    let served = describe::mountable_types(request.registry, request.host)?;
    let backing = |mount: &MountInfo| backing(mount, &disks);
    mount_table::decide(&Question { mounts: &mounts, source, served: &served, backing: &backing })
        .map_err(|errors| anyhow::anyhow!("this machine cannot be captured as it is:\n{}", errors.join("\n")))
}

/// By the device numbers; btrfs and the like show none, so by the name of the device then.
fn backing(mount: &MountInfo, disks: &[block::BlockDevice]) -> Backing {
    let source = Path::new(&mount.source);
    let name = source.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if mount.device.0 == 7 || name.starts_with("loop") {
        return Backing::Loop;
    }
    if name.starts_with("zram") || name.starts_with("ram") || name.starts_with("pmem") && mount.device.0 == 1 {
        return Backing::Memory;
    }
    let is_here = |disk: &&block::BlockDevice| {
        disk.device == mount.device
            || disk.path == source
            || disk.partitions.iter().any(|partition| partition.device == mount.device || partition.path == source)
    };
    if disks.iter().find(is_here).is_some_and(|disk| disk.removable) { Backing::Removable } else { Backing::Disk }
}

/// Everything but the numbers.
fn gather(request: &Prepare<'_>, source: &Path, table: &Table, swaps: &[SwapArea]) -> Result<CaptureFacts> {
    let whole = source == Path::new("/");
    let mut facts = CaptureFacts {
        format: FACTS_FORMAT,
        source: source.into(),
        arch: std::env::consts::ARCH.to_owned(),
        taken: table
            .taken
            .iter()
            .map(|taken| TakenMount {
                at: taken.at.as_path().into(),
                fstype: taken.mount.fstype.clone(),
                device: taken.mount.source.as_os_str().into(),
            })
            .collect(),
        left_out: table
            .left_out
            .iter()
            .map(|out| LeftOutMount { at: out.at.as_path().into(), fstype: out.fstype.clone(), why: out.why.clone() })
            .collect(),
        advice: advice::swap_files(swaps, source),
        ..CaptureFacts::default()
    };
    let place = if whole { Place::Running } else { Place::Tree { root: source.into() } };
    facts.bootloader = describe::bootloader(request.registry, request.host, &place);
    if whole || request.layout.is_some() {
        facts.advice.extend(identity_advice(request, &place));
    }
    if !whole {
        facts.layout.clone_from(&request.layout);
        return Ok(facts);
    }
    if request.layout.is_some() {
        bail!("--layout is for a tree named with --source; the layout of this machine is found out");
    }
    let sysfs = Path::new("/sys");
    refuse_stacks(sysfs, table, swaps)?;
    let disks = request.host.block_devices()?;
    let name = |taken: &Taken| kernel_name(sysfs, &taken.mount);
    let described = describe::describe(request.registry, request.host, &disks, &table.taken, swaps, &name)?;
    facts.layout = Some(described.layout);
    facts.partitioner = Some(described.partitioner);
    facts.advice.extend(advice::databases(process_names().iter().map(String::as_str)));
    Ok(facts)
}

/// What would be refused when machines are installed with this, by the settings of a new master file.
fn identity_advice(request: &Prepare<'_>, place: &Place) -> Vec<String> {
    let plugins = request.registry.identities();
    let Some((plugin, _)) = plugins.first() else { return Vec::new() };
    let making = advice::Making { image: "to be", plugin, mode: NetworkMode::default(), scrub: None };
    advice::clones(request.registry, request.host, place, &making).notes
}

/// A machine that stands on what no plugin can make anew is refused by name.
fn refuse_stacks(sysfs: &Path, table: &Table, swaps: &[SwapArea]) -> Result<()> {
    let mut refused = Vec::new();
    for taken in &table.taken {
        let mount = &taken.mount;
        let stacked = stack::of_type(&mount.fstype, &mount.root, &mount.super_options)
            .or_else(|| stack::made_of(sysfs, mount.device));
        if let Some(stacked) = stacked {
            refused.push(format!("{} is on {stacked}", taken.at.display()));
        }
    }
    for swap in swaps.iter().filter(|swap| !swap.is_file) {
        let device = fs::metadata(&swap.path).map(|metadata| {
            let device = std::os::unix::fs::MetadataExt::rdev(&metadata);
            (rustix::fs::major(device), rustix::fs::minor(device))
        });
        if let Some(stacked) = device.ok().and_then(|device| stack::made_of(sysfs, device)) {
            refused.push(format!("the swap area {} is on {stacked}", swap.path.display()));
        }
    }
    if refused.is_empty() {
        return Ok(());
    }
    bail!(
        "{}: this version lays out only disks and partitions; capture the tree alone with --source DIR, and give a \
         layout for it with --layout",
        refused.join(", ")
    )
}

/// `sda1`, as sysfs calls a mount's device.
fn kernel_name(sysfs: &Path, mount: &MountInfo) -> Result<String> {
    let link = sysfs.join("dev/block").join(format!("{}:{}", mount.device.0, mount.device.1));
    let path = fs::canonicalize(&link).or_else(|_| fs::canonicalize(&mount.source)).with_context(|| {
        format!("finding the device of {} ({})", mount.mount_point.display(), mount.source.display())
    })?;
    let name = path.file_name().and_then(|name| name.to_str()).context("a device without a name")?;
    Ok(name.to_owned())
}

fn process_names() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}
