//! Files and variables against what a user was promised. `DYNAFERRY_BLESS=1 cargo test config` rewrites the
//! expected complaints in `tests/config/broken/*.err`; read the difference before you commit it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::error::{Error, Exit};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap()
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn good(text: &str) -> Config {
    with(text, &[])
}

fn with(text: &str, pairs: &[(&str, &str)]) -> Config {
    parse("test.toml", text, variables(pairs)).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bad(text: &str, pairs: &[(&str, &str)]) -> String {
    parse("test.toml", text, variables(pairs)).unwrap_err().to_string()
}

const ORDERS: &str = "version = 1\n[link.orders]\nsource.table = \"orders\"\ntarget.table = \"orders-copy\"\n";

mod broken {
    use super::*;

    fn parse_broken(path: &Path) -> Problems {
        let text = fs::read_to_string(path).unwrap();
        let said = text.lines().filter_map(|line| line.strip_prefix("#env ")?.split_once('='));
        let said = variables(&said.collect::<Vec<_>>());
        let name = path.file_name().unwrap().to_str().unwrap();
        parse(name, &text, said).map(|_| panic!("{name} is accepted")).unwrap_err()
    }

    fn complaint(path: &Path) -> String {
        format!("{}\n", parse_broken(path))
    }

    fn files(extension: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(root("tests/config/broken")).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
        paths.sort();
        paths
    }

    #[test]
    fn each_broken_file_is_explained_as_expected() {
        let bless = std::env::var_os("DYNAFERRY_BLESS").is_some();
        let mut wrong = Vec::new();
        for path in files("toml") {
            let (shown, expected) = (complaint(&path), path.with_extension("err"));
            if bless {
                fs::write(&expected, &shown).unwrap();
            } else if fs::read_to_string(&expected).unwrap_or_default() != shown {
                wrong.push(format!("{} says:\n{shown}", path.display()));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn each_complaint_names_its_place_and_points_at_it() {
        let files = files("toml");
        assert!(files.len() >= 40);
        for path in files {
            let name = path.file_name().unwrap().to_str().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            for problem in parse_broken(&path).iter() {
                let shown = problem.to_string();
                let is_placed = match problem.at {
                    Some((line, column)) => {
                        let written = text.lines().nth(line - 1).unwrap_or_default();
                        shown.starts_with(&format!("error: {name}:{line}:{column}: "))
                            && shown.contains('^')
                            && column <= written.chars().count() + 1
                    }
                    // What is missing everywhere has no line.
                    None => problem.origin.starts_with("DYNAFERRY__") || problem.what == "there is no link",
                };
                assert!(is_placed, "{shown}");
            }
        }
    }

    #[test]
    fn each_expectation_has_its_file() {
        for path in files("err") {
            assert!(path.with_extension("toml").exists(), "{}", path.display());
        }
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let secrets =
            ["AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI", "hunter2", "alice:", "between-us-two", "between us two", "12345"];
        for path in files("toml") {
            let text = complaint(&path);
            for secret in secrets {
                assert!(!text.contains(secret), "{}", path.display());
            }
        }
    }
}

mod shipped {
    use super::*;

    /// Keys that have no default: they stand as `#key = example` in the file.
    const WITHOUT_DEFAULT: &[&str] = &[
        "external_id",
        "external_id_file",
        "profile",
        "endpoint_url",
        "streams_endpoint_url",
        "sts_endpoint_url",
        "s3_endpoint_url",
        "target.exclusive",
        "max_wcu",
        "load.bucket_owner",
        "load.kms_key",
    ];

    /// Uncomments the line with this number.
    fn uncomment(text: &str, number: usize) -> String {
        let line = |(index, line): (usize, &str)| {
            if index == number { line.trim_start_matches('#').to_owned() } else { line.to_owned() }
        };
        text.lines().enumerate().map(line).collect::<Vec<_>>().join("\n")
    }

    fn commented_key(line: &str) -> Option<&str> {
        let (key, _) = line.strip_prefix('#')?.split_once(" = ")?;
        key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.').then_some(key)
    }

    #[test]
    fn the_documented_file_shows_the_defaults_of_the_code() {
        let config = good(&read("config/dynaferry.toml"));
        let link = &config.links[0];
        assert_eq!(link.name, "orders");
        assert_eq!(link.load, LoadConfig::default());
        assert_eq!(link.apply, ApplyConfig::default());
        assert_eq!(link.stream, StreamConfig::default());
        assert_eq!(link.verify, VerifyConfig::default());
        assert_eq!(config.checkpoint, CheckpointConfig::default());
        assert_eq!(config.service, ServiceConfig::default());
        assert_eq!(config.telemetry, TelemetryConfig::default());
        let bare =
            &good("version = 1\n[link.orders]\nsource.table = \"orders\"\ntarget.region = \"eu-west-1\"").links[0];
        assert_eq!(link.source.session_name(), bare.source.session_name());
        assert_eq!(link.target_table, bare.target_table);
        assert_eq!(link.target_create, bare.target_create);
        assert_eq!(link.target_exclusive, bare.target_exclusive);
        assert_eq!(link.target_allow_non_empty, bare.target_allow_non_empty);
    }

    #[test]
    fn each_example_of_the_documented_file_is_accepted() {
        let text = read("config/dynaferry.toml");
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let Some(key) = commented_key(line) else { continue };
            good(&uncomment(&text, number));
            keys.push(key);
        }
        for key in &keys {
            assert!(WITHOUT_DEFAULT.contains(key), "{key} has a default, or is new");
        }
        for key in WITHOUT_DEFAULT {
            assert!(keys.contains(key), "{key} is not shown");
        }
    }

    #[test]
    fn the_documented_file_shows_each_key() {
        let text = read("config/dynaferry.toml");
        for section in ["source", "target", "load", "apply", "stream", "verify", "checkpoint", "service", "telemetry"] {
            let is_global = matches!(section, "checkpoint" | "service" | "telemetry");
            let path = if is_global { section.to_owned() } else { format!("link.orders.{section}") };
            let start = if is_global { format!("[{section}]\n") } else { format!("{section}.") };
            let probe = bad(&format!("{ORDERS}{start}zz9 = 1\n"), &[]);
            let (_, known) = probe.split_once("known here: ").unwrap();
            for key in known.lines().next().unwrap().split(", ") {
                let shown = text.lines().any(|line| {
                    let line = line.trim_start_matches('#');
                    [key.to_owned(), format!("{section}.{key}")]
                        .iter()
                        .any(|key| line.starts_with(&format!("{key} = ")))
                });
                assert!(shown, "{path}.{key}");
            }
        }
    }

    #[test]
    fn the_examples_for_sidecars_and_single_runs_are_accepted() {
        let sidecar = good(&read("config/sidecar.toml"));
        assert_eq!(sidecar.links.len(), 2);
        assert!(
            sidecar.links.iter().all(|link| link.target_create && link.apply.on_rejected == OnRejected::DeadLetter)
        );
        let deployment = good(&read("config/deployment.toml"));
        assert_eq!(deployment.checkpoint.store, Store::DynamoDb("dynaferry-state".into()));
        let oneshot = good(&read("config/oneshot.toml"));
        assert_eq!(oneshot.patterns.len(), 1);
    }
}

mod overlaid {
    use super::*;

    #[test]
    fn a_variable_wins_over_the_file_and_its_defaults() {
        let text = format!("{ORDERS}apply.max_wcu = 5\n[defaults.apply]\nmax_in_flight = 3\n");
        let config = with(
            &text,
            &[
                ("DYNAFERRY__LINK__ORDERS__APPLY__MAX_WCU", "500"),
                ("DYNAFERRY__LINK__ORDERS__APPLY__MAX_IN_FLIGHT", "7"),
                ("DYNAFERRY__LINK__ORDERS__LOAD__READ_CAPACITY", "75%"),
                ("DYNAFERRY__SERVICE__DRAIN", "5s"),
                ("DYNAFERRY__LINK__ORDERS__TARGET__CREATE", "true"),
            ],
        );
        let link = &config.links[0];
        assert_eq!((link.apply.max_wcu, link.apply.max_in_flight), (Some(500), 7));
        assert_eq!(link.load.read_capacity, Capacity::Percent(75));
        assert!(link.target_create);
        assert_eq!(config.service.drain, Duration::from_secs(5));
    }

    #[test]
    fn one_underscore_too_few_is_refused_and_what_kubernetes_sets_is_not() {
        for (name, meant) in [
            ("DYNAFERRY_CHECKPOINT_STORE", "DYNAFERRY__CHECKPOINT__STORE"),
            ("DYNAFERRY__CHECKPOINT_STORE", "DYNAFERRY__CHECKPOINT__STORE"),
            ("DYNAFERRY_SERVICE__DRAIN", "DYNAFERRY__SERVICE__DRAIN"),
            ("DYNAFERRY_TELEMETRY_LOG_LEVEL", "DYNAFERRY__TELEMETRY__LOG_LEVEL"),
        ] {
            let text = parse("f", ORDERS, variables(&[(name, "x")])).unwrap_err().to_string();
            assert!(text.contains(&format!("{name}: is no setting")), "{text}");
            assert!(text.contains(&format!("did you mean {meant}?")), "{text}");
        }
        let injected = ["DYNAFERRY_SERVICE_HOST", "DYNAFERRY_SERVICE_PORT", "DYNAFERRY_PORT_9464_TCP", "DYNAFERRY_LOG"];
        with(ORDERS, &injected.map(|name| (name, "x")));
    }

    #[test]
    fn a_link_is_found_with_underscores_for_hyphens() {
        let text = ORDERS.replace("[link.orders]", "[link.shop-orders__eu]");
        let config = with(&text, &[("DYNAFERRY__LINK__SHOP_ORDERS__EU__APPLY__MAX_WCU", "9")]);
        assert_eq!(config.links.len(), 1);
        assert_eq!(config.links[0].apply.max_wcu, Some(9));
    }

    #[test]
    fn a_container_needs_no_file() {
        let config = parse(
            "",
            "",
            variables(&[
                ("DYNAFERRY__LINK__ORDERS__SOURCE__TABLE", "orders"),
                ("DYNAFERRY__LINK__ORDERS__TARGET__TABLE", "orders-copy"),
                ("DYNAFERRY__LINK__PROD__SOURCE__TABLES", "[\"PROD_*\", \"x_*\"]"),
                ("DYNAFERRY__LINK__PROD__TARGET__TABLE", "copy-{table}"),
                ("PATH", "/bin"),
            ]),
        )
        .unwrap();
        assert_eq!((config.links.len(), config.patterns.len()), (1, 1));
    }

    #[test]
    fn a_text_that_looks_like_a_number_stays_a_text() {
        let text = format!("{ORDERS}source.role_arn = \"arn:aws:iam::111122223333:role/r\"\n");
        let config = with(&text, &[("DYNAFERRY__LINK__ORDERS__SOURCE__EXTERNAL_ID", "0012_3")]);
        assert_eq!(config.links[0].source.read_external_id().unwrap().unwrap(), "0012_3");
        let config = with(&text, &[("DYNAFERRY__LINK__ORDERS__SOURCE__EXTERNAL_ID", "1234")]);
        assert_eq!(config.links[0].source.read_external_id().unwrap().unwrap(), "1234");
    }

    #[test]
    fn the_nearer_of_two_alternatives_wins() {
        let text = "version = 1\n[defaults.source]\nrole_arn = \"arn:aws:iam::111122223333:role/r\"\n\
            external_id_file = \"/run/id\"\n[link.a]\nsource = { table = \"orders\", external_id = \"id-of-a\" }\n\
            target.table = \"copy\"\n";
        let config = good(text);
        assert_eq!(config.links[0].source.external_id, Some(ExternalId::Value("id-of-a".into())));
        let config = with(text, &[("DYNAFERRY__LINK__A__SOURCE__EXTERNAL_ID_FILE", "/run/other")]);
        assert_eq!(config.links[0].source.external_id, Some(ExternalId::File("/run/other".into())));
    }
}

mod links {
    use super::*;

    fn prod(rest: &str) -> PatternLink {
        let text = format!("version = 1\n[link.prod]\nsource.tables = [\"PROD_*\", \"users\"]\n{rest}\n");
        good(&text).patterns.remove(0)
    }

    fn tables(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_pattern_becomes_one_link_per_table_and_keeps_written_names() {
        let link = prod("source.exclude = [\"*_tmp\"]\ntarget.table = \"copy-of-{table}\"\napply.max_wcu = 7");
        assert!(link.needs_listing());
        let expanded = link.expand(&tables(&["PROD_b", "PROD_a", "PROD_tmp", "TEST_a"])).unwrap();
        let seen: Vec<_> = expanded.iter().map(|link| (link.name.as_str(), link.target_table.name())).collect();
        assert_eq!(
            seen,
            [("prod.PROD_a", "copy-of-PROD_a"), ("prod.PROD_b", "copy-of-PROD_b"), ("prod.users", "copy-of-users"),]
        );
        assert!(expanded.iter().all(|link| link.apply.max_wcu == Some(7)));
    }

    #[test]
    fn copies_are_never_copied_again() {
        let error = prod("target.table = \"PROD_copy-{table}\"").expand(&tables(&["PROD_a"])).unwrap_err();
        assert!(error.what.contains("would be copied, too"), "{error}");
        prod("target.table = \"PROD_copy-{table}\"\ntarget.region = \"eu-central-1\"")
            .expand(&tables(&["PROD_a"]))
            .unwrap();
    }

    #[test]
    fn an_expanded_link_never_goes_onto_itself_or_to_an_illegal_name() {
        let error = prod("").expand(&tables(&["PROD_a"])).unwrap_err();
        assert!(error.what.contains("same table") && error.exit == Exit::Config, "{error}");
        let long = format!("PROD_{}", "a".repeat(250));
        let error = prod("target.table = \"copy-of-{table}\"").expand(&[long]).unwrap_err();
        assert!(error.what.contains("legal name"), "{error}");
    }

    #[test]
    fn two_expanded_links_never_share_a_target() {
        let mut links = prod("target.table = \"copy-{table}\"").expand(&tables(&["PROD_a"])).unwrap();
        check_targets(&links).unwrap();
        links.push(LinkConfig { name: "again".into(), ..links[0].clone() });
        assert_eq!(check_targets(&links).unwrap_err().exit, Exit::Config);
    }

    #[test]
    fn two_arns_make_a_link_without_any_file() {
        let source = "arn:aws:dynamodb:eu-west-1:111122223333:table/Orders.v2".parse().unwrap();
        let target = "arn:aws:dynamodb:eu-central-1:444455556666:table/Orders.v2".parse().unwrap();
        let link = LinkConfig::from_arns(&source, &target)
            .set("source.role_arn", "arn:aws:iam::111122223333:role/r", "--source-role-arn")
            .set("load.segments", "64", "--segments")
            .build()
            .unwrap();
        assert_eq!(link.name, "orders-v2");
        assert_eq!(link.source_table, TableRef::Arn(source.clone()));
        assert_eq!(link.target.region.as_deref(), Some("eu-central-1"));
        assert_eq!(link.load.segments, Segments::Fixed(64));
        let wrong =
            LinkConfig::from_arns(&source, &source).set("load.segments", "0", "--segments").build().unwrap_err();
        let text = wrong.to_string();
        assert!(text.contains("error: --segments: `segments`") && text.contains("are the same table"), "{text}");
    }

    #[test]
    fn an_option_wins_over_a_variable() {
        let source = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders".parse().unwrap();
        let target = "arn:aws:dynamodb:eu-west-1:444455556666:table/orders".parse().unwrap();
        let config = LinkConfig::from_arns(&source, &target)
            .set_global("checkpoint.store", "file:a.redb", "--state")
            .build_config(variables(&[
                ("DYNAFERRY__CHECKPOINT__STORE", "file:b.redb"),
                ("DYNAFERRY__CHECKPOINT__RECORDS", "5"),
            ]))
            .unwrap();
        assert_eq!(config.checkpoint.store, Store::File("a.redb".into()));
        assert_eq!(config.checkpoint.records, 5);
    }

    #[test]
    fn accounts_that_cannot_be_compared_offline_are_let_through() {
        let text = "version = 1\n[defaults]\ntarget.role_arn = \"arn:aws:iam::111122223333:role/w\"\n[link.a]\nsource.table = \"orders\"\n";
        assert!(!good(text).links[0].is_onto_itself());
    }

    #[test]
    fn a_start_time_keeps_its_zone() {
        for start in ["\"2026-11-20T14:00:00+02:00\"", "2026-11-20T12:00:00Z"] {
            let config = good(&format!("{ORDERS}load.method = \"none\"\nstream.start = {start}\n"));
            let StreamStart::At(time) = config.links[0].stream.start else { panic!("{start}") };
            assert_eq!(time.to_string(), "2026-11-20T12:00:00.000Z");
        }
    }
}

mod files {
    use super::*;

    #[test]
    fn the_option_wins_over_the_variable() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
        fs::write(&a, ORDERS).unwrap();
        fs::write(&b, ORDERS.replace("link.orders", "link.other")).unwrap();
        let environment = variables(&[(FILE_VARIABLE, b.to_str().unwrap())]);
        assert_eq!(load(Some(&a), environment.clone()).unwrap().links[0].name, "orders");
        let config = load(None, environment).unwrap();
        assert_eq!((config.links[0].name.as_str(), config.file), ("other", Some(b)));
    }

    #[test]
    fn a_named_file_that_does_not_exist_is_an_error_with_exit_8() {
        let error = Error::from(load(Some(Path::new("/nowhere/x.toml")), Vec::new()).unwrap_err());
        assert_eq!(error.exit, Exit::Config);
        assert_eq!(error.what, "config file /nowhere/x.toml does not exist\n  = named by --config");
    }

    #[test]
    fn the_first_default_file_that_exists_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.toml"), dir.path().join("b.toml"));
        fs::write(&b, ORDERS).unwrap();
        let defaults = [a.to_str().unwrap(), b.to_str().unwrap()];
        assert_eq!(file::find(None, &defaults).unwrap().unwrap().path, b);
        assert!(file::find(None, &defaults[..1]).unwrap().is_none());
    }

    #[test]
    fn a_file_that_is_no_text_or_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        fs::write(&path, b"version = 1\n\xff\xfe").unwrap();
        assert!(load(Some(&path), Vec::new()).unwrap_err().to_string().contains("byte 12 is not UTF-8"));
        assert!(load(Some(dir.path()), Vec::new()).is_err());
    }

    #[test]
    fn an_external_id_file_is_read_without_its_newline_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        fs::write(&path, "between-us-two\n").unwrap();
        let side = SideConfig { external_id: Some(ExternalId::File(path.clone())), ..SideConfig::default() };
        assert_eq!(side.read_external_id().unwrap().unwrap(), "between-us-two");
        fs::write(&path, "not an id").unwrap();
        let error = side.read_external_id().unwrap_err();
        assert_eq!(error.exit, Exit::Config);
        assert!(!error.what.contains("not an id"));
    }
}

