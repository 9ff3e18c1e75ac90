//! From the state and the tables to open books: pinned, resumed, or begun anew with another stream.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Link;
use crate::checkpoint::LinkState;
use crate::checkpoint::rows::ShardStatus;
use crate::config;
use crate::error::{Error, Exit, Result};
use crate::model::{ShardId, StreamArn, ViewType};
use crate::retry::Patience;
use crate::runtime::open::{self, Clocks, Opened};
use crate::runtime::prepare::{Prepared, is_empty};
use crate::stream::Listing;
use crate::stream::lister::{ListError, ShardLister};

/// A stream that is being turned on is looked at so often, this long apart: five minutes in all.
const ENABLING_LOOKS: u32 = 300;
/// See [`ENABLING_LOOKS`].
const ENABLING_AGAIN: Duration = Duration::from_secs(1);

impl Link {
    /// The books and the forest, and the stream that is to be read.
    pub(super) async fn open(&self, prepared: &Prepared, state: LinkState) -> Result<(Opened, StreamArn, ViewType)> {
        let ours = self.shared.context.now();
        let clocks = || Clocks { ours, aws: self.aws_now() };
        let found = prepared.identity.stream.clone();
        let Some(row) = state.link.clone() else {
            let owns_target = self.owns_target(prepared).await?;
            let listing = self.list(prepared, &found).await?;
            let opened = open::pin(&self.config, prepared, &listing, owns_target, state, clocks());
            let opened = opened.ok_or_else(|| {
                Error::new(Exit::Precondition, "pin the stream: it is still being turned on")
                    .hint("run again in a minute")
            })?;
            return Ok((opened, found, prepared.view));
        };
        let known = row.identity.stream.clone();
        if known == found {
            return Ok((open::resume(&self.config, prepared, state, row, clocks())?, found, prepared.view));
        }
        // The old stream is finished first, while it can be read: order per key spans both.
        let unfinished = state.shards.iter().any(|row| row.status != ShardStatus::Finished);
        if unfinished && let Ok(listing) = self.lister(prepared, &known).list().await {
            let view = listing.view().unwrap_or(prepared.view);
            return Ok((open::resume(&self.config, prepared, state, row, clocks())?, known, view));
        }
        // Refuses another table's state before anything changes.
        open::resume(&self.config, prepared, state.clone(), row.clone(), clocks())?;
        let listing = self.list(prepared, &found).await?;
        let opened = open::replace_stream(&self.config, &found, &listing, state, row, clocks());
        let opened = opened.ok_or_else(|| {
            Error::new(Exit::Precondition, "pin the new stream: it is still being turned on")
                .hint("run again in a minute")
        })?;
        Ok((opened, found, prepared.view))
    }

    /// A target that this link finds empty, as one that it has just made, is its own. Another one is refused, unless the user allows it.
    async fn owns_target(&self, prepared: &Prepared) -> Result<bool> {
        let empty = is_empty(&prepared.ends.target_reader, &self.shared.context).await.map_err(|failure| {
            Error::new(Exit::Precondition, format!("look whether the target of link `{}` is empty", self.config.name))
                .hint("allow dynamodb:Scan on it to the target's identity")
                .because(failure)
        })?;
        if !empty && !self.config.target_allow_non_empty && self.config.load.method == config::LoadMethod::Scan {
            return Err(Error::new(
                Exit::Precondition,
                format!("the target table of link `{}` is not empty", self.config.name),
            )
            .hint(
                "empty it, name another one, or set `target.allow_non_empty = true`: keys that it has alone then stay",
            ));
        }
        Ok(empty)
    }

    fn lister(&self, prepared: &Prepared, stream: &StreamArn) -> ShardLister {
        let source = Arc::clone(&prepared.ends.stream);
        ShardLister::new(source, stream.clone(), self.shared.context.clone(), Patience::COMMAND)
    }

    /// A listing from which something follows: a stream that is being turned on is listed again until it is on, and a
    /// parent that is not listed counts as trimmed when two listings in a row lack it, for it may have come into being
    /// between two pages of the first.
    async fn list(&self, prepared: &Prepared, stream: &StreamArn) -> Result<Listing> {
        let lister = self.lister(prepared, stream);
        let what = || {
            let what = format!("list the shards of the stream of link `{}`", self.config.name);
            Error::new(Exit::Precondition, what)
        };
        let mut known_orphans = BTreeSet::new();
        for _ in 0..ENABLING_LOOKS {
            match lister.list().await {
                Ok(listing) if listing.is_conclusive() => {
                    let orphans: BTreeSet<ShardId> = listing.orphans().cloned().collect();
                    if orphans.is_subset(&known_orphans) {
                        return Ok(listing);
                    }
                    known_orphans = orphans;
                }
                Ok(_) => tokio::time::sleep(ENABLING_AGAIN).await,
                Err(ListError::Failed(failure)) => {
                    let hint = "allow dynamodb:DescribeStream, GetShardIterator and GetRecords on it";
                    return Err(what().hint(hint).because(failure));
                }
                Err(ListError::Odd(error)) => return Err(what().because(error)),
            }
        }
        Err(what().hint("it is still being turned on: run again in a minute"))
    }
}
