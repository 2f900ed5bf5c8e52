//! People who use the SDK within the test's own process.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use kith_client::{Arrival, Client, ConnectionState, ConversationId, Entry, NoticeKind, Registration, Subscription};

use crate::wait;

/// The longest that anything which needs both clients and the server may take.
pub const SOON: Duration = Duration::from_secs(40);

/// Somebody, with what they are shown.
#[derive(Debug)]
pub struct User {
    /// Their client.
    pub client: Client,
    received: Subscription<Entry>,
}

impl User {
    /// Registers in a new folder.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn register(origin: &str, home: &Path, name: &str) -> anyhow::Result<Self> {
        let registered = Client::builder(origin).home(home).register(Registration::new(name).without_recovery()).await?;
        Ok(Self::of(registered.client))
    }

    /// Opens the account in a folder. Everything received before is shown again, since nobody here remembers having seen it.
    ///
    /// # Errors
    /// If the folder cannot be opened.
    pub async fn open(origin: &str, home: &Path) -> anyhow::Result<Self> {
        Ok(Self::of(Client::builder(origin).home(home).open().await?))
    }

    /// Whoever this client is, with everything that was ever received still to be shown.
    #[must_use]
    pub fn of(client: Client) -> Self {
        Self { received: client.received(Arrival::default()), client }
    }

    /// Waits until the connection stands like this.
    ///
    /// # Errors
    /// If it does not soon.
    pub async fn is(&self, state: ConnectionState) -> anyhow::Result<()> {
        let mut states = self.client.connection();
        let search = async {
            while let Some(now) = states.next().await {
                if now == state {
                    return Ok(());
                }
            }
            bail!("the client has shut down")
        };
        wait::within(&format!("{state:?}"), SOON, search).await?
    }

    /// Sends a text to the user of that name.
    ///
    /// # Errors
    /// If the client refuses.
    pub async fn say(&self, to: &str, text: &str) -> anyhow::Result<ConversationId> {
        let conversation = self.client.start_conversation(to).await?;
        self.client.send_text(conversation, text).await?;
        Ok(conversation)
    }

    /// Waits until this text is shown.
    ///
    /// # Errors
    /// If it is not shown soon, or something that cannot be read is.
    pub async fn hears(&mut self, text: &str) -> anyhow::Result<Entry> {
        self.listens_for(text, false).await
    }

    /// The same after a rollback: what was on its way under the old sessions is shown as unreadable, and that is no fault.
    ///
    /// # Errors
    /// If it is not shown soon.
    pub async fn hears_among_the_unreadable(&mut self, text: &str) -> anyhow::Result<Entry> {
        self.listens_for(text, true).await
    }

    async fn listens_for(&mut self, text: &str, unreadable_too: bool) -> anyhow::Result<Entry> {
        let search = async {
            loop {
                let entry = self.received.next().await.context("the client has shut down")?;
                let unreadable = matches!(entry.body, kith_client::EntryBody::Undecryptable { .. });
                if entry.text() == Some(text) {
                    return Ok(entry);
                }
                if unreadable && !unreadable_too {
                    bail!("{:?} instead of {text:?}", entry.body);
                }
            }
        };
        wait::within(&format!("{text:?} is heard"), SOON, search).await?
    }

    /// Waits for a notice.
    ///
    /// # Errors
    /// If it does not come soon.
    pub async fn is_told(&self, kind: NoticeKind) -> anyhow::Result<()> {
        let mut notices = self.client.notices(0);
        let search = async {
            while let Some(notice) = notices.next().await {
                if notice.kind == kind {
                    return Ok(());
                }
            }
            bail!("the client has shut down")
        };
        wait::within(&format!("{kind:?}"), SOON, search).await?
    }
}

/// Copies a folder.
///
/// # Errors
/// If that fails.
pub fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
