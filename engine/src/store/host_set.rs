//! Sets of hosts in one word: `www[1-300,310]`, `n[001-064]`, `r[1-4]n[01-16].example.org,login`.
//!
//! Pure. A set names each host once, in the order in which it is written; addresses are given out in
//! that order.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use systemimager_core::HostName;

/// Most hosts that a set may have: more is a slip of the finger, not a cluster.
pub const MOST_HOSTS: usize = 65_536;
/// Longest host name (RFC 1123).
const LONGEST_NAME: usize = 253;

/// Why a text is no set of hosts, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("hosts {text:?}, column {column}: {why}")]
pub struct HostSetError {
    /// The whole text.
    pub text: String,
    /// Column in it, from 1, in characters.
    pub column: usize,
    /// What is wrong, and what to write.
    pub why: String,
}

/// Hosts, each once, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSet(Vec<HostName>);

impl HostSet {
    /// `base` followed by each number of `range`: `www`, `1-300` is `www[1-300]`.
    ///
    /// # Errors
    /// As parsing; the column counts in the set that base and range make.
    pub fn from_base(base: &str, range: &str) -> Result<Self, HostSetError> {
        // Base and range are no sets themselves: `--base a,b` would put the range on b alone.
        for (what, part, offset, bad) in [("base", base, 0, "[],"), ("range", range, base.chars().count() + 1, "[]")] {
            if let Some(at) = part.chars().position(|letter| bad.contains(letter)) {
                return Err(HostSetError {
                    text: format!("{base}[{range}]"),
                    column: offset + at + 1,
                    why: format!(
                        "a {what} may not hold any of {bad}; give sets such as www[1-3,7] instead of base and range"
                    ),
                });
            }
        }
        format!("{base}[{range}]").parse()
    }

    /// The union of several sets, such as the words of a command line.
    ///
    /// # Errors
    /// One of them is none, a host is in two of them, or there are too many in all.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, HostSetError> {
        let (mut hosts, mut seen) = (Vec::new(), BTreeSet::new());
        for word in words {
            parse_into(word, &mut hosts, &mut seen)?;
        }
        Ok(Self(hosts))
    }

    /// The hosts.
    pub fn hosts(&self) -> &[HostName] {
        &self.0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for HostSet {
    type Err = HostSetError;
    fn from_str(text: &str) -> Result<Self, HostSetError> {
        Self::from_words([text])
    }
}

impl fmt::Display for HostSet {
    /// The hosts with commas; three and how many more where there are many.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<&str> = self.0.iter().take(3).map(HostName::as_str).collect();
        out.write_str(&shown.join(", "))?;
        match self.0.len().saturating_sub(3) {
            0 => Ok(()),
            more => write!(out, " and {more} more"),
        }
    }
}

/// A part of a pattern.
enum Part {
    Text(String),
    /// Ranges of numbers, each with the width it is padded to.
    Numbers(Vec<(u64, u64, usize)>),
}

impl Part {
    fn count(&self) -> usize {
        match self {
            Part::Text(_) => 1,
            Part::Numbers(ranges) => ranges.iter().fold(0_usize, |sum, (from, to, _)| {
                sum.saturating_add(usize::try_from(to - from).unwrap_or(usize::MAX).saturating_add(1))
            }),
        }
    }

