//! A pull: what is asked, and what came of it. Always pull, never push.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BytePath, Secret};

/// What a transport can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Only differences move.
    pub delta: bool,
    /// Deletes what the source does not have.
    pub delete: bool,
    /// A cut connection is continued where it was.
    pub resume: bool,
    /// Can say what would change, without changing it.
    pub dry_run: bool,
    /// May be the last of a chain: leaves the tree exactly as the source has it.
    pub reconciles: bool,
    /// Nobody on the wire can read what is moved.
    pub encrypted: bool,
    /// A dry run names each path that differs, hard links with [`Change::link`], and a pull that is
    /// [flat](PullRequest::flat) touches nothing but what it names and the directories above. Then a new
    /// revision of an image can begin as links to the old one.
    #[serde(default)]
    pub flat: bool,
    /// The port used when none is named.
    pub default_port: u16,
}

/// Where a tree is pulled from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Address or name of the machine that offers it.
    pub server: String,
    /// Port; absent: the transport's default.
    #[serde(default)]
    pub port: Option<u16>,
    /// The export's name.
    pub export: String,
    /// The secret to present, if any.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// Whose secret it is; absent: nobody's in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The private key to show who asks, in OpenSSH's form, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Secret>,
    /// The public key that the offering side must have, in OpenSSH's form without a comment. A transport that knows machines
    /// by their keys takes no other, and without one takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<String>,
    /// The account of the offering side that whoever comes with a key is let into ([`Offer::account`](super::Offer::account));
    /// absent: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What this side's settings say for the transport (`[transport.ID]`): words of its own, the names checked by the plugin.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Pull one export into one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// From where.
    pub from: Source,
    /// The directory that becomes the export's root; it exists.
    pub into: BytePath,
    /// Remove what the source does not have.
    #[serde(default)]
    pub delete: bool,
    /// Paths (from the export's root, `/var/tmp`) that are left out, with all below them; a trailing
    /// `/*` leaves the directory and takes none of its contents. `*`, `?` and `[…]` match as in glob(7);
    /// the path is anchored at the root when it begins with `/`. What is left out is not deleted either,
    /// unless `delete_excluded`.
    #[serde(default)]
    pub exclude: Vec<BytePath>,
    /// What is left out is also deleted in the target.
    #[serde(default)]
    pub delete_excluded: bool,
    /// Only these paths (from the export's root): the second pass over what failed or changed.
    #[serde(default)]
    pub only: Option<Vec<BytePath>>,
    /// Directories in `only` stand for themselves: what is below them is left alone unless it is named
    /// too. What is named and gone from the source goes, where `delete` says so, and so does what is in the way
    /// of what is named. Only for transports that [can](Capabilities::flat).
    #[serde(default)]
    pub flat: bool,
    /// Directories above what `only` names keep the attributes that they have in the target. Only with `flat`.
    #[serde(default)]
    pub leave_above: bool,
    /// Change nothing, report what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// A dry run also says which further names of files are as they should be ([`PullReport::linked`]): what is not among
    /// them and not among the changes is no further name in the source, whatever it is in the target.
    #[serde(default)]
    pub links: bool,
    /// Compare contents, not only size and time.
    #[serde(default)]
    pub checksum: bool,
    /// Holes in files may come filled: whoever asks makes them again. To find them while a file comes takes time.
    #[serde(default)]
    pub dense: bool,
    /// Contents may be compressed on the way: what differs between two revisions is little, and many ask for it at a time.
    /// A transport that cannot, does not.
    #[serde(default)]
    pub compress: bool,
    /// Unchanged files are copied from this tree on the receiving side instead of moved over the wire.
    #[serde(default)]
    pub basis: Option<BytePath>,
    /// Seconds without a byte after which the other side counts as gone.
    #[serde(default = "default_timeout")]
    pub timeout_secs: u32,
}

fn default_timeout() -> u32 {
    60
}

impl Default for PullRequest {
    /// Nothing named yet: `from` and `into` have to be set.
    fn default() -> Self {
        Self {
            from: Source::default(),
            into: BytePath::default(),
            delete: false,
            exclude: Vec::new(),
            delete_excluded: false,
            only: None,
            flat: false,
            leave_above: false,
            dry_run: false,
            links: false,
            checksum: false,
            dense: false,
            compress: false,
            basis: None,
            timeout_secs: default_timeout(),
        }
    }
}

/// What is different about a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// New in the source.
    #[default]
    Created,
    /// Contents.
    Content,
    /// Mode, owner, times, ACL or xattrs only.
    Metadata,
    /// Gone from the source.
    Deleted,
}

/// What of a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Aspect {
    /// The contents of a file, or its kind or size.
    Content,
    /// Where a symbolic link points.
    Target,
    /// It becomes a further name of another file.
    Link,
    /// Permission bits.
    Mode,
    /// The user who owns it.
    Owner,
    /// Its group.
    Group,
    /// When it was last modified.
    Time,
    /// Its access control list.
    Acl,
    /// Extended attributes, capabilities among them.
    Xattrs,
}

impl Aspect {
    /// For people: `mode`.
    pub fn name(self) -> &'static str {
        match self {
            Aspect::Content => "content",
            Aspect::Target => "link target",
            Aspect::Link => "hard link",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Group => "group",
            Aspect::Time => "time",
            Aspect::Acl => "acl",
            Aspect::Xattrs => "xattrs",
        }
    }
}

/// One path that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// From the export's root.
    pub path: BytePath,
    /// What differs.
    pub kind: ChangeKind,
    /// The transport's own words (rsync's itemised string), for people.
    #[serde(default)]
    pub detail: String,
    /// The source has this path as a further name of that one (a hard link), and the target not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<BytePath>,
    /// What of it differs, sorted; empty for what is new or gone, and where the transport does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aspects: Vec<Aspect>,
    /// How large it is in the source, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// It is a directory in the source. Transports that are [flat](Capabilities::flat) tell, and the layers of an image depend
    /// on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub directory: bool,
}

/// A path that could not be transferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedPath {
    /// From the export's root where the transport tells it, else what it printed.
    pub path: BytePath,
    /// Why.
    pub why: String,
}

/// What a pull did. A report with `failed` paths is a success of the pull, and for the caller to judge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullReport {
    /// Files in the source.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes received over the wire.
    pub received: u64,
    /// Files whose contents moved.
    pub transferred: u64,
    /// Paths that were deleted.
    pub deleted: u64,
    /// What changed, or would (dry run); empty unless `dry_run`.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// Further names of files that are the same in source and target; only where that was
    /// [asked for](PullRequest::links).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linked: Vec<BytePath>,
    /// What could not be transferred.
    #[serde(default)]
    pub failed: Vec<FailedPath>,
    /// What vanished between listing and reading.
    #[serde(default)]
    pub vanished: Vec<BytePath>,
}
