//! Which kernel modules go into the miniature system: drivers for what a bare machine may have between
//! its firmware and its disks, whatever plugins ask for, and all that these need in turn.
//!
//! Chosen by directory of the kernel's tree, not by a list of names: a driver that is new in the next
//! kernel comes along by itself. What a machine needs only once it is installed is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use systemimager_engine::sys::modules::Aliases;
use systemimager_engine::sys::{Cmd, Tool};

use super::firmware::{self, Lacking};
use super::tree::{Packed, Source};

/// Directories below `kernel/` whose modules are packed.
const WANTED: [&str; 30] = [
    // Network: wired.
    "drivers/net/ethernet/",
    "drivers/net/phy/",
    "drivers/net/mdio/",
    "drivers/net/usb/",
    "drivers/net/hyperv/",
    "drivers/net/vmxnet3/",
    "drivers/net/virtio_net.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/xen-netfront.ko",
    "drivers/net/mii.ko",
    // Disks.
    "drivers/ata/",
    "drivers/scsi/",
    "drivers/block/",
    "drivers/nvme/host/",
    "drivers/message/",
    "drivers/mmc/",
    "drivers/ufs/",
    // Buses they hang on.
    "drivers/virtio/",
    "drivers/hv/",
    "drivers/pci/controller/",
    "drivers/firewire/",
    // USB: hosts, disks, keyboards.
    "drivers/usb/common/",
    "drivers/usb/core/",
    "drivers/usb/host/",
    "drivers/usb/storage/",
    "drivers/hid/",
    "drivers/input/keyboard/",
    "drivers/input/serio/",
    // Random numbers: without them each mkfs waits for seconds.
    "drivers/char/hw_random/",
    "fs/efivarfs/",
];

/// Directories that are left out although a wanted one holds them, or although a wanted module needs them:
/// such a module is left out too.
const UNWANTED: [&str; 23] = [
    "drivers/gpu/",
    "drivers/media/",
    "drivers/infiniband/",
    "drivers/net/wireless/",
    "drivers/net/wwan/",
    "drivers/staging/",
    "drivers/iio/",
    "drivers/bluetooth/",
    "drivers/target/",
    "drivers/block/drbd/",
    "drivers/block/zram/",
    "drivers/block/null_blk/",
    "drivers/block/rbd.ko",
    "drivers/block/nbd.ko",
    "drivers/block/floppy.ko",
    "drivers/block/aoe/",
    "drivers/block/xen-blkback/",
    "drivers/hid/hid-sensor",
    "drivers/hid/amd-sfh",
    "drivers/hid/intel-ish",
    "drivers/firewire/snd",
    "sound/",
    "net/wireless/",
];

/// Modules that no dependency leads to: packet sockets for DHCP, checksums without which ext4, xfs and
/// btrfs do not mount, what media have with the names on them (FAT, CD, ext2).
const BY_NAME: [&str; 13] = [
    "af_packet",
    "crc32c_generic",
    "crc32c_intel",
    "crct10dif_generic",
    "crct10dif_pclmul",
    "libcrc32c",
    "vfat",
    "isofs",
    "ext4",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
];

/// Files of a modules directory that are not modules and that depmod(8) reads.
const TABLES: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

/// What a modules directory says of itself.
struct Directory {
    dir: PathBuf,
    /// Paths below the directory, by module name.
    files: BTreeMap<String, String>,
    /// Names that each needs, by name.
    needs: BTreeMap<String, Vec<String>>,
    /// Names or aliases that each wants before or after it, by name.
    soft: BTreeMap<String, Vec<String>>,
    builtin: BTreeSet<String>,
    /// Paths of built-in drivers, by name.
    builtin_paths: BTreeMap<String, String>,
    aliases: Aliases,
}

/// A module that is asked for by name or alias.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Its name.
    pub module: String,
    /// Who needs it: `file-system ext2`.
    pub by: String,
    /// Images that do without it can be installed all the same: a kernel that lacks it is told, not refused.
    pub spared: bool,
}

