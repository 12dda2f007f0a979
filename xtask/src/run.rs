//! Running programs for developers: output goes to the terminal, failure names the command.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Result<()> {
    let text = format!("{command:?}");
    let status = command.status().with_context(|| format!("starting {text}"))?;
    if !status.success() {
        bail!("{text} {status}");
    }
    Ok(())
}

/// The program's standard output.
pub fn read(command: &mut Command) -> Result<String> {
    let text = format!("{command:?}");
    let output = command.output().with_context(|| format!("starting {text}"))?;
    if !output.status.success() {
        bail!("{text} {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
