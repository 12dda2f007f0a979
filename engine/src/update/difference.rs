//! How a machine differs from its image, from what a transport's dry run found: typed, for people and programs. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use systemimager_core::{Aspect, BytePath, Change, ChangeKind, Written};

use crate::tree::pattern::is_below;

/// One path that an update changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Absolute in the tree.
    pub path: BytePath,
    /// Whether it is new, changed, or gone.
    pub kind: ChangeKind,
    /// What of it changes; empty for what is new or gone.
    pub aspects: Vec<Aspect>,
    /// The other name of the file that it becomes a name of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<BytePath>,
    /// Size in the image, bytes; absent: not known, or no regular file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The machine boots by it: kernels, initramfs, what the boot loader reads.
    pub boot: bool,
}

impl Difference {
    /// Whether it is new, or its contents are: then it is laid ready before anything changes.
    pub fn moves(&self) -> bool {
        matches!(self.kind, ChangeKind::Created | ChangeKind::Content)
    }

    /// For people: `changed /etc/passwd (content, mode)`.
    pub fn shown(&self) -> String {
        let word = match self.kind {
            ChangeKind::Created => "new",
            ChangeKind::Content | ChangeKind::Metadata => "changed",
            ChangeKind::Deleted => "removed",
        };
        let mut more: Vec<String> = self.aspects.iter().map(|aspect| aspect.name().to_owned()).collect();
        more.extend(self.link.iter().map(|other| format!("a name of {other}")));
        if self.boot {
            more.push("boot".into());
        }
        let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) };
        format!("{word} {}{more}", self.path)
    }
}

/// The differences, sorted by path. `boot` are the paths that a machine boots by. `apart` are names of one file on the
/// machine that are files of their own in the image.
pub fn differences(changes: Vec<Change>, boot: &[Written], apart: &BTreeSet<BytePath>) -> Vec<Difference> {
    let boots = |path: &BytePath| boot.iter().any(|it| *path == it.path || (it.below && is_below(path, &it.path)));
    let mut all: Vec<Difference> = changes
        .into_iter()
        .map(|change| Difference {
            // A directory's time changes with what is in it; nobody boots by that.
            boot: boots(&change.path) && change.aspects != [Aspect::Time],
            path: change.path,
            kind: change.kind,
            aspects: change.aspects,
            link: change.link,
            bytes: change.bytes,
        })
        .collect();
    let known: BTreeSet<BytePath> = all.iter().map(|it| it.path.clone()).collect();
    all.extend(apart.iter().filter(|path| !known.contains(*path)).map(|path| Difference {
        path: path.clone(),
        kind: ChangeKind::Content,
        aspects: vec![Aspect::Link],
        link: None,
        bytes: None,
        boot: boots(path),
    }));
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

/// How many paths are new, changed and removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// New ones.
    pub new: usize,
    /// Changed ones, directories whose time alone changes apart.
    pub changed: usize,
    /// Removed ones.
    pub removed: usize,
    /// Those of all that the machine boots by.
    pub boot: usize,
}

/// Counts.
pub fn count(differences: &[Difference]) -> Count {
    let mut count = Count::default();
    for it in differences {
        match it.kind {
            ChangeKind::Created => count.new += 1,
            ChangeKind::Deleted => count.removed += 1,
            ChangeKind::Metadata if it.aspects == [Aspect::Time] => {}
            ChangeKind::Content | ChangeKind::Metadata => count.changed += 1,
        }
        count.boot += usize::from(it.boot);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_and_shown() {
        let change = |path: &str, kind, aspects: &[Aspect], link: Option<&str>| Change {
            path: path.into(),
            kind,
            aspects: aspects.to_vec(),
            link: link.map(BytePath::from),
            ..Change::default()
        };
        let changes = vec![
            change("/usr/bin/b", ChangeKind::Content, &[Aspect::Content, Aspect::Time], None),
            change("/usr/bin", ChangeKind::Metadata, &[Aspect::Time], None),
            change("/boot", ChangeKind::Metadata, &[Aspect::Time], None),
            change("/boot/vmlinuz", ChangeKind::Created, &[], None),
            change("/etc/x", ChangeKind::Metadata, &[Aspect::Mode, Aspect::Acl], None),
            change("/etc/y", ChangeKind::Created, &[], Some("/etc/x")),
            change("/old", ChangeKind::Deleted, &[], None),
        ];
        let apart = BTreeSet::from(["/usr/bin/a".into(), "/usr/bin/b".into()]);
        let found = differences(changes, &[Written::below("/boot")], &apart);
        let shown: Vec<String> = found.iter().map(Difference::shown).collect();
        assert_eq!(
            shown,
            [
                "changed /boot (time)",
                "new /boot/vmlinuz (boot)",
                "changed /etc/x (mode, acl)",
                "new /etc/y (a name of /etc/x)",
                "removed /old",
                "changed /usr/bin (time)",
                "changed /usr/bin/a (hard link)",
                "changed /usr/bin/b (content, time)",
            ]
        );
        assert_eq!(count(&found), Count { new: 2, changed: 3, removed: 1, boot: 1 });
        assert_eq!(found.iter().filter(|it| it.moves()).count(), 4);
    }
}
