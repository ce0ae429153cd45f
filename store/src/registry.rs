//! Typed writes: each is one transaction, so that what it promises holds whoever else writes at the same time.
//!
//! Reading is not here: whoever reads looks at a [`Snapshot`](weft_model::snapshot::Snapshot). Every write that depends on
//! what was read compares the revision it was read at.

mod lead;
mod services;

use std::sync::Arc;

use weft_model::cluster::ClusterConfig;
use weft_model::drain::Drain;
use weft_model::ids::{LeaseId, Namespace, NetworkName, NodeName, Revision, ServiceName};
use weft_model::keys::{Layout, Place, RecordPath};
use weft_model::network::NetworkConfig;
use weft_model::node::Node;
use weft_model::record::Record;
use weft_model::reservation::Reservation;
use weft_model::subnet::{Lease, SubnetKey};

use crate::{Compare, Op, Outcome, Store, StoreError, Txn};

pub use services::ServicePut;

/// Typed writes over any store.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Arc<dyn Store>,
    layout: Arc<Layout>,
}

/// A record to write, into the tree that its state belongs to ([`Record::tree`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPut {
    /// Where.
    pub path: RecordPath,
    /// What.
    pub record: Record,
    /// On which lease; none stays until it is deleted.
    pub lease: Option<LeaseId>,
    /// The revision of the record that it replaces; none is "there is none".
    pub over: Option<Revision>,
    /// The revision of the record at the same path of the other tree, which is deleted in the same transaction: this is a move
    /// of it. None is "there is none".
    pub moved: Option<Revision>,
}

/// A subnet to claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetClaim {
    /// The subnet.
    pub key: SubnetKey,
    /// The value.
    pub lease: Lease,
    /// The lease of the store to hang it on.
    pub on: LeaseId,
    /// When the reservation was written by which it is this host's; none is "it is reserved for nobody".
    pub reserved: Option<Revision>,
    /// When the placeholder of that reservation was written; none is "nobody has it".
    pub over: Option<Revision>,
    /// The subnet that is given up for it, and when that was written.
    pub leaving: Option<(SubnetKey, Revision)>,
}

/// What a dead node still has in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRemains {
    /// The node.
    pub node: NodeName,
    /// Its leases, and the revision that each was read at.
    pub leases: Vec<(SubnetKey, Revision)>,
    /// The records that name it, and the revision that each was read at.
    pub records: Vec<(Place, Revision)>,
}

/// Keys in one transaction; etcd takes 128 operations by default, and as many comparisons.
const OPS_PER_TXN: usize = 100;

impl RecordPut {
    /// Where it is written.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { path: self.path.clone(), tree: self.record.tree() }
    }
}

/// What must hold, and what is done then; not torn apart.
type Step = (Vec<Compare>, Vec<Op>);

