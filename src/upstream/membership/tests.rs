use proptest::prelude::*;

use super::*;

const REFRESH: Duration = Duration::from_secs(10);
const HOLD: Duration = Duration::from_secs(30);

fn at(host: u8, port: u16) -> SocketAddr {
    ([10, 0, 0, host], port).into()
}

fn name(host: &str) -> Name {
    Name {
        host: host.to_owned(),
        port: 80,
    }
}

fn named(host: &str) -> Entry {
    Entry::Name {
        name: name(host),
        refresh: REFRESH,
        hold: HOLD,
    }
}

fn addresses(membership: &Membership) -> Vec<SocketAddr> {
    let members = membership.members().iter();
    members.map(|(address, _)| *address).collect()
}

/// Answers that come one after the other, each when it is due, and who has left by then.
fn left_after(membership: &mut Membership, answers: &[&[SocketAddr]]) -> Vec<SocketAddr> {
    let mut now = Instant::now();
    let mut left = Vec::new();
    for answer in answers {
        now = membership.next_look(&name("a"), now);
        left.extend(
            membership
                .answered(&name("a"), answer, now)
                .changes
                .departed,
        );
    }
    left
}

/// `after` in place of `before`.
fn followed(before: &Membership, after: Vec<Entry>, now: Instant) -> (Membership, Changes) {
    let mut next = Membership::new(after);
    let changes = next.follow(before, now);
    (next, changes)
}

#[test]
fn one_wrong_answer_tells_nobody_to_go_however_rarely_the_name_is_looked_up() {
    for refresh in [1, 10, 30, 300] {
        let mut membership = Membership::new(vec![Entry::Name {
            name: name("a"),
            refresh: Duration::from_secs(refresh),
            hold: HOLD,
        }]);
        let (right, wrong) = ([at(1, 80)], [at(9, 80)]);
        let left = left_after(&mut membership, &[&right, &wrong, &right]);
        assert_eq!(left, [], "looked up every {refresh} s");
        assert!(addresses(&membership).contains(&at(1, 80)));
    }
}

#[test]
fn a_server_that_is_missing_stays_for_the_hold_and_then_goes() {
    let mut membership = Membership::new(vec![named("a")]);
    let start = Instant::now();
    let seconds = |seconds| start + Duration::from_secs(seconds);
    membership.answered(&name("a"), &[at(1, 80), at(2, 80)], start);
    for second in [10, 20, 30, 39] {
        let heard = membership.answered(&name("a"), &[at(1, 80)], seconds(second));
        assert_eq!(heard.changes, Changes::default(), "after {second} s");
        assert_eq!(heard.is_news, second == 10);
    }
    assert_eq!(
        membership.found(&name("a")),
        Some(vec![
            (at(1, 80), Presence::Present),
            (at(2, 80), Presence::Missing)
        ])
    );
    let heard = membership.answered(&name("a"), &[at(1, 80)], seconds(40));
    assert_eq!(heard.changes.departed, [at(2, 80)]);
    assert_eq!(addresses(&membership), [at(1, 80)]);
}

#[test]
fn without_a_hold_a_server_goes_with_the_first_answer_that_lacks_it() {
    let mut membership = Membership::new(vec![Entry::Name {
        name: name("a"),
        refresh: REFRESH,
        hold: Duration::ZERO,
    }]);
    let (one, two) = ([at(1, 80)], [at(2, 80)]);
    assert_eq!(left_after(&mut membership, &[&one, &two]), [at(1, 80)]);
}

#[test]
fn a_failed_lookup_removes_nobody_and_is_news_once() {
    let mut membership = Membership::new(vec![named("a")]);
    let start = Instant::now();
    membership.answered(&name("a"), &[at(1, 80), at(2, 80)], start);
    membership.answered(&name("a"), &[at(1, 80)], start + REFRESH);
    let failed = |membership: &mut Membership, seconds| {
        let now = start + Duration::from_secs(seconds);
        membership.failed(&name("a"), "refused".to_owned(), now)
    };
    for (seconds, is_news) in [(20, true), (200, false), (2000, false)] {
        let heard = failed(&mut membership, seconds);
        assert_eq!((heard.changes.is_empty(), heard.is_news), (true, is_news));
    }
    assert_eq!(addresses(&membership), [at(1, 80), at(2, 80)]);
    let later = start + Duration::from_secs(2010);
    let heard = membership.answered(&name("a"), &[at(1, 80)], later);
    assert_eq!(heard.changes.departed, [at(2, 80)]);
    assert!(heard.is_news);
}

