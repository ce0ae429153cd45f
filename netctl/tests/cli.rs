//! What `netctl` prints and exits with, against answers that are made of the API's own types.

#![allow(clippy::unwrap_used, reason = "a test may assume; clippy.toml knows only the test functions themselves")]

mod server;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::{Answer, Request, Server, netctl};
use weft_api::{Code, ErrorBody, ErrorDetail, Status};

/// Long enough for a machine that does other things too.
const BOUND: Duration = Duration::from_secs(30);

fn refusal(code: Code, message: &str) -> Answer {
    let body = ErrorBody { error: ErrorDetail { code, message: message.to_owned() } };
    Some((code.status(), serde_json::to_value(body).unwrap()))
}

fn status() -> Value {
    let status: Status = serde_json::from_value(json!({
        "node": "h1", "ready": true, "reasons": [], "subnet": "10.244.3.0/24", "subnet6": null, "dns": ["10.244.3.1:53"],
        "store": {"kind": "etcd", "connected": true, "revision": 42},
        "peers": [{"node": "h2", "subnet": "10.244.9.0/24", "public_ip": "192.0.2.8", "via": "fast", "alive": true}],
        "datapath": {"fast": true, "why_not": null, "sockets": true}, "version": "0.1.0", "cgroup": "/sys/fs/cgroup",
    }))
    .unwrap();
    serde_json::to_value(status).unwrap()
}

fn attached() -> Value {
    json!({
        "id": "web-1", "netns": "/run/netns/web", "ifname": "eth0", "addresses": ["10.244.3.5/32"], "gateway": "10.244.3.1",
        "mac": "0a:58:0a:f4:03:05", "mtu": 1450, "host_ifname": "weft0a1b", "dns": ["10.244.3.1"], "search": ["skydns.local"],
        "names": ["web-1.myapp.skydns.local."], "network": "default", "cgroup": "/sys/fs/cgroup", "record": "written",
    })
}

fn created() -> Value {
    json!({
        "namespace": "default", "name": "myapp", "vip": "10.112.0.7", "vips": ["10.112.0.7"],
        "ports": [{"name": "", "port": 80, "target": 8080, "proto": "tcp"}], "backends": [], "answered_before": ["10.244.3.5"],
    })
}

