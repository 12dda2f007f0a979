//! JSON as people write it for Kea, with comments, and changes to it as text: what is not changed stays byte for byte,
//! comments too. Pure.
//!
//! Comments are `#` and `//` to the end of the line and `/* */` (Kea's manual, "JSON Syntax"). A comma after the last
//! member is let pass, as newer Keas do. A file that includes others is refused.

use std::collections::BTreeMap;
use std::ops::Range;

/// How deep values may nest.
const DEEPEST: usize = 100;

/// A value with the bytes that it stands at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Where.
    pub span: Range<usize>,
    /// What.
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Members with the names they have.
    Object(Vec<(String, Node)>),
    /// Elements.
    Array(Vec<Node>),
    /// A string.
    Text(String),
    /// A number, true, false or null.
    Other,
}

/// Byte offset and reason.
pub(super) type Fault = (usize, String);

impl Node {
    /// A member; the last one of its name counts.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Object(members) => members.iter().rev().find(|(it, _)| it == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The elements; none if it is no array.
    pub fn elements(&self) -> &[Node] {
        match &self.kind {
            Kind::Array(elements) => elements,
            _ => &[],
        }
    }

    /// The string that it is.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Reads a text.
///
/// # Errors
/// Where and why it is none.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let masked = mask(text)?;
    let mut reader = Reader { text: masked.as_bytes(), at: 0 };
    let node = reader.value(0)?;
    reader.blank();
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err((reader.at, "there is something after the end".into())),
    }
}

/// Comments as blanks, so that everything stays where it is.
fn mask(text: &str) -> Result<String, Fault> {
    let mut out = text.as_bytes().to_vec();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let length = match byte {
            b'"' => string_length(rest).ok_or((at, "a string begins here and never ends".to_owned()))?,
            b'#' => line_length(rest),
            b'/' if rest.starts_with(b"//") => line_length(rest),
            b'/' if rest.starts_with(b"/*") => {
                let end = rest.windows(2).skip(2).position(|pair| pair == b"*/").map(|end| end + 4);
                end.ok_or((at, "a comment begins here and never ends".to_owned()))?
            }
            b'<' if rest.starts_with(b"<?include") => {
                return Err((at, "this includes another file, which cannot be changed together with this one; use --output, and put what it holds in by hand".into()));
            }
            _ => 1,
        };
        if matches!(byte, b'#' | b'/') && length > 1 || *byte == b'#' {
            for byte in out.iter_mut().skip(at).take(length).filter(|byte| **byte != b'\n') {
                *byte = b' ';
            }
        }
        at += length;
    }
    // Only whole comments became blanks, and they begin and end with ASCII.
    String::from_utf8(out).map_err(|error| (error.utf8_error().valid_up_to(), "this is not UTF-8".into()))
}

fn line_length(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len())
}

fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn blank(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn wrong<T>(&self, expected: &str) -> Result<T, Fault> {
        Err((self.at.min(self.text.len()), format!("{expected} should stand here")))
    }

    fn value(&mut self, depth: usize) -> Result<Node, Fault> {
        self.blank();
        let begin = self.at;
        if depth > DEEPEST {
            return Err((begin, "this is nested too deeply".into()));
        }
        let kind = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Kind::Text(self.string()?),
            _ => {
                let rest = self.text.get(begin..).unwrap_or_default();
                let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                let length = rest.iter().take_while(|byte| fits(byte)).count();
                let word = rest.get(..length).unwrap_or_default();
                if serde_json::from_slice::<serde_json::Value>(word).is_err() {
                    return self.wrong("a value");
                }
                self.at += length;
                Kind::Other
            }
        };
        Ok(Node { span: begin..self.at, kind })
    }

    fn string(&mut self) -> Result<String, Fault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let Some(raw) = string_length(rest).and_then(|length| rest.get(..length)) else {
            return self.wrong("a string");
        };
        match serde_json::from_slice(raw) {
            Ok(text) => {
                self.at += raw.len();
                Ok(text)
            }
            Err(_) => self.wrong("a right string"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Kind, Fault> {
        let mut members = Vec::new();
        self.at += 1;
        loop {
            self.blank();
            match self.peek() {
                Some(b'}') => break,
                Some(b'"') => {}
                _ => return self.wrong("a name in quotes, or '}',"),
            }
            let name = self.string()?;
            self.blank();
            if self.peek() != Some(b':') {
                return self.wrong("':'");
            }
            self.at += 1;
            members.push((name, self.value(depth + 1)?));
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.wrong("',' or '}'"),
            }
        }
        self.at += 1;
        Ok(Kind::Object(members))
    }

    fn array(&mut self, depth: usize) -> Result<Kind, Fault> {
        let mut elements = Vec::new();
        self.at += 1;
        loop {
            self.blank();
            if self.peek() == Some(b']') {
                break;
            }
            elements.push(self.value(depth + 1)?);
            self.blank();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.wrong("',' or ']'"),
            }
        }
        self.at += 1;
        Ok(Kind::Array(elements))
    }
}

