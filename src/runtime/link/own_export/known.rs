//! Pure: what becomes of a request for an export that was noted before.

use std::time::Duration;

use super::super::asked;
use super::super::exporting::turned_on;
use crate::checkpoint::rows::{ExportRequestRow, ExportSubject};
use crate::model::{
    ExportArn, ExportBucket, ExportReport, ExportStatus, ExportWindow, RecoveryWindow, StreamArn, TableDescription,
    WallTime,
};
use crate::runtime::open::LOAD_MARGIN;

/// An export that was begun longer ago, and was whole in time, is of less use to a load that has not begun than another one:
/// the stream keeps 24 hours.
const OF_USE_FOR: Duration = Duration::from_secs(22 * 3600);
/// One from which incremental ones may go on is of use for longer: days of a table cost less than all of it.
const GONE_ON_FROM_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// After an export that failed another one is asked for, so long after its end; twice as long after the next one.
const AGAIN_AFTER: Duration = Duration::from_secs(15 * 60);
/// The same after one of a window, without which both tables are read: there is time.
const WINDOW_AGAIN_AFTER: Duration = Duration::from_secs(2 * 3600);

/// What becomes of a request for an export.
pub(in crate::runtime::link) type Fate = asked::Fate<ExportArn>;

/// Whether a request was for an export of this table as it is, to this place, of this window or from which this stream goes
/// on.
pub(in crate::runtime::link) fn is_for(
    row: &ExportRequestRow,
    source: &TableDescription,
    bucket: &ExportBucket,
    window: Option<ExportWindow>,
) -> bool {
    let ExportSubject { table, table_id, stream, bucket: to, window: of } = &row.of;
    // What a window holds does not depend on the stream that goes on from it.
    let goes_on = of.is_some() || source.stream.as_ref().is_some_and(|now| now.enabled && now.arn == *stream);
    // Whether recovery may be turned on for it says nothing of where it goes.
    let is_there = *to == ExportBucket { enable_pitr: to.enable_pitr, ..bucket.clone() };
    *table == source.arn && *table_id == source.id && goes_on && is_there && *of == window
}

/// What becomes of a request, by what is told of its export; `None`: nobody knows of one.
/// `goes_on`: incremental ones may go on from it.
pub(in crate::runtime::link) fn fate(
    row: &ExportRequestRow,
    report: Option<&ExportReport>,
    goes_on: bool,
    now: WallTime,
) -> Fate {
    let (Some(arn), Some(report)) = (&row.arn, report) else { return Fate::LookUp };
    let begun = report.started.unwrap_or_else(|| begun(row));
    let of_use_for = if goes_on { GONE_ON_FROM_FOR } else { OF_USE_FOR };
    match &report.status {
        ExportStatus::InProgress => Fate::Load(arn.clone()),
        // Windows go on from it, or from one.
        ExportStatus::Completed if row.of.window.is_some() || now.since(begun) < of_use_for => Fate::Load(arn.clone()),
        ExportStatus::Completed => match report.ended.map(|ended| ended.since(begun)) {
            // The next one would take as long: incremental ones go on from it.
            Some(took) if took >= OF_USE_FOR => Fate::Load(arn.clone()),
            _ => another(row, "it was whole, and nobody loaded it while the stream went on from it"),
        },
        ExportStatus::Failed(why) => {
            let first_wait = if row.of.window.is_some() { WINDOW_AGAIN_AFTER } else { AGAIN_AFTER };
            let again = asked::again(row.attempt, report.ended.unwrap_or(begun), first_wait);
            asked::another_after(row.attempt, why, again, now)
        }
    }
}

/// Another request for the same, unless there were too many; why.
pub(in crate::runtime::link) fn another(row: &ExportRequestRow, why: &str) -> Fate {
    asked::another(row.attempt, why)
}

/// Whether a request makes no second export when it is made once more.
pub(in crate::runtime::link) fn may_be_repeated(row: &ExportRequestRow, now: WallTime) -> bool {
    asked::may_be_repeated(row.arn.is_some(), begun(row), now)
}

/// Whether the time that a request names can still be exported, or no export of it was made.
pub(super) fn can_be_had(row: &ExportRequestRow, recovery: Option<RecoveryWindow>) -> bool {
    let earliest = recovery.and_then(|recovery| recovery.earliest);
    row.time.is_none_or(|time| recovery.is_some() && earliest.is_none_or(|earliest| earliest <= time))
}

/// The time that is named for an export of the whole table: the latest one, to a whole second, for a window is told in those
/// by some, and must begin exactly there. `None`: it is not known, or is not younger than the stream; the service takes its own.
pub(super) fn whole_second(recovery: Option<RecoveryWindow>, stream: Option<&StreamArn>) -> Option<WallTime> {
    let RecoveryWindow { earliest, latest } = recovery?;
    let time = latest?.second();
    let is_younger = turned_on(stream?)? <= time.minus(LOAD_MARGIN);
    (earliest? <= time && is_younger).then_some(time)
}

