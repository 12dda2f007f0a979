//! Values that go into the configuration of other programs: an offer of trees (rsyncd.conf), boot entries (pxelinux), both
//! as JSON; and after them, a line each, patterns of what is left out of a pull.

use boot_pxelinux::Pxelinux;
use systemimager_core::contract::BootloaderPlan;
use systemimager_core::testing::RecordedHost;
use systemimager_core::{
    Action, Arg, BootEntry, BootTarget, Bootloader as _, BytePath, Contents, Offer, Piece, PullRequest, Source,
    Transport as _,
};
use transport_rsync::Rsync;

use crate::seen;
use crate::support::parts;

pub fn target(data: &[u8]) {
    let all = parts(data);
    let host = RecordedHost::new();
    if let Ok(offer) = serde_json::from_slice::<Offer>(all[0]) {
        offered(&host, &offer);
    }
    if let Ok(entries) = serde_json::from_slice::<Vec<BootEntry>>(all[0]) {
        booted(&host, &entries);
    }
    if let Some(patterns) = all.get(1) {
        left_out(patterns);
    }
}

fn offered(host: &RecordedHost, offer: &Offer) {
    let service = match Rsync.offer(host, offer.clone()) {
        Ok(service) => service,
        Err(error) => return seen::lines(&error.message),
    };
    for file in &service.files {
        let text: String =
            file.contents.iter().map(|piece| if let Piece::Text(text) = piece { text } else { "" }).collect();
        if !file.path.as_bytes().ends_with(b"rsyncd.conf") {
            continue;
        }
        let modules = offer.exports.len() + usize::from(offer.finish.is_some());
        assert_eq!(text.lines().filter(|line| line.starts_with('[')).count(), modules, "{text}");
        for line in text.lines() {
            seen::one_line(line);
            let key = line.split(" = ").next().unwrap_or_default();
            assert!(line.is_empty() || line.starts_with(['#', '[']) || KEYS.contains(&key), "{line:?} is none of ours");
        }
    }
}

const KEYS: [&str; 19] = [
    "log file",
    "uid",
    "gid",
    "use chroot",
    "read only",
    "list",
    "numeric ids",
    "munge symlinks",
    "reverse lookup",
    "strict modes",
    "open noatime",
    "socket options",
    "timeout",
    "hosts deny",
    "path",
    "hosts allow",
    "auth users",
    "secrets file",
    "max connections",
];

fn booted(host: &RecordedHost, entries: &[BootEntry]) {
    let target = BootTarget::Network { server: "10.0.0.1".into(), http_port: 8069, mac: None };
    let default = entries.first().map(|entry| entry.name.clone());
    let plan = match Pxelinux
        .plan(host, BootloaderPlan { entries: entries.to_vec(), default, ..BootloaderPlan::new(target) })
    {
        Ok(plan) => plan,
        Err(error) => return seen::lines(&error.message),
    };
    for step in &plan.steps {
        if let Action::WriteFile { path, contents: Contents::Bytes(bytes), .. } = &step.action {
            seen::inside(path);
            let text = bytes.text().expect("text");
            seen::lines(text);
            assert_eq!(text.lines().filter(|line| line.starts_with("LABEL ")).count(), entries.len(), "{text}");
            let indented = text.lines().filter(|line| line.starts_with(' ')).count();
            assert!(indented <= entries.len() * 5, "{text}");
        }
    }
}

/// Each pattern is one argument, which nobody takes for an option of another kind.
fn left_out(patterns: &[u8]) {
    let patterns: Vec<&[u8]> = patterns.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).take(50).collect();
    let from = Source { server: "10.0.0.1".into(), export: "web".into(), ..Source::default() };
    for pattern in patterns {
        let host = RecordedHost::new();
        let exclude = vec![BytePath::new(pattern)];
        let request = PullRequest { from: from.clone(), into: "/mnt".into(), exclude, ..PullRequest::default() };
        // No program is recorded: it fails where it would begin, after it said how.
        let result = Rsync.pull(&host, request);
        assert!(result.is_err());
        for spawn in host.spawned.lock().expect("nobody panicked").iter() {
            let filters = spawn
                .argv
                .iter()
                .filter(|arg| matches!(arg, Arg::Text(it) if it.as_bytes().starts_with(b"--filter=- ")));
            assert_eq!(filters.count(), 1);
        }
    }
}
