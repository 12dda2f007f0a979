//! What is given to this machine before the network: by media and the kernel command line, and which of them wins; and how
//! a machine that was started from a medium gets back to its own disk.

use anyhow::{Context, Result, bail};
use systemimager_core::Lease;
use systemimager_engine::local_cfg::LocalCfg;
use systemimager_engine::pins::Pins;

use super::drivers::Drivers;
use super::http::{self, Server};
use super::media::{self, Media};
use super::{Agent, DEFAULT_PORT, Ground, console, order};
use crate::places::Final;

impl Agent {
    /// What media say, unless nobody wants to know.
    pub(super) fn media(&self, drivers: &Drivers) -> Result<Media> {
        let mut media = media::look(drivers, self.option("si.medium"), self.option("si.local-cfg") != Some("none"))?;
        if let Some(local) = &mut media.local {
            for (word, variable) in [("si.host", "HOSTNAME"), ("si.image", "IMAGENAME")] {
                if self.option(word).is_some() && local.cfg.names().contains(&variable) {
                    console::line(format_args!(
                        "{variable} in local.cfg on {} is ignored: {word} on the kernel command line counts",
                        local.place
                    ));
                }
            }
        }
        Ok(media)
    }

    /// Name or address, where one is given, and port of the image server. What is on the kernel command line all machines
    /// of a medium or a network are told; a local.cfg is this machine's.
    pub(super) fn server_options(&self, local: &LocalCfg) -> Result<ServerOptions> {
        let port = match self.option("si.port") {
            None => DEFAULT_PORT,
            Some(text) => text.parse().ok().filter(|port| *port != 0).with_context(|| {
                format!("si.port={text} on the kernel command line is not a port; give a number from 1 to 65535")
            })?,
        };
        let host = self.option("si.server");
        let plain = |letter: char| letter.is_ascii_alphanumeric() || ".:-_".contains(letter);
        if let Some(host) = host.filter(|host| !host.chars().all(plain)) {
            bail!("si.server={host} on the kernel command line is not a name or an address");
        }
        let port = local.port.unwrap_or(port);
        Ok(match &local.server {
            Some(host) => ServerOptions { host: Some(host.clone()), from: "IMAGESERVER in local.cfg", port },
            None => ServerOptions { host: host.map(str::to_owned), from: "si.server on the kernel command line", port },
        })
    }

    /// No order: what leads to the machine's own disk. One that restarted with its medium inside would only come here
    /// again, so that is waited for.
    pub(super) fn to_own_disk(&self, ground: &Ground) -> Final {
        if let Some(medium) = &ground.media.booted_from {
            console::line(format_args!(
                "take out the medium that this machine was started from ({}): it then restarts from its own disk. To \
                 install it, order that first, and type reboot",
                medium.display()
            ));
            order::ask_for_shells();
            media::wait_until_gone(&ground.drivers, medium);
            console::line("the medium is out; restarting from this machine's own disk");
            return Final::Reboot;
        }
        if self.option("BOOTIF").is_none() && !self.back.leads_home() {
            console::line("this machine was not started over the network; take the medium out and type reboot");
            return Final::Shell;
        }
        console::line("restarting from this machine's own disk");
        Final::Reboot
    }
}

/// Where the image server is, as far as that is known without the network.
pub(super) struct ServerOptions {
    /// Name or address, if one is given.
    pub host: Option<String>,
    /// What gives it.
    from: &'static str,
    port: u16,
}

impl ServerOptions {
    /// The image server that is named, else the one that gave this lease; and what names it.
    pub fn of(&self, lease: &Lease, pins: Option<&Pins>) -> Result<(Server, &'static str)> {
        let server = |host: &str| http::server(host, self.port).signed_by(pins);
        match (&self.host, lease.server) {
            (Some(host), _) => Ok((server(host), self.from)),
            (None, Some(address)) => Ok((server(&address.to_string()), "the DHCP server")),
            (None, None) => bail!(
                "nothing names the image server; give si.server=ADDRESS on the kernel command line, or IMAGESERVER in a \
                 local.cfg"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_the_image_server() {
        let by_dhcp = Lease { server: Some(std::net::Ipv4Addr::new(10, 0, 0, 1).into()), ..Lease::default() };
        let named = |host: Option<&str>| ServerOptions { host: host.map(str::to_owned), from: "a file", port: 80 };
        for (name, host, lease, expected) in [
            ("named", Some("10.0.0.9"), &by_dhcp, Some(("http://10.0.0.9:80", "a file"))),
            ("the DHCP server", None, &by_dhcp, Some(("http://10.0.0.1:80", "the DHCP server"))),
            ("nobody", None, &Lease::default(), None),
        ] {
            let found = named(host).of(lease, None).ok();
            let found = found.as_ref().map(|(server, from)| (server.base(), *from));
            assert_eq!(found, expected, "{name}");
        }
    }
}
