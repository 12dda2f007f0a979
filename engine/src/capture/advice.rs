//! What an administrator should know before a running machine is captured: databases that write
//! meanwhile, swap files, flags that are lost. Names and advice only; nothing is decided here.

use std::path::{Path, PathBuf};

use super::survey::Survey;

/// Programs whose files are consistent only for themselves while they run, and where they usually are.
const DATABASES: &[(&str, &str, &str)] = &[
    ("mysqld", "MySQL", "/var/lib/mysql"),
    ("mariadbd", "MariaDB", "/var/lib/mysql"),
    ("postgres", "PostgreSQL", "/var/lib/postgresql"),
    ("mongod", "MongoDB", "/var/lib/mongodb"),
    ("redis-server", "Redis", "/var/lib/redis"),
    ("slapd", "OpenLDAP", "/var/lib/ldap"),
    ("influxd", "InfluxDB", "/var/lib/influxdb"),
    ("etcd", "etcd", "/var/lib/etcd"),
];

/// Running databases among processes (names as in /proc/PID/comm).
pub fn databases<'a>(processes: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let running: std::collections::BTreeSet<&str> = processes.into_iter().collect();
    DATABASES
        .iter()
        .filter(|(name, ..)| running.contains(name))
        .map(|(_, title, place)| {
            format!(
                "{title} is running: its files (usually below {place}) change while they are captured and may not fit \
                 together; stop it for the capture, or leave them out with --exclude '{place}/*' and restore a dump"
            )
        })
        .collect()
}

/// Swap files in use (from /proc/swaps) below the captured directory.
pub fn swap_files(swaps: &[SwapArea], source: &Path) -> Vec<String> {
    swaps
        .iter()
        .filter(|area| area.is_file)
        .filter_map(|area| Some((area, area.path.strip_prefix(source).ok()?)))
        .map(|(area, inside)| {
            format!(
                "{} is a swap file in use: its contents are of no use elsewhere; leave it out with --exclude '/{}', and \
                 make it anew on installed machines",
                area.path.display(),
                inside.display()
            )
        })
        .collect()
}

/// Flags that the capture does not keep, and files that could not be looked at.
pub fn of_survey(survey: &Survey) -> Vec<String> {
    let mut advice = Vec::new();
    if survey.flagged > 0 {
        let names: Vec<String> = survey.examples.iter().map(|path| format!("/{}", path.display())).collect();
        let more = if survey.flagged > names.len() as u64 { ", …" } else { "" };
        advice.push(format!(
            "{} files have flags of chattr(1), which are not captured: {}{more}",
            survey.flagged,
            names.join(", ")
        ));
    }
    advice.extend(survey.unseen.iter().map(|text| format!("could not be looked at: {text}")));
    advice
}

/// A line of /proc/swaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapArea {
    /// Device or file.
    pub path: PathBuf,
    /// It is a file.
    pub is_file: bool,
}

/// Parses /proc/swaps (proc(5)): a heading, then a line each.
pub fn parse_swaps(text: &[u8]) -> Vec<SwapArea> {
    use std::os::unix::ffi::OsStringExt as _;
    text.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            let path = crate::sys::mountinfo::unescape(fields.next()?);
            let is_file = fields.next()? == b"file";
            Some(SwapArea { path: std::ffi::OsString::from_vec(path).into(), is_file })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_named_once() {
        let found = databases(["bash", "postgres", "postgres", "mariadbd"]);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("MariaDB is running") && found[1].contains("--exclude '/var/lib/postgresql/*'"));
        assert_eq!(databases(["bash"]), Vec::<String>::new());
    }

    #[test]
    fn swap_files_only() {
        let text = b"Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n/dev/sda5                               partition\t1\t0\t-2\n\
            /var/swap\\040file                             file\t\t1\t0\t-3\n";
        let swaps = parse_swaps(text);
        assert_eq!(swaps.len(), 2);
        assert_eq!(swaps[0], SwapArea { path: "/dev/sda5".into(), is_file: false });
        let advice = swap_files(&swaps, Path::new("/"));
        assert!(advice.len() == 1 && advice[0].contains("--exclude '/var/swap file'"), "{advice:?}");
        assert!(swap_files(&swaps, Path::new("/srv")).is_empty());
    }

    #[test]
    fn flags_are_counted() {
        let survey = Survey { flagged: 9, examples: vec!["etc/resolv.conf".into()], ..Survey::default() };
        assert_eq!(
            of_survey(&survey),
            vec!["9 files have flags of chattr(1), which are not captured: /etc/resolv.conf, …"]
        );
        assert!(of_survey(&Survey::default()).is_empty());
    }
}
