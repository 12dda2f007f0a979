//! Bundles: which programs and plugins the installer needs for an image, made when first asked for and
//! made anew when one of the files that it is made of changed: a plugin, a program, a library.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use systemimager_core::registry::Origin;
use systemimager_core::{Host, Kind, Needs, Registry, Role};
use systemimager_engine::config::Config;
use systemimager_engine::plan::serving;
use systemimager_engine::store::hooks;
use systemimager_engine::store::master::{HookTime, Master, NO_BOOTLOADER};
use systemimager_initrd::bundle::{Blobs, BundleIndex, index_of};
use systemimager_initrd::pack::probe::probe;
use systemimager_initrd::pack::{Packed, PackedHook, Source, pack_bundle};

/// Plugins and what they need; the key under which a bundle is kept.
#[derive(Clone, PartialEq)]
struct Key {
    plugins: Vec<PathBuf>,
    needs: Vec<Needs>,
    hooks: Vec<PackedHook>,
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
    pub fn index(
        &self,
        masters: &[Master],
        config: &Config,
        registry: &Registry,
        host: &dyn Host,
    ) -> Result<BundleIndex> {
        let key = Key { hooks: hooks_of(masters, config)?, ..wanted(masters, registry, host)? };
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
        let packed = pack_bundle(&key.needs, &key.plugins, &key.hooks).context("packing the tools of the image")?;
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
    let mut key = Key { plugins: Vec::new(), needs: vec![systemimager_engine::install::needs()], hooks: Vec::new() };
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

/// The hooks that any of these masters names, each once.
fn hooks_of(masters: &[Master], config: &Config) -> Result<Vec<PackedHook>> {
    let mut all: BTreeMap<PathBuf, PackedHook> = BTreeMap::new();
    for master in masters {
        for hook in &master.hooks {
            let file = hooks::check(config, &hook.run).with_context(|| format!("a master of {}", master.image))?;
            let to = hooks::installed_path(&hook.run);
            let packed = all.entry(file.clone()).or_insert(PackedHook { file, to, here: false });
            packed.here |= hook.at == HookTime::PreInstall;
        }
    }
    Ok(all.into_values().collect())
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

/// A site's own plugin: it is in the bundle because a master names its type, and a machine can open it from there.
#[cfg(test)]
mod site_tests {
    use systemimager_core::abi::{Identification, private::Instance};
    use systemimager_core::contract::{
        HostIdentity, IdentityDetect, IdentityWho, IdentityWrite, Partitioner, PartitionerCapture, PartitionerFit,
        PartitionerPlan,
    };
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{
        Capabilities, DiskLayout, Identity, Offer, PluginError, PullReport, PullRequest, Result, Service, Step,
        Transport, loader,
    };
    use systemimager_engine::store::master_text;
    use systemimager_initrd::bundle::BundleFile;

    use super::*;

    const MASTER: &str = "format = 1\nimage = \"web\"\ntransports = [\"linked\"]\npartitioner = \"linked\"\n\
        bootloader = \"none\"\n[identity]\nplugin = \"linked\"\n";
    const DISK: &str = "[[layout.disk]]\nnode = \"disk0\"\nlabel = \"none\"\nsize = \"1 GiB\"\n\
        [[layout.filesystem]]\nnode = \"root\"\non = \"disk0\"\ntype = \"sitefs\"\n\
        [[layout.mount]]\nnode = \"root\"\nat = \"/\"\n";

    /// What a master has to name besides; it needs nothing.
    struct Linked;

    fn not_here<T>() -> Result<T> {
        Err(PluginError::unsupported("it is only named"))
    }

    impl Transport for Linked {
        fn capabilities(&self, _: &dyn Host, (): ()) -> Result<Capabilities> {
            not_here()
        }
        fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
            Ok(Needs::default())
        }
        fn offer(&self, _: &dyn Host, _: Offer) -> Result<Service> {
            not_here()
        }
        fn pull(&self, _: &dyn Host, _: PullRequest) -> Result<PullReport> {
            not_here()
        }
    }

    impl Partitioner for Linked {
        fn labels(&self, _: &dyn Host, (): ()) -> Result<Vec<String>> {
            not_here()
        }
        fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
            Ok(Needs::default())
        }
        fn capture(&self, _: &dyn Host, _: PartitionerCapture) -> Result<DiskLayout> {
            not_here()
        }
        fn fit(&self, _: &dyn Host, _: PartitionerFit) -> Result<DiskLayout> {
            not_here()
        }
        fn plan(&self, _: &dyn Host, _: PartitionerPlan) -> Result<Vec<Step>> {
            not_here()
        }
    }

    impl HostIdentity for Linked {
        fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
            Ok(Needs::default())
        }
        fn who(&self, _: &dyn Host, _: IdentityWho) -> Result<Option<Identity>> {
            not_here()
        }
        fn detect(&self, _: &dyn Host, _: IdentityDetect) -> Result<std::collections::BTreeMap<String, String>> {
            not_here()
        }
        fn plan_write(&self, _: &dyn Host, _: IdentityWrite) -> Result<Vec<Step>> {
            not_here()
        }
    }

