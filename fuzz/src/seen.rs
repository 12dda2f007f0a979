//! What must hold of everything that is made of input from outside: of texts that people or programs read, of paths, of
//! steps.

use std::collections::BTreeSet;

use systemimager_core::{Action, Arg, BytePath, Contents, NodeName, Step};

/// A text that comes to a console or into a line of a file: nothing in it acts on either.
///
/// # Panics
/// It holds a control character.
#[track_caller]
pub fn one_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "control characters in {text:?}");
}

/// A text of several lines.
///
/// # Panics
/// It holds another control character than line break and tab.
#[track_caller]
pub fn lines(text: &str) {
    let bad = |letter: char| letter.is_control() && letter != '\n' && letter != '\t';
    assert!(!text.chars().any(bad), "control characters in {text:?}");
}

/// A path below some root.
///
/// # Panics
/// It is not absolute, or leads out of its root.
#[track_caller]
pub fn inside(path: &BytePath) {
    let bytes = path.as_bytes();
    assert!(bytes.starts_with(b"/"), "{path} is not absolute");
    assert!(!bytes.contains(&0), "{path} holds a NUL");
    assert!(bytes.split(|byte| *byte == b'/').all(|part| part != b".."), "{path} climbs");
}

/// Steps may use only these nodes (and what they provide themselves), change only what is below the root, and are told
/// in words that act on no console.
///
/// # Panics
/// One does otherwise.
pub fn steps(steps: &[Step], nodes: &BTreeSet<NodeName>) {
    let mut known = nodes.clone();
    for step in steps {
        one_line(&step.what);
        let mut used: Vec<&NodeName> = step.destroys.iter().collect();
        match &step.action {
            Action::Run { argv, stdin } | Action::InTarget { argv, stdin } => {
                used.extend(argv.iter().filter_map(|arg| match arg {
                    Arg::Device(node) | Arg::PrefixedDevice(_, node) => Some(node),
                    _ => None,
                }));
                words(argv);
                stdin.iter().for_each(|text| lines(text));
            }
            Action::Mount { node, at, .. } => {
                used.push(node);
                inside(at);
            }
            Action::Settle { nodes } | Action::Wipe { disks: nodes } => used.extend(nodes),
            Action::WriteFile { contents: Contents::Bytes(bytes), .. } => {
                lines(std::str::from_utf8(bytes).expect("our files are text"));
            }
            Action::SetLine { prefix, line, .. } => {
                // A tab may stand between words.
                one_line(&prefix.replace('\t', " "));
                one_line(&line.replace('\t', " "));
            }
            Action::SetBlock { begin, end, block, .. } => {
                one_line(begin);
                one_line(end);
                lines(block);
                assert!(!block.lines().any(|line| line == end), "the block ends before its end: {block:?}");
            }
            _ => {}
        }
        for node in used {
            assert!(known.contains(node), "the step {:?} uses {node}, which is another's", step.what);
        }
        step.written().iter().for_each(|written| inside(&written.path));
        known.extend(step.provides.iter().cloned());
    }
}

/// Devices are named by their nodes alone; only the value of an option may look like one (a label, say).
fn words(argv: &[Arg]) {
    let mut before: &[u8] = b"";
    for arg in argv {
        let Arg::Text(text) = arg else {
            before = b"";
            continue;
        };
        let bytes = text.as_bytes();
        assert!(!bytes.starts_with(b"/dev/") || before.starts_with(b"-"), "{text} is named as a device");
        assert!(!bytes.contains(&0), "{text} holds a NUL");
        before = bytes;
    }
}
