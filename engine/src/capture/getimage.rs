//! On the image server: what a master client offers becomes an image and its master file.
//!
//! Order: everything that can be checked is checked before anything is pulled; what is pulled lands
//! beside the image; the image changes in one step, when all of it is there.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{
    BytePath, Change, ErrorKind, FailedPath, Host as _, ImageName, Place, PluginError, PullReport, PullRequest,
    Registry, Secret, Source,
};

use super::facts::{CaptureFacts, FACTS_EXPORT, FACTS_FILE, FINISH_EXPORT, ROOT_EXPORT, SECRET};
use super::keys::{self, KeyFound};
use super::{advice, describe, pairing};
use crate::config::Config;
use crate::host::EngineHost;
use crate::install::record;
use crate::store::image_store::ImageStore;
use crate::store::master::{FinalAction, IdentitySettings, MASTER_FORMAT, Master, NO_BOOTLOADER, NetworkMaster};
use crate::store::master_text;
use crate::store::revision::Differences;
use crate::store::staging::Staging;

/// Seconds without a byte after which the master client counts as gone.
const TIMEOUT_SECS: u32 = 120;
/// The same where contents are compared: both sides may read one huge file in silence.
const CHECKSUM_TIMEOUT_SECS: u32 = 1800;

/// A capture that is asked for.
pub struct GetImage<'a> {
    /// The server's settings.
    pub config: &'a Config,
    /// Plugins.
    pub registry: &'a Registry,
    /// For plugins; it holds the secret named [`SECRET`], and the key of [`pairing`].
    pub host: &'a EngineHost,
    /// The public key that the master client has by the secret, where the transport works by keys.
    pub host_key: Option<String>,
    /// The transport plugin.
    pub transport: String,
    /// The machine that offers itself.
    pub master_client: String,
    /// Its port; absent: the transport's.
    pub port: Option<u16>,
    /// What the image is called.
    pub image: ImageName,
    /// An image of this name may be replaced.
    pub replace: bool,
    /// What is left out ([`PullRequest::exclude`]).
    pub exclude: Vec<BytePath>,
    /// Files that may change while they are read (patterns, or directories for all below).
    pub allow_changing: Vec<BytePath>,
    /// Compare contents, not only size and time.
    pub checksum: bool,
    /// Replace a master file that is there.
    pub update_master: bool,
}

/// What became of the master file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MasterFile {
    /// There was none.
    Written(PathBuf),
    /// The one that was there stays.
    Kept(PathBuf),
    /// A new one; the old one is kept as `backup`.
    Replaced {
        /// The new one.
        path: PathBuf,
        /// The old one.
        backup: Option<PathBuf>,
    },
}

/// A capture that is done.
#[derive(Debug, Serialize)]
pub struct Captured {
    /// The image.
    pub image: ImageName,
    /// Its directory.
    pub path: PathBuf,
    /// What moved.
    pub report: PullReport,
    /// Files that changed while they were captured; what the image holds of them may not fit together.
    pub changed: Vec<Change>,
    /// Files that could not be captured, and were allowed not to be.
    pub missed: Vec<FailedPath>,
    /// The master file.
    pub master: MasterFile,
    /// Replaced trees that somebody still reads.
    pub still_read: Vec<String>,
    /// Private keys in the image.
    pub keys: Vec<KeyFound>,
    /// What each machine gets of its own, or not at all, by the master file.
    pub scrubbed: Vec<BytePath>,
    /// What would be refused if a machine were installed with the image now, and the like.
    pub notes: Vec<String>,
}

