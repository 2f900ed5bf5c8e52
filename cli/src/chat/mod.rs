//! `kith chat`: the terminal client. A screen for people, and line mode (`--plain`) for pipes, scripts and screen readers.
//!
//! Decisions are in plain values ([`app`], [`command`], [`editor`], [`wording`]); the terminal and the SDK are at the edges ([`screen`], [`plain`]).

mod app;
mod command;
mod draw;
mod editor;
mod enter;
mod harmless;
mod people;
mod plain;
mod screen;
mod wording;

use std::{
    io::{IsTerminal as _, stderr, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tracing_subscriber::EnvFilter;

/// What the two modes leave when they end.
const PLAIN_HELP: &str = "\
LINE MODE (--plain)
  Taken if input or output is no terminal. One line of input is one command or text, one line of output is one event.

  Input: text goes to the conversation opened last; @NAME TEXT goes to NAME; a line that begins with / is a command (/help lists them, // and @@ write
  a line that begins with / or @). In texts, \\n stands for a line break and \\\\ for a backslash, in both directions.

  Output:
    ready USERNAME                      logged in to the folder; the connection follows
    recovery WORD WORD ...              24 words to write down, once, after registering (decline with --no-recovery)
    connection STATE                    online, connecting, catching up, offline ...
    message NAME SEQ TEXT               somebody wrote; also printed when this ran last, if it had not been printed then
    request NAME                        somebody new wrote: answer with @NAME, or /new NAME and /accept
    queued NAME ID                      your text is stored and will be sent
    tick NAME ID STATE                  your text is sent, delivered, read, or failed
    typing NAME on|off
    presence NAME online|offline
    problem NAME SEQ TEXT               something cannot be read, or is out of order; TEXT says what is done about it
    notice NAME TEXT                    something you should know (NAME is - if it concerns nobody else)
    conversation NAME UNREAD            answers /list
    entry NAME SEQ AUTHOR STATE TEXT    answers /history; SEQ and STATE are - where there is none
    safety NAME DIGITS                  answers /safety
    device ID this|other                answers /devices
    opened NAME                         answers /new
    done COMMAND                        answers what has no other answer
    help TEXT                           answers /help
    error TEXT                          the last line of input was not carried out

  NAME is a username, or # and the beginning of a conversation's id for somebody who wrote first. Printing a message marks it as read. At the end of input
  the program waits until everything queued is sent (--wait SECONDS), then leaves; with --follow it goes on printing until it is interrupted.

EXIT STATUS
  0  all went well        1  an error, told on stderr        2  wrong usage
  3  line mode: a message was refused, or not sent in time (it stays queued and is sent the next time)";

/// Arguments of `kith chat`.
#[derive(Debug, Args)]
#[command(after_long_help = PLAIN_HELP)]
pub(crate) struct ChatArgs {
    /// The server's address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7400")]
    server: String,
    /// Folder of this account; one account and one device live in it
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// Name to register if there is no account in the folder yet
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Invite code, if the server wants one
    #[arg(long, value_name = "CODE")]
    invite: Option<String>,
    /// Register without recovery words: if this folder is lost, so is the account
    #[arg(long)]
    no_recovery: bool,
    /// Line mode: commands on standard input, events on standard output
    #[arg(long)]
    plain: bool,
    /// Line mode: go on after the end of input
    #[arg(long)]
    follow: bool,
    /// Line mode: how many seconds to wait at the end until everything is sent
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    wait: u64,
    /// File whose first line is the passphrase that seals the folder's key (asked for where it is needed and not given)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Runs the client until its user leaves.
///
/// # Errors
/// If the folder cannot be opened, or registering fails.
pub(crate) async fn run(args: ChatArgs) -> anyhow::Result<ExitCode> {
    if args.plain || !stdin().is_terminal() || !stdout().is_terminal() {
        log_to_stderr();
        let client = enter::plain(&args).await?;
        return plain::run(client, &args.home, args.follow, Duration::from_secs(args.wait)).await;
    }
    let client = enter::asking(&args).await?;
    screen::run(client, &args.server).await?;
    Ok(ExitCode::SUCCESS)
}

/// Only if it is asked for by `RUST_LOG`: standard error belongs to whoever runs the script.
fn log_to_stderr() {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_writer(stderr).init();
    }
}
