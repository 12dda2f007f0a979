//! What rsync prints while it works, read as it comes: progress, changes, statistics, failures.
//!
//! One stream carries all (see [`crate::request`]): pieces end at a newline or, for progress, at a
//! carriage return; a line of the log begins with `YYYY/MM/DD HH:MM:SS [pid] `, and may stand right
//! behind a piece of progress. Names are escaped: no name can hold a real newline here.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use systemimager_core::{Aspect, BytePath, Change, ChangeKind, FailedPath, Progress, PullReport, PullRequest};

use crate::request::CHANGE_MARK;

/// Least time between two reports of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// A piece longer than this is no line of rsync's, bytes: a path has at most 4,096, each at most five here.
const PIECE_MAX: usize = 64 * 1024;
/// Messages that are kept for an error.
const MESSAGES: usize = 20;

/// What came of a run, besides its exit code.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The report as far as output tells.
    pub report: PullReport,
    /// Lines for people: errors that are not about a path.
    pub messages: Vec<String>,
    /// The receiving side ran full.
    pub no_space: bool,
}

/// Reads the stream.
pub struct Stream {
    export: Vec<u8>,
    /// What paths of the other side begin with, where it does not tell them from its export's root.
    far: Vec<u8>,
    into: Vec<u8>,
    partial: Vec<u8>,
    outcome: Outcome,
    failed: HashSet<BytePath>,
    told: Option<Instant>,
}

impl Stream {
    /// For a pull.
    pub fn new(request: &PullRequest) -> Self {
        let mut into = request.into.as_bytes().to_vec();
        while into.ends_with(b"/") {
            into.pop();
        }
        Self { into, export: request.from.export.clone().into_bytes(), ..Self::of_list() }
    }

    /// For a run that pulls nothing.
    pub fn of_list() -> Self {
        Self {
            export: Vec::new(),
            far: Vec::new(),
            into: Vec::new(),
            partial: Vec::new(),
            outcome: Outcome::default(),
            failed: HashSet::new(),
            told: None,
        }
    }

    /// The same, for another side that tells paths below this directory.
    #[must_use]
    pub fn below(self, far: &str) -> Self {
        Self { far: far.as_bytes().to_vec(), ..self }
    }

