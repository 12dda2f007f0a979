//! An entry of our own in an installed system's menu, booted once at the next start, or from now on.
//!
//! The entry is written by a script of ours in /etc/grub.d, as grub-mkconfig(8) wants them, so that it outlives a menu
//! that is written anew. Which file system the kernel lies on, and by which path GRUB reads it there, that script asks
//! of GRUB's own library: so it holds on LVM, md and btrfs too. `grub-reboot` notes the entry in GRUB's environment block;
//! GRUB takes that note away before it boots the entry, so that the start after a failed one is the old system's. Where the
//! kernel cannot be loaded at all GRUB would show its menu and wait for a person: `fallback` has it boot the old system.
//! Sources: GRUB's manual, "grub-reboot", "fallback" and "The GRUB environment block"; util/grub.d/00_header.in.

use systemimager_core::contract::BootOnce;
use systemimager_core::{
    Action, Arg, BootEntry, Booted, ErrorKind, Host, ImageFacts, Level, Phase, Place, PluginError, Result, Step,
    Written,
};

use crate::detect::{self, Found};
use crate::plan;

/// The script. Its number puts it after the distributions' own entries, the first of which is the default.
const SCRIPT: &str = "/etc/grub.d/42_systemimager";
/// Read after /etc/default/grub, where distributions read more files.
const DEFAULTS: &str = "/etc/default/grub.d/zz-systemimager.cfg";
/// File systems that GRUB does not write to (util/grub.d/00_header.in).
const NOT_WRITTEN: [&str; 5] = ["btrfs", "zfs", "squashfs", "romfs", "iso9660"];
/// Longest title, letters: a menu's width.
const LONGEST_TITLE: usize = 70;

/// The steps.
///
/// # Errors
/// `Unsupported`: GRUB cannot write its environment block here. `Invalid`: an entry that a menu cannot hold. `Missing`:
/// the system has no GRUB, or lacks a program of it.
pub fn boot_once(host: &dyn Host, request: &BootOnce) -> Result<Vec<Step>> {
    let place = request.booted.as_ref().map_or(Place::Running, |booted| booted.place.clone());
    let found = detect::detect(host, &place)?.unwrap_or_default();
    let lacks = |what: &str| {
        PluginError::new(
            ErrorKind::Missing,
            format!("this system lacks {what}; install grub2-common (grub2-tools on the Red Hat family)"),
        )
    };
    if found.config_tool.is_none() {
        return Err(lacks("grub-mkconfig, which writes GRUB's menu"));
    }
    let (tool, name) = match request.persistent {
        true => (&found.set_default, "grub-set-default"),
        false => (&found.reboot, "grub-reboot"),
    };
    let tool = tool.as_deref().ok_or_else(|| lacks(name))?;
    let id = id(&request.entry)?;
    let script = script(&request.entry, &id)?;
    writable(host, request.booted.as_ref(), &found, request.persistent)?;

    let write = |what: String, path: &str, text: String, mode| {
        Step::new(
            Phase::Boot,
            what,
            Action::WriteFile { path: path.into(), contents: systemimager_core::Contents::Bytes(text.into()), mode },
        )
    };
    let title = plan::shown(&request.entry.title);
    let mut steps = vec![write(format!("have GRUB's menu offer {title:?}"), SCRIPT, script, 0o755)];
    if request.persistent {
        let what = "have GRUB boot by itself what it is told to".to_owned();
        steps.push(if found.defaults_directory {
            write(what, DEFAULTS, "GRUB_DEFAULT=saved\n".into(), 0o644)
        } else {
            let (prefix, line) = ("GRUB_DEFAULT=".into(), "GRUB_DEFAULT=saved".into());
            Step::new(Phase::Boot, what, Action::SetLine { path: "/etc/default/grub".into(), prefix, line })
        });
    }
    let firmware = request.booted.as_ref().map(|booted| booted.firmware.as_str()).unwrap_or_default();
    steps.extend(plan::menus(&ImageFacts::default(), &found, firmware)?);
    let when = if request.persistent { "from now on" } else { "at the next start, and at that alone" };
    steps.push(
        Step::new(
            Phase::Boot,
            format!("have GRUB boot {title:?} {when}"),
            Action::InTarget { argv: Arg::words([tool, &id]), stdin: None },
        )
        .writing([Written::below(found.directory.as_str())]),
    );
    Ok(steps)
}

