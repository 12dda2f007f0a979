//! Lists of what an update leaves alone, of image and machine.

use systemimager_engine::update::list;

use crate::seen;

pub fn target(data: &[u8]) {
    match list::parse("a list", data) {
        Ok(patterns) => {
            let mut text = Vec::new();
            for pattern in &patterns {
                let bytes = pattern.as_bytes();
                assert!(!bytes.iter().any(u8::is_ascii_control), "{pattern}");
                assert!(bytes.iter().any(|byte| !b"/*?.".contains(byte)), "{pattern} leaves everything alone");
                text.extend_from_slice(bytes);
                text.push(b'\n');
            }
            // What is written again reads the same.
            assert_eq!(list::parse("a list", &text).expect("read again"), patterns);
        }
        Err(wrong) => {
            assert!(!wrong.is_empty());
            wrong.iter().for_each(|line| seen::lines(line));
        }
    }
}
