//! schemathesis against a real agent: requests made of the API's own document, right ones and wrong ones. Whatever is asked, the agent
//! answers what the document says, and never that it went wrong itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::eventually::SOON;
use weft_tests::node::environment;
use weft_tests::{Topology, eventually};

/// How long the whole of it may take on a busy machine.
const BOUND: Duration = Duration::from_secs(600);

/// Requests of one operation at most, in each of the ways in which they are made.
const EXAMPLES: &str = "5";

/// The agent is asked by somebody who is not root, so that no program is run as a check, whatever is asked for.
const BRIDGE: &str = r"
import asyncio, os, sys

async def pass_on(read, write):
    try:
        while data := await read.read(65536):
            write.write(data)
            await write.drain()
        write.write_eof()
    except OSError:
        write.close()

async def take(read, write):
    there_read, there_write = await asyncio.open_unix_connection(sys.argv[1])
    await asyncio.gather(pass_on(read, there_write), pass_on(there_read, write))
    there_write.close()
    write.close()

async def serve():
    server = await asyncio.start_server(take, '127.0.0.1', 8080)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    async with server:
        await server.serve_forever()

asyncio.run(serve())
";

/// What is not asked for, each with its reason.
const LEFT_OUT: &[&str] = &[
    // A stream, which does not end.
    "get_watch",
    // A checkup sends packets for up to a minute, and the next one waits for it.
    "post_doctor",
    // Both take the network away that all else is about.
    "put_network",
    "patch_network",
];

/// Refusals that are the agent's answer and not its fault: nothing left of what there is to give.
const CONFIG: &str = r#"
hooks = "HOOKS"

[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 507]
"#;

/// Every header that there is would be sent with most requests, and two of them exclude each other: no body would be looked at. A
/// revision that is far ahead is waited for, and each time until the agent gives up.
const HOOKS: &str = r#"
import schemathesis

@schemathesis.hook
def before_call(context, case, kwargs):
    if case.headers and "If-Match" in case.headers and "If-None-Match" in case.headers:
        del case.headers["If-Match"]
        del case.headers["If-None-Match"]
    elif case.headers and len(case.headers.get("If-Match", "")) > 6:
        del case.headers["If-Match"]
"#;

#[test]
fn whatever_is_asked_is_answered_as_the_document_says() -> Result<()> {
    let bin = environment("schemathesis")?.join("bin");
    let t = Topology::new(1)?;
    let host = t.host(1);
    host.agent.set_flag("socket-mode", "0666");
    // Whoever asks for other names is told at once that nobody knows them.
    host.agent.set_flag("dns-upstream", "127.0.0.1:1");
    t.start_cluster()?;
    // Something that is there to be found.
    host.netctl(["namespace", "create", "prod"])?.success()?;
    host.netctl(["service", "create", "prod/myapp", "--port", "80"])?.success()?;
    host.netctl(["endpoint", "add", "prod/myapp", "192.0.2.7:80"])?.success()?;

    let socket = host.agent.socket().to_string_lossy().into_owned();
    let python = bin.join("python").to_string_lossy().into_owned();
    let bridge = host.spawn("bridge", [python.as_str(), "-c", BRIDGE, &socket])?;
    let document = "http://127.0.0.1:8080/v1/openapi.json";
    eventually("the bridge stands", SOON, || {
        host.exec(["curl", "--silent", "--fail", "--max-time", "60", "-o", "/dev/null", document])?
            .success()
            .with_context(|| bridge.stderr())
    })?;

    let config = host.dir().join("schemathesis.toml");
    let hooks = host.dir().join("hooks.py");
    std::fs::write(&hooks, HOOKS)?;
    std::fs::write(&config, CONFIG.replace("HOOKS", &hooks.to_string_lossy()))?;
    let (program, config) = (bin.join("schemathesis").to_string_lossy().into_owned(), config.to_string_lossy().into_owned());
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                  response_headers_conformance,unsupported_method,negative_data_rejection";
    // What it remembers (`.schemathesis`) it leaves where it is run.
    let there = format!("--chdir={}", host.dir().display());
    let mut line =
        vec!["env", &there, program.as_str(), "--config-file", &config, "run", document, "--checks", checks, "--no-color"];
    line.extend(["--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES, "--continue-on-failure", "--no-shrink"]);
    line.extend(["--seed", "1", "--generation-database", "none", "--suppress-health-check", "all", "--warnings", "off"]);
    // More than one worker and CPython up to 3.11 refuses to compile now and then ("AST constructor recursion depth mismatch").
    line.extend(["--request-timeout", "60", "--workers", "1"]);
    line.extend(LEFT_OUT.iter().flat_map(|id| ["--exclude-operation-id", id]));
    let said = host.place().exec_within(BOUND, &line)?;
    ensure!(said.code() == 0, "{}\n{}", said.stdout, said.stderr);
    println!("{}", said.stdout);

    // It lives, it is the same, and it does what it is for.
    let log = host.agent.log();
    ensure!(!log.contains("panicked"), "{log}");
    host.agent.status()?;
    bridge.kill9()?;
    t.down()
}
