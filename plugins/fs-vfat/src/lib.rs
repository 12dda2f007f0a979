//! FAT with long names: the EFI system partition, mostly. Described by its boot sector, made with mkfs.fat(8), mounted so
//! that owners and modes, which it has none of, are no error.
//!
//! It must not look at any other type.
//! Sources: mkfs.fat(8); Documentation/filesystems/vfat.rst of the kernel; UEFI specification 2.10, section 13.3.

mod make;

use std::collections::BTreeMap;

use systemimager_core::contract::{
    FileSystem, FileSystemDescribe, FileSystemFacts, FileSystemMake, FileSystemMount, FileSystemType,
};
use systemimager_core::{
    Action, BytePath, Host, Needs, Phase, PluginError, Program, Result, Role, Step, declare_plugin,
};

/// The plugin.
pub struct Vfat;

declare_plugin! {
    kind: FileSystem,
    id: vfat,
    about: "FAT, for EFI system partitions",
    make: Vfat,
}

/// Options of fstab(5) that are mount(8)'s or init's own, stand in the way of an install, or say to whom files seem to
/// belong: while installing they are root's.
const LEFT_OUT: [&str; 26] = [
    "auto", "check", "comment", "debug", "defaults", "dirsync", "dmask", "errors", "flush", "fmask", "gid", "group",
    "nofail", "noauto", "nodev", "noexec", "nosuid", "owner", "quiet", "ro", "rw", "sync", "uid", "umask", "user",
    "users",
];

impl FileSystem for Vfat {
    fn types(&self, _: &dyn Host, (): ()) -> Result<Vec<FileSystemType>> {
        Ok(vec![FileSystemType { name: "vfat".into(), mountable: true }])
    }

    fn needs(&self, _: &dyn Host, role: Role) -> Result<Needs> {
        Ok(match role {
            Role::MasterClient => Needs { programs: vec![Program::new("blkid", "util-linux")], ..Needs::default() },
            Role::Installer => Needs {
                programs: vec![Program::new("mkfs.vfat", "dosfstools").probed(&["--help"])],
                // The kernel asks for the tables of letters by name when it mounts, which no dependency shows. Which ones
                // they are its builder chose; these are the ones of Debian, of the kernel's own defaults, and of all others.
                modules: ["vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8"].map(String::from).to_vec(),
                ..Needs::default()
            },
            Role::Server | Role::InstalledClient => Needs::default(),
        })
    }

    fn describe(&self, host: &dyn Host, request: FileSystemDescribe) -> Result<FileSystemFacts> {
        served(&request.fstype)?;
        let device = &request.device;
        let mut options = BTreeMap::new();
        match tag(host, device, "VERSION")?.as_deref().map(str::trim) {
            Some("FAT12") => options.insert(make::FAT_SIZE.to_owned(), "12".to_owned()),
            Some("FAT16") => options.insert(make::FAT_SIZE.to_owned(), "16".to_owned()),
            Some("FAT32") => options.insert(make::FAT_SIZE.to_owned(), "32".to_owned()),
            other => {
                return Err(PluginError::failed(format!(
                    "blkid calls what is on {device} {other:?}, and FAT12, FAT16 or FAT32 was expected; see that {device} \
                     holds a FAT file system (fsck.vfat -n {device})"
                )));
            }
        };
        // blkid pads nothing, but some tools leave blanks in the boot sector.
        let label = tag(host, device, "LABEL")?.map(|label| label.trim_end().to_owned()).filter(|it| !it.is_empty());
        Ok(FileSystemFacts { uuid: tag(host, device, "UUID")?, label, options })
    }

    fn plan_make(&self, _: &dyn Host, request: FileSystemMake) -> Result<Vec<Step>> {
        served(&request.filesystem.kind)?;
        make::plan(&request.filesystem, request.size)
    }

    fn plan_mount(&self, _: &dyn Host, request: FileSystemMount) -> Result<Vec<Step>> {
        let (fs, mount) = (&request.filesystem, &request.mount);
        served(&fs.kind)?;
        let at = &mount.at;
        if let Some(subvolume) = &mount.subvolume {
            return Err(PluginError::invalid(format!(
                "the mount at {at} names the subvolume {subvolume}, and {} has no subvolumes; leave it out",
                fs.kind
            )));
        }
        if mount.options.chars().any(char::is_control) {
            return Err(PluginError::invalid(format!(
                "the options {:?} of the mount at {at} hold control characters; correct them",
                mount.options
            )));
        }
        let action = Action::Mount {
            node: fs.node.clone(),
            at: at.clone(),
            fstype: fs.kind.clone(),
            options: wanted(&mount.options),
        };
        Ok(vec![Step::new(Phase::Mount, format!("mount {} at {at}", fs.node), action)])
    }
}

