//! How long a lease may be, in the store's unit.

use std::time::Duration;

use crate::StoreError;

/// The longest lease, in seconds: etcd's `maxLeaseTTL`.
const MAX: u64 = 9_000_000_000;

/// Whole seconds, rounded up, at least one.
///
/// # Errors
/// [`StoreError::Denied`] above etcd's limit, 285 years.
pub(crate) fn whole_seconds(ttl: Duration) -> Result<i64, StoreError> {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).max(1);
    i64::try_from(seconds).ok().filter(|_| seconds <= MAX).ok_or_else(|| StoreError::Denied {
        op: format!("grant a lease of {ttl:?}"),
        source: format!("the longest is {MAX} s").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_whole_seconds_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1)).unwrap(), 1);
        assert_eq!(whole_seconds(Duration::ZERO).unwrap(), 1);
        assert_eq!(whole_seconds(Duration::from_millis(15_001)).unwrap(), 16);
        assert!(whole_seconds(Duration::MAX).is_err());
    }
}
