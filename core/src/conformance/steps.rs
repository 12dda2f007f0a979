//! Steps: what a plan may hold, whoever planned it.

use std::collections::BTreeSet;

use super::is_clean;
use crate::data::{Action, Arg, BytePath, NodeName, Phase, Step};

/// Devices that are the same on every machine.
const HARMLESS: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/stdin", "/dev/stdout", "/dev/stderr"];

/// What steps may say, and what they may do.
pub(super) struct Bounds<'a> {
    /// The phase they belong to.
    pub phase: Phase,
    /// Nodes that are there before them.
    pub there: Vec<NodeName>,
    /// Nodes that they may provide.
    pub new: Vec<NodeName>,
    /// Programs that the installer has for this plugin; none: they are run elsewhere.
    pub programs: Option<&'a BTreeSet<String>>,
    /// Devices that they may name: those that the request names.
    pub devices: &'a [&'a str],
}

impl Bounds<'_> {
    /// What the steps do, in their own words.
    ///
    /// # Errors
    /// The first thing that is wrong, and what to do.
    pub(super) fn judge(&self, steps: &[Step]) -> Result<String, String> {
        let mut there = self.there.clone();
        for step in steps {
            self.judge_one(step, &there).map_err(|why| format!("the step {:?}: {why}", step.what))?;
            there.extend(step.provides.iter().cloned());
        }
        if steps.is_empty() {
            return Ok("no steps".into());
        }
        Ok(steps.iter().map(|step| step.what.as_str()).collect::<Vec<_>>().join("; "))
    }

    fn judge_one(&self, step: &Step, there: &[NodeName]) -> Result<(), String> {
        if step.what.trim().is_empty() || step.what.chars().any(char::is_control) {
            return Err("what it is for has to be said in one line of words".into());
        }
        if step.phase != self.phase {
            return Err(format!(
                "it is of the phase {}; this method plans {} only",
                step.phase.name(),
                self.phase.name()
            ));
        }
        for node in step.destroys.iter().chain(used(&step.action)) {
            if !there.contains(node) {
                return Err(format!("it uses the node {node}, which neither the request nor a step before it has"));
            }
        }
        if let Some(node) = step.provides.iter().find(|node| !self.new.contains(node) && !there.contains(node)) {
            return Err(format!("it provides the node {node}, which is not of the request"));
        }
        let paths = step.written();
        if let Some(written) = paths.iter().find(|written| !is_clean(&written.path)) {
            return Err(format!("it writes {}, which is not an absolute path without . and ..", written.path));
        }
        self.judge_action(step)
    }

    fn judge_action(&self, step: &Step) -> Result<(), String> {
        match &step.action {
            Action::Run { argv, stdin } => {
                let program = judge_argv(argv, stdin.as_deref(), self.devices)?;
                if self.programs.is_some_and(|programs| !program.starts_with('/') && !programs.contains(&program)) {
                    return Err(format!(
                        "it runs {program}, which needs() does not name for the installer: it would not be there; name \
                         it with its package"
                    ));
                }
                Ok(())
            }
            Action::InTarget { argv, stdin } => {
                judge_argv(argv, stdin.as_deref(), self.devices)?;
                if step.writes.is_empty() {
                    return Err(
                        "it runs a program in the target and does not say what that changes; add .writing([Written::…])"
                            .into(),
                    );
                }
                Ok(())
            }
            Action::Mount { at, fstype, .. } => {
                if !is_clean(at) {
                    return Err(format!("it mounts at {at}, which is not an absolute path without . and .."));
                }
                if fstype.is_empty() {
                    Err("it mounts without a type; say which, mount(2) needs it".into())
                } else {
                    Ok(())
                }
            }
            Action::MakeDirectory { mode, .. } | Action::WriteFile { mode, .. } if *mode > 0o7777 => {
                Err(format!("its mode {mode:o} holds more than permission bits"))
            }
            Action::SetLine { prefix, line, .. } => {
                if line.contains('\n') || !line.starts_with(prefix.as_str()) {
                    return Err(
                        "its line has to be one line that begins with its prefix, or it is put there twice".into()
                    );
                }
                Ok(())
            }
            Action::SetBlock { block, begin, end, .. } => {
                if !block.is_empty() && !block.ends_with('\n') {
                    return Err("its block has to end in a newline".into());
                }
                if begin == end || begin.contains('\n') || end.contains('\n') {
                    return Err("the lines before and after its block have to be two different lines".into());
                }
                Ok(())
            }
            Action::Pull { .. }
            | Action::Record { .. }
            | Action::LayOver { .. }
            | Action::Hook { .. }
            | Action::Seal => Err("it is an action of the engine's own; plugins do not return it".into()),
            _ => Ok(()),
        }
    }
}

/// Nodes that an action needs a device of.
fn used(action: &Action) -> Vec<&NodeName> {
    match action {
        Action::Run { argv, .. } | Action::InTarget { argv, .. } => argv
            .iter()
            .filter_map(|arg| match arg {
                Arg::Device(node) | Arg::PrefixedDevice(_, node) => Some(node),
                _ => None,
            })
            .collect(),
        Action::Mount { node, .. } => vec![node],
        Action::Settle { nodes } => nodes.iter().collect(),
        _ => Vec::new(),
    }
}

/// The program's name.
fn judge_argv(argv: &[Arg], stdin: Option<&str>, devices: &[&str]) -> Result<String, String> {
    let Some(Arg::Text(program)) = argv.first() else {
        return Err("its argv has no program; the first word is one, as text".into());
    };
    let name = program.to_string();
    if name.is_empty() || name.starts_with('-') || (name.contains('/') && !is_clean(program)) {
        return Err(format!("{name:?} is no program; give a name, or an absolute path"));
    }
    for arg in argv.iter().skip(1) {
        if let Arg::Text(text) = arg
            && let Some(device) = device_in(text, devices)
        {
            return Err(format!(
                "its argument {text} names the device {device}; on another machine that is another disk: give \
                 Arg::Device(node), or Arg::PrefixedDevice"
            ));
        }
    }
    if let Some(device) = stdin.and_then(|text| device_in(&BytePath::from(text), devices)) {
        return Err(format!("its standard input names the device {device}; name nodes, by Arg::Device"));
    }
    Ok(name)
}

fn device_in(text: &BytePath, devices: &[&str]) -> Option<String> {
    let text = text.to_string();
    text.split(|letter: char| letter.is_whitespace() || "=:,;\"'".contains(letter))
        .find(|word| word.starts_with("/dev/") && !HARMLESS.contains(word) && !devices.contains(word))
        .map(str::to_owned)
}

/// Whether any argument or input of the steps holds this text.
pub(super) fn mentions(steps: &[Step], text: &str) -> bool {
    steps.iter().any(|step| match &step.action {
        Action::Run { argv, stdin } | Action::InTarget { argv, stdin } => {
            let word =
                |arg: &Arg| matches!(arg, Arg::Text(word) if String::from_utf8_lossy(word.as_bytes()).contains(text));
            argv.iter().any(word) || stdin.as_ref().is_some_and(|input| input.contains(text))
        }
        _ => false,
    })
}
