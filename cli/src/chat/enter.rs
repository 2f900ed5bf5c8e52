//! Opening the folder, or registering on the first run.

use std::{
    fs,
    io::{self, BufRead as _, Write as _, stderr, stdin, stdout},
    path::Path,
};

use anyhow::{Context as _, bail};
use crossterm::{
    event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use kith_client::{Client, ClientBuilder, OpenError, RecoveryWords, RegisterError, Registered, Registration};

use super::ChatArgs;

const WORDS_PER_LINE: usize = 4;

fn builder(args: &ChatArgs) -> anyhow::Result<ClientBuilder> {
    let passphrase = args.passphrase_file.as_ref().map(|path| first_line(path)).transpose()?;
    Ok(Client::builder(&args.server).home(&args.home).passphrase(passphrase))
}

fn first_line(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => bail!("{} holds no passphrase in its first line", path.display()),
    }
}

fn registration(args: &ChatArgs, username: &str, recovery: bool) -> Registration {
    let mut registration = Registration::new(username);
    if let Some(code) = &args.invite {
        registration = registration.invite(code);
    }
    if recovery { registration } else { registration.without_recovery() }
}

async fn open(args: &ChatArgs, builder: ClientBuilder) -> anyhow::Result<Client> {
    builder.open().await.with_context(|| format!("{} cannot be opened", args.home.display()))
}

/// Without questions, for line mode.
///
/// # Errors
/// If the folder cannot be opened, or there is neither an account nor a `--username` in it.
pub(super) async fn plain(args: &ChatArgs) -> anyhow::Result<Client> {
    let builder = builder(args)?;
    if builder.is_registered() {
        return open(args, builder).await;
    }
    let Some(username) = &args.username else {
        bail!("there is no account in {} yet: say who you want to be with --username NAME", args.home.display());
    };
    let registered = builder.register(registration(args, username, !args.no_recovery)).await.context("registering failed")?;
    if let Some(words) = &registered.recovery {
        let mut out = stdout().lock();
        writeln!(out, "recovery {}", words.as_str())?;
        out.flush()?;
    }
    Ok(registered.client)
}

/// With questions, for people at a terminal.
///
/// # Errors
/// If the folder cannot be opened, or the server cannot be reached, or the user gives up.
pub(super) async fn asking(args: &ChatArgs) -> anyhow::Result<Client> {
    let builder = builder(args)?;
    if builder.is_registered() {
        return match builder.clone().open().await {
            Err(OpenError::PassphraseNeeded) => open(args, builder.passphrase(Some(ask_hidden("Passphrase: ")?))).await,
            opened => opened.with_context(|| format!("{} cannot be opened", args.home.display())),
        };
    }
    say(&format!("There is no account in {} yet. Let us make one on {}.", args.home.display(), args.server))?;
    let recovery = !args.no_recovery && wants_recovery()?;
    let mut username = args.username.clone();
    loop {
        let name = match username.take() {
            Some(name) => name,
            None => ask("Your username (3 to 32 of a-z 0-9 . _ -): ")?,
        };
        match builder.clone().register(registration(args, name.trim(), recovery)).await {
            Ok(Registered { client, recovery: words }) => {
                if let Some(words) = &words {
                    show_words(words)?;
                }
                return Ok(client);
            }
            Err(error @ (RegisterError::UsernameTaken | RegisterError::UsernameInvalid)) => say(&format!("Sorry: {error}. Another one?"))?,
            Err(error) => return Err(error).context("registering failed"),
        }
    }
}

fn wants_recovery() -> anyhow::Result<bool> {
    say("If this device is lost, 24 words on paper bring your account back. Nobody else has them.")?;
    Ok(!matches!(ask("Make recovery words? [Y/n] ")?.trim().to_lowercase().as_str(), "n" | "no"))
}

fn say(text: &str) -> io::Result<()> {
    writeln!(stderr(), "{text}")
}

fn ask(question: &str) -> anyhow::Result<String> {
    let mut out = stderr();
    write!(out, "{question}")?;
    out.flush()?;
    let mut answer = String::new();
    if stdin().lock().read_line(&mut answer)? == 0 {
        bail!("nothing was entered");
    }
    Ok(answer)
}

/// Asks without showing what is typed.
fn ask_hidden(question: &str) -> anyhow::Result<String> {
    write!(stderr(), "{question}")?;
    stderr().flush()?;
    enable_raw_mode()?;
    let typed = read_hidden();
    disable_raw_mode()?;
    say("")?;
    typed
}

fn read_hidden() -> anyhow::Result<String> {
    let mut typed = String::new();
    loop {
        let Event::Key(key) = event::read()? else { continue };
        match key.code {
            KeyCode::Enter => return Ok(typed),
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => bail!("nothing was entered"),
            KeyCode::Char(c) if key.kind != KeyEventKind::Release => typed.push(c),
            KeyCode::Backspace => {
                typed.pop();
            }
            _ => {}
        }
    }
}

/// Shows the words on the terminal's second screen, from which nothing stays behind in the scroll-back.
fn show_words(words: &RecoveryWords) -> anyhow::Result<()> {
    let mut out = stdout();
    execute!(out, EnterAlternateScreen)?;
    let shown = write_words(&mut out, words);
    let read = stdin().lock().read_line(&mut String::new());
    execute!(out, LeaveAlternateScreen)?;
    shown?;
    read?;
    Ok(())
}

fn write_words(out: &mut impl io::Write, words: &RecoveryWords) -> io::Result<()> {
    writeln!(out, "\x1b[2J\x1b[H\n  Your recovery words. They are shown this once and stored nowhere: write them down.\n")?;
    let words: Vec<&str> = words.as_str().split(' ').collect();
    for (row, line) in words.chunks(WORDS_PER_LINE).enumerate() {
        write!(out, "  ")?;
        for (column, word) in line.iter().enumerate() {
            write!(out, "  {:>2}. {word:<10}", row * WORDS_PER_LINE + column + 1)?;
        }
        writeln!(out)?;
    }
    write!(out, "\n  Press Enter when they are on paper. ")?;
    out.flush()
}
