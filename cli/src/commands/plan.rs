//! `plan`: every step of an install, as text or JSON, doing none.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use systemimager_core::{Action, Arg, Contents, Hardware, HostFacts, HostName, Identity, ImageName, Lease, Step};
use systemimager_engine::facts::image_facts;
use systemimager_engine::host::Secrets;
use systemimager_engine::plan::{Changed, Extent, Plan, PlanInput, plan};
use systemimager_engine::store::image_store::ImageStore;
use systemimager_engine::store::master::IdentitySettings;
use systemimager_engine::store::{hooks, macs, master_text, overrides};

use crate::context::Context;

/// Show every step of an install, doing none
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  systemimager plan web-v1 --host www1\n  systemimager plan web-v1 --hardware www1.json --json"
)]
pub struct PlanCommand {
    /// The image
    image: ImageName,
    /// The machine; its own master is used if it has one, and the hardware it last reported
    #[arg(long, value_name = "HOST")]
    host: Option<HostName>,
    /// Hardware of the machine, as `systemimager hardware HOST` prints it
    #[arg(long, value_name = "FILE")]
    hardware: Option<PathBuf>,
}

impl PlanCommand {
    /// Prints the plan.
    pub fn run(self, context: &Context) -> Result<()> {
        let plan = self.make(context)?;
        context.answer(&plan)?;
        context.say(format_args!("{} with the image {}:", plan.host, plan.image));
        for line in plan.destroyed() {
            context.say(format_args!("  destroys {line}"));
        }
        for warning in &plan.warnings {
            context.say(format_args!("  warning: {warning}"));
        }
        for (index, step) in plan.steps.iter().enumerate() {
            context.say(format_args!("{:3}  {:<9} {}", index + 1, step.phase.name(), step.what));
            for line in details(step) {
                context.say(format_args!("                {line}"));
            }
        }
        context.say("differs from the image afterwards:");
        for Changed { path, extent } in &plan.changes {
            let extent = match extent {
                Extent::Times => " (times)",
                Extent::Path => "",
                Extent::Below => " and below",
            };
            context.say(format_args!("  {path}{extent}"));
        }
        Ok(())
    }

    fn make(self, context: &Context) -> Result<Plan> {
        let config = &context.config;
        let tree = config.images().join(self.image.as_str());
        if !tree.is_dir() {
            bail!(
                "there is no image {} in {}; see `systemimager check` for those that are there",
                self.image,
                config.images().display()
            );
        }
        let host_link = self.host.as_ref().map(|host| config.masters().join(format!("{host}.sh")));
        let file = host_link
            .filter(|link| link.exists())
            // Errors name the master that a link leads to: that is the file to mend.
            .map(|link| std::fs::canonicalize(&link).unwrap_or(link))
            .unwrap_or_else(|| config.masters().join(format!("{}.master", self.image)));
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading the master {}", file.display()))?;
        let master = master_text::parse(&file, &text)?;
        if master.image != self.image {
            bail!("{} installs {}, not {}; name that image", file.display(), master.image, self.image);
        }
        let registry = context.registry()?;
        let host = context.host(Secrets::default());
        // Held, so that a capture that replaces it does not take it away while it is read.
        let reading = ImageStore::new(config).read(&self.image, "plan")?;
        let facts = image_facts(&self.image, reading.path(), registry, &host)?;
        let hardware = self.hardware_of(context)?;
        let identity = identity(context, self.host.as_ref(), &hardware, &master.identity)?;
        let over = overrides::wanted(config, &master, Some(&identity.name));
        let over = overrides::layers(config, &over, reading.path())
            .map_err(|problems| anyhow!("{}: {}", file.display(), problems.join("\n")))?;
        for hook in &master.hooks {
            hooks::check(config, &hook.run).with_context(|| file.display().to_string())?;
        }
        let input = PlanInput {
            master: &master,
            facts: &facts,
            hardware: &hardware,
            identity: &identity,
            registry,
            host: &host,
            overrides: &over,
        };
        Ok(plan(&input)?)
    }

