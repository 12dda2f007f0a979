//! `updateclient --autoinstall`: this machine installs itself anew at its next start.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{BootEntry, HostName, ImageName};
use systemimager_engine::boot::from_disk::{BootFileFacts, FromDisk};
use systemimager_engine::host::Secrets;
use systemimager_engine::remote::Server;
use systemimager_engine::sys::power;
use systemimager_engine::update::autoinstall;

use crate::context::Context;

/// Largest kernel or initrd that is fetched, bytes.
const LARGEST: u64 = 1 << 30;

/// What was asked.
pub struct AutoInstall<'a> {
    /// The image server, as it was named.
    pub host: &'a str,
    /// Its HTTP port.
    pub port: u16,
    /// The same, to be asked.
    pub server: &'a Server,
    /// The boot loader plugin.
    pub bootloader: Option<&'a str>,
    /// Start it with kexec, without any loader.
    pub kexec: bool,
    /// At each start from now on.
    pub persistent: bool,
    /// Restart at once.
    pub reboot: bool,
    /// Do not ask.
    pub yes: bool,
    /// Change nothing.
    pub dry_run: bool,
}

/// The answer in JSON.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    host: &'a Option<HostName>,
    image: &'a Option<ImageName>,
    entry: &'a BootEntry,
    started_by: &'a str,
    persistent: bool,
    dry_run: bool,
}

impl AutoInstall<'_> {
    /// Prepares it, and restarts if that was asked.
    pub fn run(&self, context: &Context) -> Result<()> {
        let registry = context.registry()?;
        let host = context.host(Secrets::default());
        let told: FromDisk = self.server.json("/v1/from-disk")?;
        autoinstall::ordered(&told)?;
        if self.kexec {
            autoinstall::can_load()?;
        }
        let loader = (!self.kexec).then(|| autoinstall::loader(registry, &host, self.bootloader)).transpose()?;
        let mac = autoinstall::mac_towards(&host, self.host, self.port);
        let directory = if self.kexec { autoinstall::FOR_KEXEC } else { autoinstall::DIRECTORY };
        let entry = autoinstall::entry(&told, directory, mac.as_deref(), self.persistent);
        // Before anything is fetched: a loader that cannot start it once is told now.
        let steps = match &loader {
            Some(id) => autoinstall::plan(registry, &host, id, entry.clone(), self.persistent)?,
            None => Vec::new(),
        };
        self.confirm(context, &told)?;
        context.answer(&Answer {
            host: &told.host,
            image: &told.image,
            entry: &entry,
            started_by: loader.as_deref().unwrap_or("kexec"),
            persistent: self.persistent,
            dry_run: self.dry_run,
        })?;
        if self.dry_run {
            for step in &steps {
                context.say(format_args!("would {}", step.what));
            }
            return Ok(());
        }
        let files = self.fetch(&told)?;
        autoinstall::lay(Path::new("/"), directory, &files)?;
        match loader {
            Some(_) => autoinstall::carry_out(&steps, &mut super::telling(context))?,
            None => autoinstall::load(Path::new("/"), &entry)?,
        }
        self.end(context, &told)
    }

    fn fetch(&self, told: &FromDisk) -> Result<Vec<(String, Vec<u8>)>> {
        let one = |file: &BootFileFacts| {
            if file.name.contains('/') || file.name.starts_with('.') || file.bytes > LARGEST {
                bail!("the image server names the boot file {:?} of {} bytes, which is none", file.name, file.bytes);
            }
            let bytes = self.server.get(&format!("/{}", file.name), file.bytes)?;
            if !file.is(&bytes) {
                bail!(
                    "{} came otherwise than the image server said (somebody makes it anew just now?); start this once more",
                    file.name
                );
            }
            Ok((file.name.clone(), bytes))
        };
        told.files.iter().map(one).collect()
    }

    /// All that is on the machine's disks goes, so one is asked.
    fn confirm(&self, context: &Context, told: &FromDisk) -> Result<()> {
        if self.yes || self.dry_run {
            return Ok(());
        }
        let name = told.host.as_ref().map(ToString::to_string).unwrap_or_default();
        let image = told.image.as_ref().map_or_else(|| "its image".to_owned(), |image| format!("the image {image}"));
        let question =
            format!("{name} will be installed anew with {image}: all that is on its disks goes; go on (yes/no)");
        if !context.ask(&question, None, "--yes")?.eq_ignore_ascii_case("yes") {
            bail!("nothing was changed");
        }
        Ok(())
    }

    fn end(&self, context: &Context, told: &FromDisk) -> Result<()> {
        let name = told.host.as_ref().map(ToString::to_string).unwrap_or_default();
        let when = if self.persistent { "at each start, until it is installed," } else { "at its next start" };
        context.say(format_args!("{name} installs itself anew {when}"));
        if !self.reboot {
            return Ok(());
        }
        context.say("restarting");
        let restarted = if self.kexec { power::restart_by_kexec() } else { power::restart() };
        restarted.context("the machine could not be restarted; do that by hand")
    }
}
