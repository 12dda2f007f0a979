//! The list of commands.

use clap::{Parser, Subcommand};

use crate::commands;
use crate::context::Context;
use crate::global::Global;

/// Capture a running Linux machine as files, install it on any number of bare machines, keep them in step.
#[derive(Debug, Parser)]
#[command(name = "systemimager", version, disable_help_subcommand = true, max_term_width = 100)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order in which one uses them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// On the master client: offer this machine for capture
    #[command(name = "prepareclient")]
    PrepareClient(commands::prepareclient::PrepareClient),
    /// On the image server: capture a master client as an image
    #[command(name = "getimage")]
    GetImage(commands::getimage::GetImage),
    /// Say which machines get which image, with names and addresses
    #[command(name = "addclients")]
    AddClients(commands::addclients::AddClients),
    /// Order installs, each carried out once
    Install(commands::install::Install),
    /// Take back orders of installs
    Cancel(commands::cancel::Cancel),
    /// Let installs go on that failed or stopped at a break point
    Retry(commands::retry::Retry),
    /// Say who a machine is that waits, and have it installed
    Admit(commands::admit::Admit),
    /// Make the kernel and initrd that bare machines boot
    #[cfg(feature = "server")]
    #[command(name = "mkinitrd")]
    MkInitrd(commands::mkinitrd::MkInitrd),
    /// Be the image server: DHCP, TFTP, HTTP and the transports, in the foreground
    #[cfg(feature = "server")]
    Serve(commands::serve::Serve),
    /// Show machines and how far their installs are
    Status(commands::status::Status),
    /// Show what a machine reported while it was installed
    Logs(commands::logs::LogsCommand),
    /// Show what a machine is made of
    Hardware(commands::hardware::HardwareCommand),
    /// Show every step of an install, doing none
    Plan(commands::plan::PlanCommand),
    /// Check settings, masters, links and plugins
    Check(commands::check::Check),
    /// Say what is missing on this machine, and which package brings it
    Doctor(commands::doctor::Doctor),
    /// Pull an image into a directory
    Pull(commands::pull::Pull),
    /// List and check plugins
    Plugin(commands::plugin::PluginCommand),
}

impl Command {
    /// Runs it.
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Command::PrepareClient(command) => command.run(context),
            Command::GetImage(command) => command.run(context),
            Command::AddClients(command) => command.run(context),
            Command::Install(command) => command.run(context),
            Command::Cancel(command) => command.run(context),
            Command::Retry(command) => command.run(context),
            Command::Admit(command) => command.run(context),
            #[cfg(feature = "server")]
            Command::MkInitrd(command) => command.run(context),
            #[cfg(feature = "server")]
            Command::Serve(command) => command.run(context),
            Command::Status(command) => command.run(context),
            Command::Logs(command) => command.run(context),
            Command::Hardware(command) => command.run(context),
            Command::Plan(command) => command.run(context),
            Command::Check(command) => command.run(context),
            Command::Doctor(command) => command.run(context),
            Command::Pull(command) => command.run(context),
            Command::Plugin(command) => command.run(context),
        }
    }
}
