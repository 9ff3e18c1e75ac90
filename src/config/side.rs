//! One side of a link: which account, Region and endpoint, and under which name.
//!
//! Says how credentials are found, and holds none: they come from the ambient AWS settings (environment, profile, IRSA,
//! ECS, instance), optionally through a role. An external id is shown nowhere.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::section::{Complaint, Section};
use crate::error::{Error, Exit};
use crate::model::{TableArn, is_table_name};

/// Name of the role session, as the audit log of the account shows it.
pub const DEFAULT_SESSION_NAME: &str = "dynaferry";

/// Words that are never settings: secrets stay out of files.
const CREDENTIALS: &[&str] = &[
    "access_key",
    "access_key_id",
    "secret_key",
    "secret_access_key",
    "session_token",
    "credentials",
    "password",
    "token",
];
const NO_CREDENTIALS: &str = "secrets stay out of the settings: use `profile`, `role_arn` or the AWS_* environment";

/// How a side is reached. Unset means: as the ambient AWS settings say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct SideConfig {
    /// The Region.
    pub region: Option<String>,
    /// A profile of the shared AWS files; the base for `role_arn`, where both are given.
    pub profile: Option<String>,
    /// A role to assume.
    pub role_arn: Option<String>,
    /// What the role's trust policy asks for.
    pub external_id: Option<ExternalId>,
    /// Name of the role session. Default [`DEFAULT_SESSION_NAME`]; 2 to 64 of `A-Za-z0-9_+=,.@-`.
    pub session_name: Option<String>,
    /// Endpoint of DynamoDB, for local servers and private links.
    pub endpoint_url: Option<String>,
    /// Endpoint of DynamoDB Streams. Default: `endpoint_url`, where that is set.
    pub streams_endpoint_url: Option<String>,
    /// Endpoint of STS.
    pub sts_endpoint_url: Option<String>,
    /// Endpoint of S3.
    pub s3_endpoint_url: Option<String>,
}

/// The external id of a role, or the file that holds it. Never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum ExternalId {
    /// The id.
    Value(String),
    /// A file with the id; space around it is left out.
    File(PathBuf),
}

impl fmt::Debug for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("Value(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Serialize for ExternalId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(_) => serializer.serialize_str("…"),
            Self::File(path) => serializer.collect_str(&format_args!("file:{}", path.display())),
        }
    }
}

impl SideConfig {
    /// The external id to send, read from its file where it is in one. Read it again for each new session: such files
    /// are rotated.
    ///
    /// # Errors
    /// Exit 8 when the file cannot be read or holds no external id; its content is never part of the text.
    pub fn read_external_id(&self) -> crate::error::Result<Option<String>> {
        let path = match &self.external_id {
            None => return Ok(None),
            Some(ExternalId::Value(id)) => return Ok(Some(id.clone())),
            Some(ExternalId::File(path)) => path,
        };
        let content = std::fs::read_to_string(path).map_err(|error| {
            Error::new(Exit::Config, format!("read external id from {}", path.display())).because(error)
        })?;
        match check_external_id(content.trim()) {
            Ok(id) => Ok(Some(id)),
            Err(_) => {
                Err(Error::new(Exit::Config, format!("{} holds no external id", path.display())).hint(EXTERNAL_ID))
            }
        }
    }

    /// The name of the role session.
    #[must_use]
    pub fn session_name(&self) -> &str {
        self.session_name.as_deref().unwrap_or(DEFAULT_SESSION_NAME)
    }

    /// The account of the role, where one is assumed.
    pub(super) fn role_account(&self) -> Option<&str> {
        self.role_arn.as_deref()?.split(':').nth(4)
    }

