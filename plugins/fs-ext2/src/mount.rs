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
        options: wanted(&mount.options, has_journal(fs)),
    };
    Ok(vec![Step::new(Phase::Mount, format!("mount {} at {at}", fs.node), action)])
}

/// What an image's fstab says of errors is for the machine later: while installing, a file system with an error in it is
/// stopped, so that the install fails instead of going on.
const ON_ERRORS: &str = "errors=remount-ro";
/// And so is one whose disk did not take what is in its files (ext4(5), for file systems with a journal only).
const ON_DATA_ERRORS: &str = "data_err=abort";

/// It is made with a journal: ext2 never is, the others unless their features leave it out.
fn has_journal(fs: &FileSystemLayout) -> bool {
    let features = fs.options.get("features");
    fs.kind != "ext2" && features.is_none_or(|it| it.split([' ', ',']).any(|word| word == "has_journal"))
}

fn wanted(options: &str, has_journal: bool) -> String {
    let keep = |option: &&str| {
        let name = option.split('=').next().unwrap_or(option);
        !name.is_empty()
            && name != "errors"
            && name != "data_err"
            && !name.starts_with("x-")
            && !name.starts_with("X-")
            && !LEFT_OUT.contains(&name)
    };
    let on_errors = [ON_ERRORS].into_iter().chain(has_journal.then_some(ON_DATA_ERRORS));
    options.split(',').map(str::trim).filter(keep).chain(on_errors).collect::<Vec<_>>().join(",")
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
    fn without_a_journal_there_is_nothing_to_abort() {
        for (kind, features, expected) in [
            ("ext2", None, "errors=remount-ro"),
            ("ext3", None, "errors=remount-ro,data_err=abort"),
            ("ext4", Some("has_journal extent"), "errors=remount-ro,data_err=abort"),
            ("ext4", Some("extent"), "errors=remount-ro"),
        ] {
            let (mut fs, mount) = mount("");
            fs.kind = kind.into();
            fs.options = features.map(|features| ("features".to_owned(), features.to_owned())).into_iter().collect();
            let Action::Mount { options, .. } = &plan(&fs, &mount).unwrap()[0].action else { panic!("no mount") };
            assert_eq!(options, expected, "{kind} {features:?}");
        }
    }

    #[test]
    fn options_are_for_the_install() {
        for (given, expected) in [
            ("", "errors=remount-ro,data_err=abort"),
            ("defaults", "errors=remount-ro,data_err=abort"),
            ("errors=continue,data_err=ignore,noatime", "noatime,errors=remount-ro,data_err=abort"),
            ("ro,noauto,user,noexec,acl, user_xattr", "acl,user_xattr,errors=remount-ro,data_err=abort"),
            (
                "nofail,x-systemd.device-timeout=5,_netdev,noatime,,comment=a",
                "noatime,errors=remount-ro,data_err=abort",
            ),
            ("usrjquota=aquota.user,jqfmt=vfsv1,data=journal", "data=journal,errors=remount-ro,data_err=abort"),
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
