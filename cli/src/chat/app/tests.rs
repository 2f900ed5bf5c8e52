use crossterm::event::{KeyCode, KeyModifiers};
use kith_client::{AccountId, Author, ClientMsgId, DeviceId, EntryBody, EntryId};
use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::chat::draw::draw;

const BOB: ConversationId = ConversationId([0xb0; 16]);
const CAROL: ConversationId = ConversationId([0xca; 16]);

fn conversation(id: ConversationId, username: Option<&str>) -> Conversation {
    Conversation {
        id,
        peer: AccountId(id.0),
        username: username.map(str::to_owned),
        accepted: true,
        unread: 0,
        head: 0,
        read: 0,
        peer_delivered: 0,
        peer_read: 0,
        proved: 0,
        verified: false,
        blocked: None,
        at_ms: 0,
    }
}

fn entry(conversation: ConversationId, id: i64, seq: Option<u64>, author: Author, text: &str) -> Entry {
    Entry {
        id: EntryId(id),
        conversation,
        seq,
        at_ms: 1_795_000_000_000,
        author,
        device: DeviceId([1; 16]),
        client_msg_id: ClientMsgId([2; 16]),
        body: EntryBody::Text(text.to_owned()),
        tick: (author == Author::Me).then_some(if seq.is_some() { Tick::Sent } else { Tick::Pending }),
        arrival: kith_client::Arrival(id),
    }
}

fn app() -> App {
    let me = Me { account: AccountId([7; 16]), device: DeviceId([1; 16]), username: "alice".to_owned() };
    let mut app = App::new(me, "http://127.0.0.1:7400".to_owned());
    let conversations = [conversation(BOB, Some("bob")), conversation(CAROL, None)];
    let wishes = take(&mut app, Event::Conversations(conversations.into()));
    assert_eq!(wishes, [Wish::Preview(BOB), Wish::Preview(CAROL), Wish::Follow(BOB)], "the first conversation opens by itself");
    app
}

fn take(app: &mut App, event: Event) -> Vec<Wish> {
    app.take(event, Instant::now())
}

fn press(app: &mut App, code: KeyCode) -> Vec<Wish> {
    take(app, Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn enter(app: &mut App, line: &str) -> Vec<Wish> {
    take(app, Event::Paste(line.to_owned()));
    press(app, KeyCode::Enter).into_iter().filter(|wish| !matches!(wish, Wish::Typing(..))).collect()
}

fn screen(app: &mut App, width: u16, height: u16) -> (String, Vec<Wish>) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut drawn = Drawn::default();
    terminal.draw(|frame| drawn = draw(frame, app)).unwrap();
    let wishes = app.drawn(drawn);
    (terminal.backend().to_string(), wishes)
}

#[test]
fn what_is_entered_is_sent_to_the_open_conversation() {
    let mut app = app();
    assert_eq!(enter(&mut app, "hello"), [Wish::Send(BOB, "hello".to_owned())]);
    assert_eq!(enter(&mut app, "@#caca hi"), [Wish::Send(CAROL, "hi".to_owned())]);
    assert_eq!(enter(&mut app, "@dave hi"), [Wish::StartAndSend("dave".to_owned(), "hi".to_owned())]);
    assert_eq!(enter(&mut app, "/new dave"), [Wish::Start("dave".to_owned())]);
    assert_eq!(enter(&mut app, "/safety"), [Wish::Safety(BOB)]);
    assert_eq!(enter(&mut app, "/quit"), [Wish::Quit]);
}

#[test]
fn a_mistake_gives_the_line_back() {
    let mut app = app();
    assert_eq!(enter(&mut app, "/nwe dave"), []);
    assert_eq!(app.editor.text(), "/nwe dave");
    assert!(app.remark.is_some());
}

#[test]
fn each_conversation_keeps_its_draft() {
    let mut app = app();
    take(&mut app, Event::Paste("half a thought".to_owned()));
    assert_eq!(press(&mut app, KeyCode::Tab), [Wish::Typing(BOB, false), Wish::Follow(CAROL)]);
    assert!(app.editor.is_empty());
    press(&mut app, KeyCode::BackTab);
    assert_eq!(app.editor.text(), "half a thought");
}

#[test]
fn typing_is_told_now_and_then_and_not_for_commands() {
    let mut app = app();
    let now = Instant::now();
    let type_at = |app: &mut App, c, at| app.take(Event::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)), at);
    assert_eq!(type_at(&mut app, 'a', now), [Wish::Typing(BOB, true)]);
    assert_eq!(type_at(&mut app, 'b', now + Duration::from_secs(1)), []);
    assert_eq!(type_at(&mut app, 'c', now + TYPING_AGAIN), [Wish::Typing(BOB, true)]);
    assert_eq!(press(&mut app, KeyCode::Enter), [Wish::Typing(BOB, false), Wish::Send(BOB, "abc".to_owned())]);
    assert_eq!(type_at(&mut app, '/', now), []);
}

#[test]
fn only_what_is_seen_is_marked_as_read() {
    let mut app = app();
    take(&mut app, Event::Focus(false));
    assert_eq!(take(&mut app, Event::Entries(BOB, vec![entry(BOB, 1, Some(1), Author::Peer, "hi")])), []);
    assert_eq!(take(&mut app, Event::Focus(true)), [Wish::MarkRead(BOB, 1)]);
    assert_eq!(take(&mut app, Event::Focus(true)), [], "once is enough");
    app.scroll = 3;
    assert_eq!(take(&mut app, Event::Entries(BOB, vec![entry(BOB, 2, Some(2), Author::Peer, "below")])), []);
    assert_eq!(press(&mut app, KeyCode::Esc), [Wish::MarkRead(BOB, 2)]);
}

