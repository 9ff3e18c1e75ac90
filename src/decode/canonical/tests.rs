use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn digest(item: &str) -> ItemDigest {
    item_digest(item.as_bytes()).unwrap()
}

/// A value by its meaning; numbers as (digits, power), without trailing zeros in the digits.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    S(String),
    N(i64, i8),
    B(Vec<u8>),
    Bool(bool),
    Null,
    Ss(Vec<String>),
    Ns(Vec<i64>),
    Bs(Vec<Vec<u8>>),
    L(Vec<Value>),
    M(BTreeMap<String, Value>),
}

fn number() -> impl Strategy<Value = Value> {
    (any::<i32>(), -20i8..20).prop_map(|(digits, power)| {
        let digits = i64::from(digits);
        if digits == 0 { Value::N(0, 0) } else { Value::N(if digits % 10 == 0 { digits + 1 } else { digits }, power) }
    })
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        ".{0,5}".prop_map(Value::S),
        number(),
        prop::collection::vec(any::<u8>(), 0..5).prop_map(Value::B),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null),
        prop::collection::btree_set("[a-c\\\\\"é]{0,3}", 1..4).prop_map(|set| Value::Ss(set.into_iter().collect())),
        prop::collection::btree_set(-20i64..20, 1..4).prop_map(|set| Value::Ns(set.into_iter().collect())),
        prop::collection::btree_set(prop::collection::vec(any::<u8>(), 0..3), 1..4)
            .prop_map(|set| Value::Bs(set.into_iter().collect())),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::L),
            prop::collection::btree_map("[a-c\"é]{0,2}", inner, 0..4).prop_map(Value::M),
        ]
    })
}

fn items() -> impl Strategy<Value = BTreeMap<String, Value>> {
    prop::collection::btree_map("[a-d\"\\\\é]{1,2}", values(), 0..5)
}

/// Spells values in ways that mean the same, by the draws of a seed.
struct Speller(fastrand::Rng);

impl Speller {
    fn text(&mut self, text: &str) -> String {
        if self.0.bool() {
            return serde_json::Value::from(text).to_string();
        }
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        format!("\"{escaped}\"")
    }

    fn number(&mut self, digits: i64, power: i8) -> String {
        let zeros = self.0.usize(0..4);
        format!("\"{digits}{}E{}\"", "0".repeat(zeros), i64::from(power) - i64::try_from(zeros).unwrap())
    }

    fn set(&mut self, tag: &str, mut elements: Vec<String>) -> String {
        self.0.shuffle(&mut elements);
        format!("{{\"{tag}\":[{}]}}", elements.join(", "))
    }

    fn value(&mut self, value: &Value) -> String {
        match value {
            Value::S(text) => format!("{{\"S\": {}}}", self.text(text)),
            Value::N(digits, power) => format!("{{\"N\":{}}}", self.number(*digits, *power)),
            Value::B(bytes) => format!("{{\"B\":\"{}\"}}", STANDARD.encode(bytes)),
            Value::Bool(flag) => format!("{{\"BOOL\":{flag}}}"),
            Value::Null => "{\"NULL\":true}".into(),
            Value::Ss(set) => {
                let elements = set.iter().map(|text| self.text(text)).collect();
                self.set("SS", elements)
            }
            Value::Ns(set) => {
                let elements = set.iter().map(|n| self.number(*n, 0)).collect();
                self.set("NS", elements)
            }
            Value::Bs(set) => {
                let elements = set.iter().map(|bytes| format!("\"{}\"", STANDARD.encode(bytes))).collect();
                self.set("BS", elements)
            }
            Value::L(list) => {
                let elements: Vec<_> = list.iter().map(|value| self.value(value)).collect();
                format!("{{\"L\":[{}]}}", elements.join(","))
            }
            Value::M(map) => format!("{{\"M\":{}}}", self.object(map)),
        }
    }

    fn object(&mut self, map: &BTreeMap<String, Value>) -> String {
        let mut fields: Vec<_> =
            map.iter().map(|(name, value)| format!("{}:{}", self.text(name), self.value(value))).collect();
        self.0.shuffle(&mut fields);
        format!("{{{}}}", fields.join(" , "))
    }
}

fn spell(item: &BTreeMap<String, Value>, seed: u64) -> String {
    Speller(fastrand::Rng::with_seed(seed)).object(item)
}

proptest! {
    #[test]
    fn every_spelling_of_an_item_has_one_digest(item in items(), one in any::<u64>(), two in any::<u64>()) {
        prop_assert_eq!(digest(&spell(&item, one)), digest(&spell(&item, two)));
    }

    #[test]
    fn items_are_equal_exactly_when_their_digests_are(a in items(), b in items(), one in any::<u64>(), two in any::<u64>()) {
        prop_assert_eq!(a == b, digest(&spell(&a, one)) == digest(&spell(&b, two)));
    }

    #[test]
    fn a_change_of_one_attribute_changes_the_digest(item in items(), name in "[a-d]{1,2}", new in values(), seed in any::<u64>()) {
        let mut changed = item.clone();
        let old = changed.insert(name.clone(), new.clone());
        prop_assert_eq!(old == Some(new), digest(&spell(&item, seed)) == digest(&spell(&changed, seed)));
        changed.remove(&name);
        prop_assert_eq!(!item.contains_key(&name), digest(&spell(&item, seed)) == digest(&spell(&changed, seed)));
    }

    #[test]
    fn odd_input_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[\\[\\]{}:,\"SNBML0-9truefalse\\\\ ]{0,40}") {
        drop(item_digest(&bytes));
        drop(item_digest(text.as_bytes()));
        drop(seconds_attribute(&bytes, "ttl"));
    }

    #[test]
    fn a_cut_item_is_refused(item in items(), seed in any::<u64>(), cut in any::<prop::sample::Index>()) {
        let text = spell(&item, seed);
        let cut = cut.index(text.len());
        prop_assert!(item_digest(text.as_bytes().get(..cut).unwrap()).is_err());
    }
}

