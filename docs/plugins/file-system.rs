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
        let device = &request.device;
        let (uuid, label) = (tag(host, device, "UUID")?, tag(host, device, "LABEL")?);
        Ok(FileSystemFacts { uuid, label, options: BTreeMap::new() })
    }

    /// Pure: the same request gives the same steps.
    fn plan_make(&self, _: &dyn Host, request: FileSystemMake) -> Result<Vec<Step>> {
        let fs = request.filesystem;
        served(&fs.kind)?;
        if let Some(option) = fs.options.keys().next() {
            // The engine puts "file system NODE: " before it.
            return Err(PluginError::invalid(format!(
                "there is the option {option:?}, and {TYPE} has none here; take it out of the master"
            )));
        }

        let mut argv = Arg::words(["mkfs.jfs", "-q"]);
        if let Some(label) = &fs.label {
            if label.is_empty() || label.len() > LONGEST_LABEL || label.chars().any(char::is_control) {
                return Err(PluginError::invalid(format!(
                    "the label {label:?} is not 1 to {LONGEST_LABEL} bytes without control characters; change it"
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
                    "the uuid {uuid:?} is none (8-4-4-4-12 hexadecimal digits); correct it or take it out"
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

/// What blkid says of a device; `None`: it has no such thing. One tag a call, as a bare value and without encoding
/// (`-d`): other forms put backslashes before blanks, and a label with a line break could look like another tag.
fn tag(host: &dyn Host, device: &BytePath, tag: &str) -> Result<Option<String>> {
    let mut args = ["-p", "-d", "-o", "value", "-s", tag].map(BytePath::from).to_vec();
    args.push(device.clone());
    let output = host.run("blkid", &args)?;
    let Ok(text) = output.stdout.text() else {
        return Err(PluginError::failed(format!(
            "the {tag} of {device} is not UTF-8, and a master cannot hold it; give it another"
        )));
    };
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok((!text.is_empty()).then(|| text.to_owned()))
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
            .tool("blkid -p -d -o value -s UUID /dev/vdb1", format!("{uuid}\n"))
            .tool("blkid -p -d -o value -s LABEL /dev/vdb1", "my \"data\"\n");
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
        assert_eq!(steps[0].action, device(&["mkfs.jfs", "-q", "-L", "my \"data\""]));
        assert_eq!(steps[1].action, device(&["jfs_tune", "-U", uuid]));
    }
}