/// Refuses where GRUB could not take the note away again: the entry would be booted for ever.
fn writable(host: &dyn Host, booted: Option<&Booted>, found: &Found, persistent: bool) -> Result<()> {
    if persistent {
        // GRUB only reads what the next start is to be.
        return Ok(());
    }
    let Some(mount) = booted.and_then(|booted| booted.mount_of(&found.directory)) else {
        let why = "it is not known what file system GRUB's environment block lies on: where GRUB cannot write there, the \
                   entry is booted at every start until grub-editenv takes it away";
        host.log(Level::Warn, why);
        return Ok(());
    };
    let on = if !mount.made_of.is_empty() {
        mount.made_of.as_str()
    } else if NOT_WRITTEN.contains(&mount.fstype.as_str()) {
        mount.fstype.as_str()
    } else {
        return Ok(());
    };
    Err(PluginError::unsupported(format!(
        "GRUB cannot boot an entry just once on this system: {} is on {on}, which GRUB reads and does not write, so that it \
         could not go back to the old entry; make the entry the default, start it by kexec, or put /boot onto a plain \
         partition with ext4",
        plan::shown(&found.directory)
    )))
}

/// By which grub-reboot finds the entry.
fn id(entry: &BootEntry) -> Result<String> {
    let fine = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if entry.name.is_empty() || !entry.name.chars().all(fine) {
        return Err(PluginError::invalid(format!(
            "the boot entry's name {:?} may hold letters, digits, dots, dashes and underscores only",
            entry.name
        )));
    }
    Ok(format!("systemimager-{}", entry.name))
}

