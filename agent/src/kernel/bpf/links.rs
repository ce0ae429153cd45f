//! What is attached to what: one pinned link per attachment.
//!
//! A link is found again by the name of its pin. If it is alive and attached to the right thing, the new program is put
//! into it at once; if what it was attached to is gone or another, it is unpinned, which detaches, and made anew.
//!
//! Each link that was attached is also held open: a pin that somebody removes detaches nothing while the agent lives, and
//! `Links::disturbed` can ask each link at the price of one system call what has become of it.
//!
//! An agent of another layout left its links in another folder (see [`super::upgrade`]). They are taken over: the new
//! program goes into the old link, which is then pinned here, and only then unpinned there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::linker::{LetGo, Made};
use super::sys::{self, Attached, AttachedTo};
use super::{BpfError, Program, create_dir};

/// The name of the uplink's link.
pub const UPLINK: &str = "uplink";

/// How many links are asked at once what has become of them; each costs about half a microsecond.
const AT_ONCE: usize = 256;

/// What the names of containers' links begin with.
const CONTAINER: &str = "container-";

/// The name of a container's link.
#[must_use]
pub fn container(name: &str) -> String {
    format!("{CONTAINER}{name}")
}

/// The container whose link bears this name.
#[must_use]
pub fn container_of(link: &str) -> Option<&str> {
    link.strip_prefix(CONTAINER)
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
        container_of(&self.name)
    }
}

/// The folder of pinned links.
#[derive(Debug)]
pub(super) struct Links {
    dir: PathBuf,
    cgroup: PathBuf,
    /// Folders of links that agents of other layouts left.
    others: Vec<PathBuf>,
    held: BTreeMap<String, Held>,
    /// The last link that [`Links::disturbed`] asked.
    turn: Option<String>,
}

/// A link that this agent attached, or put its program into.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) link: OwnedFd,
    pub(super) as_left: Attached,
}

impl Links {
    /// Makes the folder if need be.
    pub(super) fn open(dir: PathBuf, cgroup: PathBuf, others: Vec<PathBuf>) -> Result<Self, BpfError> {
        let links = Self { dir, cgroup, others, held: BTreeMap::new(), turn: None };
        links.make_dir()?;
        Ok(links)
    }

