//! Which tools a plugin's probe may run, and with which arguments.
//!
//! A plugin reads the machine through its host; it must not be able to change it that way, by
//! mistake or otherwise. So this is a list of what is allowed, and everything else is refused: a
//! tool that is not here, an option that is not here, an abbreviated option (getopt would complete
//! `--del` to `--delete`), options bundled into one word, an operand of another shape.
//!
//! Pure: nothing is run or read here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::error::{Result, SysError};
use super::quote::{quote, quote_all};
use super::tool::Tool;

/// What a value or an operand must look like.
#[derive(Debug, Clone, Copy)]
enum Is {
    /// An absolute path (bytes, any but NUL).
    Path,
    /// Letters, digits and `_ . , : + @ % -`, not beginning with `-`: names, lists of columns.
    Word,
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// One way of calling a tool that changes nothing.
struct Form {
    tool: Tool,
    /// The first words, exactly.
    start: &'static [&'static str],
    /// Options without value.
    flags: &'static [&'static str],
    /// Options with a value: the next word, or after `=` for a long one.
    valued: &'static [(&'static str, Is)],
    /// Of each group at least one must be there: what makes the call one that only reads.
    needs: &'static [&'static [&'static str]],
    /// What operands look like, and how many there may be.
    operand: Is,
    count: (usize, usize),
}

const FORM: Form =
    Form { tool: Tool::Blkid, start: &[], flags: &[], valued: &[], needs: &[], operand: Is::Path, count: (0, 0) };

/// Only `--version`, to learn what is installed.
const fn version(tool: Tool) -> Form {
    Form { tool, start: &["--version"], ..FORM }
}

