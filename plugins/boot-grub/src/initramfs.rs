//! Drivers that a machine's disks need and the image's initramfs lacks: they are put on its tool's list,
//! so that later kernels get them too, and the initramfs of each kernel is made anew.
//!
//! Pure. Which drivers those are is the engine's finding.

use systemimager_core::{
    Action, Arg, BytePath, Contents, ErrorKind, ImageFacts, Kernel, Phase, PluginError, Result, Step, Written,
};

/// Lines around what is put into a tool's configuration.
const BEGIN: &str = "# systemimager: drivers of this machine's disks";
const END: &str = "# systemimager: end";

/// The command that makes a kernel's initramfs (of this path) anew.
type Command = fn(&Kernel, &BytePath) -> Vec<Arg>;

/// Steps that add `modules` to the initramfs of every kernel; none if there are no modules to add.
///
/// # Errors
/// `Missing`: no tool that can, or no initramfs to add them to; the modules are named.
pub fn rebuild(image: &ImageFacts, modules: &[String]) -> Result<Vec<Step>> {
    if modules.is_empty() {
        return Ok(Vec::new());
    }
    let named = modules.join(", ");
    for module in modules {
        // Tools take the names from shell fragments.
        if module.is_empty() || !module.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-".contains(letter)) {
            return Err(PluginError::invalid(format!("{module:?} is not the name of a kernel module")));
        }
    }
    let missing = |why: String| {
        PluginError::new(
            ErrorKind::Missing,
            format!("the initramfs of the image {} lacks {named}, which this machine's disks need, {why}", image.name),
        )
    };
    let Some(tool) = &image.initramfs_tool else {
        return Err(missing(
            "and the image has no tool to make it anew; install initramfs-tools, dracut or mkinitcpio in the image, \
             or build these modules into its initramfs"
                .into(),
        ));
    };
    match image.kernels.first() {
        Some(newest) if newest.initramfs.is_none() => {
            return Err(missing(format!(
                "and its kernel {} boots without one; build the drivers into the kernel, or give it an initramfs",
                newest.release
            )));
        }
        None => return Err(missing("and it holds no kernel; install one in the image".into())),
        Some(_) => {}
    }
    let kernels = image.kernels.iter().filter_map(|kernel| Some((kernel, kernel.initramfs.as_ref()?)));
    let (listed, command): (Step, Command) = match tool.as_str() {
        "update-initramfs" => (
            list(modules, "/etc/initramfs-tools/modules", modules.iter().map(|module| format!("{module}\n")).collect()),
            |kernel, _| Arg::words(["update-initramfs", "-u", "-k", &kernel.release]),
        ),
        // A shell fragment that is read at the end adds to what stands before it.
        "mkinitcpio" => (
            list(modules, "/etc/mkinitcpio.conf", format!("MODULES+=({})\n", modules.join(" "))),
            |kernel, initramfs| {
                let mut argv = Arg::words(["mkinitcpio", "-k", &kernel.release, "-g"]);
                argv.push(initramfs.clone().into());
                argv
            },
        ),
        "dracut" => (
            Step::new(
                Phase::Boot,
                format!("have the initramfs hold {named}"),
                Action::WriteFile {
                    path: "/etc/dracut.conf.d/90-systemimager.conf".into(),
                    contents: Contents::Bytes(format!("{BEGIN}\nadd_drivers+=\" {} \"\n", modules.join(" ")).into()),
                    mode: 0o644,
                },
            ),
            |kernel, initramfs| {
                let mut argv = Arg::words(["dracut", "--force"]);
                argv.push(initramfs.clone().into());
                argv.push(kernel.release.as_str().into());
                argv
            },
        ),
        other => {
            return Err(missing(format!(
                "and {other} is not a tool that this plugin can make it anew with; it knows update-initramfs, dracut \
                 and mkinitcpio"
            )));
        }
    };
    let mut steps = vec![listed];
    for (kernel, initramfs) in kernels {
        let mut written = vec![Written::path(initramfs.clone()), Written::path("/var/tmp"), Written::path("/tmp")];
        if tool == "update-initramfs" {
            // Debian 11 and older keep checksums there.
            written.push(Written::below("/var/lib/initramfs-tools"));
        }
        steps.push(
            Step::new(
                Phase::Boot,
                format!("make the initramfs of {} anew, with {named}", kernel.release),
                Action::InTarget { argv: command(kernel, initramfs), stdin: None },
            )
            .writing(written),
        );
    }
    Ok(steps)
}

