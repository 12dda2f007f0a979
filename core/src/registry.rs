//! The plugins that a program has, by kind and id: linked in, or opened from files.

use std::fmt;
use std::sync::Arc;

use crate::abi::private::Instance;
use crate::abi::{Guarded, Identification, make_guarded};
use crate::contract::{
    Bootloader, FileSystem, HostIdentity, Kind, Partitioner, RemoteBootloader, RemoteFileSystem, RemoteHostIdentity,
    RemotePartitioner, RemoteTransport, Transport, Wire,
};
use crate::data::BytePath;
use crate::error::{ErrorKind, PluginError, Result};

/// A plugin that is linked into this program; `declare_plugin!` submits it.
pub struct StaticPlugin {
    /// Its identification, JSON.
    pub identification: &'static str,
    /// Makes it.
    pub make: fn() -> Instance,
}

inventory::collect!(StaticPlugin);

/// Where a plugin came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Linked into this program.
    Linked,
    /// Opened from this file.
    File(std::path::PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Linked => out.write_str("a plugin linked into this program"),
            Origin::File(path) => BytePath::from(path.as_path()).fmt(out),
        }
    }
}

/// A plugin, ready for use. Both forms are called the same way: over a guarded [`Wire`], as JSON.
#[derive(Clone)]
pub struct Plugin {
    /// What it says of itself.
    pub identification: Identification,
    /// Where it came from.
    pub origin: Origin,
    instance: Arc<Instance>,
    #[cfg_attr(not(feature = "conformance"), allow(dead_code, reason = "only the suite speaks JSON to a plugin"))]
    wire: Arc<dyn Wire>,
    #[cfg_attr(not(feature = "conformance"), allow(dead_code, reason = "only the suite makes a plugin again"))]
    again: Option<Again>,
}

/// Makes a plugin once more.
pub(crate) type Again = Arc<dyn Fn() -> Result<Arc<dyn Wire>> + Send + Sync>;

impl fmt::Debug for Plugin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} of {}", self.name(), self.origin)
    }
}

impl Plugin {
    /// `file-system ext2`: as in [`Step::by`](crate::Step::by).
    pub fn name(&self) -> String {
        format!("{} {}", self.identification.kind, self.identification.id)
    }

    /// Calls a method with any bytes as its request, as a host of another version might.
    #[cfg(feature = "conformance")]
    pub(crate) fn call(&self, method: &str, input: &[u8], host: &dyn crate::Host) -> Result<Vec<u8>> {
        self.wire.call(method, input, host)
    }

    /// A second one, made anew; none where it is not known how.
    #[cfg(feature = "conformance")]
    pub(crate) fn fresh(&self) -> Option<Result<Arc<dyn Wire>>> {
        self.again.as_ref().map(|again| again())
    }
}

/// The plugins of a program.
#[derive(Clone, Default)]
pub struct Registry {
    plugins: Vec<Plugin>,
}

