//! The embedded store: the conformance suite, and what only a file can do: be opened again, be locked, be damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may assume")]

mod conformance;
mod support;

use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use tempfile::TempDir;
use weft_store::embedded::EmbeddedStore;
use weft_store::follow::follow;
use weft_store::{Change, Revision, Store, StoreError, Txn};

use crate::conformance::{Bench, Known, batch, below, conformance, done, get, put, revision_of};
use crate::support::{bounded, eventually, soon};

struct Embedded {
    store: Arc<EmbeddedStore>,
    _dir: TempDir,
}

impl Embedded {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: Arc::new(EmbeddedStore::open(dir.path().join("store.redb")).await.unwrap()), _dir: dir }
    }
}

#[async_trait::async_trait]
impl Bench for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// The history holds 10,000 changes; this many more push out everything before.
    async fn forget_history(&self) {
        for round in 0..80 {
            let txn = (0..128).fold(Txn::new(), |txn, n| txn.put(format!("/filler/{n}"), format!("{round}")));
            done(&*self.store, txn).await;
        }
    }
}

conformance!(Embedded::new().await);

/// Opens the store again, when the reads of the one before have ended.
async fn reopen(path: &Path) -> EmbeddedStore {
    eventually("the file to be free", || async { EmbeddedStore::open(path).await.ok() }).await
}

