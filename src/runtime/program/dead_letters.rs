//! `dead-letter`: what the target refused, listed and replayed.

use std::sync::Arc;

use serde::Serialize;
use tracing::Instrument as _;

use super::{Program, State};
use crate::aws::Clients;
use crate::checkpoint::keeper::ahead;
use crate::checkpoint::rows::{DeadLetterRow, Fence, LinkRow, Stage};
use crate::checkpoint::{LinkState, StateWrite, all_letters};
use crate::config::{LinkConfig, WriteFence};
use crate::context::Context;
use crate::decode::KeyCodec;
use crate::error::{Error, Exit, Result};
use crate::runtime::fleet::LinkGuard;
use crate::runtime::gated::{GatedTarget, LinkGates};
use crate::runtime::link::{by_aws, check_whole, letters_with_parts, link_span, parts_of};
use crate::runtime::open::check_tables;
use crate::runtime::prepare::{Accounts, Needs, Prepared, prepare};
use crate::runtime::repair::DirectRepairs;

/// A dead letter and the link it belongs to.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The link; of one whose shards are shared, the part of it, `LINK/EPOCH.NUMBER`: its letters become the link's when that
    /// is put together.
    pub link: String,
    /// The letter.
    pub letter: DeadLetterRow,
}

/// What came of a replay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RetryReport {
    /// Letters whose keys were synced: they are gone.
    pub retried: u64,
    /// Letters that the target refused again: they stay, and the copy differs in their keys.
    pub remaining: u64,
}

impl Program {
    /// All dead letters of these links; empty: of all that the state knows.
    ///
    /// # Errors
    /// State that cannot be read, or that a process holds.
    pub async fn dead_letters(self: &Arc<Self>, links: &[String]) -> Result<Vec<DeadLetter>> {
        let store = self.open_store(true).await?;
        let known = store.links().await?;
        let mut letters = Vec::new();
        for link in known.into_iter().filter(|link| links.is_empty() || links.contains(link)) {
            let found = letters_with_parts(store.as_ref(), &link).await?;
            letters.extend(found.into_iter().map(|(link, letter)| DeadLetter { link, letter }));
        }
        Ok(letters)
    }

    /// Replays dead letters: each key is synced, so that the target holds what the source holds now. Those that the
    /// target refuses again stay.
    ///
    /// # Errors
    /// A side that cannot be reached; tables that were made anew; state, or a link, that a process holds, also where it may
    /// since this one's lease was over (exit 6).
    pub async fn retry_dead_letters(self: &Arc<Self>, links: &[String]) -> Result<RetryReport> {
        let configs = self.chosen(links).await?;
        let state = self.open_state().await?;
        let report = self.retry_all(configs, &state).await;
        state.close().await;
        report
    }

    async fn retry_all(&self, configs: Vec<LinkConfig>, state: &State) -> Result<RetryReport> {
        let mut report = RetryReport::default();
        for config in configs {
            let RetryReport { retried, remaining } =
                Box::pin(self.retry_link(&config, state)).instrument(link_span(&config.name)).await?;
            report.retried += retried;
            report.remaining += remaining;
        }
        Ok(report)
    }

    async fn retry_link(&self, config: &LinkConfig, state: &State) -> Result<RetryReport> {
        if !parts_of(state.store.as_ref(), &config.name).await?.is_empty() {
            Box::pin(self.link(config.clone(), state).make_whole()).await?;
        }
        let letters = all_letters(state.store.as_ref(), &config.name).await?;
        if letters.is_empty() {
            return Ok(RetryReport::default());
        }
        let guard = Arc::new(LinkGuard::default());
        let clients =
            Clients { guard: state.fleet.as_ref().map(|_| guard.of_clients(&self.context)), ..self.clients(config) };
        let (by_aws, observer) = by_aws(&self.context, self.metrics.calls(&config.name));
        let accounts = Accounts::connect(config, &clients, Some(observer)).await?;
        let Some(fleet) = &state.fleet else {
            let taking = async { Ok(state.store.take(&config.name, self.context.worker()).await?) };
            return self.replay(config, state, (accounts, by_aws), letters, taking).await;
        };
        let held = fleet.acquire(&config.name, self.mode, |_| {}).await?;
        guard.open(Arc::clone(&held.session));
        let session = Arc::clone(&held.session);
        let replay = self.replay(config, state, (accounts, by_aws), letters, async { Ok((held.fence, held.state)) });
        fleet.hold(&config.name, &session, Box::pin(replay)).await
    }

