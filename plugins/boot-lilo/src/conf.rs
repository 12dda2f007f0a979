//! lilo.conf(5): read tolerantly, and written so that LILO reads the same. Pure.
//!
//! Words are separated by blanks and line ends, `key = value` and `key=value` are the same, `#` begins a comment, quotes
//! hold blanks, a backslash takes the meaning from the letter after it. What stands before the first `image=` or `other=`
//! is global. Keys that are not known here are kept as they are.

use std::fmt::Write as _;

/// A word, or a key with its value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// Its value; absent for a switch (`lba32`).
    pub value: Option<String>,
}

impl Item {
    /// A switch.
    pub fn switch(key: &str) -> Self {
        Self { key: key.into(), value: None }
    }

    /// A key with a value.
    pub fn new(key: &str, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }
}

/// What is booted: `image=FILE` or `other=DEVICE`, with what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// A kernel; else another system's boot sector.
    pub is_image: bool,
    /// The file or device.
    pub path: String,
    /// The rest, in order.
    pub items: Vec<Item>,
}

impl Section {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        get(&self.items, key)
    }

    /// By which name it is chosen: its label, or the last part of its path.
    pub fn label(&self) -> &str {
        self.get("label").unwrap_or_else(|| self.path.rsplit('/').next().unwrap_or(&self.path))
    }
}

/// A whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conf {
    /// What holds for all.
    pub global: Vec<Item>,
    /// What can be booted.
    pub sections: Vec<Section>,
}

/// The value of the last item of this key.
pub fn get<'a>(items: &'a [Item], key: &str) -> Option<&'a str> {
    items.iter().rev().find(|item| item.key == key)?.value.as_deref()
}

/// Reads a file. Whatever it holds is read as something.
pub fn parse(text: &str) -> Conf {
    let mut conf = Conf::default();
    let mut words = words(text).into_iter().peekable();
    while let Some(word) = words.next() {
        let Word::Text(key) = word else { continue };
        let mut item = Item { key, value: None };
        if words.peek() == Some(&Word::Equals) {
            words.next();
            if let Some(Word::Text(value)) = words.next_if(|word| matches!(word, Word::Text(_))) {
                item.value = Some(value);
            }
        }
        match (item.key.as_str(), item.value) {
            (kind @ ("image" | "other"), Some(path)) => {
                conf.sections.push(Section { is_image: kind == "image", path, items: Vec::new() });
            }
            (_, value) => {
                let items = conf.sections.last_mut().map_or(&mut conf.global, |section| &mut section.items);
                items.push(Item { key: item.key, value });
            }
        }
    }
    conf
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Text(String),
    Equals,
}

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            letter if letter.is_whitespace() => {}
            '#' => while letters.next_if(|letter| *letter != '\n').is_some() {},
            '=' => words.push(Word::Equals),
            '"' => {
                let mut word = String::new();
                while let Some(letter) = letters.next() {
                    match letter {
                        '"' => break,
                        '\\' => match letters.next() {
                            // The line goes on, and its end is a blank.
                            Some('\n') => word.push(' '),
                            Some(letter @ ('"' | '\\')) => word.push(letter),
                            Some(letter) => word.extend(['\\', letter]),
                            None => {}
                        },
                        letter => word.push(letter),
                    }
                }
                words.push(Word::Text(word));
            }
            letter => {
                let mut word = String::new();
                let mut next = Some(letter);
                while let Some(letter) = next {
                    match letter {
                        '\\' => word.extend(letters.next()),
                        letter => word.push(letter),
                    }
                    next = letters.next_if(|letter| !letter.is_whitespace() && *letter != '=');
                }
                words.push(Word::Text(word));
            }
        }
    }
    words
}

/// The text of a file that holds the same.
///
/// # Errors
/// A word that no file can hold: it has a line break or another control character; the word.
pub fn render(conf: &Conf) -> Result<String, String> {
    let mut text = String::new();
    for item in &conf.global {
        line(&mut text, "", item)?;
    }
    for section in &conf.sections {
        text.push('\n');
        line(&mut text, "", &Item::new(if section.is_image { "image" } else { "other" }, section.path.clone()))?;
        for item in &section.items {
            line(&mut text, "\t", item)?;
        }
    }
    Ok(text)
}

fn line(text: &mut String, before: &str, item: &Item) -> Result<(), String> {
    let key = quoted(&item.key)?;
    let _ = match &item.value {
        Some(value) => writeln!(text, "{before}{key}={}", quoted(value)?),
        None => writeln!(text, "{before}{key}"),
    };
    Ok(())
}

/// A word as it stands in a file.
fn quoted(word: &str) -> Result<String, String> {
    if word.chars().any(char::is_control) {
        return Err(word.to_owned());
    }
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._+~:@%,-".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return Ok(word.to_owned());
    }
    Ok(format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_as_people_write_them() {
        let conf = parse(
            "# a comment\nboot = /dev/hda\nlba32\nappend=\"a b=\\\"c\\\"\" # more\n  image=/vmlinuz\n\tlabel=Linux\n\
             read-only\n root =\n/dev/hda2\nother=/dev/hda1\n table=/dev/hda\n label=\"Win dows\"",
        );
        assert_eq!(
            conf.global,
            [Item::new("boot", "/dev/hda"), Item::switch("lba32"), Item::new("append", "a b=\"c\"")]
        );
        let [image, other] = conf.sections.as_slice() else { panic!("{conf:?}") };
        assert_eq!((image.is_image, image.path.as_str(), image.label()), (true, "/vmlinuz", "Linux"));
        assert_eq!((image.get("root"), image.get("read-only")), (Some("/dev/hda2"), None));
        assert_eq!((other.is_image, other.path.as_str(), other.label()), (false, "/dev/hda1", "Win dows"));
    }

    #[test]
    fn what_is_written_is_read_the_same() {
        let rows = [
            "",
            "=",
            "\"",
            "a=\"b",
            "image=",
            "image = x\nimage=/a\\ b\nlabel=#\n",
            "append=\"a\\\nb\" c\\=d",
            "x=\"\" y",
            "other = \"/dev/sda1\" weird = =z",
            "a\\",
        ];
        for text in rows {
            let conf = parse(text);
            let again = render(&conf).unwrap_or_else(|word| panic!("{text:?}: {word:?}"));
            // A key without value after = is a switch from then on.
            assert_eq!(parse(&again), conf, "{text:?} became {again:?}");
        }
        assert_eq!(render(&Conf { global: vec![Item::new("a", "b\nc")], sections: vec![] }), Err("b\nc".into()));
    }
}