    fn registry(file: &Path) -> Registry {
        let mut registry = Registry::default();
        let all = [
            Instance::Transport(Box::new(Linked)),
            Instance::Partitioner(Box::new(Linked)),
            Instance::HostIdentity(Box::new(Linked)),
        ];
        for instance in all {
            let identification = Identification {
                id: "linked".into(),
                kind: instance.kind(),
                about: String::new(),
                version: "0.1.0".into(),
                contract: systemimager_core::CONTRACT_VERSION.into(),
                panic: "unwind".into(),
                arch: std::env::consts::ARCH.into(),
            };
            registry.add(identification, Origin::Linked, instance).unwrap();
        }
        loader::load_file(&mut registry, file).unwrap();
        registry
    }

    #[test]
    fn a_sites_own_plugin_reaches_the_machine_by_being_named() {
        if !rustix::process::geteuid().is_root() {
            let line =
                b"SKIPPED: a_sites_own_plugin_reaches_the_machine_by_being_named: it needs root; run it as root\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let plugins = dir.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let only_root = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        only_root(dir.path(), 0o755);
        only_root(&plugins, 0o755);
        let built = std::env::current_exe().unwrap().with_file_name("libfixture_site.so");
        let file = plugins.join("libsite.so");
        std::fs::copy(&built, &file).unwrap();
        only_root(&file, 0o644);
        let (registry, host) = (registry(&file), RecordedHost::new());
        let bundles = Bundles::default();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let index = |text: &str| {
            let master = master_text::parse(Path::new("web.master"), text)?;
            bundles.index(&[master], &config, &registry, &host)
        };

        // Not named: not in the bundle.
        let without = index(MASTER).unwrap();
        assert!(without.plugins.is_empty(), "{:?}", without.plugins);

        let with = index(&format!("{MASTER}{DISK}")).unwrap();
        with.check().unwrap();
        let at = "/usr/lib/systemimager/plugins/libsite.so";
        assert_eq!(with.plugins, vec![at.into()]);
        let ends = |end: &str| with.files.iter().any(|it| it.path().to_string().ends_with(end));
        for part in ["/libsite.so", "/tac", "/libc.so.6", "/libgcc_s.so.1"] {
            assert!(ends(part), "{part} is not in the bundle: {:?}", with.files);
        }

        // As the machine does: fetched by its hash, laid out, opened by the loader.
        let hash = with.files.iter().find_map(|it| match it {
            BundleFile::File { path, blake3, .. } if *path == at.into() => Some(blake3.clone()),
            _ => None,
        });
        let machine = dir.path().join("machine");
        std::fs::create_dir(&machine).unwrap();
        only_root(&machine, 0o755);
        let fetched = machine.join("libsite.so");
        std::fs::copy(bundles.blob(&hash.unwrap()).unwrap(), &fetched).unwrap();
        let mut there = Registry::default();
        loader::load_file(&mut there, &fetched).unwrap();
        assert_eq!(there.filesystem("site").unwrap().types(&host, ()).unwrap()[0].name, "sitefs");

        // Built anew on a newer system meanwhile: it would not open on the machine, and is refused by name.
        let mut bytes = std::fs::read(&built).unwrap();
        let places: Vec<usize> =
            bytes.windows(8).enumerate().filter(|(_, it)| *it == b"GLIBC_2.").map(|(at, _)| at).collect();
        for place in places {
            bytes[place + 6] = b'9';
        }
        let newer = plugins.join("newer");
        std::fs::write(&newer, bytes).unwrap();
        std::fs::rename(&newer, &file).unwrap();
        let error = format!("{:#}", index(&format!("{MASTER}{DISK}")).unwrap_err());
        let says = format!("{} needs glibc 9.", file.display());
        assert!(error.contains(&says) && error.contains("which is packed, is 2."), "{error}");
    }
}
