//! Makes a request for an import, and finds it again.

use std::time::Duration;

use super::Link;
use crate::aws::ImportFiles;
use crate::checkpoint::rows::ImportRequestRow;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::model::{ImportArn, TableDescription, WallTime};
use crate::runtime::prepare::{Accounts, patiently};

/// For how long a request is made again and again before it is looked up whether it was made: much less than a token lives.
const REPEATED_FOR: Duration = Duration::from_secs(3600);
/// An import that the service does not begin for so long is told of: it may never do.
const TOLD_AFTER: Duration = Duration::from_secs(300);
const NOT_BEGUN: &str = "the service does not begin the import: 50 imports at a time in an account and Region, of 1 TB in all \
    (15 TB in some), are its limit, and a larger table never fits; `load.method = \"export\"` loads the same export";
/// Pages of a listing at most, 25 imports a page.
const MAX_PAGES: usize = 1_000;
/// How far two clocks may be apart that tell when an import was begun.
const CLOCKS: Duration = Duration::from_secs(900);
/// The service's codes for a table that is there, and for a token that was used for something else.
const TABLE_TAKEN: &str = "ResourceInUseException";
/// See above.
const TOKEN_TAKEN: &str = "ImportConflictException";

impl Link {
    /// Makes a request until it is known which import it has made.
    pub(super) async fn ask_for_import(
        &self,
        accounts: &Accounts,
        source: &TableDescription,
        row: &ImportRequestRow,
    ) -> Result<ImportArn> {
        loop {
            let since = self.aws_now();
            let ask = || self.ask_import_since(accounts, source, row, since);
            let asking = patiently(&self.shared.context, ask);
            tokio::pin!(asking);
            let asked = tokio::select! {
                biased;
                asked = &mut asking => asked,
                () = tokio::time::sleep(TOLD_AFTER) => {
                    tracing::error!(link = self.config.name, "{NOT_BEGUN}");
                    self.slots.set_trouble(Some(NOT_BEGUN.to_owned()));
                    asking.await
                }
            };
            let refused = match asked {
                Ok(Some(arn)) => {
                    self.slots.set_trouble(None);
                    return Ok(arn);
                }
                Ok(None) => None,
                Err(failure) if matches!(failure.code.as_deref(), Some(TABLE_TAKEN | TOKEN_TAKEN)) => Some(failure),
                Err(failure) => return Err(self.cannot_be_imported(failure)),
            };
            // An attempt of ours may have made it although its answer was lost.
            if let Some(arn) = self.look_for_import(accounts, row).await? {
                return Ok(arn);
            }
            match refused {
                Some(failure) if failure.code.as_deref() == Some(TOKEN_TAKEN) => {
                    let what =
                        "it was asked for before the source's indexes or billing were changed, and is not listed yet";
                    return Err(self.cannot_import(what).hint("run again in some minutes").because(failure));
                }
                Some(failure) => return Err(self.target_is_there().because(failure)),
                None => {}
            }
        }
    }

    /// Makes a request once. `None`: it has been made since then for so long that the service may have forgotten that it was.
    async fn ask_import_since(
        &self,
        accounts: &Accounts,
        source: &TableDescription,
        row: &ImportRequestRow,
        since: WallTime,
    ) -> Result<Option<ImportArn>, Failure> {
        if self.aws_now().since(since) >= REPEATED_FOR {
            return Ok(None);
        }
        let export = &row.of.export;
        let prefix = format!("{}data/", export.place.folder);
        let files =
            ImportFiles { bucket: &export.place.bucket, owner: export.bucket_owner.as_deref(), prefix: &prefix };
        accounts.target.begin_import(&row.of.target.name, source, files, &row.token).await.map(Some)
    }

    /// The import that was begun with this request's token.
    pub(super) async fn look_for_import(
        &self,
        accounts: &Accounts,
        row: &ImportRequestRow,
    ) -> Result<Option<ImportArn>> {
        let context = &self.shared.context;
        let earliest = row.asked.minus(CLOCKS);
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let list = || accounts.target.list_imports(&row.of.target, after.clone());
            let (imports, next) = patiently(context, list).await.map_err(|failure| self.cannot_be_imported(failure))?;
            for arn in imports.into_iter().filter(|arn| arn.begun().is_none_or(|begun| begun >= earliest)) {
                match patiently(context, || accounts.target.describe_import(&arn)).await {
                    Ok(report) if report.token.as_ref() == Some(&row.token) => return Ok(Some(arn)),
                    Ok(_) => {}
                    Err(failure) if matches!(failure.fault, Fault::Lost | Fault::Broken) => {}
                    Err(failure) => return Err(self.cannot_be_imported(failure)),
                }
            }
            after = next;
            if after.is_none() {
                return Ok(None);
            }
        }
        let what = format!("the imports of link `{}` have no end after {MAX_PAGES} pages", self.config.name);
        Err(Error::new(Exit::Unexpected, what))
    }

    pub(super) fn target_is_there(&self) -> Error {
        let table = self.config.target_table.name();
        self.cannot_import(&format!("the table `{table}` is there, and not by an import that this link has asked for"))
            .hint("an import makes its table: name another one, delete this one if nobody needs it, or use `load.method = \"export\"`")
    }
}
