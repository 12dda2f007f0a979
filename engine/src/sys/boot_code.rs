//! The boot code of a disk that is not to be started: nothing of it but the order to go on with the next thing to boot.
//!
//! Zeroes would not do: a BIOS starts whatever stands in a first sector that ends as one with a partition table does, runs
//! through the zeroes into anything, and the machine hangs. Told by INT 18h that this disk does not boot, it takes the next
//! in its order: the network, a medium (BIOS Boot Specification 1.01, section 6.7; Phoenix, Compaq, Intel).

/// Length of a disk's boot code, bytes; behind it stand the disk's number and its partition table. Of FAT's boot sector it
/// is all that describes the file system.
pub const LENGTH: usize = 440;

/// `int 18h`, and `jmp $` should a BIOS come back from it.
const NEXT: [u8; 4] = [0xcd, 0x18, 0xeb, 0xfe];

/// What replaces it at this place of a disk, bytes from its beginning: in the first sector the order to go on, elsewhere
/// (an EFI system partition's first sector) zeroes.
pub fn erased(place: u64) -> [u8; LENGTH] {
    let mut code = [0; LENGTH];
    if place == 0 {
        code[..NEXT.len()].copy_from_slice(&NEXT);
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_sector_is_started() {
        assert_eq!(erased(0)[..5], [0xcd, 0x18, 0xeb, 0xfe, 0]);
        assert_eq!(erased(1 << 20), [0; LENGTH]);
    }
}
