//! What is known of an image without the image: read from its tree, served to machines, planned with.
//!
//! Reads through the engine's host, so that links in a tree never lead out of it.

pub mod drivers;
mod fstab;
pub(crate) mod fuzzing;
mod initramfs;
mod kernels;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use systemimager_core::contract::{BootloaderDetect, FileSystemDetect, IdentityDetect};
use systemimager_core::{ErrorKind, Host, ImageFacts, ImageName, Place, Registry, Size};
use walkdir::WalkDir;

/// Tools that rebuild an initramfs, in the order in which they are believed, and the files of which one
/// each has to be there. dracut brings an `update-initramfs` of its own, which takes other settings.
const INITRAMFS_TOOLS: [(&str, &[&[&str]]); 3] = [
    ("update-initramfs", &[&["/usr/sbin/update-initramfs"], &["/usr/sbin/mkinitramfs", "/usr/bin/mkinitramfs"]]),
    ("dracut", &[&["/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut"]]),
    ("mkinitcpio", &[&["/usr/bin/mkinitcpio"]]),
];

/// The list, in an image, of what an update leaves alone on its machines.
pub const UPDATE_EXCLUDE: &str = "/etc/systemimager/update.exclude";

/// What a kernel or an initramfs starts as the first process; one of them is enough.
pub const INITS: [&str; 5] =
    ["/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/bin/init"];

/// Reads all of it.
///
/// # Errors
/// The tree is not there, or a plugin fails to look at it.
pub fn image_facts(name: &ImageName, tree: &Path, registry: &Registry, host: &dyn Host) -> Result<ImageFacts> {
    let place = Place::Tree { root: tree.into() };
    host.list(&place, &"/".into()).with_context(|| format!("the image {name}"))?;
    let (bytes, inodes) = weigh(tree)?;
    let mut bootloaders = BTreeMap::new();
    for (id, plugin) in registry.bootloaders() {
        let request = BootloaderDetect { place: place.clone() };
        if let Some(found) = plugin.detect(host, request).with_context(|| format!("boot loader {id} in {name}"))? {
            bootloaders.insert(id.to_owned(), found);
        }
    }
    let mut identity = BTreeMap::new();
    for (id, plugin) in registry.identities() {
        let request = IdentityDetect { place: place.clone() };
        let found = plugin.detect(host, request).with_context(|| format!("identity {id} in {name}"))?;
        identity.insert(id.to_owned(), found);
    }
    let mut filesystems = BTreeMap::new();
    for (id, plugin) in registry.filesystems() {
        match plugin.detect(host, FileSystemDetect { place: place.clone() }) {
            Ok(found) => {
                filesystems.insert(id.to_owned(), found);
            }
            // It need not look.
            Err(error) if error.kind == ErrorKind::Unsupported => {}
            Err(error) => return Err(error).with_context(|| format!("file system {id} in {name}")),
        }
    }
    let entries = fstab::entries(host, &place)?;
    Ok(ImageFacts {
        name: name.to_string(),
        arch: arch(host, &place),
        os: os_release(host, &place),
        kernels: kernels::kernels(host, &place)?,
        bootloaders,
        identity,
        filesystems,
        initramfs_tool: initramfs_tool(host, &place),
        selinux: selinux(&text(host, &place, "/etc/selinux/config")),
        bytes: Size(bytes),
        inodes,
        // Reading follows links inside the image, so a link that leads nowhere there does not count.
        has_init: INITS.iter().any(|path| host.read(&place, &(*path).into()).is_ok()),
        has_fstab: entries.is_some(),
        fstab: entries.unwrap_or_default(),
        update_exclude: host.read(&place, &UPDATE_EXCLUDE.into()).ok(),
        // Who asks knows by which lock the tree is held.
        tree: String::new(),
    })
}

fn initramfs_tool(host: &dyn Host, place: &Place) -> Option<String> {
    let all_there = |files: &[&[&str]]| files.iter().all(|any| any.iter().any(|path| there(host, place, path)));
    INITRAMFS_TOOLS.iter().find(|(_, files)| all_there(files)).map(|(tool, _)| (*tool).to_owned())
}

/// A file as text; empty if it is not there or not text.
fn text(host: &dyn Host, place: &Place, path: &str) -> String {
    host.read(place, &path.into()).ok().and_then(|bytes| String::from_utf8(bytes.0).ok()).unwrap_or_default()
}

