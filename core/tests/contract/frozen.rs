//! A plugin of each kind that was built against core as it was when it was frozen: its sources, and how it fares in
//! the loader of now. It answers every method with what was written down, and tells what it was asked.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use systemimager_core::loader::load_file;
use systemimager_core::testing::RecordedHost;
use systemimager_core::{BlockDevice, Exit, Registry, Result, contract};

use crate::{common, frozen_dir, read, types};

/// Kinds, and how their files are called.
const KINDS: [(&str, &str); 5] = [
    ("Transport", "transport"),
    ("FileSystem", "file_system"),
    ("Partitioner", "partitioner"),
    ("Bootloader", "bootloader"),
    ("HostIdentity", "host_identity"),
];

/// The plugins' sources, made from the description.
pub fn sources(description: &Value) -> Vec<(String, String)> {
    KINDS
        .iter()
        .map(|(kind, file)| {
            let mut text = format!(
                "//! Made by `cargo xtask freeze-contract`: answers as it was written down.\n\n\
                 #[allow(unused_imports, reason = \"each kind uses some\")]\n\
                 use std::collections::BTreeMap;\n\n\
                 #[allow(unused_imports, reason = \"each kind uses some\")]\n\
                 use systemimager_core::{{contract::*, *}};\n\n\
                 /// The plugin.\npub struct Frozen;\n\n\
                 declare_plugin! {{\n    kind: {kind},\n    id: frozen,\n    about: \"as it was when it was frozen\",\n    \
                 make: Frozen,\n}}\n\nimpl {kind} for Frozen {{\n"
            );
            for part in ["required", "optional"] {
                for (method, it) in description["traits"][kind][part].as_object().unwrap() {
                    let (request, answer) = (it["request"].as_str().unwrap(), it["answer"].as_str().unwrap());
                    text += &format!(
                        "    fn {method}(&self, host: &dyn Host, request: {request}) -> Result<{answer}> {{\n        \
                         contract_frozen::replay(host, \"{kind}.{method}\", &request)\n    }}\n"
                    );
                }
            }
            (format!("plugin/examples/{file}.rs"), text + "}\n")
        })
        .collect()
}

/// cargo's folder for what stands outside the workspace; kept, so that it is built once.
fn target() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.ancestors().nth(3).unwrap().join("strangers")
}

fn build() {
    let cargo = |more: &[&str]| {
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--examples", "--locked"])
            .args(more)
            .current_dir(frozen_dir().join("plugin"))
            .env("CARGO_TARGET_DIR", target())
            .output()
            .unwrap()
    };
    // What it needs is in the workspace's lock file too, for as long as that names the same versions.
    let mut output = cargo(&["--offline"]);
    if !output.status.success() {
        output = cargo(&[]);
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A line for each method that no longer does what it did.
pub fn breaches() -> Vec<String> {
    build();
    let dir = common::trusted_dir();
    let calls = read("plugin/calls.json");
    let mut found = Vec::new();
    for (kind, file) in KINDS {
        let to = dir.path().join(format!("{file}.so"));
        std::fs::copy(target().join(format!("debug/examples/lib{file}.so")), &to).unwrap();
        common::mode(&to, 0o644);
        let mut registry = Registry::default();
        if let Err(error) = load_file(&mut registry, &to) {
            found.push(format!("the frozen {kind} is refused: {error}"));
            continue;
        }
        for (name, call) in calls.as_object().unwrap() {
            let Some(method) = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('.')) else { continue };
            let result = (|| {
                let host = host();
                let request = serde_json::to_vec(&call["request"]).map_err(|error| error.to_string())?;
                // By way of the typed plugin of now: its types read the request and the answer of then.
                let answer = call_typed(&registry, kind, method, &request, &host).map_err(|error| error.to_string())?;
                let answer = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
                if let Some(lost) = types::lost(&call["answer"], &answer) {
                    return Err(format!("it answers, and {lost}"));
                }
                heard(&host, name)
            })();
            if let Err(why) = result {
                found.push(format!("the frozen plugin's {name}: {why}"));
            }
        }
    }
    found
}

fn call_typed(registry: &Registry, kind: &str, method: &str, request: &[u8], host: &RecordedHost) -> Result<Vec<u8>> {
    match kind {
        "Transport" => contract::dispatch_transport(registry.transport("frozen")?, method, request, host),
        "FileSystem" => contract::dispatch_filesystem(registry.filesystem("frozen")?, method, request, host),
        "Partitioner" => contract::dispatch_partitioner(registry.partitioner("frozen")?, method, request, host),
        "Bootloader" => contract::dispatch_bootloader(registry.bootloader("frozen")?, method, request, host),
        _ => contract::dispatch_identity(registry.identity("frozen")?, method, request, host),
    }
}

fn host() -> RecordedHost {
    let disk = BlockDevice { name: "sda".into(), path: "/dev/sda".into(), sector_size: 512, ..BlockDevice::default() };
    let mut host = RecordedHost::new()
        .file("/etc/hosts", "127.0.0.1 localhost\n")
        .tool("blkid -p /dev/sda1", "TYPE=x\n")
        .program(&["output\n"], Exit { code: Some(3), stderr: "said".into(), ..Exit::default() });
    host.disks.push(disk);
    host
}

/// What the frozen plugin said: it understood the request, and every call of the host's.
fn heard(host: &RecordedHost, name: &str) -> Result<(), String> {
    let said: Vec<String> = host.logged.lock().unwrap().iter().map(|(_, line)| line.clone()).collect();
    let expected = [
        format!("understood {name}"),
        "read 127.0.0.1 localhost\n".to_owned(),
        "list [\"hosts\"]".to_owned(),
        "run 0 TYPE=x\n".to_owned(),
        "block_devices sda 512".to_owned(),
        "cancelled false".to_owned(),
        "spawn 1, read_output output\n, wait Some(3) said".to_owned(),
        "an error NotFound".to_owned(),
        "progress".to_owned(),
    ];
    let progressed = host.progressed.lock().unwrap().first().map(|it| it.bytes);
    if said == expected && progressed == Some(5) {
        return Ok(());
    }
    Err(format!("it heard from the host {said:?}, progress {progressed:?}; {expected:?} was expected"))
}
