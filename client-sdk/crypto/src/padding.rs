//! Padding to a few sizes, so that lengths say little (§6, §9.30).

use thiserror::Error;

/// The smallest bucket in bytes; each next one is twice as large.
pub const MIN_BUCKET: usize = 256;
/// The largest bucket in bytes. Longer text travels by reference, like media.
pub const MAX_BUCKET: usize = 32_768;
/// The longest content that can be padded.
pub const MAX_CONTENT_LEN: usize = MAX_BUCKET - 1;

/// The content does not fit the largest bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the content is too long for one message")]
pub struct TooLong;

/// The padding is not 80 00 … up to the smallest bucket that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the padding is wrong")]
pub struct BadPadding;

/// The bucket for content of `len` bytes: 255 go into 256, 256 into 512.
///
/// # Errors
/// [`TooLong`] above 32,767 bytes.
pub const fn bucket(len: usize) -> Result<usize, TooLong> {
    if len > MAX_CONTENT_LEN {
        return Err(TooLong);
    }
    let padded = (len + 1).next_power_of_two();
    Ok(if padded < MIN_BUCKET { MIN_BUCKET } else { padded })
}

/// Pads in place: 80, then zeros up to the bucket.
///
/// # Errors
/// [`TooLong`] above 32,767 bytes; nothing has changed.
pub fn pad(content: &mut Vec<u8>) -> Result<(), TooLong> {
    let bucket = bucket(content.len())?;
    content.push(0x80);
    content.resize(bucket, 0);
    Ok(())
}

/// The length of the content inside `padded`.
///
/// # Errors
/// [`BadPadding`] unless it is exactly what [`pad`] makes.
pub fn unpadded_len(padded: &[u8]) -> Result<usize, BadPadding> {
    let len = padded.iter().rposition(|byte| *byte != 0).ok_or(BadPadding)?;
    let right = padded[len] == 0x80 && bucket(len) == Ok(padded.len());
    if right { Ok(len) } else { Err(BadPadding) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a42_lengths_fall_into_buckets() {
        for (len, expected) in [(0, 256), (255, 256), (256, 512), (511, 512), (512, 1024), (32_767, 32_768)] {
            assert_eq!(bucket(len), Ok(expected));
        }
        assert_eq!(bucket(32_768), Err(TooLong));
    }

    #[test]
    fn a42_only_the_smallest_bucket_is_accepted() {
        let mut padded = vec![7; 10];
        pad(&mut padded).unwrap();
        assert_eq!(unpadded_len(&padded), Ok(10));
        let mut larger = padded.clone();
        larger.resize(512, 0);
        assert_eq!(unpadded_len(&larger), Err(BadPadding));
        assert_eq!(unpadded_len(&padded[..255]), Err(BadPadding));
        padded[200] = 1;
        assert_eq!(unpadded_len(&padded), Err(BadPadding));
        assert_eq!(unpadded_len(&[0; 256]), Err(BadPadding));
        assert_eq!(unpadded_len(&[]), Err(BadPadding));
    }

    proptest! {
        #[test]
        fn padding_comes_off_again(content in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut padded = content.clone();
            pad(&mut padded).unwrap();
            prop_assert!(padded.len().is_power_of_two());
            prop_assert_eq!(&padded[..unpadded_len(&padded).unwrap()], content.as_slice());
        }
    }
}
