//! The configuration file of pxelinux, syslinux and isolinux (syslinux 6): its name, and its text from boot entries. The
//! body is the same for the network and for media.
//!
//! A line is a directive and there is no quoting: what could end a word or a line is refused, never mended.

use std::fmt::Write as _;

use systemimager_core::{BootEntry, PluginError, Result};

/// x86 kernels take 2048 bytes with the terminating NUL; pxelinux adds `initrd=`, `BOOT_IMAGE=` and `BOOTIF=`.
const LONGEST_COMMAND_LINE: usize = 1700;

/// Tenths of a second after which a machine whose prompt was called up (a stuck key) goes on by itself.
const TIMEOUT: u32 = 300;

/// Tenths of a second that a medium waits for somebody who wants something else.
const ASKS: u32 = 50;
/// Tenths of a second after which a medium goes on whatever was typed: noise on a serial line must not keep a machine.
const ASKS_AT_MOST: u32 = 600;

/// How kernel and initrd are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    /// From where pxelinux itself came.
    Tftp,
    /// From the image server; the URL up to the path, without a slash at the end.
    Http(String),
    /// They lie on the medium, from its root.
    Medium,
}

impl Fetch {
    /// By HTTP; the paths are those below the network root.
    pub fn http(server: &str, port: u16) -> Result<Self> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
        if server.is_empty() || !server.chars().all(plain) {
            return Err(PluginError::invalid(format!(
                "the image server's address {server:?} is neither an IPv4 address nor a name, and pxelinux knows \
                 no other; name one in the server's configuration"
            )));
        }
        Ok(Fetch::Http(format!("http://{server}:{port}")))
    }

    fn location(&self, path: &str) -> String {
        match self {
            Fetch::Tftp => path.to_owned(),
            Fetch::Http(server) => format!("{server}/{path}"),
            Fetch::Medium => format!("/{path}"),
        }
    }
}

/// The name of the file, absolute in the network root: for one machine, or for all that have none.
pub fn path(mac: Option<&str>) -> Result<String> {
    let Some(mac) = mac else { return Ok("/pxelinux.cfg/default".into()) };
    let octets: Vec<&str> = mac.split([':', '-']).collect();
    let hex = |octet: &&str| octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_hexdigit());
    if octets.len() != 6 || !octets.iter().all(hex) {
        return Err(PluginError::invalid(format!("{mac:?} is not a MAC address; write it as 52:54:00:12:34:56")));
    }
    // 01: the hardware type Ethernet.
    Ok(format!("/pxelinux.cfg/01-{}", octets.join("-").to_ascii_lowercase()))
}

/// The text of the file.
pub fn text(entries: &[BootEntry], default: Option<&str>, fetch: &Fetch) -> Result<String> {
    if entries.is_empty() {
        return Err(PluginError::invalid("there is no boot entry: a machine would have nothing to boot; give one"));
    }
    for (index, entry) in entries.iter().enumerate() {
        check(entry)?;
        // pxelinux takes the first of two.
        if entries.iter().take(index).any(|other| other.name.eq_ignore_ascii_case(&entry.name)) {
            return Err(PluginError::invalid(format!(
                "two boot entries are named {:?} (capitals do not count); give each its own name",
                entry.name
            )));
        }
    }
    if let Some(default) = default.filter(|default| !entries.iter().any(|entry| entry.name == *default)) {
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        return Err(PluginError::invalid(format!(
            "the default boot entry {default:?} is not there; there is {}",
            names.join(", ")
        )));
    }

    let mut text = String::new();
    // What goes wrong before the kernel runs must be seen on the console that the kernel is told to use.
    // SERIAL has to come first.
    if let Some((port, baud)) = serial(entries, default) {
        let _ = writeln!(text, "SERIAL {port} {baud}");
    }
    text.push_str("# Written by SystemImager; changes are lost when boot entries are written anew.\n");
    let names = || entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join(" ");
    match default {
        // Somebody is there who put the medium in.
        Some(default) if *fetch == Fetch::Medium => {
            let _ = write!(
                text,
                "SAY Boots {default} in {} seconds; or type one of: {}\nDEFAULT {default}\nPROMPT 1\nTIMEOUT {ASKS}\n\
                 TOTALTIMEOUT {ASKS_AT_MOST}\n",
                ASKS / 10,
                names()
            );
        }
        Some(default) => {
            let _ = write!(text, "DEFAULT {default}\nPROMPT 0\nTIMEOUT {TIMEOUT}\n");
        }
        // Nothing boots by itself: wait for somebody.
        None => {
            let _ = write!(text, "SAY Type one of: {}\nPROMPT 1\nTIMEOUT 0\n", names());
        }
    }
    for entry in entries {
        let _ = write!(text, "\nLABEL {}\n", entry.name);
        if !entry.title.trim().is_empty() {
            let _ = writeln!(text, "  MENU LABEL {}", entry.title.trim());
        }
        let Some(kernel) = &entry.kernel else {
            // A medium is the first disk itself: -1 has the firmware try what comes after it.
            text.push_str(if *fetch == Fetch::Medium { "  LOCALBOOT -1\n" } else { "  LOCALBOOT 0\n" });
            continue;
        };
        // LINUX, not KERNEL, which guesses by the end of the name: vmlinuz-5.10.0 would be a boot sector.
        let _ = writeln!(text, "  LINUX {}", fetch.location(kernel.trim_start_matches('/')));
        if let Some(initrd) = &entry.initrd {
            let _ = writeln!(text, "  INITRD {}", fetch.location(initrd.trim_start_matches('/')));
        }
        let command_line = entry.command_line.trim();
        if !command_line.is_empty() {
            let _ = writeln!(text, "  APPEND {command_line}");
        }
        if *fetch != Fetch::Medium {
            // BOOTIF=01-<MAC>: the kernel is told which interface it came through.
            text.push_str("  IPAPPEND 2\n");
        }
    }
    Ok(text)
}

