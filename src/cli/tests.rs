//! The command line as users meet it.

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use super::args::{Cli, Command, Output, ProgressKind};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("dynaferry").chain(line.split_whitespace()))
}

fn refused(line: &str) -> (ErrorKind, i32) {
    let error = parse(line).unwrap_err();
    (error.kind(), error.exit_code())
}

const SOURCE: &str = "arn:aws:dynamodb:eu-west-1:111111111111:table/orders";
const TARGET: &str = "arn:aws:dynamodb:eu-west-1:222222222222:table/orders";

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for line in ["-o json -c x.toml --progress none validate", "validate -o json -c x.toml --progress none"] {
        let cli = parse(line).unwrap();
        assert_eq!((cli.global.output, cli.global.progress), (Output::Json, ProgressKind::None));
        assert_eq!(cli.global.config.unwrap().to_str(), Some("x.toml"));
    }
    assert_eq!(parse("-vv run").unwrap().global.verbose, 2);
}

#[test]
fn every_command_is_known() {
    let lines = [
        "demo",
        "sandbox",
        "validate",
        "migrate",
        "run",
        "verify",
        "status",
        "dead-letter list",
        "dead-letter retry",
        "healthcheck",
        "version",
    ];
    for line in lines {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn a_bad_command_line_ends_with_2() {
    for line in
        ["nonsense", "run --nonsense", "migrate --timeout 5", "-o yaml version", "-q -v run", "status --address here"]
    {
        assert_eq!(refused(line).1, 2, "{line}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    assert_eq!(refused("--help"), (ErrorKind::DisplayHelp, 0));
    assert_eq!(refused("--version"), (ErrorKind::DisplayVersion, 0));
}

#[test]
fn one_link_needs_both_arns_and_no_file() {
    assert!(matches!(
        parse(&format!("migrate --source {SOURCE} --target {TARGET} --create")).unwrap().command,
        Command::Migrate(_)
    ));
    assert!(matches!(
        parse(&format!("verify --source {SOURCE} --target {TARGET} --repair")).unwrap().command,
        Command::Verify(_)
    ));
    assert_eq!(refused(&format!("migrate --source {SOURCE}")).0, ErrorKind::MissingRequiredArgument);
    assert_eq!(refused("migrate --create").0, ErrorKind::MissingRequiredArgument);
    assert_eq!(refused(&format!("migrate -c f --source {SOURCE} --target {TARGET}")).0, ErrorKind::ArgumentConflict);
    assert_eq!(refused(&format!("verify orders --source {SOURCE} --target {TARGET}")).0, ErrorKind::ArgumentConflict);
    assert_eq!(refused(&format!("migrate --source orders --target {TARGET}")).0, ErrorKind::ValueValidation);
}

#[test]
fn help_explains_exit_codes_and_every_command_has_an_example() {
    let mut command = Cli::command();
    let help = command.render_long_help().to_string();
    for text in ["Exit codes:", "3  differences found", "--log-format", "[env: DYNAFERRY_CONFIG]", "dynaferry demo"] {
        assert!(help.contains(text), "{text} in:\n{help}");
    }
    fn check(command: &mut clap::Command) {
        let name = command.get_name().to_owned();
        for sub in command.get_subcommands_mut() {
            check(sub);
        }
        if !command.has_subcommands() && name != "version" {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{name}:\n{help}");
        }
    }
    check(&mut command);
}

/// The exit code of a command line that is really executed.
async fn exit_code(line: &str) -> u8 {
    let cli = parse(line).unwrap();
    let session = super::session::Session::new(cli.global);
    match Box::pin(super::dispatch(&session, &cli.command)).await {
        Ok(ended) => ended.code(),
        Err(error) => error.exit as u8,
    }
}

fn written(dir: &tempfile::TempDir, text: &str) -> String {
    let path = dir.path().join("dynaferry.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn an_invalid_config_ends_with_8_whichever_command_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(&dir, "version = 1\nlinks = 3\n");
    for command in ["validate", "-o json validate", "run", "migrate", "verify", "status", "dead-letter list"] {
        assert_eq!(exit_code(&format!("-c {file} {command}")).await, 8, "{command}");
    }
    assert_eq!(exit_code(&format!("-c {file}.nowhere validate")).await, 8);
}

#[tokio::test]
async fn a_healthcheck_ends_with_0_or_1_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(&dir, "nonsense");
    assert_eq!(exit_code(&format!("-c {file} healthcheck")).await, 1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/livez", axum::routing::get(|| async { "{}" }));
    let checks = async {
        (
            exit_code(&format!("healthcheck --address {address}")).await,
            exit_code(&format!("healthcheck --ready --address {address}")).await,
        )
    };
    tokio::select! {
        _ = axum::serve(listener, router) => unreachable!("the server ended"),
        codes = checks => assert_eq!(codes, (0, 1)),
    }
    assert_eq!(exit_code(&format!("healthcheck --address {address}")).await, 1);
}

#[tokio::test]
async fn a_misspelt_link_ends_with_2_and_is_not_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(&dir, "version = 1\n[link.orders]\nsource.table = \"orders\"\ntarget.table = \"orders-copy\"\n");
    assert_eq!(exit_code(&format!("-c {file} validate")).await, 0);
    assert_eq!(exit_code(&format!("-c {file} verify order")).await, 2);
    assert_eq!(exit_code(&format!("-c {file} status order")).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_stops_the_work_in_good_order_and_ends_with_7() {
    use crate::error::{Error, Exit};
    use std::time::Duration;
    let session = || super::session::Session::new(parse("version").unwrap().global);
    let (limit, grace) = (Some(Duration::from_secs(60)), Duration::from_secs(5));

    let drains = session();
    let told = drains.stop.token();
    let work = async {
        told.cancelled().await;
        Err::<(), _>(Error::new(Exit::Timeout, "stopped"))
    };
    let error = drains.within(limit, grace, work).await.unwrap_err();
    assert_eq!((error.exit, error.what.as_str()), (Exit::Timeout, "not done within 1m00s"));

    let deaf = session().within(limit, grace, std::future::pending::<crate::error::Result<()>>()).await;
    assert_eq!(deaf.unwrap_err().exit, Exit::Timeout);

    let fails = session();
    let told = fails.stop.token();
    let work = async {
        told.cancelled().await;
        Err::<(), _>(Error::new(Exit::Lost, "history is lost"))
    };
    assert_eq!(fails.within(limit, grace, work).await.unwrap_err().exit, Exit::Lost);
    assert!(session().within(limit, grace, async { Ok(1) }).await.is_ok());
}

#[test]
fn options_without_a_file_make_one_link_with_its_own_state_file() {
    let config = |line: &str| {
        let cli = parse(&format!("migrate --source {SOURCE} --target {TARGET} {line}")).unwrap();
        let Command::Migrate(args) = cli.command else { panic!("not a migration") };
        let session = super::session::Session::new(cli.global);
        args.link.config(&session, args.target)
    };
    let options = "--create --source-profile old --target-role-arn arn:aws:iam::222222222222:role/ferry \
                   --target-external-id between-us --source-endpoint-url http://127.0.0.1:8000";
    let made = config(options).unwrap();
    let link = &made.links[0];
    assert!(link.target_create && !link.target_allow_non_empty);
    assert_eq!(link.source.profile.as_deref(), Some("old"));
    assert_eq!(link.source.endpoint_url.as_deref(), Some("http://127.0.0.1:8000"));
    assert_eq!(link.target.role_arn.as_deref(), Some("arn:aws:iam::222222222222:role/ferry"));
    assert_eq!(made.checkpoint.store, crate::config::Store::File("./dynaferry-orders.redb".into()));
    let named = config("--state /var/lib/x.redb").unwrap();
    assert_eq!(named.checkpoint.store, crate::config::Store::File("/var/lib/x.redb".into()));
    let error = config("--target-role-arn nonsense").unwrap_err();
    assert_eq!(error.exit as u8, 8);
    assert!(error.what.contains("--target-role-arn"), "{}", error.what);
}
