//! Machines named by the serial number that their maker wrote into the firmware: `node-` and the number.
//!
//! Their addresses stay a matter of DHCP, or of what the image has.

use std::collections::BTreeMap;

use systemimager_core::contract::{HostIdentity, IdentityDetect, IdentityWho, IdentityWrite};
use systemimager_core::{
    Action, Bytes, Contents, ErrorKind, Host, HostName, Identity, Needs, NetworkMode, NetworkSettings, Phase,
    PluginError, Result, Role, Step, declare_plugin,
};

/// The plugin.
pub struct Plugin;

/// Under this name the engine hands back what `detect` found.
const ID: &str = "serial";

declare_plugin! {
    kind: HostIdentity,
    id: serial,
    about: "machines named by their serial numbers",
    make: Plugin,
}

impl HostIdentity for Plugin {
    fn needs(&self, _: &dyn Host, _: Role) -> Result<Needs> {
        Ok(Needs::default())
    }

    /// Pure: all that is known of the machine is in the request. `None`: these facts do not tell.
    fn who(&self, _: &dyn Host, request: IdentityWho) -> Result<Option<Identity>> {
        let facts = request.facts;
        // The master may name sources and their order; this plugin knows one.
        if !request.sources.is_empty() && !request.sources.iter().any(|source| source == "serial") {
            return Ok(None);
        }
        let Some(serial) = facts.dmi.get("product_serial").map(|text| text.trim()).filter(|text| !text.is_empty())
        else {
            return Ok(None);
        };
        // Firmware says what it likes ("To be filled by O.E.M."): a name exists only if it is valid.
        let name = HostName::try_from(format!("node-{}", serial.to_lowercase())).map_err(|error| {
            PluginError::invalid(format!("the serial number {serial:?} of this machine makes no host name: {error}"))
        })?;
        let lease = facts.leases.into_iter().next().unwrap_or_default();
        let network = NetworkSettings {
            mac: lease.mac,
            interface: lease.interface,
            address: lease.address,
            prefix: lease.prefix,
            router: lease.routers.first().copied(),
            name_servers: lease.name_servers,
            domain: lease.domain,
            ..NetworkSettings::default()
        };
        // By constructor: a field that a later version of the contract appends has its default.
        Ok(Some(Identity::new(name, network, format!("the serial number {serial}"))))
    }

    /// Looks at an image when it is captured; the facts come back in [`IdentityWrite`].
    fn detect(&self, host: &dyn Host, request: IdentityDetect) -> Result<BTreeMap<String, String>> {
        let mut facts = BTreeMap::new();
        match host.read(&request.place, &"/etc/hosts".into()) {
            Ok(text) if text.lossy().lines().any(|line| line.starts_with("127.0.1.1")) => {
                facts.insert("own_line".to_owned(), "yes".to_owned());
            }
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(facts)
    }

    /// Pure.
    fn plan_write(&self, _: &dyn Host, request: IdentityWrite) -> Result<Vec<Step>> {
        if request.mode == NetworkMode::Static {
            return Err(PluginError::unsupported(
                "the identity plugin for serial numbers writes no addresses; say mode = \"dhcp\" or \"keep\" under \
                 [network] in the master",
            ));
        }
        let name = &request.identity.name;
        let contents = Contents::Bytes(Bytes::from(format!("{}\n", name.short())));
        let mut steps = vec![Step::new(
            Phase::Identity,
            format!("write the name {name}"),
            Action::WriteFile { path: "/etc/hostname".into(), contents, mode: 0o644 },
        )];
        let facts = request.image.identity.get(ID);
        if facts.and_then(|facts| facts.get("own_line")).is_some_and(|word| word == "yes") {
            let names =
                if name.short() == name.as_str() { name.to_string() } else { format!("{name} {}", name.short()) };
            let prefix = "127.0.1.1".to_owned();
            let line = format!("{prefix}\t{names}");
            let action = Action::SetLine { path: "/etc/hosts".into(), prefix, line };
            steps.push(Step::new(Phase::Identity, format!("write {name} into /etc/hosts"), action));
        }
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use systemimager_core::testing::{RecordedHost, assert_conforms};

    use super::*;

    #[test]
    fn keeps_the_contract() {
        assert_conforms();
    }

    fn who(serial: &str) -> Result<Option<Identity>> {
        let facts = json!({"command_line": {}, "leases": [], "macs": [], "dmi": {"product_serial": serial}});
        Plugin.who(&RecordedHost::new(), serde_json::from_value(json!({"facts": facts})).unwrap())
    }

    #[test]
    fn a_serial_number_is_a_name() {
        assert_eq!(who("CZ3 ").unwrap().unwrap().name.as_str(), "node-cz3");
        assert_eq!(who(" ").unwrap(), None);
        let error = who("To be filled by O.E.M.").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }

    #[test]
    fn the_name_is_written() {
        let identity = who("7").unwrap();
        let image = json!({"name": "web", "arch": "x86_64", "identity": {ID: {"own_line": "yes"}}});
        let request = json!({"identity": identity, "mode": "dhcp", "image": image});
        let steps = Plugin.plan_write(&RecordedHost::new(), serde_json::from_value(request).unwrap()).unwrap();
        let line =
            Action::SetLine { path: "/etc/hosts".into(), prefix: "127.0.1.1".into(), line: "127.0.1.1\tnode-7".into() };
        assert_eq!(steps[1].action, line);
    }
}
