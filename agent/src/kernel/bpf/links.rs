//! What is attached to what: one pinned link per attachment.
//!
//! A link is found again by the name of its pin. If it is alive and attached to the right thing, the new program is put
//! into it at once; if what it was attached to is gone or another, it is unpinned, which detaches, and made anew.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::sys::{self, AttachedTo};
use super::{BpfError, Program, create_dir};

/// The name of the uplink's link.
pub const UPLINK: &str = "uplink";

/// What the names of containers' links begin with.
const CONTAINER: &str = "container-";

/// The name of a container's link.
#[must_use]
pub fn container(name: &str) -> String {
    format!("{CONTAINER}{name}")
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Its name: `uplink`, `container-<name>`, or a socket program's.
    pub name: String,
    /// Whether what it was attached to still exists.
    pub alive: bool,
    /// The device it is attached to; `None` for cgroups, and for devices that are gone.
    pub ifindex: Option<u32>,
}

impl LinkState {
    /// The container whose link this is, as [`super::Datapath::attach_container`] was told.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        self.name.strip_prefix(CONTAINER)
    }
}

/// The folder of pinned links.
#[derive(Debug)]
pub(super) struct Links {
    dir: PathBuf,
    cgroup: PathBuf,
}

impl Links {
    /// Makes the folder if need be.
    pub(super) fn open(dir: PathBuf, cgroup: PathBuf) -> Result<Self, BpfError> {
        let links = Self { dir, cgroup };
        links.make_dir()?;
        Ok(links)
    }

    /// Makes the folder if it is not there.
    pub(super) fn make_dir(&self) -> Result<(), BpfError> {
        create_dir(&self.dir)
    }

    /// Attaches a program at a device's ingress.
    pub(super) fn attach_device(&self, link: &str, ifindex: u32, program: BorrowedFd<'_>) -> Result<(), BpfError> {
        self.attach(link, AttachedTo::Device(ifindex), ifindex, sys::attach::TCX_INGRESS, program)
    }

    /// Attaches a program to the cgroup.
    pub(super) fn attach_cgroup(&self, program: Program, fd: BorrowedFd<'_>) -> Result<(), BpfError> {
        let open = |source| BpfError::Path { op: "open cgroup", path: self.cgroup.clone(), source };
        let cgroup = File::open(&self.cgroup).map_err(open)?;
        // A cgroup's id is its folder's inode number (kernfs; seen on 6.18).
        let id = cgroup.metadata().map_err(open)?.ino();
        let target = cgroup.as_raw_fd() as u32;
        self.attach(program.as_str(), AttachedTo::Cgroup(id), target, program.attach_type(), fd)
    }

    fn attach(
        &self,
        link: &str,
        wanted: AttachedTo,
        target: u32,
        attach_type: u32,
        program: BorrowedFd<'_>,
    ) -> Result<(), BpfError> {
        let failed = |op| move |source| BpfError::Link { op, link: link.to_owned(), source };
        if let Some(pinned) = self.get(link)? {
            if sys::link_target(pinned.as_fd()).map_err(failed("inspect link"))? == wanted {
                match sys::link_update(pinned.as_fd(), program) {
                    Ok(()) => return Ok(()),
                    // The device or cgroup went away in this moment.
                    Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => {}
                    Err(e) => return Err(failed("replace program of link")(e)),
                }
            }
            self.detach(link)?;
        }
        let made = sys::link_create(program, target, attach_type).map_err(failed("attach link"))?;
        sys::obj_pin(made.as_fd(), &self.path(link)).map_err(failed("pin link"))
    }

    /// Unpins a link. The kernel detaches when the last descriptor is closed, and nobody else keeps one.
    pub(super) fn detach(&self, link: &str) -> Result<(), BpfError> {
        let path = self.path(link);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BpfError::Path { op: "unpin", path, source }),
            _ => Ok(()),
        }
    }

    /// All pinned links, in the order of names.
    pub(super) fn list(&self) -> Result<Vec<LinkState>, BpfError> {
        let failed = |source| BpfError::Path { op: "list", path: self.dir.clone(), source };
        let mut links = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = decode(&entry.map_err(failed)?.file_name().to_string_lossy());
            // Unpinned since the folder was read: not there.
            let Some(fd) = self.get(&name)? else { continue };
            let target = sys::link_target(fd.as_fd()).map_err(|source| BpfError::Link {
                op: "inspect link",
                link: name.clone(),
                source,
            })?;
            let (alive, ifindex) = match target {
                AttachedTo::Device(0) | AttachedTo::Cgroup(0) | AttachedTo::Other => (false, None),
                AttachedTo::Device(ifindex) => (true, Some(ifindex)),
                AttachedTo::Cgroup(_) => (true, None),
            };
            links.push(LinkState { name, alive, ifindex });
        }
        links.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(links)
    }

    fn get(&self, link: &str) -> Result<Option<OwnedFd>, BpfError> {
        match sys::obj_get(&self.path(link)) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(source) => Err(BpfError::Link { op: "open link", link: link.to_owned(), source }),
        }
    }

    fn path(&self, link: &str) -> PathBuf {
        self.dir.join(encode(link))
    }
}

/// A file name for any text: bpffs refuses dots, and nobody likes slashes. Other bytes than letters, digits and `-`
/// become `_` and two hexadecimal digits.
fn encode(name: &str) -> String {
    name.bytes().fold(String::with_capacity(name.len()), |mut file, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            file.push(char::from(byte));
        } else {
            file.push_str(&format!("_{byte:02x}"));
        }
        file
    })
}

/// The text of a file name; what [`encode`] did not make is taken as it is.
fn decode(file: &str) -> String {
    let mut bytes = Vec::with_capacity(file.len());
    let mut rest = file.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [high, low, ..] if *first == b'_' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push(high << 4 | low);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_as_a_file() {
        for name in ["uplink", "container-web-1a2b3c", "container-eth0.100", "container-a/b_c", "container-Ä _2e", "_", "__5"] {
            let file = encode(name);
            assert!(file.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{file}");
            assert_eq!(decode(&file), name);
        }
        assert_ne!(encode("a.b"), encode("a_b"));
    }

    #[test]
    fn a_containers_link_names_it() {
        let link = LinkState { name: container("web.1"), alive: true, ifindex: Some(7) };
        assert_eq!(link.container(), Some("web.1"));
        let uplink = LinkState { name: UPLINK.to_owned(), alive: true, ifindex: Some(2) };
        assert_eq!(uplink.container(), None);
    }
}
