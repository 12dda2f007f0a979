//! Where in a TOML text a key stands, so that a fault found in the parsed value can be shown in the file.

use std::path::Path;

use toml_edit::{Item, TableLike, Value};

use crate::config::line_column;

/// `FILE:LINE:COLUMN`.
pub(super) fn shown(file: &Path, text: &str, offset: usize) -> String {
    let (line, column) = line_column(text, offset);
    format!("{}:{line}:{column}", file.display())
}

/// A parser's message without line breaks: each fault is one line.
pub(super) fn one_line(message: &str) -> String {
    message.trim().replace('\n', "; ")
}

/// The places of a document.
pub(super) struct Places<'a> {
    file: &'a Path,
    text: &'a str,
    root: &'a Item,
}

/// What a key path leads through: a whole item, or a value inside an array.
#[derive(Clone, Copy)]
enum Node<'a> {
    Item(&'a Item),
    Value(&'a Value),
    Table(&'a toml_edit::Table),
}

impl<'a> Node<'a> {
    fn child(self, key: &str) -> Option<Node<'a>> {
        let index = || key.parse::<usize>().ok();
        match self {
            Node::Item(Item::ArrayOfTables(tables)) => tables.get(index()?).map(Node::Table),
            Node::Item(Item::Value(value)) => Node::Value(value).child(key),
            Node::Item(item) => item.as_table_like()?.get(key).map(Node::Item),
            Node::Table(table) => table.get(key).map(Node::Item),
            Node::Value(Value::Array(array)) => array.get(index()?).map(Node::Value),
            Node::Value(Value::InlineTable(table)) => TableLike::get(table, key).map(Node::Item),
            Node::Value(_) => None,
        }
    }

    fn start(self) -> Option<usize> {
        match self {
            Node::Item(Item::ArrayOfTables(tables)) => tables.get(0).and_then(|first| Node::Table(first).start()),
            // A table that no header names (`[[a.b]]` alone makes `a`) begins where its first child does.
            Node::Item(Item::Table(table)) | Node::Table(table) => table
                .span()
                .map(|span| span.start)
                .or_else(|| table.iter().filter_map(|(_, child)| Node::Item(child).start()).min()),
            Node::Item(item) => item.span().map(|span| span.start),
            Node::Value(value) => value.span().map(|span| span.start),
        }
    }
}

impl<'a> Places<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str, root: &'a Item) -> Self {
        Self { file, text, root }
    }

    /// The place of `keys` (`layout.filesystem.0.on`), or of the nearest thing around it that is there.
    pub(super) fn of(&self, keys: &str) -> String {
        let mut node = Node::Item(self.root);
        let mut offset = 0;
        for key in keys.split('.') {
            let Some(child) = node.child(key) else { break };
            offset = child.start().unwrap_or(offset);
            node = child;
        }
        shown(self.file, self.text, offset)
    }
}
