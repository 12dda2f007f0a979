//! A tree of files as the rest of the plugin asks about it. It reads; nothing of the image is run.

use systemimager_core::host::read_if_there;
use systemimager_core::{BytePath, ErrorKind, Host, Place, Result};

/// What came from a tree and is to be changed in another: an absolute path that leads nowhere else.
pub fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.contains(char::is_control) && text.split('/').all(|part| part != "..")
}

/// A tree.
pub struct Tree<'a> {
    /// Who reads.
    pub host: &'a dyn Host,
    /// Where.
    pub place: &'a Place,
}

impl Tree<'_> {
    /// Files of a directory whose names and contents are wanted, as absolute paths.
    pub fn files_with(
        &self,
        directory: &str,
        name: impl Fn(&str) -> bool,
        contents: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for path in self.paths(directory, name)? {
            if self.text(&path)?.is_some_and(|text| contents(&text)) {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// What stands in a directory under names that are wanted, as absolute paths. Names that are no text, or have a
    /// line break, are left out: no tool makes such a file.
    pub fn paths(&self, directory: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let names = self.names(directory)?;
        let texts = names.iter().filter_map(|name| std::str::from_utf8(name.as_bytes()).ok());
        Ok(texts
            .filter(|name| wanted(name) && !name.contains(char::is_control))
            .map(|name| format!("{directory}/{name}"))
            .collect())
    }

    /// Whether something stands at a path, a link that leads nowhere too.
    pub fn stands(&self, path: &str) -> Result<bool> {
        let (directory, name) = path.rsplit_once('/').unwrap_or_default();
        Ok(self.names(if directory.is_empty() { "/" } else { directory })?.contains(&name.into()))
    }

    /// A file's text, what is none of it replaced; `None` if there is no such file.
    pub fn text(&self, path: &str) -> Result<Option<String>> {
        match self.host.read(self.place, &path.into()) {
            Ok(bytes) => Ok(Some(bytes.lossy().into_owned())),
            // A directory, a link that leads nowhere: nothing that a tool would read.
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Invalid) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A unit is wanted by some target: a link in `*.wants`, which may lead nowhere in a tree.
    pub fn enabled(&self, unit: &str) -> Result<bool> {
        let directory = "/etc/systemd/system";
        for name in self.names(directory)? {
            let Ok(name) = std::str::from_utf8(name.as_bytes()) else { continue };
            if (name.ends_with(".wants") || name.ends_with(".requires"))
                && self.names(&format!("{directory}/{name}"))?.contains(&unit.into())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A program of that name is where programs are.
    pub fn program(&self, name: &str) -> Result<bool> {
        for directory in ["/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
            if self.names(directory)?.contains(&name.into()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A file is there and can be read.
    pub fn there(&self, path: &str) -> Result<bool> {
        Ok(read_if_there(self.host, self.place, path)?.is_some())
    }

    /// Names in a directory; none if there is no such directory.
    pub fn names(&self, directory: &str) -> Result<Vec<BytePath>> {
        match self.host.list(self.place, &directory.into()) {
            Ok(names) => Ok(names),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
