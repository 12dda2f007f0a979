//! `updateclient`: this machine, or another tree, is brought to its image, to another revision of it, or back.

mod autoinstall;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{BytePath, HostName, ImageFacts, ImageName, OverrideName, PullReport, Source};
use systemimager_engine::install::SiteKeys;
use systemimager_engine::install::record::{self, Record};
use systemimager_engine::overrides;
use systemimager_engine::pins::Pins;
use systemimager_engine::remote::{NotThere, Server};
use systemimager_engine::store::master::Master;
use systemimager_engine::store::master_text;
use systemimager_engine::store::overrides::with_own;
use systemimager_engine::sys::power;
use systemimager_engine::sys::signals::cancel_on_signals;
use systemimager_engine::tree::Inside;
use systemimager_engine::update::difference::{Count, Difference, count};
use systemimager_engine::update::{self, Asked, Done, Machine, Prepared};

use crate::context::{self, Context};
use autoinstall::AutoInstall;

/// How long a server that does not answer is tried.
const PATIENCE: Duration = Duration::from_secs(60);
/// Differences that are shown before one is asked.
const SHOWN: usize = 20;

/// Bring this machine to its image, a newer revision of it, or back to an older one
///
/// Only differences move. What is the machine's own stays: its name, addresses and keys, file systems that the image
/// does not hold, and what the lists of image (/etc/systemimager/update.exclude) and machine
/// (/etc/systemimager/update.local.exclude) name. Everything else becomes as in the image, and what the image does not
/// have is removed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  updateclient --server 10.0.0.1 --image web-v2 --dry-run\n  \
    updateclient --image web-v2 --yes --reboot\n  updateclient\n  updateclient --autoinstall --reboot\n\n\
    All that is new is laid ready beside what is there, and moved into place when all of it has come: an update that is \
    interrupted leaves the machine as it was, or goes on when the same command is started again. A machine that was \
    installed or updated before knows its server and image. On one that was not, one is asked (--yes answers).")]
pub struct UpdateClient {
    /// The image server; without it the one of the last install or update
    #[arg(long, value_name = "HOST")]
    server: Option<String>,
    /// The image; without it the one of the last install or update
    #[arg(long, value_name = "NAME")]
    image: Option<ImageName>,
    /// Change nothing; say what would change
    #[arg(long)]
    dry_run: bool,
    /// Leave this alone too (a path, or a pattern with * and ?); may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<std::ffi::OsString>,
    /// Leave the boot loader alone, even if the kernel changes
    #[arg(long)]
    no_bootloader: bool,
    /// Restart the machine when it is updated
    #[arg(long, conflicts_with = "target")]
    reboot: bool,
    /// Update this tree instead of the running system
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
    /// Compare contents, not only size and time
    #[arg(long)]
    checksum: bool,
    /// Replace files one by one as they come, where there is no room for old and new: not safe against power cuts
    #[arg(long)]
    in_place: bool,
    /// The transport plugin; without it the one of the image's master file
    #[arg(long, value_name = "ID")]
    transport: Option<String>,
    /// The server's port for it
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// The server's port for everything else
    #[arg(long, value_name = "N", default_value_t = 8069)]
    http_port: u16,
    /// Do not update: install this machine anew at its next start, with what it is ordered to be installed with
    #[arg(long, conflicts_with_all = ["image", "exclude", "no_bootloader", "target", "checksum", "in_place", "transport", "port"])]
    autoinstall: bool,
    /// With --autoinstall: at each start until it is installed, not only at the next
    #[arg(long, requires = "autoinstall", conflicts_with = "kexec")]
    persistent: bool,
    /// With --autoinstall: start the miniature system with kexec, without the boot loader
    #[arg(long, requires = "autoinstall", conflicts_with = "bootloader")]
    kexec: bool,
    /// With --autoinstall: the plugin of this machine's boot loader
    #[arg(long, value_name = "ID", requires = "autoinstall")]
    bootloader: Option<String>,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

/// The answer in JSON.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    image: &'a ImageName,
    dry_run: bool,
    count: Count,
    differences: &'a [Difference],
    left_alone: &'a [BytePath],
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<&'a Done>,
}

impl<'a> Answer<'a> {
    /// Of a dry run where nothing was done.
    fn new(image: &'a ImageName, prepared: &'a Prepared, done: Option<&'a Done>) -> Self {
        Self {
            image,
            dry_run: done.is_none(),
            count: count(&prepared.differences),
            differences: &prepared.differences,
            left_alone: &prepared.local.patterns,
            notes: &prepared.local.notes,
            done,
        }
    }
}

/// What the server says of the image.
struct Wanted {
    image: ImageName,
    server: Server,
    host: String,
    facts: ImageFacts,
    master: Master,
}

