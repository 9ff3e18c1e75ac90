//! A cursor against what the service may answer.

use super::*;
use proptest::prelude::*;

fn number(n: u64) -> SequenceNumber {
    SequenceNumber::parse(&format!("{n:021}")).unwrap()
}

fn numbers(of: &[u64]) -> Vec<SequenceNumber> {
    of.iter().copied().map(number).collect()
}

fn iterator(text: &str) -> ShardIterator {
    ShardIterator::new(text)
}

fn failure(fault: Fault, code: &str) -> Failure {
    Failure {
        operation: "GetRecords",
        fault,
        throttled: false,
        may_have_happened: false,
        timed_out: false,
        code: Some(code.to_owned()),
        message: String::new(),
        request_id: None,
    }
}

fn trimmed() -> Failure {
    failure(Fault::Lost, "TrimmedDataAccessException")
}

fn expired() -> Failure {
    failure(Fault::Expired, "ExpiredIteratorException")
}

fn ready(at: StartAt) -> Cursor {
    let mut cursor = Cursor::new(at);
    cursor.on_iterator(Ok(iterator("i")));
    cursor
}

fn page(cursor: &mut Cursor, of: &[u64], next: Option<&str>) -> Result<PageRead, CursorError> {
    let Step::GetRecords(asked) = cursor.next() else { panic!("not ready") };
    cursor.on_page(&asked, numbers(of), next.map(iterator))
}

// Case 25.
#[test]
fn the_last_page_may_hold_records() {
    let mut cursor = ready(StartAt::TrimHorizon);
    assert_eq!(page(&mut cursor, &[1, 2], None), Ok(PageRead { skip: 0, drained: true }));
    assert_eq!((cursor.next(), cursor.last_read()), (Step::Done, Some(number(2))));
}

// Cases 26 and 27.
#[test]
fn only_a_missing_iterator_ends_a_shard() {
    let mut cursor = ready(StartAt::TrimHorizon);
    for _ in 0..1_000 {
        assert_eq!(page(&mut cursor, &[], Some("j")), Ok(PageRead { skip: 0, drained: false }));
    }
    assert_eq!(page(&mut cursor, &[], None), Ok(PageRead { skip: 0, drained: true }));
    assert_eq!(cursor.next(), Step::Done);
}

// Case 29.
#[test]
fn an_expired_iterator_is_replaced_after_the_last_record_read() {
    let mut cursor = ready(StartAt::After(number(3)));
    page(&mut cursor, &[4, 7], Some("j")).unwrap();
    cursor.on_page_failed(&expired());
    assert_eq!(cursor.next(), Step::GetIterator(StartAt::After(number(7))));
}

// Case 30.
#[test]
fn an_iterator_that_expires_before_the_first_record_is_replaced_where_the_shard_was_registered() {
    for registered in [StartAt::TrimHorizon, StartAt::After(number(3))] {
        let mut cursor = ready(registered);
        page(&mut cursor, &[], Some("j")).unwrap();
        cursor.on_page_failed(&expired());
        assert_eq!(cursor.next(), Step::GetIterator(registered));
    }
}

// Cases 31 and 32.
#[test]
fn a_trimmed_position_is_lost_and_reading_goes_on_at_the_trim_horizon() {
    let mut seeking = Cursor::new(StartAt::After(number(3)));
    seeking.on_iterator(Err(&trimmed()));
    let mut reading = ready(StartAt::After(number(3)));
    reading.on_page_failed(&trimmed());
    for mut cursor in [seeking, reading] {
        assert_eq!(cursor.next(), Step::Lost(LossCause::Trimmed));
        cursor.restart();
        assert_eq!(cursor.next(), Step::GetIterator(StartAt::TrimHorizon));
        cursor.on_iterator(Ok(iterator("k")));
        page(&mut cursor, &[9], Some("l")).unwrap();
        assert_eq!(cursor.position(), StartAt::After(number(9)));
    }
}

