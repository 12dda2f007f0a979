//! The executor: carries out a plan's steps, the only code that acts on disks.
//!
//! It decides nothing that a plan could decide. When a step fails it undoes its mounts and makes the
//! half-written disks unbootable; the caller says so to people and keeps a shell.

pub mod hook;
mod lay_over;
mod limits;
mod mountable;
mod nodes;
mod pull;
pub mod record;
mod seal;
mod site_keys;
mod steps;
mod unbooting;
mod wipe;
mod written;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use systemimager_core::{Action, BytePath, Level, Needs, Phase, Program, Registry, Step};

use crate::host::EngineHost;
use crate::plan::Plan;
use crate::report::Event;
pub use site_keys::SiteKeys;
pub(crate) use steps::{run, with_input};
pub use written::DiskFailed;

/// Where an install happens, and what with.
pub struct Site<'a> {
    /// The plugins, those of the image among them.
    pub registry: &'a Registry,
    /// What plugins see.
    pub host: &'a EngineHost,
    /// The machine the image is pulled from.
    pub server: String,
    /// By which keys both sides know each other, where the transport works by keys.
    pub keys: Option<SiteKeys>,
    /// The directory that becomes the target's root while installing.
    pub target: PathBuf,
    /// A file that lists the disks that are destroyed, a device path a line, from before the first
    /// destructive step until the target is sealed: for whoever finds this program killed in between. After a tab may
    /// stand where, in bytes, besides the first sector, something lies on that disk that firmware would start.
    pub journal: Option<PathBuf>,
    /// Asked right after the pull: whether the image is still the one that the plan was made for.
    pub same_image: Option<&'a dyn Fn() -> Result<()>>,
    /// The phase to begin at: the same plan was carried out up to there, on the same disks and in the same boot.
    /// Mounting is done again in any case. Absent, or a phase up to mounting: everything is done.
    pub begin_at: Option<Phase>,
    /// Called before the first step of each phase; returns when the install may go on.
    pub pause: Option<&'a dyn Fn(Phase) -> Result<()>>,
}

impl Site<'_> {
    /// Whether a step of this phase was done by an earlier attempt.
    fn was_done(&self, phase: Phase) -> bool {
        self.begin_at.is_some_and(|from| from > Phase::Mount && phase < from && phase != Phase::Mount)
    }
}

/// The phase at which an install that failed in `failed` can begin again with the same plan. What is written by a
/// phase up to mounting is written anew from the start. Failing erases boot code, so that boot loaders are
/// installed again in any case. One that `began` at that very phase and failed there again goes further back: what is wrong may
/// have come with the image, or stand on the disk.
pub fn begin_again_at(failed: Phase, began: Option<Phase>) -> Phase {
    let at = if failed <= Phase::Mount { Phase::Partition } else { failed.min(Phase::Boot) };
    match began {
        Some(began) if began >= at && at > Phase::Pull => Phase::Pull,
        Some(began) if began >= at => Phase::Partition,
        _ => at,
    }
}

/// The phase at which an install that failed with this error can begin again: as [`begin_again_at`], and from the start
/// where a disk failed: files that look whole may not be.
pub fn begin_after(error: &anyhow::Error, failed: Phase, began: Option<Phase>) -> Phase {
    if error.is::<DiskFailed>() { Phase::Partition } else { begin_again_at(failed, began) }
}

/// What the executor itself needs on the machine.
pub fn needs() -> Needs {
    Needs {
        programs: vec![
            Program::new("blkid", "util-linux"),
            Program::new("chroot", "coreutils"),
            Program::new("wipefs", "util-linux"),
        ],
        ..Needs::default()
    }
}

