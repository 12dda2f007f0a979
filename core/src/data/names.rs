//! Names that are valid because they exist: parsed once, never checked again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused; the message tells what a name may look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(String);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), String> = $check;
                match check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(why) => Err(NameError(format!(concat!("{:?} is not ", $what, ": {}"), text, why))),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::try_from(text.as_str())
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::try_from(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }
    };
}

fn letters(text: &str, allowed: &str, most: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.len() > most {
        return Err(format!("it is longer than {most} characters"));
    }
    if let Some(bad) = text.chars().find(|letter| !letter.is_ascii_alphanumeric() && !allowed.contains(*letter)) {
        return Err(format!("{bad:?} is not allowed; use letters, digits and {}", allowed_words(allowed)));
    }
    Ok(())
}

fn allowed_words(allowed: &str) -> String {
    allowed.chars().map(|letter| format!("'{letter}'")).collect::<Vec<_>>().join(", ")
}

/// What may be the name of a file or a directory, and is never hidden nor taken for an option.
fn file_name(text: &str, most: usize) -> Result<(), String> {
    letters(text, "._-", most)?;
    if text.starts_with(['.', '-']) {
        return Err("it may not begin with '.' or '-'".into());
    }
    Ok(())
}

name!(
    /// The name of an image: letters, digits, `.`, `_`, `-`; no leading `.` or `-`; at most 100 characters.
    /// `.master` at the end is refused: the master file of `x` would be the one of `x.master`. So is `.override`, by which
    /// transports offer overrides.
    ImageName,
    "an image name",
    |text| {
        file_name(text, 100)?;
        if text.ends_with(".master") {
            return Err("it may not end in \".master\"; name the image, not its master file".into());
        }
        if text.ends_with(".override") {
            return Err("it may not end in \".override\"; that is how overrides are offered".into());
        }
        Ok(())
    }
);

name!(
    /// The name of an override, which is the name of its directory: letters, digits, `.`, `_`, `-`; no leading `.` or `-`; at
    /// most 253 characters, so that each host can have one of its own name.
    OverrideName,
    "the name of an override",
    |text| file_name(text, 253)
);

name!(
    /// The name of a hook, which is the name of its file: letters, digits, `.`, `_`, `-`; no leading `.` or `-`; at most 100
    /// characters.
    HookName,
    "the name of a hook",
    |text| file_name(text, 100)
);

impl OverrideName {
    /// The name by which transports offer it: no image has such a one.
    pub fn export(&self) -> String {
        format!("{self}.override")
    }
}

name!(
    /// A host name as of RFC 1123: labels of letters, digits and `-`, at most 63 each, 253 in all,
    /// no label begins or ends with `-`. Lower case is kept as written.
    HostName,
    "a host name",
    |text| {
        letters(text, ".-", 253)?;
        for label in text.split('.') {
            if label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-') {
                return Err(format!(
                    "the part {label:?} must have 1 to 63 characters and may not begin or end with '-' (RFC 1123)"
                ));
            }
        }
        Ok(())
    }
);

name!(
    /// A node of a layout: `disk0`, `root`, `esp`. Steps name nodes, never devices.
    NodeName,
    "a node name",
    |text| {
        letters(text, "_-", 64)?;
        if text.starts_with(['_', '-']) {
            return Err("it may not begin with '_' or '-'".into());
        }
        Ok(())
    }
);

impl HostName {
    /// The first label: `www3` of `www3.example.org`.
    pub fn short(&self) -> &str {
        self.0.split('.').next().unwrap_or(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names() {
        for good in ["a", "web-v1", "my_webserver_image_v1", "9.4", &"x".repeat(100)] {
            assert!(ImageName::try_from(good).is_ok(), "{good}");
        }
        for (bad, says) in [
            ("", "it is empty"),
            (".x", "may not begin"),
            ("-x", "may not begin"),
            ("..", "may not begin"),
            ("a/b", "'/' is not allowed"),
            ("a b", "' ' is not allowed"),
            ("a\nb", "is not allowed"),
            ("é", "is not allowed"),
            ("x.master", "may not end"),
            (&"x".repeat(101), "longer"),
        ] {
            let error = ImageName::try_from(bad).unwrap_err().to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn host_names() {
        for good in ["www1", "a.b-c.example.org", "1"] {
            assert!(HostName::try_from(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a.", "a_b", "a/b", &"x".repeat(64)] {
            assert!(HostName::try_from(bad).is_err(), "{bad}");
        }
        assert_eq!(HostName::try_from("www3.example.org").unwrap().short(), "www3");
    }
}
