//! The document of the API, held against what a real agent takes and answers.
#![expect(clippy::unwrap_used, reason = "a helper of a test stops the test where it is")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use weft_tests::Topology;
use weft_tests::api::{Events, call};
use weft_tests::eventually::SOON;
use weft_tests::schema::check;

/// Asks as the document says, and looks whether what is answered is as it says.
struct Asker {
    socket: PathBuf,
    document: Value,
    asked: BTreeSet<(String, String)>,
}

impl Asker {
    fn new(socket: PathBuf) -> Self {
        let document = call(&socket, "GET", "/v1/openapi.json", &Value::Null).unwrap().success().unwrap();
        let asked = BTreeSet::from([("GET".to_owned(), "/v1/openapi.json".to_owned())]);
        Self { socket, document, asked }
    }

    /// Asks for what stands for the braces of a path, in order. The answer is one that the document knows; here it is.
    fn ask(&mut self, what: &str, braces: &[&str], query: &str, body: &Value) -> (u16, Value) {
        let (method, path) = what.split_once(' ').unwrap();
        let operation = self.document["paths"][path][method.to_lowercase()].clone();
        assert!(operation.is_object(), "{what} is not in the document");
        let takes = &operation["requestBody"];
        if body.is_null() {
            assert_ne!(takes["required"], true, "{what} takes a body");
        } else {
            check(&self.document, &takes["content"]["application/json"]["schema"], body)
                .unwrap_or_else(|e| panic!("{what}: the body that is sent: {e:#}"));
        }
        let mut given = braces.iter();
        let words = path.split('/').map(|word| if word.starts_with('{') { *given.next().unwrap() } else { word });
        let target = words.collect::<Vec<_>>().join("/") + query;
        let answer = call(&self.socket, method, &target, body).unwrap();
        let response = &operation["responses"][answer.status.to_string()];
        let response = match response["$ref"].as_str() {
            Some(to) => self.document.pointer(to.strip_prefix('#').unwrap()).unwrap(),
            None => response,
        };
        assert!(response.is_object(), "{what}: the document knows no {}: {}", answer.status, answer.body);
        check(&self.document, &response["content"]["application/json"]["schema"], &answer.body)
            .unwrap_or_else(|e| panic!("{what}: {} answers otherwise than the document says: {e:#}", answer.status));
        for name in response["headers"].as_object().unwrap().keys().filter(|name| *name != "Weft-Continue") {
            assert!(answer.headers.contains_key(&name.to_lowercase()), "{what}: no header {name}");
        }
        self.asked.insert((method.to_owned(), path.to_owned()));
        (answer.status, answer.body)
    }

    /// Asks for what is done.
    fn done(&mut self, what: &str, braces: &[&str], query: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(what, braces, query, body);
        assert_eq!(status, 200, "{what}: {answer}");
        answer
    }

    /// Asks for what is refused, for a reason that is known.
    fn refused(&mut self, what: &str, braces: &[&str], body: &Value, status: u16) {
        let (is, answer) = self.ask(what, braces, "", body);
        assert_eq!(is, status, "{what}: {answer}");
    }
}

