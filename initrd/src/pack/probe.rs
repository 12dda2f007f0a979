//! Tries what was packed: each program runs once inside the packed root, and nowhere else.
//!
//! A missing library shows here, on the server, and not on a bare machine with its disk half written.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use systemimager_core::Needs;
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
    let mut programs: Vec<_> = needs.iter().flat_map(|needs| &needs.programs).collect();
    programs.sort_by(|left, right| (&left.name, &left.probe).cmp(&(&right.name, &right.probe)));
    programs.dedup_by(|left, right| left.name == right.name && left.probe == right.probe);
    let mut faults = Vec::new();
    for program in &programs {
        let run =
            Cmd::tool(Tool::Chroot).arg(root).arg(&program.name).args(&program.probe).timeout(PATIENCE).own_group();
        if let Err(error) = run.run() {
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
    use systemimager_core::Program;

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
}
