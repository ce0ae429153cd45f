//! Fills the maps: each row that is not as it should be, in an order in which no packet is lost on the way.
//!
//! A row that is refused (a map that is full, or frozen by somebody) is of one peer or one container, and is that one's trouble
//! only. What makes a network ours is another matter: from then on the programs drop what they do not know, so those rows are
//! written when all before them are, and without them nothing is attached.

use std::collections::{BTreeMap, BTreeSet};

use tracing::debug;
use weft_abi::VtepKey;
use weft_agent::kernel::bpf::{BpfError, Datapath};
use weft_model::endpoint::EndpointState;
use weft_model::ids::NetworkName;
use weft_plan::{Host, maps};
use weft_proxy::context::Reason;
use weft_proxy::{Ids, Limits, Services};

use super::{Fast, Outcome, Shadow, numbers, put_map, put_service, read_maps, read_services};
use crate::view::chain;

/// The services that are named when checks are not believed, or addresses are shared; of more only the number is said.
const MAX_NAMED: usize = 10;

/// What the rows of services were made of, apart from the services themselves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Served {
    numbers: BTreeMap<NetworkName, u32>,
    unprogrammed: Vec<String>,
}

/// Rows that were refused.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Whether any was.
    pub any: bool,
    /// Attachments that lack the row of an address: a program at their device would drop all that they send.
    pub without_endpoint: BTreeSet<String>,
}

impl Fast {
    /// Makes the maps' rows as they should be, as far as the kernel lets it.
    ///
    /// # Errors
    /// One of those without which no program may run.
    pub(super) fn fill_maps(&mut self, host: &Host, wanted: &maps::Rows, outcome: &mut Outcome) -> Result<Refused, BpfError> {
        let mut refused = Refused::default();
        let Some(datapath) = self.open.as_mut() else { return Ok(refused) };
        // A row more or less would not be seen any more once they are counted anew.
        let mut shadow = match self.shadow.take().filter(|_| datapath.maps().have_as_many_rows()) {
            Some(shadow) => shadow,
            None => Shadow { maps: read_maps(datapath)?, services: read_services(datapath)?, served: None },
        };
        let mut first = None;
        for action in maps::diff(wanted, &shadow.maps) {
            debug!(%action, "datapath");
            if is_base(&action)
                && let Some(e) = first.take()
            {
                return Err(e);
            }
            match put_map(datapath, &action) {
                Ok(()) => outcome.done += 1,
                Err(e) if is_base(&action) => {
                    outcome.failed += 1;
                    return Err(e);
                }
                Err(e) => {
                    outcome.failed += 1;
                    refused.note(&action, host, &e, outcome);
                    first = first.or(Some(e));
                }
            }
        }
        shadow.maps.clone_from(wanted);

        let ids = self.ids.get_or_insert_with(|| Ids::seeded(&shadow.services));
        let served = fill_services(datapath, self.resolver.services(), numbers(host), &mut shadow, ids, outcome);
        if let Err(e) = &served {
            outcome.failed += 1;
            outcome.problems.push(format!("datapath: {}", chain(e)));
        }
        if let Some(e) = &first {
            outcome.problems.push(format!("datapath: {}", chain(e)));
        }
        refused.any = first.is_some() || served.is_err();
        // What was refused is not there, so all is read again before it is tried again.
        if !refused.any {
            self.shadow = Some(shadow);
        }
        datapath.maps_mut().settle();
        Ok(refused)
    }
}

/// Services, in the order in which no reader meets a hole; that order ends with the first row that is refused.
fn fill_services(
    datapath: &mut Datapath,
    services: &Services,
    numbers: BTreeMap<NetworkName, u32>,
    shadow: &mut Shadow,
    ids: &mut Ids,
    outcome: &mut Outcome,
) -> Result<(), BpfError> {
    if let Some(served) = shadow.served.as_ref().filter(|served| served.numbers == numbers) {
        outcome.problems.extend(served.unprogrammed.iter().cloned());
        return Ok(());
    }
    shadow.served = None;
    let desired = weft_proxy::desired(&weft_proxy::wanted(services, &numbers), &shadow.services, ids, &Limits::default());
    let unprogrammed: Vec<String> = desired.unprogrammed.iter().map(ToString::to_string).collect();
    outcome.problems.extend(unprogrammed.iter().cloned());
    for action in weft_proxy::diff(&desired.rows, &shadow.services) {
        debug!(%action, "datapath");
        put_service(datapath, &action)?;
        shadow.services.apply(&action);
        outcome.done += 1;
    }
    shadow.served = Some(Served { numbers, unprogrammed });
    Ok(())
}

/// A sentence for each service whose checks are not believed.
pub(super) fn panicking(services: &Services) -> Vec<String> {
    let all: Vec<String> = services
        .iter()
        .filter(|(_, resolved)| resolved.panicking)
        .map(|(name, resolved)| {
            let healthy = resolved.members.iter().filter(|m| m.endpoint.state == EndpointState::Up).count();
            let of = healthy + resolved.members.iter().filter(|m| m.endpoint.unhealthy).count();
            format!(
                "service {name}: {healthy} of {of} endpoints are healthy, too few to do without the others: all of them are used"
            )
        })
        .collect();
    let more = all.len().saturating_sub(MAX_NAMED);
    let more = (more > 0).then(|| format!("{more} more services use endpoints that their checks call down"));
    all.into_iter().take(MAX_NAMED).chain(more).collect()
}

/// A sentence for each service of which endpoints share an address and port.
pub(super) fn sharing(services: &Services) -> Vec<String> {
    let all: Vec<String> = services
        .iter()
        .filter_map(|(name, resolved)| {
            let first = resolved.rejected.iter().find(|r| matches!(r.reason, Reason::SameAddress(..)))?;
            Some(format!("service {name}: endpoint {}: {}; netctl service show {name}", first.endpoint.id, first.reason))
        })
        .collect();
    let more = all.len().saturating_sub(MAX_NAMED);
    let more = (more > 0).then(|| format!("{more} more services have endpoints that share an address and port"));
    all.into_iter().take(MAX_NAMED).chain(more).collect()
}

/// Whether it makes a network ours, or no longer ours.
fn is_base(action: &maps::Action) -> bool {
    use maps::Action;
    match action {
        Action::PutVtep(key, _) => *key == VtepKey::own(key.vni),
        Action::PutConfig(_) | Action::PutNetwork(..) | Action::PutRange(..) => true,
        Action::DeleteNetwork(_) | Action::DeleteRange(_) => true,
        _ => false,
    }
}

impl Refused {
    /// Tells the attachment that a row is of, if it is of one.
    fn note(&mut self, action: &maps::Action, host: &Host, error: &BpfError, outcome: &mut Outcome) {
        use maps::Action;
        let is_of = |a: &&weft_plan::Attachment| match action {
            Action::PutEndpoint(address, _) => *address == a.address.into(),
            Action::PutEndpoint6(address, _) => a.address6.is_some_and(|address6| *address == address6.into()),
            Action::PutNetns(cookie, _) => *cookie == a.netns_cookie,
            _ => false,
        };
        let lacking: BTreeMap<String, String> =
            host.attachments.iter().filter(is_of).map(|a| (a.id.clone(), chain(error))).collect();
        if !matches!(action, Action::PutNetns(..)) {
            self.without_endpoint.extend(lacking.keys().cloned());
        }
        outcome.unattached.extend(lacking);
    }
}
