//! Asking the image server over HTTP, from the miniature system and from installed machines: bounded in time and size,
//! tried again while it does not answer, with errors that name the address and say what to look at. Nothing that is
//! fetched is evaluated.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use ureq::http::StatusCode;
use uuid::Uuid;

use crate::pins::Pins;
use crate::signed;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the server may think before it answers: it may be computing a large image's facts.
const THINK: Duration = Duration::from_secs(120);
/// How long all of a body may take.
const BODY: Duration = Duration::from_secs(600);
/// How long is tried again while the server does not answer at all, where nobody says otherwise: it may be restarting,
/// or a switch is.
const PATIENCE: Duration = Duration::from_secs(600);
const BETWEEN: Duration = Duration::from_secs(2);
/// Most that is quoted of a server's complaint, bytes.
const QUOTED: u64 = 16 << 10;
/// Largest text that is fetched (masters, facts, indexes), bytes.
pub const LARGEST_TEXT: u64 = 16 << 20;

/// The image server.
#[derive(Clone)]
pub struct Server {
    base: String,
    agent: ureq::Agent,
    patience: Duration,
    /// Hears that the server does not answer and is tried again.
    tell: fn(&str),
    /// What names the server, for errors.
    named_by: &'static str,
    /// The public key by which its answers are signed; none: whoever answers is believed.
    signed_by: Option<String>,
}

/// The server has no such thing; its own words say why.
#[derive(Debug, thiserror::Error)]
#[error("{url}: the image server says: {says}")]
pub struct NotThere {
    url: String,
    says: String,
}

/// Why something that was posted did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The server will never take it, however often it is posted.
    #[error("{url}: the image server says: {says}")]
    Refused {
        /// What was posted to.
        url: String,
        /// The server's own words.
        says: String,
    },
    /// It may take it later: it did not answer, or has a trouble of its own (5xx).
    #[error("posting to {url}: {why}")]
    Later {
        /// What was posted to.
        url: String,
        /// The server's own words, or what kept it from answering.
        why: String,
    },
}

