//! Connections to servers that are kept for the next request: never a byte of one exchange in
//! another, and none that is kept for longer than it is of use.
//!
//! The server is played by hand, a connection at a time, so that each test says on which
//! connection it gets what.

use std::net::SocketAddr;

use crate::support;
use crate::support::{
    Client, Config, Head, Outcome, Prusik, Wire, eventually, handshake, listen, within,
};
use tokio::net::TcpListener;

struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let listener = listen();
        let address = listener.local_addr().expect("it is bound");
        Self { listener, address }
    }

    fn config(&self) -> Config {
        let own = "{ match: { path: /own }, respond: { status: 200, body: own } }";
        Config::to(&[]).server(self.address).first(own)
    }

    /// The next connection, which must come.
    async fn accept(&self) -> Wire {
        let accepted = within("a new connection", self.listener.accept()).await;
        Wire::new(accepted.expect("the listener is there").0)
    }
}

/// The next request on this connection, which must come.
async fn request(wire: &mut Wire) -> Head {
    let head = within("a request", wire.head()).await;
    head.expect("a head can be read")
        .expect("a request on this connection, not its end")
}

async fn answer(wire: &mut Wire, bytes: impl AsRef<[u8]>) {
    wire.send(bytes).await.expect("prusik takes it");
}

