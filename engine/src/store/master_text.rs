//! The master file as text: read with errors that have a line and a column, written with comments for
//! the administrator who edits it, checked against the plugins that are there.
//!
//! Reading and rendering are pure; only [`write_master`] touches the disk.

mod place;
mod plugins;
mod render;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use systemimager_core::ImageName;
use toml_edit::{Document, DocumentMut, Item};

use super::master::{MASTER_FORMAT, Master};
use crate::config::{Config, toml_error};
use crate::sys::atomic;
use place::Places;

pub use plugins::{check_file_systems, check_plugins};
pub use render::render;

/// How the file name of a master ends.
pub const MASTER_SUFFIX: &str = ".master";

/// Reads a master. `file` is named in errors; if it is `IMAGE.master`, the master must be that image's.
///
/// # Errors
/// `FILE:LINE:COLUMN: what is wrong`, a line for each fault.
pub fn parse(file: &Path, text: &str) -> Result<Master> {
    let document = Document::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        anyhow!("{}: {}", place::shown(file, text, offset), place::one_line(error.message()))
    })?;
    let places = Places::new(file, text, document.as_item());
    // Before anything else: a file of a later format would only be called full of unknown fields.
    match document.get("format").map(|item| item.as_integer()) {
        Some(Some(format)) if format != i64::from(MASTER_FORMAT) => bail!(
            "{}: the format is {format}, and this program reads format {MASTER_FORMAT}; use the systemimager \
             that wrote the file, or write it anew with getimage --update-master yes",
            places.of("format")
        ),
        _ => {}
    }
    let master: Master = toml::from_str(text).map_err(|error| toml_error(file, text, &error))?;
    let mut faults: Vec<String> = Vec::new();
    let mut wrong = |keys: &str, why: String| faults.push(format!("{}: {why}", places.of(keys)));
    let named = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(MASTER_SUFFIX));
    if let Some(named) = named.filter(|named| *named != master.image.as_str()) {
        wrong(
            "image",
            format!("this is the master of {named} and says image = \"{}\"; make both the same", master.image),
        );
    }
    if master.transports.is_empty() {
        wrong("transports", "no transport is named; name at least one, as in transports = [\"ID\"]".into());
    }
    for (index, id) in master.transports.iter().enumerate() {
        let keys = format!("transports.{index}");
        plugin_id("transport", id).unwrap_or_else(|why| wrong(&keys, why));
        if master.transports[..index].contains(id) {
            wrong(&keys, format!("the transport \"{id}\" is named twice; name each once"));
        }
    }
    for (keys, kind, id) in [
        ("partitioner", "partitioner", &master.partitioner),
        ("bootloader", "boot loader", &master.bootloader),
        ("identity.plugin", "host identity plugin", &master.identity.plugin),
    ] {
        plugin_id(kind, id).unwrap_or_else(|why| wrong(keys, why));
    }
    for (index, name) in master.identity.scrub.iter().flatten().enumerate() {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        if name.is_empty() || !name.chars().all(fits) {
            let why = format!("{name:?} is nothing to scrub: such a name has letters, digits and '-', as machine-id");
            wrong(&format!("identity.scrub.{index}"), why);
        }
    }
    for (index, name) in master.overrides.iter().enumerate() {
        if master.overrides[..index].contains(name) {
            wrong(&format!("overrides.{index}"), format!("the override {name} is named twice; the last one counts"));
        }
    }
    if let Err(errors) = master.layout.check() {
        for error in errors {
            wrong(&format!("layout.{}", error.at), error.why);
        }
    }
    if faults.is_empty() { Ok(master) } else { Err(anyhow!(faults.join("\n"))) }
}

fn plugin_id(kind: &str, id: &str) -> Result<(), String> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    match id {
        "" => Err(format!("the {kind} is empty; name one by its id, as `systemimager plugin list` shows it")),
        id if !id.chars().all(fits) => Err(format!("{id:?} is no {kind}: an id has letters, digits, '_' and '-'")),
        _ => Ok(()),
    }
}

/// The text with another image in it, all else, comments too, as it was.
///
/// # Errors
/// As [`parse`]; `file` is named in errors.
pub fn retitled(file: &Path, text: &str, image: &ImageName) -> Result<String> {
    parse(file, text)?;
    let mut document: DocumentMut = text.parse().with_context(|| format!("reading {}", file.display()))?;
    if let Some(value) = document.get_mut("image").and_then(Item::as_value_mut) {
        let decor = value.decor().clone();
        *value = image.as_str().into();
        *value.decor_mut() = decor;
    }
    Ok(document.to_string())
}

/// The master file of an image.
pub fn master_path(config: &Config, image: &ImageName) -> PathBuf {
    config.masters().join(format!("{image}{MASTER_SUFFIX}"))
}

/// Reads the master file of an image.
///
/// # Errors
/// It is absent or wrong.
pub fn read_master(config: &Config, image: &ImageName) -> Result<Master> {
    let file = master_path(config, image);
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading the master {}", file.display()))?;
    parse(&file, &text)
}

/// Writes `IMAGE.master`. One that is there is kept unless `replace`, and then as `IMAGE.master.~N~`,
/// whose path is returned. Everybody sees the old file or the new one, never a part.
///
/// # Errors
/// The directory cannot be written; the old master is whole then.
pub fn write_master(config: &Config, master: &Master, replace: bool) -> Result<Option<PathBuf>> {
    let dir = config.masters();
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let path = master_path(config, &master.image);
    let mut backup = None;
    if path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
        if !replace {
            return Ok(None);
        }
        backup = Some(back_up(&path)?);
    }
    atomic::write(&path, render(master).as_bytes(), 0o644)?;
    Ok(backup)
}

/// Copies a file beside itself under the first free name `FILE.~N~`.
fn back_up(path: &Path) -> Result<PathBuf> {
    let contents = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    for number in 1..=u32::MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".~{number}~"));
        let backup = PathBuf::from(name);
        // A dangling link takes the name as well: hence not exists().
        if backup.symlink_metadata().is_err() {
            atomic::write(&backup, &contents, 0o644)?;
            return Ok(backup);
        }
    }
    bail!("{} has too many backups; remove some of {}.~*~", path.display(), path.display())
}

#[cfg(test)]
mod tests;