// Case 34.
#[test]
fn a_restart_that_lost_nothing_skips_what_was_read() {
    let mut cursor = ready(StartAt::After(number(3)));
    page(&mut cursor, &[5], Some("j")).unwrap();
    cursor.on_page_failed(&trimmed());
    cursor.restart();
    cursor.on_iterator(Ok(iterator("k")));
    assert_eq!(page(&mut cursor, &[2, 3], Some("l")), Ok(PageRead { skip: 2, drained: false }));
    cursor.on_page_failed(&expired());
    assert_eq!(cursor.next(), Step::GetIterator(StartAt::TrimHorizon), "nothing new was read yet");
    cursor.on_iterator(Ok(iterator("m")));
    assert_eq!(page(&mut cursor, &[2, 5, 6], Some("n")), Ok(PageRead { skip: 2, drained: false }));
    assert_eq!(cursor.position(), StartAt::After(number(6)));
    assert!(page(&mut cursor, &[6], Some("o")).is_err(), "from there on the order is strict again");
}

// Case 33.
#[test]
fn a_shard_that_is_not_found_is_lost_and_not_at_its_end() {
    for code in ["ResourceNotFoundException", "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException"] {
        let mut cursor = Cursor::new(StartAt::TrimHorizon);
        cursor.on_iterator(Err(&failure(Fault::Lost, code)));
        assert_eq!(cursor.next(), Step::Lost(LossCause::ShardVanished));
    }
}

// Cases 35 and 43.
#[test]
fn only_a_definite_answer_changes_anything() {
    for fault in [Fault::Transient, Fault::Denied] {
        let mut cursor = Cursor::new(StartAt::After(number(3)));
        cursor.on_iterator(Err(&failure(fault, "X")));
        assert_eq!(cursor.next(), Step::GetIterator(StartAt::After(number(3))));
        cursor.on_iterator(Ok(iterator("i")));
        cursor.on_page_failed(&failure(fault, "X"));
        assert_eq!(cursor.next(), Step::GetRecords(iterator("i")));
    }
}

#[test]
fn a_refused_iterator_is_replaced_without_losing_the_position() {
    for fault in [Fault::Rejected, Fault::Broken] {
        let mut cursor = ready(StartAt::TrimHorizon);
        page(&mut cursor, &[4], Some("j")).unwrap();
        cursor.on_page_failed(&failure(fault, "ValidationException"));
        assert_eq!(cursor.next(), Step::GetIterator(StartAt::After(number(4))));
    }
}

// Case 41.
#[test]
fn a_dropped_fetch_or_an_answer_nobody_asked_for_moves_nothing() {
    let mut cursor = ready(StartAt::TrimHorizon);
    let dropped = cursor.next();
    assert_eq!(cursor.next(), dropped);
    page(&mut cursor, &[1, 2], Some("j")).unwrap();
    assert_eq!(cursor.on_page(&iterator("i"), numbers(&[1, 2]), None), Err(CursorError::NotAsked));
    assert_eq!(cursor.next(), Step::GetRecords(iterator("j")));
    cursor.on_iterator(Ok(iterator("stale")));
    assert_eq!(cursor.next(), Step::GetRecords(iterator("j")));
}

#[test]
fn a_page_out_of_order_is_refused_whole() {
    let (number_2, number_3) = (number(2), number(3));
    let mut cursor = ready(StartAt::After(number_3));
    let not_ascending = CursorError::NotAscending { number: number(5), previous: number(5) };
    assert_eq!(page(&mut cursor, &[5, 5], None), Err(not_ascending));
    let not_after = CursorError::NotAfterPosition { number: number_2, position: number_3 };
    assert_eq!(page(&mut cursor, &[2, 5], None), Err(not_after));
    assert_eq!(cursor.next(), Step::GetRecords(iterator("i")));
    assert_eq!(cursor.position(), StartAt::After(number_3));
}

