//! `offer`: an image, by any transport, to whoever pulls it, in the foreground.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_core::{ImageName, ReceiverEnd, ReceiverState, ServiceState};
use systemimager_engine::host::Secrets;
use systemimager_engine::serve::by_hand::{self, ByHand};
use systemimager_engine::serve::interface;
use systemimager_engine::store::addresses::Network;
use systemimager_engine::sys::signals::cancel_on_signals;

use super::receivers;
use super::secret::{self, Given};
use crate::context::{Context, note};
use crate::exit::Exit;

/// How long a transport may take until it tells who gets what, if it does.
const TELLS: Duration = Duration::from_secs(5);

/// Offer an image by hand, in the foreground
///
/// The counterpart of `pull`, for any transport: it prints what is to be run on the other side, and says how those fare who
/// pull, where the transport can tell. Interrupted, or once --clients have all of it, it ends; with 0 if all who came have all of
/// it, else with 3.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  systemimager offer --image web-v1 --interface eth1")]
pub struct OfferCommand {
    /// The image
    #[arg(long, value_name = "NAME")]
    image: ImageName,
    /// The transport plugin
    #[arg(long, value_name = "ID")]
    transport: Option<String>,
    /// The interface on which it is offered; needed where this machine has several addresses
    #[arg(long, value_name = "NAME", conflicts_with = "address")]
    interface: Option<String>,
    /// The address at which it is offered, instead of an interface
    #[arg(long, value_name = "ADDR")]
    address: Option<IpAddr>,
    /// The port, instead of the transport's
    #[arg(long, value_name = "N")]
    port: Option<u16>,
    /// Who may have it: addresses, or networks such as 10.0.0.0/24; may be given several times. Without it: the network of the
    /// interface
    #[arg(long, value_name = "NET")]
    allow: Vec<String>,
    /// The secret that the other side must know; without it one is made and printed
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// End when so many have all of it; they are told apart by their addresses
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    clients: Option<u32>,
}

#[derive(Serialize)]
struct Ready<'a> {
    pull: &'a str,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

#[derive(Serialize)]
struct News<'a> {
    receiver: &'a ReceiverState,
}

impl OfferCommand {
    /// Offers until the end.
    pub fn run(self, context: &Context) -> Result<()> {
        let host = context.host(Secrets::default());
        cancel_on_signals(host.cancel_flag()).context("preparing for signals")?;
        let transport = super::choose::transport(context, self.transport.as_deref())?;
        let network = self.place(context)?;
        let given = match &self.secret_file {
            Some(file) => Given { secret: secret::read(file)?, made: false },
            None => Given { secret: secret::make()?, made: true },
        };
        let run_dir = context.config.run().join(format!("offer-{}", std::process::id()));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&run_dir)
            .with_context(|| format!("making {}; are you root?", run_dir.display()))?;
        let allow = if self.allow.is_empty() {
            vec![format!("{}/{}", network.base(), network.prefix)]
        } else {
            self.allow.clone()
        };
        let asked = ByHand {
            config: &context.config,
            registry: context.registry()?,
            host: &host,
            image: &self.image,
            transport: &transport,
            address: network.address,
            port: self.port,
            allow,
            secret: &given.secret,
            run_dir: &run_dir,
        };
        let mut told = Told { begun: Instant::now(), receivers: BTreeMap::new() };
        let offered =
            by_hand::offer(&asked, &mut |port| self.ready(context, &transport, &network, &given, port), &mut |state| {
                self.look(context, &mut told, state)
            });
        let removed = fs::remove_dir_all(&run_dir).with_context(|| format!("removing {}", run_dir.display()));
        offered.and(removed)?;
        told.end(self.clients)
    }

    /// Tells what is new; whether it is enough.
    fn look(&self, context: &Context, told: &mut Told, state: Option<&ServiceState>) -> Result<bool> {
        let Some(wanted) = self.clients else {
            return state.map_or(Ok(()), |state| told.news(context, state)).map(|()| false);
        };
        match state {
            Some(state) => told.news(context, state)?,
            None if told.begun.elapsed() < TELLS => return Ok(false),
            None => bail!(
                "this transport does not tell who has all of it; leave --clients out, and end it when those who pull say that they have"
            ),
        }
        Ok(told.done() >= wanted as usize)
    }

    fn place(&self, context: &Context) -> Result<Network> {
        let all = interface::addresses()?;
        if let Some(address) = self.address {
            // Loopback's are not among them.
            return match all.iter().find(|one| one.network.address == address) {
                Some(one) => Ok(one.network),
                None if address.is_loopback() => {
                    Network::new(address, if address.is_ipv4() { 8 } else { 128 }).map_err(anyhow::Error::msg)
                }
                None => bail!("this machine does not have the address {address}"),
            };
        }
        let mut settings = context.config.settings.server.clone();
        if let Some(interface) = &self.interface {
            (settings.interface, settings.address) = (Some(interface.clone()), None);
        }
        let advice = "or name it with --interface or --address";
        Ok(interface::choose(&all, &settings).map_err(|why| anyhow::anyhow!("{why}, {advice}"))?.network)
    }

    fn ready(&self, context: &Context, transport: &str, network: &Network, given: &Given, port: u16) -> Result<()> {
        let line = format!(
            "systemimager pull --server {} --port {port} --image {} --transport {transport} --secret-file FILE --to DIR",
            network.address, self.image
        );
        context.say(format_args!("ready. Run where it is to go:\n  {line}"));
        if given.made {
            context.say(format_args!("secret, for FILE: {}", given.secret));
        }
        context.answer(&Ready { pull: &line, port, secret: given.made.then_some(given.secret.as_str()) })
    }
}

