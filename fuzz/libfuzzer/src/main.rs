//! libFuzzer around one of the targets, the one that SYSTEMIMAGER_FUZZ names. It only calls; what is checked
//! stands in the target.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<systemimager_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("SYSTEMIMAGER_FUZZ").unwrap_or_default();
    let found = systemimager_fuzz::TARGETS.iter().find(|(known, _)| *known == name);
    let Some((_, target)) = found else {
        eprintln!("SYSTEMIMAGER_FUZZ={name:?} names no fuzz target; cargo xtask fuzz sets it");
        std::process::exit(2);
    };
    *target
});

fuzz_target!(|data: &[u8]| TARGET(data));
