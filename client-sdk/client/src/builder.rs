//! How a client comes to be: opened, or registered.

use crate::clock::{Clock, SystemClock};
use crate::error::{OpenError, RegisterError};
use crate::fault::{FaultHook, FaultPoint};
use crate::model::RecoveryWords;
use crate::{Client, start};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What opens a sealed store. Wiped on drop, absent from `Debug`.
#[derive(Clone)]
pub struct Passphrase(pub(crate) Zeroizing<String>);

impl From<String> for Passphrase {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for Passphrase {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// What a new account needs.
#[derive(Debug, Clone)]
pub struct Registration {
    pub(crate) username: String,
    pub(crate) invite: Option<String>,
    pub(crate) recovery: bool,
}

impl Registration {
    /// An account of this name, with a recovery key.
    pub fn new(username: impl Into<String>) -> Self {
        Self { username: username.into().to_lowercase(), invite: None, recovery: true }
    }

    /// With an invite code.
    #[must_use]
    pub fn invite(mut self, code: impl Into<String>) -> Self {
        self.invite = Some(code.into());
        self
    }

    /// Without a recovery key: if the first device is lost, so is the account.
    #[must_use]
    pub const fn without_recovery(mut self) -> Self {
        self.recovery = false;
        self
    }
}

/// A new account.
#[derive(Debug)]
pub struct Registered {
    /// The client, already connecting.
    pub client: Client,
    /// The words to write down, unless they were declined.
    pub recovery: Option<RecoveryWords>,
}

/// Describes a client. See [`Client::builder`].
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    pub(crate) server_url: String,
    pub(crate) home: PathBuf,
    pub(crate) passphrase: Option<Passphrase>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) fault: FaultHook,
}

impl ClientBuilder {
    pub(crate) fn new(server_url: String) -> Self {
        Self { server_url, home: PathBuf::from("kith-home"), passphrase: None, clock: Arc::new(SystemClock), fault: FaultHook::default() }
    }

    /// The folder that holds this account's store. It is created with access for this user only.
    #[must_use]
    pub fn home(mut self, folder: impl Into<PathBuf>) -> Self {
        self.home = folder.into();
        self
    }

    /// Wraps the store's key with a passphrase. Without one the key lies in a file beside the store (readable by this user only), and a notice says so.
    #[must_use]
    pub fn passphrase(mut self, passphrase: Option<impl Into<Passphrase>>) -> Self {
        self.passphrase = passphrase.map(Into::into);
        self
    }

    /// Replaces the machine's clock, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Calls `hook` at every [`FaultPoint`], so that a test can kill its process exactly there.
    #[must_use]
    pub fn fault(mut self, hook: impl Fn(FaultPoint) + Send + Sync + 'static) -> Self {
        self.fault = FaultHook::new(hook);
        self
    }

    /// Whether an account lives in the folder already, so that [`Self::open`] is the thing to call.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        start::is_registered(&self.home)
    }

    /// Opens the account in the folder and begins to connect. It does not wait for the server.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(self) -> Result<Client, OpenError> {
        start::open(self).await
    }

    /// Makes a new account. Its keys are durable before the server hears of them, so that a call that failed half-way can be repeated and gives the
    /// same account.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub async fn register(self, registration: Registration) -> Result<Registered, RegisterError> {
        start::register(self, registration).await
    }
}
