//! What an administrator should know before a running machine is captured: databases that write
//! meanwhile, swap files, flags that are lost, a network that cannot be written down for clones. Names and advice only;
//! nothing is decided here.

use std::path::Path;

use systemimager_core::contract::{IdentityDetect, IdentityScrub, IdentityWrite};
use systemimager_core::{
    BytePath, ErrorKind, Host, HostName, Identity, ImageFacts, NetworkMode, NetworkSettings, Place, Registry, Step,
};

use super::survey::Survey;
use crate::sys::swaps::SwapArea;

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

/// How machines are to be made out of a tree.
pub struct Making<'a> {
    /// Name of the image, for messages.
    pub image: &'a str,
    /// The identity plugin.
    pub plugin: &'a str,
    /// How they get addresses.
    pub mode: NetworkMode,
    /// What is scrubbed, as in a master.
    pub scrub: Option<&'a [String]>,
}

/// What becomes of a tree on machines that get it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Clones {
    /// Paths that no machine gets as they are.
    pub scrubbed: Vec<BytePath>,
    /// What will be refused when a machine is to be installed with it, and other notes.
    pub notes: Vec<String>,
}

/// Has the identity plugin plan for a machine that there is not: what it refuses is better known now.
pub fn clones(registry: &Registry, host: &dyn Host, place: &Place, making: &Making<'_>) -> Clones {
    let mut clones = Clones::default();
    let refused = |error: &dyn std::fmt::Display| format!("no machine could be installed with this yet: {error}");
    let Ok(plugin) = registry.identity(making.plugin) else { return clones };
    let found = match plugin.detect(host, IdentityDetect { place: place.clone() }) {
        Ok(found) => found,
        Err(error) => {
            clones.notes.push(refused(&error));
            return clones;
        }
    };
    // An address of documentation (RFC 5737), a MAC of nobody's (locally administered).
    let Ok(name) = HostName::try_from("clone") else { return clones };
    let network = NetworkSettings {
        mac: "02:00:00:00:00:01".into(),
        interface: "eth0".into(),
        address: "192.0.2.2".parse().ok(),
        prefix: Some(24),
        ..NetworkSettings::default()
    };
    let identity = Identity { name, image: None, network, found_in: "getimage".into() };
    let image = ImageFacts {
        name: making.image.to_owned(),
        identity: [(making.plugin.to_owned(), found)].into(),
        ..ImageFacts::default()
    };
    let write = IdentityWrite { identity: identity.clone(), mode: making.mode, image: image.clone() };
    if let Err(error) = plugin.plan_write(host, write) {
        clones.notes.push(refused(&error));
    }
    let what = making.scrub.map(<[String]>::to_vec);
    if what.as_ref().is_some_and(Vec::is_empty) {
        clones
            .notes
            .push("nothing is scrubbed, by the master file: machines share ssh host keys and machine-id".into());
        return clones;
    }
    let scrub = IdentityScrub { image, what: what.unwrap_or_default(), identity: Some(identity) };
    match plugin.plan_scrub(host, scrub) {
        Ok(steps) => {
            clones.scrubbed = steps.iter().flat_map(Step::written).map(|written| written.path).collect();
            clones.scrubbed.sort();
            clones.scrubbed.dedup();
        }
        Err(error) if error.kind == ErrorKind::Unsupported && making.scrub.is_none() => clones.notes.push(format!(
            "the identity plugin {} scrubs nothing: machines share ssh host keys and machine-id",
            making.plugin
        )),
        Err(error) => clones.notes.push(refused(&error)),
    }
    clones
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use systemimager_core::abi::private::Instance;
    use systemimager_core::contract::{HostIdentity, IdentityWho};
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{Action, Needs, Phase, PluginError, Result, Role};

    use super::*;
    use crate::sys::swaps;

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
        let swaps = swaps::parse(text);
        assert_eq!(swaps.len(), 2);
        assert_eq!(swaps[0], SwapArea { path: "/dev/sda5".into(), is_file: false });
        let advice = swap_files(&swaps, Path::new("/"));
        assert!(advice.len() == 1 && advice[0].contains("--exclude '/var/swap file'"), "{advice:?}");
        assert!(swap_files(&swaps, Path::new("/srv")).is_empty());
    }

    /// A plugin whose answers stand in the file /answers: `write=…` and `scrub=…`, an error or `ok`.
    struct Answers;

    fn answer(facts: &BTreeMap<String, String>, key: &str, kind: ErrorKind) -> Result<()> {
        match facts.get(key).map(String::as_str) {
            None | Some("ok") => Ok(()),
            Some(error) => Err(PluginError::new(kind, error)),
        }
    }

    impl HostIdentity for Answers {
        fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
            Ok(Needs::default())
        }
        fn who(&self, _: &dyn Host, _: IdentityWho) -> Result<Option<Identity>> {
            Ok(None)
        }
        fn detect(&self, host: &dyn Host, request: IdentityDetect) -> Result<BTreeMap<String, String>> {
            let text = host.read(&request.place, &"/answers".into())?;
            let pair = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            Ok(text.lossy().lines().filter_map(pair).collect())
        }
        fn plan_write(&self, _: &dyn Host, request: IdentityWrite) -> Result<Vec<Step>> {
            assert_eq!(request.mode, NetworkMode::Static);
            answer(&request.image.identity["answers"], "write", ErrorKind::Unsupported).map(|()| Vec::new())
        }
        fn plan_scrub(&self, _: &dyn Host, request: IdentityScrub) -> Result<Vec<Step>> {
            let facts = &request.image.identity["answers"];
            answer(facts, "scrub", ErrorKind::Missing)?;
            answer(facts, "none", ErrorKind::Unsupported)?;
            let remove = |path: &str| Action::Remove { path: path.into() };
            let steps = [remove("/etc/b"), remove("/etc/a"), remove("/etc/b")];
            Ok(steps.map(|action| Step::new(Phase::Identity, "x", action)).to_vec())
        }
    }

    #[test]
    fn clones_are_thought_of_before_there_are_any() {
        let mut registry = Registry::default();
        crate::capture::fakes::add(&mut registry, "answers", Instance::HostIdentity(Box::new(Answers)));
        type Row<'a> = (&'a str, Option<&'a str>, Option<&'a [String]>, &'a [&'a str], &'a [&'a str]);
        let few = ["a".to_owned()];
        let refused = "no machine could be installed with this yet: ";
        let rows: [Row<'_>; 7] = [
            ("fine", Some("write=ok"), None, &["/etc/a", "/etc/b"], &[]),
            ("a bond", Some("write=it has the bond bond0"), None, &["/etc/a", "/etc/b"], &["it has the bond bond0"]),
            ("no program", Some("scrub=no ssh-keygen"), None, &[], &["no ssh-keygen"]),
            ("nothing is scrubbed", Some("write=ok"), Some(&[]), &[], &["nothing is scrubbed, by the master file: "]),
            ("by a plugin that does not", Some("none=x"), None, &[], &["the identity plugin answers scrubs nothing: "]),
            ("and is asked to", Some("none=not that"), Some(&few), &[], &["not that"]),
            ("cannot be looked at", None, None, &[], &["/answers: no such file"]),
        ];
        for (name, answers, scrub, scrubbed, notes) in rows {
            let mut host = RecordedHost::new();
            if let Some(answers) = answers {
                host = host.file("/answers", answers);
            }
            let making = Making { image: "web", plugin: "answers", mode: NetworkMode::Static, scrub };
            let found = clones(&registry, &host, &Place::Running, &making);
            let paths: Vec<String> = found.scrubbed.iter().map(ToString::to_string).collect();
            assert_eq!(paths, scrubbed, "{name}");
            assert_eq!(found.notes.len(), notes.len(), "{name}: {:?}", found.notes);
            for (note, says) in found.notes.iter().zip(notes) {
                assert!(note.trim_start_matches(refused).starts_with(says), "{name}: {note}");
            }
        }
        let making = Making { image: "web", plugin: "absent", mode: NetworkMode::Static, scrub: None };
        assert_eq!(clones(&registry, &RecordedHost::new(), &Place::Running, &making), Clones::default());
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
