//! A copy of an image under another name: what `cpimage` does. A revision to work on costs what it changes where the
//! file system shares extents (reflinks); images never share inodes.

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::ImageName;

use super::host_links;
use super::image_store::ImageStore;
use super::master_text;
use super::staging::Staging;
use crate::config::Config;
use crate::sys::atomic;

/// What a copy has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Its name.
    pub image: ImageName,
    /// Its files, directories and links.
    pub files: u64,
    /// What became of its master.
    pub master: CopiedMaster,
}

/// What became of a copy's master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopiedMaster {
    /// It was made of the other image's.
    Made,
    /// There was one of that name, which was kept.
    Kept,
    /// The other image has none.
    None,
}

/// Copies an image. `files` is told now and then how many have been copied.
///
/// # Errors
/// There is no such image, or there is one of the new name already and `replace` is not given; its master is wrong; the
/// disk is full. Nothing was changed then.
pub fn copy(
    config: &Config,
    from: &ImageName,
    to: &ImageName,
    replace: bool,
    files: &mut dyn FnMut(u64),
) -> Result<Copied> {
    let store = ImageStore::new(config);
    if from == to {
        bail!("{from} cannot be copied onto itself; give the copy another name");
    }
    let reading = store.read(from, &format!("copying image {from}"))?;
    if store.exists(to)? && !replace {
        bail!("there is an image {to} already; choose another name, or replace it with --replace");
    }
    // Before anything is copied: a master that is wrong is found at once.
    let master = match host_links::master_of_image(config, from)? {
        Some(found) => Some(master_text::retitled(&found.file, &found.text, to)?),
        None => None,
    };
    let staging = Staging::begin(&store, to)?;
    let count = staging.copy(&reading, files)?;
    if store.identity(from)?.as_deref() != Some(reading.identity()) {
        bail!("{from} was replaced by a new revision while it was copied; copy it again");
    }
    let path = master_text::master_path(config, to);
    let master = match master {
        None => CopiedMaster::None,
        Some(_) if path.try_exists().with_context(|| format!("looking for {}", path.display()))? => CopiedMaster::Kept,
        Some(text) => {
            atomic::write(&path, text.as_bytes(), 0o644)?;
            CopiedMaster::Made
        }
    };
    staging.swap_in()?;
    Ok(Copied { image: to.clone(), files: count, master })
}
