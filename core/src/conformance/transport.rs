//! Transports: what is offered is closed to all but those who were named, and secrets stay out of arguments.

use std::collections::BTreeMap;

use super::{Check, HOSTILE, Rules, is_clean, shown};
use crate::data::{
    AdmittedKey, Answer, Arg, Asked, BytePath, Capabilities, Export, Finished, Offer, Piece, Probe, PullReport,
    PullRequest, Role, Secret, Service, Source, Spawn, UserSecret,
};
use crate::error::ErrorKind;

const SECRET: &str = "check-secret";
const HOST_KEY: &str = "check-secret-host-key";
const IDENTITY: &str = "check-secret-identity";
/// A public key whose private half nobody has kept.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmaSFjmDSJyJ2Uuo7X5zFVRIYk2HUHLGyKTFpB9rZbN";
const ADDRESS: &str = "192.0.2.77";
const WORK: &str = "/run/systemimager-check";
const OFFERS: Rules = Rules::pure(&[ErrorKind::Invalid, ErrorKind::Unsupported]);
const ANSWERS: Rules = Rules::pure(&[ErrorKind::Denied, ErrorKind::Invalid, ErrorKind::Unsupported]);
/// It must fail: nothing can be started, and nobody is there.
const PULLS: Rules = Rules::reads(&[
    ErrorKind::Invalid,
    ErrorKind::Unsupported,
    ErrorKind::Missing,
    ErrorKind::Denied,
    ErrorKind::Unreachable,
    ErrorKind::NotFound,
    ErrorKind::NoSpace,
    ErrorKind::Cancelled,
    ErrorKind::Failed,
])
.refuses();

