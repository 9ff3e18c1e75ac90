//! The configuration: the files of `config/` and variables, put together anew and spoilt.
//!
//! Nothing panics, complaints name places that exist, no secret is shown, and what is accepted is TOML, says what the file
//! says and lies within its bounds.

use dynaferry::config::{self, Config, Problems};

use crate::Verdict;
use crate::mutate::spoil;

/// The files to begin with.
const FILES: [&str; 3] = [
    include_str!("../../config/dynaferry.toml"),
    include_str!("../../config/oneshot.toml"),
    include_str!("../../config/sidecar.toml"),
];
/// What no complaint may show.
const SECRET: &str = "between-us-only-4711";
/// Values of all kinds, right in some places.
const VALUES: &[&str] = &[
    "1",
    "0",
    "-1",
    "25",
    "26",
    "500",
    "1000000",
    "9223372036854775807",
    "9223372036854775808",
    "0x10",
    "1.5",
    "inf",
    "true",
    "false",
    "\"\"",
    "\"1s\"",
    "\"250ms\"",
    "\"5m\"",
    "\"1d\"",
    "\"0s\"",
    "\"20\"",
    "\"99999999999d\"",
    "\"25%\"",
    "\"0%\"",
    "\"64MiB\"",
    "\"4GiB\"",
    "\"auto\"",
    "\"off\"",
    "\"now\"",
    "\"heal\"",
    "\"stop\"",
    "\"dead_letter\"",
    "\"none\"",
    "\"{table}\"",
    "\"copy-of-{table}\"",
    "\"{tabel}\"",
    "\"orders\"",
    "\"x\"",
    "\"PROD_*\"",
    "[]",
    "[\"a*\"]",
    "[\"orders\", 1]",
    "{}",
    "{ table = \"abc\" }",
    "1979-05-27",
    "1979-05-27T07:32:00Z",
    "\"2026-11-20T14:00:00Z\"",
    "'it''s'",
    "\"\"\"\nlong\n\"\"\"",
    "\"file:x\"",
    "\"dynamodb:x\"",
    "\"127.0.0.1:1\"",
    "\"arn:aws:dynamodb:eu-west-1:111122223333:table/orders\"",
    "\"arn:aws:iam::111122223333:role/x\"",
    "\"http://127.0.0.1:1\"",
    "\"http://user:pass@host\"",
    "\"ключ\"",
    "\"\\u0000\"",
];
/// Keys of all sections.
const KEYS: &[&str] = &[
    "version",
    "source.table",
    "source.tables",
    "source.exclude",
    "target.table",
    "target.create",
    "target.exclusive",
    "source.region",
    "target.region",
    "source.external_id",
    "source.external_id_file",
    "source.role_arn",
    "source.profile",
    "source.endpoint_url",
    "load.method",
    "load.from_export",
    "load.bucket_owner",
    "load.bucket",
    "load.prefix",
    "load.kms_key",
    "load.enable_pitr",
    "load.segments",
    "load.read_capacity",
    "load.concurrency",
    "apply.write_capacity",
    "apply.max_wcu",
    "apply.batch_items",
    "apply.max_in_flight",
    "apply.fence",
    "apply.look_ahead_bytes",
    "apply.attempt_timeout",
    "stream.start",
    "stream.on_gap",
    "stream.poll_min",
    "stream.poll_max",
    "stream.max_record_age",
    "verify.rate",
    "store",
    "interval",
    "records",
    "listen",
    "drain",
    "log_level",
    "log_format",
    "filter",
    "apply.batch_item",
    "access_key",
    "\"a b\".c",
    "source",
    "apply",
];
const SECTIONS: &[&str] = &[
    "[link.orders]",
    "[link.b]",
    "[link.\"Not A Name\"]",
    "[link]",
    "[[link]]",
    "[defaults]",
    "[defaults.source]",
    "[defaults.apply]",
    "[link.orders.apply]",
    "[link.orders.stream]",
    "[checkpoint]",
    "[service]",
    "[telemetry]",
    "[x]",
];
const VARIABLES: &[&str] = &[
    "DYNAFERRY__LINK__ORDERS__APPLY__MAX_WCU",
    "DYNAFERRY__LINK__ORDERS__SOURCE__TABLE",
    "DYNAFERRY__LINK__NEW__SOURCE__TABLE",
    "DYNAFERRY__DEFAULTS__SOURCE__REGION",
    "DYNAFERRY__SERVICE__DRAIN",
    "DYNAFERRY__CHECKPOINT__RECORDS",
    "DYNAFERRY__",
    "DYNAFERRY__LINK__",
    "DYNAFERRY____X",
    "DYNAFERRY__VERSION",
    "DYNAFERRY__LINK__ORDERS",
    "DYNAFERRY__VERSION__X",
    "DYNAFERRY_CONFIG",
    "PATH",
    "DYNAFERRY__ключ__É",
];

fn pick<'a>(random: &mut fastrand::Rng, words: &[&'a str]) -> &'a str {
    random.choice(words).copied().unwrap_or_default()
}

/// The lines of a file, some of them gone, doubled, moved, or set to something else.
fn draw_lines(random: &mut fastrand::Rng) -> Vec<String> {
    let mut lines: Vec<String> = pick(random, &FILES).lines().map(str::to_owned).collect();
    if random.bool() {
        lines.retain(|line| !line.trim_start().starts_with('#'));
    }
    for _ in 0..random.usize(0..4) {
        let at = random.usize(0..lines.len().max(1)).min(lines.len());
        match random.u32(0..7) {
            0 if at < lines.len() => drop(lines.remove(at)),
            1 => lines.insert(at, pick(random, SECTIONS).to_owned()),
            2 if at < lines.len() => lines.swap(at, random.usize(0..=at)),
            3..5 => lines.insert(at, format!("{} = {}", pick(random, KEYS), pick(random, VALUES))),
            _ => {
                if let Some(line) = lines.get_mut(at)
                    && let Some((key, _)) = line.split_once('=')
                {
                    *line = format!("{key}= {}", pick(random, VALUES));
                }
            }
        }
    }
    lines
}

