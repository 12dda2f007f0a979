//! Settings of grub-mkconfig and boot entries that would put a kernel's device name (`/dev/sda1`) on the
//! command line: such a system boots only on machines whose disks get the same names as the master's.
//!
//! Pure. The files are shell fragments; they are read as text and never evaluated, so a name that is put
//! together from variables is not seen here. The sealed target's grub.cfg tells.

/// Variables of `/etc/default/grub` whose value becomes (part of) a kernel command line or its root.
const COMMAND_LINES: [&str; 5] = [
    "GRUB_CMDLINE_LINUX",
    "GRUB_CMDLINE_LINUX_DEFAULT",
    "GRUB_CMDLINE_LINUX_RECOVERY",
    "GRUB_CMDLINE_LINUX_XEN_REPLACE",
    "GRUB_DEVICE",
];

/// Lines of a `/etc/default/grub` that lead to kernel device names, as `FILE:LINE: TEXT`.
pub fn in_defaults(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let assignment = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = assignment.split_once('=') else { continue };
        let value = value.trim();
        let bad = match name.trim_end_matches('+') {
            // grub-mkconfig compares with the word true, nothing else.
            "GRUB_DISABLE_LINUX_UUID" => unquoted(value) == "true",
            name if COMMAND_LINES.contains(&name) => names_a_device(value),
            _ => false,
        };
        if bad {
            found.push(shown(&format!("{file}:{}: {line}", number + 1)));
        }
    }
    found
}

/// Lines of a boot loader specification entry (`/boot/loader/entries/*.conf`) that hold such names.
pub fn in_entry(file: &str, text: &str) -> Vec<String> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| line.trim_start().starts_with("options") && names_a_device(line))
        .map(|(number, line)| shown(&format!("{file}:{}: {}", number + 1, line.trim())))
        .collect()
}

/// A line for people.
fn shown(line: &str) -> String {
    line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn unquoted(value: &str) -> &str {
    value.trim_matches(['"', '\''])
}

/// `root=/dev/sda1`, `resume=/dev/vda2`, a bare `/dev/nvme0n1p1`: a name that the kernel gave.
fn names_a_device(text: &str) -> bool {
    text.split(|letter: char| letter.is_whitespace() || "\"'=,".contains(letter)).any(|word| {
        word.strip_prefix("/dev/").is_some_and(|name| {
            let parts = |prefix: &str, next: fn(char) -> bool| {
                name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(next))
            };
            ["sd", "hd", "vd", "xvd", "ubd"].iter().any(|prefix| parts(prefix, |letter| letter.is_ascii_lowercase()))
                || ["nvme", "mmcblk", "pmem", "dasd", "md"]
                    .iter()
                    .any(|prefix| parts(prefix, |letter| letter.is_ascii_alphanumeric()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_name_devices() {
        let rows: &[(&str, &str, bool)] = &[
            ("debian's own", "GRUB_CMDLINE_LINUX=\"\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n", false),
            ("uuids off", "GRUB_DISABLE_LINUX_UUID=true", true),
            ("uuids off, quoted", "export GRUB_DISABLE_LINUX_UUID=\"true\"", true),
            ("uuids on", "GRUB_DISABLE_LINUX_UUID=false", false),
            ("a comment", "#GRUB_DISABLE_LINUX_UUID=true", false),
            ("root", "GRUB_CMDLINE_LINUX=\"quiet root=/dev/sda1\"", true),
            ("resume", "GRUB_CMDLINE_LINUX_DEFAULT='resume=/dev/nvme0n1p3 quiet'", true),
            ("appended", "GRUB_CMDLINE_LINUX+=\" root=/dev/vda2\"", true),
            ("device", "GRUB_DEVICE=/dev/mmcblk0p2", true),
            ("by uuid", "GRUB_CMDLINE_LINUX=\"root=UUID=1-2 resume=/dev/disk/by-uuid/3-4\"", false),
            ("lvm", "GRUB_CMDLINE_LINUX=\"root=/dev/mapper/vg-root\"", false),
            ("a console", "GRUB_CMDLINE_LINUX=\"console=ttyS0\"\nGRUB_TERMINAL=/dev/sda", false),
        ];
        for (name, text, bad) in rows {
            let found = in_defaults("/etc/default/grub", text);
            assert_eq!(found.len(), usize::from(*bad), "{name}: {found:?}");
        }
        assert_eq!(
            in_defaults("/etc/default/grub", "a=b\n GRUB_DEVICE=/dev/sda1"),
            ["/etc/default/grub:2: GRUB_DEVICE=/dev/sda1"]
        );
    }

    #[test]
    fn entries_that_name_devices() {
        let text = "title x\nlinux /vmlinuz\noptions root=/dev/vda2 ro\n";
        assert_eq!(in_entry("/e", text), ["/e:3: options root=/dev/vda2 ro"]);
        assert!(in_entry("/e", "title /dev/sda1\noptions root=UUID=1-2 $kernelopts\n").is_empty());
    }
}
