//! What containers say, and what is made of it.

use super::*;

fn container(env: &[&str], labels: &[(&str, &str)], ports: &[(u16, Proto)]) -> Container {
    Container {
        name: "c1".to_owned(),
        aliases: Vec::new(),
        env: env.iter().map(|e| (*e).to_owned()).collect(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ports: ports.iter().copied().collect(),
    }
}

/// `service:port/proto key=value…`, one for each instance.
fn instances(told: &Told) -> Vec<String> {
    let said = |i: &Instance| {
        let port = i.port.map_or_else(String::new, |port| format!(":{port}/{}", i.proto));
        let labels: String = i.labels.iter().map(|(k, v)| format!(" {k}={v}")).collect();
        let name = if i.port_name.is_empty() { String::new() } else { format!(" ({})", i.port_name) };
        format!("{}{port}{name}{labels}", i.service)
    };
    told.description.instances.iter().map(said).collect()
}

fn labels(told: &Told) -> Vec<String> {
    told.description.labels.iter().map(|(k, v)| format!("{k}={v}")).collect()
}

const HTTP: (u16, Proto) = (80, Proto::Tcp);
const HTTPS: (u16, Proto) = (443, Proto::Tcp);
const DNS: (u16, Proto) = (53, Proto::Udp);

#[test]
fn variables_become_services_at_ports() {
    for (env, ports, expected) in [
        (&["SERVICE_NAME=web"][..], &[HTTP][..], &["default/web:80/tcp"][..]),
        (&["SERVICE_NAME=web"], &[], &["default/web"]),
        (&["SERVICE_NAME=prod/web"], &[HTTP], &["prod/web:80/tcp"]),
        (
            &["SERVICE_NAME=web"],
            &[HTTP, HTTPS],
            &["default/web:80/tcp", "default/web-80:80/tcp", "default/web:443/tcp", "default/web-443:443/tcp"],
        ),
        (&["SERVICE_80_NAME=web", "SERVICE_53_NAME=names"], &[HTTP, DNS], &["default/names:53/udp", "default/web:80/tcp"]),
        (&["SERVICE_80_NAME=web"], &[HTTP, HTTPS], &["default/web:80/tcp"]),
        (
            &["SERVICE_NAME=app", "SERVICE_80_NAME=web"],
            &[HTTP, HTTPS],
            &["default/web:80/tcp", "default/app:443/tcp", "default/app-443:443/tcp"],
        ),
        // A name for a port is enough, whether it is exposed or not.
        (&["SERVICE_9100_NAME=metrics"], &[], &["default/metrics:9100/tcp"]),
        (&["SERVICE_NAME=web", "SERVICE_443_IGNORE=1"], &[HTTP, HTTPS], &["default/web:80/tcp", "default/web-80:80/tcp"]),
        (&["SERVICE_NAME=web", "SERVICE_IGNORE=yes"], &[HTTP], &[]),
        (&["SERVICE_NAME=web", "SERVICE_IGNORE=false", "SERVICE_80_IGNORE="], &[HTTP], &["default/web:80/tcp"]),
        // Without a name there is no service: an image's name says nothing of what a container is for.
        (&["PATH=/bin", "MY_SERVICE_NAME=web", "service_name=web", "SERVICE_"], &[HTTP], &[]),
        (&["SERVICE_80_WEIGHT=5", "SERVICE_NAME=web", "SERVICE_ZONE=a"], &[HTTP], &["default/web:80/tcp weight=5"]),
        // Not a port, but a key.
        (&["SERVICE_080_NAME=x", "SERVICE_0_NAME=y", "SERVICE_65536_NAME=z", "SERVICE_80_=q"], &[HTTP], &[]),
    ] {
        let told = describe(&container(env, &[], ports));
        assert_eq!(instances(&told), expected, "{env:?} {ports:?}");
    }
}

#[test]
fn labels_win_over_the_environment_and_the_ports_own_over_the_general() {
    let env = ["SERVICE_NAME=old", "SERVICE_ZONE=a", "SERVICE_80_ZONE=b", "SERVICE_TAGS=x", "SERVICE_CHECK_HTTP=/up"];
    let said = [("SERVICE_NAME", "new"), ("SERVICE_ZONE", "c"), ("SERVICE_ID", "i")];
    let told = describe(&container(&env, &said, &[HTTP]));
    assert_eq!(instances(&told), ["default/new:80/tcp zone=b"]);
    assert_eq!(labels(&told), ["id=i", "tag.x=true", "zone=c"]);
    assert_eq!(told.left_out, Vec::<String>::new());
}

#[test]
fn tags_are_labels() {
    assert_eq!(tags(r"a, b\,c ,,d=e\,f,\x"), ["a", "b,c", "d=e,f", r"\x"]);
    let told = describe(&container(&[r"SERVICE_TAGS=prod,eu=1,a b,traefik.rule=Host(`a`\,`b`)"], &[], &[]));
    assert_eq!(labels(&told), ["eu=1", "tag.prod=true", "traefik.rule=Host(`a`,`b`)"]);
    assert_eq!(told.left_out.len(), 1);
    assert!(told.left_out[0].starts_with("label key \"tag.a b\""), "{:?}", told.left_out);
}

#[test]
fn our_own_labels_say_what_variables_cannot() {
    let said = [
        ("weft.service", "web:http=80, prod/dns2:53/udp,,bare"),
        ("weft.alias", "www,w2"),
        ("weft.label.tier", "front"),
        ("com.docker.compose.service", "site"),
        ("org.opencontainers.image.title", "nothing of ours"),
    ];
    let told = describe(&Container { aliases: vec!["al".to_owned(), "c1".to_owned()], ..container(&[], &said, &[]) });
    assert_eq!(instances(&told), ["default/web:80/tcp (http)", "prod/dns2:53/udp", "default/bare"]);
    assert_eq!(told.description.aliases.iter().map(ServiceLabel::as_str).collect::<Vec<_>>(), ["c1", "al", "www", "w2"]);
    assert_eq!(labels(&told), ["com.docker.compose.service=site", "tier=front"]);
}

#[test]
fn ignoring_hides_services_and_not_the_name() {
    let told = describe(&container(&["SERVICE_IGNORE=1", "SERVICE_NAME=web", "SERVICE_ZONE=a"], &[], &[HTTP]));
    let Description { name, aliases, instances, labels, .. } = told.description;
    assert_eq!((name.as_deref(), aliases.len(), instances.len(), labels.len()), (Some("c1"), 1, 0, 0));
}

#[test]
fn names_become_dns_labels_or_are_left_out_with_a_reason() {
    let told = describe(&Container {
        name: "My_Container.1".to_owned(),
        aliases: vec!["tasks".to_owned(), "../..".to_owned(), "a/b".to_owned(), "ü".to_owned()],
        ..container(
            &["SERVICE_NAME=Web App!", "SERVICE_81_NAME=dns", "SERVICE_82_NAME=///"],
            &[("weft.service", "a b:80")],
            &[HTTP],
        )
    });
    assert_eq!(told.description.name.as_deref(), Some("My_Container.1"));
    let aliases: Vec<_> = told.description.aliases.iter().map(ServiceLabel::as_str).collect();
    assert_eq!(aliases, ["my-container-1", "a-b"]);
    assert!(instances(&told).contains(&"default/web-app:80/tcp".to_owned()), "{told:?}");
    let all = told.left_out.join("\n");
    for why in
        ["name \"tasks\"", "name \"../..\"", "name \"ü\"", "SERVICE_81_NAME \"dns\"", "SERVICE_82_NAME \"///\"", "weft.service"]
    {
        assert!(all.contains(why), "{why}: {all}");
    }
}

#[test]
fn whatever_is_said_can_be_written_or_is_left_out() {
    let long = "x".repeat(10_000);
    let many: Vec<String> = (1..500).map(|n| format!("SERVICE_{n}_NAME=s{n}")).collect();
    let attributes: Vec<String> = (0..200).map(|n| format!("SERVICE_K{n}=v")).collect();
    let words = [
        "",
        "=",
        "SERVICE_",
        "SERVICE__",
        "SERVICE_1_",
        "SERVICE_80_TAGS",
        "SERVICE_NAME",
        "SERVICE_80_NAME",
        &long,
        "\0\n",
        "ü",
        "/",
    ];
    let values = ["", "/", "a/b/c", "\u{202e}x", "\0", &long, "-", "a,b", r"\,", "tasks", "x=1,y=\n", "web"];
    let env: Vec<String> = words.iter().flat_map(|k| values.iter().map(move |v| format!("{k}={v}"))).collect();
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in words.iter().zip(values.iter().rev()) {
        labels.insert((*key).to_owned(), (*value).to_owned());
        labels.insert(format!("weft.label.{key}"), (*value).to_owned());
    }
    for list in values {
        labels.insert("weft.service".to_owned(), format!("{list},web:p=1,web:p=2,{long}:{long}"));
        labels.insert("weft.alias".to_owned(), list.to_owned());
        for more in [&[][..], &many, &attributes] {
            let env = env.iter().chain(more).cloned().collect();
            let aliases: Vec<String> = (0..100).map(|n| format!("{list}{n}")).collect();
            let ports = (1..=u16::MAX).step_by(97).map(|port| (port, Proto::Udp)).collect();
            let told = describe(&Container { name: list.to_owned(), aliases, env, labels: labels.clone(), ports });
            let unnamed = Description { name: None, ..told.description };
            assert_eq!(unnamed.check(), Ok(()));
            assert!(
                told.left_out.len() <= MAX_LEFT_OUT && told.left_out.iter().all(|why| why.len() < 700),
                "{:?}",
                told.left_out
            );
        }
    }
}

#[test]
fn a_container_says_how_it_is_checked_and_never_by_what_runs_here() {
    let check = |env: &[&str], labels: &[(&str, &str)]| {
        let told = describe(&container(env, labels, &[HTTP]));
        (told.description.check.map(|check| check.to_string()), told.left_out.len())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        check(&["SERVICE_NAME=web", "SERVICE_CHECK_HTTP=/health", "SERVICE_CHECK_INTERVAL=15s"], &[]),
        (some("http:/health,interval=15s"), 0)
    );
    assert_eq!(
        check(&["SERVICE_8080_NAME=web", "SERVICE_8080_CHECK_TCP=true", "SERVICE_CHECK_TIMEOUT=1s"], &[]),
        (some("tcp:8080,timeout=1s"), 0)
    );
    assert_eq!(check(&["SERVICE_NAME=web", "SERVICE_CHECK_TCP=0"], &[]), (None, 0));
    assert_eq!(check(&["SERVICE_NAME=web", "SERVICE_CHECK_HTTP=/a"], &[("weft.check", "grpc")]), (some("grpc"), 0));
    for bad in ["SERVICE_CHECK_CMD=/bin/rm", "SERVICE_CHECK_SCRIPT=x", "SERVICE_CHECK_HTTP=health"] {
        assert_eq!(check(&["SERVICE_NAME=web", bad], &[]), (None, 1), "{bad}");
    }
    assert_eq!(check(&[], &[("weft.check", "command:/bin/true")]), (None, 1));
    assert_eq!(check(&["SERVICE_CHECK_TCP=1"], &[]), (None, 1), "it serves nothing");
}
