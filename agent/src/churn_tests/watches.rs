//! Those who look on: two watches, what tells how busy the machine is, and who compares the views with what is gone.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weft_model::ids::{Revision, ServiceName};
use weft_model::keys::{Layout, RecordPath};
use weft_model::service::Service;
use weft_model::snapshot::Snapshot;
use weft_store::etcd::EtcdConfig;
use weft_store::follow::{Update, follow};
use weft_store::registry::Registry;
use weft_store::{Change, Outcome};

use super::book::Book;
use super::{SERVED, TTL, lock, random, store};
use crate::view::View;

/// The checker's watch: names, and everything of ours that stands below one prefix, so that a revision comes as a whole.
pub async fn check(config: EtcdConfig, book: Arc<Mutex<Book>>, started: oneshot::Sender<()>) {
    let layout = Layout::default();
    let mut follow = follow(store(&config).await, layout.watched());
    let mut started = Some(started);
    loop {
        match follow.next().await {
            Update::Complete(listing) => match started.take() {
                Some(started) => {
                    assert!(listing.entries.is_empty(), "the store was not empty");
                    let _ = started.send(());
                }
                None => lock(&book).faults.push("the checker's watch lost its place".to_owned()),
            },
            Update::Changes(batch) => {
                let mut book = lock(&book);
                for change in &batch.changes {
                    book.take(&layout, change);
                }
                book.check_vips();
            }
            Update::Away { .. } | Update::Back => {}
        }
    }
}

/// The second watch, which only tells how late watches are on this machine.
pub async fn check_again(config: EtcdConfig, book: Arc<Mutex<Book>>) {
    let mut follow = follow(store(&config).await, vec![b"/skydns/".to_vec()]);
    loop {
        if let Update::Changes(batch) = follow.next().await {
            let mut book = lock(&book);
            for change in batch.changes {
                match change {
                    Change::Put(entry) => drop(book.deleted_again.remove(&String::from_utf8(entry.key).unwrap())),
                    Change::Delete { key, .. } => {
                        book.deleted_again.insert(String::from_utf8(key).unwrap(), Instant::now());
                    }
                }
            }
        }
    }
}

/// Measures how late a tick of 20 ms is.
pub async fn tick(book: Arc<Mutex<Book>>) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let late = last.elapsed().saturating_sub(Duration::from_millis(20));
        if late > Duration::from_millis(100) {
            lock(&book).stalls.push_back((Instant::now(), late));
        }
        last = Instant::now();
    }
}

/// Keeps a lease as plainly as can be: how long its renewals take is a stall like others.
pub async fn keep(config: EtcdConfig, book: Arc<Mutex<Book>>) {
    let store = store(&config).await;
    let mut lease = None;
    loop {
        let begun = Instant::now();
        lease = match lease {
            None => store.grant(TTL).await.ok(),
            Some(lease) => match store.keep_alive(lease).await {
                Ok(Some(_)) => Some(lease),
                Ok(None) => {
                    lock(&book).stalls.push_back((Instant::now(), TTL));
                    None
                }
                Err(_) => Some(lease),
            },
        };
        if begun.elapsed() > Duration::from_millis(200) {
            lock(&book).stalls.push_back((Instant::now(), begun.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Looks for what is in a view and was deleted long ago. What nobody could hear, because the member that he asks was cut off, counts
/// from when it answers again.
pub async fn look(views: Vec<View>, book: Arc<Mutex<Book>>) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let snapshots: Vec<Option<Arc<Snapshot>>> = views.iter().map(|view| view.borrow().clone()).collect();
        let mut book = lock(&book);
        let bound = SERVED + book.stalled() * 2;
        // As late as the later of two watches saw it: the other one may know why.
        let deleted: Vec<(String, Instant, Revision)> = book
            .deleted
            .iter()
            .filter_map(|(key, (at, revision))| Some((key.clone(), *book.deleted_again.get(key)?.max(at), *revision)))
            .collect();
        for (key, since, at) in deleted {
            let path = RecordPath::from_labels(key.trim_start_matches("/skydns/").split('/'));
            // A view may know already that it has been written again; and what ended with its host is marked as lost, so that
            // nobody is sent there as long as there is anybody else.
            let has = |s: &&Arc<Snapshot>| s.record(&path).is_some_and(|record| !record.lost && record.modified < at);
            let Some(late) = snapshots.iter().flatten().find(has) else {
                book.seen.looked += 1;
                book.deleted.remove(&key);
                continue;
            };
            let Some(whole) = book.whole_since else {
                book.seen.latest_cut = book.seen.latest_cut.max(since.elapsed());
                continue;
            };
            let age = since.max(whole).elapsed();
            book.seen.latest = book.seen.latest.max(age);
            if age > bound {
                book.faults.push(format!("{key} was deleted {age:?} ago, and a view at {} has it", late.revision()));
                book.deleted.remove(&key);
            }
        }
    }
}

/// Makes and removes services that want the same few addresses.
pub async fn services(config: EtcdConfig, book: Arc<Mutex<Book>>) {
    let registry = Registry::new(store(&config).await, Arc::new(Layout::default()));
    loop {
        let name: ServiceName = format!("default/s{}", random(8)).parse().unwrap();
        let key = registry.layout().service(&name);
        let Ok((_, there)) = registry.store().get(key.as_bytes()).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let written = match there {
            Some(entry) => {
                let service: Service = serde_json::from_slice(&entry.value).unwrap();
                registry.remove_service(&name, entry.modified, &service.vips).await
            }
            None => {
                let vip = Ipv4Addr::new(10, 112, 0, u8::try_from(random(4)).unwrap());
                let service = Service { vips: vec![vip.into()], ..Service::default() };
                registry.create_service(&name, &service, None).await
            }
        };
        if matches!(written, Ok(Outcome::Done(_))) {
            lock(&book).seen.services += 1;
        }
        tokio::time::sleep(Duration::from_millis(20 + random(80) as u64)).await;
    }
}
