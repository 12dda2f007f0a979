//! dlopen: each library's own root, never one that is cached.
//!
//! `RootModule::load_from_file` keeps one library for each type, so that the second plugin would be the
//! first, silently. Hence libloading, and the header of each library by its own symbol.

use std::path::Path;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::library::AbiHeaderRef;
use abi_stable::type_layout::TypeLayout;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::host_side::Loaded;
use super::waist::PluginRoot_Ref;
use crate::error::PluginError;

/// Why a library was not opened. One line each.
pub(crate) enum OpenError {
    /// The dynamic linker's word.
    Linker(String),
    /// Its ABI, or its constructor.
    Plugin(PluginError),
}

/// Opens a library for good, and makes the plugin whose root it exports as `root_symbol`. The caller has
/// checked who wrote the file: its code runs with the first line of this.
///
/// # Errors
/// See [`OpenError`]. The library stays open then too: its code ran, and what it left behind points into it.
pub(crate) fn open_library(path: &Path, root_symbol: &str, plugin_is_older: bool) -> Result<Loaded, OpenError> {
    // SAFETY: only root can have written the library, and the loader found it to be a plugin.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| OpenError::Linker(one_line(&error)))?;
    // SAFETY: `declare_plugin!` exports a `LibHeader` by this name, which begins with its `AbiHeader`; the
    // address of the symbol is then such a reference.
    let header = unsafe { library.get::<AbiHeaderRef>(root_symbol) }.map(|symbol| *symbol);
    // Never unloaded, whatever comes next.
    let _ = library.into_raw();
    let header = header.map_err(|error| OpenError::Linker(one_line(&error)))?;
    open_root(header, plugin_is_older).map_err(OpenError::Plugin)
}

/// Makes the plugin of an opened library.
///
/// # Errors
/// `Invalid`: another layout. Else an error from its constructor. One line.
fn open_root(header: AbiHeaderRef, plugin_is_older: bool) -> Result<Loaded, PluginError> {
    let header = header
        .upgrade()
        .map_err(|error| PluginError::invalid(format!("its abi_stable is incompatible: {}", one_line(&error))))?;
    let theirs = header.layout().ok_or_else(|| PluginError::invalid("it carries no layout; use declare_plugin!"))?;
    compare_layouts(<PluginRoot_Ref as StableAbi>::LAYOUT, theirs, plugin_is_older)?;
    // SAFETY: the layouts were compared just above; the library is never unloaded.
    let root: PluginRoot_Ref = unsafe { header.unchecked_layout() }
        .map_err(|error| PluginError::invalid(format!("its root module fails: {}", one_line(&error))))?;
    Loaded::make(root.create())
}

/// abi_stable's check is one-way: an implementation may have more than its interface, never less. Within one
/// major version releases only append, so that the older side has to be taken as the interface.
fn compare_layouts(
    ours: &'static TypeLayout,
    theirs: &'static TypeLayout,
    plugin_is_older: bool,
) -> Result<(), PluginError> {
    let (interface, implementation) = if plugin_is_older { (theirs, ours) } else { (ours, theirs) };
    check_layout_compatibility(interface, implementation).map_err(|error| {
        tracing::debug!("layout: {error}");
        PluginError::invalid("its ABI layout differs from this program's; build it anew against this contract")
    })
}

