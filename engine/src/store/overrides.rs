//! The overrides of a server: directories of their names, each with the files that it lays over images.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use systemimager_core::{BytePath, HostName, OverrideName};

use crate::config::Config;
use crate::overrides::{Entry, Layer, judge};
use crate::store::master::Master;

/// The directory of an override.
pub fn path(config: &Config, name: &OverrideName) -> PathBuf {
    config.overrides().join(name.as_str())
}

/// Whether there is one of that name.
pub fn exists(config: &Config, name: &OverrideName) -> bool {
    path(config, name).symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// All that are there, sorted; what cannot be the name of one is left out.
///
/// # Errors
/// The directory cannot be read.
pub fn list(config: &Config) -> Result<Vec<OverrideName>> {
    let dir = config.overrides();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", dir.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        names.extend(name.filter(|name| exists(config, name)));
    }
    names.sort();
    Ok(names)
}

/// A host's own: that of its name, with or without the domain.
pub fn of_host(config: &Config, host: &HostName) -> Option<OverrideName> {
    // Each host name can be the name of an override.
    [host.as_str(), host.short()].into_iter().filter_map(|name| name.parse().ok()).find(|name| exists(config, name))
}

/// Those of the overrides that a master names which are there.
pub fn there(config: &Config, master: &Master) -> Vec<OverrideName> {
    master.overrides.iter().filter(|name| exists(config, name)).cloned().collect()
}

/// What is laid over an image by this master on this host, in order.
pub fn wanted(config: &Config, master: &Master, host: Option<&HostName>) -> Vec<OverrideName> {
    with_own(&master.overrides, host.and_then(|host| of_host(config, host)))
}

/// The overrides that a master names, and after them a host's own.
pub fn with_own(named: &[OverrideName], own: Option<OverrideName>) -> Vec<OverrideName> {
    let mut all = named.to_vec();
    all.extend(own.filter(|own| !named.contains(own)));
    all
}

/// What an override holds, parents first.
///
/// # Errors
/// It is not there, or cannot be read.
pub fn entries(config: &Config, name: &OverrideName) -> Result<Vec<Entry>> {
    let top = path(config, name);
    if !exists(config, name) {
        bail!("there is no override {name}; make the directory {}, or take it out of the master file", top.display());
    }
    let mut all = Vec::new();
    for found in walkdir::WalkDir::new(&top).sort_by_file_name() {
        let found = found.with_context(|| format!("reading {}", top.display()))?;
        let inside = found.path().strip_prefix(&top).unwrap_or(found.path());
        all.push(Entry { path: BytePath::from(Path::new("/").join(inside)), directory: found.file_type().is_dir() });
    }
    Ok(all)
}

/// What of these overrides would be laid over the image whose tree this is.
///
/// # Errors
/// All that is wrong with them.
pub fn layers(config: &Config, names: &[OverrideName], image: &Path) -> Result<Vec<Layer>, Vec<String>> {
    let mut problems = Vec::new();
    let mut all = Vec::new();
    for name in names {
        match entries(config, name) {
            Ok(entries) => all.push((name.clone(), entries)),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let in_image = |path: &BytePath| {
        let place = image.join(path.as_path().strip_prefix("/").unwrap_or(path.as_path()));
        Some(place.symlink_metadata().ok()?.is_dir())
    };
    judge(&in_image, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        assert_eq!(list(&config).unwrap(), []);
        for name in ["web", "www1", "www2.example.org"] {
            std::fs::create_dir_all(config.overrides().join(name).join("etc")).unwrap();
        }
        std::fs::write(config.overrides().join("README"), "").unwrap();
        let named = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<OverrideName>>();
        assert_eq!(list(&config).unwrap(), named(&["web", "www1", "www2.example.org"]));
        for (host, own) in [
            ("www1", Some("www1")),
            ("www1.example.org", Some("www1")),
            ("www2.example.org", Some("www2.example.org")),
            ("www2", None),
            ("readme", None),
        ] {
            assert_eq!(of_host(&config, &host.parse().unwrap()), own.map(|it| it.parse().unwrap()), "{host}");
        }
        assert_eq!(with_own(&named(&["www1", "web"]), Some("www1".parse().unwrap())), named(&["www1", "web"]));
        assert_eq!(with_own(&named(&["web"]), Some("www1".parse().unwrap())), named(&["web", "www1"]));
    }

    #[test]
    fn held_against_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::load(Some(dir.path()), None).unwrap();
        let image = dir.path().join("image");
        std::fs::create_dir_all(image.join("usr/lib")).unwrap();
        std::os::unix::fs::symlink("usr/lib", image.join("lib")).unwrap();
        std::fs::create_dir_all(config.overrides().join("good/usr/lib")).unwrap();
        std::fs::write(config.overrides().join("good/usr/lib/file"), "").unwrap();
        std::fs::create_dir_all(config.overrides().join("bad/lib")).unwrap();
        let of = |names: &[&str]| {
            layers(&config, &names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>(), &image)
        };
        assert_eq!(of(&["good"]).unwrap()[0].paths, [BytePath::from("/usr/lib/file")]);
        assert!(of(&["good", "bad"]).unwrap_err()[0].contains("has a directory /lib"));
        assert!(of(&["none"]).unwrap_err()[0].starts_with("there is no override none; make the directory "));
    }
}
