//! A real PostgreSQL, treated well and badly.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kith_harness::{Postgres, PostgresOptions};

/// What a test that is run alone, in a process of its own, does: starts a server, says where, and waits to be killed.
const VICTIM: &str = "victim_of_sigkill";

fn psql(url: &str, statement: &str) -> anyhow::Result<String> {
    let output = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--command", statement, url])
        .env("PGCONNECT_TIMEOUT", "2")
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::test]
async fn each_test_has_an_empty_database_of_its_own() -> anyhow::Result<()> {
    let (one, two) = tokio::join!(Postgres::shared().database(), Postgres::shared().database());
    psql(&one.url(), "create table t (n int); insert into t values (7)")?;
    ensure!(psql(&one.url(), "select n from t")? == "7");
    ensure!(psql(&two.url(), "select n from t").is_err(), "the databases are one");
    Ok(())
}

#[tokio::test]
async fn it_is_as_safe_as_in_production_and_the_role_is_nobody_special() -> anyhow::Result<()> {
    let database = Postgres::shared().database().await;
    for (setting, value) in [("fsync", "on"), ("synchronous_commit", "on"), ("full_page_writes", "on")] {
        ensure!(psql(&database.url(), &format!("show {setting}"))? == value, "{setting}");
    }
    ensure!(psql(&database.url(), "select rolsuper from pg_roles where rolname = current_user")? == "f");
    let wrong = database.url().replace("kith:", "kith:x");
    ensure!(psql(&wrong, "select 1").is_err(), "any password will do");
    Ok(())
}

#[tokio::test]
async fn a_dropped_database_is_removed() -> anyhow::Result<()> {
    let database = Postgres::shared().database().await;
    let count = format!("select count(*) from pg_database where datname = '{}'", database.name());
    ensure!(Postgres::shared().admin(&count).await? == "1");
    drop(database);
    let removed = async {
        while Postgres::shared().admin(&count).await? != "0" {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), removed).await?
}

#[tokio::test]
async fn what_was_committed_survives_kill_and_restart() -> anyhow::Result<()> {
    let server = Postgres::start().await?;
    let database = server.database().await;
    psql(&database.url(), "create table t (n int); insert into t values (7)")?;
    for orderly in [false, true, false] {
        let before = server.pid();
        if orderly {
            server.stop().await?;
        } else {
            server.kill().await?;
        }
        ensure!(server.pid().is_none() && psql(&database.url(), "select 1").is_err(), "it still answers");
        server.restart().await?;
        ensure!(server.pid().is_some() && server.pid() != before);
        ensure!(psql(&database.url(), "select n from t")? == "7");
    }
    server.restart().await?;
    ensure!(psql(&database.url(), "select n from t")? == "7");
    Ok(())
}

#[tokio::test]
async fn a_paused_server_says_nothing_and_then_goes_on() -> anyhow::Result<()> {
    let server = Postgres::start().await?;
    let database = server.database().await;
    let mut session = tokio::process::Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--tuples-only", &database.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    server.pause().await?;
    let mut input = session.stdin.take().context("it is piped")?;
    tokio::io::AsyncWriteExt::write_all(&mut input, b"select 41 + 1;\n").await?;
    drop(input);
    let mut answer = Box::pin(session.wait_with_output());
    ensure!(tokio::time::timeout(Duration::from_millis(500), &mut answer).await.is_err(), "a paused server answered");
    server.resume().await?;
    let output = tokio::time::timeout(Duration::from_secs(30), answer).await??;
    ensure!(String::from_utf8(output.stdout)?.trim() == "42");
    Ok(())
}

