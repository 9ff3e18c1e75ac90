//! A load that outlasts the stream: incremental exports go on from what is loaded, one after the other, until the stream does.
//!
//! Each begins exactly where the one before ended, for one that began earlier would leave out what came and went in between
//! although the target has it. It is asked for once, as the first export is, and the next one when it is loaded. Where a window
//! cannot be had, or would always come too late, the stream is begun all the same: what it has lost is a gap, which is healed.

use std::time::Duration;

use super::Link;
use super::exporting::{Wanted, place_of, turned_on};
use super::importing::Imported;
use super::own_export::known::{self, Fate};
use crate::checkpoint::LinkState;
use crate::checkpoint::rows::{ChainPace, ExportPlan, ExportRequestRow, LinkRow, Stage};
use crate::config::LoadMethod;
use crate::error::{Error, Exit, Result};
use crate::export::Kind;
use crate::load::export::ExportSource;
use crate::load::handover::HandOver;
use crate::model::{
    ExportArn, ExportBucket, ExportSpan, ExportStatus, ExportWindow, RecoveryWindow, StreamArn, TableDescription,
    WallTime,
};
use crate::runtime::open::{LOAD_MARGIN, may_go_on};
use crate::runtime::prepare::{Accounts, cannot_describe};

/// How long a window may be. Source: quotas, table export.
const WINDOW: (Duration, Duration) = (Duration::from_secs(15 * 60), Duration::from_secs(24 * 3600));
/// The latest time that can be exported, where the service does not tell: about five minutes ago. Source: Developer Guide,
/// point-in-time recovery.
const LATEST: Duration = Duration::from_secs(6 * 60);
/// How often it is looked whether a window is long enough.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// A window brings a load closer to the source when it does by so much.
const GAIN: Duration = Duration::from_secs(3600);
/// So many in a row may bring it no closer: the process may have been away.
const MOST_WITHOUT_GAIN: u32 = 2;

/// What a link's load is made of.
pub(super) enum Load {
    /// A scan; or there is none, or no more.
    Other,
    /// The export that it begins with, or is at.
    Export(ExportSource),
    /// The import that was made.
    Import(Imported),
    /// The window that it goes on with: its last export is loaded.
    Window(ExportSource),
    /// There is none that it could go on with: why.
    NoWindow(String),
}

impl Load {
    /// The export that is to be loaded.
    pub(super) fn into_export(self) -> Option<ExportSource> {
        match self {
            Self::Export(source) | Self::Window(source) => Some(source),
            Self::Other | Self::Import(_) | Self::NoWindow(_) => None,
        }
    }

    /// Whether the stream is pinned while an export is loaded, or just was.
    pub(super) const fn is_by_export(&self) -> bool {
        matches!(self, Self::Export(_) | Self::Window(_) | Self::NoWindow(_))
    }

    /// Whether the target is there by an import.
    pub(super) const fn is_import(&self) -> bool {
        matches!(self, Self::Import(_))
    }
}

impl Link {
    /// What the load is made of, when it is there.
    pub(super) async fn find_load(&self, accounts: &Accounts, state: &LinkState) -> Result<Load> {
        if let Some((row, plan)) = Self::outlasted(state) {
            return self.next_window(accounts, row, plan).await;
        }
        if self.config.load.method == LoadMethod::Import && state.link.is_none() {
            return Box::pin(self.find_import(accounts)).await.map(Load::Import);
        }
        let export = self.find_export(accounts, state.link.as_ref()).await?;
        Ok(export.map_or(Load::Other, Load::Export))
    }

    /// From where the stream goes on after this load, and whether another export may bring what the stream has lost.
    pub(super) fn hand_over(&self, row: &LinkRow) -> Option<(HandOver, bool)> {
        let plan = row.load.as_ref()?.export.as_ref()?;
        Some((hand_over(plan, &row.identity.stream), may_go_on(&self.config, row)))
    }

    /// A load whose last export is loaded, and from which the stream does not go on.
    fn outlasted(state: &LinkState) -> Option<(&LinkRow, &ExportPlan)> {
        let row = state.link.as_ref().filter(|row| row.stage == Stage::Loading)?;
        let plan = row.load.as_ref()?.export.as_ref()?;
        plan.is_loaded.then_some((row, plan))
    }

