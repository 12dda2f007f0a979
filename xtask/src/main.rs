//! Developer commands: `cargo xtask demo | test | install | docs | tidy | bench | fuzz`.
#![allow(clippy::disallowed_methods, reason = "starts cargo and the system's own installer")]

mod bench;
mod build;
mod core_sources;
mod demo;
mod docs;
mod fuzz;
mod require;
mod run;
mod test;
mod tidy;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Developer commands of SystemImager.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Args {
    /// The whole way once: capture a virtual machine, install a bare one over the network, boot it from its disk
    Demo(demo::Demo),
    /// Everything that has to pass: format, lints, licences, conventions, tests
    Test(test::Test),
    /// Build and install below a prefix
    Install {
        /// Where: PREFIX/bin, PREFIX/lib/systemimager, PREFIX/share/systemimager, man pages and completions
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
    },
    /// Renew the frozen contract that core is held against (CONTRIBUTING.md says when one may)
    FreezeContract,
    /// Write docs/commands.md, the reference of all commands, from their definitions
    Docs {
        /// Change nothing; fail when the file is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Check the conventions that ARCHITECTURE.md states
    Tidy,
    /// Look for inputs that break a parser
    Fuzz(fuzz::Fuzz),
    /// Measure, side by side in one run
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> Result<()> {
    match Args::parse() {
        Args::Demo(demo) => demo.run(),
        Args::Test(test) => test.run(),
        Args::Install { prefix } => {
            require::all(require::BUILD)?;
            build::install(&prefix)
        }
        Args::FreezeContract => core_sources::freeze(&build::root()),
        Args::Docs { check: true } => docs::check(&build::root()),
        Args::Docs { check: false } => docs::write(&build::root()),
        Args::Fuzz(fuzz) => fuzz.run(),
        Args::Tidy => tidy::check(&build::root()),
        Args::Bench(bench) => bench.run(),
    }
}
