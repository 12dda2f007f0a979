//! `status`: the machines that reported, and how far their installs are.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use systemimager_engine::report::State;
use systemimager_engine::serve::machines::{Machine, read_all};
use systemimager_engine::serve::parts;
use systemimager_engine::store::host_set::HostSet;

use crate::context::Context;

/// Show machines and how far their installs are
///
/// Reads what `serve` writes down, whether it runs or not; progress may be two seconds old.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  systemimager status\n  systemimager status 'www[1-20]' --json")]
pub struct Status {
    /// Only these machines; sets such as www[1-300] too
    #[arg(value_name = "HOSTS")]
    hosts: Vec<String>,
    /// Also the last lines of each machine's log
    #[arg(long)]
    log: bool,
}

impl Status {
    /// Prints the table.
    pub fn run(self, context: &Context) -> Result<()> {
        let only = HostSet::from_words(self.hosts.iter().map(String::as_str))?;
        let mut machines = read_all(&context.config)?;
        if !only.is_empty() {
            machines.retain(|machine| machine.host.as_ref().is_some_and(|host| only.hosts().contains(host)));
        }
        context.answer(&machines)?;
        for part in parts::troubled(&context.config)? {
            context.say(format_args!("the image server: {part}"));
        }
        if machines.is_empty() {
            context.say("no machine has reported yet");
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let rows: Vec<[String; 5]> = machines.iter().map(|machine| row(machine, now)).collect();
        let heads = ["HOST", "IMAGE", "STATE", "HEARD", "PROGRESS"].map(str::to_owned);
        let mut widths = heads.clone().map(|head| head.len());
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let print = |row: &[String; 5]| {
            let [a, b, c, d, _] = widths;
            let [host, image, state, heard, progress] = row;
            context.say(format!("{host:a$}  {image:b$}  {state:c$}  {heard:>d$}  {progress}").trim_end());
        };
        print(&heads);
        for (row, machine) in rows.iter().zip(&machines) {
            print(row);
            if self.log {
                machine.log.iter().for_each(|line| context.say(format_args!("    {line}")));
            }
        }
        Ok(())
    }
}

fn row(machine: &Machine, now: u64) -> [String; 5] {
    let state = match machine.state {
        State::Booted => "booted",
        State::Preparing => "preparing",
        State::Installing => "installing",
        State::Installed => "installed",
        State::Failed => "FAILED",
    };
    let progress = match machine.state {
        State::Installing => machine.progress_words(),
        _ => machine.message.clone(),
    };
    [
        machine.host.as_ref().map_or_else(|| machine.mac.clone(), ToString::to_string),
        machine.image.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        state.to_owned(),
        ago(now.saturating_sub(machine.heard)),
        progress,
    ]
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_ago() {
        for (seconds, words) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d")] {
            assert_eq!(ago(seconds), words);
        }
    }
}
