//! etcd: the conformance suite on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may assume")]

mod conformance;
mod server;
mod support;

use std::sync::Arc;

use weft_store::Store;
use weft_store::etcd::EtcdStore;

use crate::conformance::{Bench, conformance};
use crate::server::EtcdServer;

struct Etcd {
    server: EtcdServer,
    store: Arc<EtcdStore>,
}

impl Etcd {
    async fn new() -> Self {
        let server = EtcdServer::start();
        let store = Arc::new(server.store().await);
        Self { server, store }
    }
}

#[async_trait::async_trait]
impl Bench for Etcd {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn forget_history(&self) {
        let (revision, _) = self.store.get(b"/").await.unwrap();
        self.server.etcdctl(&["compact", &revision.to_string()]);
    }
}

conformance!(Etcd::new().await);
