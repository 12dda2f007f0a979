//! Watching machines: a table that is drawn again on a terminal, a line for each change elsewhere. Used by
//! `status --watch`, `install --watch` and `retry --watch`.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use systemimager_engine::serve::machines::machines_dir;
use systemimager_engine::store::host_set::HostSet;
use systemimager_engine::store::orders::{self, Stage};
use systemimager_engine::sys::dirwatch::DirWatch;

use super::rows::{self, Row};
use crate::context::Context;
use crate::exit::Exit;

/// A terminal's picture is drawn again after this time also without news: ages grow, machines stall.
const REDRAW: Duration = Duration::from_secs(5);
/// News that come together are shown together.
const TOGETHER: Duration = Duration::from_millis(250);

/// When to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Interrupted,
    /// No machine has an order any more; or all that have one failed or stopped.
    Installed,
}

/// What to watch.
#[derive(Debug)]
pub struct Watch {
    /// These; empty: all.
    pub hosts: HostSet,
    /// When to end.
    pub until: Until,
}

impl Watch {
    /// Watches until the end.
    ///
    /// # Errors
    /// State cannot be read. [`Exit::Failed`] when an install failed or stopped.
    pub fn run(&self, context: &Context) -> Result<()> {
        let config = &context.config;
        let dirs = [machines_dir(config), orders::dir(config)];
        for dir in &dirs {
            std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let watch = DirWatch::new(dirs.iter().map(std::path::PathBuf::as_path))?;
        let draws = !context.json && std::io::stdout().is_terminal();
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let rows = rows::all(config, &self.hosts)?;
            if draws {
                // Home, clear to the end: redrawn in place.
                let _ = write!(std::io::stdout(), "\x1b[H\x1b[J");
                rows::print(context, &rows, false);
            } else {
                tell_news(context, &rows, &mut told)?;
            }
            if self.until == Until::Installed
                && let Some(end) = self.end(context)?
            {
                return end;
            }
            watch.wait(draws.then_some(REDRAW))?;
            // What comes within a moment belongs together.
            while watch.wait(Some(TOGETHER))? && draws {}
        }
    }

    /// The end, if it has come.
    fn end(&self, context: &Context) -> Result<Option<Result<()>>> {
        let ordered = orders::list(&context.config)?;
        let mine: Vec<_> = ordered.iter().filter(|order| self.hosts.hosts().contains(&order.host)).collect();
        if mine.is_empty() {
            return Ok(Some(Ok(())));
        }
        if !mine.iter().all(|order| matches!(order.stage, Stage::Stopped { .. })) {
            return Ok(None);
        }
        let names: Vec<&str> = mine.iter().map(|order| order.host.as_str()).collect();
        let why = format!(
            "{}: failed or stopped; see systemimager logs {}, then systemimager retry {}",
            names.join(", "),
            names.first().copied().unwrap_or_default(),
            names.join(" ")
        );
        Ok(Some(Err(Exit::Failed(why).into())))
    }
}

fn tell_news(context: &Context, rows: &[Row], told: &mut BTreeMap<String, String>) -> Result<()> {
    for row in rows {
        let now = format!("{} {}", row.shown, row.progress);
        if told.get(&row.key) == Some(&now) {
            continue;
        }
        if context.json {
            context.answer(row)?;
        } else {
            context.say(format_args!("{}: {}  {}", row.name, row.shown, row.progress).to_string().trim_end());
        }
        told.insert(row.key.clone(), now);
    }
    Ok(())
}