impl Check<'_> {
    pub(super) fn transport(&mut self) {
        let rules = Rules::pure(&[]).answers();
        self.ask("capabilities", "capabilities", &(), rules, |able: &Capabilities, _| match able.default_port {
            0 => Err("the default port is 0; name the one that is used when none is given".into()),
            port => Ok(format!("port {port}, may be the last of a chain: {}", able.reconciles)),
        });
        let two = [export("web", "/srv/images/web", false), export("db-v1.2", "/srv/images/db", false)];
        self.offer("offer of two trees", &offer(&two, None), OFFERS.answers());
        self.offer("offer of a tree with a secret", &offer(&[export("root", "/", true)], None), OFFERS);
        let users = vec![UserSecret { user: "u1".into(), secret: Secret(SECRET.into()) }];
        let own = Export { secrets: users, ..export("own", "/srv/images/own", false) };
        self.offer("offer of a tree to whoever has a secret of their own", &offer(&[own], None), OFFERS);
        self.offer("offer that can be finished", &offer(&two, Some("finished")), OFFERS);
        let nobody = Export { allow: vec![], ..export("web", "/srv/images/web", false) };
        self.offer("offer to nobody", &offer(&[nobody], None), OFFERS);
        for word in HOSTILE {
            let mut odd = export(word, &format!("/srv/{word}"), true);
            odd.allow.push(word.into());
            self.offer(&format!("offer with {} everywhere", shown(word)), &offer(&[odd], None), OFFERS);
        }
        let raw = Export { tree: BytePath::new(b"/srv/\xff\xfe".as_slice()), ..export("raw", "/", false) };
        self.offer("offer of a tree whose name is not UTF-8", &offer(&[raw], None), OFFERS);
        let sensible = pull("10.0.0.1", "web", "/nonexistent/target");
        self.pull("pull", &sensible);
        self.pull(
            "pull of some paths",
            &PullRequest {
                only: Some(vec!["/etc/fstab".into(), BytePath::new(b"/\xff\n".as_slice())]),
                exclude: vec!["/proc/*".into(), "*.o".into()],
                dry_run: true,
                checksum: true,
                delete: true,
                delete_excluded: true,
                ..sensible
            },
        );
        for word in HOSTILE {
            self.pull(
                &format!("pull with {} everywhere", shown(word)),
                &PullRequest { exclude: vec![word.into()], only: Some(vec![word.into()]), ..pull(word, word, word) },
            );
        }
        for command in ["rsync --server --sender -lHogDtpAXrSe.iLsfxCIvu . /web/", "sh -c id"].iter().chain(&HOSTILE) {
            let asked = Asked { exports: vec!["web".into(), "db".into()], command: command.as_bytes().to_vec().into() };
            let what = format!("answer to {}", shown(command));
            self.ask(&what, "answer", &asked, ANSWERS, |answer: &Answer, _| {
                match asked.exports.contains(&answer.export) {
                    true => Ok(format!("{:?}", answer.argv)),
                    false => Err(format!("it answers with {}, which is not among what may be had", answer.export)),
                }
            });
        }
        let from = pull("10.0.0.1", "finished", "/").from;
        let programs = self.transfers();
        self.ask("finish", "finish", &from, PULLS, |(): &(), spawned| judge_spawned(spawned, &programs));
    }

    fn transfers(&self) -> Vec<String> {
        let roles = [Role::Server, Role::Installer];
        roles.iter().filter_map(|role| self.programs.get(role)).flatten().cloned().collect()
    }

    fn pull(&mut self, what: &str, request: &PullRequest) {
        self.ask(what, "pull", request, PULLS, |_: &PullReport, _| Ok(String::new()));
        // An error is what the contract wants here; what would have been started is looked at all the same.
        let witness = super::Witness::new(self.host);
        let Ok(input) = crate::abi::encode(request) else { return };
        let _ = self.plugin.call("pull", &input, &witness);
        let (_, spawned) = witness.testimony();
        if !spawned.is_empty() {
            let judged = judge_spawned(&spawned, &self.transfers());
            self.line(format!("what {what} starts"), judged);
        }
    }

    fn offer(&mut self, what: &str, request: &Offer, rules: Rules) {
        let programs = self.programs.get(&Role::Server).cloned().unwrap_or_default();
        self.ask(what, "offer", request, rules, |service: &Service, _| {
            let Some(Arg::Text(program)) = service.argv.first() else {
                return Err("the service has no program".into());
            };
            let name = program.to_string();
            if name != "@self" && !name.starts_with('/') && !programs.contains(&name) {
                return Err(format!("it runs {name}, which needs() does not name for the image server"));
            }
            if let Some(arg) = service.argv.iter().find(|arg| holds(arg, SECRET)) {
                return Err(format!(
                    "the argument {arg:?} holds a secret's name; a secret goes into a file, as Piece::Secret"
                ));
            }
            let mut inside = request.work_dir.as_bytes().to_vec();
            inside.push(b'/');
            for file in &service.files {
                if !file.path.as_bytes().starts_with(&inside) || !is_clean(&file.path) {
                    return Err(format!("the file {} lies outside the service's own directory", file.path));
                }
                let secret = file.contents.iter().any(|piece| matches!(piece, Piece::Secret(_)));
                if secret && file.mode & 0o077 != 0 {
                    return Err(format!(
                        "the file {} holds a secret and has mode {:o}; give it 0600",
                        file.path, file.mode
                    ));
                }
            }
            judge_closed(request, service)?;
            if matches!(service.ready, Probe::Tcp(0)) || !(1..=64).contains(&service.stop_signal) {
                return Err("it is ready on port 0, or is stopped by no signal".into());
            }
            match (&request.finish, &service.finished) {
                (Some(_), None) => {
                    Err("finish was asked for, and the service does not say how it is seen; set finished".into())
                }
                (Some(_), Some(Finished::FileNotEmpty(path))) if !path.as_bytes().starts_with(&inside) => {
                    Err(format!("the file {path} that tells of the end lies outside the service's own directory"))
                }
                _ => Ok(format!("{} files, runs {name}", service.files.len())),
            }
        });
    }
}

