//! Runs a program to its end; an error says which, how it ended and what it complained about.
//!
//! It must not hide anything: no retry, no status that is taken for another.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A command that finds programs in the `sbin` directories too, speaks English, and reads nothing.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"));
    command.env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// [`program`] with its arguments.
pub fn command<I: AsRef<OsStr>>(argv: &[I]) -> Result<Command> {
    let [name, arguments @ ..] = argv else { bail!("an empty command was to be run") };
    let mut command = program(name);
    command.args(arguments);
    Ok(command)
}

/// The command line for a reader, each word quoted where it needs it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// One word quoted for a POSIX shell.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The last `count` lines of a text.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Runs the command and gives what it printed, whatever its status.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("starting {}; is the program installed?", shown(command)))
}

/// Runs the command and gives its standard output; any status but 0 is an error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let said = if errors.trim().is_empty() { text.as_str() } else { errors.as_ref() };
        bail!("{}: {}:\n{}", shown(command), output.status, tail(said, 20));
    }
    Ok(text)
}

/// [`run`] for a list of words.
pub fn run_argv<I: AsRef<OsStr>>(argv: &[I]) -> Result<String> {
    run(&mut command(argv)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, expected) in
            [("plain-1.0", "plain-1.0"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("*", "'*'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn an_error_names_command_status_and_complaint() {
        let error = run_argv(&["sh", "-c", "echo out; echo 'no such thing' >&2; exit 3"]).unwrap_err().to_string();
        assert_eq!(error, "sh -c 'echo out; echo '\\''no such thing'\\'' >&2; exit 3': exit status: 3:\nno such thing");
        let error = run_argv(&["no-such-program"]).unwrap_err().to_string();
        assert_eq!(error, "starting no-such-program; is the program installed?");
    }
}
