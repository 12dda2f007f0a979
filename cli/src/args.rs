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

/// The commands, in the order in which one uses them. What each says of itself stands at its own arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(name = "prepareclient")]
    PrepareClient(commands::prepareclient::PrepareClient),
    #[command(name = "getimage")]
    GetImage(commands::getimage::GetImage),
    #[command(name = "lsimage")]
    LsImage(commands::lsimage::LsImage),
    #[command(name = "cpimage")]
    CpImage(commands::cpimage::CpImage),
    #[command(name = "mvimage")]
    MvImage(commands::mvimage::MvImage),
    #[command(name = "rmimage")]
    RmImage(commands::rmimage::RmImage),
    Image(commands::image::ImageCommand),
    #[command(name = "addclients")]
    AddClients(commands::addclients::AddClients),
    Install(commands::install::Install),
    Cancel(commands::cancel::Cancel),
    Retry(commands::retry::Retry),
    Admit(commands::admit::Admit),
    Revoke(commands::revoke::Revoke),
    #[cfg(feature = "server")]
    #[command(name = "mkinitrd")]
    MkInitrd(commands::mkinitrd::MkInitrd),
    #[cfg(feature = "server")]
    #[command(name = "makedhcpserver")]
    MakeDhcpServer(commands::makedhcpserver::MakeDhcpServer),
    #[cfg(feature = "server")]
    #[command(name = "makedhcpstatic")]
    MakeDhcpStatic(commands::makedhcpstatic::MakeDhcpStatic),
    #[cfg(feature = "server")]
    #[command(name = "makeautoinstalldiskette")]
    MakeAutoinstallDiskette(commands::makeautoinstalldiskette::MakeAutoinstallDiskette),
    #[cfg(feature = "server")]
    #[command(name = "makeautoinstallcd")]
    MakeAutoinstallCd(commands::makeautoinstallcd::MakeAutoinstallCd),
    #[cfg(feature = "server")]
    Serve(commands::serve::Serve),
    #[command(name = "updateclient")]
    UpdateClient(commands::updateclient::UpdateClient),
    Status(commands::status::Status),
    Logs(commands::logs::LogsCommand),
    Hardware(commands::hardware::HardwareCommand),
    Plan(commands::plan::PlanCommand),
    Check(commands::check::Check),
    Doctor(commands::doctor::Doctor),
    Offer(commands::offer::OfferCommand),
    Pull(commands::pull::Pull),
    Plugin(commands::plugin::PluginCommand),
}

impl Command {
    /// Runs it.
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Command::PrepareClient(command) => command.run(context),
            Command::GetImage(command) => command.run(context),
            Command::LsImage(command) => command.run(context),
            Command::CpImage(command) => command.run(context),
            Command::MvImage(command) => command.run(context),
            Command::RmImage(command) => command.run(context),
            Command::Image(command) => command.run(context),
            Command::AddClients(command) => command.run(context),
            Command::Install(command) => command.run(context),
            Command::Cancel(command) => command.run(context),
            Command::Retry(command) => command.run(context),
            Command::Admit(command) => command.run(context),
            Command::Revoke(command) => command.run(context),
            #[cfg(feature = "server")]
            Command::MkInitrd(command) => command.run(context),
            #[cfg(feature = "server")]
            Command::MakeDhcpServer(command) => command.run(context),
            #[cfg(feature = "server")]
            Command::MakeDhcpStatic(command) => command.run(context),
            #[cfg(feature = "server")]
            Command::MakeAutoinstallDiskette(command) => command.run(context),
            #[cfg(feature = "server")]
            Command::MakeAutoinstallCd(command) => command.run(context),
            #[cfg(feature = "server")]
            Command::Serve(command) => command.run(context),
            Command::UpdateClient(command) => command.run(context),
            Command::Status(command) => command.run(context),
            Command::Logs(command) => command.run(context),
            Command::Hardware(command) => command.run(context),
            Command::Plan(command) => command.run(context),
            Command::Check(command) => command.run(context),
            Command::Doctor(command) => command.run(context),
            Command::Offer(command) => command.run(context),
            Command::Pull(command) => command.run(context),
            Command::Plugin(command) => command.run(context),
        }
    }
}
