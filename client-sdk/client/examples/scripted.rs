//! A client that a test drives: it does what the arguments say and prints one line per event, so that the test can kill it anywhere and compare.
//!
//! `scripted URL HOME register NAME`
//! `scripted URL HOME run [--peer NAME] [--send FROM TO] [--accept] [--kill POINT NTH]`
//!
//! `run` sends the texts `FROM..=TO` (those that an earlier run has already put into the outbox are left out), prints `received ARRIVAL SEQ TEXT` for
//! everything that arrives behind the last arrival named in HOME/arrival, writes that file, and prints `idle` whenever everything is sent and the
//! connection is online. It ends when its standard input does. `--kill` makes it kill itself with SIGKILL at the NTH passing (from 0) of a fault point.
#![allow(clippy::print_stdout, reason = "its lines are its interface")]

use kith_client::{Arrival, Author, Client, ConnectionState, ConversationId, Entry, EntryBody, FaultPoint, Registration, Tick};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::io::AsyncReadExt as _;

type Failure = Box<dyn Error>;

#[derive(Default)]
struct Run {
    peer: Option<String>,
    send: Option<(u64, u64)>,
    accept: bool,
    kill: Option<(FaultPoint, i64)>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Run, Failure> {
    let mut run = Run::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or("a value is missing");
        match word.as_str() {
            "--peer" => run.peer = Some(value()?),
            "--send" => run.send = Some((value()?.parse()?, value()?.parse()?)),
            "--accept" => run.accept = true,
            "--kill" => run.kill = Some((FaultPoint::from_name(&value()?).ok_or("no such fault point")?, value()?.parse()?)),
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(run)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let (Some(url), Some(home), Some(verb)) = (words.next(), words.next(), words.next()) else { return Err("URL HOME VERB".into()) };
    let home = PathBuf::from(home);
    let builder = Client::builder(url).home(&home);
    if verb == "register" {
        let name = words.next().ok_or("a name is missing")?;
        let registered = builder.register(Registration::new(name)).await?;
        registered.client.shutdown().await;
        println!("registered");
        return Ok(());
    }
    let run = parse(words)?;
    let builder = match run.kill {
        None => builder,
        Some((point, nth)) => {
            let left = AtomicI64::new(nth);
            builder.fault(move |passed| {
                if passed == point && left.fetch_sub(1, Ordering::SeqCst) == 0 {
                    kill_this_process();
                }
            })
        }
    };
    let client = builder.open().await?;
    let printing = tokio::spawn(print_received(client.clone(), home, run.accept));
    let idling = tokio::spawn(print_idle(client.clone()));
    if let (Some(peer), Some((from, to))) = (&run.peer, run.send) {
        send(&client, peer, from, to).await?;
    }
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    printing.abort();
    idling.abort();
    client.shutdown().await;
    println!("ended");
    Ok(())
}

/// Dies as a power cut would have it: no destructor, no flush.
fn kill_this_process() {
    let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    loop {
        std::thread::park();
    }
}

async fn meet(client: &Client, peer: &str) -> ConversationId {
    loop {
        match client.start_conversation(peer).await {
            Ok(id) => return id,
            Err(error) => {
                println!("waiting {error}");
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }
}

async fn send(client: &Client, peer: &str, from: u64, to: u64) -> Result<(), Failure> {
    let chat = meet(client, peer).await;
    let mut last = from.checked_sub(1);
    let mut before = None;
    loop {
        let entries = client.history(chat, before, 500).await?;
        let own = entries.iter().filter(|entry| entry.author == Author::Me);
        last = own.filter_map(|entry| entry.text()?.parse().ok()).max().max(last);
        let Some(first) = entries.first() else { break };
        before = Some(first.position());
    }
    for n in last.map_or(from, |last| last + 1)..=to {
        client.send_text(chat, &n.to_string()).await?;
        println!("queued {n}");
    }
    Ok(())
}

fn line(entry: &Entry) -> String {
    let seq = entry.seq.unwrap_or(0);
    match &entry.body {
        EntryBody::Text(text) => format!("received {} {seq} {text}", entry.arrival.0),
        other => format!("other {} {seq} {other:?}", entry.arrival.0),
    }
}

async fn print_received(client: Client, home: PathBuf, accept: bool) {
    let file = home.join("arrival");
    let after = read_arrival(&file);
    let mut received = client.received(Arrival(after));
    while let Some(entry) = received.next().await {
        println!("{}", line(&entry));
        let _ = std::fs::write(&file, entry.arrival.0.to_string());
        if accept {
            let _ = client.accept(entry.conversation).await;
        }
    }
}

fn read_arrival(file: &Path) -> i64 {
    std::fs::read_to_string(file).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Says when there is nothing left to send.
async fn print_idle(client: Client) {
    let mut connection = client.connection();
    while let Some(state) = connection.next().await {
        println!("connection {state:?}");
        if state != ConnectionState::Online {
            continue;
        }
        let conversations = client.conversations().next().await;
        for conversation in conversations.iter().flat_map(|all| all.iter()) {
            let mut timeline = client.timeline(conversation.id);
            while let Some(entries) = timeline.next().await {
                let waiting = client.history(conversation.id, None, 500).await.unwrap_or_default();
                let pending = waiting.iter().chain(&entries).any(|entry| entry.tick == Some(Tick::Pending));
                if !pending {
                    break;
                }
            }
        }
        println!("idle");
    }
}
