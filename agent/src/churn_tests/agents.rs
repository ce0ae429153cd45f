//! An agent as a thread: the real session, registrar and registrations, on a state directory that outlives it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use weft_api::{Register, Registered};
use weft_model::ids::NodeName;
use weft_model::keys::Layout;
use weft_store::etcd::EtcdConfig;
use weft_store::registry::Registry;

use super::{TTL, store};
use crate::attach::Published;
use crate::refusal::Refusal;
use crate::registrar::{self, Me};
use crate::registrations::{Registrations, Surroundings};
use crate::session;
use crate::state::{Attachment, StateDir};
use crate::view::{Health, View};

/// What a program asks of its agent.
pub enum Ask {
    /// That it is registered, or stays so.
    Put(String, Box<Register>, oneshot::Sender<Result<Registered, Refusal>>),
    /// That it is no more.
    Delete(String, oneshot::Sender<Result<Registered, Refusal>>),
}

/// Where an agent is asked.
pub type Door = mpsc::UnboundedSender<Ask>;

/// One agent, alive.
pub struct Agent {
    published: watch::Sender<Arc<Published>>,
    done: watch::Receiver<u64>,
    /// The generation whose acknowledgement is awaited.
    awaited: Option<u64>,
    door: Door,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Agent {
    pub fn start(config: EtcdConfig, node: &NodeName, number: usize, view: View, dir: &Path) -> Self {
        let (published, attachments) = watch::channel(Arc::new(Published { generation: 0, by_id: BTreeMap::new() }));
        let (done_tx, done) = watch::channel(0);
        let (kill, killed) = oneshot::channel();
        let (door, asked) = mpsc::unbounded_channel();
        let me = Me {
            node: node.clone(),
            public_ip: Some(Ipv4Addr::new(192, 0, 2, u8::try_from(number + 1).unwrap())),
            public_ipv6: None,
            capabilities: Vec::new(),
            boot: "boot".into(),
            instance: node.to_string(),
            since: "2026-01-01T00:00:00Z".into(),
        };
        let dir = dir.join(node.as_str());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let store = store(&config).await;
                // As an agent that starts: what it finds of its own it goes on with.
                let adopt = view.borrow().as_ref().and_then(|s| s.node(&me.node).and_then(|entry| entry.lease));
                let liveness = session::keep(store.clone(), "liveness", TTL, adopt);
                let registry = Registry::new(store, Arc::new(Layout::default()));
                let state = Arc::new(StateDir::open(&dir.join("state"), &dir.join("run")).unwrap());
                let found = state.registrations().unwrap();
                let (health, kept) = (watch::channel(Health::default()), watch::channel(Some(liveness.clone())));
                let around = Surroundings {
                    view: view.clone(),
                    health: health.1,
                    attached: attachments.clone(),
                    liveness: kept.1,
                    releasing: Arc::default(),
                    node: me.node.clone(),
                };
                let (programs, registrations) = Registrations::new(state, found, around);
                tokio::spawn(programs.clone().expire());
                let (me, reason, verdicts) = (watch::channel(Some(me)), watch::channel(None), watch::channel(Arc::default()));
                let sources = registrar::Sources { attachments, registrations, verdicts: verdicts.1 };
                tokio::select! {
                    () = registrar::run(registry, view, me.1, liveness, sources, done_tx, reason.0) => {}
                    () = answer(programs, asked) => {}
                    _ = killed => {}
                }
            });
            // Here the runtime ends, and in the midst of whatever they do all of its tasks with it.
        });
        Self { published, done, awaited: None, door, kill: Some(kill), thread: Some(thread) }
    }

    pub fn publish(&mut self, wanted: Vec<Attachment>) {
        let generation = self.published.borrow().generation + 1;
        let by_id = wanted.into_iter().map(|attachment| (attachment.id.clone(), attachment)).collect();
        self.published.send_replace(Arc::new(Published { generation, by_id }));
        self.awaited = Some(generation);
    }

    /// Whether all that was published has been acknowledged since this was asked last.
    pub fn acknowledges(&mut self) -> bool {
        let has = self.awaited.is_some_and(|generation| *self.done.borrow() >= generation);
        if has {
            self.awaited = None;
        }
        has
    }

    pub fn is_settled(&self) -> bool {
        self.awaited.is_none()
    }

    pub fn door(&self) -> Door {
        self.door.clone()
    }

    pub fn kill(mut self) {
        drop(self.kill.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// As the socket does: each question by itself.
async fn answer(programs: Arc<Registrations>, mut asked: mpsc::UnboundedReceiver<Ask>) {
    while let Some(ask) = asked.recv().await {
        let programs = programs.clone();
        tokio::spawn(async move {
            // Who asked may have died meanwhile.
            let _ = match ask {
                Ask::Put(id, said, tell) => {
                    tell.send(programs.put(&id, *said, || Err(Refusal::invalid("no address was said"))).await)
                }
                Ask::Delete(id, tell) => tell.send(programs.withdraw(&id).await),
            };
        });
    }
    std::future::pending().await
}

/// Something attached, as a journal of an agent has it.
pub fn attachment(id: &str, service: &str, port: u16, number: usize) -> Attachment {
    let address = Ipv4Addr::new(10, 244, u8::try_from(number).unwrap(), 2);
    serde_json::from_value(serde_json::json!({
        "id": id, "netns": "/run/netns/x", "netns_id": [4, 5], "netns_cookie": 6, "ifname": "eth0", "host_ifname": "weftx",
        "address": address, "mac": "02:02:02:02:02:02", "gateway": "10.244.3.1", "mtu": 1450, "boot": "boot",
        "service": service, "port": port,
    }))
    .unwrap()
}
