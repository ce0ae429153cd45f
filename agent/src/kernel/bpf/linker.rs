//! Links of containers, made and let go of beside everything else.
//!
//! Where a device gets or loses a program, the kernel waits for an RCU grace period and holds its lock of all devices meanwhile
//! (`tcx_entry_sync`; 5 to 25 ms on an idle 6.18, less than 0.2 where `/sys/kernel/rcu_expedited` is set, which is not ours to set).
//! Asking a link what it is attached to takes the same lock (`bpf_tcx_link_fill_link_info`). So what need not be waited for is done
//! here, on a thread of its own and without [`super::Datapath`]; a link that was made is handed to it with [`super::Datapath::hold`].
//! A link that is made and not pinned yet ends with this process, one that is pinned is found by the next.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::links::{Held, encode, unpin};
use super::sys::{self, Attached, AttachedTo};
use super::{BpfError, links};

/// Makes links of containers.
#[derive(Debug)]
pub struct Linker {
    pub(super) dir: PathBuf,
    pub(super) program: OwnedFd,
}

/// A link that was made and pinned.
#[derive(Debug)]
pub struct Made {
    pub(super) link: String,
    pub(super) held: Held,
}

/// A link that nobody wants any more.
#[derive(Debug)]
pub struct LetGo {
    pub(super) path: PathBuf,
    pub(super) held: Option<Held>,
}

impl Linker {
    /// As [`super::Datapath::attach_container`], for a container that has no link yet.
    ///
    /// # Errors
    /// The device is gone, or the kernel refuses; it refuses a second link with one program to one device.
    pub fn make(&self, name: &str, ifindex: u32) -> Result<Made, BpfError> {
        let link = links::container(name);
        let failed = |op| {
            let link = link.clone();
            move |source| BpfError::Link { op, link, source }
        };
        let program = sys::program_id(self.program.as_fd()).map_err(failed("identify program of link"))?;
        let made = sys::link_create(self.program.as_fd(), ifindex, sys::attach::TCX_INGRESS).map_err(failed("attach link"))?;
        sys::obj_pin(made.as_fd(), &self.dir.join(encode(&link))).map_err(failed("pin link"))?;
        let as_left = Attached { to: AttachedTo::Device(ifindex), program };
        Ok(Made { link, held: Held { link: made, as_left } })
    }
}

impl LetGo {
    /// Unpins it and closes it, which detaches it unless its device has gone.
    ///
    /// # Errors
    /// The pin could not be removed.
    pub fn finish(self) -> Result<(), BpfError> {
        let Self { path, held } = self;
        let unpinned = unpin(path);
        drop(held);
        unpinned
    }
}
