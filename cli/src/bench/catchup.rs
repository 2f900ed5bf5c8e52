//! `kith bench catchup`: a device that was away while others wrote.

use std::{rc::Rc, time::Instant};

use anyhow::bail;
use clap::{Args, value_parser};
use kith_meter::Faults;
use kith_proto::{
    id::ConversationId,
    v1::{self, client_frame},
};
use serde::Serialize;

use super::{
    LOST_AFTER,
    api::Account,
    crowd,
    inbox::Inbox,
    outbox::{MIN_BODY, Outbox},
    participant::Participant,
    peer::{Peer, Shared},
    progress::Progress,
    report::{self, Outcome},
    target::Target,
};

/// Messages that each sender keeps under way while the backlog is made.
const WINDOW: usize = 64;

#[derive(Debug, Args)]
pub(super) struct CatchupArgs {
    /// Messages that the device missed
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u64).range(1..=2_000_000))]
    messages: u64,
    /// How many people wrote them, each in a conversation of their own
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=5_000))]
    senders: u32,
    /// Bytes of each message's body
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(MIN_BODY as i64..=32_768))]
    size: u32,
}

#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    messages: u64,
    senders: u32,
    size: u32,
    catchup_ms: f64,
    messages_per_s: f64,
    server_cpu_us_per_message: Option<f64>,
    lost: u64,
    duplicated: u64,
    misordered: u64,
    repeated_on_the_wire: u64,
}

/// Runs the bench.
///
/// # Errors
/// If it cannot be completed.
pub(super) async fn run(args: &CatchupArgs, target: &Target, run: &str, progress: Progress) -> anyhow::Result<Outcome> {
    let mut accounts = crowd::register(&target.api, run, args.senders as usize + 1, &progress).await?;
    let Some(mut away) = accounts.pop() else { bail!("nobody registered") };
    let shared = Shared::new();
    progress.say("writing what will have been missed");
    let senders = write_backlog(args, target, &mut accounts, &away, &shared, progress).await?;
    drop(senders);

    progress.say("catching up");
    let cpu = target.cpu()?;
    let start = Instant::now();
    let (link, _) = crowd::connect(target.endpoint(0), 0, &mut away, &shared).await?;
    let reader = Peer::start(link, Participant::new(away.device.account, shared.epoch, None), Rc::clone(&shared));
    shared.meter.borrow_mut().open(start, 10 * LOST_AFTER);
    reader.settled(|p| p.taken() >= args.messages && p.is_acknowledged(), &shared).await?;
    let took = start.elapsed();
    let cpu = target.cpu()?.since(cpu).server;
    let broken = verdict(args, &accounts, &away, &reader);
    confirm(&accounts, &away, &reader, &shared).await?;

    let seconds = took.as_secs_f64();
    let figures = Figures {
        bench: "catchup",
        messages: args.messages,
        senders: args.senders,
        size: args.size,
        catchup_ms: report::round(seconds * 1000.0, 1),
        messages_per_s: report::per_second(args.messages, seconds),
        server_cpu_us_per_message: cpu.map(|cpu| report::round(report::ratio(cpu.as_secs_f64() * 1e6, args.messages), 2)),
        lost: broken.lost,
        duplicated: broken.duplicated,
        misordered: broken.misordered,
        repeated_on_the_wire: reader.look(|p| conversations(&accounts, &away).filter_map(|id| p.inbox(id)).map(Inbox::repeats).sum()),
    };
    let title = format!("catchup: {} messages of {} bytes from {} people", report::count(args.messages), args.size, args.senders);
    Outcome::new(title, rows(&figures), &figures, broken.none())
}

fn rows(figures: &Figures) -> report::Rows {
    let broken = Faults { lost: figures.lost, duplicated: figures.duplicated, misordered: figures.misordered };
    vec![
        ("from connect to the last acknowledged", format!("{:.0} ms", figures.catchup_ms)),
        ("messages", format!("{} per second", report::count(report::whole(figures.messages_per_s)))),
        ("server CPU", figures.server_cpu_us_per_message.map_or_else(|| "unknown".to_owned(), |us| format!("{us} us per message"))),
        ("lost / duplicated / misordered", report::faults(broken)),
        ("repeated on the wire", figures.repeated_on_the_wire.to_string()),
    ]
}

fn conversations<'a>(senders: &'a [Account], away: &'a Account) -> impl Iterator<Item = ConversationId> + 'a {
    senders.iter().map(|sender| ConversationId::direct(sender.device.account, away.device.account))
}

/// How many messages the n-th sender writes.
fn share(args: &CatchupArgs, n: usize) -> u64 {
    let senders = u64::from(args.senders);
    args.messages / senders + u64::from((n as u64) < args.messages % senders)
}

async fn write_backlog(
    args: &CatchupArgs,
    target: &Target,
    accounts: &mut [Account],
    away: &Account,
    shared: &Rc<Shared>,
    progress: Progress,
) -> anyhow::Result<Vec<Peer>> {
    let participant = |n: usize, account: &Account| {
        let conversation = ConversationId::direct(account.device.account, away.device.account);
        let mut outbox = Outbox::new(conversation, away.device, args.size as usize, WINDOW, rand::random(), shared.epoch);
        outbox.keep_full(share(args, n));
        Participant::new(account.device.account, shared.epoch, Some(outbox))
    };
    let senders = crowd::connect_all(|n| target.endpoint(n + 1), accounts, shared, &progress, participant).await?;
    let accepted = || senders.iter().map(|sender| sender.look(|p| p.outbox.as_ref().map_or(0, Outbox::accepted))).sum::<u64>();
    let mut before = 0;
    // As long as it moves it may take its time.
    while !shared.wait(LOST_AFTER, || accepted() == args.messages).await? {
        if accepted() == before {
            bail!("the server accepted {before} of {} messages and then no more", args.messages);
        }
        before = accepted();
    }
    Ok(senders)
}

fn verdict(args: &CatchupArgs, senders: &[Account], away: &Account, reader: &Peer) -> Faults {
    let mut broken = Faults::default();
    let nothing = Inbox::default();
    for (n, conversation) in conversations(senders, away).enumerate() {
        reader.look(|p| broken.add(p.inbox(conversation).unwrap_or(&nothing).faults(share(args, n))));
    }
    broken
}

/// Asks the server whether it has the acknowledgements.
async fn confirm(senders: &[Account], away: &Account, reader: &Peer, shared: &Shared) -> anyhow::Result<()> {
    let Some(asked) = conversations(senders, away).next() else { return Ok(()) };
    let request = v1::GetConversations { conversations: vec![asked.to_bytes()] };
    reader.change(|p| p.request = Some(client_frame::Kind::GetConversations(request)));
    if !shared.wait(LOST_AFTER, || reader.look(|p| !p.states.is_empty())).await? {
        bail!("the server does not say where the conversation stands");
    }
    let level = reader.look(|p| p.states.iter().all(|state| state.cursor == state.head && state.head > 0));
    if !level {
        bail!("the server does not have the acknowledgements that were sent");
    }
    Ok(())
}
