//! What a line of input means, in the terminal client and in line mode alike.

/// A line that was entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing.
    Empty,
    /// Text for the conversation at hand.
    Text(String),
    /// Text for somebody by name.
    To(String, String),
    /// `/new NAME`: the conversation with somebody, begun if there is none.
    New(String),
    /// `/list`: all conversations.
    List,
    /// `/history [N]`: the newest N entries.
    History(usize),
    /// `/safety`: the safety number.
    Safety,
    /// `/verify`: the safety number was compared and is equal.
    Verify(bool),
    /// `/accept`: take up a conversation that somebody else began.
    Accept,
    /// `/hide on|off`: whether others see when this user is there.
    Hide(bool),
    /// `/devices`: this account's devices.
    Devices,
    /// `/help`.
    Help,
    /// `/quit`.
    Quit,
    /// A command that there is not, or with the wrong arguments; says so.
    Wrong(String),
}

/// The commands and what they do, for help.
pub(super) const COMMANDS: [(&str, &str); 11] = [
    ("/new NAME", "open the conversation with NAME, beginning it if there is none"),
    ("@NAME TEXT", "write TEXT to NAME"),
    ("/list", "all conversations"),
    ("/history [N]", "the newest N messages (50)"),
    ("/safety", "the safety number, to compare with the other"),
    ("/verify, /unverify", "note that the safety number was compared and is equal, or take it back"),
    ("/accept", "take up a conversation that somebody else began"),
    ("/hide on, /hide off", "whether others see when you are online"),
    ("/devices", "your account's devices"),
    ("/help", "this list"),
    ("/quit", "leave; what is not sent yet is sent the next time"),
];

/// Reads a line. A line that begins with `//` is text that begins with `/`, and `@@` likewise.
pub(super) fn parse(line: &str) -> Line {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.trim().is_empty() {
        return Line::Empty;
    }
    if line.starts_with("//") || line.starts_with("@@") {
        return Line::Text(line[1..].to_owned());
    }
    if let Some(rest) = line.strip_prefix('@') {
        return match rest.split_once(' ') {
            Some((name, text)) if !name.is_empty() && !text.trim().is_empty() => Line::To(name.to_owned(), text.to_owned()),
            _ => Line::Wrong("write @NAME TEXT".to_owned()),
        };
    }
    if !line.starts_with('/') {
        return Line::Text(line.to_owned());
    }
    let mut words = line.split_whitespace();
    let (command, argument, rest) = (words.next().unwrap_or_default(), words.next(), words.next());
    match (command, argument, rest) {
        ("/new" | "/open", Some(name), None) => Line::New(name.trim_start_matches('@').to_owned()),
        ("/list", None, None) => Line::List,
        ("/history", None, None) => Line::History(50),
        ("/history", Some(count), None) => match count.parse() {
            Ok(count @ 1..=500) => Line::History(count),
            _ => Line::Wrong("/history takes a number from 1 to 500".to_owned()),
        },
        ("/safety", None, None) => Line::Safety,
        ("/verify", None, None) => Line::Verify(true),
        ("/unverify", None, None) => Line::Verify(false),
        ("/accept", None, None) => Line::Accept,
        ("/hide", Some("on"), None) => Line::Hide(true),
        ("/hide", Some("off"), None) => Line::Hide(false),
        ("/devices", None, None) => Line::Devices,
        ("/help" | "/?", None, None) => Line::Help,
        ("/quit" | "/exit" | "/q", None, None) => Line::Quit,
        ("/new" | "/open" | "/hide", _, _) => Line::Wrong(format!("{command} takes one word more; see /help")),
        _ => Line::Wrong(format!("no such command: {command} (see /help; to write a line that begins with /, begin it with //)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_help_says() {
        let cases = [
            ("", Line::Empty),
            ("  \r\n", Line::Empty),
            ("hello /new", Line::Text("hello /new".to_owned())),
            ("  indented", Line::Text("  indented".to_owned())),
            ("/new bob", Line::New("bob".to_owned())),
            ("/new @bob", Line::New("bob".to_owned())),
            ("@bob hi there", Line::To("bob".to_owned(), "hi there".to_owned())),
            ("/history", Line::History(50)),
            ("/history 7", Line::History(7)),
            ("/hide on", Line::Hide(true)),
            ("/unverify", Line::Verify(false)),
            ("/quit", Line::Quit),
            ("//new", Line::Text("/new".to_owned())),
            ("@@bob", Line::Text("@bob".to_owned())),
        ];
        for (line, meaning) in cases {
            assert_eq!(parse(line), meaning, "{line:?}");
        }
    }

    #[test]
    fn mistakes_are_never_sent_as_text() {
        for line in ["/nwe bob", "/new", "/new bob carol", "/history 0", "/history x", "/hide", "@bob", "@ hi", "/"] {
            assert!(matches!(parse(line), Line::Wrong(_)), "{line:?}");
        }
    }
}