fn draw_variables(random: &mut fastrand::Rng) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    if random.f64() < 0.3 {
        for _ in 0..random.usize(1..4) {
            let value = pick(random, VALUES).trim_matches('"').to_owned();
            variables.push((pick(random, VARIABLES).to_owned(), value));
        }
    }
    if random.f64() < 0.1 {
        variables.push(("DYNAFERRY__LINK__ORDERS__TARGET__EXTERNAL_ID".to_owned(), SECRET.to_owned()));
    }
    variables
}

pub(crate) fn config(random: &mut fastrand::Rng) -> Result<Verdict, String> {
    let mut text = draw_lines(random).join("\n").into_bytes();
    let times = random.choice([0, 0, 1, 2]).unwrap_or(0);
    spoil(&mut text, times, random);
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if random.f64() < 0.3 {
        // In a line of its own, where it belongs or where it does not.
        let key = pick(random, &["external_id", "source.external_id", "secret_access_key"]);
        text.push_str(&format!("\n{key} = \"{SECRET}\"\n"));
    }
    let variables = draw_variables(random);
    let read = config::parse("fuzz.toml", &text, variables.clone());
    let judged = match &read {
        Ok(config) => check_accepted(config, &text, variables.is_empty()).map(|()| Verdict::Accepted),
        Err(problems) => check_refused(problems, &text).map(|()| Verdict::Refused),
    };
    judged.map_err(|what| format!("{what}\n--- {variables:?}\n{text}"))
}

fn check_refused(problems: &Problems, text: &str) -> Result<(), String> {
    let report = problems.to_string();
    if problems.iter().next().is_none() {
        return Err("refused without a reason".to_owned());
    }
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in problems.iter() {
        let is_there = problem.at.is_none_or(|(line, column)| {
            // Right behind the last character is a place, too.
            lines.get(line.wrapping_sub(1)).is_some_and(|line| (1..=line.chars().count() + 1).contains(&column))
        });
        if !is_there {
            return Err(format!("there is no such place: {problem}"));
        }
    }
    if report.contains(SECRET) || format!("{problems:?}").contains(SECRET) {
        return Err(format!("a secret is shown: {report}"));
    }
    Ok(())
}

fn check_accepted(config: &Config, text: &str, by_file_alone: bool) -> Result<(), String> {
    let document: toml::Table = toml::from_str(text).map_err(|error| format!("it is not TOML: {error}"))?;
    let json = serde_json::to_string(config).map_err(|error| format!("it cannot be shown: {error}"))?;
    if json.contains(SECRET) || format!("{config:?}").contains(SECRET) {
        return Err("a secret is shown".to_owned());
    }
    check_bounds(config)?;
    if by_file_alone { check_values(config, &document) } else { Ok(()) }
}

fn check_bounds(config: &Config) -> Result<(), String> {
    let within = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what} is out of bounds")) };
    within(config::CHECKPOINT_INTERVAL_RANGE.contains(&config.checkpoint.interval), "checkpoint.interval")?;
    within(config::CHECKPOINT_RECORDS_RANGE.contains(&config.checkpoint.records), "checkpoint.records")?;
    within(config::DRAIN_RANGE.contains(&config.service.drain), "service.drain")?;
    for link in &config.links {
        within(config::BATCH_ITEMS_RANGE.contains(&link.apply.batch_items), "apply.batch_items")?;
        within(config::MAX_IN_FLIGHT_RANGE.contains(&link.apply.max_in_flight), "apply.max_in_flight")?;
        within(config::LOOK_AHEAD_BYTES_RANGE.contains(&link.apply.look_ahead_bytes), "apply.look_ahead_bytes")?;
        within(config::ATTEMPT_TIMEOUT_RANGE.contains(&link.apply.attempt_timeout), "apply.attempt_timeout")?;
        within(config::POLL_RANGE.contains(&link.stream.poll_min), "stream.poll_min")?;
        within(link.stream.poll_min <= link.stream.poll_max, "stream.poll_max")?;
        within(config::LOAD_CONCURRENCY_RANGE.contains(&link.load.concurrency), "load.concurrency")?;
        let tables = [link.source_table.name(), link.target_table.name()];
        within(tables.iter().all(|name| (3..=255).contains(&name.len())), "the length of a table's name")?;
    }
    Ok(())
}

/// Numbers are the file's: the link's own, else those that it inherits.
fn check_values(config: &Config, document: &toml::Table) -> Result<(), String> {
    let number = |path: &[&str]| {
        let mut at = document.get(*path.first()?)?;
        for key in path.get(1..)? {
            at = at.get(*key)?;
        }
        at.as_integer()
    };
    for link in &config.links {
        for (key, value) in
            [("batch_items", i64::from(link.apply.batch_items)), ("max_in_flight", i64::from(link.apply.max_in_flight))]
        {
            let said = number(&["link", &link.name, "apply", key]).or_else(|| number(&["defaults", "apply", key]));
            if said.is_some_and(|said| said != value) {
                return Err(format!("{key} of {} is {value}, not {said:?}", link.name));
            }
        }
    }
    let said = number(&["checkpoint", "records"]);
    match said {
        Some(said) if i64::try_from(config.checkpoint.records) != Ok(said) => Err("checkpoint.records".to_owned()),
        _ => Ok(()),
    }
}
