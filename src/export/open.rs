//! Reads the manifests of an export.

use std::time::Duration;

use tokio::time::Instant;

use super::manifest::{FileList, Kind, ManifestError, Summary};
use super::{Manifest, ObjectPart, ObjectReader, PartRequest};
use crate::context::Context;
use crate::error::{Failure, Fault};
use crate::model::ExportPlace;
use crate::retry::{Attempts, Patience, Verdict};

/// A part of an object: small enough that many are in memory at once, and large enough that requests cost little.
pub(crate) const PART_BYTES: u64 = 1 << 20;
/// A summary has about a kilobyte.
const MAX_SUMMARY: u64 = 1 << 20;
/// A list of a million files has half of this.
const MAX_FILE_LIST: u64 = 512 << 20;

/// Why the manifests could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// An object could not be read.
    #[error("read {key}")]
    Object {
        /// Its key.
        key: String,
        #[source]
        source: Failure,
    },
    /// What it says.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It cannot be what it should be.
    #[error("{key} has {size} bytes")]
    TooLarge { key: String, size: u64 },
}

impl OpenError {
    /// Whether the identity may not read the bucket, as far as anybody can tell.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Object { source, .. } if source.fault == Fault::Denied)
    }

    /// Whether there is no such object, or no such bucket.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Object { source, .. } if source.fault == Fault::Lost)
    }

    /// Whether it may pass by itself.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Object { source, .. } if source.fault == Fault::Transient)
    }
}

/// For how long a bucket's failures are borne.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endurance {
    /// Refused credentials.
    pub(crate) patience: Patience,
    /// What passes by itself; throttling is borne for ever.
    pub(crate) trouble: Duration,
}

impl Endurance {
    /// Before anything was written: as long as credentials take that went stale, and as other calls at the start.
    const AT_START: Self =
        Self { patience: Patience { denied: Duration::from_secs(2) }, trouble: Duration::from_secs(60) };
}

/// Reads both manifests of an export of this kind.
pub(crate) async fn open(
    reader: &dyn ObjectReader,
    place: &ExportPlace,
    kind: Kind,
    context: &Context,
) -> Result<Manifest, OpenError> {
    let mut text = Vec::new();
    let take = |part: &[u8]| {
        text.extend_from_slice(part);
        Ok(())
    };
    read_all(reader, &[place.summary_key()], MAX_SUMMARY, context, take).await?;
    let summary = Summary::parse(&text, kind)?;
    let mut list = FileList::new();
    let spellings = place.spellings(&summary.files_key);
    read_all(reader, &spellings, MAX_FILE_LIST, context, |part| list.put(part)).await?;
    Ok(list.finish(summary)?)
}

/// Looks whether objects with such a key may be read, and one that is missing be told from one that is denied. A bucket that
/// is not there is [`Fault::Lost`].
pub(crate) async fn look(reader: &dyn ObjectReader, key: &str, context: &Context) -> Result<(), Failure> {
    let request = PartRequest { key: key.to_owned(), offset: 0, length: 1, etag: None };
    let mut trials = Trials::new(Endurance::AT_START);
    loop {
        match reader.read(&request).await {
            Ok(_) => return Ok(()),
            Err(failure) if failure.code.as_deref() == Some("NoSuchKey") => return Ok(()),
            Err(failure) => trials.wait_or_stop(failure, context).await?,
        }
    }
}

async fn read_all(
    reader: &dyn ObjectReader,
    spellings: &[String],
    max_bytes: u64,
    context: &Context,
    mut take: impl FnMut(&[u8]) -> Result<(), ManifestError>,
) -> Result<(), OpenError> {
    let of = |key: &str| {
        let key = key.to_owned();
        |source| OpenError::Object { key, source }
    };
    let given = spellings.first().map_or("", String::as_str);
    let (spelling, first) = read_first(reader, spellings, 0, context, Endurance::AT_START).await.map_err(of(given))?;
    let key = spellings.get(spelling).map_or(given, String::as_str);
    if first.size > max_bytes {
        return Err(OpenError::TooLarge { key: key.to_owned(), size: first.size });
    }
    take(&first.bytes)?;
    let mut request = PartRequest::after(key, &first);
    while request.offset < first.size {
        let part = read_part(reader, &request, context, Endurance::AT_START).await.map_err(of(key))?;
        take(&part.bytes)?;
        request.offset += part.bytes.len() as u64;
    }
    Ok(())
}

/// Reads the first part of an object whose key has several spellings, `likely` first. What passes is tried again; so is
/// what is not there, a few times. Answers which spelling it has.
pub(crate) async fn read_first(
    reader: &dyn ObjectReader,
    spellings: &[String],
    likely: usize,
    context: &Context,
    endurance: Endurance,
) -> Result<(usize, ObjectPart), Failure> {
    let mut trials = Trials::new(endurance);
    let count = spellings.len().max(1);
    loop {
        let mut failed: Option<Failure> = None;
        for at in (0..spellings.len()).map(|n| (likely + n) % count) {
            let key = spellings.get(at).cloned().unwrap_or_default();
            let request = PartRequest { key, offset: 0, length: PART_BYTES, etag: None };
            match reader.read(&request).await {
                Ok(part) => return Ok((at, part)),
                // Where one spelling is denied, that the others are not there says nothing.
                Err(failure) if failure.fault == Fault::Lost => failed = failed.or(Some(failure)),
                Err(failure) if failure.fault == Fault::Denied => failed = Some(failure),
                Err(failure) => {
                    failed = Some(failure);
                    break;
                }
            }
        }
        let failure = failed.unwrap_or_else(nowhere);
        trials.wait_or_stop(failure, context).await?;
    }
}

/// Reads a part; what passes is tried again.
pub(crate) async fn read_part(
    reader: &dyn ObjectReader,
    request: &PartRequest,
    context: &Context,
    endurance: Endurance,
) -> Result<ObjectPart, Failure> {
    let mut trials = Trials::new(endurance);
    loop {
        match reader.read(request).await {
            Ok(part) => return Ok(part),
            Err(failure) => trials.wait_or_stop(failure, context).await?,
        }
    }
}

/// The attempts at one part.
struct Trials {
    endurance: Endurance,
    attempts: Attempts,
    begun: Instant,
}

impl Trials {
    fn new(endurance: Endurance) -> Self {
        Self { endurance, attempts: Attempts::new(endurance.patience), begun: Instant::now() }
    }

    async fn wait_or_stop(&mut self, failure: Failure, context: &Context) -> Result<(), Failure> {
        let elapsed = self.begun.elapsed();
        match self.attempts.failed_with(&failure, elapsed, context.draw()) {
            Verdict::Again(wait) if failure.throttled || elapsed < self.endurance.trouble => {
                let failed = self.attempts.failed();
                tracing::warn!(error = %failure, failed, "an object could not be read, trying again");
                tokio::time::sleep(wait).await;
                Ok(())
            }
            Verdict::Again(_) | Verdict::Stop => Err(failure),
        }
    }
}

/// An object without a key.
fn nowhere() -> Failure {
    Failure::of_ours("GetObject", Fault::Lost, "the object has no key")
}