#[test]
fn a_name_is_looked_up_each_refresh_and_when_a_hold_ends() {
    let mut membership = Membership::new(vec![Entry::Name {
        name: name("a"),
        refresh: Duration::from_secs(20),
        hold: HOLD,
    }]);
    let start = Instant::now();
    let due = |membership: &Membership| {
        let next = membership.next_look(&name("a"), start);
        next.duration_since(start).as_secs()
    };
    let seconds = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(due(&membership), 0);
    membership.answered(&name("a"), &[at(1, 80)], start);
    assert_eq!(due(&membership), 20);
    membership.answered(&name("a"), &[at(2, 80)], seconds(20));
    assert_eq!(due(&membership), 40);
    membership.answered(&name("a"), &[at(2, 80)], seconds(40));
    assert_eq!(due(&membership), 50);
    // Over while nobody answers: then as at any other time.
    membership.failed(&name("a"), String::new(), seconds(50));
    assert_eq!(due(&membership), 70);
}

#[test]
fn the_same_server_is_one_member_for_its_first_entry() {
    let mut membership = Membership::new(vec![
        Entry::Address(at(1, 80)),
        named("a"),
        Entry::Address(at(2, 80)),
        named("b"),
    ]);
    let now = Instant::now();
    membership.answered(&name("b"), &[at(3, 80), at(1, 80)], now);
    membership.answered(&name("a"), &[at(2, 80), at(1, 80)], now);
    assert_eq!(
        membership.members(),
        [(at(1, 80), 0), (at(2, 80), 1), (at(3, 80), 3)]
    );
}

#[test]
fn an_address_that_the_file_no_longer_has_is_gone_at_once() {
    let before = Membership::new(vec![Entry::Address(at(1, 80)), Entry::Address(at(2, 80))]);
    let (_, changes) = followed(&before, vec![Entry::Address(at(2, 80))], Instant::now());
    assert_eq!(changes.departed, [at(1, 80)]);
    // A name on another port does not explain it.
    let after = vec![Entry::Name {
        name: Name {
            host: "a".to_owned(),
            port: 81,
        },
        refresh: REFRESH,
        hold: HOLD,
    }];
    let (_, changes) = followed(&before, after, Instant::now());
    assert_eq!(changes.departed, [at(1, 80), at(2, 80)]);
}

#[test]
fn a_server_that_is_only_called_otherwise_stays() {
    let now = Instant::now();
    let before = Membership::new(vec![Entry::Address(at(1, 80)), Entry::Address(at(2, 80))]);
    let (mut next, changes) = followed(&before, vec![named("a")], now);
    assert_eq!(changes, Changes::default());
    assert_eq!(next.unknown()[0].stand_ins, [at(1, 80), at(2, 80)]);
    let heard = next.answered(&name("a"), &[at(2, 80)], now);
    assert_eq!(heard.changes.departed, [at(1, 80)]);
    let (mut last, changes) = followed(&next, vec![named("b")], now);
    assert_eq!(changes, Changes::default());
    let heard = last.answered(&name("b"), &[at(2, 80)], now);
    assert_eq!(heard.changes, Changes::default());
    let (_, changes) = followed(&last, vec![Entry::Address(at(2, 80))], now);
    assert_eq!(changes, Changes::default());
}

#[test]
fn stand_ins_go_when_the_hold_is_over_and_reloads_give_them_no_more_time() {
    let start = Instant::now();
    let before = Membership::new(vec![Entry::Address(at(1, 80))]);
    let (next, _) = followed(&before, vec![named("a")], start);
    let later = start + Duration::from_secs(20);
    for entries in [vec![named("a"), named("b")], vec![named("b")]] {
        let (mut next, _) = followed(&next, entries, later);
        let of = next.unknown()[0].name.clone();
        next.failed(&of, String::new(), start + Duration::from_secs(29));
        assert_eq!(addresses(&next), [at(1, 80)]);
        // Each unknown name has it in its own list.
        for name in next.names() {
            next.failed(&name, String::new(), start + HOLD);
        }
        assert_eq!(addresses(&next), []);
    }
}

#[test]
fn what_the_one_before_hears_meanwhile_is_taken_over() {
    let now = Instant::now();
    let mut before = Membership::new(vec![named("a"), Entry::Address(at(7, 80))]);
    before.answered(&name("a"), &[at(1, 80)], now);
    let mut next = Membership::new(vec![named("a"), named("b")]);
    next.follow(&before, now);
    next.answered(&name("b"), &[at(3, 80)], now);
    before.answered(&name("a"), &[at(1, 80), at(2, 80)], now + REFRESH);
    let changes = next.follow(&before, now + REFRESH);
    assert_eq!(addresses(&next), [at(1, 80), at(2, 80), at(3, 80)]);
    assert_eq!(changes.added, [at(3, 80)]);
    assert_eq!(changes.departed, [at(7, 80)]);
}

