//! What is imported: once, as long as nothing takes its use away.

use std::collections::BTreeMap;
use std::time::Duration;

use dynaferry::model::WallTime;
use serde_json::Value;

use super::Judge;

/// Another import is begun no sooner after one that failed, as the program promises, less what clocks are apart.
const AFTER_FAILURE: Duration = Duration::from_secs(13 * 60);

/// Imports by ARN, and when they failed.
pub(super) type Imports = BTreeMap<String, Option<WallTime>>;

impl Judge {
    /// Whether an import was begun that may be gone on with.
    pub(crate) fn has_import(&self) -> bool {
        self.imports.values().any(Option::is_none)
    }

    /// Whether any was begun.
    pub(crate) fn has_imported(&self) -> bool {
        !self.imports.is_empty()
    }

    /// The operator has made another export, which is another thing to import.
    pub(crate) fn forget_imports(&mut self) {
        self.imports.clear();
    }

    /// Another one is begun only when the last one has failed some time ago.
    pub(super) fn import_was_begun(&mut self, body: &[u8], at: WallTime) {
        let Ok(answer) = serde_json::from_slice::<Value>(body) else { return };
        let Some(arn) = answer.pointer("/ImportTableDescription/ImportArn").and_then(Value::as_str) else { return };
        if self.imports.contains_key(arn) {
            return;
        }
        let is_too_soon =
            self.imports.values().any(|failed| failed.is_none_or(|at_end| at.since(at_end) < AFTER_FAILURE));
        self.imports.insert(arn.to_owned(), None);
        if is_too_soon {
            self.violated("C7", at, "an import was begun while another one is of use, or had just failed".to_owned());
        }
    }

    /// One that has failed is of no use from its end on, but for one that has left out items alone.
    pub(super) fn import_was_described(&mut self, body: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Value>(body) else { return };
        let import = &answer["ImportTableDescription"];
        let has_failed = import["ImportStatus"] == "FAILED" && import["FailureCode"] != "ItemValidationError";
        let known = import["ImportArn"].as_str().and_then(|arn| self.imports.get_mut(arn));
        if let (Some(failed), Some(ended), true) = (known, import["EndTime"].as_f64(), has_failed) {
            *failed = Some(WallTime::from_millis((ended * 1000.0) as i64));
        }
    }
}
