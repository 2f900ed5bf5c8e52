//! A real Kafka broker, treated well and badly. The requests are written out by hand, so that the harness needs no client.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use kith_harness::Kafka;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

const SOON: Duration = Duration::from_secs(60);
const PRODUCE: (i16, i16) = (0, 3);
const FETCH: (i16, i16) = (1, 4);
const METADATA: (i16, i16) = (3, 1);
/// The topic is being made.
const NOT_YET: [i16; 3] = [3, 5, 6];

/// One request with its answer, without the correlation number.
async fn ask(address: SocketAddr, (key, version): (i16, i16), body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut request = [key.to_be_bytes(), version.to_be_bytes()].concat();
    request.extend(42_i32.to_be_bytes());
    request.extend(text("test"));
    request.extend(body);
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&sized(&request)).await?;
        let mut answer = vec![0; usize::try_from(stream.read_u32().await?)?];
        stream.read_exact(&mut answer).await?;
        ensure!(answer.starts_with(&42_i32.to_be_bytes()), "an answer to something else");
        Ok(answer.split_off(4))
    };
    time::timeout(SOON, exchange).await?
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let size = i32::try_from(bytes.len()).expect("requests are small");
    [&size.to_be_bytes(), bytes].concat()
}

fn text(text: &str) -> Vec<u8> {
    let size = i16::try_from(text.len()).expect("names are short");
    [&size.to_be_bytes(), text.as_bytes()].concat()
}

/// Checksums as record batches have them.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 }))
}

/// A batch of one record without key. Lengths in a record are zigzag numbers, here all below 64.
fn batch(value: &str) -> Vec<u8> {
    let short = |length: usize| u8::try_from(length * 2).expect("values are short");
    let mut record = vec![0, 0, 0, 1, short(value.len())];
    record.extend(value.as_bytes());
    record.push(0);
    let mut summed = Vec::new();
    // Attributes, last offset, two times, producer with epoch and sequence, and the number of records.
    summed.extend([0; 2 + 4 + 8 + 8]);
    summed.extend([0xff; 8 + 2 + 4]);
    summed.extend(1_i32.to_be_bytes());
    summed.push(short(record.len()));
    summed.extend(record);
    let mut rest = (-1_i32).to_be_bytes().to_vec();
    rest.push(2);
    rest.extend(crc32c(&summed).to_be_bytes());
    rest.extend(summed);
    [vec![0; 8], sized(&rest)].concat()
}

/// Asks until the answer has no error at the place, as clients do while a topic or its leader is being made.
async fn ask_until_ready(address: SocketAddr, api: (i16, i16), body: &[u8], error: usize) -> anyhow::Result<Vec<u8>> {
    let ready = async {
        loop {
            let answer = ask(address, api, body).await?;
            match i16::from_be_bytes(answer.get(error..error + 2).context("a short answer")?.try_into()?) {
                0 => return Ok(answer),
                code if NOT_YET.contains(&code) => time::sleep(Duration::from_millis(20)).await,
                code => bail!("Kafka's error {code}"),
            }
        }
    };
    time::timeout(SOON, ready).await?
}

async fn produce(address: SocketAddr, topic: &str, value: &str) -> anyhow::Result<()> {
    // No transaction, all copies, 30 s; one topic, partition 0.
    let mut body = [&(-1_i16).to_be_bytes()[..], &(-1_i16).to_be_bytes(), &30_000_i32.to_be_bytes(), &1_i32.to_be_bytes()].concat();
    body.extend([text(topic), 1_i32.to_be_bytes().to_vec(), vec![0; 4], sized(&batch(value))].concat());
    // One topic with its name, one partition, its number.
    ask_until_ready(address, PRODUCE, &body, 4 + 2 + topic.len() + 4 + 4).await.map(drop)
}

/// All that partition 0 holds, as it is stored.
async fn fetch(address: SocketAddr, topic: &str) -> anyhow::Result<Vec<u8>> {
    // As a client; wait at most a second for a byte; at most 1 MiB; nothing special about transactions; from offset 0.
    let mut body = [-1_i32, 1000, 1, 1 << 20].map(i32::to_be_bytes).concat();
    body.extend([vec![0], 1_i32.to_be_bytes().to_vec(), text(topic), 1_i32.to_be_bytes().to_vec()].concat());
    body.extend([vec![0; 4], vec![0; 8], (1_i32 << 20).to_be_bytes().to_vec()].concat());
    ask_until_ready(address, FETCH, &body, 4 + 4 + 2 + topic.len() + 4 + 4).await
}

/// Asks for a topic, which makes it. Returns the port that the broker says it has.
async fn topic(address: SocketAddr, name: &str) -> anyhow::Result<u16> {
    let body = [1_i32.to_be_bytes().to_vec(), text(name)].concat();
    // One broker: number, host, port, no rack; then the controller, and one topic's error.
    let port = 4 + 4 + 2 + "127.0.0.1".len();
    let answer = ask_until_ready(address, METADATA, &body, port + 4 + 2 + 4 + 4).await?;
    ensure!(answer.starts_with(&[0, 0, 0, 1]), "not one broker");
    Ok(u16::from_be_bytes(answer[port + 2..port + 4].try_into()?))
}

fn holds(stored: &[u8], value: &str) -> bool {
    stored.windows(value.len()).any(|window| window == value.as_bytes())
}

#[tokio::test]
async fn what_was_produced_is_fetched_after_a_kill_a_pause_and_through_a_proxy() -> anyhow::Result<()> {
    ensure!(crc32c(b"123456789") == 0xE306_9283);
    let kafka = Kafka::start().await?;
    ensure!(topic(kafka.address(), "one").await? == kafka.address().port());
    produce(kafka.address(), "one", "before the kill").await?;

    kafka.kill().await?;
    ensure!(fetch(kafka.address(), "one").await.is_err(), "a killed broker answers");
    kafka.restart().await?;
    topic(kafka.address(), "one").await?;
    ensure!(holds(&fetch(kafka.address(), "one").await?, "before the kill"));

    kafka.pause().await?;
    let mut held = Box::pin(produce(kafka.address(), "one", "while it stood still"));
    ensure!(time::timeout(Duration::from_millis(500), &mut held).await.is_err(), "a paused broker answered");
    kafka.resume().await?;
    held.await?;

    let proxy = kafka.proxy().await?;
    ensure!(topic(proxy.address(), "one").await? == proxy.address().port(), "clients would leave the proxy");
    let stored = fetch(proxy.address(), "one").await?;
    ensure!(holds(&stored, "before the kill") && holds(&stored, "while it stood still"));
    proxy.cut();
    ensure!(fetch(proxy.address(), "one").await.is_err(), "a cut link carries");

    kafka.stop().await?;
    kafka.restart().await?;
    ensure!(kafka.cpu()? > Duration::ZERO);
    Ok(())
}

#[tokio::test]
async fn a_broker_that_cannot_start_says_why() -> anyhow::Result<()> {
    let error = Kafka::start_with(&[("log.retention.ms", "soon")]).await.err().context("it started")?;
    ensure!(format!("{error:#}").contains("log.retention.ms"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn the_shared_broker_is_one() -> anyhow::Result<()> {
    topic(Kafka::shared().address(), "shared").await?;
    produce(Kafka::shared().address(), "shared", "for all").await?;
    ensure!(holds(&fetch(Kafka::shared().address(), "shared").await?, "for all"));
    Ok(())
}