/// Captures. `say` gets what an administrator should see on the way, a line each.
///
/// # Errors
/// Each with what to do; the image and its master are as they were.
pub fn get_image(request: &GetImage<'_>, say: &mut dyn FnMut(&str)) -> Result<Captured> {
    let store = ImageStore::new(request.config);
    let exists = store.exists(&request.image)?;
    if exists && !request.replace {
        bail!(
            "there is an image {} already; to replace it by a new revision give --yes, or choose another name",
            request.image
        );
    }
    let staging = Staging::begin(&store, &request.image)?;
    let facts = pull_facts(request)?;
    tell(&facts, say);
    check_plugins(request, &facts)?;
    store.prove()?;
    if let Some(lacking) = store.lacks_room(facts.bytes.0, facts.inodes)? {
        // What is left out is not known to the master client's count.
        if request.exclude.is_empty() {
            bail!("{lacking}");
        }
        say(&format!("warning, unless enough is left out: {lacking}"));
    }
    let old_master = master_text::master_path(request.config, &request.image);
    if old_master.exists() && request.update_master {
        // An edit that would be lost is better noticed now than after the transfer.
        master_text::read_master(request.config, &request.image)
            .map(drop)
            .unwrap_or_else(|error| say(&format!("the master file that is replaced had an error: {error:#}")));
    }

    say(&format!("capturing {} from {} as {}", facts.source, request.master_client, request.image));
    let known = begin(request, &store, &staging)?;
    let (report, missed) = staging.writing(|| transfer(request, &staging, known, say))?;
    let tree = staging.open()?;
    // The new tree takes its place while the network is asked once more: that is for people to know, and changes nothing.
    let (changed, swapped) = std::thread::scope(|scope| {
        let swapping = scope.spawn(move || staging.swap_in());
        (changed_meanwhile(request, &tree, &missed), swapping.join())
    });
    let still_read = match swapped {
        Ok(swapped) => swapped.context("putting the new image in its place")?,
        Err(_) => bail!("a bug: putting the new image in its place panicked"),
    };
    let (changed, unknown) = match changed {
        Ok(changed) => (changed, None),
        Err(error) => (Vec::new(), Some(format!("it is not known what changed during the capture: {error:#}"))),
    };
    for change in changed.iter().take(20) {
        say(&format!("changed while it was captured: {} ({})", change.path, change.detail));
    }
    if changed.len() > 20 {
        say(&format!("… and {} more", changed.len() - 20));
    }
    let path = store.path(&request.image);
    let master = write_master(request, &facts)?;
    finish(request, say);
    let place = Place::Tree { root: path.as_path().into() };
    let advice::Clones { scrubbed, mut notes } = clones(request, &facts, &place);
    notes.extend(unknown);
    let keys = keys::find(request.host, &place, &|path| scrubbed.contains(path));
    Ok(Captured {
        image: request.image.clone(),
        path,
        report,
        changed,
        missed,
        master,
        still_read,
        keys,
        scrubbed,
        notes,
    })
}

/// What becomes of the image on machines, by the master file that is there now.
fn clones(request: &GetImage<'_>, facts: &CaptureFacts, place: &Place) -> advice::Clones {
    let master = master_text::read_master(request.config, &request.image).or_else(|_| master_of(request, facts));
    let Ok(master) = master else { return advice::Clones::default() };
    let making = advice::Making {
        image: request.image.as_str(),
        plugin: &master.identity.plugin,
        mode: master.network.mode,
        scrub: master.identity.scrub.as_deref(),
    };
    let mut clones = advice::clones(request.registry, request.host, place, &making);
    if master.layout.is_empty() {
        // It is not to be installed, only pulled.
        clones.notes.clear();
    }
    clones
}

fn source(request: &GetImage<'_>, export: &str) -> Source {
    Source {
        server: request.master_client.clone(),
        port: request.port,
        export: export.to_owned(),
        secret: Some(Secret(SECRET.to_owned())),
        identity: request.host_key.as_ref().map(|_| pairing::identity()),
        host_key: request.host_key.clone(),
        settings: request.config.settings.of_transport(&request.transport),
        ..Source::default()
    }
}

/// The host that this capture's transport gets.
fn transport_host(request: &GetImage<'_>) -> EngineHost {
    request.host.for_transport(request.registry, &request.transport)
}

fn pull(request: &GetImage<'_>, pull: PullRequest) -> Result<PullReport> {
    let transport = request.registry.transport(&request.transport)?;
    Ok(transport.pull(&transport_host(request), pull)?)
}

