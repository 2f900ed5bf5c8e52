//! The ends that nobody asked for.

use kith_chat_core::sqlite::Database;
use tokio::time::timeout;

use super::*;
use crate::storage::Storage;

const DEADLINE: Duration = Duration::from_secs(30);

/// A value that panics where the writer throws it away: as a fault in the writer's own code would.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if std::thread::current().name() == Some("kith-db-write") {
            panic!("a fault in the writer");
        }
    }
}

async fn break_writer(database: &Database) {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let mut holding = Box::pin(database.write("hold", move |_| {
        let _ = held.recv();
        Ok::<_, std::convert::Infallible>(())
    }));
    assert!(timeout(Duration::ZERO, holding.as_mut()).await.is_err());
    assert!(timeout(Duration::ZERO, database.write("break", |_| Ok::<_, std::convert::Infallible>(Bomb))).await.is_err());
    drop(release);
}

/// Otherwise it would go on for ever, refusing everybody, and no supervisor would know.
#[tokio::test]
async fn a_server_whose_writer_has_ended_ends_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { data: folder.path().to_owned(), listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
    let listener = bind(&config).unwrap();
    let bound = listener.local_addr().unwrap();
    let (names, health, metrics) = (foundation::names(&config).unwrap(), Arc::new(Health::new(&[])), Arc::new(Metrics::start()));
    let early = rest::beside(&config, Arc::clone(&health), Arc::clone(&metrics), rest::Refusal::NotYet);
    let server = Arc::new(Server::new(&config, early, Arc::clone(&metrics), None));
    let running = Running::start(config, names, bound, Arc::clone(&health), metrics).await.unwrap();
    let Storage::Embedded(database) = &running.storage else { panic!("nothing else was configured") };
    let database = Arc::clone(database);
    let accepting = tokio::spawn(Arc::clone(&server).accept(listener));
    let serving = tokio::spawn(running.serve(server, accepting, CancellationToken::new()));
    break_writer(&database).await;
    let ended = timeout(DEADLINE, serving).await.expect("it ends").unwrap();
    assert!(matches!(ended, Err(RunError::NotWriting)), "{ended:?}");
    assert!(!health.readiness().ready);
}
