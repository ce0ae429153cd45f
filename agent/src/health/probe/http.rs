//! A GET. Redirections are answers, not followed.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use weft_model::check::Check;

use super::{Beside, broken};

/// How much of an answer is looked through for a text, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Asks over a connection.
///
/// # Errors
/// Why it is not well.
pub(super) async fn ask<S>(check: &Check, stream: S, place: SocketAddr) -> Result<String, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken("HTTP", &e))?;
    let _beside = Beside(tokio::spawn(async move { drop(connection.await) }));
    let path = check.path.as_deref().unwrap_or("/");
    let host = check.host.clone().unwrap_or_else(|| place.to_string());
    let request = Request::get(path)
        .header("host", host)
        .header("user-agent", concat!("weft/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| broken("HTTP request", &e))?;
    let answer = sender.send_request(request).await.map_err(|e| broken(&format!("GET {path}"), &e))?;
    let status = answer.status();
    if !check.accepts(status.as_u16()) {
        return Err(format!("GET {path}: {status}"));
    }
    if let Some(wanted) = &check.body
        && !holds(answer.into_body(), wanted.as_bytes()).await?
    {
        return Err(format!("GET {path}: {status}, without {wanted:?} in it"));
    }
    Ok(format!("GET {path}: {status}"))
}

/// Whether a text stands in the first part of an answer.
async fn holds<B>(mut body: B, wanted: &[u8]) -> Result<bool, String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    let mut read: Vec<u8> = Vec::new();
    while read.len() < MAX_BODY
        && let Some(frame) = body.frame().await
    {
        let Ok(data) = frame.map_err(|e| broken("read the answer", &e))?.into_data() else { continue };
        let room = MAX_BODY - read.len();
        // What was looked through before, but for a beginning of the text, need not be looked at again.
        let from = read.len().saturating_sub(wanted.len());
        read.extend_from_slice(data.get(..room).unwrap_or(&data));
        let new = read.get(from..).unwrap_or_default();
        if wanted.is_empty() || new.windows(wanted.len()).any(|window| window == wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}