fn run(command: &mut Command, args: &[&str]) -> Output {
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// Exit code, standard output, standard error.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn json_and_yaml_are_the_api_type_as_it_is() {
    let server = Server::start(|_| Some((200, status())));
    let (code, out, err) = told(&run(&mut server.netctl(), &["status", "-o", "json"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), status());
    assert!(out.starts_with("{\n  \"node\": \"h1\",\n  \"ready\": true,\n"), "{out}");
    assert!(out.ends_with("}\n"));

    let (code, out, _) = told(&run(&mut server.netctl(), &["-o", "yaml", "status"]));
    assert_eq!(code, 0);
    assert_eq!(serde_yaml_ng::from_str::<Value>(&out).unwrap(), status());
    assert_eq!(server.lines(), ["GET /v1/status", "GET /v1/status"]);
}

#[test]
fn a_table_in_a_pipe_is_plain_and_wide_has_more_columns() {
    let endpoints = json!([{
        "id": "web-1", "name": "web", "addresses": ["10.244.3.5"], "ports": [], "node": "h1", "state": "up",
        "dns_name": "web-1.myapp.skydns.local.",
    }]);
    let server = Server::start(move |_| Some((200, endpoints.clone())));
    let (code, out, _) = told(&run(server.netctl().env("CLICOLOR_FORCE", "1"), &["endpoint", "list"]));
    assert_eq!(code, 0);
    assert_eq!(out, "ID     NAME  SERVICE  ADDRESSES   PORTS  NODE  STATE\nweb-1  web   -        10.244.3.5  -      h1    up\n");
    let (_, wide, _) = told(&run(&mut server.netctl(), &["endpoint", "list", "-o", "wide"]));
    assert!(wide.contains("web-1.myapp.skydns.local."), "{wide}");
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let server = Server::start(|_| Some((200, status())));
    let mut command = Command::new(env!("CARGO_BIN_EXE_netctl"));
    let (code, out, _) = told(&run(command.env("WEFT_SOCKET", server.socket()), &["status", "-o", "json"]));
    assert_eq!((code, out.is_empty()), (0, false));
}

#[test]
fn a_refusal_is_exit_1_with_the_agents_words() {
    let server = Server::start(|_| refusal(Code::NotFound, "no service default/myapp"));
    let (code, out, err) = told(&run(&mut server.netctl(), &["service", "show", "myapp"]));
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", "netctl: service show: no service default/myapp\n"));
    assert_eq!(server.lines(), ["GET /v1/services/default/myapp"]);
}

#[test]
fn an_operation_is_named_once() {
    let server = Server::start(|_| refusal(Code::Conflict, "attach: id web-1 is taken"));
    let (code, _, err) = told(&run(&mut server.netctl(), &["attach", "--netns", "/x"]));
    assert_eq!((code, err.as_str()), (1, "netctl: attach: id web-1 is taken\n"));
}

#[test]
fn what_an_agent_says_cannot_drive_the_terminal() {
    let server = Server::start(|_| refusal(Code::Internal, "\u{1b}[2Jgone"));
    let (_, _, err) = told(&run(&mut server.netctl(), &["status"]));
    assert_eq!(err, "netctl: status: \\u{1b}[2Jgone\n");
}

#[test]
fn a_usage_error_is_exit_2_and_asks_nobody() {
    let server = Server::start(|_| Some((200, status())));
    for args in [
        &["no-such-command"][..],
        &["network", "init"],
        &["network", "init", "--cidr", "10.244.0.0"],
        &["network", "init", "--cidr", "10.244.0.0/16", "--vni", "16777216"],
        &["config", "set"],
        &["service", "create", "a", "--port", "80", "--port", "81"],
        &["endpoint", "add", "a", "10.0.0.5", "--udp"],
        &["attach"],
        &["attach", "--netns", "/x", "--label", "a=1", "--label", "a=2"],
        &["run"],
        &["run", "true"],
        &["run", "--label", "a=1", "--label", "a=2", "--", "true"],
        &["run", "--name", "My_App", "--", "true"],
        &["run", "--ifname", "lo", "--", "true"],
        &["attach", "--netns", "/x", "--name", "My_App"],
        &["attach", "--netns", "/x", "--ifname", "sixteen-bytes-xx"],
        &["attach", "--netns", "/x", "--ifname", "a b"],
        &["attach", "--netns", "/x", "--ifname", ""],
        &["dns", "query", "myapp.skydns.local", "FOO"],
        &["dns", "query", ""],
        &["service", "create", "myapp"],
        &["status", "-o", "xml"],
    ] {
        let (code, out, err) = told(&run(&mut server.netctl(), args));
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.starts_with("error: "), "{args:?}: {err}");
    }
    assert_eq!(server.lines(), Vec::<String>::new());
}

#[test]
fn a_name_below_a_service_need_not_be_a_label() {
    let server = Server::start(|_| Some((200, attached())));
    let args = ["attach", "--netns", "/x", "--service", "myapp", "--name", "My_App"];
    let (code, _, err) = told(&run(&mut server.netctl(), &args));
    assert_eq!(code, 0, "{err}");
}

#[test]
fn what_is_no_network_is_told_the_form() {
    let server = Server::start(|_| Some((200, status())));
    let ipv4 = "is no IPv4 network: the form is 10.244.0.0/16";
    let any = "is no network: the form is 10.112.0.0/16 or fd00:112::/112";
    for (command, option, network, why) in [
        ("network init", "--cidr", "fd00::/64", ipv4),
        ("network init", "--cidr", "foo", ipv4),
        ("config set", "--service-cidr", "10.0.0.0/40", any),
    ] {
        let args: Vec<&str> = command.split(' ').chain([option, network]).collect();
        let (code, _, err) = told(&run(&mut server.netctl(), &args));
        assert_eq!(code, 2, "{args:?}");
        assert!(err.contains(&format!("{network:?} {why}")), "{err}");
    }
}

