//! The two accounts of a link: who they are, and calls that are patient with them at the start.

use std::time::Duration;

use crate::aws::{Account, Clients, Identity, Observer, Side, has_no_credentials, has_stale_credentials};
use crate::config::{LinkConfig, TableRef};
use crate::context::Context;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::model::TableDescription;
use crate::retry::{Attempts, Patience, Verdict};

/// For how long calls that fail at the start are tried again, unless they are throttled.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How often a call is tried again with new credentials, because the ones before had gone stale.
const NEW_CREDENTIALS: u32 = 2;

/// The accounts of a link.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(crate) source: Account,
    pub(crate) target: Account,
    pub(super) source_table: TableRef,
    pub(super) target_table: TableRef,
}

impl Accounts {
    /// Connects both sides and says who they are.
    pub(crate) async fn connect(link: &LinkConfig, clients: &Clients, observer: Option<Observer>) -> Result<Self> {
        let clients = Clients { observer, ..clients.clone() };
        let source = Account::connect(&link.source, Side::Source, &clients).await?;
        let target = Account::connect(&link.target, Side::Target, &clients).await?;
        let context = &clients.context;
        let source_table = introduce(&link.name, &source, &link.source_table, context).await?;
        let target_table = introduce(&link.name, &target, &link.target_table, context).await?;
        Ok(Self { source, target, source_table, target_table })
    }

    /// The source as it is now.
    pub(crate) async fn describe_source(&self, context: &Context) -> Result<TableDescription, Failure> {
        patiently(context, || self.source.describe(&self.source_table)).await
    }

    /// The attribute by which items of the source expire now; `None`: they do not.
    pub(crate) async fn time_to_live(&self, context: &Context) -> Result<Option<String>, Failure> {
        patiently(context, || self.source.time_to_live(&self.source_table)).await
    }

    /// The target as it is now.
    pub(crate) async fn describe_target(&self, context: &Context) -> Result<TableDescription, Failure> {
        patiently(context, || self.target.describe(&self.target_table)).await
    }
}

/// Prints who a side is. A table of that very account is asked for by name, as its owner would.
async fn introduce(link: &str, account: &Account, table: &TableRef, context: &Context) -> Result<TableRef> {
    let side = account.side().as_str();
    match patiently(context, || account.identity()).await {
        Ok(Identity { account: id, arn, region }) => {
            tracing::info!(link, side, account = id, identity = arn, region, table = table.name(), "connected");
            Ok(match table {
                TableRef::Arn(arn) if arn.account == id && arn.region == region => TableRef::Name(arn.name.clone()),
                other => other.clone(),
            })
        }
        Err(failure) if failure.fault == Fault::Denied => {
            Err(Error::new(Exit::Precondition, format!("get credentials for the {side} of link `{link}`"))
                .hint(match has_no_credentials(&failure) {
                    true => "give the process an identity of its own: a profile, AWS_ACCESS_KEY_ID and \
                             AWS_SECRET_ACCESS_KEY, or a role of its machine or container"
                        .to_owned(),
                    false => format!(
                        "check the role, its trust policy and external id, or the {side}'s profile and environment"
                    ),
                })
                .because(failure))
        }
        Err(failure) => {
            tracing::warn!(link, side, error = %failure, "the identity could not be asked for");
            Ok(table.clone())
        }
    }
}

/// Tries a call again while its failure may pass, for a minute; while it is throttled, for ever.
pub(crate) async fn patiently<T, F>(context: &Context, mut call: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let (mut attempts, started) = (Attempts::new(Patience::COMMAND), tokio::time::Instant::now());
    let mut stale = 0;
    loop {
        let failure = match call().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        stale += u32::from(has_stale_credentials(&failure));
        // Throttling passes, however long it takes; credentials are judged at once, before anybody waits for nothing,
        // unless they were good once: the next attempt has new ones.
        let is_denied = failure.fault == Fault::Denied && (!has_stale_credentials(&failure) || stale > NEW_CREDENTIALS);
        let gives_up = is_denied || (!failure.throttled && started.elapsed() >= START_PATIENCE);
        match attempts.failed_with(&failure, started.elapsed(), context.draw()) {
            Verdict::Again(wait) if !gives_up => {
                tracing::warn!(error = %failure, "a call failed, trying again");
                tokio::time::sleep(wait).await;
            }
            Verdict::Again(_) | Verdict::Stop => return Err(failure),
        }
    }
}