/// Carries out a plan, saying each step as it begins and ends.
///
/// # Errors
/// The step that failed, and why. What was mounted is unmounted, and the disks that were already
/// written do not boot; the same after a panic in `events` or in a step.
pub fn execute(plan: &Plan, site: &Site<'_>, events: &mut dyn FnMut(Event)) -> Result<()> {
    mountable::check(plan)?;
    let preserved: Vec<BytePath> = plan.layout.preserved_mounts().into_iter().map(|it| it.at.clone()).collect();
    let points = plan.layout.mounts.iter().map(|mount| mount.at.clone());
    let points: Vec<BytePath> = points.filter(|at| at.as_bytes() != b"/" && !preserved.contains(at)).collect();
    let mut left_alone = pull::contents(&preserved);
    for step in &plan.steps {
        if let Action::Pull { image, transports } = &step.action {
            left_alone.extend(pull::probe(site, image, transports, &points, &preserved)?);
        }
    }
    // Dropping it unsealed undoes the mounts and unboots the disks: also when something panics from here on.
    let mut run = steps::Run::new(plan, site, left_alone)?;
    if plan.steps.iter().any(|step| site.was_done(step.phase)) {
        run.takes_over()?;
    }
    let result = carry_out(&mut run, plan, site, events).and_then(|()| {
        run.sealed().then_some(()).context("the plan ends without sealing the target; nothing vouches for it")
    });
    // What failed may have failed because of the disk, and then all that it took before is in doubt.
    let result = result.map_err(|error| match run.write_out() {
        Err(failed) if !error.is::<DiskFailed>() => error.context(failed),
        _ => error,
    });
    if let Err(error) = &result {
        tracing::error!("{error:#}");
    }
    result
}

fn carry_out(run: &mut steps::Run<'_>, plan: &Plan, site: &Site<'_>, events: &mut dyn FnMut(Event)) -> Result<()> {
    let mut phase = None;
    for (index, step) in plan.steps.iter().enumerate() {
        if site.was_done(step.phase) {
            events(Event::StepKept { index });
            continue;
        }
        if phase != Some(step.phase) {
            phase = Some(step.phase);
            if let Some(pause) = site.pause {
                pause(step.phase)?;
            }
            if step.phase == Phase::Boot {
                // From here on an UEFI machine's disk may boot: what it then finds must be on it, also after a power cut.
                run.write_out()?;
            }
        }
        events(Event::StepBegins { index });
        let begun = Instant::now();
        run.step(step, &mut |line| events(Event::Log { level: Level::Info, line }))
            .map_err(|error| written::explained(error, step.phase, &run.written_by(step)))
            .with_context(|| place(plan, index, step))?;
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        events(Event::StepDone { index, step: Box::new(step.clone()), milliseconds });
    }
    Ok(())
}

/// `step 4 of 17 (format: make the ext4 file system root)`.
fn place(plan: &Plan, index: usize, step: &Step) -> String {
    format!("step {} of {} ({}: {})", index + 1, plan.steps.len(), step.phase.name(), step.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_install_begins_again() {
        for (failed, began, expected) in [
            (Phase::Partition, None, Phase::Partition),
            (Phase::Format, None, Phase::Partition),
            (Phase::Mount, None, Phase::Partition),
            (Phase::Pull, None, Phase::Pull),
            (Phase::Identity, None, Phase::Identity),
            (Phase::Boot, None, Phase::Boot),
            (Phase::Finish, None, Phase::Boot),
            (Phase::Boot, Some(Phase::Boot), Phase::Pull),
            (Phase::Finish, Some(Phase::Boot), Phase::Pull),
            (Phase::Boot, Some(Phase::Pull), Phase::Boot),
            (Phase::Pull, Some(Phase::Pull), Phase::Partition),
            (Phase::Mount, Some(Phase::Pull), Phase::Partition),
        ] {
            assert_eq!(begin_again_at(failed, began), expected, "{} {began:?}", failed.name());
        }
    }

    #[test]
    fn nothing_is_kept_of_a_disk_that_failed() {
        let failed = DiskFailed { what: "/dev/sda2 (root)".into(), why: "Input/output error".into() };
        let other = anyhow::anyhow!("rsync failed");
        assert_eq!(begin_after(&other, Phase::Pull, None), Phase::Pull);
        let both = other.context(failed).context("step 9 of 19");
        assert_eq!(begin_after(&both, Phase::Pull, None), Phase::Partition);
        assert!(format!("{both:#}").starts_with("step 9 of 19: /dev/sda2 (root) did not take all"), "{both:#}");
    }
}
