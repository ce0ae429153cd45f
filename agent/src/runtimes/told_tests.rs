//! Answers as podman 4.3.1 and dockerd 20.10 give them, shortened, and such as nobody should give.

use serde_json::json;
use weft_model::attachment::Runtime;

use super::*;

const C1: &str = "a51ead2d96c18e639f15ae1d52582734384f00789d6456a41ca36d2f4db9392a";
const NET: &str = "0f5e1c2b96c18e639f15ae1d52582734384f00789d6456a41ca36d2f4db93920";
const END: &str = "e7d7a1b296c18e639f15ae1d52582734384f00789d6456a41ca36d2f4db93921";

fn owner(runtime: Runtime, network: &str, container: &str) -> Owner {
    Owner { runtime, network: network.to_owned(), container: container.to_owned() }
}

#[test]
fn an_event_says_which_container_to_look_at() {
    let said = |event: Value| super::event(event.to_string().as_bytes());
    let of = || Event::Of(C1.to_owned());
    // podman
    let start = json!({"status":"start","id":C1,"Type":"container","Action":"start","Actor":{"ID":C1,"Attributes":
        {"containerExitCode":"0","image":"","name":"c1","podId":"","weft.service":"a:1"}},"scope":"local","time":1_795_387_340});
    assert_eq!(said(start), of());
    let connect =
        json!({"status":"connect","id":C1,"Type":"network","Action":"connect","Actor":{"ID":C1,"Attributes":{"name":"c2"}}});
    assert_eq!(said(connect), of());
    // dockerd
    let connect =
        json!({"Type":"network","Action":"connect","Actor":{"ID":NET,"Attributes":{"container":C1,"name":"n","type":"weft"}}});
    assert_eq!(said(connect), of());
    let rename = json!({"Type":"container","Action":"rename","Actor":{"ID":C1,"Attributes":{"name":"c2","oldName":"/c1"}}});
    assert_eq!(said(rename), of());
    for action in ["create", "exec_create: sh", "die", "health_status: healthy"] {
        assert_eq!(said(json!({"Type":"container","Action":action,"Actor":{"ID":C1}})), Event::Nothing);
    }
    assert_eq!(super::event(b" \r\n"), Event::Nothing);
}

#[test]
fn what_is_no_event_makes_all_be_looked_at() {
    for line in ["{", "[]", "null", "7", r#"{"Type":7}"#, r#"{"Type":"container","Action":"start"}"#, "\u{fffd}"] {
        assert_eq!(event(line.as_bytes()), Event::Unknown, "{line}");
    }
    let hostile = json!({"Type":"container","Action":"start","Actor":{"ID":"../../images/json?x="}});
    assert_eq!(event(hostile.to_string().as_bytes()), Event::Unknown, "it would become part of a path");
}

#[test]
fn podmans_containers_are_known_by_their_ids_and_dockers_by_their_ends() {
    let podman = json!([{"Id":C1,"Names":["/c1"],"NetworkSettings":{"Networks":{"br":{"Aliases":["al"],"EndpointID":""}}}}]);
    let running = Running::of(Kind::Podman, &podman);
    let place = running.find(&owner(Runtime::Cni, "br", C1)).unwrap();
    assert_eq!((place.id.as_str(), place.network.as_deref()), (C1, Some("br")));
    assert_eq!(running.find(&owner(Runtime::Cni, "br", NET)), None);

    let docker =
        json!([{"Id":C1,"NetworkSettings":{"Networks":{"blue":{"EndpointID":END,"NetworkID":NET},"none":{"EndpointID":""}}}}]);
    let running = Running::of(Kind::Docker, &docker);
    let place = running.find(&owner(Runtime::Docker, NET, END)).unwrap();
    assert_eq!((place.id.as_str(), place.network.as_deref()), (C1, Some("blue")));
    assert_eq!(running.find(&owner(Runtime::Docker, NET, "")), None);
}

#[test]
fn an_inspection_tells_name_environment_labels_ports_and_aliases() {
    let inspected = json!({
        "Id": C1, "Name": "/c1",
        "Config": {"Env": ["SERVICE_NAME=web", "PATH=/bin", 7], "Labels": {"weft.service": "a:1", "n": null},
            "ExposedPorts": {"53/udp": {}, "80/tcp": {}, "5/sctp": {}, "x": {}, "0/tcp": {}}},
        "HostConfig": {"PortBindings": {"443/tcp": [{"HostPort": "8443"}]}},
        "NetworkSettings": {"Ports": {"80/tcp": null},
            "Networks": {"br": {"Aliases": ["al", "a51ead2d96c1"]}, "other": {"Aliases": ["no"]}}},
    });
    let place = Place { id: C1.to_owned(), network: Some("br".to_owned()) };
    let c = container(&inspected, &place);
    assert_eq!((c.name.as_str(), c.aliases), ("c1", vec!["al".to_owned(), "a51ead2d96c1".to_owned()]));
    assert_eq!(c.env, ["SERVICE_NAME=web", "PATH=/bin"]);
    assert_eq!(c.labels, [("weft.service".to_owned(), "a:1".to_owned())].into());
    assert_eq!(c.ports, [(53, Proto::Udp), (80, Proto::Tcp), (443, Proto::Tcp)].into());
}

#[test]
fn other_shapes_say_nothing_and_break_nothing() {
    let place = Place { id: C1.to_owned(), network: None };
    let nested = (0..100).fold(json!(1), |inner, _| json!({ "Config": inner }));
    let shapes = [
        json!(null),
        json!([]),
        json!("x"),
        json!({"Name": 7, "Config": []}),
        json!({"Name": null, "Config": {"Env": {}, "Labels": [1], "ExposedPorts": "80/tcp"}, "NetworkSettings": {"Networks": []}}),
        nested,
    ];
    for shape in shapes {
        assert_eq!(container(&shape, &place), Container::default(), "{shape}");
        for kind in [Kind::Docker, Kind::Podman] {
            for listing in [
                shape.clone(),
                json!([shape, {"Id": "x"}, {"Id": C1, "NetworkSettings": {"Networks": {"n": {"EndpointID": 5}}}}]),
            ] {
                let running = Running::of(kind, &listing);
                assert_eq!(running.find(&owner(Runtime::Cni, "n", "x")), None);
            }
        }
    }
}
