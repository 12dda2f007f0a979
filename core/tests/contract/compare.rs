//! What is in the newer of two descriptions that a plugin of the older cannot live with. Pure.

use serde_json::{Map, Value};

use crate::describe::has;

/// A line for each breach.
pub fn breaches(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |line: String| found.push(line);
    for (name, before) in &map(&old["traits"]) {
        let Some(now) = new["traits"].get(name) else {
            say(format!("the trait {name} is gone or renamed"));
            continue;
        };
        compare_trait(name, before, now, &mut say);
    }
    for (name, before) in &map(&old["host"]) {
        match new["host"].get(name) {
            None => say(format!("Host::{name} is gone or renamed")),
            Some(now) if now != before => say(format!("Host::{name} is {}, and was {}", word(now), word(before))),
            Some(_) => {}
        }
    }
    for (name, before) in &map(&old["types"]) {
        match new["types"].get(name) {
            None => say(format!("the type {name} is gone or renamed")),
            Some(now) => compare_type(name, before, now, &mut say),
        }
    }
    for (name, before) in &map(&old["waist"]) {
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        if !list(new["waist"].get(name)).starts_with(&list(Some(before))) {
            say(format!(
                "the waist's {name} no longer begins with what it was; libraries that are built could not be called"
            ));
        }
    }
    if old["symbols"] != new["symbols"] {
        say(format!("the exported symbols are called {}, and were {}", new["symbols"], old["symbols"]));
    }
    found
}

fn map(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn compare_trait(name: &str, before: &Value, now: &Value, say: &mut dyn FnMut(String)) {
    for part in ["required", "optional"] {
        for (method, old) in map(&before[part]) {
            let (required, optional) = (now["required"].get(&method), now["optional"].get(&method));
            let Some(new) = required.or(optional) else {
                say(format!("{name}::{method} is gone or renamed"));
                continue;
            };
            if part == "optional" && required.is_some() {
                say(format!("{name}::{method} is required now, and plugins need not have it"));
            }
            if new["request"] != old["request"] {
                say(format!("{name}::{method} takes {} instead of {}", word(&new["request"]), word(&old["request"])));
            }
            if new["answer"] != old["answer"] {
                say(format!("{name}::{method} answers {} instead of {}", word(&new["answer"]), word(&old["answer"])));
            }
        }
    }
    for method in map(&now["required"]).keys() {
        if before["required"].get(method).is_none() && before["optional"].get(method).is_none() {
            say(format!("{name}::{method} is new and required; put it under optional"));
        }
    }
}

fn compare_type(name: &str, before: &Value, now: &Value, say: &mut dyn FnMut(String)) {
    if before["serde"] != now["serde"] {
        say(format!("{name} says #[serde({})], and said #[serde({})]", now["serde"], before["serde"]));
    }
    let closed = has(&now["serde"], "deny_unknown_fields");
    match (before.get("variants"), now.get("variants")) {
        (Some(old), Some(new)) => {
            for (variant, old) in map(old) {
                let full = format!("{name}::{variant}");
                match new.get(&variant) {
                    None => say(format!("{full} is gone or renamed")),
                    Some(new) => compare_fields(&full, &old, new, closed, say),
                }
            }
            for variant in map(new).keys().filter(|variant| old.get(variant.as_str()).is_none()) {
                if now["open"] != true {
                    say(format!("{name}::{variant} is new, and {name} is not #[non_exhaustive]"));
                }
            }
        }
        (None, None) => compare_fields(name, before, now, closed, say),
        _ => say(format!("{name} was a struct and is an enum, or the other way round")),
    }
}

fn compare_fields(name: &str, before: &Value, now: &Value, closed: bool, say: &mut dyn FnMut(String)) {
    if before.get("fields").is_some_and(Value::is_array) || now.get("fields").is_some_and(Value::is_array) {
        if before != now {
            say(format!("{name} holds {}, and held {}", now["fields"], before["fields"]));
        }
        return;
    }
    if before["serde"] != now["serde"] && before.get("variants").is_none() && name.contains("::") {
        say(format!("{name} says #[serde({})], and said #[serde({})]", now["serde"], before["serde"]));
    }
    let (old, new) = (map(&before["fields"]), map(&now["fields"]));
    for (field, before) in &old {
        let Some(now) = new.get(field) else {
            say(format!("{name}.{field} is gone or renamed"));
            continue;
        };
        if now["type"] != before["type"] {
            say(format!("{name}.{field} is of the type {} instead of {}", word(&now["type"]), word(&before["type"])));
        }
        let words = |value: &Value| value["serde"].as_array().cloned().unwrap_or_default();
        for lost in words(before).iter().filter(|it| !words(now).contains(it)) {
            say(format!("{name}.{field} no longer says #[serde({})]", word(lost)));
        }
        // A default more is harmless; anything else changes what is written.
        for more in words(now).iter().filter(|it| !words(before).contains(it) && **it != "default") {
            say(format!("{name}.{field} says #[serde({})], and did not", word(more)));
        }
    }
    for (field, now) in new.iter().filter(|(field, _)| !old.contains_key(*field)) {
        if !has(&now["serde"], "default") && !word(&now["type"]).starts_with("Option<") {
            say(format!("{name}.{field} is new and has no default; say #[serde(default)]"));
        }
        if closed && !has(&now["serde"], "skip_serializing_if") {
            say(format!(
                "{name}.{field} is always written, and an older plugin refuses fields that it does not know; say \
                 skip_serializing_if, so that it is left out where nobody asked for it"
            ));
        }
    }
}
