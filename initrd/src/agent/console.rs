//! What a person at the console reads. PID 1 brings it to every console, a line at a time.

use std::fmt;
use std::io::Write;

/// Phases of the agent, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Load drivers.
    Drivers,
    /// Get an address.
    Network,
    /// Find the image server.
    Server,
    /// Find out who this machine is.
    Identity,
    /// Fetch how it is installed.
    Master,
    /// Fetch tools and plugins.
    Tools,
    /// Check everything, decide every step.
    Plan,
    /// Carry the steps out.
    Install,
    /// Report, end.
    Finish,
}

impl Stage {
    const ALL: [(Stage, &'static str); 9] = [
        (Stage::Drivers, "drivers"),
        (Stage::Network, "network"),
        (Stage::Server, "image server"),
        (Stage::Identity, "identity"),
        (Stage::Master, "master file"),
        (Stage::Tools, "tools and plugins"),
        (Stage::Plan, "plan"),
        (Stage::Install, "install"),
        (Stage::Finish, "finish"),
    ];
}

impl fmt::Display for Stage {
    /// `[3/9] image server`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbered = Self::ALL.iter().zip(1..);
        match numbered.find(|((stage, _), _)| stage == self) {
            Some(((_, name), number)) => write!(out, "[{number}/{}] {name}", Self::ALL.len()),
            None => Ok(()),
        }
    }
}

/// `[3/9] image server: what`.
pub fn stage(stage: Stage, what: impl fmt::Display) {
    line(format_args!("{stage}: {what}"));
}

/// One line, or several. Without what would act on the console: names come from disks, images and networks.
pub fn line(text: impl fmt::Display) {
    let text = printable(&text.to_string());
    let mut out = std::io::stdout().lock();
    // Without anybody to listen the installation goes on: the server hears of it too.
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

fn printable(text: &str) -> String {
    let acts = |letter: char| letter.is_control() && letter != '\n' && letter != '\t';
    text.chars().map(|letter| if acts(letter) { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_counted() {
        assert_eq!(Stage::Drivers.to_string(), "[1/9] drivers");
        assert_eq!(Stage::Server.to_string(), "[3/9] image server");
        assert_eq!(Stage::Finish.to_string(), "[9/9] finish");
    }

    #[test]
    fn nothing_acts_on_the_console() {
        assert_eq!(printable("disk \u{1b}[2J\u{9b}1m\r\n\tü"), "disk ?[2J?1m?\n\tü");
    }
}
