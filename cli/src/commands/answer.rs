//! Answers to yes-or-no questions: given in advance by an option, or on a terminal.

use anyhow::{Result, bail};

use crate::context::{Context, note};

/// An answer to a question, given in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Answer {
    Yes,
    No,
}

/// Asks until there is an answer: a slip of the finger is not to cost what has been done before.
pub(super) fn decided(context: &Context, question: &str, default: Option<&str>, option: &str) -> Result<bool> {
    loop {
        match yes(&context.ask(question, default, option)?) {
            Ok(answer) => return Ok(answer),
            Err(error) => note(error),
        }
    }
}

/// Understands an answer.
///
/// # Errors
/// It is neither.
pub(super) fn yes(answer: &str) -> Result<bool> {
    match answer.to_ascii_lowercase().as_str() {
        "yes" | "y" => Ok(true),
        "no" | "n" => Ok(false),
        other => bail!("{other:?} is neither yes nor no"),
    }
}
