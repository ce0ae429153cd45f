//! The maps as the packet hooks see them. The socket hooks need others: [`crate::sockets::Tables`].

use weft_abi::{Be32, Be128, Config, Endpoint, Network, Peer, PeerKey, PeerKey6, Vtep, VtepKey};

/// The rows that are needed.
pub trait Tables {
    /// The one row of configuration.
    fn config(&self) -> Option<&Config>;
    /// A network.
    fn network(&self, number: u32) -> Option<&Network>;
    /// The container that has the address.
    fn endpoint(&self, addr: Be32) -> Option<&Endpoint>;
    /// The container that has the IPv6 address.
    fn endpoint6(&self, addr: Be128) -> Option<&Endpoint>;
    /// The host that holds the subnet.
    fn peer(&self, key: &PeerKey) -> Option<&Peer>;
    /// The host that holds the IPv6 subnet.
    fn peer6(&self, key: &PeerKey6) -> Option<&Peer>;
    /// Who sends from an outer address with a VNI, if it is a peer.
    fn vtep(&self, key: &VtepKey) -> Option<&Vtep>;
    /// The network whose range holds the address; zero: none.
    fn range(&self, addr: Be128) -> u32;
}
