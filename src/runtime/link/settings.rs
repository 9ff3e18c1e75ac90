//! From a link's configuration and its tables to what each stage is told.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Link;
use crate::apply::engine::{EngineSettings, OnRejected};
use crate::checkpoint::keeper::KeeperSettings;
use crate::checkpoint::rows::LinkRow;
use crate::config::{self, LinkConfig, OnGap, SideConfig, TableRef, TtlDeletes, WriteFence};
use crate::load::driver::LoadSettings;
use crate::retry::Patience;
use crate::runtime::board::Board;
use crate::runtime::open::{self, apply_from};
use crate::runtime::prepare::{Prepared, read_units, write_units};
use crate::runtime::replica::ReplicaSettings;
use crate::stream::Pace;
use crate::stream::driver::StreamSettings;
use crate::stream::filter::ChangeFilter;
use crate::telemetry::lag::RETENTION;
use crate::telemetry::{self, CapacityKind, LinkIdentity};
use crate::verify::VerifySettings;

/// Bytes of JSON in one request: below BatchWriteItem's 16 MB with room for the envelope.
const MAX_BATCH_BYTES: usize = 15 << 20;
/// The same of TransactWriteItems, which takes 4 MB of items, two units for each KB. Source: API reference, TransactWriteItems.
const MAX_TRANSACTION_BYTES: usize = (4 << 20) - (64 << 10);

/// How often an idle link writes that its place is still in the stream, and up to when everything is applied. Both are for
/// whoever comes after this process. A stream keeps 24 hours, and a place that nobody confirmed for 23 may have lost something:
/// a row that is ten minutes old makes such a gap ten minutes too early, and never hides one.
const IDLE_AT_TABLE: Duration = Duration::from_secs(600);
/// The same where a write costs nothing, and no worker's sign of life says how far the link is.
const IDLE_AT_FILE: Duration = Duration::from_secs(60);

impl Link {
    pub(super) fn settings(&self, prepared: &Prepared, row: &LinkRow) -> ReplicaSettings {
        let LinkConfig { load, apply, stream, .. } = &self.config;
        let patience = self.patience();
        let is_gated = apply.fence == WriteFence::Transaction;
        // A link's limits are those of all its parts together, each of which has one sender.
        let parts = self.part.as_ref().map_or(1, |part| part.division.parts.max(1));
        let share = write_units(apply.write_capacity, &prepared.target);
        #[expect(clippy::cast_precision_loss, reason = "the most that a user may set is far below 2^53")]
        let ceiling = apply.max_wcu.map_or(f64::INFINITY, |most| most as f64);
        ReplicaSettings {
            keeper: KeeperSettings {
                interval: self.shared.checkpoint.interval,
                records: self.shared.checkpoint.records,
                look_ahead_records: usize::try_from(apply.look_ahead_records.div_ceil(parts.into()))
                    .unwrap_or(usize::MAX),
                look_ahead_bytes: usize::try_from(apply.look_ahead_bytes.div_ceil(parts.into())).unwrap_or(usize::MAX),
                idle_interval: if self.shared.fleet.is_some() { IDLE_AT_TABLE } else { IDLE_AT_FILE },
            },
            engine: EngineSettings {
                max_in_flight: (apply.max_in_flight / parts).max(1) as usize,
                batch_items: apply.batch_items as usize,
                batch_bytes: if is_gated { MAX_TRANSACTION_BYTES } else { MAX_BATCH_BYTES },
                is_transaction: is_gated,
                write_limit: Some(share.min(ceiling) / f64::from(parts)),
                on_rejected: match apply.on_rejected {
                    config::OnRejected::Stop => OnRejected::Stop,
                    config::OnRejected::DeadLetter => OnRejected::DeadLetter,
                },
                patience,
            },
            stream: StreamSettings {
                pace: Pace { poll_min: stream.poll_min, poll_max: stream.poll_max },
                discovery_interval: if self.part.is_some() {
                    self.list_part_every()
                } else {
                    stream.discovery_interval
                },
                max_concurrent: (stream.max_concurrent_shards / parts).max(1) as usize,
                filter: ChangeFilter {
                    from: apply_from(row),
                    max_age: stream.max_record_age,
                    skip_ttl_deletes: stream.ttl_deletes == TtlDeletes::Skip,
                },
                patience,
                stop_on_gap: stream.on_gap == OnGap::Stop,
            },
            load: LoadSettings {
                concurrency: load.concurrency as usize,
                read_limit: Some(read_units(load.read_capacity, &prepared.source)),
                patience,
                in_doubt_for: self.config.apply.in_doubt_for,
            },
            drain: self.shared.drain,
        }
    }

