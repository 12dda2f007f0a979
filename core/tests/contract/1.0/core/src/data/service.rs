//! How a tree is offered so that it can be pulled: data that the engine writes out and supervises.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Arg, BytePath};

/// A secret by name. The bytes stay with the host; plans, logs and JSON hold only this.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

/// One tree on offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// What is to be offered, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
