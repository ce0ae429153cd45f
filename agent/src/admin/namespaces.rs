//! Namespaces: declared before something is put into them, and taken back when nothing is left in them.

use weft_api::NamespaceView;
use weft_model::ids::{Namespace, Revision, ServiceName};
use weft_model::snapshot::Snapshot;
use weft_store::Outcome;

use super::Admin;
use super::answer::{Listed, Tagged};
use super::filter::Part;
use super::precondition::Write;
use crate::refusal::Refusal;

/// How often a write is decided again because somebody was faster.
const TRIES: usize = 8;

impl Admin {
    pub(super) fn namespaces(&self, part: &Part) -> Result<Listed<NamespaceView>, Refusal> {
        let snapshot = self.snapshot()?;
        let mut names: Vec<Namespace> = snapshot.namespaces().cloned().chain([Namespace::default_namespace()]).collect();
        names.sort_unstable();
        names.dedup();
        let (names, next) = part.take(names.into_iter().map(|name| (name.to_string(), name)));
        let items = names.iter().map(|name| view(&snapshot, name)).collect();
        Ok(Listed { items, revision: snapshot.revision(), next })
    }

    pub(super) fn namespace(&self, name: &str) -> Result<Tagged<NamespaceView>, Refusal> {
        let snapshot = self.snapshot()?;
        let name = parse(name)?;
        if !snapshot.has_namespace(&name) {
            return Err(unknown(&name));
        }
        let view = view(&snapshot, &name);
        let revision = view.revision;
        Ok(Tagged(view, revision))
    }

    pub(super) async fn namespace_put(&self, name: &str, write: Write) -> Result<Tagged<NamespaceView>, Refusal> {
        let name = parse(name)?;
        let what = format!("namespace create {name}");
        self.catch_up(write).await;
        for _ in 0..TRIES {
            let snapshot = self.snapshot()?;
            let there = if name.is_default() { Some(Revision::default()) } else { snapshot.namespace_declared(&name) };
            write.check(&what, there)?;
            if there.is_none() {
                unambiguous(&snapshot, &name)?;
            }
            let as_it_is = || {
                let view = view(&snapshot, &name);
                let revision = view.revision;
                Tagged(view, revision)
            };
            if write.dry_run || name.is_default() {
                return Ok(as_it_is());
            }
            let written = match there {
                // This agent may be behind: the store says whether it is so.
                Some(at) => self.registry.stand([(snapshot.layout().namespace(&name), at)]).await,
                None => self.registry.create_namespace(&name).await,
            };
            match written.map_err(|e| Refusal::store(&what, &e))? {
                Outcome::Done(_) if there.is_some() => return Ok(as_it_is()),
                Outcome::Done(revision) => {
                    self.echo(revision).await;
                    let view = NamespaceView { revision, ..view(&*self.snapshot()?, &name) };
                    return Ok(Tagged(view, revision));
                }
                Outcome::Refused(revision) => self.echo(revision).await,
            }
        }
        Err(Refusal::conflict(format!("{what}: somebody else keeps changing it; try again")))
    }

    pub(super) async fn namespace_rm(&self, name: &str, write: Write) -> Result<NamespaceView, Refusal> {
        let name = parse(name)?;
        let what = format!("namespace rm {name}");
        if name.is_default() {
            return Err(Refusal::conflict(format!("{what}: it is always there")));
        }
        self.catch_up(write).await;
        for _ in 0..TRIES {
            let snapshot = self.snapshot()?;
            let there = snapshot.namespace_declared(&name);
            write.check(&what, there)?;
            let at = there.ok_or_else(|| unknown(&name))?;
            let view = view(&snapshot, &name);
            empty(&what, &view)?;
            if write.dry_run {
                return Ok(view);
            }
            match self.registry.remove_namespace(&name, at).await.map_err(|e| Refusal::store(&what, &e))? {
                Outcome::Done(revision) => {
                    self.echo(revision).await;
                    self.take_back(&what, &name, &view).await?;
                    return Ok(view);
                }
                Outcome::Refused(revision) => self.echo(revision).await,
            }
        }
        Err(Refusal::conflict(format!("{what}: somebody else keeps changing it; try again")))
    }

