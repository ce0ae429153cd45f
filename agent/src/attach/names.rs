//! Whether what is said of a namespace can be written: its names, services and labels.

use weft_api::{Attach, Description};
use weft_model::attachment::Instance;
use weft_model::ids::NodeName;
use weft_model::snapshot::Snapshot;

use crate::refusal::Refusal;
use crate::registrar::holder;
use crate::registrar::records::{described, parts};
use crate::state::Attachment;

/// The longest name of DNS as text, with its final dot (RFC 1035 section 2.3.4: 255 bytes as it travels).
const MAX_DNS_NAME: usize = 254;

/// What a request says of its namespace.
fn of_request(request: &Attach) -> Description {
    let main = request.service.iter().map(|service| Instance::new(service.clone(), request.port, request.proto));
    Description {
        name: request.name.clone(),
        aliases: request.aliases.clone(),
        instances: main.chain(request.instances.iter().cloned()).collect(),
        labels: request.labels.clone(),
        check: request.check.clone(),
    }
}

/// What can be said of a request's names by itself.
///
/// # Errors
/// Which of them cannot be.
pub(super) fn check_request(request: &Attach) -> Result<(), Refusal> {
    of_request(request).check().map_err(|why| Refusal::invalid(format!("attach: {why}")))
}

/// What can be said of an attachment's names in this cluster: namespaces must be declared, none is a name of the default one, no
/// name is too long, and none is held by others.
///
/// # Errors
/// Which of them cannot be.
pub(super) fn check(op: &str, attachment: &Attachment, snapshot: &Snapshot, node: &NodeName) -> Result<(), Refusal> {
    let described = described(attachment);
    let unknown = described.instances.iter().map(|i| &i.service.namespace).find(|n| !snapshot.has_namespace(n));
    if let Some(namespace) = unknown {
        return Err(Refusal::invalid(format!("{op}: there is no namespace {namespace}")));
    }
    let services = described.instances.iter().filter(|i| i.service.namespace.is_default()).map(|i| i.service.name.as_str());
    let mut in_default = services.chain(described.aliases.iter().map(|alias| alias.as_str()));
    if let Some(label) = in_default.find(|label| is_namespace(snapshot, label)) {
        return Err(Refusal::conflict(format!("{op}: {label} is a namespace, so it cannot be a name of the default one")));
    }
    for part in parts(snapshot, node, attachment) {
        let name = part.path.dns_name();
        if name.len() > MAX_DNS_NAME {
            return Err(Refusal::invalid(format!(
                "{op}: {name} is longer than a DNS name may be; choose shorter names, or --id"
            )));
        }
        if let Some(holder) = holder(snapshot, &part.path, node) {
            return Err(Refusal::conflict(format!("{op}: {name} is {holder}; choose another --id")));
        }
    }
    Ok(())
}

/// Whether a label is that of a declared namespace.
fn is_namespace(snapshot: &Snapshot, label: &str) -> bool {
    snapshot.namespaces().any(|n| n.as_str() == label)
}

/// What of a description can be written in this cluster, and sentences about the rest: one name that cannot be is no reason to
/// leave out the others. What others hold is the registrar's to tell.
pub(super) fn writable(mut said: Description, snapshot: &Snapshot) -> (Description, Vec<String>) {
    let mut left_out = Vec::new();
    said.instances.retain(|i| {
        let (service, namespace) = (&i.service, &i.service.namespace);
        if !snapshot.has_namespace(namespace) {
            left_out.push(format!("service {service}: there is no namespace {namespace}"));
        } else if namespace.is_default() && is_namespace(snapshot, service.name.as_str()) {
            left_out.push(format!("service {service}: {} is a namespace", service.name));
        } else {
            return true;
        }
        false
    });
    said.aliases.retain(|alias| {
        let clashes = is_namespace(snapshot, alias.as_str());
        if clashes {
            left_out.push(format!("name {alias}: it is a namespace"));
        }
        !clashes
    });
    (said, left_out)
}
