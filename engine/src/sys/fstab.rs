//! `/etc/fstab` as data (fstab(5)): pure, and what it does not understand it keeps byte for byte.
//!
//! Used to read a master client's mounts, and to change single entries of an image's fstab without
//! touching the administrator's comments and columns.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::mountinfo::unescape;

/// What is to be mounted: the first field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// `UUID=`
    Uuid(String),
    /// `PARTUUID=`
    PartUuid(String),
    /// `LABEL=`
    Label(String),
    /// `PARTLABEL=`
    PartLabel(String),
    /// An absolute path, mostly a device.
    Path(PathBuf),
    /// Anything else: `tmpfs`, `server:/export`.
    Other(OsString),
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What.
    pub spec: Spec,
    /// Where; `none` for swap.
    pub file: PathBuf,
    /// Type; may be a list, or `auto`.
    pub fstype: String,
    /// Options, in order.
    pub options: Vec<String>,
    /// For dump(8); 0 where the field is absent.
    pub freq: u32,
    /// For fsck(8); 0 where the field is absent.
    pub pass: u32,
}

impl Entry {
    /// Whether this option is set, by name: `has("noauto")`.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o.split('=').next() == Some(option))
    }

    /// The line, without line end.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let options = if self.options.is_empty() { "defaults".to_owned() } else { self.options.join(",") };
        let fields = [
            escape(&self.spec.to_field()),
            escape(self.file.as_os_str().as_bytes()),
            escape(self.fstype.as_bytes()),
            escape(options.as_bytes()),
            self.freq.to_string().into_bytes(),
            self.pass.to_string().into_bytes(),
        ];
        fields.join(&b'\t')
    }
}

impl Spec {
    fn parse(field: &[u8]) -> Self {
        let text = std::str::from_utf8(field).ok();
        let tagged = text.and_then(|t| t.split_once('=')).map(|(tag, value)| {
            // Quotes are allowed here, and nowhere else.
            (tag, value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value).to_owned())
        });
        match tagged {
            Some(("UUID", value)) => Self::Uuid(value),
            Some(("PARTUUID", value)) => Self::PartUuid(value),
            Some(("LABEL", value)) => Self::Label(value),
            Some(("PARTLABEL", value)) => Self::PartLabel(value),
            _ if field.first() == Some(&b'/') => Self::Path(OsStr::from_bytes(field).into()),
            _ => Self::Other(OsStr::from_bytes(field).into()),
        }
    }

    fn to_field(&self) -> Vec<u8> {
        match self {
            Self::Uuid(value) => format!("UUID={value}").into_bytes(),
            Self::PartUuid(value) => format!("PARTUUID={value}").into_bytes(),
            Self::Label(value) => format!("LABEL={value}").into_bytes(),
            Self::PartLabel(value) => format!("PARTLABEL={value}").into_bytes(),
            Self::Path(path) => path.as_os_str().as_bytes().to_vec(),
            Self::Other(other) => other.as_bytes().to_vec(),
        }
    }

    /// Whether it names a disk by the kernel's own name (`/dev/sda1`), which hangs on the order in
    /// which disks are found. By-path, by-id and mapper names do not count.
    #[must_use]
    pub fn is_kernel_name(&self) -> bool {
        match self {
            Self::Path(path) => {
                path.strip_prefix("/dev").is_ok_and(|rest| rest.components().count() == 1 && rest != Path::new("root"))
            }
            _ => false,
        }
    }
}

/// A line as it stands, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Bytes, without line end.
    raw: Vec<u8>,
    /// `None`: comment, blank, or not understood.
    entry: Option<Entry>,
}

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fstab {
    lines: Vec<Line>,
}

impl Fstab {
    /// Parses; never fails, as what is not understood is kept.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        if text.is_empty() {
            return Self::default();
        }
        let lines =
            text.split(|b| *b == b'\n').map(|raw| Line { raw: raw.to_vec(), entry: parse_entry(raw) }).collect();
        Self { lines }
    }

    /// The entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().filter_map(|line| line.entry.as_ref())
    }

    /// Lines that are neither comment nor blank nor understood, with their numbers from 1.
    pub fn unknown(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.lines.iter().enumerate().filter_map(|(at, line)| {
            let text = line.raw.trim_ascii();
            let odd = line.entry.is_none() && !text.is_empty() && text[0] != b'#';
            odd.then_some((at + 1, line.raw.as_slice()))
        })
    }

    /// Changes entries; an unchanged one keeps its line byte for byte.
    pub fn change(&mut self, mut change: impl FnMut(&mut Entry)) {
        for line in &mut self.lines {
            if let Some(entry) = &mut line.entry {
                let before = entry.clone();
                change(entry);
                if *entry != before {
                    line.raw = entry.to_line();
                }
            }
        }
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, entry: Entry) {
        self.lines.push(Line { raw: entry.to_line(), entry: Some(entry) });
    }

    /// The file's bytes; every line ends with a line end.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.raw.iter().copied().chain([b'\n'])).collect()
    }
}

