//! Two accounts in an embedded sandbox, and a program between them.

use std::sync::Arc;

use dynaferry::aws::AccessKey;
use dynaferry::config::{self, Config};
use dynaferry::context::Context;
use dynaferry::runtime::Program;
use dynaferry::sandbox::{Options, Sandbox, Trust};
use dynaferry::telemetry::Mode;
use tempfile::TempDir;

pub(crate) const SOURCE: &str = "111111111111";
pub(crate) const TARGET: &str = "222222222222";
pub(crate) const OURS: &str = "333333333333";
pub(crate) const REGION: &str = "eu-west-1";

/// A sandbox, a state directory, and a source table `orders` with hash `pk` (S) and range `sk` (N).
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new(options: Options) -> Self {
        let sandbox = Sandbox::new(options);
        sandbox.add_role(SOURCE, "dynaferry-source", Trust::new(OURS, Some("between-us")));
        sandbox.add_role(TARGET, "dynaferry-target", Trust::new(OURS, Some("between-us")));
        let world = Self { sandbox, dir: TempDir::new().expect("a directory") };
        world.call(
            SOURCE,
            "CreateTable",
            r#"{"TableName":"orders","BillingMode":"PAY_PER_REQUEST",
                "AttributeDefinitions":[{"AttributeName":"pk","AttributeType":"S"},{"AttributeName":"sk","AttributeType":"N"}],
                "KeySchema":[{"AttributeName":"pk","KeyType":"HASH"},{"AttributeName":"sk","KeyType":"RANGE"}],
                "StreamSpecification":{"StreamEnabled":true,"StreamViewType":"NEW_AND_OLD_IMAGES"}}"#,
        );
        world
    }

    pub(crate) fn call(&self, account: &str, operation: &str, json: &str) -> bytes::Bytes {
        self.sandbox.call(account, REGION, operation, json).expect(operation)
    }

    pub(crate) fn put(&self, pk: usize, sk: usize, text: &str) {
        let item = serde_json::json!({"pk": {"S": format!("p{pk}")}, "sk": {"N": sk.to_string()}, "v": {"S": text}});
        self.sandbox.put_item(SOURCE, REGION, "orders", &item.to_string()).expect("put");
    }

    pub(crate) fn delete(&self, pk: usize, sk: usize) {
        let key = serde_json::json!({"TableName": "orders", "Key": {"pk": {"S": format!("p{pk}")}, "sk": {"N": sk.to_string()}}});
        self.call(SOURCE, "DeleteItem", &key.to_string());
    }

    pub(crate) fn config(&self, more: &str) -> Config {
        let text = format!(
            r#"
version = 1
[checkpoint]
store = "file:{}"
[defaults.source]
region = "{REGION}"
role_arn = "arn:aws:iam::{SOURCE}:role/dynaferry-source"
external_id = "between-us"
[defaults.target]
region = "{REGION}"
role_arn = "arn:aws:iam::{TARGET}:role/dynaferry-target"
external_id = "between-us"
[link.orders]
source.table = "orders"
target.table = "orders-copy"
target.create = true
apply.in_doubt_for = "2s"
{more}
"#,
            self.dir.path().join("state.redb").display()
        );
        config::parse("test.toml", &text, Vec::new()).expect("a valid config")
    }

    pub(crate) fn program(&self, config: Config, mode: Mode) -> Arc<Program> {
        let key = AccessKey { id: OURS.to_owned(), secret: "secret".to_owned() };
        let program = Program::new(config, Context::system(), mode);
        Arc::new(program.with_http(self.sandbox.http_client()).with_access_key(key))
    }

    /// Source and target hold the same items, bit for bit.
    pub(crate) fn assert_equal(&self) {
        let source = self.sandbox.snapshot(SOURCE, REGION, "orders").expect("source");
        let target = self.sandbox.snapshot(TARGET, REGION, "orders-copy").expect("target");
        let differing = source.iter().filter(|(key, item)| target.get(*key) != Some(item)).count();
        assert_eq!((source.len(), differing), (target.len(), 0), "items at the source, and how many of them differ");
    }
}
