//! A real etcd on loopback, with its data in a folder of its own; killed when dropped, or when the test dies.
#![allow(dead_code, reason = "every test crate that starts a server uses another part of this")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use weft_store::etcd::{EtcdConfig, EtcdStore};

use super::support::LONG;

/// How the server and its clients speak.
#[derive(Clone, Default)]
pub struct Tls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

pub struct EtcdServer {
    child: Option<Child>,
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
    /// `name=peer URL` of every member of its cluster.
    members: Vec<String>,
    arguments: Vec<String>,
    tls: Option<Tls>,
}

impl EtcdServer {
    pub fn start() -> Self {
        Self::start_with(&[], None)
    }

    /// With more arguments, and with TLS that asks clients for a certificate.
    pub fn start_with(arguments: &[&str], tls: Option<Tls>) -> Self {
        Self::start_cluster(1, arguments, tls).remove(0)
    }

    /// Several members of one cluster.
    pub fn start_cluster(size: usize, arguments: &[&str], tls: Option<Tls>) -> Vec<Self> {
        for _ in 0..10 {
            // Ports that were free a moment ago. Whoever takes one meanwhile makes etcd exit, and others are tried.
            let ports = free_ports(2 * size);
            let members: Vec<String> =
                ports.chunks(2).map(|ports| format!("m{}=http://127.0.0.1:{}", ports[1], ports[1])).collect();
            let mut servers: Vec<Self> = ports
                .chunks(2)
                .map(|ports| Self {
                    child: None,
                    dir: tempfile::tempdir().unwrap(),
                    client_port: ports[0],
                    peer_port: ports[1],
                    members: members.clone(),
                    arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
                    tls: tls.clone(),
                })
                .collect();
            if servers.iter_mut().all(Self::run) {
                return servers;
            }
        }
        panic!("no etcd could be started on ten sets of free ports");
    }

    /// One more member of the cluster that `self` belongs to, as a learner: it follows, and neither votes nor serves.
    pub fn add_learner(&self) -> Self {
        let ports = free_ports(2);
        let (name, url) = (format!("m{}", ports[1]), format!("http://127.0.0.1:{}", ports[1]));
        let peer_urls = format!("--peer-urls={url}");
        self.etcdctl_until(&["member", "add", &name, &peer_urls, "--learner"]);
        let mut learner = Self {
            child: None,
            dir: tempfile::tempdir().unwrap(),
            client_port: ports[0],
            peer_port: ports[1],
            members: self.members.iter().cloned().chain([format!("{name}={url}")]).collect(),
            arguments: ["--initial-cluster-state", "existing"].map(str::to_owned).to_vec(),
            tls: None,
        };
        // Its peer URL is in the cluster now; should somebody have taken a port meanwhile, he is waited for.
        let end = Instant::now() + LONG;
        while !learner.run() {
            assert!(Instant::now() < end, "the learner does not start");
        }
        learner
    }

    /// Starts the process and waits until it listens; false if it exits instead.
    fn run(&mut self) -> bool {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new("etcd");
        command
            .env_clear()
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--name", &format!("m{}", self.peer_port)])
            .args(["--log-level", "warn", "--logger", "zap"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.members.join(",")])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth");
            command.arg("--trusted-ca-file").arg(&tls.ca);
            command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
        }
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
        unsafe { command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        let child = command.spawn().expect("start etcd (Debian: etcd-server)");
        let (address, log) = (self.address(), self.log());
        let child = self.child.insert(child);
        let end = Instant::now() + LONG;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                eprintln!("etcd exited with {status}:\n{}", std::fs::read_to_string(log).unwrap());
                self.child = None;
                return false;
            }
            if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
                return true;
            }
            assert!(Instant::now() < end, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.client_port).into()
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    pub fn config(&self) -> EtcdConfig {
        EtcdConfig { endpoints: vec![self.endpoint()], ..EtcdConfig::default() }
    }

    pub async fn store(&self) -> EtcdStore {
        EtcdStore::connect(self.config()).await.unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().expect("etcd runs").id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Stops it without ending it: connections stay, answers do not come. Returns once every thread of it has stopped:
    /// `kill` itself returns before that, and one thread may still answer (seen on Linux 6.18).
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let end = Instant::now() + LONG;
        while !self.is_stopped() {
            assert!(Instant::now() < end, "etcd does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether every thread is in state T (proc_pid_stat(5)).
    fn is_stopped(&self) -> bool {
        let pid = self.child.as_ref().expect("etcd runs").id();
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            // The name before it may hold anything, also ")".
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Starts it again on the same data and ports.
    pub fn restart(&mut self) {
        self.kill();
        // The ports were ours a moment ago; another test's etcd may try them and will exit by itself.
        let end = Instant::now() + LONG;
        while !self.run() {
            assert!(Instant::now() < end, "etcd does not come back");
        }
    }

    /// Starts it again with nothing in it.
    pub fn restart_empty(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
        self.restart();
    }

    /// Runs etcdctl, which must succeed.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        let output = self.etcdctl_output(arguments);
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs etcdctl until it succeeds: a cluster takes no new member before its own have been well for a while.
    pub fn etcdctl_until(&self, arguments: &[&str]) -> String {
        let end = Instant::now() + LONG;
        loop {
            let output = self.etcdctl_output(arguments);
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(Instant::now() < end, "etcdctl {arguments:?}: {said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn etcdctl_output(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new("etcdctl");
        command.env_clear().env("ETCDCTL_API", "3").arg("--endpoints").arg(self.url());
        if let Some(tls) = &self.tls {
            command.arg("--cacert").arg(&tls.ca).arg("--cert").arg(&tls.cert).arg("--key").arg(&tls.key);
        }
        command.args(arguments).output().expect("run etcdctl (Debian: etcd-client)")
    }

    /// The id that the cluster knows this member by, hexadecimal, and whether it leads.
    pub fn member(&self) -> (String, bool) {
        let said = self.etcdctl_until(&["endpoint", "status", "-w", "fields"]);
        let field = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\" : ")));
            line.unwrap_or_else(|| panic!("no {name} in {said}")).trim().parse::<u64>().unwrap()
        };
        (format!("{:x}", field("MemberID")), field("MemberID") == field("Leader"))
    }

    fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.endpoint())
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("etcd's log:\n{}", std::fs::read_to_string(self.log()).unwrap_or_default());
        }
    }
}

/// Ports that nobody uses now.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