const FORMS: &[Form] = &[
    version(Tool::Blkid),
    version(Tool::Dnsmasq),
    version(Tool::Findmnt),
    version(Tool::GrubInstall),
    version(Tool::GrubProbe),
    version(Tool::Lsblk),
    version(Tool::Modprobe),
    version(Tool::Rsync),
    version(Tool::Sfdisk),
    version(Tool::Udevadm),
    // Without -p (or with a cache file) blkid writes /run/blkid/blkid.tab.
    Form {
        tool: Tool::Blkid,
        flags: &["-p", "--probe", "-i", "--info", "-d", "--no-encoding"],
        valued: &[
            ("-o", Is::OneOf(&["export", "value", "udev", "full", "list"])),
            ("--output", Is::OneOf(&["export", "value", "udev", "full", "list"])),
            ("-s", Is::Word),
            ("--match-tag", Is::Word),
            ("-u", Is::Word),
            ("--usages", Is::Word),
            ("-n", Is::Word),
            ("--match-types", Is::Word),
        ],
        needs: &[&["-p", "--probe"]],
        count: (1, 1),
        ..FORM
    },
    Form {
        tool: Tool::Blockdev,
        needs: &[&[
            "--getsize64",
            "--getss",
            "--getpbsz",
            "--getsz",
            "--getro",
            "--getra",
            "--getiomin",
            "--getioopt",
            "--getalignoff",
            "--getbsz",
            "--report",
        ]],
        flags: &[
            "--getsize64",
            "--getss",
            "--getpbsz",
            "--getsz",
            "--getro",
            "--getra",
            "--getiomin",
            "--getioopt",
            "--getalignoff",
            "--getbsz",
            "--report",
        ],
        count: (1, 1),
        ..FORM
    },
    Form { tool: Tool::Btrfs, start: &["filesystem", "show"], flags: &["--raw", "-d", "-m"], count: (0, 1), ..FORM },
    Form { tool: Tool::Btrfs, start: &["filesystem", "usage"], flags: &["--raw", "-b"], count: (1, 1), ..FORM },
    Form { tool: Tool::Btrfs, start: &["filesystem", "label"], count: (1, 1), ..FORM },
    Form {
        tool: Tool::Btrfs,
        start: &["subvolume", "list"],
        flags: &["-p", "-a", "-c", "-g", "-o", "-u", "-q", "-R", "-s", "-r", "-t"],
        count: (1, 1),
        ..FORM
    },
    Form { tool: Tool::Btrfs, start: &["subvolume", "show"], flags: &["--raw"], count: (1, 1), ..FORM },
    Form { tool: Tool::Btrfs, start: &["subvolume", "get-default"], count: (1, 1), ..FORM },
    Form {
        tool: Tool::Btrfs,
        start: &["inspect-internal", "dump-super"],
        flags: &["-f", "--full"],
        count: (1, 1),
        ..FORM
    },
    Form { tool: Tool::Dumpe2fs, flags: &["-h", "-x"], needs: &[&["-h"]], count: (1, 1), ..FORM },
    // A second operand would be the new label.
    Form { tool: Tool::E2label, count: (1, 1), ..FORM },
    Form {
        tool: Tool::Findmnt,
        flags: &[
            "--json",
            "-J",
            "--real",
            "--pseudo",
            "--list",
            "-l",
            "--bytes",
            "-b",
            "--submounts",
            "-R",
            "--first-only",
            "-f",
            "--kernel",
            "-k",
            "--fstab",
            "-s",
            "--noheadings",
            "-n",
            "--nofsroot",
            "-v",
            "--df",
            "-D",
            "--output-all",
            "--canonicalize",
            "-c",
            "--evaluate",
            "-e",
            "--raw",
            "-r",
            "--pairs",
            "-P",
        ],
        valued: &[
            ("--output", Is::Word),
            ("-o", Is::Word),
            ("--types", Is::Word),
            ("-t", Is::Word),
            ("--target", Is::Path),
            ("-T", Is::Path),
            ("--mountpoint", Is::Path),
            ("-M", Is::Path),
            ("--source", Is::Path),
            ("-S", Is::Path),
            ("--tab-file", Is::Path),
            ("-F", Is::Path),
        ],
        count: (0, 1),
        ..FORM
    },
    // `shadow` and `gshadow` are no business of a probe.
    Form { tool: Tool::Getent, start: &["hosts"], operand: Is::Word, count: (0, 1), ..FORM },
    Form { tool: Tool::Getent, start: &["ahosts"], operand: Is::Word, count: (1, 1), ..FORM },
    Form { tool: Tool::Getent, start: &["ahostsv4"], operand: Is::Word, count: (1, 1), ..FORM },
    Form { tool: Tool::Getent, start: &["ahostsv6"], operand: Is::Word, count: (1, 1), ..FORM },
    Form { tool: Tool::Getent, start: &["passwd"], operand: Is::Word, count: (0, 1), ..FORM },
    Form { tool: Tool::Getent, start: &["group"], operand: Is::Word, count: (0, 1), ..FORM },
    Form {
        tool: Tool::GrubProbe,
        flags: &["-d", "--device"],
        valued: &[("--target", Is::OneOf(GRUB_TARGETS)), ("-t", Is::OneOf(GRUB_TARGETS))],
        needs: &[&["--target", "-t"]],
        count: (1, 1),
        ..FORM
    },
    ip("address"),
    ip("addr"),
    ip("link"),
    ip("route"),
    Form {
        tool: Tool::Losetup,
        flags: &["--json", "-J", "--list", "-l", "--all", "-a"],
        valued: &[("--output", Is::Word), ("-O", Is::Word), ("--associated", Is::Path), ("-j", Is::Path)],
        needs: &[&["--list", "-l", "--all", "-a", "--associated", "-j"]],
        ..FORM
    },
    Form {
        tool: Tool::Lsblk,
        flags: &[
            "--json",
            "-J",
            "--bytes",
            "-b",
            "--nodeps",
            "-d",
            "--paths",
            "-p",
            "--inverse",
            "-s",
            "--all",
            "-a",
            "--list",
            "-l",
            "--fs",
            "-f",
            "--noheadings",
            "-n",
            "--output-all",
            "-O",
            "--tree",
            "-T",
            "--raw",
            "-r",
            "--pairs",
            "-P",
            "--merge",
            "-M",
            "--scsi",
            "-S",
            "--topology",
            "-t",
            "--perms",
            "-m",
            "--discard",
            "-D",
            "--zoned",
            "-z",
        ],
        valued: &[
            ("--output", Is::Word),
            ("-o", Is::Word),
            ("--include", Is::Word),
            ("-I", Is::Word),
            ("--exclude", Is::Word),
            ("-e", Is::Word),
            ("--sort", Is::Word),
            ("-x", Is::Word),
        ],
        count: (0, 64),
        ..FORM
    },
    Form { tool: Tool::Lsinitramfs, flags: &["-l"], count: (1, 1), ..FORM },
    Form {
        tool: Tool::Modinfo,
        flags: &["-n", "--filename", "-0", "--null"],
        valued: &[
            ("-F", Is::Word),
            ("--field", Is::Word),
            ("-k", Is::Word),
            ("--set-version", Is::Word),
            ("-b", Is::Path),
            ("--basedir", Is::Path),
        ],
        operand: Is::Word,
        count: (1, 64),
        ..FORM
    },
    // --show-depends prints what would be loaded, and runs no `install` line.
    Form {
        tool: Tool::Modprobe,
        flags: &["--show-depends", "-D", "-a", "--all", "-q", "--quiet", "-i", "--ignore-install"],
        valued: &[("-S", Is::Word), ("--set-version", Is::Word), ("-d", Is::Path), ("--dirname", Is::Path)],
        needs: &[&["--show-depends", "-D"]],
        operand: Is::Word,
        count: (1, 64),
        ..FORM
    },
    Form {
        tool: Tool::Sfdisk,
        flags: &[
            "--json",
            "-J",
            "--dump",
            "-d",
            "--bytes",
            "--verify",
            "-V",
            "--list",
            "-l",
            "--show-size",
            "-s",
            "--show-geometry",
            "-g",
            "--quiet",
            "-q",
            "--list-free",
            "-F",
        ],
        needs: &[&[
            "--json",
            "-J",
            "--dump",
            "-d",
            "--verify",
            "-V",
            "--list",
            "-l",
            "--show-size",
            "-s",
            "--show-geometry",
            "-g",
            "--list-free",
            "-F",
        ]],
        valued: &[("--output", Is::Word), ("-o", Is::Word)],
        count: (1, 1),
        ..FORM
    },
    // -L and -U would set label and UUID.
    Form { tool: Tool::Swaplabel, count: (1, 1), ..FORM },
    Form { tool: Tool::Tune2fs, flags: &["-l"], needs: &[&["-l"]], count: (1, 1), ..FORM },
    // --cleanup-db (-c) deletes udev's data base; --wait-for-initialization may hang.
    Form {
        tool: Tool::Udevadm,
        start: &["info"],
        flags: &["--export-db", "-e", "--attribute-walk", "-a", "--export", "-x", "--no-pager"],
        valued: &[
            ("--query", Is::OneOf(&["name", "symlink", "path", "property", "all"])),
            ("-q", Is::OneOf(&["name", "symlink", "path", "property", "all"])),
            ("--name", Is::Path),
            ("-n", Is::Path),
            ("--path", Is::Path),
            ("-p", Is::Path),
            ("--property", Is::Word),
            ("--json", Is::OneOf(&["short", "pretty", "off"])),
        ],
        count: (0, 8),
        ..FORM
    },
    // Without --all and --offset it only lists.
    Form {
        tool: Tool::Wipefs,
        flags: &["--json", "-J", "--noheadings", "-i", "--no-act", "-n", "--parsable", "-p"],
        valued: &[("--output", Is::Word), ("-O", Is::Word)],
        count: (1, 1),
        ..FORM
    },
    Form {
        tool: Tool::XfsDb,
        flags: &["-r", "-f"],
        // Other commands write files (metadump, log), or the file system (write, uuid VALUE).
        valued: &[("-c", Is::OneOf(&["uuid", "label", "sb 0", "sb", "p", "print", "version", "info", "quit"]))],
        needs: &[&["-r"], &["-c"]],
        count: (1, 1),
        ..FORM
    },
    Form { tool: Tool::XfsInfo, count: (1, 1), ..FORM },
];

