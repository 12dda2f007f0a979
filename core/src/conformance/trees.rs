//! Trees that `detect` is shown: one where nothing is, and some where every file and every name is odd. They exist
//! only as answers: nothing is written, and the machine's own files are not read.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Check, HOSTILE, READING, Rules, any};
use crate::data::{BlockDevice, BytePath, Bytes, Chunk, Exit, Level, Place, ProcessId, Progress, Spawn, ToolOutput};
use crate::error::{ErrorKind, PluginError, Result};
use crate::host::Host;

/// Odd names in a path that is a directory still: who walks a tree comes to its end.
const DEEPEST: usize = 1;

/// A host that has one tree, whatever the place.
enum Tree {
    /// A directory without anything.
    Empty,
    /// Every path that is read is a file with the same contents, and every directory holds the same names.
    All(fn() -> Vec<u8>),
}

/// By what they are called in a line. Constants, since a check borrows its host for as long as it lasts.
const ODD: [(&str, &Tree); 4] = [
    ("a tree of empty files", &Tree::All(Vec::new)),
    ("a tree of hostile words", &Tree::All(words)),
    ("a tree of bytes that are no text", &Tree::All(|| (0..=u8::MAX).rev().cycle().take(2000).collect())),
    ("a tree of huge numbers", &Tree::All(numbers)),
];

#[derive(Serialize)]
struct Request {
    place: Place,
}

impl Check<'_> {
    /// Asks `detect` for each tree; `empty` are the rules for the empty one.
    pub(super) fn detects<O: DeserializeOwned>(&mut self, empty: Rules) {
        let real = std::mem::replace(&mut self.host, &Tree::Empty);
        let request = Request { place: Place::Tree { root: "/image".into() } };
        self.ask("detect in an empty tree", "detect", &request, empty, any::<O>);
        for (what, tree) in ODD {
            self.host = tree;
            self.ask(format!("detect in {what}"), "detect", &request, Rules::reads(READING), any::<O>);
        }
        self.host = real;
    }
}

/// Each word alone on a line, and as a key and a value in the forms that files of a system have.
fn words() -> Vec<u8> {
    let lines =
        HOSTILE.iter().map(|word| format!("{word}\n{word}={word}\n{word}: {word}\n[{word}]\n{word} {word} {word}\n"));
    lines.collect::<String>().into_bytes()
}

fn numbers() -> Vec<u8> {
    let huge = "9".repeat(40);
    format!("{huge}\n-{huge}.{huge}\nVERSION={huge}\nVersion: {huge}.{huge}-{huge}\n{huge} 0x{huge}\n").into_bytes()
}

fn names() -> Vec<BytePath> {
    let words = HOSTILE.iter().filter(|word| !word.is_empty() && !word.contains(['/', '\0']));
    let mut names: Vec<BytePath> = words.map(|word| BytePath::from(*word)).collect();
    names.extend([BytePath::new(b"\xff\xfe".as_slice()), "9".repeat(40).as_str().into(), "6.1.0".into()]);
    names.sort();
    names
}

fn absent<T>(path: &BytePath) -> Result<T> {
    Err(PluginError::new(ErrorKind::NotFound, format!("{path}: there is no such file or directory")))
}

fn no_program<T>() -> Result<T> {
    Err(PluginError::new(ErrorKind::Missing, "a tree is read; no program runs for it"))
}

impl Host for Tree {
    fn read(&self, _: &Place, path: &BytePath) -> Result<Bytes> {
        match self {
            Tree::Empty => absent(path),
            Tree::All(contents) => Ok(Bytes::from(contents())),
        }
    }

    fn list(&self, _: &Place, path: &BytePath) -> Result<Vec<BytePath>> {
        let names = names();
        let mut parts = path.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        match self {
            Tree::Empty if parts.next().is_none() => Ok(Vec::new()),
            Tree::All(_)
                if parts.filter(|part| names.iter().any(|name| name.as_bytes() == *part)).count() <= DEEPEST =>
            {
                Ok(names)
            }
            _ => absent(path),
        }
    }

    fn run(&self, _: &str, _: &[BytePath]) -> Result<ToolOutput> {
        no_program()
    }

    fn block_devices(&self) -> Result<Vec<BlockDevice>> {
        Ok(Vec::new())
    }

    fn log(&self, _: Level, _: &str) {}

    fn progress(&self, _: &Progress) {}

    fn cancelled(&self) -> bool {
        false
    }

    fn spawn(&self, _: &Spawn) -> Result<ProcessId> {
        no_program()
    }

    fn read_output(&self, _: ProcessId, _: u32) -> Result<Chunk> {
        no_program()
    }

    fn wait(&self, _: ProcessId) -> Result<Exit> {
        no_program()
    }

    fn stop(&self, _: ProcessId) -> Result<()> {
        no_program()
    }
}
