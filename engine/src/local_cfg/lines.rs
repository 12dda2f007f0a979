//! One line: `NAME=value`, with quotes as in a shell's assignment, and nothing that a shell would do beyond that.

/// Longest line, bytes.
const LONGEST: usize = 1024;
/// How much of a line or a value messages show, characters.
const SHOWN: usize = 40;

/// A variable and its value, quotes undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// As it is written.
    pub name: String,
    /// Its value; no control characters.
    pub value: String,
}

/// Reads a line, without its newline; `None`: it says nothing.
///
/// # Errors
/// Why it is no assignment.
pub fn assignment(line: &[u8]) -> Result<Option<Assignment>, String> {
    if line.len() > LONGEST {
        return Err(format!("{} bytes; a line has at most {LONGEST}", line.len()));
    }
    let text = std::str::from_utf8(line)
        .map_err(|error| format!("byte {} is no UTF-8 text; write it anew with an editor", error.valid_up_to() + 1))?;
    // What editors of other systems end lines with.
    let text = text.strip_suffix('\r').unwrap_or(text).trim_matches([' ', '\t']);
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    if let Some(bad) = text.chars().find(|letter| letter.is_control() && *letter != '\t') {
        return Err(format!("{bad:?} is no character of a text; write the line anew"));
    }
    let Some((name, rest)) = text.split_once('=') else {
        return Err(format!("{:?} is not VARIABLE=value", shown(text)));
    };
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if name.is_empty() || name.starts_with(|letter: char| letter.is_ascii_digit()) || !name.chars().all(word) {
        let blanks = name.trim_end_matches([' ', '\t']);
        return Err(match blanks != name && !blanks.is_empty() && blanks.chars().all(word) {
            true => format!("a blank before the =; write {blanks}=value"),
            false => format!("{:?} is no variable's name; a line is VARIABLE=value", shown(name)),
        });
    }
    value(rest).map(|value| Some(Assignment { name: name.to_owned(), value }))
}

fn value(rest: &str) -> Result<String, String> {
    let (value, after) = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let inner = rest.get(1..).unwrap_or_default();
            let Some((value, after)) = inner.split_once(quote) else {
                return Err(format!("the quotation mark {quote} is not closed"));
            };
            (value, after)
        }
        Some(' ' | '\t') if !rest.trim_start_matches([' ', '\t']).starts_with('#') => {
            return Err("a blank after the =; the value begins there, in quotation marks if it has blanks".into());
        }
        _ => rest.split_at(rest.find([' ', '\t']).unwrap_or(rest.len())),
    };
    if let Some(letter) = value.chars().find(|letter| matches!(letter, '$' | '`' | '\\')) {
        return Err(format!(
            "{letter:?} in the value: this file is read and never evaluated, so that would mean nothing; write the value \
             itself"
        ));
    }
    let blank = after.is_empty() || after.starts_with([' ', '\t']);
    let after = after.trim_matches([' ', '\t']);
    if !blank || !(after.is_empty() || after.starts_with('#')) {
        return Err(format!("{:?} stands after the value; put a value with blanks in quotation marks", shown(after)));
    }
    let quoted = rest.starts_with(['"', '\'']);
    if let Some(letter) = value.chars().find(|letter| !quoted && "\"';&|<>()".contains(*letter)) {
        return Err(format!("{letter:?} in the value: nothing here is a shell's; write the value alone"));
    }
    Ok(value.trim_matches([' ', '\t']).to_owned())
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}
