//! The hooks of a server: the site's own programs, each a file of its name.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use systemimager_core::HookName;

use crate::config::Config;

/// Where hooks lie on a machine that is being installed.
pub const HOOK_DIR: &str = "/usr/lib/systemimager/hooks";

/// The file of a hook.
pub fn path(config: &Config, name: &HookName) -> PathBuf {
    config.hooks().join(name.as_str())
}

/// Where it lies on a machine that is being installed.
pub fn installed_path(name: &HookName) -> PathBuf {
    Path::new(HOOK_DIR).join(name.as_str())
}

/// Whether machines may run a hook: a file that can be executed, with contents that can be, and that only root and its
/// owner, this user, can change.
///
/// # Errors
/// It is not; says what to do.
pub fn check(config: &Config, name: &HookName) -> Result<PathBuf> {
    let file = path(config, name);
    let found = match std::fs::metadata(&file) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("there is no hook {name}; put the program there: {}", file.display())
        }
        Err(error) => return Err(error).with_context(|| format!("looking at the hook {}", file.display())),
    };
    if !found.is_file() {
        bail!("the hook {} is no file", file.display());
    }
    if found.permissions().mode() & 0o111 == 0 {
        bail!("the hook {} is not executable; run: chmod 755 {}", file.display(), file.display());
    }
    let ours = [0, rustix::process::geteuid().as_raw()];
    if found.permissions().mode() & 0o022 != 0 || !ours.contains(&found.uid()) {
        bail!(
            "the hook {} can be changed by others than root, and machines run it as root; run: chown root {} and chmod 755 {}",
            file.display(),
            file.display(),
            file.display()
        );
    }
    let begin = begin_of(&file)?;
    if !begin.starts_with(b"#!") && !begin.starts_with(b"\x7fELF") {
        bail!("the hook {} is neither a program nor a script; begin it with a line such as #!/bin/sh", file.display());
    }
    if begin.split(|byte| *byte == b'\n').next().is_some_and(|line| line.ends_with(b"\r")) {
        bail!("the first line of the hook {} ends as DOS does; nothing would run it", file.display());
    }
    Ok(file)
}

fn begin_of(file: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let reading = || format!("reading the hook {}", file.display());
    let mut begin = Vec::new();
    std::fs::File::open(file).with_context(reading)?.take(256).read_to_end(&mut begin).with_context(reading)?;
    Ok(begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_machines_may_run() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        std::fs::create_dir_all(config.hooks()).unwrap();
        for (name, contents, mode, says) in [
            ("script", "#!/bin/sh\n", 0o755, ""),
            ("program", "\x7fELF", 0o700, ""),
            ("none", "", 0, "there is no hook none; put the program there"),
            ("plain", "#!/bin/sh\n", 0o644, "is not executable; run: chmod 755"),
            ("open", "#!/bin/sh\n", 0o775, "can be changed by others than root"),
            ("text", "echo\n", 0o755, "is neither a program nor a script"),
            ("dos", "#!/bin/sh\r\n", 0o755, "ends as DOS does"),
        ] {
            let file = config.hooks().join(name);
            if mode != 0 {
                std::fs::write(&file, contents).unwrap();
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            }
            match check(&config, &name.parse().unwrap()) {
                Ok(path) => assert!(says.is_empty() && path == file, "{name}"),
                Err(error) => assert!(!says.is_empty() && error.to_string().contains(says), "{name}: {error}"),
            }
        }
        std::fs::create_dir(config.hooks().join("folder")).unwrap();
        assert!(check(&config, &"folder".parse().unwrap()).unwrap_err().to_string().ends_with("is no file"));
    }
}
