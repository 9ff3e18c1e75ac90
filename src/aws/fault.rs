//! SDK error → [`Failure`]: the fate of each failure is chosen here and nowhere else.

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::error::{Failure, Fault};

/// Error codes that ask us to slow down. Source: DynamoDB Developer Guide, error handling; aws-facts 4.7.
const THROTTLES: [&str; 7] = [
    "ProvisionedThroughputExceededException",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "LimitExceededException",
    "TooManyRequestsException",
    "SlowDown",
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

/// Codes of credentials that do not allow the call.
const DENIALS: [&str; 8] = [
    "AccessDeniedException",
    "AccessDenied",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "InvalidClientTokenId",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "IncompleteSignature",
];

/// Codes of an item or a request that will never be accepted as it is.
const REJECTIONS: [&str; 4] = [
    "ValidationException",
    "ItemCollectionSizeLimitExceededException",
    "ConditionalCheckFailedException",
    "SerializationException",
];

/// Turns an error of the SDK into a failure with a fate.
pub(super) fn failure<E>(operation: &'static str, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let blank = Failure {
        operation,
        fault: Fault::Transient,
        throttled: false,
        may_have_happened: true,
        code: None,
        message: String::new(),
        request_id: None,
    };
    match error {
        SdkError::ServiceError(context) => {
            let status = context.raw().status().as_u16();
            let code = context.err().code().map(str::to_owned);
            let fault = by_code(code.as_deref(), status);
            Failure {
                fault,
                throttled: code.as_deref().is_some_and(|code| THROTTLES.contains(&code)),
                // A 4xx is a definite refusal. A 500 is not: the write may have been done.
                may_have_happened: status >= 500,
                message: context.err().message().unwrap_or("no message").to_owned(),
                request_id: context.raw().headers().get("x-amzn-requestid").map(str::to_owned),
                code,
                ..blank
            }
        }
        SdkError::ConstructionFailure(_) => {
            let message = chain(error);
            let fault = if is_credentials(&message) { Fault::Denied } else { Fault::Broken };
            Failure { fault, may_have_happened: false, message, ..blank }
        }
        SdkError::DispatchFailure(dispatch) => {
            let message = chain(error);
            let is_refused = dispatch.is_user() || message.contains("connect error") || message.contains("dns error");
            let fault = if is_credentials(&message) { Fault::Denied } else { Fault::Transient };
            Failure { fault, may_have_happened: !is_refused && fault != Fault::Denied, message, ..blank }
        }
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => Failure { message: chain(error), ..blank },
        // The enum may grow: unknown is transient, and the retry policy has a ceiling and an alarm.
        _ => Failure { message: chain(error), ..blank },
    }
}

/// A failure to understand an answer: ours or the service's bug. The call itself was carried out.
pub(super) fn not_understood(operation: &'static str, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure {
        operation,
        fault: Fault::Broken,
        throttled: false,
        may_have_happened: true,
        code: None,
        message: error.to_string(),
        request_id: None,
    }
}

fn by_code(code: Option<&str>, status: u16) -> Fault {
    match code {
        Some(code) if THROTTLES.contains(&code) || PASSING.contains(&code) => Fault::Transient,
        Some("ExpiredIteratorException") => Fault::Expired,
        Some("TrimmedDataAccessException" | "ResourceNotFoundException" | "TableNotFoundException") => Fault::Lost,
        Some(code) if STALE_CREDENTIALS.contains(&code) || DENIALS.contains(&code) => Fault::Denied,
        Some(code) if REJECTIONS.contains(&code) => Fault::Rejected,
        _ if status >= 500 => Fault::Transient,
        _ if status == 413 => Fault::Rejected,
        _ if status == 403 => Fault::Denied,
        _ => Fault::Transient,
    }
}

/// Whether new credentials may help: the ones used were good once.
pub(super) fn has_stale_credentials(failure: &Failure) -> bool {
    failure.code.as_deref().is_some_and(|code| STALE_CREDENTIALS.contains(&code))
}

fn is_credentials(message: &str) -> bool {
    message.contains("credential") || message.contains("identity")
}

/// The whole chain of causes in one line. The SDK's own texts name no item.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
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
}
