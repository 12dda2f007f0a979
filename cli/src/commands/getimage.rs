//! `getimage`: on the image server, capture a master client that offers itself.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, bail};
use systemimager_core::{BytePath, ImageName};
use systemimager_engine::capture::getimage::{self, Captured, MasterFile};
use systemimager_engine::capture::{keys, pairing};
use systemimager_engine::host::Secrets;
use systemimager_engine::store::image_store::ImageStore;
use systemimager_engine::store::master_text;
use systemimager_engine::sys::signals::cancel_on_signals;

use super::addclients::AddClients;
use super::answer::{Answer, decided, yes};
use super::secret;
use crate::context::{Context, note};
use crate::exit::Exit;

/// On the image server: capture a master client as an image
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  systemimager getimage --master-client 10.0.0.5 --image web-v1\n\n\
    The master client must run prepareclient. On an image that is there only differences move; it is replaced when \
    all of the new revision has arrived. Patterns of --exclude begin with / to mean a path from the root \
    (/var/tmp/* leaves the directory and takes none of its contents).")]
pub struct GetImage {
    /// The machine to capture: its address or name
    #[arg(long, value_name = "HOST")]
    master_client: String,
    /// What the image is called
    #[arg(long, value_name = "NAME")]
    image: ImageName,
    /// The port that prepareclient printed
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// The secret that prepareclient printed, in a file; - for standard input
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The transport plugin
    #[arg(long, value_name = "ID")]
    transport: Option<String>,
    /// Leave this out; may be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<std::ffi::OsString>,
    /// Leave out what the lines of this file name; # begins a comment
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Accept that this file, or what is below this directory, changes while it is read
    #[arg(long, value_name = "PATH")]
    allow_changing: Vec<std::ffi::OsString>,
    /// Compare contents, not only size and time
    #[arg(long)]
    checksum: bool,
    /// Replace a master file that is there (a backup is kept), or keep it
    #[arg(long, value_name = "yes|no")]
    update_master: Option<Answer>,
    /// When the image is in place, go on to addclients, which asks which machines get it; or do not. On a terminal this is asked
    #[arg(long, value_name = "yes|no")]
    addclients: Option<Answer>,
    /// Replace an image of this name without asking
    #[arg(long, short = 'y')]
    yes: bool,
}

impl GetImage {
    /// Captures.
    pub fn run(self, context: &Context) -> Result<()> {
        if self.addclients == Some(Answer::Yes) && !context.interactive() {
            return Err(Exit::Usage(format!(
                "--addclients yes asks for names and addresses, and nobody can be asked here; leave it out, and run \
                 addclients --image {} with its options afterwards",
                self.image
            ))
            .into());
        }
        let store = ImageStore::new(&context.config);
        let exists = store.exists(&self.image)?;
        let replace = self.yes || !exists || self.ask_replace(context)?;
        if !replace {
            bail!("the image {} stays as it is", self.image);
        }
        let update_master = self.ask_master(context)?;
        let secret = secret::given(context, self.secret_file.as_deref(), &self.master_client)?;
        let mut exclude: Vec<BytePath> = self.exclude.iter().map(|word| BytePath::from(word.as_os_str())).collect();
        for file in &self.exclude_file {
            let text = std::fs::read(file).with_context(|| format!("reading --exclude-file {}", file.display()))?;
            exclude.extend(lines(&text));
        }
        let registry = context.registry()?;
        let transport = super::choose::transport(context, self.transport.as_deref())?;
        let able = registry.transport(&transport)?.capabilities(&context.host(Secrets::default()), ())?;
        let (secrets, host_key) = pairing::for_pull(&able, secret.as_bytes())?;
        let host = context.host(secrets);
        cancel_on_signals(host.cancel_flag()).context("preparing for signals")?;
        let request = getimage::GetImage {
            config: &context.config,
            registry,
            host: &host,
            host_key,
            transport,
            master_client: self.master_client.clone(),
            port: self.port,
            image: self.image.clone(),
            replace,
            exclude,
            allow_changing: self.allow_changing.iter().map(|word| BytePath::from(word.as_os_str())).collect(),
            checksum: self.checksum,
            update_master,
        };
        let captured = getimage::get_image(&request, &mut |line| note(line))?;
        context.answer(&captured)?;
        tell(context, &captured);
        // From here on nothing is undone that a first Ctrl-C would have to wait for.
        host.cancel_flag().store(true, Ordering::SeqCst);
        if self.goes_on(context)? {
            let image = self.image;
            return AddClients::of_image(image.clone())
                .run(context)
                .with_context(|| format!("the image {image} is in place, and no machines were given it"));
        }
        Ok(())
    }

    fn goes_on(&self, context: &Context) -> Result<bool> {
        match self.addclients {
            Some(answer) => Ok(answer == Answer::Yes),
            None if context.interactive() => {
                let question = format!("Go on to addclients, which says which machines get {} (yes/no)", self.image);
                decided(context, &question, Some("no"), "--addclients")
            }
            None => Ok(false),
        }
    }

    fn ask_replace(&self, context: &Context) -> Result<bool> {
        let question = format!("There is an image {} already; replace it by a new revision (yes/no)", self.image);
        yes(&context.ask(&question, None, "--yes")?)
    }

    /// Without an answer a master file that somebody may have edited stays.
    fn ask_master(&self, context: &Context) -> Result<bool> {
        if let Some(answer) = self.update_master {
            return Ok(answer == Answer::Yes);
        }
        let path = master_text::master_path(&context.config, &self.image);
        if !path.exists() || !context.interactive() {
            return Ok(false);
        }
        let question = format!("There is {} already; replace it, with a backup (yes/no)", path.display());
        yes(&context.ask(&question, Some("no"), "--update-master")?)
    }
}

/// The patterns of an exclude file: a line each, without comments and empty lines.
fn lines(text: &[u8]) -> Vec<BytePath> {
    text.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"#"))
        .map(BytePath::new)
        .collect()
}

/// Most paths that are shown of what is scrubbed; `--json` has all.
const SHOWN: usize = 12;

fn tell(context: &Context, captured: &Captured) {
    let report = &captured.report;
    context.say(format_args!(
        "captured {}: {} files, {} MiB; {} files moved, {} MiB received, {} deleted",
        captured.image,
        report.files,
        report.bytes >> 20,
        report.transferred,
        report.received >> 20,
        report.deleted
    ));
    context.say(format_args!("image: {}", captured.path.display()));
    for missed in &captured.missed {
        context.say(format_args!("not captured, as allowed: {}: {}", missed.path, missed.why));
    }
    match &captured.master {
        MasterFile::Written(path) => context.say(format_args!("master: {}", path.display())),
        MasterFile::Kept(path) => context.say(format_args!("master: {} (kept as it was)", path.display())),
        MasterFile::Replaced { path, backup } => {
            context.say(format_args!("master: {} (replaced)", path.display()));
            if let Some(backup) = backup {
                context.say(format_args!("backup: {}", backup.display()));
            }
        }
    }
    if !captured.scrubbed.is_empty() {
        let shown: Vec<String> = captured.scrubbed.iter().take(SHOWN).map(ToString::to_string).collect();
        let more = captured.scrubbed.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        context.say(format_args!("each machine gets its own, or none: {}{more}", shown.join(", ")));
    }
    for line in keys::told(&captured.keys) {
        context.say(format_args!("{line}"));
    }
    for note in &captured.notes {
        context.say(format_args!("note: {note}"));
    }
    for tree in &captured.still_read {
        context.say(format_args!("the old revision stays until nobody reads it: {tree}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclude_files() {
        let text = b"# comment\n/var/tmp/*\n\n  \n *.o \r\n\xff\n";
        let expected: Vec<BytePath> = vec!["/var/tmp/*".into(), " *.o ".into(), BytePath::new(b"\xff".as_slice())];
        assert_eq!(lines(text), expected);
    }

    #[test]
    fn answers() {
        assert!(yes("Yes").unwrap() && !yes("n").unwrap());
        assert_eq!(yes("maybe").unwrap_err().to_string(), "\"maybe\" is neither yes nor no");
    }
}
