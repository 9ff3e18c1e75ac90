//! Everything the sandbox holds, and the way of one request through it.
//!
//! A request is authenticated, meets the fault plan, finds its table (which is first brought up to now), and is executed.
//! One lock, no tasks: the order of requests is the order of effects.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{Request, Response};
use serde::de::DeserializeOwned;

use super::auth::{Caller, Identities, read_form};
use super::events::{Event, static_name};
use super::faults::{FaultKind, Faults};
use super::moment::Moment;
use super::options::Options;
use super::reply::{ApiError, Protocol, respond};
use super::stream::Stream;
use super::table::Table;
use super::{Exchange, Observer, Outcome, Stats, batch, items, read, streams, tables, transact};
use crate::model::WallTime;

/// Tables and streams of one account in one Region.
#[derive(Debug, Default)]
pub(super) struct Region {
    pub(super) tables: BTreeMap<String, Table>,
    /// By ARN; of deleted tables too, for the retention.
    pub(super) streams: BTreeMap<String, Stream>,
}

impl Region {
    /// Brings a stream up to now: what is due happens to it, and it leaves when it is old.
    pub(super) fn advance_stream(&mut self, arn: &str, moment: &mut Moment) {
        let Some(stream) = self.streams.get_mut(arn) else { return };
        stream.advance(moment);
        if stream.is_gone(moment.now, moment.options.retention) {
            self.streams.remove(arn);
        }
    }
}

/// Where a table is: owner, Region, name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) account: String,
    pub(super) region: String,
    pub(super) table: String,
}

/// How far a batch is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchFate {
    Whole,
    Subset,
    Nothing,
}

/// A table, its stream and the moment: what an operation on items works with.
pub(super) struct Place<'a> {
    pub(super) table: &'a mut Table,
    pub(super) stream: Option<&'a mut Stream>,
    pub(super) moment: &'a mut Moment,
}

pub(super) struct World {
    pub(super) moment: Moment,
    pub(super) regions: BTreeMap<(String, String), Region>,
    pub(super) identities: Identities,
    /// Principals of other accounts that may use a table.
    pub(super) grants: BTreeSet<(Address, String)>,
    pub(super) faults: Faults,
    pub(super) stats: Stats,
    pub(super) observer: Option<Observer>,
    /// Iterators of earlier generations have expired.
    pub(super) iterator_generation: u32,
    /// Transactions done, by account, Region and client token: when, and the request's body.
    pub(super) transactions: BTreeMap<(String, String, String), (WallTime, Bytes)>,
    /// Requests to be executed when they are due; equal times in the order of arrival.
    late: BTreeMap<(WallTime, u64), Request<Bytes>>,
}

/// Reads a JSON body.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        if text.contains("missing field") || text.contains("unknown variant") {
            ApiError::validation(format!("1 validation error detected: {text}"))
        } else {
            ApiError::serialization(text)
        }
    })
}

/// The JSON of a value as a body.
pub(super) fn body(value: &serde_json::Value) -> Bytes {
    value.to_string().into()
}

impl World {
    pub(super) fn new(options: Options) -> Self {
        Self {
            moment: Moment::new(options),
            regions: BTreeMap::new(),
            identities: Identities::default(),
            grants: BTreeSet::new(),
            faults: Faults::default(),
            stats: Stats::default(),
            observer: None,
            iterator_generation: 0,
            transactions: BTreeMap::new(),
            late: BTreeMap::new(),
        }
    }

    /// Brings the world up to now: its clock, which never goes back, and the requests that were delivered late.
    pub(super) fn tick(&mut self) {
        let now = self.moment.now.max(self.moment.options.clock.now());
        while let Some(entry) = self.late.first_entry()
            && entry.key().0 <= now
        {
            let ((due, _), request) = entry.remove_entry();
            self.moment.now = due;
            let request = Incoming::read(self, &request);
            self.moment.events.is_late = true;
            self.perform(&request, BatchFate::Whole);
            self.moment.events.is_late = false;
        }
        self.moment.now = now;
    }

    /// Brings every stream up to now, whoever looks at it.
    pub(super) fn advance_all(&mut self) {
        for region in self.regions.values_mut() {
            let arns: Vec<String> = region.streams.keys().cloned().collect();
            for arn in arns {
                region.advance_stream(&arn, &mut self.moment);
            }
        }
    }

