//! The journal of attachments on disk: a log of changes, one line each, that is written anew when it has grown long.
//!
//! It stands twice: in the state directory, and in the run directory in case that one is lost. A change counts once its line is in
//! both. Nobody waits for the disk: what a killed agent has written is the kernel's, and what a host loses that loses its power
//! are attachments of a boot that is over, so the log is synced in the background and at each rewriting.
//!
//! ```text
//!   {"put":[{"id":"web-3f2a1c", …}]}                     an attachment as it is from now on
//!   {"drop":["web-3f2a1c"],"released":{"10.244.3.5":7}}  one that is over, and when its address was given back
//! ```
//!
//! A last line without its end was being written when the writer was killed: its change never counted, and nobody was told that it did.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;
use weft_model::ids::EndpointId;

use super::{Attachment, Journal, StateError};
use crate::attach::handed::Handed;
use crate::view::chain;

/// The log's name.
pub(super) const NAME: &str = "attachments.log";

/// The whole journal in one file, as earlier versions wrote it.
const WHOLE: &str = "attachments.json";

/// A log has so many lines at least, and [`LINES_PER_ENTRY`] for each entry of the journal, before it is written anew.
const LINES: usize = 1_000;

/// See [`LINES`].
const LINES_PER_ENTRY: usize = 4;

/// What makes one journal of another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// In place of all that was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    whole: Option<Journal>,
    /// Attachments that are over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    drop: Vec<EndpointId>,
    /// Attachments that are new or other than before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    put: Vec<Attachment>,
    /// Addresses that were given back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    released: BTreeMap<Ipv4Addr, u64>,
    /// What tools hold from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handed: Option<Handed>,
}

impl Delta {
    /// What makes `after` of `before`.
    pub fn between(before: &Journal, after: &Journal) -> Self {
        let new = |a: &&Attachment| before.attachments.get(&a.id) != Some(a);
        let given_back = |(address, when): &(&Ipv4Addr, &u64)| before.released.get(address) != Some(when);
        let delta = Self {
            whole: None,
            drop: before.attachments.keys().filter(|id| !after.attachments.contains_key(id)).cloned().collect(),
            put: after.attachments.values().filter(new).cloned().collect(),
            released: after.released.iter().filter(given_back).map(|(address, when)| (*address, *when)).collect(),
            handed: (before.handed != after.handed).then(|| after.handed.clone()),
        };
        let mut made = before.clone();
        delta.clone().apply(&mut made);
        // Whatever a journal gets beside the two: nothing of it is lost.
        if made == *after { delta } else { Self { whole: Some(after.clone()), ..Self::default() } }
    }

    fn apply(self, journal: &mut Journal) {
        if let Some(whole) = self.whole {
            *journal = whole;
        }
        for id in self.drop {
            journal.attachments.remove(&id);
        }
        journal.attachments.extend(self.put.into_iter().map(|a| (a.id.clone(), a)));
        journal.released.extend(self.released);
        if let Some(handed) = self.handed {
            journal.handed = handed;
        }
    }

    fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// The journal's files, open.
#[derive(Debug)]
pub struct Log {
    /// The one in the state directory, and the one in the run directory.
    copies: [Copy; 2],
    /// How many lines they have.
    lines: usize,
    /// Whether there is something that may not be on the disk yet.
    dirty: bool,
}

/// A log file.
#[derive(Debug)]
struct Copy {
    path: PathBuf,
    /// None while it is not known to be as it should.
    open: Option<(File, u64)>,
    durable: bool,
}

impl Log {
    /// The journal of these directories, and the log that goes on with it, written anew.
    ///
    /// # Errors
    /// A file cannot be read or is damaged. One that cannot be written is tried again with the next change.
    pub fn open(state_dir: &Path, run_dir: &Path) -> Result<(Journal, Self), StateError> {
        // The run directory is empty after a boot. What is in the other one is over then, and no reason not to start: of lines
        // that were not synced, later ones may have reached the disk and earlier ones not.
        let is_over = [NAME, WHOLE].iter().all(|name| !run_dir.join(name).exists());
        let journal = match read_newest(state_dir, is_over)? {
            Some(journal) => journal,
            None => read_newest(run_dir, false)?.unwrap_or_default(),
        };
        let mut log = Self::closed(state_dir, run_dir);
        if let Err(e) = log.begin(state_dir, run_dir, &journal) {
            warn!(
                error = chain(&e),
                "the journal of attachments cannot be written; nothing is attached or detached until it can"
            );
        }
        Ok((journal, log))
    }

