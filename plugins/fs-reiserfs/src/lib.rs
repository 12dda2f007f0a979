//! reiserfs: described by its superblock, made with mkreiserfs(8), mounted by type.
//!
//! Kernels have begun to lack it (Linux 6.13 has it no more): whether this machine's and the image's have it is the
//! engine's to see. It must not look at any other type.

use std::collections::BTreeMap;

use systemimager_core::contract::{
    FileSystem, FileSystemDescribe, FileSystemFacts, FileSystemMake, FileSystemMount, FileSystemType,
};
use systemimager_core::{
    Action, Arg, BytePath, FileSystemLayout, Host, Needs, Phase, PluginError, Program, Result, Role, Size, Step,
    declare_plugin,
};

/// The plugin.
pub struct Reiserfs;

declare_plugin! {
    kind: FileSystem,
    id: reiserfs,
    about: "reiserfs",
    make: Reiserfs,
}

/// The option that says which format of the disk it has: 3.5 or 3.6.
const FORMAT: &str = "format";
/// Longest label, bytes.
const LONGEST_LABEL: usize = 16;
/// Journal (8193 blocks), superblock, the first bitmap and 64 KiB before it, with room for a tree: mkreiserfs refuses less.
const SMALLEST: Size = Size(33 << 20);
/// Options of fstab(5) that are mount(8)'s or init's own, or that stand in the way of an install.
const LEFT_OUT: [&str; 17] = [
    "auto", "comment", "defaults", "dirsync", "group", "nofail", "noauto", "nodev", "noexec", "nosuid", "owner", "ro",
    "rw", "sync", "user", "users", "_netdev",
];

impl FileSystem for Reiserfs {
    fn types(&self, _: &dyn Host, (): ()) -> Result<Vec<FileSystemType>> {
        Ok(vec![FileSystemType { name: "reiserfs".into(), mountable: true }])
    }

    fn needs(&self, _: &dyn Host, role: Role) -> Result<Needs> {
        Ok(match role {
            Role::MasterClient => Needs { programs: vec![Program::new("blkid", "util-linux")], ..Needs::default() },
            Role::Installer => Needs {
                programs: vec![Program::new("mkreiserfs", "reiserfsprogs").probed(&["-V"])],
                modules: vec!["reiserfs".into()],
                ..Needs::default()
            },
            Role::Server | Role::InstalledClient => Needs::default(),
        })
    }

    fn describe(&self, host: &dyn Host, request: FileSystemDescribe) -> Result<FileSystemFacts> {
        served(&request.fstype)?;
        let device = &request.device;
        let format = match tag(host, device, "VERSION")?.as_deref().map(str::trim) {
            // JR: the journal is elsewhere or of another size; it is made with one of its own.
            Some("3.6" | "JR" | "JRFs") => "3.6",
            Some("3.5") => "3.5",
            other => {
                return Err(PluginError::failed(format!(
                    "blkid finds the version {other:?} on {device}, and a reiserfs has 3.5 or 3.6; see that {device} holds \
                     a reiserfs (debugreiserfs {device}); Reiser4 is another file system"
                )));
            }
        };
        let options = BTreeMap::from([(FORMAT.to_owned(), format.to_owned())]);
        Ok(FileSystemFacts { uuid: tag(host, device, "UUID")?, label: tag(host, device, "LABEL")?, options })
    }

    fn plan_make(&self, _: &dyn Host, request: FileSystemMake) -> Result<Vec<Step>> {
        served(&request.filesystem.kind)?;
        make(&request.filesystem, request.size)
    }

