use super::super::wire::read;
use super::*;

fn grounds() -> Vec<Ground> {
    let ground = |name: &str, range: &str, subnet: &str, v6: Option<(&str, &str)>| Ground {
        network: name.parse().unwrap(),
        range: range.parse().unwrap(),
        subnet: subnet.parse().unwrap(),
        v6: v6.map(|(range, subnet)| (range.parse().unwrap(), subnet.parse().unwrap())),
    };
    vec![
        ground("default", "10.244.0.0/16", "10.244.3.0/24", Some(("fd00:10:244::/48", "fd00:10:244:3::/64"))),
        ground("blue", "10.245.0.0/16", "10.245.7.0/24", None),
    ]
}

fn create(generic: &str, more: &str, space: &str, gateway: &str) -> Result<(), String> {
    let body = format!(
        r#"{{"NetworkID":"e2af","Options":{{"com.docker.network.generic":{generic}{more}}},"IPv4Data":[{{"AddressSpace":"{space}","Gateway":"{gateway}","Pool":"0.0.0.0/0"}}],"IPv6Data":[]}}"#
    );
    check(&read(body.as_bytes()).unwrap(), &grounds()).map_err(|refusal| refusal.message)
}

#[test]
fn a_network_whose_containers_could_not_work_is_refused_when_it_is_made() {
    let v6 = r#","com.docker.network.enable_ipv6":true"#;
    assert_eq!(create("{}", "", "weft", "10.244.3.1/32"), Ok(()));
    assert_eq!(create("{}", v6, "weft", "10.244.3.1/32"), Ok(()));
    assert_eq!(create("null", "", "weft", "10.245.7.1/32"), Ok(()));
    assert_eq!(create(r#"{"network":"blue","com.docker.network.driver.mtu":"1400"}"#, "", "weft", "10.245.7.1/32"), Ok(()));
    let refused = |said: Result<(), String>, why: &str| {
        let said = said.unwrap_err();
        assert!(said.contains(why), "{said}");
    };
    refused(create("{}", "", "LocalDefault", "10.98.0.1/24"), "--ipam-driver");
    refused(create(r#"{"network":"blue"}"#, "", "weft", "10.244.3.1/32"), "add --ipam-opt network=blue");
    refused(create(r#"{"network":"green"}"#, "", "weft", "10.244.3.1/32"), "green");
    refused(create(r#"{"network":7}"#, "", "weft", "10.244.3.1/32"), "7 is no name");
    refused(create(r#"{"colour":"blue"}"#, "", "weft", "10.244.3.1/32"), "-o colour");
    refused(create("{}", v6, "weft", "10.245.7.1/32"), "no IPv6");
    refused(create("{}", r#","com.docker.network.internal":true"#, "weft", "10.244.3.1/32"), "--internal");
    refused(create("{}", "", "weft", "10.244.9.1/32"), "make the network anew");
}

fn ask(interface: &str, options: &str) -> Result<End, String> {
    let body = format!(r#"{{"NetworkID":"e2af","EndpointID":"733b","Interface":{interface},"Options":{options}}}"#);
    end(&read(body.as_bytes()).unwrap(), &grounds()).map_err(|refusal| refusal.message)
}

#[test]
fn an_endpoints_address_tells_its_network() {
    let plain = ask(r#"{"Address":"10.244.3.7/32","AddressIPv6":"","MacAddress":""}"#, "null").unwrap();
    assert_eq!((plain.network, plain.address6, plain.mac), (None, None, Mac::of_container(plain.address)));
    assert_eq!(plain.owner.to_string(), "docker:e2af/733b");
    let blue = ask(r#"{"Address":"10.245.7.9/32","MacAddress":"02:11:22:33:44:55"}"#, "{}").unwrap();
    assert_eq!((blue.network.unwrap().as_str(), blue.mac), ("blue", Mac([2, 0x11, 0x22, 0x33, 0x44, 0x55])));
    let dual = ask(r#"{"Address":"10.244.3.7/32","AddressIPv6":"fd00:10:244:3::7/128"}"#, "{}").unwrap();
    assert_eq!(dual.address6, "fd00:10:244:3::7".parse().ok());
}

#[test]
fn driver_options_say_what_an_endpoint_is_called_and_serves() {
    let options = r#"{"com.docker.network.portmap":[],"name":"web","service":"myapp:8080","label.tier":"front"}"#;
    let end = ask(r#"{"Address":"10.244.3.7/32"}"#, options).unwrap();
    assert_eq!((end.name.as_deref(), end.port, end.proto), (Some("web"), Some(8080), Proto::Tcp));
    assert_eq!((end.service.unwrap().to_string().as_str(), end.labels["tier"].as_str()), ("default/myapp", "front"));
    let udp = ask(r#"{"Address":"10.244.3.7/32"}"#, r#"{"service":"prod/names:53/udp"}"#).unwrap();
    assert_eq!((udp.service.unwrap().to_string().as_str(), udp.port, udp.proto), ("prod/names", Some(53), Proto::Udp));
}

#[test]
fn an_endpoint_that_cannot_be_is_refused() {
    let refused = |interface: &str, options: &str, why: &str| {
        let said = ask(interface, options).unwrap_err();
        assert!(said.contains(why), "{interface} {options}: {said}");
    };
    let good = r#"{"Address":"10.244.3.7/32"}"#;
    refused(r#"{"Address":""}"#, "{}", "is no address");
    refused(r#"{"Address":"10.98.0.2/24"}"#, "{}", "10.244.3.0/24, 10.245.7.0/24");
    refused(r#"{"Address":"fd00::2/64"}"#, "{}", "is not IPv4");
    refused(r#"{"Address":"10.244.3.7/32","AddressIPv6":"10.244.3.8/32"}"#, "{}", "is not IPv6");
    refused(r#"{"Address":"10.244.3.7/32","MacAddress":"fast"}"#, "{}", "--mac-address");
    refused(good, r#"{"service":"myapp:0"}"#, "no port number");
    refused(good, r#"{"service":"My App"}"#, "driver-opt service");
    refused(good, r#"{"name":["web"]}"#, "is no text");
    refused(good, r#"{"colour":"blue"}"#, "driver-opt colour");
}

#[test]
fn ids_that_are_none_are_refused() {
    let of = |network: &str, endpoint: &str| {
        owner(&OfEndpoint { network: network.into(), endpoint: endpoint.into(), options: Map::new() })
    };
    assert!(of("e2af", "733b").is_ok());
    for wrong in ["", "../../etc", "a b", &"a".repeat(129)] {
        assert!(of(wrong, "733b").is_err() && of("e2af", wrong).is_err(), "{wrong}");
    }
}

#[test]
fn ports_are_published_as_asked() {
    let ports = |map: &str| {
        let options: Value = serde_json::from_str(&format!(r#"{{"com.docker.network.portmap":{map}}}"#)).unwrap();
        let said = publish(options.as_object().unwrap()).map_err(|refusal| refusal.message);
        said.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(ports("null"), Ok(vec![]));
    let two = r#"[{"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080},{"Proto":17,"IP":"","Port":53,"HostIP":"127.0.0.1","HostPort":53,"HostPortEnd":53}]"#;
    assert_eq!(ports(two), Ok(vec!["8080:80/tcp".to_owned(), "127.0.0.1:53:53/udp".to_owned()]));
    assert_eq!(
        ports(r#"[{"Proto":6,"Port":80,"HostIP":"0.0.0.0","HostPort":80,"HostPortEnd":80}]"#),
        Ok(vec!["80:80/tcp".to_owned()])
    );
    let refused = |map: &str, why: &str| {
        let said = ports(map).unwrap_err();
        assert!(said.contains(why), "{map}: {said}");
    };
    refused(r#"[{"Proto":6,"Port":80,"HostPort":0,"HostPortEnd":0}]"#, "-p 8080:80");
    refused(r#"[{"Proto":17,"Port":90,"HostPort":9000,"HostPortEnd":9003}]"#, "-p 8080:90");
    refused(r#"[{"Proto":132,"Port":80,"HostPort":80,"HostPortEnd":80}]"#, "protocol 132");
    refused(r#"[{"Proto":6,"Port":0,"HostPort":80,"HostPortEnd":80}]"#, "at least 1");
    refused(r#"[{"Proto":6,"Port":80,"HostIP":"here","HostPort":80,"HostPortEnd":80}]"#, "\"here\" is no address");
    refused(r#"{"80/tcp":[]}"#, "portmap");
}

#[test]
fn a_container_gets_the_way_to_its_gateways_first_and_to_its_network_by_them() {
    let out = HandedOut {
        device: "vethw0123456789".into(),
        gateway: Ipv4Addr::new(10, 244, 3, 1),
        gateway6: Some(weft_plan::ipam::LINK_GATEWAY),
        range: "10.244.0.0/16".parse().unwrap(),
        range6: Some("fd00:10:244::/48".parse().unwrap()),
    };
    let routes = |out: &HandedOut| {
        let answer = joined(out);
        assert_eq!((answer.gateway.as_str(), answer.gateway6.as_str()), ("10.244.3.1", "fe80::1"));
        answer.static_routes.iter().map(|r| format!("{} {} {}", r.destination, r.route_type, r.next_hop)).collect::<Vec<_>>()
    };
    assert_eq!(routes(&out), ["10.244.3.1/32 1 ", "fe80::1/128 1 ", "10.244.0.0/16 0 10.244.3.1", "fd00:10:244::/48 0 fe80::1"]);
    let v4 = HandedOut { gateway6: None, range6: None, ..out };
    assert_eq!(joined(&v4).gateway6, "");
    assert_eq!(joined(&v4).static_routes.len(), 2);
}