impl Server {
    /// The server at `host` (a name or an address) and `port`.
    pub fn new(host: &str, port: u16) -> Self {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let agent = ureq::Agent::config_builder()
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(THINK))
            .timeout_recv_body(Some(BODY))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build()
            .new_agent();
        let base = format!("http://{host}:{port}");
        Self {
            base,
            agent,
            patience: PATIENCE,
            tell: |line| tracing::warn!("{line}"),
            named_by: "the address and port",
            signed_by: None,
        }
    }

    /// The same, tried again for so long.
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same; `tell` hears that it does not answer, `named_by` says in errors what names it.
    #[must_use]
    pub fn telling(self, tell: fn(&str), named_by: &'static str) -> Self {
        Self { tell, named_by, ..self }
    }

    /// The same; no answer is taken that is not signed by this key.
    #[must_use]
    pub fn signed_by(self, key: Option<&Pins>) -> Self {
        Self { signed_by: key.map(|pins| pins.signing_key.clone()), ..self }
    }

    /// The key and the number to ask with, where answers are to be signed.
    fn asks_signed(&self, path: &str) -> Option<(&str, String)> {
        let key = self.signed_by.as_deref().filter(|_| signed::is_signed(path))?;
        Some((key, Uuid::new_v4().simple().to_string()))
    }

    /// `http://10.0.0.1:8069`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Fetches at most `limit` bytes of `path` (`/v1/…`).
    ///
    /// # Errors
    /// [`NotThere`] where the server has no such thing; no whole answer within ten minutes; another answer than success;
    /// a body that is longer.
    pub fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let url = format!("{}{path}", self.base);
        let signed = self.asks_signed(path);
        // The body too: a server that is killed while it answers is asked again.
        let (status, signature, body) = self.patiently(&url, || {
            let mut request = self.agent.get(&url);
            if let Some((_, nonce)) = &signed {
                request = request.header(signed::NONCE, nonce);
            }
            let mut response = request.call()?;
            let (status, signature) = (response.status(), signature_of(&response));
            let body = response.body_mut().with_config();
            if status != StatusCode::OK {
                return Ok((status, signature, Ok(body.limit(QUOTED).read_to_vec().unwrap_or_default())));
            }
            // One byte more, so that a longer body is told from one that just fits.
            match body.limit(limit.saturating_add(1)).read_to_vec() {
                Err(error) if is_passing(&error) => Err(error),
                body => Ok((status, signature, body)),
            }
        })?;
        let reading = || format!("fetching {url} (at most {limit} bytes)");
        let body = body.with_context(reading)?;
        if let Some((key, nonce)) = &signed {
            let answer = signed::Answer { target: path, nonce, question: b"", status: status.as_u16(), body: &body };
            answer.check(key, signature.as_deref()).with_context(|| format!("{url} is refused"))?;
        }
        if status != StatusCode::OK {
            let says = complaint(&body, status);
            if status == StatusCode::NOT_FOUND {
                return Err(NotThere { url, says }.into());
            }
            bail!("{url}: the image server says: {says}");
        }
        if body.len() as u64 > limit {
            return Err(anyhow::anyhow!("it is longer")).with_context(reading);
        }
        Ok(body)
    }

    /// Fetches text.
    ///
    /// # Errors
    /// As [`Self::get`], and what is not UTF-8.
    pub fn text(&self, path: &str) -> Result<String> {
        let bytes = self.get(path, LARGEST_TEXT)?;
        String::from_utf8(bytes).with_context(|| format!("{}{path} is not UTF-8 text", self.base))
    }

    /// Fetches JSON.
    ///
    /// # Errors
    /// As [`Self::get`], and JSON of another shape.
    pub fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let bytes = self.get(path, LARGEST_TEXT)?;
        serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{}{path} is not what this program expects; use the server's own version of it (an initrd is made anew by \
                 systemimager mkinitrd)",
                self.base
            )
        })
    }

    /// Posts JSON once, within a time; `token` is what shows that we may.
    ///
    /// # Errors
    /// No answer, or another than success; tells whether trying again can help.
    pub fn post(&self, path: &str, json: &[u8], token: Option<&str>, limit: Duration) -> Result<(), PostError> {
        self.send(path, json, token, limit).map(drop)
    }

    /// Posts JSON once, within a time, and reads the JSON of the answer.
    ///
    /// # Errors
    /// As [`Self::post`], and an answer of another shape.
    pub fn ask<T: DeserializeOwned>(&self, path: &str, json: &[u8], limit: Duration) -> Result<T, PostError> {
        let body = self.send(path, json, None, limit)?;
        let later = |why: String| PostError::Later { url: format!("{}{path}", self.base), why };
        serde_json::from_slice(&body)
            .map_err(|error| later(format!("the answer is not what this program expects ({error})")))
    }

    fn send(&self, path: &str, json: &[u8], token: Option<&str>, limit: Duration) -> Result<Vec<u8>, PostError> {
        let url = format!("{}{path}", self.base);
        let signed = self.asks_signed(path);
        let mut request = self.agent.post(&url).config().timeout_global(Some(limit)).build();
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some((_, nonce)) = &signed {
            request = request.header(signed::NONCE, nonce);
        }
        let mut response = match request.content_type("application/json").send(json) {
            Ok(response) => response,
            Err(error) => return Err(PostError::Later { url, why: error.to_string() }),
        };
        let (status, signature) = (response.status(), signature_of(&response));
        let most = if status.is_success() { LARGEST_TEXT } else { QUOTED };
        let body = match response.body_mut().with_config().limit(most).read_to_vec() {
            Ok(body) => body,
            Err(error) if status.is_success() => return Err(PostError::Later { url, why: error.to_string() }),
            Err(_) => Vec::new(),
        };
        if let Some((key, nonce)) = &signed {
            let answer = signed::Answer { target: path, nonce, question: json, status: status.as_u16(), body: &body };
            // Whoever it was: the server itself may answer the next time.
            answer
                .check(key, signature.as_deref())
                .map_err(|error| PostError::Later { url: url.clone(), why: format!("{error:#}") })?;
        }
        if status.is_success() {
            return Ok(body);
        }
        let says = complaint(&body, status);
        Err(if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            PostError::Later { url, why: says }
        } else {
            PostError::Refused { url, says }
        })
    }

    /// Whether something answers by HTTP there, within `limit`; tried once.
    ///
    /// # Errors
    /// Nothing does: where, and why.
    pub fn answers(&self, limit: Duration) -> Result<()> {
        let url = format!("{}/v1/hosts", self.base);
        let request = self.agent.get(&url).config().timeout_global(Some(limit)).build();
        request.call().map(drop).with_context(|| format!("no image server answers at {}", self.base))
    }

    /// Tries until there is an answer of whatever kind.
    fn patiently<T>(&self, url: &str, mut call: impl FnMut() -> Result<T, ureq::Error>) -> Result<T> {
        let begun = Instant::now();
        let mut said = false;
        loop {
            match call() {
                Ok(answer) => return Ok(answer),
                Err(error) if is_passing(&error) && begun.elapsed() < self.patience => {
                    if !said {
                        said = true;
                        (self.tell)(&format!("{url}: {error}; trying for {} seconds", self.patience.as_secs()));
                    }
                    // No event tells when another machine is back.
                    std::thread::park_timeout(BETWEEN);
                }
                Err(error) => {
                    let tried = begun.elapsed().as_secs();
                    return Err(error).with_context(|| {
                        format!(
                            "no image server answers at {url} (tried for {tried} s); check that systemimager serve runs \
                             there, that no packet filter is between, and that {} name it",
                            self.named_by
                        )
                    });
                }
            }
        }
    }
}

