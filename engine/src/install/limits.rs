//! How long the program of a step may take, by the step's phase: generous for slow disks, short enough that a
//! machine that hangs says so the same day.

use std::time::Duration;

use systemimager_core::Phase;

/// The limits, minutes.
const MINUTES: [(Phase, u64); 7] = [
    // Writing a table takes seconds; what is in use makes it wait.
    (Phase::Partition, 2),
    // Large disks, bad blocks looked for, discarding.
    (Phase::Format, 30),
    (Phase::Mount, 5),
    (Phase::Pull, 120),
    (Phase::Identity, 20),
    // Initramfs images of several kernels on a slow machine.
    (Phase::Boot, 20),
    (Phase::Finish, 20),
];

/// The limit of a program in this phase.
pub fn of(phase: Phase) -> Duration {
    let minutes = MINUTES.iter().find(|(known, _)| *known == phase).map_or(20, |(_, minutes)| *minutes);
    Duration::from_secs(minutes * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_a_limit() {
        for phase in Phase::ALL {
            assert!(MINUTES.iter().any(|(known, _)| *known == phase), "{}", phase.name());
        }
        assert_eq!(of(Phase::Partition), Duration::from_secs(120));
    }
}