const GRUB_TARGETS: &[&str] = &[
    "abstraction",
    "device",
    "disk",
    "drive",
    "fs",
    "fs_label",
    "fs_uuid",
    "partmap",
    "partuuid",
    "partition_map",
    "hints_string",
    "baremetal_hints",
    "bios_hints",
];

/// `ip -json addr show dev eth0`. `show` must be said: without it a name could be a verb.
const fn ip(object: &'static str) -> Form {
    Form {
        tool: Tool::Ip,
        start: match object.as_bytes() {
            b"address" => &["-json", "address", "show"],
            b"addr" => &["-json", "addr", "show"],
            b"link" => &["-json", "link", "show"],
            _ => &["-json", "route", "show"],
        },
        valued: &[("dev", Is::Word), ("table", Is::Word)],
        ..FORM
    }
}

/// Whether a plugin's probe may run this: `Ok` only for calls that are known to change nothing.
///
/// # Errors
/// [`SysError::Refused`], saying which word is not allowed, or which tool.
pub fn read_only_allowed<A: AsRef<OsStr>>(tool: Tool, args: &[A]) -> Result<()> {
    let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
    let mut nearest: Option<(usize, String)> = None;
    for form in FORMS.iter().filter(|form| form.tool == tool) {
        match form.check(&args) {
            Ok(()) => return Ok(()),
            Err((at, why)) => {
                // The form that took most words is the one that was meant.
                if nearest.as_ref().is_none_or(|(best, _)| at >= *best) {
                    nearest = Some((at, why));
                }
            }
        }
    }
    let why = nearest.map_or_else(|| "this tool is not among them".to_owned(), |(_, why)| why);
    Err(SysError::Refused(format!(
        "a probe may not run `{}`: only calls known to change nothing are allowed, and {why}",
        quote_all(std::iter::once(OsStr::new(tool.name())).chain(args))
    )))
}

