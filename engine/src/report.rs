//! What a machine under installation tells the server: one JSON object a report, posted as it happens.
//!
//! Types only; the agent makes them, the server keeps and shows them.

use serde::{Deserialize, Serialize};
use systemimager_core::{Hardware, HostName, Level, Phase, Progress, Step};

/// Where an install is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The agent runs and looks around.
    Booted,
    /// Fetching and checking everything; no disk touched yet.
    Preparing,
    /// Steps are being carried out.
    Installing,
    /// All steps done; about to take the final action.
    Installed,
    /// A step or check failed; the message says which.
    Failed,
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
