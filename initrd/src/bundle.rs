//! The bundle: tools and plugins of one image, which the image server offers and the agent lays over the
//! miniature system. The index names every file with its hash; a file that is not in it does not run.
//!
//! Both sides read these types; fetching is the agent's business, serving the server's.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use systemimager_core::BytePath;

use crate::pack::{PLUGIN_DIR, Packed, Source};

/// A file or link of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BundleFile {
    /// A file, fetched by its hash.
    File {
        /// Absolute in the miniature system.
        path: BytePath,
        /// Permission bits.
        mode: u32,
        /// Bytes.
        size: u64,
        /// BLAKE3 of the contents, 64 hexadecimal digits in lower case.
        blake3: String,
    },
    /// A symbolic link.
    Link {
        /// Absolute in the miniature system.
        path: BytePath,
        /// What it points to.
        link: BytePath,
    },
}

impl BundleFile {
    /// Where it goes.
    pub fn path(&self) -> &BytePath {
        match self {
            BundleFile::File { path, .. } | BundleFile::Link { path, .. } => path,
        }
    }
}

/// All of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleIndex {
    /// Files and links.
    pub files: Vec<BundleFile>,
    /// The plugins among them, in the order in which they are loaded.
    pub plugins: Vec<BytePath>,
}

/// Where the blobs of an index are on the server, by hash.
pub type Blobs = BTreeMap<String, PathBuf>;

/// The index of a packed set, and where its blobs are. `plugins` are the plugin files that were packed.
///
/// # Errors
/// A file cannot be read, or the set holds what only an initrd can (device nodes, generated files).
pub fn index_of(packed: &Packed, plugins: &[PathBuf]) -> Result<(BundleIndex, Blobs)> {
    let mut index = BundleIndex::default();
    let mut blobs = Blobs::new();
    for entry in packed.entries() {
        let path = BytePath::from(entry.path.as_path());
        match &entry.source {
            Source::File(file) => {
                let reading = || format!("reading {}", file.display());
                let mut hasher = blake3::Hasher::new();
                let size = std::io::copy(&mut std::fs::File::open(file).with_context(reading)?, &mut hasher)
                    .with_context(reading)?;
                let blake3 = hasher.finalize().to_hex().to_string();
                blobs.insert(blake3.clone(), file.clone());
                index.files.push(BundleFile::File { path, mode: entry.mode, size, blake3 });
            }
            Source::Link(to) => index.files.push(BundleFile::Link { path, link: to.as_path().into() }),
            Source::Directory => {}
            Source::Bytes(_) | Source::CharDevice(..) => bail!("{path} cannot be part of a bundle"),
        }
    }
    for plugin in plugins {
        let name = plugin.file_name().with_context(|| format!("{} is no plugin file", plugin.display()))?;
        index.plugins.push(Path::new(PLUGIN_DIR).join(name).into());
    }
    Ok((index, blobs))
}

/// Largest file that a bundle may name, bytes: it is held in memory while it is checked.
pub const LARGEST_FILE: u64 = 256 << 20;

impl BundleIndex {
    /// Checks everything that comes from outside: paths absolute and without `..`, hashes well-formed, plugins
    /// among the files and in their directory, no path twice.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        for file in &self.files {
            let path = file.path();
            if !is_plain(path.as_path()) {
                bail!("the bundle names {path}, which is not an absolute path without . and ..");
            }
            if !seen.insert(path) {
                bail!("the bundle names {path} twice");
            }
            if let BundleFile::File { size, blake3, .. } = file {
                if blake3::Hash::from_hex(blake3).is_err() || blake3.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    bail!("the bundle's hash {blake3:?} of {path} is not 64 hexadecimal digits");
                }
                if *size > LARGEST_FILE {
                    bail!("{path} of the bundle has {size} bytes; at most {LARGEST_FILE} are taken");
                }
            }
        }
        for plugin in &self.plugins {
            if !seen.contains(plugin) || plugin.as_path().parent() != Some(Path::new(PLUGIN_DIR)) {
                bail!("the bundle's plugin {plugin} is not one of its files in {PLUGIN_DIR}");
            }
        }
        Ok(())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let size = |file: &BundleFile| if let BundleFile::File { size, .. } = file { *size } else { 0 };
        self.files.iter().map(size).fold(0, u64::saturating_add)
    }
}

