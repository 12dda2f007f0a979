//! What every command gets: settings, plugins, and how to speak to the one who called.

use std::cell::OnceCell;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use systemimager_core::{Progress, Registry};
use systemimager_engine::config::Config;
use systemimager_engine::host::{EngineHost, ProgressSink, Secrets};

use crate::global::Global;

/// Where a program's plugins come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugins {
    /// Opened from the plugin directory.
    FromFiles,
    /// Linked into the program.
    Linked,
}

/// Settings, plugins, output.
pub struct Context {
    /// The server's settings, with `--root` applied.
    pub config: Config,
    /// Answer in JSON.
    pub json: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// What is wrong with the settings, where the command goes on all the same, as without any.
    pub settings_fault: Option<anyhow::Error>,
    plugins: Plugins,
    registry: OnceCell<Registry>,
}

impl Context {
    /// Reads the settings and starts logging to standard error.
    pub fn new(global: Global, plugins: Plugins) -> Result<Self> {
        let mut context = Self::lenient(global, plugins)?;
        context.settings_fault.take().map_or(Ok(context), Err)
    }

    /// The same, also where the settings are wrong: then what is wrong is kept, and all is as by default.
    pub fn lenient(global: Global, plugins: Plugins) -> Result<Self> {
        let level = match global.verbose {
            0 => "warn",
            1 => "info",
            2 => "debug",
            _ => "trace",
        };
        let filter = std::env::var("SYSTEMIMAGER_LOG").unwrap_or_else(|_| level.to_owned());
        let filter = tracing_subscriber::EnvFilter::try_new(&filter)
            .with_context(|| format!("SYSTEMIMAGER_LOG={filter:?} is no filter; write for example info or debug"))?;
        // A second call in one process (tests) keeps the first subscriber.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .without_time()
            .try_init();
        let (root, plugin_dir) = (global.root.as_deref(), global.plugin_dir.as_deref());
        let (config, settings_fault) = match Config::load(root, plugin_dir) {
            Ok(config) => (config, None),
            Err(error) => (Config::by_default(root, plugin_dir)?, Some(error)),
        };
        Ok(Self {
            config,
            settings_fault,
            json: global.json,
            verbose: global.verbose,
            plugins,
            registry: OnceCell::new(),
        })
    }

    /// The plugins; loaded at the first call. A file that is refused is warned about, and missed where it is needed.
    pub fn registry(&self) -> Result<&Registry> {
        if let Some(registry) = self.registry.get() {
            return Ok(registry);
        }
        let registry = match self.plugins {
            Plugins::Linked => Registry::linked()?,
            Plugins::FromFiles => self.load()?,
        };
        Ok(self.registry.get_or_init(|| registry))
    }

    #[cfg(feature = "loader")]
    fn load(&self) -> Result<Registry> {
        let mut registry = Registry::default();
        for (path, result) in systemimager_core::loader::load_dir(&mut registry, &self.config.plugin_dir()?) {
            if let Err(error) = result {
                tracing::warn!("{}: not loaded: {error}", path.display());
            }
        }
        Ok(registry)
    }

    #[cfg(not(feature = "loader"))]
    fn load(&self) -> Result<Registry> {
        anyhow::bail!("this program opens no plugin files; use the systemimager program of the image server")
    }

    /// A host for plugins, with these secrets, that shows progress.
    pub fn host(&self, secrets: Secrets) -> EngineHost {
        EngineHost::new(secrets).with_progress(self.progress_sink())
    }

    /// A bar on a terminal, a line now and then elsewhere, JSON lines with `--json`.
    pub fn progress_sink(&self) -> ProgressSink {
        if self.json {
            return Arc::new(|progress: &Progress| {
                if let Ok(line) = serde_json::to_string(&serde_json::json!({ "progress": progress })) {
                    let _ = writeln!(std::io::stdout(), "{line}");
                }
            });
        }
        if std::io::stderr().is_terminal() { crate::context::bar() } else { plain() }
    }

    /// Says a line of the answer: on standard output, unless the answer is JSON.
    pub fn say(&self, line: impl std::fmt::Display) {
        if !self.json {
            // A reader that went away (`| head`) is no failure of the command.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    /// Gives the answer as JSON, if that is asked for.
    ///
    /// # Errors
    /// The value has no JSON form.
    pub fn answer(&self, value: &impl serde::Serialize) -> Result<()> {
        if self.json {
            let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(value)?);
        }
        Ok(())
    }

    /// Somebody can be asked: standard input and error are terminals and the answer is not JSON.
    pub fn interactive(&self) -> bool {
        !self.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Asks for a line; empty means `default`.
    ///
    /// # Errors
    /// Nobody can be asked (says which option answers instead), or the terminal went away.
    pub fn ask(&self, question: &str, default: Option<&str>, option: &str) -> Result<String> {
        if !self.interactive() {
            return default
                .map(str::to_owned)
                .with_context(|| format!("{question}: nobody can be asked here; answer with {option}"));
        }
        match default {
            Some(default) => write!(std::io::stderr(), "{question} [{default}]: "),
            None => write!(std::io::stderr(), "{question}: "),
        }
        .context("asking")?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).context("reading the answer")?;
        let answer = line.trim();
        match (answer, default) {
            ("", Some(default)) => Ok(default.to_owned()),
            ("", None) => anyhow::bail!("{question}: no answer; give one, or use {option}"),
            (answer, _) => Ok(answer.to_owned()),
        }
    }
}

/// Says a line on standard error. One that nobody reads any more is no failure of the command.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn describe(progress: &Progress) -> String {
    let mib = |bytes: u64| bytes >> 20;
    match progress.total_bytes {
        Some(total) if total > 0 => format!(
            "{} of {} MiB ({}%), {} files",
            mib(progress.bytes),
            mib(total),
            (u128::from(progress.bytes) * 100 / u128::from(total)).min(100),
            progress.files
        ),
        _ => format!("{} MiB, {} files", mib(progress.bytes), progress.files),
    }
}

fn bar() -> ProgressSink {
    let bar = indicatif::ProgressBar::no_length();
    if let Ok(style) = indicatif::ProgressStyle::with_template("{spinner} [{elapsed_precise}] {msg}") {
        bar.set_style(style);
    }
    Arc::new(move |progress: &Progress| {
        bar.set_message(describe(progress));
        bar.tick();
    })
}

fn plain() -> ProgressSink {
    let last = std::sync::Mutex::new(std::time::Instant::now());
    Arc::new(move |progress: &Progress| {
        let Ok(mut last) = last.lock() else { return };
        if last.elapsed() >= std::time::Duration::from_secs(10) {
            *last = std::time::Instant::now();
            note(describe(progress));
        }
    })
}
