//! From the state and the tables to open books: pinned, resumed, or begun anew with another stream.

use std::sync::Arc;
use std::time::Duration;

use super::Link;
use super::chaining::{Load, hand_over};
use super::importing::Imported;
use crate::checkpoint::LinkState;
use crate::checkpoint::rows::{LinkRow, ShardStatus};
use crate::config;
use crate::error::{Error, Exit, Result};
use crate::model::{StreamArn, ViewType};
use crate::retry::Patience;
use crate::runtime::open::{self, Clocks, Opened};
use crate::runtime::prepare::{Prepared, is_empty};
use crate::stream::lister::{ListError, ShardLister};
use crate::stream::{Listing, ShardListing};

/// A stream that is being turned on is looked at so often, this long apart: five minutes in all.
const ENABLING_LOOKS: u32 = 300;
/// See [`ENABLING_LOOKS`].
const ENABLING_AGAIN: Duration = Duration::from_secs(1);
/// Shards without their parents are looked at so often at most, so long apart.
const ORPHAN_LOOKS: u32 = 5;
/// See [`ORPHAN_LOOKS`].
const ORPHANS_AGAIN: Duration = Duration::from_millis(500);

impl Link {
    /// Refuses, before anything of either side is asked for, state of tables of other names: that one of those is not there
    /// says nothing of what was copied.
    pub(super) fn check_names(&self, row: Option<&LinkRow>) -> Result<()> {
        let Some(known) = row.map(|row| &row.identity) else { return Ok(()) };
        let (source, target) = (self.config.source_table.name(), self.config.target_table.name());
        if known.source.name == source && known.target.name == target {
            return Ok(());
        }
        Err(open::of_other_tables(&self.config.name, known))
    }

    /// The books and the forest, and the stream that is to be read.
    pub(super) async fn open(
        &self,
        prepared: &Prepared,
        load: &Load,
        state: LinkState,
    ) -> Result<(Opened, StreamArn, ViewType)> {
        let ours = self.shared.context.now();
        let clocks = || Clocks { ours, aws: self.aws_now() };
        self.check_fits(load, &state)?;
        let found = prepared.identity.stream.clone();
        if self.part.is_some() {
            return self.open_part(prepared, state, clocks());
        }
        let Some(row) = state.link.clone() else {
            let (owns_target, export, imported) = match load {
                Load::Import(imported) => {
                    self.check_imported(prepared, imported)?;
                    (true, None, Some(imported))
                }
                Load::Export(export) => (self.owns_target(prepared).await?, Some(export), None),
                Load::Other | Load::Window(_) | Load::NoWindow(_) => (self.owns_target(prepared).await?, None, None),
            };
            if let Some(export) = export {
                // Since it was found, the table may have been made anew, or its stream turned off and on.
                self.check_goes_on(export, &prepared.source)?;
            }
            let listing = self.list(prepared, &found).await?;
            // Since it was imported, the stream may have been turned off and on.
            let imported = imported.map(|imported| (imported, self.goes_on(imported, &prepared.source)));
            let begin = open::Begin { owns_target, export, imported };
            let opened = open::pin(&self.config, prepared, &listing, begin, state, clocks());
            let opened = opened.ok_or_else(still_enabling)?;
            return Ok((opened, found, prepared.view));
        };
        if let Load::Window(window) = load {
            open::check_tables(&self.config.name, &row.identity, &prepared.identity)?;
            let listing = self.list(prepared, &found).await?;
            let opened = open::load_on(&self.config, prepared, &listing, window, (state, row), clocks());
            return Ok((opened.ok_or_else(still_enabling)?, found, prepared.view));
        }
        if let Load::NoWindow(why) = load {
            open::check_tables(&self.config.name, &row.identity, &prepared.identity)?;
            let link = self.config.name.as_str();
            let plan = row.load.as_ref().and_then(|plan| plan.export.as_ref());
            let stream_lost = plan.is_none_or(|plan| hand_over(plan, &found).is_lost(self.aws_now()));
            if stream_lost {
                tracing::error!(
                    link,
                    why,
                    "no incremental export goes on from what is loaded: what the stream has lost is found by comparing both tables"
                );
            } else {
                tracing::warn!(
                    link,
                    why,
                    "no incremental export goes on from what is loaded, and the stream does, just so"
                );
            }
            let listing = self.list(prepared, &found).await?;
            let opened = open::end_load(&self.config, prepared, &listing, stream_lost, (state, row), clocks());
            return Ok((opened.ok_or_else(still_enabling)?, found, prepared.view));
        }
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
        let opened = opened.ok_or_else(still_enabling)?;
        Ok((opened, found, prepared.view))
    }

