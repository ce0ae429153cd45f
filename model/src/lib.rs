//! The nouns of Weft: what is stored, what makes it valid, and the complete view of it at one revision.
//!
//! Pure: no sockets, files, clocks or tasks; a function that needs the time takes it. Every other crate may point here, and
//! this one points at nothing of ours. Read [`keys`] for the layout in the store, then [`snapshot`].

pub mod ids;
