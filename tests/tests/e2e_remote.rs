//! The API from elsewhere: TLS with a certificate on both sides, whose authority says who may read and who may write.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::eventually::SOON;
use weft_tests::pki::{For, Pki};
use weft_tests::place::Output;
use weft_tests::{Host, Topology, eventually};

/// Where the agent of h1 answers, for h2.
const PORT: u16 = 9475;

/// Where it would answer as well if that were an address of its host (RFC 5737).
const NOT_HERE: &str = "192.0.2.77:9475";

/// Two hosts; the agent of the first answers over TLS, the second is where clients are.
struct Cluster {
    topology: Topology,
    pki: Pki,
    agent: String,
}

impl Cluster {
    fn new() -> Result<Self> {
        let topology = Topology::new(2)?;
        let pki = Pki::new(&topology.dir().join("pki"))?;
        for authority in ["agents", "readers", "admins", "strangers"] {
            pki.authority(authority)?;
        }
        let h1 = topology.host(1);
        let place = format!("IP:{},DNS:h1.example", h1.address());
        pki.issue("agents", "h1", For { place: &place, ..For::default() })?;
        for (authority, name) in [("readers", "alice"), ("admins", "root"), ("strangers", "mallory"), ("agents", "h1-as-client")]
        {
            pki.issue(authority, name, For::default())?;
        }
        pki.issue("admins", "late", For { expired: true, ..For::default() })?;
        let listen = SocketAddr::from((h1.address(), PORT)).to_string();
        let files = [
            ("api-listen", format!("{NOT_HERE},{listen}")),
            ("api-cert", pki.cert("h1")),
            ("api-key", pki.key("h1")),
            ("api-client-ca", pki.cert("readers")),
            ("api-admin-ca", pki.cert("admins")),
        ];
        files.iter().for_each(|(flag, value)| h1.agent.set_flag(flag, value));
        topology.start_cluster()?;
        Ok(Self { topology, pki, agent: format!("https://{listen}") })
    }

    fn client(&self) -> &Host {
        self.topology.host(2)
    }

    /// `curl` on the second host, as somebody or (empty) nobody: the status, 0 if there was no answer, and the body.
    fn curl(&self, who: &str, words: &[&str], path: &str) -> Result<(u16, Value)> {
        let (cert, key, ca) = (self.pki.cert(who), self.pki.key(who), self.pki.cert("agents"));
        let url = format!("{}{path}", self.agent);
        let mut line = vec!["curl", "--silent", "--show-error", "--max-time", "60", "--cacert", &ca, "-w", "\n%{http_code}"];
        if !who.is_empty() {
            line.extend(["--cert", &cert, "--key", &key]);
        }
        line.extend(words);
        line.push(&url);
        let said = self.client().exec(line)?.stdout;
        let (body, status) = said.rsplit_once('\n').unwrap_or(("", &said));
        Ok((status.parse()?, serde_json::from_str(body).unwrap_or(Value::Null)))
    }

    /// `netctl` there, as somebody.
    fn netctl(&self, who: &str, args: &[&str]) -> Result<Output> {
        self.client().exec(self.netctl_line(who, args)?)
    }

    fn netctl_line(&self, who: &str, args: &[&str]) -> Result<Vec<String>> {
        let (cert, key, ca) = (self.pki.cert(who), self.pki.key(who), self.pki.cert("agents"));
        let netctl = weft_tests::node::binary("netctl")?.to_string_lossy().into_owned();
        let place = ["--agent", &self.agent, "--cacert", &ca, "--cert", &cert, "--key", &key].map(str::to_owned);
        Ok([netctl].into_iter().chain(place).chain(args.iter().map(|word| (*word).to_owned())).collect())
    }
}

