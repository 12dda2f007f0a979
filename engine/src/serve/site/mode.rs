//! Who serves DHCP: `[dhcp] mode` in the settings, and whether a site's configuration that we wrote says otherwise.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use toml_edit::{DocumentMut, Item, Table, value};

use super::{Flavor, dnsmasq, isc, kea};
use crate::config::{Config, DhcpMode, below, parse_settings};

/// The settings with this mode, all else, comments too, as it was. Pure.
///
/// # Errors
/// The settings are wrong: `file` with line and column.
pub fn with_mode(file: &Path, text: &str, mode: DhcpMode) -> Result<String> {
    parse_settings(file, text)?;
    let mut document: DocumentMut = text.parse().with_context(|| format!("reading {}", file.display()))?;
    let dhcp = document.entry("dhcp").or_insert_with(|| Item::Table(Table::new()));
    let table = dhcp.as_table_like_mut().with_context(|| format!("{}: dhcp is no table", file.display()))?;
    match table.get_mut("mode").and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = mode.to_string().into();
            *old.decor_mut() = decor;
        }
        None => {
            table.insert("mode", value(mode.to_string()));
        }
    }
    let text = document.to_string();
    // What is written can be read: nothing of it was there twice, or elsewhere.
    parse_settings(file, &text)?;
    Ok(text)
}

/// Where our subnet begins in a configuration, if it is there. Pure.
fn served(flavor: Flavor, text: &str) -> Option<usize> {
    match flavor {
        Flavor::Isc => isc::served(text),
        Flavor::Dnsmasq => dnsmasq::served(text),
        Flavor::Kea => kea::read(Path::new("x"), text).ok()?.served,
    }
}

/// Configurations that `makedhcpserver` wrote, at the places where servers look for them, with the line of our part.
/// What cannot be read is passed over: it is the site's.
pub fn sites(config: &Config) -> Vec<(Flavor, PathBuf, usize)> {
    let mut found = Vec::new();
    for flavor in Flavor::ALL {
        for file in flavor.files() {
            let file = below(&config.root, Path::new(file));
            if let Some(line) = std::fs::read_to_string(&file).ok().and_then(|text| served(flavor, &text)) {
                found.push((flavor, file, line));
            }
        }
    }
    found
}

/// That `serve` would serve DHCP although `makedhcpserver` set up a server of the site's for it; what to do.
pub fn contradiction(config: &Config) -> Option<String> {
    let mode = config.settings.dhcp.mode;
    if mode == DhcpMode::Off {
        return None;
    }
    let (flavor, file, line) = sites(config).into_iter().next()?;
    Some(format!(
        "{}:{line}: makedhcpserver has set up {} to serve DHCP, and dhcp.mode is \"{mode}\": two servers would answer; set \
         mode = \"off\" below [dhcp] in {}, or take that part out of the file and stop {}",
        file.display(),
        flavor.tool().name(),
        config.settings_file().display(),
        flavor.unit(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_changes_and_comments_stay() {
        let file = Path::new("s.toml");
        for (name, before, after) in [
            ("nothing", "", "[dhcp]\nmode = \"off\"\n"),
            (
                "no table",
                "# a\n[server]\nhttp_port = 1 # b\n",
                "# a\n[server]\nhttp_port = 1 # b\n\n[dhcp]\nmode = \"off\"\n",
            ),
            ("no mode", "[dhcp]\n# a\ndomain = \"x\" # b\n", "[dhcp]\n# a\ndomain = \"x\" # b\nmode = \"off\"\n"),
            ("another", "[dhcp] # a\nmode = \"proxy\" # b\n# c\n", "[dhcp] # a\nmode = \"off\" # b\n# c\n"),
            ("dotted", "dhcp.mode = \"server\" # a\n", "dhcp.mode = \"off\" # a\n"),
            ("inline", "dhcp = { mode = \"server\" }\n", "dhcp = { mode = \"off\" }\n"),
            ("already", "[dhcp]\nmode = \"off\"\n", "[dhcp]\nmode = \"off\"\n"),
        ] {
            assert_eq!(with_mode(file, before, DhcpMode::Off).expect(name), after, "{name}");
        }
        let error = with_mode(file, "[dhcp]\nmod = 1\n", DhcpMode::Off).unwrap_err().to_string();
        assert!(error.starts_with("s.toml:2:1: "), "{error}");
    }

    #[test]
    fn two_servers_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::load(Some(dir.path()), None).unwrap();
        assert_eq!(contradiction(&config), None);
        let block = "a;\n# systemimager begin dhcp: x\n# systemimager end dhcp\n";
        let kea = "{ \"Dhcp4\": { \"subnet4\": [ \n { \"user-context\": { \"systemimager\": 1 } } ] } }";
        for (file, text, line) in [
            ("etc/dhcp/dhcpd.conf", block, 2),
            ("etc/dhcpd.conf", block, 2),
            ("etc/dnsmasq.d/systemimager.conf", block, 2),
            ("etc/kea/kea-dhcp4.conf", kea, 2),
        ] {
            let file = dir.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, text).unwrap();
            for mode in [DhcpMode::Server, DhcpMode::Proxy] {
                config.settings.dhcp.mode = mode;
                let says = contradiction(&config).expect("noticed");
                assert!(says.starts_with(&format!("{}:{line}: ", file.display())), "{says}");
                assert!(says.contains(&format!("dhcp.mode is \"{mode}\"")), "{says}");
            }
            config.settings.dhcp.mode = DhcpMode::Off;
            assert_eq!(contradiction(&config), None);
            std::fs::write(&file, "# systemimager begin dhcp: x\n").unwrap();
            config.settings.dhcp.mode = DhcpMode::Server;
            assert_eq!(contradiction(&config), None, "what is not whole is the site's to mend");
        }
    }
}
