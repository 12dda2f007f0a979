//! What rsync prints while it pulls. The first two bytes say how it ends, and in which pieces it comes.

use systemimager_core::testing::RecordedHost;
use systemimager_core::{Bytes, Exit, PullReport, PullRequest, Result, Source, Transport as _};
use transport_rsync::Rsync;

use crate::seen;

pub fn target(data: &[u8]) {
    let (code, piece, output) = match data {
        [code, piece, output @ ..] => (i32::from(*code) % 40, usize::from(*piece) + 1, output),
        _ => return,
    };
    let whole = pulled(code, output, output.len().max(1));
    // A very long line is cut where a piece ends.
    if output.len() < 60 * 1024 {
        let pieces = pulled(code, output, piece);
        assert_eq!(pieces.as_ref().ok(), whole.as_ref().ok(), "in pieces of {piece}");
        assert_eq!(pieces.is_err(), whole.is_err());
    }
    match whole {
        Ok(report) => {
            let changed = report.changes.iter().map(|change| &change.path);
            let failed = report.failed.iter().map(|failed| &failed.path);
            for path in changed.chain(failed).chain(&report.vanished) {
                assert!(path.as_bytes().starts_with(b"/"), "{path}");
                seen::one_line(&path.to_string());
            }
            let told = report.changes.len() + report.failed.len() + report.vanished.len();
            assert!(told <= output.len());
        }
        Err(error) => seen::lines(&error.message),
    }
}

fn pulled(code: i32, output: &[u8], piece: usize) -> Result<PullReport> {
    let host = RecordedHost::new();
    let chunks = output.chunks(piece).map(|chunk| Bytes(chunk.to_vec())).collect();
    let exit = Exit { code: Some(code), ..Exit::default() };
    host.programs.lock().expect("nobody panicked").push((chunks, exit));
    let from = Source { server: "10.0.0.1".into(), export: "web".into(), ..Source::default() };
    Rsync.pull(&host, PullRequest { from, into: "/mnt/target".into(), dry_run: true, ..PullRequest::default() })
}
