//! Where a method is to look.

use serde::{Deserialize, Serialize};

use super::BytePath;

/// The file tree that a method is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "place")]
pub enum Place {
    /// The running system, from `/`.
    Running,
    /// A tree of files that is not mounted as a system: an image.
    Tree {
        /// The directory that stands for `/`.
        root: BytePath,
    },
    /// The mounted target of an install.
    Target {
        /// Where the target's `/` is mounted.
        root: BytePath,
    },
}

impl Place {
    /// The directory that stands for `/`.
    pub fn root(&self) -> BytePath {
        match self {
            Place::Running => BytePath::from("/"),
            Place::Tree { root } | Place::Target { root } => root.clone(),
        }
    }
}
