//! What an element of the stream means to the generator.

use super::BODY_HEAD;

/// The beginning of a body that this generator made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Body {
    /// 1, 2, 3 … of this sender.
    pub(crate) number: u64,
    /// Nanoseconds since the run's beginning at which it was due.
    pub(crate) due: u64,
}

impl Body {
    /// Writes it, `size` bytes in all.
    pub(crate) fn write(self, size: usize, out: &mut Vec<u8>) {
        use std::io::Write as _;
        write!(out, "{:016x}{:016x}", self.number, self.due).expect("memory takes everything");
        // Something that neither compresses nor repeats within a body.
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        out.extend((BODY_HEAD..size).map(|at| DIGITS[usize::from(at.wrapping_mul(0x9e37_79b9).to_be_bytes()[5] & 63)]));
    }

    fn read(text: &[u8]) -> Option<Self> {
        let field = |range| u64::from_str_radix(std::str::from_utf8(text.get(range)?).ok()?, 16).ok();
        Some(Self { number: field(0..16)?, due: field(16..BODY_HEAD)? })
    }
}

/// An element, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    /// The stream's opening tag.
    Opened,
    /// What the server offers.
    Features,
    /// Logged in.
    Success,
    /// The answer to a request was a result.
    Result,
    /// Stream management is on.
    Enabled,
    /// A message of ours at its reader.
    Message(Body),
    /// Presence, or another stanza that counts and says nothing.
    Stanza,
    /// The server asks how many stanzas have been handled.
    Request,
    /// The server has handled so many stanzas.
    Handled(u32),
    /// A refusal of whatever kind, or the end of the stream.
    Refused,
    /// Anything else.
    Other,
}

impl Element {
    /// From its text.
    pub(crate) fn read(text: &[u8]) -> Self {
        match name(text) {
            b"stream:stream" => Self::Opened,
            b"stream:features" => Self::Features,
            b"success" => Self::Success,
            b"enabled" => Self::Enabled,
            b"message" => find(text, b"<body>").filter(|_| !is_error(text)).and_then(Body::read).map_or(Self::Refused, Self::Message),
            b"iq" if is_error(text) => Self::Refused,
            b"iq" => Self::Result,
            b"presence" => Self::Stanza,
            b"r" => Self::Request,
            b"a" => attribute(text, b" h=").map_or(Self::Other, Self::Handled),
            b"failure" | b"failed" | b"stream:error" | b"/stream:stream" => Self::Refused,
            _ => Self::Other,
        }
    }

    /// Whether stream management counts it.
    pub(crate) fn is_counted(self) -> bool {
        matches!(self, Self::Message(_) | Self::Stanza | Self::Result)
    }
}

fn name(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix(b"<").unwrap_or(text);
    let ends = |(at, byte): (usize, &u8)| (byte.is_ascii_whitespace() || *byte == b'>' || (*byte == b'/' && at > 0)).then_some(at);
    &text[..text.iter().enumerate().find_map(ends).unwrap_or(text.len())]
}

fn is_error(text: &[u8]) -> bool {
    let opening = text.split(|byte| *byte == b'>').next().unwrap_or_default();
    find(opening, b"type='error'").or_else(|| find(opening, b"type=\"error\"")).is_some()
}

fn attribute(text: &[u8], key: &[u8]) -> Option<u32> {
    let value = find(text, key)?.get(1..)?;
    let digits = &value[..value.iter().position(|byte| !byte.is_ascii_digit())?];
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What follows the first occurrence.
fn find<'a>(text: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    text.windows(what.len()).position(|window| window == what).map(|at| &text[at + what.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_it_was_written() {
        let body = Body { number: 77, due: 1 << 40 };
        let mut text = b"<message to='a' type='chat'><body>".to_vec();
        let before = text.len();
        body.write(256, &mut text);
        assert_eq!(text.len() - before, 256);
        assert!(text[before..].iter().all(u8::is_ascii_graphic));
        text.extend_from_slice(b"</body></message>");
        assert_eq!(Element::read(&text), Element::Message(body));
    }

    #[test]
    fn elements_are_known_by_their_names() {
        let cases = [
            ("<stream:stream id='1'>", Element::Opened),
            ("</stream:stream>", Element::Refused),
            ("<success xmlns='x'/>", Element::Success),
            ("<enabled xmlns='urn:xmpp:sm:3'/>", Element::Enabled),
            ("<iq type='result' id='b'><bind/></iq>", Element::Result),
            ("<iq id='b' type='error'><error/></iq>", Element::Refused),
            ("<presence from='a'/>", Element::Stanza),
            ("<message type='error'><body>00000000000000010000000000000002</body></message>", Element::Refused),
            ("<message><body>short</body></message>", Element::Refused),
            ("<r xmlns='urn:xmpp:sm:3'/>", Element::Request),
            ("<r/>", Element::Request),
            ("<a xmlns='urn:xmpp:sm:3' h='4242'/>", Element::Handled(4242)),
            ("<a h=\"1\"/>", Element::Handled(1)),
            ("<a h='x'/>", Element::Other),
            ("<foo/>", Element::Other),
        ];
        for (text, expected) in cases {
            assert_eq!(Element::read(text.as_bytes()), expected, "{text}");
        }
    }
}
