//! What goes into a packed root, as a set of entries by path: files by reference, links as they are.
//!
//! A set, not a directory: it is made without touching a disk, two of them can be laid over each
//! other, and it may hold device nodes without root. Paths are absolute in the packed root, and their
//! directories are real ones: `/lib` and its like are links to `/usr/lib`, whatever the packing
//! machine has, so that both halves of a distribution before the merge fit.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The contents of this file of the packing machine.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A symbolic link to this.
    Link(PathBuf),
    /// A directory.
    Directory,
    /// A character device: major and minor number.
    CharDevice(u32, u32),
}

/// An entry of a packed root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedEntry {
    /// Where, absolute in the packed root.
    pub path: PathBuf,
    /// What.
    pub source: Source,
    /// Permission bits.
    pub mode: u32,
}

/// A packed root, or a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    entries: BTreeMap<PathBuf, PackedEntry>,
}

/// Top-level directories that are links into `/usr`.
pub const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Longest chain of symbolic links that is followed, as in the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

impl Packed {
    /// Its entries, by path: a directory comes before what is in it.
    pub fn entries(&self) -> impl Iterator<Item = &PackedEntry> {
        self.entries.values()
    }

    /// An entry by path.
    pub fn get(&self, path: &Path) -> Option<&PackedEntry> {
        self.entries.get(&merged(path))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts an entry; one that is there already is replaced.
    pub fn put(&mut self, path: impl AsRef<Path>, source: Source, mode: u32) {
        let path = merged(path.as_ref());
        self.entries.insert(path.clone(), PackedEntry { path, source, mode });
    }

    /// Takes an entry away, if it is there.
    pub fn remove(&mut self, path: &Path) {
        self.entries.remove(&merged(path));
    }

    /// Lays all entries of `other` over this.
    pub fn extend(&mut self, other: Packed) {
        self.entries.extend(other.entries);
    }

    /// The entries that `base` does not have just so.
    #[must_use]
    pub fn without(&self, base: &Packed) -> Packed {
        let entries = self.entries.iter().filter(|(path, entry)| base.entries.get(*path) != Some(entry));
        Packed { entries: entries.map(|(path, entry)| (path.clone(), entry.clone())).collect() }
    }

    /// Puts a file of the packing machine at the same path, with all symbolic links that lead to it.
    /// Returns the file itself, without links, so that one can look at what it needs in turn.
    ///
    /// # Errors
    /// It is not there, is not a regular file, or its links go in a circle.
    pub fn put_file(&mut self, path: &Path) -> Result<PathBuf> {
        let mut at = path.to_path_buf();
        for _ in 0..MOST_LINKS {
            // The directory's own links are resolved; the last part may be a link worth keeping.
            let parent = at.parent().with_context(|| format!("{} is not a file", path.display()))?;
            let parent = parent.canonicalize().with_context(|| format!("looking for {}", path.display()))?;
            let Some(name) = at.file_name() else { bail!("{} is not a file", path.display()) };
            let real = parent.join(name);
            let about = real.symlink_metadata().with_context(|| format!("looking for {}", path.display()))?;
            if about.file_type().is_symlink() {
                let to = std::fs::read_link(&real).with_context(|| format!("reading the link {}", real.display()))?;
                at = parent.join(&to);
                self.put(&real, Source::Link(packed_target(&at, to)), 0o777);
                continue;
            }
            if !about.is_file() {
                bail!("{} is not a regular file; only files can be packed", real.display());
            }
            self.put(&real, Source::File(real.clone()), about.permissions().mode() & 0o7777);
            return Ok(real);
        }
        bail!("{} leads through more than {MOST_LINKS} symbolic links", path.display())
    }

    /// Puts a directory of the packing machine with all that is in it.
    ///
    /// # Errors
    /// Something in it cannot be read.
    pub fn put_all(&mut self, dir: &Path) -> Result<()> {
        let listing = || format!("listing {}", dir.display());
        for entry in std::fs::read_dir(dir).with_context(listing)? {
            let path = entry.with_context(listing)?.path();
            if path.symlink_metadata().with_context(listing)?.is_dir() {
                self.put_all(&path)?;
            } else {
                self.put_file(&path)?;
            }
        }
        Ok(())
    }

    /// The same set with every directory on the way to an entry, and the links of merged directories.
    #[must_use]
    pub fn with_directories(&self) -> Packed {
        let mut whole = self.clone();
        for path in self.entries.keys() {
            for dir in path.ancestors().skip(1).filter(|dir| *dir != Path::new("/")) {
                if !whole.entries.contains_key(dir) {
                    whole.put(dir, Source::Directory, 0o755);
                }
            }
        }
        for name in MERGED {
            let usr = Path::new("/usr").join(name);
            if !whole.entries.contains_key(&usr) {
                whole.put(&usr, Source::Directory, 0o755);
            }
            let path = Path::new("/").join(name);
            let to = Path::new("usr").join(name);
            whole.entries.insert(path.clone(), PackedEntry { path, source: Source::Link(to), mode: 0o777 });
        }
        whole
    }

    /// Bytes of all files.
    ///
    /// # Errors
    /// A file has gone since it was put.
    pub fn bytes(&self) -> Result<u64> {
        let mut sum = 0;
        for entry in self.entries() {
            sum += match &entry.source {
                Source::File(file) => file.metadata().with_context(|| format!("reading {}", file.display()))?.size(),
                Source::Bytes(bytes) => bytes.len() as u64,
                _ => 0,
            };
        }
        Ok(sum)
    }

    /// Lays the set out below an empty directory. Device nodes are left out: they need root, and nothing
    /// that is tried in such a directory needs them.
    ///
    /// # Errors
    /// Something cannot be read or written.
    pub fn lay_out(&self, root: &Path) -> Result<()> {
        for entry in self.with_directories().entries() {
            let to = root.join(entry.path.strip_prefix("/").unwrap_or(&entry.path));
            let writing = || format!("writing {}", to.display());
            match &entry.source {
                Source::Directory => std::fs::create_dir_all(&to).with_context(writing)?,
                Source::Link(target) => symlink(target, &to).with_context(writing)?,
                Source::File(file) => {
                    std::fs::copy(file, &to)
                        .with_context(|| format!("copying {} to {}", file.display(), to.display()))?;
                }
                Source::Bytes(bytes) => {
                    let mut file = std::fs::File::create(&to).with_context(writing)?;
                    file.write_all(bytes).with_context(writing)?;
                }
                Source::CharDevice(..) => continue,
            }
            if matches!(entry.source, Source::File(_) | Source::Bytes(_)) {
                let mode = std::fs::Permissions::from_mode(entry.mode);
                std::fs::set_permissions(&to, mode).with_context(writing)?;
            }
        }
        Ok(())
    }
}

/// What a link is to say in the packed root, where its target is `at` on the packing machine: the same,
/// unless it leads through a directory that is itself a link, which is not packed.
fn packed_target(at: &Path, to: PathBuf) -> PathBuf {
    let real =
        at.parent().and_then(|dir| dir.canonicalize().ok()).zip(at.file_name()).map(|(dir, name)| dir.join(name));
    match real {
        Some(real) if merged(&real) != merged(at) => real,
        _ => to,
    }
}

/// A path as it is in the packed root: `/lib/x` is `/usr/lib/x`.
fn merged(path: &Path) -> PathBuf {
    let mut parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    let Some(first) = parts.next() else { return "/".into() };
    let rest: PathBuf = parts.collect();
    let is_merged = MERGED.iter().any(|name| first.as_os_str() == *name);
    let top = if is_merged { Path::new("/usr").join(first) } else { Path::new("/").join(first) };
    if rest.as_os_str().is_empty() { top } else { top.join(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_directories() {
        for (from, to) in [
            ("/lib/x/y", "/usr/lib/x/y"),
            ("/lib64/ld.so", "/usr/lib64/ld.so"),
            ("/usr/lib/x", "/usr/lib/x"),
            ("/library/x", "/library/x"),
            ("/", "/"),
            ("/bin", "/usr/bin"),
        ] {
            assert_eq!(merged(Path::new(from)), Path::new(to), "{from}");
        }
    }

    #[test]
    fn chains_of_links_are_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = dir.path().canonicalize().expect("canonical");
        std::fs::create_dir(dir.join("real")).expect("mkdir");
        std::fs::write(dir.join("real/prog-1.2"), "x").expect("write");
        symlink("real", dir.join("linked")).expect("link");
        symlink("prog-1.2", dir.join("real/prog")).expect("link");
        symlink(dir.join("linked/prog"), dir.join("prog")).expect("link");
        let mut packed = Packed::default();
        assert_eq!(packed.put_file(&dir.join("prog")).expect("there"), dir.join("real/prog-1.2"));
        let got: Vec<_> = packed.entries().map(|entry| (entry.path.clone(), entry.source.clone())).collect();
        let expected = vec![
            (dir.join("prog"), Source::Link(dir.join("real/prog"))),
            (dir.join("real/prog"), Source::Link("prog-1.2".into())),
            (dir.join("real/prog-1.2"), Source::File(dir.join("real/prog-1.2"))),
        ];
        assert_eq!(got, expected);
        symlink("loop", dir.join("loop")).expect("link");
        let error = packed.put_file(&dir.join("loop")).expect_err("a circle").to_string();
        assert!(error.contains("more than 40 symbolic links"), "{error}");
        let error = packed.put_file(&dir.join("real")).expect_err("a directory").to_string();
        assert!(error.contains("is not a regular file"), "{error}");
    }

    #[test]
    fn directories_come_before_their_contents() {
        let mut packed = Packed::default();
        packed.put("/lib/a/b", Source::Bytes(b"1".to_vec()), 0o644);
        let paths: Vec<_> = packed.with_directories().entries().map(|e| e.path.display().to_string()).collect();
        let expected = [
            "/bin",
            "/lib",
            "/lib64",
            "/sbin",
            "/usr",
            "/usr/bin",
            "/usr/lib",
            "/usr/lib/a",
            "/usr/lib/a/b",
            "/usr/lib64",
            "/usr/sbin",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn the_difference_of_two_sets() {
        let mut base = Packed::default();
        base.put("/a", Source::Bytes(b"1".to_vec()), 0o644);
        base.put("/b", Source::Bytes(b"1".to_vec()), 0o644);
        let mut more = base.clone();
        more.put("/b", Source::Bytes(b"2".to_vec()), 0o644);
        more.put("/c", Source::Link("b".into()), 0o777);
        let paths: Vec<_> = more.without(&base).entries().map(|e| e.path.clone()).collect();
        assert_eq!(paths, [PathBuf::from("/b"), PathBuf::from("/c")]);
    }
}
