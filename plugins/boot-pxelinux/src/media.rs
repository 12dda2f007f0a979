//! Media: files for a medium's root, and the programs that make it boot. What the nodes and the target mean there is said
//! at [`systemimager_core::BootTarget::Media`].

use systemimager_core::{Action, Arg, BytePath, Contents, Host, NodeName, Phase, PluginError, Result, Step};

use crate::loader;

/// Where the file system of a stick begins, bytes.
const FAT_AT: &str = "1048576";
/// What UEFI firmware looks for on a medium (UEFI specification, 3.5.1.1), and its directory.
const UEFI: &str = "/EFI/BOOT";

/// A stick: syslinux for BIOS, its UEFI form for UEFI.
pub fn usb(host: &dyn Host, text: &str) -> Result<Vec<Step>> {
    let mut steps = vec![configuration("/syslinux.cfg", text)];
    steps.push(directory(UEFI));
    steps.push(copied(host, "syslinux.efi", &format!("{UEFI}/BOOTX64.EFI"))?);
    steps.push(copied(host, "ldlinux.e64", &format!("{UEFI}/ldlinux.e64"))?);
    steps.push(configuration(&format!("{UEFI}/syslinux.cfg"), text));
    let words = |words: &[&str]| words.iter().map(|word| Arg::from(*word)).collect::<Vec<_>>();
    let mut install = words(&["syslinux", "--install", "--offset", FAT_AT]);
    install.push(Arg::Device(medium()?));
    steps.push(run("put syslinux into the file system of the stick", install)?);
    // 440 bytes: behind them stand the identifier and the partition table.
    let mut boot_code = vec![Arg::from("dd"), Arg::Text(prefixed("if=", &loader::find(host, "mbr.bin")?))];
    boot_code.push(Arg::PrefixedDevice("of=".into(), medium()?));
    boot_code.extend(words(&["bs=440", "count=1", "conv=notrunc", "status=none"]));
    steps.push(run("put boot code into the first sector of the stick", boot_code)?);
    Ok(steps)
}

/// A CD that is also a stick: isolinux for BIOS; for UEFI GRUB, whose configuration is `grub`, in an image that holds the
/// same files.
pub fn cd(host: &dyn Host, text: &str, grub: &str) -> Result<Vec<Step>> {
    let mut steps = vec![directory("/isolinux")];
    for name in ["isolinux.bin", "ldlinux.c32"] {
        steps.push(copied(host, name, &format!("/isolinux/{name}"))?);
    }
    steps.push(configuration("/isolinux/isolinux.cfg", text));
    steps.push(directory(UEFI));
    steps.push(copied(host, "gcdx64.efi", &format!("{UEFI}/BOOTX64.EFI"))?);
    steps.push(configuration(&format!("{UEFI}/grub.cfg"), grub));
    // Debian's build of GRUB for CDs looks there first.
    steps.push(directory("/boot/grub"));
    steps.push(configuration("/boot/grub/grub.cfg", grub));
    let mut argv = Arg::words(["xorriso", "-as", "mkisofs", "-quiet", "-o"]);
    argv.push(Arg::Device(medium()?));
    argv.extend(Arg::words([
        "-V",
        "SYSTEMIMAGER",
        "-J",
        "-r",
        "-c",
        "isolinux/boot.cat",
        "-b",
        "isolinux/isolinux.bin",
    ]));
    argv.extend(Arg::words(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-isohybrid-mbr"]));
    argv.push(Arg::Text(loader::find(host, "isohdpfx.bin")?));
    argv.extend(Arg::words(["-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot", "-isohybrid-gpt-basdat"]));
    argv.push(Arg::Target("/".into()));
    steps.push(run("make the image of the CD", argv)?);
    Ok(steps)
}

fn medium() -> Result<NodeName> {
    NodeName::try_from("medium").map_err(|error| PluginError::bug(error.to_string()))
}

fn prefixed(prefix: &str, path: &BytePath) -> BytePath {
    BytePath::new([prefix.as_bytes(), path.as_bytes()].concat())
}

fn directory(path: &str) -> Step {
    let action = Action::MakeDirectory { path: path.into(), mode: 0o755 };
    Step::new(Phase::Boot, format!("make the directory {path}"), action)
}

fn copied(host: &dyn Host, name: &str, path: &str) -> Result<Step> {
    let contents = Contents::CopyOf(loader::find(host, name)?);
    let action = Action::WriteFile { path: path.into(), contents, mode: 0o644 };
    Ok(Step::new(Phase::Boot, format!("put {name} onto the medium"), action))
}

fn configuration(path: &str, text: &str) -> Step {
    let contents = Contents::Bytes(text.into());
    let action = Action::WriteFile { path: path.into(), contents, mode: 0o644 };
    Step::new(Phase::Boot, format!("say in {path} what the medium boots"), action)
}

fn run(what: &str, argv: Vec<Arg>) -> Result<Step> {
    Ok(Step { destroys: vec![medium()?], ..Step::new(Phase::Boot, what, Action::Run { argv, stdin: None }) })
}
