//! SDK error → [`Failure`]: the fate of each failure is chosen here and nowhere else.
//!
//! No text that leaves here holds item contents or keys: the service quotes values in the messages of the requests that
//! it rejects, so those are cut where a value may begin.

use std::error::Error as StdError;
use std::fmt::Display;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::{ErrorMetadata, ProvideErrorMetadata};

use super::wire::HeldBack;
use crate::error::{Failure, Fault};

/// Error codes that ask us to slow down. Source: DynamoDB Developer Guide, error handling; aws-facts 4.7.
pub(super) const THROTTLES: [&str; 10] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "TooManyRequestsException",
    "SlowDown",
    // The token service's names.
    "Throttling",
    "RequestThrottled",
    "RequestThrottledException",
];

/// Codes that pass by themselves and are no throttles.
const PASSING: [&str; 7] = [
    "TransactionInProgressException",
    "TransactionConflictException",
    "ReplicatedWriteConflictException",
    "RequestTimeout",
    "RequestTimeoutException",
    "InternalServerError",
    "ServiceUnavailable",
];

/// Codes of credentials that were good and are no longer: new ones may pass. A clock that is wrong shows as these, too.
const STALE_CREDENTIALS: [&str; 4] =
    ["ExpiredTokenException", "ExpiredToken", "RequestExpired", "UnrecognizedClientException"];

/// In place of a code: no provider of the chain has credentials, so there is nobody to be refused.
const NOT_FOUND: &str = "NoCredentials";

/// In place of a code: the guard did not let the call pass.
const HELD_BACK: &str = "HeldBack";

/// Codes of credentials that do not allow the call.
const DENIALS: [&str; 11] = [
    "AccessDeniedException",
    "AccessDenied",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "InvalidClientTokenId",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "IncompleteSignature",
    // S3's.
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "InvalidToken",
];

/// Codes of an item or a request that will never be accepted as it is.
const REJECTIONS: [&str; 8] = [
    "ValidationException",
    "ItemCollectionSizeLimitExceededException",
    "ConditionalCheckFailedException",
    "SerializationException",
    // S3's: another object than before, one in an archive, a bucket elsewhere.
    "PreconditionFailed",
    "InvalidObjectState",
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
];

/// Codes of what is not there.
const ABSENCES: [&str; 7] = [
    "TrimmedDataAccessException",
    "ResourceNotFoundException",
    "TableNotFoundException",
    "ExportNotFoundException",
    "ImportNotFoundException",
    "NoSuchKey",
    "NoSuchBucket",
];

/// Turns an error of the SDK into a failure with a fate.
pub(super) fn failure<E>(operation: &'static str, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let unknown = Failure { fault: Fault::Transient, ..broken(operation, "") };
    if let Some(missing) = find::<NoCredentials>(error) {
        return missing.clone().failure(operation);
    }
    if find::<HeldBack>(error).is_some() {
        let code = Some(HELD_BACK.to_owned());
        return Failure { may_have_happened: false, code, message: chain(error), ..unknown };
    }
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let code = context.err().code().map(str::to_owned);
            Failure {
                fault: by_code(code.as_deref(), status),
                throttled: code.as_deref().is_some_and(|code| THROTTLES.contains(&code)),
                // A 4xx is a definite refusal. A 500 is not: the write may have been done.
                may_have_happened: status >= 500,
                message: match context.err().message() {
                    None => format!("HTTP status {status} without a message"),
                    said => service_message(code.as_deref(), said),
                },
                request_id: request_id(context.raw()),
                code,
                ..unknown
            }
        }
        SdkError::ConstructionFailure(_) => {
            Failure { fault: Fault::Broken, may_have_happened: false, message: chain(error), ..unknown }
        }
        SdkError::DispatchFailure(dispatch) => {
            let message = chain(error);
            let was_never_sent = dispatch.is_user() || NEVER_SENT.iter().any(|sign| message.contains(sign));
            // The connection's own clock may strike before the attempt's.
            let timed_out = dispatch.is_timeout() && !was_never_sent;
            Failure { may_have_happened: !was_never_sent, timed_out, message, ..unknown }
        }
        SdkError::TimeoutError(_) => Failure { timed_out: true, message: chain(error), ..unknown },
        // An answer that broke off or is none. The enum may grow, too: unknown is transient,
        // and the retry policy has a ceiling and an alarm.
        _ => Failure { message: chain(error), ..unknown },
    }
}

/// S3 names it otherwise than the others.
fn request_id(reply: &HttpResponse) -> Option<String> {
    let names = ["x-amzn-requestid", "x-amz-request-id"];
    names.iter().find_map(|name| reply.headers().get(*name)).map(str::to_owned)
}

/// Texts of the HTTP client where no connection came about. A test holds them against a real refusal.
const NEVER_SENT: [&str; 4] = ["(Connect)", "connect error", "HTTP connect timeout", "dns error"];