    /// Takes the next bytes; returns progress when it is time to tell.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Progress> {
        let mut latest = None;
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            self.partial.extend_from_slice(piece);
            if matches!(piece.last(), Some(b'\n' | b'\r')) || self.partial.len() > PIECE_MAX {
                let line = std::mem::take(&mut self.partial);
                latest = self.piece(line.trim_ascii_end()).or(latest);
            }
        }
        let due = self.told.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY);
        let latest = latest.filter(|_| due)?;
        self.told = Some(Instant::now());
        Some(latest)
    }

    /// The end of the stream.
    pub fn finish(mut self) -> Outcome {
        let rest = std::mem::take(&mut self.partial);
        self.piece(rest.trim_ascii_end());
        self.outcome
    }

    fn piece(&mut self, piece: &[u8]) -> Option<Progress> {
        // Progress, of another process of rsync's, ends without a newline.
        if let Some(at) = find(piece, CHANGE_MARK.as_bytes())
            && at > 0
            && let Some(progress) = parse_progress(piece.get(..at)?)
        {
            self.piece(piece.get(at..)?);
            return Some(progress);
        }
        if let Some(change) = piece.strip_prefix(CHANGE_MARK.as_bytes()) {
            match parse_change(change) {
                Some(Itemized::Differs(change)) => self.outcome.report.changes.push(change),
                Some(Itemized::Linked(path)) => self.outcome.report.linked.push(path),
                Some(Itemized::Same) | None => {}
            }
            return None;
        }
        if let Some(at) = stamp(piece) {
            let (before, line) = (piece.get(..at.0).unwrap_or_default(), piece.get(at.1..).unwrap_or_default());
            self.line(line);
            return parse_progress(before);
        }
        parse_progress(piece)
    }

    /// A line of the log.
    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if self.statistic(&text) {
            return;
        }
        // ENOSPC and EDQUOT; the sender writes nothing.
        if (text.ends_with("(28)") || text.ends_with("(122)")) && !line.starts_with(b"rsync: [sender]") {
            self.outcome.no_space = true;
        }
        let vanished = [b"file has vanished: ".as_slice(), b"directory has vanished: "];
        if let Some(rest) = vanished.iter().find_map(|prefix| line.strip_prefix(*prefix)) {
            if let Some((_, path, _)) = self.quoted(rest) {
                self.outcome.report.vanished.push(path);
            }
        } else if let Some(rest) = line.strip_prefix(b"ERROR: ") {
            match find(rest, b" failed verification") {
                Some(at) => {
                    let path = unescape(rest.get(..at).unwrap_or_default());
                    self.failed(absolute(&path), "it kept changing while it was read".to_owned());
                }
                None => self.message(text.into_owned()),
            }
        } else if let Some(rest) = line.strip_prefix(b"rsync: ") {
            match self.quoted(rest) {
                Some((head, path, tail)) => self.failed(path, format!("{head} {tail}").trim().to_owned()),
                None => self.message(text.into_owned()),
            }
        } else if line.starts_with(b"rsync error: ") || line.starts_with(b"@ERROR") {
            self.message(text.into_owned());
        }
    }

    /// The first reason counts: what follows is mostly its consequence.
    fn failed(&mut self, path: BytePath, why: String) {
        if self.failed.insert(path.clone()) {
            self.outcome.report.failed.push(FailedPath { path, why });
        }
    }

    fn message(&mut self, text: String) {
        let messages = &mut self.outcome.messages;
        if messages.len() == MESSAGES {
            messages.remove(0);
        }
        messages.push(text);
    }

    /// `head "path" (in export) tail`, the path as from the export's root. Quotes in names are not
    /// escaped, so the last one that can be the end is.
    fn quoted(&self, line: &[u8]) -> Option<(String, BytePath, String)> {
        let start = find(line, b"\"")? + 1;
        let inner = line.get(start..)?;
        let mut marker = b"\" (in ".to_vec();
        marker.extend_from_slice(&self.export);
        marker.push(b')');
        let (end, after) = match rfind(inner, &marker) {
            Some(end) => (end, end + marker.len()),
            None => {
                let end = rfind(inner, b"\"")?;
                (end, end + 1)
            }
        };
        let path = unescape(inner.get(..end)?);
        let below = |root: &Vec<u8>| {
            let rest = path.strip_prefix(root.as_slice()).filter(|_| !root.is_empty())?;
            (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
        };
        // The sender is the other side.
        let roots = if line.starts_with(b"[sender]") { [&self.far, &self.into] } else { [&self.into, &self.far] };
        let path = roots.into_iter().find_map(below).unwrap_or(&path);
        let head = String::from_utf8_lossy(line.get(..start - 1)?).into_owned();
        // `[sender] ` says which process it was.
        let head =
            head.split_once("] ").map_or(head.as_str(), |(_, rest)| rest).trim_end_matches(['(', ' ']).to_owned();
        let tail = String::from_utf8_lossy(inner.get(after..)?).into_owned();
        Some((head, absolute(path), tail.trim_start_matches([')', ':', ' ']).to_owned()))
    }

    fn statistic(&mut self, text: &str) -> bool {
        let Some((key, value)) = text.split_once(": ") else { return false };
        let report = &mut self.outcome.report;
        let field = match key {
            "Number of files" => &mut report.files,
            "Number of deleted files" => &mut report.deleted,
            "Number of regular files transferred" => &mut report.transferred,
            "Total file size" => &mut report.bytes,
            "Total bytes received" => &mut report.received,
            _ => return false,
        };
        if let Some(number) = number(value) {
            *field = number;
        }
        true
    }
}

