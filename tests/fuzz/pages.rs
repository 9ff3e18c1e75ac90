//! One case of each decoder: built, spoilt, read twice, compared.

use bytes::Bytes;
use dynaferry::decode::{self, KeyCodec};
use dynaferry::model::{ChangeOp, Key, KeySchema};

use crate::build::{self, Writer};
use crate::mutate::spoil;
use crate::oracle::{self, Op};
use crate::{Verdict, json};

/// A body, and whether it is as it was built: then it must be accepted.
struct Body {
    bytes: Bytes,
    is_intact: bool,
}

fn body(schema: &KeySchema, random: &mut fastrand::Rng, write: impl FnOnce(&mut Writer<'_>)) -> Body {
    let mut writer = Writer::new(schema, random);
    write(&mut writer);
    let mut text = writer.text;
    let times = random.choice([0, 1, 1, 1, 2, 4]).unwrap_or(1);
    spoil(&mut text, times, random);
    Body { bytes: text.into(), is_intact: times == 0 }
}

impl Body {
    /// Compares what two readers say; `same` tells what differs where both accept.
    fn judge<A, B>(
        &self,
        ours: Result<A, impl std::fmt::Debug>,
        theirs: Option<B>,
        same: impl FnOnce(A, B) -> Result<(), &'static str>,
    ) -> Result<Verdict, String> {
        let told = |what: &str| format!("{what}\n{}", self.bytes.escape_ascii());
        match (ours, theirs) {
            (Ok(ours), Some(theirs)) => same(ours, theirs).map(|()| Verdict::Accepted).map_err(told),
            (Err(error), _) if self.is_intact => Err(told(&format!("a page of the service is refused: {error:?}"))),
            (Err(_), None) => Ok(Verdict::Refused),
            (Ok(_), None) => Err(told("it is accepted, and should not be")),
            (Err(error), Some(_)) => Err(told(&format!("it is refused, and should not be: {error:?}"))),
        }
    }
}

fn want(holds: bool, what: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(what) }
}

/// Whether two keys are one, and what is sent of ours says so.
fn is_same_key(ours: &Key, theirs: &oracle::Key<'_>, schema: &KeySchema) -> bool {
    let sent = json::whole(&ours.json).and_then(json::fields).unwrap_or_default();
    let value_of = |name: &str| sent.iter().find(|(sent, _)| sent.is(name)).map(|(_, value)| value.get());
    let mut attributes = schema.attributes().zip(&theirs.values);
    ours.canonical.as_bytes() == theirs.canonical
        && sent.len() == theirs.values.len()
        && attributes.all(|(attribute, value)| value_of(&attribute.name) == Some(value.get()))
}

pub(crate) fn stream_page(random: &mut fastrand::Rng) -> Result<Verdict, String> {
    let (schema, view) = (build::schema(random), build::view(random));
    let body = body(&schema, random, |writer| writer.stream_page(view));
    let ours = decode::stream_page(&body.bytes, &KeyCodec::new(&schema), view);
    body.judge(ours, oracle::stream_page(&body.bytes, &schema, view), |ours, theirs| {
        want(ours.changes.len() == theirs.records.len(), "the number of records")?;
        want(ours.next_iterator == theirs.next, "the next iterator")?;
        let wire_bytes: usize = ours.changes.iter().map(|change| change.wire_bytes).sum();
        want(wire_bytes <= body.bytes.len(), "the bytes of all records")?;
        for (ours, theirs) in ours.changes.iter().zip(&theirs.records) {
            want(is_same_key(&ours.key, &theirs.key, &schema), "a key")?;
            want(ours.sequence.as_str() == theirs.sequence, "a sequence number")?;
            want(ours.is_ttl_delete == theirs.is_ttl_delete, "whether it expired")?;
            want(ours.wire_bytes >= theirs.whole.get().len(), "the bytes of a record")?;
            #[expect(clippy::cast_precision_loss, reason = "the other one is a float")]
            let created = ours.created.millis() as f64;
            want((created - theirs.created).abs() <= 1.0 + theirs.created.abs() * 1e-15, "a creation time")?;
            match (&ours.op, &theirs.op) {
                (ChangeOp::Put(ours), Op::Put(theirs)) => want(oracle::is_same_image(ours.json(), theirs), "an image")?,
                (ChangeOp::Delete, Op::Delete) | (ChangeOp::Touch, Op::Touch) => {}
                _ => return Err("what a record does"),
            }
        }
        Ok(())
    })
}

