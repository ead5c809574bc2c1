//! An HTTP/2 connection: its streams become connections of their own.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use log::debug;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::OUTDATED;
use super::client_stream::Arrival;
use super::edge::Edge;
use super::refuse::{NO_DESCRIPTORS, TOO_MANY, TOO_MANY_OF_CLIENT, words};
use super::setup::is_disconnect;
use super::state::ListenerState;
use crate::http1::Rejection;
use crate::http2::control::ControlFrames;
use crate::http2::fragments::{Found, Fragments};
use crate::http2::request::{NotInHttp1, Target, head_of};
use crate::http2::{Facts, Http2Stream, Settled, read_rest};
use crate::limits::{Full, RETRY_AFTER, SharedPermit, StreamPermit};
use crate::session::Admission;
use crate::transport::Transport;

/// How much a client may send ahead on one stream; it costs that much memory while nobody takes it.
/// The connection has room for all the streams that the listener allows, so that no stream waits
/// for the server of another.
const STREAM_WINDOW: u32 = 12 * 1024;

/// Heads that are too large are refused where all heads are, and logged. h2 refuses only a head of
/// more than this many times the limit, because it counts differently and does not report it.
const HEAD_ROOM: u32 = 2;

/// At least as much as h2 accepts of a block of fields: six frames, or a quarter more than the
/// limit of its fields.
fn block_max(fields: u32) -> usize {
    2 * fields as usize + 96 * 1024
}

/// How much may wait to be sent on one stream.
const SEND_BUFFER: usize = 16 * 1024;

/// How often a client may cancel requests before that counts as abuse: more often only if most of
/// its requests are not cancelled (CVE-2023-44487).
const ABANDONED_MAX: usize = 100;

/// How long a client may take to answer our GOAWAY and to read the rest of its last stream.
const PARTING: Duration = Duration::from_secs(10);

const LATE_PREFACE: Rejection = Rejection::new(
    StatusCode::REQUEST_TIMEOUT,
    "the HTTP/2 preface did not arrive in time",
);
const ABANDONS: Rejection = Rejection::new(
    StatusCode::TOO_MANY_REQUESTS,
    "most requests of this connection were given up before an answer",
);
const TOO_MUCH: Rejection = Rejection::new(
    StatusCode::TOO_MANY_REQUESTS,
    "more HTTP/2 frames without use than one connection may send",
);
const OTHER_PROTOCOL: Rejection = Rejection::new(
    StatusCode::NOT_IMPLEMENTED,
    "of the protocols on a stream only websocket is known",
);

