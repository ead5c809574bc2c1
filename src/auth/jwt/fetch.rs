//! Fetches a key set by HTTP: one GET, bounded in size and time. Redirects are not followed.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::auth::endpoint::{ConnectError, Connected, Endpoint};

/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest known key sets have some 20 KiB.
const LARGEST: usize = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the exchange failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("it is redirected (status {0}); name the URL where it ends")]
    Redirected(u16),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the answer cannot be read: {0}")]
    Body(String),
    #[error("no answer within {TIMEOUT:?}")]
    Late,
}

pub async fn get(endpoint: &Endpoint) -> Result<Bytes, FetchError> {
    match timeout(TIMEOUT, get_in_time(endpoint)).await {
        Ok(got) => got,
        Err(_) => Err(FetchError::Late),
    }
}

async fn get_in_time(endpoint: &Endpoint) -> Result<Bytes, FetchError> {
    let stream = endpoint.connect().await?;
    ask(endpoint, stream).await
}

async fn ask(endpoint: &Endpoint, stream: Box<dyn Connected>) -> Result<Bytes, FetchError> {
    let path = endpoint.uri.path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(header::HOST, endpoint.host())
        .header(header::ACCEPT, "application/json")
        .header(
            header::USER_AGENT,
            concat!("prusik/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| FetchError::Body(error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await?;
    match answer.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => return Err(FetchError::Redirected(status.as_u16())),
        status => return Err(FetchError::Status(status.as_u16())),
    }
    let body = Limited::new(answer.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| FetchError::Body(error.to_string()))?;
    Ok(body.to_bytes())
}
