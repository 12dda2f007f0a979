//! What a pull would change, without changing anything: by kinds, sizes, times and attributes.

use std::collections::HashSet;
use std::io;

use rustix::fs::FileType;
use systemimager_core::{Aspect, Change, ChangeKind, PluginError, PullReport};

use super::plan::{Plan, absolute};
use super::target::{failed, is_as};
use crate::pack::manifest::{Entry, Kind, join};
use crate::tree::{Dir, modified};

/// What would change in this directory.
///
/// # Errors
/// It cannot be read.
pub fn changes(plan: &Plan, top: &Dir) -> Result<PullReport, PluginError> {
    let (files, bytes) = plan.manifest.files();
    let mut report = PullReport { files, bytes, ..PullReport::default() };
    // Directories that are not there: nothing is in them either.
    let mut absent: HashSet<u32> = HashSet::new();
    for (_, number, entry) in plan.entries() {
        let path = plan.manifest.path(&entry);
        let there = match absent.contains(&entry.parent) && !entry.name.is_empty() {
            true => None,
            false => {
                let dir = top.below(&plan.manifest.directory(entry.parent));
                let found = dir.and_then(|dir| Ok(dir.look(entry.name)?.map(|stat| (dir, stat))));
                found.map_err(|error| failed("looking at", &path, &error))?
            }
        };
        if let Some(number) = number {
            let is = there.as_ref().is_some_and(|(_, it)| FileType::from_raw_mode(it.st_mode) == FileType::Directory);
            if !is {
                absent.insert(number);
            }
        }
        let change = change(plan, top, &entry, there).map_err(|error| failed("looking at", &path, &error))?;
        let Some(change) = change else { continue };
        report.transferred += u64::from(change.kind != ChangeKind::Metadata && change.bytes.is_some());
        report.changes.push(Change { path: absolute(&path), directory: number.is_some(), ..change });
    }
    for (number, names) in plan.names(|number| !absent.contains(&number)) {
        let path = plan.manifest.directory(number);
        let found = top.below(&path).and_then(|dir| dir.names()).map_err(|error| failed("listing", &path, &error))?;
        for name in found.into_iter().filter(|name| !names.contains(name)) {
            let below = join(&path, &name);
            if !plan.spares(&below) {
                report.deleted += 1;
                let gone = Change {
                    path: absolute(&below),
                    kind: ChangeKind::Deleted,
                    detail: "removed".into(),
                    ..Change::default()
                };
                report.changes.push(gone);
            }
        }
    }
    Ok(report)
}

fn change(
    plan: &Plan,
    top: &Dir,
    entry: &Entry<'_>,
    there: Option<(Dir, rustix::fs::Stat)>,
) -> io::Result<Option<Change>> {
    let bytes = match &entry.kind {
        Kind::File { size, .. } => Some(*size),
        _ => None,
    };
    let kind =
        |kind, detail: &str, aspects| Change { kind, detail: detail.into(), aspects, bytes, ..Change::default() };
    let Some((dir, stat)) = there else {
        let link = match entry.kind {
            Kind::Link(parent, name) => Some(absolute(&join(&plan.manifest.directory(parent), name))),
            _ => None,
        };
        return Ok(Some(Change { link, ..kind(ChangeKind::Created, "new", Vec::new()) }));
    };
    if let Kind::Link(parent, name) = entry.kind {
        let directory = plan.manifest.directory(parent);
        let first = match top.below(&directory) {
            Ok(of) => of.look(name)?,
            Err(_) => None,
        };
        if first.is_some_and(|first| (first.st_dev, first.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Ok(None);
        }
        let link = Some(absolute(&join(&directory, name)));
        return Ok(Some(Change { link, ..kind(ChangeKind::Content, "hard link", vec![Aspect::Link]) }));
    }
    if !is_as(&dir, entry, &stat)? {
        let aspect = if matches!(entry.kind, Kind::Symlink(_)) { Aspect::Target } else { Aspect::Content };
        return Ok(Some(kind(ChangeKind::Content, "contents", vec![aspect])));
    }
    let wanted = &entry.attributes;
    let mut aspects = Vec::new();
    let is_file = bytes.is_some();
    // As little as a time that differs may mean other contents.
    if is_file && modified(&stat) != wanted.modified {
        return Ok(Some(kind(ChangeKind::Content, "contents", vec![Aspect::Content, Aspect::Time])));
    }
    let is_link = matches!(entry.kind, Kind::Symlink(_));
    aspects.extend((!is_link && stat.st_mode & 0o7777 != wanted.mode).then_some(Aspect::Mode));
    aspects.extend((stat.st_uid != wanted.owner.0).then_some(Aspect::Owner));
    aspects.extend((stat.st_gid != wanted.owner.1).then_some(Aspect::Group));
    aspects.extend((modified(&stat) != wanted.modified).then_some(Aspect::Time));
    let xattrs = dir.xattrs(entry.name)?;
    let is_acl = |name: &[u8]| name.starts_with(b"system.posix_acl");
    let of = |acl: bool| {
        let is: Vec<(&[u8], &[u8])> = xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]))
            .filter(|(name, _)| is_acl(name) == acl)
            .collect();
        let be: Vec<(&[u8], &[u8])> = wanted.xattrs.iter().copied().filter(|(name, _)| is_acl(name) == acl).collect();
        is != be
    };
    aspects.extend(of(true).then_some(Aspect::Acl));
    aspects.extend(of(false).then_some(Aspect::Xattrs));
    if aspects.is_empty() {
        return Ok(None);
    }
    let detail = aspects.iter().map(|aspect| aspect.name()).collect::<Vec<_>>().join(", ");
    Ok(Some(kind(ChangeKind::Metadata, &detail, aspects)))
}