#[test]
fn usage_shows_what_is_needed_and_nothing_that_the_environment_says() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netctl"));
    let (code, _, err) = told(&run(command.env("WEFT_SOCKET", "/x"), &["network", "init"]));
    assert_eq!(code, 2);
    assert!(err.contains("Usage: netctl network init") && !err.contains("--socket"), "{err}");

    let (code, help, _) = told(&run(&mut Command::new(env!("CARGO_BIN_EXE_netctl")), &["service", "create", "--help"]));
    assert_eq!(code, 0);
    let usage = help.lines().find(|l| l.starts_with("Usage: ")).unwrap();
    assert!(
        usage.ends_with("<--port <[NAME=]PORT[:TARGET][/tcp|udp|tcp+udp]>|--headless|--external-name <NAME>> <NAME>"),
        "{usage}"
    );
    let socket = "The agent's socket [env: WEFT_SOCKET] [default: /run/weft/weft.sock]";
    assert!(help.split_whitespace().collect::<Vec<_>>().join(" ").contains(socket), "{help}");
}

#[test]
fn no_agent_is_exit_3_and_names_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weft.sock");
    for args in [
        &["status"][..],
        &["attach", "--netns", "/x", "--timeout", "0"],
        &["service", "create", "a", "--port", "80", "--timeout", "0"],
    ] {
        let (code, _, err) = told(&run(&mut netctl(&socket), args));
        assert_eq!(code, 3, "{args:?}");
        let start = format!(
            "netctl: {}: no agent at {}: ",
            if args[0] == "service" { "service create" } else { args[0] },
            socket.display()
        );
        assert!(err.starts_with(&start) && err.contains("No such file"), "{err}");
    }
}

