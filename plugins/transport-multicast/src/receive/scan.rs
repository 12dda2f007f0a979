//! What of a tree is there already: blocks whose every byte is on the disk need not come. Known by their hashes alone; what a
//! file's size and time promise is not believed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::FileType;
use systemimager_core::PluginError;

use super::target::{Target, differs, failed, part_name, parts};
use crate::bits::Bits;
use crate::pack::manifest::{At, Entry, Kind, Part};
use crate::tree::{self, Dir};

/// Where a part was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// In the file that an earlier pull had begun.
    Begun,
    /// In the file itself.
    Itself,
    /// In the tree that may be copied from.
    Basis,
}

/// Of the blocks that are wanted, those that have to come. What was found is put where it belongs.
///
/// # Errors
/// What was found cannot be copied, or its attributes not be set.
pub fn lacking(
    target: &Target,
    basis: Option<&Dir>,
    tick: &mut dyn FnMut(u32) -> Result<(), PluginError>,
) -> Result<Bits, PluginError> {
    let mut lacking = target.plan.blocks();
    let scan = Scan { target, basis, links: links(target) };
    let mut several: HashMap<At, Vec<(Part, From)>> = HashMap::new();
    let wanted: Vec<u32> = lacking.iter().collect();
    for block in wanted {
        tick(block)?;
        let Some(found) = scan.block(block) else { continue };
        lacking.remove(block);
        for ((at, entry, part), from) in target.plan.manifest.in_block(block).into_iter().zip(found) {
            let Some(entry) = target.plan.placed(at, entry) else { continue };
            match parts(&target.plan, &entry) {
                1 => scan.place(at, &entry, &[(part, from)])?,
                _ => several.entry(at).or_default().push((part, from)),
            }
        }
    }
    for (at, found) in several {
        tick(0)?;
        if let Some(entry) = target.plan.manifest.entry(at).and_then(|entry| target.plan.placed(at, entry)) {
            scan.place(at, &entry, &found)?;
        }
    }
    Ok(lacking)
}

/// How many further names files have, of those that have any.
fn links(target: &Target) -> HashMap<(u32, Vec<u8>), u64> {
    let mut links = HashMap::new();
    for (_, _, entry) in target.plan.entries() {
        if let Kind::Link(parent, name) = entry.kind {
            *links.entry((parent, name.to_vec())).or_default() += 1;
        }
    }
    links
}

struct Scan<'a> {
    target: &'a Target,
    basis: Option<&'a Dir>,
    links: HashMap<(u32, Vec<u8>), u64>,
}

impl Scan<'_> {
    /// Where each part of a block was found, if all were and they are right.
    fn block(&self, number: u32) -> Option<Vec<From>> {
        let manifest = &self.target.plan.manifest;
        let block = manifest.block(number);
        let lies = manifest.in_block(number);
        // Most often there is nothing: then nothing is read.
        let files: Vec<(File, From)> =
            lies.iter().map(|(at, entry, part)| self.find(*at, entry, part)).collect::<Option<_>>()?;
        let mut bytes = vec![0; block.length as usize];
        for ((_, _, part), (file, _)) in lies.iter().zip(&files) {
            let room = bytes.get_mut(part.offset..part.offset + part.length)?;
            tree::read_at(file, part.at, room).ok()?;
        }
        (blake3::hash(&bytes).as_bytes() == &block.hash).then(|| files.into_iter().map(|(_, from)| from).collect())
    }

    fn find(&self, at: At, entry: &Entry<'_>, part: &Part) -> Option<(File, From)> {
        // Of what is not taken, what has its name here may be anything: its hash tells.
        let entry = &self.target.plan.placed(at, entry.clone()).unwrap_or_else(|| entry.clone());
        let long_enough = |file: &File| {
            let stat = rustix::fs::fstat(file).ok()?;
            let fits = stat.st_size.cast_unsigned() >= part.at + part.length as u64;
            (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && fits).then_some(())
        };
        if !self.target.is_fresh(entry.parent)
            && let Ok(dir) = self.target.dir(entry.parent)
        {
            for (name, from) in [(&part_name(entry.name)[..], From::Begun), (entry.name, From::Itself)] {
                if let Ok(file) = dir.file(name)
                    && long_enough(&file).is_some()
                {
                    return Some((file, from));
                }
            }
        }
        let file = self.basis?.file(&self.target.plan.manifest.path(entry)).ok()?;
        long_enough(&file).map(|()| (file, From::Basis))
    }

    /// Puts a file's parts that were found where they belong.
    fn place(&self, at: At, entry: &Entry<'_>, found: &[(Part, From)]) -> Result<(), PluginError> {
        let manifest = &self.target.plan.manifest;
        self.try_place(at, entry, found)
            .map_err(|error| failed("using what is there of", &manifest.path(entry), &error))
    }

    fn try_place(&self, at: At, entry: &Entry<'_>, found: &[(Part, From)]) -> io::Result<()> {
        let target = self.target;
        let Kind::File { size, .. } = entry.kind else { return Ok(()) };
        let all = parts(&target.plan, entry);
        let dir = target.dir(entry.parent)?;
        let whole = found.len() == all as usize;
        if whole && found.iter().all(|(_, from)| *from == From::Itself) && self.is_whole(&dir, entry, size)? {
            return dir.dress(entry.name, &entry.attributes, false);
        }
        let name = part_name(entry.name);
        let part = dir.writable(&name)?;
        let basis = || -> io::Result<File> {
            let basis = self.basis.ok_or(io::ErrorKind::NotFound)?;
            basis.file(&target.plan.manifest.path(entry))
        };
        let mut buffer = Vec::new();
        for (it, from) in found {
            let file = match from {
                From::Begun => continue,
                From::Itself => dir.file(entry.name)?,
                From::Basis => basis()?,
            };
            buffer.resize(it.length, 0);
            tree::read_at(&file, it.at, &mut buffer)?;
            part.write_all_at(&buffer, it.at)?;
        }
        if whole {
            return target.finish(&dir, entry, &name);
        }
        target.begun(at, all - found.len() as u32);
        Ok(())
    }

    /// Whether a file whose data are right is so altogether, and may be dressed as it is: no other name leads to it but its own.
    fn is_whole(&self, dir: &Dir, entry: &Entry<'_>, size: u64) -> io::Result<bool> {
        let file = dir.file(entry.name)?;
        let stat = rustix::fs::fstat(&file)?;
        if stat.st_size.cast_unsigned() != size {
            return Ok(false);
        }
        let own = 1 + self.links.get(&(entry.parent, entry.name.to_vec())).copied().unwrap_or_default();
        #[allow(clippy::useless_conversion)]
        if u64::from(stat.st_nlink) > own {
            return Ok(false);
        }
        // Further names may lead elsewhere yet than where they are to lead: then what is there is not changed, but made anew.
        if stat.st_nlink > 1 && differs(dir, entry, entry.name, &stat)?.is_some() {
            return Ok(false);
        }
        let Kind::File { pieces, .. } = &entry.kind else { return Ok(false) };
        if !entry.kind.has_holes() {
            return Ok(true);
        }
        // Where it is to have holes, it may have something else.
        let inside = |begin: u64, length: u64| {
            pieces.iter().any(|piece| piece.at <= begin && begin + length <= piece.at + piece.length)
        };
        Ok(tree::data(&file, &stat)?.into_iter().all(|(begin, length)| inside(begin, length)))
    }
}
