//! Reports to the server, in order and in the background: a server that went away must not stall an
//! installation, and one that comes back must not miss a step.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use systemimager_core::HostName;
use systemimager_engine::report::{Event, Report, State};

use super::http::{PostError, Server};
use super::{console, wait};

/// Reports that wait at most; beyond it progress and log lines are dropped, oldest first.
const ROOM: usize = 2000;
/// Largest report that the server takes, bytes of JSON.
const LARGEST: usize = 1 << 20;
/// Longest text of a report, bytes: a state must arrive, and the whole of a long message is on the console.
const LONGEST_TEXT: usize = 64 << 10;
/// How long one post may take.
const POST: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where reports go. A copy is the same.
#[derive(Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    mac: String,
    host: Option<HostName>,
    image: Option<String>,
    token: Option<String>,
    sequence: u64,
    waiting: VecDeque<Report>,
    sending: bool,
}

impl Reporter {
    /// Starts for the machine with this MAC. Nothing is sent before [`Self::may`] was called.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(server: Server, mac: &str) -> std::io::Result<Self> {
        let queue = Queue {
            mac: mac.to_owned(),
            host: None,
            image: None,
            token: None,
            sequence: 1,
            waiting: VecDeque::new(),
            sending: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(queue), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("reports".into()).spawn(move || send(&server, &theirs))?;
        Ok(Self { shared })
    }

    /// From now on reports are sent, with this token.
    pub fn may(&self, token: &str) {
        self.shared.lock().token = Some(token.to_owned());
        self.shared.changed.notify_all();
    }

    /// Says from now on who the machine is.
    pub fn is_host(&self, host: &HostName) {
        self.shared.lock().host = Some(host.clone());
    }

    /// Says from now on what is installed.
    pub fn is_image(&self, image: &str) {
        self.shared.lock().image = Some(image.to_owned());
    }