fn check(entry: &BootEntry) -> Result<()> {
    let name = &entry.name;
    let wrong = |why: String| Err(PluginError::invalid(format!("the boot entry {name:?} {why}")));
    let word = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    if name.is_empty() || name.len() > 64 || !name.chars().all(word) || name.starts_with(['.', '-']) {
        return wrong(
            "needs a name of 1 to 64 letters, digits, '.', '_' and '-', not beginning with '.' or '-'".into(),
        );
    }
    for (what, text) in [("title", &entry.title), ("command line", &entry.command_line)] {
        if let Some(bad) = text.chars().find(|letter| letter.is_control()) {
            return wrong(format!("has {bad:?} in its {what}; a line cannot hold that, take it out"));
        }
    }
    if entry.title.len() > 200 {
        return wrong(format!("has a title of {} bytes; 200 are enough", entry.title.len()));
    }
    if entry.command_line.len() > LONGEST_COMMAND_LINE {
        return wrong(format!(
            "has a command line of {} bytes; a kernel takes 2048 with all that is added to it: at most {LONGEST_COMMAND_LINE}",
            entry.command_line.len()
        ));
    }
    if entry.kernel.is_none() && entry.initrd.is_some() {
        return wrong("has an initrd and no kernel; add the kernel".into());
    }
    for (what, path) in [("kernel", &entry.kernel), ("initrd", &entry.initrd)] {
        let Some(path) = path else { continue };
        // A comma would begin a second initrd; blanks end a word; % ? # mean something in a URL.
        let plain =
            |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-' | '+' | '~' | '/');
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let climbs = parts.iter().any(|part| matches!(*part, "" | "." | ".."));
        if path.len() > 200 || !path.chars().all(plain) || climbs {
            return wrong(format!(
                "has the {what} {path:?}; it must be a path of at most 200 letters, digits, '.', '_', '-', '+', '~' \
                 and '/' below the root"
            ));
        }
    }
    Ok(())
}

/// Number and speed of the serial port of the first `console=ttyS…`, the default entry's before others'.
fn serial(entries: &[BootEntry], default: Option<&str>) -> Option<(u8, u32)> {
    let (first, rest): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| Some(entry.name.as_str()) == default);
    first.into_iter().chain(rest).find_map(|entry| entry.command_line.split_whitespace().find_map(console))
}

