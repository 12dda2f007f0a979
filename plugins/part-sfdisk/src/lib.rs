//! MBR and GPT partition tables through sfdisk.
