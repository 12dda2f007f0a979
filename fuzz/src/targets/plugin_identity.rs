//! A plugin's file, read before any of its code runs.

use systemimager_core::loader;

use crate::seen;
use crate::support::with_file;

pub fn target(data: &[u8]) {
    with_file(data, |file| match loader::examine(file) {
        Ok(found) => {
            let id = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            assert!(!found.id.is_empty() && found.id.chars().all(id), "{found:?}");
            for text in [&found.about, &found.version, &found.contract, &found.panic, &found.arch] {
                seen::one_line(text);
            }
            assert_eq!((found.panic.as_str(), found.arch.as_str()), ("unwind", std::env::consts::ARCH));
        }
        Err(error) => seen::one_line(&error.to_string()),
    });
}