#[derive(Debug, Clone)]
enum Event {
    Page { size: usize, lose_answer: bool },
    Fail(u8),
    TrimTo { ahead: u64 },
}

fn arb_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0usize..5, any::<bool>()).prop_map(|(size, lose_answer)| Event::Page { size, lose_answer }),
        2 => (0u8..5).prop_map(Event::Fail),
        1 => (0u64..6).prop_map(|ahead| Event::TrimTo { ahead }),
    ]
}

/// A shard of records 1..=END, as the service would answer. An iterator's text is the record before its position.
const END: u64 = 40;

proptest! {
    #[test]
    fn every_record_is_read_once_and_in_order_or_was_trimmed_under_a_loss(
        events in prop::collection::vec(arb_event(), 0..80),
    ) {
        let mut cursor = Cursor::new(StartAt::TrimHorizon);
        let (mut read, mut horizon, mut losses) = (Vec::<u64>::new(), 0u64, 0u32);
        let mut trimmed_unread = Vec::<u64>::new();
        let last = Event::Page { size: 4, lose_answer: false };
        for event in events.into_iter().chain(std::iter::repeat_n(last, 200)) {
            if let Event::TrimTo { ahead } = event {
                horizon = (horizon.max(read.last().copied().unwrap_or(0)) + ahead).saturating_sub(3).clamp(horizon, END);
                continue;
            }
            match cursor.next() {
                Step::GetIterator(at) => {
                    let from = match at {
                        StartAt::TrimHorizon => horizon,
                        StartAt::After(n) => n.as_str().parse().unwrap(),
                    };
                    match event {
                        Event::Fail(_) => cursor.on_iterator(Err(&failure(Fault::Transient, "X"))),
                        _ if from < horizon => cursor.on_iterator(Err(&trimmed())),
                        _ => cursor.on_iterator(Ok(iterator(&from.to_string()))),
                    }
                }
                Step::GetRecords(asked) => {
                    let from: u64 = asked.as_str().parse().unwrap();
                    match event {
                        Event::Fail(0) => cursor.on_page_failed(&failure(Fault::Denied, "X")),
                        Event::Fail(1) => cursor.on_page_failed(&expired()),
                        Event::Fail(2) => cursor.on_page_failed(&failure(Fault::Broken, "X")),
                        Event::Fail(_) => cursor.on_page_failed(&failure(Fault::Transient, "X")),
                        Event::Page { lose_answer: true, .. } => {}
                        _ if from < horizon => cursor.on_page_failed(&trimmed()),
                        Event::Page { size, .. } => {
                            let to = (from + size as u64).min(END);
                            let of: Vec<_> = (from + 1..=to).collect();
                            let next = (to < END).then(|| iterator(&to.to_string()));
                            let told = cursor.on_page(&asked, numbers(&of), next).unwrap();
                            read.extend(&of[told.skip..]);
                        }
                        Event::TrimTo { .. } => unreachable!("handled above"),
                    }
                }
                Step::Lost(cause) => {
                    prop_assert_eq!(cause, LossCause::Trimmed);
                    losses += 1;
                    cursor.restart();
                }
                Step::Done => break,
            }
            trimmed_unread = (1..=END).filter(|n| !read.contains(n) && *n <= horizon).collect();
        }
        prop_assert_eq!(cursor.next(), Step::Done);
        prop_assert!(read.is_sorted_by(|a, b| a < b), "read twice or out of order: {:?}", read);
        let missing: Vec<_> = (1..=END).filter(|n| !read.contains(n)).collect();
        prop_assert_eq!(&missing, &trimmed_unread);
        // A read from the trim horizon never says that something is missing: there, only age tells (`gaps`).
        let first = read.first().copied().unwrap_or(END + 1);
        prop_assert!(losses > 0 || missing.iter().all(|n| *n < first), "lost in silence: {:?}", missing);
    }
}
