//! A path as Linux knows it: bytes. Text where it is UTF-8, base64 where it is not, never lossy.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A path of any bytes but NUL. JSON: a string, or `{"base64": "…"}` when it is not UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BytePath(Vec<u8>);

impl BytePath {
    /// The path made of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the standard library's path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// As an argument of a program.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// `self/tail`; an absolute `tail` is taken as relative to `self`, so that joining never escapes.
    #[must_use]
    pub fn join(&self, tail: impl AsRef<[u8]>) -> Self {
        let mut bytes = self.0.clone();
        let tail = tail.as_ref();
        let tail = &tail[tail.iter().take_while(|byte| **byte == b'/').count()..];
        if !bytes.ends_with(b"/") && !tail.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(tail);
        Self(bytes)
    }
}

impl fmt::Display for BytePath {
    /// For people: unprintable bytes as `\xHH`, a backslash doubled.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for letter in chunk.valid().chars() {
                match letter {
                    '\\' => out.write_str("\\\\")?,
                    letter if letter.is_control() => write!(out, "{}", letter.escape_default())?,
                    letter => write!(out, "{letter}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for BytePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

impl AsRef<Path> for BytePath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

impl AsRef<OsStr> for BytePath {
    fn as_ref(&self) -> &OsStr {
        self.as_os_str()
    }
}

impl AsRef<[u8]> for BytePath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for BytePath {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for BytePath {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<&Path> for BytePath {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<PathBuf> for BytePath {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string().into_vec())
    }
}

impl From<&OsStr> for BytePath {
    fn from(text: &OsStr) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<BytePath> for PathBuf {
    fn from(path: BytePath) -> Self {
        OsString::from_vec(path.0).into()
    }
}

/// Text where it is UTF-8, base64 where it is not; shared with [`Bytes`](super::Bytes).
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Wire<'a> {
    Text(std::borrow::Cow<'a, str>),
    Base64 { base64: std::borrow::Cow<'a, str> },
}

impl<'a> Wire<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Wire::Text(text.into()),
            Err(_) => Wire::Base64 { base64: STANDARD.encode(bytes).into() },
        }
    }

    pub(super) fn bytes<E: de::Error>(self) -> Result<Vec<u8>, E> {
        match self {
            Wire::Text(text) => Ok(text.into_owned().into_bytes()),
            Wire::Base64 { base64 } => STANDARD.decode(base64.as_bytes()).map_err(E::custom),
        }
    }
}

impl Serialize for BytePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire::of(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BytePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Wire::deserialize(deserializer)?.bytes()?;
        if bytes.contains(&0) {
            return Err(de::Error::custom("a path cannot hold a NUL byte"));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_never_lossy() {
        for (name, bytes, json) in [
            ("plain", b"/etc/fstab".as_slice(), "\"/etc/fstab\""),
            ("newline", b"a\nb", "\"a\\nb\""),
            ("not UTF-8", b"\xff/a", "{\"base64\":\"/y9h\"}"),
        ] {
            let path = BytePath::new(bytes);
            let text = serde_json::to_string(&path).unwrap();
            assert_eq!(text, json, "{name}");
            assert_eq!(serde_json::from_str::<BytePath>(&text).unwrap(), path, "{name}");
        }
        assert!(serde_json::from_str::<BytePath>("\"a\\u0000\"").is_err());
        assert!(serde_json::from_str::<BytePath>("{\"base64\":\"!\"}").is_err());
    }

    #[test]
    fn joining_never_escapes() {
        for (base, tail, expected) in [
            ("/t", "etc", "/t/etc"),
            ("/t/", "/etc", "/t/etc"),
            ("/", "etc", "/etc"),
            ("/t", "", "/t"),
            ("/t", "/", "/t"),
        ] {
            assert_eq!(BytePath::from(base).join(tail), BytePath::from(expected), "{base} + {tail}");
        }
    }

    #[test]
    fn shown_without_control_characters() {
        assert_eq!(BytePath::new(b"a\n\xffb\\".as_slice()).to_string(), "a\\n\\xffb\\\\");
    }
}