impl UpdateClient {
    /// Updates.
    pub fn run(self, context: &Context) -> Result<()> {
        let target = self.tree()?;
        if !rustix::process::geteuid().is_root() {
            bail!("updateclient changes files of all users; run it as root");
        }
        let inside = Inside::open(&target)?;
        let known = record::read(&inside)?;
        let keys = record::keys(&inside)?.map(|(key, pins)| SiteKeys::new(&key, pins)).transpose()?;
        let (keys, secrets) = keys.unzip();
        let secrets = secrets.unwrap_or_default();
        let pins = keys.as_ref().map(|keys| &keys.pins);
        if self.autoinstall {
            return self.install_anew(context, known.as_ref(), pins);
        }
        let wanted = self.wanted(known.as_ref(), pins)?;
        let keys = keys.map(|keys| keys.told_by(&wanted.server)).transpose()?;
        let registry = context.registry()?;
        let host = context.host(secrets);
        cancel_on_signals(host.cancel_flag()).context("preparing for signals")?;
        let tree = wanted.facts.tree.clone();
        let same_image = || same_image(&wanted.server, &wanted.image, &tree);
        let transport = self.transport_of(&wanted.master)?;
        let machine = Machine {
            registry,
            host: &host,
            source: SiteKeys::of(
                keys.as_ref(),
                Source {
                    server: wanted.host.clone(),
                    port: self.port,
                    export: wanted.image.to_string(),
                    settings: context.config.settings.of_transport(&transport),
                    ..Source::default()
                },
            ),
            transport,
            bulk: self.bulk_of(&wanted.master),
            target: target.clone(),
            facts: &wanted.facts,
            master: &wanted.master,
            overrides: with_own(&wanted.master.overrides, self.own_override(&wanted.server)?),
            asked: Asked {
                exclude: self.exclude.iter().map(|word| BytePath::from(word.as_os_str())).collect(),
                checksum: self.checksum,
                no_bootloader: self.no_bootloader,
                in_place: self.in_place,
            },
            same_image: Some(&same_image),
        };
        let locked = if self.dry_run { None } else { Some(update::lock(&target)?) };
        let (prepared, compared) = update::prepare(&machine, !self.dry_run)?;
        if self.dry_run {
            return self.show(context, &wanted.image, &prepared, &compared);
        }
        if prepared.nothing() {
            update::end(&machine, &prepared)?;
            remember(&inside, &wanted)?;
            self.tell(context, &wanted.image, &prepared, &Done { received: compared.received, ..Done::default() })?;
            drop(locked);
            return self.restart(context, prepared.resumed);
        }
        self.confirm(context, known.is_some(), &wanted.image, &prepared)?;
        let mut done = update::carry_out(&machine, &prepared, &mut telling(context))?;
        done.received += compared.received;
        remember(&inside, &wanted)?;
        self.tell(context, &wanted.image, &prepared, &done)?;
        drop(locked);
        self.restart(context, true)
    }

    /// The tree, without links on the way.
    fn tree(&self) -> Result<PathBuf> {
        let Some(target) = &self.target else { return Ok("/".into()) };
        let tree =
            std::fs::canonicalize(target).with_context(|| format!("looking at --target {}", target.display()))?;
        if !tree.is_dir() {
            bail!("--target {} is no directory", tree.display());
        }
        if std::fs::read_dir(&tree).with_context(|| format!("reading --target {}", tree.display()))?.next().is_none() {
            bail!(
                "--target {} is empty; to copy an image into an empty directory use: systemimager pull",
                tree.display()
            );
        }
        Ok(tree)
    }

    fn install_anew(&self, context: &Context, known: Option<&Record>, pins: Option<&Pins>) -> Result<()> {
        let host = self.server.clone().or_else(|| known.and_then(|it| it.server.clone()));
        let host =
            host.context("this machine was neither installed nor updated from an image yet; name its --server")?;
        AutoInstall {
            host: &host,
            port: self.http_port,
            server: &asked(&host, self.http_port, pins),
            bootloader: self.bootloader.as_deref(),
            kexec: self.kexec,
            persistent: self.persistent,
            reboot: self.reboot,
            yes: self.yes,
            dry_run: self.dry_run,
        }
        .run(context)
    }

    fn wanted(&self, known: Option<&Record>, pins: Option<&Pins>) -> Result<Wanted> {
        let host = self.server.clone().or_else(|| known.and_then(|it| it.server.clone()));
        let image = self.image.clone().or_else(|| known.map(|it| it.image.clone()));
        let (Some(host), Some(image)) = (host, image) else {
            bail!(
                "{} was neither installed nor updated from an image yet; name both --server and --image",
                self.target.as_ref().map_or_else(|| "this machine".to_owned(), |dir| dir.display().to_string())
            );
        };
        let server = asked(&host, self.http_port, pins);
        let facts: ImageFacts = server.json(&format!("/v1/images/{image}/facts"))?;
        let (from, text) = self.master_of(&server, &image)?;
        let master = master_text::parse(Path::new(&from), &text)?;
        tracing::info!("the image {image} as {} says, from {}", from, server.base());
        Ok(Wanted { image, server, host, facts, master })
    }

