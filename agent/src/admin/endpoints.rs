//! Endpoints: all that there are, and those that are written by hand.

use std::sync::Arc;

use weft_api::{EndpointAdd, EndpointView};
use weft_model::endpoint::Endpoint;
use weft_model::ids::{EndpointId, ServiceName, sanitise_label};
use weft_model::record::{Kind, Record, State, WeftRecord, check_labels};
use weft_model::service::port_name;
use weft_model::snapshot::Snapshot;
use weft_store::Outcome;
use weft_store::registry::RecordPut;

use super::Admin;
use super::answer::Listed;
use super::filter::{Filter, Part};
use crate::refusal::Refusal;

impl Admin {
    pub(super) fn endpoints(&self, filter: &Filter, part: &Part) -> Result<Listed<EndpointView>, Refusal> {
        let snapshot = self.snapshot()?;
        let wanted = snapshot.endpoints().filter(|e| filter.wants_endpoint(&snapshot, e));
        // Two may share a path: one that Weft wrote comes after one that others did.
        let (wanted, next) = part.take(wanted.map(|e| (format!("{}\0{}", e.path, u8::from(e.ours)), e)));
        let items = wanted.into_iter().map(|e| endpoint_view(&snapshot, e)).collect();
        Ok(Listed { items, revision: snapshot.revision(), next })
    }

    pub(super) async fn endpoint_add(&self, add: EndpointAdd) -> Result<EndpointView, Refusal> {
        let snapshot = self.snapshot()?;
        if !snapshot.has_namespace(&add.service.namespace) {
            return Err(Refusal::invalid(format!("endpoint add: there is no namespace {}", add.service.namespace)));
        }
        let a = add.address;
        if a.is_unspecified() || a.is_multicast() {
            return Err(Refusal::invalid(format!("endpoint add: {a} is no address of a host")));
        }
        if add.port == Some(0) {
            return Err(Refusal::invalid("endpoint add: port 0 is no port"));
        }
        check_labels(&add.labels).map_err(|e| Refusal::invalid(format!("endpoint add: {e}")))?;
        if !add.port_name.is_empty() {
            port_name(&add.port_name).map_err(|e| Refusal::invalid(format!("endpoint add: {e}")))?;
        }
        let id: EndpointId = match add.id {
            Some(id) => id,
            None => {
                let made = sanitise_label(&format!("{a}-{}", add.port.unwrap_or(0)), weft_model::ids::MAX_LABEL);
                made.parse().map_err(|e| Refusal::invalid(format!("endpoint add: {e}; set --id")))?
            }
        };
        let path = snapshot.path_of(&add.service).child(id.as_str());
        let family = if a.is_ipv4() { "4" } else { "6" };
        let part = if add.port_name.is_empty() { family.to_owned() } else { format!("{family}-{}", add.port_name) };
        let record = Record {
            host: a.to_string(),
            port: add.port.unwrap_or(0),
            targetstrip: 1,
            weft: Some(WeftRecord {
                id: id.clone(),
                name: String::new(),
                node: None,
                kind: Kind::Service,
                state: State::Up,
                unhealthy: false,
                candidate: false,
                born: 0,
                port_name: add.port_name,
                proto: add.proto,
                labels: add.labels,
                network: None,
            }),
            ..Record::default()
        };
        let put = RecordPut { path: path.child(&part), record, lease: None, over: None, moved: None };
        match self.registry.write_record(&put).await.map_err(|e| Refusal::store("endpoint add", &e))? {
            Outcome::Done(revision) => self.echo(revision).await,
            Outcome::Refused(_) => {
                let there = snapshot.record(&put.path).is_some_and(|r| r.record == put.record && r.lease.is_none());
                if !there {
                    return Err(Refusal::conflict(format!(
                        "endpoint add: {} is there already; netctl endpoint rm {id} first, or choose another --id",
                        put.path.dns_name()
                    )));
                }
            }
        }
        let snapshot = self.snapshot()?;
        let found = snapshot.endpoints_below(&path).next().map(|e| endpoint_view(&snapshot, e));
        found.ok_or_else(|| Refusal::not_found(format!("endpoint add: {id} was removed again at once")))
    }

    pub(super) async fn endpoint_rm(&self, id: &str, service: Option<&str>) -> Result<EndpointView, Refusal> {
        let snapshot = self.snapshot()?;
        let service: Option<ServiceName> =
            service.map(str::parse).transpose().map_err(|e| Refusal::invalid(format!("endpoint rm: --service: {e}")))?;
        let matches: Vec<&Arc<Endpoint>> = snapshot
            .endpoints()
            .filter(|e| e.id == id && service.as_ref().is_none_or(|s| snapshot.service_at(&e.path).as_ref() == Some(s)))
            .collect();
        let endpoint = match matches.as_slice() {
            [one] => (*one).clone(),
            [] => {
                return Err(Refusal::not_found(format!(
                    "endpoint rm: there is no endpoint {id}; netctl endpoint list shows those there are"
                )));
            }
            several => {
                let names: Vec<String> = several.iter().map(|e| e.path.dns_name()).collect();
                return Err(Refusal::conflict(format!(
                    "endpoint rm: {id} is in several services ({}); name one with --service",
                    names.join(", ")
                )));
            }
        };
        let view = endpoint_view(&snapshot, &endpoint);
        if let Some(node) = endpoint.node.as_ref().filter(|_| endpoint.lease.is_some()) {
            let here = *node == self.node && snapshot.service_at(&endpoint.path) == self.registrations.service_of(id).await;
            if here && self.registrations.withdraw(id).await.is_ok() {
                return Ok(view);
            }
            return Err(Refusal::conflict(format!(
                "endpoint rm: {id} is attached to node {node}, or registered there, which would write it again; netctl detach {id} \
                 or netctl endpoint rm {id} there"
            )));
        }
        let parts = snapshot.parts_of(&endpoint);
        let parts: Vec<_> = parts.into_iter().filter(|(_, s)| !s.lost).map(|(place, s)| (place, s.modified)).collect();
        let written = self.registry.write_records(&[], &parts, None).await.map_err(|e| Refusal::store("endpoint rm", &e))?;
        match written {
            Outcome::Done(revision) => self.echo(revision).await,
            Outcome::Refused(_) => {
                return Err(Refusal::conflict(format!("endpoint rm: {id} was changed by somebody else meanwhile; try again")));
            }
        }
        Ok(view)
    }
}

/// An endpoint as it is shown.
#[must_use]
pub fn endpoint_view(snapshot: &Snapshot, endpoint: &Endpoint) -> EndpointView {
    EndpointView {
        id: endpoint.id.clone(),
        name: endpoint.name.clone(),
        addresses: endpoint.addresses.clone(),
        ports: endpoint.ports.clone(),
        node: endpoint.node.clone(),
        state: endpoint.state,
        service: snapshot.service_at(&endpoint.path),
        kind: endpoint.kind,
        dns_name: endpoint.path.dns_name(),
        labels: endpoint.labels.clone(),
        host_names: endpoint.host_names.clone(),
        network: endpoint.network.clone(),
        unhealthy: endpoint.unhealthy,
        priority: endpoint.priority,
        weight: endpoint.weight,
        permanent: endpoint.ours && endpoint.lease.is_none(),
        revision: endpoint.modified,
    }
}