/// prusik has closed it, without a byte more.
async fn ends(wire: &mut Wire) {
    match within("the end of the connection to the server", wire.some()).await {
        Ok(bytes) => assert!(bytes.is_empty(), "{:?}", String::from_utf8_lossy(&bytes)),
        // With unread bytes in its socket a close is a reset.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Whether an established connection does, by the kernel's own table.
fn leads_to(server: SocketAddr) -> bool {
    let SocketAddr::V4(server) = server else {
        panic!("origins are on 127.x.y.z")
    };
    // As /proc/net/tcp has it: the address as the machine stores it.
    let address = u32::from_ne_bytes(server.ip().octets());
    let remote = format!("{address:08X}:{:04X}", server.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("this is Linux");
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(2..4) == Some(&[&remote[..], ESTABLISHED])
    })
}

const ESTABLISHED: &str = "01";

const POST: &str = "POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

/// prusik reads the next request of a client when it is done with the one before it, and with its
/// connection to the server.
async fn done(client: &mut Client) {
    assert_eq!(client.get("/own").await.text(), "own");
}

/// A new client's GET, and the new connection that it came on.
async fn asked(prusik: &Prusik, server: &Server, target: &str) -> (Client, Wire) {
    let mut client = Client::connect(prusik.public()).await;
    client
        .send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .await;
    let mut wire = server.accept().await;
    assert_eq!(request(&mut wire).await.target(), target);
    (client, wire)
}

/// One GET and its answer; the connection to the server is idle then.
async fn kept(prusik: &Prusik, server: &Server) -> Wire {
    let (mut client, mut wire) = asked(prusik, server, "/first").await;
    answer(&mut wire, ok("first")).await;
    assert_eq!(client.response().await.text(), "first");
    done(&mut client).await;
    wire
}

/// Another client's GET comes on a new connection, and gets what is answered there.
async fn served_elsewhere(prusik: &Prusik, server: &Server) -> Wire {
    let (mut client, mut wire) = asked(prusik, server, "/next").await;
    answer(&mut wire, ok("next")).await;
    let response = client.response().await;
    assert_eq!((response.status(), response.text()), (200, "next".into()));
    wire
}

#[tokio::test]
async fn the_next_clients_request_comes_on_the_kept_connection() {
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    let mut wire = kept(&prusik, &server).await;
    for method in ["GET", "POST"] {
        let mut client = Client::connect(prusik.public()).await;
        client
            .send(format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        assert_eq!(request(&mut wire).await.method(), method);
        answer(&mut wire, ok(method)).await;
        assert_eq!(client.response().await.text(), method);
        done(&mut client).await;
    }
}

/// What a server says beyond its response, in the packet of the response.
#[tokio::test]
async fn bytes_behind_a_response_end_its_connection() {
    let surplus = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let cases = [
        ("GET", ok("fine"), surplus),
        ("GET", ok("fine"), "x"),
        ("GET", ok("fine"), "HTTP/1.1 103 Early Hints\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n".into(),
            surplus,
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n".into(),
            "body",
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n".into(), surplus),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n".into(),
            "body",
        ),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n".into(), surplus),
    ];
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    for (method, response, surplus) in cases {
        let mut client = Client::connect(prusik.public()).await;
        client
            .send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        let mut wire = server.accept().await;
        request(&mut wire).await;
        answer(&mut wire, format!("{response}{surplus}")).await;
        let head = client.head().await;
        assert_eq!(head.status().to_string(), response[9..12], "{response:?}");
        // It closes at once, so that the next case finds no kept connection.
        drop(served_elsewhere(&prusik, &server).await);
        ends(&mut wire).await;
    }
}

/// The same, from a server that says it later: by the time of the next request it is there, but
/// perhaps nobody has looked yet.
#[tokio::test]
async fn what_a_server_says_unasked_is_nobodys_response() {
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    let mut wire = kept(&prusik, &server).await;
    for round in 0..60 {
        let said = match round % 4 {
            0 => "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            1 => "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
            2 => "HTTP/1.1 100 Continue\r\n\r\n",
            _ => "\r\n",
        };
        // Connected before, so that the request follows at once.
        let mut client = Client::connect(prusik.public()).await;
        answer(&mut wire, said).await;
        client.send(POST).await;
        let mut next = server.accept().await;
        assert_eq!(request(&mut next).await.target(), "/post");
        next.exactly(4).await.expect("the body");
        answer(&mut next, ok("posted")).await;
        assert_eq!(client.response().await.text(), "posted", "round {round}");
        ends(&mut wire).await;
        wire = next;
    }
}

/// A POST cannot be repeated: it must not go where nobody listens any more.
#[tokio::test]
async fn a_connection_that_its_server_has_closed_gets_no_request() {
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    let mut wire = kept(&prusik, &server).await;
    for round in 0..20 {
        let mut client = Client::connect(prusik.public()).await;
        drop(wire);
        // The kernel may take its time to deliver the end.
        eventually("nothing leads to the server", async || {
            !leads_to(server.address)
        })
        .await;
        client.send(POST).await;
        wire = server.accept().await;
        request(&mut wire).await;
        wire.exactly(4).await.expect("the body");
        answer(&mut wire, ok("posted")).await;
        assert_eq!(client.response().await.text(), "posted", "round {round}");
    }
}

/// The server had given it up when the request was on its way: a GET is repeated, a POST is not.
#[tokio::test]
async fn a_kept_connection_that_ends_under_a_request_costs_only_what_cannot_be_repeated() {
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    let mut wire = kept(&prusik, &server).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send("GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(request(&mut wire).await.target(), "/again");
    drop(wire);
    let mut wire = server.accept().await;
    assert_eq!(request(&mut wire).await.target(), "/again");
    answer(&mut wire, ok("again")).await;
    assert_eq!(client.response().await.text(), "again");
    client.send(POST).await;
    assert_eq!(request(&mut wire).await.target(), "/post");
    drop(wire);
    assert_eq!(client.response().await.status(), 502);
    served_elsewhere(&prusik, &server).await;
}

#[tokio::test]
async fn a_request_that_its_client_breaks_off_ends_the_servers_connection() {
    let bodies = [
        ("Content-Length: 10", "12345"),
        ("Transfer-Encoding: chunked", "5\r\n12345\r\n"),
        ("Transfer-Encoding: chunked", "a\r\n12345"),
    ];
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    for (framing, part) in bodies {
        let mut client = Client::connect(prusik.public()).await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{part}"
            ))
            .await;
        let mut wire = server.accept().await;
        request(&mut wire).await;
        drop(client);
        let mut rest = Vec::new();
        loop {
            match within("the end", wire.some()).await {
                Ok(bytes) if !bytes.is_empty() => rest.extend(bytes),
                _ => break,
            }
        }
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(
            !rest.contains("0\r\n\r\n"),
            "{framing}: it looks whole: {rest:?}"
        );
        drop(served_elsewhere(&prusik, &server).await);
    }
}

#[tokio::test]
async fn a_response_that_its_client_breaks_off_ends_the_servers_connection() {
    let server = Server::start();
    // It may have ended its own direction only: the server has the time that the route gives it.
    let config = server.config().route("timeouts: { idle: 3s }");
    let prusik = Prusik::start(config).await;
    for half in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    ] {
        let (mut client, mut wire) = asked(&prusik, &server, "/").await;
        answer(&mut wire, half).await;
        assert_eq!(client.head().await.status(), 200);
        drop(client);
        ends(&mut wire).await;
        drop(served_elsewhere(&prusik, &server).await);
    }
}

/// The server has answered a request that is not there in full, and never will be.
#[tokio::test]
async fn an_answer_before_the_end_of_its_request_leaves_nothing_to_keep() {
    for (framing, part) in [
        ("Content-Length: 10", "12345"),
        ("Transfer-Encoding: chunked", "5\r\n12345\r\n"),
    ] {
        let server = Server::start();
        let prusik = Prusik::start(server.config()).await;
        let mut client = Client::connect(prusik.public()).await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{part}"
            ))
            .await;
        let mut wire = server.accept().await;
        request(&mut wire).await;
        answer(&mut wire, ok("enough")).await;
        assert_eq!(client.response().await.text(), "enough");
        drop(client);
        served_elsewhere(&prusik, &server).await;
    }
}

