use proptest::prelude::*;

use super::*;

const HERE: u64 = 1;
const NOW: u64 = 1_000_000_000;

fn address(host: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, host])
}

fn router(number: u64) -> RouterId {
    RouterId::new(number).expect("not 0")
}

fn holding(number: u64, since: u64) -> Holding {
    Holding { router: router(number), since: ClaimTime(since) }
}

fn elsewhere() -> Elsewhere {
    let mut elsewhere = Elsewhere::new(Some(router(HERE)));
    elsewhere.set_clock(ClaimTime(NOW));
    elsewhere
}

#[test]
fn newest_of_all_sources_counts_until_it_goes() {
    let mut elsewhere = elsewhere();
    let (a, trunk) = (address(2), Source::Trunk(7));
    let is_news =
        |elsewhere: &mut Elsewhere, source, holding| elsewhere.insert(source, a, holding).map(|it| it.is_news);
    assert_eq!(is_news(&mut elsewhere, Source::Routes, holding(2, 10)), Ok(true));
    assert_eq!(is_news(&mut elsewhere, trunk, holding(3, 20)), Ok(true));
    assert_eq!(is_news(&mut elsewhere, trunk, holding(3, 20)), Ok(false));
    assert_eq!(is_news(&mut elsewhere, Source::Routes, holding(2, 15)), Ok(false));
    assert_eq!(elsewhere.holder(a), Some(Told { source: trunk, holding: holding(3, 20) }));
    assert_eq!((elsewhere.len(), elsewhere.sources().collect::<Vec<_>>()), (2, vec![(Source::Routes, 1), (trunk, 1)]));
    assert_eq!((elsewhere.forget(trunk), elsewhere.forget(trunk)), (1, 0));
    assert_eq!(elsewhere.holder(a).map(|told| told.holding), Some(holding(2, 15)));
    assert!(elsewhere.remove(Source::Routes, a));
    assert!(!elsewhere.remove(Source::Routes, a));
    assert_eq!((elsewhere.holder(a), elsewhere.is_empty()), (None, true));
    assert_eq!(elsewhere.time_of_claim(a), ClaimTime(NOW));
}

#[test]
fn claim_is_later_than_all_that_are_known_of_its_address() {
    let mut elsewhere = elsewhere();
    elsewhere.insert(Source::Routes, address(2), holding(2, NOW + 5)).expect("room");
    assert_eq!(elsewhere.time_of_claim(address(2)), ClaimTime(NOW + 6));
    elsewhere.remove(Source::Routes, address(2));
    assert_eq!(elsewhere.time_of_claim(address(2)), ClaimTime(NOW + 6), "it is gone and still the later one");
    elsewhere.note_release(address(2), ClaimTime(NOW + 8));
    assert_eq!(elsewhere.time_of_claim(address(2)), ClaimTime(NOW + 9));
    assert_eq!(elsewhere.time_of_claim(address(3)), ClaimTime(NOW));
    elsewhere.set_clock(ClaimTime(NOW - 1000));
    assert_eq!(elsewhere.time_of_claim(address(2)), ClaimTime(NOW + 9), "the clock has gone back");
    elsewhere.set_clock(ClaimTime(NOW + 1000));
    assert_eq!(elsewhere.time_of_claim(address(2)), ClaimTime(NOW + 1000));
}