    /// Refuses what was found for a state that is another one by now: a process that ran meanwhile has gone on from it.
    pub(super) fn check_fits(&self, load: &Load, state: &LinkState) -> Result<()> {
        let plan = state.link.as_ref().and_then(|row| row.load.as_ref()).and_then(|plan| plan.export.as_ref());
        let fits = match load {
            Load::Other | Load::Import(_) => true,
            Load::Export(source) => plan.is_none_or(|plan| plan.fingerprint == source.manifest.fingerprint),
            Load::Window(source) => Self::outlasted(state)
                .is_some_and(|(_, plan)| source.manifest.summary.window.is_some_and(|window| window.from == plan.time)),
            Load::NoWindow(_) => Self::outlasted(state).is_some(),
        };
        if fits {
            return Ok(());
        }
        let what = format!("another process has gone on with the load of link `{}`", self.config.name);
        Err(Error::new(Exit::Held, what).hint("one link has one worker: run again when it is stopped"))
    }

    async fn next_window(&self, accounts: &Accounts, row: &LinkRow, plan: &ExportPlan) -> Result<Load> {
        if !may_go_on(&self.config, row) {
            // It was otherwise when the load began.
            let why =
                "with this configuration there is none: see `load.bucket`, `load.increments` and `stream.ttl_deletes`";
            return Ok(Load::NoWindow(why.to_owned()));
        }
        let Some(bucket) = &self.config.load.own_export else {
            return self.listed_window(accounts, &row.identity, plan).await;
        };
        let source = accounts.describe_source(&self.shared.context).await;
        let source = source.map_err(|failure| cannot_describe("source", &self.config, failure))?;
        if source.id != row.identity.source_id {
            // It is refused when the books are opened.
            return Ok(Load::Other);
        }
        let pace = pace(plan, self.aws_now());
        let mut gone = None;
        loop {
            let (row, arn, window) =
                match self.asked_window(accounts, (&source, bucket), (plan.time, pace), gone.as_ref()).await? {
                    Ok(asked) => asked,
                    Err(why) => return Ok(Load::NoWindow(why)),
                };
            match self.whole_window(accounts, (&row, &arn, window)).await? {
                Found::Window(source) => return Ok(Load::Window(ExportSource { pace: Some(pace), ..*source })),
                Found::None(why) => return Ok(Load::NoWindow(why)),
                Found::Gone => gone = Some(arn),
            }
        }
    }

    /// A window that begins at this time, and was asked for; else why there is none. `gone`: of this one nothing is there
    /// any more.
    async fn asked_window(
        &self,
        accounts: &Accounts,
        (source, bucket): (&TableDescription, &ExportBucket),
        (from, pace): (WallTime, ChainPace),
        gone: Option<&ExportArn>,
    ) -> Result<std::result::Result<(ExportRequestRow, ExportArn, ExportWindow), String>> {
        let noted = self.shared.store.export_request(&self.config.name).await?;
        let window = |row: &ExportRequestRow| row.of.window.filter(|window| window.from == from);
        let of = |row: &ExportRequestRow| known::is_for(row, source, bucket, window(row)) && window(row).is_some();
        let before = noted.clone().filter(of).and_then(|row| window(&row).map(|window| (row, window)));
        let mut fate = match &before {
            Some((row, _)) if gone.is_some() && row.arn.as_ref() == gone => {
                known::another(row, "its manifests are not in the bucket any more")
            }
            Some((row, _)) => self.fate_of(accounts, row).await?,
            None => Fate::Another,
        };
        if let Some((row, window)) = before.clone() {
            match &fate {
                Fate::Load(arn) => return Ok(Ok((row, arn.clone(), window))),
                Fate::NoMore { why } => return Ok(Err(why.clone())),
                Fate::Later { .. } => {
                    if let Some(error) = self.refusal(&row, &fate) {
                        return Err(error);
                    }
                }
                Fate::LookUp => {
                    if let Some(arn) = self.look_for_request(accounts, source, &row).await? {
                        let (row, arn) = self.note_begun(row, arn).await?;
                        return Ok(Ok((row, arn, window)));
                    }
                    if !known::may_be_repeated(&row, self.aws_now()) {
                        fate = known::another(&row, "it is not known any more");
                    }
                }
                Fate::Another => {}
            }
            if let Fate::NoMore { why } = fate {
                return Ok(Err(why));
            }
        }
        // Each costs money, and they would never end. One that was asked for is there, or will be.
        if before.is_none() && pace.without_gain >= MOST_WITHOUT_GAIN {
            let minutes = pace.behind.as_secs() / 60;
            return Ok(Err(format!("they do not catch up: {minutes} minutes are not loaded yet")));
        }
        let window = match self.next_times(accounts, from).await? {
            Ok(window) => window,
            Err(why) => return Ok(Err(why)),
        };
        let (row, may_be_there) = match before {
            // It is made by the same token, of the same times, unless the token may be forgotten.
            Some((row, _)) if fate == Fate::LookUp => (row, true),
            before => {
                let attempt = before.map_or(0, |(row, _)| row.attempt).saturating_add(1);
                (self.note_request(source, bucket, ExportSpan::Window(window), attempt, noted.as_ref()).await?, false)
            }
        };
        let window = row.of.window.unwrap_or(window);
        tracing::info!(
            link = self.config.name,
            window = window.to_string(),
            "the load has outlasted the stream: exporting what was changed meanwhile"
        );
        // What is off by now cannot be had by turning it on.
        let bucket = ExportBucket { enable_pitr: false, ..bucket.clone() };
        let Some(arn) = self.ask_for_export(accounts, source, &bucket, &row, may_be_there).await? else {
            return Ok(Err(format!("point-in-time recovery of the source table does not know all of {window}")));
        };
        let (row, arn) = self.note_begun(row, arn).await?;
        Ok(Ok((row, arn, window)))
    }

