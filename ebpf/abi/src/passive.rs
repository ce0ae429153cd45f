//! Rows of the second object, which watches how connections to backends go. Its maps are never pinned: they live as long as the
//! agent that made them, so nothing here is part of the layout that [`LAYOUT_VERSION`](crate::LAYOUT_VERSION) numbers.

use crate::maps::FrontendKey;
use crate::order::{Be16, Be32};

/// Hash of [`FrontendKey`] to u32 (any): connections by way of these are watched.
pub const WATCHED: &str = "weft_watched";

/// LRU hash of socket cookie (u64) to [`Attempt`]: connections that are being made.
pub const ATTEMPTS: &str = "weft_attempts";

/// LRU hash of [`Pair`] to u32 (any): what failed and has not succeeded since. Only there a success is worth telling.
pub const FAILING: &str = "weft_failing";

/// Ring buffer of [`Told`].
pub const TOLD: &str = "weft_told";

/// How many rows the maps take, and how many bytes the ring buffer.
pub mod capacity {
    /// Frontends of services that want it.
    pub const WATCHED: u32 = 16_384;
    /// Connections that are being made; the oldest make room and are not counted.
    pub const ATTEMPTS: u32 = 16_384;
    /// Backends that fail; the oldest make room, and their successes are not told.
    pub const FAILING: u32 = 16_384;
    /// Bytes; an entry takes 24. What finds no room is not told.
    pub const TOLD: u32 = 65_536;
}

/// How long a connection that nothing answered must have been tried before giving it up counts as a failure, in nanoseconds.
/// Clients that try several addresses at once (RFC 8305) drop the slower ones within milliseconds of the first answer.
pub const PATIENCE_NS: u64 = 200_000_000;

/// A connection that is being made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Attempt {
    /// When it began (`CLOCK_MONOTONIC`), in nanoseconds.
    pub at: u64,
    /// Where the application went.
    pub frontend: FrontendKey,
}

/// A backend, as one frontend leads to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Pair {
    /// Where the application went.
    pub frontend: FrontendKey,
    /// The backend's address.
    pub addr: Be32,
    /// Its port.
    pub port: Be16,
    /// Zero.
    pub pad: u16,
}

/// How a connection went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Told {
    /// The backend.
    pub pair: Pair,
    /// One of the constants below.
    pub outcome: u32,
}

impl Told {
    /// It was made, after one to there had failed.
    pub const ESTABLISHED: u32 = 0;
    /// The backend's host said no.
    pub const REFUSED: u32 = 1;
    /// Nothing answered for [`PATIENCE_NS`] or longer, until the kernel or the application gave up.
    pub const UNANSWERED: u32 = 2;
}

const _: () = {
    assert!(size_of::<Attempt>() == 16);
    assert!(size_of::<Pair>() == 16);
    assert!(size_of::<Told>() == 20);
    assert!(WATCHED.len() <= 15 && ATTEMPTS.len() <= 15 && FAILING.len() <= 15 && TOLD.len() <= 15);
};

macro_rules! pod {
    ($($ty:ty),*) => {$(
        #[cfg(feature = "user")]
        // SAFETY: repr(C), integers only, padding explicit (the sizes are asserted above).
        unsafe impl aya::Pod for $ty {}
    )*};
}

pod!(Attempt, Pair, Told);
