//! A divided link, looked over by its leader: is the source as it was, is each of its shards finished or somebody's?

use std::collections::BTreeSet;
use std::time::Duration;

use super::Link;
use super::ending::ANOTHER_TABLE;
use super::leading::{Lead, Reason};
use super::looking::part_name;
use crate::checkpoint::LinkState;
use crate::checkpoint::rows::{ShardRow, ShardStatus};
use crate::error::{Error, Exit, Fault, Result};
use crate::model::ShardId;
use crate::stream::lister::{ListError, ShardLister};
use crate::stream::part::strays;
use crate::stream::{Listing, StreamStatus};

/// What takes longer comes to nothing, and is tried again: whoever asks may be throttled for hours.
const AUDIT_WITHIN: Duration = Duration::from_secs(60);

/// What a look at the source and at the parts says.
pub(super) enum Audit {
    /// The link is to be whole again.
    Reason(Reason),
    /// The parts are as they should be, but for these shards, which are nobody's; `gains`: the link would be shared clearly
    /// better if it were divided anew.
    Looked { strays: BTreeSet<ShardId>, dead_letters: u64, gains: bool },
    /// Nothing.
    NotNow,
}

impl Link {
    /// Looks whether the source is as it was, and whether each of its shards is finished, or somebody's.
    pub(super) async fn audit(&self, lead: &Lead, lister: &ShardLister, of_link: &LinkState) -> Result<Audit> {
        match tokio::time::timeout(AUDIT_WITHIN, self.look_over(lead, lister, of_link)).await {
            Ok(audit) => audit,
            Err(_) => {
                let seconds = AUDIT_WITHIN.as_secs();
                tracing::warn!(link = self.config.name, seconds, "source and parts did not answer, trying later");
                Ok(Audit::NotNow)
            }
        }
    }

    async fn look_over(&self, lead: &Lead, lister: &ShardLister, of_link: &LinkState) -> Result<Audit> {
        if let Ok(source) = lead.prepared.accounts.describe_source(&self.shared.context).await {
            if source.id != lead.row.identity.source_id {
                let what = format!("the source table of link `{}` was made anew", self.config.name);
                return Err(Error::new(Exit::Lost, what).hint(ANOTHER_TABLE));
            }
            if source.stream.is_none_or(|stream| stream.arn != lead.row.identity.stream) {
                return Ok(Audit::Reason(Reason::Stream));
            }
        }
        let listing = match lister.list_after(0, tokio::time::Instant::now()).await {
            Ok(listed) => listed.listing,
            Err(ListError::Failed(failure)) if failure.fault == Fault::Lost => {
                return Ok(Audit::Reason(Reason::Stream));
            }
            Err(ListError::Failed(failure)) => {
                tracing::warn!(link = self.config.name, error = %failure, "the shards could not be listed, trying later");
                return Ok(Audit::NotNow);
            }
            Err(ListError::Odd(error)) => {
                tracing::warn!(link = self.config.name, %error, "the listing contradicts itself, trying later");
                return Ok(Audit::NotNow);
            }
        };
        if listing.status() != StreamStatus::Enabled {
            return Ok(Audit::Reason(Reason::Stream));
        }
        if !listing.is_conclusive() {
            return Ok(Audit::NotNow);
        }
        // After the listing: what is added by then is seen.
        let (mut parts, mut dead_letters) = (Vec::new(), of_link.dead_letters.0);
        for number in 0..lead.division.parts {
            let part = self.shared.store.read(&part_name(&self.config.name, lead.division, number).to_string()).await;
            match part {
                Ok(part) if part.gaps.iter().any(|gap| gap.healed.is_none()) => return Ok(Audit::Reason(Reason::Gap)),
                Ok(part) => {
                    dead_letters += part.dead_letters.0;
                    parts.push(part);
                }
                Err(error) if error.may_pass() => return Ok(Audit::NotNow),
                Err(error) => return Err(error.into()),
            }
        }
        let strays = strays_of(&listing, &of_link.shards, parts.iter().map(|part| part.shards.as_slice()));
        let gains = self.gains_by_dividing(&listing, of_link, &parts);
        Ok(Audit::Looked { strays, dead_letters, gains })
    }
}

/// Strays among the shards of a listing, by the rows of link and parts.
pub(super) fn strays_of<'a>(
    listing: &Listing,
    of_link: &[ShardRow],
    parts: impl Iterator<Item = &'a [ShardRow]>,
) -> BTreeSet<ShardId> {
    let is_owed = |row: &ShardRow| row.is_lost || row.status != ShardStatus::Finished;
    let link: Vec<_> = of_link.iter().map(|row| (&row.id, row.parent.as_ref(), is_owed(row))).collect();
    let parts: Vec<BTreeSet<&ShardId>> = parts.map(|rows| rows.iter().map(|row| &row.id).collect()).collect();
    strays(listing, &link, &parts)
}
