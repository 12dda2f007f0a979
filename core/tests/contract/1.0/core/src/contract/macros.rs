//! One definition of a trait gives three things: the trait that authors implement, the dispatcher that
//! runs on the plugin's side of the boundary, and the remote that runs on the host's side.

/// What carries a call to the other side: method name and JSON there, JSON back.
pub trait Wire: Send + Sync {
    /// Calls `method` with a JSON `input`.
    ///
    /// # Errors
    /// Whatever the plugin answers; `PluginBug` if what it answers is not JSON of the right shape.
    fn call(&self, method: &str, input: &[u8], host: &dyn crate::Host) -> crate::Result<Vec<u8>>;
}

impl<W: Wire + ?Sized> Wire for std::sync::Arc<W> {
    fn call(&self, method: &str, input: &[u8], host: &dyn crate::Host) -> crate::Result<Vec<u8>> {
        (**self).call(method, input, host)
    }
}

macro_rules! contract {
    (
        $(#[$doc:meta])*
        pub trait $name:ident, remote $remote:ident, dispatch $dispatch:ident;
        required {
            $( $(#[$required_doc:meta])* fn $required:ident($required_in:ty) -> $required_out:ty; )*
        }
        optional {
            $( $(#[$optional_doc:meta])* fn $optional:ident($optional_in:ty) -> $optional_out:ty; )*
        }
    ) => {
        $(#[$doc])*
        pub trait $name: Send + Sync {
            $(
                $(#[$required_doc])*
                fn $required(&self, host: &dyn $crate::Host, request: $required_in) -> $crate::Result<$required_out>;
            )*
            $(
                $(#[$optional_doc])*
                fn $optional(&self, _host: &dyn $crate::Host, _request: $optional_in) -> $crate::Result<$optional_out> {
                    Err($crate::PluginError::unsupported(concat!("this plugin does not do ", stringify!($optional))))
                }
            )*
        }

        /// Runs `method` of a plugin on JSON: the plugin's side of the boundary.
        ///
        /// # Errors
        /// What the method answers; `Invalid` for input of another shape; `Unsupported` for an unknown method.
        pub fn $dispatch(
            plugin: &dyn $name,
            method: &str,
            input: &[u8],
            host: &dyn $crate::Host,
        ) -> $crate::Result<Vec<u8>> {
            match method {
                $(
                    stringify!($required) => {
                        $crate::abi::encode(&plugin.$required(host, $crate::abi::decode(input)?)?)
                    }
                )*
                $(
                    stringify!($optional) => {
                        $crate::abi::encode(&plugin.$optional(host, $crate::abi::decode(input)?)?)
                    }
                )*
                _ => Err($crate::PluginError::unsupported(format!(
                    "this plugin, built for contract {}, has no method {method}; build it anew",
                    $crate::CONTRACT_VERSION
                ))),
            }
        }

        /// A plugin on the other side of the boundary.
        pub struct $remote<W>(pub W);

        impl<W: $crate::contract::Wire> $name for $remote<W> {
            $(
                fn $required(&self, host: &dyn $crate::Host, request: $required_in) -> $crate::Result<$required_out> {
                    let input = $crate::abi::encode(&request)?;
                    $crate::abi::decode_answer(&self.0.call(stringify!($required), &input, host)?)
                }
            )*
            $(
                fn $optional(&self, host: &dyn $crate::Host, request: $optional_in) -> $crate::Result<$optional_out> {
                    let input = $crate::abi::encode(&request)?;
                    $crate::abi::decode_answer(&self.0.call(stringify!($optional), &input, host)?)
                }
            )*
        }
    };
}
pub(crate) use contract;
