//! Carrying out what the user wants, by the SDK.

use kith_client::{Client, ConversationId};

use crate::{
    chat::{
        app::{Event, Popup, Wish},
        harmless, wording,
    },
    local_time::LocalTime,
};

/// Entries fetched at once when scrolling back.
const PAGE: usize = 200;
/// Groups of digits on a line of the safety number.
const GROUPS: usize = 4;

/// Does it, and says what the screen should know.
pub(super) async fn carry_out(client: &Client, wish: Wish) -> Option<Event> {
    match wish {
        Wish::Start(name) => match client.start_conversation(&name).await {
            Ok(id) => Some(Event::Started(id)),
            Err(error) => Some(Event::Remark(format!("{name}: {error}"))),
        },
        Wish::StartAndSend(name, text) => match client.start_conversation(&name).await {
            Ok(id) => send(client, id, &text).await.or(Some(Event::Started(id))),
            Err(error) => Some(Event::Remark(format!("{name}: {error}"))),
        },
        // What follows makes good for a read mark or a typing notice that was not taken.
        Wish::MarkRead(id, seq) => client.mark_read(id, seq).await.err().map(|_| Event::Remark("the folder cannot be written".to_owned())),
        Wish::Typing(id, active) => {
            let _ = client.set_typing(id, active).await;
            None
        }
        Wish::Preview(id) => {
            let newest = client.history(id, None, 1).await.ok()?.pop();
            Some(Event::Preview(id, newest))
        }
        Wish::Older(id, before) => match client.history(id, Some(before), PAGE).await {
            Ok(entries) => Some(Event::Older(id, entries)),
            Err(error) => Some(Event::Remark(error.to_string())),
        },
        Wish::Safety(id) => Some(safety(client, id).await),
        Wish::Verify(id, verified) => Some(match client.set_verified(id, verified).await {
            Ok(()) => Event::Remark(if verified { "noted: the safety number was compared" } else { "no longer noted as compared" }.to_owned()),
            Err(error) => Event::Remark(error.to_string()),
        }),
        Wish::Accept(id) => client.accept(id).await.err().map(|error| Event::Remark(error.to_string())),
        Wish::Hide(hidden) => Some(match client.hide_presence(hidden).await {
            Ok(()) => Event::Remark(
                if hidden { "others no longer see when you are online, nor you them" } else { "others see when you are online" }.to_owned(),
            ),
            Err(error) => Event::Remark(error.to_string()),
        }),
        Wish::Devices => Some(devices(client).await),
        Wish::Send(..) | Wish::Follow(_) | Wish::Quit => None,
    }
}

/// Puts a text into the outbox.
pub(super) async fn send(client: &Client, id: ConversationId, text: &str) -> Option<Event> {
    client.send_text(id, text).await.err().map(|error| Event::GivenBack(text.to_owned(), error.to_string()))
}

async fn safety(client: &Client, id: ConversationId) -> Event {
    let conversation = client.conversation(id);
    let who = conversation.as_ref().map_or_else(|| "the other".to_owned(), wording::name);
    let number = match client.safety_number(id).await {
        Ok(number) => number,
        Err(error) => return Event::Remark(error.to_string()),
    };
    let groups: Vec<&str> = number.digits.split_whitespace().collect();
    let mut lines = vec![String::new()];
    lines.extend(groups.chunks(GROUPS).map(|groups| format!("    {}", groups.join("  "))));
    lines.push(String::new());
    lines.push(format!("Compare it with {who} by another way: face to face, or on the phone."));
    lines.push("If it is equal, nobody is between you: note it with /verify.".to_owned());
    if conversation.is_some_and(|c| c.verified) {
        lines.push("You have compared it before, and it still holds.".to_owned());
    }
    Event::Show(Popup { title: format!("Safety number with {who}"), lines })
}

async fn devices(client: &Client) -> Event {
    match client.devices().await {
        Ok(devices) => {
            let line = |device: &kith_client::OwnDevice| {
                let at = LocalTime::of(device.linked_ms);
                format!("{}  since {}{}", &device.device.to_string()[..8], at.date(), if device.this { "  (this one)" } else { "" })
            };
            Event::Show(Popup { title: "Your devices".to_owned(), lines: devices.iter().map(line).collect() })
        }
        Err(error) => Event::Remark(harmless::one_line(&error.to_string())),
    }
}
