//! What offers have in common: the names of trees, and who may have them.

use std::net::IpAddr;

use systemimager_core::{PluginError, Result};

/// Whether a name holds nothing but letters, digits, `.`, `_` and `-`: it stands in configuration files and URLs as it is.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// The name of a tree on offer, as it stands in configuration files and in what the other side asks for.
///
/// # Errors
/// `Invalid`: it holds anything but letters, digits, `.`, `_` and `-`, or begins like an option or a hidden file.
pub fn export_name(name: &str) -> Result<()> {
    if name.starts_with(['.', '-']) || !is_plain(name) {
        return Err(PluginError::invalid(format!(
            "{name:?} cannot be the name of a tree on offer; use letters, digits, '.', '_' and '-'"
        )));
    }
    Ok(())
}

/// Who is admitted: an address or a prefix. Names are refused, because they would be looked up.
///
/// # Errors
/// `Invalid`: it is neither.
pub fn admitted(export: &str, text: &str) -> Result<String> {
    let no = || {
        PluginError::invalid(format!(
            "{text:?}, who may have {export}, is neither an address nor a prefix such as 10.0.0.0/24"
        ))
    };
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| no())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| no())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match prefix {
        Some(prefix) if prefix > most => Err(no()),
        Some(prefix) => Ok(format!("{address}/{prefix}")),
        None => Ok(address.to_string()),
    }
}
