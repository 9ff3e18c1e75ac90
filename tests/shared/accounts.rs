//! What every test of the whole program over the sandbox begins with: a source and a target account with a role each, and
//! our own, which may assume both.

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use dynaferry::aws::AccessKey;
use dynaferry::config::{self, Config};
use dynaferry::context::Context;
use dynaferry::runtime::Program;
use dynaferry::sandbox::{Options, Sandbox, Trust};
use dynaferry::telemetry::Mode;

pub(crate) const SOURCE: &str = "111111111111";
pub(crate) const TARGET: &str = "222222222222";
pub(crate) const OURS: &str = "333333333333";
pub(crate) const REGION: &str = "eu-west-1";
/// What both roles ask for.
const EXTERNAL_ID: &str = "between-us";

/// A sandbox with the two roles.
pub(crate) fn sandbox(options: Options) -> Sandbox {
    let sandbox = Sandbox::new(options);
    for (account, role) in [(SOURCE, "dynaferry-source"), (TARGET, "dynaferry-target")] {
        sandbox.add_role(account, role, Trust::new(OURS, Some(EXTERNAL_ID)));
    }
    sandbox
}

/// A configuration of these sections that reaches both sides through their roles.
pub(crate) fn config(sections: &str) -> Config {
    let text = format!(
        r#"
version = 1
[defaults.source]
region = "{REGION}"
role_arn = "arn:aws:iam::{SOURCE}:role/dynaferry-source"
external_id = "{EXTERNAL_ID}"
[defaults.target]
region = "{REGION}"
role_arn = "arn:aws:iam::{TARGET}:role/dynaferry-target"
external_id = "{EXTERNAL_ID}"
{sections}
"#
    );
    config::parse("test.toml", &text, Vec::new()).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A process of ours.
pub(crate) fn program(config: Config, context: Context, mode: Mode, http: SharedHttpClient) -> Program {
    let key = AccessKey { id: OURS.to_owned(), secret: "secret".to_owned() };
    Program::new(config, context, mode).with_http(http).with_access_key(key)
}
