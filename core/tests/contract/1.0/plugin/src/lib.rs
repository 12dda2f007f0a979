//! What the frozen plugins share: each method compares its request with what was written down, talks to the host in
//! every way there is, and answers what was written down.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use systemimager_core::{Arg, BytePath, Host, Level, Place, PluginError, Progress, Result, Spawn};

/// Answers a method.
pub fn replay<I: Serialize, O: DeserializeOwned>(host: &dyn Host, name: &str, request: &I) -> Result<O> {
    let calls: Value = serde_json::from_str(include_str!("../calls.json")).map_err(failed)?;
    let call = &calls[name];
    let request = serde_json::to_value(request).map_err(failed)?;
    if request != call["request"] {
        return Err(PluginError::invalid(format!("it was asked {request} instead of {}", call["request"])));
    }
    host.log(Level::Info, &format!("understood {name}"));
    talk(host)?;
    serde_json::from_value(call["answer"].clone()).map_err(failed)
}

fn failed(error: serde_json::Error) -> PluginError {
    PluginError::failed(error.to_string())
}

fn talk(host: &dyn Host) -> Result<()> {
    let say = |text: String| host.log(Level::Info, &text);
    let place = Place::Tree { root: "/srv".into() };
    say(format!("read {}", host.read(&place, &"/etc/hosts".into())?.lossy()));
    say(format!("list {:?}", host.list(&Place::Running, &"/etc".into())?));
    let output = host.run("blkid", &["-p".into(), BytePath::from("/dev/sda1")])?;
    say(format!("run {} {}", output.code, output.stdout.lossy()));
    for disk in host.block_devices()? {
        say(format!("block_devices {} {}", disk.name, disk.sector_size));
    }
    say(format!("cancelled {}", host.cancelled()));
    let process = host.spawn(&Spawn { argv: Arg::words(["tool", "word"]), ..Spawn::default() })?;
    let chunk = host.read_output(process, 10)?;
    host.stop(process)?;
    let exit = host.wait(process)?;
    say(format!("spawn {}, read_output {}, wait {:?} {}", process.0, chunk.stdout.lossy(), exit.code, exit.stderr));
    let error = host.read(&Place::Running, &"/nothing".into()).err();
    say(format!("an error {:?}", error.map(|error| error.kind).ok_or_else(|| PluginError::failed("no error"))?));
    host.progress(&Progress { bytes: 5, ..Progress::default() });
    say("progress".into());
    Ok(())
}
