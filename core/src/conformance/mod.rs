//! Whether a plugin keeps the contract, as far as calls without effects can tell. One suite for
//! `systemimager plugin check` and for authors' own tests ([`assert_conforms`](crate::testing::assert_conforms)).
//!
//! Every method is asked for sensible and for hostile things. A plan is looked at and never run, no program is
//! started, and each question is put three times: twice to the plugin, and to a fresh one in another thread. It must not
//! judge whether what a plan does is wise.

mod bootloader;
mod filesystem;
mod identity;
mod needs;
mod partitioner;
mod steps;
mod transport;
mod trees;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::abi::{decode_answer, encode};
use crate::contract::{Kind, Wire};
use crate::data::{BytePath, NodeName, Role, Spawn};
use crate::error::{ErrorKind, PluginError, Result};
use crate::host::Host;
use crate::registry::Plugin;

use self::witness::Witness;

/// A word that nothing is called.
const NONSENSE: &str = "no-such-thing";
/// A place where nothing is.
const NOWHERE: &str = "/nonexistent";
/// Words that break what trusts them: a line, a path, an option, a shell, a terminal, a format.
const HOSTILE: [&str; 7] =
    ["", "a\nb: c", "../../etc/passwd", "-rf", "$(reboot); `id` \"'\\", "\u{1b}[2J\u{0}", "%n%s é\u{fffd}"];

/// Letters of a plugin's words that a line shows. What is wrong may take three times as many: it ends with what to do.
const LONGEST: usize = 200;

/// What was found of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was tried: `plan_make of ext4`.
    pub check: String,
    /// The contract is kept.
    pub ok: bool,
    /// What was answered; where it is not ok, what is wrong and what to do.
    pub detail: String,
}

impl std::fmt::Display for Line {
    /// `ok      needs of the installer: mkfs.jfs` or `FAILED  types: why; what to do`.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.ok { "ok    " } else { "FAILED" };
        write!(out, "{sign}  {}: {}", self.check, self.detail)
    }
}

/// Tries a plugin. It may read through `host`; it can change nothing and start nothing.
pub fn conformance(plugin: &Plugin, host: &dyn Host) -> Vec<Line> {
    let mut check = Check { plugin, fresh: None, host, lines: Vec::new(), programs: BTreeMap::new() };
    check.identity_text();
    check.instance();
    check.boundary();
    check.needs();
    match plugin.identification.kind {
        Kind::Transport => check.transport(),
        Kind::FileSystem => check.filesystem(),
        Kind::Partitioner => check.partitioner(),
        Kind::Bootloader => check.bootloader(),
        Kind::HostIdentity => check.identity(),
    }
    check.lines
}

struct Check<'a> {
    plugin: &'a Plugin,
    /// A second one, made anew, where the plugin can be made again.
    fresh: Option<Arc<dyn Wire>>,
    host: &'a dyn Host,
    lines: Vec<Line>,
    /// The programs that it says it needs, by role.
    programs: BTreeMap<Role, BTreeSet<String>>,
}

/// What an answer should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// An answer.
    Answer,
    /// An error of one of the documented kinds.
    Error,
    /// Either.
    Either,
}

/// The rules for one question.
#[derive(Clone, Copy)]
struct Rules {
    expect: Expect,
    /// Kinds of errors that the contract names for the method.
    errors: &'static [ErrorKind],
    /// The answer depends on the request alone: the host is not asked.
    pure: bool,
}

impl Rules {
    /// A pure method with these kinds of errors, from which either may come.
    const fn pure(errors: &'static [ErrorKind]) -> Self {
        Self { expect: Expect::Either, errors, pure: true }
    }

    /// A method that reads through the host.
    const fn reads(errors: &'static [ErrorKind]) -> Self {
        Self { expect: Expect::Either, errors, pure: false }
    }

    const fn answers(self) -> Self {
        Self { expect: Expect::Answer, ..self }
    }

    const fn refuses(self) -> Self {
        Self { expect: Expect::Error, ..self }
    }
}

/// What reading through the host may end in, beside what the method itself says.
const READING: &[ErrorKind] = &[
    ErrorKind::Unsupported,
    ErrorKind::Missing,
    ErrorKind::Failed,
    ErrorKind::NotFound,
    ErrorKind::Denied,
    ErrorKind::Invalid,
];