/// A failure to understand an answer: ours or the service's bug. The call itself was carried out.
pub(super) fn broken(operation: &'static str, message: impl Display) -> Failure {
    Failure { may_have_happened: true, ..Failure::of_ours(operation, Fault::Broken, message.to_string()) }
}

fn by_code(code: Option<&str>, status: u16) -> Fault {
    match code {
        Some(code) if THROTTLES.contains(&code) || PASSING.contains(&code) => Fault::Transient,
        Some("ExpiredIteratorException") => Fault::Expired,
        Some(code) if ABSENCES.contains(&code) => Fault::Lost,
        Some(code) if STALE_CREDENTIALS.contains(&code) || DENIALS.contains(&code) => Fault::Denied,
        Some(code) if REJECTIONS.contains(&code) => Fault::Rejected,
        _ if status >= 500 => Fault::Transient,
        _ if status == 413 => Fault::Rejected,
        _ if status == 403 => Fault::Denied,
        _ => Fault::Transient,
    }
}

/// Whether new credentials may help: the ones used were good once.
pub(crate) fn has_stale_credentials(failure: &Failure) -> bool {
    failure.code.as_deref().is_some_and(|code| STALE_CREDENTIALS.contains(&code))
}

/// Whether a guard held the call back. Its link is not this worker's any more: under the same guard no further attempt
/// passes.
pub(crate) fn was_held_back(failure: &Failure) -> bool {
    failure.code.as_deref() == Some(HELD_BACK)
}

/// Whether the process has no credentials at all, its own or those that a role is assumed with.
pub(crate) fn has_no_credentials(failure: &Failure) -> bool {
    failure.code.as_deref() == Some(NOT_FOUND)
}

/// Why there are no credentials, and what becomes of the calls that want them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no credentials: {message}")]
pub(super) struct NoCredentials {
    pub(super) fault: Fault,
    /// The token service's error code, where it gave one.
    pub(super) code: Option<String>,
    pub(super) message: String,
}

impl NoCredentials {
    /// The failure of a call that wanted them.
    pub(super) fn failure(self, operation: &'static str) -> Failure {
        let Self { fault, code, message } = self;
        let throttled = code.as_deref().is_some_and(|code| THROTTLES.contains(&code));
        Failure { fault, code, message, throttled, may_have_happened: false, ..broken(operation, "") }
    }
}

impl From<&CredentialsError> for NoCredentials {
    /// What the token service refused is [`Fault::Denied`], and so is a chain in which nobody has any; what did not reach
    /// the service, or was throttled, passes.
    fn from(error: &CredentialsError) -> Self {
        if let Some(missing) = not_found(error) {
            return Self { fault: Fault::Denied, code: Some(NOT_FOUND.to_owned()), message: chain(missing) };
        }
        let refusal = find::<AssumeRoleError>(error)
            .map(ProvideErrorMetadata::meta)
            .or_else(|| find::<AssumeRoleWithWebIdentityError>(error).map(ProvideErrorMetadata::meta));
        let code = refusal.and_then(ErrorMetadata::code);
        let fault = match (code, error) {
            (Some(code), _) => match by_code(Some(code), 400) {
                Fault::Transient if !THROTTLES.contains(&code) && !PASSING.contains(&code) => Fault::Denied,
                fault => fault,
            },
            (None, CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_)) => Fault::Transient,
            (None, _) => Fault::Denied,
        };
        let message = match refusal.and_then(ErrorMetadata::message) {
            Some(why) => format!("assume the role: {why}"),
            None => chain(error),
        };
        Self { fault, code: code.map(str::to_owned), message }
    }
}

/// Codes whose messages speak of permissions and resources, never of values.
fn speaks_of_no_values(code: &str) -> bool {
    let known = [&THROTTLES[..], &PASSING, &STALE_CREDENTIALS, &DENIALS];
    known.iter().any(|codes| codes.contains(&code))
        || ABSENCES.contains(&code)
        || ["ResourceInUseException", "ExpiredIteratorException"].contains(&code)
}

/// The service's text, without what may be a value.
pub(super) fn service_message(code: Option<&str>, message: Option<&str>) -> String {
    match message {
        None => "no message".to_owned(),
        Some(message) if code.is_some_and(speaks_of_no_values) => message.to_owned(),
        Some(message) => without_values(message),
    }
}

/// What stands before a colon whose right side is a name, a type, a size, or more text.
/// Source: messages of DynamoDB and of the servers that imitate it.
const LABELS: [&str; 10] = [
    "values were invalid",
    "values are not valid",
    "error detected",
    "Expected",
    "expected",
    "Actual",
    "actual",
    "IndexName",
    "IndexKey",
    "index",
];

/// Cuts a message at the first quotation mark, bracket, or colon that no known label stands before.
fn without_values(message: &str) -> String {
    let begins_value = |(at, character): (usize, char)| match character {
        '"' | '\'' | '`' | '{' | '[' | '<' | '=' => true,
        ':' => !message.get(..at).is_some_and(|before| LABELS.iter().any(|label| before.ends_with(label))),
        _ => false,
    };
    match message.char_indices().find(|&each| begins_value(each)) {
        None => message.to_owned(),
        Some((at, _)) => format!("{}…", message.get(..at).unwrap_or_default().trim_end()),
    }
}

