//! `plugin list` and `plugin check FILE`: what is there, and whether a file keeps the contract.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use systemimager_core::registry::Origin;

use crate::context::Context;

/// List and check plugins
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  systemimager plugin list\n  systemimager plugin check ./target/release/libmy_plugin.so"
)]
pub struct PluginCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the plugins that are there, and the files that are refused, with why
    List,
    /// Load a plugin file and try every method that only reads or plans
    Check {
        /// The plugin's shared object
        file: PathBuf,
    },
}

/// A line of the list.
#[derive(Debug, Serialize)]
struct Line {
    kind: String,
    id: String,
    version: String,
    contract: String,
    about: String,
    file: Option<PathBuf>,
}

impl PluginCommand {
    /// Lists or checks.
    pub fn run(self, context: &Context) -> Result<()> {
        match self.what {
            What::List => list(context),
            What::Check { file } => check(context, &file),
        }
    }
}

fn list(context: &Context) -> Result<()> {
    // Refused files are warned about while loading.
    let lines: Vec<Line> = context
        .registry()?
        .all()
        .into_iter()
        .map(|plugin| Line {
            kind: plugin.identification.kind.to_string(),
            id: plugin.identification.id.clone(),
            version: plugin.identification.version.clone(),
            contract: plugin.identification.contract.clone(),
            about: plugin.identification.about.clone(),
            file: match &plugin.origin {
                Origin::File(path) => Some(path.clone()),
                Origin::Linked => None,
            },
        })
        .collect();
    context.answer(&lines)?;
    let width = lines.iter().map(|line| line.id.len()).max().unwrap_or(0);
    for line in &lines {
        let from = line.file.as_ref().map_or_else(|| "linked in".to_owned(), |file| file.display().to_string());
        context.say(format_args!("{:13}  {:width$}  {}  {} ({from})", line.kind, line.id, line.version, line.about));
    }
    if lines.is_empty() {
        context.say("no plugins");
    }
    Ok(())
}

#[cfg(feature = "loader")]
fn check(context: &Context, file: &std::path::Path) -> Result<()> {
    use anyhow::bail;
    use systemimager_core::loader;
    use systemimager_engine::host::Secrets;

    /// Everything about one file.
    #[derive(Serialize)]
    struct Checked<'a> {
        identification: &'a systemimager_core::abi::Identification,
        lines: &'a [loader::check::CheckLine],
    }

    let mut registry = systemimager_core::Registry::default();
    let plugin = loader::load_file(&mut registry, file)?;
    let lines = loader::check::conformance(plugin, &context.host(Secrets::default()));
    context.answer(&Checked { identification: &plugin.identification, lines: &lines })?;
    let identification = &plugin.identification;
    context.say(format_args!(
        "{}: {} {}, built for contract {} ({})",
        file.display(),
        plugin.name(),
        identification.version,
        identification.contract,
        identification.about
    ));
    for line in &lines {
        context.say(format_args!("  {}  {}: {}", if line.ok { "ok" } else { "NO" }, line.what, line.detail));
    }
    match lines.iter().filter(|line| !line.ok).count() {
        0 => Ok(()),
        wrong => bail!("{} does not keep the contract in {wrong} of {} points", file.display(), lines.len()),
    }
}

#[cfg(not(feature = "loader"))]
fn check(_: &Context, _: &std::path::Path) -> Result<()> {
    anyhow::bail!("this program opens no plugin files; use the systemimager program of the image server")
}
