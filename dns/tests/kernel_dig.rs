//! The answers as `dig` (Debian: bind9-dnsutils) sees them: another reader of the wire than the library that wrote it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may assume")]

#[path = "support/mod.rs"]
mod support;

use std::net::SocketAddr;

use support::World;
use support::net::serving;

/// What `dig` prints.
async fn dig(at: SocketAddr, args: &[&str]) -> String {
    let mut command = tokio::process::Command::new("dig");
    command.arg(format!("@{}", at.ip())).args(["-p", &at.port().to_string(), "+tries=1", "+time=10", "+nocmd"]).args(args);
    let out = command.output().await.expect("dig is installed (Debian: bind9-dnsutils)");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "dig {args:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
    // It warns of every name below .local, since mDNS uses it too.
    let mut warnings = text.lines().filter(|l| l.contains("WARNING") && !l.contains(".local is reserved"));
    assert!(warnings.next().is_none() && !text.contains("malformed"), "{text}");
    text
}

#[tokio::test]
async fn dig_reads_every_type_over_both_transports() {
    let mut world = World::new();
    world.put(
        "/skydns/local/skydns/myapp/web-1/4",
        r#"{"host":"10.244.1.2","port":8080,"targetstrip":1,"weft":{"id":"web-1"}}"#,
        true,
    );
    world.put(
        "/skydns/local/skydns/myapp/web-1/6",
        r#"{"host":"fd00::2","port":8080,"targetstrip":1,"weft":{"id":"web-1"}}"#,
        true,
    );
    world.put("/skydns/local/skydns/myapp/note", r#"{"text":"with \"quotes\""}"#, false);
    world.put("/skydns/local/skydns/www", r#"{"host":"web-1.myapp.skydns.local"}"#, false);
    world.put("/skydns/arpa/in-addr/10/244/1/2", r#"{"host":"web-1.myapp.skydns.local"}"#, false);
    world.put("/weft/v1/services/default/myapp", r#"{"ports":[{"name":"http","port":80}],"vips":["10.112.0.7"]}"#, false);
    let (_server, at, _zone) = serving(Some(world.zone()), &[]).await;
    for transport in ["+notcp", "+tcp"] {
        for (asked, expected) in [
            (["MyApp.skydns.local", "A"], "10.112.0.7\n"),
            (["myapp.skydns.local", "SRV"], "10 100 8080 web-1.myapp.skydns.local.\n"),
            (["_http._tcp.myapp.skydns.local", "SRV"], "10 100 80 myapp.skydns.local.\n"),
            (["web-1.myapp.skydns.local", "AAAA"], "fd00::2\n"),
            (["www.skydns.local", "A"], "web-1.myapp.skydns.local.\n10.244.1.2\n"),
            (["myapp.skydns.local", "TXT"], "\"with \\\"quotes\\\"\"\n"),
            (["2.1.244.10.in-addr.arpa", "PTR"], "web-1.myapp.skydns.local.\n"),
            (["nothing.skydns.local", "A"], ""),
        ] {
            let text = dig(at, &["+short", transport, asked[0], asked[1]]).await;
            assert_eq!(text, expected, "{asked:?} {transport}");
        }
    }
    let text = dig(at, &["nothing.skydns.local", "A"]).await;
    assert!(text.contains("status: NXDOMAIN") && text.contains("flags: qr aa rd ra;"), "{text}");
    assert!(text.contains("EDNS: version: 0") && text.contains("ns.dns.skydns.local. hostmaster.skydns.local."), "{text}");
    let text = dig(at, &["+edns=7", "+noednsneg", "myapp.skydns.local", "A"]).await;
    assert!(text.contains("status: BADVERS"), "{text}");
}

#[tokio::test]
async fn dig_comes_back_over_tcp_when_an_answer_is_cut() {
    let mut world = World::new();
    for n in 0..300 {
        world.put(&format!("/skydns/local/skydns/many/i-{n}"), &format!(r#"{{"host":"10.1.{}.{}"}}"#, n / 250, n % 250), false);
    }
    let (_server, at, _zone) = serving(Some(world.zone()), &[]).await;
    let text = dig(at, &["+short", "many.skydns.local", "A"]).await;
    assert_eq!(text.lines().filter(|l| l.starts_with("10.1.")).count(), 300);
    let text = dig(at, &["+ignore", "many.skydns.local", "A"]).await;
    assert!(text.contains("flags: qr aa tc rd ra;") && text.contains("EDNS: version: 0"), "{text}");
}
