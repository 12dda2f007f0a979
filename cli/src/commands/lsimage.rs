//! `lsimage`: the images of this server, and who uses them.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::Serialize;
use systemimager_core::ImageName;
use systemimager_engine::facts::weigh;
use systemimager_engine::store::image_store::ImageStore;
use systemimager_engine::store::master_text;
use systemimager_engine::store::users::{AllUsers, Users};

use crate::context::{Context, note};

/// List the images, since when each is what it is, and which hosts use it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  systemimager lsimage\n  systemimager lsimage web-v1 --size\n  systemimager --json lsimage"
)]
pub struct LsImage {
    /// Only these
    #[arg(value_name = "IMAGE")]
    images: Vec<ImageName>,
    /// Add up what the files take on the disk; files that a file system shares between images count for each
    #[arg(long)]
    size: bool,
}

/// An image.
#[derive(Debug, Serialize)]
struct Row {
    image: ImageName,
    /// Seconds since 1970.
    since: i64,
    /// Its master file: `yes`, `no`, or what is wrong with it.
    master: String,
    #[serde(flatten)]
    users: Users,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl LsImage {
    /// Lists.
    pub fn run(self, context: &Context) -> Result<()> {
        let store = ImageStore::new(&context.config);
        let users = AllUsers::find(&context.config)?;
        let images = if self.images.is_empty() { store.names()? } else { self.images.clone() };
        let rows = images.iter().map(|image| self.row(context, &store, &users, image)).collect::<Result<Vec<_>>>()?;
        users.faults.iter().for_each(note);
        if rows.is_empty() {
            context.say(format_args!("no images in {}; capture one with getimage", store.root().display()));
        } else {
            print(context, &rows);
        }
        context.answer(&serde_json::json!({ "images": rows, "faults": users.faults }))
    }

    fn row(&self, context: &Context, store: &ImageStore, users: &AllUsers, image: &ImageName) -> Result<Row> {
        let tree = store.tree(image)?;
        // The moment at which the tree got its name: a rename changes what is known of the directory itself.
        let since = tree.metadata().with_context(|| format!("looking at {}", tree.display()))?.ctime();
        let master = match master_text::master_path(&context.config, image).try_exists() {
            Ok(false) => "no".to_owned(),
            _ => match master_text::read_master(&context.config, image) {
                Ok(_) => "yes".to_owned(),
                Err(error) => format!("{error:#}"),
            },
        };
        let bytes = self.size.then(|| weigh(&tree)).transpose()?.map(|(bytes, _)| bytes);
        Ok(Row { image: image.clone(), since, master, users: users.of(image), bytes })
    }
}

fn print(context: &Context, rows: &[Row]) {
    let width = rows.iter().map(|row| row.image.as_str().len()).max().unwrap_or(0).max("IMAGE".len());
    let sized = rows.iter().any(|row| row.bytes.is_some());
    let size = |text: &str| if sized { format!("{text:>10}  ") } else { String::new() };
    context.say(format_args!("{:width$}  {:19}  {}{:6}  HOSTS", "IMAGE", "SINCE", size("SIZE"), "MASTER"));
    for row in rows {
        let since = UNIX_EPOCH + Duration::from_secs(u64::try_from(row.since).unwrap_or_default());
        let since = humantime::format_rfc3339_seconds(since).to_string().replace('T', " ");
        let bytes = row.bytes.map(|bytes| format!("{} MiB", bytes.div_ceil(1 << 20))).unwrap_or_default();
        let master = if ["yes", "no"].contains(&row.master.as_str()) { &row.master } else { "WRONG" };
        let line = format!("{:width$}  {since:19}  {}{master:6}  {}", row.image, size(&bytes), of_hosts(&row.users));
        context.say(line.trim_end());
    }
    for row in rows.iter().filter(|row| !["yes", "no"].contains(&row.master.as_str())) {
        note(&row.master);
    }
}

fn of_hosts(users: &Users) -> String {
    let kinds = [
        (users.linked.len(), "linked"),
        (users.own_master.len(), "with a master of their own"),
        (users.ordered.len(), "ordered"),
        (users.begun.len(), "being installed"),
    ];
    let words: Vec<String> =
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}