    /// One request, from bytes to outcome.
    pub(super) fn handle(&mut self, request: &Request<Bytes>) -> Outcome {
        self.tick();
        self.stats.requests += 1;
        let incoming = Incoming::read(self, request);
        let fault = self.faults.decide(&incoming.operation, incoming.account(), incoming.body, &mut self.moment.rng);
        if let Some(fault) = &fault {
            self.stats.faults += 1;
            self.moment.events.tell(&Event::Fault {
                operation: &incoming.operation,
                account: incoming.account(),
                kind: fault.name(&incoming.operation),
                at: self.moment.now,
            });
        }
        let fate = match fault {
            Some(FaultKind::UnprocessedSubset) => BatchFate::Subset,
            Some(FaultKind::UnprocessedAll) => BatchFate::Nothing,
            _ => BatchFate::Whole,
        };
        if let Some(FaultKind::DeliverLate(time)) = fault {
            self.late.insert((self.moment.now.plus(time), self.stats.requests), request.clone());
            return Outcome::LoseAnswer;
        }
        match refusal(fault.as_ref()) {
            Some(Refusal::Drop) => {
                self.observe(&incoming, None);
                Outcome::Refuse
            }
            Some(Refusal::Answer(error)) => {
                let reply = respond(incoming.protocol, Err(error), &incoming.id, self.moment.now);
                self.observe(&incoming, None);
                Outcome::Reply(reply)
            }
            None => {
                let reply = Outcome::Reply(self.perform(&incoming, fate));
                match fault {
                    Some(FaultKind::LoseAnswer) => Outcome::LoseAnswer,
                    Some(FaultKind::Hold(time)) => Outcome::Hold(time, Box::new(reply)),
                    _ => reply,
                }
            }
        }
    }

    /// Does what a request asks for.
    fn perform(&mut self, incoming: &Incoming<'_>, fate: BatchFate) -> Response<Bytes> {
        self.moment.events.by = static_name(&incoming.operation);
        let result = incoming.caller.clone().and_then(|caller| match incoming.protocol {
            Protocol::Json => self.execute(&incoming.service, &incoming.operation, &caller, incoming.body, fate),
            Protocol::Query => self.identities.sts(&incoming.operation, &incoming.form, &caller, &mut self.moment),
        });
        self.stats.errors += u64::from(result.is_err());
        let reply = respond(incoming.protocol, result, &incoming.id, self.moment.now);
        self.observe(incoming, Some(&reply));
        reply
    }

    fn observe(&self, incoming: &Incoming<'_>, reply: Option<&Response<Bytes>>) {
        if let Some(observer) = &self.observer {
            observer(&Exchange {
                operation: &incoming.operation,
                account: incoming.account(),
                region: incoming.caller.as_ref().map_or("", |caller| &caller.region),
                at: self.moment.now,
                request: incoming.body,
                reply,
                is_late: self.moment.events.is_late,
            });
        }
    }

    /// Executes an operation of DynamoDB or its Streams.
    pub(super) fn execute(
        &mut self,
        service: &str,
        operation: &str,
        caller: &Caller,
        body: &[u8],
        fate: BatchFate,
    ) -> Result<Bytes, ApiError> {
        match (service, operation) {
            ("DynamoDB_20120810", "PutItem") => items::put_item(self, caller, body),
            ("DynamoDB_20120810", "GetItem") => items::get_item(self, caller, body),
            ("DynamoDB_20120810", "DeleteItem") => items::delete_item(self, caller, body),
            ("DynamoDB_20120810", "UpdateItem") => items::update_item(self, caller, body),
            ("DynamoDB_20120810", "BatchWriteItem") => batch::batch_write_item(self, caller, body, fate),
            ("DynamoDB_20120810", "BatchGetItem") => batch::batch_get_item(self, caller, body, fate),
            ("DynamoDB_20120810", "TransactWriteItems") => transact::transact_write_items(self, caller, body),
            ("DynamoDB_20120810", "TransactGetItems") => transact::transact_get_items(self, caller, body),
            ("DynamoDB_20120810", "Scan") => read::scan(self, caller, body),
            ("DynamoDB_20120810", "Query") => read::query(self, caller, body),
            ("DynamoDB_20120810", _) => tables::execute(self, operation, caller, body),
            ("DynamoDBStreams_20120810", _) => streams::execute(self, operation, caller, body),
            _ => Err(ApiError::new("UnknownOperationException", "")),
        }
    }

