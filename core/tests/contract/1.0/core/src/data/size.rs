//! A number of bytes that people can read and edit: `"400 MiB"`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes. Text form: a whole number and one of B, KiB, MiB, GiB, TiB; the largest unit that divides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) =
            UNITS.into_iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift)).unwrap_or(("B", 0));
        write!(out, "{} {unit}", self.0 >> shift)
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let explain = || format!("{text:?} is not a size; write a whole number and B, KiB, MiB, GiB or TiB");
        let number: u64 = digits.parse().map_err(|_| explain())?;
        let unit = unit.trim();
        let shift = match UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
            Some((_, shift)) => *shift,
            None if unit.is_empty() => 0,
            None => return Err(explain()),
        };
        number.checked_mul(1 << shift).map(Size).ok_or_else(|| format!("{text:?} is larger than any disk"))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Number(u64),
            Text(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Number(number) => Ok(Size(number)),
            Wire::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for (bytes, text) in [(0, "0 B"), (512, "512 B"), (1 << 20, "1 MiB"), (3 << 29, "1536 MiB"), (1 << 42, "4 TiB")]
        {
            assert_eq!(Size(bytes).to_string(), text);
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)));
        }
        for bad in ["", "MiB", "-1", "1 MB", "1.5 GiB", "99999999999999 TiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
