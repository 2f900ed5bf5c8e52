//! Cuts what an XMPP server sends into the stream's own elements, as the bytes arrive.

use std::ops::Range;

/// No element that a server sends here comes near.
const LARGEST: usize = 1 << 20;
const DEEPEST: u32 = 64;

/// What is not XMPP, or more than is sensible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server sent what is no XMPP stream")
    }
}

impl std::error::Error for Malformed {}

/// Where in the text the scanner is.
#[derive(Debug, Clone, Copy, Default)]
enum At {
    /// Between tags.
    #[default]
    Text,
    /// Behind a `<`.
    Tag,
    /// In an opening tag; whether the byte before was a slash.
    Opening { slash: bool },
    /// In an attribute's value, until this quote.
    Quoted(u8),
    /// In a closing tag.
    Closing,
    /// In `<?xml … ?>`.
    Declaration,
}

/// Holds what has arrived and not been taken. The opening tag of the stream counts as an element of its own, and so does its closing tag.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    buffer: Vec<u8>,
    /// Up to here it has been looked at.
    looked: usize,
    /// Where the element under way begins.
    start: usize,
    depth: u32,
    at: At,
}

impl Scanner {
    /// Where to put what arrives.
    pub(crate) fn input(&mut self) -> &mut Vec<u8> {
        let done = if matches!(self.at, At::Text) && self.depth <= 1 { self.looked } else { self.start };
        self.buffer.drain(..done);
        (self.looked, self.start) = (self.looked - done, self.start.saturating_sub(done));
        &mut self.buffer
    }

    /// The next element that is there in full.
    ///
    /// # Errors
    /// If this is no XMPP stream, or an element is larger than 1 MiB.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Malformed> {
        let found = self.advance()?;
        Ok(found.map(|range| &self.buffer[range]))
    }

    fn advance(&mut self) -> Result<Option<Range<usize>>, Malformed> {
        while let Some(&byte) = self.buffer.get(self.looked) {
            self.looked += 1;
            if self.step(byte)? {
                return Ok(Some(self.start..self.looked));
            }
        }
        if self.buffer.len() - self.start > LARGEST { Err(Malformed) } else { Ok(None) }
    }

    /// Takes a byte; true if an element ends with it.
    fn step(&mut self, byte: u8) -> Result<bool, Malformed> {
        self.at = match (self.at, byte) {
            (At::Text, b'<') => {
                if self.depth <= 1 {
                    self.start = self.looked - 1;
                }
                At::Tag
            }
            (At::Tag, b'/') => At::Closing,
            (At::Tag, b'?') => At::Declaration,
            // Comments, CDATA and document types have no place in a stream.
            (At::Tag, b'!') => return Err(Malformed),
            (At::Opening { slash }, b'>') => return self.opened(slash),
            (At::Opening { .. }, quote @ (b'\'' | b'"')) => At::Quoted(quote),
            (At::Tag | At::Opening { .. }, _) => At::Opening { slash: byte == b'/' },
            (At::Quoted(quote), _) if byte == quote => At::Opening { slash: false },
            (At::Closing, b'>') => return self.closed(),
            (At::Declaration, b'>') => At::Text,
            (at, _) => at,
        };
        Ok(false)
    }

    fn opened(&mut self, empty: bool) -> Result<bool, Malformed> {
        self.at = At::Text;
        if empty {
            return if self.depth == 0 { Err(Malformed) } else { Ok(self.depth == 1) };
        }
        self.depth += 1;
        if self.depth > DEEPEST { Err(Malformed) } else { Ok(self.depth == 1) }
    }

    fn closed(&mut self) -> Result<bool, Malformed> {
        self.at = At::Text;
        self.depth = self.depth.checked_sub(1).ok_or(Malformed)?;
        Ok(self.depth <= 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = "<?xml version='1.0'?><stream:stream id='1' xmlns='jabber:client'><stream:features><a/><b>x</b></stream:features>\
                          <message from=\"a>b/\" to='c'><body>1 &lt; 2 / 3</body><x xmlns='y'/></message>\n <r xmlns='urn:xmpp:sm:3'/><a h='7'/>\
                          </stream:stream>";
    const ELEMENTS: [&str; 6] = [
        "<stream:stream id='1' xmlns='jabber:client'>",
        "<stream:features><a/><b>x</b></stream:features>",
        "<message from=\"a>b/\" to='c'><body>1 &lt; 2 / 3</body><x xmlns='y'/></message>",
        "<r xmlns='urn:xmpp:sm:3'/>",
        "<a h='7'/>",
        "</stream:stream>",
    ];

    fn scan(pieces: impl Iterator<Item = Vec<u8>>) -> Result<Vec<String>, Malformed> {
        let (mut scanner, mut found) = (Scanner::default(), Vec::new());
        for piece in pieces {
            scanner.input().extend_from_slice(&piece);
            while let Some(element) = scanner.next()? {
                found.push(String::from_utf8_lossy(element).into_owned());
            }
        }
        Ok(found)
    }

    #[test]
    fn elements_are_found_whole_and_byte_by_byte() {
        assert_eq!(scan([STREAM.into()].into_iter()).unwrap(), ELEMENTS);
        assert_eq!(scan(STREAM.bytes().map(|byte| vec![byte])).unwrap(), ELEMENTS);
    }

    #[test]
    fn what_is_taken_is_not_kept() {
        let mut scanner = Scanner::default();
        scanner.input().extend_from_slice(b"<s><a h='1'/><mess");
        while scanner.next().unwrap().is_some() {}
        assert_eq!(scanner.input(), b"<mess");
        scanner.input().extend_from_slice(b"age/>");
        assert_eq!(scanner.next().unwrap(), Some(&b"<message/>"[..]));
        assert!(scanner.input().is_empty());
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        for text in ["</a>", "<a/>", "<s><!-- -->", "<s></s></s>"] {
            assert_eq!(scan([text.into()].into_iter()), Err(Malformed), "{text}");
        }
        assert_eq!(scan([b"<s>".to_vec(), b"<a>".repeat(100)].into_iter()), Err(Malformed));
        assert_eq!(scan([b"<s><a>".to_vec(), vec![b'x'; LARGEST + 9]].into_iter()), Err(Malformed));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_it_is_cut(cuts in proptest::collection::vec(0..STREAM.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| STREAM.as_bytes()[ends[0]..ends[1]].to_vec());
            prop_assert_eq!(scan(pieces).unwrap(), ELEMENTS);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = scan(bytes.chunks(7).map(<[u8]>::to_vec));
        }
    }
}
