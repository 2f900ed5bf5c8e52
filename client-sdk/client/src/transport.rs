//! The connection: dials, says hello, keeps alive, begins again.
//!
//! It knows nothing of messages. Frames go up to the engine one by one through a bounded queue (so a slow disk slows the socket, and the server's flow
//! control does the rest); frames of the engine go down. Every wait has a deadline.

mod backoff;
mod socket;

use crate::engine::{Fetch, FetchAnswer, Input, Published};
use crate::fault::FaultHook;
use crate::model::{ConnectionState, StopReason};
use crate::server::{RENEW_BEFORE_MS, Server, ServerError};
use backoff::BackOff;
use kith_proto::v1::{self, ErrorCode, client_frame, server_frame};
use socket::{Broken, Socket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Frames of the engine that wait for the socket. The engine never has more than a window of sends under way, so it never fills while the socket moves.
const DOWN: usize = 4_096;
const HELLO_WITHIN: Duration = Duration::from_secs(15);
/// A connection that lasted this long has worked.
const STABLE: Duration = Duration::from_secs(5);
/// Ids of the transport's own requests begin here, out of the engine's way.
const OWN_IDS: u64 = 1 << 62;
/// Requests for the engine that are carried out at one time.
const FETCHES_AT_ONCE: usize = 8;

/// What the connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pub(crate) server: Arc<Server>,
    pub(crate) engine: mpsc::Sender<Input>,
    pub(crate) published: Published,
    pub(crate) clock: Arc<dyn crate::clock::Clock>,
    pub(crate) fault: FaultHook,
    pub(crate) stop: CancellationToken,
}

/// How a connection ended.
enum End {
    /// Try again, not before the back-off.
    Again,
    /// Try again at a random moment within this time; the server asked for it.
    Within(u64),
    /// Try again at once.
    AtOnce,
    /// Do not try again.
    Never(StopReason),
}

impl From<Broken> for End {
    fn from(_: Broken) -> Self {
        Self::Again
    }
}

impl Transport {
    /// Keeps a connection until the client shuts down.
    pub(crate) async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_connected() => {}
        }
        let ended = |state: &mut ConnectionState| {
            let running = !matches!(state, ConnectionState::Stopped(_));
            if running {
                *state = ConnectionState::Stopped(StopReason::ShutDown);
            }
            running
        };
        self.published.connection.send_if_modified(ended);
    }

    async fn keep_connected(&self) {
        let mut back_off = BackOff::default();
        for connection in 1.. {
            if self.is_stopped() {
                return;
            }
            self.published.connection.send_replace(ConnectionState::Connecting);
            let began = Instant::now();
            let end = self.connect(connection).await;
            if self.engine.send(Input::Disconnected { connection }).await.is_err() {
                return;
            }
            // One that breaks at once, again and again, is no success.
            if began.elapsed() > STABLE {
                back_off.succeeded();
            }
            let wait = match end {
                End::Never(reason) => {
                    self.published.connection.send_replace(ConnectionState::Stopped(reason));
                    return;
                }
                End::AtOnce => Duration::ZERO,
                End::Within(within_ms) => back_off.within(within_ms),
                End::Again => back_off.next(),
            };
            if self.is_stopped() {
                return;
            }
            let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            self.published.connection.send_replace(ConnectionState::Offline { retry_in_ms });
            tokio::time::sleep(wait).await;
        }
    }

    fn is_stopped(&self) -> bool {
        matches!(*self.published.connection.borrow(), ConnectionState::Stopped(_))
    }

    async fn connect(&self, connection: u64) -> End {
        let token = match self.server.token().await {
            Ok(token) => token,
            Err(error) => return login_failed(&error),
        };
        let (reply, epoch) = oneshot::channel();
        if self.engine.send(Input::NextEpoch { reply }).await.is_err() {
            return End::Never(StopReason::StoreFailed);
        }
        let Ok(epoch) = epoch.await else { return End::Again };
        let Ok(mut socket) = Socket::dial(self.server.origin()).await else { return End::Again };
        let hello = v1::Hello { token: token.text.as_str().to_owned(), version: kith_proto::PROTOCOL_VERSION, features: Vec::new(), epoch };
        let frame = v1::ClientFrame { id: 1, kind: Some(client_frame::Kind::Hello(hello)) };
        let welcome = match timeout(HELLO_WITHIN, say_hello(&mut socket, frame)).await {
            Ok(Ok(Ok(welcome))) => welcome,
            Ok(Ok(Err(error))) => return self.hello_refused(&error).await,
            Ok(Err(Broken)) | Err(_) => return End::Again,
        };
        let (frames, down) = mpsc::channel(DOWN);
        let keep_alive = Duration::from_millis(u64::from(welcome.limits.map_or(0, |limits| limits.keep_alive_ms)).clamp(1_000, 300_000));
        let token_ends_ms = welcome.token_expires_ms;
        if self.engine.send(Input::Welcome { connection, welcome: Box::new(welcome), frames }).await.is_err() {
            return End::Never(StopReason::StoreFailed);
        }
        let mut pump = Pump { transport: self, connection, socket, down, keep_alive, token_ends_ms };
        match pump.run().await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn hello_refused(&self, error: &v1::Error) -> End {
        match error.code() {
            ErrorCode::StaleStore => {
                let (reply, again) = oneshot::channel();
                let _ = self.engine.send(Input::Stale { reply }).await;
                if again.await.unwrap_or(false) { End::AtOnce } else { End::Never(StopReason::OtherProcess) }
            }
            ErrorCode::DeviceRevoked => End::Never(StopReason::Revoked),
            ErrorCode::UnsupportedVersion => End::Never(StopReason::UnsupportedVersion),
            ErrorCode::TokenExpired | ErrorCode::Unauthenticated => {
                self.server.forget_token().await;
                End::Again
            }
            _ if error.retry() == v1::Retry::After => End::Within(error.after_ms.saturating_mul(2)),
            _ => End::Again,
        }
    }
}

