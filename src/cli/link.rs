//! Which links a command is about: the config file's, or one link given by two ARNs.

use std::path::PathBuf;

use clap::Args;

use super::session::Session;
use crate::config::{self, Config, LinkConfig, Store};
use crate::error::{Error, Exit, Result};
use crate::model::TableArn;

/// The variable that sets the store, over the default of a link without a file.
const STORE_VARIABLE: &str = "DYNAFERRY__CHECKPOINT__STORE";

/// One link without a config file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "One link without a config file")]
pub(super) struct LinkArgs {
    /// The table that is copied
    #[arg(long, value_name = "ARN", requires = "target", conflicts_with = "config")]
    pub(super) source: Option<TableArn>,

    /// The copy
    #[arg(long, value_name = "ARN", requires = "source", conflicts_with = "config")]
    pub(super) target: Option<TableArn>,

    /// Role to assume for the source
    #[arg(long, value_name = "ARN", requires = "source")]
    pub(super) source_role_arn: Option<String>,

    /// External id that the source's role asks for
    #[arg(long, value_name = "ID", requires = "source_role_arn")]
    pub(super) source_external_id: Option<String>,

    /// Profile of ~/.aws/config for the source
    #[arg(long, value_name = "NAME", requires = "source")]
    pub(super) source_profile: Option<String>,

    /// Another endpoint for the source, for local servers and private links
    #[arg(long, value_name = "URL", requires = "source")]
    pub(super) source_endpoint_url: Option<String>,

    /// Role to assume for the target
    #[arg(long, value_name = "ARN", requires = "source")]
    pub(super) target_role_arn: Option<String>,

    /// External id that the target's role asks for
    #[arg(long, value_name = "ID", requires = "target_role_arn")]
    pub(super) target_external_id: Option<String>,

    /// Profile of ~/.aws/config for the target
    #[arg(long, value_name = "NAME", requires = "source")]
    pub(super) target_profile: Option<String>,

    /// Another endpoint for the target
    #[arg(long, value_name = "URL", requires = "source")]
    pub(super) target_endpoint_url: Option<String>,

    /// Where progress is kept [default: file:./dynaferry-<link>.redb; the link is named after the source table]
    #[arg(long, value_name = "FILE", requires = "source")]
    pub(super) state: Option<PathBuf>,
}

/// What may be said about the target of a migration.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct TargetArgs {
    /// Make the target, like the source, if it is missing
    #[arg(long, requires = "source", help_heading = "One link without a config file")]
    pub(super) create: bool,

    /// Load into a target that holds items already
    #[arg(long, requires = "source", help_heading = "One link without a config file")]
    pub(super) allow_non_empty: bool,
}

impl LinkArgs {
    /// The settings: of the two ARNs if they were given, else of the config file. Starts logging.
    pub(super) fn config(&self, session: &Session, extra: TargetArgs) -> Result<Config> {
        let (Some(source), Some(target)) = (&self.source, &self.target) else { return session.load_config() };
        let mut link = LinkConfig::from_arns(source, target);
        let options = [
            ("source.role_arn", &self.source_role_arn, "--source-role-arn"),
            ("source.external_id", &self.source_external_id, "--source-external-id"),
            ("source.profile", &self.source_profile, "--source-profile"),
            ("source.endpoint_url", &self.source_endpoint_url, "--source-endpoint-url"),
            ("target.role_arn", &self.target_role_arn, "--target-role-arn"),
            ("target.external_id", &self.target_external_id, "--target-external-id"),
            ("target.profile", &self.target_profile, "--target-profile"),
            ("target.endpoint_url", &self.target_endpoint_url, "--target-endpoint-url"),
        ];
        for (key, value, option) in options {
            if let Some(value) = value {
                link = link.set(key, value, option);
            }
        }
        let flags = [
            ("target.create", extra.create, "--create"),
            ("target.allow_non_empty", extra.allow_non_empty, "--allow-non-empty"),
        ];
        for (key, _, option) in flags.into_iter().filter(|(_, is_set, _)| *is_set) {
            link = link.set(key, "true", option);
        }
        if let Some(state) = &self.state {
            let path = state.display().to_string();
            let is_table = path.starts_with("dynamodb:");
            let store = if is_table { path } else { format!("file:{}", path.trim_start_matches("file:")) };
            link = link.set_global("checkpoint.store", store, "--state");
        }
        let mut config = link.build_config(session.environment.iter().cloned())?;
        let is_store_set = self.state.is_some() || session.environment.iter().any(|(name, _)| name == STORE_VARIABLE);
        if let (false, Some(link)) = (is_store_set, config.links.first()) {
            config.checkpoint.store = Store::File(format!("./dynaferry-{}.redb", link.name).into());
        }
        session.start_logging(&config.telemetry)?;
        Ok(config)
    }
}

/// Refuses names of links that are not there.
pub(super) fn check_names(config: &Config, names: &[String]) -> Result<()> {
    for name in names {
        let of_pattern = |pattern: &str| name.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('.'));
        let is_known = config.links.iter().any(|link| link.name == *name)
            || config.patterns.iter().any(|pattern| of_pattern(pattern.name()));
        if !is_known {
            let hint = match config::suggest_link(config, name) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => {
                    let known: Vec<&str> = config.links.iter().map(|link| link.name.as_str()).collect();
                    format!("known links: {}", known.join(", "))
                }
            };
            return Err(Error::new(Exit::Usage, format!("there is no link `{name}`")).hint(hint));
        }
    }
    Ok(())
}