/// Until `child` waits: with no agent that takes a question, it sleeps in epoll only between two tries.
fn has_tried(child: &std::process::Child) {
    let stack = format!("/proc/{}/wchan", child.id());
    let start = Instant::now();
    while !std::fs::read_to_string(&stack).is_ok_and(|at| at.contains("poll")) {
        assert!(start.elapsed() < BOUND, "netctl does not wait");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn spawn(mut command: Command, args: &[&str]) -> std::process::Child {
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn commands_that_wait_also_wait_for_an_agent_that_is_about_to_start() {
    for (args, answer) in
        [(&["attach", "--netns", "/x"][..], attached()), (&["service", "create", "myapp", "--port", "80:8080"], created())]
    {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("weft.sock");
        let child = spawn(netctl(&socket), args);
        has_tried(&child);
        let server = Server::start_at(socket, move |_| Some((200, answer.clone())));
        let (code, _, err) = told(&child.wait_with_output().unwrap());
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        assert_eq!(server.lines().len(), 1);
    }
}

#[test]
fn a_socket_that_a_dead_agent_left_is_waited_for_too() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weft.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let child = spawn(netctl(&socket), &["attach", "--netns", "/x"]);
    has_tried(&child);
    std::fs::remove_file(&socket).unwrap();
    let _server = Server::start_at(socket, |_| Some((200, attached())));
    let (code, _, err) = told(&child.wait_with_output().unwrap());
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn waiting_for_an_agent_that_does_not_come_ends_with_exit_3() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weft.sock");
    let (code, _, err) = told(&run(&mut netctl(&socket), &["attach", "--netns", "/x", "--timeout", "500ms"]));
    assert_eq!(code, 3);
    assert!(err.contains("no agent at ") && err.contains("No such file"), "{err}");
}

#[test]
fn a_socket_that_may_not_be_opened_is_not_waited_for() {
    let server = Server::start(|_| Some((200, attached())));
    std::fs::set_permissions(server.socket(), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(server.socket().parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Where everybody may execute it. Copied by another process: a descriptor open for writing here could be inherited.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.path().join("netctl");
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_netctl")).arg(&binary).status().unwrap().success());
    let mut command = Command::new(binary);
    command.arg("--socket").arg(server.socket()).uid(65534).gid(65534);
    // With a patience that this test does not have.
    let mut child = spawn(command, &["attach", "--netns", "/x", "--timeout", "1h"]);
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > BOUND {
            child.kill().unwrap();
            panic!("it waits");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (code, _, err) = told(&child.wait_with_output().unwrap());
    assert!(code == 3 && err.contains("Permission denied"), "{code}: {err}");
}

/// An agent that dies once with a request in hand, and comes back with `answer`.
fn dies_once(args: &[&str], answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> (Output, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weft.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let child = spawn(netctl(&socket), args);
    let (mut stream, _) = listener.accept().unwrap();
    assert_ne!(stream.read(&mut [0; 1024]).unwrap(), 0);
    drop(listener);
    std::fs::remove_file(&socket).unwrap();
    drop(stream);
    let server = Server::start_at(socket, answer);
    (child.wait_with_output().unwrap(), server.lines())
}

#[test]
fn an_attach_that_loses_its_agent_is_asked_for_again() {
    let (output, lines) = dies_once(&["attach", "--netns", "/x", "--id", "web-1"], |_| Some((200, attached())));
    let (code, out, err) = told(&output);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("id         web-1\n"), "{out}");
    assert_eq!(lines, ["POST /v1/attachments"]);
}

/// What an agent answers that has created the service before.
fn has_it(request: &Request) -> Answer {
    match request.line.as_str() {
        "POST /v1/services" => refusal(Code::Conflict, "service create: default/myapp exists already"),
        _ => Some((200, created())),
    }
}

#[test]
fn a_service_that_was_created_unheard_is_shown() {
    for extra in [&[][..], &["--vip", "10.112.0.7"]] {
        let args = [&["service", "create", "myapp", "--port", "80:8080"], extra].concat();
        let (output, lines) = dies_once(&args, has_it);
        let (code, out, err) = told(&output);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("vip       10.112.0.7\n") && !out.contains("before"), "{out}");
        assert_eq!(lines, ["POST /v1/services", "GET /v1/services/default/myapp"]);
    }
}

#[test]
fn a_service_of_that_name_that_is_another_stays_a_conflict() {
    for args in [
        &["--port", "80:8081"][..],
        &["--port", "80:8080", "--selector", "a=1"],
        &["--port", "80:8080", "--vip", "10.112.0.8"],
        &["--port", "80:8080", "--headless"],
    ] {
        let (output, _) = dies_once(&[&["service", "create", "myapp"], args].concat(), has_it);
        let (code, _, err) = told(&output);
        assert_eq!((code, err.as_str()), (1, "netctl: service create: default/myapp exists already\n"), "{args:?}");
    }
    // And without a lost answer, one that is the same is somebody else's.
    let server = Server::start(has_it);
    let (code, _, _) = told(&run(&mut server.netctl(), &["service", "create", "myapp", "--port", "80:8080"]));
    assert_eq!(code, 1);
    assert_eq!(server.lines(), ["POST /v1/services"]);
}

#[test]
fn an_answer_that_is_none_of_ours_is_not_asked_for_again() {
    let server = Server::start(|_| Some((200, json!({"hello": "world"}))));
    let (code, _, _) = told(&run(&mut server.netctl(), &["attach", "--netns", "/x"]));
    assert_eq!(code, 3);
    assert_eq!(server.lines(), ["POST /v1/attachments"]);
}

#[test]
fn an_attach_that_is_not_ready_in_time_says_where_to_look() {
    for (said, told_more) in [
        ("attach: the agent is not ready after 500ms: no lease", "; netctl status says more"),
        ("this host has no subnet yet; netctl status says what it waits for", ""),
    ] {
        let server = Server::start(move |_| refusal(Code::NotReady, said));
        let (code, _, err) = told(&run(&mut server.netctl(), &["attach", "--netns", "/x", "--timeout", "0"]));
        assert_eq!(code, 1);
        assert_eq!(err, format!("netctl: attach: {}{told_more}\n", said.trim_start_matches("attach: ")));
        assert_eq!(server.lines().len(), 1);
    }
}

#[test]
fn a_service_port_has_its_protocol() {
    for (service, port, proto) in [("names:53/udp", 53, "udp"), ("web:80/tcp", 80, "tcp"), ("web:80", 80, "tcp")] {
        let server = Server::start(move |request| {
            assert_eq!((&request.body["port"], &request.body["proto"]), (&json!(port), &json!(proto)));
            Some((200, attached()))
        });
        let (code, _, err) = told(&run(&mut server.netctl(), &["attach", "--netns", "/x", "--service", service]));
        assert_eq!(code, 0, "{service}: {err}");
    }
}

#[test]
fn an_agent_that_hangs_up_is_exit_3() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weft.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
    });
    let (code, _, err) = told(&run(&mut netctl(&socket), &["status"]));
    agent.join().unwrap();
    assert_eq!(code, 3, "{err}");
    assert!(err.starts_with("netctl: status: GET /v1/status: no usable answer from the agent: "), "{err}");
}

#[test]
fn an_answer_that_is_none_of_ours_is_exit_3() {
    let server = Server::start(|_| Some((200, json!({"hello": "world"}))));
    let (code, _, err) = told(&run(&mut server.netctl(), &["status"]));
    assert_eq!(code, 3);
    assert!(err.contains("missing field"), "{err}");
}

#[test]
fn nobody_reading_any_more_is_no_error() {
    // More than a pipe holds, so that the writer meets the closed end.
    let endpoint = |n: usize| json!({"id": format!("e{n}"), "name": "web", "addresses": ["10.244.3.5"], "ports": [], "node": null, "state": "up"});
    let many: Value = (0..20_000).map(endpoint).collect();
    let server = Server::start(move |_| Some((200, many.clone())));
    for form in ["table", "wide", "json", "yaml"] {
        let mut child = server
            .netctl()
            .args(["endpoint", "list", "-o", form])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0]).unwrap();
        drop(out);
        let (code, _, err) = told(&child.wait_with_output().unwrap());
        assert_eq!((code, err.as_str()), (0, ""), "{form}");
    }
}

