//! Needs: answered for every role, by plain names, with the packages that bring them.

use super::{Check, Rules, is_clean, one_line};
use crate::data::{Needs, Program, Role};

/// All roles, and how a person calls them.
const ROLES: [(Role, &str); 4] = [
    (Role::MasterClient, "the master client"),
    (Role::Server, "the image server"),
    (Role::Installer, "the installer"),
    (Role::InstalledClient, "an installed client"),
];

impl Check<'_> {
    pub(super) fn needs(&mut self) {
        for (role, name) in ROLES {
            let rules = Rules::reads(&[]).answers();
            let needs = self.ask(format!("needs of {name}"), "needs", &role, rules, |needs: &Needs, _| judge(needs));
            let programs = needs.map(|needs| needs.programs.into_iter().map(|program| program.name).collect());
            self.programs.insert(role, programs.unwrap_or_default());
        }
    }
}

fn judge(needs: &Needs) -> Result<String, String> {
    for program in &needs.programs {
        judge_program(program)?;
    }
    for (index, program) in needs.programs.iter().enumerate() {
        if needs.programs.iter().take(index).any(|other| other.name == program.name) {
            return Err(format!("the program {} is named twice; name it once", program.name));
        }
    }
    if let Some(file) = needs.files.iter().find(|file| !is_clean(file)) {
        return Err(format!("the file {file} is not an absolute path without . and .."));
    }
    if let Some(name) = needs.modules.iter().chain(&needs.libraries).find(|name| !plain(name)) {
        return Err(format!(
            "{name:?} is not the plain name of a kernel module or library; leave directories and .ko out"
        ));
    }
    let mut told: Vec<String> = needs.programs.iter().map(|it| format!("{} ({})", it.name, it.package)).collect();
    told.extend(needs.modules.iter().map(|name| format!("module {name}")));
    told.extend(needs.files.iter().map(|file| format!("file {file}")));
    told.extend(needs.libraries.iter().map(|name| format!("library {name}")));
    Ok(if told.is_empty() { "nothing".into() } else { one_line(&told.join(", ")) })
}

fn judge_program(program: &Program) -> Result<(), String> {
    let Program { name, package, .. } = program;
    if name.contains('/') {
        return Err(format!("the program {name} is a path; name it, and the host looks it up"));
    }
    if !plain(name) {
        return Err(format!("{name:?} is not the name of a program"));
    }
    let letters = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "+.-".contains(letter);
    if package.len() < 2 || !package.chars().all(letters) {
        return Err(format!(
            "the program {name} names the package {package:?}; name the Debian package that brings it, for the message \
             when it is missing"
        ));
    }
    Ok(())
}

fn plain(name: &str) -> bool {
    let fine = |letter: char| letter.is_ascii_alphanumeric() || "._+-@".contains(letter);
    !name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(fine)
}