impl Form {
    /// On refusal: how many words were fine, and what is wrong with the next.
    fn check(&self, args: &[&OsStr]) -> std::result::Result<(), (usize, String)> {
        for (at, word) in self.start.iter().enumerate() {
            if args.get(at).copied() != Some(OsStr::new(word)) {
                let found = args.get(at).map_or_else(|| "nothing".to_owned(), quote);
                return Err((at, format!("{found} stands where {word} is expected")));
            }
        }
        let mut given: Vec<&str> = Vec::new();
        let mut operands = 0;
        let mut at = self.start.len();
        while let Some(word) = args.get(at).copied() {
            if let Some(flag) = self.flags.iter().find(|flag| word == OsStr::new(flag)) {
                given.push(flag);
            } else if let Some((option, is)) = self.valued.iter().find(|(option, _)| word == OsStr::new(option)) {
                given.push(option);
                at += 1;
                let value = args.get(at).ok_or_else(|| (at, format!("{option} lacks its value")))?;
                is.check(value).map_err(|why| (at, format!("{} after {option} {why}", quote(value))))?;
            } else if let Some((option, value, is)) = self.long_with_value(word) {
                given.push(option);
                is.check(value).map_err(|why| (at, format!("{} after {option} {why}", quote(value))))?;
            } else if word.as_bytes().first() == Some(&b'-') {
                return Err((at, format!("{} is not an allowed option of it", quote(word))));
            } else {
                operands += 1;
                if operands > self.count.1 {
                    return Err((at, format!("{} is an operand too many", quote(word))));
                }
                self.operand.check(word).map_err(|why| (at, format!("{} {why}", quote(word))))?;
            }
            at += 1;
        }
        for group in self.needs {
            if !group.iter().any(|option| given.contains(option)) {
                return Err((at, format!("{} is missing", group.join(" or "))));
            }
        }
        if operands < self.count.0 {
            return Err((at, "what to read is missing".to_owned()));
        }
        Ok(())
    }

    /// `--output=NAME`.
    fn long_with_value<'a>(&self, word: &'a OsStr) -> Option<(&'static str, &'a OsStr, Is)> {
        self.valued.iter().filter(|(option, _)| option.starts_with("--")).find_map(|(option, is)| {
            let value = word.as_bytes().strip_prefix(option.as_bytes())?.strip_prefix(b"=")?;
            Some((*option, OsStr::from_bytes(value), *is))
        })
    }
}

