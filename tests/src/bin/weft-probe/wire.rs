//! Packets as they are: one as given onto the wire, and those of a device as they pass.

use std::io::Error;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

/// The longest frame that is kept, in bytes: several segments in one, as veths pass them.
const LONGEST: usize = 1 << 17;

/// `sockaddr_ll.sll_pkttype` of what the host itself sends.
const OUTGOING: u8 = libc::PACKET_OUTGOING;

/// `send-ip`: one IPv4 packet, header included, to where the header says.
#[derive(clap::Args)]
pub struct SendIp {
    /// The packet, in hexadecimal; the kernel changes nothing but an id of 0 and the header's checksum
    packet: String,
}

impl SendIp {
    /// Sends it. Linux marks such a packet as one whose checksums are done.
    pub fn run(&self) -> Result<()> {
        let packet = from_hex(&self.packet)?;
        let destination: [u8; 4] = packet.get(16..20).context("no IPv4 header")?.try_into()?;
        let socket = socket(libc::AF_INET, libc::IPPROTO_RAW)?;
        let to = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from(Ipv4Addr::from(destination)).to_be() },
            sin_zero: [0; 8],
        };
        // SAFETY: the buffer and the address live in this frame, with the lengths that are given.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_in>() as libc::socklen_t,
            )
        };
        ensure!(usize::try_from(sent) == Ok(packet.len()), "send: {}", Error::last_os_error());
        Ok(())
    }
}

/// `capture`: the UDP packets to a port that come in by a device.
#[derive(clap::Args)]
pub struct Capture {
    /// The device
    device: String,
    /// The UDP port that they go to
    port: u16,
}

impl Capture {
    /// Prints `{"frame"}`, in hexadecimal, for each until it is killed.
    pub fn run(&self) -> Result<()> {
        let name = std::ffi::CString::new(self.device.as_str())?;
        // SAFETY: a string that ends with 0.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, "{}: {}", self.device, Error::last_os_error());
        let every = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = socket(libc::AF_PACKET, every)?;
        // SAFETY: all members are integers, for which zero is a value.
        let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        at.sll_family = libc::AF_PACKET as u16;
        at.sll_protocol = every as u16;
        at.sll_ifindex = i32::try_from(index)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the address lives in this frame, with the length that is given.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const at).cast(), length) };
        ensure!(bound == 0, "listen on {}: {}", self.device, Error::last_os_error());
        // Whoever waits for this line misses nothing from then on.
        eprintln!("listening on {}", self.device);

        let mut buffer = vec![0; LONGEST];
        loop {
            let (mut from, mut length) = (at, length);
            // SAFETY: buffer and address live in this frame, with the lengths that are given.
            let got = unsafe {
                libc::recvfrom(
                    socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            let Ok(got) = usize::try_from(got) else { bail!("read: {}", Error::last_os_error()) };
            let frame = &buffer[..got];
            if from.sll_pkttype != OUTGOING && udp_port(frame) == Some(self.port) {
                println!("{}", json!({"frame": to_hex(frame)}));
            }
        }
    }
}

/// The destination port of a UDP packet over IPv4 or IPv6 without extension headers, in an Ethernet frame.
fn udp_port(frame: &[u8]) -> Option<u16> {
    let udp = match frame.get(12..14)? {
        [0x08, 0x00] if *frame.get(23)? == 17 => 14 + usize::from(frame.get(14)? & 0xf) * 4,
        [0x86, 0xdd] if *frame.get(20)? == 17 => 14 + 40,
        _ => return None,
    };
    Some(u16::from_be_bytes(frame.get(udp + 2..udp + 4)?.try_into().ok()?))
}

fn socket(family: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: takes integers, gives a descriptor or an error.
    let raw = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    ensure!(raw >= 0, "open a raw socket: {}", Error::last_os_error());
    // SAFETY: it was just opened, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let byte = |at: usize| {
        let digits = text.get(at..at + 2).context("half a byte")?;
        u8::from_str_radix(digits, 16).with_context(|| format!("{digits:?} is no byte"))
    };
    (0..text.len()).step_by(2).map(byte).collect()
}