impl Edge {
    /// Serves its streams until it ends.
    pub(super) async fn serve_http2(
        self: Arc<Self>,
        state: Arc<ListenerState>,
        transport: Transport,
        mut admission: Admission,
        deadline: Instant,
    ) {
        let (peer, local) = (transport.peer(), transport.local());
        let facts = Arc::new(Facts {
            peer,
            local,
            security: transport.security(),
            abandoned: AtomicUsize::new(0),
            read_on: AtomicUsize::new(0),
            fragments: Found::default(),
            settled: Arc::new(Settled::default()),
            permits: admission.permit.take().map(SharedPermit::new),
        });
        let streams = state.limits().streams;
        let size = u32::try_from(state.limits().head.size).unwrap_or(u32::MAX / HEAD_ROOM);
        let mut builder = Builder::new();
        builder
            .max_concurrent_streams(streams)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(streams * STREAM_WINDOW)
            .max_header_list_size(HEAD_ROOM * size)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_connect_protocol();
        let flood = Arc::new(Notify::new());
        let bearer = Bearer {
            transport: Some(transport),
            edge: self.clone(),
            control: ControlFrames::new(Instant::now()),
            settled: facts.settled.clone(),
            fragments: Fragments::new(block_max(HEAD_ROOM * size), facts.fragments.clone()),
            flood: flood.clone(),
            is_flooded: false,
        };
        let mut connection = match timeout_at(deadline, builder.handshake(bearer)).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return self.end(&state, admission.peer(peer), &error),
            Err(_) => return self.record(&state, admission.peer(peer), LATE_PREFACE),
        };
        let peer = admission.peer(peer);
        let flooded = {
            let serving = self.serve_streams(&state, &mut connection, facts, admission);
            tokio::select! {
                () = serving => false,
                () = flood.notified() => true,
            }
        };
        if flooded {
            self.send_away(&state, peer, &mut connection, TOO_MUCH)
                .await;
        }
    }

    async fn serve_streams(
        self: &Arc<Self>,
        state: &Arc<ListenerState>,
        connection: &mut Connection<Bearer, Bytes>,
        facts: Arc<Facts>,
        admission: Admission,
    ) {
        let (mut stopping, mut moves) = (self.stopping.clone(), self.moves.clone());
        let mut asked: usize = 0;
        let (mut is_leaving, mut is_idle) = (false, false);
        let has_no_streams = || Arc::strong_count(&facts) == 1;
        let idle = sleep_until(Instant::now() + state.limits().idle);
        tokio::pin!(idle);
        let peer = loop {
            let mut leaves = false;
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        asked += 1;
                        is_idle = false;
                        let abandoned = facts.abandoned.load(Relaxed);
                        if abandoned > ABANDONED_MAX && abandoned > asked / 2 {
                            let peer = admission.peer(facts.peer);
                            self.warn_of_abandoning(state, peer, (abandoned, asked));
                            break peer;
                        }
                        self.begin(state, &facts, &admission, request, respond);
                    }
                    Some(Err(error)) => {
                        return self.end(state, admission.peer(facts.peer), &error);
                    }
                    None => return,
                },
                // Streams that are open continue; no new ones are accepted (RFC 9113 section 6.8).
                _ = stopping.wait_for(|stops| *stops), if !is_leaving => leaves = true,
                () = moves.opened(), if !is_leaving => leaves = true,
                () = outdated(state, &admission), if !is_leaving => leaves = true,
                () = &mut idle => {
                    let was_idle = std::mem::replace(&mut is_idle, has_no_streams());
                    if is_leaving && was_idle && is_idle {
                        return;
                    }
                    leaves = is_idle;
                    let next = if is_leaving { PARTING } else { state.limits().idle };
                    idle.as_mut().reset(Instant::now() + next);
                }
            }
            if leaves && !is_leaving {
                is_leaving = true;
                is_idle = has_no_streams();
                connection.graceful_shutdown();
                idle.as_mut().reset(Instant::now() + PARTING);
            }
        };
        self.send_away(state, peer, connection, ABANDONS).await;
    }

    fn warn_of_abandoning(
        &self,
        state: &ListenerState,
        peer: Option<SocketAddr>,
        (abandoned, asked): (usize, usize),
    ) {
        let who = peer.map_or("a unix socket".to_owned(), |peer| peer.to_string());
        let line = format!(
            "HTTP/2 with {who}: {abandoned} of {asked} requests were given up before an answer; the \
             connection ends"
        );
        self.warn_of(state, ABANDONS.reason, &line);
    }

    /// Ends the connection with the reason that it was too much.
    async fn send_away(
        &self,
        state: &ListenerState,
        peer: Option<SocketAddr>,
        connection: &mut Connection<Bearer, Bytes>,
        rejection: Rejection,
    ) {
        self.record(state, peer, rejection);
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        // Runs until the reason is sent. A client that does not take it is cut.
        let sent = async { while let Some(Ok(_)) = connection.accept().await {} };
        let _ = timeout(PARTING, sent).await;
    }

    /// The client has left, or has sent something that ends the connection.
    fn end(&self, state: &ListenerState, peer: Option<SocketAddr>, error: &h2::Error) {
        if error.is_remote() || error.get_io().is_some_and(is_disconnect) {
            return debug!("HTTP/2 with {peer:?}: {error}");
        }
        match error.reason() {
            Some(Reason::ENHANCE_YOUR_CALM) => self.record(state, peer, TOO_MUCH),
            _ => self.fail(state, peer, "HTTP/2", error),
        }
    }

    fn begin(
        self: &Arc<Self>,
        state: &Arc<ListenerState>,
        facts: &Arc<Facts>,
        admission: &Admission,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) {
        let peer = || admission.peer(facts.peer);
        let target = match facts.fragments.take(respond.stream_id().as_u32()) {
            true => Target::Cut,
            false => Target::Whole,
        };
        let (head, body) = match head_of(&request, request.body().is_end_stream(), target) {
            Ok(written) => written,
            Err(NotInHttp1::Scheme) => return respond.send_reset(Reason::PROTOCOL_ERROR),
            // RFC 9220 section 3.
            Err(NotInHttp1::Protocol) => {
                self.record(state, peer(), OTHER_PROTOCOL);
                return refuse(facts, (request, respond), OTHER_PROTOCOL);
            }
        };
        let permit = match self.admit_stream(state, facts, admission) {
            Ok(permit) => permit,
            Err(rejection) => {
                self.record(state, peer(), rejection);
                return refuse(facts, (request, respond), rejection);
            }
        };
        let method = request.method().clone();
        let receive = (request.into_body(), body);
        let stream = Http2Stream::new(facts.clone(), permit, receive, &method, respond);
        // The permit is held by the stream.
        let admission = Admission {
            permit: None,
            proxied: admission.proxied.clone(),
            tls_revision: admission.tls_revision,
        };
        let deadline = Instant::now() + state.limits().header_timeout;
        let transport = Transport::Http2(Box::new(stream));
        let arrival = Arrival::New {
            deadline,
            ends: None,
        };
        self.serve(state.id, transport, head, admission, arrival);
    }

    /// The checks of an accepted connection, in the same order. `None`: the stream is not counted
    /// anywhere.
    fn admit_stream(
        &self,
        state: &ListenerState,
        facts: &Facts,
        admission: &Admission,
    ) -> Result<Option<StreamPermit>, Rejection> {
        if !self.has_descriptors() {
            return Err(NO_DESCRIPTORS);
        }
        if admission.tls_revision < state.tls_revision.get() {
            return Err(OUTDATED);
        }
        let Some(permits) = &facts.permits else {
            return Ok(None);
        };
        let permit = permits.carry(&state.limits().bounds);
        permit.map(Some).map_err(|full| match full {
            Full::Client => TOO_MANY_OF_CLIENT,
            Full::All | Full::User | Full::Rate => TOO_MANY,
        })
    }
}