/// What was told of receivers, by the session and the place in it.
struct Told {
    /// Since when.
    begun: Instant,
    receivers: BTreeMap<(u64, String, usize), ReceiverState>,
}

impl Told {
    /// Tells who came and who ended.
    fn news(&mut self, context: &Context, state: &ServiceState) -> Result<()> {
        for session in &state.sessions {
            for (index, receiver) in session.receivers.iter().enumerate() {
                let key = (session.began, session.export.clone(), index);
                let before = self.receivers.insert(key, receiver.clone());
                let is_news = before.is_none_or(|before| before.ended != receiver.ended || before.how != receiver.how);
                if is_news && context.json {
                    context.answer(&News { receiver })?;
                } else if is_news {
                    note(format_args!("{}: {}", receiver.address, receivers::words(receiver)));
                }
            }
        }
        Ok(())
    }

    /// How many have said that they have all of it: by their addresses, for one may have pulled it twice.
    fn done(&self) -> usize {
        let is_done = |it: &&ReceiverState| matches!(it.ended, Some(ReceiverEnd::Done(_)));
        self.receivers.values().filter(is_done).map(|it| &it.address).collect::<BTreeSet<_>>().len()
    }

    /// Whether all who came have all of it: of those who came several times, in the end.
    fn end(&self, wanted: Option<u32>) -> Result<()> {
        let mut last: BTreeMap<&str, Vec<&ReceiverState>> = BTreeMap::new();
        for receiver in self.receivers.values() {
            last.entry(&receiver.address).or_default().push(receiver);
        }
        let done =
            |of: &[&ReceiverState]| of.iter().filter(|it| matches!(it.ended, Some(ReceiverEnd::Done(_)))).count();
        let lacking: Vec<String> = last
            .iter()
            .filter(|(_, of)| done(of) == 0)
            .filter_map(|(address, of)| Some(format!("{address}: {}", receivers::words(of.last()?))))
            .collect();
        if !lacking.is_empty() {
            return Err(Exit::Failed(format!("not all who came have all of it:\n  {}", lacking.join("\n  "))).into());
        }
        if let Some(wanted) = wanted.filter(|wanted| (*wanted as usize) > self.done()) {
            return Err(Exit::Failed(format!("{} of {wanted} have all of it", self.done())).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_failed_and_came_again_is_done() {
        let receiver =
            |address: &str, ended| ReceiverState { address: address.into(), ended, ..ReceiverState::default() };
        let done = || Some(ReceiverEnd::Done("h".into()));
        let failed = || Some(ReceiverEnd::Failed("gone".into()));
        for (name, all, wanted, expected) in [
            ("nobody", vec![], None, true),
            ("all", vec![receiver("a", done()), receiver("b", done())], Some(2), true),
            ("again", vec![receiver("a", failed()), receiver("a", done())], None, true),
            ("one not", vec![receiver("a", done()), receiver("b", failed())], None, false),
            ("one still", vec![receiver("a", None)], None, false),
            ("too few", vec![receiver("a", done())], Some(2), false),
            ("one twice", vec![receiver("a", done()), receiver("a", done())], Some(2), false),
        ] {
            let receivers = all.into_iter().enumerate().map(|(index, it)| ((1, String::new(), index), it)).collect();
            assert_eq!(Told { begun: Instant::now(), receivers }.end(wanted).is_ok(), expected, "{name}");
        }
    }
}
