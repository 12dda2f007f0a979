//! `plugin new NAME --kind KIND`: writes a crate that stands for itself, outside any workspace.
//!
//! What it writes is the worked example of that kind in docs/plugins.md, under another name. It must not build or
//! fetch anything.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{CONTRACT_VERSION, Kind};

use crate::context::Context;

/// Write a crate for a plugin of your own
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  systemimager plugin new my-fs --kind file-system\n  cd my-fs && cargo test && cargo \
                  build --release\n  systemimager plugin check target/release/libmy_fs.so"
)]
pub struct New {
    /// The crate's name: lower case letters, digits, '-' and '_'. Masters name the plugin by it, with '_' for '-'
    name: String,
    /// transport, file-system, partitioner, bootloader or host-identity
    #[arg(long)]
    kind: Kind,
    /// Where the crate's directory is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Sources of systemimager-core to build against [default: those installed with this program]
    #[arg(long, value_name = "PATH")]
    core: Option<PathBuf>,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    directory: PathBuf,
    kind: Kind,
    id: String,
    core: PathBuf,
    files: Vec<String>,
}

impl New {
    /// Writes the crate.
    pub(super) fn run(self, context: &Context) -> Result<()> {
        let id = id_of(&self.name)?;
        let core = core_of(self.core.as_deref())?;
        let directory = std::path::absolute(self.dir.join(&self.name)).context("resolving --dir")?;
        if directory.symlink_metadata().is_ok() {
            bail!("{} is there already; name another, or remove it", directory.display());
        }
        // The one that this program reads, or would read.
        let plugins = match context.config.plugin_dir() {
            Ok(read) => read,
            Err(_) => prefix()?.join("lib/systemimager/plugins"),
        };
        let mut files = files(&self.name, &id, self.kind, &core, &plugins)?;
        // The versions that core was tested with; cargo leaves out of it what the crate does not use.
        let locks = [core.join("Cargo.lock"), core.join("../Cargo.lock")];
        if let Some(lock) = locks.iter().find_map(|lock| std::fs::read_to_string(lock).ok()) {
            files.push(("Cargo.lock", lock));
        }
        let parent = directory.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        // Put together beside it and moved: there is never half a crate.
        let made = tempfile::Builder::new()
            .prefix(".systemimager-")
            .tempdir_in(parent)
            .with_context(|| format!("making a directory in {}", parent.display()))?;
        let root = made.path().join("crate");
        for (name, text) in &files {
            let path = root.join(name);
            let holder = path.parent().unwrap_or(&root);
            std::fs::create_dir_all(holder).with_context(|| format!("making {}", holder.display()))?;
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        std::fs::rename(&root, &directory).with_context(|| format!("making {}", directory.display()))?;
        let library = library_of(&self.name);
        context.answer(&Written {
            directory: directory.clone(),
            kind: self.kind,
            id: id.clone(),
            core: core.clone(),
            files: files.iter().map(|(name, _)| (*name).to_owned()).collect(),
        })?;
        context.say(format_args!(
            "{}: a {} plugin with the id {id}, built against {}",
            directory.display(),
            self.kind,
            core.display()
        ));
        context.say("next:");
        context.say(format_args!("  cd {} && cargo test && cargo build --release", directory.display()));
        context.say(format_args!("  systemimager plugin check target/release/{library}"));
        Ok(())
    }
}

/// The id that masters name.
fn id_of(name: &str) -> Result<String> {
    let fine = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-' || letter == '_';
    if name.len() > 64 || !name.starts_with(|letter: char| letter.is_ascii_lowercase()) || !name.chars().all(fine) {
        bail!(
            "{name:?} cannot be the name of a plugin's crate; begin with a lower case letter, and use at most 64 of \
             lower case letters, digits, '-' and '_'"
        );
    }
    let id = name.replace('-', "_");
    // What rustc and cargo keep for themselves.
    let kept = "as async await break const continue crate dyn else enum extern false fn for gen if impl in let loop \
                match mod move mut pub ref return self static struct super trait true try type unsafe use where while \
                abstract become box do final macro override priv typeof unsized virtual yield \
                core std alloc proc_macro test serde serde_json systemimager_core build deps examples incremental";
    if kept.split_whitespace().any(|word| word == id) {
        bail!(
            "{name:?} means something to Rust and cannot be the name of a crate; add a word to it, such as {name}-plugin"
        );
    }
    Ok(id)
}

/// Where this program is installed.
fn prefix() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding this program's own path")?;
    Ok(program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr")).to_owned())
}

/// The sources of core.
fn core_of(asked: Option<&Path>) -> Result<PathBuf> {
    let place = match asked {
        Some(place) => place.to_owned(),
        None => prefix()?.join("share/systemimager/core"),
    };
    let core = place.canonicalize().ok().filter(|core| {
        std::fs::read_to_string(core.join("Cargo.toml")).is_ok_and(|text| text.contains("name = \"systemimager-core\""))
    });
    core.with_context(|| {
        format!(
            "{} does not hold the sources of systemimager-core; install them with this program (cargo xtask install), or \
             name the folder core/ of a checkout with --core",
            place.display()
        )
    })
}

/// The file that cargo builds.
fn library_of(name: &str) -> String {
    format!("lib{}.so", name.replace('-', "_"))
}

/// The worked example of each kind, as docs/plugins.md shows it.
fn example(kind: Kind) -> &'static str {
    match kind {
        Kind::Transport => include_str!("../../../../../docs/plugins/transport.rs"),
        Kind::FileSystem => include_str!("../../../../../docs/plugins/file-system.rs"),
        Kind::Partitioner => include_str!("../../../../../docs/plugins/partitioner.rs"),
        Kind::Bootloader => include_str!("../../../../../docs/plugins/bootloader.rs"),
        Kind::HostIdentity => include_str!("../../../../../docs/plugins/host-identity.rs"),
    }
}

