//! The end of an install: the target holds what the plan says, everything is on the disks.

use anyhow::{Result, bail};
use systemimager_core::{Action, BytePath, Contents, Step};

use crate::facts::INITS;
use crate::plan::Plan;
use crate::sys::fstab::{Fstab, Spec};
use crate::tree::pattern::is_below;
use crate::tree::{Inside, edit};

/// Checks the mounted target against the plan: a first process to run, files as written, an fstab whose
/// file systems were made.
///
/// # Errors
/// All that is not as it should be.
pub fn check(plan: &Plan, inside: &Inside) -> Result<()> {
    let mut wrong = Vec::new();
    if !INITS.iter().any(|path| inside.exists(&BytePath::from(*path))) {
        wrong.push(format!("the image {} has none of {}: nothing would start", plan.image, INITS.join(", ")));
    }
    for (index, step) in plan.steps.iter().enumerate() {
        // A later step may change the same path again; its word counts.
        let later = plan.steps.iter().skip(index + 1).any(|other| changes_again(&step.action, other));
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

/// Whether a later step does something to the path of an action. What is made below a removed path brings
/// that path back.
fn changes_again(action: &Action, later: &Step) -> bool {
    let Some(path) = action.path() else { return false };
    let removed = matches!(action, Action::Remove { .. });
    later.written().iter().any(|written| {
        written.path == *path
            || (written.below && is_below(path, &written.path))
            || (removed && is_below(&written.path, path) && !matches!(later.action, Action::Remove { .. }))
    })
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
        Action::Remove { path } => !inside.stands(path),
        Action::Symlink { path, to } => inside.read_link(path).as_ref() == Some(to),
        Action::MakeDirectory { path, .. } => inside.is_directory(path),
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

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::{Phase, Written};

    fn step(action: Action) -> Step {
        Step::new(Phase::Identity, "it", action)
    }

    fn remove(path: &str) -> Action {
        Action::Remove { path: path.into() }
    }

    fn link(path: &str, to: &str) -> Action {
        Action::Symlink { path: path.into(), to: to.into() }
    }

    fn directory(path: &str) -> Action {
        Action::MakeDirectory { path: path.into(), mode: 0o755 }
    }

    #[test]
    fn what_steps_leave_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("none", dir.path().join("dangling")).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        for (name, action, fine) in [
            ("removed", remove("/x"), true),
            ("removed with its directory", remove("/x/y"), true),
            ("not removed", remove("/file"), false),
            ("a dangling link not removed", remove("/dangling"), false),
            ("linked", link("/dangling", "none"), true),
            ("linked elsewhere", link("/dangling", "other"), false),
            ("no link", link("/file", "none"), false),
            ("directory", directory("/dir"), true),
            ("a file instead", directory("/file"), false),
            ("no directory", directory("/x"), false),
        ] {
            assert_eq!(missing(&step(action), &inside).is_none(), fine, "{name}");
        }
    }

    #[test]
    fn later_steps_count() {
        let program = |written: Written| step(Action::InTarget { argv: Vec::new(), stdin: None }).writing([written]);
        for (name, action, later, again) in [
            ("the same", remove("/a/b"), step(link("/a/b", "x")), true),
            ("another", remove("/a/b"), step(link("/a/bc", "x")), false),
            ("by a program", remove("/a/b"), program(Written::path("/a/b")), true),
            ("by a program that writes below", link("/a/b", "x"), program(Written::below("/a")), true),
            ("made below what was removed", remove("/a"), step(directory("/a/b")), true),
            ("removed below what was removed", remove("/a"), step(remove("/a/b")), false),
            ("written below a directory", directory("/a"), step(directory("/a/b")), false),
        ] {
            assert_eq!(changes_again(&action, &later), again, "{name}");
        }
    }
}