fn there(host: &dyn Host, place: &Place, path: &str) -> bool {
    let (dir, file) = path.rsplit_once('/').unwrap_or(("/", path));
    host.list(place, &dir.into()).is_ok_and(|names| names.iter().any(|name| name.as_bytes() == file.as_bytes()))
}

/// Bytes on disk and number of inodes of a tree, links not followed.
///
/// # Errors
/// A directory cannot be read, or a file vanishes meanwhile.
pub fn weigh(tree: &Path) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut bytes, mut inodes) = (0, 0);
    let mut seen = std::collections::BTreeSet::new();
    for entry in WalkDir::new(tree) {
        let metadata =
            entry.and_then(|entry| entry.metadata()).with_context(|| format!("walking {}", tree.display()))?;
        if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        bytes += metadata.blocks() * 512;
        inodes += 1;
    }
    Ok((bytes, inodes))
}

/// The architecture of a tree's programs, as in [`ImageFacts::arch`]; empty: unknown.
pub fn architecture(tree: &Path, host: &dyn Host) -> String {
    arch(host, &Place::Tree { root: tree.into() })
}

/// By the ELF header of the first program that is there (e_machine, elf(5)).
fn arch(host: &dyn Host, place: &Place) -> String {
    for path in ["/usr/bin/env", "/bin/sh", "/bin/busybox", "/usr/bin/bash", "/sbin/init"] {
        let file = host.read(place, &path.into()).unwrap_or_default();
        if let Some(name) = file.first_chunk().and_then(machine) {
            return name.to_owned();
        }
    }
    // Debian's multiarch directories tell it as well.
    let found = host.list(place, &"/usr/lib".into()).unwrap_or_default();
    let multiarch = found.iter().find_map(|name| name.to_string().strip_suffix("-linux-gnu").map(str::to_owned));
    multiarch.unwrap_or_default()
}

fn machine(header: &[u8; 20]) -> Option<&'static str> {
    if &header[..4] != b"\x7fELF" {
        return None;
    }
    let number = if header[5] == 2 { [header[19], header[18]] } else { [header[18], header[19]] };
    match u16::from_le_bytes(number) {
        0x03 => Some("x86"),
        0x3e => Some("x86_64"),
        0xb7 => Some("aarch64"),
        0x28 => Some("arm"),
        0x15 => Some("powerpc64"),
        0x16 => Some("s390x"),
        0xf3 => Some("riscv64"),
        _ => None,
    }
}

/// os-release(5): `KEY=value`, perhaps quoted; nothing is expanded.
fn os_release(host: &dyn Host, place: &Place) -> BTreeMap<String, String> {
    let found =
        ["/etc/os-release", "/usr/lib/os-release"].iter().map(|path| text(host, place, path)).find(|it| !it.is_empty());
    parse_os_release(&found.unwrap_or_default())
}

pub(crate) fn parse_os_release(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| ["ID", "ID_LIKE", "VERSION_ID", "PRETTY_NAME"].contains(&key.trim()))
        .map(|(key, value)| {
            let value = value.trim();
            let inner = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
            (key.trim().to_owned(), inner.unwrap_or(value).to_owned())
        })
        .collect()
}

fn selinux(config: &str) -> bool {
    config
        .lines()
        .filter_map(|line| line.trim().strip_prefix("SELINUX="))
        .next_back()
        .is_some_and(|mode| mode.trim() != "disabled")
}

#[cfg(test)]
mod tests {
    use systemimager_core::FstabEntry;

    use super::*;
    use crate::host::{EngineHost, Secrets};

