//! Making a file system: the arguments of mke2fs(8).

use systemimager_core::{Action, Arg, FileSystemLayout, Phase, PluginError, Result, Step};

use crate::limits::Readers;
use crate::options::{Options, percent};

/// Longest label that the superblock holds, in bytes.
const LONGEST_LABEL: usize = 16;

/// Steps that make it, so that those who have to read it do.
pub fn plan(fs: &FileSystemLayout, readers: &Readers) -> Result<Vec<Step>> {
    let invalid = |why: String| PluginError::invalid(format!("the file system {}: {why}", fs.node));
    let options = Options::from_map(&fs.options).map_err(invalid)?;
    let features: Vec<&str> = match &options.features {
        Some(named) => {
            let against: Vec<String> = named.iter().filter_map(|name| readers.against(name)).collect();
            if !against.is_empty() {
                return Err(invalid(format!(
                    "{}; take it out of the features in the master file, or bring newer ones into the image",
                    against.join("; ")
                )));
            }
            named.iter().map(String::as_str).collect()
        }
        None => readers.defaults(&fs.kind),
    };
    // -F: nobody is there to be asked, and what is on the node is destroyed by plan.
    let mut argv = Arg::words(["mke2fs", "-F", "-q", "-t", &fs.kind]);
    let mut add = |flag: &str, value: &str| argv.extend(Arg::words([flag, value]));
    if let Some(uuid) = fs.uuid.as_deref() {
        if !is_uuid(uuid) {
            return Err(invalid(format!(
                "the uuid {uuid:?} is none (8-4-4-4-12 hexadecimal digits); correct it, or leave it out for a new one"
            )));
        }
        if !fs.new_uuid {
            add("-U", uuid);
        }
    }
    if let Some(label) = fs.label.as_deref() {
        if label.len() > LONGEST_LABEL || label.contains('\0') {
            return Err(invalid(format!(
                "the label {label:?} is longer than the {LONGEST_LABEL} bytes that {} holds, or has a NUL; shorten it",
                fs.kind
            )));
        }
        add("-L", label);
    }
    let numbers = [
        ("-b", options.block_size),
        ("-C", options.cluster_size),
        ("-I", options.inode_size),
        ("-i", options.inode_ratio),
        ("-G", options.flex_bg_size),
    ];
    for (flag, number) in numbers {
        if let Some(number) = number {
            add(flag, &number.to_string());
        }
    }
    if let Some(reserved) = options.reserved {
        add("-m", &percent(reserved));
    }
    if let Some(errors) = &options.errors {
        add("-e", errors);
    }
    // `none` first: the type's defaults of this machine's mke2fs.conf are not the image's.
    add("-O", &std::iter::once("none").chain(features.iter().copied()).collect::<Vec<_>>().join(","));
    // mke2fs leaves the inode tables to the kernel only if it sees in /sys that the kernel can, which
    // depends on whether the module is loaded already. With checksums of the groups it is safe.
    if features.iter().any(|name| *name == "metadata_csum" || *name == "uninit_bg") {
        add("-E", "lazy_itable_init=1,lazy_journal_init=1");
    }
    argv.push(Arg::Device(fs.on.clone()));

    let what = format!("make the {} file system {}", fs.kind, fs.node);
    Ok(vec![
        Step::new(Phase::Format, what, Action::Run { argv, stdin: None })
            .destroying([fs.on.clone()])
            .providing([fs.node.clone()]),
    ])
}

