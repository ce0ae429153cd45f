//! Services and their virtual IPs: a definition and the addresses that it has are written together, or not at all.

use std::net::IpAddr;

use weft_model::ids::{Namespace, Revision, ServiceName};
use weft_model::service::{Service, VipOwner};

use super::{Registry, unchanged};
use crate::{Compare, Op, Outcome, StoreError};

/// A service to write.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePut {
    /// Its name.
    pub name: ServiceName,
    /// All of it.
    pub service: Service,
    /// When the definition that it replaces was written; none is "there is none".
    pub over: Option<Revision>,
    /// When the cluster's settings were written that its addresses were chosen by; none is "there are none".
    pub settings: Option<Revision>,
    /// Of its virtual IPs those that it has already, and when that was written. The others nobody has.
    pub kept: Vec<(IpAddr, Revision)>,
    /// Virtual IPs that it gives back, and when it was written that it has them.
    pub released: Vec<(IpAddr, Revision)>,
}

impl ServicePut {
    /// A service that is new, so that all its virtual IPs are.
    #[must_use]
    pub fn new(name: ServiceName, service: Service, settings: Option<Revision>) -> Self {
        Self { name, service, over: None, settings, kept: Vec::new(), released: Vec::new() }
    }
}

impl Registry {
    /// Writes a service, takes the virtual IPs that are new to it, and gives back what it has no more. Refused if anything is
    /// not as it was read: the definition, the settings, an address that it has, or that was to be free. A new one is refused
    /// too if its namespace is not declared, or (in the default namespace) one of its name is.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write_service(&self, put: &ServicePut) -> Result<Outcome, StoreError> {
        let ServicePut { name, service, .. } = put;
        let key = self.layout.service(name).into_bytes();
        let mut when = vec![unchanged(&key, put.over), unchanged(self.layout.cluster_config().as_bytes(), put.settings)];
        if put.over.is_none() {
            when.extend(self.has_place(name));
        }
        let mut then = vec![Op::Put { key, value: service.to_json().into_bytes(), lease: None }];
        // Only maps with other than string keys can fail here.
        let owner = serde_json::to_vec(&VipOwner { service: name.clone() }).unwrap_or_default();
        for vip in &service.vips {
            let key = self.layout.vip(*vip).into_bytes();
            match put.kept.iter().find(|(kept, _)| kept == vip) {
                Some((_, at)) => when.push(Compare::ModifiedAt(key, *at)),
                None => {
                    when.push(Compare::Absent(key.clone()));
                    then.push(Op::Put { key, value: owner.clone(), lease: None });
                }
            }
        }
        for (vip, at) in put.released.iter().filter(|(vip, _)| !service.vips.contains(vip)) {
            let key = self.layout.vip(*vip).into_bytes();
            when.push(Compare::ModifiedAt(key.clone(), *at));
            then.push(Op::Delete(key));
        }
        self.write(when, then).await
    }

    /// What must hold for a service of this name to be there.
    fn has_place(&self, name: &ServiceName) -> Option<Compare> {
        if !name.namespace.is_default() {
            return Some(Compare::Present(self.layout.namespace(&name.namespace).into_bytes()));
        }
        let namesake = name.name.as_str().parse::<Namespace>().ok()?;
        Some(Compare::Absent(self.layout.namespace(&namesake).into_bytes()))
    }

    /// Creates a service together with its virtual IPs, which nobody has: [`Registry::write_service`] of one that is new.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn create_service(
        &self,
        name: &ServiceName,
        service: &Service,
        settings: Option<Revision>,
    ) -> Result<Outcome, StoreError> {
        self.write_service(&ServicePut::new(name.clone(), service.clone(), settings)).await
    }

    /// Removes a service read at `at`, and gives its virtual IPs back.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove_service(&self, name: &ServiceName, at: Revision, vips: &[IpAddr]) -> Result<Outcome, StoreError> {
        let key = self.layout.service(name).into_bytes();
        let when = vec![Compare::ModifiedAt(key.clone(), at)];
        let then = vips.iter().map(|vip| Op::Delete(self.layout.vip(*vip).into_bytes())).chain([Op::Delete(key)]).collect();
        self.write(when, then).await
    }
}
