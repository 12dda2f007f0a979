//! One machine, as it reported itself: what `status` shows of it. Types and words; [`super::machines`] keeps them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use systemimager_core::{HostName, ImageName, Level, Phase, Progress, Step};

use crate::report::{Event, Report, State};
use crate::store::macs::Mac;

/// Lines of a machine's log that are kept with it.
const LOG_LINES: usize = 200;
/// Most bytes of a line or message that are kept.
const LONGEST_LINE: usize = 4096;
/// Most steps of a plan.
const MOST_STEPS: usize = 10_000;

/// A step that a machine has done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Its number in the plan, from 0.
    pub index: usize,
    /// The step as it was carried out.
    pub step: Step,
    /// Wall time.
    pub milliseconds: u64,
    /// An earlier attempt of the same boot did it.
    #[serde(default)]
    pub kept: bool,
}

/// A machine, as it reported itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// MAC of the interface it booted from.
    pub mac: String,
    /// Its name, once known.
    #[serde(default)]
    pub host: Option<HostName>,
    /// The image it gets, once known.
    #[serde(default)]
    pub image: Option<ImageName>,
    /// Where it is.
    pub state: State,
    /// What it said when it got there.
    #[serde(default)]
    pub message: String,
    /// Its boot, as it drew it.
    #[serde(default)]
    pub boot: String,
    /// The number of the order that it carries out or carried out.
    #[serde(default)]
    pub order: Option<String>,
    /// The last report's number in this boot; 0: none came yet.
    pub sequence: u64,
    /// When it booted the miniature system, seconds since 1970.
    pub booted: u64,
    /// When it was heard last, seconds since 1970.
    pub heard: u64,
    /// The steps of its plan.
    #[serde(default)]
    pub plan: Vec<Step>,
    /// Those it has done, in order.
    #[serde(default)]
    pub done: Vec<Done>,
    /// The number of the step it is at.
    #[serde(default)]
    pub step: Option<usize>,
    /// How far that is.
    #[serde(default)]
    pub progress: Option<(Phase, Progress)>,
    /// The last lines of its log.
    #[serde(default)]
    pub log: VecDeque<String>,
}

impl Machine {
    pub(crate) fn new(mac: Mac, now: u64) -> Self {
        Self {
            mac: mac.to_string(),
            host: None,
            image: None,
            state: State::Booted,
            message: String::new(),
            boot: String::new(),
            order: None,
            sequence: 0,
            booted: now,
            heard: now,
            plan: Vec::new(),
            done: Vec::new(),
            step: None,
            progress: None,
            log: VecDeque::new(),
        }
    }

    /// Takes a report in; false: it was there already (sent again because the answer was lost).
    pub(crate) fn take(&mut self, report: &Report, image: Option<ImageName>, now: u64) -> bool {
        if report.sequence <= self.sequence {
            return false;
        }
        self.sequence = report.sequence;
        self.heard = now;
        self.image = image.or(self.image.take());
        match &report.event {
            Event::State { state, message } => {
                self.state = *state;
                self.message = shortened(message);
                self.log(format!("{}: {message}", state.name()));
            }
            Event::Hardware { .. } => {}
            Event::Plan { steps } => {
                self.plan = steps.iter().take(MOST_STEPS).cloned().collect();
                self.done.clear();
                self.step = None;
            }
            Event::StepBegins { index } => {
                self.step = Some(*index);
                self.progress = None;
            }
            Event::StepDone { index, step, milliseconds } => {
                if self.done.len() < MOST_STEPS {
                    let (step, milliseconds) = ((**step).clone(), *milliseconds);
                    self.done.push(Done { index: *index, step, milliseconds, kept: false });
                }
                self.progress = None;
            }
            Event::StepKept { index } => {
                if let Some(step) = self.plan.get(*index).filter(|_| self.done.len() < MOST_STEPS) {
                    self.done.push(Done { index: *index, step: step.clone(), milliseconds: 0, kept: true });
                }
            }
            Event::Progress { phase, progress } => self.progress = Some((*phase, progress.clone())),
            Event::Log { level, line } => self.log(worded(*level, line)),
        }
        true
    }

    pub(super) fn log(&mut self, line: String) {
        while self.log.len() >= LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(shortened(&line));
    }

    /// How long it has been silent though it should be at work, seconds; `None`: it is as it should be. Not heard for
    /// `limit` seconds counts as stalled: it may be dead, cut off, or at one long step.
    pub fn stalled(&self, now: u64, limit: u64) -> Option<u64> {
        let silent = now.saturating_sub(self.heard);
        (self.state.is_busy() && silent > limit).then_some(silent)
    }

    /// How much of it is done, for people: `step 4 of 19, pull 230 of 447 MiB`.
    pub fn progress_words(&self) -> String {
        let mut words = match (self.step, self.plan.len()) {
            (Some(step), total) if total > 0 && self.state == State::Installing => {
                format!("step {} of {total}", step.saturating_add(1))
            }
            _ => String::new(),
        };
        if let (Some((phase, progress)), State::Installing) = (&self.progress, self.state) {
            let mib = progress.bytes >> 20;
            let total = progress.total_bytes.map(|total| format!(" of {}", total >> 20)).unwrap_or_default();
            words.push_str(&format!(", {} {mib}{total} MiB", phase.name()));
        }
        words
    }
}

/// The line that a report is in the machine's log; progress is none.
pub(crate) fn logged(report: &Report) -> Option<String> {
    Some(match &report.event {
        Event::State { state, message } => format!("{}: {message}", state.name()),
        Event::Hardware { .. } | Event::Progress { .. } => return None,
        Event::Plan { steps } => format!("the plan has {} steps", steps.len()),
        Event::StepBegins { index } => format!("step {} begins", index.saturating_add(1)),
        Event::StepDone { index, step, milliseconds } => {
            let number = index.saturating_add(1);
            format!("step {number} done in {milliseconds} ms: {}: {}", step.phase.name(), step.what)
        }
        Event::StepKept { index } => format!("step {} was done by an earlier attempt", index.saturating_add(1)),
        Event::Log { level, line } => worded(*level, line),
    })
}

fn worded(level: Level, line: &str) -> String {
    match level {
        Level::Error => format!("error: {line}"),
        Level::Warn => format!("warning: {line}"),
        _ => line.to_owned(),
    }
}

pub(crate) fn shortened(text: &str) -> String {
    let end = (0..=LONGEST_LINE.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    // Control characters of a machine's console would act on the administrator's.
    text[..end].chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
