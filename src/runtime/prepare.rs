//! Before anything is written: who both sides are, whether the tables fit, what is missing.
//!
//! Every check names what is wrong, where, and what mends it. The only writes here are those that the user switched on:
//! `stream.enable` and `target.create`.

use std::sync::Arc;
use std::time::Duration;

use super::replica::Ends;
use super::ttl::KeepExpired;
use crate::aws::{self, Account, Clients, Identity, Observer, Side};
use crate::checkpoint::rows::LinkIdentity;
use crate::config::{Capacity, LinkConfig, TableRef, TtlDeletes};
use crate::context::Context;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::load::{ScanRequest, TableReader};
use crate::model::{Billing, KeyAttribute, KeyKind, TableDescription, TableStatus, ViewType};
use crate::retry::{Attempts, Patience, Verdict};

/// For how long calls that fail at the start are tried again, unless they are throttled.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What an on-demand table serves where nothing else is known, per table and Region. Source: Service quotas, DynamoDB.
const DEFAULT_QUOTA: u64 = 40_000;

/// Both sides of a link, known and checked.
pub(crate) struct Prepared {
    pub(crate) ends: Ends,
    pub(crate) identity: LinkIdentity,
    pub(crate) view: ViewType,
    pub(crate) source: TableDescription,
    pub(crate) target: TableDescription,
    pub(crate) accounts: Accounts,
}

/// The accounts of a link.
#[derive(Clone)]
pub(crate) struct Accounts {
    pub(crate) source: Account,
    pub(crate) target: Account,
    source_table: TableRef,
    target_table: TableRef,
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
                .hint(format!(
                    "check the role, its trust policy and external id, or the {side}'s profile and environment"
                ))
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
    loop {
        let failure = match call().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        // Throttling passes, however long it takes; credentials are judged at once, before anybody waits for nothing.
        let gives_up = failure.fault == Fault::Denied || (!failure.throttled && started.elapsed() >= START_PATIENCE);
        match attempts.failed_with(&failure, started.elapsed(), context.draw()) {
            Verdict::Again(wait) if !gives_up => {
                tracing::warn!(error = %failure, "a call failed, trying again");
                tokio::time::sleep(wait).await;
            }
            Verdict::Again(_) | Verdict::Stop => return Err(failure),
        }
    }
}

fn of_side(side: &str, link: &LinkConfig, what: &str) -> String {
    let table = if side == "source" { &link.source_table } else { &link.target_table };
    format!("{what} {side} table `{table}` of link `{}`", link.name)
}

/// What must be there already.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs {
    /// The stream; turned on where the user allows it.
    pub(crate) stream: bool,
    /// The target, for it holds what was copied before: a missing one is not made.
    pub(crate) target: bool,
}

/// Looks at both tables, makes what is to be made, and refuses what cannot work.
pub(crate) async fn prepare(
    link: &LinkConfig,
    accounts: Accounts,
    context: &Context,
    needs: Needs,
) -> Result<Prepared> {
    let mut source =
        accounts.describe_source(context).await.map_err(|failure| cannot_describe("source", link, failure))?;
    if needs.stream {
        source = with_stream(link, &accounts, context, source).await?;
    }
    let target = target_of(link, &accounts, context, &source, needs).await?;
    check_pair(link, &source, &target)?;
    if needs.stream {
        check_get_item(link, &accounts, context, &source).await?;
    }
    let stream = source.stream.clone();
    let view = stream.as_ref().and_then(|stream| stream.view).unwrap_or(ViewType::NewAndOldImages);
    let target_table = accounts.target.table(&accounts.target_table, &target.keys);
    let target_table = Arc::new(target_table);
    let ends = Ends {
        source: Arc::new(accounts.source.table(&accounts.source_table, &source.keys)),
        stream: Arc::new(accounts.source.streams()),
        target: Arc::clone(&target_table) as _,
        target_reader: target_table,
    };
    let ends = if link.stream.ttl_deletes == TtlDeletes::Skip {
        keeping_expired(&accounts, context, ends).await
    } else {
        ends
    };
    let identity = LinkIdentity {
        source: source.arn.clone(),
        source_id: source.id.clone(),
        stream: stream.map(|stream| stream.arn).unwrap_or_else(|| crate::model::StreamArn(String::new())),
        target: target.arn.clone(),
        target_id: target.id.clone(),
        keys: source.keys.clone(),
    };
    Ok(Prepared { ends, identity, view, source, target, accounts })
}

/// Where deletes by time to live are left out, what expired stays at the target also when its key is synced.
async fn keeping_expired(accounts: &Accounts, context: &Context, ends: Ends) -> Ends {
    match patiently(context, || accounts.source.time_to_live(&accounts.source_table)).await {
        Ok(Some(attribute)) => {
            let (source, target) = (Arc::clone(&ends.source), Arc::clone(&ends.target_reader));
            Ends { source: Arc::new(KeepExpired { source, target, attribute, context: context.clone() }), ..ends }
        }
        Ok(None) => ends,
        Err(failure) => {
            tracing::warn!(error = %failure, "the time-to-live attribute is not known: a key that is synced is deleted when the source has none");
            ends
        }
    }
}

fn cannot_describe(side: &str, link: &LinkConfig, failure: Failure) -> Error {
    let hint = match failure.fault {
        Fault::Lost => format!("check the table's name, the account and the Region of the {side}"),
        Fault::Denied => format!("allow dynamodb:DescribeTable on it to the {side}'s identity"),
        _ => "try again".to_owned(),
    };
    Error::new(Exit::Precondition, of_side(side, link, "describe")).hint(hint).because(failure)
}