#[test]
fn a_network_is_asked_for_as_it_was_typed() {
    let network = json!({
        "cidr": "10.244.0.0/16", "subnet_len": 26, "subnet_min": "10.244.1.0", "subnet_max": "10.244.2.0", "vni": 7, "port": 4789,
        "mtu": 9000, "capacity": 4, "taken": 0,
    });
    let server = Server::start(move |request| {
        let wanted = json!({
            "cidr": "10.244.0.0/16", "subnet_len": 26, "subnet_min": "10.244.1.0", "subnet_max": null, "vni": 7, "port": null,
            "mtu": 9000, "force": true, "cidr6": "fd00:10:244::/48", "subnet_len6": 72,
        });
        if request.body == wanted { Some((200, network.clone())) } else { refusal(Code::Invalid, &request.body.to_string()) }
    });
    let args = "network init --cidr 10.244.0.0/16 --subnet-len 26 --subnet-min 10.244.1.0 --vni 7 --mtu 9000 --force \
                --cidr6 fd00:10:244::/48 --subnet-len6 72";
    let (code, out, err) = told(&run(&mut server.netctl(), &args.split_whitespace().collect::<Vec<_>>()));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("backend  vxlan, vni 7, udp port 4789\n"), "{out}");
    assert_eq!(server.lines(), ["PUT /v1/network"]);
}

#[test]
fn settings_that_are_not_named_are_left_alone() {
    let server = Server::start(|request| {
        let wanted = json!({"service_cidrs": null, "dns_domain": "corp."});
        assert_eq!(request.body, wanted);
        Some((200, json!({"service_cidrs": ["10.112.0.0/16", "fd57:6566:7400::/112"], "dns_domain": "corp."})))
    });
    let (code, out, _) = told(&run(&mut server.netctl(), &["config", "set", "--dns-domain", "corp."]));
    assert_eq!((code, out.as_str()), (0, "service CIDRs  10.112.0.0/16, fd57:6566:7400::/112\ndns domain     corp.\n"));
}

