//! Tools and plugins of the image: fetched, checked against their hashes, laid over the miniature system.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use systemimager_core::{BytePath, Host, ImageName, Needs, Registry, Role, loader};
use systemimager_engine::install;

use super::http::Server;
use crate::bundle::{BundleFile, BundleIndex};
use crate::pack::probe;

/// What was fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Files and links in the bundle.
    pub entries: usize,
    /// Bytes that were fetched; what was there already was not.
    pub bytes: u64,
}

/// Lays a checked index over `root`; `fetch` gives the bytes of a hash.
///
/// # Errors
/// What was fetched is not what the index names: nothing of it is written. Or it cannot be written.
pub fn unpack(
    index: &BundleIndex,
    root: &Path,
    mut fetch: impl FnMut(&str, u64) -> Result<Vec<u8>>,
) -> Result<Fetched> {
    let mut fetched = Fetched { entries: index.files.len(), bytes: 0 };
    for file in &index.files {
        let to = root.join(file.path().as_path().strip_prefix("/").unwrap_or(file.path().as_path()));
        let writing = || format!("writing {}", to.display());
        let parent = to.parent().with_context(writing)?;
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        match file {
            BundleFile::Link { link, .. } => put_link(link, &to, parent).with_context(writing)?,
            BundleFile::File { mode, size, blake3, .. } => {
                if !is_there(&to, *mode, *size, blake3) {
                    let bytes = fetch(blake3, *size)?;
                    let got = blake3::hash(&bytes).to_hex();
                    if got.as_str() != blake3 {
                        bail!(
                            "the image server sent something else for {} than its index names (BLAKE3 {got} instead of \
                             {blake3}); if a tool was updated there meanwhile, restart systemimager serve",
                            file.path()
                        );
                    }
                    put_file(&bytes, *mode, &to, parent).with_context(writing)?;
                    fetched.bytes += bytes.len() as u64;
                }
            }
        }
    }
    Ok(fetched)
}

/// Fetches the bundle of an image and lays it over `/`.
///
/// # Errors
/// As [`unpack`]; an index that is not one.
pub fn fetch(server: &Server, image: &str) -> Result<(BundleIndex, Fetched)> {
    let index: BundleIndex = server.json(&format!("/v1/images/{image}/bundle"))?;
    index.check().context("the image server's bundle is refused")?;
    let fetched = unpack(&index, Path::new("/"), |hash, size| server.get(&format!("/v1/blobs/{hash}"), size))?;
    Ok((index, fetched))
}

/// Opens exactly these plugins.
///
/// # Errors
/// One of them is refused; says why.
pub fn open_plugins(plugins: &[BytePath]) -> Result<Registry> {
    let mut registry = Registry::default();
    for plugin in plugins {
        loader::load_file(&mut registry, plugin.as_path())?;
    }
    Ok(registry)
}

/// Runs every program that an install with these plugins may run once, with its probe. Returns how many.
///
/// # Errors
/// Those that are missing or broken here, each by name and package; a plugin that does not say what it needs.
pub fn try_programs(registry: &Registry, host: &dyn Host, image: &ImageName) -> Result<usize> {
    let needs = installer_needs(registry, host)?;
    probe::probe_here(&needs).with_context(|| {
        format!(
            "programs that installing {image} runs are missing or broken in this miniature system; install their \
             packages on the image server, run systemimager mkinitrd there, and start this machine again"
        )
    })
}

/// What the executor and all plugins of the registry need on a machine that is being installed.
fn installer_needs(registry: &Registry, host: &dyn Host) -> Result<Vec<Needs>> {
    let role = Role::Installer;
    let mut all: Vec<(&str, systemimager_core::Result<Needs>)> = Vec::new();
    all.extend(registry.transports().into_iter().map(|(id, it)| (id, it.needs(host, role))));
    all.extend(registry.filesystems().into_iter().map(|(id, it)| (id, it.needs(host, role))));
    all.extend(registry.partitioners().into_iter().map(|(id, it)| (id, it.needs(host, role))));
    all.extend(registry.bootloaders().into_iter().map(|(id, it)| (id, it.needs(host, role))));
    all.extend(registry.identities().into_iter().map(|(id, it)| (id, it.needs(host, role))));
    let mut needs = vec![install::needs()];
    for (id, asked) in all {
        needs.push(asked.with_context(|| format!("what the plugin {id} needs"))?);
    }
    Ok(needs)
}