/// `1,234 bytes`, `1,234 (reg: 1,200)`.
fn number(text: &str) -> Option<u64> {
    let digits: String = text
        .chars()
        .take_while(|letter| letter.is_ascii_digit() || *letter == ',')
        .filter(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// `  1,234  56%  7.89MB/s  0:00:01 (xfr#12, to-chk=4/767)`.
fn parse_progress(piece: &[u8]) -> Option<Progress> {
    let text = std::str::from_utf8(piece).ok()?.trim_start();
    let (bytes, rest) = text.split_once(' ')?;
    if bytes.is_empty() || !bytes.bytes().all(|byte| byte.is_ascii_digit() || byte == b',') || !rest.contains('%') {
        return None;
    }
    let (files, total_files) = rest
        .split_once("-chk=")
        .and_then(|(_, counts)| counts.trim_end_matches(')').split_once('/'))
        .and_then(|(left, all)| {
            let (left, all): (u64, u64) = (left.parse().ok()?, all.parse().ok()?);
            Some((all.saturating_sub(left), Some(all)))
        })
        .unwrap_or_default();
    Some(Progress { bytes: number(bytes)?, total_bytes: None, files, total_files, path: None })
}

/// What a dry run says of a path.
#[derive(Debug, PartialEq, Eq)]
enum Itemized {
    Differs(Change),
    /// The same, and a further name of a file.
    Linked(BytePath),
    Same,
}

/// `%i %l %n//%L`: eleven letters that say what differs (rsync(1), `--itemize-changes`), the size, the name, and ` => `
/// with the other name of a hard link. No name holds two slashes in a row.
fn parse_change(change: &[u8]) -> Option<Itemized> {
    let (change, more) = match find(change, b"//") {
        Some(at) => (change.get(..at)?, change.get(at + 2..)?),
        None => (change, b"".as_slice()),
    };
    // That of a directory ends in a slash of its own.
    let more = more.strip_prefix(b"/").unwrap_or(more);
    let link = more.strip_prefix(b" => ").map(|name| absolute(&unescape(name)));
    let (letters, rest) = change.split_at_checked(LETTERS)?;
    let (size, name) = rest.strip_prefix(b" ")?.split_at_checked(find(rest.get(1..)?, b" ")?)?;
    let bytes: u64 = std::str::from_utf8(size).ok()?.parse().ok()?;
    let mut path = unescape(name.get(1..)?);
    while path.len() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    let path = if path == b"." { BytePath::from("/") } else { absolute(&path) };
    let detail = String::from_utf8_lossy(letters).trim_end().to_owned();
    if detail == "*deleting" {
        return Some(Itemized::Differs(Change { path, kind: ChangeKind::Deleted, detail, ..Change::default() }));
    }
    if detail.len() == 2 && link.is_none() {
        // Nothing after the two that say what it is.
        return Some(if detail.starts_with('h') { Itemized::Linked(path) } else { Itemized::Same });
    }
    let mut aspects = aspects(letters);
    let kind = if detail.ends_with("+++++++++") {
        ChangeKind::Created
    } else if detail.starts_with('.') || (detail.starts_with('h') && link.is_none() && !moves(letters)) {
        // A further name as it should be, of a file with other attributes: the transfer changes that file.
        ChangeKind::Metadata
    } else {
        ChangeKind::Content
    };
    if kind == ChangeKind::Metadata {
        aspects.retain(|aspect| *aspect != Aspect::Link);
    }
    let bytes = (letters.get(1) == Some(&b'f')).then_some(bytes);
    let directory = letters.get(1) == Some(&b'd');
    Some(Itemized::Differs(Change { path, kind, detail, link, aspects, bytes, directory }))
}

/// Letters of `%i`.
const LETTERS: usize = 11;

/// Whether checksum, size or time differ, for which a file comes anew.
fn moves(letters: &[u8]) -> bool {
    letters.get(2..5).is_some_and(|three| three.iter().any(|letter| !matches!(letter, b'.' | b' ')))
}

/// What the letters `YXcstpoguax` say, of something that is there already.
fn aspects(letters: &[u8]) -> Vec<Aspect> {
    let letter = |at: usize| letters.get(at).copied().unwrap_or(b'.');
    if letter(2) == b'+' {
        return Vec::new();
    }
    let set = |at: usize| !matches!(letter(at), b'.' | b' ');
    let moved = matches!(letter(0), b'>' | b'<') || (letter(0) == b'c' && letter(1) != b'L');
    let found = [
        (moved || (letter(1) == b'f' && (set(2) || set(3))), Aspect::Content),
        (letter(0) == b'c' && letter(1) == b'L', Aspect::Target),
        (letter(0) == b'h', Aspect::Link),
        (set(5), Aspect::Mode),
        (set(6), Aspect::Owner),
        (set(7), Aspect::Group),
        (set(4), Aspect::Time),
        (set(9), Aspect::Acl),
        (set(10), Aspect::Xattrs),
    ];
    found.into_iter().filter(|(is, _)| *is).map(|(_, aspect)| aspect).collect()
}

fn absolute(path: &[u8]) -> BytePath {
    BytePath::from("/").join(path)
}

/// Undoes `\#ooo`; nothing else is escaped.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        if let (b'\\', [b'#', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) = (first, tail) {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// Where a log line's stamp begins and ends: `2026/11/23 00:44:04 [31805] `.
fn stamp(piece: &[u8]) -> Option<(usize, usize)> {
    const SHAPE: &[u8] = b"dddd/dd/dd dd:dd:dd [";
    let matches = |window: &[u8]| {
        window.iter().zip(SHAPE).all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            other => byte == other,
        })
    };
    let at = piece.windows(SHAPE.len()).position(matches)?;
    let rest = piece.get(at + SHAPE.len()..)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let end = rest.get(digits..)?;
    (digits > 0 && end.starts_with(b"]")).then(|| {
        let blank = usize::from(end.get(1) == Some(&b' '));
        (at, at + SHAPE.len() + digits + 1 + blank)
    })
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn rfind(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).rposition(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> Outcome {
        let request: PullRequest = serde_json::from_value(serde_json::json!({
            "from": {"server": "h", "export": "root"}, "into": "/stage/x/",
        }))
        .unwrap();
        let mut stream = Stream::new(&request);
        for chunk in chunks {
            stream.push(chunk);
        }
        stream.finish()
    }

    #[test]
    fn failures_by_path() {
        let rows: &[(&str, &[u8], &[u8], &str)] = &[
            (
                "unreadable, with a quote",
                b"rsync: [sender] send_files failed to open \"/a\"b\" (in root): Permission denied (13)",
                b"/a\"b",
                "send_files failed to open Permission denied (13)",
            ),
            (
                "escapes",
                b"rsync: [sender] opendir \"/new\\#012l\xff\\#134#012\" (in root) failed: Permission denied (13)",
                b"/new\nl\xff\\#012",
                "opendir failed: Permission denied (13)",
            ),
            (
                "in parentheses",
                b"rsync: [sender] readlink_stat(\"/x\" (in root)) failed: Input/output error (5)",
                b"/x",
                "readlink_stat failed: Input/output error (5)",
            ),
            (
                "on this side",
                b"rsync: [generator] chown \"/stage/x/etc/passwd\" failed: Operation not permitted (1)",
                b"/etc/passwd",
                "chown failed: Operation not permitted (1)",
            ),
            (
                "torn",
                b"ERROR: var/log/a\\#012b failed verification -- update retained.",
                b"/var/log/a\nb",
                "it kept changing while it was read",
            ),
        ];
        for (name, line, path, why) in rows {
            let mut text = b"2026/11/23 00:44:04 [31805] ".to_vec();
            text.extend_from_slice(line);
            text.push(b'\n');
            let outcome = read(&[&text]);
            let expected = FailedPath { path: BytePath::new(*path), why: (*why).to_owned() };
            assert_eq!(outcome.report.failed, vec![expected], "{name}");
            assert!(!outcome.no_space, "{name}");
        }
    }

    #[test]
    fn a_real_run() {
        // Recorded from rsync 3.5.0, cut at awkward places.
        let outcome = read(&[
            b"2026/11/23 00:44:04 [31805] receiving file list\n2026/11/23 00:4",
            b"4:04 [31808] file has vanished: \"/v w\" (in root)\n",
            b"2026/11/23 00:44:04 [31808] directory has vanished: \"/d\" (in root)\n",
            b"\r              4  50%    3.91kB/s    0:00:00 (xfr#1, to-chk=2/6)2026/11/23 00:44:04 [9] rsync: [sender] \
              opendir \"/sub\" (in root) failed: Permission denied (13)\n",
            b"\n2026/11/23 00:44:04 [31808] Number of files: 1,767 (reg: 3, dir: 3)\nNumber of files: 1,767 (reg: 3, dir: 3)\n",
            b"2026/11/23 00:44:04 [31808] Number of deleted files: 7 (reg: 7)\n",
            b"2026/11/23 00:44:04 [31808] Number of regular files transferred: 1\n",
            b"2026/11/23 00:44:04 [31808] Total file size: 5,712,682,778 bytes\n",
            b"2026/11/23 00:44:04 [31808] Total bytes received: 602\n",
            b"2026/11/23 00:44:04 [31805] rsync error: some files/attrs were not transferred (code 23) at main.c(1956)",
        ]);
        let report = &outcome.report;
        assert_eq!(
            (report.files, report.deleted, report.transferred, report.bytes, report.received),
            (1767, 7, 1, 5_712_682_778, 602)
        );
        assert_eq!(report.vanished, vec![BytePath::from("/v w"), "/d".into()]);
        assert_eq!(report.failed[0].path, BytePath::from("/sub"));
        assert_eq!(outcome.messages.len(), 1);
    }

    #[test]
    fn changes() {
        use Aspect::{Acl, Content, Group, Link, Mode, Owner, Target, Time, Xattrs};
        type Row<'a> = (&'a str, &'a str, &'a str, ChangeKind, &'a [Aspect], Option<u64>);
        let rows: &[Row] = &[
            ("new", "si:>f+++++++++ 12 pub", "/pub", ChangeKind::Created, &[], Some(12)),
            ("new directory", "si:cd+++++++++ 4096 a b/", "/a b", ChangeKind::Created, &[], None),
            ("contents", "si:>f.st...... 7 x", "/x", ChangeKind::Content, &[Content, Time], Some(7)),
            ("by checksum", "si:>fc........ 7 x", "/x", ChangeKind::Content, &[Content], Some(7)),
            ("link", "si:cLc.T...... 3 l", "/l", ChangeKind::Content, &[Target, Time], None),
            (
                "a name of a file with another mode",
                "si:hf...p..... 3 l//",
                "/l",
                ChangeKind::Metadata,
                &[Mode],
                Some(3),
            ),
            (
                "a name of a file that comes anew",
                "si:hf..t...... 3 l//",
                "/l",
                ChangeKind::Content,
                &[Link, Time],
                Some(3),
            ),
            ("hard link", "si:hf..t...... 3 l// => k", "/l", ChangeKind::Content, &[Link, Time], Some(3)),
            ("device", "si:cD..t...... 0 n", "/n", ChangeKind::Content, &[Content, Time], None),
            (
                "attributes",
                "si:.f...pog.ax 1 y",
                "/y",
                ChangeKind::Metadata,
                &[Mode, Owner, Group, Acl, Xattrs],
                Some(1),
            ),
            ("root", "si:.d..t...... 4096 ./", "/", ChangeKind::Metadata, &[Time], None),
            ("gone", "si:*deleting   0 d/\\#012", "/d/\n", ChangeKind::Deleted, &[], None),
            ("gone, with blanks around its name", "si:*deleting   0  d //", "/ d ", ChangeKind::Deleted, &[], None),
            ("a directory's end", "si:cd+++++++++ 4096 a b///", "/a b", ChangeKind::Created, &[], None),
            ("the root's end", "si:.d..t...... 4096 .///", "/", ChangeKind::Metadata, &[Time], None),
            ("a name that ends in a blank", "si:>f+++++++++ 0 x //", "/x ", ChangeKind::Created, &[], Some(0)),
            ("a symbolic link", "si:cL+++++++++ 8 l// -> a//b => c", "/l", ChangeKind::Created, &[], None),
            (
                "a name like a stamp",
                "si:.f....og... 1 2026/11/23 00:44:04 [1] z",
                "/2026/11/23 00:44:04 [1] z",
                ChangeKind::Metadata,
                &[Owner, Group],
                Some(1),
            ),
        ];
        for (name, line, path, kind, aspects, bytes) in rows {
            let changes = read(&[line.as_bytes(), b"\n"]).report.changes;
            assert_eq!(changes.len(), 1, "{name}");
            let change = &changes[0];
            assert_eq!((&change.path, change.kind), (&BytePath::from(*path), *kind), "{name}");
            assert_eq!((change.aspects.as_slice(), change.bytes), (*aspects, *bytes), "{name}");
        }
    }

    #[test]
    fn a_change_right_behind_progress() {
        // Recorded from rsync 3.5.0.
        let outcome = read(&[
            b"\r              0   0%    0.00kB/s    0:00:00 (xfr#9, to-chk=627/660)si:*deleting   0 deep/deleted//\n",
            b"\r              0   0%    0.00kB/s    0:00:00 si:>f+++++++++ 2 a si:b//\n",
        ]);
        let found: Vec<String> = outcome.report.changes.iter().map(|change| change.path.to_string()).collect();
        assert_eq!(found, ["/deep/deleted", "/a si:b"]);
    }

    #[test]
    fn what_is_the_same() {
        for (line, linked) in [
            ("si:.f          2 h1//", None),
            ("si:hf          2 a/h2//", Some("/a/h2")),
            ("si:.d          4096 d///", None),
            ("si:.f", None),
            ("si:.f          x h1//", None),
            ("si:.f          2", None),
        ] {
            let report = read(&[line.as_bytes(), b"\n"]).report;
            let expected: Vec<BytePath> = linked.into_iter().map(BytePath::from).collect();
            assert_eq!((report.linked, report.changes), (expected, vec![]), "{line}");
        }
    }

    #[test]
    fn hard_links_name_each_other() {
        for (line, link) in [
            ("si:hf+++++++++ 1 a/b// => c\\#012/d", Some("/c\n/d")),
            ("si:hf..t...... 1 b// => a => b", Some("/a => b")),
            ("si:hf          1 b// => a", Some("/a")),
            ("si:>f+++++++++ 1 c => d//", None),
            ("si:cL+++++++++ 1 l// -> x => y", None),
        ] {
            let changes = read(&[line.as_bytes(), b"\n"]).report.changes;
            assert_eq!(changes[0].link, link.map(BytePath::from), "{line}");
        }
    }

    #[test]
    fn progress_and_full_disks() {
        let line = b"      5,712,369  99%  298.65MB/s    0:00:18 (xfr#235, ir-chk=1004/2767)";
        let expected = Progress { bytes: 5_712_369, files: 1763, total_files: Some(2767), ..Progress::default() };
        assert_eq!(parse_progress(line), Some(expected));
        for other in ["", "sent 97 bytes  received 602 bytes", "total size is 8  speedup is 0.01", "12 of 3"] {
            assert_eq!(parse_progress(other.as_bytes()), None, "{other}");
        }
        let full = b"2026/11/23 00:44:04 [1] rsync: [receiver] write failed on \"/stage/x/big\": No space left on device (28)\n";
        assert!(read(&[full]).no_space);
    }
}
