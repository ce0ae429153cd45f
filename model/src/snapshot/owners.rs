//! Who has what two could claim: decided from the snapshot alone, so that it comes out the same on every host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Snapshot;
use crate::ids::ServiceName;

/// Virtual IPs, and whose they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipOwners {
    owners: BTreeMap<IpAddr, ServiceName>,
    /// Who lists an address that is another's, where anybody does.
    rivals: BTreeMap<IpAddr, Vec<ServiceName>>,
}

impl VipOwners {
    /// Whose a virtual IP is, if it is one.
    #[must_use]
    pub fn of(&self, vip: IpAddr) -> Option<&ServiceName> {
        self.owners.get(&vip.to_canonical())
    }

    /// The services that list this address, which is another's.
    #[must_use]
    pub fn rivals(&self, vip: IpAddr) -> &[ServiceName] {
        self.rivals.get(&vip.to_canonical()).map(Vec::as_slice).unwrap_or_default()
    }
}

impl Snapshot {
    /// Whose each virtual IP is: who the key `vips/<address>` names. Of services that list one for which there is no key,
    /// the first by name has it.
    #[must_use]
    pub fn vip_owners(&self) -> VipOwners {
        let mut out = VipOwners::default();
        for (vip, owner) in self.vips() {
            out.owners.insert(vip.to_canonical(), owner.value.service.clone());
        }
        for (name, service) in self.services() {
            for vip in &service.value.vips {
                let vip = vip.to_canonical();
                let owner = out.owners.entry(vip).or_insert_with(|| name.clone());
                if owner != name {
                    out.rivals.entry(vip).or_default().push(name.clone());
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Revision;
    use crate::keys::Layout;
    use crate::stored::Entry;

    #[test]
    fn an_address_is_whose_key_names_it_and_else_the_first_ones_that_lists_it() {
        let service = r#"{"ports":[{"port":80}],"vips":["10.112.0.7","10.112.0.8"]}"#;
        let entries = [
            ("/weft/v1/services/default/a", service),
            ("/weft/v1/services/default/b", service),
            ("/weft/v1/vips/10.112.0.8", r#"{"service":"default/b"}"#),
            ("/weft/v1/vips/10.112.0.9", r#"{"service":"default/gone"}"#),
        ];
        let at = Revision(1);
        let entry =
            |(key, value): (&str, &str)| Entry { key: key.into(), value: value.into(), lease: None, created: at, modified: at };
        let s = Snapshot::complete(Layout::default().into(), at, entries.map(entry).into(), None);
        let owners = s.vip_owners();
        let of = |vip: &str| owners.of(vip.parse().unwrap()).map(ToString::to_string);
        let rivals = |vip: &str| owners.rivals(vip.parse().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((of("10.112.0.7").as_deref(), rivals("10.112.0.7")), (Some("default/a"), vec!["default/b".to_owned()]));
        assert_eq!((of("10.112.0.8").as_deref(), rivals("10.112.0.8")), (Some("default/b"), vec!["default/a".to_owned()]));
        assert_eq!(of("::ffff:10.112.0.8").as_deref(), Some("default/b"));
        assert_eq!((of("10.112.0.9").as_deref(), rivals("10.112.0.9").len()), (Some("default/gone"), 0));
        assert_eq!(of("10.112.0.10"), None);
    }
}
