//! Spans at a collector of our own, which takes OTLP over HTTP: with `--features otlp`. Without it
//! nothing is accepted that would then be ignored.

#[cfg(not(feature = "otlp"))]
use crate::support;

#[cfg(not(feature = "otlp"))]
#[test]
fn a_binary_that_makes_no_spans_refuses_to_be_asked_for_some() {
    let config = support::Config::default()
        .server("127.0.0.1:9")
        .top("tracing: { endpoint: \"http://127.0.0.1:4318/v1/traces\" }");
    let output = support::check(&config.to_string());
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("prusik.yaml:1:10: this binary makes no spans"),
        "{said}"
    );
    assert!(said.contains("--features otlp"), "{said}");
}

#[cfg(feature = "otlp")]
mod with_a_collector {
    use std::time::{Duration, Instant};

    use serde_json::Value;

    use crate::support::{
        Answer, Client, Config, Origin, Prusik, RawSession, check, client_frame, eventually,
        free_address, handshake_with,
    };

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    /// Of a session before an upgrade: long beside what comes after it.
    const LIVED: Duration = Duration::from_millis(500);

    fn traced(origin: &Origin, collector: &Origin, more: &str) -> Config {
        let endpoint = format!("http://{}/v1/traces", collector.address());
        Config::to(&[origin]).top(format!("tracing: {{ endpoint: \"{endpoint}\"{more} }}"))
    }

    async fn collector() -> Origin {
        Origin::start(|_| Answer::status(200, &["Content-Type: application/json"], "{}")).await
    }

    /// All spans that have come, with the service that they are of.
    fn spans(collector: &Origin) -> Vec<(String, Value)> {
        let mut spans = Vec::new();
        for export in collector.received() {
            assert_eq!(export.target(), "/v1/traces");
            assert_eq!(export.field("content-type"), Some("application/json"));
            let export: Value = serde_json::from_slice(&export.body).expect("as OTLP has it");
            for resource in export["resourceSpans"].as_array().expect("as OTLP has it") {
                let service = attribute(&resource["resource"], "service.name");
                for scope in resource["scopeSpans"].as_array().expect("as OTLP has it") {
                    let all = scope["spans"].as_array().expect("as OTLP has it").iter();
                    spans.extend(all.map(|span| (service.clone(), span.clone())));
                }
            }
        }
        spans
    }

    /// As text, whatever its type.
    fn attribute(of: &Value, key: &str) -> String {
        let attributes = of["attributes"].as_array().expect("as OTLP has it");
        let found = attributes.iter().find(|attribute| attribute["key"] == key);
        let value = &found.unwrap_or_else(|| panic!("no {key} in {of}"))["value"];
        let value = value
            .as_object()
            .expect("as OTLP has it")
            .values()
            .next()
            .expect("as OTLP has it");
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    }

    fn nanos(span: &Value, key: &str) -> u128 {
        span[key]
            .as_str()
            .expect("as OTLP has it")
            .parse()
            .expect("as OTLP has it")
    }

