//! Swap space: described by its header, made anew with the same UUID and label, never mounted while installing.
//!
//! It must not look at anything but swap: file systems have plugins of their own.

use std::collections::BTreeMap;

use systemimager_core::contract::{
    FileSystem, FileSystemDescribe, FileSystemFacts, FileSystemMake, FileSystemMount, FileSystemType,
};
use systemimager_core::{
    Action, Arg, BytePath, Host, Needs, Phase, PluginError, Program, Result, Role, Step, declare_plugin,
};

/// The plugin.
pub struct Swap;

declare_plugin! {
    kind: FileSystem,
    id: swap,
    about: "swap space",
    make: Swap,
}

/// Longest label that mkswap(8) takes, in bytes.
const LONGEST_LABEL: usize = 15;

impl FileSystem for Swap {
    fn types(&self, _: &dyn Host, (): ()) -> Result<Vec<FileSystemType>> {
        Ok(vec![FileSystemType { name: "swap".into(), mountable: false }])
    }

    fn needs(&self, _: &dyn Host, role: Role) -> Result<Needs> {
        Ok(match role {
            Role::Installer => Needs { programs: vec![Program::new("mkswap", "util-linux")], ..Needs::default() },
            Role::MasterClient => Needs { programs: vec![Program::new("blkid", "util-linux")], ..Needs::default() },
            Role::Server | Role::InstalledClient => Needs::default(),
        })
    }

    fn describe(&self, host: &dyn Host, request: FileSystemDescribe) -> Result<FileSystemFacts> {
        only_swap(&request.fstype)?;
        let device = &request.device;
        let (uuid, label) = (tag(host, device, "UUID")?, tag(host, device, "LABEL")?);
        Ok(FileSystemFacts { uuid, label, options: BTreeMap::new() })
    }

    fn plan_make(&self, _: &dyn Host, request: FileSystemMake) -> Result<Vec<Step>> {
        let fs = request.filesystem;
        only_swap(&fs.kind)?;
        let mut argv = Arg::words(["mkswap", "--force"]);
        if let Some(uuid) = fs.uuid.as_deref().filter(|_| !fs.new_uuid) {
            if uuid.is_empty() || !uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
                return Err(PluginError::invalid(format!("the uuid {uuid:?} of {} is none; correct it", fs.node)));
            }
            argv.extend(Arg::words(["--uuid", uuid]));
        }
        if let Some(label) = &fs.label {
            if label.len() > LONGEST_LABEL || label.contains('\0') {
                return Err(PluginError::invalid(format!(
                    "the label {label:?} of {} is longer than the {LONGEST_LABEL} bytes that swap space holds, or has a \
                     NUL; shorten it",
                    fs.node
                )));
            }
            argv.extend(Arg::words(["--label", label]));
        }
        argv.push(Arg::Device(fs.on.clone()));
        Ok(vec![
            Step::new(Phase::Format, format!("make swap space {}", fs.node), Action::Run { argv, stdin: None })
                .destroying([fs.on])
                .providing([fs.node]),
        ])
    }

    fn plan_mount(&self, _: &dyn Host, _: FileSystemMount) -> Result<Vec<Step>> {
        Ok(Vec::new())
    }
}

