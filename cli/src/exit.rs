//! Exit codes that scripts can rely on; docs/commands.md lists them.
//!
//! They are stable: a code keeps its meaning, new ones may be added. `image edit` hands on those of what it runs.

/// All codes that a command ends with, and what each means.
pub const CODES: [(u8, &str); 4] = [
    (0, "Done."),
    (1, "It failed, or something is wrong; standard error says what, on which object, and what to do next."),
    (2, "The command line is wrong; nothing was done."),
    (3, "The command did what it was asked, but a machine failed or stopped."),
];

/// An end that is neither success nor an ordinary failure.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// A machine failed or stopped.
    #[error("{0}")]
    Failed(String),
    /// An option is missing that nobody can be asked for.
    #[error("{0}")]
    Usage(String),
    /// What was run for somebody ended with a code that is theirs to know.
    #[error("{says}")]
    HandedOn {
        /// It.
        code: u8,
        /// How it came about.
        says: String,
    },
}

impl Exit {
    /// The code.
    pub fn code(&self) -> u8 {
        match self {
            Exit::Failed(_) => 3,
            Exit::Usage(_) => 2,
            Exit::HandedOn { code, .. } => *code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_documented() {
        let failed = Exit::Failed("n1 failed".into()).code();
        let meaning = CODES.iter().find(|(code, _)| *code == failed).map(|(_, meaning)| *meaning);
        assert!(meaning.is_some_and(|meaning| meaning.contains("a machine failed")), "{meaning:?}");
        assert_eq!(Exit::Usage("x".into()).code(), 2);
        let wrong = crate::command().try_get_matches_from(["systemimager", "--no-such-option"]).expect_err("refused");
        let meaning = CODES.iter().find(|(code, _)| i32::from(*code) == wrong.exit_code()).map(|(_, meaning)| *meaning);
        assert!(meaning.is_some_and(|meaning| meaning.contains("command line")), "{meaning:?}");
    }
}
