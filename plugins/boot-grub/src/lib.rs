//! GRUB on a disk, through the image's own grub-install.
