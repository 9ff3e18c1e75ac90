//! Pure: what becomes of a request for an import that was noted before.

use std::time::Duration;

use super::super::asked;
use crate::checkpoint::rows::ImportRequestRow;
use crate::model::{ImportArn, ImportReport, ImportStatus, WallTime};

/// After an import that failed another one is asked for, so long after its end; twice as long after the next one. By then
/// nothing can land any more that was sent to clear away what it left: [`super::landing::CLEARED_WITHIN`], and as long as a
/// signature is taken.
const AGAIN_AFTER: Duration = Duration::from_secs(30 * 60);

/// What becomes of a request for an import.
pub(super) type Fate = asked::Fate<ImportArn>;

/// What becomes of a request, by what is told of its import (`None`: nobody knows of one), and whether the table that it
/// made is there.
pub(super) fn fate(row: &ImportRequestRow, report: Option<&ImportReport>, has_table: bool, now: WallTime) -> Fate {
    let (Some(arn), Some(report)) = (&row.arn, report) else { return Fate::LookUp };
    match &report.status {
        ImportStatus::InProgress => Fate::Load(arn.clone()),
        // Whenever it was: what the stream does not keep any more is compared.
        ImportStatus::Completed | ImportStatus::Incomplete if has_table => Fate::Load(arn.clone()),
        ImportStatus::Completed | ImportStatus::Incomplete => another(row, "its table is not there any more"),
        ImportStatus::Failed(why) => asked::another_after(row.attempt, why, again(row, report), now),
    }
}

/// Before this no other import is asked for after one that failed.
pub(super) fn again(row: &ImportRequestRow, report: &ImportReport) -> WallTime {
    let ended = report.ended.or(report.started).unwrap_or_else(|| begun(row));
    asked::again(row.attempt, ended, AGAIN_AFTER)
}

/// Another request for the same, unless there were too many; why.
pub(super) fn another(row: &ImportRequestRow, why: &str) -> Fate {
    asked::another(row.attempt, why)
}

/// Whether a request makes no second import when it is made once more: nor does the table's name let one in.
pub(super) fn may_be_repeated(row: &ImportRequestRow, now: WallTime) -> bool {
    asked::may_be_repeated(row.arn.is_some(), begun(row), now)
}

/// When its import was begun, as far as the row tells; else when it was decided to ask for it.
fn begun(row: &ImportRequestRow) -> WallTime {
    row.arn.as_ref().and_then(ImportArn::begun).map_or(row.asked, |begun| begun.max(row.asked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::rows::{ExportPlan, ImportSubject};

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(hours: i64) -> WallTime {
        WallTime::from_secs(1_800_000_000 + hours * 3600)
    }

    fn row(attempt: u32, is_begun: bool) -> ImportRequestRow {
        let table = |name: &str| format!("arn:aws:dynamodb:eu-west-1:111122223333:table/{name}");
        let arn = format!("{}/import/{:014}-a", table("copy"), at(1).millis());
        ImportRequestRow {
            token: "t".to_owned(),
            asked: at(0),
            arn: is_begun.then(|| arn.parse().unwrap()),
            of: ImportSubject {
                source: table("orders").parse().unwrap(),
                source_id: "1".to_owned(),
                export: ExportPlan {
                    place: "s3://bucket/AWSDynamoDB/1-a/".parse().unwrap(),
                    arn: None,
                    bucket_owner: None,
                    time: at(0),
                    fingerprint: String::new(),
                    window: None,
                    not_before: None,
                    items_before: 0,
                    pace: None,
                    is_loaded: false,
                },
                items: 1,
                bytes: None,
                target: table("copy").parse().unwrap(),
            },
            attempt,
        }
    }

    fn report(status: ImportStatus) -> ImportReport {
        ImportReport {
            status,
            table_id: None,
            token: None,
            started: Some(at(1)),
            ended: Some(at(4)),
            processed_bytes: 0,
            imported_items: 0,
            errors: 0,
            log_group: None,
        }
    }

    #[test]
    fn what_is_not_known_is_looked_up_and_never_replaced() {
        let whole = report(ImportStatus::Completed);
        assert_eq!(fate(&row(1, false), None, false, at(90)), Fate::LookUp);
        assert_eq!(fate(&row(1, false), Some(&whole), true, at(3)), Fate::LookUp);
        assert_eq!(fate(&row(3, true), None, false, at(90)), Fate::LookUp);
    }

    #[test]
    fn a_request_is_repeated_only_while_its_token_tells_it_again() {
        assert!(may_be_repeated(&row(1, false), at(6)));
        assert!(may_be_repeated(&row(1, false), at(90)), "it was never made: nobody was allowed to, say");
        assert!(may_be_repeated(&row(1, true), at(7)), "the token lives from the answer on, not from the decision");
        assert!(!may_be_repeated(&row(1, true), at(8)));
    }

    #[test]
    fn an_import_that_is_over_is_of_use_as_long_as_its_table_is_there() {
        for status in [ImportStatus::Completed, ImportStatus::Incomplete] {
            let fate =
                |attempt, has_table| fate(&row(attempt, true), Some(&report(status.clone())), has_table, at(900));
            assert!(matches!(fate(3, true), Fate::Load(_)));
            assert_eq!(fate(2, false), Fate::Another);
            assert!(matches!(fate(3, false), Fate::NoMore { .. }));
        }
    }

    #[test]
    fn what_fails_is_asked_for_anew_later_and_later_and_three_times_in_all() {
        let failed = report(ImportStatus::Failed("no".to_owned()));
        let fate =
            |attempt, minutes: u32| fate(&row(attempt, true), Some(&failed), false, at(4).plus(MINUTE * minutes));
        let later = |minutes: u32| Fate::Later { why: "no".to_owned(), again: at(4).plus(MINUTE * minutes) };
        assert_eq!((fate(1, 29), fate(1, 30)), (later(30), Fate::Another));
        assert_eq!((fate(2, 59), fate(2, 60)), (later(60), Fate::Another));
        assert_eq!(fate(3, 0), Fate::NoMore { why: "no".to_owned() });
        assert_eq!(fate(u32::MAX, 0), Fate::NoMore { why: "no".to_owned() });
    }
}
