//! Scripts of records and questions: `tests/data/*.txt`.
//!
//! A script is read line by line: `put KEY JSON`, `leased KEY JSON` (on a lease), `delete KEY...` (in one revision),
//! `ask NAME TYPE`. The indented lines below a question are its whole answer: code and flags, what is left to do, then the
//! records of each section. `UPDATE=1 cargo test -p weft-dns --test zone` rewrites them; the diff is what is reviewed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may assume")]

#[path = "support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hickory_proto::rr::Name;
use support::{World, line};
use weft_dns::{Answer, Basis, Maker, Mark, Next, Question};

fn scripts() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    paths
}

fn print(answer: &Answer) -> String {
    let mut out = format!("    {:?}{}", answer.rcode, if answer.authoritative { " aa" } else { "" });
    match &answer.next {
        Next::Done => {}
        Next::Forward => out.push_str(" forward"),
        Next::Resolve(name) => write!(out, " resolve {name}").unwrap(),
    }
    out.push('\n');
    for (section, records) in [("answer", &answer.answers), ("authority", &answer.authority), ("additional", &answer.additional)]
    {
        for record in records {
            writeln!(out, "    {section} {}", line(record)).unwrap();
        }
    }
    out
}

/// The script with what is really answered.
fn play(script: &str) -> String {
    let mut world = World::new();
    let mut out = String::new();
    for text in script.lines() {
        if text.starts_with("    ") {
            continue;
        }
        out.push_str(text);
        out.push('\n');
        let mut words = text.splitn(3, ' ');
        match (words.next().unwrap_or_default(), words.next(), words.next()) {
            ("" | "#", ..) => {}
            ("put", Some(key), Some(value)) => world.put(key, value, false),
            ("leased", Some(key), Some(value)) => world.put(key, value, true),
            ("delete", Some(first), rest) => {
                let keys: Vec<&str> = [first].into_iter().chain(rest.unwrap_or_default().split_whitespace()).collect();
                world.delete(&keys);
            }
            ("ask", Some(name), Some(record_type)) => {
                let question =
                    Question { name: Name::from_ascii(name).unwrap(), record_type: record_type.trim().parse().unwrap() };
                out.push_str(&print(&world.zone().answer(&question)));
            }
            _ => panic!("no command: {text:?}"),
        }
    }
    out
}

