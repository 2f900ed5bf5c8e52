//! `kith demo`: a server, two people, a crash, and every promise checked on the way.
//!
//! The server is a process of its own and is really killed; alice and bob are real SDK clients with a folder each. A broken promise is an error. With
//! `--cluster` the server is a fleet: PostgreSQL, Redis and two gateways, and alice's gateway is killed for good.

mod person;
mod stage;
mod transcript;

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use kith_client::{Client, ConversationId, Tick};
use tokio::time::timeout;

use person::{Person, within};
use stage::Stage;
use transcript::Transcript;

/// The whole demonstration ends by then, one way or the other.
const DEADLINE: Duration = Duration::from_secs(90);
/// The server is killed when this share of the messages has arrived at alice.
const KILL_AT: u32 = 3;
/// Messages that arrive between two lines of the transcript.
const MILESTONE: u32 = 250;

/// Arguments of `kith demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many messages alice and bob send each other while the server is killed
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=5_000))]
    messages: u32,
    /// Play it on a fleet: PostgreSQL and Redis from this machine's packages, two gateways, one of which dies
    #[arg(long)]
    cluster: bool,
}

/// Runs the demonstration.
///
/// # Errors
/// If a promise was broken, or something did not come in time.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let folder = tempfile::Builder::new().prefix("kith-demo-").tempdir().context("no temporary folder")?;
    timeout(DEADLINE, play(args, folder.path())).await.context("the demonstration did not come to its end")??;
    Transcript::end(&format!("Everything above was checked, in {:.1} s.", began.elapsed().as_secs_f64()));
    Transcript::end("demo: ok");
    Ok(ExitCode::SUCCESS)
}

async fn play(args: &DemoArgs, folder: &Path) -> anyhow::Result<()> {
    let t = Transcript::new();
    let stage = if args.cluster { Stage::fleet(t).await? } else { Stage::one_server(t, &folder.join("server")).await? };
    let url = stage.url();
    t.explain("Two people register. Their keys are made on their own devices and never leave them.");
    stage.leads_to_first();
    let mut alice = Person::register("alice", &url, folder.join("alice")).await?;
    alice.online().await?;
    t.event("alice has joined");
    stage.leads_to_last();
    let mut bob = Person::register("bob", &url, folder.join("bob")).await?;
    bob.online().await?;
    t.event("bob has joined");
    bob.leave().await?;
    t.event("bob closes his laptop");

    let conversation = first_words(t, &mut alice, &mut bob).await?;
    compare_safety_numbers(t, &alice, &bob, conversation).await?;
    let stage = crash(t, args.messages, stage, &mut alice, &mut bob, conversation).await?;
    all_is_read(t, &alice, &bob, conversation).await?;

    alice.leave().await?;
    bob.leave().await?;
    stage.end().await
}

/// A first message while bob is away, his reply, and the ticks.
async fn first_words(t: Transcript, alice: &mut Person, bob: &mut Person) -> anyhow::Result<ConversationId> {
    t.explain("Alice writes while bob is away. One tick: the server has it on disk, encrypted for bob alone.");
    let with_bob = alice.meet("bob").await?;
    let hello = "Hi Bob, are you there? Nobody between us can read this.";
    let first = alice.send(with_bob, hello).await?;
    alice.ticked(with_bob, first, Tick::Sent).await?;
    t.says("alice", hello, Some(Tick::Sent));

    t.explain("Bob comes back and finds it. He answers; from now on ticks flow both ways.");
    bob.come_back().await?;
    t.event("bob opens his laptop");
    let received = bob.expect(hello).await?;
    t.says("alice", hello, None);
    ensure!(received.conversation == with_bob, "alice and bob are in two different conversations");
    let reply = "Just back. A post-quantum handshake, and I was not even online for it?";
    let answer = bob.send(with_bob, reply).await?;
    alice.ticked(with_bob, first, Tick::Delivered).await?;
    t.event(&format!("alice sees at her message: {}", t.tick(Tick::Delivered)));
    let got = alice.expect(reply).await?;
    t.says("bob", reply, Some(Tick::Delivered));
    bob.ticked(with_bob, answer, Tick::Delivered).await?;
    bob.read(&received).await?;
    alice.ticked(with_bob, first, Tick::Read).await?;
    t.event(&format!("and when bob has looked: {}", t.tick(Tick::Read)));
    alice.read(&got).await?;
    bob.ticked(with_bob, answer, Tick::Read).await?;

    let thanks = "You left your prekeys with the server; one of them is used up now.";
    let last = alice.send(with_bob, thanks).await?;
    let got = bob.expect(thanks).await?;
    bob.read(&got).await?;
    alice.ticked(with_bob, last, Tick::Read).await?;
    t.says("alice", thanks, Some(Tick::Read));
    Ok(with_bob)
}