fn login_failed(error: &ServerError) -> End {
    match error {
        ServerError::Refused { code: ErrorCode::DeviceRevoked, .. } => End::Never(StopReason::Revoked),
        ServerError::Refused { code: ErrorCode::UnknownAccount | ErrorCode::SignatureInvalid, .. } => End::Never(StopReason::UnknownDevice),
        ServerError::Refused { after_ms, .. } if *after_ms > 0 => End::Within(after_ms.saturating_mul(2)),
        _ => End::Again,
    }
}

async fn say_hello(socket: &mut Socket, hello: v1::ClientFrame) -> Result<Result<v1::Welcome, v1::Error>, Broken> {
    socket.send(hello).await?;
    loop {
        let frame = socket.receive().await?;
        match frame.kind {
            Some(server_frame::Kind::Welcome(welcome)) if frame.id == 1 => return Ok(Ok(welcome)),
            Some(server_frame::Kind::Error(error)) => return Ok(Err(error)),
            Some(server_frame::Kind::Goodbye(goodbye)) => {
                return Ok(Err(v1::Error { code: goodbye.reason, ..v1::Error::default() }));
            }
            _ => {}
        }
    }
}

/// A usable connection.
struct Pump<'a> {
    transport: &'a Transport,
    connection: u64,
    socket: Socket,
    down: mpsc::Receiver<v1::ClientFrame>,
    keep_alive: Duration,
    token_ends_ms: u64,
}