/// Who may have it, and with which secret, has to stand somewhere.
fn judge_closed(request: &Offer, service: &Service) -> Result<(), String> {
    let text = |piece: &Piece| matches!(piece, Piece::Text(text) if text.contains(ADDRESS));
    let in_files = service.files.iter().flat_map(|file| &file.contents).any(text);
    let named = request.exports.iter().any(|export| export.allow.iter().any(|address| address == ADDRESS));
    if named && !in_files && !service.argv.iter().any(|arg| holds(arg, ADDRESS)) {
        return Err(format!("{ADDRESS}, who alone may have it, is named nowhere: the tree would be open to all"));
    }
    let asked = request.exports.iter().any(|export| export.secret.is_some());
    let given = service.files.iter().flat_map(|file| &file.contents).any(|piece| matches!(piece, Piece::Secret(_)));
    if asked && !given {
        return Err("the secret is in no file, so nobody would be asked for it; refuse the offer as Unsupported".into());
    }
    let own = request.exports.iter().any(|export| !export.secrets.is_empty());
    let pieces = || service.files.iter().flat_map(|file| &file.contents);
    let secret = pieces().any(|piece| matches!(piece, Piece::Secret(Secret(name)) if name == SECRET));
    let key = KEY.split_once(' ').map_or(KEY, |(_, key)| key);
    if own && !secret && !pieces().any(|piece| matches!(piece, Piece::Text(text) if text.contains(key))) {
        return Err(
            "neither the secrets nor the keys of who may have it are in a file: the tree would be open to whoever has \
                    the address; refuse the offer as Unsupported"
                .into(),
        );
    }
    Ok(())
}

fn judge_spawned(spawned: &[Spawn], programs: &[String]) -> Result<String, String> {
    for spawn in spawned {
        let Some(Arg::Text(program)) = spawn.argv.first() else {
            return Err("it starts a program without a name".into());
        };
        let name = program.to_string();
        if name != "@self" && !name.starts_with('/') && !programs.contains(&name) {
            return Err(format!("it starts {name}, which needs() names neither for the installer nor for the server"));
        }
        let in_env = spawn.env.iter().any(|(_, value)| value.contains(SECRET));
        if in_env || spawn.argv.iter().any(|arg| holds(arg, SECRET)) {
            return Err("a secret's name is in its arguments or environment; give it as secret_env".into());
        }
        if spawn.argv.iter().any(|arg| !matches!(arg, Arg::Text(_))) {
            return Err("a started program gets text only; nodes and targets are for steps".into());
        }
    }
    Ok(spawned.iter().filter_map(|it| it.argv.first()).map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", "))
}

fn holds(arg: &Arg, text: &str) -> bool {
    matches!(arg, Arg::Text(word) if String::from_utf8_lossy(word.as_bytes()).contains(text))
}

fn export(name: &str, tree: &str, secret: bool) -> Export {
    Export {
        name: name.into(),
        tree: tree.into(),
        allow: vec![ADDRESS.into(), "198.51.100.0/24".into()],
        secret: secret.then(|| Secret(SECRET.into())),
        keys: vec![AdmittedKey { key: KEY.into(), ..AdmittedKey::default() }],
        ..Export::default()
    }
}

fn offer(exports: &[Export], finish: Option<&str>) -> Offer {
    Offer {
        exports: exports.to_vec(),
        bind: None,
        port: 8730,
        work_dir: WORK.into(),
        finish: finish.map(str::to_owned),
        host_key: Some(Secret(HOST_KEY.into())),
        door: ["/usr/bin/systemimager-check", "door", "/run/systemimager-check/door"].map(str::to_owned).into(),
        account: None,
        settings: BTreeMap::new(),
    }
}

fn pull(server: &str, export: &str, into: &str) -> PullRequest {
    PullRequest {
        from: Source {
            server: server.into(),
            export: export.into(),
            secret: Some(Secret(SECRET.into())),
            identity: Some(Secret(IDENTITY.into())),
            host_key: Some(KEY.into()),
            ..Source::default()
        },
        into: into.into(),
        ..PullRequest::default()
    }
}
