//! Overrides: what a site lays over an image, by directories that hold just the files that differ. The image itself stays
//! as it was captured.
//!
//! [`judge`] decides, purely, what of them is pulled: files take the places of the image's; a directory that the image has
//! keeps the image's owner and mode, so that one made in a hurry does not close /etc to everybody. What would turn a symbolic
//! link into a directory, or the reverse, is refused: a `lib` in an override would take the place of the link to `usr/lib`.
//! [`Wire`] finds out the same over the image's transport, and brings them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use systemimager_core::{BytePath, OverrideName, PullReport, PullRequest, Registry, Source};

use crate::config::MACHINE_STATE as STATE;
use crate::host::EngineHost;
use crate::remote::{NotThere, Server};
use crate::sys::volatile;
use crate::transfer;
use crate::tree::pattern::{any_below, is_below, parent};

/// Problems that an error lists.
const LISTED: usize = 10;

/// Something in an override.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// From its top, `/etc/motd`.
    pub path: BytePath,
    /// It is a directory.
    pub directory: bool,
}

/// An override and what it holds.
pub type Override = (OverrideName, Vec<Entry>);

/// An override as it is laid over an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name.
    pub name: OverrideName,
    /// What is pulled of it, each for itself: without directories that are there already, and without what a later one
    /// has too. Sorted.
    pub paths: Vec<BytePath>,
}

impl Layer {
    /// Paths that an update of the image leaves to the override: its files, and directories of its own with nothing in them.
    /// What the image and earlier overrides have below a directory with contents still goes.
    pub fn held(&self) -> impl Iterator<Item = &BytePath> {
        self.paths.iter().filter(|path| !any_below(&self.paths, path))
    }

    /// Whether a path is pulled of it.
    pub fn has(&self, path: &BytePath) -> bool {
        self.paths.binary_search(path).is_ok()
    }
}

/// What is pulled of overrides that are laid over an image in this order. `in_image` says of a path whether the image has
/// a directory there (`Some(true)`), something else, or nothing (`None`).
///
/// # Errors
/// Every problem that was found.
pub fn judge(in_image: &dyn Fn(&BytePath) -> Option<bool>, overrides: &[Override]) -> Result<Vec<Layer>, Vec<String>> {
    let mut problems = Vec::new();
    let mut laid: BTreeMap<&BytePath, (bool, &OverrideName)> = BTreeMap::new();
    let mut layers: Vec<Layer> = Vec::new();
    for (name, entries) in overrides {
        let mut layer = Layer { name: name.clone(), paths: Vec::new() };
        for entry in entries.iter().filter(|entry| entry.path.as_bytes() != b"/") {
            let path = &entry.path;
            if is_below(path, &STATE.into()) {
                problems
                    .push(format!("the override {name} has {path}: there machines keep their own state; remove it"));
                continue;
            }
            let there = laid.get(path).map(|(directory, by)| (*directory, format!("the override {by}")));
            let there = there.or_else(|| Some((in_image(path)?, "the image".to_owned())));
            match there {
                Some((true, _)) if entry.directory => continue,
                Some((false, by)) if entry.directory => problems.push(format!(
                    "the override {name} has a directory {path}, where {by} has a file or a symbolic link; put what is in it \
                     where the link leads, or remove the one of them"
                )),
                Some((true, by)) => problems.push(format!(
                    "the override {name} has {path}, which is a directory in {by}, and none here; remove the one of them"
                )),
                _ => {}
            }
            layer.paths.push(path.clone());
            laid.insert(path, (entry.directory, name));
        }
        layer.paths.sort();
        for earlier in &mut layers {
            earlier.paths.retain(|path| !layer.has(path));
        }
        layers.push(layer);
    }
    if problems.is_empty() { Ok(layers) } else { Err(problems) }
}

/// A host's own override, as the image server says at this path; a server of before there were any knows of none.
///
/// # Errors
/// The server does not answer.
pub fn own(server: &Server, path: &str) -> Result<Option<OverrideName>> {
    match server.json::<Vec<OverrideName>>(path) {
        Err(error) if error.is::<NotThere>() => Ok(None),
        answer => Ok(answer?.into_iter().next()),
    }
}

/// Where overrides and their image are pulled from, and by what.
pub struct Wire<'a> {
    /// The plugins.
    pub registry: &'a Registry,
    /// What plugins see.
    pub host: &'a EngineHost,
    /// The transport: the last of the master's chain.
    pub transport: &'a str,
    /// Image server, port, and the image's export.
    pub image: Source,
    /// How long a server that is away is waited for.
    pub patience: Duration,
}