#[tokio::test]
async fn what_a_response_says_of_its_connection_is_obeyed() {
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    for response in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nno",
    ] {
        let (mut client, mut wire) = asked(&prusik, &server, "/").await;
        answer(&mut wire, response).await;
        assert_eq!(client.head().await.status(), 200, "{response}");
        ends(&mut wire).await;
    }
}

#[tokio::test]
async fn handshakes_neither_take_nor_leave_a_kept_connection() {
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    let mut kept = kept(&prusik, &server).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send(handshake("/chat")).await;
    let mut declining = server.accept().await;
    request(&mut declining).await;
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    answer(&mut declining, refusal).await;
    assert_eq!(client.response().await.status(), 403);
    ends(&mut declining).await;
    client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(request(&mut kept).await.target(), "/next");
    answer(&mut kept, ok("next")).await;
    assert_eq!(client.response().await.text(), "next");
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_ends_its_connection() {
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    let (mut client, mut wire) = asked(&prusik, &server, "/").await;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    answer(&mut wire, switch).await;
    assert_eq!(client.response().await.status(), 502);
    served_elsewhere(&prusik, &server).await;
    ends(&mut wire).await;
}

#[tokio::test]
async fn no_more_than_keepalive_stay_idle() {
    let server = Server::start();
    let prusik = Prusik::start(server.config().upstream("keepalive: 2")).await;
    let mut asking = Vec::new();
    for _ in 0..4 {
        let (client, wire) = asked(&prusik, &server, "/").await;
        asking.push((client, wire));
    }
    for (number, (client, wire)) in asking.iter_mut().enumerate() {
        answer(wire, ok("hello")).await;
        assert_eq!(client.response().await.text(), "hello");
        // The third and the fourth are all that are open then.
        if number < 2 {
            ends(wire).await;
        }
    }
    for (client, _) in &mut asking[2..] {
        client.send("GET /more HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
    for (_, wire) in &mut asking[2..] {
        assert_eq!(request(wire).await.target(), "/more");
    }
}

/// A session under the old configuration lives on, which must not keep idle connections alive.
#[tokio::test]
async fn a_reload_closes_the_idle_connections_of_what_it_removes() {
    let server = Server::start();
    let prusik = Prusik::start(server.config()).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send(handshake("/chat")).await;
    let mut session = server.accept().await;
    let asked = request(&mut session).await;
    let accept = support::ACCEPT;
    assert_eq!(asked.field("sec-websocket-key"), Some(support::KEY));
    let switch = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    answer(&mut session, switch).await;
    assert_eq!(client.head().await.status(), 101);

    let other = Server::start();
    let mut wire = kept(&prusik, &server).await;
    let config = other.config().upstream("on_removed: keep");
    assert_eq!(prusik.reload_with(&config).await, Outcome::Done);
    ends(&mut wire).await;

    let mut wire = kept(&prusik, &other).await;
    let config = config.upstream("keepalive: 0");
    assert_eq!(prusik.reload_with(&config).await, Outcome::Done);
    ends(&mut wire).await;

    let config = other.config();
    assert_eq!(prusik.reload_with(&config).await, Outcome::Done);
    let mut wire = kept(&prusik, &other).await;
    let renamed = config.to_string().replace("backend", "renamed");
    let mut late = Client::connect(prusik.public()).await;
    late.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(request(&mut wire).await.target(), "/late");
    let mut idle = served_elsewhere(&prusik, &other).await;
    assert_eq!(prusik.reload_with(&renamed).await, Outcome::Done);
    ends(&mut idle).await;
    // In flight when its upstream went: it is served, and its connection not kept.
    answer(&mut wire, ok("late")).await;
    assert_eq!(late.response().await.text(), "late");
    ends(&mut wire).await;
    served_elsewhere(&prusik, &other).await;
}

#[tokio::test]
async fn a_process_that_stops_closes_idle_connections_first() {
    let server = Server::start();
    let mut prusik = Prusik::start(server.config()).await;
    let mut busy = kept(&prusik, &server).await;
    let mut client = Client::connect(prusik.public()).await;
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    request(&mut busy).await;
    let mut idle = served_elsewhere(&prusik, &server).await;
    prusik.signal("TERM");
    ends(&mut idle).await;
    // It was not the end of the process that closed it.
    answer(&mut busy, ok("slow")).await;
    assert_eq!(client.response().await.text(), "slow");
    assert_eq!(prusik.exit_code().await, Some(0));
}
