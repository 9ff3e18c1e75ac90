//! Where an export is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const SUMMARY: &str = "manifest-summary.json";

/// The folder of an export: `s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT_ID/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExportPlace {
    /// The bucket.
    pub bucket: String,
    /// The key's beginning that all objects share, up to and with `AWSDynamoDB/EXPORT_ID/`.
    pub folder: String,
}

/// What is wrong with an export's place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not the folder of an export: want s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT_ID/")]
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

/// Source: S3 User Guide, bucket naming rules.
fn is_bucket(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    (3..=63).contains(&text.len()) && text.bytes().all(legal)
}

impl fmt::Display for ExportPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.folder)
    }
}

impl Serialize for ExportPlace {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ExportPlace {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

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
