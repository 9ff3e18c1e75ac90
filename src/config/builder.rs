//! Settings without a file: two ARNs and what the command line adds.
//!
//! They go the way of a file's settings, through the same checks; complaints name the option that said it.

use super::diagnose::{Collector, Problems};
use super::link::LinkConfig;
use super::overlay;
use super::tree::Table;
use super::{Config, assemble};
use crate::model::TableArn;

/// A link of two tables, to which options are added.
#[derive(Debug, Clone)]
pub struct LinkBuilder {
    name: String,
    tables: Vec<Setting>,
    options: Vec<Setting>,
}

#[derive(Debug, Clone)]
struct Setting {
    path: Vec<String>,
    text: String,
    said_by: String,
}

impl LinkConfig {
    /// A link of two tables; Regions and accounts are those of the ARNs. It is named after the source table.
    #[must_use]
    pub fn from_arns(source: &TableArn, target: &TableArn) -> LinkBuilder {
        let name = link_name(&source.name);
        let mut tables = Vec::new();
        for (side, arn) in [("source", source), ("target", target)] {
            for (key, text) in [("table", arn.to_string()), ("region", arn.region.clone())] {
                let path = ["link", &name, side, key].map(str::to_owned).into();
                tables.push(Setting { path, text, said_by: format!("--{side}") });
            }
        }
        LinkBuilder { name, tables, options: Vec::new() }
    }
}

impl LinkBuilder {
    /// Sets a key of the link, such as `source.role_arn`; `said_by` is the option's name for complaints. The last one
    /// wins, also over the environment.
    #[must_use]
    pub fn set(self, key: &str, text: impl Into<String>, said_by: &str) -> Self {
        let key = format!("link.{}.{key}", self.name);
        self.set_global(&key, text, said_by)
    }

    /// Sets any key, such as `checkpoint.store`.
    #[must_use]
    pub fn set_global(mut self, key: &str, text: impl Into<String>, said_by: &str) -> Self {
        let path = key.split('.').map(str::to_owned).collect();
        self.options.push(Setting { path, text: text.into(), said_by: said_by.to_owned() });
        self
    }

    /// The settings of a whole run: this link, the environment, defaults for the rest.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn build_config(self, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, Problems> {
        let problems = Collector::new("", "");
        let mut tree = Table::default();
        let set = |tree: &mut Table, settings: &[Setting]| {
            for Setting { path, text, said_by } in settings {
                overlay::set(tree, path, said_by, text, &problems);
            }
        };
        set(&mut tree, &self.tables);
        overlay::apply(&mut tree, environment.into_iter().collect(), &problems);
        set(&mut tree, &self.options);
        let config = assemble(&tree, false, &problems);
        problems.finish(config)
    }

    /// The link alone, without any environment.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn build(self) -> Result<LinkConfig, Problems> {
        let mut config = self.build_config(Vec::new())?;
        config.links.pop().ok_or_else(|| Problems::one("there is no link", ""))
    }
}

/// A legal link name that reads like the table's.
fn link_name(table: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' };
    let name: String = table.chars().map(legal).collect();
    let name = name.trim_start_matches(['-', '_']);
    if name.is_empty() { "table".to_owned() } else { name.to_owned() }
}