fn one_line(error: &impl std::fmt::Display) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleError};
    use abi_stable::marker_type::ErasedPrefix;
    use abi_stable::prefix_type::{PrefixRef, PrefixRefTrait, WithMetadata};
    use abi_stable::std_types::{RErr, ROk, RResult};

    use super::*;
    use crate::abi::waist::{CreateResult, PluginRoot};
    use crate::error::ErrorKind;

    /// A root as another version of the contract might declare it.
    macro_rules! other_root {
        ($(#[$doc:meta])* $name:ident { $(#[$sabi:meta])* $($field:ident: $type:ty),* }) => {
            $(#[$doc])*
            #[allow(non_camel_case_types, dead_code, reason = "abi_stable compares names: these have to be the same")]
            mod $name {
                use abi_stable::library::RootModule;
                use abi_stable::sabi_types::VersionStrings;
                use abi_stable::{StableAbi, declare_root_module_statics, package_version_strings};

                #[repr(C)]
                #[derive(StableAbi)]
                #[sabi(kind(Prefix(prefix_ref = PluginRoot_Ref)))]
                #[sabi(missing_field(panic))]
                pub struct PluginRoot {
                    $(#[$sabi])*
                    $(pub $field: $type),*
                }

                impl RootModule for PluginRoot_Ref {
                    declare_root_module_statics! {PluginRoot_Ref}
                    const BASE_NAME: &'static str = "systemimager_plugin";
                    const NAME: &'static str = "systemimager_plugin";
                    const VERSION_STRINGS: VersionStrings = package_version_strings!();
                }
            }
        };
    }

    other_root! {
        /// As a later minor version may have it: one more, at the end.
        appended { #[sabi(last_prefix_field)] create: extern "C" fn() -> super::CreateResult, more: extern "C" fn() -> u64 }
    }
    other_root! {
        /// As no release may have it: another type.
        changed { #[sabi(last_prefix_field)] create: extern "C" fn() -> u64 }
    }

    type Root = RResult<PrefixRef<ErasedPrefix>, RootModuleError>;

    fn refusing() -> CreateResult {
        RErr(super::super::encode(&PluginError::unsupported("made, and it says no")).unwrap_or_default().into())
    }

    extern "C" fn create() -> CreateResult {
        refusing()
    }
    extern "C" fn more() -> u64 {
        1
    }

    extern "C" fn same_root() -> Root {
        const ROOT: &WithMetadata<PluginRoot> = &WithMetadata::new(PluginRoot { create });
        // SAFETY: only the field type is erased, as `LibHeader` asks for.
        ROk(unsafe { PluginRoot_Ref(ROOT.static_as_prefix()).to_prefix_ref().cast() })
    }
    extern "C" fn appended_root() -> Root {
        const ROOT: &WithMetadata<appended::PluginRoot> = &WithMetadata::new(appended::PluginRoot { create, more });
        // SAFETY: as above.
        ROk(unsafe { appended::PluginRoot_Ref(ROOT.static_as_prefix()).to_prefix_ref().cast() })
    }
    extern "C" fn changed_root() -> Root {
        const ROOT: &WithMetadata<changed::PluginRoot> = &WithMetadata::new(changed::PluginRoot { create: more });
        // SAFETY: as above.
        ROk(unsafe { changed::PluginRoot_Ref(ROOT.static_as_prefix()).to_prefix_ref().cast() })
    }

    // SAFETY: each function returns the root of the type named, erased.
    static SAME: LibHeader = unsafe { LibHeader::from_constructor::<PluginRoot_Ref>(same_root, CheckTypeLayout::Yes) };
    // SAFETY: see above.
    static APPENDED: LibHeader =
        unsafe { LibHeader::from_constructor::<appended::PluginRoot_Ref>(appended_root, CheckTypeLayout::Yes) };
    // SAFETY: see above.
    static CHANGED: LibHeader =
        unsafe { LibHeader::from_constructor::<changed::PluginRoot_Ref>(changed_root, CheckTypeLayout::Yes) };
    // SAFETY: see above.
    static UNCHECKED: LibHeader =
        unsafe { LibHeader::from_constructor::<PluginRoot_Ref>(same_root, CheckTypeLayout::No) };

    /// What dlsym would give.
    fn header(of: &'static LibHeader) -> AbiHeaderRef {
        // SAFETY: a LibHeader begins with its AbiHeader, and both live for ever.
        unsafe { std::mem::transmute::<&'static LibHeader, AbiHeaderRef>(of) }
    }

    #[test]
    fn a_root_is_taken_only_if_its_layout_fits() {
        let (made, differs) = ("made, and it says no", "its ABI layout differs");
        for (name, of, is_older, expected) in [
            ("the same", &SAME, false, made),
            ("the same, older", &SAME, true, made),
            ("newer, with more", &APPENDED, false, made),
            ("more, yet said to be older", &APPENDED, true, differs),
            ("changed", &CHANGED, false, differs),
            ("changed, older", &CHANGED, true, differs),
            ("no layout", &UNCHECKED, false, "it carries no layout"),
        ] {
            let Err(error) = open_root(header(of), is_older) else { panic!("{name}: made a plugin") };
            assert!(error.message.starts_with(expected), "{name}: {error}");
            let kind = if expected == made { ErrorKind::Unsupported } else { ErrorKind::Invalid };
            assert_eq!(error.kind, kind, "{name}");
        }
    }

    #[test]
    fn the_older_side_is_the_interface() {
        let (older, newer) = (<PluginRoot_Ref as StableAbi>::LAYOUT, <appended::PluginRoot_Ref as StableAbi>::LAYOUT);
        assert!(compare_layouts(newer, older, true).is_ok(), "a plugin of 1.0 in a host of 1.1");
        assert!(compare_layouts(newer, older, false).is_err(), "what abi_stable itself would say of it");
        assert!(compare_layouts(older, newer, false).is_ok(), "a plugin of 1.1 in a host of 1.0");
    }
}
