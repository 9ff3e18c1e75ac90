//! What would refuse an import is found out before its export is paid for, and once more before it is itself.
//!
//! Only reads. Whether the target's identity may ask for the import only the import itself tells, and it leaves the export
//! as it is.

use super::Link;
use crate::aws::Account;
use crate::error::{Error, Failure, Fault, Result};
use crate::export::open::look;
use crate::load::export::ExportSource;
use crate::model::{ExportBucket, ImportArn, TableDescription};
use crate::runtime::prepare::{Accounts, cannot_describe, patiently};

/// Objects of an import at most. Source: Service quotas, DynamoDB.
const MOST_FILES: usize = 50_000;
/// The id of no import.
const NO_IMPORT: &str = "00000000000000-00000000";

impl Link {
    /// Looks at what an import needs before an export is asked for that will be in this bucket, under this key.
    pub(in super::super) async fn look_before_own_import(
        &self,
        accounts: &Accounts,
        source: &TableDescription,
        bucket: &ExportBucket,
        key: &str,
    ) -> Result<()> {
        let target = self.table_to_make(accounts, source).await?;
        let owner = self.owner_of(bucket.owner.clone(), source, &target);
        self.look_before_import(accounts, source, (&bucket.name, &owner, key)).await
    }

    /// Looks at both tables, at the permissions, and whether the target's side may read such an object of a bucket.
    pub(super) async fn look_before_import(
        &self,
        accounts: &Accounts,
        source: &TableDescription,
        (bucket, owner, key): (&str, &str, &str),
    ) -> Result<()> {
        if let Some(index) = source.local_indexes.first() {
            let what = format!("the source has the local index `{}`, and an import makes none", index.name);
            return Err(self.cannot_import(&what).hint("use `load.method = \"export\"` with `target.create = true`"));
        }
        match accounts.describe_target(&self.shared.context).await {
            Ok(_) => return Err(self.target_is_there()),
            Err(failure) if failure.fault == Fault::Lost => {}
            Err(failure) => return Err(cannot_describe("target", &self.config, failure)),
        }
        self.may_look_up_imports(accounts, source).await?;
        let reader = Account::bucket(&accounts.target, bucket, Some(owner));
        let looked = look(&reader, key, &self.shared.context).await;
        looked.map_err(|failure| self.cannot_read_as_target(bucket, owner, failure))
    }

    /// An import that may be begun and not be found again could be paid for twice.
    async fn may_look_up_imports(&self, accounts: &Accounts, source: &TableDescription) -> Result<()> {
        let table = self.table_to_make(accounts, source).await?;
        let arn = ImportArn { table: table.clone(), id: NO_IMPORT.to_owned() };
        let list = || async {
            match accounts.target.list_imports(&table, None).await {
                // Anything but a refusal is met again when it matters.
                Err(failure) if failure.fault == Fault::Denied => Err(failure),
                Ok(_) | Err(_) => Ok(()),
            }
        };
        let listed = patiently(&self.shared.context, list).await;
        listed.map_err(|failure| self.cannot_be_imported(failure))?;
        match accounts.target.describe_import(&arn).await {
            Err(failure) if failure.fault == Fault::Denied => Err(self.cannot_be_imported(failure)),
            // There is none, in whichever words.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn cannot_read_as_target(&self, bucket: &str, owner: &str, failure: Failure) -> Error {
        let hint = match failure.fault {
            Fault::Lost => "there is no such bucket: make it, or name another one in `load.bucket`".to_owned(),
            Fault::Denied => format!(
                "allow s3:GetObject on its folder and s3:ListBucket on it (and kms:Decrypt on its key, if it has one) to the \
                 target's identity, in the bucket's policy, too, where that is another account's; or it is not of account \
                 {owner}: set `load.bucket_owner`"
            ),
            _ => "try again; is the endpoint of S3 right?".to_owned(),
        };
        let what = format!("the target's identity cannot read the bucket `{bucket}`, which it would import");
        self.cannot_import(&what).hint(hint).because(failure)
    }
}

/// Why an export cannot be imported as it is.
pub(super) fn check_files(export: &ExportSource) -> std::result::Result<(), String> {
    let files = &export.manifest.files;
    if files.len() > MOST_FILES {
        return Err(format!("the export has {} files, and an import takes {MOST_FILES}", files.len()));
    }
    // All that is in the folder is read, and nothing else.
    let is_inside = |key: &str| {
        let spelt = export.place.spellings(key);
        spelt.iter().filter_map(|key| key.strip_prefix(&export.place.folder)).any(|rest| rest.starts_with("data/"))
    };
    match files.iter().find(|file| !is_inside(&file.key)) {
        Some(file) => Err(format!("the file {} of the export is not in its folder", file.key)),
        None => Ok(()),
    }
}
