//! Why a plugin file was not loaded: a kind to match on, and one line for a person that names the file
//! and says what to do.

use crate::data::BytePath;

/// Why a plugin file was not loaded. All but [`Open`](Self::Open) and [`Refused`](Self::Refused) are found
/// before any code of the file runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It cannot be read.
    #[error("{file}: cannot be read ({why}); check that it is there and readable")]
    Unreadable {
        /// The file.
        file: BytePath,
        /// The system's word.
        why: String,
    },
    /// It is something else, or damaged.
    #[error("{file}: not a shared object ({why}); build the plugin as a cdylib, or copy it anew if it is damaged")]
    NotSharedObject {
        /// The file.
        file: BytePath,
        /// What it is instead.
        why: String,
    },
    /// A shared object that is no plugin.
    #[error("{file}: not a plugin ({why}); a plugin's crate calls declare_plugin! once")]
    NotPlugin {
        /// The file.
        file: BytePath,
        /// What is missing or wrong.
        why: String,
    },
    /// Built for other machines.
    #[error("{file}: wrong architecture: it is for {theirs}, this program for {ours}; build it for {ours}")]
    WrongArchitecture {
        /// The file.
        file: BytePath,
        /// Its architecture.
        theirs: String,
        /// This program's.
        ours: String,
    },
    /// Built for another major version of the contract.
    #[error(
        "{file}: incompatible contract: it was built for {theirs}, this program has {ours}; build it anew against \
         systemimager-core {ours}"
    )]
    IncompatibleContract {
        /// The file.
        file: BytePath,
        /// The version it was built for.
        theirs: String,
        /// This program's.
        ours: String,
    },
    /// A panic in it would end the whole program.
    #[error("{file}: built with panic={panic}, which would let its panic end this program; build it with panic=unwind")]
    PanicAborts {
        /// The file.
        file: BytePath,
        /// What it was built with.
        panic: String,
    },
    /// Another plugin of that kind has this id.
    #[error("{file}: the id of {name} is already taken by {by}; remove one of the two")]
    IdTaken {
        /// The file.
        file: BytePath,
        /// Kind and id.
        name: String,
        /// Where the other one came from.
        by: String,
    },
    /// Others than root may write it.
    #[error("{file}: {object} has mode {mode:04o}, so others than root may change what is loaded; {advice}")]
    Permissions {
        /// The file.
        file: BytePath,
        /// The file, or the directory on the way to it.
        object: BytePath,
        /// Its permission bits.
        mode: u32,
        /// What to do.
        advice: String,
    },
    /// It belongs to somebody else.
    #[error(
        "{file}: {object} belongs to user {uid}, not to root, who could change what is loaded; run: chown root {object}"
    )]
    NotRootOwned {
        /// The file.
        file: BytePath,
        /// The file, or the directory on the way to it.
        object: BytePath,
        /// Its owner.
        uid: u32,
    },
    /// It is a symbolic link.
    #[error("{file}: a symbolic link; put the plugin itself there")]
    SymbolicLink {
        /// The file.
        file: BytePath,
    },
    /// The dynamic linker refused it.
    #[error(
        "{file}: cannot be opened: {why}; build it on a system no newer than this one, with what it needs installed"
    )]
    Open {
        /// The file.
        file: BytePath,
        /// The dynamic linker's word.
        why: String,
    },
    /// Its ABI differs, or its constructor failed.
    #[error("{file}: refused after it was opened: {why}")]
    Refused {
        /// The file.
        file: BytePath,
        /// Why.
        why: String,
    },
}
