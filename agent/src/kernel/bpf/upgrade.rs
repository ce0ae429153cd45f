//! Taking over from an agent of another layout (`weft_abi::LAYOUT_VERSION`), without a packet lost.
//!
//! Pins of each layout have a folder of their own, so the rows of two layouts never meet:
//!
//! ```text
//!  1  open           v1/ as it is, with its programs at work      v2/ made; maps of the same meaning pinned there too,
//!                                                                 the others new and empty; programs loaded
//!  2  rows written   at work                                      complete
//!  3  attach_...     link by link: the new program is put into the old link (BPF_LINK_UPDATE: each packet meets the one or
//!                    the other), the link is pinned in v2/links, and only then unpinned in v1/links
//!  4  retire         v1/ removed: maps, and links that nobody wants any more
//! ```
//!
//! Each step is safe to stop at: what is pinned stays at work, and the next agent finds the folders and goes on, be it of
//! this layout, of the older one (a downgrade is the same thing the other way round), or of a third. Agents of layout 1 from
//! before this module knew of no other layout; they leave a newer folder where it is.
//!
//! What a layout calls its maps and what its rows mean is `weft_abi`'s affair; which maps are [`SHARED`] is said here.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use weft_abi::LAYOUT_VERSION;
use weft_abi::maps::name;

use super::maps::shape_of;
use super::{BpfError, layout_of, sys};

/// Maps that refer to one another and whose rows mean the same since a layout.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The first layout whose rows mean what they mean now. Changing their meaning raises it to the new layout, even if no size
    /// changes.
    pub since: u32,
    /// The maps: all of them are shared, or none.
    pub maps: &'static [&'static str],
}

/// Maps that are not begun anew if an older layout has them: the same map is pinned in both folders, and old and new programs
/// use it side by side until all links are switched. So open sockets keep the address that they named, whichever program saw
/// them last, and 50,000 services are not written again.
///
/// A map that has become larger is begun anew. Newer layouts share nothing: what they mean is not known.
pub const SHARED: [Group; 2] = [
    Group { since: 1, maps: &[name::FRONTENDS, name::SLOTS, name::BACKENDS, name::REVERSE] },
    // Later agents of layout 2 have them.
    Group { since: 2, maps: &[name::PORTS, name::PORTS_BACK] },
];

/// The folder of another layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its number.
    pub layout: u32,
    /// The folder.
    pub pins: PathBuf,
}

/// The folders of other layouts, the newest first.
///
/// # Errors
/// The folder of folders could not be read.
pub fn others(bpffs: &Path) -> Result<Vec<Other>, BpfError> {
    let failed = |source| BpfError::Path { op: "list", path: bpffs.to_owned(), source };
    let mut others = Vec::new();
    for entry in std::fs::read_dir(bpffs).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(layout) = layout_of(&entry.file_name().to_string_lossy()).filter(|layout| *layout != LAYOUT_VERSION) {
            others.push(Other { layout, pins: entry.path() });
        }
    }
    others.sort_by_key(|other| std::cmp::Reverse(other.layout));
    Ok(others)
}

/// Pins the maps of `groups` in `pins` that are pinned in the folder of an older layout and are what this layout would make.
/// Where any of a group is pinned already nothing is done, unless this was begun and not ended before.
///
/// # Errors
/// The kernel refuses.
pub fn share(pins: &Path, others: &[Other], groups: &[Group]) -> Result<(), BpfError> {
    for group in groups {
        let fits = |other: &&Other| {
            (group.since..LAYOUT_VERSION).contains(&other.layout)
                && group.maps.iter().all(|map| is_the_same(&other.pins, pins, map))
        };
        let Some(other) = others.iter().find(fits) else { continue };
        for map in group.maps.iter().filter(|map| !pins.join(map).exists()) {
            let failed = |op| move |source: io::Error| BpfError::Map { op, map, source: source.into() };
            let shared = sys::obj_get(&other.pins.join(map)).map_err(failed("open"))?;
            sys::obj_pin(shared.as_fd(), &pins.join(map)).map_err(failed("pin"))?;
        }
    }
    Ok(())
}

/// Whether the map pinned in `theirs` has the shape that this layout gives it, and is the one in `ours` if there is one.
fn is_the_same(theirs: &Path, ours: &Path, map: &str) -> bool {
    let Ok(info) = MapInfo::from_pin(theirs.join(map)) else { return false };
    let same_object = match MapInfo::from_pin(ours.join(map)) {
        Ok(own) => own.id() == info.id(),
        Err(_) => true,
    };
    same_object && shape_of(map) == Some((info.key_size() as usize, info.value_size() as usize, info.max_entries()))
}
