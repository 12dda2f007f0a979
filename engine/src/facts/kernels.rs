//! The kernels of an image: where they are, what is built in, which storage and network devices they know.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use anyhow::Result;
use systemimager_core::{BytePath, Host, Kernel, Place};

use super::initramfs::{self, module_name};
use super::text;

/// Directories of modules that can stand between a machine and its disks: buses, controllers, disks. The
/// last three hold what sites and vendors add, which is often a controller's driver.
const STORAGE: [&str; 22] = [
    "kernel/drivers/ata/",
    "kernel/drivers/block/",
    "kernel/drivers/firewire/",
    "kernel/drivers/hv/",
    "kernel/drivers/md/",
    "kernel/drivers/memstick/",
    "kernel/drivers/message/",
    "kernel/drivers/misc/cardreader/",
    "kernel/drivers/mmc/",
    "kernel/drivers/nvdimm/",
    "kernel/drivers/nvme/",
    "kernel/drivers/pci/controller/",
    "kernel/drivers/s390/",
    "kernel/drivers/scsi/",
    "kernel/drivers/thunderbolt/",
    "kernel/drivers/ufs/",
    "kernel/drivers/usb/",
    "kernel/drivers/virtio/",
    "kernel/drivers/xen/",
    "extra/",
    "updates/",
    "weak-updates/",
];

/// Directories of modules that drive wired network interfaces, or the buses of such.
const NETWORK: [&str; 7] = [
    "kernel/drivers/firewire/",
    "kernel/drivers/message/",
    "kernel/drivers/net/",
    "kernel/drivers/s390/net/",
    "kernel/drivers/staging/",
    "kernel/drivers/thunderbolt/",
    "kernel/drivers/xen/",
];

/// Of those below [`NETWORK`], what drives no wired interface, and has thousands of patterns.
const NO_NETWORK: [&str; 5] = [
    "kernel/drivers/net/can/",
    "kernel/drivers/net/ieee802154/",
    "kernel/drivers/net/wireless/",
    "kernel/drivers/net/wwan/",
    "kernel/drivers/staging/media/",
];

/// Patterns of modaliases, each with the module that serves it.
type Pairs = Vec<(String, String)>;

/// The kernels in `/boot`, the newest first.
///
/// # Errors
/// The tree cannot be read.
pub fn kernels(host: &dyn Host, place: &Place) -> Result<Vec<Kernel>> {
    let boot: Vec<String> = names(host, place, "/boot");
    let mut kernels: Vec<Kernel> = boot
        .iter()
        .filter_map(|name| name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("vmlinux-")).map(|it| (name, it)))
        .filter(|(_, release)| !release.starts_with("0-rescue"))
        .map(|(name, release)| kernel(host, place, &boot, name, release))
        .collect();
    kernels.sort_by(|one, other| newer(&other.release, &one.release));
    Ok(kernels)
}

fn names(host: &dyn Host, place: &Place, dir: &str) -> Vec<String> {
    let list = host.list(place, &dir.into()).unwrap_or_default();
    list.into_iter().filter_map(|name| String::from_utf8(name.as_bytes().to_vec()).ok()).collect()
}