#[test]
fn a_byte_order_mark_and_windows_lines_do_no_harm() {
    good(&format!("\u{feff}{}", ORDERS.replace('\n', "\r\n")));
    let shown = bad(&ORDERS.replace("table =", "tabel =").replace('\n', "\r\n"), &[]);
    assert!(!shown.contains('\r'), "{shown}");
}

#[test]
fn no_damage_to_a_file_makes_the_reader_panic() {
    let text = read("config/oneshot.toml");
    for (at, _) in text.char_indices() {
        let (before, after) = text.split_at(at);
        for damaged in [
            before.to_owned(),
            format!("{before}ü{after}"),
            format!("{before}\"\n[{after}"),
            format!("{before}{{{after}"),
        ] {
            let shown = parse("test.toml", &damaged, Vec::new())
                .map_or_else(|problems| problems.to_string(), |_| String::new());
            assert!(shown.is_empty() || shown.starts_with("error: test.toml"), "{shown}");
        }
    }
}

#[test]
fn the_effective_settings_read_as_they_are_written_and_hide_the_external_id() {
    let text = format!(
        "{ORDERS}source = {{ table = \"orders\", role_arn = \"arn:aws:iam::111122223333:role/r\", external_id = \"between-us\" }}\n"
    )
    .replace("source.table = \"orders\"\n", "");
    let config = good(&text);
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(json["links"][0]["apply"]["look_ahead_bytes"], "32MiB");
    assert_eq!(json["links"][0]["stream"]["poll_min"], "200ms");
    assert_eq!(json["checkpoint"]["store"], "file:./dynaferry.redb");
    assert!(!json.to_string().contains("between-us"));
    assert!(!format!("{config:?}").contains("between-us"));
}
