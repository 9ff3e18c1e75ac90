//! Before anything is written: who both sides are, whether the tables fit, what is missing.
//!
//! Every check names what is wrong, where, and what mends it. The only writes here are those that the user switched on:
//! `stream.enable` and `target.create`.

mod accounts;
mod capacity;
mod target;

use std::sync::Arc;

use super::replica::Ends;
use super::ttl::{ExpiryAttributes, KeepExpired};
use crate::apply::ConditionalTarget;
use crate::aws;
use crate::checkpoint::rows::LinkIdentity;
use crate::config::{LinkConfig, TtlDeletes};
use crate::context::Context;
use crate::decode::KeyCodec;
use crate::error::{Error, Exit, Failure, Fault, Result};
use crate::load::{ScanRequest, TableReader};
use crate::model::{Key, KeyAttribute, KeyKind, KeySchema, RawItem, TableDescription, ViewType, Write};

pub(crate) use accounts::{Accounts, patiently};
pub(crate) use capacity::{read_units, write_units};
use target::target_of;

/// Both sides of a link, known and checked.
pub(crate) struct Prepared {
    pub(crate) ends: Ends,
    /// The target's table once more, for writes on a condition.
    pub(crate) conditional: Arc<dyn ConditionalTarget>,
    pub(crate) identity: LinkIdentity,
    pub(crate) view: ViewType,
    pub(crate) source: TableDescription,
    pub(crate) target: TableDescription,
    pub(crate) accounts: Accounts,
    /// By what items of the source expire, where the target keeps them: what the link's state remembers is added to it.
    pub(crate) expiry: Option<ExpiryAttributes>,
}

/// What must be there already.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs {
    /// The stream; turned on where the user allows it.
    pub(crate) stream: bool,
    /// The target, for it holds what was copied before: a missing one is not made.
    pub(crate) target: bool,
}

/// Looks at both tables, makes what is to be made, and refuses what cannot work. The context is by AWS's clock: what expires
/// does so by that.
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
        target_reader: Arc::clone(&target_table) as _,
    };
    let (ends, expiry) = if link.stream.ttl_deletes == TtlDeletes::Skip {
        let (source, target) = (Arc::clone(&ends.source), Arc::clone(&ends.target_reader));
        let expiry = expiry_attributes(link, &accounts, context).await?;
        let keeps = KeepExpired { source, target, expiry: expiry.clone(), context: context.clone() };
        (Ends { source: Arc::new(keeps), ..ends }, Some(expiry))
    } else {
        (ends, None)
    };
    let identity = LinkIdentity {
        source: source.arn.clone(),
        source_id: source.id.clone(),
        stream: stream.map(|stream| stream.arn).unwrap_or_else(|| crate::model::StreamArn(String::new())),
        target: target.arn.clone(),
        target_id: target.id.clone(),
        keys: source.keys.clone(),
    };
    Ok(Prepared { ends, conditional: target_table, identity, view, source, target, accounts, expiry })
}

/// Looks at the source alone, whose target is not there yet; turns its stream on, where that is wanted.
pub(crate) async fn prepare_source(
    link: &LinkConfig,
    accounts: &Accounts,
    context: &Context,
) -> Result<TableDescription> {
    let source = accounts.describe_source(context).await;
    let source = source.map_err(|failure| cannot_describe("source", link, failure))?;
    let source = with_stream(link, accounts, context, source).await?;
    check_get_item(link, accounts, context, &source).await?;
    Ok(source)
}

/// Where deletes by time to live are left out, what expired stays at the target also when its key is synced: by what it did.
async fn expiry_attributes(link: &LinkConfig, accounts: &Accounts, context: &Context) -> Result<ExpiryAttributes> {
    match accounts.time_to_live(context).await {
        Ok(attribute) => {
            let expiry = ExpiryAttributes::default();
            expiry.found(attribute, context.now());
            Ok(expiry)
        }
        // Without it a sync of a key that expired would delete what the user wants to keep.
        Err(failure) => Err(Error::new(
            Exit::Precondition,
            of_side("source", link, "ask for the time-to-live attribute of"),
        )
        .hint("`stream.ttl_deletes = \"skip\"` needs it: allow dynamodb:DescribeTimeToLive on it, or set \"apply\"")
        .because(failure)),
    }
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

/// Keys in doubt are read at the source one by one, perhaps hours from now: whether that is allowed is seen now.
async fn check_get_item(
    link: &LinkConfig,
    accounts: &Accounts,
    context: &Context,
    source: &TableDescription,
) -> Result<()> {
    let table = accounts.source.table(&accounts.source_table, &source.keys);
    let Some(key) = sample_key(&source.keys, "0", "AA==") else { return Ok(()) };
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

/// Some key of a table: its numbers are `number`, its texts and bytes `text`.
fn sample_key(keys: &KeySchema, number: &str, text: &str) -> Option<Key> {
    let value = |kind| match kind {
        KeyKind::N => number,
        KeyKind::S | KeyKind::B => text,
    };
    let fields = keys.attributes().map(|key| {
        let typed = serde_json::json!({ key.kind.as_str(): value(key.kind) });
        (key.name.clone(), typed)
    });
    let json = serde_json::Value::from(fields.collect::<serde_json::Map<_, _>>()).to_string();
    KeyCodec::new(keys).key(json.into()).ok()
}

/// A write and a delete of some keys, for a request that is not to be carried out.
pub(crate) fn sample_writes(keys: &KeySchema) -> Vec<Write> {
    let put = sample_key(keys, "0", "AA==").map(|key| Write { image: Some(RawItem::new(key.json.clone())), key });
    let delete = sample_key(keys, "1", "AQ==").map(|key| Write { key, image: None });
    put.into_iter().chain(delete).collect()
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

fn of_side(side: &str, link: &LinkConfig, what: &str) -> String {
    let table = if side == "source" { &link.source_table } else { &link.target_table };
    format!("{what} {side} table `{table}` of link `{}`", link.name)
}

pub(crate) fn cannot_describe(side: &str, link: &LinkConfig, failure: Failure) -> Error {
    let hint = match failure.fault {
        Fault::Lost => format!("check the table's name, the account and the Region of the {side}"),
        Fault::Denied => format!("allow dynamodb:DescribeTable on it to the {side}'s identity"),
        _ => "try again".to_owned(),
    };
    Error::new(Exit::Precondition, of_side(side, link, "describe")).hint(hint).because(failure)
}
