//! The target: found, or made like the source where the user wants that.

use super::{Accounts, Needs, cannot_describe, of_side, patiently};
use crate::aws;
use crate::config::LinkConfig;
use crate::context::Context;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::model::{TableDescription, TableStatus};

pub(super) async fn target_of(
    link: &LinkConfig,
    accounts: &Accounts,
    context: &Context,
    source: &TableDescription,
    needs: Needs,
) -> Result<TableDescription> {
    let look = || accounts.target.describe(&accounts.target_table);
    // Where the table is to be made, a look that may be too early needs no second one: CreateTable says whether it is there.
    let found = if link.target_create && !needs.target {
        let look_once = || async {
            match look().await {
                Err(failure) if failure.fault == Fault::Lost => Ok(None),
                answer => answer.map(Some),
            }
        };
        patiently(context, look_once).await
    } else {
        patiently(context, look).await.map(Some)
    };
    match found {
        Ok(Some(target)) => {
            match target.status {
                TableStatus::Active | TableStatus::Updating => Ok(target),
                TableStatus::Creating => wait_for_target(accounts, link).await,
                TableStatus::Other(ref status) => Err(Error::new(Exit::Precondition, of_side("target", link, "use"))
                    .hint(format!("its status is {status}"))),
            }
        }
        Err(failure) if failure.fault == Fault::Lost && needs.target => {
            Err(Error::new(Exit::Precondition, of_side("target", link, "find"))
                .hint("what was copied before is gone with it: load again with a fresh state")
                .because(failure))
        }
        Ok(None) => create_target(link, accounts, context, source).await,
        Err(failure) if failure.fault == Fault::Lost => {
            Err(Error::new(Exit::Precondition, of_side("target", link, "find"))
                .hint("create it with the source's keys, or set `target.create = true`")
                .because(failure))
        }
        Err(failure) => Err(cannot_describe("target", link, failure)),
    }
}

async fn wait_for_target(accounts: &Accounts, link: &LinkConfig) -> Result<TableDescription> {
    let active = accounts.target.wait_until_active(&accounts.target_table, aws::Patience::default()).await;
    active.map_err(|failure| {
        Error::new(Exit::Timeout, of_side("target", link, "wait for"))
            .hint("run again when it is ACTIVE")
            .because(failure)
    })
}

fn is_there(failure: &Failure) -> bool {
    failure.code.as_deref() == Some("ResourceInUseException")
}

async fn create_target(
    link: &LinkConfig,
    accounts: &Accounts,
    context: &Context,
    source: &TableDescription,
) -> Result<TableDescription> {
    let tags = match patiently(context, || accounts.source.list_tags(source)).await {
        Ok(tags) => tags,
        Err(failure) => {
            tracing::warn!(link = link.name, error = %failure, "tags are not copied: they could not be read");
            Vec::new()
        }
    };
    tracing::info!(
        link = link.name,
        table = accounts.target_table.name(),
        "creating the target, as `target.create` asks"
    );
    let name = accounts.target_table.name();
    let create = || accounts.target.create_table(name, source, &tags, aws::Patience::default());
    let created = match patiently(context, create).await {
        // An attempt of ours may have made it although its answer was lost.
        Err(failure) if is_there(&failure) => return wait_for_target(accounts, link).await,
        created => created,
    };
    let created = created.map_err(|failure| {
        Error::new(Exit::Precondition, of_side("target", link, "create"))
            .hint("allow dynamodb:CreateTable, DescribeTable and TagResource on it, or create it yourself")
            .because(failure)
    })?;
    for note in &created.notes {
        tracing::warn!(link = link.name, what = note, "the target is not like the source");
    }
    if let Ok(Some(attribute)) = accounts.source.time_to_live(&accounts.source_table).await {
        tracing::info!(link = link.name, attribute, "time to live is left off at the target until you turn it on");
    }
    Ok(created.description)
}