/// The very file is there already: no need to fetch it, and none to touch a library that is in use.
fn is_there(path: &Path, mode: u32, size: u64, hash: &str) -> bool {
    let Ok(about) = path.symlink_metadata() else { return false };
    if !about.is_file() || about.len() != size || about.permissions().mode() & 0o7777 != mode & 0o7777 {
        return false;
    }
    std::fs::read(path).is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == hash)
}

/// In one move: a library that is in use keeps its old contents for those who use it.
fn put_file(bytes: &[u8], mode: u32, to: &Path, parent: &Path) -> Result<()> {
    let mut file = tempfile::Builder::new().prefix(".systemimager-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode & 0o7777))?;
    file.persist(to)?;
    Ok(())
}

fn put_link(link: &BytePath, to: &Path, parent: &Path) -> Result<()> {
    if std::fs::read_link(to).is_ok_and(|there| there == link.as_path()) {
        return Ok(());
    }
    let place = tempfile::Builder::new().prefix(".systemimager-").tempdir_in(parent)?;
    let made: PathBuf = place.path().join("link");
    symlink(link.as_path(), &made)?;
    std::fs::rename(&made, to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn file(path: &str, contents: &[u8]) -> BundleFile {
        let blake3 = blake3::hash(contents).to_hex().to_string();
        BundleFile::File { path: path.into(), mode: 0o755, size: contents.len() as u64, blake3 }
    }

    #[test]
    fn files_are_checked_before_they_are_written() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path();
        let link = |path: &str, to: &str| BundleFile::Link { path: path.into(), link: to.into() };
        let index = BundleIndex {
            files: vec![
                file("/usr/sbin/tool", b"tool"),
                link("/usr/lib/x.so", "x.so.1"),
                file("/usr/lib/x.so.1", b"lib"),
            ],
            plugins: vec![],
        };
        let asked = RefCell::new(Vec::new());
        let store = |hash: &str, _: u64| {
            asked.borrow_mut().push(hash.to_owned());
            let known: [&[u8]; 2] = [b"tool", b"lib"];
            let found = known.into_iter().find(|bytes| blake3::hash(bytes).to_hex().as_str() == hash);
            found.map(<[u8]>::to_vec).context("no such blob")
        };
        assert_eq!(unpack(&index, root, store).expect("unpacked"), Fetched { entries: 3, bytes: 7 });
        assert_eq!(std::fs::read(root.join("usr/lib/x.so")).expect("through the link"), b"lib");
        let mode = root.join("usr/sbin/tool").metadata().expect("there").permissions().mode() & 0o7777;
        assert_eq!(mode, 0o755);

        // A second time nothing is fetched, and nothing is replaced.
        asked.borrow_mut().clear();
        assert_eq!(unpack(&index, root, store).expect("again"), Fetched { entries: 3, bytes: 0 });
        assert!(asked.borrow().is_empty());

        // Links and files take each other's place.
        let other =
            BundleIndex { files: vec![link("/usr/sbin/tool", "x"), file("/usr/lib/x.so", b"lib")], plugins: vec![] };
        unpack(&other, root, store).expect("replaced");
        assert_eq!(std::fs::read_link(root.join("usr/sbin/tool")).expect("a link"), Path::new("x"));
        assert!(root.join("usr/lib/x.so").symlink_metadata().expect("there").is_file());

        let index = BundleIndex { files: vec![file("/usr/sbin/evil", b"good")], plugins: vec![] };
        let error = unpack(&index, root, |_, _| Ok(b"evil".to_vec())).expect_err("refused").to_string();
        assert!(error.contains("sent something else for /usr/sbin/evil"), "{error}");
        assert!(!root.join("usr/sbin/evil").exists());
        let left: Vec<_> =
            std::fs::read_dir(root.join("usr/sbin")).expect("listed").flatten().map(|it| it.file_name()).collect();
        assert_eq!(left, ["tool"], "nothing is left over");
    }
}
