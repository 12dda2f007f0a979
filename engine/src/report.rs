//! What a machine and the image server say to each other: `Hello` and the `Word` that answers it, and then one
//! JSON object a report, posted as it happens.
//!
//! Types only; the agent makes hellos and reports, the server keeps and shows them.

use serde::{Deserialize, Serialize};
use systemimager_core::{Hardware, HostName, Level, Phase, Progress, Step};

/// Where an install is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The agent runs and looks around.
    Booted,
    /// It has no order, or the server does not know it; the message says what is missing.
    Waiting,
    /// Fetching and checking everything; no disk touched yet.
    Preparing,
    /// Steps are being carried out.
    Installing,
    /// Stopped at a break point, for a person.
    Paused,
    /// All steps done; about to take the final action.
    Installed,
    /// A step or check failed; the message says which.
    Failed,
    /// It has no order and was sent to its own disk.
    LocalDisk,
}

impl State {
    /// For people: `installing`.
    pub fn name(self) -> &'static str {
        match self {
            State::Booted => "booted",
            State::Waiting => "waiting",
            State::Preparing => "preparing",
            State::Installing => "installing",
            State::Paused => "paused",
            State::Installed => "installed",
            State::Failed => "FAILED",
            State::LocalDisk => "local disk",
        }
    }

    /// Something is being done, so that silence is a bad sign.
    pub fn is_busy(self) -> bool {
        matches!(self, State::Booted | State::Preparing | State::Installing)
    }
}

/// Why a machine asks what to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asks {
    /// It has just booted the miniature system, or waits for an order since.
    #[default]
    Order,
    /// Its install failed or stopped at a break point: may it go on?
    GoOn,
}

/// How a server's transports let in whoever comes with a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// The account that it is let into; absent: root.
    #[serde(default)]
    pub account: Option<String>,
}

impl Sessions {
    /// Where a machine asks for it.
    pub const PATH: &'static str = "/v1/account";
}

/// What a machine says before it has an order: who it seems to be, and what it asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// MAC of the interface it booted from, or was given its address through.
    pub mac: String,
    /// All its MACs.
    #[serde(default)]
    pub macs: Vec<String>,
    /// Its name, where something told it.
    #[serde(default)]
    pub host: Option<HostName>,
    /// Drawn by chance at each boot of the agent: tells one boot from the next.
    pub boot: String,
    /// Why it asks.
    #[serde(default)]
    pub asks: Asks,
    /// A public key that it has made for this boot ([`crate::key`]): an order admits it to the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What it is made of; the first hello of a boot has it.
    #[serde(default)]
    pub hardware: Option<Box<Hardware>>,
    /// How long the server may keep the answer back while it is "wait", seconds.
    #[serde(default)]
    pub patience: u32,
}

/// What a machine is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Word {
    /// Carry out this order.
    Install {
        /// The order's number, for people and logs.
        order: String,
        /// What its reports have to carry.
        token: String,
        /// The name by which the server knows the machine.
        host: HostName,
        /// Where to stop for a person.
        #[serde(default)]
        breaks: Vec<BreakPoint>,
    },
    /// Ask again.
    Wait {
        /// What is missing, for people.
        why: String,
    },
    /// Start from its own disk.
    Disk {
        /// Why, for people.
        why: String,
    },
}

/// A place at which an install can be told to stop: `before-partition`, `before-reboot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakPoint {
    /// Before the first step of a phase.
    Before(Phase),
    /// When all is done, before the final action.
    BeforeReboot,
}

impl BreakPoint {
    /// All, in the order in which they are reached.
    pub fn all() -> Vec<BreakPoint> {
        Phase::ALL.into_iter().map(BreakPoint::Before).chain([BreakPoint::BeforeReboot]).collect()
    }
}

impl std::fmt::Display for BreakPoint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BreakPoint::Before(phase) => write!(out, "before-{}", phase.name()),
            BreakPoint::BeforeReboot => out.write_str("before-reboot"),
        }
    }
}

impl std::str::FromStr for BreakPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = BreakPoint::all();
        all.iter().copied().find(|point| point.to_string() == text).ok_or_else(|| {
            let names: Vec<String> = all.iter().map(ToString::to_string).collect();
            format!("{text:?} is no break point; there are {}", names.join(", "))
        })
    }
}

impl Serialize for BreakPoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BreakPoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The state changed.
    State {
        /// New state.
        state: State,
        /// Why, for people.
        message: String,
    },
    /// The hardware that was found.
    Hardware {
        /// All of it.
        hardware: Box<Hardware>,
    },
    /// The plan that is going to be carried out.
    Plan {
        /// Its steps, in order.
        steps: Vec<Step>,
    },
    /// A step begins.
    StepBegins {
        /// Its number in the plan, from 0.
        index: usize,
    },
    /// A step is done.
    StepDone {
        /// Its number in the plan, from 0.
        index: usize,
        /// The step as it was carried out.
        step: Box<Step>,
        /// Wall time.
        milliseconds: u64,
    },
    /// A step that an earlier attempt of the same boot did, and that need not be done again.
    StepKept {
        /// Its number in the plan, from 0.
        index: usize,
    },
    /// How far the current step is.
    Progress {
        /// Phase it belongs to.
        phase: Phase,
        /// How far.
        progress: Progress,
    },
    /// A line for the log.
    Log {
        /// How loud.
        level: Level,
        /// The line.
        line: String,
    },
}

/// One report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// MAC of the interface the machine booted from: who it is before it has a name.
    pub mac: String,
    /// Its name, once known.
    #[serde(default)]
    pub host: Option<HostName>,
    /// Image, once known.
    #[serde(default)]
    pub image: Option<String>,
    /// Counts up from 0 in one boot of the agent.
    pub sequence: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn break_points_have_names() {
        for point in BreakPoint::all() {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        assert_eq!(BreakPoint::Before(Phase::Partition).to_string(), "before-partition");
        let error = "after-lunch".parse::<BreakPoint>().unwrap_err();
        assert!(error.starts_with("\"after-lunch\" is no break point; there are before-partition, "), "{error}");
        assert_eq!(serde_json::to_string(&BreakPoint::BeforeReboot).unwrap(), "\"before-reboot\"");
    }
}