fn parse_entry(raw: &[u8]) -> Option<Entry> {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let fields: Vec<&[u8]> = raw.trim_ascii().split(blank).filter(|f| !f.is_empty()).collect();
    let [spec, file, fstype, rest @ ..] = fields.as_slice() else { return None };
    if spec.first() == Some(&b'#') {
        return None;
    }
    // A comment may follow the fields.
    let rest: Vec<&[u8]> = rest.iter().copied().take_while(|f| f.first() != Some(&b'#')).collect();
    let text = |field: &[u8]| String::from_utf8(unescape(field)).ok();
    let number = |at: usize| match rest.get(at) {
        None => Some(0),
        Some(field) => std::str::from_utf8(field).ok()?.parse().ok(),
    };
    let options = match rest.first() {
        None => Vec::new(),
        Some(field) => text(field)?.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect(),
    };
    Some(Entry {
        spec: Spec::parse(&unescape(spec)),
        file: OsString::from_vec(unescape(file)).into(),
        fstype: text(fstype)?,
        options,
        freq: number(1)?,
        pass: number(2)?,
    })
}

/// Blanks, tabs, line ends and backslashes as octal; a `#` too, which would begin a comment.
fn escape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    for b in field {
        match b {
            // Control characters too: some of them would be taken for blanks at the ends of the line.
            0..=b' ' | b'\\' | b'#' | 0x7f => out.extend(format!("\\{b:03o}").bytes()),
            b => out.push(*b),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Entry {
        Entry {
            spec: Spec::Uuid("1-2".into()),
            file: "/".into(),
            fstype: "ext4".into(),
            options: vec!["errors=remount-ro".into()],
            freq: 0,
            pass: 1,
        }
    }

    #[test]
    fn lines() {
        let rows: &[(&str, &str, Option<Entry>)] = &[
            ("usual", "UUID=1-2 / ext4 errors=remount-ro 0 1", Some(root())),
            ("tabs and blanks", " \tUUID=1-2\t/  ext4 errors=remount-ro\t0\t1  ", Some(root())),
            ("quoted", "UUID=\"1-2\" / ext4 errors=remount-ro 0 1", Some(root())),
            ("comment behind", "UUID=1-2 / ext4 errors=remount-ro 0 1 # the root", Some(root())),
            ("three fields", "UUID=1-2 / ext4", Some(Entry { options: vec![], pass: 0, ..root() })),
            (
                "label",
                "LABEL=a\\040b / ext4 errors=remount-ro 0 1",
                Some(Entry { spec: Spec::Label("a b".into()), ..root() }),
            ),
            (
                "device",
                "/dev/sda1 / ext4 errors=remount-ro 0 1",
                Some(Entry { spec: Spec::Path("/dev/sda1".into()), ..root() }),
            ),
            (
                "nfs",
                "srv:/x / ext4 errors=remount-ro 0 1",
                Some(Entry { spec: Spec::Other("srv:/x".into()), ..root() }),
            ),
            (
                "escaped mount point",
                "UUID=1-2 /a\\040b ext4 errors=remount-ro 0 1",
                Some(Entry { file: "/a b".into(), ..root() }),
            ),
            ("comment", "# UUID=1-2 / ext4", None),
            ("blank", "   ", None),
            ("two fields", "UUID=1-2 /", None),
            ("bad number", "UUID=1-2 / ext4 defaults x 1", None),
        ];
        for (name, line, expected) in rows {
            let fstab = Fstab::parse(line.as_bytes());
            assert_eq!(fstab.entries().next(), expected.as_ref(), "{name}");
            assert_eq!(fstab.to_bytes(), format!("{line}\n").as_bytes(), "{name}: kept as it stands");
        }
    }

    #[test]
    fn only_what_changes_is_written_anew() {
        let text = "# mine\n\n/dev/sda1   /     ext4 defaults 0 1\nUUID=9  none  swap sw 0 0\nstrange\n";
        let mut fstab = Fstab::parse(text.as_bytes());
        fstab.change(|entry| {
            if entry.spec.is_kernel_name() {
                entry.spec = Spec::Uuid("1-2".into());
            }
        });
        assert_eq!(
            String::from_utf8(fstab.to_bytes()).expect("text"),
            "# mine\n\nUUID=1-2\t/\text4\tdefaults\t0\t1\nUUID=9  none  swap sw 0 0\nstrange\n"
        );
        assert_eq!(fstab.unknown().collect::<Vec<_>>(), [(5, &b"strange"[..])]);
    }

    #[test]
    fn written_entries_read_back() {
        let odd = Entry {
            spec: Spec::Label("a b#c\\".into()),
            file: OsString::from_vec(b"/x \xff".to_vec()).into(),
            options: vec![],
            ..root()
        };
        let mut fstab = Fstab::default();
        fstab.push(odd.clone());
        let back = Fstab::parse(&fstab.to_bytes());
        assert_eq!(back.entries().collect::<Vec<_>>(), [&Entry { options: vec!["defaults".into()], ..odd }]);
    }

    #[test]
    fn kernel_names() {
        for (path, expected) in [
            ("/dev/sda1", true),
            ("/dev/nvme0n1p2", true),
            ("/dev/disk/by-id/x", false),
            ("/dev/mapper/vg-root", false),
            ("/srv/disk.img", false),
        ] {
            assert_eq!(Spec::Path(path.into()).is_kernel_name(), expected, "{path}");
        }
        assert!(!Spec::Uuid("x".into()).is_kernel_name());
    }
}
