//! The words of dhcpd.conf(5) and dhcpd.leases(5): both have one grammar of words, strings, `{`, `}`, `;` and `,`, with
//! comments from `#` to the end of the line. Pure.

/// A word with the line that it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// Line, from 1.
    pub line: usize,
    /// What it is.
    pub what: What,
}

/// What a word is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A bare word, number, address.
    Bare(String),
    /// A quoted string, without its quotes and escapes.
    Quoted(String),
    /// `{`, `}`, `;`, `,` or any other sign that stands alone.
    Sign(char),
}

impl Word {
    /// Its text, unless it is a sign.
    pub fn text(&self) -> Option<&str> {
        match &self.what {
            What::Bare(text) | What::Quoted(text) => Some(text),
            What::Sign(_) => None,
        }
    }

    /// It is this sign.
    pub fn is(&self, sign: char) -> bool {
        self.what == What::Sign(sign)
    }
}

/// A statement: words up to `;`, or up to the `{` that begins a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// Line of its first word, from 1.
    pub line: usize,
    /// Its words.
    pub words: Vec<Word>,
    /// How many bodies it stands in.
    pub depth: usize,
    /// It has a body: the statements that follow, and are deeper.
    pub opens: bool,
}

impl Statement {
    /// The text of a word; `None` for a sign, or past the end.
    pub fn word(&self, index: usize) -> Option<&str> {
        self.words.get(index)?.text()
    }

    /// It begins with these words, whatever their case: keywords have none (dhcpd.conf(5)).
    pub fn begins(&self, words: &[&str]) -> bool {
        (0..).zip(words).all(|(index, word)| self.word(index).is_some_and(|it| it.eq_ignore_ascii_case(word)))
    }
}

/// The words of a text.
///
/// # Errors
/// Line and reason: a string without end.
pub(super) fn words(text: &str) -> Result<Vec<Word>, (usize, String)> {
    let mut words = Vec::new();
    let mut line = 1;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\n' => line += 1,
            '#' => while letters.next_if(|it| *it != '\n').is_some() {},
            '"' => {
                let (begun, mut quoted) = (line, String::new());
                loop {
                    match letters.next() {
                        Some('"') => break,
                        // Octal and the like are left as they are: nothing of interest here is written so.
                        Some('\\') if letters.peek().is_some_and(|it| *it == '"' || *it == '\\') => {
                            quoted.extend(letters.next());
                        }
                        Some('\n') => {
                            line += 1;
                            quoted.push('\n');
                        }
                        Some(other) => quoted.push(other),
                        None => return Err((begun, "a string begins here and never ends".into())),
                    }
                }
                words.push(Word { line: begun, what: What::Quoted(quoted) });
            }
            letter if is_bare(letter) => {
                let mut bare = String::from(letter);
                while let Some(next) = letters.next_if(|it| is_bare(*it)) {
                    bare.push(next);
                }
                words.push(Word { line, what: What::Bare(bare) });
            }
            letter if letter.is_whitespace() => {}
            sign => words.push(Word { line, what: What::Sign(sign) }),
        }
    }
    Ok(words)
}

fn is_bare(letter: char) -> bool {
    letter.is_alphanumeric() || "._-/:+@".contains(letter)
}

/// The statements of a text, in order, those of bodies too.
///
/// # Errors
/// Line and reason: a body without end, an end without body, a statement without end.
pub(super) fn statements(text: &str) -> Result<Vec<Statement>, (usize, String)> {
    let mut all = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut current: Vec<Word> = Vec::new();
    for word in words(text)? {
        let line = current.first().map_or(word.line, |first: &Word| first.line);
        if word.is('{') {
            all.push(Statement { line, words: std::mem::take(&mut current), depth: open.len(), opens: true });
            open.push(word.line);
        } else if word.is(';') {
            if !current.is_empty() {
                all.push(Statement { line, words: std::mem::take(&mut current), depth: open.len(), opens: false });
            }
        } else if word.is('}') {
            if !current.is_empty() {
                return Err((line, "a statement begins here and has no ';'".into()));
            }
            if open.pop().is_none() {
                return Err((word.line, "'}' without '{' before it".into()));
            }
        } else {
            current.push(word);
        }
    }
    match (current.first(), open.last()) {
        (Some(first), _) => Err((first.line, "a statement begins here and has no end".into())),
        (None, Some(line)) => Err((*line, "'{' without '}' after it".into())),
        (None, None) => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_have_lines_and_depths() {
        let text = "a b; # c {\nhost \"x{\\\"\" {\n  d\n  10.0.0.1, 2;\n  { e; }\n}\n";
        let shown: Vec<String> = statements(text)
            .unwrap()
            .iter()
            .map(|it| {
                let words: Vec<&str> = it.words.iter().map(|word| word.text().unwrap_or("<sign>")).collect();
                format!("{} {} {} {}", it.line, it.depth, words.join(" "), it.opens)
            })
            .collect();
        assert_eq!(
            shown,
            ["1 0 a b false", "2 0 host x{\" true", "3 1 d 10.0.0.1 <sign> 2 false", "5 1  true", "5 2 e false"]
        );
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        for (name, text, line, says) in [
            ("string", "a\n\"b\nc", 2, "never ends"),
            ("body", "a {\n b;\n", 1, "'{' without '}'"),
            ("end", "a;\n}", 2, "'}' without '{'"),
            ("statement", "a {\n b }", 2, "has no ';'"),
            ("last", "a;\nb", 2, "has no end"),
        ] {
            let (at, why) = statements(text).expect_err(name);
            assert!(at == line && why.contains(says), "{name}: {at}: {why}");
        }
    }
}