/// Both see the same number, so nobody is between them.
async fn compare_safety_numbers(t: Transcript, alice: &Person, bob: &Person, conversation: ConversationId) -> anyhow::Result<()> {
    t.explain("They compare safety numbers. Equal numbers mean that the server has given each the true keys of the other.");
    let (hers, his) = (alice.safety_number(conversation).await?, bob.safety_number(conversation).await?);
    t.event(&format!("alice reads   {hers}"));
    t.event(&format!("bob reads     {his}"));
    ensure!(hers == his, "the safety numbers differ");
    Ok(())
}

/// Both send at once, and in the middle of it what alice is connected to is killed.
async fn crash(
    t: Transcript,
    messages: u32,
    mut stage: Stage,
    alice: &mut Person,
    bob: &mut Person,
    conversation: ConversationId,
) -> anyhow::Result<Stage> {
    t.explain(&format!("Now both write {messages} messages at once, and in the middle of it {} is killed with SIGKILL.", stage.victim()));
    let began = Instant::now();
    let (from_alice, from_bob) = (alice.client(), bob.client());
    let (hers, his) = (alice.name, bob.name);
    let sending = async { tokio::try_join!(write_all(&from_alice, conversation, hers, messages), write_all(&from_bob, conversation, his, messages)) };
    let half = messages / KILL_AT;
    let reading = async {
        let bob_reads = read_all(t, bob, hers, 1..=messages);
        let alice_reads = async {
            read_all(t, alice, his, 1..=half).await?;
            t.event(&format!("{} is killed (process {}), {half} of bob's messages have arrived so far", stage.victim(), stage.victim_pid()));
            stage.strike().await?;
            alice.disconnected().await?;
            t.event("alice notices; what she writes waits in her outbox");
            stage.mend(t).await?;
            read_all(t, alice, his, half + 1..=messages).await?;
            anyhow::Ok(stage)
        };
        tokio::try_join!(alice_reads, bob_reads)
    };
    let (_, (stage, ())) = tokio::try_join!(sending, reading)?;
    let seconds = began.elapsed().as_secs_f64();
    t.event(&format!("{} messages, each exactly once and in order, in {seconds:.1} s with the crash", 2 * messages));
    Ok(stage)
}

fn numbered(who: &str, number: u32) -> String {
    format!("{who} counts: {number}")
}

async fn write_all(client: &Client, conversation: ConversationId, who: &str, messages: u32) -> anyhow::Result<()> {
    for number in 1..=messages {
        within("a message to be stored", async { Ok(client.send_text(conversation, &numbered(who, number)).await?) }).await?;
    }
    Ok(())
}

async fn read_all(t: Transcript, reader: &mut Person, writer: &str, numbers: std::ops::RangeInclusive<u32>) -> anyhow::Result<()> {
    for number in numbers {
        let text = numbered(writer, number);
        reader.expect(&text).await?;
        if number.is_multiple_of(MILESTONE) {
            t.says(writer, &text, None);
        }
    }
    Ok(())
}

/// Every message ends with two coloured ticks on both sides.
async fn all_is_read(t: Transcript, alice: &Person, bob: &Person, conversation: ConversationId) -> anyhow::Result<()> {
    t.explain("Both look at everything. Every message has two ticks, and then two coloured ones.");
    alice.online().await?;
    bob.online().await?;
    let head = alice.head(conversation).max(bob.head(conversation));
    alice.watermarks(conversation, head, Tick::Delivered).await?;
    bob.watermarks(conversation, head, Tick::Delivered).await?;
    t.event(&format!("up to message {head} of the log, for both: {}", t.tick(Tick::Delivered)));
    for person in [alice, bob] {
        within("a read mark", async { Ok(person.client().mark_read(conversation, head).await?) }).await?;
    }
    alice.watermarks(conversation, head, Tick::Read).await?;
    bob.watermarks(conversation, head, Tick::Read).await?;
    t.event(&format!("up to message {head} of the log, for both: {}", t.tick(Tick::Read)));
    Ok(())
}
