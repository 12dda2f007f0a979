//! The sources of systemimager-core as they are installed: a crate that stands for itself, for sites that write
//! plugins and have no checkout. What the workspace says is written into its manifest.

use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

/// Lays them out in `to`, anew.
///
/// # Errors
/// Something cannot be read or written, or the manifest names what the workspace does not have.
pub fn install(root: &Path, to: &Path) -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"));
    let manifest = standalone(&read("core/Cargo.toml")?, &read("Cargo.toml")?)?;
    if to.exists() {
        std::fs::remove_dir_all(to).with_context(|| format!("removing {}", to.display()))?;
    }
    copy(&root.join("core/src"), &to.join("src"))?;
    for (name, text) in [("Cargo.toml", manifest), ("Cargo.lock", read("Cargo.lock")?), ("LICENSE", read("LICENSE")?)] {
        std::fs::write(to.join(name), text).with_context(|| format!("writing {name} into {}", to.display()))?;
    }
    Ok(())
}

/// Freezes the contract as it is: a copy of core without loader and tests, and what core's own test writes down.
///
/// # Errors
/// As [`install`]; or the test that writes it down fails.
pub fn freeze(root: &Path) -> Result<()> {
    let place = root.join("core/tests/contract/1.0");
    let core = place.join("core");
    install(root, &core)?;
    for gone in ["src/loader", "src/conformance"] {
        std::fs::remove_dir_all(core.join(gone)).with_context(|| format!("removing {gone}"))?;
    }
    for gone in ["src/testing.rs", "src/abi/host_side.rs", "src/abi/library.rs", "LICENSE"] {
        std::fs::remove_file(core.join(gone)).with_context(|| format!("removing {gone}"))?;
    }
    // cargo takes what it needs of the workspace's versions.
    std::fs::rename(core.join("Cargo.lock"), place.join("plugin/Cargo.lock")).context("moving Cargo.lock")?;
    let mut test = crate::build::cargo();
    test.args(["test", "--quiet", "--package", "systemimager-core", "--test", "contract"]).env("FREEZE_CONTRACT", "1");
    crate::run::run(&mut test)?;
    let mut build = crate::build::cargo();
    build
        .args(["metadata", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(place.join("plugin/Cargo.toml"));
    crate::run::read(&mut build).map(drop)?;
    println!("frozen; say in CHANGELOG.md what broke, or what is new");
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).with_context(|| format!("copying to {}", target.display()))?;
        }
    }
    Ok(())
}

/// The manifest without a workspace, tests and examples.
fn standalone(member: &str, workspace: &str) -> Result<String> {
    let mut member: Table = member.parse().context("core/Cargo.toml")?;
    let workspace: Table = workspace.parse().context("Cargo.toml")?;
    let of_workspace = |table: &str, key: &str| -> Result<Value> {
        let found = workspace.get("workspace").and_then(|it| it.get(table)).and_then(|it| it.get(key));
        found.cloned().with_context(|| format!("[workspace.{table}] has no {key}"))
    };
    for part in ["dev-dependencies", "example", "lints"] {
        member.remove(part);
    }
    for (part, table) in [("package", "package"), ("dependencies", "dependencies")] {
        let Some(Value::Table(entries)) = member.get_mut(part) else { continue };
        for (key, value) in entries.iter_mut() {
            let Value::Table(own) = value else { continue };
            if own.remove("workspace").is_none() {
                continue;
            }
            let own = own.clone();
            *value = of_workspace(table, key)?;
            if own.is_empty() {
                continue;
            }
            // `{ workspace = true, optional = true }`: what the member adds stays.
            if let Value::String(version) = value {
                *value = Value::Table([("version".to_owned(), Value::String(version.clone()))].into_iter().collect());
            }
            if let Value::Table(merged) = value {
                merged.extend(own);
            }
        }
    }
    // It belongs to no other workspace, wherever it lies.
    member.insert("workspace".into(), Value::Table(Table::new()));
    Ok(format!("# Made from systemimager's core/Cargo.toml.\n{}", toml::to_string(&member)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_workspace_says_is_written_out() {
        let workspace = "[workspace.package]\nedition = \"2024\"\n[workspace.dependencies]\na = \"1.2\"\n\
                         b = { version = \"3\", features = [\"x\"] }\nc = \"5\"\n";
        let member = "[package]\nname = \"m\"\nversion = \"1.0.0\"\nedition.workspace = true\n[lints]\nworkspace = true\n\
                      [dependencies]\na.workspace = true\nb = { workspace = true, optional = true }\n\
                      c = { workspace = true, optional = true }\nd = \"9\"\n[dev-dependencies]\nz.workspace = true\n";
        let made: Table = standalone(member, workspace).unwrap().parse().unwrap();
        assert_eq!(made["package"]["edition"].as_str(), Some("2024"));
        let dependencies = made["dependencies"].as_table().unwrap();
        assert_eq!(dependencies["a"].as_str(), Some("1.2"));
        assert_eq!(
            (dependencies["b"]["version"].as_str(), dependencies["b"]["optional"].as_bool()),
            (Some("3"), Some(true))
        );
        assert_eq!(dependencies["b"]["features"].as_array().map(Vec::len), Some(1));
        assert_eq!(
            (dependencies["c"]["version"].as_str(), dependencies["c"]["optional"].as_bool()),
            (Some("5"), Some(true))
        );
        assert_eq!(dependencies["d"].as_str(), Some("9"));
        assert!(made.get("dev-dependencies").is_none() && made.get("lints").is_none());
        assert!(standalone("[dependencies]\nq.workspace = true\n", workspace).is_err());
    }
}
