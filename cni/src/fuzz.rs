//! Whatever comes in by standard input, environment or arguments: an answer of the protocol, never a panic.
//!
//! The mutations are made by a generator with a fixed seed, so that what fails once fails again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::{Value, json};

use crate::answer;

/// Nobody listens there, and nothing can be left there.
const NOWHERE: &str = "/nonexistent/weft-cni-test/weft.sock";

/// Marsaglia's xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % sides.max(1)
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

const NASTY: [&str; 14] = [
    "",
    "null",
    "{}",
    "[]",
    "\"\"",
    "-1",
    "0",
    "1e999",
    "18446744073709551616",
    "\"\\u0000\"",
    "\"../../x\"",
    "[[[[[[[[",
    "\u{202e}",
    "true",
];

/// Turns some bytes over, cuts some out, puts some in, or repeats some.
fn mutate(dice: &mut Dice, text: &[u8]) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len() + 1);
        let to = (at + dice.roll(12)).min(bytes.len());
        match dice.roll(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            1 => drop(bytes.drain(at..to)),
            2 => drop(bytes.splice(at..to, dice.one_of(&NASTY).bytes())),
            3 => bytes.truncate(at),
            4 => drop(bytes.splice(at..at, bytes[at..to].repeat(3).into_iter().collect::<Vec<_>>())),
            _ => bytes.insert(at, u8::try_from(dice.roll(256)).unwrap()),
        }
    }
    bytes
}

/// Puts another value in the place of one somewhere in the tree.
fn swap(dice: &mut Dice, value: &mut Value) {
    let children: usize = match value {
        Value::Object(map) => map.len(),
        Value::Array(list) => list.len(),
        _ => 0,
    };
    if children == 0 || dice.roll(4) == 0 {
        *value = serde_json::from_str(dice.one_of(&NASTY)).unwrap_or(Value::from("x".repeat(dice.roll(300))));
        return;
    }
    let chosen = dice.roll(children);
    match value {
        Value::Object(map) => map.values_mut().nth(chosen).into_iter().for_each(|child| swap(dice, child)),
        Value::Array(list) => swap(dice, &mut list[chosen]),
        _ => {}
    }
}

/// Keeps the call from waiting, and from writing anywhere, wherever it still says where.
fn harmless(stdin: Vec<u8>) -> Vec<u8> {
    let Ok(Value::Object(mut map)) = serde_json::from_slice(&stdin) else { return stdin };
    if map.contains_key("network_options") {
        for object in ["network", "network_options"] {
            if let Some(Value::Object(network)) = map.get_mut(object) {
                match network.get_mut("options") {
                    Some(Value::Object(options)) => {
                        options.insert("socket".to_owned(), NOWHERE.into());
                        options.insert("timeout".to_owned(), "0".into());
                    }
                    Some(Value::Null) | None if object == "network" => {
                        network.insert("options".to_owned(), json!({ "socket": NOWHERE, "timeout": "0" }));
                    }
                    _ => {}
                }
            }
        }
    } else {
        map.insert("socket".to_owned(), NOWHERE.into());
        map.insert("timeout".to_owned(), 0.into());
    }
    serde_json::to_vec(&map).unwrap()
}

fn config() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "weft", "type": "weft", "network": "blue", "service": "web:80/tcp", "labels": { "a": "b" },
        "default_route": true, "dns": { "nameservers": ["192.0.2.1"], "search": ["s"] }, "ipam": {},
        "capabilities": { "portMappings": true }, "args": { "cni": { "labels": [{ "key": "k", "value": "v" }], "ips": ["10.0.0.1/24"] } },
        "runtimeConfig": {
            "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1" }],
            "ips": ["10.244.3.7/24"], "mac": "02:11:22:33:44:55", "aliases": { "weft": ["a"] }, "dns": { "servers": ["192.0.2.2"] },
        },
        "prevResult": {
            "cniVersion": "1.1.0", "interfaces": [{ "name": "net1", "sandbox": "/x", "mac": "02:00:00:00:00:01" }],
            "ips": [{ "address": "10.0.0.2/24", "interface": 0 }], "routes": [{ "dst": "0.0.0.0/0" }], "dns": {},
        },
        "cni.dev/valid-attachments": [{ "containerID": "c", "ifname": "eth0" }],
    })
}

