//! Who calls: SigV4 credential scopes, access keys, roles, and STS.
//!
//! Signatures are not checked. What is: that there is one, that a temporary key was issued here with this token and has not
//! expired, and that a role trusts the account that assumes it, with the external id it asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::moment::Moment;
use super::reply::{ApiError, xml_escape};
use crate::model::WallTime;

/// Longest session of a role that was assumed by a role (AWS facts 5.1).
const MAX_CHAINED_SECS: u64 = 3600;

/// Who signed a request, and for which Region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) account: String,
    pub(super) region: String,
    pub(super) arn: String,
    from_session: bool,
}

impl Caller {
    /// The account itself.
    pub(super) fn root(account: &str, region: &str) -> Self {
        let arn = format!("arn:aws:iam::{account}:root");
        Self { account: account.to_owned(), region: region.to_owned(), arn, from_session: false }
    }
}

/// Whom a role lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trust {
    /// The account whose identities may assume the role.
    pub account: String,
    /// The external id that they must send, if any.
    pub external_id: Option<String>,
}

impl Trust {
    /// Trust in an account, with or without an external id.
    #[must_use]
    pub fn new(account: &str, external_id: Option<&str>) -> Self {
        Self { account: account.to_owned(), external_id: external_id.map(str::to_owned) }
    }
}

#[derive(Debug)]
struct Session {
    account: String,
    arn: String,
    token: String,
    expires: WallTime,
}

/// Access keys, roles and sessions of all accounts.
#[derive(Debug, Default)]
pub(super) struct Identities {
    keys: BTreeMap<String, String>,
    roles: BTreeMap<String, Trust>,
    sessions: BTreeMap<String, Session>,
}

impl Identities {
    pub(super) fn add_key(&mut self, key: &str, account: &str) {
        self.keys.insert(key.to_owned(), account.to_owned());
    }

    pub(super) fn add_role(&mut self, arn: String, trust: Trust) {
        self.roles.insert(arn, trust);
    }

    /// Makes every session expire now.
    pub(super) fn expire_sessions(&mut self, now: WallTime) {
        for session in self.sessions.values_mut() {
            session.expires = session.expires.min(now);
        }
    }

    /// Who signed this request.
    pub(super) fn caller(&self, headers: &HeaderMap, moment: &Moment) -> Result<Caller, ApiError> {
        let now = moment.now;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let authorization = header("authorization").ok_or_else(|| {
            ApiError::new("MissingAuthenticationTokenException", "Request is missing Authentication Token")
        })?;
        if moment.options.check_request_time {
            check_request_time(header("x-amz-date").unwrap_or_default(), now)?;
        }
        let scope = authorization
            .strip_prefix("AWS4-HMAC-SHA256")
            .and_then(|rest| rest.split("Credential=").nth(1))
            .and_then(|rest| rest.split(',').next())
            .unwrap_or_default();
        let mut parts = scope.trim().split('/');
        let (Some(key), Some(_date), Some(region)) =
            (parts.next().filter(|key| !key.is_empty()), parts.next(), parts.next())
        else {
            return Err(ApiError::new(
                "IncompleteSignatureException",
                "Authorization header requires 'Credential' parameter.",
            ));
        };
        let invalid =
            || ApiError::new("UnrecognizedClientException", "The security token included in the request is invalid.");
        let region = region.to_owned();
        if let Some(session) = self.sessions.get(key) {
            if header("x-amz-security-token") != Some(session.token.as_str()) {
                return Err(invalid());
            }
            if session.expires <= now {
                return Err(ApiError::expired_token());
            }
            let (account, arn) = (session.account.clone(), session.arn.clone());
            return Ok(Caller { account, region, arn, from_session: true });
        }
        let account = match self.keys.get(key) {
            Some(account) => account.clone(),
            None if moment.options.require_known_keys || key.starts_with("ASIA") => return Err(invalid()),
            None if is_account(key) => key.to_owned(),
            None => moment.options.default_account.clone(),
        };
        Ok(Caller::root(&account, &region))
    }

    /// STS: AssumeRole and GetCallerIdentity.
    pub(super) fn sts(
        &mut self,
        operation: &str,
        form: &BTreeMap<String, String>,
        caller: &Caller,
        moment: &mut Moment,
    ) -> Result<Bytes, ApiError> {
        let result = match operation {
            "GetCallerIdentity" => format!(
                "<Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>",
                xml_escape(&caller.arn),
                caller.account,
                caller.account
            ),
            "AssumeRole" => self.assume_role(form, caller, moment)?,
            other => return Err(ApiError::new("InvalidAction", format!("Could not find operation {other}"))),
        };
        let request_id = format!("{:032x}", moment.rng.u128(..));
        Ok(format!(
            "<{operation}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{operation}Result>{result}\
             </{operation}Result><ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>\
             </{operation}Response>"
        )
        .into())
    }

