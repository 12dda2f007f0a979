//! Holes in files: blocks that hold zeroes and take no room. Who makes some in a program takes its capabilities from it: the
//! kernel drops `security.capability` of whatever is written to (capabilities(7)).

use std::fs::{File, FileTimes};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// What a hole is at least, bytes: the block of common file systems.
pub const BLOCK: u64 = 4096;
/// What is read at a time.
const PIECE: usize = 64 * BLOCK as usize;

/// Whether the file system of a directory lets blocks be taken out of a file (fallocate(2), FALLOC_FL_PUNCH_HOLE).
pub fn can_be_made(dir: &Path) -> bool {
    tempfile::tempfile_in(dir)
        .and_then(|file| {
            file.set_len(BLOCK)?;
            punch(&file, 0, BLOCK)
        })
        .is_ok()
}

/// The stretches of a file, whole blocks, that hold zeroes alone. The last may end behind the file.
///
/// # Errors
/// It cannot be read.
pub fn find(file: &File) -> io::Result<Vec<Range<u64>>> {
    const ZEROES: [u8; BLOCK as usize] = [0; BLOCK as usize];
    let mut piece = vec![0; PIECE];
    let mut found: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    loop {
        let read = read_piece(file, &mut piece, at)?;
        for block in piece.get(..read).unwrap_or_default().chunks(ZEROES.len()) {
            let end = at + BLOCK;
            if ZEROES.starts_with(block) {
                match found.last_mut().filter(|last| last.end == at) {
                    Some(last) => last.end = end,
                    None => found.push(at..end),
                }
            }
            at = end;
        }
        if read < PIECE {
            return Ok(found);
        }
    }
}

/// Takes the blocks of these stretches out of a file that is open for writing. Its contents, size and times stay.
///
/// # Errors
/// Its file system does not do it, or its times cannot be set; its contents are right all the same.
pub fn make(file: &File, stretches: &[Range<u64>]) -> io::Result<()> {
    let before = file.metadata()?;
    stretches.iter().try_for_each(|stretch| punch(file, stretch.start, stretch.end - stretch.start))?;
    file.set_times(FileTimes::new().set_accessed(before.accessed()?).set_modified(before.modified()?))
}

/// Reads until the piece is full or the file at its end.
fn read_piece(file: &File, piece: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn punch(file: &File, at: u64, length: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn zeroes_become_holes_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        if !can_be_made(dir.path()) {
            eprintln!("SKIPPED zeroes_become_holes: this file system makes no holes");
            return;
        }
        let block = BLOCK as usize;
        let of = |parts: &[(u8, usize)]| -> Vec<u8> {
            parts.iter().flat_map(|(byte, count)| std::iter::repeat_n(*byte, *count)).collect()
        };
        for (name, parts, blocks) in [
            ("empty", &[][..], 0),
            ("short", &[(7, 10)][..], 1),
            ("short zeroes", &[(0, 10)][..], 0),
            ("zeroes that are no block", &[(7, 10), (0, block), (7, 10)][..], 2),
            ("a hole in the middle", &[(7, block), (0, 3 * block), (7, block)][..], 2),
            ("a hole over pieces", &[(7, block), (0, 2 * PIECE), (7, 1)][..], 2),
            ("a hole at the end", &[(7, block), (0, block + 5)][..], 1),
            ("nothing else", &[(0, PIECE)][..], 0),
            ("no hole", &[(7, PIECE)][..], 64),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, of(parts)).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            file.sync_all().unwrap();
            let before = file.metadata().unwrap();
            let stretches = find(&file).unwrap();
            make(&file, &stretches).unwrap();
            file.sync_all().unwrap();
            let after = file.metadata().unwrap();
            assert!(std::fs::read(&path).unwrap() == of(parts), "{name}");
            assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()), "{name}");
            assert_eq!(after.blocks() * 512 / BLOCK, blocks, "{name}");
        }
    }
}