/// Changes to a text, carried out together.
#[derive(Debug, Default)]
pub(super) struct Edits {
    all: Vec<(Range<usize>, String)>,
    /// What was added to parents, by where they begin: which change, and what ends it.
    first: BTreeMap<usize, (usize, String)>,
}

impl Edits {
    /// These bytes become this.
    pub fn replace(&mut self, span: Range<usize>, by: impl Into<String>) {
        self.all.push((span, by.into()));
    }

    /// Adds a member to an object, after the others.
    pub fn add_member(&mut self, text: &str, object: &Node, name: &str, value: &str) {
        let Kind::Object(members) = &object.kind else { return };
        let member = format!("{}: {value}", serde_json::Value::from(name));
        self.add(text, object, members.last().map(|(_, node)| node), &member);
    }

    /// The array with these elements in the place of those that are ours: at the first of them, or at the end. Those
    /// that follow each other are taken as one piece, so that writing the same again changes nothing.
    pub fn put_elements(&mut self, text: &str, array: &Node, ours: &dyn Fn(&Node) -> bool, new: &[String]) {
        let elements = array.elements();
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (index, node) in elements.iter().enumerate().filter(|(_, node)| ours(node)) {
            let between = |run: &Range<usize>| text.get(elements[run.end - 1].span.end..node.span.start);
            match runs.last_mut() {
                Some(run) if run.end == index && between(run).is_some_and(is_only_comma) => run.end = index + 1,
                _ => runs.push(index..index + 1),
            }
        }
        let joined = new.join(&format!(",\n{}", indent_of(text, array, pattern(array, ours))));
        let mut runs = runs.into_iter();
        match runs.next() {
            None if new.is_empty() => {}
            None => self.add(text, array, elements.last(), &joined),
            Some(run) if new.is_empty() => self.remove(text, elements, run),
            Some(run) => self.replace(elements[run.start].span.start..elements[run.end - 1].span.end, joined),
        }
        for run in runs {
            self.remove(text, elements, run);
        }
    }

    /// Takes elements out, with a comma that is left over.
    fn remove(&mut self, text: &str, elements: &[Node], run: Range<usize>) {
        let span = elements[run.start].span.start..elements[run.end - 1].span.end;
        let comma = |from: usize, to: usize| {
            let masked = mask(text.get(from..to)?).ok()?;
            masked.find(',').map(|at| from + at..from + at + 1)
        };
        let comma = match (elements.get(run.end), run.start.checked_sub(1).and_then(|before| elements.get(before))) {
            (Some(next), _) => comma(span.end, next.span.start),
            (None, Some(before)) => comma(before.span.end, span.start),
            (None, None) => None,
        };
        if let Some(comma) = comma {
            self.replace(comma, "");
        }
        self.replace(span, "");
    }

    fn add(&mut self, text: &str, parent: &Node, last: Option<&Node>, new: &str) {
        let indent = indent_of(text, parent, last);
        if let Some((index, end)) = self.first.get(&parent.span.start)
            && let Some((_, by)) = self.all.get_mut(*index)
        {
            by.truncate(by.len() - end.len());
            by.push_str(&format!(",\n{indent}{new}{end}"));
            return;
        }
        match last {
            Some(last) => {
                let after = last.span.end;
                // A remark behind the last one stays with it.
                let remark = text.get(after..).and_then(|rest| rest.split('\n').next()).unwrap_or_default();
                if mask(remark).is_ok_and(|it| it.trim().is_empty()) && !remark.contains("/*") {
                    let end = after + remark.len();
                    self.replace(after..after, ",");
                    self.first.insert(parent.span.start, (self.all.len(), String::new()));
                    self.replace(end..end, format!("\n{indent}{new}"));
                } else {
                    self.first.insert(parent.span.start, (self.all.len(), String::new()));
                    self.replace(after..after, format!(",\n{indent}{new}"));
                }
            }
            None => {
                let open = parent.span.start + 1;
                let empty = text.get(open..parent.span.end - 1).is_some_and(|inner| inner.trim().is_empty());
                let (close, end) = match empty {
                    true => (parent.span.end - 1, format!("\n{}", indent.strip_suffix("  ").unwrap_or(""))),
                    false => (open, String::new()),
                };
                self.first.insert(parent.span.start, (self.all.len(), end.clone()));
                self.replace(open..close, format!("\n{indent}{new}{end}"));
            }
        }
    }

    /// The text with all of them.
    pub fn apply(mut self, text: &str) -> String {
        self.all.sort_by_key(|(span, _)| (span.start, span.end));
        let (mut out, mut at) = (String::new(), 0);
        for (span, by) in self.all {
            out.push_str(text.get(at..span.start).unwrap_or_default());
            out.push_str(&by);
            at = span.end;
        }
        out.push_str(text.get(at..).unwrap_or_default());
        out
    }
}

fn is_only_comma(between: &str) -> bool {
    between.trim() == ","
}

