//! `pull`: an image, by any transport, into a directory.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use systemimager_core::{BytePath, ImageName, PullReport, PullRequest, Secret, Source};
use systemimager_engine::capture::facts::SECRET;
use systemimager_engine::capture::pairing;
use systemimager_engine::host::Secrets;
use systemimager_engine::install::{SiteKeys, record};
use systemimager_engine::sys::signals::cancel_on_signals;
use systemimager_engine::tree::Inside;

use super::secret;
use super::updateclient::asked;
use crate::context::Context;

/// Pull an image into a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  systemimager pull --server 10.0.0.1 --image web-v1 --to /srv/copy\n\n\
    The directory is made exactly as the image: what the image does not have is removed from it. It must be empty or \
    hold an earlier copy; give --yes if it holds something. A machine that was installed shows the key that it has since, \
    without --secret-file.")]
pub struct Pull {
    /// The image server
    #[arg(long, value_name = "HOST")]
    server: String,
    /// The image
    #[arg(long, value_name = "NAME")]
    image: ImageName,
    /// The directory that becomes the image; made if absent
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The transport plugin
    #[arg(long, value_name = "ID")]
    transport: Option<String>,
    /// The server's port for it
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// The server's HTTP port, where this machine's own key is shown
    #[arg(long, value_name = "N", default_value_t = 8069)]
    http_port: u16,
    /// A secret, if the server wants one; - for standard input
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Leave this out; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<std::ffi::OsString>,
    /// Compare contents, not only size and time
    #[arg(long)]
    checksum: bool,
    /// Change nothing; say what would change
    #[arg(long)]
    dry_run: bool,
    /// The directory holds something, which may be replaced and removed
    #[arg(long, short = 'y')]
    yes: bool,
}

impl Pull {
    /// Pulls.
    pub fn run(self, context: &Context) -> Result<()> {
        let into = self.target(context)?;
        let registry = context.registry()?;
        let id = super::choose::transport(context, self.transport.as_deref())?;
        let transport = registry.transport(&id)?;
        let capabilities = transport.capabilities(&context.host(Secrets::default()), ())?;
        let from = Source {
            server: self.server.clone(),
            port: self.port,
            export: self.image.to_string(),
            settings: context.config.settings.of_transport(&id),
            ..Source::default()
        };
        let (secrets, from) = match &self.secret_file {
            Some(file) => {
                let (secrets, host_key) = pairing::for_pull(&capabilities, secret::read(file)?.as_bytes())?;
                let identity = host_key.as_ref().map(|_| pairing::identity());
                (secrets, Source { secret: Some(Secret(SECRET.to_owned())), identity, host_key, ..from })
            }
            None => self.by_own_key(context, from)?,
        };
        let host = context.host(secrets).for_transport(registry, &id);
        cancel_on_signals(host.cancel_flag()).context("preparing for signals")?;
        if self.dry_run && !capabilities.dry_run {
            bail!("the transport {id} cannot say what would change; pull into an empty directory and compare");
        }
        let request = PullRequest {
            from,
            into,
            delete: capabilities.delete,
            exclude: self.exclude.iter().map(|word| BytePath::from(word.as_os_str())).collect(),
            dry_run: self.dry_run,
            checksum: self.checksum,
            ..PullRequest::default()
        };
        let mut report = transport.pull(&host, request.clone())?;
        // What vanished may have been replaced just then: one more pull tells.
        if !report.vanished.is_empty() && !self.dry_run {
            tracing::warn!("{} files vanished while they were pulled; pulling again", report.vanished.len());
            report = transport.pull(&host, request)?;
        }
        context.answer(&report)?;
        tell(context, &report, self.dry_run);
        whole(&report)
    }

    /// With the key that an install left on this machine, where there is one.
    fn by_own_key(&self, context: &Context, from: Source) -> Result<(Secrets, Source)> {
        let root = &context.config.root;
        if !rustix::process::geteuid().is_root() || !root.is_dir() {
            return Ok((Secrets::default(), from));
        }
        let Some((key, pins)) = record::keys(&Inside::open(root)?)? else {
            return Ok((Secrets::default(), from));
        };
        let server = asked(&self.server, self.http_port, Some(&pins));
        let (keys, secrets) = SiteKeys::new(&key, pins)?;
        match keys.told_by(&server) {
            Ok(keys) => Ok((secrets, SiteKeys::of(Some(&keys), from))),
            // It may be another server than the one that this machine was installed from.
            Err(error) => {
                tracing::warn!("this machine's key is not shown: {error:#}");
                Ok((Secrets::default(), from))
            }
        }
    }

    /// The directory, which must not lose anything by surprise.
    fn target(&self, context: &Context) -> Result<BytePath> {
        let to = std::path::absolute(&self.to).with_context(|| format!("resolving --to {}", self.to.display()))?;
        let mut entries = match std::fs::read_dir(&to) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.dry_run => {
                std::fs::create_dir(&to).with_context(|| format!("making --to {}", to.display()))?;
                return Ok(to.into());
            }
            Err(error) => return Err(error).with_context(|| format!("reading --to {}", to.display())),
        };
        if to == std::path::Path::new("/") {
            bail!("--to / would replace the running system; name another directory");
        }
        if entries.next().is_some() && !self.yes && !self.dry_run {
            let question = format!(
                "{} is not empty; replace what is there, and remove what the image does not have (yes/no)",
                to.display()
            );
            if !context.ask(&question, None, "--yes")?.eq_ignore_ascii_case("yes") {
                bail!("{} stays as it is", to.display());
            }
        }
        Ok(to.into())
    }
}

/// A copy that lacks files of the image is none.
fn whole(report: &PullReport) -> Result<()> {
    let failed = report.failed.iter().map(|failed| format!("  {}: {}", failed.path, failed.why));
    let vanished = report.vanished.iter().map(|path| format!("  {path}: vanished while it was pulled"));
    let list: Vec<String> = failed.chain(vanished).collect();
    if !list.is_empty() {
        bail!(
            "these files could not be pulled:\n{}\npull again when the server can read them and nobody changes the image",
            list.join("\n")
        );
    }
    Ok(())
}

fn tell(context: &Context, report: &PullReport, dry_run: bool) {
    for change in &report.changes {
        context.say(format_args!("{} {}", change.detail, change.path));
    }
    let would = if dry_run { "would be " } else { "" };
    context.say(format_args!(
        "{} files, {} MiB; {} files {would}moved, {} {would}deleted, {} MiB received",
        report.files,
        report.bytes >> 20,
        report.transferred,
        report.deleted,
        report.received >> 20
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use systemimager_core::FailedPath;

    #[test]
    fn a_copy_that_lacks_files_is_an_error() {
        let failed = vec![FailedPath { path: "/a".into(), why: "no".into() }];
        let vanished = vec![BytePath::from("/b")];
        for (name, failed, vanished, says) in [
            ("whole", vec![], vec![], None),
            ("failed", failed.clone(), vec![], Some("  /a: no\n")),
            ("vanished", vec![], vanished.clone(), Some("  /b: vanished while it was pulled\n")),
            ("both", failed, vanished, Some("  /a: no\n  /b: vanished")),
        ] {
            let result = whole(&PullReport { failed, vanished, ..PullReport::default() });
            match says {
                None => assert!(result.is_ok(), "{name}"),
                Some(text) => assert!(result.unwrap_err().to_string().contains(text), "{name}"),
            }
        }
    }
}