    /// Files that are as somebody else left them, to be written anew by the first change.
    fn closed(state_dir: &Path, run_dir: &Path) -> Self {
        let copy = |dir: &Path, durable| Copy { path: dir.join(NAME), open: None, durable };
        Self { copies: [copy(state_dir, true), copy(run_dir, false)], lines: 0, dirty: false }
    }

    fn begin(&mut self, state_dir: &Path, run_dir: &Path, journal: &Journal) -> Result<(), StateError> {
        self.rewrite(journal)?;
        for dir in [state_dir, run_dir] {
            remove(&dir.join(WHOLE))?;
        }
        Ok(())
    }

    /// A log that begins with this journal, whatever stood there before.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn anew(state_dir: &Path, run_dir: &Path, journal: &Journal) -> Result<Self, StateError> {
        let mut log = Self::closed(state_dir, run_dir);
        log.begin(state_dir, run_dir, journal)?;
        Ok(log)
    }

    /// Writes a change, which has led to `after`. If that fails nothing has changed: what was written of it is taken back.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&mut self, delta: &Delta, after: &Journal) -> Result<(), StateError> {
        let longest = LINES + LINES_PER_ENTRY * (after.attachments.len() + after.released.len());
        if self.lines >= longest || !self.copies.iter().all(Copy::is_in_place) {
            return self.rewrite(after);
        }
        let appended = delta.line().and_then(|line| {
            for number in 0..self.copies.len() {
                let Some(copy) = self.copies.get_mut(number) else { continue };
                if let Err(e) = copy.append(&line) {
                    let path = copy.path.clone();
                    self.copies.iter_mut().take(number + 1).for_each(Copy::take_back);
                    return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display())));
                }
            }
            self.copies.iter_mut().for_each(|copy| copy.keep(line.len()));
            Ok(())
        });
        appended.map_err(|source| StateError::Io { op: "write", path: self.copies[0].path.clone(), source })?;
        self.lines += 1;
        self.dirty = true;
        Ok(())
    }

    /// Has the disk take what is not there yet.
    ///
    /// # Errors
    /// It does not.
    pub fn sync(&mut self) -> Result<(), StateError> {
        if !self.dirty {
            return Ok(());
        }
        for copy in self.copies.iter().filter(|copy| copy.durable) {
            if let Some((file, _)) = &copy.open {
                file.sync_data().map_err(|source| StateError::Io { op: "sync", path: copy.path.clone(), source })?;
            }
        }
        self.dirty = false;
        Ok(())
    }

    /// Replaces both files. Both are written before either takes its place, so that a full disk changes neither.
    fn rewrite(&mut self, journal: &Journal) -> Result<(), StateError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { op: "write", path, source }
        };
        let whole = Delta { whole: Some(journal.clone()), ..Delta::default() }.line();
        let line = whole.map_err(failed(&self.copies[0].path))?;
        let written: Result<Vec<File>, StateError> =
            self.copies.iter().map(|copy| write_beside(&copy.path, &line, copy.durable).map_err(failed(&copy.path))).collect();
        if written.is_err() {
            for copy in &self.copies {
                // It takes room where there is none.
                let _ = fs::remove_file(beside(&copy.path));
            }
        }
        for (copy, file) in self.copies.iter_mut().zip(written?) {
            // If this fails, what is there is as it was, or is this; either way it is looked at again.
            copy.open = None;
            put_in_place(&copy.path, copy.durable).map_err(failed(&copy.path))?;
            copy.open = Some((file, line.len() as u64));
        }
        (self.lines, self.dirty) = (1, false);
        Ok(())
    }
}

