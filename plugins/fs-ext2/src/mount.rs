//! Mounting a file system below the target.

use systemimager_core::{Action, FileSystemLayout, MountLayout, Phase, PluginError, Result, Step};

/// Options of fstab(5) that are mount(8)'s or init's own, or that stand in the way of an install: the tree
/// must be writable at full speed, programs in it must run, and quota files are not there yet.
const LEFT_OUT: [&str; 30] = [
    "auto",
    "comment",
    "defaults",
    "dirsync",
    "group",
    "grpjquota",
    "grpquota",
    "jqfmt",
    "mand",
    "nofail",
    "noauto",
    "nodev",
    "noexec",
    "nogroup",
    "noowner",
    "nosuid",
    "nouser",
    "nousers",
    "owner",
    "pri",
    "prjquota",
    "quota",
    "ro",
    "rw",
    "sync",
    "user",
    "users",
    "usrjquota",
    "usrquota",
    "_netdev",
];

/// The step that mounts it.
pub fn plan(fs: &FileSystemLayout, mount: &MountLayout) -> Result<Vec<Step>> {
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

/// What an image's fstab says of errors is for the machine later: while installing, a file system with an error in it is
/// stopped, so that the install fails instead of going on.
const ON_ERRORS: &str = "errors=remount-ro";

fn wanted(options: &str) -> String {
    let keep = |option: &&str| {
        let name = option.split('=').next().unwrap_or(option);
        !name.is_empty()
            && name != "errors"
            && !name.starts_with("x-")
            && !name.starts_with("X-")
            && !LEFT_OUT.contains(&name)
    };
    options.split(',').map(str::trim).filter(keep).chain([ON_ERRORS]).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use systemimager_core::NodeName;

    fn mount(options: &str) -> (FileSystemLayout, MountLayout) {
        let node = NodeName::try_from("root").unwrap();
        let fs = FileSystemLayout {
            node: node.clone(),
            on: NodeName::try_from("disk0p1").unwrap(),
            kind: "ext4".into(),
            uuid: None,
            new_uuid: false,
            label: None,
            options: BTreeMap::new(),
        };
        (fs, MountLayout { node, at: "/srv".into(), options: options.into(), subvolume: None })
    }

    #[test]
    fn options_are_for_the_install() {
        for (given, expected) in [
            ("", "errors=remount-ro"),
            ("defaults", "errors=remount-ro"),
            ("errors=continue,noatime", "noatime,errors=remount-ro"),
            ("ro,noauto,user,noexec,acl, user_xattr", "acl,user_xattr,errors=remount-ro"),
            ("nofail,x-systemd.device-timeout=5,_netdev,noatime,,comment=a", "noatime,errors=remount-ro"),
            ("usrjquota=aquota.user,jqfmt=vfsv1,data=journal", "data=journal,errors=remount-ro"),
        ] {
            let (fs, mount) = mount(given);
            let steps = plan(&fs, &mount).unwrap();
            let expected = Action::Mount {
                node: fs.node.clone(),
                at: "/srv".into(),
                fstype: "ext4".into(),
                options: expected.into(),
            };
            assert_eq!((steps.len(), &steps[0].action), (1, &expected), "{given}");
            assert_eq!((steps[0].phase, steps[0].what.as_str()), (Phase::Mount, "mount root at /srv"));
        }
    }

    #[test]
    fn what_cannot_be_mounted_is_refused() {
        let (fs, mut mount) = mount("a\nb");
        assert!(plan(&fs, &mount).unwrap_err().message.contains("hold control characters"));
        mount.options.clear();
        mount.subvolume = Some("@".into());
        assert!(plan(&fs, &mount).unwrap_err().message.contains("ext4 has no subvolumes"));
    }
}