#[test]
fn the_last_message_is_fetched_when_a_conversation_moves_and_only_then() {
    let mut app = app();
    let moved = || Event::Conversations([conversation(BOB, Some("bob")), Conversation { head: 4, ..conversation(CAROL, None) }].into());
    assert_eq!(take(&mut app, moved()), [Wish::Preview(CAROL)]);
    assert_eq!(take(&mut app, moved()), []);
    take(&mut app, Event::Preview(CAROL, Some(entry(CAROL, 1, Some(4), Author::Me, "the last\nword"))));
    assert!(screen(&mut app, 100, 20).0.contains("you: the last word"));
}

#[test]
fn a_stranger_gets_no_read_marks_before_being_accepted() {
    let mut app = app();
    let stranger = Conversation { accepted: false, ..conversation(BOB, None) };
    take(&mut app, Event::Conversations([stranger].into()));
    assert_eq!(take(&mut app, Event::Entries(BOB, vec![entry(BOB, 1, Some(1), Author::Peer, "hi")])), []);
    assert!(screen(&mut app, 100, 20).0.contains("wants to chat"));
}

#[test]
fn entries_stand_in_the_order_of_the_log_with_pending_ones_last() {
    let mut app = app();
    take(&mut app, Event::Entries(BOB, vec![entry(BOB, 5, None, Author::Me, "mine"), entry(BOB, 6, Some(2), Author::Peer, "two")]));
    take(&mut app, Event::Entries(BOB, vec![entry(BOB, 7, Some(1), Author::Peer, "one"), entry(BOB, 5, Some(3), Author::Me, "mine")]));
    let texts: Vec<_> = app.timeline.entries().iter().filter_map(Entry::text).collect();
    assert_eq!(texts, ["one", "two", "mine"]);
}

#[test]
fn ticks_follow_the_watermarks() {
    let mut app = app();
    take(&mut app, Event::Entries(BOB, vec![entry(BOB, 1, Some(1), Author::Me, "mine")]));
    assert!(screen(&mut app, 100, 20).0.contains(" ✓ "));
    take(&mut app, Event::Conversations([Conversation { peer_delivered: 1, ..conversation(BOB, Some("bob")) }].into()));
    assert!(screen(&mut app, 100, 20).0.contains(" ✓✓"));
}

#[test]
fn older_messages_are_fetched_at_the_top_once() {
    let mut app = app();
    let entries: Vec<_> = (1..=50).map(|n| entry(BOB, n, Some(n.unsigned_abs() + 100), Author::Peer, "line")).collect();
    take(&mut app, Event::Entries(BOB, entries));
    assert!(!screen(&mut app, 100, 20).1.iter().any(|wish| matches!(wish, Wish::Older(..))));
    for _ in 0..10 {
        press(&mut app, KeyCode::PageUp);
    }
    let is_older = |wishes: &[Wish]| wishes.iter().any(|wish| matches!(wish, Wish::Older(BOB, position) if position.seq == 101));
    assert!(is_older(&screen(&mut app, 100, 20).1));
    assert!(!is_older(&screen(&mut app, 100, 20).1));
    take(&mut app, Event::Older(BOB, Vec::new()));
    assert!(!is_older(&screen(&mut app, 100, 20).1), "there is nothing older");
}

#[test]
fn the_view_stays_where_it_is_while_new_messages_come() {
    let mut app = app();
    take(&mut app, Event::Entries(BOB, (1..=60).map(|n| entry(BOB, n, Some(n.unsigned_abs()), Author::Peer, &format!("line {n}."))).collect()));
    screen(&mut app, 100, 20);
    press(&mut app, KeyCode::PageUp);
    let (before, _) = screen(&mut app, 100, 20);
    assert!(before.contains("line 40."));
    take(&mut app, Event::Entries(BOB, vec![entry(BOB, 61, Some(61), Author::Peer, "new")]));
    screen(&mut app, 100, 20);
    assert_eq!(screen(&mut app, 100, 20).0, before);
}

#[test]
fn nothing_that_others_write_reaches_the_terminal_as_a_control() {
    let mut app = app();
    let evil = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\u{9b}31m\u{202e}evil";
    take(&mut app, Event::Conversations([conversation(BOB, Some(evil))].into()));
    take(&mut app, Event::Entries(BOB, vec![entry(BOB, 1, Some(1), Author::Peer, evil), entry(BOB, 2, Some(2), Author::Me, evil)]));
    take(&mut app, Event::Remark(evil.to_owned()));
    take(&mut app, Event::Paste(evil.to_owned()));
    for popup in [None, Some(Popup { title: "x".to_owned(), lines: vec!["y".to_owned()] })] {
        app.popup = popup;
        let (screen, _) = screen(&mut app, 120, 30);
        assert!(screen.chars().all(|c| c == '\n' || !c.is_control()), "{screen:?}");
        assert!(!screen.contains('\u{202e}'));
    }
}

#[test]
fn no_size_of_terminal_is_too_small() {
    let mut app = app();
    take(
        &mut app,
        Event::Entries(BOB, vec![entry(BOB, 1, Some(1), Author::Peer, "你好 👩\u{200d}👩\u{200d}👧 a long line of words that must be wrapped")]),
    );
    take(&mut app, Event::Paste("你好 and a long line being written, longer than any of these".to_owned()));
    for popup in [false, true] {
        if popup {
            enter(&mut app, "/help");
        }
        for (width, height) in [(1, 1), (2, 3), (5, 5), (20, 4), (63, 10), (64, 10), (65, 2), (200, 60), (300, 1)] {
            screen(&mut app, width, height);
        }
    }
}
