//! `plugin check FILE`: a file is opened as the engine would, and tried against the contract's suite.

use std::path::PathBuf;

use anyhow::Result;

use crate::context::Context;

/// Load a plugin file and try whether it keeps the contract
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The plugin's shared object; as everywhere, root has to own it and its directories
    file: PathBuf,
}

#[cfg(feature = "loader")]
impl Check {
    /// Checks.
    pub(super) fn run(self, context: &Context) -> Result<()> {
        use anyhow::bail;
        use serde::Serialize;
        use systemimager_core::abi::Identification;
        use systemimager_core::conformance::{Line, conformance};
        use systemimager_core::loader;
        use systemimager_engine::host::Secrets;

        /// Everything about one file.
        #[derive(Serialize)]
        struct Checked<'a> {
            identification: &'a Identification,
            failed: usize,
            checks: &'a [Line],
        }

        let mut registry = systemimager_core::Registry::default();
        let plugin = loader::load_file(&mut registry, &self.file)?;
        let checks = conformance(plugin, &context.host(Secrets::default()));
        let failed = checks.iter().filter(|line| !line.ok).count();
        context.answer(&Checked { identification: &plugin.identification, failed, checks: &checks })?;
        for line in &checks {
            context.say(line);
        }
        if failed > 0 {
            bail!("{} does not keep the contract in {failed} of {} checks", self.file.display(), checks.len());
        }
        context.say(format_args!(
            "{}: {} keeps the contract ({} checks)",
            self.file.display(),
            plugin.name(),
            checks.len()
        ));
        Ok(())
    }
}

#[cfg(not(feature = "loader"))]
impl Check {
    /// Refuses.
    pub(super) fn run(self, _: &Context) -> Result<()> {
        anyhow::bail!(
            "{}: this program opens no plugin files; use the systemimager program of the image server",
            self.file.display()
        )
    }
}