fn kernel(host: &dyn Host, place: &Place, boot: &[String], file: &str, suffix: &str) -> Kernel {
    let candidates = [
        format!("initrd.img-{suffix}"),
        format!("initramfs-{suffix}.img"),
        format!("initrd-{suffix}"),
        format!("initramfs-{suffix}"),
    ];
    let initramfs = candidates.iter().find(|name| boot.contains(name)).map(|name| format!("/boot/{name}"));
    let release = release(host, place, suffix);
    let dir = format!("/lib/modules/{release}");
    let read = |name: &str| text(host, place, &format!("{dir}/{name}"));
    let modules_dep = read("modules.dep");
    let builtin_list = read("modules.builtin");
    let builtin_info = read("modules.builtin.modinfo");
    let modules_alias = read("modules.alias");
    let (storage, network) = devices(&modules_dep, &modules_alias, &builtin_list, &builtin_info);
    let mut file_systems = aliases_of(&modules_of(dep_paths(&modules_dep), is_file_system), &modules_alias);
    file_systems.extend(builtin_aliases(&builtin_list, &builtin_info, is_file_system));
    file_systems.retain(|(pattern, _)| pattern.starts_with("fs-"));
    Kernel {
        path: format!("/boot/{file}").into(),
        initramfs_modules: initramfs.as_ref().and_then(|path| listed(place, path)),
        initramfs: initramfs.map(BytePath::from),
        builtin: builtin_list.lines().filter_map(|line| module_name(line.as_bytes())).collect(),
        storage_aliases: storage,
        network_aliases: network,
        filesystem_aliases: file_systems,
        builtin_aliases: !builtin_info.is_empty(),
        has_modules: !modules_dep.is_empty(),
        release,
    }
}

/// The release of `vmlinuz-SUFFIX`. Mostly the suffix itself; Arch calls the file by its package, whose
/// name stands in the modules' directory.
fn release(host: &dyn Host, place: &Place, suffix: &str) -> String {
    let releases = names(host, place, "/lib/modules");
    if releases.iter().any(|release| release == suffix) {
        return suffix.to_owned();
    }
    let is_its = |release: &String| text(host, place, &format!("/lib/modules/{release}/pkgbase")).trim() == suffix;
    releases.into_iter().find(is_its).unwrap_or_else(|| suffix.to_owned())
}

fn listed(place: &Place, path: &str) -> Option<Vec<String>> {
    let file = place.root().join(path);
    match initramfs::modules(file.as_path()) {
        Ok(modules) => Some(modules),
        Err(error) => {
            tracing::warn!("{error:#}");
            None
        }
    }
}

/// What storage and network devices a kernel knows: by its modules and by what is built in.
pub(super) fn devices(dep: &str, alias: &str, builtin: &str, info: &str) -> (Pairs, Pairs) {
    let mut storage = storage_aliases(dep, alias);
    storage.extend(builtin_aliases(builtin, info, is_storage));
    let mut network = aliases_of(&modules_of(dep_paths(dep), is_network), alias);
    network.extend(builtin_aliases(builtin, info, is_network));
    (storage, network)
}

/// Patterns of storage drivers, by the texts of `modules.dep` and `modules.alias`. A storage module
/// without a pattern of its own is listed with one that matches nothing, so that its existence is known.
fn storage_aliases(dep: &str, alias: &str) -> Vec<(String, String)> {
    let storage = modules_of(dep_paths(dep), is_storage);
    let mut aliases = aliases_of(&storage, alias);
    let named: BTreeSet<String> = aliases.iter().map(|(_, module)| module.clone()).collect();
    aliases.extend(storage.difference(&named).map(|module| (format!("module:{module}"), module.clone())));
    aliases
}

/// The lines of `modules.alias` that belong to these modules.
fn aliases_of(modules: &BTreeSet<String>, alias: &str) -> Vec<(String, String)> {
    alias
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("alias"), Some(pattern), Some(module)) => Some((pattern.to_owned(), module.replace('-', "_"))),
                _ => None,
            }
        })
        .filter(|(_, module)| modules.contains(module))
        .collect()
}

/// Patterns of drivers of a kind that are built in, by the texts of `modules.builtin` and
/// `modules.builtin.modinfo`: `MODULE.alias=PATTERN`, each ended by a NUL (kbuild.rst of the kernel, since 5.2).
/// `modules.alias` does not list them.
fn builtin_aliases(builtin: &str, info: &str, kind: fn(&str) -> bool) -> Vec<(String, String)> {
    let modules = modules_of(builtin.lines(), kind);
    info.split('\0')
        .filter_map(|entry| {
            let (key, pattern) = entry.split_once('=')?;
            let module = key.strip_suffix(".alias")?.replace('-', "_");
            modules.contains(&module).then(|| (pattern.to_owned(), module))
        })
        .collect()
}