#[test]
fn the_next_process_goes_on_from_what_was_known() {
    let now = Instant::now();
    let known = |host: &str, found: &[SocketAddr]| (name(host), found.to_vec());
    let mut new = Membership::new(vec![named("a"), named("b"), named("c")]);
    new.answered(&name("b"), &[at(2, 80)], now);
    let answers = vec![known("a", &[at(1, 80)]), known("b", &[at(3, 80)])];
    new.inherit(answers, &[at(1, 80), at(3, 80), at(4, 80), at(5, 81)], now);
    // By a; by b; missing from b; as it may be c's.
    let all = [at(1, 80), at(2, 80), at(3, 80), at(4, 80)];
    assert_eq!(addresses(&new), all);
    let later = now + HOLD;
    new.failed(&name("c"), String::new(), later);
    new.answered(&name("b"), &[at(2, 80)], later);
    assert_eq!(addresses(&new), all[..2]);
}

/// What happens to an upstream with one name.
#[derive(Debug, Clone)]
enum Event {
    Answer(BTreeSet<u8>),
    Failure,
    Reload,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => proptest::collection::btree_set(1..5_u8, 1..4).prop_map(Event::Answer),
        1 => Just(Event::Failure),
        1 => Just(Event::Reload),
    ]
}

proptest! {
    /// Against a model that keeps the whole history: an address is a member exactly if an answer
    /// of the last `hold` had it, or none came since then that could have removed it.
    #[test]
    fn a_server_leaves_only_when_all_answers_of_a_whole_hold_lack_it(
        events in proptest::collection::vec((event(), 1..20_u64), 1..60),
    ) {
        let entries = || vec![Entry::Address(at(9, 80)), named("a")];
        let mut membership = Membership::new(entries());
        let mut now = Instant::now();
        // Since when each address is missing.
        let mut model: BTreeMap<SocketAddr, Option<Instant>> = BTreeMap::new();
        for (event, seconds) in events {
            now += Duration::from_secs(seconds);
            let had = addresses(&membership);
            let changes = match event {
                Event::Answer(hosts) => {
                    let answer: Vec<_> = hosts.iter().map(|host| at(*host, 80)).collect();
                    for address in &answer {
                        model.insert(*address, None);
                    }
                    for (address, missing) in &mut model {
                        if !answer.contains(address) {
                            missing.get_or_insert(now);
                        }
                    }
                    model.retain(|_, missing| missing.is_none_or(|since| now - since < HOLD));
                    membership.answered(&name("a"), &answer, now).changes
                }
                Event::Failure => membership.failed(&name("a"), String::new(), now).changes,
                Event::Reload => {
                    let (next, changes) = followed(&membership, entries(), now);
                    membership = next;
                    changes
                }
            };
            let has = addresses(&membership);
            let expected = [at(9, 80)].into_iter().chain(model.keys().copied());
            prop_assert_eq!(&has, &expected.collect::<Vec<_>>());
            let added: Vec<_> = has.iter().filter(|a| !had.contains(a)).copied().collect();
            let departed: Vec<_> = had.iter().filter(|a| !has.contains(a)).copied().collect();
            prop_assert_eq!(changes, Changes { added, departed });
            prop_assert!(membership.next_look(&name("a"), now) <= now + REFRESH);
        }
    }

    /// Whatever changes in the file: who is in both stays, nobody goes whom a name may mean that
    /// is not known yet, and once all names are known the members are those of the new file.
    #[test]
    fn a_reload_tells_nobody_to_go_because_of_a_name_that_is_not_known_yet(
        before in proptest::collection::vec(0..6_usize, 0..5),
        after in proptest::collection::vec(0..6_usize, 0..5),
        found in proptest::collection::vec(
            proptest::collection::btree_set(1..5_u8, 1..4), 3),
    ) {
        let entry = |choice: &usize| match choice {
            0..3 => Entry::Address(at(*choice as u8 + 1, 80)),
            _ => named(["a", "b", "c"][choice - 3]),
        };
        let answer = |membership: &mut Membership, now| {
            for of in membership.names() {
                let number = (of.host.as_bytes()[0] - b'a') as usize;
                let answer: Vec<_> = found[number].iter().map(|host| at(*host, 80)).collect();
                membership.answered(&of, &answer, now);
            }
        };
        let now = Instant::now();
        let mut old = Membership::new(before.iter().map(entry).collect());
        answer(&mut old, now);
        let (mut new, changes) = followed(&old, after.iter().map(entry).collect(), now);
        if new.unknown().is_empty() {
            let mut fresh = Membership::new(after.iter().map(entry).collect());
            answer(&mut fresh, now);
            prop_assert_eq!(addresses(&new), addresses(&fresh));
        } else {
            prop_assert_eq!(&changes.departed, &[]);
        }
        // Again changes nothing.
        new.follow(&old, now + HOLD / 2);
        let again = addresses(&new);
        new.follow(&old, now + HOLD / 2);
        prop_assert_eq!(addresses(&new), again);
        answer(&mut new, now + HOLD / 2);
        let mut fresh = Membership::new(after.iter().map(entry).collect());
        answer(&mut fresh, now);
        prop_assert_eq!(addresses(&new), addresses(&fresh));
    }
}
