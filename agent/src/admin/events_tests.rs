//! Streams over a real socket, read by somebody who takes his time, or takes nothing at all.

use std::collections::BTreeMap;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use weft_model::keys::Layout;
use weft_model::snapshot::Snapshot;
use weft_model::stored::{Change, Entry as Stored};

use super::*;

/// Long enough for anything, on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(60);

/// So short that it is over at once.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What an agent sees of a store, and who watches it.
struct Agent {
    changes: Arc<Changes>,
    snapshot: Arc<Snapshot>,
    seats: Arc<AtomicUsize>,
}

impl Agent {
    /// One that keeps so many changes.
    fn keeping(entries: usize) -> Self {
        let snapshot = Arc::new(Snapshot::complete(Arc::new(Layout::default()), Revision(1), Vec::new(), None));
        let changes = Arc::new(Changes::keeping(entries, 1 << 30));
        changes.complete(&snapshot);
        Self { changes, snapshot, seats: Arc::default() }
    }

    fn revision(&self) -> i64 {
        self.snapshot.revision().0
    }

    fn put(&mut self, key: &str, value: &str) {
        let at = self.snapshot.revision().next();
        let put = Stored { key: key.into(), value: value.into(), lease: None, created: at, modified: at };
        let mut next = (*self.snapshot).clone();
        next.apply(at, vec![Change::Put(put)]);
        let next = Arc::new(next);
        self.changes.revision(&self.snapshot, &next, at);
        self.changes.publish(&next);
        self.snapshot = next;
    }

    /// Writes the record of one of a few endpoints, with about 2 KiB of labels.
    fn put_large(&mut self, n: usize) {
        let labels: BTreeMap<String, String> = (0..10).map(|at| (format!("l{at}"), format!("{n:0200}"))).collect();
        let weft = serde_json::json!({"id": format!("x{}", n % 8), "labels": labels});
        let value = serde_json::json!({"host": "192.0.2.1", "weft": weft});
        self.put(&format!("/skydns/local/skydns/web/x{}/4", n % 8), &value.to_string());
    }

    /// The endpoints that there are, with the revisions of their last changes.
    fn truth(&self) -> BTreeMap<String, i64> {
        self.snapshot.endpoints().map(|e| (e.path.to_string(), e.modified.0)).collect()
    }

    /// Watches from a mark on, or from the beginning.
    async fn watch(&self, pace: Pace, kinds: &str, from: &str) -> Reader {
        let wanted = || Wanted::of(&Query::parse(&format!("kind={kinds}"), &["kind"]).unwrap(), Some(from)).unwrap();
        let start = match wanted().from.map(|mark| (mark, self.changes.resume(&mark))) {
            Some((mark, Resume::At(place))) => Start::At(place, mark.revision),
            Some(_) => panic!("{from} is not known here"),
            None => Start::Fresh(None),
        };
        let seat = Seat::take(&self.seats).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of(&ours);
        let frames = Watcher::begin(self.changes.clone(), wanted(), caller, seat, pace, start);
        let stream = std::sync::Mutex::new(Some(Stream { frames, revision: self.snapshot.revision() }));
        tokio::spawn(async move {
            let answer = service_fn(|_| {
                let reply = stream.lock().unwrap().take().unwrap().reply();
                async move { reply.map_err(|refusal| std::io::Error::other(refusal.message)) }
            });
            // How it ends is seen by the reader.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(ours), answer).await;
        });
        let mut reader = Reader { lines: BufReader::new(theirs), bytes: 0, last: String::new() };
        reader.lines.get_mut().write_all(b"GET /v1/watch HTTP/1.0\r\n\r\n").await.unwrap();
        assert!(reader.line().await.unwrap().contains(" 200 "));
        while !reader.line().await.unwrap().is_empty() {}
        reader
    }
}

struct Reader {
    lines: BufReader<UnixStream>,
    bytes: usize,
    last: String,
}

impl Reader {
    /// A line; none at the end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(SOON, self.lines.read_line(&mut line)).await.expect("nothing is told").unwrap();
        self.bytes += read;
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// An event and its data; none at the end.
    async fn event(&mut self) -> Option<(String, Value)> {
        let (mut event, mut data) = (String::new(), Value::Null);
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                Some(("id", id)) => id.clone_into(&mut self.last),
                Some(("event", name)) => name.clone_into(&mut event),
                Some(("data", text)) => data = serde_json::from_str(text).unwrap(),
                Some(_) => {}
                None if event.is_empty() => {}
                None => return Some((event, data)),
            }
        }
    }
}

/// Takes in an event.
fn learn(known: &mut BTreeMap<String, i64>, (event, data): &(String, Value)) {
    let key = || data["key"].as_str().unwrap().to_owned();
    match event.as_str() {
        "put" => drop(known.insert(key(), data["revision"].as_i64().unwrap())),
        "delete" => drop(known.remove(&key())),
        "reset" => known.clear(),
        _ => {}
    }
}

