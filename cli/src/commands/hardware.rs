//! `hardware`: what machines are made of, as their agents posted it.

use anyhow::{Context as _, Result, bail};
use systemimager_core::{Hardware, HostName, Size};
use systemimager_engine::serve::machines::hardware_dir;
use systemimager_engine::store::json_files;
use systemimager_engine::store::macs::Mac;

use crate::context::Context;

/// Show what a machine is made of
///
/// A machine posts it when it boots the miniature system. The answer is a file that `plan --hardware` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager hardware\n  systemimager hardware www1 > www1.json")]
pub struct HardwareCommand {
    /// The machine, by name, or by MAC address until it has one; without it, all are listed
    #[arg(value_name = "HOST")]
    host: Option<String>,
}

impl HardwareCommand {
    /// Prints one machine's hardware, or the list.
    pub fn run(self, context: &Context) -> Result<()> {
        let dir = hardware_dir(&context.config);
        let Some(host) = self.host else { return list(context) };
        // One of two types that cannot lead out of the directory.
        let name = match host.parse::<Mac>() {
            Ok(mac) => mac.to_string(),
            Err(_) => host.parse::<HostName>()?.to_string(),
        };
        let file = dir.join(format!("{name}.json"));
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "{name} has not posted its hardware; it does when it boots the miniature system. There are: {}",
                names(context)?.join(", ")
            ),
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        // Checked, then printed as it is: it is JSON already, with or without --json.
        let hardware: Hardware =
            serde_json::from_str(&text).with_context(|| format!("{} is not a machine's hardware", file.display()))?;
        if context.json {
            return context.answer(&hardware);
        }
        context.say(text.trim_end());
        Ok(())
    }
}

fn names(context: &Context) -> Result<Vec<String>> {
    let stem = |file: std::path::PathBuf| file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    Ok(json_files(&hardware_dir(&context.config))?.into_iter().filter_map(stem).collect())
}

fn list(context: &Context) -> Result<()> {
    let mut all = std::collections::BTreeMap::new();
    for file in json_files(&hardware_dir(&context.config))? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let hardware: Hardware =
            serde_json::from_str(&text).with_context(|| format!("{} is not a machine's hardware", file.display()))?;
        let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        all.insert(name, hardware);
    }
    context.answer(&all)?;
    if all.is_empty() {
        context.say("no machine has posted its hardware yet");
    }
    for (name, hardware) in &all {
        context.say(format_args!("{name}: {}", summary(hardware)));
    }
    Ok(())
}

/// `x86_64 bios, 2048 MiB, sda 8 GiB ata, 52:54:00:12:34:56`.
fn summary(hardware: &Hardware) -> String {
    let mut parts =
        vec![format!("{} {}", hardware.arch, hardware.firmware), Size(hardware.memory.0 >> 20 << 20).to_string()];
    parts.extend(hardware.disks.iter().map(|disk| format!("{} {} {}", disk.name, disk.size, disk.bus)));
    parts.extend(hardware.interfaces.iter().map(|interface| interface.mac.clone()));
    parts.join(", ")
}