/// An error of opening, with its cause.
async fn refusal(path: &Path) -> String {
    match EmbeddedStore::open(path).await {
        Err(error @ StoreError::Database { .. }) => format!("{error}: {}", error.source().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_opening_again() {
    bounded(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/store.redb");
        let store = EmbeddedStore::open(&path).await.unwrap();
        let lease = store.grant(Duration::from_secs(2)).await.unwrap();
        let first = put(&store, "/a/1", "1").await;
        let second = done(&store, Txn::new().put("/a/1", "2").put_leased("/a/2", "", lease)).await;
        let listing = store.list(&below(&["/"])).await.unwrap();
        let mut watch = store.watch(&below(&["/"]), second.next()).await.unwrap();
        drop(store);
        assert!(soon("the end of the watch", watch.next()).await.is_none());
        let store = reopen(&path).await;
        assert_eq!(store.list(&below(&["/"])).await.unwrap(), listing);
        // History too, and the next revision is the next.
        let mut watch = store.watch(&below(&["/"]), first).await.unwrap();
        let mut changes = batch(&mut watch).await.changes;
        while changes.len() < 3 {
            changes.extend(batch(&mut watch).await.changes);
        }
        assert_eq!(changes.iter().map(revision_of).collect::<Vec<_>>(), [first, second, second]);
        let another = store.grant(Duration::from_secs(60)).await.unwrap();
        assert!(another != lease);
        // The lease goes on: with all its time, and then it ends.
        assert!(store.time_to_live(lease).await.unwrap().is_some());
        let gone = batch(&mut watch).await;
        assert_eq!(gone.changes, [Change::Delete { key: b"/a/2".to_vec(), revision: second.next() }]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_second_is_told_who_was_first() {
    bounded(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = EmbeddedStore::open(&path).await.unwrap();
        let text = refusal(&path).await;
        let expected = format!("the state database {} is in use by process {} (", path.display(), std::process::id());
        assert!(text.starts_with(&expected), "{text}");
        assert!(text.contains("): stop that, or give this agent a --state-dir of its own: "), "{text}");
        put(&store, "/a", "").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_named_and_left_as_it_is() {
    bounded(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = EmbeddedStore::open(&path).await.unwrap();
        for n in 0..200 {
            put(&store, format!("/a/{n}"), vec![n; 1000]).await;
        }
        drop(store);
        drop(reopen(&path).await);
        let whole = std::fs::read(&path).unwrap();
        let all_of = |range: std::ops::Range<usize>, with: u8| {
            let mut damaged = whole.clone();
            damaged[range].fill(with);
            damaged
        };
        for (what, damaged) in [
            ("another kind of file", b"# just some text\n".to_vec()),
            ("cut in half", whole[..whole.len() / 2].to_vec()),
            ("cut after the header", whole[..4096].to_vec()),
            ("no header", all_of(0..320, 0xa5)),
            ("nothing but zeroes", vec![0; whole.len()]),
            ("every page but the first", all_of(4096..whole.len(), 0xff)),
            ("zeroes but the first page", all_of(4096..whole.len(), 0)),
        ] {
            let copy = dir.path().join("damaged.redb");
            std::fs::write(&copy, &damaged).unwrap();
            let text = refusal(&copy).await;
            let expected = format!("the state database {} cannot be used: put back a copy", copy.display());
            assert!(text.starts_with(&expected), "{what}: {text}");
            assert!(text.contains("or move it away to begin with an empty one"), "{what}: {text}");
            assert!(std::fs::read(&copy).unwrap() == damaged, "{what}: the file has been changed");
        }
        // One byte, anywhere: noticed, or not in anything that is read.
        let listing = reopen(&path).await.list(&below(&["/"])).await.unwrap();
        let mut refused = 0;
        for at in (0..whole.len()).step_by(whole.len() / 97) {
            let copy = dir.path().join(format!("byte-{at}.redb"));
            std::fs::write(&copy, all_of(at..at + 1, !whole[at])).unwrap();
            match EmbeddedStore::open(&copy).await {
                Ok(store) => assert_eq!(store.list(&below(&["/"])).await.unwrap(), listing, "byte {at}"),
                Err(error) => {
                    assert!(error.to_string().contains("cannot be used"), "byte {at}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
        // The file that nothing happened to is none the worse.
        let store = reopen(&path).await;
        assert_eq!(store.list(&below(&["/a/"])).await.unwrap().entries.len(), 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_cannot_be_written_is_named() {
    bounded(async {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let text = refusal(&file.join("store.redb")).await;
        assert!(text.starts_with(&format!("make the state database {}/store.redb: ", file.display())), "{text}");
        let text = refusal(dir.path()).await;
        assert!(text.starts_with(&format!("open the state database {}: ", dir.path().display())), "{text}");
    })
    .await;
}

/// This test program again, in one test, with something to tell it that it is the child.
fn child(test: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env("WEFT_STORE_TEST_CHILD", path);
    command.stdout(Stdio::piped());
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
    command
}

fn as_child() -> Option<PathBuf> {
    std::env::var_os("WEFT_STORE_TEST_CHILD").map(PathBuf::from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_when_the_process_is_killed() {
    if let Some(path) = as_child() {
        let store = Arc::new(EmbeddedStore::open(path).await.unwrap());
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let store = store.clone();
            writers.spawn(async move {
                // Where the child before was killed.
                let first = get(&*store, &format!("/w/{writer}")).await.map_or(0, |entry| number(&entry) + 1);
                for n in first.. {
                    // All of it, or none: two numbers that are equal, and one mark that moves.
                    let mut txn =
                        Txn::new().put(format!("/w/{writer}"), n.to_string()).put(format!("/v/{writer}"), n.to_string());
                    txn = txn.put(format!("/m/{writer}/{n}"), "");
                    if let Some(before) = n.checked_sub(1) {
                        txn = txn.delete(format!("/m/{writer}/{before}"));
                    }
                    done(&*store, txn).await;
                    println!("written {writer} {n}");
                }
            });
        }
        writers.join_all().await;
        return;
    }
    bounded(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let mut before = Revision(0);
        let mut acknowledged = [None; 4];
        for round in 0..KILLS {
            let mut running = child("no_acknowledged_write_is_lost_when_the_process_is_killed", &path).spawn().unwrap();
            let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
            // After another number of writes each time: at once, while much is under way, and now and then late.
            let until = if round % 20 == 0 { 300 } else { usize::from(RandomState::new().build_hasher().finish() as u8) / 4 };
            for taken in 0.. {
                if taken >= until {
                    break;
                }
                let Some(line) = lines.next() else { panic!("the child ended by itself after {taken} lines") };
                note(&line.unwrap(), &mut acknowledged);
            }
            running.kill().unwrap();
            // What it still managed to say counts too; the last line may be cut.
            for line in lines.map_while(Result::ok) {
                note(&line, &mut acknowledged);
            }
            running.wait().unwrap();
            let store = EmbeddedStore::open(&path).await.unwrap();
            for (writer, acknowledged) in acknowledged.iter().enumerate() {
                // It may have been killed before its first write.
                let Some(found) = get(&store, &format!("/w/{writer}")).await else {
                    assert_eq!(*acknowledged, None, "writer {writer} in round {round}");
                    continue;
                };
                let found = number(&found);
                assert!(Some(found) >= *acknowledged, "writer {writer}: {found}, acknowledged {acknowledged:?}");
                assert_eq!(found, number(&get(&store, &format!("/v/{writer}")).await.unwrap()), "half of a transaction");
                let marks = store.list(&below(&[&format!("/m/{writer}/")])).await.unwrap().entries;
                let marks: Vec<_> = marks.iter().map(|entry| String::from_utf8_lossy(&entry.key)).collect();
                assert_eq!(marks, [format!("/m/{writer}/{found}")], "half of a transaction");
            }
            let now = store.list(&below(&["/"])).await.unwrap().revision;
            assert!(now >= before, "{now} after {before}");
            before = now;
        }
        assert!(acknowledged.iter().all(Option::is_some), "{acknowledged:?}");
    })
    .await;
}

/// How often the writing process is killed.
const KILLS: usize = 120;

/// The number that a value is.
fn number(entry: &weft_store::Entry) -> u64 {
    String::from_utf8_lossy(&entry.value).parse().unwrap()
}

/// Takes down a line `written <writer> <n>`; others are the test harness's.
fn note(line: &str, acknowledged: &mut [Option<u64>; 4]) {
    // The harness begins its own line and ours may follow on it.
    let Some((_, said)) = line.split_once("written ") else { return };
    let Some((writer, n)) = said.split_once(' ') else { return };
    if let (Ok(writer), Ok(n)) = (writer.parse::<usize>(), n.parse()) {
        acknowledged[writer] = acknowledged[writer].max(Some(n));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_when_a_full_disk_has_room_again() {
    if let Some(path) = as_child() {
        return bounded(full_disk(&path)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let output = child("writes_go_on_when_a_full_disk_has_room_again", &path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A limit on the size of files stands for a full disk. It holds for the process, so this one is not shared.
async fn full_disk(path: &Path) {
    // Beyond the limit comes SIGXFSZ, which would end the process, unless it is ignored.
    // SAFETY: no handler is installed; the disposition is set to "ignore".
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(path).await.unwrap());
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    let last = put(&*store, "/a/before", "").await;
    let mut following = follow(store.clone(), below(&["/a/"]));
    let mut known = Known::default();
    known.until(&mut following, "the listing", |known| known.listings == 1).await;
    let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, std::fs::metadata(path).unwrap().len() + (1 << 20), hard).unwrap();
    let mut written = last;
    let error = loop {
        match store.transact(Txn::new().put(format!("/a/{}", written.next()), vec![1; 100_000])).await {
            Ok(outcome) => written = outcome.revision(),
            Err(error) => break error,
        }
        assert!(written.0 < last.0 + 1000, "the limit has no effect");
    };
    assert!(matches!(error, StoreError::Database { .. }), "{error}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    setrlimit(Resource::RLIMIT_FSIZE, soft, hard).unwrap();
    let after = eventually("a write once there is room", || async {
        store.transact(Txn::new().put("/a/after", "")).await.ok().map(|outcome| outcome.revision())
    })
    .await;
    // The write that failed may or may not have been made; all others were, and no more.
    assert!(after.0 - written.0 <= 2, "{written} then {after}");
    known.until(&mut following, "the change after it", |known| known.revision >= after).await;
    let there = store.list(&below(&["/a/"])).await.unwrap();
    assert_eq!(known.values.len(), there.entries.len());
    assert!(there.entries.len() as i64 >= written.0 - last.0 + 2);
    assert!(store.keep_alive(lease).await.unwrap().is_some());
}
