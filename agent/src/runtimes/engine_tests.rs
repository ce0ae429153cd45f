//! The client against a server that says what it is told to, byte by byte.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

/// A socket that gives each connection the next of `answers`, and ends the connection.
fn server(dir: &Path, answers: Vec<Vec<u8>>) -> Engine {
    let path = dir.join("engine.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            // The client may go before it has read all.
            let _ = stream.write_all(&answer).await;
        }
    });
    Engine::new(&path)
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn chunked(chunks: &[&str]) -> Vec<u8> {
    let mut all = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in chunks {
        all.extend_from_slice(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes());
    }
    all.extend_from_slice(b"0\r\n\r\n");
    all
}

#[tokio::test]
async fn an_answer_is_json_or_absent_or_an_error_that_names_the_question() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("[{}]", "1,".repeat(5000));
    let answers = [
        answer("200 OK", r#"{"a":1}"#),
        chunked(&["{\"a\"", ":2}"]),
        answer("404 Not Found", r#"{"message":"no such container"}"#),
        answer("500 Internal Server Error", "x"),
        answer("200 OK", "{"),
        answer("200 OK", &long),
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{".to_vec(),
        b"\0\xff".to_vec(),
        Vec::new(),
    ];
    let engine = server(dir.path(), answers.to_vec());
    let get = || engine.get("/x", 1000);
    assert_eq!(get().await.unwrap().unwrap()["a"], 1);
    assert_eq!(get().await.unwrap().unwrap()["a"], 2);
    assert_eq!(get().await.unwrap(), None);
    for _ in 3..answers.len() {
        let error = get().await.unwrap_err().to_string();
        assert!(error.starts_with("GET /x"), "{error}");
    }
    let nobody = Engine::new(&dir.path().join("none.sock")).get("/x", 1000).await.unwrap_err();
    assert!(matches!(nobody, EngineError::Connect { .. }), "{nobody}");
}

#[tokio::test]
async fn events_are_lines_however_they_are_cut() {
    let id = "a".repeat(64);
    let event = format!("{{\"Type\":\"container\",\"Action\":\"start\",\"Actor\":{{\"ID\":\"{id}\"}}}}\n");
    let (front, back) = event.split_at(20);
    let dir = tempfile::tempdir().unwrap();
    let engine = server(dir.path(), vec![chunked(&[front, back]), chunked(&[&event, "not json\n", &event]), answer("500 x", "")]);
    let changed = Arc::new(Changed::default());

    assert!(engine.listen(&changed).await.to_string().starts_with("GET /events"));
    changed.news().await;
    let said = changed.take();
    assert!(said.about(&id) && !said.about("other") && !said.all);
    assert_eq!(changed.take(), Said::default(), "it is told once");

    engine.listen(&changed).await;
    assert!(changed.take().all, "what is not understood may have been anything");
    engine.listen(&changed).await;
    assert_eq!(changed.take(), Said::default());
}

#[tokio::test]
async fn a_line_without_end_ends_the_listening() {
    let dir = tempfile::tempdir().unwrap();
    let piece = "x".repeat(1 << 20);
    let engine = server(dir.path(), vec![chunked(&[&piece, &piece, &piece, &piece, &piece])]);
    let ended = engine.listen(&Changed::default()).await;
    let why = std::error::Error::source(&ended).map(ToString::to_string).unwrap();
    assert!(why.contains("an event of more than"), "{why}");
}

#[test]
fn a_storm_of_events_is_remembered_as_one() {
    let changed = Changed::default();
    for n in 0..=MAX_CHANGED {
        let id = format!("{n:064x}");
        changed.hear(format!(r#"{{"Type":"container","Action":"start","Actor":{{"ID":"{id}"}}}}"#).as_bytes());
    }
    let said = changed.take();
    assert!(said.all && said.ids.len() == MAX_CHANGED);
}
