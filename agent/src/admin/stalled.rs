//! A connection whose other end takes nothing any more is broken off. hyper bounds how long a request may take to come, and knows no
//! bound for an answer that nobody reads (HTTP/1, hyper 1): it would be held, with its place and its buffers, for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream that fails when nothing of what is written, flushed or shut down is taken for a time. Reading has no bound.
#[derive(Debug)]
pub(super) struct Stalled<S> {
    stream: S,
    bound: Duration,
    /// Runs while the other end is waited for.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalled<S> {
    /// Fails after `bound` in which the other end has taken nothing.
    pub fn after(bound: Duration, stream: S) -> Self {
        Self { stream, bound, waits: None }
    }

    /// What an attempt to write has come to. The task is woken by the stream, or when the time is over.
    fn bounded<T>(&mut self, context: &mut Context<'_>, tried: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if tried.is_ready() {
            self.waits = None;
            return tried;
        }
        let bound = self.bound;
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(bound)));
        waits.as_mut().poll(context).map(|()| {
            let why = format!("the other end has taken nothing for {}s", bound.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalled<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalled<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, tried)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.bounded(context, tried)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, tried)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tried = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, tried)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn who_takes_nothing_is_broken_off() {
        let (ours, mut theirs) = duplex(4);
        let mut ours = Stalled::after(SHORT, ours);
        let error = ours.write_all(b"more than fits").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // The other direction has no bound, and what had been taken is there.
        theirs.write_all(b"ask").await.unwrap();
        let (mut asked, mut got) = ([0; 3], [0; 4]);
        ours.read_exact(&mut asked).await.unwrap();
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!((&asked, &got), (b"ask", b"more"));
    }

    #[tokio::test]
    async fn who_takes_a_little_each_time_has_his_time_anew() {
        let (ours, mut theirs) = duplex(1);
        let mut ours = Stalled::after(Duration::from_secs(3600), ours);
        let text = b"longer than what fits at once";
        let mut got = vec![0; text.len()];
        let (wrote, read) = tokio::join!(ours.write_all(text), theirs.read_exact(&mut got));
        assert!(wrote.is_ok() && read.is_ok() && got == text);
        assert!(ours.waits.is_none(), "what was taken ends the wait for it");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_ends_its_connection() {
        use hyper::service::service_fn;
        let (ours, mut theirs) = duplex(1024);
        let answer = service_fn(|_| {
            let body = http_body_util::Full::new(hyper::body::Bytes::from(vec![b'x'; 1 << 20]));
            std::future::ready(Ok::<_, std::convert::Infallible>(hyper::Response::new(body)))
        });
        theirs.write_all(b"GET / HTTP/1.1\r\nhost: weft\r\n\r\n").await.unwrap();
        let ours = hyper_util::rt::TokioIo::new(Stalled::after(SHORT, ours));
        let served = hyper::server::conn::http1::Builder::new().serve_connection(ours, answer).await;
        assert!(served.is_err(), "the other end is there, and reads nothing");
    }
}