#[test]
fn attach_sends_an_absolute_path_and_writes_resolv_conf() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ns"), "").unwrap();
    let resolv = dir.path().join("etc/netns/web/resolv.conf");
    let wanted = std::fs::canonicalize(dir.path()).unwrap().join("ns");
    let server = Server::start(move |request| {
        assert_eq!(request.body["netns"], wanted.to_str().unwrap());
        assert_eq!((&request.body["service"], &request.body["port"]), (&json!("prod/myapp"), &json!(8080)));
        let patience = request.body["timeout_ms"].as_u64().unwrap();
        assert!((100..=5000).contains(&patience) && patience.is_multiple_of(100), "{patience}");
        Some((200, attached()))
    });
    let mut command = server.netctl();
    command.current_dir(std::fs::canonicalize(dir.path()).unwrap()).arg("attach").arg("--resolv-conf").arg(&resolv);
    let (code, out, err) =
        told(&run(&mut command, &["--netns", "ns", "--service", "prod/myapp:8080", "--timeout", "5s", "-o", "json"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), attached());
    let text = std::fs::read_to_string(&resolv).unwrap();
    assert_eq!(text, "# written by netctl\nnameserver 10.244.3.1\nsearch skydns.local\noptions ndots:2\n");
}

#[test]
fn nothing_is_attached_when_its_resolv_conf_cannot_be_written() {
    let server = Server::start(|_| Some((200, attached())));
    let (code, _, err) =
        told(&run(&mut server.netctl(), &["attach", "--netns", "/x", "--resolv-conf", "/proc/version/resolv.conf"]));
    assert_eq!(code, 1);
    assert!(err.starts_with("netctl: attach: write /proc/version/resolv.conf: "), "{err}");
    assert_eq!(server.lines(), Vec::<String>::new());
}

#[test]
fn a_namespace_name_or_process_that_is_not_there_is_refused() {
    let server = Server::start(|_| Some((200, attached())));
    let (code, _, err) = told(&run(&mut server.netctl(), &["attach", "--netns", "no-such-namespace"]));
    assert_eq!(code, 1);
    assert!(err.contains("/run/netns/no-such-namespace"), "{err}");
    let (code, _, err) = told(&run(&mut server.netctl(), &["attach", "--pid", "4294967295"]));
    assert_eq!((code, err.as_str()), (1, "netctl: attach: network namespace of process 4294967295: there is no such process\n"));
    assert_eq!(server.lines(), Vec::<String>::new());
}

