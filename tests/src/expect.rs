//! What stories expect of answers, and of a server that has been treated badly.

use anyhow::{Context as _, bail, ensure};
use kith_proto::v1::{self, Accepted, Deliver, ErrorCode, Send, client_frame, server_frame};

use crate::{
    person::{Person, ack},
    rest::Answer,
    socket::{SOON, Socket},
};

/// The answer must be an error; returns it.
///
/// # Errors
/// If it is anything else.
pub fn error(answer: server_frame::Kind) -> anyhow::Result<v1::Error> {
    match answer {
        server_frame::Kind::Error(error) => {
            ensure!(error.retry() != v1::Retry::Unspecified, "an error without a hint: {error:?}");
            Ok(error)
        }
        other => bail!("an error was expected, not {other:?}"),
    }
}

/// The answer must be this error.
///
/// # Errors
/// If it is anything else.
pub fn refused(answer: server_frame::Kind, code: ErrorCode) -> anyhow::Result<()> {
    let error = error(answer)?;
    ensure!(error.code() == code, "refused with {:?} instead of {code:?}", error.code());
    Ok(())
}

/// The REST answer must be this error.
///
/// # Errors
/// If it is anything else.
pub fn refused_by_rest<T>(answer: Answer<T>, code: ErrorCode) -> anyhow::Result<()> {
    match answer {
        Ok(_) => bail!("{code:?} was expected, not success"),
        Err(error) if error.code() == Some(code) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{code:?} was expected")),
    }
}

/// Sends and waits for `Accepted`.
///
/// # Errors
/// If it is refused.
pub async fn accepted(socket: &mut Socket, send: Send) -> anyhow::Result<Accepted> {
    match socket.ask(client_frame::Kind::Send(send)).await? {
        server_frame::Kind::Accepted(accepted) => Ok(accepted),
        other => bail!("Accepted was expected, not {other:?}"),
    }
}

/// Waits for the next `Deliver` with a body.
///
/// # Errors
/// If none comes soon.
pub async fn delivered(socket: &mut Socket) -> anyhow::Result<Deliver> {
    socket
        .find("a delivery", SOON, |frame| match frame.kind {
            Some(server_frame::Kind::Deliver(deliver)) if !deliver.body.is_empty() => Some(deliver),
            _ => None,
        })
        .await
}

/// Waits for `CaughtUp`.
///
/// # Errors
/// If it does not come soon.
pub async fn caught_up(socket: &mut Socket) -> anyhow::Result<()> {
    socket.find("CaughtUp", SOON, |frame| matches!(frame.kind, Some(server_frame::Kind::CaughtUp(_))).then_some(())).await
}

/// Two new people can register, connect, send, receive and acknowledge.
///
/// # Errors
/// If the server has taken harm.
pub async fn still_serves(origin: &str) -> anyhow::Result<()> {
    let (mut alice, mut bob) = (Person::register(origin, "alice").await?, Person::register(origin, "bob").await?);
    let ((mut from, _), (mut to, _)) = (alice.connect().await?, bob.connect().await?);
    let send = alice.message(bob.device_ref(), "still there?");
    let accepted = accepted(&mut from, send.clone()).await?;
    let delivered = delivered(&mut to).await?;
    ensure!(delivered.seq == accepted.seq && delivered.client_msg_id == send.client_msg_id && delivered.body == send.body);
    let done = to.ask(ack(bob.conversation(alice.device_ref()), delivered.seq)).await?;
    ensure!(matches!(done, server_frame::Kind::Done(_)), "{done:?}");
    Ok(())
}
