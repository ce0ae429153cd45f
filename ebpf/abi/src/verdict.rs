//! The name of everything that can become of a packet or a socket call.
//!
//! Each run of each program ends in exactly one verdict, which is counted under its number in `weft_counters`; metrics,
//! `netctl` and this list use the same words. Numbers are part of the layout: add at the end of the list, never reorder.

/// What the kernel does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The program sent it on by itself (packets), or rewrote the address (sockets).
    Fast,
    /// Handed on untouched: to other programs on the hook and to the network stack.
    Stack,
    /// Dropped (packets), or refused with ECONNREFUSED (sockets).
    Drop,
}

/// Which program reaches the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// `from_container`: what a container sends.
    Container,
    /// `from_uplink`: what arrives from other hosts.
    Uplink,
    /// The cgroup programs: connect, sendmsg, recvmsg, getpeername.
    Socket,
}

impl Hook {
    /// As metrics label it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Uplink => "uplink",
            Self::Socket => "socket",
        }
    }
}

impl Action {
    /// As metrics label it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Stack => "stack",
            Self::Drop => "drop",
        }
    }
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $hook:ident, $action:ident, $text:literal;)*) => {
        /// What became of a packet or a socket call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Verdict {
            $($(#[$doc])* $name = $number,)*
        }

        impl Verdict {
            /// All verdicts, each at the index of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As metrics and `netctl` name it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What the kernel does next.
            #[inline(always)]
            #[must_use]
            pub const fn action(self) -> Action {
                match self { $(Self::$name => Action::$action,)* }
            }

            /// Which program reaches it.
            #[must_use]
            pub const fn hook(self) -> Hook {
                match self { $(Self::$name => Hook::$hook,)* }
            }
        }
    };
}

