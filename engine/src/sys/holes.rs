//! Holes in files: blocks that hold zeroes and take no room.

use std::fs::{File, FileTimes};
use std::io;
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

/// Takes all blocks out of a file that hold zeroes alone. Its contents, size and times stay.
///
/// # Errors
/// It cannot be read, or its file system makes no holes.
pub fn make(file: &File) -> io::Result<()> {
    const ZEROES: [u8; BLOCK as usize] = [0; BLOCK as usize];
    let before = file.metadata()?;
    let mut piece = vec![0; PIECE];
    let (mut at, mut punched, mut hole) = (0, false, 0..0);
    loop {
        let read = read_piece(file, &mut piece, at)?;
        for block in piece.get(..read).unwrap_or_default().chunks(ZEROES.len()) {
            let end = at + block.len() as u64;
            if ZEROES.starts_with(block) {
                hole = if hole.is_empty() { at..end } else { hole.start..end };
            } else if !hole.is_empty() {
                punch(file, hole.start, hole.end - hole.start)?;
                (punched, hole) = (true, 0..0);
            }
            at = end;
        }
        if read < PIECE {
            break;
        }
    }
    if !hole.is_empty() {
        punch(file, hole.start, hole.end.next_multiple_of(BLOCK) - hole.start)?;
        punched = true;
    }
    if punched {
        file.set_times(FileTimes::new().set_accessed(before.accessed()?).set_modified(before.modified()?))?;
    }
    Ok(())
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
            make(&file).unwrap();
            file.sync_all().unwrap();
            let after = file.metadata().unwrap();
            assert!(std::fs::read(&path).unwrap() == of(parts), "{name}");
            assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()), "{name}");
            assert_eq!(after.blocks() * 512 / BLOCK, blocks, "{name}");
        }
    }
}
