//! Secrets of a capture: from a file, from standard input, asked for, or made. Never an argument:
//! arguments are for all to see.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::context::Context;

/// Longest secret, bytes.
const LONGEST: u64 = 256;

/// A secret, and whether it was made here.
pub struct Given {
    /// The secret.
    pub secret: String,
    /// It was made here, so somebody must be told.
    pub made: bool,
}

/// A random secret of 128 bits from the kernel's generator, hexadecimal.
///
/// # Errors
/// There is no /dev/urandom.
pub fn make() -> Result<String> {
    let mut bytes = [0; 16];
    let mut source = std::fs::File::open("/dev/urandom").context("opening /dev/urandom to make a secret")?;
    source.read_exact(&mut bytes).context("reading /dev/urandom to make a secret")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The first line of a file; `-` is standard input.
///
/// # Errors
/// It cannot be read, or holds no secret that a transport can carry.
pub fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    let result = if file == Path::new("-") {
        std::io::stdin().take(LONGEST + 2).read_to_string(&mut text)
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("opening --secret-file {}", file.display()))?;
        opened.take(LONGEST + 2).read_to_string(&mut text)
    };
    result.with_context(|| format!("reading --secret-file {}", file.display()))?;
    let secret = text.lines().next().unwrap_or_default().trim();
    check(secret).with_context(|| format!("--secret-file {}", file.display()))?;
    Ok(secret.to_owned())
}

fn check(secret: &str) -> Result<()> {
    if secret.is_empty() {
        bail!("it is empty; its first line is the secret");
    }
    if secret.len() as u64 > LONGEST {
        bail!("the secret is longer than {LONGEST} bytes");
    }
    if let Some(bad) = secret.chars().find(|letter| !letter.is_ascii_graphic()) {
        bail!("the secret holds {bad:?}; use printable ASCII characters without blanks");
    }
    Ok(())
}

/// From the file if one is named, else asked for.
///
/// # Errors
/// As [`read`]; nobody can be asked.
pub fn given(context: &Context, file: Option<&Path>, master_client: &str) -> Result<String> {
    if let Some(file) = file {
        return read(file);
    }
    if !context.interactive() {
        bail!(
            "the secret that prepareclient printed on {master_client} is needed, and nobody can be asked here; give it \
             with --secret-file FILE (or - for standard input)"
        );
    }
    let secret = rpassword::prompt_password(format!("Secret that prepareclient printed on {master_client}: "))
        .context("asking for the secret")?;
    let secret = secret.trim();
    check(secret)?;
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s");
        for (name, text, expected) in [
            ("line", "abc\n", Ok("abc")),
            ("no newline", "abc", Ok("abc")),
            ("two lines", "abc\nsecond", Ok("abc")),
            ("empty", "\n", Err("it is empty")),
            ("blank inside", "a b", Err("holds ' '")),
            ("too long", &"x".repeat(300), Err("longer than 256")),
        ] {
            std::fs::write(&file, text).unwrap();
            match (read(&file), expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret, expected, "{name}"),
                (Err(error), Err(says)) => assert!(format!("{error:#}").contains(says), "{name}: {error:#}"),
                (result, expected) => panic!("{name}: {result:?}, expected {expected:?}"),
            }
        }
        assert_ne!(make().unwrap(), make().unwrap());
        assert!(check(&make().unwrap()).is_ok());
    }
}