    /// The times of the next window, when it is long enough; else why there is none.
    async fn next_times(
        &self,
        accounts: &Accounts,
        from: WallTime,
    ) -> Result<std::result::Result<ExportWindow, String>> {
        loop {
            match times(from, self.recovery(accounts).await?, self.aws_now()) {
                Times::Window(window) => return Ok(Ok(window)),
                Times::None(why) => return Ok(Err(why)),
                Times::TooShort => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Waits for a window, and reads its manifests.
    async fn whole_window(
        &self,
        accounts: &Accounts,
        (row, arn, window): (&ExportRequestRow, &ExportArn, ExportWindow),
    ) -> Result<Found> {
        let wanted = Wanted::Window(Some(window));
        let report = match self.wait_for_export(accounts, arn, super::own_export::SEEN_WITHIN, wanted).await? {
            Ok(report) => report,
            Err(why) => return Ok(Found::None(why)),
        };
        if let ExportStatus::Failed(why) = &report.status {
            let fate = known::fate(row, Some(&report), true, self.aws_now());
            if let Fate::NoMore { why } = fate {
                return Ok(Found::None(why));
            }
            let at_once = || super::own_export::failed(&self.config.name, why, row, self.aws_now());
            return Err(self.refusal(row, &fate).unwrap_or_else(at_once));
        }
        let Some(place) = place_of(arn, &report) else {
            return Err(self.refused("find", arn).hint("its account does not say where it is: run again"));
        };
        let owner = self.config.load.bucket_owner.clone().or_else(|| report.bucket_owner.clone());
        let source = match self.open_export(accounts, &place, Some(arn.clone()), owner.as_deref(), Kind::Window).await {
            Ok(source) => source,
            Err(error) if error.is_missing() && self.may_be_removed(report.ended) => return Ok(Found::Gone),
            Err(error) => return Err(self.cannot_open(&place, error)),
        };
        // A later beginning would be a hole, and an earlier one would leave out what came and went since.
        if source.manifest.summary.window != Some(window) {
            return Ok(Found::None(format!("its summary does not say that {arn} is of {window}")));
        }
        tracing::info!(
            link = self.config.name,
            export = place.to_string(),
            window = window.to_string(),
            files = source.manifest.files.len(),
            items = source.manifest.items,
            "loading what was changed meanwhile"
        );
        Ok(Found::Window(Box::new(source)))
    }
}

pub(super) fn hand_over(plan: &ExportPlan, stream: &StreamArn) -> HandOver {
    HandOver { from: plan.time.minus(LOAD_MARGIN), stream_since: turned_on(stream) }
}

/// How the load comes on, when this much is loaded.
fn pace(plan: &ExportPlan, now: WallTime) -> ChainPace {
    let behind = now.since(plan.time);
    let without_gain = plan.pace.filter(|before| behind + GAIN > before.behind).map_or(0, |pace| pace.without_gain + 1);
    ChainPace { behind, without_gain }
}

/// What came of a window that was asked for.
enum Found {
    Window(Box<ExportSource>),
    /// It is of no use, and neither would be another one: why.
    None(String),
    /// Nothing of it is in the bucket any more.
    Gone,
}

/// The times of a window.
#[derive(Debug, PartialEq, Eq)]
enum Times {
    Window(ExportWindow),
    /// It would be too short yet.
    TooShort,
    /// There is none: why.
    None(String),
}

/// The window from a time on: as long as can be, to a whole second.
fn times(from: WallTime, recovery: Option<RecoveryWindow>, now: WallTime) -> Times {
    let Some(RecoveryWindow { earliest, latest }) = recovery else {
        return Times::None("point-in-time recovery of the source table is off".to_owned());
    };
    if let Some(earliest) = earliest.filter(|earliest| *earliest > from) {
        return Times::None(format!(
            "point-in-time recovery of the source table reaches back to {earliest}, and {from} is needed: was it off?"
        ));
    }
    let latest = latest.unwrap_or_else(|| now.minus(LATEST)).min(from.plus(WINDOW.1));
    let to = latest.second();
    if to < from.plus(WINDOW.0) { Times::TooShort } else { Times::Window(ExportWindow { from, to }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> WallTime {
        WallTime::from_secs(1_800_000_000 + minutes * 60)
    }

    #[test]
    fn windows_that_bring_a_load_no_closer_are_counted_until_one_does() {
        let plan = |behind: Option<(i64, u32)>| {
            let place = "s3://bucket/AWSDynamoDB/1-a/".parse().unwrap();
            let pace =
                behind.map(|(minutes, without_gain)| ChainPace { behind: at(minutes).since(at(0)), without_gain });
            let (arn, bucket_owner, fingerprint, window, not_before) = (None, None, String::new(), None, None);
            let time = at(0);
            ExportPlan {
                place,
                arn,
                bucket_owner,
                time,
                fingerprint,
                window,
                not_before,
                items_before: 0,
                pace,
                is_loaded: true,
            }
        };
        let counted = |before, now: i64| pace(&plan(before), at(now)).without_gain;
        assert_eq!(counted(None, 5_000), 0, "the first one");
        assert_eq!((counted(Some((1_200, 1)), 1_140), counted(Some((1_200, 1)), 1_141)), (0, 2));
        assert_eq!(counted(Some((1_200, 0)), 4_000), 1, "it was away");
    }

    fn recovery(earliest: i64, latest: i64) -> Option<RecoveryWindow> {
        Some(RecoveryWindow { earliest: Some(at(earliest)), latest: Some(at(latest)) })
    }

    #[test]
    fn a_window_begins_where_the_last_one_ended_and_is_as_long_as_can_be() {
        let from = at(0).plus(Duration::from_millis(28));
        let window = |to: i64| Times::Window(ExportWindow { from, to: at(to) });
        assert_eq!(times(from, recovery(-60, 90), at(95)), window(90));
        assert_eq!(times(from, recovery(0, 16), at(95)), window(16));
        assert_eq!(times(from, recovery(0, 15), at(95)), Times::TooShort, "15 minutes, less what was rounded");
        // A day, and no more; to a whole second, so that the next one begins where this one ends, however it is told.
        assert_eq!(times(from, recovery(0, 5_000), at(5_005)), window(24 * 60));
        let nothing_told = Some(RecoveryWindow { earliest: None, latest: None });
        assert_eq!(times(from, nothing_told, at(66)), window(60));
    }

    #[test]
    fn there_is_no_window_over_a_time_that_recovery_does_not_know() {
        let refused = |recovery| match times(at(0), recovery, at(95)) {
            Times::None(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(refused(None).contains("is off"));
        assert!(refused(recovery(1, 90)).contains("was it off"));
    }
}
