//! Echo requests every other millisecond beside work on the programs: none may remain unanswered.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;

/// How many answers are waited for.
const COUNT: u64 = 1000;

/// Works in rounds for as long as the answers to `ping`'s requests come in, and gives the number of requests that were sent.
///
/// Which answers came is read from their numbers, not from ping's statistics: with `-w` ping (iputils 20221126) sends until it has
/// `COUNT` answers, one more than that if the last one is later than an interval; a lost one would not show in their count, a late
/// one would.
pub fn beside(mut ping: Command, to: Ipv4Addr, mut work: impl FnMut(usize)) -> u64 {
    // The deadline is for a path that is broken; a machine that is busy takes its time.
    ping.args(["-n", "-i", "0.002", "-c", &COUNT.to_string(), "-w", "300", &to.to_string()]);
    let output = std::thread::scope(|scope| {
        let pinging = scope.spawn(|| ping.output().unwrap());
        let mut rounds = 0;
        while !pinging.is_finished() {
            work(rounds);
            rounds += 1;
        }
        assert!(rounds > 0);
        pinging.join().unwrap()
    });
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |line: &str| line.split_once(" time=")?.0.split_once("icmp_seq=")?.1.split(' ').next()?.parse::<u64>().ok();
    let answered: BTreeSet<u64> = text.lines().filter_map(number).collect();
    let missing: Vec<u64> = (1..=COUNT).filter(|n| !answered.contains(n)).collect();
    let strange: Vec<&str> = text.lines().filter(|line| !line.contains(" time=")).collect();
    assert!(missing.is_empty(), "no answer to {missing:?}; {strange:?}");
    let sent = text.lines().find_map(|line| line.split_once(" packets transmitted")?.0.parse().ok());
    sent.unwrap_or_else(|| panic!("ping does not say how many it has sent: {strange:?}"))
}
