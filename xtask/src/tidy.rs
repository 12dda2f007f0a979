//! Conventions as checks: what ARCHITECTURE.md calls an invariant.

use std::path::Path;

use anyhow::{Result, bail};
use walkdir::WalkDir;

/// Longest file that is still taken to hold one idea.
const LONGEST: usize = 700;

/// Checks the checkout.
///
/// # Errors
/// Every breach, with file and line.
pub fn check(root: &Path) -> Result<()> {
    let mut breaches = Vec::new();
    let plugins = plugin_words(root)?;
    for file in sources(root) {
        let text = std::fs::read_to_string(&file)?;
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        breaches.extend(breaches_of(&shown, &text, &plugins));
    }
    for manifest in ["core/Cargo.toml", "engine/Cargo.toml", "cli/Cargo.toml", "initrd/Cargo.toml"] {
        let text = std::fs::read_to_string(root.join(manifest))?;
        for (folder, _) in &plugins {
            if text.lines().any(|line| {
                line.trim_start().starts_with(&format!("{folder} ")) || line.contains(&format!("../plugins/{folder}"))
            }) {
                breaches
                    .push(format!("{manifest}: depends on the plugin {folder}; plugins are loaded, never linked here"));
            }
        }
    }
    if breaches.is_empty() {
        println!("conventions hold");
        return Ok(());
    }
    bail!("{} breaches of the conventions:\n{}", breaches.len(), breaches.join("\n"))
}

/// Folder and identifier of each plugin: `fs-ext2`, `ext2`.
fn plugin_words(root: &Path) -> Result<Vec<(String, String)>> {
    let mut words = Vec::new();
    for entry in std::fs::read_dir(root.join("plugins"))? {
        let folder = entry?.file_name().to_string_lossy().into_owned();
        let source = std::fs::read_to_string(root.join("plugins").join(&folder).join("src/lib.rs")).unwrap_or_default();
        let id = source
            .lines()
            .skip_while(|line| !line.contains("declare_plugin! {"))
            .find_map(|line| line.trim().strip_prefix("id: ")?.strip_suffix(','))
            .unwrap_or_default()
            .to_owned();
        if id.is_empty() {
            bail!(
                "plugins/{folder}/src/lib.rs declares no plugin; give it a declare_plugin! with an id on a line of its own"
            );
        }
        words.push((folder, id));
    }
    words.sort();
    Ok(words)
}

fn sources(root: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = WalkDir::new(root)
        .into_iter()
        .filter_entry(|entry| {
            let name = entry.file_name().to_string_lossy();
            entry.depth() == 0 || !(name == "target" || name.starts_with('.'))
        })
        .filter_map(Result::ok)
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect();
    files.sort();
    files
}

fn breaches_of(file: &str, text: &str, plugins: &[(String, String)]) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut breach = |line: usize, what: String| breaches.push(format!("{file}:{line}: {what}"));
    let is_test = file.starts_with("tests/") || file.contains("/tests/") || file.ends_with("tests.rs");
    if !text.starts_with("//!") {
        breach(1, "does not begin with a module doc that says what it is for".into());
    }
    let lines: Vec<&str> = text.lines().collect();
    let code = lines.iter().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(lines.len());
    if code > LONGEST && !is_test {
        breach(LONGEST, format!("{code} lines before its tests; a file holds one idea (at most {LONGEST})"));
    }
    let neutral = ["core/src/", "engine/src/", "cli/src/", "initrd/src/"].iter().any(|dir| file.starts_with(dir));

    for (number, line) in lines.iter().enumerate().take(if is_test { 0 } else { code }) {
        let is_comment = line.trim_start().starts_with("//");
        if neutral && !is_comment {
            for (folder, id) in plugins {
                // As the id of a plugin, not as the name of a program or a file system type.
                let looked_up = ["transport", "filesystem", "partitioner", "bootloader", "identity", "find", "get"]
                    .iter()
                    .any(|call| line.contains(&format!(".{call}(\"{id}\"")));
                if looked_up || line.contains(&folder.replace('-', "_")) {
                    breach(number + 1, format!("names the plugin {folder}; nothing here may know a concrete plugin"));
                }
            }
        }
        if line.contains("Command::new") && !spawning_allowed(file) && !is_comment {
            breach(number + 1, "spawns a program outside engine::sys".into());
        }
        if line.contains(concat!("unsafe", " {")) && !is_comment && !unsafe_allowed(file) {
            breach(number + 1, "unsafe outside the ABI and system-call modules".into());
        }
        if file.starts_with("engine/src/sys/") && line.contains("systemimager_core") && !is_comment {
            breach(number + 1, "engine::sys knows nothing of the contract".into());
        }
    }

    breaches
}

/// PID 1 reaps every process, so it must not use engine::sys; the lab and these commands are no part of the product.
fn spawning_allowed(file: &str) -> bool {
    ["engine/src/sys/", "initrd/src/init/spawn.rs", "tests/src/", "xtask/"].iter().any(|place| file.starts_with(place))
}

fn unsafe_allowed(file: &str) -> bool {
    [
        "core/src/abi/",
        "core/src/loader/",
        "core/src/plugin.rs",
        "core/tests/",
        "core/examples/",
        "engine/src/sys/calls.rs",
        "initrd/src/init/signals.rs",
    ]
    .iter()
    .any(|place| file.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_breach_is_found() {
        let plugins = [("fs-ext2".to_owned(), "ext2".to_owned())];
        let rows = [
            ("no doc", "engine/src/x.rs", "fn a() {}\n", "module doc"),
            ("named by id", "cli/src/x.rs", "//! x\nregistry.filesystem(\"ext2\");\n", "names the plugin fs-ext2"),
            ("named by crate", "core/src/x.rs", "//! x\nuse fs_ext2::Ext2;\n", "names the plugin fs-ext2"),
            ("spawns", "cli/src/x.rs", "//! x\nCommand::new(\"ls\");\n", "spawns a program"),
            ("unsafe", "engine/src/x.rs", "//! x\nunsafe { a() }\n", "unsafe outside"),
            ("sys", "engine/src/sys/x.rs", "//! x\nuse systemimager_core::Step;\n", "knows nothing"),
        ];
        for (name, file, text, says) in rows {
            let found = breaches_of(file, text, &plugins);
            assert!(found.iter().any(|line| line.contains(says)), "{name}: {found:?}");
        }
        let fine = "//! x\nlet kind = \"ext2\";\n#[cfg(test)]\nmod tests { fn t() { unsafe { x() } } }\n";
        assert!(breaches_of("engine/src/x.rs", fine, &plugins).is_empty());
    }
}