impl Wire<'_> {
    /// Finds out what these overrides hold, and what of it is pulled.
    ///
    /// # Errors
    /// One of them is not offered, does not fit the image, or the transport cannot lay anything over a tree.
    pub fn look(&self, names: &[OverrideName]) -> Result<Vec<Layer>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let can = self.registry.transport(self.transport)?.capabilities(self.host, ())?;
        if !(can.flat && can.dry_run) {
            bail!(
                "the transport {} cannot pull single paths, which overrides need; end the master's transports with one that can",
                self.transport
            );
        }
        let mut overrides = Vec::new();
        for name in names {
            let entries = self.entries(&self.of(name), None).with_context(|| {
                format!(
                    "the override {name} cannot be had from {}; is it there, and is serve running?",
                    self.image.server
                )
            })?;
            overrides.push((name.clone(), entries));
        }
        let in_image = self.in_image(overrides.iter().flat_map(|(_, all)| all).map(|it| &it.path))?;
        judge(&|path| in_image.get(path).copied(), &overrides).map_err(|problems| {
            let more = problems.len().saturating_sub(LISTED);
            let listed = problems.into_iter().take(LISTED).collect::<Vec<_>>().join("\n");
            let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
            anyhow::anyhow!("{listed}{more}")
        })
    }

    /// Which of these paths the image has, and whether as directories. Level by level: asked for what lies below a symbolic
    /// link, a transport may call the link a directory.
    fn in_image<'p>(&self, paths: impl Iterator<Item = &'p BytePath>) -> Result<BTreeMap<BytePath, bool>> {
        let mut levels: BTreeMap<usize, BTreeSet<&BytePath>> = BTreeMap::new();
        for path in paths.filter(|path| path.as_bytes() != b"/") {
            let depth = path.as_bytes().iter().filter(|byte| **byte == b'/').count();
            levels.entry(depth).or_default().insert(path);
        }
        let mut found = BTreeMap::from([(BytePath::from("/"), true)]);
        for level in levels.into_values() {
            let below_directories = level.into_iter().filter(|path| found.get(&parent(path)) == Some(&true));
            let asked: Vec<BytePath> = below_directories.cloned().collect();
            if !asked.is_empty() {
                let wanted: BTreeSet<BytePath> = asked.iter().cloned().collect();
                let entries = self.entries(&self.image, Some(asked)).context("asking what the image has there")?;
                let named = entries.into_iter().filter(|entry| wanted.contains(&entry.path));
                found.extend(named.map(|entry| (entry.path, entry.directory)));
            }
        }
        Ok(found)
    }

    /// What an export has: all of it, or of these paths.
    fn entries(&self, from: &Source, only: Option<Vec<BytePath>>) -> Result<Vec<Entry>> {
        let request = PullRequest { from: from.clone(), flat: only.is_some(), only, ..PullRequest::default() };
        let report = transfer::into_nothing(&volatile::dir(), request, |request| self.pull(&request))?;
        if let Some(failed) = report.failed.first() {
            bail!("{} cannot be read on {}: {}", failed.path, from.server, failed.why);
        }
        let entry = |change: systemimager_core::Change| Entry { path: change.path, directory: change.directory };
        Ok(report.changes.into_iter().map(entry).collect())
    }

    /// What of a layer is not yet so below `into`, or brings it there.
    ///
    /// # Errors
    /// It cannot be had; something of it failed, or vanished twice.
    pub fn bring(&self, layer: &Layer, more: PullRequest) -> Result<PullReport> {
        // Directories that it has only for what is in them are left as they are.
        let request = PullRequest { from: self.of(&layer.name), flat: true, leave_above: true, ..more };
        if request.only.as_ref().is_some_and(Vec::is_empty) {
            return Ok(PullReport::default());
        }
        let report = transfer::exact(self.registry, self.host, self.transport, &request, self.patience);
        report.with_context(|| format!("laying the override {} over the image", layer.name))
    }

    fn pull(&self, request: &PullRequest) -> Result<PullReport> {
        transfer::pull(self.registry, self.host, self.transport, request, self.patience)
    }

    fn of(&self, name: &OverrideName) -> Source {
        Source { export: name.export(), ..self.image.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, entries: &[&str]) -> Override {
        let entry = |path: &&str| match path.strip_suffix('/') {
            Some(path) if !path.is_empty() => Entry { path: path.into(), directory: true },
            _ => Entry { path: (*path).into(), directory: *path == "/" },
        };
        (name.parse().unwrap(), entries.iter().map(entry).collect())
    }

    fn in_image(path: &BytePath) -> Option<bool> {
        match path.to_string().as_str() {
            "/" | "/etc" | "/usr" | "/usr/lib" | "/etc/full" => Some(true),
            "/lib" | "/etc/motd" => Some(false),
            _ => None,
        }
    }

    #[test]
    fn what_is_pulled() {
        let all = [
            layer("web", &["/", "/etc/", "/etc/motd", "/etc/new/", "/etc/new/file", "/empty/"]),
            layer("www1", &["/", "/etc/", "/etc/new/", "/etc/motd"]),
        ];
        let layers = judge(&in_image, &all).unwrap();
        let shown = |paths: &mut dyn Iterator<Item = &BytePath>| paths.map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&mut layers[0].paths.iter()), ["/empty", "/etc/new", "/etc/new/file"]);
        assert_eq!(shown(&mut layers[1].paths.iter()), ["/etc/motd"], "the later one counts; directories keep theirs");
        assert_eq!(shown(&mut layers[0].held()), ["/empty", "/etc/new/file"]);
    }

    #[test]
    fn what_does_not_fit() {
        let rows: [(&str, Vec<Override>, &str); 5] = [
            (
                "a link becomes a directory",
                vec![layer("a", &["/lib/", "/lib/x"])],
                "has a directory /lib, where the image",
            ),
            (
                "a directory becomes a file",
                vec![layer("a", &["/etc/full"])],
                "/etc/full, which is a directory in the image",
            ),
            (
                "of one another",
                vec![layer("a", &["/x"]), layer("b", &["/x/", "/x/y"])],
                "where the override a has a file",
            ),
            ("the other way", vec![layer("a", &["/x/"]), layer("b", &["/x"])], "is a directory in the override a"),
            (
                "what machines keep",
                vec![layer("a", &["/var/lib/systemimager/x"])],
                "there machines keep their own state",
            ),
        ];
        for (name, all, says) in rows {
            let problems = judge(&in_image, &all).expect_err(name).join("\n");
            assert!(problems.contains(says), "{name}: {problems}");
        }
    }
}