#[tokio::test]
async fn who_reads_nothing_for_long_is_told_reset_and_everything_and_nobody_kept_what_he_missed() {
    let mut agent = Agent::keeping(64);
    let mut reader = agent.watch(PACE, "endpoint", "").await;
    assert_eq!(reader.event().await.unwrap().0, "current");
    for n in 0..4000 {
        agent.put_large(n);
        tokio::task::yield_now().await;
    }
    let (mut known, mut reset_after) = (BTreeMap::new(), None);
    loop {
        let event = reader.event().await.expect("a slow reader is not sent away");
        learn(&mut known, &event);
        match event.0.as_str() {
            "reset" => reset_after = Some(reader.bytes),
            "current" if event.1["revision"] == agent.revision() => break,
            _ => {}
        }
    }
    assert_eq!(known, agent.truth());
    // Of 8 MiB: what the connection, its buffers and one reading of the log hold.
    let held = reset_after.unwrap();
    assert!(held < 2 << 20, "{held} bytes were told before the reset");
    agent.put_large(0);
    assert_eq!(reader.event().await.unwrap().1["revision"], agent.revision(), "and he is told what happens");
}

#[tokio::test]
async fn who_takes_nothing_loses_his_place_and_goes_on_with_his_last_mark() {
    let mut agent = Agent::keeping(usize::MAX);
    let mut reader = agent.watch(Pace { stalled: AT_ONCE, ..PACE }, "endpoint", "").await;
    let begun = Instant::now();
    let mut n = 0;
    while agent.seats.load(Ordering::Relaxed) > 0 {
        assert!(begun.elapsed() < SOON, "he has his place still, after {n} changes");
        agent.put_large(n);
        n += 1;
        tokio::time::sleep(AT_ONCE).await;
    }
    let mut known = BTreeMap::new();
    while let Some(event) = reader.event().await {
        assert_ne!(event.0, "reset");
        learn(&mut known, &event);
    }
    assert_ne!(known, agent.truth(), "there was more than he was told");
    let mut again = agent.watch(PACE, "endpoint", &reader.last).await;
    while known != agent.truth() {
        let event = again.event().await.unwrap();
        assert_eq!(event.0, "put", "nothing anew");
        learn(&mut known, &event);
    }
}

#[tokio::test]
async fn who_is_told_nothing_hears_once_how_far_it_is_and_goes_on_from_there() {
    let mut agent = Agent::keeping(64);
    let mut reader = agent.watch(Pace { progress: AT_ONCE, ..PACE }, "service", "").await;
    assert_eq!(reader.event().await.unwrap().0, "current");
    for n in 0..3 {
        agent.put_large(n);
        let (event, data) = reader.event().await.unwrap();
        assert_eq!((event.as_str(), data["revision"].as_i64()), ("progress", Some(agent.revision())));
        assert_eq!(reader.last, agent.revision().to_string());
    }
    let mut again = agent.watch(PACE, "service", &reader.last).await;
    agent.put("/weft/v1/services/default/web", "{}");
    for told in [reader.event().await, again.event().await] {
        let (event, data) = told.unwrap();
        assert_eq!((event.as_str(), data["revision"].as_i64()), ("put", Some(agent.revision())));
    }
}

#[tokio::test]
async fn something_is_said_when_nothing_happens() {
    let mut agent = Agent::keeping(64);
    let mut reader = agent.watch(Pace { keep_alive: Duration::ZERO, progress: AT_ONCE, ..PACE }, "service", "").await;
    assert_eq!(reader.event().await.unwrap().0, "current");
    for _ in 0..5 {
        let (said, blank) = (reader.line().await, reader.line().await);
        assert_eq!((said.as_deref(), blank.as_deref()), (Some(": keep-alive"), Some("")));
    }
    agent.put("/weft/v1/services/default/web", "{}");
    assert_eq!(reader.event().await.unwrap().0, "put");
}

#[tokio::test]
async fn who_reads_nothing_is_gone_and_who_reads_slowly_is_not() {
    let (sender, mut frames) = mpsc::channel(1);
    let bytes = || Bytes::from_static(b": keep-alive\n\n");
    assert!(hand_over(&sender, bytes(), PACE.stalled).await.is_ok());
    assert!(hand_over(&sender, bytes(), AT_ONCE).await.is_err(), "nobody made room");
    let (handed, read) = tokio::join!(hand_over(&sender, bytes(), PACE.stalled), frames.recv());
    assert!(handed.is_ok() && read.is_some());
    drop(frames);
    assert!(hand_over(&sender, bytes(), PACE.stalled).await.is_err());
}