#[test]
fn time_too_far_ahead_keeps_others_out_and_takes_nothing() {
    let mut elsewhere = elsewhere();
    let (a, at_edge) = (address(2), NOW + MAX_AHEAD_MILLIS);
    let inserted = elsewhere.insert(Source::Routes, a, holding(2, u64::MAX));
    assert_eq!(inserted, Ok(Insertion { is_news: true, is_ahead: true }));
    assert_eq!((elsewhere.note_ahead(Source::Routes), elsewhere.note_ahead(Source::Routes)), (true, false));
    assert_eq!(elsewhere.refused().ahead, 1);
    assert!(elsewhere.holder(a).is_some());
    assert_eq!(elsewhere.winner(a, ClaimTime(0)), None);
    assert_eq!(elsewhere.time_of_claim(a), ClaimTime(NOW));
    elsewhere.insert(Source::Trunk(1), a, holding(3, 5)).expect("room");
    assert_eq!(elsewhere.holder(a).map(|told| told.holding), Some(holding(3, 5)), "any right time counts more");
    elsewhere.remove(Source::Routes, a);
    assert_eq!(elsewhere.time_of_claim(a), ClaimTime(NOW), "nothing is left of it");
    let inserted = elsewhere.insert(Source::Routes, a, holding(2, at_edge));
    assert_eq!(inserted, Ok(Insertion { is_news: true, is_ahead: false }));
    assert_eq!(elsewhere.winner(a, ClaimTime(NOW)).map(|told| told.holding.router), Some(router(2)));
}

#[test]
fn clock_that_is_set_judges_all_times_anew() {
    let mut elsewhere = elsewhere();
    let a = address(2);
    elsewhere.set_clock(ClaimTime(0));
    elsewhere.insert(Source::Routes, a, holding(2, NOW)).expect("room");
    assert_eq!(elsewhere.winner(a, ClaimTime(7)), None, "this host's clock is wrong");
    assert_eq!(elsewhere.set_clock(ClaimTime(NOW)), [a]);
    assert_eq!(elsewhere.winner(a, ClaimTime(7)).map(|told| told.holding), Some(holding(2, NOW)));
    assert!(elsewhere.set_clock(ClaimTime(NOW + 1)).is_empty());
    // A claim that was granted by a clock that was wrong gives way to a right one.
    let absurd = ClaimTime(NOW + 100 * MAX_AHEAD_MILLIS);
    assert!(elsewhere.winner(a, absurd).is_some());
    assert!(elsewhere.set_clock(absurd).is_empty());
    assert_eq!(elsewhere.winner(a, absurd), None);
    assert_eq!(elsewhere.set_clock(ClaimTime(NOW)), [a]);
    assert!(elsewhere.winner(a, absurd).is_some());
}

#[test]
fn own_id_is_no_other_router() {
    let mut elsewhere = elsewhere();
    let a = address(2);
    elsewhere.insert(Source::Routes, a, holding(2, 5)).expect("room");
    assert_eq!(elsewhere.insert(Source::Routes, a, holding(HERE, 6)), Err(Refusal::Own));
    assert_eq!((elsewhere.holder(a), elsewhere.refused().own), (None, 1));
}

#[test]
fn equal_times_are_decided_by_routers_and_equal_holdings_by_sources() {
    let mut elsewhere = elsewhere();
    let a = address(2);
    for source in [Source::Trunk(2), Source::Routes, Source::Trunk(1)] {
        elsewhere.insert(source, a, holding(9, 5)).expect("room");
    }
    assert_eq!(elsewhere.holder(a).map(|told| told.source), Some(Source::Routes));
    elsewhere.insert(Source::Trunk(3), a, holding(8, 5)).expect("room");
    assert_eq!(elsewhere.holder(a).map(|told| told.holding.router), Some(router(9)));
    assert!(elsewhere.winner(a, ClaimTime(5)).is_some(), "9 comes before 1");
    assert_eq!(elsewhere.winner(a, ClaimTime(6)), None);
}

#[test]
fn holder_is_noted_once_for_each_router() {
    let mut elsewhere = elsewhere();
    let a = address(2);
    assert_eq!(elsewhere.note_holder(a), None);
    let mut notes = |number, since| {
        elsewhere.insert(Source::Routes, a, holding(number, since)).expect("room");
        [(), ()].map(|()| elsewhere.note_holder(a).is_some())
    };
    assert_eq!(notes(2, 5), [true, false]);
    assert_eq!(notes(2, 6), [false, false]);
    assert_eq!(notes(3, 7), [true, false]);
    elsewhere.remove(Source::Routes, a);
    elsewhere.insert(Source::Routes, a, holding(3, 8)).expect("room");
    assert!(elsewhere.note_holder(a).is_some(), "it was free in between");
}

