//! Where the store's key comes from: a file that only this user may read, or the same file sealed under a passphrase.

use crate::builder::Passphrase;
use crate::error::OpenError;
use kith_crypto::Secret;
use kith_crypto::seal::{PassphraseCost, StoreKey, WrappedKey};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

/// The first byte of a bare key file; a wrapped one begins with its version, 1.
const BARE: u8 = 0;
const FILE: &str = "store.key";

/// Loads the key of the store in `home`.
pub(crate) fn load(home: &Path, passphrase: Option<&Passphrase>) -> Result<StoreKey, OpenError> {
    let bytes = match fs::read(home.join(FILE)) {
        Ok(bytes) => zeroize::Zeroizing::new(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(OpenError::Damaged("the key file is missing".to_owned())),
        Err(error) => return Err(OpenError::Storage(error.to_string())),
    };
    if let Some((&BARE, key)) = bytes.split_first() {
        let key: [u8; 32] = key.try_into().map_err(|_| OpenError::Damaged("the key file".to_owned()))?;
        return Ok(StoreKey::from_secret(Secret::from_bytes(key)));
    }
    let wrapped = WrappedKey::from_bytes(&bytes).map_err(|_| OpenError::Damaged("the key file".to_owned()))?;
    let passphrase = passphrase.ok_or(OpenError::PassphraseNeeded)?;
    wrapped.unwrap(passphrase.0.as_bytes()).map_err(|_| OpenError::WrongKey)
}

/// Whether the key lies in its file bare.
pub(crate) fn is_bare(home: &Path) -> bool {
    fs::read(home.join(FILE)).is_ok_and(|bytes| bytes.first() == Some(&BARE))
}

/// Makes a key and writes its file, durably, before any store is sealed with it.
pub(crate) fn create(home: &Path, passphrase: Option<&Passphrase>, rng: &mut impl rand_core::CryptoRng) -> Result<StoreKey, OpenError> {
    let key = StoreKey::random(rng);
    let bytes = match passphrase {
        None => [&[BARE], key.secret().expose().as_slice()].concat(),
        Some(passphrase) => {
            let wrapped = WrappedKey::wrap(rng, passphrase.0.as_bytes(), &key, PassphraseCost::DEFAULT);
            wrapped.map_err(|error| OpenError::Storage(error.to_string()))?.to_bytes()
        }
    };
    write_private(&home.join(FILE), &zeroize::Zeroizing::new(bytes)).map_err(|error| OpenError::Storage(error.to_string()))?;
    Ok(key)
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