    /// No transaction can ask whether anything is below a prefix: what was put into the namespace while it was being removed
    /// gets it back.
    async fn take_back(&self, what: &str, name: &Namespace, before: &NamespaceView) -> Result<(), Refusal> {
        let snapshot = self.snapshot()?;
        // Not declared, it has no endpoints of its own: what is below its name counts as a service's of the default one.
        let services = snapshot.services().filter(|(service, _)| service.namespace == *name).count();
        let endpoints = namesake(name).map_or(0, |service| snapshot.endpoints_below(&snapshot.path_of(&service)).count());
        if services + endpoints == 0 {
            return Ok(());
        }
        if let Outcome::Done(revision) = self.registry.create_namespace(name).await.map_err(|e| Refusal::store(what, &e))? {
            self.echo(revision).await;
        }
        empty(what, &NamespaceView { services, endpoints, ..before.clone() })
    }
}

fn parse(name: &str) -> Result<Namespace, Refusal> {
    name.parse().map_err(|e: weft_model::ids::BadId| Refusal::invalid(e.to_string()))
}

fn unknown(name: &Namespace) -> Refusal {
    Refusal::not_found(format!("there is no namespace {name}; netctl namespace list shows those there are"))
}

/// The service of the default namespace that would bear a namespace's name, if one may.
fn namesake(name: &Namespace) -> Option<ServiceName> {
    let name = name.as_str().parse().ok()?;
    Some(ServiceName { namespace: Namespace::default_namespace(), name })
}

/// Refuses a name that stands for something already: it would mean something else from now on.
fn unambiguous(snapshot: &Snapshot, name: &Namespace) -> Result<(), Refusal> {
    let Some(service) = namesake(name) else {
        return Err(Refusal::invalid(format!("namespace create {name}: the name is reserved")));
    };
    if snapshot.service(&service).is_some() {
        return Err(Refusal::conflict(format!(
            "namespace create {name}: {service} is a service, so it cannot be a namespace; netctl service rm {name} first"
        )));
    }
    let path = snapshot.path_of(&service);
    if let Some(endpoint) = snapshot.endpoints_below(&path).next() {
        return Err(Refusal::conflict(format!(
            "namespace create {name}: {} is an endpoint already, and would be one of another service; netctl endpoint list --service {name}",
            endpoint.path.dns_name()
        )));
    }
    Ok(())
}

fn empty(what: &str, view: &NamespaceView) -> Result<(), Refusal> {
    if view.services + view.endpoints == 0 {
        return Ok(());
    }
    let name = &view.namespace;
    Err(Refusal::conflict(format!(
        "{what}: services in it: {}, endpoints: {}; netctl service list --namespace {name} and netctl endpoint list --namespace {name} show them",
        view.services, view.endpoints
    )))
}

fn view(snapshot: &Snapshot, name: &Namespace) -> NamespaceView {
    let of_namespace = |path| snapshot.service_at(path).is_some_and(|service| service.namespace == *name);
    let below = namesake(name).filter(|_| !name.is_default() && snapshot.has_namespace(name)).map(|s| snapshot.path_of(&s));
    NamespaceView {
        namespace: name.clone(),
        services: snapshot.services().filter(|(service, _)| service.namespace == *name).count(),
        endpoints: match below {
            Some(below) => snapshot.endpoints_below(&below).filter(|e| of_namespace(&e.path)).count(),
            None if name.is_default() => snapshot.endpoints().filter(|e| of_namespace(&e.path)).count(),
            None => 0,
        },
        revision: snapshot.namespace_declared(name).unwrap_or_default(),
    }
}