impl Registry {
    /// Writes to `store`, laid out as `layout`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, layout: Arc<Layout>) -> Self {
        Self { store, layout }
    }

    /// The same writes for another network: its subnets are meant wherever those of a network are.
    #[must_use]
    pub fn in_network(&self, name: &NetworkName) -> Self {
        Self { store: self.store.clone(), layout: Arc::new(self.layout.in_network(name)) }
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The layout it writes by.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    async fn write(&self, when: Vec<Compare>, then: Vec<Op>) -> Result<Outcome, StoreError> {
        self.store.transact(Txn { when, then }).await
    }

    /// Whether keys still stand as they were read, each at the revision beside it: asked of the store itself, which writes
    /// nothing. At most [`MAX_OPS`](crate::MAX_OPS) of them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn stand(&self, keys: impl IntoIterator<Item = (String, Revision)>) -> Result<Outcome, StoreError> {
        let when = keys.into_iter().map(|(key, at)| Compare::ModifiedAt(key.into_bytes(), at)).collect();
        self.write(when, Vec::new()).await
    }

    /// Writes the network's configuration: where there is none, or over whatever is there with `replace`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write_network(&self, config: &NetworkConfig, replace: bool) -> Result<Outcome, StoreError> {
        let key = self.layout.network_config().into_bytes();
        let when = if replace { Vec::new() } else { vec![Compare::Absent(key.clone())] };
        self.write(when, vec![Op::Put { key, value: config.to_json().into_bytes(), lease: None }]).await
    }

    /// Writes another text over the network's configuration that was written at `over`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rewrite_network(&self, text: &str, over: Revision) -> Result<Outcome, StoreError> {
        let key = self.layout.network_config().into_bytes();
        let when = vec![Compare::ModifiedAt(key.clone(), over)];
        self.write(when, vec![Op::Put { key, value: text.as_bytes().to_vec(), lease: None }]).await
    }

    /// Makes a network of a name that nobody has.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn create_network(&self, name: &NetworkName, config: &NetworkConfig) -> Result<Outcome, StoreError> {
        let key = self.layout.in_network(name).network_config().into_bytes();
        self.write(vec![Compare::Absent(key.clone())], vec![Op::Put { key, value: config.to_json().into_bytes(), lease: None }])
            .await
    }

    /// Removes a network that was written at `at`, and what hosts have in it. Of more than a hundred hosts the leases beyond
    /// end by themselves.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove_network(&self, name: &NetworkName, at: Revision, leases: &[SubnetKey]) -> Result<Outcome, StoreError> {
        let layout = self.layout.in_network(name);
        let key = layout.network_config().into_bytes();
        let leases = leases.iter().take(OPS_PER_TXN).map(|lease| Op::Delete(layout.subnet(lease).into_bytes()));
        self.write(vec![Compare::ModifiedAt(key.clone(), at)], std::iter::once(Op::Delete(key)).chain(leases).collect()).await
    }

    /// Writes the cluster's settings: where there are none, or over those written at `over`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write_cluster(&self, config: &ClusterConfig, over: Option<Revision>) -> Result<Outcome, StoreError> {
        let key = self.layout.cluster_config().into_bytes();
        // Only maps with other than string keys can fail here.
        let value = serde_json::to_vec(config).unwrap_or_default();
        let when = vec![unchanged(&key, over)];
        self.write(when, vec![Op::Put { key, value, lease: None }]).await
    }

    /// Claims a subnet that nobody has under any key that it may stand under, or rewrites the own lease read at `over`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write_lease(
        &self,
        subnet: &SubnetKey,
        lease: &Lease,
        over: Option<Revision>,
        on: Option<LeaseId>,
    ) -> Result<Outcome, StoreError> {
        let key = self.layout.subnet(subnet).into_bytes();
        let mut when = vec![unchanged(&key, over)];
        if over.is_none() {
            when.extend(subnet.rivals().iter().map(|rival| Compare::Absent(self.layout.subnet(rival).into_bytes())));
        }
        self.write(when, vec![Op::Put { key, value: lease.to_json().into_bytes(), lease: on }]).await
    }

    /// Claims a subnet of the default network, unless somebody has been given or promised it since it was chosen.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn claim_subnet(&self, claim: &SubnetClaim) -> Result<Outcome, StoreError> {
        let reservation = self.layout.reservation(&NetworkName::default_network(), claim.key.subnet);
        let mut when = vec![unchanged(reservation.as_bytes(), claim.reserved)];
        // A network may be removed, and nothing of it comes afterwards.
        when.push(Compare::Present(self.layout.network_config().into_bytes()));
        // A placeholder has a key without IPv6, whatever the claim's.
        let placeholder = claim.over.map(|at| (SubnetKey::v4(claim.key.subnet), at));
        let gone: Vec<(SubnetKey, Revision)> = placeholder.into_iter().chain(claim.leaving).collect();
        let (compares, mut then) = self.take_place(&claim.key, &gone);
        when.extend(compares);
        let key = self.layout.subnet(&claim.key).into_bytes();
        then.push(Op::Put { key, value: claim.lease.to_json().into_bytes(), lease: Some(claim.on) });
        self.write(when, then).await
    }

    /// Writes the own lease, read at the revision beside its key, under another key of the same IPv4 subnet, which nobody
    /// has under any key that it may stand under. The old key goes in the same transaction.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rename_lease(
        &self,
        (from, at): (&SubnetKey, Revision),
        to: &SubnetKey,
        lease: &Lease,
        on: Option<LeaseId>,
    ) -> Result<Outcome, StoreError> {
        let (when, mut then) = self.take_place(to, &[(*from, at)]);
        let key = self.layout.subnet(to).into_bytes();
        then.push(Op::Put { key, value: lease.to_json().into_bytes(), lease: on });
        self.write(when, then).await
    }

    /// What must hold for `key` to be claimed, and the deletions that go with it, where the keys of `gone`, as they were
    /// read, make place for it: no other that the same subnet may stand under is there. Keys are compared as they are in the
    /// store: in a further network both trees are one.
    fn take_place(&self, key: &SubnetKey, gone: &[(SubnetKey, Revision)]) -> (Vec<Compare>, Vec<Op>) {
        let bytes = |key: &SubnetKey| self.layout.subnet(key).into_bytes();
        let forms: Vec<SubnetKey> = [*key].into_iter().chain(key.rivals()).collect();
        let empty = forms
            .iter()
            .filter(|form| gone.iter().all(|(of, _)| bytes(of) != bytes(form)))
            .map(|form| Compare::Absent(bytes(form)));
        let as_read = gone.iter().map(|(of, at)| Compare::ModifiedAt(bytes(of), *at));
        let deletions = gone.iter().map(|(of, _)| bytes(of)).filter(|of| *of != bytes(key)).map(Op::Delete);
        (empty.chain(as_read).collect(), deletions.collect())
    }

    /// Reserves a subnet of the default network that nobody has reserved. With `held`, its owner has it already, by this
    /// lease as it was written; else nobody has, and a placeholder keeps flannelds off.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn reserve(
        &self,
        subnet: &SubnetKey,
        reservation: &Reservation,
        held: Option<Revision>,
    ) -> Result<Outcome, StoreError> {
        let key = self.layout.reservation(&NetworkName::default_network(), subnet.subnet).into_bytes();
        // Only maps with other than string keys can fail here.
        let value = serde_json::to_vec(reservation).unwrap_or_default();
        let lease = self.layout.subnet(subnet).into_bytes();
        let when = vec![Compare::Absent(key.clone()), unchanged(&lease, held)];
        let mut then = vec![Op::Put { key, value, lease: None }];
        if held.is_none() {
            then.push(Op::Put { key: lease, value: reservation.placeholder().to_json().into_bytes(), lease: None });
        }
        self.write(when, then).await
    }

    /// Puts the placeholder of a reservation, written at `at`, where there is no lease.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_placeholder(&self, subnet: &SubnetKey, of: &Reservation, at: Revision) -> Result<Outcome, StoreError> {
        let key = self.layout.subnet(subnet).into_bytes();
        let reservation = self.layout.reservation(&NetworkName::default_network(), subnet.subnet).into_bytes();
        let when = vec![Compare::Absent(key.clone()), Compare::ModifiedAt(reservation, at)];
        self.write(when, vec![Op::Put { key, value: of.placeholder().to_json().into_bytes(), lease: None }]).await
    }

    /// Takes a placeholder away that was written at `at`, while `held` is there, by which somebody has its subnet.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove_placeholder(
        &self,
        placeholder: &SubnetKey,
        at: Revision,
        held: &SubnetKey,
    ) -> Result<Outcome, StoreError> {
        let key = self.layout.subnet(placeholder).into_bytes();
        let when = vec![Compare::ModifiedAt(key.clone(), at), Compare::Present(self.layout.subnet(held).into_bytes())];
        self.write(when, vec![Op::Delete(key)]).await
    }

    /// Takes a reservation back that was written at `at`, and its placeholder, written at the revision beside it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn unreserve(
        &self,
        subnet: &SubnetKey,
        at: Revision,
        placeholder: Option<(&SubnetKey, Revision)>,
    ) -> Result<Outcome, StoreError> {
        let key = self.layout.reservation(&NetworkName::default_network(), subnet.subnet).into_bytes();
        let mut when = vec![Compare::ModifiedAt(key.clone(), at)];
        let mut then = vec![Op::Delete(key)];
        if let Some((lease, at)) = placeholder {
            let lease = self.layout.subnet(lease).into_bytes();
            when.push(Compare::ModifiedAt(lease.clone(), at));
            then.push(Op::Delete(lease));
        }
        self.write(when, then).await
    }

    /// Announces a node whose name nobody has, or rewrites the entry read at `over`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write_node(&self, node: &Node, over: Option<Revision>, on: LeaseId) -> Result<Outcome, StoreError> {
        let key = self.layout.node(&node.node).into_bytes();
        // Only maps with other than string keys can fail here.
        let value = serde_json::to_vec(node).unwrap_or_default();
        let when = vec![unchanged(&key, over)];
        self.write(when, vec![Op::Put { key, value, lease: Some(on) }]).await
    }

    /// Removes what a dead node left: its leases and the records that name it, each as it was read. Refused as soon as the
    /// node has an entry, or somebody has changed one of them.
    ///
    /// # Errors
    /// Those of the store. What was removed before stays removed; asking again removes the rest.
    pub async fn remove_node(&self, remains: &NodeRemains) -> Result<Outcome, StoreError> {
        let dead = Compare::Absent(self.layout.node(&remains.node).into_bytes());
        let leases = remains.leases.iter().map(|(subnet, at)| (self.layout.subnet(subnet), *at));
        let records = remains.records.iter().map(|(place, at)| (self.layout.place(place), *at));
        let keys: Vec<(Vec<u8>, Revision)> = leases.chain(records).map(|(key, at)| (key.into_bytes(), at)).collect();
        let mut outcome = Outcome::Done(Revision::default());
        for chunk in keys.chunks(OPS_PER_TXN) {
            let as_read = chunk.iter().map(|(key, at)| Compare::ModifiedAt(key.clone(), *at));
            let when = [dead.clone()].into_iter().chain(as_read).collect();
            outcome = self.write(when, chunk.iter().map(|(key, _)| Op::Delete(key.clone())).collect()).await?;
            if matches!(outcome, Outcome::Refused(_)) {
                break;
            }
        }
        Ok(outcome)
    }

    /// Writes and deletes records, each as it was read: one written over the revision it names, one deleted as it was at the
    /// revision beside it. In as few transactions as the store allows; an endpoint's parts stay together when they follow
    /// each other. With `while_node`, only while that node's entry stands as it was written at the revision: a record on a
    /// liveness lease is worth nothing without it.
    ///
    /// Refused if any transaction was: whoever writes looks again. What the others wrote stays written.
    ///
    /// # Errors
    /// Those of the store. What was written before stays written.
    pub async fn write_records(
        &self,
        puts: &[RecordPut],
        deletes: &[(Place, Revision)],
        while_node: Option<(&NodeName, Revision)>,
    ) -> Result<Outcome, StoreError> {
        let deletes = deletes.iter().map(|(place, at)| {
            let key = self.layout.place(place).into_bytes();
            (vec![Compare::ModifiedAt(key.clone(), *at)], vec![Op::Delete(key)])
        });
        let puts = puts.iter().map(|put| {
            let place = put.place();
            let (key, other) = (self.layout.place(&place).into_bytes(), self.layout.place(&place.opposite()).into_bytes());
            let when = vec![unchanged(&key, put.over), unchanged(&other, put.moved)];
            let moved = put.moved.map(|_| Op::Delete(other));
            let then = Op::Put { key, value: put.record.to_json().into_bytes(), lease: put.lease };
            (when, moved.into_iter().chain([then]).collect())
        });
        let steps: Vec<Step> = deletes.chain(puts).collect();
        let beside = while_node.map(|(node, at)| Compare::ModifiedAt(self.layout.node(node).into_bytes(), at));
        let mut reached = Revision::default();
        let mut refused = false;
        for chunk in steps.chunks(OPS_PER_TXN / 2) {
            let (when, then): (Vec<Vec<Compare>>, Vec<Vec<Op>>) = chunk.iter().cloned().unzip();
            let (when, then): (Vec<Compare>, Vec<Op>) = (when.concat(), then.concat());
            match self.write(beside.iter().cloned().chain(when).collect(), then).await? {
                Outcome::Done(revision) => reached = reached.max(revision),
                Outcome::Refused(revision) => {
                    reached = reached.max(revision);
                    refused = true;
                }
            }
        }
        Ok(if refused { Outcome::Refused(reached) } else { Outcome::Done(reached) })
    }

    /// Writes a record as [`RecordPut::over`] says.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write_record(&self, put: &RecordPut) -> Result<Outcome, StoreError> {
        self.write_records(std::slice::from_ref(put), &[], None).await
    }

    /// Wishes that a host be drained, unless it is wished already, or otherwise than was read: `over` is the revision of the wish
    /// that this one replaces.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn drain_node(&self, node: &NodeName, drain: &Drain, over: Option<Revision>) -> Result<Outcome, StoreError> {
        self.write_drain(self.layout.drain_node(node), drain, over).await
    }

    /// Wishes that an endpoint be drained, by its own path, likewise.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn drain_endpoint(&self, path: &RecordPath, drain: &Drain, over: Option<Revision>) -> Result<Outcome, StoreError> {
        self.write_drain(self.layout.drain_endpoint(path), drain, over).await
    }

    async fn write_drain(&self, key: String, drain: &Drain, over: Option<Revision>) -> Result<Outcome, StoreError> {
        let key = key.into_bytes();
        let when = vec![match over {
            None => Compare::Absent(key.clone()),
            Some(revision) => Compare::ModifiedAt(key.clone(), revision),
        }];
        self.write(when, vec![Op::Put { key, value: drain.to_json().into_bytes(), lease: None }]).await
    }

    /// Takes the wish back that a host be drained.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn undrain_node(&self, node: &NodeName) -> Result<Outcome, StoreError> {
        self.write(Vec::new(), vec![Op::Delete(self.layout.drain_node(node).into_bytes())]).await
    }

    /// Takes the wish back that an endpoint be drained, by its own path.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn undrain_endpoint(&self, path: &RecordPath) -> Result<Outcome, StoreError> {
        self.write(Vec::new(), vec![Op::Delete(self.layout.drain_endpoint(path).into_bytes())]).await
    }

    /// Declares a namespace, unless it is there or the default one has a service of its name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn create_namespace(&self, name: &Namespace) -> Result<Outcome, StoreError> {
        let key = self.layout.namespace(name).into_bytes();
        let mut when = vec![Compare::Absent(key.clone())];
        if let Ok(namesake) = name.as_str().parse() {
            let namesake = ServiceName { namespace: Namespace::default_namespace(), name: namesake };
            when.push(Compare::Absent(self.layout.service(&namesake).into_bytes()));
        }
        self.write(when, vec![Op::Put { key, value: b"{}".to_vec(), lease: None }]).await
    }

    /// Takes a namespace back that was declared at `at`. Whether anything is in it must be looked at before and after.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove_namespace(&self, name: &Namespace, at: Revision) -> Result<Outcome, StoreError> {
        let key = self.layout.namespace(name).into_bytes();
        self.write(vec![Compare::ModifiedAt(key.clone(), at)], vec![Op::Delete(key)]).await
    }
}

/// The key stands as it was read: absent, or written at that revision.
fn unchanged(key: &[u8], read_at: Option<Revision>) -> Compare {
    match read_at {
        None => Compare::Absent(key.to_vec()),
        Some(revision) => Compare::ModifiedAt(key.to_vec(), revision),
    }
}