/// The modules of `dir` (`…/lib/modules/RELEASE`) for the miniature system, `asked` for by plugins among
/// them, with their index. `scratch` is an empty directory for depmod(8).
///
/// # Errors
/// No modules directory; a module that is asked for by name is neither there nor built in, or cannot be read; depmod
/// fails.
pub fn pack_modules(dir: &Path, release: &str, asked: &[Asked], scratch: &Path) -> Result<Drivers> {
    let directory = Directory::read(dir)?;
    let names = directory.choose(asked)?;
    let mut packed = Packed::default();
    let below = Path::new("/usr/lib/modules").join(release);
    for name in &names {
        if let Some(file) = directory.files.get(name) {
            packed.put(below.join(file), Source::File(dir.join(file)), 0o644);
        }
    }
    for table in TABLES {
        if dir.join(table).is_file() {
            packed.put(below.join(table), Source::File(dir.join(table)), 0o644);
        }
    }
    packed.lay_out(scratch).context("laying out the kernel modules")?;
    Cmd::tool(Tool::Depmod).arg("-b").arg(scratch).arg(release).run().context("indexing the packed kernel modules")?;
    let made = scratch.join("usr/lib/modules").join(release);
    for entry in std::fs::read_dir(&made).with_context(|| format!("listing {}", made.display()))? {
        let path = entry.with_context(|| format!("listing {}", made.display()))?.path();
        // modprobe reads the binary tables; the texts are for people.
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_file() && !TABLES.contains(&name) && (name.ends_with(".bin") || name == "modules.softdep") {
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            packed.put(below.join(name), Source::Bytes(bytes), 0o644);
        }
    }
    for table in TABLES {
        // Their binary forms are packed; the rest of the text is for depmod alone.
        packed.remove(&below.join(table));
    }
    let mut wanted =
        firmware::named_by_builtin(&std::fs::read(dir.join("modules.builtin.modinfo")).unwrap_or_default(), |module| {
            directory.builtin_paths.get(module).is_some_and(|path| is_wanted(path))
        });
    for name in &names {
        if let Some(file) = directory.files.get(name) {
            wanted.insert(name.clone(), firmware::named_by(&dir.join(file))?);
        }
    }
    let lacking = firmware::pack(&wanted, dir, release, &mut packed);
    Ok(Drivers { packed, lacking })
}

/// Whether a driver belongs to the miniature system by its place alone.
fn is_wanted(file: &str) -> bool {
    let inside = file.strip_prefix("kernel/").unwrap_or(file);
    WANTED.iter().any(|dir| inside.starts_with(dir)) && !UNWANTED.iter().any(|dir| inside.starts_with(dir))
}

/// Packed drivers, and what they lack.
#[derive(Debug, Default)]
pub struct Drivers {
    /// The modules with their index, and the firmware that they name.
    pub packed: Packed,
    /// Those whose firmware is not there.
    pub lacking: Vec<Lacking>,
}

impl Directory {
    fn read(dir: &Path) -> Result<Self> {
        let table = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let dependencies = match table("modules.dep") {
            Ok(text) => text,
            // A kernel package as it comes, before depmod ran.
            Err(_) if dir.join("kernel").is_dir() => {
                bail!(
                    "{} has no modules.dep; run depmod for that tree (depmod -b TREE {})",
                    dir.display(),
                    dir.file_name().unwrap_or_default().to_string_lossy()
                )
            }
            Err(error) => return Err(error),
        };
        let (files, needs) = parse_dependencies(&dependencies);
        let soft = parse_soft(&table("modules.softdep").unwrap_or_default());
        let builtin_paths: BTreeMap<String, String> = table("modules.builtin")
            .unwrap_or_default()
            .lines()
            .map(|path| (module_name(path), path.to_owned()))
            .collect();
        let builtin = builtin_paths.keys().cloned().collect();
        let aliases = Aliases::parse(table("modules.alias").unwrap_or_default().as_bytes());
        Ok(Self { dir: dir.to_path_buf(), files, needs, soft, builtin, builtin_paths, aliases })
    }

    /// Names of all modules to pack.
    fn choose(&self, asked: &[Asked]) -> Result<BTreeSet<String>> {
        let mut chosen = BTreeSet::new();
        for (name, file) in &self.files {
            let inside = file.strip_prefix("kernel/").unwrap_or(file);
            if WANTED.iter().any(|dir| inside.starts_with(dir)) && !self.leads_to_unwanted(name) {
                self.add(name, &mut chosen);
            }
        }
        for name in BY_NAME {
            self.add(name, &mut chosen);
        }
        let mut absent = Vec::new();
        for Asked { module, by, spared } in asked {
            let known = self.resolve(module);
            if known.is_empty() && !self.builtin.contains(&normal(module)) {
                if *spared {
                    tracing::warn!("the kernel of {} has no module {module}, which {by} asks for", self.dir.display());
                } else {
                    absent.push(format!("{module} (needed by {by})"));
                }
            }
            for name in known {
                self.add(&name, &mut chosen);
            }
        }
        if absent.is_empty() {
            return Ok(chosen);
        }
        bail!(
            "the kernel of {} has no module {}; use a kernel that has, or take the plugin away",
            self.dir.display(),
            absent.join(", ")
        )
    }

    fn leads_to_unwanted(&self, name: &str) -> bool {
        std::iter::once(name).chain(self.needs.get(name).into_iter().flatten().map(String::as_str)).any(|name| {
            self.files.get(name).is_some_and(|file| {
                let inside = file.strip_prefix("kernel/").unwrap_or(file);
                UNWANTED.iter().any(|dir| inside.starts_with(dir))
            })
        })
    }

    /// A module with all that it needs, and all that it would rather have.
    fn add(&self, name: &str, chosen: &mut BTreeSet<String>) {
        let mut todo = vec![normal(name)];
        while let Some(name) = todo.pop() {
            if !self.files.contains_key(&name) || !chosen.insert(name.clone()) {
                continue;
            }
            todo.extend(self.needs.get(&name).into_iter().flatten().cloned());
            for wish in self.soft.get(&name).into_iter().flatten() {
                todo.extend(self.resolve(wish));
            }
        }
    }

