//! Bodies of requests: read whole once the key is known to be good, within a size and a time.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;

use crate::error::ApiError;

/// Bytes of a body, at most.
pub(crate) const MAX: usize = 16 << 20;

/// How long a client may take to send a body.
const TIME: Duration = Duration::from_secs(60);

/// How long the body of a request that was refused is read.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// Reads the body of a request.
pub(crate) async fn read(request: Request, next: Next) -> Response {
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|len| len > MAX) {
        discard(request);
        return too_large();
    }
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    if let Some(encoding) =
        encoding.filter(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        let message = format!("bodies of encoding {encoding:?} are not read; send it as it is");
        discard(request);
        return ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    }
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(TIME, to_bytes(body, MAX)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(_)) => too_large(),
        Err(_) => {
            let message = "the body of the request did not arrive in time";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, message).into_response()
        }
    }
}

fn too_large() -> Response {
    let message =
        format!("the body of a request may have {MAX} bytes at most, and must arrive whole");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).into_response()
}

/// Reads and drops what a client still sends of a body, beside the answer that refuses its request: many clients look for
/// an answer only after the body, and find none if the connection closes before.
pub(crate) fn discard(request: Request) {
    let mut body = request.into_body().into_data_stream();
    let reading = async move {
        let mut left = MAX;
        while let Some(Ok(bytes)) = body.next().await {
            left = match left.checked_sub(bytes.len()) {
                Some(left) => left,
                None => return,
            };
        }
    };
    tokio::spawn(tokio::time::timeout(DISCARD_TIME, reading));
}
