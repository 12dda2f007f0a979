//! The install agent; see `systemimager_initrd::agent`.
fn main() {}
