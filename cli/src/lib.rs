//! The command line: one binary, one subcommand a file, also callable by the paper's names.
//!
//! Nothing here knows how an image is captured or a machine is installed: commands translate options
//! into calls of the engine and its answers into words, JSON and exit codes.

mod args;
mod commands;
mod context;
pub mod exit;
mod global;
#[cfg(feature = "server")]
pub mod http;
mod internal;
mod spelling;

pub use context::{Context, Plugins};
pub use spelling::COMMANDS;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

/// The command line as it is defined, for those who write it down: reference, man pages, completions.
pub fn command() -> clap::Command {
    <args::Args as clap::CommandFactory>::command()
}

/// Runs the command that the program was called with.
pub fn main(plugins: Plugins) -> ExitCode {
    if let Some(code) = internal::run() {
        return code;
    }
    let words = spelling::gnu(std::env::args_os().collect());
    let args = match args::Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => {
            // Help and version are not failures; clap knows which stream and code each has.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let json = args.global.json;
    // Who asks what is wrong wants to know of the rest too.
    let context = match args.command {
        args::Command::Doctor(_) => Context::lenient,
        _ => Context::new,
    };
    match context(args.global, plugins).and_then(|context| args.command.run(&context)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error, json);
            error.downcast_ref::<exit::Exit>().map_or(ExitCode::FAILURE, |exit| ExitCode::from(exit.code()))
        }
    }
}

/// One message on standard error: the chain of causes, outermost first; JSON on standard output too if asked.
fn report(error: &anyhow::Error, json: bool) {
    let text = format!("{error:#}");
    if json {
        // A reader that went away changes nothing about the failure, or about its exit code.
        let _ = writeln!(std::io::stdout(), "{}", serde_json::json!({ "error": text }));
    }
    context::note(format_args!("systemimager: {text}"));
}
