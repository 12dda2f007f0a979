//! A network of namespaces and virtual machines on one computer.
//!
//! | module | what it is |
//! |---|---|
//! | [`netns`] | hosts and taps on one bridge, none of them connected to the outside |
//! | [`machine`] | QEMU, its serial log, its end |
//! | [`monitor`] | a running machine's cables, pulled and put in |
//! | [`disk`] | disk images, and their partitions mounted on the host |
//! | [`master`] | the master client: a small Debian, built once and cached |
//! | [`ssh`] | commands on a machine of the lab |
//! | [`wait`] | waiting with a deadline |
//! | [`owner`] | what a killed test left behind is found and removed |
//! | [`run`] | a program run to its end, with an error that says what happened |
//!
//! Everything is undone by `Drop`, also when a test fails; what a killed test could not undo is
//! undone by the next one that uses the lab. There are no retries, which would hide faults, and
//! nothing sleeps in place of waiting for something.

pub mod disk;
pub mod machine;
pub mod master;
pub mod monitor;
pub mod netns;
pub mod owner;
pub mod run;
pub mod ssh;
pub mod wait;