#[test]
fn source_that_tells_without_end_leaves_room_for_others() {
    let mut elsewhere = elsewhere();
    let address = |number: usize| IpAddr::from(u32::try_from(number).expect("small").to_be_bytes());
    for number in 0..MAX_HOLDINGS_OF_SOURCE {
        elsewhere.insert(Source::Routes, address(number), holding(2, 5)).expect("room");
    }
    let beyond = address(MAX_HOLDINGS_OF_SOURCE);
    assert_eq!(elsewhere.insert(Source::Routes, beyond, holding(2, 5)), Err(Refusal::SourceFull));
    assert!(elsewhere.insert(Source::Routes, address(0), holding(2, 6)).is_ok(), "it has its place");
    for number in 0..MAX_HOLDINGS_OF_SOURCE {
        elsewhere.insert(Source::Trunk(0), address(number), holding(3, 5)).expect("room");
    }
    assert_eq!(elsewhere.insert(Source::Trunk(1), beyond, holding(4, 5)), Err(Refusal::Full));
    assert_eq!(elsewhere.refused().no_room, 2);
    assert_eq!([(); 2].map(|()| elsewhere.note_no_room()), [true, false]);
    elsewhere.forget(Source::Routes);
    assert!(elsewhere.note_no_room());
    assert!(elsewhere.insert(Source::Trunk(1), beyond, holding(4, 5)).is_ok());
    // What is forgotten and not taken out yet is in nobody's way.
    for number in 0..2 * SWEEP {
        let address = address(MAX_HOLDINGS_OF_SOURCE + 1 + number);
        assert!(elsewhere.insert(Source::Trunk(1), address, holding(4, 5)).is_ok(), "{number}");
    }
    assert!(elsewhere.is_sweeping());
    assert!(elsewhere.sweep());
    while elsewhere.is_sweeping() {
        elsewhere.sweep();
    }
    assert_eq!(elsewhere.len(), MAX_HOLDINGS_OF_SOURCE + 1 + 2 * SWEEP);
}

#[test]
fn there_are_no_more_sources_than_there_may_be() {
    let mut elsewhere = elsewhere();
    let trunk = |number: usize| Source::Trunk(u16::try_from(number).expect("small"));
    for number in 0..MAX_SOURCES {
        elsewhere.insert(trunk(number), address(2), holding(2, 5)).expect("room");
    }
    assert_eq!(elsewhere.insert(trunk(MAX_SOURCES), address(2), holding(2, 5)), Err(Refusal::TooManySources));
    elsewhere.forget(trunk(0));
    assert!(elsewhere.insert(trunk(MAX_SOURCES), address(2), holding(2, 5)).is_ok());
}

/// What may happen to the table.
#[derive(Debug, Clone, Copy)]
enum Event {
    Insert(Source, u8, u64, u64),
    Remove(Source, u8),
    Forget(Source),
    Clock(u64),
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![Just(Source::Routes), (0..3_u16).prop_map(Source::Trunk)]
}

fn time() -> impl Strategy<Value = u64> {
    // Few, so that some are equal; and the bound is between them.
    prop_oneof![0..4_u64, MAX_AHEAD_MILLIS - 1..MAX_AHEAD_MILLIS + 4, Just(u64::MAX)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (source(), 0..3_u8, HERE..5, time()).prop_map(|(source, host, router, since)| {
            Event::Insert(source, host, router, since)
        }),
        2 => (source(), 0..3_u8).prop_map(|(source, host)| Event::Remove(source, host)),
        1 => source().prop_map(Event::Forget),
        1 => (0..4_u64).prop_map(Event::Clock),
    ]
}

