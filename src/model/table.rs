//! Tables, streams and accounts: their names and what DescribeTable says of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{KeyKind, KeySchema};

/// A table's ARN, taken apart: `arn:PARTITION:dynamodb:REGION:ACCOUNT:table/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableArn {
    /// `aws`, `aws-cn`, `aws-us-gov`.
    pub partition: String,
    /// The Region.
    pub region: String,
    /// The owner's account id: 12 digits.
    pub account: String,
    /// The table's name: 3 to 255 characters of `A-Za-z0-9_.-`.
    pub name: String,
}

/// What is wrong with a table ARN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a table ARN: want arn:aws:dynamodb:REGION:ACCOUNT:table/NAME")]
pub struct BadTableArn {
    given: String,
}

impl FromStr for TableArn {
    type Err = BadTableArn;

    fn from_str(text: &str) -> Result<Self, BadTableArn> {
        let bad = || BadTableArn { given: text.to_owned() };
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next().ok_or_else(bad);
        let (arn, partition, service, region, account, resource) =
            (next()?, next()?, next()?, next()?, next()?, next()?);
        let name = resource.strip_prefix("table/").ok_or_else(bad)?;
        let well_formed = arn == "arn"
            && service == "dynamodb"
            && !partition.is_empty()
            && !region.is_empty()
            && account.len() == 12
            && account.bytes().all(|b| b.is_ascii_digit())
            && is_table_name(name);
        if !well_formed {
            return Err(bad());
        }
        Ok(Self { partition: partition.into(), region: region.into(), account: account.into(), name: name.into() })
    }
}

impl fmt::Display for TableArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, region, account, name } = self;
        write!(f, "arn:{partition}:dynamodb:{region}:{account}:table/{name}")
    }
}

impl Serialize for TableArn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TableArn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a text is a legal table name: 3 to 255 of `A-Za-z0-9_.-`. Source: Developer Guide, naming rules.
#[must_use]
pub fn is_table_name(text: &str) -> bool {
    (3..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// A stream's ARN; opaque. A stream that is turned off and on again has a new one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamArn(pub String);

impl fmt::Display for StreamArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which images a stream's records carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ViewType {
    /// The key alone.
    KeysOnly,
    /// The whole item as it is now.
    NewImage,
    /// The whole item as it was.
    OldImage,
    /// Both.
    NewAndOldImages,
}

impl ViewType {
    /// Whether a record says what the item is now. Where not, each change is read back at the source.
    #[must_use]
    pub const fn has_new_image(self) -> bool {
        matches!(self, Self::NewImage | Self::NewAndOldImages)
    }
}

/// The state of a table or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableStatus {
    /// Being made.
    Creating,
    /// Usable, and being changed.
    Updating,
    /// Usable.
    Active,
    /// Any other: `DELETING`, `ARCHIVED`, `INACCESSIBLE_ENCRYPTION_CREDENTIALS`, …
    Other(String),
}

impl TableStatus {
    /// Whether the table is on its way out: what is read in it may miss items that nobody deleted.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        matches!(self, Self::Other(status) if status == "DELETING")
    }
}

/// The stream of a table, as DescribeTable tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStream {
    /// The newest stream's ARN; also there when the stream is off.
    pub arn: StreamArn,
    /// What its records carry; `None` when the stream is off.
    pub view: Option<ViewType>,
    /// Whether it takes new records.
    pub enabled: bool,
}

/// How capacity is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Billing {
    /// Per request. Warm throughput in units/s, where the service tells it.
    OnDemand {
        /// Read units/s that the table serves at once.
        warm_read: Option<u64>,
        /// Write units/s that the table serves at once.
        warm_write: Option<u64>,
        /// The user's own ceiling on reads, units/s.
        max_read: Option<u64>,
        /// The user's own ceiling on writes, units/s.
        max_write: Option<u64>,
    },
    /// Provisioned units/s.
    Provisioned {
        /// Read capacity units.
        read: u64,
        /// Write capacity units.
        write: u64,
    },
}

/// Which attributes an index holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// All.
    All,
    /// The keys of table and index.
    KeysOnly,
    /// The keys and these.
    Include(Vec<String>),
}

/// A secondary index. Its keys may be up to four hash and four range attributes (global indexes of 2025 on).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Hash attributes, in order.
    pub hash: Vec<String>,
    /// Range attributes, in order.
    pub range: Vec<String>,
    /// What it holds.
    pub projection: Projection,
    /// Provisioned read and write units of a global index, where the table is provisioned.
    pub provisioned: Option<(u64, u64)>,
    /// The user's own ceilings (read, write) of an on-demand global index.
    pub on_demand_max: (Option<u64>, Option<u64>),
}

/// Encryption at rest under a key that is not AWS's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// The KMS key's ARN; it belongs to the table's own account.
    pub kms_key_arn: Option<String>,
}

/// What DescribeTable says, as far as the replicator needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDescription {
    /// The ARN.
    pub arn: TableArn,
    /// Unique per table ever made: a re-created table has another.
    pub id: String,
    /// Its state.
    pub status: TableStatus,
    /// The primary key.
    pub keys: KeySchema,
    /// Every attribute that a key or an index names, with its type.
    pub attributes: Vec<(String, KeyKind)>,
    /// Items, refreshed by the service about every six hours.
    pub item_count: u64,
    /// Bytes, refreshed by the service about every six hours.
    pub size_bytes: u64,
    /// Capacity.
    pub billing: Billing,
    /// Global secondary indexes.
    pub global_indexes: Vec<Index>,
    /// Local secondary indexes.
    pub local_indexes: Vec<Index>,
    /// The newest stream, on or off.
    pub stream: Option<TableStream>,
    /// `STANDARD_INFREQUENT_ACCESS` and the like; `None` is the standard class.
    pub table_class: Option<String>,
    /// `None` is AWS's own key.
    pub encryption: Option<Encryption>,
    /// Whether DeleteTable is refused.
    pub deletion_protection: bool,
    /// What the service reported that no copy can carry over (vector indexes, replicas), by name.
    pub not_copied: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_survives_its_text_form() {
        let text = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders.v2";
        assert_eq!(text.parse::<TableArn>().unwrap().to_string(), text);
    }

    #[test]
    fn refuses_what_is_no_table_arn() {
        for bad in [
            "orders",
            "arn:aws:s3:::bucket",
            "arn:aws:dynamodb:eu-west-1:111122223333:table/ab",
            "arn:aws:dynamodb:eu-west-1:1111:table/orders",
            "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/stream/2026",
            "arn:aws:dynamodb::111122223333:table/orders",
        ] {
            assert!(bad.parse::<TableArn>().is_err(), "{bad}");
        }
    }
}