    /// Makes the folder if it is not there.
    pub(super) fn make_dir(&self) -> Result<(), BpfError> {
        create_dir(&self.dir)
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The other layouts' folders are gone.
    pub(super) fn forget_others(&mut self) {
        self.others.clear();
    }

    /// Attaches a program at a device's ingress.
    pub(super) fn attach_device(&mut self, link: &str, ifindex: u32, program: BorrowedFd<'_>) -> Result<(), BpfError> {
        self.attach(link, AttachedTo::Device(ifindex), ifindex, sys::attach::TCX_INGRESS, program)
    }

    /// Attaches a program to the cgroup.
    pub(super) fn attach_cgroup(&mut self, program: Program, fd: BorrowedFd<'_>) -> Result<(), BpfError> {
        let open = |source| BpfError::Path { op: "open cgroup", path: self.cgroup.clone(), source };
        let cgroup = File::open(&self.cgroup).map_err(open)?;
        // A cgroup's id is its folder's inode number (kernfs; seen on 6.18).
        let id = cgroup.metadata().map_err(open)?.ino();
        let target = cgroup.as_raw_fd() as u32;
        self.attach(program.as_str(), AttachedTo::Cgroup(id), target, program.attach_type(), fd)
    }

    fn attach(
        &mut self,
        link: &str,
        wanted: AttachedTo,
        target: u32,
        attach_type: u32,
        program: BorrowedFd<'_>,
    ) -> Result<(), BpfError> {
        let failed = |op| move |source| BpfError::Link { op, link: link.to_owned(), source };
        let id = sys::program_id(program).map_err(failed("identify program of link"))?;
        let as_left = Attached { to: wanted, program: id };
        if let Some(there) = self.find(link, wanted)? {
            match sys::link_update(there.as_fd(), program) {
                Ok(()) => {
                    // Pinned here before it is unpinned elsewhere: at no moment does the link depend on this process.
                    self.pin(link, there.as_fd())?;
                    self.held.insert(link.to_owned(), Held { link: there, as_left });
                    return self.others.iter().try_for_each(|dir| unpin(dir.join(encode(link))));
                }
                // The device or cgroup went away in this moment.
                Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(e) => return Err(failed("replace program of link")(e)),
            }
        }
        self.detach(link)?;
        let made = sys::link_create(program, target, attach_type).map_err(failed("attach link"))?;
        self.pin(link, made.as_fd())?;
        self.held.insert(link.to_owned(), Held { link: made, as_left });
        Ok(())
    }

    /// A link of this name that is attached to what is wanted: pinned here, held although its pin is gone, or pinned by an
    /// agent of another layout. What is pinned here under this name and is attached to something else is unpinned.
    fn find(&self, link: &str, wanted: AttachedTo) -> Result<Option<OwnedFd>, BpfError> {
        let inspect = |source| BpfError::Link { op: "inspect link", link: link.to_owned(), source };
        let fits = |fd: &OwnedFd| Ok::<_, BpfError>(sys::link_info(fd.as_fd()).map_err(inspect)?.to == wanted);
        if let Some(pinned) = self.get(link)? {
            if fits(&pinned)? {
                return Ok(Some(pinned));
            }
            unpin(self.path(link))?;
        }
        if let Some(held) = self.held.get(link)
            && fits(&held.link)?
        {
            return held.link.try_clone().map(Some).map_err(inspect);
        }
        for dir in &self.others {
            if let Some(pinned) = get_at(&dir.join(encode(link)), link)?
                && fits(&pinned)?
            {
                return Ok(Some(pinned));
            }
        }
        Ok(None)
    }

    /// Pins a link unless it is.
    fn pin(&self, link: &str, fd: BorrowedFd<'_>) -> Result<(), BpfError> {
        match sys::obj_pin(fd, &self.path(link)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(|source| BpfError::Link { op: "pin link", link: link.to_owned(), source }),
        }
    }

    /// Unpins a link and lets go of it, wherever it is pinned. The kernel detaches when nobody has it open any more.
    pub(super) fn detach(&mut self, link: &str) -> Result<(), BpfError> {
        self.held.remove(link);
        unpin(self.path(link))?;
        self.others.iter().try_for_each(|dir| unpin(dir.join(encode(link))))
    }

    /// Takes over a link that was made beside.
    pub(super) fn hold(&mut self, made: Made) {
        self.held.insert(made.link, made.held);
    }

    /// Forgets a link; unpinning and closing it is for whoever has the time. No other layout has one of this name.
    pub(super) fn let_go(&mut self, link: &str) -> LetGo {
        LetGo { path: self.path(link), held: self.held.remove(link) }
    }

    /// A link that this agent attached and that is no longer as it left it: detached, or with another program. Asks
    /// [`AT_ONCE`] of them, the next ones the next time.
    pub(super) fn disturbed(&mut self) -> Option<String> {
        let as_left = |held: &Held| sys::link_info(held.link.as_fd()).is_ok_and(|now| now == held.as_left);
        let from = self.turn.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (name, held) in self.held.range::<String, _>((from, Bound::Unbounded)).take(AT_ONCE) {
            if !as_left(held) {
                return Some(name.clone());
            }
            last = Some(name);
        }
        // After the last of all it is the first one's turn.
        self.turn = last.filter(|name| self.held.keys().next_back() != Some(*name)).cloned();
        None
    }

    /// The first link that this agent attached and that is not pinned any more.
    pub(super) fn unpinned(&self) -> Option<&str> {
        self.held.keys().find(|name| !self.path(name).exists()).map(String::as_str)
    }

    /// All pinned links, in the order of names.
    pub(super) fn list(&self) -> Result<Vec<LinkState>, BpfError> {
        let failed = |source| BpfError::Path { op: "list", path: self.dir.clone(), source };
        let mut links = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let name = decode(&entry.map_err(failed)?.file_name().to_string_lossy());
            // Unpinned since the folder was read: not there.
            let Some(fd) = self.get(&name)? else { continue };
            let info =
                sys::link_info(fd.as_fd()).map_err(|source| BpfError::Link { op: "inspect link", link: name.clone(), source })?;
            let (alive, ifindex) = match info.to {
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
        get_at(&self.path(link), link)
    }

    fn path(&self, link: &str) -> PathBuf {
        self.dir.join(encode(link))
    }
}

fn get_at(path: &Path, link: &str) -> Result<Option<OwnedFd>, BpfError> {
    match sys::obj_get(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(source) => Err(BpfError::Link { op: "open link", link: link.to_owned(), source }),
    }
}

pub(super) fn unpin(path: PathBuf) -> Result<(), BpfError> {
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BpfError::Path { op: "unpin", path, source }),
        _ => Ok(()),
    }
}

/// A file name for any text: bpffs refuses dots, and nobody likes slashes. Other bytes than letters, digits and `-`
/// become `_` and two hexadecimal digits.
pub(super) fn encode(name: &str) -> String {
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
