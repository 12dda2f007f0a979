//! New ssh host keys: the old ones go, and the target's own program makes keys of the same types. Pure.

use systemimager_core::{Action, Arg, ErrorKind, Identity, PluginError, Result, Step, Written};

use super::find::{Held, KeyFile};
use super::{remove, step};

/// The steps.
///
/// # Errors
/// `Missing`: there are keys, and no program to make new ones. `Invalid`: a key of a type that is not known.
pub fn plan(held: &Held, identity: &Identity, image: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = held.ssh_files.iter().map(|path| remove("an ssh host key", path)).collect();
    for (keys, program, has, package) in [
        (&held.ssh_keys, "ssh-keygen", held.ssh_keygen, "openssh-client on Debian, openssh on others"),
        (&held.dropbear_keys, "dropbearkey", held.dropbearkey, "dropbear-bin on Debian, dropbear on others"),
    ] {
        let wanted = made_anew(keys);
        let Some(first) = wanted.first() else { continue };
        if !has {
            return Err(PluginError::new(
                ErrorKind::Missing,
                format!(
                    "the image {image} has ssh host keys ({}) and no {program} to make new ones; install it there \
                     ({package}), remove the keys from the image, or let clones share them: name what is to be scrubbed, \
                     without ssh-host-keys, as [identity] scrub in its master file",
                    first.path
                ),
            ));
        }
        for key in wanted {
            let Some(kind) = &key.kind else {
                return Err(PluginError::invalid(format!(
                    "the type of the ssh host key {} in the image {image} is not known (its .pub tells it: rsa, ecdsa, \
                     ed25519), so no new one of that type can be made; make its .pub there with ssh-keygen -y, remove it \
                     from the image, or name what is to be scrubbed, without ssh-host-keys, as [identity] scrub in its \
                     master file",
                    key.path
                )));
            };
            steps.push(make(program, key, kind, identity));
        }
    }
    Ok(steps)
}

/// Keys that get a successor. Newer programs make no keys of protocol 1 and of DSA, and need none: these go, DSA only
/// where something is left.
fn made_anew(keys: &[KeyFile]) -> Vec<&KeyFile> {
    let old = |key: &&KeyFile| key.kind.as_deref() == Some("dsa");
    let keys: Vec<&KeyFile> = keys.iter().filter(|key| key.kind.as_deref() != Some("rsa1")).collect();
    if keys.iter().all(old) { keys } else { keys.into_iter().filter(|key| !old(key)).collect() }
}

fn make(program: &str, key: &KeyFile, kind: &str, identity: &Identity) -> Step {
    let mut argv = match program {
        "ssh-keygen" => Arg::words(["ssh-keygen", "-q", "-t", kind]),
        // It calls DSA by its name in the protocol.
        _ => Arg::words([program, "-t", if kind == "dsa" { "dss" } else { kind }]),
    };
    if let Some(bits) = key.bits {
        argv.extend(Arg::words([if program == "ssh-keygen" { "-b" } else { "-s" }, &bits.to_string()]));
    }
    let path = key.path.as_str();
    let mut written = vec![Written::path(path)];
    if program == "ssh-keygen" {
        // No passphrase: nobody is there to type it. The comment would else name the miniature system.
        argv.extend(Arg::words(["-N", "", "-C", &format!("root@{}", identity.name)]));
        written.push(Written::path(format!("{path}.pub").as_str()));
    }
    argv.extend(Arg::words(["-f", path]));
    let action = Action::InTarget { argv, stdin: None };
    step(format!("make a new ssh host key ({kind}): {path}"), action).writing(written)
}
