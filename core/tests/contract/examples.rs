//! JSON of every type as its description says it is written: with all fields, and with none that may be left out.
//! Pure.

use serde_json::{Map, Value, json};

use crate::describe::{attribute, has};

/// Examples of every described type, and of every type that a method takes or gives.
pub fn all(description: &Value) -> Value {
    let mut found = Map::new();
    let types = description["types"].as_object().unwrap();
    let mut names: Vec<String> = types.keys().cloned().collect();
    names.extend(OPAQUE.iter().map(|(name, _)| (*name).to_owned()));
    for (_, method) in methods(description) {
        names.extend(["request", "answer"].map(|side| method[side].as_str().unwrap().to_owned()));
    }
    for name in names {
        let mut values = Vec::new();
        for full in [true, false] {
            for value in every(types, &name, full) {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
        }
        if let Some((_, more)) = MORE.iter().find(|(it, _)| *it == name) {
            values.extend(more.iter().map(|text| serde_json::from_str::<Value>(text).unwrap()));
        }
        found.insert(name, values.into());
    }
    found.into()
}

/// A full request and a full answer of every method: `Transport.pull`.
pub fn calls(description: &Value) -> Value {
    let types = description["types"].as_object().unwrap();
    methods(description)
        .into_iter()
        .map(|(name, method)| {
            let one = |side: &str| example(types, method[side].as_str().unwrap(), true);
            let call = json!({
                "request_type": method["request"], "request": one("request"),
                "answer_type": method["answer"], "answer": one("answer"),
            });
            (name, call)
        })
        .collect::<Map<_, _>>()
        .into()
}

/// All methods, with the trait's name before theirs.
pub fn methods(description: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, it) in description["traits"].as_object().unwrap() {
        for part in ["required", "optional"] {
            found.extend(
                it[part].as_object().unwrap().iter().map(|(method, it)| (format!("{name}.{method}"), it.clone())),
            );
        }
    }
    found
}

/// Types that write themselves, and what they write.
const OPAQUE: [(&str, &str); 6] = [
    ("BytePath", "\"/srv/a b\""),
    ("Bytes", "\"text\\n\""),
    ("Size", "\"1536 MiB\""),
    ("HostName", "\"www1.example.org\""),
    ("ImageName", "\"web-v1\""),
    ("NodeName", "\"disk0p1\""),
];

/// Further forms of some.
const MORE: [(&str, &[&str]); 3] = [
    ("BytePath", &["{\"base64\": \"/y9h\"}", "\"a\\nb\""]),
    ("Bytes", &["{\"base64\": \"AP8=\"}"]),
    ("Size", &["\"0 B\"", "\"4 TiB\"", "\"513 B\""]),
];

/// One value, or one for each variant.
fn every(types: &Map<String, Value>, name: &str, full: bool) -> Vec<Value> {
    match types.get(name).and_then(|it| it.get("variants")) {
        Some(variants) => {
            let variants = variants.as_object().unwrap();
            variants.iter().map(|(variant, it)| self::variant(types, &types[name], variant, it, full)).collect()
        }
        None => vec![example(types, name, full)],
    }
}

fn inner<'a>(ty: &'a str, outer: &str) -> Option<&'a str> {
    ty.strip_prefix(outer)?.strip_prefix('<')?.strip_suffix('>')
}

fn example(types: &Map<String, Value>, ty: &str, full: bool) -> Value {
    if let Some(it) = types.get(ty) {
        if let Some(variants) = it.get("variants") {
            let (name, first) = variants.as_object().unwrap().iter().next().unwrap();
            return variant(types, it, name, first, full);
        }
        return body(types, &it["fields"], it, full);
    }
    if let Some((_, text)) = OPAQUE.iter().find(|(name, _)| *name == ty) {
        return serde_json::from_str(text).unwrap();
    }
    if let Some(ty) = inner(ty, "Option").or_else(|| inner(ty, "Box")) {
        return example(types, ty, full);
    }
    if let Some(ty) = inner(ty, "Vec") {
        return json!([example(types, ty, full)]);
    }
    if let Some(ty) = inner(ty, "BTreeMap") {
        let (_, value) = ty.split_once(", ").unwrap();
        return json!({"key": example(types, value, full)});
    }
    if ty == "()" {
        return Value::Null;
    }
    if let Some(parts) = ty.strip_prefix('(').and_then(|ty| ty.strip_suffix(')')) {
        return parts.split(", ").map(|ty| example(types, ty, full)).collect();
    }
    match ty {
        "String" => json!("text"),
        "bool" => json!(true),
        "u8" | "u16" | "u32" | "u64" | "i32" => json!(7),
        "IpAddr" => json!("192.0.2.1"),
        other => panic!("no example is known of {other}; add it to core/tests/contract/examples.rs"),
    }
}

/// A struct's fields, or what a variant holds.
fn body(types: &Map<String, Value>, fields: &Value, owner: &Value, full: bool) -> Value {
    if let Some(fields) = fields.as_array() {
        let mut values: Vec<Value> =
            fields.iter().map(|field| example(types, field["type"].as_str().unwrap(), full)).collect();
        return if values.len() == 1 { values.remove(0) } else { values.into() };
    }
    let mut found = Map::new();
    for (name, field) in fields.as_object().unwrap() {
        let ty = field["type"].as_str().unwrap();
        let may_lack = has(&field["serde"], "default") || has(&owner["serde"], "default") || ty.starts_with("Option<");
        if full || !may_lack {
            found.insert(attribute(&field["serde"], "rename").unwrap_or(name.clone()), example(types, ty, full));
        }
    }
    found.into()
}

fn variant(types: &Map<String, Value>, owner: &Value, name: &str, it: &Value, full: bool) -> Value {
    let kebab = attribute(&owner["serde"], "rename_all").is_some_and(|case| case == "kebab-case");
    let called = attribute(&it["serde"], "rename").unwrap_or(if kebab { kebab_case(name) } else { name.to_owned() });
    let held = it.get("fields").map(|fields| body(types, fields, it, full));
    match (attribute(&owner["serde"], "tag"), held) {
        (Some(tag), held) => {
            let mut value = held.unwrap_or(json!({}));
            value[tag] = called.into();
            value
        }
        (None, Some(held)) => json!({called: held}),
        (None, None) => called.into(),
    }
}

fn kebab_case(name: &str) -> String {
    let mut text = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}