/// The script that prints the entry. Nothing of the entry is evaluated: words stand between single quotes, and what
/// could end those is refused or written around.
fn script(entry: &BootEntry, id: &str) -> Result<String> {
    let invalid = |what: &str, text: &str, why: &str| {
        Err(PluginError::invalid(format!("the boot entry {id} has the {what} {text:?}, {why}")))
    };
    if entry.title.chars().any(char::is_control) || entry.title.chars().count() > LONGEST_TITLE {
        return invalid("title", &entry.title, "and a menu holds one line of at most 70 letters");
    }
    let Some(kernel) = &entry.kernel else {
        return invalid("title", &entry.title, "and no kernel; an entry for GRUB names one");
    };
    for path in [Some(kernel), entry.initrd.as_ref()].into_iter().flatten() {
        let fine = |letter: char| letter.is_ascii_alphanumeric() || "/._+~:@%=,-".contains(letter);
        let clean = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !clean || !path.chars().all(fine) {
            return invalid("file", path, "which is no absolute path of plain letters; put it elsewhere");
        }
    }
    let line = &entry.command_line;
    if line.chars().any(|letter| letter.is_control() || "'\"\\".contains(letter)) {
        return invalid("command line", line, "and GRUB would change quotes and backslashes in it; leave them out");
    }
    let words: Vec<String> = line.split_whitespace().map(|word| format!("'{word}'")).collect();
    // Quoted for GRUB, and the whole once more for the shell.
    let quoted = |text: &str| text.replace('\'', "'\\''");
    let menuentry = quoted(&format!("menuentry '{}' --id '{id}' {{", quoted(&entry.title)));
    let words = quoted(&words.join(" "));
    let mut text = format!(
        "#!/bin/sh\n\
         # Written by SystemImager: an entry of GRUB's menu. Remove this file and run update-grub (or grub-mkconfig) to\n\
         # be rid of it.\n\
         set -e\n\
         . \"${{pkgdatadir:-/usr/share/grub}}/grub-mkconfig_lib\"\n\
         device=\"$(\"$grub_probe\" --target=device '{kernel}')\"\n\
         access=\"$(prepare_grub_to_access_device \"$device\")\"\n\
         # Without it GRUB would look for the kernel on another disk.\n\
         test -n \"$access\"\n\
         # What is booted where this entry's kernel cannot be loaded. GRUB takes a number here, no title.\n\
         case \"${{GRUB_DEFAULT:-}}\" in\n\
         '' | *[!0-9]*) other=0 ;;\n\
         *) other=\"$GRUB_DEFAULT\" ;;\n\
         esac\n\
         printf '%s\\n' 'if [ \"${{default}}\" = \"{id}\" ]; then' \"\tset fallback=$other\" 'fi'\n\
         printf '%s\\n' '{menuentry}'\n\
         printf '%s\\n' \"$access\" | sed -e 's/^/\\t/'\n\
         printf '\\tlinux %s %s\\n' \"$(make_system_path_relative_to_its_root '{kernel}')\" '{words}'\n"
    );
    if let Some(initrd) = &entry.initrd {
        text.push_str(&format!("printf '\\tinitrd %s\\n' \"$(make_system_path_relative_to_its_root '{initrd}')\"\n"));
    }
    text.push_str("printf '}\\n'\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::shown;
    use systemimager_core::BootedMount;
    use systemimager_core::testing::RecordedHost;

    fn debian() -> RecordedHost {
        ["/usr/sbin/grub-install", "/usr/sbin/update-grub", "/usr/sbin/grub-reboot", "/usr/sbin/grub-set-default"]
            .into_iter()
            .fold(RecordedHost::new(), |host, path| host.file(path, ""))
    }

    fn entry() -> BootEntry {
        BootEntry {
            name: "autoinstall".into(),
            title: "Install this machine's image anew".into(),
            kernel: Some("/boot/systemimager/kernel".into()),
            initrd: Some("/boot/systemimager/initrd.img".into()),
            command_line: "si.server=10.0.0.1  console=ttyS0,115200 x=$(reboot)".into(),
        }
    }

    fn on(fstype: &str, made_of: &str) -> Option<Booted> {
        let (fstype, made_of) = (fstype.to_owned(), made_of.to_owned());
        let mount = BootedMount { at: "/".into(), device: "/dev/sda1".into(), fstype, made_of, uuid: String::new() };
        Some(Booted { firmware: "uefi".into(), mounts: vec![mount], ..Booted::new(Place::Running) })
    }

    fn ask(host: &RecordedHost, entry: BootEntry, persistent: bool, booted: Option<Booted>) -> Result<Vec<Step>> {
        boot_once(host, &BootOnce { entry, persistent, booted })
    }

    /// The steps after the first, which writes the script.
    fn rest(steps: &[Step]) -> Vec<String> {
        shown(&steps[1..])
    }

    #[test]
    fn each_distribution() {
        let menu = "update-grub -> /boot/grub/**";
        let steps = ask(&debian(), entry(), false, on("ext4", "")).unwrap();
        assert_eq!(rest(&steps), [menu, "grub-reboot systemimager-autoinstall -> /boot/grub/**"]);
        assert_eq!(steps[0].written(), [Written::path(SCRIPT)]);

        let steps = ask(&debian(), entry(), true, on("btrfs", "LVM (vg0-root)")).unwrap();
        let default = "grub-set-default systemimager-autoinstall -> /boot/grub/**";
        assert!(rest(&steps)[0].contains("GRUB_DEFAULT=saved"), "{steps:?}");
        assert_eq!(steps[1].written(), [Written::path("/etc/default/grub")]);
        assert_eq!(rest(&steps)[1..], [menu, default]);

        let more = debian().file("/etc/default/grub.d/kdump.cfg", "");
        let steps = ask(&more, entry(), true, None).unwrap();
        assert_eq!(steps[1].written(), [Written::path(DEFAULTS)]);
        assert_eq!(more.logged.lock().unwrap().len(), 0);

        let red_hat = ["/usr/sbin/grub2-install", "/usr/sbin/grub2-mkconfig", "/usr/sbin/grub2-reboot"]
            .into_iter()
            .fold(RecordedHost::new(), |host, path| host.file(path, ""))
            .file("/boot/efi/EFI/redhat/grub.cfg", "blscfg\n");
        let steps = ask(&red_hat, entry(), false, on("xfs", "")).unwrap();
        assert_eq!(
            rest(&steps),
            [
                "grub2-mkconfig -o /boot/grub2/grub.cfg -> /boot/grub2/**",
                "grub2-mkconfig -o /boot/efi/EFI/redhat/grub.cfg -> /boot/grub2/** /boot/efi/EFI/redhat/grub.cfg",
                "grub2-reboot systemimager-autoinstall -> /boot/grub2/**",
            ]
        );
    }

    #[test]
    fn where_grub_cannot_forget_it_is_refused() {
        for (name, fstype, made_of, says) in [
            ("lvm", "ext4", "LVM (vg0-root)", "/boot/grub is on LVM (vg0-root), which GRUB reads and does not write"),
            ("btrfs", "btrfs", "", "/boot/grub is on btrfs"),
        ] {
            let error = ask(&debian(), entry(), false, on(fstype, made_of)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unsupported, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
        let host = debian();
        ask(&host, entry(), false, None).unwrap();
        assert!(host.logged.lock().unwrap()[0].1.contains("it is not known what file system"));
    }

    #[test]
    fn entries_that_no_menu_holds_are_refused() {
        type Spoil = fn(&mut BootEntry);
        let rows: [(&str, Spoil, &str); 8] = [
            ("no name", |it| it.name.clear(), "name \"\" may hold letters"),
            ("name", |it| it.name = "a b".into(), "name \"a b\" may hold"),
            ("title", |it| it.title = "a\nb".into(), "a menu holds one line"),
            ("no kernel", |it| it.kernel = None, "and no kernel"),
            ("a relative kernel", |it| it.kernel = Some("boot/kernel".into()), "is no absolute path"),
            ("an initrd outside", |it| it.initrd = Some("/boot/../../x".into()), "is no absolute path"),
            ("an odd kernel", |it| it.kernel = Some("/boot/a'b".into()), "is no absolute path of plain letters"),
            ("quotes", |it| it.command_line = "a='b c'".into(), "GRUB would change quotes"),
        ];
        for (name, spoil, says) in rows {
            let mut entry = entry();
            spoil(&mut entry);
            let error = ask(&debian(), entry, false, None).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
        let bare = RecordedHost::new().file("/usr/sbin/grub-mkconfig", "");
        let error = ask(&bare, entry(), false, None).unwrap_err();
        assert!(error.message.contains("lacks grub-reboot; install grub2-common"), "{error}");
        let error = ask(&RecordedHost::new(), entry(), false, None).unwrap_err();
        assert!(error.message.contains("lacks grub-mkconfig"), "{error}");
    }

    /// The script is run by a real shell, with a library that stands in for GRUB's.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test runs the script, as grub-mkconfig would")]
    fn the_script_prints_the_entry() {
        use std::process::Command;
        let text = script(&entry(), "systemimager-autoinstall").unwrap();
        let dir = std::env::temp_dir().join(format!("systemimager-grub-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let library = "grub_probe=echo\nprepare_grub_to_access_device() { echo \"search $1\"; }\n\
                       make_system_path_relative_to_its_root() { echo \"${1#/boot}\"; }\n";
        std::fs::write(dir.join("grub-mkconfig_lib"), library).unwrap();
        std::fs::write(dir.join("script"), text).unwrap();
        let output = Command::new("sh").arg(dir.join("script")).env("pkgdatadir", &dir).output();
        std::fs::remove_dir_all(&dir).unwrap();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "if [ \"${default}\" = \"systemimager-autoinstall\" ]; then\n\tset fallback=0\nfi\n\
             menuentry 'Install this machine'\\''s image anew' --id 'systemimager-autoinstall' {\n\
             \tsearch --target=device /boot/systemimager/kernel\n\
             \tlinux /systemimager/kernel 'si.server=10.0.0.1' 'console=ttyS0,115200' 'x=$(reboot)'\n\
             \tinitrd /systemimager/initrd.img\n}\n"
        );
    }
}
