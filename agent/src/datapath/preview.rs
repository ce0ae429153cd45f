//! What [`Fast::sync`] would change now: maps and links are read back as the kernel has them, and nothing is written.

use std::collections::BTreeMap;

use weft_abi::FrontendKey;
use weft_agent::kernel::bpf::BpfError;
use weft_model::ids::ServiceName;
use weft_model::snapshot::Snapshot;
use weft_plan::{Host, maps};
use weft_proxy::{Context, Ids, Limits, rows};

use super::{Fast, LinkStep, read_maps, read_services};

/// What would be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows that follow from leases and attachments.
    pub rows: Vec<maps::Action>,
    /// Rows that follow from services, and the service, where it is known.
    pub services: Vec<(rows::Action, Option<ServiceName>)>,
    /// What programs would be attached to.
    pub links: Vec<LinkStep>,
}

impl Fast {
    /// What [`Fast::sync`] with the same arguments would do. Nothing, as long as no programs are loaded.
    ///
    /// # Errors
    /// When maps or links cannot be read.
    pub fn preview(&self, snapshot: &Snapshot, host: &Host, wanted: &maps::Rows) -> Result<Changes, BpfError> {
        let Some(datapath) = &self.open else { return Ok(Changes::default()) };
        let rows = maps::diff(wanted, &read_maps(datapath)?);
        let there = read_services(datapath)?;
        // A copy: ids that are only looked at are not given.
        let mut ids = self.ids.clone().unwrap_or_else(|| Ids::seeded(&there));
        let services = weft_proxy::resolve(snapshot, &Context::of(snapshot).with_quarantine(self.quarantine().clone()));
        let wanted = weft_proxy::wanted(&services, &super::numbers(host));
        let desired = weft_proxy::desired(&wanted, &there, &mut ids, &Limits::default());
        let owner = |frontend: &FrontendKey| wanted.frontends.get(frontend).map(|list| list.service.clone());
        let owners = Owners::of(&desired.rows, &there, owner);
        let services =
            weft_proxy::diff(&desired.rows, &there).into_iter().map(|action| (action, owners.of_action(&action))).collect();
        let links = datapath.links()?.into_iter().map(|l| (l.name.clone(), l)).collect();
        Ok(Changes { rows, services, links: self.link_steps(host, &links) })
    }
}

/// Whose the rows of services are.
#[derive(Default)]
struct Owners {
    frontends: BTreeMap<FrontendKey, ServiceName>,
    lists: BTreeMap<u32, ServiceName>,
    backends: BTreeMap<u32, ServiceName>,
}

impl Owners {
    /// Of rows as they should be and as they are, by whose each frontend is; a backend that several services have is the first's.
    fn of(desired: &rows::Rows, actual: &rows::Rows, owner: impl Fn(&FrontendKey) -> Option<ServiceName>) -> Self {
        let mut owners = Self::default();
        for rows in [desired, actual] {
            for (key, frontend) in &rows.frontends {
                if let Some(service) = owner(key) {
                    owners.frontends.insert(*key, service.clone());
                    owners.lists.entry(frontend.service).or_insert(service);
                }
            }
            for (key, backend) in &rows.slots {
                if let Some(service) = owners.lists.get(&key.service) {
                    owners.backends.entry(*backend).or_insert_with(|| service.clone());
                }
            }
        }
        owners
    }

    fn of_action(&self, action: &rows::Action) -> Option<ServiceName> {
        use rows::Action;
        match action {
            Action::PutFrontend(key, _) | Action::DeleteFrontend(key) => self.frontends.get(key),
            Action::PutSlot(key, _) | Action::DeleteSlot(key) => self.lists.get(&key.service),
            Action::PutBackend(id, _) | Action::DeleteBackend(id) => self.backends.get(id),
        }
        .cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use weft_abi::{Backend, Be16, Frontend, SlotKey};

    use super::*;

    #[test]
    fn each_row_of_a_service_names_it() {
        let key = FrontendKey { vip: Ipv4Addr::new(10, 112, 0, 7).into(), port: Be16::from_native(80), proto: 6, pad: 0 };
        let frontend = Frontend { service: 3, count: 1, network: 1, flags: 0 };
        let backend = Backend { addr: Ipv4Addr::new(10, 244, 3, 2).into(), port: Be16::from_native(8080), proto: 6, pad: 0 };
        let slot = SlotKey { service: 3, index: 0 };
        let wanted =
            rows::Rows { frontends: [(key, frontend)].into(), slots: [(slot, 5)].into(), backends: [(5, backend)].into() };
        let service: ServiceName = "default/myapp".parse().unwrap();
        let owners = Owners::of(&wanted, &rows::Rows::default(), |k| (*k == key).then(|| service.clone()));
        for action in weft_proxy::diff(&wanted, &rows::Rows::default()) {
            assert_eq!(owners.of_action(&action).as_ref(), Some(&service), "{action}");
        }
        assert_eq!(owners.of_action(&rows::Action::DeleteBackend(9)), None);
    }
}
