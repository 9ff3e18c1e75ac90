//! `dynaferry validate`: the config file, without contacting anything.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::format::counted;
use super::output;
use super::session::{Ended, Session};
use crate::config::{self, Config, Problems};
use crate::error::{Exit, Result};

const SCHEMA: &str = "dynaferry.validate/v1";

/// Check the config file without contacting anything.
///
/// Shows every mistake at once, with its place and how to mend it. Exits 8 when there are any.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  dynaferry validate\n  dynaferry validate config/dynaferry.toml -o json")]
pub(super) struct ValidateArgs {
    /// The file [default: as for --config]
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

pub(super) fn execute(session: &Session, args: &ValidateArgs) -> Result<Ended> {
    let named = args.file.as_deref().or(session.options.config.as_deref());
    match config::load(named, session.environment.iter().cloned()) {
        Ok(config) => {
            let name = config.file.as_ref().map(|path| path.strip_prefix(".").unwrap_or(path).display().to_string());
            let links = config.links.len() + config.patterns.len();
            let warnings = config.warnings();
            let document = json!({
                "schema": SCHEMA, "file": name, "valid": true, "links": links, "problems": [], "warnings": warnings,
            });
            session.print(&summary(name.as_deref(), &config), &document)?;
            Ok(Ended::DONE)
        }
        Err(problems) if session.is_json() => {
            let document =
                json!({"schema": SCHEMA, "file": null, "valid": false, "links": null, "problems": list(&problems)});
            output::json(&document)?;
            Ok(Ended::Exit(Exit::Config))
        }
        Err(problems) => Err(problems.into()),
    }
}

fn summary(name: Option<&str>, config: &Config) -> String {
    let links = config.links.len() + config.patterns.len();
    let links = counted(u64::try_from(links).unwrap_or(u64::MAX), "link");
    let many = match config.patterns.len() {
        0 => String::new(),
        many => format!(", {many} of many tables"),
    };
    let warnings = config.warnings().into_iter().map(|warning| format!("\nwarning: {warning}")).collect::<String>();
    format!("{} is valid: {links}{many}{warnings}", name.unwrap_or("the environment"))
}

fn list(problems: &Problems) -> Vec<serde_json::Value> {
    let place =
        |problem: &config::Problem| problem.at.map_or((None, None), |(line, column)| (Some(line), Some(column)));
    let one = |problem: &config::Problem| {
        let (line, column) = place(problem);
        json!({"origin": problem.origin, "line": line, "column": column, "what": problem.what, "hint": problem.hint})
    };
    problems.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_that_ends_too_early_for_aws_is_a_warning() {
        let told = |more: &str| {
            let text = format!(
                "version = 1\n[link.a]\nsource.table = \"aaa\"\ntarget.table = \"bbb\"\ntarget.region = \"eu-west-1\"\n{more}"
            );
            summary(Some("f"), &config::parse("f", &text, []).unwrap())
        };
        let text = told("apply.in_doubt_for = \"1s\"");
        assert!(
            text.starts_with("f is valid: 1 link\nwarning: [link.a]: `apply.in_doubt_for` is 1s: at AWS"),
            "{text}"
        );
        assert_eq!(told(""), "f is valid: 1 link");
        let local = "apply.in_doubt_for = \"1s\"\ntarget.endpoint_url = \"http://127.0.0.1:8000\"";
        assert_eq!(told(local), "f is valid: 1 link");
    }

    #[test]
    fn links_are_counted() {
        let text = |links: &str| {
            format!("version = 1\n[defaults.target]\nregion = \"eu-west-1\"\ntable = \"to-{{table}}\"\n{links}")
        };
        let two = config::parse("f", &text("[link.a]\nsource.table = \"aaa\"\n[link.b]\nsource.table = \"bbb\"\n"), [])
            .unwrap();
        assert_eq!(summary(Some("dynaferry.toml"), &two), "dynaferry.toml is valid: 2 links");
        let many = config::parse("f", &text("[link.a]\nsource.tables = [\"a*\"]\n"), []).unwrap();
        assert_eq!(summary(None, &many), "the environment is valid: 1 link, 1 of many tables");
    }
}