/// A failure that may go away: the server is not up yet, or the network has just come up.
fn is_passing(error: &ureq::Error) -> bool {
    matches!(
        error,
        ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::HostNotFound
    )
}

fn signature_of(response: &ureq::http::Response<ureq::Body>) -> Option<String> {
    Some(response.headers().get(signed::SIGNATURE)?.to_str().ok()?.to_owned())
}

fn complaint(words: &[u8], status: StatusCode) -> String {
    let text = String::from_utf8_lossy(words);
    let text: String = text.trim().chars().map(|it| if it.is_control() && it != '\n' { '?' } else { it }).collect();
    if text.is_empty() { status.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers each connection with the next of `answers`.
    fn serve(answers: Vec<&'static str>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Server::new("127.0.0.1", port)
    }

    fn answer(status: &str, body: &str) -> &'static str {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        Box::leak(text.into_boxed_str())
    }

    #[test]
    fn answers() {
        let rows = [
            ("text", answer("200 OK", "hello"), Ok("hello")),
            ("as long as allowed", answer("200 OK", "0123456789"), Ok("0123456789")),
            ("too long", answer("200 OK", "0123456789x"), Err("at most 10 bytes")),
            (
                "not there",
                answer("404 Not Found", "no master for www3; run addclients\n"),
                Err("says: no master for www3; run addclients"),
            ),
            ("failed", answer("500 Internal Server Error", ""), Err("says: 500 Internal Server Error")),
            ("elsewhere", answer("302 Found", ""), Err("says: 302 Found")),
        ];
        for (name, answer, expected) in rows {
            let server = serve(vec![answer]);
            let got = server.get("/v1/x", 10).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{name}"),
                (Err(error), Err(says)) => {
                    let error_text = format!("{error:#}");
                    assert!(error_text.contains(says), "{name}: {error_text}");
                    assert!(error_text.contains(server.base()), "{name}: {error_text}");
                    assert_eq!(error.is::<NotThere>(), name == "not there");
                }
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }

    #[test]
    fn an_answer_that_is_cut_is_asked_for_again() {
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n01234";
        let server = serve(vec![cut, answer("200 OK", "0123456789")]);
        assert_eq!(server.text("/v1/x").expect("whole"), "0123456789");
    }

    #[test]
    fn a_report_is_posted() {
        let answers = vec![
            answer("204 No Content", ""),
            answer("400 Bad Request", "not JSON"),
            answer("503 Service Unavailable", ""),
        ];
        let server = serve(answers);
        server.post("/v1/reports", b"{}", Some("t"), Duration::from_secs(10)).expect("taken");
        let error = server.post("/v1/reports", b"x", None, Duration::from_secs(10)).expect_err("refused");
        assert!(matches!(error, PostError::Refused { .. }), "{error}");
        assert!(error.to_string().ends_with("says: not JSON"), "{error}");
        // Then an answer that may change, and then nobody.
        for _ in 0..2 {
            let error = server.post("/v1/reports", b"x", None, Duration::from_secs(10)).expect_err("not now");
            assert!(matches!(error, PostError::Later { .. }), "{error}");
        }
    }

    #[test]
    fn any_answer_is_one() {
        let limit = Duration::from_secs(10);
        let server = serve(vec![answer("404 Not Found", "no machines")]);
        server.answers(limit).expect("it answers");
        // The listener is gone after its one answer.
        let error = format!("{:#}", server.answers(limit).expect_err("nobody"));
        assert!(error.starts_with(&format!("no image server answers at {}: ", server.base())), "{error}");
    }

    #[test]
    fn addresses_of_both_kinds() {
        assert_eq!(Server::new("10.0.0.1", 8069).base(), "http://10.0.0.1:8069");
        assert_eq!(Server::new("fd77::1", 80).base(), "http://[fd77::1]:80");
    }
}