impl Is {
    fn check(self, value: &OsStr) -> std::result::Result<(), String> {
        let bytes = value.as_bytes();
        let fits = match self {
            Self::Path => bytes.first() == Some(&b'/') && !bytes.contains(&0),
            Self::Word => {
                let fine = |b: &u8| b.is_ascii_alphanumeric() || b"_.,:+@%-".contains(b);
                !bytes.is_empty() && bytes[0] != b'-' && bytes.iter().all(fine)
            }
            Self::OneOf(list) => list.iter().any(|word| value == OsStr::new(word)),
        };
        if fits {
            return Ok(());
        }
        Err(match self {
            Self::Path => "is not an absolute path".to_owned(),
            Self::Word => "is not a plain word".to_owned(),
            Self::OneOf(list) => format!("is not one of {}", list.join(", ")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_reads_is_allowed() {
        let rows: &[(Tool, &str)] = &[
            (Tool::Sfdisk, "--json /dev/sda"),
            (Tool::Sfdisk, "--dump /dev/sda"),
            (Tool::Sfdisk, "--version"),
            (Tool::Blkid, "-p -o export /dev/sda1"),
            (Tool::Blkid, "-p -o export -s UUID /dev/sda1"),
            (Tool::Lsblk, "--json -b -o NAME,SIZE,FSTYPE"),
            (Tool::Lsblk, "--json --bytes --output=NAME,PATH /dev/sda /dev/sdb"),
            (Tool::Findmnt, "--json --real"),
            (Tool::Findmnt, "--json --target /boot"),
            (Tool::Dumpe2fs, "-h /dev/sda1"),
            (Tool::Tune2fs, "-l /dev/sda1"),
            (Tool::E2label, "/dev/sda1"),
            (Tool::Swaplabel, "/dev/sda2"),
            (Tool::Udevadm, "info --query=property --name=/dev/sda"),
            (Tool::Udevadm, "info --export-db"),
            (Tool::Btrfs, "filesystem show --raw /dev/sda1"),
            (Tool::Btrfs, "subvolume list -p /"),
            (Tool::XfsInfo, "/dev/sda1"),
            (Tool::XfsDb, "-r -c uuid /dev/sda1"),
            (Tool::Getent, "hosts www3"),
            (Tool::Getent, "ahosts fd77::1"),
            (Tool::GrubProbe, "--target=fs_uuid /boot"),
            (Tool::Ip, "-json addr show dev eth0"),
            (Tool::Ip, "-json route show"),
            (Tool::Modprobe, "--show-depends -S 6.1.0-31-amd64 -d /target ext4"),
            (Tool::Modinfo, "-F alias -k 6.1.0 -b /target ahci"),
            (Tool::Wipefs, "--json /dev/sda"),
            (Tool::Blockdev, "--getsize64 /dev/sda"),
            (Tool::Rsync, "--version"),
        ];
        for (tool, line) in rows {
            let args: Vec<&str> = line.split(' ').collect();
            if let Err(error) = read_only_allowed(*tool, &args) {
                panic!("{} {line}: {error}", tool.name());
            }
        }
    }

    #[test]
    fn what_could_change_something_is_refused() {
        // Words are separated by `|`, so that they may hold blanks.
        let rows: &[(Tool, &str, &str)] = &[
            (Tool::Sfdisk, "--json|--delete|/dev/sda", "--delete is not an allowed option of it"),
            (Tool::Sfdisk, "--delete|/dev/sda", "--delete is not an allowed option of it"),
            (
                Tool::Sfdisk,
                "/dev/sda",
                "--json or -J or --dump or -d or --verify or -V or --list or -l or --show-size or -s or --show-geometry or -g or --list-free or -F is missing",
            ),
            (Tool::Sfdisk, "--json", "what to read is missing"),
            (Tool::Sfdisk, "--js|/dev/sda", "--js is not an allowed option of it"),
            (Tool::Sfdisk, "-Jd|/dev/sda", "-Jd is not an allowed option of it"),
            (Tool::Sfdisk, "--json|/dev/sda|1", "1 is an operand too many"),
            (Tool::Sfdisk, "--json|--|/dev/sda", "-- is not an allowed option of it"),
            (Tool::Sfdisk, "--json|sda", "sda is not an absolute path"),
            (Tool::Blkid, "-o|export|/dev/sda1", "-p or --probe is missing"),
            (Tool::Blkid, "-p|-w|/etc/passwd|/dev/sda1", "-w is not an allowed option of it"),
            (Tool::Blkid, "-p|-c|/etc/passwd|/dev/sda1", "-c is not an allowed option of it"),
            (Tool::Blkid, "-g", "-g is not an allowed option of it"),
            (Tool::Blkid, "-p|-o", "-o lacks its value"),
            (
                Tool::Blkid,
                "-p|-o|--garbage-collect|/dev/sda",
                "--garbage-collect after -o is not one of export, value, udev, full, list",
            ),
            (Tool::Dumpe2fs, "-h|-o|superblock=1|/dev/sda1", "-o is not an allowed option of it"),
            (Tool::Tune2fs, "-l|-L|x|/dev/sda1", "-L is not an allowed option of it"),
            (Tool::Tune2fs, "-lLx|/dev/sda1", "-lLx is not an allowed option of it"),
            (Tool::E2label, "/dev/sda1|new", "new is an operand too many"),
            (Tool::Swaplabel, "-L|x|/dev/sda1", "-L is not an allowed option of it"),
            (Tool::Swaplabel, "-U|x|/dev/sda1", "-U is not an allowed option of it"),
            (Tool::Udevadm, "info|--cleanup-db", "--cleanup-db is not an allowed option of it"),
            (Tool::Udevadm, "info|-c", "-c is not an allowed option of it"),
            (Tool::Udevadm, "trigger", "trigger stands where info is expected"),
            (Tool::Udevadm, "control|--exit", "control stands where info is expected"),
            (Tool::Btrfs, "filesystem|label|/dev/sda1|new", "new is an operand too many"),
            (Tool::Btrfs, "subvolume|delete|/x", "delete stands where get-default is expected"),
            (Tool::XfsDb, "-x|-c|uuid|/dev/sda1", "-x is not an allowed option of it"),
            (Tool::XfsDb, "-c|uuid|/dev/sda1", "-r is missing"),
            (
                Tool::XfsDb,
                "-r|-c|uuid generate|/dev/sda1",
                "'uuid generate' after -c is not one of uuid, label, sb 0, sb, p, print, version, info, quit",
            ),
            (Tool::Getent, "shadow", "shadow stands where group is expected"),
            (Tool::Getent, "passwd|--service=x", "--service=x is not an allowed option of it"),
            (Tool::Ip, "-json|link|set|eth0|down", "set stands where show is expected"),
            (Tool::Ip, "-batch|/tmp/x", "-batch stands where -json is expected"),
            (Tool::Modprobe, "ext4", "--show-depends or -D is missing"),
            (Tool::Modprobe, "-D|-C|/tmp/evil|ext4", "-C is not an allowed option of it"),
            (Tool::Modprobe, "-D|-r|ext4", "-r is not an allowed option of it"),
            (Tool::Wipefs, "-a|/dev/sda", "-a is not an allowed option of it"),
            (Tool::Wipefs, "--no-act|--all|/dev/sda", "--all is not an allowed option of it"),
            (Tool::Blockdev, "--setro|/dev/sda", "--setro is not an allowed option of it"),
            (Tool::Blockdev, "--getro|--flushbufs|/dev/sda", "--flushbufs is not an allowed option of it"),
            (Tool::Losetup, "-d|/dev/loop0", "-d is not an allowed option of it"),
            (Tool::Lsblk, "--sysroot|/tmp/x", "--sysroot is not an allowed option of it"),
            (Tool::Findmnt, "--poll", "--poll is not an allowed option of it"),
            (Tool::Lsblk, "-o|$(reboot)", "'$(reboot)' after -o is not a plain word"),
            (Tool::Rsync, "-a|/|/x", "-a stands where --version is expected"),
            (Tool::Rsync, "--version|--server", "--server is not an allowed option of it"),
            (Tool::Mkfs4, "-n|/dev/sda1", "this tool is not among them"),
            (Tool::Chroot, "/|sh", "this tool is not among them"),
            (Tool::Busybox, "sh", "this tool is not among them"),
        ];
        for (tool, line, expected) in rows {
            let args: Vec<&str> = line.split('|').collect();
            let error = match read_only_allowed(*tool, &args) {
                Ok(()) => panic!("{} {line} was allowed", tool.name()),
                Err(error) => error.to_string(),
            };
            let why = error.split("are allowed, and ").nth(1).unwrap_or_default();
            assert_eq!(why, *expected, "{} {line}", tool.name());
        }
        let error = read_only_allowed::<&str>(Tool::Cp, &[]).expect_err("refused").to_string();
        assert_eq!(
            error,
            "a probe may not run `cp`: only calls known to change nothing are allowed, and this tool is not among them"
        );
    }

    #[test]
    fn paths_may_be_any_bytes() {
        let path = OsStr::from_bytes(b"/dev/disk/by-label/\xff x");
        assert!(read_only_allowed(Tool::Sfdisk, &[OsStr::new("--json"), path]).is_ok());
    }
}