/// The stream must be on, or may be turned on.
async fn with_stream(
    link: &LinkConfig,
    accounts: &Accounts,
    context: &Context,
    source: TableDescription,
) -> Result<TableDescription> {
    if source.stream.as_ref().is_some_and(|stream| stream.enabled) {
        return Ok(source);
    }
    if !link.stream.enable {
        // A stream that was turned off is readable for 24 hours: a link that was reading it may finish it.
        if source.stream.is_some() {
            return Ok(source);
        }
        return Err(Error::new(Exit::Precondition, of_side("source", link, "find a stream on"))
            .hint("turn on DynamoDB Streams with NEW_AND_OLD_IMAGES, or set `stream.enable = true`"));
    }
    tracing::info!(link = link.name, "turning on the source's stream, as `stream.enable` asks");
    let enabled =
        patiently(context, || accounts.source.enable_stream(&accounts.source_table, aws::Patience::default())).await;
    enabled.map_err(|failure| {
        Error::new(Exit::Precondition, of_side("source", link, "turn on the stream of"))
            .hint("allow dynamodb:UpdateTable on it, or turn the stream on yourself")
            .because(failure)
    })
}

async fn target_of(
    link: &LinkConfig,
    accounts: &Accounts,
    context: &Context,
    source: &TableDescription,
    needs: Needs,
) -> Result<TableDescription> {
    match patiently(context, || accounts.target.describe(&accounts.target_table)).await {
        Ok(target) => {
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
        Err(failure) if failure.fault == Fault::Lost && link.target_create => {
            create_target(link, accounts, context, source).await
        }
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

/// Keys in doubt are read at the source one by one, perhaps hours from now: whether that is allowed is seen now.
async fn check_get_item(
    link: &LinkConfig,
    accounts: &Accounts,
    context: &Context,
    source: &TableDescription,
) -> Result<()> {
    let table = accounts.source.table(&accounts.source_table, &source.keys);
    let value = |kind| match kind {
        KeyKind::N => "0",
        KeyKind::S | KeyKind::B => "AA==",
    };
    let fields = source.keys.attributes().map(|key| {
        let typed = serde_json::json!({ key.kind.as_str(): value(key.kind) });
        (key.name.clone(), typed)
    });
    let json = serde_json::Value::from(fields.collect::<serde_json::Map<_, _>>()).to_string();
    let Ok(key) = table.keys().key(json.into()) else { return Ok(()) };
    match patiently(context, || table.get(&key)).await {
        Err(failure) if failure.fault == Fault::Denied => {
            Err(Error::new(Exit::Precondition, of_side("source", link, "read an item of"))
                .hint("allow dynamodb:GetItem on it to the source's identity")
                .because(failure))
        }
        // Anything else is met again, and handled, when it matters.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn check_pair(link: &LinkConfig, source: &TableDescription, target: &TableDescription) -> Result<()> {
    if source.arn == target.arn && source.id == target.id {
        return Err(Error::new(
            Exit::Precondition,
            format!("source and target of link `{}` are the same table", link.name),
        )
        .hint("the target must differ in account, Region or name"));
    }
    if source.keys != target.keys {
        return Err(Error::new(Exit::Precondition, of_side("target", link, "copy into")).hint(format!(
            "its primary key is {}, the source's is {}",
            shown(target),
            shown(source)
        )));
    }
    for (name, kind) in &target.attributes {
        let differs = source.attributes.iter().any(|(other, other_kind)| other == name && other_kind != kind);
        if differs {
            return Err(Error::new(Exit::Precondition, of_side("target", link, "copy into"))
                .hint(format!("its indexes take `{name}` as {}, the source's as another type", kind.as_str())));
        }
        if source.attributes.iter().all(|(other, _)| other != name) {
            tracing::warn!(
                link = link.name,
                attribute = name,
                "an index of the target alone uses this attribute: items with another type or an empty value will be rejected"
            );
        }
    }
    Ok(())
}

fn shown(table: &TableDescription) -> String {
    let part = |key: &KeyAttribute| format!("{} ({})", key.name, key.kind.as_str());
    table.keys.attributes().map(part).collect::<Vec<_>>().join(" + ")
}

/// Whether a table holds nothing at all, read consistently.
pub(crate) async fn is_empty(table: &Arc<dyn TableReader>, context: &Context) -> Result<bool, Failure> {
    let mut request = ScanRequest { segment: 0, total_segments: 1, start: None, limit: Some(1) };
    loop {
        let page = patiently(context, || table.scan(&request)).await?;
        if !page.items.is_empty() {
            return Ok(false);
        }
        match page.last_key {
            Some(key) => request.start = Some(key),
            None => return Ok(true),
        }
    }
}

/// A share of a table's write capacity in units per second; `None`: only the service limits.
pub(crate) fn write_units(capacity: Capacity, table: &TableDescription) -> f64 {
    share(
        capacity,
        match table.billing {
            Billing::Provisioned { write, .. } => write,
            Billing::OnDemand { warm_write, max_write, .. } => max_write.or(warm_write).unwrap_or(DEFAULT_QUOTA),
        },
    )
}

/// A share of a table's read capacity in units per second.
pub(crate) fn read_units(capacity: Capacity, table: &TableDescription) -> f64 {
    share(
        capacity,
        match table.billing {
            Billing::Provisioned { read, .. } => read,
            Billing::OnDemand { warm_read, max_read, .. } => max_read.or(warm_read).unwrap_or(DEFAULT_QUOTA),
        },
    )
}

#[expect(clippy::cast_precision_loss, reason = "capacities are far below 2^53 units")]
fn share(capacity: Capacity, whole: u64) -> f64 {
    match capacity {
        Capacity::Percent(percent) => whole as f64 * f64::from(percent) / 100.0,
        Capacity::Units(units) => units as f64,
    }
}
