//! One message is followed from the sender's socket through two servers to the receiver's acknowledgement, and what is told of it names nobody.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use kith_tests::{Story, person::ack, wait};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::fleet::{Fleet, LEASE, NEVER, SOON};

/// In the order in which a message goes through them.
const STAGES: [&str; 8] = ["receive", "queue", "commit", "dispatch", "route", "link", "deliver", "acknowledge"];

/// A collector: it keeps every request as it came.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Vec<u8>>>>);

impl Collector {
    async fn start() -> anyhow::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (collector, address) = (Self::default(), listener.local_addr()?);
        let serving = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        Ok((collector, address))
    }

    async fn serve(self, stream: TcpStream) -> anyhow::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let head = String::from_utf8(head)?.to_ascii_lowercase();
            ensure!(head.starts_with("post /v1/traces ") && head.contains("content-type: application/x-protobuf"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?.parse()?;
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            self.0.lock().push(body);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n").await?;
        }
    }

    /// The traces that are whole, by their ids; with the name of the process that told each span.
    fn whole(&self) -> Vec<Vec<(String, Span)>> {
        let mut traces: HashMap<Vec<u8>, Vec<(String, Span)>> = HashMap::new();
        for body in self.0.lock().iter() {
            let request = ExportTraceServiceRequest::decode(&body[..]).expect("what the server sends is OTLP");
            for resource in request.resource_spans {
                let told_by = format!("{:?}", resource.resource);
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.for_each(|span| traces.entry(span.trace_id.clone()).or_default().push((told_by.clone(), span)));
            }
        }
        traces.into_values().filter(|spans| STAGES.iter().all(|stage| spans.iter().any(|(_, span)| span.name == *stage))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_followed_through_two_servers_and_nobody_is_named() -> Story {
    let (collector, address) = Collector::start().await?;
    let endpoint = format!("http://{address}");
    let settings = [("KITH_TELEMETRY_OTLP_ENDPOINT", endpoint.as_str()), ("KITH_TELEMETRY_SAMPLE_ONE_IN", "1")];
    let fleet = Fleet::start_with(NEVER, LEASE, &settings).await?;
    let (mut alice, mut bob) = fleet.friends().await?;
    let to_bob = bob.person.device_ref();
    let conversation = bob.person.conversation(alice.person.device_ref());
    // What is read from the log instead of coming live is not followed: then the next one is.
    let spans = wait::until("a message is followed to its end", SOON, async || {
        let seq = alice.says(to_bob, "a secret between friends").await.ok()?;
        bob.hears("a secret between friends").await.ok()?;
        bob.socket.ask(ack(conversation, seq)).await.ok()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        collector.whole().pop()
    })
    .await?;
    in_order(&spans)?;
    nobody_is_named(&collector, &[&alice.person, &bob.person], conversation.0)
}

/// Each stage once, one beginning not before the other, all under the same root, the last three told by the other server.
fn in_order(spans: &[(String, Span)]) -> Story {
    let of = |name: &str| spans.iter().find(|(_, span)| span.name == name).with_context(|| format!("no span {name}"));
    let mut before = 0;
    for name in STAGES {
        let (_, span) = of(name)?;
        ensure!(spans.iter().filter(|(_, other)| other.name == name).count() == 1, "{name} twice");
        ensure!(span.start_time_unix_nano >= before && span.end_time_unix_nano >= span.start_time_unix_nano, "{name} comes too early: {spans:#?}");
        before = span.start_time_unix_nano;
    }
    let (here, root) = of("message")?;
    ensure!(root.parent_span_id.is_empty() && spans.len() == STAGES.len() + 1, "{spans:#?}");
    for (name, parent) in
        [("receive", "message"), ("commit", "message"), ("route", "message"), ("link", "route"), ("deliver", "link"), ("acknowledge", "deliver")]
    {
        ensure!(of(name)?.1.parent_span_id == of(parent)?.1.span_id, "{name} does not follow {parent}");
    }
    for name in ["link", "deliver", "acknowledge"] {
        ensure!(of(name)?.0 != *here, "{name} was told by the sender's server");
    }
    Ok(())
}

/// In nothing that any of the servers has ever told the collector.
fn nobody_is_named(collector: &Collector, people: &[&kith_tests::person::Person], conversation: [u8; 16]) -> Story {
    let mut secrets: Vec<Vec<u8>> =
        vec![b"alice".to_vec(), b"bob".to_vec(), b"a secret between".to_vec(), conversation.to_vec(), hex::encode(conversation).into()];
    for person in people {
        let device = person.device_ref();
        for id in [device.account.0, device.device.0] {
            secrets.extend([id.to_vec(), hex::encode(id).into_bytes()]);
        }
    }
    for body in collector.0.lock().iter() {
        for secret in &secrets {
            ensure!(!body.windows(secret.len()).any(|bytes| bytes == secret), "a user shows in a trace");
        }
    }
    Ok(())
}
