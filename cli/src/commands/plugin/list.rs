//! `plugin list`: what is there.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use systemimager_core::registry::Origin;

use crate::context::Context;

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

pub(super) fn run(context: &Context) -> Result<()> {
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
