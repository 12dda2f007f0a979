//! How an rsync ended, as the contract's kinds (rsync(1), EXIT VALUES). Pure.

use systemimager_core::{ErrorKind, Exit, PluginError, PullReport, Result, Source};

use crate::stream::Outcome;

/// The report of a pull, or why there is none.
pub fn of_pull(cancelled: bool, from: &Source, exit: &Exit, outcome: Outcome) -> Result<PullReport> {
    let Outcome { report, messages, no_space } = outcome;
    if exit.code == Some(0) {
        return Ok(report);
    }
    if cancelled {
        return Err(PluginError::new(ErrorKind::Cancelled, "the transfer was cancelled"));
    }
    let said = if messages.is_empty() { exit.stderr.trim().to_owned() } else { messages.join("\n") };
    let server = match from.port {
        Some(port) => format!("{} port {port}", from.server),
        None => from.server.clone(),
    };
    let fail = |kind, message: String| Err(PluginError::new(kind, message).with("rsync", said.clone()));
    if no_space {
        return fail(
            ErrorKind::NoSpace,
            "the target has no space left, in bytes or inodes, for what is pulled; make room there".to_owned(),
        );
    }
    match exit.code {
        // Files that could not be read, or vanished: for the caller to judge. What is not named nobody can judge:
        // a 23 with vanished files alone hides a failure, a 24 without names is no success.
        Some(23) if !report.failed.is_empty() => Ok(report),
        Some(24) if !report.failed.is_empty() || !report.vanished.is_empty() => Ok(report),
        Some(24) => fail(
            ErrorKind::Failed,
            format!("rsync says that files vanished from {server} while they were pulled, and names none; pull again"),
        ),
        Some(5) if said.contains("auth failed") && from.secret.is_none() => fail(
            ErrorKind::Denied,
            format!(
                "{server} gives \"{}\" to those who are admitted by a secret or a key of their own, and this machine has none: \
                 install it (with an initrd that mkinitrd made since), or say allow_keyless = true in the image's master file",
                from.export
            ),
        ),
        Some(5) if said.contains("auth failed") => fail(
            ErrorKind::Denied,
            format!(
                "{server} refused the secret for \"{}\"; give the one that it was offered with (a machine's own counts until it is \
                 revoked, or installed anew)",
                from.export
            ),
        ),
        Some(5) if said.contains("Unknown module") => fail(
            ErrorKind::NotFound,
            format!(
                "{server} does not offer \"{}\", or not to this machine; look at the name, and at who was admitted{}",
                from.export,
                match from.secret {
                    Some(_) => "",
                    None => {
                        " (this machine shows no key: an image server gives images to those alone that are admitted by theirs, \
                         unless the master file says allow_keyless = true)"
                    }
                }
            ),
        ),
        Some(5) if said.contains("max connections") => {
            fail(ErrorKind::Unreachable, format!("{server} serves as many as it may just now; try again later"))
        }
        // 20: the other side was told to end, since we were not.
        Some(10 | 12 | 20 | 30 | 35) => fail(
            ErrorKind::Unreachable,
            format!(
                "{server} does not answer, or went away during the transfer; see that it still offers \"{}\"",
                from.export
            ),
        ),
        Some(code) => fail(ErrorKind::Failed, format!("rsync from {server} failed with exit status {code}")),
        None => fail(ErrorKind::Failed, format!("rsync from {server} was ended by a signal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::FailedPath;

    fn outcome(messages: &[&str], failed: usize, vanished: usize, no_space: bool) -> Outcome {
        Outcome {
            report: PullReport {
                failed: (0..failed).map(|_| FailedPath { path: "/x".into(), why: String::new() }).collect(),
                vanished: vec!["/v".into(); vanished],
                ..PullReport::default()
            },
            messages: messages.iter().map(|text| (*text).to_owned()).collect(),
            no_space,
        }
    }

    /// Name, exit status, messages, files that failed and that vanished, target full, cancelled, kind of the error.
    type Row = (&'static str, Option<i32>, &'static [&'static str], (usize, usize), bool, bool, Option<ErrorKind>);

    #[test]
    fn each_end_has_its_kind() {
        let from = Source { server: "h".into(), port: Some(8730), export: "root".into(), ..Source::default() };
        let rows: &[Row] = &[
            ("well", Some(0), &[], (0, 0), false, false, None),
            ("some unreadable", Some(23), &["rsync error"], (1, 0), false, false, None),
            ("23 without a name", Some(23), &["rsync error"], (0, 0), false, false, Some(ErrorKind::Failed)),
            ("vanished", Some(24), &[], (0, 1), false, false, None),
            ("24 without a name", Some(24), &[], (0, 0), false, false, Some(ErrorKind::Failed)),
            ("24 with failures only", Some(24), &[], (1, 0), false, false, None),
            ("23 with vanished only", Some(23), &[], (0, 1), false, false, Some(ErrorKind::Failed)),
            ("23 with both", Some(23), &[], (1, 1), false, false, None),
            ("secret", Some(5), &["@ERROR: auth failed on module root"], (0, 0), false, false, Some(ErrorKind::Denied)),
            ("export", Some(5), &["@ERROR: Unknown module 'root'"], (0, 0), false, false, Some(ErrorKind::NotFound)),
            ("refused", Some(10), &["Connection refused (111)"], (0, 0), false, false, Some(ErrorKind::Unreachable)),
            ("went away", Some(12), &[], (0, 0), false, false, Some(ErrorKind::Unreachable)),
            ("ended over there", Some(20), &[], (0, 0), false, false, Some(ErrorKind::Unreachable)),
            ("silent", Some(30), &[], (0, 0), false, false, Some(ErrorKind::Unreachable)),
            ("full", Some(11), &[], (1, 0), true, false, Some(ErrorKind::NoSpace)),
            ("full, as 23", Some(23), &[], (1, 0), true, false, Some(ErrorKind::NoSpace)),
            ("cancelled", Some(20), &[], (0, 0), false, true, Some(ErrorKind::Cancelled)),
            ("cancelled too late", Some(0), &[], (0, 0), false, true, None),
            ("usage", Some(1), &[], (0, 0), false, false, Some(ErrorKind::Failed)),
            ("signal", None, &[], (0, 0), false, false, Some(ErrorKind::Failed)),
        ];
        for (name, code, messages, failed, no_space, cancelled, expected) in rows {
            let exit = Exit { code: *code, ..Exit::default() };
            let result = of_pull(*cancelled, &from, &exit, outcome(messages, failed.0, failed.1, *no_space));
            assert_eq!(result.err().map(|error| error.kind), *expected, "{name}");
        }
    }

    #[test]
    fn vanished_files_are_handed_on() {
        let from = Source { server: "h".into(), export: "root".into(), ..Source::default() };
        let exit = Exit { code: Some(24), ..Exit::default() };
        let report = of_pull(false, &from, &exit, outcome(&[], 0, 2, false)).unwrap();
        assert_eq!(report.vanished.len(), 2);
        let error = of_pull(false, &from, &exit, outcome(&[], 0, 0, false)).unwrap_err();
        assert_eq!(
            error.message,
            "rsync says that files vanished from h while they were pulled, and names none; pull again"
        );
    }
}
