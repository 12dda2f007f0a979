//! The configuration of GRUB on a CD, for UEFI, from the same boot entries: syslinux' UEFI form takes a sector for 512
//! bytes, and a CD's have 2048.
//!
//! It is a script: every word stands in single quotation marks, and what could end these is refused.

use std::fmt::Write as _;

use systemimager_core::{BootEntry, PluginError, Result};

/// Seconds that it waits for somebody who wants something else.
const TIMEOUT: u32 = 5;

/// The text of the file, for entries that [`super::config::text`] took.
pub fn text(entries: &[BootEntry], default: Option<&str>) -> Result<String> {
    let mut text = String::from("# Written by SystemImager.\n");
    // Where firmware starts it from the image for UEFI alone, the files are in the CD around that, or beside it.
    text.push_str("if [ ! -e /medium.id ]; then search --no-floppy --set=root --file /medium.id; fi\n");
    match default {
        Some(default) => {
            let _ = write!(text, "set default={}\nset timeout={TIMEOUT}\n", quoted(default)?);
        }
        // Nothing boots by itself: wait for somebody.
        None => text.push_str("set timeout=-1\n"),
    }
    for entry in entries {
        let title = if entry.title.trim().is_empty() { &entry.name } else { entry.title.trim() };
        let _ = writeln!(text, "\nmenuentry {} --id {} {{", shown(title), quoted(&entry.name)?);
        match &entry.kernel {
            Some(kernel) => {
                let words = entry.command_line.split_whitespace().map(quoted).collect::<Result<Vec<_>>>()?;
                let root = |path: &str| quoted(&format!("/{}", path.trim_start_matches('/')));
                let _ = writeln!(text, "  linux {} {}", root(kernel)?, words.join(" "));
                if let Some(initrd) = &entry.initrd {
                    let _ = writeln!(text, "  initrd {}", root(initrd)?);
                }
            }
            // Back to the firmware, which tries what comes next.
            None => text.push_str("  exit 1\n"),
        }
        text.push_str("}\n");
    }
    Ok(text)
}

/// What only people read: a quotation mark in it is one.
fn shown(title: &str) -> String {
    format!("'{}'", title.replace('\'', "'\\''"))
}

/// GRUB hands quotation marks and backslashes on with a backslash before them, so they cannot be meant.
fn quoted(word: &str) -> Result<String> {
    if let Some(bad) = word.chars().find(|letter| letter.is_control() || matches!(letter, '\'' | '"' | '\\')) {
        return Err(PluginError::invalid(format!(
            "{bad:?} in {word:?}: GRUB on a CD cannot pass that on; take it out of the command line, or make a stick"
        )));
    }
    Ok(format!("'{word}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_end_a_word_is_refused() {
        let entry = |line: &str| BootEntry {
            name: "install".into(),
            kernel: Some("kernel".into()),
            command_line: line.into(),
            ..BootEntry::default()
        };
        for (name, line, expected) in [
            ("plain", "a=b c", Ok("  linux '/kernel' 'a=b' 'c'\n")),
            ("what a script would expand", "a=$x;{ #", Ok("  linux '/kernel' 'a=$x;{' '#'\n")),
            ("single", "a='b'", Err("'\\'' in \"a='b'\"")),
            ("double", "a=\"b c\"", Err("'\"' in \"a=\\\"b\"")),
            ("backslash", "a\\", Err("'\\\\' in \"a\\\\\"")),
        ] {
            match (text(&[entry(line)], None), expected) {
                (Ok(text), Ok(line)) => assert!(text.contains(line), "{name}: {text}"),
                (Err(error), Err(says)) => assert!(error.message.starts_with(says), "{name}: {error}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }
}
