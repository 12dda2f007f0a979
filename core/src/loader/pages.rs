//! A file read in pieces of a fixed size: an ELF file is looked at in many small places that lie close
//! together, and most of it is never looked at.

use std::fs::File;
use std::io::{Read, Result, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// Bytes of a piece.
const PIECE: usize = 16 << 10;

/// The file, with the piece that was read last.
pub(super) struct Pages {
    file: File,
    length: u64,
    at: u64,
    piece: Vec<u8>,
    piece_at: u64,
}

impl Pages {
    /// Reads a regular file of this length.
    pub(super) fn new(file: File, length: u64) -> Self {
        Self { file, length, at: 0, piece: Vec::new(), piece_at: 0 }
    }

    /// What is known from `at` on, without reading.
    fn known(&self) -> &[u8] {
        let skip = self.at.checked_sub(self.piece_at).and_then(|skip| usize::try_from(skip).ok());
        skip.and_then(|skip| self.piece.get(skip..)).unwrap_or_default()
    }

    /// Reads the piece that `at` lies in.
    fn load(&mut self) -> Result<()> {
        self.piece_at = self.at - self.at % PIECE as u64;
        self.piece.resize(PIECE, 0);
        let mut filled = 0;
        while let Some(rest) = self.piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, self.piece_at + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.piece.clear();
                    return Err(error);
                }
            }
        }
        self.piece.truncate(filled);
        Ok(())
    }
}

impl Read for Pages {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.known().is_empty() && self.at < self.length {
            self.load()?;
        }
        let known = self.known();
        let count = known.len().min(buffer.len());
        let (from, to) = (known.get(..count).unwrap_or_default(), buffer.get_mut(..count).unwrap_or_default());
        to.copy_from_slice(from);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Pages {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = place.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_file_would() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * PIECE + 100).map(|place| (place % 251) as u8).collect();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let mut pages = Pages::new(file, bytes.len() as u64);
        let end = bytes.len();
        for (start, length) in [(0, 10), (PIECE - 5, 10), (2, 3), (PIECE, 2 * PIECE), (end - 7, 7), (0, end)] {
            pages.seek(SeekFrom::Start(start as u64)).unwrap();
            let mut found = vec![0; length];
            pages.read_exact(&mut found).unwrap();
            assert_eq!(found, bytes[start..start + length], "{length} bytes from {start}");
        }
        assert_eq!(pages.read(&mut [0; 8]).unwrap(), 0, "at the end");
        pages.seek(SeekFrom::Start(u64::MAX)).unwrap();
        assert_eq!(pages.read(&mut [0; 8]).unwrap(), 0, "far behind the end");
        assert_eq!(pages.seek(SeekFrom::End(0)).unwrap(), end as u64);
    }
}
