//! Every type of the contract by its name: whether it still reads what was written, and still writes it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use systemimager_core::abi::Identification;
use systemimager_core::contract::*;
use systemimager_core::{ErrorKind, PluginError, data::*};

macro_rules! with_type {
    ($name:expr, $do:ident($value:expr)) => {
        match $name {
            "Action" => $do::<Action>($value),
            "Arg" => $do::<Arg>($value),
            "BlockDevice" => $do::<BlockDevice>($value),
            "BootEntry" => $do::<BootEntry>($value),
            "BootFile" => $do::<BootFile>($value),
            "BootOnce" => $do::<BootOnce>($value),
            "BootPlan" => $do::<BootPlan>($value),
            "BootTarget" => $do::<BootTarget>($value),
            "Booted" => $do::<Booted>($value),
            "BootedMount" => $do::<BootedMount>($value),
            "BootloaderDetect" => $do::<BootloaderDetect>($value),
            "BootloaderPlan" => $do::<BootloaderPlan>($value),
            "BootloaderRefresh" => $do::<BootloaderRefresh>($value),
            "BytePath" => $do::<BytePath>($value),
            "Bytes" => $do::<Bytes>($value),
            "Capabilities" => $do::<Capabilities>($value),
            "Change" => $do::<Change>($value),
            "ChangeKind" => $do::<ChangeKind>($value),
            "Chunk" => $do::<Chunk>($value),
            "Contents" => $do::<Contents>($value),
            "DiskLayout" => $do::<DiskLayout>($value),
            "DiskRule" => $do::<DiskRule>($value),
            "ErrorKind" => $do::<ErrorKind>($value),
            "Exit" => $do::<Exit>($value),
            "Export" => $do::<Export>($value),
            "FailedPath" => $do::<FailedPath>($value),
            "FileSystemDescribe" => $do::<FileSystemDescribe>($value),
            "FileSystemDetect" => $do::<FileSystemDetect>($value),
            "FileSystemFacts" => $do::<FileSystemFacts>($value),
            "FileSystemLayout" => $do::<FileSystemLayout>($value),
            "FileSystemMake" => $do::<FileSystemMake>($value),
            "FileSystemMount" => $do::<FileSystemMount>($value),
            "FileSystemType" => $do::<FileSystemType>($value),
            "Finished" => $do::<Finished>($value),
            "FstabEntry" => $do::<FstabEntry>($value),
            "Hardware" => $do::<Hardware>($value),
            "Holder" => $do::<Holder>($value),
            "HostFacts" => $do::<HostFacts>($value),
            "HostName" => $do::<HostName>($value),
            "Identification" => $do::<Identification>($value),
            "Identity" => $do::<Identity>($value),
            "IdentityDetect" => $do::<IdentityDetect>($value),
            "IdentityScrub" => $do::<IdentityScrub>($value),
            "IdentityWho" => $do::<IdentityWho>($value),
            "IdentityWrite" => $do::<IdentityWrite>($value),
            "ImageFacts" => $do::<ImageFacts>($value),
            "ImageName" => $do::<ImageName>($value),
            "Kernel" => $do::<Kernel>($value),
            "Kind" => $do::<Kind>($value),
            "Layout" => $do::<Layout>($value),
            "Lease" => $do::<Lease>($value),
            "Level" => $do::<Level>($value),
            "MountLayout" => $do::<MountLayout>($value),
            "Needs" => $do::<Needs>($value),
            "NetworkInterface" => $do::<NetworkInterface>($value),
            "NetworkMode" => $do::<NetworkMode>($value),
            "NetworkSettings" => $do::<NetworkSettings>($value),
            "NodeName" => $do::<NodeName>($value),
            "Offer" => $do::<Offer>($value),
            "PartitionInfo" => $do::<PartitionInfo>($value),
            "PartitionLayout" => $do::<PartitionLayout>($value),
            "PartitionerCapture" => $do::<PartitionerCapture>($value),
            "PartitionerFit" => $do::<PartitionerFit>($value),
            "PartitionerPlan" => $do::<PartitionerPlan>($value),
            "Phase" => $do::<Phase>($value),
            "Piece" => $do::<Piece>($value),
            "Place" => $do::<Place>($value),
            "PluginError" => $do::<PluginError>($value),
            "Probe" => $do::<Probe>($value),
            "ProcessId" => $do::<ProcessId>($value),
            "Program" => $do::<Program>($value),
            "Progress" => $do::<Progress>($value),
            "PullReport" => $do::<PullReport>($value),
            "PullRequest" => $do::<PullRequest>($value),
            "Role" => $do::<Role>($value),
            "Secret" => $do::<Secret>($value),
            "Service" => $do::<Service>($value),
            "ServiceFile" => $do::<ServiceFile>($value),
            "Signature" => $do::<Signature>($value),
            "Size" => $do::<Size>($value),
            "Source" => $do::<Source>($value),
            "Spawn" => $do::<Spawn>($value),
            "Step" => $do::<Step>($value),
            "ToolOutput" => $do::<ToolOutput>($value),
            "VolumeLayout" => $do::<VolumeLayout>($value),
            "Written" => $do::<Written>($value),
            "()" => $do::<()>($value),
            "BTreeMap<String, String>" => $do::<BTreeMap<String, String>>($value),
            "Option<BTreeMap<String, String>>" => $do::<Option<BTreeMap<String, String>>>($value),
            "Option<Identity>" => $do::<Option<Identity>>($value),
            "Vec<FileSystemType>" => $do::<Vec<FileSystemType>>($value),
            "Vec<Step>" => $do::<Vec<Step>>($value),
            "Vec<String>" => $do::<Vec<String>>($value),
            other => Err(format!("the type {other} is not there any more; or name it in core/tests/contract/types.rs")),
        }
    };
}

/// What is written now of a value that was written then.
pub fn written_now(name: &str, value: &Value) -> Result<Value, String> {
    with_type!(name, again(value))
}

/// Reads the value, writes it, and finds in that all that was there.
pub fn kept(name: &str, value: &Value) -> Result<(), String> {
    lost(value, &written_now(name, value)?).map_or(Ok(()), |lost| Err(format!("it is read, and {lost}")))
}

fn again<T: Serialize + DeserializeOwned>(value: &Value) -> Result<Value, String> {
    let read: T = serde_json::from_value(value.clone()).map_err(|error| format!("it is not understood: {error}"))?;
    serde_json::to_value(&read).map_err(|error| error.to_string())
}

/// The first thing that `old` says and `new` does not; `new` may say more.
pub fn lost(old: &Value, new: &Value) -> Option<String> {
    let below =
        |key: &dyn std::fmt::Display, old: &Value, new: &Value| lost(old, new).map(|lost| format!("{key}.{lost}"));
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.iter().find_map(|(key, value)| match new.get(key) {
            Some(now) => below(key, value, now),
            None => Some(format!("{key} is no longer written")),
        }),
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            old.iter().zip(new).enumerate().find_map(|(at, (old, new))| below(&at, old, new))
        }
        _ if old == new => None,
        _ => Some(format!("{new} is written instead of {old}")),
    }
}