fn is_plain(path: &Path) -> bool {
    let mut parts = path.components();
    let text = path.as_os_str().as_bytes();
    parts.next() == Some(Component::RootDir)
        && path != Path::new("/")
        && !text.ends_with(b"/")
        && !text.contains(&0)
        // Nor two slashes: one file has one spelling.
        && text.split(|byte| *byte == b'/').skip(1).all(|part| !part.is_empty() && part != b"." && part != b"..")
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    fn file(path: &str, blake3: &str) -> BundleFile {
        BundleFile::File { path: path.into(), mode: 0o755, size: 1, blake3: blake3.into() }
    }

    #[test]
    fn json_has_the_agreed_shape() {
        let text = format!(
            r#"{{"files":[{{"path":"/usr/sbin/x","mode":493,"size":1,"blake3":"{HASH}"}},{{"path":"/usr/lib/x.so.1","link":"x.so.1.2"}}],"plugins":[]}}"#
        );
        let index: BundleIndex = serde_json::from_str(&text).expect("the shape");
        let link = BundleFile::Link { path: "/usr/lib/x.so.1".into(), link: "x.so.1.2".into() };
        assert_eq!(index.files, [file("/usr/sbin/x", HASH), link]);
        assert_eq!(serde_json::to_string(&index).expect("JSON"), text);
    }

    #[test]
    fn what_comes_from_outside_is_checked() {
        let rows: &[(&str, Vec<BundleFile>, Vec<&str>, &str)] = &[
            ("relative", vec![file("usr/x", HASH)], vec![], "not an absolute path"),
            ("climbing", vec![file("/usr/../etc/shadow", HASH)], vec![], "not an absolute path"),
            ("dot", vec![file("/usr/./x", HASH)], vec![], "not an absolute path"),
            ("the root", vec![file("/", HASH)], vec![], "not an absolute path"),
            ("a directory", vec![file("/usr/", HASH)], vec![], "not an absolute path"),
            ("short hash", vec![file("/x", "ab")], vec![], "is not 64 hexadecimal digits"),
            ("a path as hash", vec![file("/x", "../../../etc/shadow")], vec![], "is not 64 hexadecimal digits"),
            ("twice", vec![file("/x", HASH), file("/x", HASH)], vec![], "names /x twice"),
            ("no such plugin", vec![], vec!["/usr/lib/systemimager/plugins/x.so"], "is not one of its files"),
            ("plugin elsewhere", vec![file("/x.so", HASH)], vec!["/x.so"], "is not one of its files"),
        ];
        for (name, files, plugins, says) in rows {
            let plugins = plugins.iter().map(|path| BytePath::from(*path)).collect();
            let error = BundleIndex { files: files.clone(), plugins }.check().expect_err(name).to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
        let plugin = "/usr/lib/systemimager/plugins/x.so";
        let good = BundleIndex { files: vec![file("/x", HASH), file(plugin, HASH)], plugins: vec![plugin.into()] };
        good.check().expect("good");
    }

    #[test]
    fn an_index_of_files_and_links() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("f");
        std::fs::write(&path, "").expect("write");
        let mut packed = Packed::default();
        packed.put("/usr/lib/f", Source::File(path.clone()), 0o644);
        packed.put("/usr/lib/g", Source::Link("f".into()), 0o777);
        let (index, blobs) = index_of(&packed, &[]).expect("readable");
        assert_eq!(blobs.get(HASH), Some(&path));
        assert_eq!(index.files.len(), 2);
        index.check().expect("our own is good");
        packed.put("/dev/x", Source::CharDevice(1, 3), 0o644);
        assert!(index_of(&packed, &[]).is_err());
    }
}