    /// Length of the longest text that it stands for.
    fn longest(&self) -> usize {
        match self {
            Part::Text(text) => text.len(),
            Part::Numbers(ranges) => {
                ranges.iter().map(|(_, to, width)| to.to_string().len().max(*width)).max().unwrap_or_default()
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    letters: std::iter::Peekable<std::iter::Enumerate<std::str::Chars<'a>>>,
}

impl Reader<'_> {
    fn column(&mut self) -> usize {
        self.letters.peek().map_or(self.text.chars().count(), |(at, _)| *at) + 1
    }

    fn peek(&mut self) -> Option<char> {
        self.letters.peek().map(|(_, letter)| *letter)
    }

    fn wrong(&self, column: usize, why: impl Into<String>) -> HostSetError {
        HostSetError { text: self.text.to_owned(), column, why: why.into() }
    }

    fn digits(&mut self) -> Result<String, HostSetError> {
        let column = self.column();
        let mut digits = String::new();
        while let Some((_, digit)) = self.letters.next_if(|(_, letter)| letter.is_ascii_digit()) {
            digits.push(digit);
        }
        match digits.len() {
            0 => Err(self.wrong(column, "a number is missing here; write for example [1-300,310]")),
            1..=10 => Ok(digits),
            _ => Err(self.wrong(column, "a number has at most 10 digits")),
        }
    }

    /// What stands between `[` and `]`; the `[` is read already.
    fn numbers(&mut self) -> Result<Part, HostSetError> {
        let mut ranges = Vec::new();
        loop {
            let column = self.column();
            let from = self.digits()?;
            let to = match self.letters.next_if(|(_, letter)| *letter == '-') {
                Some(_) => self.digits()?,
                None => from.clone(),
            };
            let padded = |digits: &str| digits.len() > 1 && digits.starts_with('0');
            if padded(&from) && to.len() < from.len() || padded(&to) && to.len() != from.len() {
                return Err(self.wrong(column, format!("{from}-{to}: write both ends with the same number of digits")));
            }
            let width = if padded(&from) { from.len() } else { 0 };
            let (low, high) = match (from.parse(), to.parse()) {
                (Ok(low), Ok(high)) if low <= high => (low, high),
                _ => {
                    return Err(
                        self.wrong(column, format!("{from}-{to} runs backwards; write the smaller number first"))
                    );
                }
            };
            ranges.push((low, high, width));
            let column = self.column();
            match self.letters.next() {
                Some((_, ',')) => {}
                Some((_, ']')) => return Ok(Part::Numbers(ranges)),
                Some((_, other)) => {
                    return Err(self.wrong(column, format!("{other:?} is not expected here; close with ]")));
                }
                None => return Err(self.wrong(column, "the ] that closes this set is missing")),
            }
        }
    }

    /// One pattern, up to the next comma outside brackets.
    fn pattern(&mut self) -> Result<Vec<Part>, HostSetError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        while let Some(letter) = self.peek().filter(|letter| *letter != ',') {
            let column = self.column();
            self.letters.next();
            match letter {
                '[' => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(self.numbers()?);
                }
                ']' => return Err(self.wrong(column, "this ] has no [ before it")),
                letter => plain.push(letter),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(parts)
    }
}

fn parse_into(text: &str, hosts: &mut Vec<HostName>, seen: &mut BTreeSet<HostName>) -> Result<(), HostSetError> {
    let mut reader = Reader { text, letters: text.chars().enumerate().peekable() };
    loop {
        let column = reader.column();
        let parts = reader.pattern()?;
        if parts.is_empty() {
            return Err(reader.wrong(column, "a host name is missing here"));
        }
        // Before anything is made of it: the product may be astronomic.
        let count = parts.iter().fold(1_usize, |product, part| product.saturating_mul(part.count()));
        if count.saturating_add(hosts.len()) > MOST_HOSTS {
            return Err(reader.wrong(column, format!("these are more than {MOST_HOSTS} hosts; name fewer at a time")));
        }
        // Long names would be made by the thousand before the first of them is refused.
        let longest = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.longest()));
        if longest > LONGEST_NAME {
            let why =
                format!("a name of {longest} characters would come of this; a host name has at most {LONGEST_NAME}");
            return Err(reader.wrong(column, why));
        }
        for name in expand(&parts) {
            let name = HostName::try_from(name).map_err(|error| reader.wrong(column, error.to_string()))?;
            if !seen.insert(name.clone()) {
                return Err(reader.wrong(column, format!("{name} is named twice; name each host once")));
            }
            hosts.push(name);
        }
        match reader.letters.next() {
            None => return Ok(()),
            // Only a comma ends a pattern before the end.
            Some(_) if reader.peek().is_none() => {
                let column = reader.column();
                return Err(reader.wrong(column, "a host name is missing here"));
            }
            Some(_) => {}
        }
    }
}

