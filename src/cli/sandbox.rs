//! `dynaferry sandbox`: the embedded AWS over TCP, to try commands against.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use super::example::{EXTERNAL_ID, Example, REGION, SOURCE_ACCOUNT, TABLE, TARGET_ACCOUNT};
use super::format::{counted, rate};
use super::session::{Ended, Session};
use crate::config::TelemetryConfig;
use crate::error::{Error, Exit, Result};
use crate::sandbox::{FaultKind, FaultRule, Faults, Options, Trigger};

/// How often the writer wakes up.
const WRITE_EVERY: Duration = Duration::from_millis(50);
/// How long after its connection broke a write may still land.
const MAX_LATE: Duration = Duration::from_secs(4);

/// Serve the embedded AWS over TCP, with two accounts, roles and an example table.
///
/// DynamoDB, DynamoDB Streams and STS on one port, in memory. For trying commands; any AWS tool can talk to it.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  dynaferry sandbox                       prints the lines to copy
  dynaferry sandbox --items 100000 --rate 500
  dynaferry sandbox --rate 100 --faults 0.05   set apply.in_doubt_for = \"10s\": writes land up to 4 s late")]
pub(super) struct SandboxArgs {
    /// Where it listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4510")]
    listen: SocketAddr,

    /// Items of the example table
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    items: u64,

    /// Changes a second that somebody makes to it
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,

    /// Share of requests that go wrong, from 0 to 1; above 0, shards live for a minute
    ///
    /// Reads of the source and all requests of the target account: throttles, errors, lost and broken answers, silence, batches
    /// done in part, odd listings and pages, and writes that land up to 4 s after their connection broke.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    faults: f64,

    /// Open shards of the example table's stream, from 1 to 1000 [default: 1 to 4, by the seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    shards: Option<u16>,

    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn parse_share(text: &str) -> std::result::Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a number from 0 to 1".to_owned())
}

