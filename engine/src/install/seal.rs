//! The end of an install: the target holds what the plan says, everything is on the disks.

use anyhow::{Result, bail};
use systemimager_core::{Action, BytePath, Contents, Step};

use crate::plan::Plan;
use crate::sys::fstab::{Fstab, Spec};
use crate::tree::{Inside, edit};

/// Checks the mounted target against the plan: a first process to run, files as written, an fstab whose
/// file systems were made.
///
/// # Errors
/// All that is not as it should be.
pub fn check(plan: &Plan, inside: &Inside) -> Result<()> {
    let mut wrong = Vec::new();
    let inits = ["/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/bin/init"];
    if !inits.iter().any(|path| inside.exists(&BytePath::from(*path))) {
        wrong.push(format!("the image {} has none of {}: nothing would start", plan.image, inits.join(", ")));
    }
    for (index, step) in plan.steps.iter().enumerate() {
        // A later step may write the same file again; its word counts.
        let later = plan.steps[index + 1..].iter().any(|other| same_file(&step.action, &other.action));
        if let Some(problem) = (!later).then(|| missing(step, inside)).flatten() {
            wrong.push(problem);
        }
    }
    match inside.read(&"/etc/fstab".into()) {
        Ok(Some(text)) => wrong.extend(unknown_in_fstab(plan, &text)),
        Ok(None) => wrong.push("the target has no /etc/fstab".into()),
        Err(error) => wrong.push(format!("{error:#}")),
    }
    if wrong.is_empty() { Ok(()) } else { bail!("the target is not as planned: {}", wrong.join("; ")) }
}

fn path_of(action: &Action) -> Option<&BytePath> {
    match action {
        Action::WriteFile { path, .. }
        | Action::SetLine { path, .. }
        | Action::SetBlock { path, .. }
        | Action::Symlink { path, .. }
        | Action::Remove { path } => Some(path),
        _ => None,
    }
}

fn same_file(one: &Action, other: &Action) -> bool {
    path_of(one).is_some() && path_of(one) == path_of(other)
}

fn missing(step: &Step, inside: &Inside) -> Option<String> {
    let read = |path: &BytePath| inside.read(path).ok().flatten();
    let fine = match &step.action {
        Action::WriteFile { path, contents: Contents::Bytes(bytes), .. } => {
            read(path).is_some_and(|there| there == bytes.0)
        }
        Action::SetLine { path, prefix, line } => {
            read(path).is_some_and(|there| edit::set_line(&there, prefix, line) == there)
        }
        Action::SetBlock { path, begin, end, block } => {
            read(path).is_some_and(|there| edit::set_block(&there, begin, end, block) == there)
        }
        _ => true,
    };
    (!fine).then(|| format!("the step \"{}\" has not left what it should", step.what))
}

fn show(spec: &Spec) -> String {
    match spec {
        Spec::Uuid(value) => format!("UUID={value}"),
        Spec::Label(value) => format!("LABEL={value}"),
        other => format!("{other:?}"),
    }
}

/// Entries of fstab that the machine could not mount: a UUID or label that the plan has not made, or a
/// kernel's device name, which may be another disk's tomorrow.
fn unknown_in_fstab(plan: &Plan, text: &[u8]) -> Vec<String> {
    let fstab = Fstab::parse(text);
    fstab
        .entries()
        .filter(|entry| !entry.has("noauto") && !entry.has("nofail"))
        .filter_map(|entry| {
            let known = match &entry.spec {
                Spec::Uuid(uuid) => plan
                    .layout
                    .filesystems
                    .iter()
                    .any(|fs| fs.uuid.as_deref().is_some_and(|it| it.eq_ignore_ascii_case(uuid))),
                Spec::Label(label) => {
                    plan.layout.filesystems.iter().any(|fs| fs.label.as_deref() == Some(label.as_str()))
                }
                _ => return None,
            };
            (!known).then(|| {
                format!(
                    "/etc/fstab names {}, which the layout does not make; correct the image's fstab or the master file",
                    show(&entry.spec)
                )
            })
        })
        .collect()
}
