//! An entry of our own in an installed system's lilo.conf, booted once (`lilo -R`) or from now on (`lilo -D`).
//!
//! `-R` leaves a command line in the map, which LILO takes away before it follows it: the start after a failed one is the
//! old system's. LILO writes there by the block, whatever the file system; what it cannot do is reach through LVM and the like.

use systemimager_core::contract::BootOnce;
use systemimager_core::{Action, Arg, BootEntry, ErrorKind, Host, Phase, Place, PluginError, Result, Step, Written};

use crate::conf::{self, Conf, Item, Section};
use crate::detect::{self, CONF};
use crate::machine::LONGEST_LABEL;
use crate::plan::{run, shown};

/// The lines around our entry, at the end of lilo.conf.
const BEGIN: &str = "# systemimager: an entry of our own";
const END: &str = "# systemimager: end";

/// The steps.
///
/// # Errors
/// `Missing`: the system has no LILO. `Invalid`: an entry that lilo.conf cannot hold, or whose name is taken.
/// `Unsupported`: LILO cannot start from what /boot lies on.
pub fn boot_once(host: &dyn Host, request: &BootOnce) -> Result<Vec<Step>> {
    let place = request.booted.as_ref().map_or(Place::Running, |booted| booted.place.clone());
    let found = detect::detect(host, &place)?;
    let (Some(found), Some(present)) = (&found, found.as_ref().and_then(detect::Found::conf)) else {
        return Err(PluginError::new(
            ErrorKind::Missing,
            format!(
                "this system has no LILO with a {CONF}; see that it boots by LILO, or use the boot loader that it has"
            ),
        ));
    };
    if let Some(mount) = request.booted.as_ref().and_then(|booted| booted.mount_of("/boot"))
        && !mount.made_of.is_empty()
    {
        return Err(PluginError::unsupported(format!(
            "LILO cannot boot from {}, on which /boot lies; put /boot onto a plain partition, or start the entry by kexec",
            mount.made_of
        )));
    }
    let entry = &request.entry;
    let block = section(entry, &present)?;
    let title = shown(&entry.title);
    let action = Action::SetBlock { path: CONF.into(), begin: BEGIN.into(), end: END.into(), block };
    let mut steps = vec![Step::new(Phase::Boot, format!("have LILO offer {title:?}"), action)];
    if request.persistent {
        steps.extend(run(found, &format!("have LILO boot {title:?} from now on"), &["-D", &entry.name]));
        return Ok(steps);
    }
    steps.extend(run(found, "have LILO note where its kernel lies", &[]));
    steps.push(
        Step::new(
            Phase::Boot,
            format!("have LILO boot {title:?} at the next start, and at that alone"),
            Action::InTarget { argv: Arg::words(["lilo", "-R", &entry.name]), stdin: None },
        )
        .writing([Written::path(found.map().as_str())]),
    );
    Ok(steps)
}