#[test]
fn every_script_is_answered_as_written() {
    let mut wrong = Vec::new();
    let scripts = scripts();
    assert!(scripts.len() >= 5, "scripts are missing: {scripts:?}");
    for path in scripts {
        let expected = std::fs::read_to_string(&path).unwrap();
        let played = play(&expected);
        if played == expected {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, played).unwrap();
            continue;
        }
        for (at, (want, got)) in expected.lines().zip(played.lines()).enumerate() {
            if want != got {
                wrong.push(format!("{}:{}: expected {want:?}, got {got:?}", path.display(), at + 1));
                break;
            }
        }
        if wrong.is_empty() {
            wrong.push(format!("{}: lengths differ", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

mod anything {
    //! Whatever is stored and whatever is asked, an answer keeps to the rules of DNS.

    use std::collections::{BTreeMap, BTreeSet};

    use hickory_proto::op::{Message, OpCode, ResponseCode};
    use hickory_proto::rr::{Record, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn label() -> impl Strategy<Value = String> {
        const KNOWN: &[&str] =
            &["a", "b", "web", "dns", "ns", "apex", "tasks", "_tcp", "_http", "*", "any", "prod", "MiXed", "4"];
        prop_oneof![
            8 => prop::sample::select(KNOWN).prop_map(str::to_owned),
            1 => "[a-z0-9:._-]{1,63}",
            1 => "\\PC{1,30}",
        ]
    }

    fn host() -> impl Strategy<Value = String> {
        prop_oneof![
            (0_u8..4).prop_map(|n| format!("10.0.0.{n}")),
            (0_u8..4).prop_map(|n| format!("fd00::{n}")),
            prop::collection::vec(label(), 1..3).prop_map(|l| format!("{}.skydns.local", l.join("."))),
            prop::sample::select(&["", ".", "x.example.com", "not a name", "a..b", "skydns.local"][..]).prop_map(str::to_owned),
            "\\PC{0,20}",
        ]
    }

    /// A key and a value below the domain.
    fn record() -> impl Strategy<Value = (String, String)> {
        let members = (host(), any::<u16>(), 0_u16..3, any::<u32>(), 0_u32..4, 0_u32..400, any::<[bool; 4]>());
        (prop::collection::vec(label(), 0..4), members).prop_map(|(labels, m)| {
            let (host, port, priority, weight, strip, ttl, [mail, text, ours, group]) = m;
            let mut value = serde_json::json!({
                "host": host, "port": port, "priority": priority, "weight": weight, "targetstrip": strip, "ttl": ttl, "mail": mail,
            });
            if text {
                value["text"] = format!("text {port}").into();
            }
            if group {
                value["group"] = format!("g{}", port % 2).into();
            }
            if ours {
                let state = ["up", "draining", "starting", "down"][usize::from(port % 4)];
                value["weft"] = serde_json::json!({"id": "i", "state": state, "node": "h1", "unhealthy": port % 8 == 3});
            }
            (format!("/skydns/local/skydns/{}", labels.join("/")), value.to_string())
        })
    }

    /// One of a few names that point to each other: chains and loops.
    fn link() -> impl Strategy<Value = (String, String)> {
        const NAMES: &[&str] = &["a", "b", "web", "prod"];
        let names = (prop::sample::select(NAMES), prop::sample::select(NAMES), any::<u8>());
        names.prop_map(|(from, to, ttl)| {
            let value = serde_json::json!({ "host": format!("{to}.skydns.local"), "ttl": ttl });
            (format!("/skydns/local/skydns/{from}"), value.to_string())
        })
    }

    fn question() -> impl Strategy<Value = Question> {
        let types = [
            RecordType::A,
            RecordType::AAAA,
            RecordType::SRV,
            RecordType::TXT,
            RecordType::MX,
            RecordType::CNAME,
            RecordType::NS,
            RecordType::SOA,
            RecordType::ANY,
            RecordType::PTR,
            RecordType::HTTPS,
            RecordType::Unknown(999),
        ];
        let labels = prop::collection::vec(
            prop_oneof![9 => label().prop_map(String::into_bytes), 1 => any::<[u8; 3]>().prop_map(|b| b.to_vec())],
            0..5,
        );
        (labels, prop::sample::select(types.to_vec()), any::<bool>()).prop_map(|(mut labels, record_type, inside)| {
            if inside {
                labels.extend([b"SkyDNS".to_vec(), b"local".to_vec()]);
            }
            let name = Name::from_labels(labels).unwrap_or_else(|_| Name::root());
            Question { name, record_type }
        })
    }

    fn check(zone: &weft_dns::Zone, question: &Question, answer: &Answer) -> Result<(), TestCaseError> {
        let all: Vec<&Record> = answer.answers.iter().chain(&answer.authority).chain(&answer.additional).collect();
        let mut ttls: BTreeMap<(String, RecordType), BTreeSet<u32>> = BTreeMap::new();
        for record in &all {
            let set = (record.name.to_lowercase().to_string(), record.record_type());
            ttls.entry(set).or_default().insert(record.ttl);
        }
        for (set, ttls) in &ttls {
            prop_assert_eq!(ttls.len(), 1, "{:?}: one set, one TTL", set);
            let (name, record_type) = set;
            if *record_type == RecordType::CNAME {
                prop_assert_eq!(all.iter().filter(|r| r.name.to_lowercase().to_string() == *name).count(), 1);
            }
        }
        for section in [&answer.answers, &answer.authority, &answer.additional] {
            let lines: BTreeSet<String> = section.iter().map(line).collect();
            prop_assert_eq!(lines.len(), section.len(), "a record is there twice");
        }
        if zone.contains(&question.name) {
            prop_assert!(answer.authoritative);
            prop_assert_eq!(answer.answers.is_empty(), !answer.authority.is_empty(), "no data comes with the SOA");
            prop_assert!(answer.next != Next::Forward);
            prop_assert!(answer.answers.is_empty() || answer.rcode == ResponseCode::NoError);
        } else {
            prop_assert!(answer.answers.is_empty() && answer.next == Next::Forward);
        }
        if let Some(first) = answer.answers.first() {
            prop_assert!(first.name.eq_case(&question.name), "spelled as asked");
        }
        let mut at = question.name.clone();
        for record in &answer.answers {
            prop_assert_eq!(&record.name, &at, "a chain in its order");
            if let hickory_proto::rr::RData::CNAME(next) = &record.data {
                at = next.0.clone();
            }
        }
        let mut message = Message::response(1, OpCode::Query);
        message.answers.clone_from(&answer.answers);
        message.authorities.clone_from(&answer.authority);
        message.additionals.clone_from(&answer.additional);
        let bytes = message.to_vec();
        prop_assert!(bytes.is_ok(), "{:?}", bytes);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn is_answered_by_the_rules(
            records in prop_oneof![prop::collection::vec(record(), 0..24), prop::collection::vec(link(), 0..8)],
            questions in prop::collection::vec(question(), 12),
            service in any::<[bool; 4]>(),
            external in prop::sample::select(vec!["web.skydns.local", "a.skydns.local", "a.web.skydns.local", "x.example.com"]),
        ) {
            let [declared, vip, selector, is_external] = service;
            let mut world = World::new();
            world.put("/weft/v1/nodes/h1", r#"{"node":"h1"}"#, true);
            for (index, (key, value)) in records.iter().enumerate() {
                world.put(key, value, index % 2 == 0);
            }
            if declared {
                let vips = if vip { r#"["10.112.0.7"]"# } else { "[]" };
                let selector = if selector { r#","selector":{"x":"y"}"# } else { "" };
                let ports = r#""ports":[{"name":"http","port":80}]"#;
                let value = if is_external {
                    format!(r#"{{{ports},"external_name":"{external}"}}"#)
                } else {
                    format!(r#"{{{ports},"vips":{vips}{selector},"panic":50}}"#)
                };
                world.put("/weft/v1/services/default/web", &value, false);
                world.put("/weft/v1/namespaces/prod", "{}", false);
            }
            let zone = world.zone();
            for question in &questions {
                let answer = zone.answer(question);
                check(&zone, question, &answer)?;
            }
        }
    }

    /// One change of the store: a key, its value or none for a deletion, and whether it is leased.
    type Step = (String, Option<String>, bool);

    fn step() -> impl Strategy<Value = Step> {
        const NAMES: &[&str] = &["default/web", "default/a", "prod/b"];
        let service = (prop::sample::select(NAMES), 0_u8..6, 0_u8..3).prop_map(|(name, shape, vip)| {
            let ports = r#""ports":[{"name":"http","port":80},{"port":53,"proto":"udp","target_port":"dns"}]"#;
            let shape = match shape {
                0 => r#","selector":{"x":"y"}"#,
                1 => r#","expressions":[{"key":"z","operator":"Exists"}]"#,
                2 => r#","external_name":"a.skydns.local""#,
                3 => r#","network":"blue""#,
                _ => "",
            };
            let vips = ["", r#","vips":["10.112.0.7"]"#, r#","vips":["10.112.0.7","10.112.0.8"]"#][usize::from(vip)];
            (format!("/weft/v1/services/{name}"), Some(format!("{{{ports}{shape}{vips}}}")), false)
        });
        let labelled = (record(), 0_u8..4, prop::sample::select(vec!["h1", "h2"])).prop_map(|((key, value), labels, node)| {
            let mut value: serde_json::Value = serde_json::from_str(&value).unwrap();
            let labels = [r#"{}"#, r#"{"x":"y"}"#, r#"{"z":"1"}"#, r#"{"x":"y","z":"2"}"#][usize::from(labels)];
            let network = if key.len() % 7 == 0 { Some("blue") } else { None };
            let labels: serde_json::Value = serde_json::from_str(labels).unwrap();
            value["weft"] = serde_json::json!({"id": "i", "node": node, "labels": labels, "network": network, "born": key.len(), "candidate": key.len() % 5 == 0});
            (key, Some(value.to_string()), true)
        });
        let down = record().prop_map(|(key, value)| (key.replace("/skydns/", "/weft/v1/down/"), Some(value), true));
        let vip = (prop::sample::select(NAMES), 7_u8..9)
            .prop_map(|(name, n)| (format!("/weft/v1/vips/10.112.0.{n}"), Some(format!(r#"{{"service":"{name}"}}"#)), false));
        let choice = prop::sample::select(vec!["default/a", "default/web"])
            .prop_map(|name| (format!("/weft/v1/leaders/{name}"), Some(r#"{"manual":"i"}"#.to_owned()), false));
        let rare = prop::sample::select(vec![
            ("/weft/v1/nodes/h1", r#"{"node":"h1"}"#),
            ("/weft/v1/nodes/h2", r#"{"node":"h2"}"#),
            ("/weft/v1/namespaces/prod", "{}"),
            ("/weft/v1/networks/blue", r#"{"Network":"10.245.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#),
            ("/coreos.com/network/config", r#"{"Network":"10.0.0.0/16"}"#),
            ("/skydns/arpa/in-addr/10/0/0/1", r#"{"host":"named.example.com"}"#),
            ("/weft/v1/elections/default/a", r#"{"id":"i","node":"h1"}"#),
            ("/weft/v1/elections/default/web", r#"{"id":"i","node":"h2"}"#),
        ])
        .prop_map(|(key, value)| (key.to_owned(), Some(value.to_owned()), key.contains("nodes") || key.contains("elections")));
        let plain = record().prop_map(|(key, value)| (key, Some(value), false));
        let linked = link().prop_map(|(key, value)| (key, Some(value), false));
        prop_oneof![4 => plain, 4 => labelled, 2 => linked, 2 => down, 3 => service, 2 => vip, 1 => choice, 1 => rare]
    }

    /// Puts, and the deletion of one that was put before.
    fn steps() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec((step(), any::<prop::sample::Index>(), 0_u8..3), 1..30).prop_map(|list| {
            let mut done: Vec<Step> = Vec::new();
            for (step, which, kind) in list {
                let gone = (kind == 0 && !done.is_empty()).then(|| (which.get(&done).0.clone(), None, false));
                done.push(gone.unwrap_or(step));
            }
            done
        })
    }

    /// What an answer says, but for the zone's revision.
    fn said(answer: &Answer) -> String {
        let print = print(answer);
        let parts = print.lines().map(|l| {
            let mut words: Vec<&str> = l.split(' ').collect();
            if words.contains(&"SOA") {
                words.truncate(words.len() - 5);
            }
            words.join(" ")
        });
        parts.collect::<Vec<_>>().join("\n")
    }

    fn asked() -> impl Strategy<Value = Vec<Question>> {
        let reverse =
            (prop::sample::select(vec!["1.0.0.10", "0.0.10", "7.0.112.10", "2.0.0.10"]), any::<bool>()).prop_map(|(n, ptr)| {
                let name = Name::from_ascii(format!("{n}.in-addr.arpa.")).unwrap();
                Question { name, record_type: if ptr { RecordType::PTR } else { RecordType::A } }
            });
        let special = prop::sample::select(vec![
            "leader.web",
            "leader.a",
            "tasks.web",
            "_http._tcp.web",
            "i.web",
            "*",
            "web.any",
            "web",
            "a",
            "b.prod",
            "prod",
            "",
        ]);
        let types = prop::sample::select(vec![RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::MX]);
        let special = (special, types).prop_map(|(name, record_type)| {
            let name = if name.is_empty() { "skydns.local.".to_owned() } else { format!("{name}.skydns.local.") };
            Question { name: Name::from_ascii(name).unwrap(), record_type }
        });
        prop::collection::vec(prop_oneof![3 => question(), 3 => special, 1 => reverse], 16)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        #[test]
        fn a_zone_that_follows_changes_is_the_one_that_is_made_at_once_and_says_what_it_changes(
            steps in steps(),
            batch in 1_usize..4,
            questions in asked(),
            blue in any::<bool>(),
        ) {
            let network: weft_model::ids::NetworkName = if blue { "blue" } else { "default" }.parse().unwrap();
            let mut world = World::new();
            let mut maker = Maker::new(network.clone());
            let (mut last, touched) = maker.update(world.snapshot());
            prop_assert!(touched.all);
            for part in steps.chunks(batch) {
                for (key, value, leased) in part {
                    match value {
                        Some(value) => world.put(key, value, *leased),
                        None => world.delete(&[key]),
                    }
                }
                let (zone, touched) = maker.update(world.snapshot());
                let at_once = Maker::new(network.clone()).update(world.snapshot()).0;
                let marks: BTreeSet<Mark> = touched.marks().collect();
                prop_assert_eq!((zone.records(), zone.names(), zone.skipped()), (at_once.records(), at_once.names(), at_once.skipped()));
                for question in &questions {
                    let now = zone.answer(question);
                    prop_assert_eq!(print(&now), print(&at_once.answer(question)), "{:?}", question);
                    let basis = Basis::default();
                    let before = last.answer_on(question, &basis);
                    let is_told = touched.all || basis.marks().iter().any(|mark| marks.contains(mark));
                    prop_assert!(is_told || said(&before) == said(&now), "{:?}\n{}\n{}\n{:?}", question, print(&before), print(&now), touched);
                    prop_assert!(!is_told || !last.stands(&basis.marks(), last.number()), "it is said of the old zone as well");
                    prop_assert!(basis.names_the_revision() || !print(&before).contains(" SOA "));
                }
                last = zone;
            }
        }
    }
}