    /// The address of a table by name or ARN, if this caller may use it.
    pub(super) fn address(&self, caller: &Caller, name: &str) -> Result<Address, ApiError> {
        let Some(rest) = name.strip_prefix("arn:") else {
            let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if !(3..=255).contains(&name.len()) || !name.chars().all(is_name) {
                return Err(ApiError::validation(format!(
                    "Invalid table name: \"{name}\" must be 3 to 255 characters of a-z, A-Z, 0-9, '_', '-' and '.'"
                )));
            }
            return Ok(Address {
                account: caller.account.clone(),
                region: caller.region.clone(),
                table: name.to_owned(),
            });
        };
        // A stream's label has colons of its own.
        let parts: Vec<&str> = rest.splitn(5, ':').collect();
        let [_partition, "dynamodb", region, account, resource] = parts.as_slice() else {
            return Err(ApiError::validation(format!("Invalid ARN: {name}")));
        };
        let table = resource.strip_prefix("table/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let address = Address { account: (*account).to_owned(), region: (*region).to_owned(), table: table.to_owned() };
        if address.region != caller.region {
            return Err(ApiError::validation(format!("Region '{region}' should be '{}'", caller.region)));
        }
        if address.account != caller.account && !self.grants.contains(&(address.clone(), caller.account.clone())) {
            return Err(ApiError::new(
                "AccessDeniedException",
                format!("User: {} is not authorized to perform this operation on resource: {name}", caller.arn),
            ));
        }
        Ok(address)
    }

    /// A table in any state, with its stream, brought up to now.
    pub(super) fn place_any(&mut self, address: &Address) -> Result<Place<'_>, ApiError> {
        let region =
            self.regions.get_mut(&(address.account.clone(), address.region.clone())).ok_or_else(ApiError::no_table)?;
        let now = self.moment.now;
        if region.tables.get(&address.table).is_some_and(|table| table.deleted_at.is_some_and(|at| at <= now)) {
            region.tables.remove(&address.table);
        }
        let table = region.tables.get_mut(&address.table).ok_or_else(ApiError::no_table)?;
        table.was_active |= now >= table.active_from;
        let moment = &mut self.moment;
        let mut stream = table.stream.as_ref().and_then(|arn| region.streams.get_mut(arn));
        if let Some(stream) = stream.as_deref_mut() {
            stream.advance(moment);
        }
        Ok(Place { table, stream, moment })
    }

    /// A table whose items can be read and written.
    pub(super) fn place(&mut self, address: &Address) -> Result<Place<'_>, ApiError> {
        let place = self.place_any(address)?;
        if place.table.is_open(place.moment.now) { Ok(place) } else { Err(ApiError::no_table()) }
    }
}

/// A request, as far as it is understood without executing it.
struct Incoming<'a> {
    id: String,
    protocol: Protocol,
    service: String,
    operation: String,
    form: BTreeMap<String, String>,
    caller: Result<Caller, ApiError>,
    body: &'a [u8],
}

impl<'a> Incoming<'a> {
    fn read(world: &mut World, request: &'a Request<Bytes>) -> Self {
        let id = format!("{:032X}", world.moment.rng.u128(..));
        let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let caller = world.identities.caller(request.headers(), &world.moment.options, world.moment.now);
        let body = request.body();
        match target.split_once('.') {
            Some((service, operation)) => {
                let (service, operation) = (service.to_owned(), operation.to_owned());
                Self { id, protocol: Protocol::Json, service, operation, form: BTreeMap::new(), caller, body }
            }
            None => {
                let form = read_form(body);
                let operation = form.get("Action").cloned().unwrap_or_default();
                Self { id, protocol: Protocol::Query, service: String::new(), operation, form, caller, body }
            }
        }
    }

    fn account(&self) -> &str {
        self.caller.as_ref().map_or("", |caller| &caller.account)
    }
}

enum Refusal {
    Drop,
    Answer(ApiError),
}

/// The faults that keep a request from being executed.
fn refusal(fault: Option<&FaultKind>) -> Option<Refusal> {
    Some(match fault? {
        FaultKind::Refuse => Refusal::Drop,
        FaultKind::Throttle(code) => Refusal::Answer(ApiError::throttled(code.clone())),
        FaultKind::Error { code, status } => {
            Refusal::Answer(ApiError { status: *status, ..ApiError::new(code.clone(), "injected fault") })
        }
        FaultKind::InternalError => Refusal::Answer(ApiError::internal()),
        FaultKind::ExpiredToken => Refusal::Answer(ApiError::new(
            "ExpiredTokenException",
            "The security token included in the request is expired",
        )),
        FaultKind::LoseAnswer
        | FaultKind::DeliverLate(_)
        | FaultKind::Hold(_)
        | FaultKind::UnprocessedSubset
        | FaultKind::UnprocessedAll => {
            return None;
        }
    })
}