    /// A part goes on from its rows. What a link does besides is done while it is whole.
    fn open_part(
        &self,
        prepared: &Prepared,
        state: LinkState,
        clocks: Clocks,
    ) -> Result<(Opened, StreamArn, ViewType)> {
        let stream = prepared.identity.stream.clone();
        let row = state.link.clone().filter(|row| row.identity.stream == stream).ok_or_else(|| {
            let what = format!("the source of `{}` has another stream now", self.config.name);
            Error::new(Exit::Precondition, what).hint("the link is put together first, which takes a moment")
        })?;
        Ok((open::resume(&self.config, prepared, state, row, clocks)?, stream, prepared.view))
    }

    /// Whether the tables are those of the import, since which they may have been made anew.
    fn check_imported(&self, prepared: &Prepared, imported: &Imported) -> Result<()> {
        if prepared.target.id == imported.table_id && prepared.source.id == imported.source_id {
            return Ok(());
        }
        let what = format!("a table of link `{}` was made anew since the target was imported", self.config.name);
        Err(Error::new(Exit::Precondition, what).hint("run again, and delete the target if it is not needed"))
    }

    /// A target that this link finds empty, as one that it has just made, is its own. Another one is refused, unless the user allows it.
    pub(super) async fn owns_target(&self, prepared: &Prepared) -> Result<bool> {
        let empty = is_empty(&prepared.ends.target_reader, &self.shared.context).await.map_err(|failure| {
            Error::new(Exit::Precondition, format!("look whether the target of link `{}` is empty", self.config.name))
                .hint("allow dynamodb:Scan on it to the target's identity")
                .because(failure)
        })?;
        if !empty && self.config.load.method == config::LoadMethod::Export {
            let what = format!("the target table of link `{}` is not empty", self.config.name);
            return Err(Error::new(Exit::Precondition, what).hint(
                "an export is loaded into an empty table that nobody else writes: empty it, or name another one",
            ));
        }
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

    pub(super) fn lister(&self, prepared: &Prepared, stream: &StreamArn) -> ShardLister {
        let source = Arc::clone(&prepared.ends.stream);
        ShardLister::new(source, stream.clone(), self.shared.context.clone(), Patience::COMMAND)
    }

    /// A listing from which something follows: a stream that is being turned on is listed again until it is on, and so is
    /// one of which a parent is missing, for that may have come into being between two pages. It counts as trimmed when
    /// the listing before showed it, or showed its child without it.
    async fn list(&self, prepared: &Prepared, stream: &StreamArn) -> Result<Listing> {
        let lister = self.lister(prepared, stream);
        let what = || {
            let what = format!("list the shards of the stream of link `{}`", self.config.name);
            Error::new(Exit::Precondition, what)
        };
        let (mut before, mut looks) = (None, 0);
        for _ in 0..ENABLING_LOOKS {
            match lister.list().await {
                Ok(listing) if listing.is_conclusive() => {
                    looks += 1;
                    // What is still doubtful after so many is found out by who reads the stream.
                    if looks == ORPHAN_LOOKS || listing.orphans().all(|orphan| is_certain(orphan, before.as_ref())) {
                        return Ok(listing);
                    }
                    before = Some(listing);
                    tokio::time::sleep(ORPHANS_AGAIN).await;
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

fn still_enabling() -> Error {
    Error::new(Exit::Precondition, "pin the stream: it is still being turned on").hint("run again in a minute")
}

/// Whether the parent of a shard, which is not listed, was trimmed: the listing before showed it, or lacked it, too.
fn is_certain(orphan: &ShardListing, before: Option<&Listing>) -> bool {
    before.is_some_and(|before| {
        before.contains(&orphan.id) || orphan.parent.as_ref().is_some_and(|parent| before.contains(parent))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ShardId;
    use crate::stream::listing::{Listed, Lister};
    use crate::stream::{ListingPage, StreamStatus};

    fn listing(shards: &[(&str, Option<&str>)]) -> Listing {
        let shards = shards.iter().map(|(id, parent)| ShardListing {
            id: ShardId::new(*id),
            parent: parent.map(ShardId::new),
            first: None,
            last: None,
        });
        let page = ListingPage { status: StreamStatus::Enabled, view: None, shards: shards.collect(), next: None };
        match Lister::new().accept(page).unwrap() {
            Listed::All(listing) => listing,
            Listed::More(_) => panic!("one page"),
        }
    }

    #[test]
    fn a_parent_is_trimmed_when_the_listing_before_showed_it_or_its_child_without_it() {
        let now = listing(&[("child", Some("parent"))]);
        let orphan = now.orphans().next().unwrap();
        assert!(!is_certain(orphan, None));
        assert!(!is_certain(orphan, Some(&listing(&[("other", None)]))), "both may have come between two pages");
        assert!(is_certain(orphan, Some(&now)));
        assert!(is_certain(orphan, Some(&listing(&[("parent", None)]))), "it left meanwhile");
    }
}
