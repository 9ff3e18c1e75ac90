//! An import of a table: its name, and what its account says of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{TableArn, WallTime};

/// The ARN of an import: `arn:aws:dynamodb:REGION:ACCOUNT:table/TABLE/import/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImportArn {
    /// The table that was made by it.
    pub table: TableArn,
    /// The import's own part, as in `01658528578619-c4d4e311`.
    pub id: String,
}

/// What `DescribeImport` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// How far it is.
    pub status: ImportStatus,
    /// The id of the table that it makes, where that is told: a table made anew has another.
    pub table_id: Option<String>,
    /// The client token that it was asked for with.
    pub token: Option<String>,
    /// When it was begun.
    pub started: Option<WallTime>,
    /// When it was over.
    pub ended: Option<WallTime>,
    /// Bytes read so far, uncompressed.
    pub processed_bytes: u64,
    /// Items that are in the table, or will be.
    pub imported_items: u64,
    /// Items that were refused.
    pub errors: u64,
    /// The log group that names what was refused.
    pub log_group: Option<String>,
}

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportStatus {
    /// DynamoDB reads the files; or it is being cancelled.
    InProgress,
    /// It is over, and everything is in the table.
    Completed,
    /// It is over, and so is everything but for items that were refused.
    Incomplete,
    /// It never will be; why. Its table may be there, and hold a part.
    Failed(String),
}

/// What is wrong with an import's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not the ARN of an import")]
pub struct BadImportArn {
    given: String,
}

impl ImportArn {
    /// When it was begun, as its id tells: 14 digits of milliseconds since 1970. Source: Developer Guide, import format
    /// quotas and validation.
    #[must_use]
    pub fn begun(&self) -> Option<WallTime> {
        let millis = self.id.split('-').next().filter(|millis| millis.len() == 14)?;
        millis.parse().ok().map(WallTime::from_millis)
    }
}

impl FromStr for ImportArn {
    type Err = BadImportArn;

    fn from_str(text: &str) -> Result<Self, BadImportArn> {
        let bad = || BadImportArn { given: text.to_owned() };
        let (table, id) = text.split_once("/import/").ok_or_else(bad)?;
        let is_legal = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let table = table.parse().ok().filter(|_| is_legal).ok_or_else(bad)?;
        Ok(Self { table, id: id.to_owned() })
    }
}

impl fmt::Display for ImportArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/import/{}", self.table, self.id)
    }
}

impl Serialize for ImportArn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImportArn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_named_by_its_arn_which_tells_when_it_was_begun() {
        let arn = "arn:aws:dynamodb:us-west-2:111122223333:table/target/import/01658528578619-c4d4e311";
        let read: ImportArn = arn.parse().unwrap();
        assert_eq!((read.table.name.as_str(), read.to_string().as_str()), ("target", arn));
        assert_eq!(read.begun().unwrap().to_string(), "2022-07-22T22:22:58.619Z");
        assert_eq!(serde_json::from_str::<ImportArn>(&serde_json::to_string(&read).unwrap()).unwrap(), read);
        assert!("arn:aws:dynamodb:us-west-2:111122223333:table/target".parse::<ImportArn>().is_err());
        assert!("arn:aws:dynamodb:us-west-2:111122223333:table/target/import/".parse::<ImportArn>().is_err());
    }
}
