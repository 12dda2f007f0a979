//! The contract only appends. What it is now is held against what it was when it was frozen, in four ways: the
//! description of traits and types that was written then; JSON of every type, as a program of then wrote it; a plugin
//! that carries its own copy of core from then, opened by the loader of now; and the waist, by that loader's layouts.
//!
//! `cargo xtask freeze-contract` renews all of it; CONTRIBUTING.md says when one may.
#![allow(clippy::disallowed_methods, reason = "builds the frozen plugin")]

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod describe;
mod examples;
mod frozen;
mod types;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What a breach ends with.
const ADVICE: &str = "The contract only appends within a major version: sites' plugins were built against what it was. \
    Append instead (a field with #[serde(default)], an optional method, a variant of a #[non_exhaustive] enum). Before \
    the first release it may be renewed: `cargo xtask freeze-contract`, and a line in CHANGELOG.md that says what broke. \
    After it, only in a new major version.";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the frozen things are.
fn frozen_dir() -> PathBuf {
    root().join("tests/contract/1.0")
}

fn read(name: &str) -> Value {
    let path = frozen_dir().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(name: &str, text: &str) {
    let path = frozen_dir().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Whether everything is to be written anew.
fn freezing() -> bool {
    std::env::var_os("FREEZE_CONTRACT").is_some()
}

#[test]
fn nothing_is_gone_renamed_or_asked_for_anew() {
    let now = describe::describe(&root().join("src"));
    if freezing() {
        let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap() + "\n";
        write("description.json", &pretty(&now));
        write("examples.json", &pretty(&examples::all(&now)));
        write("plugin/calls.json", &pretty(&examples::calls(&now)));
        for (name, text) in frozen::sources(&now) {
            write(&name, &text);
        }
        return;
    }
    let breaches = compare::breaches(&read("description.json"), &now);
    assert!(breaches.is_empty(), "{}\n{ADVICE}", breaches.join("\n"));
}

#[test]
fn what_was_written_then_is_understood_now() {
    if freezing() {
        return;
    }
    let mut breaches = Vec::new();
    for (name, values) in read("examples.json").as_object().unwrap() {
        for value in values.as_array().unwrap() {
            if let Err(why) = types::kept(name, value) {
                breaches.push(format!("{name}: {why}"));
            }
        }
    }
    assert!(breaches.is_empty(), "{}\n{ADVICE}", breaches.join("\n"));
}

#[test]
fn a_plugin_of_then_works_now() {
    if freezing() || common::lacks_root("a_plugin_of_then_works_now") {
        return;
    }
    let breaches = frozen::breaches();
    assert!(breaches.is_empty(), "{}\n{ADVICE}", breaches.join("\n"));
}

type Spoil = fn(&mut Value);

#[test]
fn each_breach_is_found_and_appending_is_none() {
    let old = describe::describe(&root().join("src"));
    let rows: [(&str, Spoil, &str); 15] = [
        ("the same", |_| {}, ""),
        (
            "a method is renamed",
            |it| {
                let methods = it["traits"]["FileSystem"]["required"].as_object_mut().unwrap();
                let method = methods.remove("plan_make").unwrap();
                it["traits"]["FileSystem"]["optional"]["plan_creation"] = method;
            },
            "FileSystem::plan_make is gone or renamed",
        ),
        (
            "a method asks for something else",
            |it| it["traits"]["FileSystem"]["required"]["plan_mount"]["request"] = json!("MountLayout"),
            "FileSystem::plan_mount takes MountLayout instead of FileSystemMount",
        ),
        (
            "a method has to be there",
            |it| it["traits"]["Transport"]["required"]["more"] = json!({"request": "()", "answer": "()"}),
            "Transport::more is new and required",
        ),
        (
            "a method may be there",
            |it| it["traits"]["Transport"]["optional"]["more"] = json!({"request": "()", "answer": "()"}),
            "",
        ),
        (
            "a method of the host changes",
            |it| it["host"]["read"] = json!("(& self) -> Result < Bytes >"),
            "Host::read is (& self) -> Result < Bytes >, and was",
        ),
        (
            "a field has to be there",
            |it| it["types"]["Needs"]["fields"]["more"] = json!({"type": "String", "serde": []}),
            "Needs.more is new and has no default",
        ),
        (
            "a field may be there",
            |it| it["types"]["Needs"]["fields"]["more"] = json!({"type": "String", "serde": ["default"]}),
            "",
        ),
        (
            "a field may be there, and is always said",
            |it| it["types"]["Layout"]["fields"]["more"] = json!({"type": "bool", "serde": ["default"]}),
            "Layout.more is always written, and an older plugin refuses fields that it does not know",
        ),
        (
            "a field changes its type",
            |it| it["types"]["Step"]["fields"]["phase"]["type"] = json!("String"),
            "Step.phase is of the type String instead of Phase",
        ),
        (
            "a field loses its default",
            |it| it["types"]["Step"]["fields"]["writes"]["serde"] = json!([]),
            "Step.writes no longer says #[serde(default)]",
        ),
        (
            "a field is gone",
            |it| {
                it["types"]["Step"]["fields"].as_object_mut().unwrap().remove("what");
            },
            "Step.what is gone or renamed",
        ),
        (
            "a variant of a closed enum",
            |it| it["types"]["Role"]["variants"]["More"] = json!({"serde": []}),
            "Role::More is new, and Role is not #[non_exhaustive]",
        ),
        ("a variant of an open enum", |it| it["types"]["Action"]["variants"]["More"] = json!({"serde": []}), ""),
        (
            "the waist",
            |it| it["waist"]["RawPlugin"].as_array_mut().unwrap().insert(0, json!("fn more (& self)")),
            "the waist's RawPlugin no longer begins with what it was",
        ),
    ];
    for (name, spoil, says) in rows {
        let mut new = old.clone();
        spoil(&mut new);
        let found = compare::breaches(&old, &new);
        if says.is_empty() {
            assert!(found.is_empty(), "{name}: {found:?}");
        } else {
            assert!(found.iter().any(|line| line.starts_with(says)), "{name}: {found:?}");
        }
    }
}
