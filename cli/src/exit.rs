//! Exit codes that scripts can rely on; docs/commands.md lists them.
//!
//! 0: done. 1: it failed. 2: the command line is wrong (clap's code). 3: the command did what it was asked, but a
//! machine failed or stopped.

/// An end that is neither success nor an ordinary failure.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// A machine failed or stopped.
    #[error("{0}")]
    Failed(String),
}

impl Exit {
    /// The code.
    pub fn code(&self) -> u8 {
        match self {
            Exit::Failed(_) => 3,
        }
    }
}