#[test]
fn numbers_and_sets_count_by_value() {
    let one = digest(r#"{"pk":{"S":"é"},"n":{"N":"1"},"s":{"NS":["1","20"]},"t":{"SS":["a","b"]}}"#);
    assert_eq!(one, digest(r#"{"t":{"SS":["b","a"]},"s":{"NS":["2E1","1.0"]},"n":{"N":"1E0"},"pk":{"S":"\u00e9"}}"#));
    assert_ne!(one, digest(r#"{"pk":{"S":"é"},"n":{"N":"1"},"s":{"NS":["1","21"]},"t":{"SS":["a","b"]}}"#));
}

#[test]
fn types_of_the_same_text_are_different() {
    let texts = [
        r#"{"S":"1"}"#,
        r#"{"N":"1"}"#,
        r#"{"SS":["1"]}"#,
        r#"{"NS":["1"]}"#,
        r#"{"L":[]}"#,
        r#"{"M":{}}"#,
        r#"{"NULL":true}"#,
        r#"{"BOOL":true}"#,
        r#"{"BOOL":false}"#,
        r#"{"S":""}"#,
        r#"{"B":""}"#,
        r#"{"B":"MQ=="}"#,
        r#"{"BS":["MQ=="]}"#,
        r#"{"L":[{"S":"1"}]}"#,
        r#"{"L":[{"L":[]},{"L":[]}]}"#,
        r#"{"L":[{"L":[{"L":[]}]}]}"#,
    ];
    let digests: std::collections::BTreeSet<_> =
        texts.iter().map(|text| digest(&format!("{{\"a\":{text}}}"))).collect();
    assert_eq!(digests.len(), texts.len());
}

#[test]
fn order_counts_in_lists_alone() {
    assert_ne!(digest(r#"{"a":{"L":[{"S":"a"},{"S":"b"}]}}"#), digest(r#"{"a":{"L":[{"S":"b"},{"S":"a"}]}}"#));
}

#[test]
fn attributes_of_legacy_global_tables_do_not_count_at_the_top_and_do_below() {
    let plain = r#"{"pk":{"S":"a"}}"#;
    assert_eq!(digest(plain), digest(r#"{"aws:rep:updatetime":{"N":"1.5"},"pk":{"S":"a"},"aws\u003arep:x":{"S":""}}"#));
    assert_ne!(digest(r#"{"m":{"M":{}}}"#), digest(r#"{"m":{"M":{"aws:rep:x":{"S":""}}}}"#));
}

#[test]
fn nests_as_deep_as_dynamodb_does() {
    let nest = |levels: usize, core: &str| {
        format!("{{\"a\":{}{{\"S\":\"{core}\"}}{}}}", "{\"M\":{\"m\":".repeat(levels), "}}".repeat(levels))
    };
    assert_ne!(digest(&nest(32, "a")), digest(&nest(32, "b")));
    assert!(item_digest(nest(100, "a").as_bytes()).is_err());
}

#[test]
fn refuses_what_dynamodb_never_sends() {
    for odd in [
        r"[]",
        r#"{"a":1}"#,
        r#"{"a":{}}"#,
        r#"{"a":{"S":"x","N":"1"}}"#,
        r#"{"a":{"X":"x"}}"#,
        r#"{"a":{"S":"x"},"a":{"S":"x"}}"#,
        r#"{"a":{"S":"x"},"\u0061":{"S":"y"}}"#,
        r#"{"a":{"NS":["1","1.0"]}}"#,
        r#"{"a":{"SS":[]}}"#,
        r#"{"a":{"NULL":false}}"#,
        r#"{"a":{"BOOL":null}}"#,
        r#"{"a":{"BOOL":"true"}}"#,
        r#"{"a":{"N":"x"}}"#,
        r#"{"a":{"N":1}}"#,
        r#"{"a":{"B":"?"}}"#,
        r#"{"a":{"S":"\ud800"}}"#,
        r#"{} {}"#,
    ] {
        assert!(item_digest(odd.as_bytes()).is_err(), "{odd}");
    }
}

#[test]
fn time_to_live_is_read_in_whole_seconds() {
    let ttl =
        |n: &str| seconds_attribute(format!(r#"{{"x":{{"S":"a"}},"ttl":{{"N":"{n}"}}}}"#).as_bytes(), "ttl").unwrap();
    assert_eq!(ttl("1763640000"), Some(1_763_640_000));
    assert_eq!(ttl("1.76364E9"), Some(1_763_640_000));
    assert_eq!((ttl("12.7"), ttl("0"), ttl("1e-130"), ttl("1e99")), (Some(12), Some(0), Some(0), None));
    assert_eq!(seconds_attribute(br#"{"ttl":{"S":"1"}}"#, "ttl").unwrap(), None);
    assert_eq!(seconds_attribute(br"{}", "ttl").unwrap(), None);
}