    #[test]
    fn a_tree_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path();
        let mut program = b"\x7fELF\x02\x01".to_vec();
        program.resize(64, 0);
        program[18] = 0x3e;
        let files: [(&str, &[u8]); 11] = [
            ("usr/lib/systemd/systemd", &program),
            (
                "etc/fstab",
                b"# mine\nUUID=\"1-2\" / ext4 errors=remount-ro,noatime 0 1\n/dev/sr0 /a\\040b auto noauto\n",
            ),
            ("usr/bin/env", &program),
            ("usr/sbin/update-initramfs", b""),
            ("usr/sbin/mkinitramfs", b""),
            ("etc/os-release", b"ID=debian\n"),
            ("boot/vmlinuz-6.1.0-9", b"k"),
            ("boot/vmlinuz-6.1.0-10", b"k"),
            ("boot/initrd.img-6.1.0-10", b"broken"),
            ("usr/lib/modules/6.1.0-10/modules.dep", b"kernel/drivers/ata/ahci.ko:\n"),
            ("usr/lib/modules/6.1.0-10/modules.builtin", b"kernel/drivers/block/loop.ko\n"),
        ];
        for (path, contents) in files {
            let file = tree.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, contents).unwrap();
        }
        std::os::unix::fs::symlink("usr/lib", tree.join("lib")).unwrap();
        // Absolute: it leads to a file of the image, not of the machine that looks.
        std::os::unix::fs::symlink("/lib/systemd/systemd", tree.join("usr/sbin/init")).unwrap();
        std::fs::hard_link(tree.join("usr/bin/env"), tree.join("usr/bin/env2")).unwrap();
        let host = EngineHost::new(Secrets::default());
        let name = ImageName::try_from("web").unwrap();
        let facts = image_facts(&name, tree, &Registry::default(), &host).unwrap();
        assert_eq!((facts.name.as_str(), facts.arch.as_str(), facts.os["ID"].as_str()), ("web", "x86_64", "debian"));
        assert_eq!(facts.initramfs_tool.as_deref(), Some("update-initramfs"));
        let releases: Vec<&str> = facts.kernels.iter().map(|kernel| kernel.release.as_str()).collect();
        assert_eq!(releases, ["6.1.0-10", "6.1.0-9"]);
        let newest = &facts.kernels[0];
        assert_eq!(newest.initramfs, Some("/boot/initrd.img-6.1.0-10".into()));
        assert_eq!((newest.initramfs_modules.clone(), newest.has_modules), (None, true));
        assert_eq!(newest.builtin, ["loop"]);
        assert_eq!(newest.storage_aliases, [("module:ahci".to_owned(), "ahci".to_owned())]);
        assert!(!facts.kernels[1].has_modules && facts.kernels[1].initramfs.is_none());
        // Directories, files once each however many names they have, the link, the tree itself.
        assert_eq!(facts.inodes, 11 + 10 + 2);
        assert!(facts.has_init && facts.has_fstab);
        let entry = |spec: &str, file: &str, fstype: &str, options: &[&str]| FstabEntry {
            spec: spec.into(),
            file: file.into(),
            fstype: fstype.into(),
            options: options.iter().map(|it| (*it).to_owned()).collect(),
        };
        assert_eq!(
            facts.fstab,
            [
                entry("UUID=1-2", "/", "ext4", &["errors=remount-ro", "noatime"]),
                entry("/dev/sr0", "/a b", "auto", &["noauto"])
            ]
        );
        std::fs::remove_file(tree.join("usr/lib/systemd/systemd")).unwrap();
        std::fs::remove_file(tree.join("etc/fstab")).unwrap();
        let facts = image_facts(&name, tree, &Registry::default(), &host).unwrap();
        assert!(!facts.has_init, "a link that leads nowhere in the image starts nothing");
        assert!(!facts.has_fstab && facts.fstab.is_empty());
        let error = image_facts(&name, &tree.join("absent"), &Registry::default(), &host).unwrap_err();
        assert_eq!(error.to_string(), "the image web");
    }

    #[test]
    fn os_release_is_read_not_evaluated() {
        let facts = parse_os_release("ID=debian\nVERSION_ID=\"12\"\nNAME=x\n# ID=no\nPRETTY_NAME='$(reboot)'\n");
        assert_eq!(facts["ID"], "debian");
        assert_eq!(facts["VERSION_ID"], "12");
        assert_eq!(facts["PRETTY_NAME"], "$(reboot)");
        assert_eq!(facts.len(), 3);
    }

    #[test]
    fn selinux_is_on_unless_disabled() {
        for (config, on) in [
            ("", false),
            ("SELINUX=enforcing\n", true),
            ("#SELINUX=enforcing\nSELINUX=permissive\n", true),
            ("SELINUX=disabled\nSELINUXTYPE=targeted\n", false),
        ] {
            assert_eq!(selinux(config), on, "{config}");
        }
    }

    #[test]
    fn architectures_by_elf_header() {
        let mut header = [0; 20];
        header[..4].copy_from_slice(b"\x7fELF");
        (header[5], header[18]) = (1, 0x3e);
        assert_eq!(machine(&header), Some("x86_64"));
        (header[5], header[18], header[19]) = (2, 0, 0x16);
        assert_eq!(machine(&header), Some("s390x"));
        header[0] = 0;
        assert_eq!(machine(&header), None);
    }
}
