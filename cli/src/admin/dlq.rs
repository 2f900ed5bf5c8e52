//! `kith admin dlq`: events that could not be worked on, which wait in Kafka beside their topics.

use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use kith_chat_core::bus::{self, Bus, ClientProperties, DeadLetter, Event, KafkaOptions, Place, Topic, What};

use crate::local_time::LocalTime;

/// An answer of Kafka is waited for so long.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// `show` looks through so many.
const SEARCHED: usize = 100_000;

/// Arguments of `kith admin dlq`.
#[derive(Debug, Args)]
pub(super) struct DlqArgs {
    #[command(subcommand)]
    what: Dlq,
    /// Addresses of Kafka's brokers (host:port), separated by commas
    #[arg(long, global = true, env = "KITH_KAFKA_BROKERS", value_name = "ADDRESSES")]
    brokers: Option<String>,
    /// File with the security settings of the client, as librdkafka names them
    #[arg(long, global = true, env = "KITH_KAFKA_CLIENT_PROPERTIES", value_name = "FILE")]
    client_properties: Option<PathBuf>,
    /// What the names of the topics begin with
    #[arg(long, global = true, env = "KITH_KAFKA_TOPIC_PREFIX", value_name = "PREFIX", default_value = "kith")]
    topic_prefix: String,
}

