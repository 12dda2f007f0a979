//! `declare_plugin!`: all that an author writes besides the trait's methods.

/// Declares a crate's plugin.
///
/// ```text
/// systemimager_core::declare_plugin! {
///     kind: FileSystem,
///     id: ext2,
///     about: "ext2, ext3 and ext4",
///     make: Ext2,
/// }
/// ```
///
/// `kind` is a trait's name, `id` an identifier of letters, digits and `_`, `about` a line without
/// quotation marks or backslashes. The crate is a `cdylib` (to be opened) and may be an `rlib` too
/// (to be linked); its feature `static` registers it with the program it is linked into.
#[macro_export]
macro_rules! declare_plugin {
    (kind: $kind:ident, id: $id:ident, about: $about:literal, make: $make:expr $(,)?) => {
        #[allow(unsafe_code, reason = "exported symbols are how a plugin is found")]
        const _: () = {
            use $crate::abi::private as __private;

            const PARTS: &[&str] = &[
                "{\"id\":\"",
                stringify!($id),
                "\",\"kind\":\"",
                $crate::Kind::$kind.name(),
                "\",\"about\":\"",
                $about,
                "\",\"version\":\"",
                env!("CARGO_PKG_VERSION"),
                "\",\"contract\":\"",
                $crate::CONTRACT_VERSION,
                "\",\"panic\":\"",
                __private::panic_name(cfg!(panic = "abort")),
                "\",\"arch\":\"",
                ::std::env::consts::ARCH,
                "\"}",
            ];
            const LENGTH: usize = __private::length(PARTS);

            #[unsafe(export_name = concat!("systemimager_plugin_identity__", stringify!($kind), "__", stringify!($id)))]
            pub static IDENTITY: [u8; LENGTH] = __private::join(PARTS);

            fn make() -> __private::Instance {
                __private::Instance::$kind(::std::boxed::Box::new($make))
            }

            extern "C" fn create() -> __private::CreateResult {
                __private::create(make)
            }

            extern "C" fn root()
            -> __private::RResult<__private::PrefixRef<__private::ErasedPrefix>, __private::RootModuleError> {
                const ROOT: &__private::WithMetadata<__private::PluginRoot> =
                    &__private::WithMetadata::new(__private::PluginRoot { create });
                let root = __private::PluginRoot_Ref(ROOT.static_as_prefix());
                // SAFETY: only the field type is erased, as `LibHeader` asks for.
                __private::ROk(unsafe { __private::PrefixRefTrait::to_prefix_ref(root).cast() })
            }

            #[unsafe(export_name = concat!("systemimager_plugin_root__", stringify!($kind), "__", stringify!($id)))]
            pub static ROOT: __private::LibHeader =
                // SAFETY: `root` returns an erased `PluginRoot_Ref`.
                unsafe {
                    __private::LibHeader::from_constructor::<__private::PluginRoot_Ref>(
                        root,
                        __private::CheckTypeLayout::Yes,
                    )
                };

            // Under test too, so that `systemimager_core::testing::assert_conforms` finds it.
            #[cfg(any(test, feature = "static"))]
            __private::inventory::submit! {
                $crate::registry::StaticPlugin { identification: __private::text(&IDENTITY), make }
            }
        };
    };
}
