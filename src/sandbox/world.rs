//! Everything the sandbox holds, and the way of one request through it.
//!
//! A request is authenticated, meets the fault plan, finds its table (which is first brought up to now), and is executed.
//! One lock, no tasks: the order of requests is the order of effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde::Deserialize;

use super::auth::{Caller, Identities, SKEWED, read_form};
use super::events::static_name;
use super::faults::{FaultKind, Faults};
use super::knobs::Knob;
use super::moment::Moment;
use super::options::Options;
use super::reply::{ApiError, Date, Protocol, respond};
use super::s3::{self, Bucket, S3Request};
use super::stream::Stream;
use super::table::Table;
use super::{
    Exchange, Observer, Outcome, Stats, batch, expiry, exports, imports, items, read, streams, tables, transact,
};
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

/// A table, its stream and the moment: what an operation on items works with.
pub(super) struct Place<'a> {
    pub(super) table: &'a mut Table,
    pub(super) stream: Option<&'a mut Stream>,
    pub(super) moment: &'a mut Moment,
}

pub(super) struct World {
    pub(super) moment: Moment,
    date: Date,
    pub(super) regions: BTreeMap<(String, String), Region>,
    pub(super) identities: Identities,
    /// Principals of other accounts that may use a table.
    pub(super) grants: BTreeSet<(Address, String)>,
    pub(super) faults: Faults,
    pub(super) stats: Stats,
    pub(super) observer: Option<Observer>,
    /// Iterators of earlier generations have expired.
    pub(super) iterator_generation: u32,
    /// Tables that refuse items with an attribute, whether they exist or not.
    pub(super) poisons: BTreeMap<Address, String>,
    /// When items are looked through for those that have expired.
    ttl_due: WallTime,
    /// Chains of iterators begun so far.
    pub(super) readers: u64,
    /// When the calls of the last second were, by operation, account and Region, where their rate is limited.
    calls: BTreeMap<(&'static str, String, String), VecDeque<WallTime>>,
    /// Transactions done, by account, Region and client token: when, and the request's body.
    pub(super) transactions: BTreeMap<(String, String, String), (WallTime, Bytes)>,
    /// By name.
    pub(super) buckets: BTreeMap<String, Bucket>,
    /// By ARN.
    pub(super) exports: BTreeMap<String, exports::Export>,
    /// By ARN.
    pub(super) imports: BTreeMap<String, imports::Import>,
    /// Requests to be executed when they are due; equal times in the order of arrival.
    late: BTreeMap<(WallTime, u64), Late>,
}

/// Reads a JSON body.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
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
        let moment = Moment::new(options);
        Self {
            date: Date::at(moment.now),
            moment,
            regions: BTreeMap::new(),
            identities: Identities::default(),
            grants: BTreeSet::new(),
            faults: Faults::default(),
            stats: Stats::default(),
            observer: None,
            iterator_generation: 0,
            poisons: BTreeMap::new(),
            ttl_due: WallTime::from_millis(i64::MIN),
            readers: 0,
            calls: BTreeMap::new(),
            transactions: BTreeMap::new(),
            buckets: BTreeMap::new(),
            exports: BTreeMap::new(),
            imports: BTreeMap::new(),
            late: BTreeMap::new(),
        }
    }

    /// Brings the world up to now: its clock, which never goes back, and the requests that were delivered late.
    pub(super) fn tick(&mut self) {
        let now = self.moment.now.max(self.moment.options.clock.now());
        while let Some(entry) = self.late.first_entry()
            && entry.key().0 <= now
        {
            let ((due, _), late) = entry.remove_entry();
            self.moment.now = due;
            let incoming = Incoming::of(self, &late.request, late.caller);
            self.moment.events.attribute(&incoming);
            self.moment.events.is_late = true;
            self.perform(&incoming);
            self.moment.events.is_late = false;
        }
        self.moment.now = now;
        self.date.advance(now);
        self.advance_exports();
        imports::advance(self);
        if self.moment.options.ttl_lateness.is_some() && self.ttl_due <= now {
            self.ttl_due = expiry::expire_items(self);
        }
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
        self.moment.events.attribute(&incoming);
        if incoming.caller.as_ref().is_err_and(|error| error.code == SKEWED) {
            self.moment.fault(Knob::SkewedSignature);
        }
        let fault = self.faults.decide(incoming.operation, incoming.account(), incoming.body, &mut self.moment.knobs);
        let Some(fault) = fault else { return Outcome::Reply(self.perform(&incoming)) };
        self.stats.faults += 1;
        if fault.is_twist() {
            self.moment.twist = Some(fault);
            let reply = self.perform(&incoming);
            self.moment.twist = None;
            return Outcome::Reply(reply);
        }
        self.moment.fault(fault.knob(incoming.operation));
        if let FaultKind::DeliverLate(time) | FaultKind::TimeOutAndDeliverLate(time) = fault {
            let late = Late { request: request.clone(), caller: incoming.caller };
            self.late.insert((self.moment.now.plus(time), self.stats.requests), late);
            return if let FaultKind::DeliverLate(_) = fault { Outcome::LoseAnswer } else { silence() };
        }
        if let Some(outcome) = self.refuse(&fault, &incoming) {
            self.observe(&incoming, None);
            return outcome;
        }
        let reply = self.perform(&incoming);
        match fault {
            FaultKind::LoseAnswer => Outcome::LoseAnswer,
            FaultKind::Hold(time) => Outcome::Hold(time, Box::new(Outcome::Reply(reply))),
            FaultKind::TruncateAnswer => Outcome::Reply(self.truncate(&reply)),
            FaultKind::GarbleAnswer => Outcome::Reply(self.garble(reply)),
            _ => Outcome::Reply(reply),
        }
    }

    /// What becomes of a request that is not executed; `None` for one that is.
    fn refuse(&self, fault: &FaultKind, incoming: &Incoming<'_>) -> Option<Outcome> {
        let error = match fault {
            FaultKind::Refuse => return Some(Outcome::Refuse),
            FaultKind::TimeOut => return Some(silence()),
            FaultKind::Throttle(code) => self.throttled(code, incoming),
            FaultKind::Error { code, status } => {
                ApiError { status: *status, ..ApiError::new(code.clone(), "injected fault") }
            }
            FaultKind::InternalError | FaultKind::FailLaterPage => ApiError::internal(),
            FaultKind::ExpiredToken => ApiError::expired_token(),
            FaultKind::AccessDenied => incoming.denied(),
            FaultKind::FilterUnsupported => ApiError::validation("Unknown parameter: ShardFilter"),
            FaultKind::ExpireIterator => ApiError::expired_iterator(),
            _ => return None,
        };
        Some(Outcome::Reply(respond(incoming.protocol, Err(error), &incoming.id, &self.date.header)))
    }

    /// A throttling exception, with the reasons that the service gives for requests that name a table.
    fn throttled(&self, code: &str, incoming: &Incoming<'_>) -> ApiError {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Named {
            table_name: String,
        }
        let error = ApiError::throttled(code);
        let reason = match code {
            "ProvisionedThroughputExceededException" => "ProvisionedThroughputExceeded",
            "RequestLimitExceeded" => "AccountLimitExceeded",
            "ThrottlingException" => "KeyRangeThroughputExceeded",
            _ => return error,
        };
        let kind = match incoming.operation {
            "PutItem" | "UpdateItem" | "DeleteItem" => "Write",
            "GetItem" | "Query" | "Scan" => "Read",
            _ => return error,
        };
        let (Ok(caller), Ok(named)) = (&incoming.caller, parse::<Named>(incoming.body)) else { return error };
        let table = named.table_name;
        let resource = if table.starts_with("arn:") {
            table
        } else {
            format!("arn:aws:dynamodb:{}:{}:table/{table}", caller.region, caller.account)
        };
        error.because(&format!("Table{kind}{reason}"), &resource)
    }

    /// The answer's beginning, as if it were all.
    fn truncate(&mut self, reply: &Response<Bytes>) -> Response<Bytes> {
        let length = reply.body().len();
        let body = reply.body().slice(..self.moment.knobs.chance(Knob::AnswerTruncated).usize(..length.max(1)));
        let mut cut = Response::new(body);
        *cut.status_mut() = reply.status();
        *cut.headers_mut() = reply.headers().clone();
        cut.headers_mut().remove("x-amz-crc32");
        let length = cut.body().len();
        cut.headers_mut().insert("content-length", length.into());
        cut
    }

    /// The answer with a byte that is part of no JSON.
    fn garble(&mut self, reply: Response<Bytes>) -> Response<Bytes> {
        let chance = self.moment.knobs.chance(Knob::AnswerGarbled);
        reply.map(|body| {
            let mut bytes = body.to_vec();
            if !bytes.is_empty() {
                let index = chance.usize(..bytes.len());
                if let Some(byte) = bytes.get_mut(index) {
                    *byte = 0xff;
                }
            }
            bytes.into()
        })
    }

    /// Does what a request asks for.
    fn perform(&mut self, incoming: &Incoming<'_>) -> Response<Bytes> {
        let result = match (&incoming.caller, incoming.protocol) {
            (Err(error), _) => Err(error.clone()),
            (Ok(caller), Protocol::S3) => {
                let Some(request) = &incoming.object else { return Response::new(Bytes::new()) };
                let by = (incoming.id.as_str(), &self.date.header);
                let body = Bytes::copy_from_slice(incoming.body);
                let reply = s3::execute(&mut self.buckets, caller, request, &body, by);
                self.stats.errors += u64::from(!reply.status().is_success());
                self.observe(incoming, Some(&reply));
                return reply;
            }
            (Ok(caller), Protocol::Json) => self.execute(incoming.service, incoming.operation, caller, incoming.body),
            (Ok(caller), Protocol::Query) => {
                self.identities.sts(incoming.operation, &incoming.form, caller, &mut self.moment)
            }
        };
        self.stats.errors += u64::from(result.is_err());
        let reply = respond(incoming.protocol, result, &incoming.id, &self.date.header);
        self.observe(incoming, Some(&reply));
        reply
    }

    fn observe(&self, incoming: &Incoming<'_>, reply: Option<&Response<Bytes>>) {
        if let Some(observer) = &self.observer {
            observer(&Exchange {
                operation: incoming.operation,
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
    ) -> Result<Bytes, ApiError> {
        match (service, operation) {
            ("DynamoDB_20120810", "PutItem") => items::put_item(self, caller, body),
            ("DynamoDB_20120810", "GetItem") => items::get_item(self, caller, body),
            ("DynamoDB_20120810", "DeleteItem") => items::delete_item(self, caller, body),
            ("DynamoDB_20120810", "UpdateItem") => items::update_item(self, caller, body),
            ("DynamoDB_20120810", "BatchWriteItem") => batch::batch_write_item(self, caller, body),
            ("DynamoDB_20120810", "BatchGetItem") => batch::batch_get_item(self, caller, body),
            ("DynamoDB_20120810", "TransactWriteItems") => transact::transact_write_items(self, caller, body),
            ("DynamoDB_20120810", "TransactGetItems") => transact::transact_get_items(self, caller, body),
            ("DynamoDB_20120810", "Scan") => read::scan(self, caller, body),
            ("DynamoDB_20120810", "Query") => read::query(self, caller, body),
            (
                "DynamoDB_20120810",
                "DescribeContinuousBackups"
                | "UpdateContinuousBackups"
                | "ExportTableToPointInTime"
                | "DescribeExport"
                | "ListExports",
            ) => exports::execute(self, operation, caller, body),
            ("DynamoDB_20120810", "ImportTable" | "DescribeImport" | "ListImports") => {
                imports::execute(self, operation, caller, body)
            }
            ("DynamoDB_20120810", _) => tables::execute(self, operation, caller, body),
            ("DynamoDBStreams_20120810", _) => streams::execute(self, operation, caller, body),
            _ => Err(ApiError::new("UnknownOperationException", "")),
        }
    }

    /// Counts a call of an operation of which an account has only so many in any second.
    pub(super) fn check_rate(
        &mut self,
        operation: &'static str,
        caller: &Caller,
        most: Option<usize>,
        knob: Knob,
    ) -> Result<(), ApiError> {
        let Some(most) = most else { return Ok(()) };
        let now = self.moment.now;
        let calls = self.calls.entry((operation, caller.account.clone(), caller.region.clone())).or_default();
        while calls.pop_front_if(|at| now.since(*at) >= Duration::from_secs(1)).is_some() {}
        if calls.len() >= most {
            self.moment.fault(knob);
            return Err(ApiError::throttled("ThrottlingException"));
        }
        calls.push_back(now);
        Ok(())
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
pub(super) struct Incoming<'a> {
    id: String,
    protocol: Protocol,
    service: &'a str,
    pub(super) operation: &'a str,
    form: BTreeMap<String, String>,
    object: Option<S3Request>,
    caller: Result<Caller, ApiError>,
    body: &'a [u8],
}

impl<'a> Incoming<'a> {
    fn read(world: &mut World, request: &'a Request<Bytes>) -> Self {
        let caller = world.identities.caller(request.headers(), &world.moment);
        Self::of(world, request, caller)
    }

    fn of(world: &mut World, request: &'a Request<Bytes>, caller: Result<Caller, ApiError>) -> Self {
        let id = format!("{:032X}", world.moment.rng.u128(..));
        let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let body = request.body();
        let object = if target.is_empty() { S3Request::read(request) } else { None };
        let (protocol, service, operation, form) = match (target.split_once('.'), &object) {
            (Some((service, operation)), _) => (Protocol::Json, service, operation, BTreeMap::new()),
            (None, Some(object)) => (Protocol::S3, "", object.operation, BTreeMap::new()),
            (None, None) => {
                let form = read_form(body);
                (Protocol::Query, "", form.get("Action").map_or("", |action| static_name(action)), form)
            }
        };
        Self { id, protocol, service, operation, form, object, caller, body }
    }

    pub(super) fn account(&self) -> &str {
        self.caller.as_ref().map_or("", |caller| &caller.account)
    }

    fn denied(&self) -> ApiError {
        let user = self.caller.as_ref().map_or("unknown", |caller| &caller.arn);
        let service = match self.protocol {
            Protocol::Json => "dynamodb",
            Protocol::Query => "sts",
            Protocol::S3 => "s3",
        };
        let message = format!(
            "User: {user} is not authorized to perform: {service}:{} because no identity-based policy allows it",
            self.operation
        );
        ApiError::new("AccessDeniedException", message)
    }
}

/// A request whose client gave up, to be executed later. Who sent it was checked when it was sent.
struct Late {
    request: Request<Bytes>,
    caller: Result<Caller, ApiError>,
}

/// Longer than any client waits; then the connection drops.
fn silence() -> Outcome {
    Outcome::Hold(Duration::from_secs(900), Box::new(Outcome::LoseAnswer))
}