    pub(super) fn read(section: &mut Section<'_>) -> Self {
        section.never(CREDENTIALS, NO_CREDENTIALS);
        let id_node = section.node("external_id");
        let by_value = section.text("external_id", check_external_id).map(ExternalId::Value);
        let by_file = section.text("external_id_file", |path| Ok(ExternalId::File(path.into())));
        if let (Some(_), Some(_), Some(node)) = (&by_value, &by_file, id_node) {
            section.complain(
                "external_id",
                node,
                Complaint::new("and `external_id_file` exclude each other", "keep one"),
            );
        }
        let read = Self {
            region: section.text("region", region),
            profile: section.text("profile", |text| Ok(text.to_owned())),
            role_arn: section.text("role_arn", role),
            external_id: by_value.or(by_file),
            session_name: section.text("session_name", session_name),
            endpoint_url: section.text("endpoint_url", endpoint),
            streams_endpoint_url: section.text("streams_endpoint_url", endpoint),
            sts_endpoint_url: section.text("sts_endpoint_url", endpoint),
            s3_endpoint_url: section.text("s3_endpoint_url", endpoint),
        };
        if section.node("role_arn").is_none() {
            for key in ["external_id", "external_id_file", "session_name"] {
                let Some(node) = section.node(key) else { continue };
                section.complain(
                    key,
                    node,
                    Complaint::new("has no effect without `role_arn`", "add `role_arn`, or remove it"),
                );
            }
        }
        read
    }
}

/// A table, by name in the side's own account and Region, or by ARN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TableRef {
    /// A name.
    Name(String),
    /// An ARN; may belong to another account than the side's credentials.
    Arn(TableArn),
}

impl TableRef {
    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Arn(arn) => &arn.name,
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, Complaint> {
        if text.starts_with("arn:") {
            return text.parse().map(Self::Arn).map_err(|_| {
                Complaint::new("is not a table ARN", "as in \"arn:aws:dynamodb:eu-west-1:111122223333:table/orders\"")
            });
        }
        if is_table_name(text) {
            return Ok(Self::Name(text.to_owned()));
        }
        let hint = if text.contains(['*', '?']) {
            "patterns go into `source.tables`"
        } else {
            "3 to 255 letters, digits, `_`, `.` or `-`, or an ARN"
        };
        Err(Complaint::new("is not a table name", hint))
    }
}

impl fmt::Display for TableRef {
    /// What `TableName` of a request takes: the name or the ARN.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Arn(arn) => arn.fmt(f),
        }
    }
}

impl Serialize for TableRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

const EXTERNAL_ID: &str = "2 to 1224 letters, digits or `_+=,.@:/-`";

fn check_external_id(text: &str) -> Result<String, Complaint> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b);
    if (2..=1224).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("is not an external id", EXTERNAL_ID))
}

fn region(text: &str) -> Result<String, Complaint> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.len() < 2 || !text.bytes().all(legal) {
        return Err(Complaint::new("is not a Region", "as in \"eu-west-1\""));
    }
    let zone =
        text.strip_suffix(|c: char| c.is_ascii_lowercase()).filter(|rest| rest.ends_with(|c: char| c.is_ascii_digit()));
    match zone {
        Some(region) if region.contains('-') => {
            Err(Complaint::new("is an availability zone, not a Region", format!("did you mean \"{region}\"?")))
        }
        _ => Ok(text.to_owned()),
    }
}

fn role(text: &str) -> Result<String, Complaint> {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", partition, "iam", "", account, role]
            if partition.starts_with("aws")
                && account.len() == 12
                && account.bytes().all(|b| b.is_ascii_digit())
                && role.strip_prefix("role/").is_some_and(|name| !name.is_empty()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(Complaint::new("is not a role ARN", "as in \"arn:aws:iam::111122223333:role/dynaferry-source\"")),
    }
}

fn session_name(text: &str) -> Result<String, Complaint> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    if (2..=64).contains(&text.len()) && text.bytes().all(legal) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new("is not a session name", "2 to 64 letters, digits or `_+=,.@-`"))
}

fn endpoint(text: &str) -> Result<String, Complaint> {
    const HINT: &str = "as in \"http://127.0.0.1:8000\"";
    let uri: http::Uri = text.parse().map_err(|_| Complaint::new("is not a URL", HINT))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(Complaint::new("must begin with http:// or https://", HINT));
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            Err(Complaint::new("holds a user name or a password", NO_CREDENTIALS))
        }
        Some(authority) if !authority.host().is_empty() && uri.query().is_none() => Ok(text.to_owned()),
        _ => Err(Complaint::new("must be a scheme, a host and maybe a port", HINT)),
    }
}
