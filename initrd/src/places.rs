//! Where things lie in the miniature system: known to the builder that puts them there, to PID 1 and
//! to the agent.

/// The install agent.
pub const AGENT: &str = "/usr/lib/systemimager/agent";

/// Small programs for people in a shell.
pub const RESCUE_DIR: &str = "/usr/lib/systemimager/rescue";

/// What the agent leaves for PID 1: one word, see [`Final`].
pub const FINAL: &str = "/run/systemimager/final";

/// Disks whose contents are being destroyed, a path a line: written before the first of it, removed once the
/// installed system is whole. Where it is left over, these disks are half written.
pub const DESTROYED: &str = "/run/systemimager/destroyed";

/// A person makes this file to let an install go on that failed or stopped at a break point.
pub const GO_ON: &str = "/run/systemimager/go-on";

/// How far the agent is, for the one that is started after it if it is killed.
pub const AT: &str = "/run/systemimager/at";

/// What the agent and PID 1 write while they run.
pub const RUN_DIR: &str = "/run/systemimager";

/// The directory that becomes the installed system's root.
pub const TARGET: &str = "/mnt/target";

/// What PID 1 is to do when the agent has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Final {
    /// Start the machine anew.
    Reboot,
    /// Switch it off.
    Poweroff,
    /// Wait for a person.
    Shell,
}

impl Final {
    /// The word in the file.
    pub fn word(self) -> &'static str {
        match self {
            Final::Reboot => "reboot",
            Final::Poweroff => "poweroff",
            Final::Shell => "shell",
        }
    }

    /// From the file's contents.
    pub fn parse(text: &str) -> Option<Self> {
        [Final::Reboot, Final::Poweroff, Final::Shell].into_iter().find(|it| it.word() == text.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_final_action() {
        for (text, expected) in [
            ("reboot", Some(Final::Reboot)),
            ("poweroff\n", Some(Final::Poweroff)),
            ("shell", Some(Final::Shell)),
            ("", None),
            ("Reboot", None),
            ("reboot now", None),
        ] {
            assert_eq!(Final::parse(text), expected, "{text:?}");
        }
    }
}
