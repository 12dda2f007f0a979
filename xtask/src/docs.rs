//! The command line written down, from its own definitions: docs/commands.md, man pages, completions.
//!
//! docs/commands.md is committed, and checked; what is installed is made anew by each install. Nothing is said here
//! that the definitions do not say.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Arg, Command};
use clap_complete::Shell;
use systemimager_cli::exit::CODES;

/// The program.
const NAME: &str = "systemimager";

/// The section of the manual: system administration.
const SECTION: &str = "8";

/// The reference, in the checkout.
const REFERENCE: &str = "docs/commands.md";

/// Writes the reference.
///
/// # Errors
/// It cannot be written.
pub fn write(root: &Path) -> Result<()> {
    put(&root.join(REFERENCE), reference(&defined()))
}

/// Sees that the reference is what the definitions say.
///
/// # Errors
/// It is not, or cannot be read: says the first line that differs and what to run.
pub fn check(root: &Path) -> Result<()> {
    let text = std::fs::read_to_string(root.join(REFERENCE))
        .with_context(|| format!("reading {REFERENCE}; run `cargo xtask docs` to write it"))?;
    let expected = reference(&defined());
    if text == expected {
        return Ok(());
    }
    let same = text.lines().zip(expected.lines()).take_while(|(is, should)| is == should).count();
    bail!(
        "{REFERENCE} is stale: line {} should be {:?}; run `cargo xtask docs` and commit the file",
        same + 1,
        expected.lines().nth(same).unwrap_or("(no line)")
    )
}

/// Writes man pages and completions below `share` (PREFIX/share), each where its reader looks for it.
///
/// # Errors
/// Something cannot be written.
pub fn install(share: &Path) -> Result<()> {
    let man = share.join("man").join(format!("man{SECTION}"));
    let commands = defined();
    for command in all(&commands) {
        put(&man.join(format!("{}.{SECTION}", page_name(command))), page(command)?)?;
    }
    for link in systemimager_cli::COMMANDS {
        // The paper's names lead to the page of the command.
        put(&man.join(format!("{link}.{SECTION}")), format!(".so man{SECTION}/{NAME}-{link}.{SECTION}\n"))?;
    }
    for (shell, place) in [
        (Shell::Bash, "bash-completion/completions/systemimager"),
        (Shell::Zsh, "zsh/site-functions/_systemimager"),
        (Shell::Fish, "fish/vendor_completions.d/systemimager.fish"),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut systemimager_cli::command(), NAME, &mut script);
        put(&share.join(place), script)?;
    }
    Ok(())
}

fn put(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    std::fs::write(path, contents).with_context(|| format!("writing {}", path.display()))
}

/// The definitions, complete: every command knows its whole name and the options of all.
fn defined() -> Command {
    let mut command = systemimager_cli::command();
    command.build();
    command
}

/// A command and all below it, in their order.
fn all(command: &Command) -> Vec<&Command> {
    std::iter::once(command).chain(below(command).flat_map(all)).collect()
}

fn below(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|it| !it.is_hide_set() && it.get_name() != "help")
}

/// `systemimager-plugin-new`.
fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// A page of the manual: what clap makes of the command, and the exit codes.
fn page(command: &Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .section(SECTION)
        .manual("SystemImager")
        .render(&mut page)
        .with_context(|| format!("making the page of {}", page_name(command)))?;
    page.extend_from_slice(b".SH \"EXIT STATUS\"\n");
    for (code, meaning) in CODES {
        page.extend_from_slice(format!(".TP\n{code}\n{meaning}\n").as_bytes());
    }
    Ok(page)
}

/// The reference as Markdown. Pure.
fn reference(program: &Command) -> String {
    let mut out =
        String::from("# Commands\n\n<!-- Written by `cargo xtask docs`; what you change here is lost. -->\n\n");
    let _ = writeln!(out, "{}\n\n## Exit codes\n\n| code | meaning |\n|---|---|", about(program));
    for (code, meaning) in CODES {
        let _ = writeln!(out, "| {code} | {meaning} |");
    }
    out.push_str("\n## All commands\n\n");
    for command in below(program).flat_map(all) {
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "- [`{name}`](#{}): {}", name.replace(' ', "-"), escaped(&about));
    }
    out.push_str("\n## Options of every command\n\n");
    for arg in program.get_arguments().filter(|arg| !arg.is_hide_set()) {
        out.push_str(&option(arg));
    }
    for command in below(program).flat_map(all) {
        out.push_str(&section(command));
    }
    out
}

fn about(command: &Command) -> String {
    command.get_long_about().or(command.get_about()).map(|text| escaped(&text.to_string())).unwrap_or_default()
}