    /// Reports something. Never waits.
    pub fn post(&self, mut event: Event) {
        match &mut event {
            Event::State { message: text, .. } | Event::Log { line: text, .. } => cut(text),
            _ => {}
        }
        let mut queue = self.shared.lock();
        let report = Report {
            mac: queue.mac.clone(),
            host: queue.host.clone(),
            image: queue.image.clone(),
            sequence: queue.sequence,
            event,
        };
        queue.sequence += 1;
        // Of two progress reports that both wait only the newer says anything.
        if matches!(report.event, Event::Progress { .. })
            && let Some(last) = queue.waiting.back_mut().filter(|last| matches!(last.event, Event::Progress { .. }))
        {
            *last = report;
        } else {
            queue.waiting.push_back(report);
        }
        make_room(&mut queue.waiting);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Reports a new state.
    pub fn state(&self, state: State, message: impl Into<String>) {
        self.post(Event::State { state, message: message.into() });
    }

    /// Waits until all is sent; says how many reports are not after `limit`.
    pub fn flush(&self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut queue = self.shared.lock();
        while !queue.waiting.is_empty() || queue.sending {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return queue.waiting.len() + usize::from(queue.sending);
            };
            queue = self.shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        0
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops what is least missed: progress, then log lines, then the oldest of all.
fn make_room(waiting: &mut VecDeque<Report>) {
    while waiting.len() > ROOM {
        let first = |wanted: fn(&Event) -> bool| waiting.iter().position(|report| wanted(&report.event));
        let at = first(|event| matches!(event, Event::Progress { .. }))
            .or_else(|| first(|event| matches!(event, Event::Log { .. })))
            .unwrap_or(0);
        waiting.remove(at);
    }
}

fn send(server: &Server, shared: &Shared) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut queue = shared.lock();
        let report = loop {
            match queue.token.is_some().then(|| queue.waiting.pop_front()).flatten() {
                Some(report) => break report,
                None => queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        };
        let token = queue.token.clone();
        queue.sending = true;
        drop(queue);
        let sent = match serde_json::to_vec(&report) {
            Ok(json) if json.len() > LARGEST => {
                // A server may hang up in the middle of it, which would look like a server that is away.
                give_up(&report, format_args!("it is {} bytes long, and {LARGEST} are taken", json.len()));
                Ok(())
            }
            Ok(json) => match server.post("/v1/reports", &json, token.as_deref(), POST) {
                Ok(()) => Ok(()),
                Err(error @ PostError::Refused { .. }) => {
                    give_up(&report, error);
                    Ok(())
                }
                Err(PostError::Later { .. }) => Err(()),
            },
            Err(error) => {
                give_up(&report, error);
                Ok(())
            }
        };
        let mut queue = shared.lock();
        queue.sending = false;
        if sent.is_err() {
            // Not said on the console: the installation itself needs the server, and complains better.
            queue.waiting.push_front(report);
            make_room(&mut queue.waiting);
            drop(queue);
            wait::pause(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            continue;
        }
        pause = FIRST_PAUSE;
        drop(queue);
        shared.changed.notify_all();
    }
}

/// One line for a report that is never going to be taken.
fn give_up(report: &Report, why: impl std::fmt::Display) {
    let why = why.to_string();
    let line = why.lines().next().unwrap_or_default();
    console::line(format_args!("warning: report {} is left out: {line}", report.sequence));
}

/// Cuts a text to [`LONGEST_TEXT`], between characters.
fn cut(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push_str(" …");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc;
    use systemimager_core::{Level, Phase, Progress};

    fn log(line: &str) -> Event {
        Event::Log { level: Level::Info, line: line.into() }
    }

    /// Answers each post as `answer` says, by its turn and its body; sends on both, with the answer.
    fn server(answer: fn(usize, &str) -> &'static str) -> (u16, mpsc::Receiver<(&'static str, String)>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (seen, bodies) = mpsc::channel();
        std::thread::spawn(move || {
            for turn in 0.. {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut request = Vec::new();
                let mut bytes = [0; 4096];
                while !request.ends_with(b"}") {
                    match stream.read(&mut bytes) {
                        Ok(count @ 1..) => request.extend_from_slice(&bytes[..count]),
                        _ => break,
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
                let status = answer(turn, &body);
                let _ = seen.send((status, body));
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
            }
        });
        (port, bodies)
    }

    /// The reports that were taken.
    fn taken(bodies: &mpsc::Receiver<(&'static str, String)>) -> Vec<Report> {
        let fine = bodies.try_iter().filter(|(status, _)| status.starts_with('2'));
        fine.map(|(_, body)| serde_json::from_str(&body).expect("a report")).collect()
    }

    #[test]
    fn what_the_server_refuses_blocks_nothing() {
        let (port, bodies) =
            server(|_, body| if body.contains("refuse me") { "400 Bad Request" } else { "204 No Content" });
        let reporter = Reporter::start(Server::new("127.0.0.1", port), "x").expect("a thread");
        reporter.post(log("one"));
        assert_eq!(reporter.flush(Duration::from_millis(50)), 1, "nothing is sent without a token");
        reporter.may("t");
        reporter.post(log("refuse me"));
        let step = systemimager_core::Step {
            by: "y".repeat(LARGEST),
            ..systemimager_core::Step::new(Phase::Finish, "x", systemimager_core::Action::Seal)
        };
        reporter.post(Event::Plan { steps: vec![step] });
        reporter.state(State::Failed, "ü".repeat(LARGEST));
        reporter.post(log("last"));
        assert_eq!(reporter.flush(Duration::from_secs(30)), 0);
        let all: Vec<(&str, String)> = bodies.try_iter().collect();
        let statuses: Vec<&str> = all.iter().map(|(status, _)| *status).collect();
        // Refused once and never posted again; the one that is too large is never posted.
        assert_eq!(statuses, ["204 No Content", "400 Bad Request", "204 No Content", "204 No Content"]);
        let reports: Vec<Report> = all.iter().map(|(_, body)| serde_json::from_str(body).expect("a report")).collect();
        assert_eq!(reports.iter().map(|report| report.sequence).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert!(
            matches!(&reports[2].event, Event::State { state: State::Failed, message } if message.ends_with("ü …"))
        );
        assert!(all[2].1.len() < 2 * LONGEST_TEXT, "a state is cut, not dropped");
    }

    #[test]
    fn reports_come_in_order_though_the_server_fails_once() {
        let (port, bodies) = server(|turn, _| if turn == 1 { "503 Service Unavailable" } else { "204 No Content" });
        let reporter = Reporter::start(Server::new("127.0.0.1", port), "52:54:00:00:00:01").expect("a thread");
        reporter.may("t");
        reporter.post(log("one"));
        reporter.is_host(&HostName::try_from("www3").expect("a name"));
        reporter.post(log("two"));
        reporter.state(State::Installed, "three");
        assert_eq!(reporter.flush(Duration::from_secs(30)), 0);
        let reports = taken(&bodies);
        assert_eq!(reports.iter().map(|report| report.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(reports[0].event, log("one"));
        assert_eq!(reports[0].host, None);
        assert_eq!(reports[1].host.as_ref().map(HostName::as_str), Some("www3"));
        assert_eq!(reports[2].mac, "52:54:00:00:00:01");
    }

    #[test]
    fn a_server_that_is_away_stalls_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let reporter = Reporter::start(Server::new("127.0.0.1", port), "x").expect("a thread");
        reporter.may("t");
        reporter.state(State::Booted, "first");
        let progress = || Event::Progress { phase: Phase::Pull, progress: Progress::default() };
        for _ in 0..10 {
            reporter.post(progress());
        }
        assert!(reporter.shared.lock().waiting.len() <= 3, "progress that waits is replaced");
        let begun = Instant::now();
        for number in 0..ROOM + 100 {
            reporter.post(log(&number.to_string()));
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
        let kept = reporter.flush(Duration::from_millis(200));
        assert!((1..=ROOM + 1).contains(&kept), "{kept}");
        let queue = reporter.shared.lock();
        let is_state = |report: &Report| matches!(report.event, Event::State { .. });
        assert!(queue.sending || queue.waiting.iter().any(is_state), "states are not dropped");
    }
}
