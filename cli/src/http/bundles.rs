//! Bundles: which programs and plugins the installer needs for an image, made when first asked for and
//! made anew when one of the files that it is made of changed: a plugin, a program, a library.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use systemimager_core::registry::Origin;
use systemimager_core::{Host, Kind, Needs, Registry, Role};
use systemimager_engine::plan::serving;
use systemimager_engine::store::master::{Master, NO_BOOTLOADER};
use systemimager_initrd::bundle::{Blobs, BundleIndex, index_of};
use systemimager_initrd::pack::pack_needs;
use systemimager_initrd::pack::probe::probe;
use systemimager_initrd::pack::{Packed, Source};

/// Plugins and what they need; the key under which a bundle is kept.
#[derive(Clone, PartialEq)]
struct Key {
    plugins: Vec<PathBuf>,
    needs: Vec<Needs>,
}

/// A file as it was when its hash was taken: another number in any of these is another file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    /// Device, inode, size, and time of the last change of contents (seconds, nanoseconds); absent: not there.
    seen: Option<(u64, u64, u64, i64, i64)>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        // Of the file that a link leads to: an upgrade may change only where it leads.
        let seen = std::fs::metadata(path).ok();
        let seen = seen.map(|it| (it.dev(), it.ino(), it.size(), it.mtime(), it.mtime_nsec()));
        Self { path: path.to_path_buf(), seen }
    }

    fn holds(&self) -> bool {
        *self == Self::of(&self.path)
    }
}

/// A bundle, and what it was made of.
struct Made {
    key: Key,
    stamps: Vec<Stamp>,
    index: BundleIndex,
}

/// The bundles made so far.
#[derive(Default)]
pub struct Bundles {
    made: Mutex<Vec<Made>>,
    // Beside them, so that files are served while a bundle is being made.
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
        // Bundles that are no longer true go, and the hashes of the files that changed.
        let changed: BTreeSet<PathBuf> = made
            .iter()
            .flat_map(|one| one.stamps.iter().filter(|stamp| !stamp.holds()).map(|stamp| stamp.path.clone()))
            .collect();
        if !changed.is_empty() {
            made.retain(|one| !one.stamps.iter().any(|stamp| changed.contains(&stamp.path)));
            self.blobs.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, path| !changed.contains(path));
        }
        if let Some(one) = made.iter().find(|one| one.key == key) {
            return Ok(one.index.clone());
        }
        let packed = pack_needs(&key.needs, &key.plugins).context("packing the tools of the image")?;
        // Before anything of them is read: what changes meanwhile is then seen at the next look.
        let stamps = stamps(&packed);
        // What does not run here would not run on a machine either, where it would be found too late.
        probe(&packed, &key.needs).context("trying the tools of the image")?;
        let (index, blobs) = index_of(&packed, &key.plugins)?;
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).extend(blobs);
        made.push(Made { key, stamps, index: index.clone() });
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
            key.plugins.push(path.clone());
        }
        key.needs.push(needs(registry, kind, &id, host)?);
    }
    Ok(key)
}

fn stamps(packed: &Packed) -> Vec<Stamp> {
    let file = |source: &Source| match source {
        Source::File(path) => Some(Stamp::of(path)),
        _ => None,
    };
    packed.entries().filter_map(|entry| file(&entry.source)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other, link) = (dir.path().join("mkfs"), dir.path().join("new"), dir.path().join("link"));
        std::fs::write(&file, "one").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut packed = Packed::default();
        packed.put("/usr/sbin/mkfs", Source::File(link.clone()), 0o755);
        packed.put("/usr/sbin/mkfs.ext4", Source::Link("mkfs".into()), 0o777);
        let time = std::fs::metadata(&file).unwrap().modified().unwrap();
        type Change<'a> = (&'a str, bool, Box<dyn Fn() + 'a>);
        let changes: [Change<'_>; 4] = [
            ("nothing", true, Box::new(|| {})),
            ("contents", false, Box::new(|| std::fs::write(&file, "three").unwrap())),
            (
                "another file of the same size and time, as a package manager unpacks it",
                false,
                Box::new(|| {
                    std::fs::write(&other, "other").unwrap();
                    std::fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
                    std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
                    std::fs::rename(&other, &file).unwrap();
                }),
            ),
            ("removed", false, Box::new(|| std::fs::remove_file(&file).unwrap())),
        ];
        for (name, holds, change) in changes {
            let before = stamps(&packed);
            assert_eq!(before.len(), 1, "{name}");
            change();
            assert_eq!(before.iter().all(Stamp::holds), holds, "{name}");
        }
    }
}
