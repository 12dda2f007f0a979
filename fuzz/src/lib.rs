//! Fuzz targets: every parser of what comes from outside, each as a function of bytes that must not panic, and that
//! holds what is made of the bytes against what the parser promises.
//!
//! A target changes nothing outside a temporary directory, runs no program, and takes the same way for the same bytes.
//! `tests/corpus.rs` runs all over `corpus/` and over what is made of it by chance; `cargo xtask fuzz` has libFuzzer look
//! for more ([`libfuzzer/`](../libfuzzer)).

pub mod seen;
pub mod support;
mod targets;

pub use targets::TARGETS;

/// What is fuzzed. It panics where something does not hold.
pub type Target = fn(&[u8]);

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