    fn plan_mount(&self, _: &dyn Host, request: FileSystemMount) -> Result<Vec<Step>> {
        let (fs, mount) = (&request.filesystem, &request.mount);
        served(&fs.kind)?;
        let at = &mount.at;
        if let Some(subvolume) = &mount.subvolume {
            return Err(PluginError::invalid(format!(
                "the mount at {at} names the subvolume {subvolume}, and reiserfs has no subvolumes; leave it out"
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

/// ACLs and attributes of users are asked for where nobody says otherwise: a pull sets those that the image has, and a
/// kernel that lacks them passes the words over (Documentation/filesystems, reiserfs: `acl`, `user_xattr`).
fn wanted(options: &str) -> String {
    let keep = |option: &&str| {
        let name = option.split('=').next().unwrap_or(option);
        !name.is_empty() && !name.starts_with("x-") && !name.starts_with("X-") && !LEFT_OUT.contains(&name)
    };
    let mut words: Vec<&str> = options.split(',').map(str::trim).filter(keep).collect();
    for (own, other) in [("acl", "noacl"), ("user_xattr", "nouser_xattr")] {
        if !words.contains(&own) && !words.contains(&other) {
            words.push(own);
        }
    }
    words.join(",")
}

fn make(fs: &FileSystemLayout, size: Option<Size>) -> Result<Vec<Step>> {
    let invalid = |why: String| PluginError::invalid(format!("the file system {} {why}", fs.node));
    if let Some(size) = size.filter(|size| *size < SMALLEST) {
        return Err(invalid(format!(
            "is to be a reiserfs on {size}, and one takes {SMALLEST} at least; make it larger"
        )));
    }
    // Forced twice it asks nothing.
    let mut argv = Arg::words(["mkreiserfs", "-q", "-f", "-f"]);
    if let Some(unknown) = fs.options.keys().find(|key| *key != FORMAT) {
        return Err(invalid(format!("has the option {unknown:?}; reiserfs knows {FORMAT} only, take the other out")));
    }
    if let Some(format) = fs.options.get(FORMAT) {
        if !["3.5", "3.6"].contains(&format.as_str()) {
            return Err(invalid(format!("is to have format = {format:?}; a reiserfs has 3.5 or 3.6")));
        }
        argv.extend(Arg::words(["--format", format]));
    }
    let old = fs.options.get(FORMAT).is_some_and(|format| format == "3.5");
    if let Some(uuid) = fs.uuid.as_deref().filter(|_| !fs.new_uuid && !old) {
        if !is_uuid(uuid) {
            return Err(invalid(format!("is to have the UUID {uuid:?}, which is none; correct it")));
        }
        argv.extend(Arg::words(["--uuid", uuid]));
    }
    if let Some(label) = fs.label.as_deref().filter(|_| !old) {
        if label.is_empty() || label.len() > LONGEST_LABEL || label.chars().any(char::is_control) {
            return Err(invalid(format!(
                "is to have the label {label:?}; that of a reiserfs has 1 to {LONGEST_LABEL} bytes without control characters"
            )));
        }
        argv.extend(Arg::words(["--label", label]));
    }
    argv.push(Arg::Device(fs.on.clone()));
    Ok(vec![
        Step::new(Phase::Format, format!("make the reiserfs {}", fs.node), Action::Run { argv, stdin: None })
            .destroying([fs.on.clone()])
            .providing([fs.node.clone()]),
    ])
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// What blkid(8) says of a device; `None`: it has no such thing. One tag a call, as a bare value and without encoding:
/// all other forms put backslashes before blanks.
fn tag(host: &dyn Host, device: &BytePath, tag: &str) -> Result<Option<String>> {
    let words = ["-p", "-d", "-o", "value", "-s", tag].map(BytePath::from);
    let output = host.run("blkid", &words.into_iter().chain([device.clone()]).collect::<Vec<_>>())?;
    let Ok(text) = output.stdout.text() else {
        return Err(PluginError::failed(format!(
            "the {tag} of {device} is not UTF-8, and a master file cannot hold it; give it another with reiserfstune"
        )));
    };
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn served(kind: &str) -> Result<()> {
    if kind == "reiserfs" {
        return Ok(());
    }
    Err(PluginError::unsupported(format!("{kind:?} is not reiserfs; it needs a plugin that serves it")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::{RecordedHost, assert_conforms};
    use systemimager_core::{ErrorKind, MountLayout, NodeName};

    const UUID: &str = "b8f08195-d958-4ccd-bfed-b00eee31ffd5";

    #[test]
    fn keeps_the_contract() {
        assert_conforms();
    }

    fn layout(uuid: Option<&str>, label: Option<&str>, options: &[(&str, &str)]) -> FileSystemLayout {
        let node = |name: &str| NodeName::try_from(name).unwrap();
        FileSystemLayout {
            uuid: uuid.map(str::to_owned),
            label: label.map(str::to_owned),
            options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..FileSystemLayout::new(node("root"), node("disk0p1"), "reiserfs")
        }
    }

    #[test]
    fn made_as_it_was() {
        let force = ["mkreiserfs", "-q", "-f", "-f"];
        for (name, fs, more) in [
            ("plain", layout(None, None, &[]), vec![]),
            (
                "all",
                layout(Some(UUID), Some("my root"), &[("format", "3.6")]),
                vec!["--format", "3.6", "--uuid", UUID, "--label", "my root"],
            ),
            // The old format has neither.
            ("old", layout(Some(UUID), Some("x"), &[("format", "3.5")]), vec!["--format", "3.5"]),
            ("a new UUID", FileSystemLayout { new_uuid: true, ..layout(Some(UUID), None, &[]) }, vec![]),
        ] {
            let steps = make(&fs, Some(Size(1 << 30))).unwrap();
            let mut expected = Arg::words(force);
            expected.extend(Arg::words(more));
            expected.push(Arg::Device(fs.on.clone()));
            assert_eq!(steps[0].action, Action::Run { argv: expected, stdin: None }, "{name}");
        }
    }

    #[test]
    fn what_it_cannot_be_is_refused() {
        for (name, fs, size, says) in [
            ("small", layout(None, None, &[]), 32, "one takes 33 MiB at least"),
            ("uuid", layout(Some("ABCD-1234"), None, &[]), 64, "\"ABCD-1234\", which is none"),
            ("label", layout(None, Some("seventeen letters"), &[]), 64, "1 to 16 bytes"),
            ("option", layout(None, None, &[("hash", "tea")]), 64, "reiserfs knows format only"),
            ("format", layout(None, None, &[("format", "4")]), 64, "a reiserfs has 3.5 or 3.6"),
        ] {
            let error = make(&fs, Some(Size(size << 20))).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn mounted_with_what_a_pull_needs() {
        let fs = layout(None, None, &[]);
        for (given, expected) in [
            ("", "acl,user_xattr"),
            ("notail,noatime,ro,x-a", "notail,noatime,acl,user_xattr"),
            ("noacl,user_xattr", "noacl,user_xattr"),
        ] {
            let mount = MountLayout { options: given.into(), ..MountLayout::new(fs.node.clone(), "/") };
            let request = FileSystemMount { filesystem: fs.clone(), mount };
            let steps = Reiserfs.plan_mount(&RecordedHost::new(), request).unwrap();
            let Action::Mount { options, .. } = &steps[0].action else { panic!("{steps:?}") };
            assert_eq!(options, expected, "{given}");
        }
    }

    #[test]
    fn described_by_blkid() {
        let described = |version: &str| {
            let host = RecordedHost::new()
                .tool("blkid -p -d -o value -s VERSION /dev/vda2", version)
                .tool("blkid -p -d -o value -s LABEL /dev/vda2", "root\n")
                .tool("blkid -p -d -o value -s UUID /dev/vda2", format!("{UUID}\n"));
            Reiserfs.describe(&host, FileSystemDescribe { device: "/dev/vda2".into(), fstype: "reiserfs".into() })
        };
        let facts = described("3.6\n").unwrap();
        assert_eq!((facts.uuid.as_deref(), facts.label.as_deref()), (Some(UUID), Some("root")));
        assert_eq!(facts.options["format"], "3.6");
        let error = described("4.0.0\n").unwrap_err();
        assert!(error.message.contains("version Some(\"4.0.0\") on /dev/vda2"), "{error}");
    }
}