/// Answers before the request is looked at, as for a connection that is turned away.
fn refuse(
    facts: &Arc<Facts>,
    (request, mut respond): (Request<RecvStream>, SendResponse<Bytes>),
    rejection: Rejection,
) {
    let mut answer = Response::new(());
    *answer.status_mut() = rejection.status;
    let fields = answer.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    fields.insert(header::CONTENT_TYPE, text);
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let may_come_back = [
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    if may_come_back.contains(&rejection.status) {
        let pause = HeaderValue::from_static(RETRY_AFTER);
        fields.insert(header::RETRY_AFTER, pause);
    }
    let has_body = request.method() != Method::HEAD;
    // If the client is gone there is nobody to tell.
    let Ok(mut send) = respond.send_response(answer, !has_body) else {
        return;
    };
    if has_body {
        let words = words(rejection);
        send.reserve_capacity(words.len());
        // The text is sent only if the client leaves room for it. The status says it too.
        let words = match send.capacity() >= words.len() {
            true => Bytes::from(words),
            false => Bytes::new(),
        };
        let _ = send.send_data(words, true);
    }
    read_rest(request.into_body(), 0, facts);
}

/// Returns once the listener demands more of clients than this one has shown.
async fn outdated(state: &ListenerState, admission: &Admission) {
    let mut changes = state.tls_revision.watch();
    while admission.tls_revision >= state.tls_revision.get() {
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Carries a connection. h2 drops it right after the last frame, which says why the connection
/// ends. Then the client gets time to read that frame.
struct Bearer {
    /// `Some` until this value is dropped.
    transport: Option<Transport>,
    edge: Arc<Edge>,
    control: ControlFrames,
    settled: Arc<Settled>,
    fragments: Fragments,
    /// Notified when there were too many frames: then nothing more is read.
    flood: Arc<Notify>,
    is_flooded: bool,
}

impl Bearer {
    fn transport(self: Pin<&mut Self>) -> io::Result<Pin<&mut Transport>> {
        let transport = self.get_mut().transport.as_mut();
        transport
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn note_sent(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(sent)) = polled {
            self.control.sent(sent);
        }
        polled
    }
}

impl AsyncRead for Bearer {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bearer = self.get_mut();
        if bearer.is_flooded {
            return Poll::Pending;
        }
        if bearer.control.has_acknowledged() {
            // h2 reads on when it has done all that it has read before, so this too.
            bearer.settled.settle();
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut *bearer).transport()?.poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if bearer.control.feed(read, Instant::now).is_err() {
            bearer.is_flooded = true;
            bearer.flood.notify_one();
        }
        bearer.fragments.feed(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bearer {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let bearer = self.get_mut();
        let polled = Pin::new(&mut *bearer).transport()?.poll_write(cx, buf);
        bearer.note_sent(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bearer = self.get_mut();
        let transport = Pin::new(&mut *bearer).transport()?;
        let polled = transport.poll_write_vectored(cx, bufs);
        bearer.note_sent(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport()?.poll_shutdown(cx)
    }
}

impl Drop for Bearer {
    fn drop(&mut self) {
        if let Some(transport) = self.transport.take() {
            self.edge.linger_and_close(transport);
        }
    }
}
