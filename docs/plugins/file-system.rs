//! JFS: described with blkid(8), made with mkfs.jfs(8) and given its UUID by jfs_tune(8), mounted by type.
//!
//! Change `TYPE`, `needs`, `describe` and `plan_make` for the file system that you serve.

use std::collections::BTreeMap;

use systemimager_core::contract::{
    FileSystem, FileSystemDescribe, FileSystemFacts, FileSystemMake, FileSystemMount, FileSystemType,
};
use systemimager_core::{
    Action, Arg, BytePath, Host, Needs, Phase, PluginError, Program, Result, Role, Step, declare_plugin,
};

/// The plugin. It has no state: every answer comes from the request, or is read through the host.
pub struct Plugin;

declare_plugin! {
    kind: FileSystem,
    id: jfs,
    about: "the JFS file system",
    make: Plugin,
}

/// The type that it serves, as in fstab(5) and mount(8).
const TYPE: &str = "jfs";
/// Longest label that its superblock holds, in bytes.
const LONGEST_LABEL: usize = 16;

impl FileSystem for Plugin {
    fn types(&self, _: &dyn Host, (): ()) -> Result<Vec<FileSystemType>> {
        Ok(vec![FileSystemType { name: TYPE.into(), mountable: true }])
    }

    /// The installer gets exactly what is named here. `-V` is what both programs are tried with, once, before any
    /// disk is touched: it has to end with status 0 and change nothing.
    fn needs(&self, _: &dyn Host, role: Role) -> Result<Needs> {
        Ok(match role {
            Role::MasterClient => Needs { programs: vec![Program::new("blkid", "util-linux")], ..Needs::default() },
            Role::Installer => Needs {
                programs: vec![
                    Program::new("mkfs.jfs", "jfsutils").probed(&["-V"]),
                    Program::new("jfs_tune", "jfsutils").probed(&["-V"]),
                ],
                modules: vec!["jfs".into()],
                ..Needs::default()
            },
            Role::Server | Role::InstalledClient => Needs::default(),
        })
    }

    /// Runs on the master client. What is put into `options` comes back in [`FileSystemMake`], by way of the master
    /// file, where an administrator sees it.
    fn describe(&self, host: &dyn Host, request: FileSystemDescribe) -> Result<FileSystemFacts> {
        served(&request.fstype)?;
        let mut args: Vec<BytePath> = vec!["-p".into(), "-o".into(), "export".into()];
        args.push(request.device);
        let output = host.run("blkid", &args)?;
        let text = output.stdout.lossy();
        let field =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(String::from);
        Ok(FileSystemFacts { uuid: field("UUID"), label: field("LABEL"), options: BTreeMap::new() })
    }

    /// Pure: the same request gives the same steps.
    fn plan_make(&self, _: &dyn Host, request: FileSystemMake) -> Result<Vec<Step>> {
        let fs = request.filesystem;
        served(&fs.kind)?;
        if let Some(option) = fs.options.keys().next() {
            return Err(PluginError::invalid(format!(
                "the file system {} has the option {option:?}, and {TYPE} has none here; take it out of the master",
                fs.node
            )));
        }

        let mut argv = Arg::words(["mkfs.jfs", "-q"]);
        if let Some(label) = &fs.label {
            if label.is_empty() || label.len() > LONGEST_LABEL || label.chars().any(char::is_control) {
                return Err(PluginError::invalid(format!(
                    "the label {label:?} of {} is not 1 to {LONGEST_LABEL} bytes without control characters; change it",
                    fs.node
                )));
            }
            argv.extend(Arg::words(["-L", label]));
        }
        // The node, not a device: which disk it is on is known only on the machine.
        argv.push(Arg::Device(fs.on.clone()));
        let what = format!("make the {TYPE} file system {}", fs.node);
        let make = Step::new(Phase::Format, what, Action::Run { argv, stdin: None });
        let mut steps = vec![make.destroying([fs.on.clone()]).providing([fs.node.clone()])];

        // fstab names the UUID that the file system had on the master client: it is given again.
        if let Some(uuid) = fs.uuid.as_deref().filter(|_| !fs.new_uuid) {
            if !is_uuid(uuid) {
                return Err(PluginError::invalid(format!(
                    "the uuid {uuid:?} of {} is none (8-4-4-4-12 hexadecimal digits); correct it or take it out",
                    fs.node
                )));
            }
            let mut argv = Arg::words(["jfs_tune", "-U", uuid]);
            argv.push(Arg::Device(fs.on.clone()));
            let what = format!("give {} its UUID", fs.node);
            steps.push(Step::new(Phase::Format, what, Action::Run { argv, stdin: None }));
        }
        Ok(steps)
    }

    fn plan_mount(&self, _: &dyn Host, request: FileSystemMount) -> Result<Vec<Step>> {
        let (fs, mount) = (request.filesystem, request.mount);
        served(&fs.kind)?;
        let what = format!("mount {} at {}", fs.node, mount.at);
        let action = Action::Mount { node: fs.node, at: mount.at, fstype: TYPE.into(), options: mount.options };
        Ok(vec![Step::new(Phase::Mount, what, action)])
    }
}

fn served(kind: &str) -> Result<()> {
    if kind == TYPE {
        return Ok(());
    }
    Err(PluginError::unsupported(format!("{kind:?} is not {TYPE}; it needs a plugin that serves it")))
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(hex)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use systemimager_core::testing::{RecordedHost, assert_conforms};

    use super::*;

    #[test]
    fn keeps_the_contract() {
        assert_conforms();
    }

    #[test]
    fn is_described_and_made_the_same_again() {
        let uuid = "b8f08195-d958-4ccd-bfed-b00eee31ffd5";
        let host = RecordedHost::new()
            .tool("blkid -p -o export /dev/vdb1", format!("DEVNAME=/dev/vdb1\nLABEL=data\nUUID={uuid}\nTYPE=jfs\n"));
        let request = FileSystemDescribe { device: "/dev/vdb1".into(), fstype: TYPE.into() };
        let facts = Plugin.describe(&host, request).unwrap();

        // From JSON: fields that a later version of the contract appends do not break the test.
        let request = serde_json::from_value(json!({
            "filesystem": {"node": "data", "on": "disk0p1", "type": TYPE, "uuid": facts.uuid, "label": facts.label},
            "image": {"name": "web", "arch": "x86_64"},
        }));
        let steps = Plugin.plan_make(&host, request.unwrap()).unwrap();
        let device = |words: &[&str]| {
            let mut argv = Arg::words(words.iter().copied());
            argv.push(Arg::Device("disk0p1".parse().unwrap()));
            Action::Run { argv, stdin: None }
        };
        assert_eq!(steps[0].action, device(&["mkfs.jfs", "-q", "-L", "data"]));
        assert_eq!(steps[1].action, device(&["jfs_tune", "-U", uuid]));
    }
}
