//! What a test of `netctl run` stands on: an agent of the test's own with a cgroup, and a `netctl` that is watched.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::server::{Answer, Request, Server};

/// Long enough for a machine that does other things too.
pub const BOUND: Duration = Duration::from_secs(30);

/// nsfs.h: the kind of namespace that a file stands for, as its clone flag.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// A cgroup of the test's own, which stands for the agent's. Dropping it kills and removes what is in it.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = table.lines().find(|l| l.contains(" - cgroup2 ")).expect("cgroup v2 is mounted");
        let root = Path::new(mount.split(' ').nth(4).unwrap());
        let dir = root.join(format!("netctl-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&dir).expect("root may make a cgroup");
        Self(dir)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.0.join("weft/run-web-1")
    }

    /// All cgroups below it.
    pub fn below(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), found);
                    found.push(entry.path());
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.0, &mut found);
        found
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let start = Instant::now();
        while self.0.exists() && start.elapsed() < BOUND {
            for dir in self.below().into_iter().chain([self.0.clone()]) {
                let _ = fs::remove_dir(dir);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What the agent knows of the attached namespace.
#[derive(Debug)]
pub struct Seen {
    pub inode: u64,
    pub kind: i32,
    /// Held as an agent holds it, until it is detached.
    _namespace: File,
}

/// An agent with a cgroup.
pub struct Agent {
    pub server: Server,
    pub cgroup: Cgroup,
    pub seen: Arc<Mutex<Option<Seen>>>,
}

impl Agent {
    pub fn start() -> Self {
        Self::with(|_| None)
    }

    /// One that answers as `special` says where that says anything.
    pub fn with(special: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        // Who starts the tests by nohup(1) has SIGHUP ignored, a shell's `&` SIGINT and SIGQUIT, and what we start would inherit that.
        for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            // SAFETY: no handler is set, and nobody here counts on the signal being ignored.
            unsafe { signal(ignored, SigHandler::SigDfl) }.unwrap();
        }
        let cgroup = Cgroup::new();
        let seen = Arc::new(Mutex::new(None));
        let (path, held) = (cgroup.0.clone(), Arc::clone(&seen));
        let attached = Mutex::new(Value::Null);
        let server = Server::start(move |request| {
            if let Some(answer) = special(request) {
                return answer;
            }
            let value = match request.line.as_str() {
                "GET /v1/status" => status(&path),
                "POST /v1/attachments" => {
                    let netns = request.body["netns"].as_str().unwrap();
                    *held.lock().unwrap() = Some(look_at(Path::new(netns)));
                    *attached.lock().unwrap() = attached_as(netns, &path);
                    attached.lock().unwrap().clone()
                }
                "GET /v1/attachments" => json!([attached.lock().unwrap().clone()]),
                "DELETE /v1/attachments/web-1" => {
                    // The namespace is still there when it is taken back.
                    let netns = attached.lock().unwrap()["netns"].as_str().unwrap().to_owned();
                    assert_eq!(fs::metadata(&netns).unwrap().ino(), held.lock().unwrap().take().unwrap().inode);
                    attached.lock().unwrap().clone()
                }
                other => panic!("{other}"),
            };
            Some((200, value))
        });
        Self { server, cgroup, seen }
    }

    /// `netctl run … -- COMMAND`, in a session of its own: without a terminal, whatever the tester has.
    pub fn command(&self, command: &[&str]) -> Command {
        self.command_with(&[], command)
    }

    /// The same with further options.
    pub fn command_with(&self, options: &[&str], command: &[&str]) -> Command {
        let mut netctl = self.server.netctl();
        netctl.args(["run", "--name", "web"]).args(options).arg("--").args(command).stdin(Stdio::null());
        in_new_session(&mut netctl);
        netctl
    }

    pub fn run(&self, command: &[&str]) -> Output {
        self.command(command).output().unwrap()
    }

    pub fn start_script(&self, script: &str) -> Running {
        Running::start(self.command(&["sh", "-c", script]))
    }

    /// What must hold after every end.
    pub fn assert_clean(&self) {
        assert_eq!(self.cgroup.below(), Vec::<PathBuf>::new());
        assert!(self.seen.lock().unwrap().is_none(), "not detached: {:?}", self.server.lines());
    }
}

pub fn status(cgroup: &Path) -> Value {
    json!({
        "node": "h1", "ready": true, "reasons": [], "subnet": "10.244.3.0/24", "subnet6": null, "dns": ["10.244.3.1:53"],
        "store": {"kind": "embedded", "connected": true, "revision": 1}, "peers": [], "datapath": {"fast": true, "why_not": null},
        "cgroup": cgroup,
    })
}

pub fn attached_as(netns: &str, cgroup: &Path) -> Value {
    json!({
        "id": "web-1", "netns": netns, "ifname": "eth0", "addresses": ["10.244.3.5/32"], "gateway": "10.244.3.1",
        "mac": "0a:58:0a:f4:03:05", "mtu": 1450, "host_ifname": "weft0a1b", "dns": ["10.244.3.1"], "search": ["skydns.local"],
        "names": [], "network": "default", "cgroup": cgroup, "record": "none",
    })
}

/// Opens a network namespace as an agent does.
fn look_at(path: &Path) -> Seen {
    let file = File::open(path).unwrap();
    // SAFETY: the request takes no argument and answers with a number; the file is open.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    Seen { inode: file.metadata().unwrap().ino(), kind, _namespace: file }
}

pub fn in_new_session(command: &mut Command) {
    // SAFETY: setsid(2) alone runs between fork and exec.
    unsafe { command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
}

/// Exit code, standard output, standard error.
pub fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().expect("netctl is not killed"), text(&output.stdout), text(&output.stderr))
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < BOUND, "not within {BOUND:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn alive(pid: u32) -> bool {
    // A zombie is dead, and waits for its parent only.
    !matches!(state(pid), 'Z' | 'X')
}

/// A process's state as proc(5) has it, `X` where there is none.
pub fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // It comes after the last parenthesis: the name before it may hold anything.
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('X')
}

/// A `netctl run` whose output is read line by line, none of which may take for ever. Dropping it kills it.
pub struct Running {
    pub netctl: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut netctl = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let out = netctl.stdout.take().unwrap();
        Self::reading(netctl, out)
    }

    pub fn reading(netctl: Child, out: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                if sender.send(line.unwrap().trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { netctl, lines }
    }

    pub fn line(&self) -> String {
        self.lines.recv_timeout(BOUND).expect("the command prints a line")
    }

    /// What comes until nobody has the output any more.
    pub fn rest(&self) -> Vec<String> {
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(BOUND) {
                Ok(line) => rest.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return rest,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the output does not end after {rest:?}"),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.netctl.id().cast_signed()), signal).unwrap();
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        eventually("netctl ends", || self.netctl.try_wait().unwrap().is_some());
        self.netctl.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.netctl.kill();
        let _ = self.netctl.wait();
    }
}
