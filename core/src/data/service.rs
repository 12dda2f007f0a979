//! How a tree is offered so that it can be pulled: data that the engine writes out and supervises.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Arg, BytePath, Bytes};

/// A secret by name. The bytes stay with the host; plans, logs and JSON hold only this.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

/// A public key whose holder may have a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmittedKey {
    /// In OpenSSH's form, without a comment: `ssh-ed25519 AAAA…` (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
    pub key: String,
    /// Seconds since 1970 from which on it is worth nothing; absent: as long as the offer stands.
    #[serde(default)]
    pub until: Option<u64>,
    /// From which addresses alone, of those that the export is for; empty: from all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
}

/// A name, and the secret that its holder has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSecret {
    /// As they say it: letters, digits, `.`, `_` and `-`.
    pub user: String,
    /// What they have to know.
    pub secret: Secret,
}

/// One tree on offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The name by which the other side asks for it (an image's name, `root`, `facts`).
    pub name: String,
    /// The directory; always offered read-only.
    pub tree: BytePath,
    /// Who may have it: addresses or prefixes such as `10.0.0.0/24`. Empty: nobody.
    pub allow: Vec<String>,
    /// The secret that the other side must know, if any.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// Who may have it by a key, for transports that know who asks by keys. Empty: nobody by a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<AdmittedKey>,
    /// Who may have it by a name and a secret of their own, for transports that know who asks by secrets. Where there are any,
    /// nobody has it without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<UserSecret>,
}

/// What is to be offered, and how it is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The trees.
    pub exports: Vec<Export>,
    /// The address to listen on; absent: all.
    #[serde(default)]
    pub bind: Option<IpAddr>,
    /// The TCP port, or the first UDP port.
    pub port: u16,
    /// A directory of the service's own: files named in the Service go below it.
    pub work_dir: BytePath,
    /// If set, an export of this name exists whose use means: the other side is finished
    /// (see [`Transport::finish`](crate::Transport::finish)).
    #[serde(default)]
    pub finish: Option<String>,
    /// A private key in OpenSSH's form, by which the offering side shows who it is; what pulls knows its public half
    /// ([`Source::host_key`](crate::Source::host_key)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<Secret>,
    /// Words of a program for sessions that a service begins for somebody whom it let in: followed by the names of the exports
    /// that they may have, it hands its standard streams, and what the environment variable `SSH_ORIGINAL_COMMAND` holds, to the
    /// engine, which asks [`Transport::answer`](crate::Transport::answer) and runs the answer. It ends as that does. Empty: there
    /// is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub door: Vec<String>,
    /// The account that such sessions run as; absent: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What the offering side's settings say for the transport (`[transport.ID]`): words of its own, the names checked by the
    /// plugin.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

impl Offer {
    /// In the service's own directory: what it is doing just now, as a [`ServiceState`] in JSON, replaced as a whole. A program
    /// that can tell keeps it; others have none.
    pub const STATE_FILE: &'static str = "state.json";
}

/// What a service is doing, as far as it can tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// Trees on their way just now, and those whose last receiver has ended.
    pub sessions: Vec<SessionState>,
}

/// One tree on its way to those who asked for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Which export.
    pub export: String,
    /// How and where to, in a few words for people: `239.192.7.1 port 8067, 190 Mbit/s`.
    #[serde(default)]
    pub how: String,
    /// When it began, seconds since 1970.
    #[serde(default)]
    pub began: u64,
    /// Who gets it.
    pub receivers: Vec<ReceiverState>,
}

/// One who gets a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverState {
    /// Its address.
    pub address: String,
    /// Bytes of the tree that it has.
    pub bytes: u64,
    /// Bytes that the tree has for it.
    pub total: u64,
    /// How it gets them, in a word or two for people: `group`, `alone`.
    #[serde(default)]
    pub how: String,
    /// How it ended; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<ReceiverEnd>,
}

/// How one who gets a tree ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReceiverEnd {
    /// It said that it has the whole tree, and showed this hash of it.
    Done(String),
    /// It has not, or is gone: why.
    Failed(String),
}

/// Somebody whom a service let in asks for an export, with a command of their own choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The exports that they may have, as the service knows it: what they say has no part in it.
    pub exports: Vec<String>,
    /// What they sent. Not to be trusted, and never to be given to a shell.
    pub command: Bytes,
}

/// What is run for one who [asked](Asked). The engine runs it confined: it sees the tree, read-only, at [`Answer::TREE`], and
/// this system's programs and libraries, nothing else; its standard streams are those of who asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Which of the exports it is.
    pub export: String,
    /// argv. The first is a program's name, looked up by the engine; no shell is involved.
    pub argv: Vec<Arg>,
}

impl Answer {
    /// Where the export's tree is for the program.
    pub const TREE: &'static str = "/tree";
}

/// A part of a generated file: text, or a secret that the engine puts in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Piece {
    /// Text as it is.
    Text(String),
    /// The bytes of a secret.
    Secret(Secret),
}

/// A file that the service needs, made by the engine before the service starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFile {
    /// Absolute path, below [`Offer::work_dir`].
    pub path: BytePath,
    /// Permission bits.
    pub mode: u32,
    /// Contents, in order.
    pub contents: Vec<Piece>,
}

/// How one sees that a service is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A TCP connection to this port is accepted.
    Tcp(u16),
    /// This file exists.
    File(BytePath),
}

/// How one sees that the other side is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finished {
    /// This file exists and is not empty.
    FileNotEmpty(BytePath),
}

/// A program in the foreground that offers trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Files to write first.
    pub files: Vec<ServiceFile>,
    /// argv. `@self` as the first means: this program's own binary, as a child that loads the plugin.
    pub argv: Vec<Arg>,
    /// When it is ready.
    pub ready: Probe,
    /// The signal that ends it in order (15 is SIGTERM).
    pub stop_signal: i32,
    /// When the other side is finished; set if [`Offer::finish`] was.
    #[serde(default)]
    pub finished: Option<Finished>,
    /// The program reads its files anew for every connection: where only they change, they are replaced
    /// under it, and pulls that are going on do not notice. Otherwise it is started anew.
    #[serde(default)]
    pub rereads: bool,
}