/// 8-4-4-4-12 hexadecimal digits (RFC 9562).
fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12]) && parts.iter().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::NodeName;

    const UUID: &str = "b8f08195-d958-4ccd-bfed-b00eee31ffd5";

    fn layout(kind: &str, options: &[(&str, &str)]) -> FileSystemLayout {
        FileSystemLayout {
            node: NodeName::try_from("root").unwrap(),
            on: NodeName::try_from("disk0p1").unwrap(),
            kind: kind.into(),
            uuid: Some(UUID.into()),
            new_uuid: false,
            label: None,
            options: options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        }
    }

    /// A line per step, the device shown as its node.
    fn shown(steps: &[Step]) -> Vec<String> {
        let word = |arg: &Arg| match arg {
            Arg::Text(text) => text.to_string(),
            Arg::Device(node) => format!("<{node}>"),
            other => format!("{other:?}"),
        };
        let line = |step: &Step| match &step.action {
            Action::Run { argv, stdin: None } => argv.iter().map(word).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        };
        steps.iter().map(line).collect()
    }

    #[test]
    fn arguments() {
        let all = [
            ("features", "has_journal needs_recovery extent metadata_csum"),
            ("block_size", "4096"),
            ("inode_size", "256"),
            ("inode_ratio", "16384"),
            ("reserved_percent", "1.25"),
            ("flex_bg_size", "16"),
            ("errors", "remount-ro"),
        ];
        let usual = "dir_index,ext_attr,filetype,has_journal,large_file,resize_inode,sparse_super";
        let rows: [(&str, FileSystemLayout, Vec<String>); 4] = [
            ("bare", layout("ext3", &[]), vec![format!("mke2fs -F -q -t ext3 -U {UUID} -O none,{usual} <disk0p1>")]),
            (
                "all",
                layout("ext4", &all),
                vec![format!(
                    "mke2fs -F -q -t ext4 -U {UUID} -b 4096 -I 256 -i 16384 -G 16 -m 1.25 -e remount-ro \
                     -O none,extent,has_journal,metadata_csum -E lazy_itable_init=1,lazy_journal_init=1 <disk0p1>"
                )],
            ),
            (
                "no features at all",
                layout("ext2", &[("features", "")]),
                vec![format!("mke2fs -F -q -t ext2 -U {UUID} -O none <disk0p1>")],
            ),
            (
                "new uuid, label",
                FileSystemLayout { new_uuid: true, label: Some("-a b".into()), ..layout("ext3", &[]) },
                vec![format!("mke2fs -F -q -t ext3 -L -a b -O none,{usual} <disk0p1>")],
            ),
        ];
        for (name, layout, expected) in rows {
            let steps = plan(&layout, &Readers::default()).unwrap();
            assert_eq!(shown(&steps), expected, "{name}");
            assert_eq!(
                (steps[0].destroys.as_slice(), steps[0].provides.as_slice()),
                ([layout.on].as_slice(), [layout.node].as_slice())
            );
            assert_eq!(steps[0].phase, Phase::Format, "{name}");
        }
    }

    type Spoil = fn(&mut FileSystemLayout);

    #[test]
    fn what_cannot_be_made_is_refused() {
        let rows: [(&str, Spoil, &str); 5] = [
            ("uuid", |fs| fs.uuid = Some("x".into()), "the file system root: the uuid \"x\" is none (8-4-4-4-12"),
            ("uuid as a word for mke2fs", |fs| fs.uuid = Some("clear".into()), "is none"),
            ("label", |fs| fs.label = Some("é".repeat(9)), "is longer than the 16 bytes that ext4 holds"),
            ("NUL", |fs| fs.label = Some("a\0".into()), "or has a NUL"),
            (
                "option",
                |fs| {
                    fs.options.insert("inode_size".into(), "x".into());
                },
                "the file system root: the option inode_size = \"x\" must be a power of two",
            ),
        ];
        for (name, spoil, says) in rows {
            let mut fs = layout("ext4", &[]);
            spoil(&mut fs);
            let error = plan(&fs, &Readers::default()).unwrap_err();
            assert_eq!(error.kind, systemimager_core::ErrorKind::Invalid, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
        // 16 bytes are just right.
        plan(&FileSystemLayout { label: Some("é".repeat(8)), ..layout("ext4", &[]) }, &Readers::default()).unwrap();
        // All that does not read it is told at once.
        let readers = Readers { tools: Some((1, 42, 0)), boot_loader: Some(("loader".into(), 0x3d6)) };
        let fs = layout("ext4", &[("features", "extent metadata_csum encrypt casefold orphan_file")]);
        let error = plan(&fs, &readers).unwrap_err();
        assert_eq!(error.kind, systemimager_core::ErrorKind::Invalid);
        for says in
            ["the file system root: the feature casefold needs", "the feature orphan_file needs", "encrypt needs"]
        {
            assert!(error.message.contains(says), "{error}");
        }
        let fs = layout("ext4", &[("features", "extent 64bit")]);
        plan(&fs, &readers).unwrap();
    }
}
