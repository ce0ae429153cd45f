//! Whether pins are as they were, at the price of asking two folders when they changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How old a folder's change must be before "unchanged since" can be believed: a file system's clock ticks every 4 or 10 ms, and
/// two changes between two ticks bear the same time.
const SETTLED: Duration = Duration::from_millis(100);

/// What tells that nothing was pinned or unpinned in a folder. (A bpffs sets a folder's times when a pin comes or goes; seen
/// on 6.18.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: Duration,
}

impl Stamp {
    fn of(folder: &Path) -> Option<Self> {
        let meta = std::fs::metadata(folder).ok()?;
        Some(Self { device: meta.dev(), inode: meta.ino(), changed: changed(&meta) })
    }
}

fn changed(meta: &Metadata) -> Duration {
    let seconds = u64::try_from(meta.mtime()).unwrap_or(0);
    Duration::new(seconds, u32::try_from(meta.mtime_nsec()).unwrap_or(0))
}

/// Folders that were found in order, and when.
#[derive(Debug, Default)]
pub(super) struct Pins {
    seen: Option<Vec<Stamp>>,
}

impl Pins {
    /// What is wrong with the pins in `folders`: nothing, if the folders are as they were when `look` last found nothing; else
    /// what `look` finds now.
    pub(super) fn disturbed(&mut self, folders: &[&Path], look: impl FnOnce() -> Option<String>) -> Option<String> {
        let Some(now) = folders.iter().map(|f| Stamp::of(f)).collect::<Option<Vec<_>>>() else {
            self.seen = None;
            return Some("a folder of pins".to_owned());
        };
        if self.seen.as_ref() == Some(&now) {
            return None;
        }
        let found = look();
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let past = now.iter().all(|stamp| stamp.changed + SETTLED < clock);
        self.seen = (found.is_none() && past).then_some(now);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_looked_into_until_their_last_change_is_past_and_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut pins = Pins::default();
        let mut looks = 0;
        let mut look = |pins: &mut Pins| {
            let found = pins.disturbed(&[dir.path()], || {
                looks += 1;
                None
            });
            assert_eq!(found, None);
            looks
        };
        assert_eq!(look(&mut pins), 1);
        assert_eq!(look(&mut pins), 2, "it was made in this moment");
        let set = |seconds| {
            let at = SystemTime::now() - Duration::from_secs(seconds);
            std::fs::File::open(dir.path()).unwrap().set_modified(at).unwrap();
        };
        set(50);
        assert_eq!((look(&mut pins), look(&mut pins)), (3, 3));
        set(40);
        assert_eq!((look(&mut pins), look(&mut pins)), (4, 4));
    }

    #[test]
    fn a_folder_that_is_gone_is_wrong_without_a_look() {
        let gone = Path::new("/proc/self/no-such-folder");
        let found = Pins::default().disturbed(&[gone], || None);
        assert_eq!(found.as_deref(), Some("a folder of pins"));
    }
}