/// The element that new ones are to look like: the first of ours, or the last one.
pub(super) fn pattern<'a>(array: &'a Node, ours: &dyn Fn(&Node) -> bool) -> Option<&'a Node> {
    let elements = array.elements();
    elements.iter().find(|node| ours(node)).or(elements.last())
}

/// What the lines of a parent's members begin with.
pub(super) fn indent_of(text: &str, parent: &Node, last: Option<&Node>) -> String {
    let blank_before = |at: usize| -> Option<String> {
        let before = text.get(..at)?;
        let line = before.rsplit('\n').next()?;
        let blank: String = line.chars().take_while(|it| *it == ' ' || *it == '\t').collect();
        Some(blank)
    };
    let begins_line = |node: &Node| {
        text.get(..node.span.start).and_then(|before| before.rsplit('\n').next()).is_some_and(|line| {
            let line = line.trim();
            line.is_empty() || (line.starts_with('"') && line.ends_with(':'))
        })
    };
    match last {
        Some(last) if begins_line(last) => blank_before(last.span.start).unwrap_or_default(),
        _ => blank_before(parent.span.start).unwrap_or_default() + "  ",
    }
}

/// A value as text, whose lines but the first begin with `indent`.
pub(super) fn shown(value: &impl serde::Serialize, indent: &str) -> Result<String, String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    Ok(text.replace('\n', &format!("\n{indent}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_has_a_place() {
        for (name, text, at, says) in [
            ("open", "{", 1, "a name in quotes"),
            ("colon", "{\"a\" 1}", 5, "':'"),
            ("word", "[1, x]", 4, "a value"),
            ("two", "{} {}", 3, "after the end"),
            ("string", "[\"a]", 1, "never ends"),
            ("escape", "[\"\\x\"]", 1, "a right string"),
            ("comment", "{ /* }", 2, "a comment begins here"),
            ("include", "{ <?include \"x\"?> }", 2, "includes another file"),
            ("deep", &"[".repeat(5000), 101, "nested too deeply"),
            ("nothing", "", 0, "a value"),
            ("slash", "[/]", 1, "a value"),
        ] {
            let (place, why) = parse(text).expect_err(name);
            assert!(place == at && why.contains(says), "{name}: {place}: {why}");
        }
    }

    #[test]
    fn elements_are_put_in_place() {
        let ours = |node: &Node| node.text().is_some_and(|text| text.starts_with('o'));
        for (name, text, new, expected) in [
            ("empty", "[]", vec!["\"o\""], "[\n  \"o\"\n]"),
            ("only a comment", "[\n  # x\n]", vec!["\"o\""], "[\n  \"o\"\n  # x\n]"),
            (
                "after others",
                "[\n    1, // x\n    2 // y\n]",
                vec!["\"o\"", "\"o2\""],
                "[\n    1, // x\n    2, // y\n    \"o\",\n    \"o2\"\n]",
            ),
            ("with a comma at the end", "[\n  1,\n]", vec!["\"o\""], "[\n  1,\n  \"o\",\n]"),
            ("in their place", "[\"o1\", 1, \"o2\"]", vec!["\"o\""], "[\"o\", 1 ]"),
            ("out at the end", "[1, # \"o\",\n\"o1\"]", vec![], "[1 # \"o\",\n]"),
            ("out at the beginning", "[\"o1\", 1]", vec![], "[ 1]"),
            ("all out", "[\"o1\",\"o2\"]", vec![], "[]"),
        ] {
            let new: Vec<String> = new.into_iter().map(str::to_owned).collect();
            let put = |text: &str| {
                let node = parse(text).expect(name);
                let mut edits = Edits::default();
                edits.put_elements(text, &node, &ours, &new);
                edits.apply(text)
            };
            let once = put(text);
            assert_eq!(once, expected, "{name}");
            assert_eq!(put(&once), once, "{name}: twice is the same as once");
        }
    }

    #[test]
    fn members_are_added() {
        for (name, text, expected) in [
            ("empty", "{}", "{\n  \"k\": 1\n}"),
            ("only a comment", "{ # x\n}", "{\n  \"k\": 1 # x\n}"),
            ("after others", "{\n    \"a\": {\n    } # x\n}", "{\n    \"a\": {\n    }, # x\n    \"k\": 1\n}"),
            ("on one line", "{ \"a\": 1 }", "{ \"a\": 1,\n  \"k\": 1 }"),
        ] {
            let node = parse(text).expect(name);
            let mut edits = Edits::default();
            edits.add_member(text, &node, "k", "1");
            let added = edits.apply(text);
            assert_eq!(added, expected, "{name}");
            assert!(parse(&added).expect(name).get("k").is_some(), "{name}");
            let mut edits = Edits::default();
            edits.add_member(text, &node, "k", "1");
            edits.add_member(text, &node, "l", "2");
            assert_eq!(
                parse(&edits.apply(text)).expect(name).get("l").map(|it| &it.kind),
                Some(&Kind::Other),
                "{name}"
            );
        }
    }
}