/// The paths in a `modules.dep`.
fn dep_paths(dep: &str) -> impl Iterator<Item = &str> {
    dep.lines().filter_map(|line| line.split(':').next())
}

fn is_storage(path: &str) -> bool {
    STORAGE.iter().any(|dir| path.starts_with(dir))
}

/// What sites and vendors add lies outside of `kernel/`, and is often a network driver.
fn is_network(path: &str) -> bool {
    let named = |dirs: &[&str]| dirs.iter().any(|dir| path.starts_with(dir));
    !path.starts_with("kernel/") || (named(&NETWORK) && !named(&NO_NETWORK))
}

/// What vendors add lies outside of `kernel/` (`zfs`, say).
fn is_file_system(path: &str) -> bool {
    !path.starts_with("kernel/") || path.starts_with("kernel/fs/")
}

fn modules_of<'a>(paths: impl Iterator<Item = &'a str>, kind: fn(&str) -> bool) -> BTreeSet<String> {
    paths.filter(|path| kind(path)).filter_map(|path| module_name(path.as_bytes())).collect()
}

/// Compares releases as people do: `6.1.10` is newer than `6.1.9`.
pub(super) fn newer(one: &str, other: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        text.split(|letter: char| !letter.is_ascii_alphanumeric())
            .map(|part| (part.parse().unwrap_or(0), part.to_owned()))
            .collect()
    };
    parts(one).cmp(&parts(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::RecordedHost;

    #[test]
    fn only_storage_drivers_are_kept() {
        let dep = "kernel/drivers/ata/ahci.ko: kernel/drivers/ata/libahci.ko\nkernel/drivers/ata/libahci.ko:\n\
                   kernel/drivers/gpu/drm/i915.ko.xz:\nkernel/drivers/block/virtio_blk.ko.zst:\n\
                   extra/vendor/raid.ko:\nkernel/net/extra/x.ko:\n";
        let alias = "# x\nalias pci:v1* ahci\nalias pci:v2* i915\nalias virtio:d2v* virtio_blk\nalias bad\n";
        assert_eq!(
            storage_aliases(dep, alias),
            [
                ("pci:v1*".into(), "ahci".into()),
                ("virtio:d2v*".into(), "virtio_blk".into()),
                ("module:libahci".into(), "libahci".into()),
                ("module:raid".into(), "raid".into()),
            ]
        );
    }

    #[test]
    fn drivers_that_are_built_in_have_their_patterns_elsewhere() {
        let builtin =
            "kernel/drivers/virtio/virtio-pci.ko\nkernel/drivers/block/virtio_blk.ko\nkernel/fs/ext4/ext4.ko\n";
        let info = "virtio_pci.alias=pci:v00001AF4d*\0virtio_blk.license=GPL\0virtio_blk.alias=virtio:d00000002v*\0\
                    ext4.alias=fs-ext4\0odd\0";
        assert_eq!(
            builtin_aliases(builtin, info, is_storage),
            [("pci:v00001AF4d*".into(), "virtio_pci".into()), ("virtio:d00000002v*".into(), "virtio_blk".into())]
        );
        assert_eq!(builtin_aliases(builtin, "", is_storage), []);
    }

    #[test]
    fn network_drivers_are_kept_apart() {
        for (path, network) in [
            ("kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko", true),
            ("kernel/drivers/net/virtio_net.ko.xz", true),
            ("kernel/drivers/net/wireless/ath/ath9k/ath9k.ko", false),
            ("kernel/drivers/ata/ahci.ko", false),
            ("kernel/net/core/x.ko", false),
            ("updates/dkms/r8168.ko", true),
            ("extra/vendor/nic.ko.zst", true),
        ] {
            assert_eq!(is_network(path), network, "{path}");
        }
        let host = RecordedHost::new()
            .file("/boot/vmlinuz-6.1", "")
            .file(
                "/lib/modules/6.1/modules.dep",
                "kernel/drivers/net/e1000.ko:\nkernel/drivers/net/mii.ko:\nkernel/drivers/ata/ahci.ko:\n",
            )
            .file("/lib/modules/6.1/modules.alias", "alias pci:v1* e1000\nalias pci:v2* ahci\n")
            .file("/lib/modules/6.1/modules.builtin", "kernel/drivers/net/virtio_net.ko\n")
            .file("/lib/modules/6.1/modules.builtin.modinfo", "virtio_net.alias=virtio:d00000001v*\0");
        let found = kernels(&host, &Place::Tree { root: "/no/such/tree".into() }).unwrap();
        assert_eq!(
            found[0].network_aliases,
            [("pci:v1*".into(), "e1000".into()), ("virtio:d00000001v*".into(), "virtio_net".into())]
        );
    }

    #[test]
    fn file_systems_are_known_by_their_aliases() {
        let host = RecordedHost::new()
            .file("/boot/vmlinuz-6.1", "")
            .file("/lib/modules/6.1/modules.dep", "kernel/fs/xfs/xfs.ko:\nkernel/net/x.ko:\nextra/zfs.ko:\n")
            .file(
                "/lib/modules/6.1/modules.alias",
                "alias fs-xfs xfs\nalias iso9660 xfs\nalias fs-x x\nalias fs-zfs zfs\n",
            )
            .file("/lib/modules/6.1/modules.builtin", "kernel/fs/ext4/ext4.ko\n")
            .file("/lib/modules/6.1/modules.builtin.modinfo", "ext4.alias=fs-ext3\0ext4.alias=fs-ext4\0");
        let found = kernels(&host, &Place::Tree { root: "/no/such/tree".into() }).unwrap();
        let pairs = |all: [(&str, &str); 4]| all.map(|(one, other)| (one.to_owned(), other.to_owned()));
        let expected = [("fs-xfs", "xfs"), ("fs-zfs", "zfs"), ("fs-ext3", "ext4"), ("fs-ext4", "ext4")];
        assert_eq!(found[0].filesystem_aliases, pairs(expected));
    }

    #[test]
    fn a_kernel_may_be_called_by_its_package() {
        let host = RecordedHost::new()
            .file("/boot/vmlinuz-linux-lts", "")
            .file("/boot/vmlinuz-6.1", "")
            .file("/boot/vmlinuz-0-rescue-1", "")
            .file("/boot/initramfs-linux-lts.img", "")
            .file("/lib/modules/6.12.9-1-lts/pkgbase", "linux-lts\n")
            .file("/lib/modules/6.12.9-1-lts/modules.dep", "x.ko:\n")
            .file("/lib/modules/6.1/modules.dep", "x.ko:\n");
        let found = kernels(&host, &Place::Tree { root: "/no/such/tree".into() }).unwrap();
        let shown: Vec<(String, String, Option<String>)> = found
            .iter()
            .map(|it| (it.release.clone(), it.path.to_string(), it.initramfs.as_ref().map(ToString::to_string)))
            .collect();
        assert_eq!(
            shown,
            [
                ("6.12.9-1-lts".into(), "/boot/vmlinuz-linux-lts".into(), Some("/boot/initramfs-linux-lts.img".into())),
                ("6.1".into(), "/boot/vmlinuz-6.1".into(), None),
            ]
        );
    }

    #[test]
    fn releases_are_compared_by_number() {
        for (older, later) in
            [("6.1.0-9-amd64", "6.1.0-10-amd64"), ("5.14.0-70.el9", "5.14.0-427.el9"), ("6.1", "6.12")]
        {
            assert_eq!(newer(later, older), Ordering::Greater, "{older} {later}");
        }
    }
}