#[test]
fn every_operation_takes_and_answers_what_the_document_says() {
    let t = Topology::cluster(1).unwrap();
    let mut a = Asker::new(t.host(1).agent.socket());
    let none = &Value::Null;

    // Objects of every kind, with as much in them as there can be.
    let check = json!({ "kind": "http", "path": "/healthz", "status": [[200, 299]], "interval_ms": 60_000 });
    a.done("PUT /v1/namespaces/{namespace}", &["prod"], "", none);
    a.done("PUT /v1/namespaces/{namespace}", &["left"], "?dry_run=true", &json!({}));
    let spec = json!({
        "ports": [{ "name": "http", "port": 80, "target": "web" }, { "name": "dns", "port": 53, "target": 5353, "proto": "udp" }],
        "selector": { "app": "myapp" },
        "expressions": [{ "key": "tier", "operator": "In", "values": ["front"] }],
        "labels": { "team": "a" }, "algorithm": "maglev", "affinity": { "kind": "client" }, "prefer": "node", "panic": 50,
        "check": check, "allow_hosts": true,
    });
    a.done("PUT /v1/services/{namespace}/{service}", &["prod", "myapp"], "", &spec);
    a.done("POST /v1/services", &[], "", &json!({ "service": "headless", "headless": true }));
    let endpoint = json!({
        "addresses": ["192.0.2.7"], "ports": [{ "name": "web", "port": 8080 }], "name": "outside",
        "labels": { "app": "myapp", "tier": "front" }, "priority": 1, "weight": 2,
    });
    a.done("PUT /v1/endpoints/{namespace}/{service}/{id}", &["prod", "myapp", "e1"], "", &endpoint);
    a.done("POST /v1/endpoints", &[], "", &json!({ "service": "prod/myapp", "id": "e2", "address": "192.0.2.8", "port": 80 }));
    let register = json!({ "service": "prod/myapp", "port": 9, "ttl_ms": 600_000, "addresses": ["192.0.2.9"], "check": check });
    a.done("PUT /v1/registrations/{id}", &["r1"], "", &register);
    let stands =
        json!({ "service": "boss", "kind": "name", "ttl_ms": 600_000, "candidate": "stands", "addresses": ["192.0.2.10"] });
    a.done("PUT /v1/registrations/{id}", &["c1"], "", &stands);
    let there = t.host(1).bare_namespace("there").unwrap();
    let owner = json!({ "runtime": "cni", "network": "net", "container": "c" });
    let attach = json!({
        "netns": there.netns(), "ifname": "eth0", "id": "a1", "name": "a1", "service": "prod/myapp", "port": 8080,
        "labels": { "app": "myapp" }, "owner": owner, "aliases": ["also"], "check": check,
        "instances": [{ "service": "prod/myapp", "port": 53, "proto": "udp", "port_name": "dns" }],
        "publish": [{ "host_port": 18_080, "port": 8080 }],
    });
    a.done("POST /v1/attachments", &[], "", &attach);
    a.done("PATCH /v1/attachments/{id}", &["a1"], "", &json!({ "name": "a1", "labels": { "app": "other" }, "check": check }));
    let of = json!({ "owner": owner, "ifname": "eth0", "netns": there.netns() });
    a.done("POST /v1/attachments/check", &[], "", &of);
    a.done("POST /v1/networks", &[], "", &json!({ "name": "blue", "cidr": "10.245.0.0/16", "vni": 77 }));
    a.done("POST /v1/reservations", &[], "", &json!({ "node": "h9", "subnet": "10.244.77.0/24" }));
    a.done("PUT /v1/services/{namespace}/{service}/leader", &["prod", "myapp"], "", &json!({ "id": "e1" }));
    a.done("PUT /v1/endpoints/{id}/drain", &["e1"], "", none);
    a.done("PATCH /v1/config", &[], "", &json!({ "dns_domain": "skydns.local." }));
    let checkup = a.done("POST /v1/doctor", &[], "", &json!({ "local": true }));

    // All that can be read.
    let number = checkup["id"].to_string();
    let mut answers = 0;
    for (path, item) in a.document["paths"].as_object().unwrap().clone() {
        if item.get("get").is_none() || matches!(path.as_str(), "/v1/watch" | "/v1/openapi.json") {
            continue;
        }
        let query = if path.starts_with("/v1/dns/") { "?name=myapp.prod.skydns.local&type=SRV" } else { "" };
        let braces: &[&str] = match path.as_str() {
            "/v1/networks/{network}" => &["blue"],
            "/v1/nodes/{node}" | "/v1/nodes/{node}/drain" => &["h1"],
            "/v1/namespaces/{namespace}" => &["prod"],
            "/v1/endpoints/{id}/health" => &["a1"],
            "/v1/endpoints/{id}/drain" => &["e1"],
            "/v1/endpoints/{namespace}/{service}/{id}" => &["prod", "myapp", "e1"],
            "/v1/services/{namespace}/{service}" | "/v1/services/{namespace}/{service}/leader" => &["prod", "myapp"],
            "/v1/registrations/{id}" => &["c1"],
            "/v1/doctor/{id}" => &[&number],
            _ => &[],
        };
        a.done(&format!("GET {path}"), braces, query, none);
        answers += 1;
    }
    assert!(answers > 20, "{answers}");
    let page = call(&a.socket, "GET", "/v1/endpoints?limit=1", none).unwrap();
    assert!(page.headers.contains_key("weft-continue"), "{page:?}");
    let mut events = Events::of(&a.socket, "", "").unwrap();
    let changed = a.document["paths"]["/v1/watch"]["get"]["responses"]["200"]["content"]["text/event-stream"]["schema"].clone();
    loop {
        let event = events.next(SOON).unwrap().unwrap();
        if event.event == "current" {
            break;
        }
        weft_tests::schema::check(&a.document, &changed["x-weft-event-data"], &event.data).unwrap();
    }
    a.asked.insert(("GET".to_owned(), "/v1/watch".to_owned()));

    // And all of it away again.
    let export = call(&a.socket, "GET", "/v1/store/export", none).unwrap().success().unwrap();
    let import = json!({ "weft_store": 1, "entries": export["entries"], "dry_run": true });
    a.done("POST /v1/store/import", &[], "", &import);
    a.done("DELETE /v1/services/{namespace}/{service}/leader", &["prod", "myapp"], "", none);
    a.done("DELETE /v1/endpoints/{id}/drain", &["e1"], "", none);
    a.done("PUT /v1/nodes/{node}/drain", &["h1"], "", none);
    a.done("DELETE /v1/nodes/{node}/drain", &["h1"], "", none);
    a.done("DELETE /v1/endpoints/{id}", &["e2"], "?service=prod/myapp", none);
    a.done("DELETE /v1/endpoints/{namespace}/{service}/{id}", &["prod", "myapp", "e1"], "", none);
    a.done("DELETE /v1/registrations/{id}", &["c1"], "", none);
    a.done("DELETE /v1/registrations/{id}", &["r1"], "", none);
    a.done("POST /v1/attachments/gc", &[], "", &json!({ "runtime": "docker", "network": "net", "keep": [] }));
    a.done("POST /v1/attachments/release", &[], "", &json!({ "owner": owner }));
    a.refused("DELETE /v1/attachments/{id}", &["a1"], none, 404);
    a.done("DELETE /v1/services/{namespace}/{service}", &["prod", "myapp"], "", none);
    a.done("DELETE /v1/reservations/{node}", &["h9"], "", none);
    a.done("DELETE /v1/networks/{network}", &["blue"], "", none);
    a.done("DELETE /v1/namespaces/{namespace}", &["prod"], "?dry_run=true", none);
    a.refused("DELETE /v1/nodes/{node}", &["h1"], none, 409);
    a.refused("PUT /v1/network", &[], &json!({ "cidr": "10.99.0.0/16" }), 409);
    a.done("PATCH /v1/network", &[], "", &json!({ "mtu": 1400 }));

    let operations = |(path, item): (&String, &Value)| {
        let methods = item.as_object().unwrap().keys();
        methods.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    };
    let all: BTreeSet<(String, String)> = a.document["paths"].as_object().unwrap().iter().flat_map(operations).collect();
    assert_eq!(a.asked, all, "an operation that nobody has asked for");
    t.down().unwrap();
}
