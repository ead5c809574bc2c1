use super::*;

fn moving(window: usize, sessions: u8) -> Old<u8> {
    let mut old = Old::new(window);
    for event in [Event::Ready, Event::MayGo, Event::Serving] {
        assert_eq!(old.on(event).len(), 1, "{event:?}");
    }
    for key in 0..sessions {
        old.on(Event::Found(key));
    }
    old.on(Event::Listed);
    old
}

#[test]
fn never_more_than_the_window_stand_still() {
    let mut old = moving(2, 5);
    assert_eq!(old.asked.len(), 2);
    assert_eq!(old.on(Event::AtRest(Some(0), 1)), [Action::Send(1)]);
    assert_eq!(old.on(Event::AtRest(Some(1), 2)), [Action::Send(2)]);
    assert_eq!(
        old.on(Event::Adopted(1)),
        [Action::LetGo(1), Action::Ask(2)]
    );
    assert_eq!(
        old.on(Event::Refused(2)),
        [Action::TakeBack(2), Action::Ask(3)]
    );
    assert_eq!(old.on(Event::Stays(2)), [Action::Ask(4)]);
}

#[test]
fn it_settles_though_sessions_that_cannot_move_go_on_ending() {
    let mut old = moving(2, 1);
    assert_eq!(old.on(Event::Stays(0)), [Action::Report]);
    // A handshake that was under way still moves, and is reported no more.
    assert_eq!(old.on(Event::Found(7)), [Action::Ask(7)]);
    assert_eq!(old.on(Event::AtRest(Some(7), 1)), [Action::Send(1)]);
    assert_eq!(old.on(Event::Empty), []);
    assert_eq!(
        old.on(Event::Adopted(1)),
        [Action::LetGo(1), Action::SayEnd]
    );
    assert_eq!(
        old.on(Event::Closed).last(),
        Some(&Action::Finish(Verdict::Finished))
    );
}

#[test]
fn what_was_said_before_the_link_was_shut_counts() {
    let mut old = moving(2, 2);
    old.on(Event::AtRest(Some(0), 1));
    assert_eq!(
        old.on(Event::TimeUp),
        [Action::Kill, Action::Unask(1), Action::Sever]
    );
    assert_eq!(old.on(Event::AtRest(Some(1), 2)), [Action::TakeBack(2)]);
    assert_eq!(old.on(Event::Adopted(1)), [Action::LetGo(1)]);
    assert_eq!(old.on(Event::Closed), [Action::Finish(Verdict::Failed)]);
}

#[test]
fn what_may_have_been_adopted_is_not_taken_back_if_nobody_can_read_whether_it_was() {
    let mut old = moving(2, 2);
    old.on(Event::AtRest(Some(0), 1));
    let actions = old.on(Event::Unreadable);
    assert!(actions.contains(&Action::LetGo(1)), "{actions:?}");
    assert!(actions.contains(&Action::Sever), "{actions:?}");
}
