//! A VXLAN packet made by hand, to see who is at the other end and by which Ethernet address.
//!
//! A VXLAN device drops an inner frame that is not for its own Ethernet address, and counts it nowhere (Linux 6.18); so a
//! lease with a wrong `VtepMAC` shows as silence. An inner frame to everybody is taken: IP does not mind, since the packet in
//! it is for one address. The answer comes out of our own VXLAN device, with its sender's true address.
//!
//! ```text
//!   UDP socket ─▶ outer IP, UDP ─▶ VXLAN, VNI │ ff:ff:ff:ff:ff:ff, ours │ IPv4, ICMP echo ─▶ peer
//!   packet socket on weft.1 ◀── answer: source address of the peer's device
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use weft_model::mac::Mac;

use super::checksum;

/// Length of an Ethernet header, in bytes.
const ETHERNET: usize = 14;

/// Length of an IPv4 header without options, in bytes.
const IPV4: usize = 20;

/// What is asked, of whom.
#[derive(Clone, Debug)]
pub struct Knock {
    /// Our VXLAN device, by ifindex.
    pub device: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Our outer address.
    pub outer_from: IpAddr,
    /// The peer's outer address and port.
    pub outer_to: SocketAddr,
    /// The network.
    pub vni: u32,
    /// An inner address of ours that the peer has a route to.
    pub from: Ipv4Addr,
    /// An inner address of the peer's own.
    pub to: Ipv4Addr,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The peer's device has this address.
    Mac(Mac),
    /// Nobody listens on the port there.
    NobodyListens,
    /// Nothing came back.
    Silent,
}

/// Knocks `tries` times, and waits `pause` each time. Blocks.
///
/// # Errors
/// Packet sockets are not permitted (`CAP_NET_RAW`), or there is no way.
pub fn knock(knock: &Knock, tries: u32, pause: Duration) -> io::Result<Opened> {
    let ears = listen(knock.device)?;
    let mouth = UdpSocket::bind((knock.outer_from, 0))?;
    mouth.connect(knock.outer_to)?;
    mouth.set_nonblocking(true)?;
    let ident = (mouth.local_addr()?.port()).rotate_left(3);
    let packet = knock.packet(ident);
    let mut buffer = [0_u8; 2048];
    for _ in 0..tries {
        match mouth.send(&packet) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(Opened::NobodyListens),
            sent => drop(sent?),
        }
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(ears.as_fd(), PollFlags::POLLIN), PollFd::new(mouth.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, timeout);
            while let Ok(length) = nix::sys::socket::recv(ears.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                if let Some(mac) = knock.answer(&buffer[..length], ident) {
                    return Ok(Opened::Mac(mac));
                }
            }
            // ICMP port unreachable.
            if mouth.recv(&mut buffer).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
                return Ok(Opened::NobodyListens);
            }
        }
    }
    Ok(Opened::Silent)
}

/// A packet socket on one device.
fn listen(device: u32) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_IP as u16).to_be();
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointer is passed; protocol 0 hears nothing before it is bound to its device.
    let fd = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all bytes zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = device.cast_signed();
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `address` is a sockaddr_ll of that length, read during the call only.
    let result = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) };
    if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

impl Knock {
    /// What goes into the UDP packet.
    fn packet(&self, ident: u16) -> Vec<u8> {
        // RFC 7348 5: flags with the I bit, reserved, VNI in three bytes, reserved.
        let mut packet = vec![0x08, 0, 0, 0];
        packet.extend((self.vni << 8).to_be_bytes());
        packet.extend(frame(Mac([0xff; 6]), self.mac, self.from, self.to, ident));
        packet
    }

    /// The sender of a frame, if it is the answer.
    fn answer(&self, frame: &[u8], ident: u16) -> Option<Mac> {
        let ip = frame.get(ETHERNET..)?;
        let icmp = ip.get(usize::from(ip.first()? & 0xf) * 4..)?;
        let ours = ip.get(9) == Some(&1)
            && ip.get(12..16)? == self.to.octets()
            && ip.get(16..20)? == self.from.octets()
            && icmp.get(..2)? == [0, 0]
            && icmp.get(4..6)? == ident.to_be_bytes();
        let sender = <[u8; 6]>::try_from(frame.get(6..12)?).ok()?;
        ours.then_some(Mac(sender))
    }
}

/// An Ethernet frame with a short ICMP echo over IPv4 in it.
#[must_use]
pub fn frame(to_mac: Mac, from_mac: Mac, from: Ipv4Addr, to: Ipv4Addr, ident: u16) -> Vec<u8> {
    let mut icmp = [8, 0, 0, 0, 0, 0, 0, 1, b'w', b'e', b'f', b't'];
    icmp[4..6].copy_from_slice(&ident.to_be_bytes());
    let sum = checksum(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    let mut ip = [0_u8; IPV4];
    ip[0] = 0x45;
    ip[3] = (IPV4 + icmp.len()) as u8;
    ip[8] = 64;
    ip[9] = 1;
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    [&to_mac.0[..], &from_mac.0, &[0x08, 0x00], &ip, &icmp].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knocking() -> Knock {
        Knock {
            device: 1,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            outer_from: Ipv4Addr::new(10, 77, 0, 1).into(),
            outer_to: (Ipv4Addr::new(10, 77, 0, 2), 8472).into(),
            vni: 7,
            from: Ipv4Addr::new(10, 244, 3, 0),
            to: Ipv4Addr::new(10, 244, 7, 0),
        }
    }

    #[test]
    fn the_frame_is_for_everybody_and_the_packet_in_it_for_one() {
        let packet = knocking().packet(0x4711);
        assert_eq!(packet[..8], [8, 0, 0, 0, 0, 0, 7, 0]);
        assert_eq!(packet[8..22], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!((checksum(&packet[22..42]), checksum(&packet[42..])), (0, 0));
        assert_eq!(packet[38..42], [10, 244, 7, 0]);
    }

    #[test]
    fn an_answer_names_its_sender() {
        let knock = knocking();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
        let mut ip = vec![0_u8; 20];
        (ip[0], ip[9]) = (0x45, 1);
        ip[12..16].copy_from_slice(&knock.to.octets());
        ip[16..20].copy_from_slice(&knock.from.octets());
        frame.extend(ip);
        frame.extend([0, 0, 0, 0, 0x47, 0x11, 0, 1]);
        assert_eq!(knock.answer(&frame, 0x4711), Some(Mac([2, 0, 0, 0, 0, 9])));
        assert_eq!(knock.answer(&frame, 0x4712), None);
        for cut in 0..40 {
            assert_eq!(knock.answer(&frame[..cut], 0x4711), None);
        }
    }
}
