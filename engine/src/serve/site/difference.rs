//! What changes in a configuration, for people: a unified diff. Pure.

use similar::TextDiff;

/// The lines that change, with three around them; empty: none.
pub fn difference(file: &str, before: &str, after: &str) -> String {
    TextDiff::from_lines(before, after).unified_diff().header(file, file).to_string()
}
