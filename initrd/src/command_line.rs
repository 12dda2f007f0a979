//! The kernel command line as pairs. Source: Documentation/admin-guide/kernel-parameters.rst of the kernel.

use std::collections::BTreeMap;

/// `NAME=value` pairs; a word without `=` has an empty value. Double quotes keep blanks together and are
/// dropped; of a name given twice the last counts, as with most of the kernel's own. `console` alone is
/// given several times on purpose: ask /sys/class/tty/console/active for those.
pub fn parse(text: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut word = String::new();
    let mut quoted = false;
    for letter in text.chars().chain([' ']) {
        match letter {
            '"' => quoted = !quoted,
            letter if letter.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    let (name, value) = word.split_once('=').unwrap_or((&word, ""));
                    pairs.insert(name.to_owned(), value.to_owned());
                    word.clear();
                }
            }
            letter => word.push(letter),
        }
    }
    if !word.is_empty() {
        // A quotation mark that nobody closed.
        let (name, value) = word.split_once('=').unwrap_or((&word, ""));
        pairs.insert(name.to_owned(), value.trim_end().to_owned());
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_pairs() {
        type Pairs = [(&'static str, &'static str)];
        let rows: &[(&str, &str, &Pairs)] = &[
            ("empty", "\n", &[]),
            ("flags and values", "quiet si.server=10.0.0.1\n", &[("quiet", ""), ("si.server", "10.0.0.1")]),
            ("equals in the value", "root=UUID=1-2", &[("root", "UUID=1-2")]),
            ("quoted value", "a=\"b c\" d", &[("a", "b c"), ("d", "")]),
            ("quoted word", "\"a=b c\"", &[("a", "b c")]),
            ("the last counts", "a=1 a=2", &[("a", "2")]),
            ("not closed", "a=\"b c", &[("a", "b c")]),
        ];
        for (name, text, expected) in rows {
            let expected = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(parse(text), expected, "{name}");
        }
    }
}
