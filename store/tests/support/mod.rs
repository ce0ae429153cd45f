//! What the tests of both stores lean on: bounds in time, and waiting for a condition.
#![allow(dead_code, reason = "not every test crate waits for everything")]

pub mod line;

use std::future::Future;
use std::time::{Duration, Instant};

/// The longest that anything here takes on a busy machine. Nothing waits this long unless it fails.
pub const LONG: Duration = Duration::from_secs(60);

/// Runs a test to its end, or fails it.
pub async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG * 2, test).await.expect("the test did not end in time")
}

/// Waits for one thing.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// Tries until there is a value.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut try_once: impl FnMut() -> F) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(value) = try_once().await {
            return value;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