impl Check<'_> {
    fn line(&mut self, check: impl Into<String>, judgement: Result<String, String>) {
        let (ok, detail) = match judgement {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        let most = if ok { LONGEST } else { 3 * LONGEST };
        self.lines.push(Line { check: check.into(), ok, detail: cut(&detail, most) });
    }

    fn identity_text(&mut self) {
        let it = &self.plugin.identification;
        let judgement = if it.about.trim().is_empty() || it.about.len() > 100 {
            Err("about has to be one line of 1 to 100 bytes that says what the plugin is for".to_owned())
        } else if semver::Version::parse(&it.version).is_err() {
            Err(format!("the version {:?} is none; write it in Cargo.toml as 1.2.3", it.version))
        } else if it.id.to_lowercase() != it.id {
            Err(format!("the id {} has capitals; masters name it, write it in lower case", it.id))
        } else {
            Ok(format!("{} {} \"{}\", for contract {}", self.plugin.name(), it.version, it.about, it.contract))
        };
        self.line("identity", judgement);
    }

    fn instance(&mut self) {
        match self.plugin.fresh() {
            Some(Ok(fresh)) => self.fresh = Some(fresh),
            None => {}
            Some(Err(error)) => {
                let why = format!(
                    "a second one cannot be made: {}; keep no state outside the plugin",
                    one_line(&error.message)
                );
                self.line("making it again", Err(why));
            }
        }
    }

    /// What does not depend on the kind: requests that are none.
    fn boundary(&mut self) {
        let rows: [(&str, &str, &[u8], ErrorKind); 4] = [
            ("an unknown method", "no_such_method", b"null", ErrorKind::Unsupported),
            ("a request that is no JSON", "needs", b"{\"", ErrorKind::Invalid),
            ("a request of another shape", "needs", b"{\"x\":[1,2]}", ErrorKind::Invalid),
            ("a request that is no text", "needs", b"\xff\x00\xfe", ErrorKind::Invalid),
        ];
        for (what, method, input, expected) in rows {
            let judgement = match self.plugin.call(method, input, self.host) {
                Err(error) if error.kind == expected => Ok(one_line(&error.message)),
                Err(error) => Err(format!(
                    "answers {:?}, not {expected:?}: {}; declare the plugin with declare_plugin!",
                    error.kind,
                    one_line(&error.message)
                )),
                Ok(_) => Err(format!("answers as if it had understood; the contract wants the error {expected:?}")),
            };
            self.line(what, judgement);
        }
    }

    /// Asks twice, compares, judges; returns the answer if there is a good one.
    fn ask<O: DeserializeOwned>(
        &mut self,
        what: impl Into<String>,
        method: &str,
        request: &impl Serialize,
        rules: Rules,
        judge: impl FnOnce(&O, &[Spawn]) -> Result<String, String>,
    ) -> Option<O> {
        let input = match encode(request) {
            Ok(input) => input,
            Err(error) => {
                self.line(what, Err(error.message));
                return None;
            }
        };
        let witness = Witness::new(self.host);
        let first = self.plugin.call(method, &input, &witness);
        let second = self.plugin.call(method, &input, &Witness::new(self.host));
        let third = self.elsewhere(method, &input);
        let (asked, spawned) = witness.testimony();
        let transports = self.plugin.identification.kind == Kind::Transport;
        let mut good = None;
        let judgement = match &first {
            Err(error) if error.kind == ErrorKind::PluginBug => Err(format!("{}; {}", one_line(&error.message), NO_PANIC)),
            _ if first != second || first != third => Err(
                "asked again, or a fresh plugin in another thread, answers otherwise; the answer must depend on the \
                 request alone (no time, no random numbers, no HashMap order, no counters)"
                    .into(),
            ),
            _ if !spawned.is_empty() && !transports => {
                Err(format!("it starts the program {}; only a transport may", argv0(&spawned)))
            }
            _ if rules.pure && !asked.is_empty() => Err(format!(
                "it asks the host for {}; this method must depend on its request alone: look in detect, capture or \
                 describe, and hand on what was found",
                asked.join(", ")
            )),
            Err(error) => judge_error(error, rules),
            Ok(json) => match decode_answer::<O>(json) {
                Err(error) => Err(one_line(&error.message)),
                Ok(_) if rules.expect == Expect::Error => Err(
                    "answers as if it could; say Unsupported or Invalid for what is not served, or the wrong thing is done"
                        .into(),
                ),
                Ok(answer) => {
                    let judgement = judge(&answer, &spawned);
                    good = judgement.is_ok().then_some(answer);
                    judgement
                }
            },
        };
        self.line(what, judgement);
        good
    }

    /// The same question to a fresh plugin in another thread.
    fn elsewhere(&self, method: &str, input: &[u8]) -> Result<Vec<u8>> {
        let witness = Witness::new(self.host);
        std::thread::scope(|scope| {
            let call = || match &self.fresh {
                Some(fresh) => fresh.call(method, input, &witness),
                None => self.plugin.call(method, input, &witness),
            };
            scope.spawn(call).join().unwrap_or_else(|_| Err(PluginError::bug("the call unwound through the boundary")))
        })
    }
}

const NO_PANIC: &str = "return an error that says what is wrong with the request instead (no unwrap, expect or index)";

fn judge_error(error: &PluginError, rules: Rules) -> Result<String, String> {
    let text = one_line(&error.message);
    if rules.expect == Expect::Answer {
        return Err(format!("the error {:?}: {text}; an answer was wanted", error.kind));
    }
    if !rules.errors.contains(&error.kind) {
        let known = rules.errors.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(", ");
        return Err(format!("an error of kind {:?} ({text}); the contract names {known} here", error.kind));
    }
    if text.len() < 10 {
        return Err(format!(
            "an error of kind {:?} that says {text:?}; say what failed, on what, and what to do",
            error.kind
        ));
    }
    if error.message.chars().any(|letter| letter.is_control() && letter != '\n') {
        return Err(format!(
            "the message of its error holds control characters: {text:?}; show foreign text with {{:?}}"
        ));
    }
    Ok(format!("{:?}: {text}", error.kind))
}

/// Any answer of this shape will do.
fn any<O>(_: &O, _: &[Spawn]) -> Result<String, String> {
    Ok("an answer".into())
}

fn argv0(spawned: &[Spawn]) -> String {
    spawned.first().and_then(|spawn| spawn.argv.first()).map(|word| format!("{word:?}")).unwrap_or_default()
}

fn is_clean(path: &BytePath) -> bool {
    let bytes = path.as_bytes();
    bytes.starts_with(b"/") && !bytes.split(|byte| *byte == b'/').any(|part| part == b".." || part == b".")
}

/// What a plugin says, on one line and not for ever: it may repeat what it was asked.
fn one_line(text: &str) -> String {
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), LONGEST)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// For a line's name: short, and on one line.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(24).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

fn node(name: &str) -> Option<NodeName> {
    NodeName::try_from(name).ok()
}