#[derive(Debug, Subcommand)]
enum Dlq {
    /// List those that were not replayed, one per line
    List(Which),
    /// Show one with its event; the name is what `list` shows first
    Show {
        /// topic/partition/offset
        letter: LetterName,
    },
    /// Publish them once more, oldest first; consumers are handed them like new events
    Replay(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// Only of this topic [default: of all]
    #[arg(long)]
    topic: Option<TopicName>,
    /// At most so many of each topic
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

impl Which {
    fn topics(&self) -> Vec<Topic> {
        self.topic.as_ref().map_or_else(|| Topic::ALL.to_vec(), |topic| vec![topic.0])
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct TopicName(Topic);

impl FromStr for TopicName {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = Topic::ALL.map(Topic::name).join(", ");
        Topic::named(name).map(Self).ok_or_else(|| anyhow!("there is no such topic; there are {all}"))
    }
}

/// Where a dead letter is: `accounts/0/17`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LetterName {
    topic: TopicName,
    place: Place,
}

impl FromStr for LetterName {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut parts = name.split('/');
        let (Some(topic), Some(partition), Some(offset), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            bail!("a dead letter is named topic/partition/offset, such as accounts/0/17");
        };
        let number = "partition and offset are numbers";
        Ok(Self { topic: topic.parse()?, place: Place { partition: partition.parse().context(number)?, offset: offset.parse().context(number)? } })
    }
}

/// Carries out one of the commands.
///
/// # Errors
/// If no Kafka is named, it does not answer, or the program was built without it.
pub(super) async fn run(args: DlqArgs) -> anyhow::Result<ExitCode> {
    let Some(brokers) = args.brokers.filter(|brokers| !brokers.trim().is_empty()) else {
        bail!("dead letters are kept in Kafka: say where it is with KITH_KAFKA_BROKERS or --brokers");
    };
    let properties = args.client_properties.filter(|path| !path.as_os_str().is_empty());
    let properties = properties.map(|path| ClientProperties::read(&path)).transpose()?.unwrap_or_default();
    let options = KafkaOptions { properties, prefix: args.topic_prefix, answer_within: ANSWER_WITHIN, ..KafkaOptions::new(&brokers) };
    let bus = bus::attach(&options)?;
    let done = match args.what {
        Dlq::List(which) => list(&bus, &which).await,
        Dlq::Show { letter } => show(&bus, &letter).await,
        Dlq::Replay(which) => replay(&bus, &which).await,
    };
    bus.close().await;
    done.with_context(|| format!("Kafka at {brokers}"))
}

async fn list(bus: &Arc<dyn Bus>, which: &Which) -> anyhow::Result<ExitCode> {
    let mut letters = Vec::new();
    for topic in which.topics() {
        letters.extend(bus.dead_letters(topic, which.limit as usize).await?);
    }
    letters.sort_by_key(|letter| (letter.at_ms, letter.place));
    let mut out = stdout().lock();
    for letter in &letters {
        writeln!(out, "{}", line(letter))?;
    }
    if letters.is_empty() {
        writeln!(out, "there are no dead letters")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn show(bus: &Arc<dyn Bus>, name: &LetterName) -> anyhow::Result<ExitCode> {
    let letters = bus.dead_letters(name.topic.0, SEARCHED).await?;
    let letter = letters.iter().find(|letter| letter.place == name.place).context("there is no such dead letter, or it was replayed")?;
    let mut out = stdout().lock();
    describe(letter, &mut out)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn replay(bus: &Arc<dyn Bus>, which: &Which) -> anyhow::Result<ExitCode> {
    for topic in which.topics() {
        let replayed = bus.replay(topic, which.limit as usize).await?;
        writeln!(stdout(), "{topic}: {replayed} replayed")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn name(letter: &DeadLetter) -> String {
    format!("{}/{}/{}", letter.topic, letter.place.partition, letter.place.offset)
}

fn line(letter: &DeadLetter) -> String {
    let at = LocalTime::of(letter.at_ms).date_and_time();
    format!("{}  {at}  group {}  {} after {} attempts", name(letter), letter.group, letter.reason, letter.attempts)
}

fn describe(letter: &DeadLetter, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "letter    {}", name(letter))?;
    writeln!(out, "given up  {} by group {}", LocalTime::of(letter.at_ms).date_and_time(), letter.group)?;
    writeln!(out, "reason    {} after {} attempts", letter.reason, letter.attempts)?;
    writeln!(out, "origin    {}/{}/{}", letter.topic, letter.origin.partition, letter.origin.offset)?;
    match letter.event() {
        Ok(event) => describe_event(&event, out),
        Err(unreadable) => writeln!(out, "event     {unreadable}; {} bytes", letter.payload.len()),
    }
}

fn describe_event(event: &Event, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "event     {} of {}", event.id, LocalTime::of(event.at_ms).date_and_time())?;
    match event.what {
        What::DeviceRevoked(device) => writeln!(out, "what      device {} of account {} was revoked", device.device, device.account),
        What::MessageForSleepingDevice { conversation, seq, device } => {
            writeln!(out, "what      message {seq} of conversation {conversation} waits for device {} of account {}", device.device, device.account)
        }
        What::AccountErased(account) => writeln!(out, "what      account {account} was erased"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        dlq: DlqArgs,
    }

    fn letter(payload: Vec<u8>) -> DeadLetter {
        let place = Place { partition: 0, offset: 17 };
        let origin = Place { partition: 3, offset: 4 };
        DeadLetter {
            place,
            topic: Topic::Accounts,
            origin,
            group: "push".to_owned(),
            reason: "refused".to_owned(),
            attempts: 10,
            at_ms: 1,
            key: [1; 16],
            payload,
        }
    }

    #[test]
    fn what_list_shows_is_what_show_takes() {
        let letter = letter(Vec::new());
        let line = line(&letter);
        let name: LetterName = line.split("  ").next().unwrap().parse().unwrap();
        assert_eq!(name, LetterName { topic: TopicName(Topic::Accounts), place: letter.place });
        assert!(line.ends_with("group push  refused after 10 attempts"), "{line}");
        for wrong in ["accounts/0", "accounts/0/1/2", "tomorrow/0/1", "accounts/zero/1", ""] {
            assert!(wrong.parse::<LetterName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_letter_is_shown_with_its_event_or_with_why_not() {
        let account = kith_proto::id::AccountId([0xab; 16]);
        let event = Event::new(What::AccountErased(account), 5);
        let mut out = Vec::new();
        describe(&letter(event.to_record().payload), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(&format!("account {account} was erased")) && text.contains("origin    accounts/3/4"), "{text}");
        let mut out = Vec::new();
        describe(&letter(vec![0xff; 2]), &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("the event is malformed; 2 bytes"));
    }

    #[tokio::test]
    async fn without_kafka_it_says_what_to_name() {
        let cli = Cli::try_parse_from(["dlq", "list", "--brokers", ""]).unwrap();
        let error = run(cli.dlq).await.unwrap_err();
        assert!(error.to_string().contains("KITH_KAFKA_BROKERS"), "{error}");
    }
}
