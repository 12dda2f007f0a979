//! Which features of ext2, ext3 and ext4 an image's GRUB reads, by its own driver.
//!
//! Versions do not tell: distributions patch the driver without another version (Debian's 2.06 reads
//! `metadata_csum_seed`, upstream's does not). But the driver holds the answer as a number: fs/ext2.c refuses a file
//! system with `feature_incompat & ~(EXT2_DRIVER_SUPPORTED_INCOMPAT | EXT2_DRIVER_IGNORED_INCOMPAT)`, and x86 compilers
//! make that a `test` with the inverted mask in it. Nothing of the module is run; what is not certain is not said.

/// Bits that each GRUB 2 since 1.98 knows: filetype, needs_recovery, extents, flex_bg.
const KNOWN: u32 = 0x2 | 0x4 | 0x40 | 0x200;
/// Bits that none has known so far: compression, journal_dev, and those that are nobody's.
const NEVER: u32 = 0x1 | 0x8 | 0x20 | 0x800 | 0xfffc_0000;

/// The incompatible features that the driver reads, as a mask of the superblock's `s_feature_incompat`; `None` where
/// the module does not tell.
pub fn incompat(module: &[u8]) -> Option<u32> {
    let tests = module.windows(6).filter_map(|bytes| {
        let [first, second, a, b, c, d] = bytes.try_into().ok()?;
        // TEST r/m32, imm32 with a register, and TEST eax, imm32 (Intel's manual, volume 2). The latter is one byte
        // shorter, so that its window begins a byte before it.
        let is_test = (first == 0xf7 && (0xc0..=0xc7).contains(&second)) || second == 0xa9;
        is_test.then(|| !u32::from_le_bytes([a, b, c, d]))
    });
    let mut masks: Vec<u32> = tests.filter(|mask| mask & KNOWN == KNOWN && mask & NEVER == 0).collect();
    masks.dedup();
    match masks.as_slice() {
        [mask] => Some(*mask),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_found_or_nothing_is_said() {
        let debian = [0x8b, 0x43, 0x60, 0xa9, 0x29, 0x9c, 0xfe, 0xff, 0x74, 0x05];
        let ecx = [0x90, 0xf7, 0xc1, 0x29, 0xfc, 0xfe, 0xff];
        let call = [0x00, 0xe8, 0x09, 0xe8, 0xfc, 0xff];
        let other = [0x00, 0xa9, 0x00, 0x00, 0x00, 0x80];
        for (name, module, expected) in [
            ("Debian 12", debian.to_vec(), Some(0x163d6)),
            ("another register", ecx.to_vec(), Some(0x103d6)),
            ("twice the same", [ecx, ecx].concat(), Some(0x103d6)),
            ("two that differ", [debian.as_slice(), &ecx].concat(), None),
            ("a call", call.to_vec(), None),
            ("another test", other.to_vec(), None),
            ("nothing", Vec::new(), None),
            ("compressed", b"\xfd7zXZ\0rest".to_vec(), None),
        ] {
            assert_eq!(incompat(&module), expected, "{name}");
        }
    }

    #[test]
    fn this_machines_grub() {
        let Ok(module) = std::fs::read("/usr/lib/grub/i386-pc/ext2.mod") else {
            eprintln!(
                "SKIPPED: this_machines_grub: there is no /usr/lib/grub/i386-pc; install the package grub-pc-bin"
            );
            return;
        };
        let mask = incompat(&module).expect("an x86 module tells");
        assert_eq!(mask & 0x90, 0x90, "meta_bg and 64bit: {mask:#x}");
    }
}