verdicts! {
    /// Outer headers pushed, sent out of the uplink.
    Encapsulated = 0, Container, Fast, "encapsulated";
    /// Handed to another container of this host.
    DeliveredLocally = 1, Container, Fast, "delivered_locally";
    /// Not IP: ARP, and what has no name here.
    ContainerNotIpv4 = 2, Container, Stack, "container_not_ipv4";
    /// Not to the host's Ethernet address: broadcast, multicast, or astray.
    ContainerNotToUs = 3, Container, Stack, "container_not_to_us";
    /// The destination is no container here and in no peer's subnet: the host, a gateway, the outside world.
    ContainerElsewhere = 4, Container, Stack, "container_elsewhere";
    /// A fragment.
    ContainerFragment = 5, Container, Stack, "container_fragment";
    /// Has IPv4 options or IPv6 extension headers.
    ContainerOptions = 6, Container, Stack, "container_options";
    /// TTL or hop limit of 1 or 0: the stack answers time exceeded.
    ContainerTtl = 7, Container, Stack, "container_ttl";
    /// Longer than what reaches the destination whole: the stack answers fragmentation needed, or fragments.
    ContainerTooBig = 8, Container, Stack, "container_too_big";
    /// The kernel did not give room for the outer headers (bpf_skb_adjust_room).
    ContainerRoomRefused = 9, Container, Stack, "container_room_refused";
    /// The host has no configuration row or no uplink, and the destination is in a peer's subnet.
    ContainerNoOverlay = 10, Container, Stack, "container_no_overlay";
    /// The source address is not this container's.
    ContainerSpoofed = 11, Container, Drop, "container_spoofed_source";
    /// UDP to the overlay's port: a container does not send encapsulated traffic of its own.
    ContainerInjects = 12, Container, Drop, "container_injects_overlay";
    /// The ARP, IP or UDP header is cut short or contradicts itself.
    ContainerMalformed = 13, Container, Drop, "container_malformed";
    /// Outer headers could not be written after room was made; cannot happen, and is counted if it does.
    ContainerInternal = 14, Container, Drop, "container_internal_error";

    /// Outer headers popped, handed to the container.
    Decapsulated = 15, Uplink, Fast, "decapsulated";
    /// No overlay packet for this host.
    UplinkNotOverlay = 16, Uplink, Stack, "uplink_not_overlay";
    /// VXLAN with another VNI, or none.
    UplinkOtherVni = 17, Uplink, Stack, "uplink_other_vni";
    /// The outer packet is a fragment.
    UplinkOuterFragment = 18, Uplink, Stack, "uplink_outer_fragment";
    /// The outer packet has IPv4 options or IPv6 extension headers.
    UplinkOuterOptions = 19, Uplink, Stack, "uplink_outer_options";
    /// The outer UDP checksum is set and nobody has checked it yet.
    UplinkOuterChecksum = 20, Uplink, Stack, "uplink_outer_checksum";
    /// The inner frame is not IP.
    UplinkInnerNotIpv4 = 21, Uplink, Stack, "uplink_inner_not_ipv4";
    /// The inner packet is a fragment.
    UplinkInnerFragment = 22, Uplink, Stack, "uplink_inner_fragment";
    /// The inner packet has IPv4 options or IPv6 extension headers.
    UplinkInnerOptions = 23, Uplink, Stack, "uplink_inner_options";
    /// The inner destination is no container here: the host's own overlay address, or one that is gone.
    UplinkNotContainer = 24, Uplink, Stack, "uplink_not_container";
    /// The inner frame is not for our VXLAN device's Ethernet address, so the device does not take it either.
    UplinkOtherMac = 25, Uplink, Stack, "uplink_other_mac";
    /// From a peer, but the inner source is in no subnet of the common length: a host address, or a subnet of another length.
    UplinkOtherSource = 26, Uplink, Stack, "uplink_other_source";
    /// The inner TTL or hop limit is 1 or 0: the stack answers time exceeded.
    UplinkTtl = 27, Uplink, Stack, "uplink_ttl";
    /// A GSO packet that is not TCP keeps its tunnel marks after a pop and would be lost (seen on kernel 6.18).
    UplinkGsoNotTcp = 28, Uplink, Stack, "uplink_gso_not_tcp";
    /// The kernel did not take the outer headers away (bpf_skb_adjust_room).
    UplinkRoomRefused = 29, Uplink, Stack, "uplink_room_refused";
    /// The outer source is no peer's address.
    UplinkUnknownPeer = 30, Uplink, Drop, "uplink_unknown_peer";
    /// The inner source belongs to another host's subnet, or to ours.
    UplinkSpoofed = 31, Uplink, Drop, "uplink_spoofed_source";
    /// An overlay packet for us whose headers are cut short or contradict themselves.
    UplinkMalformed = 32, Uplink, Drop, "uplink_malformed";
    /// The outer header says congestion experienced, the inner is not ECN-capable (RFC 6040 4.2).
    UplinkEcn = 33, Uplink, Drop, "uplink_ecn";
    /// The inner packet could not be rewritten after the pop; cannot happen, and is counted if it does.
    UplinkInternal = 34, Uplink, Drop, "uplink_internal_error";

    /// Destination changed from a virtual address to a backend.
    SocketTranslated = 35, Socket, Fast, "socket_translated";
    /// A backend's address shown to the application as the virtual address it used.
    SocketReverse = 36, Socket, Fast, "socket_reverse_translated";
    /// Destination in no service range, or no address to change back.
    SocketPassed = 37, Socket, Stack, "socket_passed";
    /// The socket's network namespace is not one of ours.
    SocketOtherNetns = 38, Socket, Stack, "socket_other_netns";
    /// The frontend has no backend.
    SocketNoBackend = 39, Socket, Drop, "socket_no_backend";
    /// The address is in a service range, but no service has it, or not this port, or not in the caller's network.
    SocketUnlisted = 40, Socket, Drop, "socket_unlisted";
    /// A row that must be there is not, or a record could not be written; the call goes on untouched.
    SocketInternal = 41, Socket, Stack, "socket_internal_error";

    /// An ARP packet in another's name: its sender address is neither this container's nor unspecified (RFC 5227 probes).
    ContainerSpoofedArp = 42, Container, Drop, "container_spoofed_arp";
    /// IPv6 neighbour discovery in another's name: an advertisement for an address that is not this container's, or a router's
    /// part (router advertisement, redirect), which no container plays (RFC 4861).
    ContainerSpoofedNd = 43, Container, Drop, "container_spoofed_nd";
    /// Has a VLAN tag. The stack takes tag 0 for none, so that such a packet would pass by every check here.
    ContainerVlanTag = 44, Container, Drop, "container_vlan_tag";
    /// To an address of another of our networks.
    ContainerOtherNetwork = 45, Container, Drop, "container_other_network";
    /// IPv6 extension headers, or a first fragment, that hide what is carried: it might be to the overlay's port.
    ContainerHidden = 46, Container, Drop, "container_hidden_transport";
    /// An overlay packet of one network for a container of another.
    UplinkOtherNetwork = 47, Uplink, Drop, "uplink_other_network";
}

impl Verdict {
    /// How many there are: the size of `weft_counters`.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// Whether the packet is dropped or the call refused.
    #[must_use]
    pub const fn is_drop(self) -> bool {
        matches!(self.action(), Action::Drop)
    }

    /// The verdict of a number, if there is one.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

const _: () = {
    let mut i = 0;
    while i < Verdict::ALL.len() {
        assert!(Verdict::ALL[i] as usize == i, "verdict numbers are dense and in order");
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (i, a) in Verdict::ALL.iter().enumerate() {
            assert!(Verdict::ALL.iter().skip(i + 1).all(|b| a.as_str() != b.as_str()), "{}", a.as_str());
        }
    }

    #[test]
    fn numbers_lead_back() {
        for v in Verdict::ALL {
            assert_eq!(Verdict::from_number(*v as u32), Some(*v));
        }
        assert_eq!(Verdict::from_number(Verdict::COUNT), None);
    }
}
