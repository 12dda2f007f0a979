//! Shell patterns as the kernel's module tables use them: `*`, `?`, `[a-z]`, `[!x]`.
//!
//! Of our own because it is small and cannot fail: fnmatch(3) would be the one unsafe call in a
//! path that reads data from plugged-in devices, and the glob crate treats `/` and `**` specially.

/// Whether `text` as a whole fits `pattern`.
///
/// One `*` is remembered at a time, so the time is at most the product of the lengths, whatever the
/// pattern.
pub(super) fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match one(&pattern[p..], text[t]) {
            Step::Star => {
                star = Some((p, t));
                p += 1;
            }
            Step::Fits(length) => {
                p += length;
                t += 1;
            }
            Step::No => match star {
                // Let the last star take one byte more.
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

enum Step {
    Star,
    /// The byte fits the pattern's first element, which is this long.
    Fits(usize),
    No,
}

fn one(pattern: &[u8], byte: u8) -> Step {
    match pattern {
        [] => Step::No,
        [b'*', ..] => Step::Star,
        [b'?', ..] => Step::Fits(1),
        [b'[', rest @ ..] => match class(rest, byte) {
            Some((true, length)) => Step::Fits(length + 1),
            Some((false, _)) => Step::No,
            // Without its end a bracket is itself.
            None if byte == b'[' => Step::Fits(1),
            None => Step::No,
        },
        [b'\\', escaped, ..] if *escaped == byte => Step::Fits(2),
        [b'\\', _, ..] => Step::No,
        [plain, ..] if *plain == byte => Step::Fits(1),
        [_, ..] => Step::No,
    }
}

/// A class after its `[`: whether the byte is in it, and its length with the `]`.
fn class(body: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(body.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let start = at;
    let mut inside = false;
    loop {
        match &body[at..] {
            [] => return None,
            [b']', ..] if at > start => return Some((inside != negated, at + 1)),
            [low, b'-', high, ..] if *high != b']' => {
                inside |= (*low..=*high).contains(&byte);
                at += 3;
            }
            [single, ..] => {
                inside |= *single == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let rows: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("", "a", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("abcd", "abc", false),
            ("*", "", true),
            ("*", "anything/with.dots", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("a*b*c", "axxbyybzzc", true),
            ("*b", "aab", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[!a]x", "bx", true),
            ("[^a]x", "ax", false),
            ("[]]x", "]x", true),
            ("[a-]x", "-x", true),
            ("[abc", "[abc", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("pci:v00008086d0000100E*sv*sd*bc*sc*i*", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00", true),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000001v*", "virtio:d00000002v00001AF4", false),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00", true),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), *expected, "{pattern} {text}");
        }
        // Would take for ever if every star were tried with every other.
        let (pattern, text) = ("a*".repeat(50) + "b", "a".repeat(2000));
        assert!(!fits(pattern.as_bytes(), text.as_bytes()));
    }
}
