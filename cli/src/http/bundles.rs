//! Bundles: which programs and plugins the installer needs for an image, made when first asked for and
//! made anew when a plugin file changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result};
use systemimager_core::registry::Origin;
use systemimager_core::{Host, Kind, Needs, Registry, Role};
use systemimager_engine::plan::serving;
use systemimager_engine::store::master::{Master, NO_BOOTLOADER};
use systemimager_initrd::bundle::{Blobs, BundleIndex, index_of};
use systemimager_initrd::pack::pack_needs;
use systemimager_initrd::pack::probe::probe;

/// Plugins and what they need; the key under which a bundle is kept.
#[derive(Clone, PartialEq)]
struct Key {
    plugins: Vec<(PathBuf, Option<SystemTime>)>,
    needs: Vec<Needs>,
}

/// The bundles made so far.
#[derive(Default)]
pub struct Bundles {
    made: Mutex<Vec<(Key, BundleIndex)>>,
    blobs: Mutex<Blobs>,
}

impl Bundles {
    /// The index for an image: what an install by any of these masters (its own, and those that hosts have of
    /// their own) uses.
    ///
    /// # Errors
    /// A plugin or program is missing: named, with the package.
    pub fn index(&self, masters: &[Master], registry: &Registry, host: &dyn Host) -> Result<BundleIndex> {
        let key = wanted(masters, registry, host)?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, index)) = made.iter().find(|(other, _)| *other == key) {
            return Ok(index.clone());
        }
        let plugins: Vec<PathBuf> = key.plugins.iter().map(|(path, _)| path.clone()).collect();
        let packed = pack_needs(&key.needs, &plugins).context("packing the tools of the image")?;
        // What does not run here would not run on a machine either, where it would be found too late.
        probe(&packed, &key.needs).context("trying the tools of the image")?;
        let (index, blobs) = index_of(&packed, &plugins)?;
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).extend(blobs);
        made.push((key, index.clone()));
        Ok(index)
    }

    /// The file with this hash, if it belongs to a bundle that was asked for.
    pub fn blob(&self, hash: &str) -> Option<PathBuf> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }
}

/// The plugins that an install by this master uses, by kind and id.
fn plugins_of(master: &Master, registry: &Registry, host: &dyn Host) -> Result<BTreeSet<(Kind, String)>> {
    let mut used: BTreeSet<(Kind, String)> = master.transports.iter().map(|id| (Kind::Transport, id.clone())).collect();
    used.insert((Kind::Partitioner, master.partitioner.clone()));
    used.insert((Kind::HostIdentity, master.identity.plugin.clone()));
    if master.bootloader != NO_BOOTLOADER {
        used.insert((Kind::Bootloader, master.bootloader.clone()));
    }
    for fs in &master.layout.filesystems {
        let (id, _) = serving(registry, host, &fs.kind).with_context(|| format!("file system {}", fs.node))?;
        used.insert((Kind::FileSystem, id));
    }
    Ok(used)
}

fn wanted(masters: &[Master], registry: &Registry, host: &dyn Host) -> Result<Key> {
    let mut key = Key { plugins: Vec::new(), needs: vec![systemimager_engine::install::needs()] };
    let mut used = BTreeSet::new();
    for master in masters {
        used.extend(plugins_of(master, registry, host).with_context(|| format!("a master of {}", master.image))?);
    }
    for (kind, id) in used {
        let plugin = registry.find(kind, &id)?;
        if let Origin::File(path) = &plugin.origin {
            key.plugins.push((path.clone(), modified(path)));
        }
        key.needs.push(needs(registry, kind, &id, host)?);
    }
    Ok(key)
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|it| it.modified()).ok()
}

/// What a plugin needs on a machine that is being installed.
///
/// # Errors
/// There is no such plugin, or it fails to say.
fn needs(registry: &Registry, kind: Kind, id: &str, host: &dyn Host) -> Result<Needs> {
    let role = Role::Installer;
    Ok(match kind {
        Kind::Transport => registry.transport(id)?.needs(host, role)?,
        Kind::FileSystem => registry.filesystem(id)?.needs(host, role)?,
        Kind::Partitioner => registry.partitioner(id)?.needs(host, role)?,
        Kind::Bootloader => registry.bootloader(id)?.needs(host, role)?,
        Kind::HostIdentity => registry.identity(id)?.needs(host, role)?,
    })
}