    fn assume_role(
        &mut self,
        form: &BTreeMap<String, String>,
        caller: &Caller,
        moment: &mut Moment,
    ) -> Result<String, ApiError> {
        let member = |name: &str| form.get(name).map(String::as_str);
        let missing = |name: &str| ApiError::validation(format!("Value null at '{name}' failed to satisfy constraint"));
        let role = member("RoleArn").ok_or_else(|| missing("roleArn"))?;
        let name = member("RoleSessionName").ok_or_else(|| missing("roleSessionName"))?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        if !(2..=64).contains(&name.len()) || !name.chars().all(is_name) {
            return Err(ApiError::validation("Value at 'roleSessionName' failed to satisfy constraint"));
        }
        let denied = || {
            let message =
                format!("User: {} is not authorized to perform: sts:AssumeRole on resource: {role}", caller.arn);
            ApiError::new("AccessDeniedException", message)
        };
        let trust = self.roles.get(role).ok_or_else(denied)?;
        let has_id = trust.external_id.is_none() || trust.external_id.as_deref() == member("ExternalId");
        if trust.account != caller.account || !has_id {
            return Err(denied());
        }
        let shortest = if moment.options.allow_short_sessions { 1 } else { 900 };
        let secs: u64 = member("DurationSeconds").unwrap_or("3600").parse().map_err(|_| missing("durationSeconds"))?;
        if !(shortest..=43_200).contains(&secs) {
            return Err(ApiError::validation(format!(
                "Value '{secs}' at 'durationSeconds' failed to satisfy constraint"
            )));
        }
        if caller.from_session && secs > MAX_CHAINED_SECS {
            return Err(ApiError::validation(
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
            ));
        }
        let account = role.split(':').nth(4).unwrap_or_default().to_owned();
        let role_name = role.rsplit('/').next().unwrap_or_default();
        let arn = format!("arn:aws:sts::{account}:assumed-role/{role_name}/{name}");
        let letters = |rng: &mut fastrand::Rng, count: usize| -> String {
            std::iter::repeat_with(|| rng.alphanumeric()).take(count).collect()
        };
        let key = format!("ASIA{}", letters(&mut moment.rng, 16).to_ascii_uppercase());
        let (secret, token) = (letters(&mut moment.rng, 40), letters(&mut moment.rng, 120));
        // Whole seconds, as the service answers.
        let expires = WallTime::from_secs(moment.now.millis().div_euclid(1000)).plus(Duration::from_secs(secs));
        let answer = format!(
            "<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{expires}</Expiration></Credentials>\
             <AssumedRoleUser><AssumedRoleId>AROASANDBOX:{name}</AssumedRoleId><Arn>{arn}</Arn></AssumedRoleUser>",
        );
        self.sessions.retain(|_, session| session.expires.plus(Duration::from_secs(86_400)) > moment.now);
        self.sessions.insert(key, Session { account, arn, token, expires });
        Ok(answer)
    }
}

/// How far a request's time may be off.
const MAX_SKEW: Duration = Duration::from_secs(300);

/// Refuses a request whose time, as `20240131T235959Z`, is too far from now.
fn check_request_time(text: &str, now: WallTime) -> Result<(), ApiError> {
    let form = |time: WallTime| {
        jiff::Timestamp::from_millisecond(time.millis())
            .map_or_else(|_| String::new(), |time| time.strftime("%Y%m%dT%H%M%SZ").to_string())
    };
    let signed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text)
        .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
        .map(|time| WallTime::from_secs(time.timestamp().as_second()))
        .map_err(|_| ApiError::new("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'"))?;
    let (earliest, latest) = (now.minus(MAX_SKEW), now.plus(MAX_SKEW));
    let message = if signed <= earliest {
        format!("Signature expired: {text} is now earlier than {} ({} - 5 min.)", form(earliest), form(now))
    } else if signed >= latest {
        format!("Signature not yet current: {text} is still later than {} ({} + 5 min.)", form(latest), form(now))
    } else {
        return Ok(());
    };
    Err(ApiError::new(SKEWED, message))
}

/// The error of a request whose time is off.
pub(super) const SKEWED: &str = "InvalidSignatureException";

/// Whether this is an account id: 12 digits.
fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The members of a form body.
pub(super) fn read_form(body: &[u8]) -> BTreeMap<String, String> {
    body.split(|byte| *byte == b'&')
        .filter_map(|pair| {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            Some((percent_decode(halves.next()?), percent_decode(halves.next().unwrap_or_default())))
        })
        .collect()
}

fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => break,
            [b'%', high, low, rest @ ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                out.push(digit(high).unwrap_or(0) * 16 + digit(low).unwrap_or(0));
                rest
            }
            [b'+', rest @ ..] => {
                out.push(b' ');
                rest
            }
            [byte, rest @ ..] => {
                out.push(*byte);
                rest
            }
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}