    /// What the server got: trace, span and flags.
    fn sent(origin: &Origin, number: usize) -> [String; 3] {
        let received = origin.received();
        let header = received[number]
            .field("traceparent")
            .expect("as OTLP has it")
            .to_owned();
        let parts: Vec<&str> = header.split('-').collect();
        assert_eq!((parts.len(), parts[0]), (4, "00"), "{header}");
        [parts[1].into(), parts[2].into(), parts[3].into()]
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_a_handshake_and_a_session_are_spans_of_the_trace_that_they_came_with() {
        let (origin, collector) = (Origin::chat().await, collector().await);
        let config = traced(&origin, &collector, ", service: chat-lb")
            .top("trusted_proxies: [127.0.0.0/8]")
            .top("admin: { listen: \"127.0.0.1:0\" }");
        let mut prusik = Prusik::start(config).await;
        let context = format!("traceparent: 00-{TRACE}-{PARENT}-01");
        let mut client = Client::connect(prusik.public()).await;
        let ask = format!("GET /a?secret=1 HTTP/1.1\r\nHost: test\r\n{context}\r\n\r\n");
        assert_eq!(client.ask(ask).await.status(), 200);
        let mut session =
            RawSession::open(prusik.public(), handshake_with("/ws", &[&context])).await;
        session.send(client_frame(1, b"hello")).await;
        session.frame().await;
        // What the session is travels with it, and how long it has lived: that it has lived for a
        // while is what is tested.
        tokio::time::sleep(LIVED).await;
        prusik.upgrade().await;
        session.send(client_frame(8, &1000_u16.to_be_bytes())).await;
        assert_eq!(prusik.session_close().await["trace_id"], TRACE);
        prusik.signal("TERM");
        eventually("each process has exported what it had", async || {
            spans(&collector).len() >= 3
        })
        .await;
        let spans = spans(&collector);
        assert_eq!(spans.len(), 3, "{spans:#?}");
        assert!(spans.iter().all(|(service, _)| service == "chat-lb"));
        let find = |start: &str| {
            let mut found = spans.iter().map(|(_, span)| span);
            found
                .find(|span| span["name"].as_str().unwrap().starts_with(start))
                .unwrap()
        };
        let (request, handshake, session) = (find("GET "), find("handshake "), find("session "));
        for (number, span) in [request, handshake].into_iter().enumerate() {
            let [trace, below, flags] = sent(&origin, number);
            assert_eq!((&*trace, &*flags), (TRACE, "01"));
            assert_eq!(
                (span["traceId"].as_str(), span["spanId"].as_str()),
                (Some(TRACE), Some(&*below))
            );
            assert_eq!(span["parentSpanId"], PARENT);
            assert_eq!(span["kind"], 2, "it is a server's");
        }
        assert_eq!(attribute(request, "url.path"), "/a");
        assert_eq!(attribute(request, "http.response.status_code"), "200");
        assert_eq!(attribute(handshake, "http.response.status_code"), "101");
        assert_eq!(session["traceId"], TRACE);
        assert_eq!(session["parentSpanId"], handshake["spanId"]);
        assert_eq!(attribute(session, "prusik.closed_by"), "client");
        assert_eq!(attribute(session, "prusik.close_code"), "1000");
        assert_eq!(attribute(session, "prusik.messages_in"), "1");
        assert!(nanos(handshake, "startTimeUnixNano") <= nanos(handshake, "endTimeUnixNano"));
        let lasted = nanos(session, "endTimeUnixNano") - nanos(session, "startTimeUnixNano");
        assert!(lasted >= LIVED.as_nanos(), "{lasted} ns");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_decides_what_is_exported() {
        let (origin, collector) = (Origin::chat().await, collector().await);
        let untrusting = traced(&origin, &collector, ", sample: 0");
        let trusting = traced(&origin, &collector, "").top("trusted_proxies: [127.0.0.0/8]");
        let ask = async |prusik: &Prusik, flags: &str| {
            let mut client = Client::connect(prusik.public()).await;
            let context = format!("traceparent: 00-{TRACE}-{PARENT}-{flags}");
            let ask = format!("GET / HTTP/1.1\r\nHost: test\r\n{context}\r\n\r\n");
            assert_eq!(client.ask(ask).await.status(), 200);
        };
        let mut prusik = Prusik::start(untrusting).await;
        // A client cannot make us export, nor a proxy that decided against it.
        ask(&prusik, "01").await;
        prusik.reload_with(trusting).await;
        ask(&prusik, "00").await;
        for number in 0..2 {
            let [trace, below, flags] = sent(&origin, number);
            assert_eq!((&*trace, &*flags), (TRACE, "00"));
            assert_ne!(below, PARENT);
        }
        // What is none begins another trace.
        let mut client = Client::connect(prusik.public()).await;
        let ask = "GET / HTTP/1.1\r\nHost: test\r\ntraceparent: 00-nonsense\r\n\r\n";
        assert_eq!(client.ask(ask).await.status(), 200);
        let [trace, below, flags] = sent(&origin, 2);
        assert_eq!((trace.len(), below.len(), &*flags), (32, 16, "01"));
        prusik.signal("TERM");
        assert_eq!(prusik.exit_code().await, Some(0));
        let spans = spans(&collector);
        assert_eq!(spans.len(), 1, "{spans:#?}");
        assert_eq!(spans[0].1["traceId"], trace);
        assert_eq!(
            spans[0]
                .1
                .get("parentSpanId")
                .and_then(Value::as_str)
                .unwrap_or_default(),
            ""
        );
        assert_eq!(spans[0].0, "prusik");
    }

    #[tokio::test]
    async fn a_collector_that_is_not_there_costs_nobody_anything() {
        let origin = Origin::chat().await;
        let config = Config::to(&[&origin]).top(format!(
            "tracing: {{ endpoint: \"http://{}/v1/traces\" }}",
            free_address()
        ));
        let mut prusik = Prusik::start(config).await;
        for _ in 0..20 {
            assert_eq!(crate::support::status_of(prusik.public(), "/").await, 200);
        }
        let stopping = Instant::now();
        prusik.signal("TERM");
        assert_eq!(prusik.exit_code().await, Some(0));
        assert!(stopping.elapsed() < Duration::from_secs(5));
        assert_eq!(
            prusik.stderr().matches("spans do not reach").count(),
            1,
            "{}",
            prusik.stderr()
        );
    }

    #[test]
    fn what_is_wrong_with_it_is_said_with_its_place() {
        for (tracing, place, what) in [
            ("{ sample: 1 }", "1:10", "tracing needs an endpoint"),
            (
                "{ endpoint: \"https://a/v1/traces\" }",
                "1:22",
                "is not the address of a collector",
            ),
            (
                "{ endpoint: \"http://a/\", sample: 2 }",
                "1:43",
                "sample must be from 0 to 1, not 2",
            ),
        ] {
            let config = Config::default()
                .server("127.0.0.1:9")
                .top(format!("tracing: {tracing}"));
            let output = check(&config.to_string());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{said}");
            assert!(
                said.contains(&format!("prusik.yaml:{place}: ")) && said.contains(what),
                "{said}"
            );
        }
    }
}