fn list(modules: &[String], path: &str, block: String) -> Step {
    Step::new(
        Phase::Boot,
        format!("have the initramfs hold {}", modules.join(", ")),
        Action::SetBlock { path: path.into(), begin: BEGIN.into(), end: END.into(), block },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tool: Option<&str>, kernels: &[(&str, Option<&str>)]) -> ImageFacts {
        ImageFacts {
            name: "web".into(),
            initramfs_tool: tool.map(str::to_owned),
            kernels: kernels
                .iter()
                .map(|(release, initramfs)| Kernel {
                    release: (*release).into(),
                    initramfs: initramfs.map(BytePath::from),
                    ..Kernel::default()
                })
                .collect(),
            ..ImageFacts::default()
        }
    }

    fn shown(steps: &[Step]) -> Vec<String> {
        steps
            .iter()
            .map(|step| match &step.action {
                Action::SetBlock { path, block, .. } => format!("{path}: {block:?}"),
                Action::WriteFile { path, contents: Contents::Bytes(bytes), .. } => {
                    format!("{path}: {:?}", bytes.lossy())
                }
                Action::InTarget { argv, .. } => argv
                    .iter()
                    .map(|arg| match arg {
                        Arg::Text(text) => text.to_string(),
                        other => format!("{other:?}"),
                    })
                    .collect::<Vec<_>>()
                    .join(" "),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn each_tool() {
        let kernels =
            [("6.1.0-1", Some("/boot/initrd.img-6.1.0-1")), ("5.10", None), ("5.9", Some("/boot/initrd.img-5.9"))];
        let modules = ["virtio_blk".to_owned(), "ahci".to_owned()];
        let rows: [(&str, [&str; 3]); 3] = [
            (
                "update-initramfs",
                [
                    "/etc/initramfs-tools/modules: \"virtio_blk\\nahci\\n\"",
                    "update-initramfs -u -k 6.1.0-1",
                    "update-initramfs -u -k 5.9",
                ],
            ),
            (
                "dracut",
                [
                    "/etc/dracut.conf.d/90-systemimager.conf: \"# systemimager: drivers of this machine's disks\\nadd_drivers+=\\\" virtio_blk ahci \\\"\\n\"",
                    "dracut --force /boot/initrd.img-6.1.0-1 6.1.0-1",
                    "dracut --force /boot/initrd.img-5.9 5.9",
                ],
            ),
            (
                "mkinitcpio",
                [
                    "/etc/mkinitcpio.conf: \"MODULES+=(virtio_blk ahci)\\n\"",
                    "mkinitcpio -k 6.1.0-1 -g /boot/initrd.img-6.1.0-1",
                    "mkinitcpio -k 5.9 -g /boot/initrd.img-5.9",
                ],
            ),
        ];
        for (tool, expected) in rows {
            let steps = rebuild(&image(Some(tool), &kernels), &modules).unwrap();
            assert_eq!(shown(&steps), expected, "{tool}");
            assert!(steps[1].writes.contains(&Written::path("/boot/initrd.img-6.1.0-1")), "{tool}");
            assert_eq!(rebuild(&image(Some(tool), &kernels), &[]).unwrap(), [], "{tool}: nothing to add");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let with = [("6.1", Some("/boot/i"))];
        let rows: Vec<(&str, ImageFacts, &str, &str)> = vec![
            ("no tool", image(None, &with), "ahci", "has no tool to make it anew; install initramfs-tools"),
            ("unknown tool", image(Some("tiny"), &with), "ahci", "tiny is not a tool"),
            ("no initramfs", image(Some("dracut"), &[("6.1", None)]), "ahci", "its kernel 6.1 boots without one"),
            ("no kernel", image(Some("dracut"), &[]), "ahci", "it holds no kernel"),
            ("not a module", image(Some("dracut"), &with), "a;b", "\"a;b\" is not the name of a kernel module"),
        ];
        for (name, image, module, says) in rows {
            let error = rebuild(&image, &[module.to_owned()]).unwrap_err();
            assert!(error.message.contains(says), "{name}: {error}");
            assert!(error.message.contains(module), "{name}: {error}");
        }
    }
}