    pub(super) fn verify_settings(&self, prepared: &Prepared, owns_target: bool) -> VerifySettings {
        verify_settings(&self.config, prepared, owns_target, self.patience())
    }

    /// What the link joins as far as the configuration tells, before anybody was asked.
    fn as_configured(&self) -> LinkIdentity {
        let place = |table: &TableRef, side: &SideConfig| match table {
            TableRef::Arn(arn) => (arn.account.clone(), arn.region.clone(), arn.name.clone()),
            TableRef::Name(name) => (String::new(), side.region.clone().unwrap_or_default(), name.clone()),
        };
        let (source_account, source_region, source_table) = place(&self.config.source_table, &self.config.source);
        let (target_account, target_region, target_table) = place(&self.config.target_table, &self.config.target);
        let link = self.config.name.clone();
        LinkIdentity { link, source_account, source_region, source_table, target_account, target_region, target_table }
    }

    /// Makes the link seen, before its first opening and whatever comes of it.
    pub(crate) fn announce(&self) {
        self.shared.metrics.opens(&self.as_configured(), self.shared.mode);
    }

    pub(super) fn board(&self, prepared: &Prepared, row: &LinkRow) -> Arc<Board> {
        let (source, target) = (&prepared.source.arn, &prepared.target.arn);
        let identity = LinkIdentity {
            link: self.label().to_owned(),
            source_account: source.account.clone(),
            source_region: source.region.clone(),
            source_table: source.name.clone(),
            target_account: target.account.clone(),
            target_region: target.region.clone(),
            target_table: target.name.clone(),
        };
        let metrics = match &self.part {
            None => self.shared.metrics.link(&identity, self.shared.mode),
            Some(_) => self.shared.metrics.part(&identity, self.shared.mode),
        };
        let limits = self.settings(prepared, row);
        metrics.rate_limit(telemetry::Side::Target, CapacityKind::Write, limits.engine.write_limit);
        metrics.rate_limit(telemetry::Side::Source, CapacityKind::Read, limits.load.read_limit);
        metrics.lease_held(true);
        // Without a load everything is owed that the stream still keeps.
        let owed_from = apply_from(row).unwrap_or_else(|| self.aws_now().minus(RETENTION));
        self.slots.set_trouble(None);
        let skew = *self.skew.lock().unwrap_or_else(PoisonError::into_inner);
        let board = Arc::new(Board::new(metrics, self.shared.context.clone(), owed_from, skew));
        *self.slots.board.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&board));
        board
    }
}

/// How both tables of a link are compared.
pub(crate) fn verify_settings(
    config: &LinkConfig,
    prepared: &Prepared,
    owns_target: bool,
    patience: Patience,
) -> VerifySettings {
    let size = prepared.source.size_bytes.max(prepared.target.size_bytes);
    VerifySettings {
        segments: open::segments_of(config.verify.segments, size),
        source_rate: Some(read_units(config.verify.rate, &prepared.source)),
        target_rate: Some(read_units(config.verify.rate, &prepared.target)),
        owns_target,
        patience,
        link: Some(config.name.clone()),
        ..VerifySettings::default()
    }
}
