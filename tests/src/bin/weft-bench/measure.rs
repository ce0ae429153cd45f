//! Measuring between two places: half round trips, one TCP stream, the rate of small packets.
//!
//! A figure is taken from many short intervals, so that those in which something else had the CPU do not count.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weft_tests::eventually::SOON;
use weft_tests::{Daemon, Place, eventually};

use crate::stats::Quartiles;

/// The ports: what has a fixed partner must have a fixed port itself.
const CONNECTED_NEAR: u16 = 7001;
const CONNECTED_FAR: u16 = 7002;
const UNCONNECTED: u16 = 7003;
const SINK: u16 = 7004;
const STREAM: u16 = 5201;

/// The part of a stream that is not counted: the window is still growing.
const SLOW_START: f64 = 0.2;

/// Two places with servers in the second.
pub struct Pair {
    /// Its name.
    pub name: &'static str,
    near: Place,
    near_address: Ipv4Addr,
    far: Place,
    address: Ipv4Addr,
    cpus: [usize; 2],
    _servers: Vec<Daemon>,
}

/// What the sockets of a round trip are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// `connect`, then `send` and `recv`: nothing is done for a packet beside sending it.
    Connected,
    /// `sendto` and `recvfrom`: the socket hooks for virtual addresses run as well.
    Unconnected,
}

impl Pair {
    /// Starts the servers; packets have gone to and fro when this returns.
    pub fn open(
        name: &'static str,
        near: &Place,
        near_address: Ipv4Addr,
        far: &Place,
        address: Ipv4Addr,
        dir: &Path,
        cpus: [usize; 2],
    ) -> Result<Self> {
        let spawn = |what: &str, words: Vec<OsString>| far.spawn(dir, &format!("{name}-{what}"), words);
        let on = |port| SocketAddrV4::new(address, port).to_string();
        let cpu = cpus[0].to_string();
        let from = SocketAddrV4::new(near_address, CONNECTED_NEAR).to_string();
        let connected = end(&["echo", &on(CONNECTED_FAR), "--connect", &from, "--cpu", &cpu])?;
        let unconnected = end(&["echo", &on(UNCONNECTED), "--cpu", &cpu])?;
        let stream = ["iperf3", "-s", "-B", &address.to_string(), "-p", &STREAM.to_string()].map(OsString::from).to_vec();
        let servers = vec![spawn("connected", connected)?, spawn("unconnected", unconnected)?, spawn("iperf3", stream)?];
        let pair = Self { name, near: near.clone(), near_address, far: far.clone(), address, cpus, _servers: servers };
        for sockets in [Sockets::Connected, Sockets::Unconnected] {
            eventually(&format!("{name}: packets come back"), SOON, || pair.half_rtt(sockets, Duration::from_millis(20)))?;
        }
        Ok(pair)
    }

    /// Half a round trip of a 64-byte datagram in microseconds, both ends on one CPU.
    pub fn half_rtt(&self, sockets: Sockets, time: Duration) -> Result<f64> {
        let port = if sockets == Sockets::Connected { CONNECTED_FAR } else { UNCONNECTED };
        let to = SocketAddrV4::new(self.address, port).to_string();
        let from = SocketAddrV4::new(self.near_address, CONNECTED_NEAR).to_string();
        let (cpu, ms) = (self.cpus[0].to_string(), time.as_millis().to_string());
        let mut words = vec!["ping", &to, "--cpu", &cpu, "--ms", &ms];
        if sockets == Sockets::Connected {
            words.extend(["--bind", &from]);
        }
        let report = self.near.exec(end(&words)?)?.json()?;
        report["half_rtt_us"].as_f64().with_context(|| format!("{}: {report}", self.name))
    }

    /// One TCP stream in Gbit/s, the ends on two CPUs.
    pub fn stream(&self) -> Result<f64> {
        let [sender, receiver] = self.cpus;
        let line =
            format!("iperf3 -c {} -p {STREAM} -B {} -t 1 -i 0.1 -A {sender},{receiver} -J", self.address, self.near_address);
        let report = self.near.exec(line.split(' '))?;
        let report: Value = serde_json::from_str(&report.stdout).with_context(|| format!("{line} printed {report:?}"))?;
        if let Some(error) = report["error"].as_str() {
            bail!("{line}: {error}");
        }
        let intervals = report["intervals"].as_array().context("iperf3 gives no intervals")?;
        let rates: Vec<f64> = intervals.iter().filter_map(|i| i["sum"]["bits_per_second"].as_f64()).collect();
        let warm = &rates[(rates.len() as f64 * SLOW_START) as usize..];
        // The upper quartile: an interval is so long that on a busy machine most are disturbed, which only ever takes away.
        Ok(Quartiles::of(warm).with_context(|| format!("{line}: no intervals"))?.high / 1e9)
    }

    /// How many thousand 64-byte datagrams a second one CPU sends and forwards; what does not arrive does not count. The
    /// other CPU only counts them.
    pub fn rate(&self, time: Duration) -> Result<f64> {
        let to = SocketAddrV4::new(self.address, SINK).to_string();
        let [sender, counter] = self.cpus.map(|cpu| cpu.to_string());
        let ms = time.as_millis().to_string();
        // It is there a little longer than the sender.
        let longer = (time + Duration::from_millis(300)).as_millis().to_string();
        let mut sink = Running::start(&self.far, end(&["sink", &to, "--cpu", &counter, "--ms", &longer])?)?;
        ensure!(sink.line()? == "ready", "the counting end is not ready");
        let sending = self.near.exec(end(&["blast", &to, "--cpu", &sender, "--ms", &ms])?)?.json()?;
        let counted: Value = serde_json::from_str(&sink.line()?).context("what the counting end says")?;
        sink.wait()?;
        let number = |v: &Value| v.as_f64().with_context(|| format!("{}: {sending} {counted}", self.name));
        let arrived = number(&counted["received"])? / number(&sending["sent"])?;
        Ok(number(&sending["per_second"])? * arrived / 1e3)
    }
}

/// The words that start one of our ends.
fn end(words: &[&str]) -> Result<Vec<OsString>> {
    let own = std::env::current_exe().context("find this executable")?;
    Ok([own.into_os_string(), "end".into()].into_iter().chain(words.iter().map(OsString::from)).collect())
}

/// A process whose lines are read while it runs. Dropping it kills it.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(place: &Place, words: Vec<OsString>) -> Result<Self> {
        let mut command = place.command(&words[0])?;
        command.args(&words[1..]).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the counting end")?;
        let lines = BufReader::new(child.stdout.take().context("the pipe that was asked for")?);
        Ok(Self { child, lines })
    }

    /// Its next line. It ends by itself, so this does too.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line).context("read from the counting end")?;
        Ok(line.trim_end().to_owned())
    }

    fn wait(&mut self) -> Result<()> {
        let status = self.child.wait().context("wait for the counting end")?;
        ensure!(status.success(), "the counting end: {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, as a rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