impl Pump<'_> {
    async fn run(&mut self) -> Result<End, End> {
        let mut heard = Instant::now();
        let mut renew_at = self.renew_at();
        let mut ping_at = Instant::now() + self.keep_alive;
        loop {
            tokio::select! {
                frame = self.socket.receive() => {
                    heard = Instant::now();
                    if let Some(end) = self.up(frame?).await? {
                        return Ok(end);
                    }
                }
                frame = self.down.recv() => match frame {
                    Some(frame) => self.down(frame).await?,
                    // The engine has let go of this connection.
                    None => return Ok(End::Again),
                },
                () = sleep_until(ping_at) => {
                    if heard.elapsed() > self.keep_alive * 2 {
                        return Ok(End::Again);
                    }
                    self.socket.ping().await?;
                    ping_at = Instant::now() + self.keep_alive;
                }
                () = sleep_until(renew_at) => {
                    self.renew().await?;
                    renew_at = self.renew_at();
                }
            }
        }
    }

    fn renew_at(&self) -> Instant {
        let left = self.token_ends_ms.saturating_sub(self.transport.clock.now_ms()).saturating_sub(RENEW_BEFORE_MS / 2);
        Instant::now() + Duration::from_millis(left.max(1_000))
    }

    /// A fresh token for the connection that is there.
    async fn renew(&mut self) -> Result<(), End> {
        let token = self.transport.server.token().await.map_err(|error| login_failed(&error))?;
        self.token_ends_ms = token.expires_ms;
        let renew = v1::Renew { token: token.text.as_str().to_owned() };
        let frame = v1::ClientFrame { id: OWN_IDS, kind: Some(client_frame::Kind::Renew(renew)) };
        Ok(self.socket.send(frame).await?)
    }

    /// Writes what waits, in one flush.
    async fn down(&mut self, first: v1::ClientFrame) -> Result<(), End> {
        use crate::fault::FaultPoint;
        let mut points = Vec::new();
        let mut next = Some(first);
        while let Some(frame) = next {
            match &frame.kind {
                Some(client_frame::Kind::Send(_)) => points.push(FaultPoint::SendWritten),
                Some(client_frame::Kind::Ack(_)) => points.push(FaultPoint::AckWritten),
                _ => {}
            }
            self.socket.feed(frame).await?;
            next = self.down.try_recv().ok();
        }
        self.socket.flush().await?;
        points.into_iter().for_each(|point| self.transport.fault.at(point));
        Ok(())
    }

    async fn up(&mut self, frame: v1::ServerFrame) -> Result<Option<End>, End> {
        match &frame.kind {
            Some(server_frame::Kind::Goodbye(goodbye)) => return Ok(Some(farewell(goodbye))),
            _ if frame.id >= OWN_IDS => return Ok(None),
            _ => {}
        }
        let input = Input::Frame { connection: self.connection, frame: Box::new(frame) };
        self.transport.engine.send(input).await.map_err(|_| End::Never(StopReason::StoreFailed))?;
        Ok(None)
    }
}

fn farewell(goodbye: &v1::Goodbye) -> End {
    match goodbye.reason() {
        ErrorCode::DeviceRevoked => End::Never(StopReason::Revoked),
        // Another connection of this device: a copy of this store. The next hello tells whose epoch is the newer one.
        _ if goodbye.reconnect_within_ms > 0 => End::Within(u64::from(goodbye.reconnect_within_ms)),
        _ => End::Again,
    }
}

/// Carries out what the engine asks for, a few at a time, and reports back.
pub(crate) async fn fetch_all(
    server: Arc<Server>,
    mut wanted: mpsc::UnboundedReceiver<Fetch>,
    engine: mpsc::Sender<Input>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(FETCHES_AT_ONCE));
    loop {
        let fetch = tokio::select! {
            () = stop.cancelled() => return,
            fetch = wanted.recv() => match fetch { Some(fetch) => fetch, None => return },
        };
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (server, engine, stop) = (Arc::clone(&server), engine.clone(), stop.clone());
        tasks.spawn(async move {
            let answer = tokio::select! {
                () = stop.cancelled() => return,
                answer = carry_out(&server, &fetch) => answer,
            };
            let _ = engine.send(Input::Fetched { fetch, answer }).await;
            drop(slot);
        });
    }
}

async fn carry_out(server: &Server, fetch: &Fetch) -> Result<FetchAnswer, ServerError> {
    match fetch {
        Fetch::Lists { id, since, .. } => server.device_lists(crate::ids::wire_account(*id), *since).await.map(FetchAnswer::Lists),
        Fetch::Bundles { id, devices, .. } => {
            let devices = devices.iter().map(|device| crate::ids::wire_device(*device)).collect();
            server.bundles(crate::ids::wire_account(*id), devices).await.map(FetchAnswer::Bundles)
        }
        Fetch::Keys => server.keys().await.map(FetchAnswer::Keys),
        Fetch::Upload(upload) => server.upload_keys(upload).await.map(FetchAnswer::Keys),
    }
}
