//! The entries of an image's /etc/fstab, so that a plan can judge them before the image is there.

use anyhow::{Context, Result};
use systemimager_core::host::read_if_there;
use systemimager_core::{BytePath, FstabEntry, Host, Place};

use crate::sys::fstab::{Entry, Fstab, Spec};

/// The entries; `None`: there is no such file.
///
/// # Errors
/// It is there and cannot be read.
pub fn entries(host: &dyn Host, place: &Place) -> Result<Option<Vec<FstabEntry>>> {
    let text = read_if_there(host, place, "/etc/fstab").context("the image's /etc/fstab")?;
    Ok(text.map(|text| Fstab::parse(&text.0).entries().map(entry).collect()))
}

fn entry(entry: &Entry) -> FstabEntry {
    FstabEntry {
        spec: match &entry.spec {
            Spec::Uuid(value) => format!("UUID={value}"),
            Spec::PartUuid(value) => format!("PARTUUID={value}"),
            Spec::Label(value) => format!("LABEL={value}"),
            Spec::PartLabel(value) => format!("PARTLABEL={value}"),
            Spec::Path(path) => path.to_string_lossy().into_owned(),
            Spec::Other(other) => other.to_string_lossy().into_owned(),
        },
        file: BytePath::from(entry.file.as_path()),
        fstype: entry.fstype.clone(),
        options: entry.options.clone(),
    }
}
