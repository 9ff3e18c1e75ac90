//! Loads segments, several at once: what a scan and an export have in common.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::driver::{LoadError, LoadObserver};
use crate::checkpoint::keeper::Keeper;
use crate::checkpoint::rows::{SegmentRow, Stage};
use crate::context::Context;

/// Loads each segment that is not done. Answers whether all are; not when it is told to stop before.
pub(super) async fn each<F>(
    segments: &[SegmentRow],
    concurrency: usize,
    context: &Context,
    observer: &dyn LoadObserver,
    stop: &CancellationToken,
    load: impl Fn(SegmentRow) -> F,
) -> Result<bool, LoadError>
where
    F: Future<Output = Result<(), LoadError>>,
{
    let mut waiting: Vec<SegmentRow> = segments.iter().filter(|segment| !segment.done).cloned().collect();
    // Their order is partition order: segments in a row would write to one partition of the target after the other.
    context.shuffle(&mut waiting);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < concurrency.max(1)
            && let Some(segment) = waiting.pop()
        {
            running.push(load(segment));
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(false),
            done = running.next() => match done {
                Some(done) => done?,
                None => return Ok(true),
            },
        }
        observer.segment_done();
    }
}

/// Every segment is settled to its end: the link's row says so.
pub(super) async fn finish(keeper: &Keeper) -> Result<(), LoadError> {
    keeper.forget_segments().await?;
    keeper.update_link(|link| link.stage = Stage::Streaming).await?;
    Ok(())
}
