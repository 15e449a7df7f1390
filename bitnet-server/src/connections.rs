//! Connections: how many there may be, how large their headers, and how long they may take.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;

use crate::error::{Api, ApiError};

/// Headers of a request, and their bytes, above which it is refused by name.
const HEADERS: usize = 100;
const HEADER_BYTES: usize = 32 << 10;
/// Headers, and bytes of them, above which no more is read: the answer is a bare 431.
const MOST_HEADERS: usize = 256;
const MOST_HEADER_BYTES: usize = 64 << 10;

/// How long nothing is accepted after the system refused a connection for want of something (files, memory).
const PAUSE: Duration = Duration::from_millis(100);

/// Limits of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at a time, with those that wait for a request.
    pub most: usize,
    /// How long a client may take from the start, or from an answer's end, to the end of the next request's headers.
    pub header_time: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_time: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            most: 1024,
            // Proxies keep a connection for 60 s: the server must not be the first to close it.
            header_time: Duration::from_secs(75),
            write_time: Duration::from_secs(60),
        }
    }
}

/// Serves connections until `stop` is ready, and returns those that are open.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    stop: impl Future<Output = ()>,
) -> GracefulShutdown {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_headers(MOST_HEADERS)
        .max_header_size(MOST_HEADER_BYTES)
        .max_buf_size(MOST_HEADER_BYTES);
    let (open, service) = (GracefulShutdown::new(), TowerToHyperService::new(router));
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return open,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !is_of_client(&error) {
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            }
        };
        if open.count() >= limits.most {
            refuse(stream);
            continue;
        }
        // Each token is a packet of its own; if the system has no such option, they come later.
        let _ = stream.set_nodelay(true);
        let stream = WriteLimit { stream, time: limits.write_time, timer: None };
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let connection = open.watch(connection);
        tokio::spawn(async move {
            // Clients may go away, or send what is not HTTP: they were told.
            let _ = connection.await;
        });
    }
}

/// Whether a connection failed by its client's doing, before it was accepted.
fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Tells a client that there are too many, as far as its connection takes that without waiting.
fn refuse(stream: TcpStream) {
    let message = "too many connections are open; try again";
    let body =
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).body(Api::OpenAi, None).to_string();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    if let Ok(mut stream) = stream.into_std() {
        let _ = io::Write::write(&mut stream, answer.as_bytes());
    }
}

/// Refuses requests with more headers than any client needs.
pub(crate) async fn check_headers(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() <= HEADERS && bytes <= HEADER_BYTES {
        return next.run(request).await;
    }
    let message = format!(
        "the request has {} headers with {bytes} bytes; {HEADERS} with {HEADER_BYTES} bytes are allowed",
        headers.len()
    );
    crate::body::discard(request);
    ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message).into_response()
}

/// A connection that ends if its client takes nothing for too long.
struct WriteLimit {
    stream: TcpStream,
    time: Duration,
    /// Runs while the client takes nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

impl WriteLimit {
    fn limit<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let time = self.time;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
        timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for WriteLimit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for WriteLimit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limit(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