/// The one among the causes that says that no provider has credentials: those for a role are looked for within the call that
/// assumes it.
fn not_found<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a CredentialsError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<CredentialsError>() {
            Some(found @ CredentialsError::CredentialsNotLoaded(_)) => return Some(found),
            _ => cause = error.source(),
        }
    }
    None
}

/// The first cause of this type.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The whole chain of causes in one line. The SDK's own texts name no item.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_code_has_its_fate() {
        for (code, fate) in [
            ("ProvisionedThroughputExceededException", Fault::Transient),
            ("ThrottlingException", Fault::Transient),
            ("RequestLimitExceeded", Fault::Transient),
            ("LimitExceededException", Fault::Transient),
            ("TransactionConflictException", Fault::Transient),
            ("ExpiredIteratorException", Fault::Expired),
            ("TrimmedDataAccessException", Fault::Lost),
            ("ResourceNotFoundException", Fault::Lost),
            ("ExportNotFoundException", Fault::Lost),
            ("ImportNotFoundException", Fault::Lost),
            ("NoSuchKey", Fault::Lost),
            ("PreconditionFailed", Fault::Rejected),
            ("SlowDown", Fault::Transient),
            ("ValidationException", Fault::Rejected),
            ("ItemCollectionSizeLimitExceededException", Fault::Rejected),
            ("AccessDeniedException", Fault::Denied),
            ("ExpiredTokenException", Fault::Denied),
            ("SomethingNew", Fault::Transient),
        ] {
            assert_eq!(by_code(Some(code), 400), fate, "{code}");
        }
        assert_eq!(by_code(None, 503), Fault::Transient);
        assert_eq!(by_code(Some("SomethingNew"), 500), Fault::Transient);
    }

    #[test]
    fn messages_of_rejections_keep_names_and_lose_values() {
        let rejected = |text| service_message(Some("ValidationException"), Some(text));
        for whole in [
            "One or more parameter values were invalid: Missing the key pk in the item",
            "One or more parameter values were invalid: Type mismatch for key pk expected: S actual: N",
            "One or more parameter values were invalid: Type mismatch for Index Key gpk Expected: S Actual: N IndexName: by_gpk",
            "Item size has exceeded the maximum allowed size",
            "Provided list of item keys contains duplicates",
        ] {
            assert_eq!(rejected(whole), whole);
        }
        for (quoting, rest) in [
            (
                "The parameter cannot be converted to a numeric value: 4111secret",
                "The parameter cannot be converted to a numeric value…",
            ),
            ("1 validation error detected: Value 'secret' at 'item' failed", "1 validation error detected: Value…"),
            ("Invalid item {pk={S: secret}}", "Invalid item…"),
            ("Input collection [secret, secret] contains duplicates", "Input collection…"),
            ("bad \"secret\"", "bad…"),
        ] {
            assert_eq!(rejected(quoting), rest);
        }
        assert_eq!(service_message(None, Some("said: secret")), "said…", "an unknown code is not trusted");
        let denied = "User: arn:aws:iam::111122223333:user/a is not authorized to perform: dynamodb:Scan";
        assert_eq!(service_message(Some("AccessDeniedException"), Some(denied)), denied);
    }

    #[test]
    fn credentials_that_cannot_be_reached_pass_and_refused_ones_do_not() {
        let fault = |error: CredentialsError| NoCredentials::from(&error).fault;
        assert_eq!(fault(CredentialsError::provider_timed_out(std::time::Duration::from_secs(5))), Fault::Transient);
        assert_eq!(fault(CredentialsError::provider_error("503")), Fault::Transient);
        assert_eq!(fault(CredentialsError::not_loaded_no_source()), Fault::Denied);
        let for_a_role = SdkError::<AssumeRoleError, HttpResponse>::construction_failure(CredentialsError::not_loaded(
            "nobody has any",
        ));
        let for_a_role =
            NoCredentials::from(&CredentialsError::provider_error(for_a_role)).failure("GetCallerIdentity");
        assert_eq!(for_a_role.fault, Fault::Denied, "waiting brings none");
        assert!(has_no_credentials(&for_a_role) && !has_stale_credentials(&for_a_role));
        assert_eq!(fault(CredentialsError::invalid_configuration("no such profile")), Fault::Denied);
        let refused = |code| {
            let metadata = aws_smithy_types::error::ErrorMetadata::builder().code(code).build();
            CredentialsError::provider_error(AssumeRoleError::generic(metadata))
        };
        assert_eq!(fault(refused("AccessDenied")), Fault::Denied);
        assert_eq!(fault(refused("RegionDisabledException")), Fault::Denied);
        assert_eq!(fault(refused("Throttling")), Fault::Transient);
    }
}
