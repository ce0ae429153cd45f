//! gRPC's health service, by hand: one call, two messages of one field each.
//!
//! Source: grpc-proto `grpc/health/v1/health.proto`, gRPC over HTTP/2 ("Length-Prefixed-Message", trailers).

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use weft_model::check::Check;

use super::{Beside, broken};

/// The method.
const PATH: &str = "/grpc.health.v1.Health/Check";

/// The largest answer that is read, bytes; one of ours has two.
const MAX_ANSWER: usize = 4096;

/// `HealthCheckResponse.ServingStatus`.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Asks over a connection.
///
/// # Errors
/// Why it is not well.
pub(super) async fn ask(check: &Check, stream: TcpStream, place: SocketAddr) -> Result<String, String> {
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| broken("HTTP/2", &e))?;
    let _beside = Beside(tokio::spawn(async move { drop(connection.await) }));
    let request = Request::post(format!("http://{place}{PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", concat!("weft/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(question(check.service.as_deref().unwrap_or_default()))))
        .map_err(|e| broken("gRPC request", &e))?;
    let answer = sender.send_request(request).await.map_err(|e| broken("gRPC", &e))?;
    if !answer.status().is_success() {
        return Err(format!("gRPC: HTTP status {}", answer.status()));
    }
    let (head, body) = answer.into_parts();
    // A call that fails at once has its status among the headers.
    refused(&head.headers)?;
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| format!("gRPC: read the answer: {e}"))?;
    body.trailers().map_or(Ok(()), refused)?;
    match serving(&body.to_bytes())? {
        1 => Ok("SERVING".to_owned()),
        other => {
            let name = usize::try_from(other).ok().and_then(|at| STATUSES.get(at)).copied();
            Err(name.map_or_else(|| format!("status {other}"), str::to_owned))
        }
    }
}

/// A status of gRPC that is not 0.
fn refused(headers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status") {
        Some(status) if status != "0" => {
            Err(format!("gRPC status {status}: {}", text("grpc-message").unwrap_or_else(|| "no message".to_owned())))
        }
        Some(_) | None => Ok(()),
    }
}

/// `HealthCheckRequest { string service = 1; }` with its prefix.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 3);
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or_default();
    [&[0], length.to_be_bytes().as_slice(), &message].concat()
}

/// The status in `HealthCheckResponse { ServingStatus status = 1; }` with its prefix; a message without it says 0.
fn serving(answer: &[u8]) -> Result<u64, String> {
    let bad = || format!("gRPC: {} bytes that are no answer of grpc.health.v1", answer.len());
    let (prefix, message) = answer.split_at_checked(5).ok_or_else(bad)?;
    let (flag, length) = prefix.split_first().ok_or_else(bad)?;
    let length = <[u8; 4]>::try_from(length).map(u32::from_be_bytes).map_err(|_| bad())?;
    if *flag != 0 || usize::try_from(length) != Ok(message.len()) {
        return Err(bad());
    }
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest).ok_or_else(bad)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut rest).ok_or_else(bad)?,
            (_, 0) => drop(varint(&mut rest).ok_or_else(bad)?),
            (_, 1) => rest = rest.get(8..).ok_or_else(bad)?,
            (_, 2) => {
                let length = varint(&mut rest).and_then(|length| usize::try_from(length).ok()).ok_or_else(bad)?;
                rest = rest.get(length..).ok_or_else(bad)?;
            }
            (_, 5) => rest = rest.get(4..).ok_or_else(bad)?,
            _ => return Err(bad()),
        }
    }
    Ok(status)
}

/// A number in base 128, the lowest digits first (protobuf encoding); at most ten bytes.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for at in 0..10 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f).checked_shl(at * 7)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_its_service() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn a_status_is_found_beside_what_later_versions_add() {
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Ok(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Ok(0));
        let more = [0x12, 1, b'x', 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0, 0x28, 0x80, 1, 8, 2];
        let framed = [&[0, 0, 0, 0, u8::try_from(more.len()).unwrap()], more.as_slice()].concat();
        assert_eq!(serving(&framed), Ok(2));
    }

    #[test]
    fn no_bytes_do_more_than_fail() {
        for bad in [&[][..], &[0; 4], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 1, 8], &[0, 0, 0, 0, 2, 0x0b, 0]] {
            assert!(serving(bad).is_err(), "{bad:?}");
        }
        // Whatever stands behind a right prefix: no panic, and no end of time.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for length in (0..64_u8).cycle().take(20_000) {
            let mut bytes = vec![0, 0, 0, 0, length];
            for _ in 0..length {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.push(seed.to_be_bytes()[0]);
            }
            let _ = serving(&bytes);
        }
    }
}
