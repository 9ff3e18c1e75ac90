//! Where an export is, and what its account says of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{TableArn, WallTime};

const SUMMARY: &str = "manifest-summary.json";

/// The folder of an export: `s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT_ID/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExportPlace {
    /// The bucket.
    pub bucket: String,
    /// The key's beginning that all objects share, up to and with `AWSDynamoDB/EXPORT_ID/`.
    pub folder: String,
}

/// The ARN of an export: `arn:aws:dynamodb:REGION:ACCOUNT:table/TABLE/export/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExportArn {
    /// The table that was exported.
    pub table: TableArn,
    /// The export's own part, as in `01604473200000-a1b2c3d4`.
    pub id: String,
}

/// An export, as a user names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ExportRef {
    /// By where it is.
    Place(ExportPlace),
    /// By its name in the account of its table, which says where it is.
    Arn(ExportArn),
}

/// What `DescribeExport` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportReport {
    /// How far it is.
    pub status: ExportStatus,
    /// Whether it is of the whole table in DynamoDB JSON, and no part, selection or increment of it.
    pub is_full: bool,
    /// The window that it is of, where it is an incremental one in DynamoDB JSON, and no part or selection of that.
    pub window: Option<ExportWindow>,
    /// The table, and the id that it had.
    pub table: Option<TableArn>,
    /// See above.
    pub table_id: Option<String>,
    /// The time of which it is an image, give or take a minute.
    pub time: Option<WallTime>,
    /// Its bucket.
    pub bucket: String,
    /// What the keys of its objects begin with, where that was given.
    pub prefix: Option<String>,
    /// The account that owns the bucket, where that was given.
    pub bucket_owner: Option<String>,
    /// The key of its summary.
    pub manifest: Option<String>,
    /// When it was begun.
    pub started: Option<WallTime>,
    /// When it was whole, or failed.
    pub ended: Option<WallTime>,
    /// The client token that it was asked for with.
    pub token: Option<String>,
}

/// What an incremental export is of: the items that changed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportWindow {
    /// Where it begins.
    pub from: WallTime,
    /// Where it ends; what was written then is in the next one.
    pub to: WallTime,
}

/// What is exported of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportSpan {
    /// The whole table as it was at a time; `None`: at the latest one that the service knows.
    Whole(Option<WallTime>),
    /// What changed in a window.
    Window(ExportWindow),
}

/// Between which times a table can be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryWindow {
    /// The first one; nothing before it is known any more, or was ever.
    pub earliest: Option<WallTime>,
    /// The last one.
    pub latest: Option<WallTime>,
}

impl fmt::Display for ExportWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

/// Where an export is to be put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportBucket {
    /// The bucket.
    pub name: String,
    /// What the keys of all of its objects begin with.
    pub prefix: Option<String>,
    /// The account that owns the bucket; needed where that is not the table's.
    pub owner: Option<String>,
    /// The key of KMS that encrypts it, of the bucket's Region; `None`: S3's own.
    pub kms_key: Option<String>,
    /// Whether point-in-time recovery, which exports need, may be turned on.
    pub enable_pitr: bool,
}

/// How far an export is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportStatus {
    /// DynamoDB is writing it.
    InProgress,
    /// It is whole.
    Completed,
    /// It will never be; why.
    Failed(String),
}

/// What is wrong with an export's place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no export: want s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT_ID/, or its ARN")]
pub struct BadExportPlace {
    given: String,
}

impl ExportPlace {
    /// The key of the summary.
    pub(crate) fn summary_key(&self) -> String {
        format!("{}{SUMMARY}", self.folder)
    }

    /// How the key of an object of the export may be meant, the likeliest first: AWS's own samples leave the prefix out in
    /// places, and a folder that was copied has another one.
    pub(crate) fn spellings(&self, key: &str) -> Vec<String> {
        let prefix =
            self.folder.rsplitn(4, '/').nth(3).map_or("", |before| self.folder.get(..=before.len()).unwrap_or(""));
        let in_folder =
            key.rsplit_once("AWSDynamoDB/").and_then(|(_, rest)| rest.split_once('/')).map(|(_, rest)| rest);
        let mut spellings = vec![key.to_owned()];
        let others = [format!("{prefix}{key}"), format!("{}{}", self.folder, in_folder.unwrap_or(key))];
        for other in others {
            if !spellings.contains(&other) {
                spellings.push(other);
            }
        }
        spellings
    }
}

impl FromStr for ExportPlace {
    type Err = BadExportPlace;

    /// With or without the last slash; the address of the summary will do, too.
    fn from_str(text: &str) -> Result<Self, BadExportPlace> {
        let bad = || BadExportPlace { given: text.to_owned() };
        let (bucket, key) = text.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        let folder = key.strip_suffix(SUMMARY).unwrap_or(key).trim_end_matches('/');
        let mut parts = folder.rsplit('/');
        let (id, parent) = (parts.next().unwrap_or_default(), parts.next());
        if !is_bucket(bucket) || parent != Some("AWSDynamoDB") || id.is_empty() || id == "data" {
            return Err(bad());
        }
        Ok(Self { bucket: bucket.to_owned(), folder: format!("{folder}/") })
    }
}

