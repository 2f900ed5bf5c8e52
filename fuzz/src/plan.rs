//! An input read as a sequence of decisions.

/// What is left of an input. At its end everything reads as zeros.
#[derive(Clone, Copy)]
pub struct Plan<'a>(pub &'a [u8]);

impl<'a> Plan<'a> {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// At most so many bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes behind their length, which is one byte.
    pub fn short(&mut self) -> &'a [u8] {
        let length = self.u8();
        self.bytes(length.into())
    }

    /// The same as text; nothing if it is none.
    pub fn text(&mut self) -> &'a str {
        std::str::from_utf8(self.short()).unwrap_or_default()
    }

    /// Exactly so many bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.bytes(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// A number: small ones are as likely as those at the ends of the types.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=199 => small.into(),
            200..=219 => self.u16().into(),
            220..=229 => u64::MAX - u64::from(self.u8()),
            230..=239 => (i64::MAX as u64).wrapping_add(u64::from(self.u8())).wrapping_sub(128),
            _ => u64::from_be_bytes(self.array()),
        }
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }
}