#[tokio::test]
async fn a_paused_server_can_be_killed_stopped_and_dropped() -> anyhow::Result<()> {
    let server = Postgres::start().await?;
    server.pause().await?;
    server.kill().await?;
    server.restart().await?;
    server.pause().await?;
    server.stop().await?;
    server.restart().await?;
    server.pause().await?;
    let pid = server.pid().context("it runs")?;
    drop(server);
    ensure!(!Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}

#[tokio::test]
async fn settings_of_a_server_of_ones_own_win() -> anyhow::Result<()> {
    let settings = vec![("fsync".to_owned(), "off".to_owned()), ("application_name".to_owned(), "it's".to_owned())];
    let server = Postgres::start_with(PostgresOptions { settings, ..Default::default() }).await?;
    let database = server.database().await;
    ensure!(psql(&database.url(), "show fsync")? == "off");
    server.admin("alter system set synchronous_commit = 'off'").await?;
    server.restart().await?;
    ensure!(psql(&database.url(), "show synchronous_commit")? == "off");
    let refused = Postgres::start_with(PostgresOptions { settings: vec![("no_such".to_owned(), "1".to_owned())], ..Default::default() }).await;
    let error = format!("{:#}", refused.err().context("it starts with nonsense")?);
    ensure!(error.contains("unrecognized configuration parameter"), "{error}");
    Ok(())
}

#[tokio::test]
async fn processor_time_counts_sessions_that_have_ended() -> anyhow::Result<()> {
    let server = Postgres::start().await?;
    let database = server.database().await;
    let before = server.cpu()?;
    psql(&database.url(), "select sum(n::numeric * n) from generate_series(1, 1000000) n(n)")?;
    let spent = tokio::time::timeout(Duration::from_secs(30), async {
        while server.cpu()? < before + Duration::from_millis(50) {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    });
    spent.await?
}

/// Not a test of its own: see the next one.
#[tokio::test]
async fn victim_of_sigkill() -> anyhow::Result<()> {
    let Some(report) = std::env::var_os("KITH_HARNESS_VICTIM") else { return Ok(()) };
    let server = Postgres::start().await?;
    let data = server.admin("show data_directory").await?;
    let pids = server.admin("select string_agg(pid::text, ' ') from pg_stat_activity").await?;
    std::fs::write(report, format!("{data}\n{pids} {}", server.pid().context("it runs")?))?;
    std::future::pending().await
}

#[tokio::test]
async fn nothing_is_left_when_the_test_process_is_killed() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let mut victim = tokio::process::Command::new(std::env::current_exe()?)
        .args(["--exact", VICTIM])
        .env("KITH_HARNESS_VICTIM", &report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let text = until(|| std::fs::read_to_string(&report).ok().filter(|text| text.contains('\n'))).await?;
    let (data, pids) = text.split_once('\n').context("two lines")?;
    let home = PathBuf::from(data).parent().context("it is in the folder")?.to_owned();
    ensure!(home.exists());
    victim.kill().await?;
    let processes: Vec<_> = pids.split(' ').map(|pid| PathBuf::from(format!("/proc/{pid}/cwd"))).collect();
    until(|| (!home.exists() && processes.iter().all(|process| std::fs::read_link(process).is_err())).then_some(())).await
}

/// Waits for something that needs no question to anybody else.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let found = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    Ok(tokio::time::timeout(Duration::from_secs(60), found).await?)
}

#[tokio::test]
async fn a_full_disk_is_full_and_can_be_freed() -> anyhow::Result<()> {
    let server = Postgres::start_with(PostgresOptions { disk: Some(160), ..Default::default() }).await?;
    let database = server.database().await;
    psql(&database.url(), "create table t (n int); insert into t values (7)")?;
    server.fill_disk().await?;
    let error = psql(&database.url(), "insert into t select generate_series(1, 1000000)").expect_err("there is room");
    // Depending on what did not fit: an error of this statement, or the end of the server, which then recovers as soon as it can.
    ensure!(["No space left", "server closed the connection"].iter().any(|text| error.to_string().contains(text)), "{error}");
    server.free_disk().await?;
    server.restart().await?;
    ensure!(psql(&database.url(), "select n from t")? == "7");
    Ok(())
}

#[tokio::test]
async fn huge_pages_are_there_for_as_long_as_the_server_or_not_at_all() -> anyhow::Result<()> {
    let kept = || anyhow::Ok(std::fs::read_to_string("/proc/sys/vm/nr_hugepages")?.trim().parse::<u64>()?);
    let before = kept()?;
    let server = Postgres::start_with(PostgresOptions { huge_pages: true, ..Default::default() }).await?;
    let has_them = server.has_huge_pages();
    ensure!(!has_them || server.admin("show huge_pages").await? == "try");
    let needed: u64 = server.admin("show shared_memory_size_in_huge_pages").await?.parse()?;
    ensure!(if has_them { kept()? >= needed } else { kept()? == before }, "{before} before, {} now, {needed} needed", kept()?);
    drop(server);
    ensure!(kept()? == before, "{before} before, {} afterwards", kept()?);
    ensure!(!Postgres::start().await?.has_huge_pages(), "unasked");
    Ok(())
}

#[tokio::test]
async fn a_standby_follows_and_lags_as_far_as_it_is_told_to() -> anyhow::Result<()> {
    let server = Postgres::start().await?;
    let standby = server.standby().await?;
    let database = server.database().await;
    let (here, there) = (database.url(), database.url_through(standby.address()));
    psql(&here, "create table t (n int); insert into t values (7)")?;
    standby.caught_up().await?;
    ensure!(psql(&there, "select n from t")? == "7");
    ensure!(psql(&there, "insert into t values (8)").is_err(), "a standby takes writes");

    standby.pause_replay().await?;
    psql(&here, "insert into t values (8)")?;
    ensure!(psql(&there, "select count(*) from t")? == "1");
    standby.kill().await?;
    standby.restart().await?;
    standby.resume_replay().await?;
    standby.caught_up().await?;
    ensure!(psql(&there, "select count(*) from t")? == "2");

    let folder = standby.folder().to_owned();
    drop(standby);
    ensure!(!folder.exists(), "it leaves something");
    ensure!(psql(&here, "insert into t values (9)").is_ok(), "the primary needs it");
    Ok(())
}