#[test]
fn a_service_is_created_once_the_agent_is_ready() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => refusal(Code::NotReady, "waiting for the first listing"),
        1 => refusal(Code::StoreAway, "etcd does not answer"),
        _ => Some((200, created())),
    });
    let (code, out, err) = told(&run(&mut server.netctl(), &["service", "create", "myapp", "--port", "80:8080"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("vip       10.112.0.7\n") && out.contains("before    the name answered 10.244.3.5\n"), "{out}");
    assert_eq!(server.lines(), ["POST /v1/services"; 3]);
}

#[test]
fn waiting_for_a_service_ends_with_the_agents_last_words() {
    let server = Server::start(|_| refusal(Code::NotReady, "waiting for the first listing"));
    let (code, _, err) = told(&run(&mut server.netctl(), &["service", "create", "myapp", "--port", "80", "--timeout", "500ms"]));
    assert_eq!((code, err.as_str()), (1, "netctl: service create: waiting for the first listing; netctl status says more\n"));
    assert!(server.lines().len() > 1);
}

/// Answers for `myapp.skydns.local.` and nothing else.
fn name_server(request: &Request) -> Answer {
    let section = |data: &[&str]| {
        data.iter().map(|d| json!({"name": "myapp.skydns.local.", "ttl": 60, "type": "A", "data": d})).collect::<Value>()
    };
    let answer = |rcode: &str, answers: &[&str]| {
        Some((
            200,
            json!({"name": "myapp.skydns.local.", "type": "A", "rcode": rcode, "authoritative": true, "answers": section(answers),
                   "authority": [], "additional": []}),
        ))
    };
    match request.line.as_str() {
        "GET /v1/config" => Some((200, json!({"service_cidrs": [], "dns_domain": "skydns.local."}))),
        "GET /v1/dns/query?name=myapp.skydns.local.&type=A" => answer("NOERROR", &["10.112.0.7"]),
        "GET /v1/dns/query?name=myapp.skydns.local.&type=AAAA" => answer("NOERROR", &[]),
        _ => answer("NXDOMAIN", &[]),
    }
}

#[test]
fn a_name_without_dots_is_asked_for_in_the_domain() {
    let server = Server::start(name_server);
    let (code, out, _) = told(&run(&mut server.netctl(), &["dns", "query", "myapp"]));
    assert_eq!(code, 0);
    assert!(out.contains("myapp.skydns.local.  60   A     10.112.0.7\n"), "{out}");
    assert_eq!(server.lines(), ["GET /v1/config", "GET /v1/dns/query?name=myapp.skydns.local.&type=A"]);
}

#[test]
fn a_name_that_has_nothing_is_shown_and_exit_1() {
    let server = Server::start(name_server);
    for (args, rcode) in [(&["dns", "query", "myapp", "aaaa"][..], "NOERROR"), (&["dns", "query", "x.example.com"], "NXDOMAIN")] {
        let (code, out, err) = told(&run(&mut server.netctl(), args));
        assert_eq!((code, err.as_str()), (1, ""));
        assert!(out.contains(&format!("answer    {rcode}, authoritative\n")), "{out}");
    }
}

#[test]
fn completion_manual_and_version_need_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let netctl = || netctl(&dir.path().join("none.sock"));
    let (code, script, _) = told(&run(&mut netctl(), &["completion", "bash"]));
    assert!(code == 0 && script.contains("netctl__subcmd__service__subcmd__create"), "{script}");
    let (code, page, _) = told(&run(&mut netctl(), &["man"]));
    assert!(code == 0 && page.contains(".TH netctl 1"), "{page}");
    let pages = dir.path().join("man");
    let (code, _, err) = told(&run(netctl().arg("man").arg(&pages), &[]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(pages.join("netctl-service-create.1").is_file());
    let (code, out, _) = told(&run(&mut netctl(), &["version", "-o", "json"]));
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), json!({"netctl": env!("CARGO_PKG_VERSION"), "weftd": null}));
}

#[test]
fn of_two_who_change_a_service_at_once_neither_undoes_what_the_other_did() {
    let writes = AtomicUsize::new(0);
    let bodies = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let server = Server::start(move |request| {
        let mut service = created();
        if request.line.starts_with("PUT ") {
            seen.lock().unwrap().push(request.body.clone());
            if writes.fetch_add(1, Ordering::SeqCst) == 0 {
                return refusal(
                    Code::Changed,
                    "service default/myapp: it is at revision 9, not 8; read it again, and decide again",
                );
            }
        } else if writes.load(Ordering::SeqCst) > 0 {
            // What the other one has done meanwhile.
            service["labels"] = json!({"team": "a"});
        }
        Some((200, service))
    });
    let (code, _, err) = told(&run(&mut server.netctl(), &["service", "set", "myapp", "--panic", "50"]));
    assert_eq!((code, err.as_str()), (0, ""));
    let (get, put) = ("GET /v1/services/default/myapp", "PUT /v1/services/default/myapp");
    assert_eq!(server.lines(), [get, put, get, put]);
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies[0], json!({"ports": [{"name": "", "port": 80, "target": 8080, "proto": "tcp"}], "panic": 50}));
    assert_eq!((&bodies[1]["labels"], &bodies[1]["panic"]), (&json!({"team": "a"}), &json!(50)));
}
