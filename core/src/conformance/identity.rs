//! Host identity: nobody is made up from nothing, what machines and servers say is not trusted, and a name is
//! written or refused.

use std::collections::BTreeMap;

use serde_json::json;

use super::steps::Bounds;
use super::{Check, HOSTILE, NONSENSE, NOWHERE, READING, Rules, any, shown};
use crate::data::{BytePath, HostFacts, Identity, ImageFacts, Lease, NetworkMode, Phase, Place, Role, Step};
use crate::error::ErrorKind;

const PLANS: Rules = Rules::pure(&[ErrorKind::Invalid, ErrorKind::Unsupported]);

impl Check<'_> {
    pub(super) fn identity(&mut self) {
        // Requests as JSON: fields that a later version appends have their defaults.
        let who = |facts: HostFacts, sources: &[&str]| json!({ "facts": facts, "sources": sources });
        let nothing = who(HostFacts::default(), &[]);
        self.ask("who, without any fact", "who", &nothing, PLANS.answers(), |who: &Option<Identity>, _| match who {
            None => Ok("nobody".into()),
            Some(who) => Err(format!("claims to be {} without any fact; answer None", who.name)),
        });
        let odd = who(HostFacts::default(), &[NONSENSE]);
        self.ask("who, of an unknown source", "who", &odd, PLANS, |who: &Option<Identity>, _| match who {
            None => Ok("nobody".into()),
            Some(who) => Err(format!("claims to be {} by a source that it does not have", who.name)),
        });
        for word in HOSTILE {
            let what = format!("who, with {} everywhere", shown(word));
            self.ask(what, "who", &who(facts(word), &[]), PLANS, any::<Option<Identity>>);
        }
        let detect = json!({ "place": Place::Tree { root: NOWHERE.into() } });
        let found = any::<BTreeMap<String, String>>;
        self.ask("detect in an absent tree", "detect", &detect, Rules::reads(READING), found);
        self.detects::<BTreeMap<String, String>>(Rules::reads(&[]).answers());
        self.writes();
        for what in [&[][..], &[NONSENSE]] {
            let request = json!({ "image": ImageFacts::default(), "what": what });
            let name = if what.is_empty() { "plan_scrub" } else { "plan_scrub of what is unknown" };
            self.steps(name.into(), "plan_scrub", &request);
        }
        let request = json!({ "image": ImageFacts { name: "check".into(), ..ImageFacts::default() } });
        self.ask("own_paths", "own_paths", &request, PLANS, |paths: &Vec<BytePath>, _| own(paths));
    }

    fn writes(&mut self) {
        let Some(identity) = identity() else { return };
        let id = self.plugin.identification.id.clone();
        let modes = [("static", NetworkMode::Static), ("dhcp", NetworkMode::Dhcp), ("keep", NetworkMode::Keep)];
        for (name, mode) in modes {
            for odd in [false, true] {
                let mut image = ImageFacts { name: "check".into(), ..ImageFacts::default() };
                if odd {
                    let facts = HOSTILE.iter().map(|word| ((*word).to_owned(), (*word).to_owned())).collect();
                    image.identity.insert(id.clone(), facts);
                }
                let request = json!({ "identity": identity, "mode": mode, "image": image });
                let what = format!("plan_write, {name}{}", if odd { ", with odd facts of the image" } else { "" });
                self.steps(what, "plan_write", &request);
            }
        }
    }

    /// Judges a plan.
    fn steps(&mut self, what: String, method: &str, request: &impl serde::Serialize) {
        let programs = self.programs.get(&Role::Installer).cloned().unwrap_or_default();
        self.ask(what, method, request, PLANS, |steps: &Vec<Step>, _| {
            Bounds { phase: Phase::Identity, there: vec![], new: vec![], programs: Some(&programs), devices: &[] }
                .judge(steps)
        });
    }
}

/// Patterns that an update leaves alone: one that is not anchored, or takes all, would leave the machine as it is.
pub(super) fn own(patterns: &[BytePath]) -> Result<String, String> {
    let odd = |pattern: &&BytePath| {
        let bytes = pattern.as_bytes();
        !bytes.starts_with(b"/") || !bytes.iter().any(|byte| byte.is_ascii_alphanumeric())
    };
    match patterns.iter().find(odd) {
        Some(pattern) => Err(format!("the pattern {pattern} is not anchored at the root, or names nothing")),
        None => Ok(format!("{} patterns", patterns.len())),
    }
}

/// From JSON: fields that a later version appends have their defaults.
fn identity() -> Option<Identity> {
    let network = json!({
        "mac": "52:54:00:12:34:56", "interface": "eth0", "address": "10.0.0.11", "prefix": 24, "router": "10.0.0.1",
        "name_servers": ["10.0.0.1"], "domain": "example.org",
    });
    let it = json!({ "name": "check.example.org", "network": network, "found_in": "plugin check" });
    serde_json::from_value(it).ok()
}

/// Everything that machines, media and DHCP servers may say, hostile.
#[allow(clippy::needless_update, reason = "fields to come")]
fn facts(word: &str) -> HostFacts {
    let map = || BTreeMap::from([(word.to_owned(), word.to_owned()), ("si.host".to_owned(), word.to_owned())]);
    HostFacts {
        command_line: map(),
        leases: vec![Lease {
            mac: word.into(),
            address: Some(std::net::Ipv4Addr::new(10, 0, 0, 11).into()),
            prefix: Some(255),
            host_name: Some(word.into()),
            domain: Some(word.into()),
            ..Lease::default()
        }],
        boot_mac: Some(word.into()),
        macs: vec![word.into()],
        hosts_file: format!("{word}\n10.0.0.11 {word} {word}\n"),
        local_cfg: Some(format!("HOSTNAME={word}\n{word}")),
        dmi: map().into_iter().chain([("product_serial".to_owned(), word.to_owned())]).collect(),
        ..HostFacts::default()
    }
}