    async fn replay(
        &self,
        config: &LinkConfig,
        state: &State,
        (accounts, by_aws): (Accounts, Context),
        letters: Vec<DeadLetterRow>,
        taking: impl Future<Output = Result<(Fence, LinkState)>>,
    ) -> Result<RetryReport> {
        let store = &state.store;
        let mut prepared = prepare(config, accounts, &by_aws, Needs { stream: false, target: true }).await?;
        let (fence, known) = taking.await?;
        check_whole(&config.name, known.link.as_ref())?;
        if let Some(row) = &known.link {
            check_loaded(&config.name, row)?;
            check_tables(&config.name, &row.identity, &prepared.identity)?;
            if let Some(expiry) = &prepared.expiry {
                expiry.remember(&row.expiry_attributes, by_aws.now());
            }
        }
        let gated_at = self.go_through(config, state, &fence, known.link.as_ref(), &mut prepared).await?;
        let ahead = ahead(&self.context, &by_aws);
        let has_news = |row: &&LinkRow| row.clean || row.gated_at != gated_at || row.signed_ahead < ahead;
        if let Some(row) = known.link.iter().find(has_news) {
            // From now on a write may be on the wire, of whose time whoever takes over from us knows nothing.
            let (signed_ahead, gated_at) = (row.signed_ahead.max(ahead), gated_at.clone());
            let unclean = StateWrite::Link(LinkRow { clean: false, gated_at, signed_ahead, ..row.clone() });
            store.commit(&config.name, &fence, vec![unclean]).await?;
        }
        let was_clean = known.link.filter(|row| row.clean);
        let codec = KeyCodec::new(&prepared.identity.keys);
        let repairs = DirectRepairs {
            ends: prepared.ends.clone(),
            by_aws,
            signing: self.context.clone(),
            in_doubt_for: config.apply.in_doubt_for,
            source_id: prepared.source.id.clone(),
        };
        let mut report = RetryReport::default();
        for letter in letters {
            let key = codec.key(letter.key_json.clone().into());
            let key = key.map_err(|error| Error::new(Exit::Unexpected, "read a dead letter's key").because(error))?;
            store.commit(&config.name, &fence, vec![StateWrite::Doubt(repairs.doubt(&key))]).await?;
            let synced = repairs.sync_key(&key).await;
            let mut writes = Vec::new();
            if synced.may_land_late {
                // The target may have been waited for longer than the key is in doubt.
                writes.push(StateWrite::Doubt(repairs.doubt(&key)));
            }
            match synced.result {
                Ok(()) => {
                    writes.push(StateWrite::RemoveDeadLetter(letter.id));
                    report.retried += 1;
                }
                Err(failure) => {
                    report.remaining += 1;
                    tracing::warn!(link = config.name, letter = letter.id, error = %failure, "not written: the letter stays");
                }
            }
            store.commit(&config.name, &fence, writes).await?;
        }
        if let Some(row) = was_clean {
            // Nothing is on the wire of which a listed key does not tell until when.
            store.commit(&config.name, &fence, vec![StateWrite::Link(row)]).await?;
        }
        Ok(report)
    }
}

/// Refuses what would bring the target ahead of an export that is being loaded: what an incremental one leaves out because it
/// came and went would stay.
fn check_loaded(link: &str, row: &LinkRow) -> Result<()> {
    let export = row.load.as_ref().and_then(|plan| plan.export.as_ref());
    if row.stage != Stage::Loading || export.is_none() {
        return Ok(());
    }
    Err(Error::new(
        Exit::Precondition,
        format!("link `{link}` is loading an export, and nothing is newer than that in its target"),
    )
    .hint("let it finish its load, and then replay them"))
}

impl Program {
    /// Shuts out what an owner before has on its way through gates; the replay goes through them, too, where the link does.
    /// Answers where they are then.
    async fn go_through(
        &self,
        config: &LinkConfig,
        state: &State,
        fence: &Fence,
        row: Option<&LinkRow>,
        prepared: &mut Prepared,
    ) -> Result<Option<String>> {
        let (Some(row), Some(gates)) = (row.filter(|row| row.gates > 0), state.store.gates()) else { return Ok(None) };
        let gates = LinkGates::open(gates, &config.name, fence.epoch, row.gates).await?;
        let place = gates.place();
        if config.apply.fence != WriteFence::Transaction || row.gated_at.as_ref() != Some(&place) {
            return Ok(None);
        }
        let target = Arc::clone(&prepared.conditional);
        prepared.ends.target = Arc::new(GatedTarget::new(target, gates, self.context.clone()));
        Ok(Some(place))
    }
}