/// What blkid(8) says of a device; `None`: it has no such thing. One tag a call, as a bare value and without encoding:
/// all other forms put backslashes before blanks, and a label with a line break could look like another tag.
fn tag(host: &dyn Host, device: &BytePath, tag: &str) -> Result<Option<String>> {
    let words = ["-p", "-d", "-o", "value", "-s", tag].map(BytePath::from);
    let output = host.run("blkid", &words.into_iter().chain([device.clone()]).collect::<Vec<_>>())?;
    let Ok(text) = output.stdout.text() else {
        return Err(PluginError::failed(format!(
            "the {tag} of {device} is not UTF-8, and a master file cannot hold it; give it another with swaplabel"
        )));
    };
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn only_swap(kind: &str) -> Result<()> {
    if kind == "swap" {
        return Ok(());
    }
    Err(PluginError::unsupported(format!("{kind} is not swap space; it needs a plugin that serves {kind}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{FileSystemLayout, ImageFacts, NodeName};

    fn layout(label: Option<&str>, new_uuid: bool) -> FileSystemLayout {
        FileSystemLayout {
            node: NodeName::try_from("swap").unwrap(),
            on: NodeName::try_from("disk0p2").unwrap(),
            kind: "swap".into(),
            uuid: Some("ae1a4b9c-0000-4000-8000-000000000001".into()),
            new_uuid,
            label: label.map(str::to_owned),
            options: BTreeMap::new(),
        }
    }

    #[test]
    fn made_with_uuid_and_label() {
        let uuid = "ae1a4b9c-0000-4000-8000-000000000001";
        let device = Arg::Device(NodeName::try_from("disk0p2").unwrap());
        let rows: [(&str, Option<&str>, bool, Vec<&str>); 3] = [
            ("plain", None, false, vec!["mkswap", "--force", "--uuid", uuid]),
            ("label", Some("-x"), false, vec!["mkswap", "--force", "--uuid", uuid, "--label", "-x"]),
            ("new uuid", None, true, vec!["mkswap", "--force"]),
        ];
        for (name, label, new_uuid, words) in rows {
            let request = FileSystemMake {
                filesystem: layout(label, new_uuid),
                image: ImageFacts::default(),
                boot_loader: None,
                size: None,
            };
            let steps = Swap.plan_make(&RecordedHost::new(), request).unwrap();
            let mut expected = Arg::words(words);
            expected.push(device.clone());
            assert_eq!(steps[0].action, Action::Run { argv: expected, stdin: None }, "{name}");
        }
    }

    #[test]
    fn too_long_a_label_is_refused() {
        let request = FileSystemMake {
            filesystem: layout(Some(&"x".repeat(16)), false),
            image: ImageFacts::default(),
            boot_loader: None,
            size: None,
        };
        let error = Swap.plan_make(&RecordedHost::new(), request).unwrap_err();
        assert!(error.message.contains("longer than the 15 bytes"), "{error}");
    }

    fn described(label: impl Into<systemimager_core::Bytes>) -> Result<FileSystemFacts> {
        let host = RecordedHost::new()
            .tool("blkid -p -d -o value -s UUID /dev/vda2", "1-2\n")
            .tool("blkid -p -d -o value -s LABEL /dev/vda2", label);
        Swap.describe(&host, FileSystemDescribe { device: "/dev/vda2".into(), fstype: "swap".into() })
    }

    #[test]
    fn described_by_blkid() {
        for (said, label) in
            [("sw\n", Some("sw")), ("my \"s\\ é\n", Some("my \"s\\ é")), ("a\nUUID=3\n", Some("a\nUUID=3")), ("", None)]
        {
            let facts = described(said).unwrap();
            assert_eq!((facts.uuid.as_deref(), facts.label.as_deref()), (Some("1-2"), label));
        }
        let error = described(vec![0xff, b'\n']).unwrap_err();
        assert!(error.message.contains("the LABEL of /dev/vda2 is not UTF-8"), "{error}");
    }

    /// With the blkid and mkswap of this machine.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test runs the programs, as the engine would")]
    fn a_label_comes_back_as_it_was_given() {
        use std::process::Command;
        let dir = std::env::temp_dir().join(format!("systemimager-swap-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("swap");
        std::fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
        let label = "a  \"b\\ $c é";
        let made = Command::new("mkswap").args(["--label", label]).arg(&file).output();
        let words = ["-p", "-d", "-o", "value", "-s", "LABEL"];
        let said = Command::new("blkid").args(words).arg(&file).output();
        std::fs::remove_dir_all(&dir).unwrap();
        let (Ok(made), Ok(said)) = (made, said) else {
            println!("SKIPPED: a_label_comes_back_as_it_was_given: mkswap and blkid are not both here");
            return;
        };
        assert!(made.status.success(), "{made:?}");
        assert_eq!(described(said.stdout).unwrap().label.as_deref(), Some(label));
    }
}
