//! What people at the console read of an install: the address, a step that begins, how far the pull is.

use systemimager_core::{Lease, Progress};
use systemimager_engine::plan::Plan;
use systemimager_engine::report::Event;

use super::console::{self, Stage};
use super::remains;

/// A step's beginning and the lines of its programs, for the console.
pub fn event(plan: &Plan, event: &Event) {
    match event {
        Event::StepBegins { index } => {
            if let Some(step) = plan.steps.get(*index) {
                let step = format!("step {} of {}: {}: {}", index + 1, plan.steps.len(), step.phase.name(), step.what);
                remains::at(&format_args!("{}: {step}", Stage::Install));
                console::stage(Stage::Install, step);
            }
        }
        Event::Log { line, .. } => console::line(line),
        _ => {}
    }
}

/// Which address, and from whom.
pub fn lease(lease: &Lease) -> String {
    let show = |address: Option<std::net::IpAddr>| address.map_or("none".to_owned(), |it| it.to_string());
    let from = lease.server.map_or("local.cfg".to_owned(), |server| format!("DHCP server {server}"));
    format!(
        "{} has {}/{} ({from})",
        lease.interface,
        show(lease.address),
        lease.prefix.map_or("?".to_owned(), |it| it.to_string()),
    )
}

/// How far a pull is.
pub fn progress(progress: &Progress) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let bytes = match progress.total_bytes {
        Some(total) if total > 0 => {
            format!("{} of {} MiB ({} %)", mib(progress.bytes), mib(total), progress.bytes.saturating_mul(100) / total)
        }
        _ => format!("{} MiB", mib(progress.bytes)),
    };
    match progress.total_files {
        Some(files) => format!("pulled {bytes}, {} of {files} files", progress.files),
        None => format!("pulled {bytes}, {} files", progress.files),
    }
}