/// The same as a list, which is searched.
#[derive(Debug, Default)]
struct List {
    clock: u64,
    told: Vec<(IpAddr, Told)>,
}

impl List {
    fn apply(&mut self, event: Event) {
        let mut remove = |source, host| self.told.retain(|(at, told)| (*at, told.source) != (address(host), source));
        match event {
            Event::Insert(source, host, number, since) => {
                remove(source, host);
                if number != HERE {
                    self.told.push((address(host), Told { source, holding: holding(number, since) }));
                }
            }
            Event::Remove(source, host) => remove(source, host),
            Event::Forget(source) => self.told.retain(|(_, told)| told.source != source),
            Event::Clock(clock) => self.clock = clock,
        }
    }

    fn counts(&self, holding: Holding) -> (bool, u64, u64) {
        (
            holding.since.0 - self.clock.min(holding.since.0) <= MAX_AHEAD_MILLIS,
            holding.since.0,
            holding.router.number(),
        )
    }

    fn holder(&self, address: IpAddr) -> Option<Told> {
        let of_address = self.told.iter().filter(|(at, _)| *at == address).map(|(_, told)| *told);
        of_address.max_by_key(|told| (self.counts(told.holding), Reverse(told.source)))
    }
}

proptest! {
    /// The table says the same as a list that is searched, and what has changed is what it says has changed.
    #[test]
    fn table_says_what_a_list_says(events in prop::collection::vec(event(), 1..60), local in time()) {
        let (mut table, mut list) = (Elsewhere::new(Some(router(HERE))), List::default());
        for event in events {
            let before = [0, 1, 2].map(|host| table.holder(address(host)));
            let mut told = Vec::new();
            match event {
                Event::Insert(source, host, number, since) => {
                    let result = table.insert(source, address(host), holding(number, since));
                    prop_assert_eq!(result.is_err(), number == HERE);
                    told.extend(result.ok().filter(|it| it.is_news).map(|_| address(host)));
                    told.extend((number == HERE).then_some(address(host)));
                }
                Event::Remove(source, host) => _ = table.remove(source, address(host)).then(|| told.push(address(host))),
                Event::Forget(source) => {
                    table.forget(source);
                    told.extend((0..3).map(address));
                }
                Event::Clock(clock) => told = table.set_clock(ClaimTime(clock)),
            }
            list.apply(event);
            for host in 0..3_u8 {
                let at = address(host);
                prop_assert_eq!(table.holder(at), list.holder(at));
                prop_assert!(table.holder(at) == before[usize::from(host)] || told.contains(&at));
                let wins = list.holder(at).filter(|told| list.counts(told.holding) > list.counts(holding(HERE, local)));
                prop_assert_eq!(table.winner(at, ClaimTime(local)), wins);
            }
            prop_assert_eq!(table.len(), list.told.len());
            prop_assert_eq!(table.sources().map(|(_, count)| count).sum::<usize>(), list.told.len());
        }
    }
}

#[test]
fn claim_made_before_all_have_told_gives_way() {
    const NOW: u64 = 1_700_000_000_000;
    let mut elsewhere = Elsewhere::new(Some(router(HERE)));
    elsewhere.set_clock(ClaimTime(NOW));
    elsewhere.set_unsure(true);
    let [first, second] = [NOW, NOW + 1].map(|clock| {
        elsewhere.set_clock(ClaimTime(clock));
        elsewhere.time_of_claim(address(2))
    });
    let year = 365 * 24 * 60 * 60 * 1000;
    assert!(first < second && second < ClaimTime(NOW - 19 * year), "they keep their order, and are old: {first:?}");
    elsewhere.insert(Source::Routes, address(2), holding(2, NOW - 10 * year)).expect("room");
    assert!(elsewhere.winner(address(2), second).is_some(), "who has held it for ten years goes on");
    elsewhere.remove(Source::Routes, address(2));
    assert!(elsewhere.time_of_claim(address(2)) > ClaimTime(NOW - 10 * year), "that one has given it up");
    elsewhere.set_unsure(false);
    assert_eq!(elsewhere.time_of_claim(address(3)), ClaimTime(NOW + 1));
}

