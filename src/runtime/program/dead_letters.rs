//! `dead-letter`: what the target refused, listed and replayed.

use std::sync::Arc;

use super::{Program, State};
use crate::aws::Clients;
use crate::checkpoint::rows::{DeadLetterRow, DoubtRow, Fence};
use crate::checkpoint::{LinkState, StateStore, StateWrite};
use crate::config::LinkConfig;
use crate::decode::KeyCodec;
use crate::error::{Error, Exit, Result};
use crate::runtime::fleet::LinkGuard;
use crate::runtime::open::check_tables;
use crate::runtime::prepare::{Accounts, Needs, prepare};
use crate::runtime::repair::DirectRepairs;

/// Dead letters read at once.
const LETTERS: usize = 100;

/// A dead letter and the link it belongs to.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The link.
    pub link: String,
    /// The letter.
    pub letter: DeadLetterRow,
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
            letters.extend(
                letters_of(store.as_ref(), &link)
                    .await?
                    .into_iter()
                    .map(|letter| DeadLetter { link: link.clone(), letter }),
            );
        }
        Ok(letters)
    }

    /// Replays dead letters: each key is synced, so that the target holds what the source holds now. Answers how many
    /// letters are gone; those that the target refuses again stay.
    ///
    /// # Errors
    /// A side that cannot be reached; tables that were made anew; state, or a link, that a process holds, also where it may
    /// since this one's lease was over (exit 6).
    pub async fn retry_dead_letters(self: &Arc<Self>, links: &[String]) -> Result<u64> {
        let configs = self.chosen(links).await?;
        let state = self.open_state().await?;
        let mut gone = Ok(0);
        for config in configs {
            match Box::pin(self.retry_link(&config, &state)).await {
                Ok(more) => gone = gone.map(|gone| gone + more),
                Err(error) => {
                    gone = Err(error);
                    break;
                }
            }
        }
        state.close().await;
        gone
    }

    async fn retry_link(&self, config: &LinkConfig, state: &State) -> Result<u64> {
        let letters = letters_of(state.store.as_ref(), &config.name).await?;
        if letters.is_empty() {
            return Ok(0);
        }
        let guard = Arc::new(LinkGuard::default());
        let clients =
            Clients { guard: state.fleet.as_ref().map(|_| guard.of_clients(&self.context)), ..self.clients(config) };
        let accounts = Accounts::connect(config, &clients, None).await?;
        let Some(fleet) = &state.fleet else {
            let taking = async { Ok(state.store.take(&config.name, self.context.worker()).await?) };
            return self.replay(config, state, accounts, letters, taking).await;
        };
        let held = fleet.acquire(&config.name, self.mode, |_| {}).await?;
        guard.open(Arc::clone(&held.session));
        let session = Arc::clone(&held.session);
        let replay = self.replay(config, state, accounts, letters, async { Ok((held.fence, held.state)) });
        fleet.hold(&config.name, &session, replay).await
    }

    async fn replay(
        &self,
        config: &LinkConfig,
        state: &State,
        accounts: Accounts,
        letters: Vec<DeadLetterRow>,
        taking: impl Future<Output = Result<(Fence, LinkState)>>,
    ) -> Result<u64> {
        let store = &state.store;
        let prepared = prepare(config, accounts, &self.context, Needs { stream: false, target: true }).await?;
        let (fence, known) = taking.await?;
        if let Some(row) = &known.link {
            check_tables(&config.name, &row.identity, &prepared.identity)?;
        }
        let codec = KeyCodec::new(&prepared.identity.keys);
        let repairs = DirectRepairs { ends: prepared.ends.clone(), context: self.context.clone() };
        let mut gone = 0;
        for letter in letters {
            let key = codec.key(letter.key_json.clone().into());
            let key = key.map_err(|error| Error::new(Exit::Unexpected, "read a dead letter's key").because(error))?;
            // A write of ours may land late, so the next run syncs the key once more.
            let until = self.context.now().plus(config.apply.in_doubt_for);
            let (key_json, page) = (letter.key_json.clone(), None);
            let doubt = DoubtRow { key: key.canonical.clone(), key_json, until, page, under_way: true };
            store.commit(&config.name, &fence, vec![StateWrite::Doubt(doubt)]).await?;
            match repairs.sync_key(&key).await {
                Ok(()) => {
                    store.commit(&config.name, &fence, vec![StateWrite::RemoveDeadLetter(letter.id)]).await?;
                    gone += 1;
                }
                Err(failure) => {
                    tracing::warn!(link = config.name, letter = letter.id, error = %failure, "not written: the letter stays");
                }
            }
        }
        Ok(gone)
    }
}

async fn letters_of(store: &dyn StateStore, link: &str) -> Result<Vec<DeadLetterRow>> {
    let mut letters: Vec<DeadLetterRow> = Vec::new();
    loop {
        let after = letters.last().map_or(0, |letter| letter.id);
        let page = store.dead_letters(link, after, LETTERS).await?;
        if page.is_empty() {
            return Ok(letters);
        }
        letters.extend(page);
    }
}
