//! initrd
