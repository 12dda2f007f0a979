//! `logs`: what a machine reported, line by line with times.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use systemimager_core::HostName;
use systemimager_engine::serve::logs;
use systemimager_engine::serve::machines::read_all;
use systemimager_engine::store::macs::Mac;
use systemimager_engine::sys::dirwatch::DirWatch;

use crate::context::Context;

/// Show what a machine reported while it was installed
///
/// Each line has its time (UTC). The machine's last boot, and the part before it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager logs www3\n  systemimager logs 52:54:00:12:34:56 --follow")]
pub struct LogsCommand {
    /// The machine, by name, or by MAC address until it has one
    #[arg(value_name = "HOST")]
    host: String,
    /// Go on with what comes, until interrupted
    #[arg(short, long)]
    follow: bool,
}

impl LogsCommand {
    /// Prints.
    pub fn run(self, context: &Context) -> Result<()> {
        let mac = self.mac(context)?;
        let files = logs::files(&context.config, &mac);
        if files.is_empty() && !self.follow {
            bail!("{} has reported nothing yet; what did is shown by: systemimager status", self.host);
        }
        // Before reading: what is written meanwhile then wakes.
        let watch = DirWatch::new([logs::dir(&context.config).as_path()])?;
        let mut at = 0;
        for file in &files {
            at = pass_on(context, file, 0)?;
        }
        let newest = logs::dir(&context.config).join(format!("{mac}.log"));
        if !self.follow {
            return Ok(());
        }
        loop {
            watch.wait(None)?;
            let length = newest.metadata().map_or(0, |metadata| metadata.len());
            if length < at {
                // Begun anew.
                at = 0;
            }
            if length > at {
                at = pass_on(context, &newest, at)?;
            }
        }
    }

    fn mac(&self, context: &Context) -> Result<String> {
        if let Ok(mac) = self.host.parse::<Mac>() {
            return Ok(mac.to_string());
        }
        let host: HostName = self.host.parse()?;
        let machines = read_all(&context.config)?;
        // The last that was heard: a machine may have been replaced.
        let found = machines
            .iter()
            .filter(|machine| machine.host.as_ref().is_some_and(|it| *it == host || it.short() == host.as_str()))
            .max_by_key(|machine| machine.heard);
        match found {
            Some(machine) => Ok(machine.mac.clone()),
            None => bail!("{host} has not been heard of; what has is shown by: systemimager status"),
        }
    }
}

/// Prints a file from a place on; returns where it ended.
fn pass_on(context: &Context, file: &Path, from: u64) -> Result<u64> {
    let reading = || format!("reading {}", file.display());
    let mut log = File::open(file).with_context(reading)?;
    log.seek(SeekFrom::Start(from)).with_context(reading)?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes).with_context(reading)?;
    if context.json {
        for line in String::from_utf8_lossy(&bytes).lines() {
            let (time, text) = line.split_once(' ').unwrap_or((line, ""));
            context.answer(&serde_json::json!({ "time": time, "line": text }))?;
        }
    } else if std::io::stdout().write_all(&bytes).is_err() {
        // The reader went away: nobody is left to follow for.
        std::process::exit(0);
    }
    Ok(from + bytes.len() as u64)
}
