//! What the contract is, read from core's own sources: traits, types with their serde attributes, the waist.

use std::path::Path;

use quote::ToTokens;
use serde_json::{Map, Value, json};
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Fields, Ident, Item, LitStr, Token, Type, braced, parenthesized};

/// The description of the sources below `src`.
pub fn describe(src: &Path) -> Value {
    let mut traits = Map::new();
    let mut types = Map::new();
    let mut files: Vec<_> = ["contract", "data"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(src.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.extend([src.join("error.rs"), src.join("abi/identity.rs")]);
    files.sort();
    for file in files {
        for item in parse(&file).items {
            match item {
                Item::Macro(item) if item.mac.path.segments.last().is_some_and(|it| it.ident == "contract") => {
                    let found: Contract =
                        item.mac.parse_body().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                    traits.insert(found.name, json!({"required": found.required, "optional": found.optional}));
                }
                Item::Struct(item) if crosses(&item.attrs) && is_public(&item.vis) => {
                    let mut it = json!({"serde": serde(&item.attrs)});
                    it["fields"] = fields(&item.fields);
                    types.insert(item.ident.to_string(), it);
                }
                Item::Enum(item) if crosses(&item.attrs) && is_public(&item.vis) => {
                    let mut variants = Map::new();
                    for variant in &item.variants {
                        let mut it = json!({"serde": serde(&variant.attrs)});
                        if !matches!(variant.fields, Fields::Unit) {
                            it["fields"] = fields(&variant.fields);
                        }
                        variants.insert(variant.ident.to_string(), it);
                    }
                    let open = item.attrs.iter().any(|attr| attr.path().is_ident("non_exhaustive"));
                    let it = json!({"serde": serde(&item.attrs), "open": open, "variants": variants});
                    types.insert(item.ident.to_string(), it);
                }
                _ => {}
            }
        }
    }
    json!({
        "contract": env!("CARGO_PKG_VERSION"), "traits": traits, "types": types, "host": host(src), "waist": waist(src),
        "symbols": [systemimager_core::abi::IDENTITY_PREFIX, systemimager_core::abi::ROOT_PREFIX],
    })
}

fn parse(file: &Path) -> syn::File {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

/// It derives Serialize: others (sizes, paths, names) are judged by their examples alone.
fn crosses(attrs: &[Attribute]) -> bool {
    let derives = |attr: &Attribute| attr.path().is_ident("derive") && text(&attr.meta).contains("Serialize");
    attrs.iter().any(derives)
}

fn text(tokens: &impl ToTokens) -> String {
    tokens.to_token_stream().to_string()
}

/// The type as one writes it: `Vec<Step>`.
fn type_text(ty: &Type) -> String {
    let text = text(ty).replace(' ', "").replace(',', ", ");
    text.rsplit_once("::").map_or(text.clone(), |(before, last)| {
        // `std::collections::BTreeMap<…>` and `super::Size` are told by their last name.
        let head: String =
            before.chars().rev().skip_while(|it| it.is_alphanumeric() || *it == '_' || *it == ':').collect();
        head.chars().rev().collect::<String>() + last
    })
}

/// What stands in `#[serde(…)]`, a word each.
fn serde(attrs: &[Attribute]) -> Vec<String> {
    let mut found: Vec<String> = attrs
        .iter()
        .filter(|attr| attr.path().is_ident("serde"))
        .flat_map(|attr| {
            let list = attr.meta.require_list().unwrap();
            let parser = syn::punctuated::Punctuated::<syn::Meta, Token![,]>::parse_terminated;
            list.parse_args_with(parser).unwrap().into_iter().map(|meta| text(&meta)).collect::<Vec<_>>()
        })
        .collect();
    found.sort();
    found
}

fn fields(fields: &Fields) -> Value {
    let one = |field: &syn::Field| json!({"type": type_text(&field.ty), "serde": serde(&field.attrs)});
    match fields {
        Fields::Named(named) => named
            .named
            .iter()
            .map(|field| (field.ident.as_ref().unwrap().to_string(), one(field)))
            .collect::<Map<_, _>>()
            .into(),
        Fields::Unnamed(unnamed) => unnamed.unnamed.iter().map(one).collect::<Vec<_>>().into(),
        Fields::Unit => json!({}),
    }
}

/// `contract! { pub trait Name, remote …, dispatch …; required { … } optional { … } }`
struct Contract {
    name: String,
    required: Map<String, Value>,
    optional: Map<String, Value>,
}

impl Parse for Contract {
    fn parse(input: ParseStream) -> syn::Result<Self> {
        input.call(Attribute::parse_outer)?;
        input.parse::<Token![pub]>()?;
        input.parse::<Token![trait]>()?;
        let name: Ident = input.parse()?;
        while !input.peek(Token![;]) {
            input.parse::<proc_macro2::TokenTree>()?;
        }
        input.parse::<Token![;]>()?;
        let (required, optional) = (methods(input)?, methods(input)?);
        Ok(Self { name: name.to_string(), required, optional })
    }
}

fn methods(input: ParseStream) -> syn::Result<Map<String, Value>> {
    input.parse::<Ident>()?;
    let body;
    braced!(body in input);
    let mut found = Map::new();
    while !body.is_empty() {
        body.call(Attribute::parse_outer)?;
        body.parse::<Token![fn]>()?;
        let name: Ident = body.parse()?;
        let request;
        parenthesized!(request in body);
        let request: Type = request.parse()?;
        body.parse::<Token![->]>()?;
        let answer: Type = body.parse()?;
        body.parse::<Token![;]>()?;
        found.insert(name.to_string(), json!({"request": type_text(&request), "answer": type_text(&answer)}));
    }
    Ok(found)
}

/// Methods of the host, with what they take and give.
fn host(src: &Path) -> Value {
    let mut found = Map::new();
    for item in parse(&src.join("host.rs")).items {
        let Item::Trait(item) = item else { continue };
        for method in item.items {
            if let syn::TraitItem::Fn(method) = method {
                let (inputs, output) = (&method.sig.inputs, &method.sig.output);
                found.insert(method.sig.ident.to_string(), format!("({}) {}", text(inputs), text(output)).into());
            }
        }
    }
    found.into()
}

/// The objects of the waist, what they hold in order.
fn waist(src: &Path) -> Value {
    let mut found = Map::new();
    for item in parse(&src.join("abi/waist.rs")).items {
        match item {
            Item::Trait(item) => {
                let methods = item.items.iter().filter_map(|it| match it {
                    syn::TraitItem::Fn(method) => Some(text(&method.sig)),
                    _ => None,
                });
                found.insert(item.ident.to_string(), methods.collect::<Vec<_>>().into());
            }
            Item::Struct(item) => {
                let fields = item.fields.iter().map(|field| format!("{} : {}", text(&field.ident), text(&field.ty)));
                found.insert(item.ident.to_string(), fields.collect::<Vec<_>>().into());
            }
            Item::Type(item) => {
                found.insert(item.ident.to_string(), vec![text(&item.ty)].into());
            }
            _ => {}
        }
    }
    found.into()
}

/// The value of a serde attribute: `kebab-case` of `rename_all = "kebab-case"`.
pub fn attribute(serde: &Value, name: &str) -> Option<String> {
    serde.as_array()?.iter().filter_map(Value::as_str).find_map(|word| {
        let value = word.strip_prefix(name)?.trim_start().strip_prefix('=')?.trim();
        syn::parse_str::<LitStr>(value).ok().map(|literal| literal.value())
    })
}

/// A serde attribute is there, with or without a value.
pub fn has(serde: &Value, name: &str) -> bool {
    let is =
        |word: &str| word == name || word.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='));
    serde.as_array().is_some_and(|words| words.iter().filter_map(Value::as_str).any(is))
}