    /// The machine's own master, where it has one for this image; else the image's.
    fn master_of(&self, server: &Server, image: &ImageName) -> Result<(String, String)> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        if self.target.is_none()
            && let Ok(host) = name.trim().parse::<HostName>()
        {
            match server.text(&format!("/v1/hosts/{host}/master")) {
                Ok(text) => {
                    let from = format!("{host}.sh");
                    if master_text::parse(Path::new(&from), &text)?.image == *image {
                        return Ok((from, text));
                    }
                }
                Err(error) if error.is::<NotThere>() => {}
                Err(error) => return Err(error),
            }
        }
        Ok((format!("{image}.master"), server.text(&format!("/v1/images/{image}/master"))?))
    }

    /// This machine's own override, where it has one; another tree is no machine.
    fn own_override(&self, server: &Server) -> Result<Option<OverrideName>> {
        if self.target.is_some() { Ok(None) } else { overrides::own(server, "/v1/overrides") }
    }

    fn transport_of(&self, master: &Master) -> Result<String> {
        match (&self.transport, master.transports.last()) {
            (Some(named), _) => Ok(named.clone()),
            // The last of a chain leaves the tree exactly as the image.
            (None, Some(last)) => Ok(last.clone()),
            (None, None) => bail!("the master file of {} names no transport; name one with --transport", master.image),
        }
    }

    /// The transports before it in the chain, unless one was named.
    fn bulk_of(&self, master: &Master) -> Vec<String> {
        match (&self.transport, master.transports.split_last()) {
            (None, Some((_, before))) => before.to_vec(),
            _ => Vec::new(),
        }
    }

    fn show(&self, context: &Context, image: &ImageName, prepared: &Prepared, compared: &PullReport) -> Result<()> {
        context.answer(&Answer::new(image, prepared, None))?;
        for note in &prepared.local.notes {
            context.say(note);
        }
        for difference in &prepared.differences {
            context.say(difference.shown());
        }
        context.say(summary(image, &prepared.differences, "would be "));
        tracing::info!("{} bytes came over the wire", compared.received);
        Ok(())
    }

    /// A machine that never was ours is not made another one by a slip.
    fn confirm(&self, context: &Context, known: bool, image: &ImageName, prepared: &Prepared) -> Result<()> {
        for note in &prepared.local.notes {
            context.say(note);
        }
        if self.yes || known {
            return Ok(());
        }
        if context.interactive() {
            for difference in prepared.differences.iter().take(SHOWN) {
                context::note(difference.shown());
            }
            if prepared.differences.len() > SHOWN {
                context::note(format_args!("… and {} more (--dry-run shows all)", prepared.differences.len() - SHOWN));
            }
        }
        let question = format!(
            "this machine was never installed or updated from an image: {}; go on (yes/no)",
            summary(image, &prepared.differences, "will be ")
        );
        if !context.ask(&question, None, "--yes")?.eq_ignore_ascii_case("yes") {
            bail!("nothing was changed");
        }
        Ok(())
    }

    fn tell(&self, context: &Context, image: &ImageName, prepared: &Prepared, done: &Done) -> Result<()> {
        context.answer(&Answer::new(image, prepared, Some(done)))?;
        for path in &done.kept {
            context.say(format_args!(
                "{path} stays, though the image does not have it: something of this machine's is in it"
            ));
        }
        context.say(summary(image, &prepared.differences, ""));
        if done.boot_loader {
            context.say("the boot loader knows of it; restart the machine to use the new kernel");
        }
        Ok(())
    }

    fn restart(&self, context: &Context, changed: bool) -> Result<()> {
        if !self.reboot {
            return Ok(());
        }
        if !changed {
            context.say("nothing changed, so the machine is not restarted");
            return Ok(());
        }
        context.say("restarting");
        power::restart().context("the update is done, but the machine could not be restarted; do that by hand")
    }
}

/// Says what is begun and what programs print, where a person reads along.
fn telling(context: &Context) -> impl FnMut(String) {
    move |line| {
        if !context.json {
            context::note(&line);
        }
    }
}

/// The image server; a machine that was installed with its keys takes no other.
pub(super) fn asked(host: &str, port: u16, pins: Option<&Pins>) -> Server {
    Server::new(host, port)
        .signed_by(pins)
        .patient_for(PATIENCE)
        .telling(|line| context::note(line), "--server and --http-port")
}

fn remember(inside: &Inside, wanted: &Wanted) -> Result<()> {
    let record =
        Record { image: wanted.image.clone(), server: Some(wanted.host.clone()), tree: wanted.facts.tree.clone() };
    record::write(inside, &record).context("the update is done, but could not be noted down")
}

fn same_image(server: &Server, image: &ImageName, tree: &str) -> Result<()> {
    let now = server.text(&format!("/v1/images/{image}/tree"))?;
    if !tree.is_empty() && now.trim() != tree {
        bail!("the image {image} was captured anew meanwhile; nothing was changed yet, start the update once more");
    }
    Ok(())
}

fn summary(image: &ImageName, differences: &[Difference], would: &str) -> String {
    let Count { new, changed, removed, boot } = count(differences);
    if new + changed + removed == 0 {
        return format!("as in the image {image}");
    }
    let boot = if boot > 0 { format!("; {boot} of them boot the machine") } else { String::new() };
    format!("to the image {image}: {new} {would}new, {changed} {would}changed, {removed} {would}removed{boot}")
}