fn section(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let mut out = format!("\n## {name}\n\n{}\n\n```text\n{usage}\n```\n", about(command));
    let own = |arg: &&Arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help";
    let options: String = command.get_arguments().filter(own).map(option).collect();
    if !options.is_empty() {
        let _ = write!(out, "\n{options}");
    }
    if let Some(text) = command.get_after_long_help().or(command.get_after_help()) {
        let text = text.to_string();
        // Examples are lines that one types; what else is said is prose.
        for paragraph in text.trim().split("\n\n") {
            match paragraph.split_once('\n') {
                Some((head, lines)) if lines.lines().all(|line| line.starts_with("  ")) => {
                    let lines: Vec<&str> = lines.lines().map(str::trim).collect();
                    let _ = write!(out, "\n{}\n\n```sh\n{}\n```\n", escaped(head), lines.join("\n"));
                }
                _ => {
                    let _ = writeln!(out, "\n{}", escaped(paragraph));
                }
            }
        }
    }
    out
}

/// An option or argument as an item of a list.
fn option(arg: &Arg) -> String {
    let short = arg.get_short().filter(|_| arg.get_long().is_some()).map(|it| format!("-{it}, ")).unwrap_or_default();
    let help = arg.get_long_help().or(arg.get_help()).map(|text| text.to_string()).unwrap_or_default();
    let help = escaped(&help).replace("\n\n", "\n\n  ");
    let mut out = format!("- `{short}{}`: {help}", arg.to_string().trim());
    // A flag has values too, in clap's eyes.
    if arg.get_action().takes_values() {
        let words = |words: Vec<String>| words.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
        let values: Vec<String> = arg
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| value.get_name().to_owned())
            .collect();
        if !values.is_empty() {
            let _ = write!(out, " (one of {})", words(values));
        }
        let defaults: Vec<String> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        if !defaults.is_empty() {
            let _ = write!(out, " (unless given: {})", words(defaults));
        }
    }
    out.push('\n');
    out
}

/// Text that Markdown shows as it is; what stands between backticks is code already.
fn escaped(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(at, part)| match at % 2 {
        0 => part.replace('<', "\\<").replace('*', "\\*"),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_says_what_is_defined() {
        let mut command = Command::new("x").about("Does x").subcommand(
            Command::new("y")
                .about("Writes <y>, not `<y>`")
                .after_help("Examples:\n  x y --to a\n\nNothing else.")
                .arg(Arg::new("to").short('t').long("to").value_name("DIR").default_value("b").help("Where"))
                .arg(Arg::new("kind").long("kind").value_parser(["one", "two"]).help("Which"))
                .arg(Arg::new("secret").long("secret").hide(true)),
        );
        command.build();
        let text = reference(&command);
        for part in [
            "| 3 | The command did what it was asked, but a machine failed or stopped. |",
            "- [`x y`](#x-y): Writes \\<y>, not `<y>`\n",
            "## x y\n\nWrites \\<y>, not `<y>`\n\n```text\nx y [OPTIONS]\n```\n",
            "- `-t, --to <DIR>`: Where (unless given: `b`)\n",
            "- `--kind <kind>`: Which (one of `one`, `two`)\n",
            "\nExamples:\n\n```sh\nx y --to a\n```\n\nNothing else.\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn a_stale_reference_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let absent = format!("{:#}", check(root.path()).expect_err("there is none"));
        assert!(absent.contains("cargo xtask docs"), "{absent}");
        write(root.path()).expect("written");
        check(root.path()).expect("current");
        let file = root.path().join(REFERENCE);
        let text = std::fs::read_to_string(&file).expect("the reference");
        std::fs::write(&file, text.replace("# Commands", "# Orders")).expect("changed");
        let stale = check(root.path()).expect_err("stale").to_string();
        assert_eq!(
            stale,
            "docs/commands.md is stale: line 1 should be \"# Commands\"; run `cargo xtask docs` and commit the file"
        );
    }

    #[test]
    fn the_committed_reference_is_current() {
        check(&crate::build::root()).expect("current");
    }

    #[test]
    fn every_command_has_a_page() {
        let share = tempfile::tempdir().expect("a directory");
        install(share.path()).expect("installed");
        let read = |path: &str| std::fs::read_to_string(share.path().join(path)).expect(path);
        for command in all(&defined()) {
            let text = read(&format!("man/man8/{}.8", page_name(command)));
            for part in [".SH NAME", ".SH SYNOPSIS", ".SH \"EXIT STATUS\"\n.TP\n0\nDone.\n"] {
                assert!(text.contains(part), "{part:?} is not on the page of {}", page_name(command));
            }
        }
        assert_eq!(read("man/man8/getimage.8"), ".so man8/systemimager-getimage.8\n");
        for file in [
            "bash-completion/completions/systemimager",
            "zsh/site-functions/_systemimager",
            "fish/vendor_completions.d/systemimager.fish",
        ] {
            assert!(read(file).contains("getimage"), "{file}");
        }
    }
}
