//! The nouns: what the stages hand to each other. Std, bytes and serde; no AWS type, no task, no stage.

mod change;
mod export;
mod import;
mod item;
mod key;
mod position;
mod shard;
mod table;
mod time;
mod write;

pub use change::{Change, ChangeOp};
pub(crate) use export::is_bucket;
pub use export::{
    BadExportPlace, ExportArn, ExportBucket, ExportPlace, ExportRef, ExportReport, ExportSpan, ExportStatus,
    ExportWindow, RecoveryWindow,
};
pub use import::{BadImportArn, ImportArn, ImportReport, ImportStatus};
pub use item::RawItem;
pub use key::{CanonicalKey, Key, KeyAttribute, KeyKind, KeySchema};
pub use position::{BadSequenceNumber, EMPTY_PAGES, SequenceNumber, ShardId, StartAt};
pub use shard::{GapScope, ShardStatus};
pub use table::{
    BadTableArn, Billing, Encryption, Index, Projection, StreamArn, TableArn, TableDescription, TableStatus,
    TableStream, ViewType, is_table_name,
};
pub use time::WallTime;
pub use write::Write;
