//! The uplink that the reconcile loop goes by: as it is, or as it last was.

use std::net::IpAddr;

use tracing::{info, warn};
use weft_agent::kernel::netlink::uplink;
use weft_agent::kernel::netlink::uplink::Wish;
use weft_plan::Uplink;

use super::{Inputs, name_of};
use crate::last_uplink::{Asked, LastUplink};
use crate::view::chain;

/// The uplink as it is, or as it last was: a default route that is away for a moment (DHCP, a restarted network manager) or a
/// question that failed takes nothing down. It is gone when its device is; a device that is renamed is the same one.
#[derive(Debug, Default)]
pub struct KnownUplink {
    /// The uplink.
    pub now: Option<Uplink>,
    /// The last agent's, until there is one: an agent that is started at such a moment takes nothing down either.
    before: Option<Uplink>,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// Whether the last question had no answer, so that it is to be asked again.
    pub unanswered: bool,
}

impl KnownUplink {
    /// As the last agent had it.
    pub fn remembered(inputs: &Inputs) -> Self {
        let before = inputs.state.uplink().unwrap_or_else(|e| {
            warn!(error = chain(&e), "the last uplink is not known");
            None
        });
        Self { before: before.and_then(|last| last.uplink(&asked(inputs))), ..Self::default() }
    }

    /// Asks again, and says whether the answer is another one.
    pub async fn changes(&mut self, inputs: &Inputs) -> bool {
        let (now, problem) = (self.now.clone(), self.problem.clone());
        self.find(inputs).await;
        (&now, &problem) != (&self.now, &self.problem)
    }

    /// Asks for it.
    pub async fn find(&mut self, inputs: &Inputs) {
        let wish = Wish {
            iface: inputs.iface.clone(),
            public_ip: inputs.public_ip,
            public_ipv6: inputs.public_ipv6,
            last: self.now.as_ref().or(self.before.as_ref()).cloned(),
        };
        let found = uplink::resolve(&inputs.netlink, &wish).await;
        self.unanswered = found.is_err();
        let problem = match found {
            Ok(mut uplink) => {
                let lost = self.keep_lost(&mut uplink);
                let was = self.now.replace(uplink.clone());
                if was.as_ref() != Some(&uplink) {
                    info!(device = uplink.name, address = ?uplink.addresses().next(), mtu = uplink.mtu, "uplink");
                    if let Err(e) = inputs.state.write_uplink(&LastUplink::new(asked(inputs), &uplink)) {
                        warn!(error = chain(&e), "the next agent will not know this uplink");
                    }
                }
                self.before = None;
                let by_name = inputs.iface != uplink::AUTO && inputs.iface.parse::<IpAddr>().is_err();
                let renamed = by_name && inputs.iface != uplink.name;
                let renamed = renamed
                    .then(|| format!("uplink {} is called {} now; set --iface before the next start", inputs.iface, uplink.name));
                lost.or(renamed)
            }
            Err(e) => {
                let last = self.now.take().or(self.before.take());
                self.now = last.and_then(|last| Some(Uplink { name: name_of(last.index)?, ..last }));
                Some(match &self.now {
                    Some(last) => format!("uplink {}: {}; the overlay stays as it was", last.name, chain(&e)),
                    None => format!("no uplink, so no overlay: {}", chain(&e)),
                })
            }
        };
        if let Some(problem) = problem.as_ref().filter(|p| self.problem.as_ref() != Some(*p)) {
            warn!(problem, "uplink");
        }
        self.problem = problem;
    }

    /// Keeps the address of a family that the device has lost while it still has the other one: as if it had lost both, that
    /// may be for a moment only, and a host that is called by another address is another tunnel end to all others. Returns
    /// what is to be said of it.
    fn keep_lost(&self, uplink: &mut Uplink) -> Option<String> {
        let last = self.now.as_ref().filter(|last| last.index == uplink.index)?;
        let mut lost: Option<IpAddr> = None;
        if uplink.address.is_none() && last.address.is_some() {
            (uplink.address, uplink.public_ip) = (last.address, last.public_ip);
            lost = last.address.map(IpAddr::V4);
        }
        if uplink.address6.is_none() && last.address6.is_some() {
            (uplink.address6, uplink.public_ipv6) = (last.address6, last.public_ipv6);
            lost = lost.or(last.address6.map(IpAddr::V6));
        }
        lost.map(|address| {
            format!(
                "uplink {} has lost {address}, and the overlay stays as it was; restart weftd if it is to do without",
                uplink.name
            )
        })
    }
}

/// What the uplink is found by.
fn asked(inputs: &Inputs) -> Asked {
    Asked {
        boot: inputs.boot.clone(),
        netns_cookie: inputs.netns_cookie,
        iface: inputs.iface.clone(),
        public_ip: inputs.public_ip,
        public_ipv6: inputs.public_ipv6,
    }
}
