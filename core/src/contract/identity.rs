//! HostIdentity: who a machine is, and how that is written into what was installed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::{BytePath, HostFacts, Identity, ImageFacts, Needs, NetworkMode, Place, Role, Step};

/// The question who this machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityWho {
    /// All that is known.
    pub facts: HostFacts,
    /// Sources to ask, in this order; empty: the plugin's own order. Names are the plugin's
    /// (`command-line`, `lease`, `hosts-file`).
    #[serde(default)]
    pub sources: Vec<String>,
}

/// A tree in which the tools of identity are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityDetect {
    /// Where.
    pub place: Place,
}

/// An identity to be written into a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityWrite {
    /// Who it is.
    pub identity: Identity,
    /// How it gets addresses.
    pub mode: NetworkMode,
    /// The image, with what `detect` found.
    pub image: ImageFacts,
}

/// A target in which what clones must not share is taken away or made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityScrub {
    /// The image, with what `detect` found.
    pub image: ImageFacts,
    /// Names from the master's list (`machine-id`, `ssh-host-keys`); empty: the plugin's own list.
    #[serde(default)]
    pub what: Vec<String>,
    /// Who the machine is: names that must be its own, and the same in each plan for it, are derived from this.
    #[serde(default)]
    pub identity: Option<Identity>,
}

/// A machine that is brought to an image, or another revision of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityOwn {
    /// The image that it is brought to, with what `detect` found.
    pub image: ImageFacts,
}

crate::contract::macros::contract! {
    /// Tells who a machine is, and writes it down.
    pub trait HostIdentity, remote RemoteHostIdentity, dispatch dispatch_identity;
    required {
        /// What it needs on a machine in this role.
        fn needs(Role) -> Needs;
        /// Who this machine is; `None` if the facts do not tell. Pure.
        ///
        /// # Errors
        /// `Invalid`: a fact that would decide is malformed, or two that must agree do not.
        fn who(IdentityWho) -> Option<Identity>;
        /// Looks at a tree: which tool configures the network, and what else `plan_write` wants to know.
        /// The facts go into [`ImageFacts::identity`].
        fn detect(IdentityDetect) -> BTreeMap<String, String>;
        /// Steps that give the target its name and addresses. Pure.
        ///
        /// # Errors
        /// `Unsupported`: the image's network tool is none that it knows.
        fn plan_write(IdentityWrite) -> Vec<Step>;
    }
    optional {
        /// Steps that take away, or make anew, what clones must not share. They come before those of `plan_write`.
        /// Pure, and the same for the same machine: what has to be secret is made by a program of the target.
        ///
        /// # Errors
        /// `Unsupported`: the plugin scrubs nothing at all. `Invalid`: a name in the list that it does not know, or
        /// something that it cannot make anew. `Missing`: the image lacks the program that makes it anew.
        fn plan_scrub(IdentityScrub) -> Vec<Step>;
        /// What on a machine is its own: name, addresses, keys. An update leaves it as it is, and neither takes it from
        /// the image nor removes it. Patterns as in [`PullRequest::exclude`](crate::PullRequest::exclude), each
        /// anchored at the root. Pure.
        fn own_paths(IdentityOwn) -> Vec<BytePath>;
    }
}
