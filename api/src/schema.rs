//! Schemas of what other crates' types look like in JSON.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// A type that is there for its schema only.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $says:literal, $pattern:literal) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": $says, "pattern": $pattern })
            }
        }
    };
}

text! {
    /// `Ipv4Net`.
    Cidr4, "An IPv4 network, as in 10.0.0.0/16.", r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$"
}

text! {
    /// `Ipv6Net`.
    Cidr6, "An IPv6 network, as in fd00::/48.", "^[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}$"
}

text! {
    /// `IpNet`.
    Cidr, "A network, as in 10.0.0.0/16 or fd00::/48.", "^[0-9A-Fa-f:.]{2,45}/[0-9]{1,3}$"
}