pub(crate) fn scan_page(random: &mut fastrand::Rng) -> Result<Verdict, String> {
    let schema = build::schema(random);
    let body = body(&schema, random, |writer| writer.scan_page());
    let ours = decode::ScanPage::decode(&body.bytes, &KeyCodec::new(&schema));
    body.judge(ours, oracle::scan_page(&body.bytes, &schema), |ours, theirs| {
        want(ours.items.len() == theirs.items.len(), "the number of items")?;
        let last_key = theirs.last_key.map(|key| key.get().as_bytes());
        want(ours.last_key.as_deref() == last_key, "where the next page begins")?;
        want(is_same_cost(ours.consumed_units, theirs.units), "the cost")?;
        for (ours, (key, image)) in ours.items.iter().zip(&theirs.items) {
            want(is_same_key(&ours.key, key, &schema), "a key")?;
            want(oracle::is_same_image(ours.image.json(), image), "an image")?;
        }
        Ok(())
    })
}

pub(crate) fn single_item(random: &mut fastrand::Rng) -> Result<Verdict, String> {
    let schema = build::schema(random);
    let body = body(&schema, random, |writer| writer.single_item());
    let ours = decode::one_item(&body.bytes);
    body.judge(ours, oracle::single_item(&body.bytes), |ours, theirs| match (ours, theirs) {
        (Some(ours), Some(theirs)) => want(oracle::is_same_image(ours.json(), &theirs), "the image"),
        (ours, theirs) => want(ours.is_none() && theirs.is_none(), "whether there is an item"),
    })
}

pub(crate) fn export_line(random: &mut fastrand::Rng) -> Result<Verdict, String> {
    let schema = build::schema(random);
    let body = body(&schema, random, |writer| writer.export_line());
    let ours = decode::export_line(&body.bytes, &KeyCodec::new(&schema));
    body.judge(ours, oracle::export_line(&body.bytes, &schema), |ours, (key, image)| {
        want(is_same_key(&ours.key, &key, &schema), "the key")?;
        want(oracle::is_same_image(ours.image.json(), &image), "the image")
    })
}

pub(crate) fn write_reply(random: &mut fastrand::Rng) -> Result<Verdict, String> {
    let schema = build::schema(random);
    let body = body(&schema, random, |writer| writer.write_reply());
    let ours = decode::write_reply(&body.bytes, &KeyCodec::new(&schema));
    body.judge(ours, oracle::write_reply(&body.bytes, &schema), |ours, theirs| {
        let keys: Vec<&[u8]> = ours.unprocessed.iter().map(|key| key.as_bytes()).collect();
        want(keys == theirs.unprocessed, "the keys that were left")?;
        want(is_same_cost(ours.consumed_units, theirs.units), "the cost")
    })
}

/// A cost that is no amount is as good as none.
fn is_same_cost(ours: Option<f64>, theirs: Option<f64>) -> bool {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => (ours - theirs).abs() <= theirs.abs() * 1e-12,
        (ours, theirs) => ours == theirs,
    }
}

/// An item's digest does not depend on its spelling: `serde_json` spells it anew, its names sorted.
pub(crate) fn digest(random: &mut fastrand::Rng) -> Result<Verdict, String> {
    let schema = build::schema(random);
    let body = body(&schema, random, |writer| writer.item());
    let Some(item) = json::whole(&body.bytes) else { return Ok(Verdict::Refused) };
    let told = |what: &str| format!("{what}\n{}", body.bytes.escape_ascii());
    match decode::item_digest(item.get().as_bytes()) {
        Ok(ours) => {
            // What does not count in an item may be what `serde_json` has no value for.
            let Ok(value) = serde_json::from_str::<serde_json::Value>(item.get()) else { return Ok(Verdict::Refused) };
            let again = decode::item_digest(value.to_string().as_bytes());
            if again == Ok(ours) { Ok(Verdict::Accepted) } else { Err(told("another spelling, another digest")) }
        }
        Err(error) if body.is_intact => Err(told(&format!("an item of the service is refused: {error:?}"))),
        Err(_) => Ok(Verdict::Refused),
    }
}
