//! Namespaces: what services are told apart by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_model::ids::{Namespace, Revision};

/// A namespace with how much is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NamespaceView {
    /// Its name.
    pub namespace: Namespace,
    /// Services in it.
    pub services: usize,
    /// Endpoints below its names.
    pub endpoints: usize,
    /// The store's revision at which it was declared; 0 for `default`, which always is.
    #[serde(default)]
    pub revision: Revision,
}

/// `PUT /v1/namespaces/{namespace}`: nothing but its name is said of one. The body may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespacePut {}
