//! Putting a configuration in the place of the old one: written beside it, checked there by the server's own program,
//! then renamed, the old one kept under another name. The only file here that touches the disk and runs programs.

use std::fs::{File, Metadata, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::NamedTempFile;

use super::Flavor;
use crate::sys::atomic::sync_dir;
use crate::sys::tool::{find, search_dirs};
use crate::sys::{Cmd, CommandError};

/// How long a check may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The largest file that is read.
const LARGEST: u64 = 64 << 20;

/// A file, as it was read.
#[derive(Debug)]
pub struct Old {
    /// The file itself, where the path leads through links.
    path: PathBuf,
    bytes: Option<Vec<u8>>,
    metadata: Option<Metadata>,
}

impl Old {
    /// Reads a configuration; one that is absent has no text.
    ///
    /// # Errors
    /// It is there and cannot be read, or is no file, or too large.
    pub fn read(path: &Path) -> Result<Self> {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        Ok(match read(&path)? {
            Some((bytes, metadata)) => Self { path, bytes: Some(bytes), metadata: Some(metadata) },
            None => Self { path, bytes: None, metadata: None },
        })
    }

    /// Its text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        let bytes = self.bytes.as_deref().unwrap_or_default();
        std::str::from_utf8(bytes).with_context(|| format!("{} is not UTF-8; bring it into that", self.path.display()))
    }

    /// Whether there is such a file.
    pub fn exists(&self) -> bool {
        self.bytes.is_some()
    }
}

/// Reads a file, bounded; `None`: it is absent.
///
/// # Errors
/// It cannot be read, is no plain file, or is too large.
pub fn read(path: &Path) -> Result<Option<(Vec<u8>, Metadata)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let metadata = file.metadata().with_context(|| format!("looking at {}", path.display()))?;
    if !metadata.is_file() {
        bail!("{} is no file; name one", path.display());
    }
    let mut bytes = Vec::new();
    let read = file.take(LARGEST + 1).read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
    if read as u64 > LARGEST {
        bail!("{} is larger than {} MiB; name the right file", path.display(), LARGEST >> 20);
    }
    Ok(Some((bytes, metadata)))
}

/// A configuration that lies beside the old one, checked.
#[derive(Debug)]
pub struct Candidate {
    old: Old,
    new: NamedTempFile,
}

/// Writes a configuration beside the old one, and has the server's program check it there.
///
/// # Errors
/// The directory cannot be written; the program is absent, with its package; or it refuses the configuration: what it
/// says. The old one is whole then.
pub fn prepare(flavor: Flavor, old: Old, text: &str, check: bool) -> Result<Candidate> {
    if check && let Err(error) = find(flavor.tool(), &search_dirs()) {
        bail!("{error}, or go without the check, by --no-check");
    }
    let dir = match old.path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
        Some(dir) => dir,
        None => bail!("{} is no file; name one", old.path.display()),
    };
    let name = old.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let writing = || format!("writing beside {}", old.path.display());
    // The name begins with a dot: servers that read whole directories pass it over.
    let mut new = tempfile::Builder::new()
        .prefix(&format!(".systemimager-{name}-"))
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .with_context(writing)?;
    new.write_all(text.as_bytes()).with_context(writing)?;
    like(new.as_file(), old.metadata.as_ref()).with_context(writing)?;
    new.as_file().sync_all().with_context(writing)?;
    if check && let Err(error) = run_check(flavor, new.path()) {
        // The name that is on its way out helps nobody.
        let said = error.to_string().replace(&new.path().display().to_string(), &old.path.display().to_string());
        bail!("{} refuses the configuration, and {} stays as it is: {said}", flavor.tool().name(), old.path.display());
    }
    Ok(Candidate { old, new })
}

/// Owner and mode of the old file: it may hold keys, and the server may not be root.
fn like(new: &File, old: Option<&Metadata>) -> std::io::Result<()> {
    let mode = old.map_or(0o644, |old| old.permissions().mode() & 0o777);
    if let Some(old) = old {
        let metadata = new.metadata()?;
        if (metadata.uid(), metadata.gid()) != (old.uid(), old.gid()) {
            fchown(new, Some(old.uid()), Some(old.gid()))?;
        }
    }
    new.set_permissions(Permissions::from_mode(mode))
}

