//! Whether a tree that was pulled is what its manifest says: each entry's kind, size and attributes. Contents were verified block
//! by block before they were written.

use std::sync::Arc;

use systemimager_core::{FailedPath, PluginError};

use super::plan::{Plan, absolute};
use super::target::{differs, is_as};
use crate::pack::manifest::{Entry, Kind};
use crate::tree::Dir;

/// Most that is told.
const TOLD: usize = 100;

/// What is not as it is to be.
///
/// # Errors
/// It was not wanted any more.
pub fn wrong(
    plan: &Plan,
    top: &Dir,
    tick: &mut dyn FnMut() -> Result<(), PluginError>,
) -> Result<Vec<FailedPath>, PluginError> {
    let mut wrong = Vec::new();
    let mut open: Option<(u32, Arc<Dir>)> = None;
    for (_, number, entry) in plan.entries() {
        tick()?;
        if wrong.len() >= TOLD {
            break;
        }
        let at = number.filter(|_| entry.name.is_empty()).unwrap_or(entry.parent);
        let dir = match &open {
            Some((of, dir)) if *of == at => Arc::clone(dir),
            _ => match top.below(&plan.manifest.directory(at)) {
                Ok(dir) => Arc::new(dir),
                Err(error) => {
                    wrong.push(FailedPath { path: absolute(&plan.manifest.path(&entry)), why: error.to_string() });
                    continue;
                }
            },
        };
        open = Some((at, Arc::clone(&dir)));
        let on_way = number.is_some_and(|number| !plan.takes_directory(number)) && plan.request.leave_above;
        if let Some(why) = look(plan, top, &dir, &entry, on_way).unwrap_or_else(|error| Some(error.to_string())) {
            wrong.push(FailedPath { path: absolute(&plan.manifest.path(&entry)), why });
        }
    }
    Ok(wrong)
}

fn look(plan: &Plan, top: &Dir, dir: &Dir, entry: &Entry<'_>, on_way: bool) -> std::io::Result<Option<String>> {
    let Some(stat) = dir.look(entry.name)? else { return Ok(Some("it is not there".into())) };
    if let Kind::Link(parent, name) = entry.kind {
        let first = match parent == entry.parent {
            true => dir.look(name)?,
            false => top.below(&plan.manifest.directory(parent))?.look(name)?,
        };
        let same = first.is_some_and(|first| (first.st_dev, first.st_ino) == (stat.st_dev, stat.st_ino));
        return Ok((!same).then(|| "it is no further name of what it is to be one of".into()));
    }
    if !is_as(dir, entry, &stat)? {
        return Ok(Some("it is of another kind or size".into()));
    }
    if on_way {
        return Ok(None);
    }
    Ok(differs(dir, entry, entry.name, &stat)?.map(|what| format!("{what} is not as in the image")))
}