macro_rules! typed {
    ($($(#[$doc:meta])* $one:ident, $all:ident, $variant:ident => $trait:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// `Missing`: there is none of that id; says which file would bring it.
            pub fn $one(&self, id: &str) -> Result<&dyn $trait> {
                match &*self.find(Kind::$variant, id)?.instance {
                    Instance::$variant(plugin) => Ok(&**plugin),
                    _ => Err(PluginError::bug(format!("{id} is not of the kind it declares"))),
                }
            }

            /// All of this kind, with their ids, in the order of their ids.
            pub fn $all(&self) -> Vec<(&str, &dyn $trait)> {
                let mut found: Vec<(&str, &dyn $trait)> = self
                    .plugins
                    .iter()
                    .filter_map(|plugin| match &*plugin.instance {
                        Instance::$variant(instance) => Some((plugin.identification.id.as_str(), &**instance)),
                        _ => None,
                    })
                    .collect();
                found.sort_by_key(|(id, _)| *id);
                found
            }
        )*
    };
}

impl Registry {
    /// The plugins linked into this program.
    ///
    /// # Errors
    /// `Invalid`: two share kind and id. `PluginBug`: one's identification is not one, or its constructor panics.
    pub fn linked() -> Result<Self> {
        let mut registry = Self::default();
        for plugin in inventory::iter::<StaticPlugin> {
            let identification: Identification = serde_json::from_str(plugin.identification)
                .map_err(|error| PluginError::bug(format!("a linked plugin's identification: {error}")))?;
            let make = plugin.make;
            let new = move || -> Result<Arc<dyn Wire>> { Ok(Arc::new(Guarded::new(make_guarded(make)?))) };
            let instance = make_guarded(make)?;
            check_kind(&identification, &instance)?;
            let wire = Arc::new(Guarded::new(instance));
            registry.add_wire(identification, Origin::Linked, wire, Some(Arc::new(new)))?;
        }
        Ok(registry)
    }

    /// Adds a plugin.
    ///
    /// # Errors
    /// `Invalid`: its kind and id are taken, or it is not of the kind it declares.
    pub fn add(&mut self, identification: Identification, origin: Origin, instance: Instance) -> Result<()> {
        check_kind(&identification, &instance)?;
        self.add_wire(identification, origin, Arc::new(Guarded::new(instance)), None)
    }

    /// Adds a plugin that is reached over a wire.
    ///
    /// # Errors
    /// `Invalid`: its kind and id are taken.
    pub(crate) fn add_wire(
        &mut self,
        identification: Identification,
        origin: Origin,
        wire: Arc<dyn Wire>,
        again: Option<Again>,
    ) -> Result<()> {
        if let Some(other) = self.get(identification.kind, &identification.id) {
            return Err(PluginError::invalid(format!("the id {} is already taken by {}", other.name(), other.origin)));
        }
        let far = Arc::clone(&wire);
        let instance = Arc::new(match identification.kind {
            Kind::Transport => Instance::Transport(Box::new(RemoteTransport(far))),
            Kind::FileSystem => Instance::FileSystem(Box::new(RemoteFileSystem(far))),
            Kind::Partitioner => Instance::Partitioner(Box::new(RemotePartitioner(far))),
            Kind::Bootloader => Instance::Bootloader(Box::new(RemoteBootloader(far))),
            Kind::HostIdentity => Instance::HostIdentity(Box::new(RemoteHostIdentity(far))),
        });
        self.plugins.push(Plugin { identification, origin, instance, wire, again });
        Ok(())
    }

    /// All plugins, by kind and id.
    pub fn all(&self) -> Vec<&Plugin> {
        let mut all: Vec<_> = self.plugins.iter().collect();
        all.sort_by_key(|plugin| (plugin.identification.kind, plugin.identification.id.clone()));
        all
    }

    /// A plugin by kind and id.
    pub fn get(&self, kind: Kind, id: &str) -> Option<&Plugin> {
        self.plugins.iter().find(|plugin| plugin.identification.kind == kind && plugin.identification.id == id)
    }

    /// A plugin by kind and id.
    ///
    /// # Errors
    /// `Missing`: there is none.
    pub fn find(&self, kind: Kind, id: &str) -> Result<&Plugin> {
        self.get(kind, id).ok_or_else(|| {
            let have: Vec<_> = self
                .all()
                .into_iter()
                .filter(|plugin| plugin.identification.kind == kind)
                .map(|plugin| plugin.identification.id.as_str())
                .collect();
            let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
            PluginError::new(
                ErrorKind::Missing,
                format!(
                    "there is no {kind} plugin \"{id}\" (there: {have}); put its .so into the plugin directory, \
                     or name another"
                ),
            )
        })
    }

    typed! {
        /// A transport by id.
        transport, transports, Transport => Transport;
        /// A file system plugin by id.
        filesystem, filesystems, FileSystem => FileSystem;
        /// A partitioner by id.
        partitioner, partitioners, Partitioner => Partitioner;
        /// A boot loader by id.
        bootloader, bootloaders, Bootloader => Bootloader;
        /// A host identity plugin by id.
        identity, identities, HostIdentity => HostIdentity;
    }
}

fn check_kind(identification: &Identification, instance: &Instance) -> Result<()> {
    if instance.kind() == identification.kind {
        return Ok(());
    }
    Err(PluginError::bug(format!(
        "{} declares itself a {} and is a {}",
        identification.id,
        identification.kind,
        instance.kind()
    )))
}
