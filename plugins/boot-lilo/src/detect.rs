//! Whether a tree has LILO: its program, its configuration, and what that names that is not there.
//!
//! It reads names and lilo.conf; nothing of the image is run.

use std::collections::BTreeMap;

use systemimager_core::host::read_if_there;
use systemimager_core::{ErrorKind, Host, Place, Result};

use crate::conf::{self, Conf};

/// Where LILO reads.
pub const CONF: &str = "/etc/lilo.conf";
/// Where it keeps where kernels lie, if nobody says otherwise.
const MAP: &str = "/boot/map";
/// Largest lilo.conf that is taken, bytes.
const LARGEST: usize = 64 << 10;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// lilo.conf; `None`: there is none.
    pub text: Option<String>,
    /// Files that it names and that are not there.
    pub absent: Vec<String>,
    /// The map is there.
    pub has_map: bool,
}

impl Found {
    /// As pairs.
    pub fn into_facts(self) -> BTreeMap<String, String> {
        let conf = self.conf();
        let mut reads = vec![CONF.to_owned(), "/boot".into(), "/sbin/lilo".into(), "/usr/sbin/lilo".into()];
        for section in conf.iter().flat_map(|conf| &conf.sections).filter(|section| section.is_image) {
            reads.push(section.path.clone());
            reads.extend(section.get("initrd").map(str::to_owned));
        }
        reads.retain(|path| path.starts_with('/') && !path.contains('\n'));
        let writes = [CONF.to_owned(), self.map(), backup(&self.map()), SECTOR.to_owned()];
        [
            ("reads", Some(reads.join("\n"))),
            ("writes", Some(writes.join("\n"))),
            ("conf", self.text),
            ("absent", (!self.absent.is_empty()).then(|| self.absent.join("\n"))),
            ("map", self.has_map.then(|| "yes".to_owned())),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }

    /// Back from pairs.
    pub fn from_facts(facts: &BTreeMap<String, String>) -> Self {
        let absent = facts.get("absent").map(|lines| lines.lines().map(str::to_owned).collect()).unwrap_or_default();
        Self { text: facts.get("conf").cloned(), absent, has_map: facts.contains_key("map") }
    }

    /// lilo.conf, read.
    pub fn conf(&self) -> Option<Conf> {
        self.text.as_deref().map(conf::parse)
    }

    /// Where the map is.
    pub fn map(&self) -> String {
        let named = self.conf().and_then(|conf| conf::get(&conf.global, "map").map(str::to_owned));
        let fine = |path: &String| {
            path.starts_with('/') && !path.split('/').any(|part| part == "..") && !path.chars().any(char::is_control)
        };
        named.filter(fine).unwrap_or_else(|| MAP.into())
    }
}

/// Where the boot sector is kept that was there before.
pub const SECTOR: &str = "/boot/boot-sector.before-lilo";

/// Where the map is kept that was there before.
pub fn backup(map: &str) -> String {
    format!("{map}.before-lilo")
}

/// Looks for LILO in a tree; `None` if its program is not there.
///
/// # Errors
/// A file or directory that is there cannot be read.
pub fn detect(host: &dyn Host, place: &Place) -> Result<Option<Found>> {
    if !is_there(host, place, "/sbin/lilo")? && !is_there(host, place, "/usr/sbin/lilo")? {
        return Ok(None);
    }
    let text = read_if_there(host, place, CONF)?.filter(|text| text.0.len() <= LARGEST);
    let mut found = Found { text: text.map(|text| text.lossy().into_owned()), ..Found::default() };
    for section in found.conf().iter().flat_map(|conf| &conf.sections).filter(|section| section.is_image) {
        // `optional` leaves out what is not there.
        if section.items.iter().any(|item| item.key == "optional") {
            continue;
        }
        for file in [Some(section.path.as_str()), section.get("initrd")].into_iter().flatten() {
            if !is_there(host, place, file)? {
                found.absent.push(file.chars().map(|it| if it.is_control() { '?' } else { it }).collect());
            }
        }
    }
    found.has_map = is_there(host, place, &found.map())?;
    Ok(Some(found))
}

/// Whether a directory lists a file; a link counts, wherever it leads.
fn is_there(host: &dyn Host, place: &Place, path: &str) -> Result<bool> {
    let Some((directory, name)) = path.rsplit_once('/').filter(|_| path.starts_with('/')) else { return Ok(false) };
    let directory = if directory.is_empty() { "/" } else { directory };
    match host.list(place, &directory.into()) {
        Ok(names) => Ok(names.contains(&name.into())),
        Err(error) if [ErrorKind::NotFound, ErrorKind::Invalid].contains(&error.kind) => Ok(false),
        Err(error) => Err(error),
    }
}