    /// Modules of a name or an alias (`crypto-crc32c`).
    fn resolve(&self, name: &str) -> Vec<String> {
        let plain = normal(name);
        if self.files.contains_key(&plain) { vec![plain] } else { self.aliases.modules_for(name) }
    }
}

/// `kernel/a/b-c.ko.xz` is the module `b_c`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normal(file.split(".ko").next().unwrap_or(file))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// Files and needs of `modules.dep`: `FILE: FILE FILE…`, all below the modules directory.
pub(crate) fn parse_dependencies(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, Vec<String>>) {
    let (mut files, mut needs) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        let Some((file, rest)) = line.split_once(':') else { continue };
        let safe = !file.starts_with('/') && file.split('/').all(|part| part != "..");
        if safe && !file.is_empty() {
            let name = module_name(file);
            files.insert(name.clone(), file.to_owned());
            needs.insert(name, rest.split_whitespace().map(module_name).collect());
        }
    }
    (files, needs)
}

/// Wishes of `modules.softdep`: `softdep NAME pre: A B post: C`.
pub(crate) fn parse_soft(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut soft: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some("softdep"), Some(name)) = (words.next(), words.next()) {
            let wishes = words.filter(|word| !word.ends_with(':')).map(str::to_owned);
            soft.entry(normal(name)).or_default().extend(wishes);
        }
    }
    soft
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/drivers/net/ethernet/intel/e1000/e1000.ko:
kernel/drivers/net/ethernet/x/needs-ib.ko: kernel/drivers/infiniband/core/ib_core.ko
kernel/drivers/infiniband/core/ib_core.ko:
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/net/wireless/ath/ath9k.ko:
kernel/drivers/usb/storage/usb-storage.ko.xz:
kernel/drivers/hid/hid-sensor-hub.ko:
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko:
kernel/crypto/crc32c_generic.ko:
kernel/fs/btrfs/btrfs.ko:
kernel/fs/fat/vfat.ko:
kernel/sound/snd.ko:
../../../etc/passwd.ko:
";

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (name, text) in [
            ("modules.dep", DEPENDENCIES),
            ("modules.softdep", "# comment\nsoftdep ext4 pre: crypto-crc32c post: nothing\n"),
            ("modules.alias", "alias crypto-crc32c crc32c_generic\nalias fs-btrfs btrfs\n"),
            ("modules.builtin", "kernel/fs/nls/nls_base.ko\n"),
        ] {
            std::fs::write(dir.path().join(name), text).expect("write");
        }
        dir
    }

    fn by_test(module: &str) -> Asked {
        Asked { module: module.into(), by: "a test".into(), spared: false }
    }

    #[test]
    fn chosen_by_place_with_what_they_need() {
        let dir = directory();
        let directory = Directory::read(dir.path()).expect("read");
        let base = [
            "crc32c_generic",
            "e1000",
            "ext4",
            "failover",
            "jbd2",
            "net_failover",
            "usb_storage",
            "vfat",
            "virtio_net",
        ];
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("nothing asked", &[], &[]),
            ("packed anyway, with its needs and wishes", &["ext4"], &[]),
            ("by name", &["btrfs"], &["btrfs"]),
            ("by alias", &["fs-btrfs"], &["btrfs"]),
            ("built in", &["nls-base"], &[]),
        ];
        for (name, asked, more) in rows {
            let asked: Vec<Asked> = asked.iter().map(|name| by_test(name)).collect();
            let mut expected: Vec<&str> = base.iter().chain(*more).copied().collect();
            expected.sort_unstable();
            let got: Vec<String> = directory.choose(&asked).expect("there").into_iter().collect();
            assert_eq!(got, expected, "{name}");
        }
        let error = directory.choose(&[by_test("reiserfs"), by_test("ext4")]).expect_err("absent").to_string();
        assert!(error.contains("has no module reiserfs (needed by a test);"), "{error}");
        let spared = Asked { spared: true, ..by_test("reiserfs") };
        let got = directory.choose(&[spared, by_test("ext4")]).expect("told, not refused");
        assert!(got.contains("ext4") && !got.contains("reiserfs"), "{got:?}");
    }

    #[test]
    fn a_directory_without_its_index_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(dir.path().join("kernel")).expect("mkdir");
        let error = Directory::read(dir.path()).err().expect("refused").to_string();
        assert!(error.contains("has no modules.dep; run depmod"), "{error}");
    }

    #[test]
    fn built_in_drivers_count_by_their_place() {
        for (path, wanted) in [
            ("kernel/drivers/net/ethernet/broadcom/tg3.ko", true),
            ("kernel/drivers/gpu/drm/i915/i915.ko", false),
            ("kernel/drivers/net/wireless/ath/ath9k.ko", false),
            ("kernel/drivers/block/drbd/drbd.ko", false),
        ] {
            assert_eq!(is_wanted(path), wanted, "{path}");
        }
    }
}
