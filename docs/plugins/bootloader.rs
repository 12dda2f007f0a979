//! EXTLINUX (the SYSLINUX for ext2/3/4): BIOS machines, through the image's own extlinux and its kernels.
//!
//! It serves disks only. The network and media are another plugin's.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use systemimager_core::contract::{Bootloader, BootloaderDetect, BootloaderPlan};
use systemimager_core::{
    Action, Arg, BootPlan, BootTarget, Contents, ErrorKind, Host, ImageFacts, Needs, Phase, PluginError, Result, Role,
    Step, Written, declare_plugin,
};

/// The plugin.
pub struct Plugin;

/// Under this name the engine hands back what `detect` found.
const ID: &str = "extlinux";

declare_plugin! {
    kind: Bootloader,
    id: extlinux,
    about: "EXTLINUX on disks of BIOS machines",
    make: Plugin,
}

/// Where distributions keep the 440 bytes that go to the front of the disk.
const BOOT_CODE: [&str; 3] =
    ["/usr/lib/EXTLINUX/mbr.bin", "/usr/lib/syslinux/mbr/mbr.bin", "/usr/share/syslinux/mbr.bin"];

impl Bootloader for Plugin {
    /// Everything runs inside the target: the installer needs nothing.
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }

    /// Looks at an image when it is captured. `None`: this loader is not there. The facts come back in the plan's
    /// request, since a plan is made where the image is not.
    fn detect(&self, host: &dyn Host, request: BootloaderDetect) -> Result<Option<BTreeMap<String, String>>> {
        let is_there = |path: &str| match host.read(&request.place, &path.into()) {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        if !is_there("/usr/bin/extlinux")? && !is_there("/sbin/extlinux")? {
            return Ok(None);
        }
        let mut facts = BTreeMap::new();
        for path in BOOT_CODE {
            if is_there(path)? {
                facts.insert("boot_code".to_owned(), path.to_owned());
                break;
            }
        }
        Ok(Some(facts))
    }

    /// Pure.
    fn plan(&self, _: &dyn Host, request: BootloaderPlan) -> Result<BootPlan> {
        let BootTarget::Disk { disks, firmware, image, missing_modules } = request.target else {
            return Err(PluginError::unsupported("extlinux makes disks boot; use another boot loader for the network"));
        };
        if firmware != "bios" {
            return Err(PluginError::unsupported(format!("the firmware is {firmware:?}, and extlinux needs a BIOS")));
        }
        if !missing_modules.is_empty() {
            return Err(PluginError::unsupported(format!(
                "the image's initramfs lacks {}, and this plugin rebuilds none; add them to it in the image",
                missing_modules.join(", ")
            )));
        }
        let lacks = |what: &str, package: &str| {
            let text = format!("the image {:?} lacks {what}; install the package {package} in it", image.name);
            PluginError::new(ErrorKind::Missing, text)
        };
        let facts = image.bootloaders.get(ID).ok_or_else(|| lacks("extlinux", "extlinux"))?;
        // Facts have been in a file meanwhile: what goes into an argument is what we know, nothing else.
        let code = BOOT_CODE.into_iter().find(|path| facts.get("boot_code").is_some_and(|found| found == path));
        let code = code.ok_or_else(|| lacks("extlinux's boot code", "extlinux"))?;
        let config = config(&image)?;

        let directory = "/boot/extlinux";
        let mut steps = vec![
            Step::new(
                Phase::Boot,
                "make the directory of extlinux",
                Action::MakeDirectory { path: directory.into(), mode: 0o755 },
            ),
            Step::new(
                Phase::Boot,
                "write extlinux's menu",
                Action::WriteFile {
                    path: "/boot/extlinux/extlinux.conf".into(),
                    contents: Contents::Bytes(config.into()),
                    mode: 0o644,
                },
            ),
            Step::new(
                Phase::Boot,
                "install extlinux into /boot/extlinux",
                Action::InTarget { argv: Arg::words(["extlinux", "--install", directory]), stdin: None },
            )
            // What a program changes is said, so that the installed tree can be compared with the image.
            .writing([Written::below(directory)]),
        ];
        for disk in disks {
            let mut argv = Arg::words(["dd", "bs=440", "count=1", "conv=notrunc,fsync", &format!("if={code}")]);
            argv.push(Arg::PrefixedDevice("of=".into(), disk.clone()));
            let what = format!("put extlinux's boot code on {disk}");
            let step = Step::new(Phase::Boot, what, Action::InTarget { argv, stdin: None });
            // It changes the disk's first sector, and no path of the target but this directory's.
            steps.push(step.writing([Written::path(directory)]));
        }
        Ok(BootPlan { steps, boot_files: Vec::new() })
    }
}