/// When its export was begun, as far as the row tells; else when it was decided to ask for it.
fn begun(row: &ExportRequestRow) -> WallTime {
    row.arn.as_ref().and_then(ExportArn::begun).map_or(row.asked, |begun| begun.max(row.asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn recovery(earliest: WallTime, latest: WallTime) -> Option<RecoveryWindow> {
        Some(RecoveryWindow { earliest: Some(earliest), latest: Some(latest) })
    }

    #[test]
    fn the_time_of_an_export_is_a_whole_second_that_the_stream_goes_on_from() {
        let stream = |on: &str| StreamArn(format!("arn:aws:dynamodb:r:a:table/t/stream/{on}"));
        let (old, millis) = (stream("2020-01-01T00:00:00.000"), Duration::from_millis(28));
        let latest = at(5).plus(millis);
        let second = |from, stream| whole_second(recovery(from, latest), Some(stream));
        assert_eq!(second(at(0), &old), Some(at(5)));
        assert_eq!(second(at(5).plus(millis), &old), None, "it does not reach so far back");
        let young = stream(&at(5).minus(Duration::from_secs(60)).to_string());
        assert_eq!(second(at(0), &young), None, "it is for the service to say");
        assert_eq!((whole_second(None, Some(&old)), whole_second(recovery(at(0), latest), None)), (None, None));
        let asked = ExportRequestRow { time: Some(at(5)), ..row(1, false) };
        assert!(can_be_had(&asked, recovery(at(5), at(9))) && can_be_had(&row(1, false), None));
        assert!(!can_be_had(&asked, None) && !can_be_had(&asked, recovery(at(6), at(9))), "it was off meanwhile");
    }

    fn row(attempt: u32, is_begun: bool) -> ExportRequestRow {
        let arn = || ExportArn {
            table: "arn:aws:dynamodb:eu-west-1:111122223333:table/orders".parse().unwrap(),
            id: format!("{:014}-a", at(1).millis()),
        };
        ExportRequestRow {
            token: "t".to_owned(),
            asked: at(0),
            arn: is_begun.then(arn),
            of: ExportSubject {
                table: arn().table,
                table_id: "1".to_owned(),
                stream: StreamArn("s".to_owned()),
                bucket: bucket(),
                window: None,
            },
            time: None,
            attempt,
        }
    }

    fn bucket() -> ExportBucket {
        ExportBucket { name: "b".to_owned(), prefix: None, owner: None, kms_key: None, enable_pitr: false }
    }

    fn at(hours: i64) -> WallTime {
        WallTime::from_secs(1_800_000_000 + hours * 3600)
    }

    fn report(status: ExportStatus, started: i64, ended: Option<i64>) -> ExportReport {
        ExportReport {
            status,
            is_full: true,
            window: None,
            table: None,
            table_id: None,
            time: None,
            bucket: "b".to_owned(),
            prefix: None,
            bucket_owner: None,
            manifest: None,
            started: Some(at(started)),
            ended: ended.map(at),
            token: None,
        }
    }

    #[test]
    fn what_is_not_known_is_looked_up_and_never_replaced() {
        let whole = report(ExportStatus::Completed, 1, Some(2));
        assert_eq!(fate(&row(1, false), None, false, at(90)), Fate::LookUp);
        assert_eq!(fate(&row(1, false), Some(&whole), false, at(3)), Fate::LookUp);
        assert_eq!(fate(&row(3, true), None, true, at(90)), Fate::LookUp);
    }

    #[test]
    fn a_request_is_repeated_only_while_its_token_tells_it_again() {
        assert!(may_be_repeated(&row(1, false), at(900)), "none was made of it");
        assert!(may_be_repeated(&row(1, true), at(7)), "the token lives from the answer on, not from the decision");
        assert!(!may_be_repeated(&row(1, true), at(8)));
    }

    #[test]
    fn an_export_is_loaded_while_the_stream_goes_on_from_it() {
        let completed = |ended| report(ExportStatus::Completed, 1, ended);
        let fate = |ended, now| fate(&row(1, true), Some(&completed(ended)), false, at(now));
        assert!(matches!(fate(Some(20), 22), Fate::Load(_)), "it counts from its begin, not from the decision");
        assert_eq!(fate(Some(20), 23), Fate::Another, "nobody was there to load it");
        assert!(matches!(fate(Some(24), 24), Fate::Load(_)), "the next one would take as long");
        let window = ExportWindow { from: at(0), to: at(1) };
        let row = ExportRequestRow { of: ExportSubject { window: Some(window), ..row(1, true).of }, ..row(1, true) };
        let whole = report(ExportStatus::Completed, 1, Some(2));
        assert!(
            matches!(super::fate(&row, Some(&whole), true, at(90)), Fate::Load(_)),
            "a window goes on from what is loaded"
        );
        assert_eq!(fate(None, 23), Fate::Another);
    }

    #[test]
    fn what_fails_is_asked_for_anew_later_and_later_and_three_times_in_all() {
        let failed = report(ExportStatus::Failed("no".to_owned()), 1, Some(4));
        let fate =
            |attempt, minutes: u32| fate(&row(attempt, true), Some(&failed), true, at(4).plus(HOUR / 60 * minutes));
        let later = |minutes: u32| Fate::Later { why: "no".to_owned(), again: at(4).plus(HOUR / 60 * minutes) };
        assert_eq!((fate(1, 14), fate(1, 15)), (later(15), Fate::Another));
        assert_eq!((fate(2, 29), fate(2, 30)), (later(30), Fate::Another));
        assert_eq!(fate(3, 0), Fate::NoMore { why: "no".to_owned() });
        assert_eq!(fate(u32::MAX, 0), Fate::NoMore { why: "no".to_owned() });
    }
}
