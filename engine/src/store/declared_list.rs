//! What the administrator declares of hosts, one thing each: CSV lines `host,…`. Pure but for [`read`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context as _;
use systemimager_core::HostName;

use super::read_or_empty;

/// Something that a host has and no other host has too.
pub trait Kind: FromStr<Err = String> + Display + Clone + Ord {
    /// What the second field is called in the first line.
    const FIELD: &'static str;
    /// One, for people.
    const EXAMPLE: &'static str;
    /// `a MAC address`.
    const WHAT: &'static str;
    /// The option of `addclients` that adds to the list.
    const OPTION: &'static str;
}

/// Hosts with theirs.
pub type List<T> = BTreeMap<HostName, T>;

/// The server's own list; an absent file is empty.
///
/// # Errors
/// It cannot be read, or is wrong: with line and column.
pub fn read<T: Kind>(file: &Path) -> anyhow::Result<List<T>> {
    let text = String::from_utf8(read_or_empty(file)?).with_context(|| format!("{} is not UTF-8", file.display()))?;
    parse(file, &text).map_err(anyhow::Error::msg)
}

/// Reads the lines of a CSV file. Empty lines, lines that begin with `#` and a first line of field names are passed over.
///
/// # Errors
/// `FILE:LINE:COLUMN: what is wrong`, a line for each fault; a host, and what it has, may stand there once each.
pub fn parse<T: Kind>(file: &Path, text: &str) -> Result<List<T>, String> {
    let mut list = List::new();
    let mut owners: BTreeMap<T, HostName> = BTreeMap::new();
    let mut faults = Vec::new();
    let head = format!("host,{}", T::FIELD);
    for (index, line) in text.lines().enumerate() {
        let shown = line.trim();
        if shown.is_empty()
            || shown.starts_with('#')
            || (index == 0 && shown.replace(' ', "").eq_ignore_ascii_case(&head))
        {
            continue;
        }
        let mut wrong =
            |column: usize, why: String| faults.push(format!("{}:{}:{column}: {why}", file.display(), index + 1));
        let Some((host, own)) = line.split_once(',') else {
            wrong(1, format!("{shown:?} is not {head}; write for example www1,{}", T::EXAMPLE));
            continue;
        };
        let column = host.chars().count() + 2 + own.chars().take_while(|letter| letter.is_whitespace()).count();
        let host = match HostName::try_from(unquoted(host)) {
            Ok(host) => host,
            Err(error) => {
                wrong(1, error.to_string());
                continue;
            }
        };
        let own: T = match unquoted(own).parse() {
            Ok(own) => own,
            Err(error) => {
                wrong(column, error);
                continue;
            }
        };
        match (list.entry(host), owners.get(&own)) {
            (Entry::Occupied(known), _) => wrong(1, format!("{} is there twice; name each host once", known.key())),
            (_, Some(other)) => wrong(column, is_others(&own, other)),
            (Entry::Vacant(free), None) => {
                owners.insert(own.clone(), free.key().clone());
                free.insert(own);
            }
        }
    }
    if faults.is_empty() { Ok(list) } else { Err(faults.join("\n")) }
}

fn is_others<T: Kind>(own: &T, other: &HostName) -> String {
    format!("{own} is already {other}'s; {} belongs to one host", T::WHAT)
}

/// A field as a spreadsheet may have written it.
fn unquoted(field: &str) -> &str {
    let field = field.trim();
    field.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(field)
}

/// The text that [`parse`] reads back.
pub fn render<T: Kind>(list: &List<T>) -> String {
    let what = T::WHAT.trim_start_matches("a ");
    let mut text =
        format!("# Which {what} each host has; `systemimager addclients {} FILE` adds to this.\n", T::OPTION);
    for (host, own) in list {
        text.push_str(&format!("{host},{own}\n"));
    }
    text
}

/// Adds `new` to `old`; what a host is newly given takes the place of what it had.
///
/// # Errors
/// Two hosts would have the same.
pub fn merge<T: Kind>(old: &List<T>, new: &List<T>) -> Result<List<T>, String> {
    let mut merged = old.clone();
    merged.extend(new.iter().map(|(host, own)| (host.clone(), own.clone())));
    let mut owners: BTreeMap<&T, &HostName> = BTreeMap::new();
    for (host, own) in &merged {
        if let Some(other) = owners.insert(own, host) {
            let (given, has) = if new.contains_key(host) { (host, other) } else { (other, host) };
            return Err(format!("{own}, given to {given}, is already {has}'s; {} belongs to one host", T::WHAT));
        }
    }
    Ok(merged)
}
