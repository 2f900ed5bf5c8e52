//! Body and slices of an entry in one blob, so that a row costs one value and a reader finds its own slice without looking at the others' bytes.
//!
//! `body length u32 ‖ slices u16 ‖ slices × (device ‖ length u32) ‖ body ‖ slices`, little-endian. How a device is named, and in how many bytes, is up to
//! the implementation of the log.

/// What a device reads from a blob.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View<'a> {
    pub(super) body: &'a [u8],
    pub(super) slice: Option<&'a [u8]>,
}

const HEADER: usize = 6;
const LENGTH: usize = 4;

/// How many bytes [`encode`] makes.
pub(super) fn encoded_len<'a, const N: usize>(body: &[u8], slices: impl Iterator<Item = ([u8; N], &'a [u8])>) -> usize {
    HEADER + body.len() + slices.map(|(_, slice)| N + LENGTH + slice.len()).sum::<usize>()
}

/// Appends to `out`. `None` if lengths do not fit, which limits on frames exclude.
pub(super) fn encode<'a, const N: usize>(out: &mut Vec<u8>, body: &[u8], slices: impl Iterator<Item = ([u8; N], &'a [u8])> + Clone) -> Option<()> {
    out.extend_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
    out.extend_from_slice(&u16::try_from(slices.clone().count()).ok()?.to_le_bytes());
    for (device, slice) in slices.clone() {
        out.extend_from_slice(&device);
        out.extend_from_slice(&u32::try_from(slice.len()).ok()?.to_le_bytes());
    }
    out.extend_from_slice(body);
    slices.for_each(|(_, slice)| out.extend_from_slice(slice));
    Some(())
}

/// The parts for `device`. `None` if the blob is damaged.
pub(super) fn view<const N: usize>(data: &[u8], device: [u8; N]) -> Option<View<'_>> {
    let body_len = usize::try_from(u32::from_le_bytes(data.get(..4)?.try_into().ok()?)).ok()?;
    let count = usize::from(u16::from_le_bytes(data.get(4..HEADER)?.try_into().ok()?));
    let (index, content) = data.get(HEADER..)?.split_at_checked(count * (N + LENGTH))?;
    let (body, mut slices) = content.split_at_checked(body_len)?;
    for entry in index.chunks_exact(N + LENGTH) {
        let len = usize::try_from(u32::from_le_bytes(entry[N..].try_into().ok()?)).ok()?;
        let (slice, rest) = slices.split_at_checked(len)?;
        if entry[..N] == device {
            return Some(View { body, slice: Some(slice) });
        }
        slices = rest;
    }
    Some(View { body, slice: None })
}

/// What is taken out of a blob lies in it, and what was put into one is what comes out.
#[cfg(fuzzing)]
pub(super) fn check(data: &[u8], devices: &[i64]) {
    let mut slices = Vec::new();
    for device in devices {
        let device = device.to_le_bytes();
        let Some(View { body, slice }) = view(data, device) else { continue };
        assert!(body.len() + slice.map_or(0, <[u8]>::len) + HEADER <= data.len(), "more than there is");
        slices.push((device, slice.unwrap_or_default()));
    }
    slices.sort_unstable();
    slices.dedup_by_key(|(device, _)| *device);
    let body = view(data, [0; 8]).map_or(data, |view| view.body);
    let mut blob = Vec::new();
    encode(&mut blob, body, slices.iter().copied()).expect("small");
    for (device, slice) in &slices {
        assert_eq!(view(&blob, *device), Some(View { body, slice: Some(slice) }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(n: usize) -> [u8; 8] {
        n.to_le_bytes()
    }

    proptest! {
        #[test]
        fn each_device_finds_its_own_slice(body: Vec<u8>, slices: Vec<Vec<u8>>) {
            let mut out = Vec::new();
            let named = || slices.iter().enumerate().map(|(n, s)| (name(n), s.as_slice()));
            encode(&mut out, &body, named()).unwrap();
            prop_assert_eq!(out.len(), encoded_len(&body, named()));
            for (n, slice) in slices.iter().enumerate() {
                prop_assert_eq!(view(&out, name(n)).unwrap(), View { body: &body, slice: Some(slice) });
            }
            prop_assert_eq!(view(&out, name(usize::MAX)).unwrap(), View { body: &body, slice: None });
        }

        #[test]
        fn damage_is_no_panic(data: Vec<u8>, device: [u8; 16]) {
            let _ = view(&data, device);
        }
    }
}
