//! What the service says of a transaction that it cancelled: nothing of it was carried out, and why, for each action.

use serde_json::Value;

use super::fault::{THROTTLES, broken, service_message};
use crate::error::{Failure, Fault};

const CANCELLED: &str = "TransactionCanceledException";
const CONDITION_FAILED: &str = "ConditionalCheckFailed";

/// A cancelled transaction.
#[derive(Debug)]
pub(super) struct Cancelled {
    /// Its fate, where no condition is to blame.
    pub(super) failure: Failure,
    /// The first action whose condition did not hold, and the item that is there, where it was asked for.
    pub(super) refused: Option<(usize, Option<Value>)>,
}

impl Cancelled {
    /// Reads the reasons; they may quote items.
    ///
    /// # Errors
    /// The failure as it is, where it is another one.
    pub(super) fn read(failure: Failure, said: &[u8]) -> Result<Self, Failure> {
        if failure.code.as_deref() != Some(CANCELLED) {
            return Err(failure);
        }
        // Its text may quote what is in the answer.
        let said: Value =
            serde_json::from_slice(said).map_err(|_| broken(failure.operation, "the answer is no JSON"))?;
        let reasons = said.get("CancellationReasons").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let refused = reasons.iter().position(|reason| code(reason) == CONDITION_FAILED);
        let refused = refused.map(|at| (at, reasons.get(at).and_then(|reason| reason.get("Item")).cloned()));
        Ok(Self { failure: judged(failure, reasons), refused })
    }
}

fn code(reason: &Value) -> &str {
    reason.get("Code").and_then(Value::as_str).unwrap_or("None")
}

/// Throttles and conflicts pass; an action that is refused for what it is does not, unless the others had no chance to be
/// looked at.
fn judged(failure: Failure, reasons: &[Value]) -> Failure {
    let said = |reason: &&Value| code(reason) != "None";
    let is_throttle =
        |code: &str| ["ProvisionedThroughputExceeded", "ThrottlingError"].contains(&code) || THROTTLES.contains(&code);
    let throttled = reasons.iter().any(|reason| is_throttle(code(reason)));
    let conflicts = reasons.iter().filter(said).all(|reason| code(reason) == "TransactionConflict");
    let fault = if throttled || conflicts { Fault::Transient } else { Fault::Rejected };
    let mut reasons: Vec<String> = reasons.iter().filter(said).map(text).collect();
    reasons.dedup();
    let message = format!("the transaction was cancelled: {}", reasons.join(", "));
    Failure { fault, throttled, may_have_happened: false, message, ..failure }
}

fn text(reason: &Value) -> String {
    let code = code(reason);
    match reason.get("Message").and_then(Value::as_str) {
        Some(message) => format!("{code} ({})", service_message(Some(code), Some(message))),
        None => code.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cancelled(reasons: &Value) -> Cancelled {
        let failure = Failure { code: Some(CANCELLED.to_owned()), ..broken("TransactWriteItems", "cancelled") };
        let said =
            json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{CANCELLED}"), "CancellationReasons": reasons});
        Cancelled::read(failure, said.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_first_condition_that_did_not_hold_is_told_with_what_is_there() {
        let found = json!({"pk": {"S": "a"}});
        let refused = cancelled(&json!([{"Code": "None"}, {"Code": CONDITION_FAILED, "Item": found}])).refused;
        assert_eq!(refused, Some((1, Some(found))));
        let refused = cancelled(&json!([{"Code": CONDITION_FAILED}, {"Code": "ThrottlingError"}])).refused;
        assert_eq!(refused, Some((0, None)));
    }

    #[test]
    fn throttles_and_conflicts_pass_and_what_is_refused_for_good_does_not() {
        for (codes, fault, throttled) in [
            (json!([{"Code": "None"}, {"Code": "ThrottlingError"}]), Fault::Transient, true),
            (json!([{"Code": "ProvisionedThroughputExceeded"}, {"Code": "ValidationError"}]), Fault::Transient, true),
            (json!([{"Code": "TransactionConflict"}, {"Code": "None"}]), Fault::Transient, false),
            (json!([{"Code": "TransactionConflict"}, {"Code": "ValidationError"}]), Fault::Rejected, false),
            (json!([{"Code": "ItemCollectionSizeLimitExceeded"}]), Fault::Rejected, false),
            (json!([]), Fault::Transient, false),
        ] {
            let Cancelled { failure, refused } = cancelled(&codes);
            assert_eq!((failure.fault, failure.throttled, refused), (fault, throttled, None), "{codes}");
            assert!(!failure.may_have_happened, "nothing of it was carried out");
        }
    }

    #[test]
    fn what_it_says_quotes_no_value() {
        let reasons = json!([{"Code": "ValidationError", "Message": "Invalid item {pk={S: secret}}"}]);
        let message = cancelled(&reasons).failure.message;
        assert!(message.contains("ValidationError (Invalid item…)"), "{message}");
    }

    #[test]
    fn another_failure_stays_what_it_is() {
        let failure = Failure { code: Some("ThrottlingException".to_owned()), ..broken("TransactWriteItems", "slow") };
        assert_eq!(Cancelled::read(failure, b"{}").unwrap_err().message, "slow");
    }
}
