//! A part promises what a link promises: the same suite, each link of it a part of that link.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::super::dynamodb::TableStore;
use super::super::{Leases as _, PartName, StoreResult};
use super::*;

/// The links of the suite, and the parts that stand for them.
const NAMES: [(&str, &str); 9] = [
    ("a", "a/9.2"),
    ("b", "b/9.2"),
    ("c", "c/9.2"),
    ("events", "events/9.2"),
    ("order", "order/9.2"),
    ("orders", "orders/9.2"),
    ("orders-2", "orders-2/9.2"),
    ("other", "other/9.2"),
    ("Ω", "Ω/9.2"),
];

fn part_of(link: &str) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == link).map(|(_, part)| *part).unwrap()
}

/// A store in which every link is a part.
pub(super) struct Parted(pub(super) TableStore);

impl Parted {
    /// Whoever takes a part finds it made.
    async fn make(&self, part: &str) {
        if self.0.sight(part, false).await.unwrap().fence.is_none() {
            match self.0.make_part(&PartName::parse(part).unwrap(), "maker", vec![]).await {
                Ok(()) | Err(StoreError::Fenced { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// As it is to be of a link: its maker owned nothing.
fn of_link(state: LinkState) -> LinkState {
    LinkState { fence: state.fence.filter(|fence| fence.epoch > 0), ..state }
}

fn named(error: StoreError, link: &str) -> StoreError {
    let link = link.to_owned();
    match error {
        StoreError::Fenced { .. } => StoreError::Fenced { link },
        StoreError::Invariant { what, .. } => StoreError::Invariant { link, what },
        error => error,
    }
}

impl StateStore for Parted {
    fn place(&self) -> String {
        self.0.place()
    }

    fn links(&self) -> BoxFuture<'_, StoreResult<Vec<String>>> {
        async move {
            assert!(self.0.links().await?.is_empty(), "a part is no link");
            let mut links = Vec::new();
            for (link, part) in NAMES {
                let parts = self.0.parts(link).await?;
                assert!(parts.iter().all(|found| found.to_string() == part), "{parts:?}");
                links.extend(parts.into_iter().map(|part| part.link));
            }
            Ok(links)
        }
        .boxed()
    }

    fn read<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<LinkState>> {
        let read = self.0.read(part_of(link));
        async move { read.await.map(of_link) }.boxed()
    }

    fn take<'a>(&'a self, link: &'a str, owner: &'a str) -> BoxFuture<'a, StoreResult<(Fence, LinkState)>> {
        async move {
            self.make(part_of(link)).await;
            let (fence, state) = self.0.take(part_of(link), owner).await?;
            Ok((fence, of_link(state)))
        }
        .boxed()
    }

    fn commit<'a>(
        &'a self,
        link: &'a str,
        fence: &'a Fence,
        writes: Vec<StateWrite>,
    ) -> BoxFuture<'a, StoreResult<()>> {
        let commit = self.0.commit(part_of(link), fence, writes);
        async move { commit.await.map_err(|error| named(error, link)) }.boxed()
    }

    fn dead_letters<'a>(
        &'a self,
        link: &'a str,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'a, StoreResult<Vec<DeadLetterRow>>> {
        self.0.dead_letters(part_of(link), after, limit)
    }

    fn doubt<'a>(&'a self, link: &'a str, key: &'a CanonicalKey) -> BoxFuture<'a, StoreResult<Option<DoubtRow>>> {
        self.0.doubt(part_of(link), key)
    }

    fn note_verified<'a>(&'a self, link: &'a str, row: &'a VerifiedRow) -> BoxFuture<'a, StoreResult<()>> {
        self.0.note_verified(part_of(link), row)
    }

    fn note_export<'a>(
        &'a self,
        link: &'a str,
        row: &'a ExportRequestRow,
        replaces: Option<&'a ExportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        self.0.note_export(part_of(link), row, replaces)
    }

    fn export_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ExportRequestRow>>> {
        self.0.export_request(part_of(link))
    }

    fn note_import<'a>(
        &'a self,
        link: &'a str,
        row: &'a ImportRequestRow,
        replaces: Option<&'a ImportRequestRow>,
    ) -> BoxFuture<'a, StoreResult<bool>> {
        self.0.note_import(part_of(link), row, replaces)
    }

    fn import_request<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<ImportRequestRow>>> {
        self.0.import_request(part_of(link))
    }

    fn verified<'a>(&'a self, link: &'a str) -> BoxFuture<'a, StoreResult<Option<VerifiedRow>>> {
        self.0.verified(part_of(link))
    }
}
