//! `cargo xtask demo`: the whole way once, told to a person.

use anyhow::{Context, Result};
use systemimager_tests::story;

use crate::{build, require};

/// The whole way once
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// How many bare machines are installed at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    clients: u8,
    /// The transport that brings the image to the machines, such as multicast; the third machine is switched on later then
    #[arg(long, value_name = "ID")]
    transport: Option<String>,
    /// Keep disks, logs and the image, and say where
    #[arg(long)]
    keep: bool,
}

impl Demo {
    /// Runs it.
    pub fn run(self) -> Result<()> {
        require::all(require::BUILD)?;
        require::all(require::SERVE)?;
        require::all(require::LAB)?;
        build::install(&build::stage())?;
        println!("built");
        let dir = tempfile::Builder::new()
            .prefix("systemimager-demo-")
            .tempdir_in("/var/tmp")
            .context("making a directory")?;
        let path = dir.path().to_path_buf();
        if self.keep {
            println!("everything is kept in {}", dir.keep().display());
        }
        story::tell(&path, self.clients.into(), self.transport.as_deref(), &mut |line| println!("{line}"))?;
        println!("demo: ok");
        Ok(())
    }
}