/// The menu: every kernel of the image, the newest first and by itself after a second.
fn config(image: &ImageFacts) -> Result<String> {
    let wrong = |why: String| Err(PluginError::invalid(format!("the image {:?}: {why}", image.name)));
    let Some(root) = image.fstab.iter().find(|entry| entry.file == "/".into()) else {
        return wrong("its /etc/fstab has no entry for /, which names the root file system to the kernel".into());
    };
    let mut text = "default 1\ntimeout 10\nprompt 0\n".to_owned();
    for (index, kernel) in image.kernels.iter().enumerate() {
        let initrd = kernel.initramfs.as_ref().map(ToString::to_string);
        let words = [Some(kernel.path.to_string()), initrd.clone(), Some(root.spec.clone())];
        // The file has no quoting: what could end a word or a line is refused.
        let odd = |word: &String| word.is_empty() || word.chars().any(|it| it.is_whitespace() || it.is_control());
        if let Some(word) = words.into_iter().flatten().find(odd) {
            return wrong(format!("{word:?} cannot stand in extlinux.conf; rename it"));
        }
        let _ = write!(text, "\nlabel {}\n  linux {}\n", index + 1, kernel.path);
        if let Some(initrd) = initrd {
            let _ = writeln!(text, "  initrd {initrd}");
        }
        let _ = writeln!(text, "  append root={} ro", root.spec);
    }
    if image.kernels.is_empty() {
        return wrong("it has no kernel that could be booted; install one in it".into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use systemimager_core::Place;
    use systemimager_core::testing::{RecordedHost, assert_conforms};

    use super::*;

    #[test]
    fn keeps_the_contract() {
        assert_conforms();
    }

    #[test]
    fn what_is_found_in_an_image_makes_its_disk_boot() {
        let host = RecordedHost::new().file("/usr/bin/extlinux", "").file(BOOT_CODE[0], "");
        let facts = Plugin.detect(&host, BootloaderDetect { place: Place::Running }).unwrap();
        let request = serde_json::from_value(json!({"entries": [], "target": {
            "target": "disk", "disks": ["disk0"], "firmware": "bios", "missing_modules": [], "image": {
                "name": "web", "arch": "x86_64", "bootloaders": {ID: facts},
                "kernels": [{"release": "6.1", "path": "/boot/vmlinuz-6.1", "initramfs": "/boot/initrd.img-6.1"}],
                "fstab": [{"spec": "UUID=1-2", "file": "/", "fstype": "ext4"}],
            },
        }}));
        let plan = Plugin.plan(&host, request.unwrap()).unwrap();
        let Action::WriteFile { contents: Contents::Bytes(text), .. } = &plan.steps[1].action else {
            panic!("{plan:?}")
        };
        assert!(
            text.lossy()
                .contains("linux /boot/vmlinuz-6.1\n  initrd /boot/initrd.img-6.1\n  append root=UUID=1-2 ro\n")
        );
        assert_eq!(plan.steps.len(), 4);
        assert_eq!(Plugin.detect(&RecordedHost::new(), BootloaderDetect { place: Place::Running }).unwrap(), None);
    }
}