fn expand(parts: &[Part]) -> Vec<String> {
    let mut names = vec![String::new()];
    for part in parts {
        names = names
            .iter()
            .flat_map(|name| -> Vec<String> {
                match part {
                    Part::Text(text) => vec![format!("{name}{text}")],
                    Part::Numbers(ranges) => ranges
                        .iter()
                        .flat_map(|(from, to, width)| {
                            (*from..=*to).map(move |number| format!("{name}{number:0width$}", width = *width))
                        })
                        .collect(),
                }
            })
            .collect();
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        for (text, expected) in [
            ("www", "www"),
            ("www[1-3]", "www1 www2 www3"),
            ("www[1-2,7]", "www1 www2 www7"),
            ("n[008-011]", "n008 n009 n010 n011"),
            ("n[08-11,1]", "n08 n09 n10 n11 n1"),
            ("n[0-1]", "n0 n1"),
            ("n[09-100]", "too many"),
            ("r[1-2]n[1-2].example.org", "r1n1.example.org r1n2.example.org r2n1.example.org r2n2.example.org"),
            ("a,b[1-2],c", "a b1 b2 c"),
            ("[1-2]x", "1x 2x"),
        ] {
            let set: HostSet = text.parse().unwrap();
            let names: Vec<&str> = set.hosts().iter().map(HostName::as_str).collect();
            if expected == "too many" {
                assert_eq!((names.len(), names[0], names[91]), (92, "n09", "n100"));
            } else {
                assert_eq!(names.join(" "), expected, "{text}");
            }
        }
        assert_eq!(HostSet::from_base("www", "1-300").unwrap(), "www[1-300]".parse().unwrap());
        assert_eq!("a[1-65536]".parse::<HostSet>().unwrap().len(), MOST_HOSTS);
    }

    #[test]
    fn faults() {
        for (text, says) in [
            ("", "hosts \"\", column 1: a host name is missing here"),
            ("a,", "hosts \"a,\", column 3: a host name is missing here"),
            (",a", "hosts \",a\", column 1: a host name is missing here"),
            ("a,,b", "hosts \"a,,b\", column 3: a host name is missing here"),
            ("www[1-", "hosts \"www[1-\", column 7: a number is missing here; write for example [1-300,310]"),
            ("www[", "hosts \"www[\", column 5: a number is missing here; write for example [1-300,310]"),
            ("www[1", "hosts \"www[1\", column 6: the ] that closes this set is missing"),
            ("www[1;2]", "hosts \"www[1;2]\", column 6: ';' is not expected here; close with ]"),
            ("www]", "hosts \"www]\", column 4: this ] has no [ before it"),
            ("www[3-1]", "hosts \"www[3-1]\", column 5: 3-1 runs backwards; write the smaller number first"),
            ("www[001-64]", "hosts \"www[001-64]\", column 5: 001-64: write both ends with the same number of digits"),
            ("www[1-064]", "hosts \"www[1-064]\", column 5: 1-064: write both ends with the same number of digits"),
            ("www[1-3,2]", "hosts \"www[1-3,2]\", column 1: www2 is named twice; name each host once"),
            ("a,a", "hosts \"a,a\", column 3: a is named twice; name each host once"),
            ("a[1-65537]", "hosts \"a[1-65537]\", column 1: these are more than 65536 hosts; name fewer at a time"),
            (
                "a[1-9999999999][1-9999999999]",
                "hosts \"a[1-9999999999][1-9999999999]\", column 1: these are more than 65536 hosts; name fewer at a time",
            ),
            ("a[99999999999]", "hosts \"a[99999999999]\", column 3: a number has at most 10 digits"),
            (
                "ok,a_b",
                "hosts \"ok,a_b\", column 4: \"a_b\" is not a host name: '_' is not allowed; use letters, digits and '.', '-'",
            ),
        ] {
            assert_eq!(text.parse::<HostSet>().unwrap_err().to_string(), says, "{text}");
        }
        let error = format!("{}[1-65536]", "a".repeat(250)).parse::<HostSet>().unwrap_err();
        assert!(error.why.starts_with("a name of 255 characters would come of this"), "{error}");
        let error = HostSet::from_base("a,b", "1-2").unwrap_err();
        assert_eq!((error.column, error.why.as_str().starts_with("a base may not hold")), (2, true));
        let error = HostSet::from_base("www", "1-x").unwrap_err().to_string();
        assert_eq!(error, "hosts \"www[1-x]\", column 7: a number is missing here; write for example [1-300,310]");
        assert!(HostSet::from_words(["a", "a"]).unwrap_err().why.contains("named twice"));
    }
}