fn pull_facts(request: &GetImage<'_>) -> Result<CaptureFacts> {
    let dir = tempfile::tempdir().context("making a directory for the facts")?;
    let root = BytePath::from(dir.path());
    let report = pull(
        request,
        PullRequest { from: source(request, FACTS_EXPORT), into: root.clone(), ..PullRequest::default() },
    )
    .with_context(|| format!("asking {} what it offers (does prepareclient run there?)", request.master_client))?;
    if let Some(failed) = report.failed.first() {
        bail!("{} could not be read on {}: {}", failed.path, request.master_client, failed.why);
    }
    // Through the host: a link in what came leads nowhere else.
    let text = request.host.read(&Place::Tree { root }, &format!("/{FACTS_FILE}").into())?;
    CaptureFacts::parse(&text).with_context(|| format!("reading what {} says of itself", request.master_client))
}

fn tell(facts: &CaptureFacts, say: &mut dyn FnMut(&str)) {
    for taken in &facts.taken {
        say(&format!("captured: {} ({} on {})", taken.at, taken.fstype, taken.device));
    }
    for out in &facts.left_out {
        say(&format!("left out: {} ({}): {}", out.at, out.fstype, out.why));
    }
    for advice in &facts.advice {
        say(&format!("note: {advice}"));
    }
    if facts.layout.is_none() {
        say("note: there is no layout: the image can be pulled, but not installed until its master file has one");
    }
}

/// The plugins that installing this image will need are here: a missing one is named now.
fn check_plugins(request: &GetImage<'_>, facts: &CaptureFacts) -> Result<()> {
    let registry = request.registry;
    if let Some(layout) = &facts.layout {
        for fs in &layout.filesystems {
            describe::file_system(registry, request.host, &fs.kind)
                .with_context(|| format!("the file system {} of {}", fs.node, request.master_client))?;
        }
    }
    if let Some(id) = &facts.partitioner {
        registry.partitioner(id)?;
    }
    if let Some(id) = &facts.bootloader {
        registry.bootloader(id)?;
    }
    master_of(request, facts).map(drop)
}

fn whole(request: &GetImage<'_>, into: &Path) -> PullRequest {
    PullRequest {
        from: source(request, ROOT_EXPORT),
        into: into.into(),
        delete: true,
        exclude: request.exclude.iter().cloned().chain(record::never_captured()).collect(),
        // What is newly left out is not to live on from the old revision.
        delete_excluded: true,
        checksum: request.checksum,
        timeout_secs: if request.checksum { CHECKSUM_TIMEOUT_SECS } else { TIMEOUT_SECS },
        ..PullRequest::default()
    }
}

/// What is known of a new revision before it is pulled.
struct Known {
    /// What a look at the whole tree told.
    look: PullReport,
    /// All that is to be pulled.
    only: Vec<BytePath>,
}

/// Makes the tree that is pulled into. Where that is the old revision without what differs, what is known is returned.
fn begin(request: &GetImage<'_>, store: &ImageStore, staging: &Staging) -> Result<Option<Known>> {
    let transport = request.registry.transport(&request.transport)?;
    let can = transport.capabilities(&transport_host(request), ())?.flat;
    // Who reads the old tree is not to see what is edited in the new one.
    if can && store.exists(&request.image)? && !store.is_read(&request.image)? {
        let old = store.read(&request.image, &format!("capturing image {} anew", request.image))?;
        let look = PullRequest { dry_run: true, ..whole(request, old.path()) };
        let mut look = pull(request, look).with_context(|| format!("looking what differs from {}", request.image))?;
        // What could not be looked at has hidden what is below it.
        if look.failed.is_empty() {
            let differences = Differences::new(std::mem::take(&mut look.changes));
            look.deleted = differences.gone() as u64;
            let only = staging.share(&old, differences)?;
            return Ok(Some(Known { look, only }));
        }
    }
    staging.fill()?;
    Ok(None)
}

