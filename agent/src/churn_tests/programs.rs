//! Programs that register themselves with an agent and say so again and again, until they withdraw or are heard no more.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use weft_api::{Code, Register};
use weft_model::ids::NodeName;
use weft_model::keys::{Layout, RecordPath};

use super::agents::{Ask, Door};
use super::book::{Book, Promise};
use super::{lock, random};

/// For how long one is registered that is heard no more.
const TTL: Duration = Duration::from_secs(3);

/// The service that they are all instances of.
const SERVICE: &str = "program";

/// The way to an agent, as long as it lives.
pub type Way = Arc<Mutex<Option<Door>>>;

/// A program, alive.
pub struct Program {
    pub number: usize,
    pub id: String,
    key: String,
    node: NodeName,
    leave: Arc<Notify>,
    task: JoinHandle<()>,
    book: Arc<Mutex<Book>>,
}

impl Program {
    pub fn start(number: usize, node: NodeName, id: String, way: Way, book: Arc<Mutex<Book>>) -> Self {
        let key = Layout::default().record(&RecordPath::from_labels(["local", "skydns", SERVICE, &id, "4"]));
        *lock(&book).wanted.entry(key.clone()).or_default() += 1;
        let leave = Arc::new(Notify::new());
        let voice = Voice { id: id.clone(), key: key.clone(), node: node.clone(), way, book: book.clone() };
        let task = tokio::spawn(voice.speak(leave.clone()));
        Self { number, id, key, node, leave, task, book }
    }

    /// It dies, and nobody is told.
    pub async fn kill(self) {
        self.task.abort();
        // It may have been done already.
        let _ = self.task.await;
        lock(&self.book).ends(&self.key, &self.node);
    }

    /// It withdraws and ends.
    pub async fn withdraw(self) {
        self.leave.notify_one();
        self.task.await.unwrap();
        lock(&self.book).ends(&self.key, &self.node);
    }
}

struct Voice {
    id: String,
    key: String,
    node: NodeName,
    way: Way,
    book: Arc<Mutex<Book>>,
}

impl Voice {
    async fn speak(self, leave: Arc<Notify>) {
        let mut port = 1;
        loop {
            let pause = match self.beat(port).await {
                true => TTL / 3,
                false => Duration::from_millis(300),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = leave.notified() => break,
            }
            if random(20) == 0 {
                port += 1;
            }
        }
        // What is about to be withdrawn is no longer promised.
        lock(&self.book).registered.remove(&self.key);
        let (tell, told) = oneshot::channel();
        if self.ask(Ask::Delete(self.id.clone(), tell))
            && let Ok(Err(refused)) = told.await
            // Its agent has lost nothing, but may have been silent for longer than it is kept.
            && refused.code != Code::NotFound
        {
            lock(&self.book).faults.push(format!("{} was not withdrawn: {refused}", self.key));
        }
    }

    /// Says that it is there. Whether its agent has heard it.
    async fn beat(&self, port: u16) -> bool {
        let said = serde_json::json!({
            "service": SERVICE, "port": port, "addresses": ["192.0.2.9"], "ttl_ms": u64::try_from(TTL.as_millis()).unwrap(),
        });
        let said: Register = serde_json::from_value(said).unwrap();
        let (tell, told) = oneshot::channel();
        let asked = Instant::now();
        if !self.ask(Ask::Put(self.id.clone(), Box::new(said), tell)) {
            return false;
        }
        match told.await {
            Ok(Ok(registered)) => {
                let mut book = lock(&self.book);
                book.seen.beats += 1;
                if let Some(endpoint) = registered.endpoint.filter(|_| registered.store == "written") {
                    let promise = Promise { owner: self.node.clone(), at: endpoint.revision, until: asked + TTL };
                    if book.registered.insert(self.key.clone(), promise).is_none() {
                        book.seen.registered += 1;
                    }
                }
                true
            }
            Ok(Err(refused)) => {
                // Another host has that id, for the time being.
                if refused.code != Code::Conflict {
                    lock(&self.book).faults.push(format!("{} was refused: {refused}", self.key));
                }
                false
            }
            // The agent has died.
            Err(_) => false,
        }
    }

    fn ask(&self, ask: Ask) -> bool {
        lock(&self.way).as_ref().is_some_and(|door| door.send(ask).is_ok())
    }
}
