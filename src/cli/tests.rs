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