/// Pulls; what fails is tried once more. What fails twice fails the capture, unless it is allowed to.
fn transfer(
    request: &GetImage<'_>,
    staging: &Staging,
    known: Option<Known>,
    say: &mut dyn FnMut(&str),
) -> Result<(PullReport, Vec<FailedPath>)> {
    let all = whole(request, staging.path());
    let (mut report, all, look) = match known {
        None => (pull(request, all.clone())?, all, None),
        Some(Known { look, only }) => {
            let flat = PullRequest { only: Some(only), flat: true, ..all.clone() };
            match pull(request, flat.clone()) {
                Ok(report) => (report, flat, Some(look)),
                Err(error) if cannot(&error) => {
                    say(&format!("pulling what differs alone failed, so all is pulled: {error:#}"));
                    staging.fill()?;
                    (pull(request, all.clone())?, all, None)
                }
                Err(error) => return Err(error),
            }
        }
    };
    let mut twice = Vec::new();
    if !report.failed.is_empty() {
        say(&format!("{} files could not be read; trying them once more", report.failed.len()));
        let once: BTreeSet<BytePath> = report.failed.iter().map(|failed| failed.path.clone()).collect();
        // All of it: after a failure to list, nothing was deleted. What is there already does not move.
        let second = pull(request, PullRequest { checksum: false, ..all.clone() })?;
        let (again, new): (Vec<_>, Vec<_>) = second.failed.into_iter().partition(|failed| once.contains(&failed.path));
        twice = again;
        if !new.is_empty() {
            let only = new.into_iter().map(|failed| failed.path).collect();
            let third = pull(request, PullRequest { only: Some(only), ..all })?;
            twice.extend(third.failed);
        }
        report.failed.clear();
        report.received = report.received.saturating_add(second.received);
        report.transferred = report.transferred.saturating_add(second.transferred);
        report.deleted = report.deleted.saturating_add(second.deleted);
    }
    if let Some(look) = look {
        report = PullReport {
            received: look.received.saturating_add(report.received),
            transferred: report.transferred,
            ..look
        };
    }
    let (missed, refused): (Vec<_>, Vec<_>) =
        twice.into_iter().partition(|failed| is_allowed(&failed.path, &request.allow_changing));
    if !refused.is_empty() {
        let list: Vec<String> = refused.iter().map(|failed| format!("  {}: {}", failed.path, failed.why)).collect();
        bail!(
            "these files could not be captured, twice:\n{}\nstop what changes them, leave them out with --exclude, or \
             accept them as they come with --allow-changing PATH; nothing was changed here",
            list.join("\n")
        );
    }
    Ok((report, missed))
}

/// It is the way of pulling that failed, as with a program on the other side that is older, and not the wire or the disk.
fn cannot(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<PluginError>();
    error.is_some_and(|error| matches!(error.kind, ErrorKind::Failed | ErrorKind::Unsupported))
}

/// A path is named by a pattern, or lies below one.
fn is_allowed(path: &BytePath, allowed: &[BytePath]) -> bool {
    let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
    allowed.iter().any(|pattern| {
        let bytes = pattern.as_bytes();
        let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
        let below = path.as_bytes().strip_prefix(bytes).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        below
            || glob::Pattern::new(&String::from_utf8_lossy(bytes))
                .is_ok_and(|pattern| pattern.matches_with(&text, options))
    })
}

/// What is different by now: it changed during the capture, perhaps while it was read.
fn changed_meanwhile(request: &GetImage<'_>, tree: &File, missed: &[FailedPath]) -> Result<Vec<Change>> {
    // By what is open here, since the tree gets another name meanwhile.
    let into = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), tree.as_raw_fd()));
    let again = PullRequest { dry_run: true, checksum: false, ..whole(request, &into) };
    let report = pull(request, again).context("looking what changed meanwhile")?;
    let known = |change: &Change| missed.iter().any(|failed| failed.path == change.path);
    Ok(report.changes.into_iter().filter(|change| !known(change)).collect())
}

fn master_of(request: &GetImage<'_>, facts: &CaptureFacts) -> Result<Master> {
    let first = |kind: &str, ids: Vec<&str>| -> Result<String> {
        let first = ids.first().map(|id| (*id).to_owned());
        first.with_context(|| format!("there is no {kind} plugin to name in the master file; install one"))
    };
    let registry = request.registry;
    let ids = registry.identities().iter().map(|(id, _)| *id).collect();
    let partitioner = match &facts.partitioner {
        Some(id) => id.clone(),
        None => first("partitioner", registry.partitioners().iter().map(|(id, _)| *id).collect())?,
    };
    Ok(Master {
        format: MASTER_FORMAT,
        image: request.image.clone(),
        allow_plain: false,
        allow_keyless: false,
        transports: vec![request.transport.clone()],
        partitioner,
        bootloader: facts.bootloader.clone().unwrap_or_else(|| NO_BOOTLOADER.to_owned()),
        final_action: FinalAction::default(),
        identity: IdentitySettings { plugin: first("host identity", ids)?, sources: Vec::new(), scrub: None },
        network: NetworkMaster::default(),
        overrides: Vec::new(),
        hooks: Vec::new(),
        layout: facts.layout.clone().unwrap_or_default(),
    })
}