impl Copy {
    /// Whether the file that is written to is the one that the next agent will find.
    fn is_in_place(&self) -> bool {
        let Some((file, length)) = &self.open else { return false };
        let (Ok(ours), Ok(there)) = (file.metadata(), fs::metadata(&self.path)) else { return false };
        (ours.dev(), ours.ino(), ours.len()) == (there.dev(), there.ino(), *length)
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let Some((file, _)) = &mut self.open else { return Err(io::ErrorKind::NotFound.into()) };
        file.write_all(line)
    }

    fn keep(&mut self, more: usize) {
        if let Some((_, length)) = &mut self.open {
            *length += more as u64;
        }
    }

    /// Takes the last append back; a file for which that cannot be done is written anew by the next change.
    fn take_back(&mut self) {
        self.open.take_if(|(file, length)| file.set_len(*length).is_err());
    }
}

/// Where a file stands until it takes another's place.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Writes a file that is to take the place of `path`, and gives it back open for appending.
fn write_beside(path: &Path, bytes: &[u8], durable: bool) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).mode(super::PRIVATE).open(beside(path))?;
    file.set_permissions(fs::Permissions::from_mode(super::PRIVATE))?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    Ok(file)
}

fn put_in_place(path: &Path, durable: bool) -> io::Result<()> {
    fs::rename(beside(path), path)?;
    match path.parent().filter(|_| durable) {
        // The rename itself is durable only once the directory is.
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Io { op: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The journal of a directory: its log, or the whole file of an earlier version where that was written last. With `is_over` only what
/// stands before any damage counts.
fn read_newest(dir: &Path, is_over: bool) -> Result<Option<Journal>, StateError> {
    let (log, whole) = (dir.join(NAME), dir.join(WHOLE));
    let written = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    if written(&whole) > written(&log) {
        return super::read(&whole);
    }
    match fs::read(&log) {
        Ok(bytes) => match read(&bytes) {
            (journal, None) => Ok(Some(journal)),
            (journal, Some(e)) if is_over => {
                warn!(path = %log.display(), error = chain(&e), "damaged, and of an earlier boot; what stands before the damage counts");
                Ok(Some(journal))
            }
            (_, Some(source)) => Err(StateError::Damaged { path: log, source }),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Io { op: "read", path: log, source }),
    }
}

/// What a log says. Its last line does not count unless it is whole: neither one that was cut short by a kill nor one whose end is
/// there and whose middle never reached the disk. Other damage ends it, and is told.
fn read(bytes: &[u8]) -> (Journal, Option<serde_json::Error>) {
    let mut journal = Journal::default();
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        match serde_json::from_slice::<Delta>(line) {
            Ok(_) if !line.ends_with(b"\n") => {}
            Ok(delta) => delta.apply(&mut journal),
            // The first line alone is a journal that was written whole and synced, and never torn.
            Err(_) if is_last && line.len() < bytes.len() => {}
            Err(e) => return (journal, Some(e)),
        }
    }
    (journal, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_model::mac::Mac;

    fn attachment(number: u8) -> Attachment {
        let text = format!(
            r#"{{"id":"c-{number}","netns":"/run/netns/c","netns_id":[4,{number}],"netns_cookie":{number},"ifname":"eth0",
                "host_ifname":"weft{number}","address":"10.244.3.{number}","mac":"02:00:00:00:00:01","gateway":"10.244.3.1",
                "mtu":1450,"boot":"b"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// Journals one after the other, as attaching, changing and detaching make them; the same for the same seed.
    fn history(seed: u64, steps: usize) -> Vec<Journal> {
        let mut journal = Journal::default();
        let mut state = seed;
        let mut all = vec![journal.clone()];
        for step in 0..steps {
            // Knuth's MMIX.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chosen = attachment(u8::try_from(state >> 60).unwrap() + 2);
            match journal.attachments.get_mut(&chosen.id) {
                Some(there) if state & (1 << 40) != 0 => there.mtu += 1,
                Some(_) => {
                    journal.attachments.remove(&chosen.id);
                    journal.released.insert(chosen.address, step as u64);
                }
                None => drop(journal.attachments.insert(chosen.id.clone(), chosen)),
            }
            all.push(journal.clone());
        }
        all
    }

    struct Dirs {
        state: tempfile::TempDir,
        run: tempfile::TempDir,
    }

    impl Dirs {
        fn new() -> Self {
            Self { state: tempfile::tempdir().unwrap(), run: tempfile::tempdir().unwrap() }
        }

        fn open(&self) -> (Journal, Log) {
            Log::open(self.state.path(), self.run.path()).unwrap()
        }
    }

    #[test]
    fn whatever_instruction_the_writer_is_killed_at_the_journal_is_that_before_or_after_the_change() {
        for seed in 0..3 {
            let dirs = Dirs::new();
            let history = history(seed, 12);
            let (_, mut log) = dirs.open();
            for step in history.windows(2) {
                log.write(&Delta::between(&step[0], &step[1]), &step[1]).unwrap();
            }
            let written = fs::read(dirs.state.path().join(NAME)).unwrap();
            assert_eq!(written, fs::read(dirs.run.path().join(NAME)).unwrap());
            let first = written.iter().position(|b| *b == b'\n').unwrap() + 1;
            let mut lines = 0;
            for end in first..=written.len() {
                if end > first && written[end - 1] == b'\n' {
                    lines += 1;
                }
                assert_eq!(read(&written[..end]).0, history[lines], "seed {seed}, killed after byte {end}");
            }
            assert_eq!(lines, 12);
        }
    }

    #[test]
    fn an_agent_that_starts_goes_on_where_the_last_one_was_cut_short() {
        let dirs = Dirs::new();
        let history = history(7, 3);
        let (_, mut log) = dirs.open();
        log.write(&Delta::between(&history[0], &history[1]), &history[1]).unwrap();
        let path = dirs.state.path().join(NAME);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"put":[{"id":"c-9","#).unwrap();
        let (found, mut log) = dirs.open();
        assert_eq!(found, history[1]);
        log.write(&Delta::between(&history[1], &history[2]), &history[2]).unwrap();
        assert_eq!(dirs.open().0, history[2]);
    }

    #[test]
    fn a_log_is_written_anew_when_it_is_long_and_when_somebody_took_it_away() {
        let dirs = Dirs::new();
        let (_, mut log) = dirs.open();
        let history = history(3, LINES * 3);
        let mut longest = 0;
        for (number, step) in history.windows(2).enumerate() {
            if number == 5 {
                fs::remove_file(dirs.state.path().join(NAME)).unwrap();
                fs::write(dirs.run.path().join(NAME), "other").unwrap();
            }
            log.write(&Delta::between(&step[0], &step[1]), &step[1]).unwrap();
            longest = longest.max(log.lines);
        }
        assert!(longest <= LINES + 32 * LINES_PER_ENTRY, "{longest} lines");
        assert_eq!(dirs.open().0, *history.last().unwrap());
        fs::remove_file(dirs.state.path().join(NAME)).unwrap();
        assert_eq!(dirs.open().0, *history.last().unwrap(), "the run directory has it too");
    }

    #[test]
    fn the_whole_file_of_an_earlier_version_is_read_once_and_is_a_log_from_then_on() {
        let dirs = Dirs::new();
        let mut journal = Journal::default();
        journal.attachments.insert("c-5".parse().unwrap(), attachment(5));
        journal.released.insert(Ipv4Addr::new(10, 244, 3, 9), 3);
        let whole = dirs.state.path().join(WHOLE);
        fs::write(&whole, serde_json::to_vec_pretty(&journal).unwrap()).unwrap();
        assert_eq!(dirs.open().0, journal);
        assert!(!whole.exists());
        assert_eq!(dirs.open().0, journal);
        // A moment with the earlier version again.
        journal.released.insert(Ipv4Addr::new(10, 244, 3, 8), 4);
        fs::write(&whole, serde_json::to_vec_pretty(&journal).unwrap()).unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
        File::options().write(true).open(&whole).unwrap().set_modified(later).unwrap();
        assert_eq!(dirs.open().0, journal);
    }

    #[test]
    fn after_a_boot_what_stands_before_the_damage_counts() {
        let dirs = Dirs::new();
        let history = history(9, 1);
        let (_, mut log) = dirs.open();
        log.write(&Delta::between(&history[0], &history[1]), &history[1]).unwrap();
        let path = dirs.state.path().join(NAME);
        // A page that never reached the disk, and the next one, which did.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"put\0\0\0\n{}\n").unwrap();
        assert!(Log::open(dirs.state.path(), dirs.run.path()).is_err(), "of this boot");
        fs::remove_file(dirs.run.path().join(NAME)).unwrap();
        assert_eq!(dirs.open().0, history[1]);
    }

    #[test]
    fn where_one_copy_cannot_be_written_anew_neither_is_and_an_agent_starts_all_the_same() {
        let dirs = Dirs::new();
        let history = history(5, 2);
        let (_, mut log) = dirs.open();
        log.write(&Delta::between(&history[0], &history[1]), &history[1]).unwrap();
        // As on a full disk: there is no place for the new one.
        let obstacle = beside(&dirs.run.path().join(NAME));
        fs::create_dir(&obstacle).unwrap();
        log.lines = usize::MAX;
        assert!(log.write(&Delta::between(&history[1], &history[2]), &history[2]).is_err());
        let (found, mut log) = dirs.open();
        assert_eq!(found, history[1], "a change that was refused is in no copy");
        assert!(log.write(&Delta::between(&history[1], &history[2]), &history[2]).is_err());
        fs::remove_dir(&obstacle).unwrap();
        log.write(&Delta::between(&history[1], &history[2]), &history[2]).unwrap();
        assert_eq!(dirs.open().0, history[2]);
    }

    #[test]
    fn damage_in_the_middle_is_told_and_not_passed_over() {
        let dirs = Dirs::new();
        drop(dirs.open());
        let path = dirs.state.path().join(NAME);
        fs::write(&path, "{}\n{\"put\":\n{}\n").unwrap();
        let error = Log::open(dirs.state.path(), dirs.run.path()).unwrap_err().to_string();
        assert!(error.contains(NAME) && error.contains("damaged"), "{error}");
        fs::write(&path, "{").unwrap();
        assert!(Log::open(dirs.state.path(), dirs.run.path()).is_err());
        fs::write(&path, "{}\n{}\n\0\0\0\0\n").unwrap();
        assert_eq!(dirs.open().0, Journal::default(), "a last line that never reached the disk");
    }

    #[test]
    fn a_change_that_cannot_be_written_leaves_the_journal_as_it_was() {
        let dirs = Dirs::new();
        let history = history(5, 3);
        let (_, mut log) = dirs.open();
        log.write(&Delta::between(&history[0], &history[1]), &history[1]).unwrap();
        // Of the two files the second refuses: one that is open for reading only.
        let path = dirs.run.path().join(NAME);
        let length = fs::metadata(&path).unwrap().len();
        log.copies[1].open = Some((File::open(&path).unwrap(), length));
        assert!(log.write(&Delta::between(&history[1], &history[2]), &history[2]).is_err());
        assert_eq!(read(&fs::read(dirs.state.path().join(NAME)).unwrap()).0, history[1]);
        log.write(&Delta::between(&history[1], &history[2]), &history[2]).unwrap();
        assert_eq!(dirs.open().0, history[2]);
    }

    #[test]
    fn what_leads_from_one_journal_to_another_is_no_more_than_what_differs() {
        let history = history(11, 60);
        for step in history.windows(2) {
            let delta = Delta::between(&step[0], &step[1]);
            assert!(delta.whole.is_none() && delta.put.len() + delta.drop.len() == 1, "{delta:?}");
            let mut made = step[0].clone();
            delta.apply(&mut made);
            assert_eq!(made, step[1]);
        }
        let odd = Delta::between(history.last().unwrap(), &Journal::default());
        assert!(odd.whole.is_some(), "what was released stays released, unless all is new");
        let other = Attachment { mac: Mac([2; 6]), ..attachment(2) };
        assert_ne!(other, attachment(2));
    }
}
