//! Tries what was packed: each program runs once, on the server inside the packed root, and in the miniature
//! system before anything is planned.
//!
//! A missing library shows here, and not on a machine with its disk half written.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use systemimager_core::{Needs, Program};
use systemimager_engine::sys::{Cmd, Tool};

use super::tree::Packed;

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lays `tree` out in a temporary directory and runs every program of `needs` there with its probe.
/// Returns how many were run. It needs root (chroot(2)).
///
/// # Errors
/// Programs that are absent from the tree or do not run, each by name and package.
pub fn probe(tree: &Packed, needs: &[Needs]) -> Result<usize> {
    let root = tempfile::Builder::new().prefix("systemimager-probe-").tempdir().context("making a directory")?;
    tree.lay_out(root.path()).context("laying out the miniature system for a trial")?;
    probe_in(root.path(), needs)
}

fn probe_in(root: &Path, needs: &[Needs]) -> Result<usize> {
    try_each(needs, |program| {
        Ok(Cmd::tool(Tool::Chroot).arg(root).arg(&program.name).args(&program.probe).timeout(PATIENCE).own_group())
    })
}

/// Runs every program of `needs` once with its probe in the system that is running: the miniature system
/// itself, once all was laid over it. Returns how many were run.
///
/// # Errors
/// Programs that are absent or do not run, each by name and package.
pub fn probe_here(needs: &[Needs]) -> Result<usize> {
    try_each(needs, |program| {
        Ok(Cmd::argv(std::iter::once(&program.name).chain(&program.probe))?.timeout(PATIENCE).own_group())
    })
}

fn try_each(needs: &[Needs], cmd: impl Fn(&Program) -> Result<Cmd>) -> Result<usize> {
    let mut programs: Vec<_> = needs.iter().flat_map(|needs| &needs.programs).collect();
    programs.sort_by(|left, right| (&left.name, &left.probe).cmp(&(&right.name, &right.probe)));
    programs.dedup_by(|left, right| left.name == right.name && left.probe == right.probe);
    let mut faults = Vec::new();
    for program in &programs {
        let run = cmd(program).and_then(|cmd| Ok(cmd.run()?));
        if let Err(error) = run {
            faults.push(format!(
                "{} (package {}) does not run in the miniature system: {error}",
                program.name, program.package
            ));
        }
    }
    if faults.is_empty() { Ok(programs.len()) } else { bail!("{}", faults.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{Source, pack_needs};

    #[test]
    fn a_program_without_its_library_is_named() {
        if !rustix::process::geteuid().is_root() {
            // Past the test harness, which captures what the macros print.
            let line = b"SKIPPED: a_program_without_its_library_is_named: chroot(2) needs root\n";
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
            return;
        }
        let needs = Needs { programs: vec![Program::new("cat", "coreutils")], ..Needs::default() };
        let whole = pack_needs(std::slice::from_ref(&needs), &[]).expect("packed");
        assert_eq!(probe(&whole, std::slice::from_ref(&needs)).expect("runs"), 1);

        let mut broken = Packed::default();
        for entry in whole.entries().filter(|entry| entry.path.file_name().is_some_and(|name| name != "libc.so.6")) {
            broken.put(&entry.path, entry.source.clone(), entry.mode);
        }
        let error = probe(&broken, std::slice::from_ref(&needs)).expect_err("no libc").to_string();
        assert!(error.starts_with("cat (package coreutils) does not run in the miniature system"), "{error}");
        assert!(error.contains("libc.so.6"), "{error}");

        let mut empty = Packed::default();
        empty.put("/etc/x", Source::Bytes(Vec::new()), 0o644);
        let error = probe(&empty, &[needs]).expect_err("no program").to_string();
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn what_is_missing_or_broken_here_is_named_with_its_package() {
        let program = |name: &str, package: &str| Program::new(name, package);
        let needs = [
            Needs {
                programs: vec![program("cat", "coreutils"), program("absent-tool", "absent-utils")],
                ..Needs::default()
            },
            Needs {
                // The same program once more counts once; one that fails its probe is refused.
                programs: vec![program("cat", "coreutils"), program("false", "coreutils").probed(&["x"])],
                ..Needs::default()
            },
        ];
        let error = probe_here(&needs).expect_err("refused").to_string();
        let lines: Vec<&str> =
            error.lines().filter(|line| line.contains("does not run in the miniature system")).collect();
        assert_eq!(lines.len(), 2, "{error}");
        assert!(lines[0].starts_with("absent-tool (package absent-utils)"), "{error}");
        assert!(lines[1].starts_with("false (package coreutils)"), "{error}");
        let fine =
            Needs { programs: vec![program("cat", "coreutils"), program("cat", "coreutils")], ..Needs::default() };
        assert_eq!(probe_here(&[fine]).expect("it runs"), 1);
    }
}