/// The entry's lines.
fn section(entry: &BootEntry, present: &Conf) -> Result<String> {
    let invalid = |why: String| Err(PluginError::invalid(format!("the boot entry {:?} {why}", entry.name)));
    let label = entry.name.as_str();
    let fine = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    if label.is_empty() || label.starts_with('-') || label.len() > LONGEST_LABEL || !label.chars().all(fine) {
        return invalid(format!(
            "has to be named by 1 to {LONGEST_LABEL} letters, digits, dots, dashes and underscores"
        ));
    }
    let Some(kernel) = &entry.kernel else { return invalid("names no kernel; an entry for LILO has one".into()) };
    // Ours may be there from before; it is replaced.
    let taken = |section: &&Section| section.label() == label && section.path != *kernel;
    if let Some(other) = present.sections.iter().find(taken) {
        return invalid(format!("has the name of another: {} in {CONF} is called so too", shown(&other.path)));
    }
    let mut items = vec![Item::new("label", label)];
    items.extend(entry.initrd.as_ref().map(|path| Item::new("initrd", path.clone())));
    items.extend([Item::new("append", entry.command_line.clone()), Item::switch("read-only")]);
    for path in [Some(kernel), entry.initrd.as_ref()].into_iter().flatten() {
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return invalid(format!("has the file {path:?}, which is no absolute path"));
        }
    }
    if entry.command_line.contains(['"', '\\']) {
        return invalid(format!(
            "has the command line {:?}, and LILO does not hold its quotes; leave them out",
            entry.command_line
        ));
    }
    let only = Conf { global: Vec::new(), sections: vec![Section { is_image: true, path: kernel.clone(), items }] };
    match conf::render(&only) {
        Ok(text) => Ok(text.trim_start_matches('\n').to_owned()),
        Err(word) => invalid(format!("holds {word:?}, which lilo.conf cannot; leave control characters out")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::testing::RecordedHost;
    use systemimager_core::{Booted, BootedMount};

    const PRESENT: &str = "boot=/dev/sda\nimage=/vmlinuz\n\tlabel=Linux\n";

    fn host() -> RecordedHost {
        RecordedHost::new()
            .file("/sbin/lilo", "")
            .file("/etc/lilo.conf", PRESENT)
            .file("/boot/map", "")
            .file("/vmlinuz", "")
    }

    fn entry() -> BootEntry {
        BootEntry {
            name: "autoinstall".into(),
            title: "Install anew".into(),
            kernel: Some("/boot/si/kernel".into()),
            initrd: Some("/boot/si/initrd.img".into()),
            command_line: "si.server=10.0.0.1 console=ttyS0".into(),
        }
    }

    fn ask(host: &RecordedHost, entry: BootEntry, persistent: bool, booted: Option<Booted>) -> Result<Vec<Step>> {
        boot_once(host, &BootOnce { entry, persistent, booted })
    }

    fn programs(steps: &[Step]) -> Vec<String> {
        let words = |step: &Step| match &step.action {
            Action::InTarget { argv, .. } => {
                Some(argv.iter().map(|arg| format!("{arg:?}")).collect::<Vec<_>>().join(" "))
            }
            _ => None,
        };
        let plain = |text: String| text.replace("Text(BytePath(\"", "").replace("\"))", "");
        steps.iter().filter_map(words).map(plain).collect()
    }

    #[test]
    fn once_and_for_good() {
        let steps = ask(&host(), entry(), false, None).unwrap();
        let Action::SetBlock { block, .. } = &steps[0].action else { panic!("{steps:?}") };
        assert_eq!(
            block,
            "image=/boot/si/kernel\n\tlabel=autoinstall\n\tinitrd=/boot/si/initrd.img\n\
             \tappend=\"si.server=10.0.0.1 console=ttyS0\"\n\tread-only\n"
        );
        assert_eq!(steps.len(), 4, "{steps:?}");
        assert!(programs(&steps)[2].contains("lilo") && programs(&steps)[2].contains("-R"), "{:?}", programs(&steps));
        let steps = ask(&host(), entry(), true, None).unwrap();
        assert_eq!(steps.len(), 3);
        assert!(programs(&steps)[1].contains("-D"), "{:?}", programs(&steps));
    }

    #[test]
    fn refusals() {
        type Spoil = fn(&mut BootEntry);
        let rows: [(&str, Spoil, &str); 6] = [
            ("name", |it| it.name = "sixteen.letters_".into(), "1 to 15 letters"),
            ("taken", |it| it.name = "Linux".into(), "/vmlinuz in /etc/lilo.conf is called so too"),
            ("no kernel", |it| it.kernel = None, "names no kernel"),
            ("path", |it| it.initrd = Some("initrd".into()), "is no absolute path"),
            ("quotes", |it| it.command_line = "a=\"b c\"".into(), "leave them out"),
            ("line break", |it| it.command_line = "a\nb".into(), "leave control characters out"),
        ];
        for (name, spoil, says) in rows {
            let mut entry = entry();
            spoil(&mut entry);
            let error = ask(&host(), entry, false, None).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{name}");
            assert!(error.message.contains(says), "{name}: {error}");
        }
        let error = ask(&RecordedHost::new().file("/sbin/lilo", ""), entry(), false, None).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Missing);
        let mount = BootedMount { at: "/".into(), made_of: "LVM (vg0-root)".into(), ..BootedMount::default() };
        let booted = Booted { mounts: vec![mount], ..Booted::new(Place::Running) };
        let error = ask(&host(), entry(), false, Some(booted)).unwrap_err();
        assert!(error.message.contains("LILO cannot boot from LVM (vg0-root)"), "{error}");
    }
}