/// Of `console=ttyS0,115200n8`.
fn console(word: &str) -> Option<(u8, u32)> {
    let rest = word.strip_prefix("console=ttyS")?;
    let (port, options) = rest.split_once(',').unwrap_or((rest, ""));
    // What BIOSes know: four ports.
    let port = port.parse().ok().filter(|port| *port < 4)?;
    let digits = options.bytes().take_while(u8::is_ascii_digit).count();
    // Without a speed the kernel takes 9600, and so does pxelinux.
    let baud = options.get(..digits).and_then(|digits| digits.parse().ok()).unwrap_or(9600);
    (75..=115_200).contains(&baud).then_some((port, baud))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (mac, expected) in [
            (None, Ok("/pxelinux.cfg/default")),
            (Some("52:54:00:AB:cd:01"), Ok("/pxelinux.cfg/01-52-54-00-ab-cd-01")),
            (Some("52-54-00-ab-cd-01"), Ok("/pxelinux.cfg/01-52-54-00-ab-cd-01")),
            (Some(""), Err("\"\" is not a MAC address; write it as 52:54:00:12:34:56")),
            (Some("52:54:00:ab:cd"), Err("\"52:54:00:ab:cd\" is not a MAC address; write it as 52:54:00:12:34:56")),
            (Some("../../../../a:b"), Err("\"../../../../a:b\" is not a MAC address; write it as 52:54:00:12:34:56")),
        ] {
            let found = path(mac).map_err(|error| error.message);
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{mac:?}");
        }
    }

    #[test]
    fn consoles() {
        for (word, expected) in [
            ("console=ttyS0,115200n8", Some((0, 115_200))),
            ("console=ttyS1", Some((1, 9600))),
            ("console=ttyS0,", Some((0, 9600))),
            ("console=ttyS4,9600", None),
            ("console=ttyS0,1", None),
            ("console=ttyS0,99999999999999", Some((0, 9600))),
            ("console=ttyS", None),
            ("console=tty0", None),
        ] {
            assert_eq!(console(word), expected, "{word}");
        }
    }

    fn entry() -> BootEntry {
        BootEntry { name: "install".into(), kernel: Some("boot/kernel".into()), ..BootEntry::default() }
    }

    type Spoil = fn(&mut Vec<BootEntry>);

    #[test]
    fn what_a_line_cannot_hold_is_refused() {
        let rows: [(&str, Spoil, Option<&str>, &str); 14] = [
            ("none", |all| all.clear(), None, "there is no boot entry: a machine would have nothing to boot; give one"),
            ("default", |_| {}, Some("x"), "the default boot entry \"x\" is not there; there is install"),
            (
                "twice",
                |all| all.push(BootEntry { name: "Install".into(), ..entry() }),
                None,
                "two boot entries are named \"Install\"",
            ),
            ("name", |all| all[0].name = "a b".into(), None, "the boot entry \"a b\" needs a name of 1 to 64 letters"),
            ("name with a line", |all| all[0].name = "a\nSAY x".into(), None, "needs a name"),
            ("no name", |all| all[0].name.clear(), None, "needs a name"),
            (
                "title",
                |all| all[0].title = "a\nKERNEL b".into(),
                None,
                "the boot entry \"install\" has '\\n' in its title",
            ),
            ("command line", |all| all[0].command_line = "a\r\nLABEL b".into(), None, "has '\\r' in its command line"),
            ("long", |all| all[0].command_line = "x".repeat(1701), None, "has a command line of 1701 bytes"),
            (
                "two initrds",
                |all| all[0].initrd = Some("a,b".into()),
                None,
                "has the initrd \"a,b\"; it must be a path",
            ),
            (
                "kernel with options",
                |all| all[0].kernel = Some("a init=/x".into()),
                None,
                "has the kernel \"a init=/x\"",
            ),
            ("climbing", |all| all[0].kernel = Some("/a/../b".into()), None, "below the root"),
            ("empty", |all| all[0].kernel = Some(String::new()), None, "has the kernel \"\""),
            (
                "initrd alone",
                |all| {
                    all[0].initrd = all[0].kernel.take();
                },
                None,
                "has an initrd and no kernel; add the kernel",
            ),
        ];
        for (name, spoil, default, says) in rows {
            let mut entries = vec![entry()];
            spoil(&mut entries);
            let error = text(&entries, default, &Fetch::Tftp).unwrap_err();
            assert_eq!(error.kind, systemimager_core::ErrorKind::Invalid, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
    }

    #[test]
    fn addresses_of_servers() {
        assert_eq!(Fetch::http("10.0.0.1", 80), Ok(Fetch::Http("http://10.0.0.1:80".into())));
        for bad in ["", "fe80::1", "a b", "a/b", "a\n"] {
            assert!(
                Fetch::http(bad, 80).unwrap_err().message.contains("is neither an IPv4 address nor a name"),
                "{bad}"
            );
        }
    }
}