pub(super) async fn execute(session: &Session, args: &SandboxArgs) -> Result<Ended> {
    session.start_logging(&TelemetryConfig::default())?;
    let mut example = Example::new(options(args))?;
    example.fill(args.items)?;
    example.sandbox.set_faults(faults(args.faults));
    let fail = |error| {
        Error::new(Exit::Precondition, format!("listen on {}", args.listen))
            .because(error)
            .hint("give another address with --listen")
    };
    let listener = TcpListener::bind(args.listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let document = serde_json::json!({
        "schema": "dynaferry.sandbox/v1", "endpoint_url": format!("http://{address}"), "region": REGION,
        "source_account": SOURCE_ACCOUNT, "target_account": TARGET_ACCOUNT, "table": TABLE,
        "source_role_arn": example.source_role, "target_role_arn": example.target_role, "external_id": EXTERNAL_ID,
    });
    session.print(&welcome(address, args, &example), &document)?;
    let serve = example.sandbox.clone().serve(listener, session.stop.token().cancelled_owned());
    tokio::select! {
        () = serve => {}
        error = write(&mut example, args.rate) => return Err(error),
    }
    Ok(Ended::DONE)
}

/// With faults, shards that live for a minute and children that are listed late: what the service does in hours.
fn options(args: &SandboxArgs) -> Options {
    let mut calm = Options { seed: args.seed, ..Options::default() };
    if let Some(shards) = args.shards.map(usize::from) {
        calm.initial_shards = shards..=shards;
        calm.max_open_shards = calm.max_open_shards.max(shards);
    }
    if args.faults == 0.0 {
        return calm;
    }
    Options {
        shard_life: Duration::from_secs(60),
        split_chance: 0.25,
        max_open_shards: args.shards.map_or(6, |shards| usize::from(shards).max(6)),
        children_delay: Duration::from_millis(500),
        children_stagger: Duration::from_secs(2),
        empty_page_chance: 0.05,
        ..calm
    }
}

/// What goes wrong, every kind as often as the others that befall the same request. Whoever writes the source is spared.
fn faults(share: f64) -> Faults {
    let throttle = |code: &str| FaultKind::Throttle(code.to_owned());
    let anywhere = [
        throttle("ThrottlingException"),
        throttle("ProvisionedThroughputExceededException"),
        FaultKind::InternalError,
        FaultKind::Refuse,
        FaultKind::LoseAnswer,
        FaultKind::TimeOut,
        FaultKind::Hold(Duration::from_millis(700)),
        FaultKind::TruncateAnswer,
        FaultKind::GarbleAnswer,
        FaultKind::ExpiredToken,
    ];
    let of_writes = [
        FaultKind::DeliverLate(Duration::from_secs(1)),
        FaultKind::TimeOutAndDeliverLate(MAX_LATE),
        FaultKind::UnprocessedSubset,
        FaultKind::UnprocessedAll,
    ];
    let of_listings = [
        FaultKind::DuplicateShards,
        FaultKind::ShuffleShards,
        FaultKind::StaleParentOpen,
        FaultKind::StaleListing(Duration::from_secs(5)),
    ];
    let of_pages = [FaultKind::ExpireIterator, FaultKind::EmptyPages(3), FaultKind::OneRecord];
    let mut rules = Vec::new();
    let mut add = |account: &str, operations: &[&str], kinds: &[&[FaultKind]]| {
        let kinds = kinds.concat();
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let chance = share / kinds.len() as f64;
        for operation in operations {
            let rule = |kind: &FaultKind| FaultRule::new(operation, Trigger::Chance(chance), kind.clone());
            rules.extend(kinds.iter().map(|kind| rule(kind).for_account(account)));
        }
    };
    add(SOURCE_ACCOUNT, &["Scan", "GetItem", "BatchGetItem", "DescribeTable", "GetShardIterator"], &[&anywhere]);
    add(SOURCE_ACCOUNT, &["DescribeStream"], &[&anywhere, &of_listings]);
    add(SOURCE_ACCOUNT, &["GetRecords"], &[&anywhere, &of_pages]);
    add(TARGET_ACCOUNT, &["*"], &[&anywhere, &of_writes]);
    Faults::new(rules)
}

/// Changes items at this rate for ever; ends with an error alone.
async fn write(example: &mut Example, rate: u32) -> Error {
    if rate == 0 {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(WRITE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut budget = Budget::new(rate, WRITE_EVERY);
    loop {
        ticks.tick().await;
        for _ in 0..budget.next() {
            if let Err(error) = example.change() {
                return error;
            }
        }
    }
}

/// Spreads a rate per second over ticks, without losing the rest.
#[derive(Debug)]
pub(super) struct Budget {
    per_tick: f64,
    rest: f64,
}

impl Budget {
    pub(super) fn new(per_second: u32, tick: Duration) -> Self {
        Self { per_tick: f64::from(per_second) * tick.as_secs_f64(), rest: 0.0 }
    }

    /// How many this tick.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
    pub(super) fn next(&mut self) -> u32 {
        self.rest += self.per_tick;
        let whole = self.rest.floor();
        self.rest -= whole;
        whole as u32
    }
}

fn welcome(address: SocketAddr, args: &SandboxArgs, example: &Example) -> String {
    let url = format!("http://{address}");
    let changes = if args.rate == 0 { String::new() } else { format!(", {} changes/s", rate(f64::from(args.rate))) };
    let environment = format!(
        "export AWS_ACCESS_KEY_ID={SOURCE_ACCOUNT} AWS_SECRET_ACCESS_KEY=any AWS_REGION={REGION} AWS_ENDPOINT_URL={url}"
    );
    let link = |indent: &str| {
        format!(
            "--source arn:aws:dynamodb:{REGION}:{SOURCE_ACCOUNT}:table/{TABLE} \\\n{indent}--source-role-arn {} \\\n\
             {indent}--source-external-id {EXTERNAL_ID} \\\n\
             {indent}--target arn:aws:dynamodb:{REGION}:{TARGET_ACCOUNT}:table/{TABLE} \\\n{indent}--target-role-arn {} \\\n\
             {indent}--target-external-id {EXTERNAL_ID}",
            example.source_role, example.target_role
        )
    };
    format!(
        "An embedded AWS listens on {url} until Ctrl-C. Nothing leaves this machine; nothing is kept.

  source  account {SOURCE_ACCOUNT}  table {TABLE}, with a stream: {items}{changes}
          role {source}
  target  account {TARGET_ACCOUNT}  empty
          role {target}
  both roles ask for the external id {EXTERNAL_ID}

In another terminal:

{environment}

# copy it, catch up, compare
dynaferry migrate {migrate} --create

# keep it up to date
cat > sandbox.toml <<'EOF'
version = 1
[link.orders]
source = {{ table = \"{TABLE}\", region = \"{REGION}\", role_arn = \"{source}\", external_id = \"{EXTERNAL_ID}\" }}
target = {{ table = \"{TABLE}\", region = \"{REGION}\", role_arn = \"{target}\", external_id = \"{EXTERNAL_ID}\", create = true }}
[checkpoint]
store = \"file:./dynaferry-{TABLE}.redb\"
EOF
dynaferry run -c sandbox.toml
",
        items = counted(args.items, "item"),
        source = example.source_role,
        target = example.target_role,
        migrate = link("                  "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn the_lines_to_copy_are_right() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            args: SandboxArgs,
        }
        let args = Only::parse_from(["sandbox", "--rate", "5"]).args;
        let example = Example::new(Options::default()).unwrap();
        let text = welcome(args.listen, &args, &example);
        let toml = text.split("<<'EOF'\n").nth(1).unwrap().split("EOF\n").next().unwrap();
        let config = crate::config::parse("sandbox.toml", toml, []).unwrap();
        assert_eq!(config.links[0].target.role_arn.as_deref(), Some("arn:aws:iam::222222222222:role/dynaferry-target"));
        let command = text.lines().skip_while(|line| !line.starts_with("dynaferry migrate"));
        let command: Vec<&str> = command
            .take_while(|line| !line.is_empty())
            .flat_map(|line| line.split_whitespace())
            .filter(|word| *word != "\\")
            .collect();
        let cli = crate::cli::args::Cli::try_parse_from(command);
        assert!(matches!(cli.unwrap().command, crate::cli::args::Command::Migrate(_)));
        assert!(
            text.contains("AWS_ACCESS_KEY_ID=111111111111") && text.contains("1,000 items, 5.0 changes/s"),
            "{text}"
        );
    }

    #[test]
    fn there_are_as_many_shards_as_asked_for() {
        for faults in [0.0, 0.05] {
            let args = SandboxArgs {
                listen: ([127, 0, 0, 1], 0).into(),
                items: 0,
                rate: 0,
                faults,
                shards: Some(64),
                seed: 7,
            };
            let example = Example::new(options(&args)).unwrap();
            assert_eq!(example.sandbox.shards(SOURCE_ACCOUNT, REGION, TABLE).unwrap().len(), 64);
        }
    }

    #[test]
    fn faults_befall_the_replicator_and_not_who_writes_the_source() {
        assert!(faults(0.0).rules.iter().all(|rule| rule.trigger == Trigger::Chance(0.0)));
        for rule in &faults(0.5).rules {
            assert!(
                rule.account.as_deref() == Some(TARGET_ACCOUNT) || !rule.operation.contains(['*', 'W']),
                "{rule:?}"
            );
            let late = match rule.kind {
                FaultKind::DeliverLate(late) | FaultKind::TimeOutAndDeliverLate(late) => late,
                _ => Duration::ZERO,
            };
            assert!(late <= MAX_LATE, "the help says so");
        }
        assert!(parse_share("0.05").is_ok() && parse_share("1.5").is_err() && parse_share("NaN").is_err());
    }

    #[test]
    fn a_rate_is_spread_without_loss() {
        let mut budget = Budget::new(30, WRITE_EVERY);
        let ticks: Vec<u32> = (0..20).map(|_| budget.next()).collect();
        assert_eq!((ticks[0], ticks[1], ticks.iter().sum::<u32>()), (1, 2, 30));
    }
}
