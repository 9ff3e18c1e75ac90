//! What is promised of gates: whoever opened one last has it, and nothing that comes late changes that.

use super::table_only::{ACCOUNT, Cloud, REGION, next};
use super::*;
use crate::sandbox::FaultKind;

#[tokio::test(start_paused = true)]
async fn a_gate_that_a_later_owner_has_opened_stays_that_ones() {
    let cloud = Cloud::new(31);
    let gates = cloud.open("fleet").await.unwrap().gates().unwrap();
    let old = gates.open("orders", 3, 7).await.unwrap();
    let again = gates.open("orders", 3, 7).await.unwrap();
    assert_ne!(old.nonce, again.nonce, "what went through it before finds another gate");
    let new = gates.open("orders", 3, 8).await.unwrap();
    let error = gates.open("orders", 3, 7).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    assert!(gates.open("orders", 4, 7).await.is_ok() && gates.open("invoices", 3, 1).await.is_ok(), "another gate");
    assert_eq!((new.number, new.epoch), (3, 8));
}

#[tokio::test(start_paused = true)]
async fn a_gate_is_opened_though_answers_are_lost_and_attempts_arrive_late() {
    let cloud = Cloud::new(32);
    let gates = cloud.open("fleet").await.unwrap().gates().unwrap();
    let late = FaultKind::DeliverLate(Duration::from_secs(30));
    for (epoch, kind) in (1..).zip([FaultKind::LoseAnswer, late, FaultKind::InternalError, FaultKind::GarbleAnswer]) {
        cloud.faults(vec![next("PutItem", 1, kind.clone())]);
        let gate = gates.open("orders", 0, epoch).await.unwrap();
        assert_eq!(opened(&cloud), gate.nonce, "{kind:?}");
        let gate = gates.open("orders", 0, epoch).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(opened(&cloud), gate.nonce, "{kind:?}: an attempt at the opening before has come");
    }
}

/// The nonce of the only gate.
fn opened(cloud: &Cloud) -> String {
    use crate::sandbox::Value;
    let items = cloud.sandbox.snapshot(ACCOUNT, REGION, "dynaferry-state").unwrap();
    let partition = Value::S("fleet/gate/orders/0".to_owned());
    let gate = items.into_values().find(|item| item.get("pk") == Some(&partition)).unwrap();
    match gate.get("nonce") {
        Some(Value::S(nonce)) => nonce.clone(),
        other => panic!("{other:?}"),
    }
}