/// With `quiet` the kernel takes owners and modes that it cannot keep without an error, as a pull of a tree sets them;
/// and a file system with an error in it is stopped, so that the install fails instead of going on.
fn wanted(options: &str) -> String {
    let keep = |option: &&str| {
        let name = option.split('=').next().unwrap_or(option);
        !name.is_empty() && !name.starts_with("x-") && !name.starts_with("X-") && !LEFT_OUT.contains(&name)
    };
    let own = ["quiet", "errors=remount-ro"];
    options.split(',').map(str::trim).filter(keep).chain(own).collect::<Vec<_>>().join(",")
}

/// What blkid(8) says of a device; `None`: it has no such thing. One tag a call, as a bare value and without encoding:
/// all other forms put backslashes before blanks.
fn tag(host: &dyn Host, device: &BytePath, tag: &str) -> Result<Option<String>> {
    let words = ["-p", "-d", "-o", "value", "-s", tag].map(BytePath::from);
    let output = host.run("blkid", &words.into_iter().chain([device.clone()]).collect::<Vec<_>>())?;
    let Ok(text) = output.stdout.text() else {
        return Err(PluginError::failed(format!(
            "the {tag} of {device} is not UTF-8, and a master file cannot hold it; give it another with fatlabel"
        )));
    };
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn served(kind: &str) -> Result<()> {
    if kind == "vfat" {
        return Ok(());
    }
    Err(PluginError::unsupported(format!("{kind:?} is not vfat; it needs a plugin that serves it")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::{RecordedHost, assert_conforms};
    use systemimager_core::{ErrorKind, FileSystemLayout, MountLayout, NodeName};

    #[test]
    fn keeps_the_contract() {
        assert_conforms();
    }

    fn described(version: &str, label: impl Into<systemimager_core::Bytes>) -> Result<FileSystemFacts> {
        let host = RecordedHost::new()
            .tool("blkid -p -d -o value -s VERSION /dev/vda1", version)
            .tool("blkid -p -d -o value -s LABEL /dev/vda1", label)
            .tool("blkid -p -d -o value -s UUID /dev/vda1", "ABCD-1234\n");
        Vfat.describe(&host, FileSystemDescribe { device: "/dev/vda1".into(), fstype: "vfat".into() })
    }

    #[test]
    fn described_by_blkid() {
        for (version, label, size, expected) in [
            ("FAT32\n", "EFI  \n", "32", Some("EFI")),
            ("FAT16\n", "", "16", None),
            ("FAT12\n", "my esp\n", "12", Some("my esp")),
        ] {
            let facts = described(version, label).unwrap();
            assert_eq!((facts.uuid.as_deref(), facts.label.as_deref()), (Some("ABCD-1234"), expected));
            assert_eq!(facts.options["fat_size"], size);
        }
        for (name, version, label, says) in [
            ("no FAT", "", "".into(), "blkid calls what is on /dev/vda1 None, and FAT12, FAT16 or FAT32 was expected"),
            ("label", "FAT32\n", vec![0xff], "the LABEL of /dev/vda1 is not UTF-8"),
        ] {
            let error = described(version, label).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Failed, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn owners_and_modes_are_no_error_while_installing() {
        let node = NodeName::try_from("boot-efi").unwrap();
        let fs = FileSystemLayout::new(node.clone(), NodeName::try_from("disk0p1").unwrap(), "vfat");
        for (given, expected) in [
            ("", "quiet,errors=remount-ro"),
            ("umask=0077,shortname=winnt,x-systemd.automount,ro,noauto", "shortname=winnt,quiet,errors=remount-ro"),
            ("iocharset=utf8,uid=5,gid=6,fmask=0133", "iocharset=utf8,quiet,errors=remount-ro"),
        ] {
            let mount = MountLayout { options: given.into(), ..MountLayout::new(node.clone(), "/boot/efi") };
            let steps =
                Vfat.plan_mount(&RecordedHost::new(), FileSystemMount { filesystem: fs.clone(), mount }).unwrap();
            let Action::Mount { fstype, options, .. } = &steps[0].action else { panic!("{steps:?}") };
            assert_eq!((fstype.as_str(), options.as_str()), ("vfat", expected), "{given}");
        }
        let mut mount = MountLayout::new(node, "/boot/efi");
        mount.subvolume = Some("@".into());
        let error = Vfat.plan_mount(&RecordedHost::new(), FileSystemMount { filesystem: fs, mount }).unwrap_err();
        assert!(error.message.contains("vfat has no subvolumes"), "{error}");
    }
}