/// Has the server's program read a configuration and nothing else.
fn run_check(flavor: Flavor, file: &Path) -> Result<(), CommandError> {
    let cmd = Cmd::tool(flavor.tool()).timeout(PATIENCE);
    match flavor {
        Flavor::Isc => cmd.args(["-4", "-t", "-cf"]).arg(file),
        Flavor::Dnsmasq => cmd.arg("--test").arg(format!("--conf-file={}", file.display())),
        // It would make a lock for its log else, in a directory that is there only while it runs.
        Flavor::Kea => cmd.arg("-t").arg(file).env("KEA_LOCKFILE_DIR", "none"),
    }
    .run()
}

impl Candidate {
    /// Where it goes.
    pub fn path(&self) -> &Path {
        &self.old.path
    }

    /// Puts it in the place of the old one, which is kept as `FILE.~N~`: that name is returned.
    ///
    /// # Errors
    /// Somebody changed the file meanwhile, or the directory cannot be written; the old one is whole then.
    pub fn commit(self) -> Result<Option<PathBuf>> {
        let path = &self.old.path;
        let now = read(path)?.map(|(bytes, _)| bytes);
        if now != self.old.bytes {
            bail!("{} was changed by somebody meanwhile; nothing was written, run this again", path.display());
        }
        let backup = match &self.old.bytes {
            Some(bytes) => Some(keep(path, bytes, self.old.metadata.as_ref())?),
            None => None,
        };
        self.new.persist(path).map_err(|error| error.error).with_context(|| format!("writing {}", path.display()))?;
        if let Some(dir) = path.parent() {
            sync_dir(dir)?;
        }
        Ok(backup)
    }
}

/// Keeps a file's contents beside it under the first free name `FILE.~N~`.
fn keep(path: &Path, bytes: &[u8], metadata: Option<&Metadata>) -> Result<PathBuf> {
    for number in 1..=u32::MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".~{number}~"));
        let backup = PathBuf::from(name);
        let writing = || format!("writing {}", backup.display());
        // Readable by nobody else until its owner and mode are those of the file.
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
        match options.open(&backup) {
            Ok(mut file) => {
                file.write_all(bytes).with_context(writing)?;
                like(&file, metadata).with_context(writing)?;
                file.sync_all().with_context(writing)?;
                return Ok(backup);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(writing),
        }
    }
    bail!("{} has too many backups; remove some of {}.~*~", path.display(), path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_file_stays_until_the_new_one_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d.conf");
        let write = |text: &str, check| prepare(Flavor::Dnsmasq, Old::read(&file)?, text, check)?.commit();
        assert_eq!(write("port=0\n", false).unwrap(), None, "there was none");
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let backup = write("port=1\n", false).unwrap().unwrap();
        assert_eq!(backup, dir.path().join("d.conf.~1~"));
        assert_eq!(std::fs::read_to_string(&backup).unwrap(), "port=0\n");
        for path in [&file, &backup] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640, "{}", path.display());
        }
        // Somebody else writes between.
        let candidate = prepare(Flavor::Dnsmasq, Old::read(&file).unwrap(), "port=2\n", false).unwrap();
        std::fs::write(&file, "port=3\n").unwrap();
        let error = candidate.commit().unwrap_err().to_string();
        assert!(error.contains("was changed by somebody meanwhile"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "port=3\n");
        if find(Flavor::Dnsmasq.tool(), &search_dirs()).is_err() {
            println!("SKIPPED: the_old_file_stays_until_the_new_one_is_right: dnsmasq is not installed");
            return;
        }
        let error = write("no-such-option=1\n", true).unwrap_err().to_string();
        assert!(
            error.contains("dnsmasq refuses the configuration") && error.contains("d.conf stays as it is"),
            "{error}"
        );
        assert!(error.contains("bad option") && !error.contains("/.systemimager-"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "port=3\n");
        assert_eq!(write("port=0\n", true).unwrap(), Some(dir.path().join("d.conf.~2~")));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left over");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Old::read(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("is no file; name one"), "{error}");
        let file = dir.path().join("x");
        std::fs::write(&file, b"\xff").unwrap();
        let error = Old::read(&file).unwrap().text().unwrap_err().to_string();
        assert!(error.contains("is not UTF-8"), "{error}");
        std::os::unix::fs::symlink("x", dir.path().join("link")).unwrap();
        let linked = prepare(Flavor::Isc, Old::read(&dir.path().join("link")).unwrap(), "a", false).unwrap();
        linked.commit().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "a", "what a link leads to is written");
        assert!(dir.path().join("link").symlink_metadata().unwrap().is_symlink());
    }
}