fn write_master(request: &GetImage<'_>, facts: &CaptureFacts) -> Result<MasterFile> {
    let path = master_text::master_path(request.config, &request.image);
    let there = path.exists();
    if there && !request.update_master {
        return Ok(MasterFile::Kept(path));
    }
    let mut master = master_of(request, facts)?;
    // No machine tells of these; those that the site named stay.
    if let Some(old) = there.then(|| master_text::read_master(request.config, &request.image).ok()).flatten() {
        (master.overrides, master.hooks) = (old.overrides, old.hooks);
    }
    let backup = master_text::write_master(request.config, &master, request.update_master)
        .with_context(|| format!("the image {} is in place, but its master file was not written", request.image))?;
    Ok(if there { MasterFile::Replaced { path, backup } } else { MasterFile::Written(path) })
}

/// Tells the master client; that it waits longer than it must is no failure of the capture.
fn finish(request: &GetImage<'_>, say: &mut dyn FnMut(&str)) {
    let told = request
        .registry
        .transport(&request.transport)
        .and_then(|transport| transport.finish(&transport_host(request), source(request, FINISH_EXPORT)));
    if let Err(error) = told {
        say(&format!("{} could not be told that the capture is finished: {error}", request.master_client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use crate::capture::facts::FACTS_FORMAT;
    use crate::capture::fakes::{self, FakeFileSystem, FakeIdentity, FakePartitioner, FakeTransport, Script};
    use crate::host::Secrets;
    use systemimager_core::abi::private::Instance;
    use systemimager_core::{ChangeKind, Size};

    fn failing(paths: &[&str]) -> systemimager_core::Result<PullReport> {
        let failed = paths.iter().map(|path| FailedPath { path: (*path).into(), why: "torn".into() }).collect();
        Ok(PullReport { failed, ..PullReport::default() })
    }

    struct Run {
        result: Result<Captured>,
        script: Arc<Mutex<Script>>,
        said: Vec<String>,
        /// What the image holds afterwards; `None`: there is none.
        image: Option<String>,
    }

    /// A capture over an image that holds `old`, or none; answers of the transport are laid down.
    fn run(
        facts: CaptureFacts,
        old: bool,
        pulls: Vec<systemimager_core::Result<PullReport>>,
        ask: fn(&mut GetImage<'_>),
    ) -> Option<Run> {
        run_with(false, facts, old, pulls, ask)
    }

    /// The same, with a transport that can pull flat, or not.
    fn run_with(
        flat: bool,
        facts: CaptureFacts,
        old: bool,
        pulls: Vec<systemimager_core::Result<PullReport>>,
        ask: fn(&mut GetImage<'_>),
    ) -> Option<Run> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: a capture into a store: needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let script = Arc::new(Mutex::new(Script { pulls: VecDeque::from(pulls), flat, ..Script::default() }));
        let mut registry = Registry::default();
        let transport = FakeTransport { facts, script: Arc::clone(&script) };
        fakes::add(&mut registry, "carrier", Instance::Transport(Box::new(transport)));
        fakes::add(&mut registry, "extents", Instance::FileSystem(Box::new(FakeFileSystem(&["ext4"]))));
        fakes::add(&mut registry, "tables", Instance::Partitioner(Box::new(FakePartitioner("ata"))));
        fakes::add(&mut registry, "names", Instance::HostIdentity(Box::new(FakeIdentity)));
        let host = EngineHost::new(Secrets::default());
        let image = config.images().join("web");
        if old {
            std::fs::create_dir_all(&image).unwrap();
            std::fs::write(image.join("file"), "old").unwrap();
        }
        let mut request = GetImage {
            config: &config,
            registry: &registry,
            host: &host,
            host_key: None,
            transport: "carrier".into(),
            master_client: "client".into(),
            port: None,
            image: ImageName::try_from("web").unwrap(),
            replace: true,
            exclude: Vec::new(),
            allow_changing: Vec::new(),
            checksum: false,
            update_master: false,
        };
        ask(&mut request);
        let mut said = Vec::new();
        let result = get_image(&request, &mut |line| said.push(line.to_owned()));
        let staged = std::fs::read_dir(config.images().join(".staging")).into_iter().flatten().count();
        assert_eq!(staged, 0, "nothing is left over");
        Some(Run { result, script, said, image: std::fs::read_to_string(image.join("file")).ok() })
    }

    fn facts() -> CaptureFacts {
        CaptureFacts { format: FACTS_FORMAT, source: "/".into(), ..CaptureFacts::default() }
    }

    #[test]
    fn what_fails_once_is_tried_again() {
        let Some(run) = run(facts(), true, vec![failing(&["/a", "/b"]), failing(&["/c"]), failing(&[])], |_| {}) else {
            return;
        };
        let captured = run.result.unwrap();
        assert_eq!((captured.missed, run.image.as_deref()), (vec![], Some("new")));
        let script = run.script.lock().unwrap();
        // All of it twice, then only what was new among the failures, then a look at what changed.
        let shapes: Vec<_> = script.asked.iter().map(|asked| (asked.only.clone(), asked.dry_run)).collect();
        assert_eq!(shapes, [(None, false), (None, false), (Some(vec!["/c".into()]), false), (None, true)]);
        assert!(script.asked.iter().all(|asked| asked.delete && asked.delete_excluded));
        assert!(script.finished);
    }

    #[test]
    fn what_fails_twice_fails_the_capture() {
        let rows: [(&str, Vec<_>, &str); 3] = [
            ("again", vec![failing(&["/a", "/b"]), failing(&["/b"])], "twice:\n  /b: torn\n"),
            ("new, and again", vec![failing(&["/a"]), failing(&["/c"]), failing(&["/c"])], "twice:\n  /c: torn\n"),
            (
                "no connection",
                vec![Err(PluginError::new(ErrorKind::Unreachable, "client went away"))],
                "client went away",
            ),
        ];
        for (name, pulls, says) in rows {
            let Some(run) = run(facts(), true, pulls, |_| {}) else { return };
            let error = format!("{:#}", run.result.unwrap_err());
            assert!(error.contains(says), "{name}: {error}");
            assert_eq!(run.image.as_deref(), Some("old"), "{name}: the image is as it was");
            assert!(!run.script.lock().unwrap().finished, "{name}: the master client still waits");
        }
    }

    #[test]
    fn what_differs_is_looked_for_first_where_the_transport_can() {
        let changes = vec![Change { path: "/file".into(), kind: ChangeKind::Content, ..Change::default() }];
        let look = PullReport { files: 7, received: 5, changes, ..PullReport::default() };
        let pulled = PullReport { files: 1, received: 2, transferred: 1, ..PullReport::default() };
        let only = || Some(vec!["/file".into()]);
        type Row =
            (&'static str, bool, bool, Vec<systemimager_core::Result<PullReport>>, Vec<(bool, Option<Vec<BytePath>>)>);
        let fails = |kind| Err(PluginError::new(kind, "no"));
        let after = vec![(true, None), (false, only()), (false, None), (true, None)];
        let rows: [Row; 5] = [
            (
                "it can",
                true,
                true,
                vec![Ok(look.clone()), Ok(pulled)],
                vec![(true, None), (false, only()), (true, None)],
            ),
            ("it cannot", false, true, vec![], vec![(false, None), (true, None)]),
            ("no old revision", true, false, vec![], vec![(false, None), (true, None)]),
            ("it cannot after all", true, true, vec![Ok(look.clone()), fails(ErrorKind::Failed)], after),
            ("not all was seen", true, true, vec![failing(&["/x"])], vec![(true, None), (false, None), (true, None)]),
        ];
        for (name, flat, old, pulls, expected) in rows {
            let Some(run) = run_with(flat, facts(), old, pulls, |_| {}) else { return };
            let captured = run.result.unwrap();
            let script = run.script.lock().unwrap();
            let shapes: Vec<_> = script.asked.iter().map(|asked| (asked.dry_run, asked.only.clone())).collect();
            assert_eq!(shapes, expected, "{name}");
            assert!(script.asked.iter().all(|asked| asked.flat == asked.only.is_some()), "{name}");
            assert_eq!(run.image.as_deref(), Some("new"), "{name}");
            if name == "it can" {
                assert_eq!((captured.report.files, captured.report.received, captured.report.transferred), (7, 7, 1));
            }
        }
    }

    #[test]
    fn what_may_change_is_accepted_and_told() {
        let changed = PullReport {
            changes: vec![
                Change { path: "/var/log/x".into(), kind: ChangeKind::Content, ..Change::default() },
                Change {
                    path: "/var/lib/y".into(),
                    kind: ChangeKind::Content,
                    detail: ">f.st".into(),
                    ..Change::default()
                },
            ],
            ..PullReport::default()
        };
        let pulls = vec![failing(&["/var/log/x"]), failing(&["/var/log/x"]), Ok(changed)];
        let ask: fn(&mut GetImage<'_>) = |request| request.allow_changing = vec!["/var/log".into()];
        let Some(run) = run(facts(), false, pulls, ask) else { return };
        let captured = run.result.unwrap();
        assert_eq!(captured.missed[0].path, "/var/log/x".into());
        assert_eq!(captured.changed.len(), 1, "what is known to be missed is not told twice");
        assert!(
            run.said.iter().any(|line| line == "changed while it was captured: /var/lib/y (>f.st)"),
            "{:?}",
            run.said
        );
        assert_eq!(run.image.as_deref(), Some("new"));
    }

    #[test]
    fn nothing_is_pulled_when_it_cannot_end_well() {
        let layout = |kind: &str| -> CaptureFacts {
            let layout = serde_json::json!({
                "disk": [{"node": "disk0", "label": "none", "size": "1 GiB"}],
                "filesystem": [{"node": "root", "on": "disk0", "type": kind}],
                "mount": [{"node": "root", "at": "/"}],
            });
            CaptureFacts { layout: Some(serde_json::from_value(layout).unwrap()), ..facts() }
        };
        let plain: fn(&mut GetImage<'_>) = |_| {};
        type Row = (&'static str, CaptureFacts, fn(&mut GetImage<'_>), &'static str);
        let rows: [Row; 7] = [
            ("file system", layout("xfs"), plain, "no file system plugin serves xfs"),
            ("partitioner", CaptureFacts { partitioner: Some("fdisk".into()), ..layout("ext4") }, plain, "fdisk"),
            ("boot loader", CaptureFacts { bootloader: Some("lilo".into()), ..facts() }, plain, "bootloader"),
            ("room", CaptureFacts { bytes: Size(1 << 60), ..facts() }, plain, "the capture needs"),
            ("inodes", CaptureFacts { inodes: 1 << 50, ..facts() }, plain, "inodes beside the images"),
            ("other version", CaptureFacts { format: 9, ..facts() }, plain, "install the same version"),
            ("not asked to replace", facts(), |request| request.replace = false, "give --yes"),
        ];
        for (name, facts, ask, says) in rows {
            let Some(run) = run(facts, true, Vec::new(), ask) else { return };
            let error = format!("{:#}", run.result.unwrap_err());
            assert!(error.contains(says), "{name}: {error}");
            assert!(run.script.lock().unwrap().asked.is_empty(), "{name}: files were pulled");
            assert_eq!(run.image.as_deref(), Some("old"), "{name}");
        }
    }

    #[test]
    fn what_may_change() {
        let allowed: Vec<BytePath> = ["/var/log/", "/var/lib/*/journal", "/run.pid"].map(BytePath::from).to_vec();
        for (path, expected) in [
            ("/var/log", true),
            ("/var/log/a/b", true),
            ("/var/logs", false),
            ("/var/lib/x/journal", true),
            ("/var/lib/x/y/journal", false),
            ("/run.pid", true),
            ("/etc/passwd", false),
        ] {
            assert_eq!(is_allowed(&path.into(), &allowed), expected, "{path}");
        }
        assert!(!is_allowed(&"/x".into(), &[]));
    }
}