    fn hardware_of(&self, context: &Context) -> Result<Hardware> {
        let file = match (&self.hardware, &self.host) {
            (Some(file), _) => file.clone(),
            (None, Some(host)) => context.config.state().join("hardware").join(format!("{host}.json")),
            (None, None) => bail!("what machine is it for? name one with --host, or its hardware with --hardware"),
        };
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "reading the hardware {}; a machine reports it when it boots the miniature system, \
                 `systemimager hardware` lists what there is",
                file.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a machine's hardware", file.display()))
    }
}

/// Who the machine is going to be: what its agent will find, from the hosts file and a lease as our own
/// DHCP would give it.
fn identity(
    context: &Context,
    host: Option<&HostName>,
    hardware: &Hardware,
    settings: &IdentitySettings,
) -> Result<Identity> {
    let hosts_file = std::fs::read_to_string(context.config.masters().join("hosts")).unwrap_or_default();
    let macs_file = std::fs::read_to_string(macs::file(&context.config)).unwrap_or_default();
    let interface = hardware.interfaces.iter().find(|it| it.link).or(hardware.interfaces.first());
    // The interface it booted from is not reported; it is the one that got the lease, if it had a link at all.
    let boot_mac = hardware.lease.as_ref().map(|lease| &lease.mac).or(interface.map(|it| &it.mac));
    let mut facts = HostFacts {
        hosts_file,
        macs: hardware.interfaces.iter().map(|it| it.mac.clone()).collect(),
        boot_mac: boot_mac.cloned(),
        dmi: hardware.dmi.clone(),
        macs_file,
        ..HostFacts::default()
    };
    let lease = hardware.lease.clone().unwrap_or_else(|| Lease {
        interface: interface.map(|it| it.name.clone()).unwrap_or_default(),
        mac: interface.map(|it| it.mac.clone()).unwrap_or_default(),
        ..Lease::default()
    });
    facts.leases.push(lease);
    if let Some(host) = host {
        facts.command_line.insert("si.host".into(), host.to_string());
    }
    // A name that was given counts whatever the sources of the master.
    let sources = if host.is_some() { Vec::new() } else { settings.sources.clone() };
    let request = systemimager_core::contract::IdentityWho { facts, sources };
    context
        .registry()?
        .identity(&settings.plugin)?
        .who(&context.host(Secrets::default()), request)?
        .context("who the machine is cannot be told from its hardware; name it with --host")
}

/// What a step does, as a command line or a path.
fn details(step: &Step) -> Vec<String> {
    let words = |argv: &[Arg]| argv.iter().map(word).collect::<Vec<_>>().join(" ");
    match &step.action {
        Action::Run { argv, stdin } => {
            let mut lines = vec![words(argv)];
            lines.extend(stdin.iter().flat_map(|text| text.lines().map(|line| format!("| {line}"))));
            lines
        }
        Action::InTarget { argv, .. } => vec![format!("in the target: {}", words(argv))],
        Action::Mount { node, at, fstype, options } => {
            vec![format!(
                "{node} ({fstype}) at {at}{}",
                if options.is_empty() { String::new() } else { format!(", {options}") }
            )]
        }
        Action::WriteFile { path, contents: Contents::Bytes(bytes), .. } => {
            std::iter::once(path.to_string()).chain(bytes.lossy().lines().map(|line| format!("| {line}"))).collect()
        }
        Action::WriteFile { path, .. } | Action::Remove { path } | Action::MakeDirectory { path, .. } => {
            vec![path.to_string()]
        }
        Action::SetLine { path, line, .. } => vec![path.to_string(), format!("| {line}")],
        Action::SetBlock { path, block, .. } => {
            std::iter::once(path.to_string()).chain(block.lines().map(|line| format!("| {line}"))).collect()
        }
        Action::Symlink { path, to } => vec![format!("{path} -> {to}")],
        Action::Hook { environment, required, .. } => {
            let set = environment.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
            vec![format!("{set}; where it fails the install {}", if *required { "stops" } else { "goes on" })]
        }
        _ => Vec::new(),
    }
}

fn word(arg: &Arg) -> String {
    match arg {
        Arg::Text(text) => systemimager_engine::sys::quote::quote(text.as_os_str()),
        Arg::Device(node) => format!("<{node}>"),
        Arg::PrefixedDevice(prefix, node) => format!("{prefix}<{node}>"),
        Arg::Target(path) => format!("<target>{path}"),
    }
}