const ENVIRONMENT: [(&str, &str); 5] = [
    ("CNI_CONTAINERID", "default-c1"),
    ("CNI_NETNS", "/nonexistent/netns"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.244.3.7;MAC=02:11:22:33:44:55"),
    ("CNI_PATH", "/opt/cni/bin"),
];

fn call(vars: &BTreeMap<String, OsString>, args: &[OsString], stdin: Vec<u8>) -> (String, u8) {
    let lookup = |name: &str| vars.get(name).cloned().or_else(|| (name == "WEFT_SOCKET").then(|| NOWHERE.into()));
    let answer = answer(&lookup, args, || Ok(harmless(stdin)));
    (answer.printed, answer.code)
}

#[test]
fn no_cni_input_gets_anything_but_an_answer_of_the_specification() {
    let mut dice = Dice(0x5eed);
    let base = config();
    let text = serde_json::to_vec(&base).unwrap();
    for round in 0..6_000 {
        let verb = dice.one_of(&["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"]);
        let stdin = match dice.roll(3) {
            0 => mutate(&mut dice, &text),
            1 => {
                let mut tree = base.clone();
                (0..=dice.roll(3)).for_each(|_| swap(&mut dice, &mut tree));
                tree.to_string().into_bytes()
            }
            _ => text.clone(),
        };
        let mut vars: BTreeMap<String, OsString> = ENVIRONMENT.iter().map(|(k, v)| ((*k).to_owned(), v.into())).collect();
        vars.insert("CNI_COMMAND".to_owned(), verb.into());
        if dice.roll(2) == 0 {
            let name = dice.one_of(&["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"]).to_string();
            let before = vars[&name].clone().into_vec();
            // The kernel lets no zero byte into an environment.
            let value = mutate(&mut dice, &before).into_iter().filter(|b| *b != 0).collect();
            vars.insert(name, OsString::from_vec(value));
        }
        let (printed, code) = call(&vars, &[], stdin.clone());
        let told = || format!("round {round}: {vars:?}\n{}\n{printed}", String::from_utf8_lossy(&stdin));
        if code == 0 {
            // Without an agent: VERSION answers, DEL and GC have nothing to take back where no agent has run.
            let version = serde_json::from_str::<Value>(&printed).is_ok_and(|v| v["supportedVersions"].is_array());
            assert!(printed.is_empty() || version, "{}", told());
            continue;
        }
        let error: Value = serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}\n{}", told()));
        let known = [1, 2, 3, 4, 5, 6, 7, 11, 50, 51, 100, 103, 105];
        assert!(code == 1 && error["code"].as_u64().is_some_and(|code| known.contains(&code)), "{}", told());
        assert!(error["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{}", told());
        let versions = crate::config::Version::ALL.map(crate::config::Version::as_str);
        assert!(versions.contains(&error["cniVersion"].as_str().unwrap_or_default()), "{}", told());
    }
}

#[test]
fn no_netavark_input_gets_anything_but_an_answer_of_the_protocol() {
    let mut dice = Dice(0xdead);
    let network = json!({
        "dns_enabled": true, "driver": "weft", "id": "2f259bab", "internal": false, "ipv6_enabled": false, "name": "n1",
        "options": { "network": "blue", "service": "web:80", "labels": "a=b", "timeout": "0" }, "ipam_options": { "driver": "none" },
        "subnets": [], "network_dns_servers": ["192.0.2.1"],
    });
    let exec = json!({
        "container_id": "c1", "container_name": "web", "network": network,
        "port_mappings": [{ "container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp,udp", "range": 2 }],
        "network_options": { "aliases": ["al"], "interface_name": "eth0", "static_ips": ["10.0.0.2"], "static_mac": "02:11:22:33:44:55" },
    });
    for round in 0..4_000 {
        let verb = dice.one_of(&["create", "setup", "teardown", "info"]);
        let mut tree = if verb == "create" { network.clone() } else { exec.clone() };
        let stdin = match dice.roll(3) {
            0 => mutate(&mut dice, tree.to_string().as_bytes()),
            _ => {
                (0..dice.roll(4)).for_each(|_| swap(&mut dice, &mut tree));
                tree.to_string().into_bytes()
            }
        };
        let args = [verb.into(), "/nonexistent/netns".into()];
        let (printed, code) = call(&BTreeMap::new(), &args, stdin.clone());
        let told = || format!("round {round}: {verb}\n{}\n{printed}", String::from_utf8_lossy(&stdin));
        match (code, verb) {
            (0, "teardown") => assert!(printed.is_empty(), "{}", told()),
            (0, _) => assert!(serde_json::from_str::<Value>(&printed).is_ok_and(|v| v.is_object()), "{}", told()),
            (1, _) => {
                let error: Value = serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}\n{}", told()));
                assert!(error["error"].as_str().is_some_and(|text| !text.is_empty()), "{}", told());
            }
            _ => panic!("exit code {code}: {}", told()),
        }
    }
}

#[test]
fn without_a_protocol_it_says_what_it_is() {
    let none = BTreeMap::new();
    let (printed, code) = call(&none, &[], Vec::new());
    assert_eq!((serde_json::from_str::<Value>(&printed).unwrap()["api_version"].clone(), code), (json!("1.0.0"), 0));
    assert!(call(&none, &["--help".into()], Vec::new()).0.contains("CNI_COMMAND"));
    let (printed, code) = call(&none, &["attach".into()], Vec::new());
    assert!(code == 1 && printed.contains("attach"), "{printed}");
    let forgetful = [("CNI_CONTAINERID".to_owned(), OsString::from("c1"))].into();
    let (printed, code) = call(&forgetful, &[], b"{}".to_vec());
    let error: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&error["code"], code), (&json!(4), 1), "{printed}");
}

#[test]
fn version_answers_whatever_stands_beside_it() {
    for (stdin, version) in
        [("", "1.1.0"), (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"), (r#"{"cniVersion":"9.0.0"}"#, "9.0.0"), ("{}", "1.1.0")]
    {
        let dummies = ["CNI_NETNS", "CNI_IFNAME", "CNI_PATH"].map(|name| (name.to_owned(), OsString::from("dummy")));
        let vars = dummies.into_iter().chain([("CNI_COMMAND".to_owned(), "VERSION".into())]).collect();
        let lookup = |name: &str| BTreeMap::<String, OsString>::get(&vars, name).cloned();
        let answered = answer(&lookup, &[], || Ok(stdin.as_bytes().to_vec()));
        let answer: Value = serde_json::from_str(&answered.printed).unwrap();
        let wanted = json!({ "cniVersion": version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] });
        assert_eq!((answer, answered.code), (wanted, 0), "{stdin}");
    }
}
