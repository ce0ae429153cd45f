//! Services and their virtual IPs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_api::{BackendView, RejectedView, ServiceView};
use weft_model::ids::{Namespace, Revision, ServiceName};
use weft_model::record::Kind;
use weft_model::service::Service;
use weft_model::snapshot::{Snapshot, Stored};
use weft_proxy::{Context, Resolved, backends, resolve_some};
use weft_store::Outcome;

use super::Admin;
use super::answer::{Listed, Tagged};
use super::filter::{Filter, Part};
use super::precondition::Write;
use crate::datapath::passive::judge::Seen;
use crate::names::Reach;
use crate::refusal::Refusal;

/// How often a virtual IP is chosen again because somebody was faster.
pub(super) const TRIES: usize = 16;

impl Admin {
    pub(super) fn services(&self, filter: &Filter, part: &Part) -> Result<Listed<ServiceView>, Refusal> {
        let snapshot = self.snapshot()?;
        let wanted = snapshot.services().filter(|(name, stored)| filter.wants_service(name, &stored.value));
        let (wanted, next) = part.take(wanted.map(|(name, stored)| (place_of(name), (name, stored))));
        let (context, seen) = self.context(&snapshot);
        let resolved = resolve_some(&snapshot, &context, &wanted);
        let view = |(name, stored): (&ServiceName, &Stored<Service>)| {
            let view = service_view(&snapshot, name, &stored.value, stored.modified, resolved.get(name)?);
            Some(explained(view, &seen))
        };
        Ok(Listed { items: wanted.into_iter().filter_map(view).collect(), revision: snapshot.revision(), next })
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Result<Tagged<ServiceView>, Refusal> {
        let snapshot = self.snapshot()?;
        let name = parse_name(namespace, name)?;
        let stored = snapshot.service(&name).ok_or_else(|| unknown(&name))?;
        let (context, seen) = self.context(&snapshot);
        let resolved = backends(&snapshot, &name, &stored.value, &context);
        let view = service_view(&snapshot, &name, &stored.value, stored.modified, &resolved);
        Ok(Tagged(explained(view, &seen), stored.modified))
    }

    /// What addresses mean on this host, and why some backends are quarantined here.
    pub(super) fn context(&self, snapshot: &Snapshot) -> (Context, Arc<Seen>) {
        let seen = self.quarantined.borrow().clone();
        (Context::of(snapshot).with_quarantine(Arc::new(seen.keys().cloned().collect())), seen)
    }

    pub(super) async fn service_rm(&self, namespace: &str, name: &str, write: Write) -> Result<ServiceView, Refusal> {
        let name = parse_name(namespace, name)?;
        self.catch_up(write).await;
        for _ in 0..TRIES {
            let snapshot = self.snapshot()?;
            let bad = snapshot.bad_at(&snapshot.layout().service(&name)).map(|bad| bad.modified);
            let stored = snapshot.service(&name);
            let at = bad.or(stored.map(|s| s.modified));
            write.check(&format!("service rm {name}"), at)?;
            let at = at.ok_or_else(|| unknown(&name))?;
            // What never parsed is shown as a service of nothing.
            let service = stored.map(|s| s.value.clone()).unwrap_or_default();
            let (context, seen) = self.context(&snapshot);
            let resolved = backends(&snapshot, &name, &service, &context);
            let view = explained(service_view(&snapshot, &name, &service, at, &resolved), &seen);
            if write.dry_run {
                return Ok(view);
            }
            // Only addresses that are really this service's are given back.
            let owned = snapshot.vips().filter(|(_, owner)| owner.value.service == name).map(|(vip, _)| *vip);
            let owned: Vec<IpAddr> = owned.collect();
            let written = self.registry.remove_service(&name, at, &owned).await;
            match written.map_err(|e| Refusal::store(&format!("service rm {name}"), &e))? {
                Outcome::Done(revision) => {
                    self.echo(revision).await;
                    return Ok(view);
                }
                Outcome::Refused(revision) => self.echo(revision).await,
            }
        }
        Err(Refusal::conflict(format!("service rm {name}: somebody else keeps changing it; try again")))
    }

    /// The addresses that a service's name stands for now.
    pub(super) async fn answered(&self, snapshot: &Snapshot, name: &ServiceName) -> Vec<IpAddr> {
        let dns_name = snapshot.path_of(name).dns_name();
        let answer = self.names.query(&dns_name, "A", Reach::Others).await;
        let answers = answer.into_iter().flat_map(|a| a.answers);
        answers.filter_map(|record| record.data.parse().ok()).collect()
    }
}

pub(super) fn parse_name(namespace: &str, name: &str) -> Result<ServiceName, Refusal> {
    format!("{namespace}/{name}").parse().map_err(|e| Refusal::invalid(format!("service: {e}")))
}

/// Where it stands among all services, as a text that sorts as they do: `prod/a` would come after `prod-eu/a`.
fn place_of(name: &ServiceName) -> String {
    format!("{} {}", name.namespace, name.name)
}

fn unknown(name: &ServiceName) -> Refusal {
    Refusal::not_found(format!("there is no service {name}; netctl service list shows those there are"))
}

/// Plain names that the service takes the name from.
pub(super) fn shadowed_names(snapshot: &Snapshot, name: &ServiceName) -> Vec<String> {
    let path = snapshot.path_of(name);
    let names = snapshot.endpoints_below(&path).filter(|e| e.kind == Kind::Name);
    names.map(|e| format!("{} is a name only: it no longer answers for {}", e.path.dns_name(), path.dns_name())).collect()
}

/// What two claim, told to each of them, with who has it.
fn conflicts(snapshot: &Snapshot, name: &ServiceName, resolved: &Resolved) -> Vec<String> {
    let mut out: Vec<String> =
        resolved.vip_rivals.iter().map(|(vip, rival)| format!("{rival} lists {vip} as well; {name} has it")).collect();
    let path = snapshot.path_of(name);
    let namesake = name.namespace.is_default().then(|| name.name.as_str().parse::<Namespace>().ok()).flatten();
    if let Some(namespace) = namesake.filter(|n| snapshot.namespaces().any(|declared| declared == n)) {
        out.push(format!("{namespace} is a namespace as well; what stands below {} is the namespace's", path.dns_name()));
    }
    let names = snapshot.endpoints_below(&path).filter(|e| e.kind == Kind::Name);
    out.extend(names.map(|e| format!("{} is a name only; {} has the name", e.path.dns_name(), name)));
    out
}

/// The same, with why backends are in quarantine.
pub(super) fn explained(mut view: ServiceView, seen: &Seen) -> ServiceView {
    let name = view.full_name();
    for backend in &mut view.backends {
        let place = SocketAddr::new(backend.address, backend.port);
        if let (Some(why), Some(known)) = (&mut backend.quarantined, seen.get(&(name.clone(), place))) {
            why.clone_from(known);
        }
    }
    view
}

/// A service, whose definition was written at `at`, with what it stands for.
#[must_use]
pub fn service_view(
    snapshot: &Snapshot,
    name: &ServiceName,
    service: &Service,
    at: Revision,
    resolved: &Resolved,
) -> ServiceView {
    let first = resolved.frontends.first();
    let backends = first.into_iter().flat_map(|f| &f.backends).map(|b| BackendView {
        id: b.id().to_owned(),
        address: b.address,
        port: b.port,
        node: b.node().cloned(),
        state: b.state(),
        used: b.in_use,
        quarantined: b.quarantined.then(|| "connections from here failed".to_owned()),
    });
    let rejected =
        resolved.rejected.iter().map(|r| RejectedView { id: r.endpoint.id.clone(), address: r.address, reason: r.to_string() });
    let faults = resolved.vip_faults.iter().map(|(vip, fault)| RejectedView {
        id: String::new(),
        address: Some(*vip),
        reason: fault.to_string(),
    });
    ServiceView {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        vip: service.vip(),
        vips: service.vips.clone(),
        ports: service.ports.clone(),
        backends: backends.collect(),
        selector: service.selector.clone(),
        dns_name: snapshot.path_of(name).dns_name(),
        rejected: rejected.chain(faults).collect(),
        expressions: service.expressions.clone(),
        external_name: service.external_name.clone(),
        labels: service.labels.clone(),
        allow_hosts: service.allow_hosts,
        network: service.network.clone(),
        algorithm: service.algorithm,
        affinity: service.affinity,
        prefer: service.prefer,
        panic: service.panic,
        check: service.check.clone(),
        passive: service.passive,
        panicking: resolved.panicking,
        ready: resolved.members.iter().filter(|m| m.in_use).count(),
        total: resolved.members.len(),
        conflicts: conflicts(snapshot, name, resolved),
        not_applied: service.not_applied(),
        revision: at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::query::Query;

    #[test]
    fn pages_of_services_leave_none_out_where_one_namespace_begins_with_anothers_name() {
        let names = ["default/a", "prod/a", "prod/b", "prod-eu/a", "prod-eu/b", "prod1/a"];
        let names: std::collections::BTreeSet<ServiceName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let (mut seen, mut query) = (Vec::new(), "limit=1".to_owned());
        while seen.len() <= names.len() {
            let part = Part::of(&Query::parse(&query, &["limit", "continue"]).unwrap()).unwrap();
            let (page, next) = part.take(names.iter().map(|name| (place_of(name), name.clone())));
            seen.extend(page);
            let Some(next) = next else { break };
            query = format!("limit=1&continue={next}");
        }
        assert_eq!(seen, names.into_iter().collect::<Vec<_>>());
    }
}
