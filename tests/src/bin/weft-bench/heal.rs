//! How long it takes until what somebody took out of the kernel's tables is back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::Host;
use weft_tests::eventually::SOON;

/// What is taken away, on the first host.
pub const OBJECTS: [&str; 5] = ["route to a peer", "neighbour", "forwarding entry", "VXLAN device", "packet filter"];

/// Between two looks. A look is a command, which takes longer.
const PAUSE: Duration = Duration::from_millis(1);

/// Takes the object with this number in [`OBJECTS`] away and waits until all is as it was; the time in milliseconds, from
/// the end of the command that took it away.
pub fn time(host: &Host, object: usize) -> Result<f64> {
    let routes = host.exec(["ip", "-json", "-4", "route", "show", "dev", "weft.1"])?.json()?;
    let peer = routes.as_array().into_iter().flatten().find(|route| !route["gateway"].is_null()).context("no peer")?;
    let word = |key: &str| peer[key].as_str().map(str::to_owned).with_context(|| format!("{peer}"));
    let (subnet, gateway) = (word("dst")?, word("gateway")?);
    let entries = shown(host, "bridge fdb show dev weft.1")?;
    let mac = entries.split(' ').next().unwrap_or_default();
    let (remove, look) = match object {
        0 => (format!("ip route del {subnet} dev weft.1"), format!("ip route show {subnet}")),
        1 => (format!("ip neighbor del {gateway} dev weft.1"), format!("ip neighbor show {gateway} dev weft.1")),
        2 => (format!("bridge fdb del {mac} dev weft.1"), "bridge fdb show dev weft.1".to_owned()),
        3 => ("ip link del weft.1".to_owned(), format!("ip route show {subnet}")),
        _ => ("nft delete table inet weft".to_owned(), "nft list tables inet".to_owned()),
    };
    let before = shown(host, &look)?;
    ensure!(!before.is_empty(), "{look} shows nothing");
    host.exec(remove.split(' '))?.success()?;
    let start = Instant::now();
    loop {
        let now = shown(host, &look)?;
        let took = start.elapsed();
        if now == before {
            return Ok(took.as_secs_f64() * 1000.0);
        }
        ensure!(took < SOON, "{remove}: not healed: {now:?}, was {before:?}");
        std::thread::sleep(PAUSE);
    }
}

fn shown(host: &Host, command: &str) -> Result<String> {
    let text = host.exec(command.split(' '))?.success()?.stdout;
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}
