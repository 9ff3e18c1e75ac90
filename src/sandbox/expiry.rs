//! Time to live as a process of its own: items leave some time after they expired, in the service's name.

use std::time::Duration;

use super::knobs::Knob;
use super::table::{ItemKey, hash_of};
use super::value::{Item, Value};
use super::world::{Address, World};
use crate::model::WallTime;

/// What expired longer ago is taken for a mistake and stays, as at the service.
const OLDEST: Duration = Duration::from_secs(5 * 365 * 86_400);

/// Deletes what is due in all tables; answers when to look again.
pub(super) fn expire_items(world: &mut World) -> WallTime {
    let lateness = world.moment.options.ttl_lateness.unwrap_or_default();
    let now = world.moment.now;
    let tables = world.regions.values().flat_map(|region| region.tables.values());
    let addresses: Vec<Address> =
        tables.filter(|table| table.time_to_live.is_some()).map(|table| table.address.clone()).collect();
    for address in addresses {
        let Ok(mut place) = world.place(&address) else { continue };
        let Some(attribute) = place.table.time_to_live.clone() else { continue };
        let is_due = |key: &ItemKey, item: &Item| {
            expiry(item, &attribute).is_some_and(|expired| {
                let due = expired.plus(lateness.mul_f64(share(key, expired)));
                due <= now && now.since(expired) < OLDEST
            })
        };
        let items = place.table.items.iter();
        let due: Vec<ItemKey> =
            items.filter(|(key, stored)| is_due(key, &stored.attributes)).map(|(key, _)| key.clone()).collect();
        for key in due {
            place.moment.events.attribute_to("TimeToLive");
            place.moment.fault(Knob::TtlDelete);
            place.change(&key, None, true);
            world.stats.writes += 1;
            let Ok(again) = world.place(&address) else { break };
            place = again;
        }
    }
    now.plus((lateness / 16).clamp(Duration::from_secs(1), Duration::from_secs(60)))
}

/// When an item expires.
fn expiry(item: &Item, attribute: &str) -> Option<WallTime> {
    let Some(Value::N(seconds)) = item.get(attribute) else { return None };
    let seconds: f64 = seconds.to_string().parse().ok()?;
    // Beyond the range of a day that anybody means.
    if !(0.0..1e11).contains(&seconds) {
        return None;
    }
    Some(WallTime::from_secs(0).plus(Duration::from_secs_f64(seconds)))
}

/// Which part of the longest delay an item takes: always the same for one life of it.
fn share(key: &ItemKey, expired: WallTime) -> f64 {
    let mixed = hash_of(&[&key.hash.to_be_bytes()[..], &key.sort, &expired.millis().to_be_bytes()].concat());
    f64::from(u32::try_from(mixed >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