impl ExportArn {
    /// When it was begun, as its id tells: 14 digits of milliseconds since 1970. Source: Developer Guide, table export
    /// output format.
    #[must_use]
    pub fn begun(&self) -> Option<WallTime> {
        let millis = self.id.split('-').next().filter(|millis| millis.len() == 14)?;
        millis.parse().ok().map(WallTime::from_millis)
    }
}

impl FromStr for ExportArn {
    type Err = BadExportPlace;

    fn from_str(text: &str) -> Result<Self, BadExportPlace> {
        let bad = || BadExportPlace { given: text.to_owned() };
        let (table, id) = text.split_once("/export/").ok_or_else(bad)?;
        let is_legal = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let table = table.parse().ok().filter(|_| is_legal).ok_or_else(bad)?;
        Ok(Self { table, id: id.to_owned() })
    }
}

impl fmt::Display for ExportArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/export/{}", self.table, self.id)
    }
}

impl FromStr for ExportRef {
    type Err = BadExportPlace;

    fn from_str(text: &str) -> Result<Self, BadExportPlace> {
        if text.starts_with("arn:") { text.parse().map(Self::Arn) } else { text.parse().map(Self::Place) }
    }
}

impl fmt::Display for ExportRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(place) => place.fmt(f),
            Self::Arn(arn) => arn.fmt(f),
        }
    }
}

/// Source: S3 User Guide, bucket naming rules.
pub(crate) fn is_bucket(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    (3..=63).contains(&text.len()) && text.bytes().all(legal)
}

impl fmt::Display for ExportPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.folder)
    }
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(ExportPlace, ExportArn, ExportRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_in_every_spelling() {
        let folder = "s3://my-bucket/a/b/AWSDynamoDB/01604473200000-a1b2c3d4/";
        for text in [folder, folder.trim_end_matches('/'), &format!("{folder}manifest-summary.json")] {
            assert_eq!(text.parse::<ExportPlace>().unwrap().to_string(), folder, "{text}");
        }
        let place: ExportPlace = "s3://bucket/AWSDynamoDB/1-a".parse().unwrap();
        assert_eq!(place.summary_key(), "AWSDynamoDB/1-a/manifest-summary.json");
    }

    #[test]
    fn an_export_is_named_by_its_place_or_by_its_arn() {
        let arn = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/export/01604473200000-a1b2c3d4";
        let Ok(ExportRef::Arn(read)) = arn.parse() else { panic!("an ARN") };
        assert_eq!((read.table.name.as_str(), read.id.as_str()), ("orders", "01604473200000-a1b2c3d4"));
        assert_eq!(read.begun().unwrap().to_string(), "2020-11-04T07:00:00.000Z");
        assert_eq!(ExportRef::Arn(read.clone()).to_string(), arn);
        assert_eq!(serde_json::from_str::<ExportArn>(&serde_json::to_string(&read).unwrap()).unwrap(), read);
        let place = "s3://bucket/AWSDynamoDB/1-a/";
        assert_eq!(place.parse::<ExportRef>().unwrap().to_string(), place);
        for bad in [
            "arn:aws:dynamodb:eu-west-1:111122223333:table/orders",
            "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/export/",
            "arn:aws:dynamodb:eu-west-1:111122223333:table/orders/export/1/2",
            "arn:aws:dynamodb:eu-west-1:1:table/orders/export/1-a",
        ] {
            assert!(bad.parse::<ExportRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_folder_of_an_export_is_refused() {
        for text in [
            "",
            "bucket/AWSDynamoDB/1-a",
            "s3://bucket",
            "s3://bucket/",
            "s3://bucket/AWSDynamoDB/",
            "s3://bucket/prefix/",
            "s3://bucket/AWSDynamoDB/data/",
            "s3://B/AWSDynamoDB/1-a",
            "https://bucket.s3.amazonaws.com/AWSDynamoDB/1-a/",
        ] {
            assert!(text.parse::<ExportPlace>().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_found_with_and_without_their_prefix_and_in_a_copied_folder() {
        let place: ExportPlace = "s3://bucket/my/prefix/AWSDynamoDB/1-a/".parse().unwrap();
        let whole = "my/prefix/AWSDynamoDB/1-a/data/x.json.gz";
        for key in
            ["AWSDynamoDB/1-a/data/x.json.gz", whole, "elsewhere/AWSDynamoDB/1-a/data/x.json.gz", "data/x.json.gz"]
        {
            let spellings = place.spellings(key);
            assert!(spellings.iter().any(|spelling| spelling == whole), "{key}: {spellings:?}");
            assert_eq!(spellings[0], key);
        }
        let bare: ExportPlace = "s3://bucket/AWSDynamoDB/1-a/".parse().unwrap();
        assert_eq!(bare.spellings("AWSDynamoDB/1-a/data/x"), ["AWSDynamoDB/1-a/data/x"]);
    }
}