/// More than three pieces.
const MANY: usize = 3 * SWEEP + 7;

fn nth(number: usize) -> IpAddr {
    IpAddr::from(u32::try_from(number).expect("small").to_be_bytes())
}

fn full(since: u64) -> Elsewhere {
    let mut elsewhere = elsewhere();
    for number in 0..MANY {
        elsewhere.insert(Source::Routes, nth(number), holding(2, since)).expect("room");
    }
    elsewhere
}

#[test]
fn source_is_forgotten_in_pieces_and_what_it_tells_meanwhile_stays() {
    let mut elsewhere = full(5);
    elsewhere.insert(Source::Trunk(1), nth(0), holding(3, 4)).expect("room");
    assert_eq!(elsewhere.forget(Source::Routes), MANY);
    assert_eq!(elsewhere.len(), MANY + 1 - SWEEP, "a piece at once");
    // One that is left, and one that is gone already.
    let (left, gone) = (nth(MANY - 1), nth(1));
    for address in [left, gone] {
        elsewhere.insert(Source::Routes, address, holding(2, 6)).expect("room");
    }
    let mut calls = 0;
    while elsewhere.is_sweeping() {
        let before = elsewhere.len();
        elsewhere.sweep();
        assert!(before - elsewhere.len() <= SWEEP);
        calls += 1;
    }
    assert!((3..=4).contains(&calls), "{calls}");
    assert_eq!(elsewhere.len(), 3);
    assert!([left, gone].iter().all(|address| elsewhere.holder(*address).is_some()));
    assert_eq!(elsewhere.holder(nth(0)).map(|told| told.source), Some(Source::Trunk(1)));
    // Forgotten again before all is done, and with nothing left it is no source.
    elsewhere.forget(Source::Routes);
    elsewhere.forget(Source::Routes);
    while elsewhere.is_sweeping() {
        elsewhere.sweep();
    }
    elsewhere.sweep();
    assert!(!elsewhere.sweep());
    assert_eq!(elsewhere.sources().collect::<Vec<_>>(), [(Source::Trunk(1), 1)]);
}

#[test]
fn clock_that_is_set_judges_times_in_pieces() {
    let ahead = NOW + 2 * MAX_AHEAD_MILLIS;
    let mut elsewhere = full(ahead);
    elsewhere.insert(Source::Trunk(1), nth(MANY - 1), holding(3, 5)).expect("room");
    let collect = |elsewhere: &mut Elsewhere, first: u64| {
        let (mut clock, mut all) = (first, BTreeSet::new());
        loop {
            let piece = elsewhere.set_clock(ClaimTime(clock));
            assert!(piece.len() <= SWEEP, "{}", piece.len());
            all.extend(piece);
            if !elsewhere.is_sweeping() {
                return all;
            }
            // The clock goes on meanwhile.
            clock += 1;
        }
    };
    assert!(elsewhere.set_clock(ClaimTime(NOW + 1)).is_empty() && !elsewhere.is_sweeping());
    assert_eq!(elsewhere.holder(nth(MANY - 1)).map(|told| told.source), Some(Source::Trunk(1)));
    assert_eq!(collect(&mut elsewhere, ahead).len(), MANY, "none is too far ahead any longer");
    assert_eq!(elsewhere.holder(nth(MANY - 1)).map(|told| told.source), Some(Source::Routes));
    assert_eq!(collect(&mut elsewhere, NOW).len(), MANY, "all are again");
    assert_eq!(elsewhere.holder(nth(MANY - 1)).map(|told| told.source), Some(Source::Trunk(1)));
}
