//! Building, and laying out what was built as it is installed: PREFIX/bin, PREFIX/lib/systemimager.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::run;

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// cargo, in the checkout.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The folder cargo builds into.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where tests and the demo find what was built.
pub fn stage() -> PathBuf {
    target().join("stage")
}

/// Names of the plugin crates: every folder below plugins/.
fn plugins() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("plugins")).context("reading plugins/")? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Builds everything and lays it out below `prefix`.
///
/// # Errors
/// A build fails, or the prefix cannot be written.
pub fn install(prefix: &Path) -> Result<()> {
    run(cargo().args(["build", "--quiet", "--workspace"]))?;
    // The client tool is linked fully static: it runs on master clients with an older libc. Only this
    // last link differs, so the dependencies are not built again.
    run(cargo()
        .args(["rustc", "--quiet", "--package", "systemimager-client", "--bin", "systemimager-client"])
        .args(["--", "-C", "target-feature=+crt-static"]))?;
    let built = target().join("debug");
    let lib = prefix.join("lib/systemimager");
    for dir in [prefix.join("bin"), lib.join("plugins"), lib.join("boot"), lib.join("client")] {
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    put(&built.join("systemimager"), &prefix.join("bin/systemimager"))?;
    for link in systemimager_cli::COMMANDS {
        let path = prefix.join("bin").join(link);
        if std::fs::read_link(&path).is_err() {
            std::os::unix::fs::symlink("systemimager", &path).with_context(|| format!("linking {}", path.display()))?;
        }
    }
    for program in ["systemimager-init", "systemimager-agent"] {
        put(&built.join(program), &lib.join("boot").join(program))?;
    }
    put(&built.join("systemimager-client"), &lib.join("client/systemimager-client"))?;
    let unit = std::fs::read_to_string(root().join("dist/systemimager.service"))
        .context("reading dist/systemimager.service")?;
    let program = std::path::absolute(prefix.join("bin/systemimager")).context("resolving the prefix")?;
    let place = prefix.join("lib/systemd/system");
    std::fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
    std::fs::write(
        place.join("systemimager.service"),
        unit.replace("/usr/bin/systemimager", &program.display().to_string()),
    )
    .context("writing the systemd unit")?;
    let users = prefix.join("lib/sysusers.d");
    std::fs::create_dir_all(&users).with_context(|| format!("making {}", users.display()))?;
    put(&root().join("dist/sysusers.conf"), &users.join("systemimager.conf"))?;
    crate::docs::install(&prefix.join("share"))?;
    let examples = prefix.join("share/doc/systemimager");
    std::fs::create_dir_all(&examples).with_context(|| format!("making {}", examples.display()))?;
    put(&root().join("dist/local.cfg"), &examples.join("local.cfg"))?;
    crate::core_sources::install(&root(), &prefix.join("share/systemimager/core"))?;
    let names = plugins()?;
    let file = |name: &String| format!("lib{}.so", name.replace('-', "_"));
    for name in &names {
        put(&built.join(file(name)), &lib.join("plugins").join(file(name)))?;
    }
    // A plugin that is no longer built must not be loaded.
    for entry in std::fs::read_dir(lib.join("plugins"))? {
        let entry = entry?;
        if !names.iter().any(|name| *file(name) == *entry.file_name()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Copies a file in one move, so that a running one is not written into.
fn put(from: &Path, to: &Path) -> Result<()> {
    let temporary = to.with_extension("new");
    std::fs::copy(from, &temporary).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    std::fs::rename(&temporary, to).with_context(|| format!("putting {}", to.display()))
}
