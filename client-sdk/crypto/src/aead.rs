//! ChaCha20-Poly1305 in place, with the tag behind the ciphertext.

use crate::secret::Secret;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag, XChaCha20Poly1305, XNonce};

/// Length of a Poly1305 tag in bytes.
pub(crate) const TAG_LEN: usize = 16;

/// The tag did not fit the ciphertext, the key and the associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

/// Encrypts `out[from..]` in place and appends the tag.
pub(crate) fn seal(key: &Secret<32>, nonce: &[u8; 12], associated: &[u8], out: &mut Vec<u8>, from: usize) {
    let cipher = ChaCha20Poly1305::new(key.expose().into());
    append(cipher.encrypt_inout_detached(&Nonce::from(*nonce), associated, (&mut out[from..]).into()), out);
}

/// Decrypts `buffer` (ciphertext and tag) in place and gives the length of the plaintext at its front.
pub(crate) fn open(key: &Secret<32>, nonce: &[u8; 12], associated: &[u8], buffer: &mut [u8]) -> Result<usize, NotAuthentic> {
    let cipher = ChaCha20Poly1305::new(key.expose().into());
    let (text, tag) = split_tag(buffer)?;
    cipher.decrypt_inout_detached(&Nonce::from(*nonce), associated, text.into(), &tag).map_err(|_| NotAuthentic)?;
    Ok(buffer.len() - TAG_LEN)
}

/// [`seal`] with XChaCha20-Poly1305, whose long nonce may be drawn at random without counting.
pub(crate) fn xseal(key: &Secret<32>, nonce: &[u8; 24], associated: &[u8], out: &mut Vec<u8>, from: usize) {
    let cipher = XChaCha20Poly1305::new(key.expose().into());
    append(cipher.encrypt_inout_detached(&XNonce::from(*nonce), associated, (&mut out[from..]).into()), out);
}

/// [`open`] with XChaCha20-Poly1305.
pub(crate) fn xopen(key: &Secret<32>, nonce: &[u8; 24], associated: &[u8], buffer: &mut [u8]) -> Result<usize, NotAuthentic> {
    let cipher = XChaCha20Poly1305::new(key.expose().into());
    let (text, tag) = split_tag(buffer)?;
    cipher.decrypt_inout_detached(&XNonce::from(*nonce), associated, text.into(), &tag).map_err(|_| NotAuthentic)?;
    Ok(buffer.len() - TAG_LEN)
}

fn append(tag: Result<Tag, chacha20poly1305::Error>, out: &mut Vec<u8>) {
    match tag {
        Ok(tag) => out.extend_from_slice(&tag),
        // The cipher refuses only plaintexts of 256 GiB and more; none of ours is above 64 MiB.
        Err(_) => unreachable!("a plaintext far below 256 GiB"),
    }
}

fn split_tag(buffer: &mut [u8]) -> Result<(&mut [u8], Tag), NotAuthentic> {
    let (text, tag) = buffer.split_last_chunk_mut::<TAG_LEN>().ok_or(NotAuthentic)?;
    Ok((text, Tag::from(*tag)))
}
