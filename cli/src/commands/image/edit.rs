//! `image edit`: a shell, or a program, in an image as if it were a running machine.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use serde::Serialize;
use systemimager_core::{ImageName, Progress};
use systemimager_engine::store::edit::{self, Kept, Work};
use systemimager_engine::sys::Signal;
use systemimager_engine::sys::signals::on_signals;

use crate::commands::answer::{Answer, decided};
use crate::context::{Context, note};
use crate::exit::Exit;

/// Change an image from inside: open a root shell in it, or run a command
///
/// A copy is changed, which takes the image's place when the shell or command ends with exit code 0 and is thrown away
/// otherwise; a shell on a terminal that ends otherwise asks. So machines that are being installed read one tree from beginning
/// to end. Where the file system shares extents (XFS, btrfs) the copy costs what is changed; elsewhere it needs the room of
/// the image.
///
/// The tree has a /dev without disks, /proc, a read-only /sys, empty /run and /tmp, and this server's name servers; services of
/// packages that are installed are not started (policy-rc.d). None of this stays in the image or on the server, and all that
/// was started inside ends, also when this program is killed.
///
/// The exit code of a command is handed on.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  systemimager image edit web-v2\n  systemimager image edit web-v2 -- apt-get -y install nginx\n  \
                  systemimager image edit web-v2 -- tar -xC /opt < files.tar"
)]
pub struct Edit {
    /// The image
    #[arg(value_name = "NAME")]
    image: ImageName,
    /// What to run instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Keep what was changed, or throw it away, however the shell or command ends
    #[arg(long, value_name = "yes|no")]
    keep: Option<Answer>,
}

/// How many files are copied between two words of progress.
const STEP: u64 = 100;

/// The answer as JSON.
#[derive(Serialize)]
struct Done<'a> {
    image: &'a ImageName,
    /// The exit code of what ran.
    code: u8,
    /// Absent: thrown away.
    kept: Option<Kept>,
}

impl Edit {
    /// Copies, runs, and puts the copy in place or throws it away.
    pub fn run(self, context: &Context) -> Result<()> {
        let cancel = Arc::new(AtomicBool::new(false));
        let (ends, on_terminal) = (Arc::clone(&cancel), std::io::stdin().is_terminal());
        // Ctrl-C at a terminal reaches what runs inside too, and is for that to understand: it may be an editor.
        on_signals(move |signal| {
            if signal != Signal::INT || !on_terminal {
                ends.store(true, Ordering::SeqCst);
            }
        })
        .context("preparing for signals")?;
        let image = &self.image;
        let sink = context.progress_sink();
        let mut files = |files: u64| {
            if files.is_multiple_of(STEP) {
                sink(&Progress { files, ..Progress::default() });
            }
        };
        let edit = edit::Edit::begin(&context.config, image, &self.command, &mut files)?;
        drop(sink);
        let shell = self.command.is_empty();
        if shell && on_terminal {
            note(format_args!(
                "a shell in a copy of {image}; `exit` puts it in the image's place, `exit 1` asks first"
            ));
        }
        let status = edit
            .run(&Work { command: self.command, to_stderr: context.json, cancel })
            .with_context(|| format!("{image} stays as it was"))?;
        // A number of 128 and more is what is left of a signal.
        let code = u8::try_from(status.code().unwrap_or(255)).unwrap_or(255);
        let asks = shell && code != 0 && self.keep.is_none() && context.interactive();
        let keep = match self.keep {
            Some(answer) => answer == Answer::Yes,
            None if asks => {
                let question =
                    format!("The shell ended with exit code {code}; keep what was changed in {image} (yes/no)");
                decided(context, &question, None, "--keep")?
            }
            None => code == 0,
        };
        let kept = if keep { Some(edit.keep()?) } else { None };
        tell(context, image, kept.as_ref());
        context.answer(&Done { image, code, kept })?;
        // Who was asked has decided; nobody else needs to know.
        if code == 0 || asks {
            return Ok(());
        }
        let what = if shell { "the shell" } else { "the command" };
        let hint = if self.keep.is_none() { "; --keep yes keeps what was changed all the same" } else { "" };
        Err(Exit::HandedOn { code, says: format!("{what} ended with exit code {code}{hint}") }.into())
    }
}

fn tell(context: &Context, image: &ImageName, kept: Option<&Kept>) {
    let Some(kept) = kept else {
        note(format_args!("{image} stays as it was"));
        return;
    };
    context.say(format_args!("{image} is changed"));
    for tree in &kept.still_read {
        note(format_args!("what it was stays until nobody reads it: {tree}"));
    }
    for host in &kept.installing {
        note(format_args!("{host} was being installed with {image} as it was; look at it with: systemimager status"));
    }
}
