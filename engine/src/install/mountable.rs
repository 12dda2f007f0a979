//! Whether this machine's kernel mounts the file systems of a plan, before anything is touched.
//!
//! While installing that is the miniature system's kernel, which is not always the image's.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use systemimager_core::Action;

use crate::plan::Plan;
use crate::sys::modules;

/// Loads what drivers the mounts of a plan need.
///
/// # Errors
/// The kernel has none for a type: it is named, with what would be mounted.
pub fn check(plan: &Plan) -> Result<()> {
    let mounts = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Mount { fstype, at, .. } => Some((fstype.as_str(), at)),
        _ => None,
    });
    let mounts: Vec<_> = mounts.collect();
    let absent = |mounts: &[(&str, &systemimager_core::BytePath)]| -> Result<Vec<String>> {
        let text = std::fs::read_to_string("/proc/filesystems").context("reading /proc/filesystems")?;
        let known = known(&text);
        let types: BTreeSet<&str> = mounts.iter().map(|(fstype, _)| *fstype).collect();
        Ok(types.into_iter().filter(|fstype| !known.contains(*fstype)).map(str::to_owned).collect())
    };
    let missing = absent(&mounts)?;
    if missing.is_empty() {
        return Ok(());
    }
    // Each by the name under which the kernel asks for it; what cannot be loaded is told below.
    for fstype in &missing {
        if let Err(error) = modules::load(&[format!("fs-{fstype}")]) {
            tracing::debug!("loading the driver of {fstype}: {error}");
        }
    }
    let missing = absent(&mounts)?;
    if missing.is_empty() {
        return Ok(());
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let wanted: Vec<String> = mounts
        .iter()
        .filter(|(fstype, _)| missing.iter().any(|it| it == fstype))
        .map(|(fstype, at)| format!("{fstype} for {at}"))
        .collect();
    bail!(
        "the kernel that installs ({}) cannot mount {}: it has no driver for that; make kernel and initrd anew from a kernel \
         that has one (mkinitrd --image or --kernel), or give the file system another type in the master file",
        release.trim(),
        wanted.join(" and ")
    )
}

/// Types that the kernel mounts now, as proc(5) lists them: `nodev<TAB>proc`, `<TAB>ext4`.
fn known(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.split_whitespace().last()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use systemimager_core::{Layout, NodeName, Phase, Step};

    use super::*;

    fn plan(fstype: &str) -> Plan {
        let node = NodeName::try_from("root").unwrap();
        let action = Action::Mount { node, at: "/".into(), fstype: fstype.into(), options: String::new() };
        Plan {
            host: "n1".into(),
            image: "web".into(),
            steps: vec![Step::new(Phase::Mount, "mount root", action)],
            disks: BTreeMap::new(),
            layout: Layout::default(),
            changes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_type_that_the_kernel_lacks_is_named() {
        assert_eq!(known("nodev\tproc\n\text4\n\n"), BTreeSet::from(["proc", "ext4"]));
        assert!(check(&plan("proc")).is_ok());
        let error = check(&plan("no_such_fs")).unwrap_err().to_string();
        assert!(error.contains("cannot mount no_such_fs for /: it has no driver for that"), "{error}");
    }
}