fn files(name: &str, id: &str, kind: Kind, core: &Path, plugins: &Path) -> Result<Vec<(&'static str, String)>> {
    let core = core.to_str().with_context(|| format!("{} is not UTF-8; Cargo.toml cannot name it", core.display()))?;
    // TOML's basic strings escape as Rust's Debug does for all that a path on disk may sensibly hold.
    let core = format!("{core:?}");
    let mut code = String::new();
    for line in example(kind).lines() {
        let old_id = line.strip_prefix("const ID: &str = ").is_some();
        match line {
            _ if line.starts_with("    id: ") => writeln!(code, "    id: {id},")?,
            _ if old_id => writeln!(code, "const ID: &str = {id:?};")?,
            _ => writeln!(code, "{line}")?,
        }
    }
    let fill = |text: &str| {
        text.replace("{name}", name)
            .replace("{id}", id)
            .replace("{kind}", kind.name())
            .replace("{core}", &core)
            .replace("{plugins}", &plugins.display().to_string())
            .replace("{library}", &library_of(name))
            .replace("{contract}", CONTRACT_VERSION)
    };
    let mut manifest = fill(include_str!("Cargo.toml.template"));
    if code.contains("use serde::Deserialize") {
        manifest = manifest.replace(
            "[dev-dependencies]",
            "serde = { version = \"1\", features = [\"derive\"] }\nserde_json = \"1\"\n\n[dev-dependencies]",
        );
    }
    Ok(vec![
        ("Cargo.toml", manifest),
        ("src/lib.rs", code),
        ("README.md", fill(include_str!("README.md.template"))),
        (".gitignore", "/target\n".to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_crates_and_ids() {
        for (name, id) in [("my-fs", "my_fs"), ("zfs", "zfs"), ("a1_b", "a1_b")] {
            assert_eq!(id_of(name).unwrap(), id);
        }
        for bad in ["", "-a", "1a", "My", "a b", "a/b", "../a", "é", "fn", "core", "serde-json", &"x".repeat(65)] {
            assert!(id_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn examples_get_their_own_id() {
        for kind in Kind::ALL {
            let files = files("my-own", "my_own", kind, Path::new("/srv/core"), Path::new("/opt/si/plugins")).unwrap();
            let text =
                |name: &str| files.iter().find(|(file, _)| *file == name).map(|(_, text)| text.as_str()).unwrap();
            let code = text("src/lib.rs");
            assert_eq!(code.matches("id: my_own,").count(), 1, "{kind}");
            assert_eq!(code.contains("const ID"), code.contains("const ID: &str = \"my_own\";"), "{kind}");
            assert!(code.contains("assert_conforms();"), "{kind}");
            let manifest: toml::Table = text("Cargo.toml").parse().unwrap();
            assert_eq!(manifest["package"]["name"].as_str(), Some("my-own"), "{kind}");
            assert_eq!(manifest["dependencies"]["systemimager-core"]["path"].as_str(), Some("/srv/core"), "{kind}");
            assert!(manifest["workspace"].is_table(), "{kind}: it belongs to no other workspace");
            assert!(text("README.md").contains("libmy_own.so /opt/si/plugins/\n"), "{kind}");
            for (name, text) in &files {
                let left = text
                    .lines()
                    .find(|line| line.contains("{name}") || line.contains("{id}") || line.contains("{core}"));
                assert!(
                    left.is_none_or(|line| line.contains("format!") || line.contains('"')),
                    "{kind}: {name}: {left:?}"
                );
            }
        }
    }
}