#[test]
fn from_elsewhere_readers_read_admins_write_and_nobody_else_gets_as_far_as_a_request() {
    let c = Cluster::new().unwrap();
    let put = ["-X", "PUT", "-H", "content-type: application/json"];

    // Who reads may read and watch, and is told why not more.
    let (status, nodes) = c.curl("alice", &[], "/v1/nodes").unwrap();
    assert_eq!((status, nodes.as_array().map(Vec::len)), (200, Some(2)));
    assert_eq!(c.curl("alice", &["--tlsv1.2", "--tls-max", "1.2"], "/v1/status").unwrap().0, 200);
    let (status, said) = c.curl("alice", &put, "/v1/namespaces/prod").unwrap();
    let why = said["error"]["message"].as_str().unwrap_or_default();
    assert_eq!((status, &said["error"]["code"]), (403, &json!("forbidden")));
    assert!(why.contains("alice") && why.contains("--api-admin-ca"), "{why}");
    assert_eq!(c.curl("alice", &put, "/v1/namespaces/prod?dry_run=true").unwrap().0, 403);
    assert_eq!(c.netctl("alice", &["namespace", "create", "prod"]).unwrap().code(), 1);
    let line = c.netctl_line("alice", &["watch", "service", "-o", "json"]).unwrap();
    let watch = c.client().spawn("watch", &line).unwrap();

    // Who may write writes; what is about a host is asked there.
    assert_eq!(c.curl("root", &put, "/v1/namespaces/prod").unwrap().0, 200);
    c.netctl("root", &["service", "create", "prod/myapp", "--port", "80"]).unwrap().success().unwrap();
    let listed = c.netctl("alice", &["service", "list", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!((&listed[0]["namespace"], &listed[0]["name"]), (&json!("prod"), &json!("myapp")));
    eventually("the watcher has heard of it", SOON, || {
        ensure!(watch.stdout().contains("myapp"), "{} {}", watch.stdout(), watch.stderr());
        Ok(())
    })
    .unwrap();
    watch.kill9().unwrap();
    for path in ["/v1/attachments", "/v1/registrations", "/v1/plan", "/v1/drops", "/v1/store/export"] {
        let (status, said) = c.curl("root", &[], path).unwrap();
        let why = said["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 403 && why.contains("socket"), "{path}: {status} {why}");
    }
    let local = c.netctl("root", &["attach", "--netns", "/proc/self/ns/net"]).unwrap();
    assert!(local.code() == 2 && local.stderr.contains("without --agent"), "{local:?}");
    let plan = c.netctl("root", &["plan"]).unwrap();
    assert!(plan.code() == 1 && plan.stderr.contains("socket"), "{plan:?}");
    let document = c.netctl("alice", &["openapi", "-o", "json"]).unwrap().json().unwrap();
    assert_eq!(document["openapi"], "3.1.0");

    // No certificate, a stranger's, one of the agents' own authority, one that is over, and no TLS: no answer at all.
    for who in ["", "mallory", "h1-as-client", "late"] {
        assert_eq!(c.curl(who, &[], "/v1/status").unwrap().0, 0, "{who:?}");
    }
    for who in ["mallory", "late"] {
        let refused = c.netctl(who, &["status"]).unwrap();
        assert!(refused.code() == 3 && refused.stderr.contains(&c.agent), "{refused:?}");
    }
    let plain = c.agent.replace("https:", "http:") + "/v1/status";
    let said = c.client().exec(["curl", "--silent", "--max-time", "60", "-w", "%{http_code}", &plain]).unwrap();
    assert!(said.code() != 0 && said.stdout.ends_with("000"), "{said:?}");
    // And an agent that another authority vouches for is not asked.
    let wrong =
        c.client().exec(["curl", "--silent", "--max-time", "60", "--cacert", &c.pki.cert("strangers"), &c.agent]).unwrap();
    assert_eq!(wrong.code(), 60, "{wrong:?}");

    // The log of who wrote what.
    let log = c.topology.host(1).agent.log();
    assert!(log.contains("asked from elsewhere") && log.contains("name=\"root\""), "{log}");
    c.topology.down().unwrap();
}

#[test]
fn certificates_are_read_again_when_they_change_and_broken_ones_change_nothing() {
    let c = Cluster::new().unwrap();
    let pid = c.topology.host(1).agent.pid().unwrap();
    assert_eq!(c.curl("mallory", &[], "/v1/status").unwrap().0, 0);

    // The agent has a certificate of another authority from now on, and the strangers may read.
    let place = format!("IP:{}", c.topology.host(1).address());
    c.pki.issue("strangers", "h1", For { place: &place, ..For::default() }).unwrap();
    let both = [c.pki.cert("readers"), c.pki.cert("strangers")].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    std::fs::write(c.pki.cert("readers"), both).unwrap();
    let strangers = c.pki.cert("strangers");
    eventually("the new certificates are used", SOON, || {
        let (status, _) = c.curl("mallory", &["--cacert", &strangers], "/v1/status")?;
        ensure!(status == 200, "status {status}");
        Ok(())
    })
    .unwrap();
    assert_eq!(c.curl("mallory", &["--cacert", &strangers, "-X", "PUT"], "/v1/namespaces/x").unwrap().0, 403);

    // What cannot be used is complained of, and what was there goes on.
    std::fs::write(c.pki.cert("readers"), "no certificate").unwrap();
    assert_eq!(c.curl("alice", &["--cacert", &strangers], "/v1/status").unwrap().0, 200);
    let status = c.topology.host(1).agent.status().unwrap();
    let reasons = status["reasons"].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
    assert!(reasons.contains("--api-client-ca") && reasons.contains("readers.crt"), "{reasons}");
    assert_eq!(c.topology.host(1).agent.pid().unwrap(), pid);
    c.topology.down().unwrap();
}

#[test]
fn readers_whose_authority_the_admins_have_signed_read_and_no_more() {
    let c = Cluster::new().unwrap();
    // The readers' authority is an intermediate of the admins' from now on, and its clients show it along.
    c.pki.issue("admins", "readers", For { authority: true, ..For::default() }).unwrap();
    c.pki.issue("readers", "alice", For::default()).unwrap();
    let chain = [c.pki.cert("alice"), c.pki.cert("readers")].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    std::fs::write(c.pki.cert("alice"), chain).unwrap();
    let put = ["-X", "PUT", "-H", "content-type: application/json"];
    eventually("the new authority is used", SOON, || {
        let (status, _) = c.curl("alice", &[], "/v1/status")?;
        ensure!(status == 200, "status {status}");
        Ok(())
    })
    .unwrap();
    assert_eq!(c.curl("alice", &put, "/v1/namespaces/prod").unwrap().0, 403);
    assert_eq!(c.curl("root", &put, "/v1/namespaces/prod").unwrap().0, 200);

    // From elsewhere names come out of the zone; the host's own resolver is not asked.
    c.netctl("root", &["service", "create", "prod/myapp", "--port", "80"]).unwrap().success().unwrap();
    eventually("the zone has it", SOON, || {
        let (_, ours) = c.curl("alice", &[], "/v1/dns/query?name=myapp.prod.skydns.local")?;
        ensure!(ours["rcode"] == "NOERROR" && ours["forward"].is_null(), "{ours}");
        Ok(())
    })
    .unwrap();
    let (status, other) = c.curl("root", &[], "/v1/dns/query?name=other.example").unwrap();
    let facts = (status, &other["rcode"], &other["forward"], other["answers"].as_array().map(Vec::len));
    assert_eq!(facts, (200, &json!("REFUSED"), &json!("other.example."), Some(0)));
    let (status, why) = c.curl("root", &[], "/v1/dns/why?name=other.example").unwrap();
    assert_eq!((status, &why["answer"]["forward"]), (200, &json!("other.example.")), "{why}");
    let drawn = c.netctl("alice", &["dns", "query", "other.example"]).unwrap();
    assert!(drawn.code() == 1 && drawn.stdout.contains("on the host itself"), "{drawn:?}");
    let here = c.topology.host(1).netctl(["dns", "query", "other.example", "-o", "json"]).unwrap();
    assert!(!here.stdout.contains("REFUSED") && !here.stdout.contains("forward"), "{here:?}");

    // What one listener lacks stays said while another one answers.
    let status = c.topology.host(1).agent.status().unwrap();
    let reasons = status["reasons"].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
    assert!(reasons.contains(&format!("listen on {NOT_HERE}")), "{reasons}");
    c.topology.down().unwrap();
}

#[test]
fn settings_that_would_let_nobody_in_or_everybody_are_refused_at_the_start() {
    let t = Topology::new(1).unwrap();
    let pki = Pki::new(&t.dir().join("pki")).unwrap();
    pki.authority("ca").unwrap();
    pki.issue("ca", "h1", For { place: "DNS:h1", ..For::default() }).unwrap();
    let (ca, cert, key) = (pki.cert("ca"), pki.cert("h1"), pki.key("h1"));
    let agent = &t.host(1).agent;
    let refused = |flags: &[(&str, &str)]| {
        let before = agent.log().len();
        flags.iter().for_each(|(flag, value)| agent.set_flag(flag, value));
        agent.start().unwrap();
        assert!(!agent.wait_end().unwrap().success());
        flags.iter().for_each(|(flag, _)| agent.unset_flag(flag));
        agent.log()[before..].to_owned()
    };
    let listen = ("api-listen", "127.0.0.1:9475");
    let own = [listen, ("api-cert", cert.as_str()), ("api-key", key.as_str())];
    assert!(refused(&[listen]).contains("--api-cert"));
    assert!(refused(&own).contains("--api-client-ca"));
    let why = refused(&[own[0], own[1], own[2], ("api-client-ca", &ca), ("api-admin-ca", &ca)]);
    assert!(why.contains("in common"), "{why}");
    let why = refused(&[own[0], own[1], own[2], ("api-admin-ca", &key)]);
    assert!(why.contains("--api-admin-ca") && why.contains("h1.key"), "{why}");
    let why = refused(&[own[0], ("api-cert", &ca), own[2], ("api-admin-ca", &ca)]);
    assert!(why.contains("--api-cert") && why.contains("--api-key"), "{why}");
    t.down().unwrap();
}
