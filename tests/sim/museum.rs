//! The bug museum: defects that others shipped, brought back one at a time, and the seeds that it takes to notice.
//!
//! Each exhibit is a patch below `museum/`, so the tree itself has no trace of it. The command copies the tree to
//! `target/museum/tree`, applies one patch, builds the simulation there (incrementally, with the dependencies that are
//! built already), runs seeds until one fails, takes the patch back, and goes on with the next. What it finds goes into
//! `src/docs/museum.md`, one row for each exhibit, and the counts into the README; rows that were not measured this time
//! stay as they are.
//!
//! An exhibit that survives is a hole in the checkers, or in what the seeds do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::patch::{Changed, Patch};

/// Seeds that an exhibit may survive.
pub(crate) const MOST_SEEDS: u64 = 10_000;
/// A run that says nothing for so long hangs, and that is a way to be noticed.
const LONGEST_SILENCE: Duration = Duration::from_secs(300);
/// The page of the crate's documentation, from the top of the tree.
const PAGE: &str = "src/docs/museum.md";
/// Where the counts go as well, between these two marks.
const README: &str = "README.md";
const MARKS: [&str; 2] = ["<!-- museum: written by its command -->\n", "<!-- museum: end -->\n"];
/// What is not copied: neither is part of the program.
const NOT_COPIED: [&str; 2] = ["target", ".git"];

/// How the page begins.
const INTRODUCTION: &str = "\
# The bug museum

Defects that others shipped, and some that are easily made, each brought back into a copy of the program by a patch below
`tests/sim/museum/`; then the simulation runs seeds from 0 on until a check notices. The case is the project's number of the
defect. The checks: C1 equality of both tables, C2 checkpoints, C3 order of a key, C4 parents before children, C5 lost
history lies under a gap, C7 requests that the service must refuse, C8 liveness, C9 look-ahead, `lag` the lag that is shown,
`assert` the program's own. One that *survived* was not noticed by so many seeds; that is a hole until more seeds close it.

Written by `cargo test --release --test sim -- museum`.
";

/// A defect to be brought back.
struct Exhibit {
    name: String,
    patch: Patch,
}

impl Exhibit {
    fn header(&self, name: &str) -> &str {
        self.patch.header(name).unwrap_or("?")
    }
}

/// How an exhibit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// Noticed at the so manieth seed, by this check.
    Killed(u64, String),
    /// Not noticed by so many.
    Survived(u64),
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All exhibits, by name.
fn exhibits() -> Result<Vec<Exhibit>, String> {
    let folder = top().join("tests/sim/museum");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{} cannot be read: {error}", folder.display()))?;
    let mut exhibits = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_patch(path)) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).map_err(|error| format!("{name} cannot be read: {error}"))?;
        let patch = Patch::parse(&text).map_err(|what| format!("{name}: {what}"))?;
        if let Some(missing) = ["case", "defect", "shipped by"].iter().find(|header| patch.header(header).is_none()) {
            return Err(format!("{name}: its header does not say {missing:?}"));
        }
        exhibits.push(Exhibit { name, patch });
    }
    exhibits.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(exhibits)
}

fn is_patch(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "patch")
}

/// The plain test: every patch applies to the tree as it is. Builds nothing.
pub(crate) fn every_patch_applies() -> bool {
    let exhibits = match exhibits() {
        Ok(exhibits) => exhibits,
        Err(what) => {
            println!("FAILED museum: {what}");
            return false;
        }
    };
    let mut broken = 0;
    for exhibit in &exhibits {
        if let Err(what) = exhibit.patch.apply(top()) {
            broken += 1;
            println!("FAILED museum: {} does not apply any more: {what}", exhibit.name);
        }
    }
    println!("museum: {} patches, {broken} of them do not apply", exhibits.len());
    broken == 0 && !exhibits.is_empty()
}

/// What is to be run.
pub(crate) struct Tour<'a> {
    pub(crate) seeds: u64,
    pub(crate) jobs: Option<usize>,
    pub(crate) only: Option<&'a str>,
    pub(crate) profile: &'a str,
}

/// The command. Answers whether every exhibit was noticed.
pub(crate) fn run(tour: &Tour<'_>) -> bool {
    match try_run(tour) {
        Ok(all_are_killed) => all_are_killed,
        Err(what) => {
            println!("FAILED museum: {what}");
            false
        }
    }
}

fn try_run(tour: &Tour<'_>) -> Result<bool, String> {
    let all = exhibits()?;
    let wanted = |exhibit: &&Exhibit| tour.only.is_none_or(|only| exhibit.name.contains(only));
    let scratch = Scratch::copy().map_err(|error| format!("the tree cannot be copied: {error}"))?;
    let mut rows = read_rows();
    let mut survivors = 0;
    let mut visited = 0;
    for exhibit in all.iter().filter(wanted) {
        let started = Instant::now();
        let fate = scratch.visit(exhibit, tour)?;
        visited += 1;
        survivors += usize::from(matches!(fate, Fate::Survived(_)));
        let row = row(exhibit, &fate);
        println!("{row} ({:.0} s)", started.elapsed().as_secs_f64());
        rows.retain(|known| name_of(known) != name_of(&row));
        rows.push(row);
        // Written each time: a tour takes an hour.
        write_page(&all, &rows).map_err(|error| format!("{PAGE} cannot be written: {error}"))?;
    }
    println!("{visited} exhibits, {survivors} survived");
    Ok(survivors == 0 && visited > 0)
}

/// The copy of the tree that patches are applied to.
struct Scratch {
    tree: PathBuf,
    target: PathBuf,
}

impl Scratch {
    fn copy() -> io::Result<Self> {
        // …/target/release/deps/sim-0123
        let here = std::env::current_exe()?;
        let target = here.ancestors().nth(3).ok_or_else(|| io::Error::other("no target folder"))?.to_owned();
        let tree = target.join("museum/tree");
        mirror(top(), &tree)?;
        // Tests of a package build its program first; the simulation has no use for that.
        let manifest = fs::read_to_string(top().join("Cargo.toml"))?;
        write_if_changed(&tree.join("Cargo.toml"), without_program(&manifest).as_bytes())?;
        match fs::remove_file(tree.join("src/main.rs")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self { tree, target }),
        }
    }

    fn visit(&self, exhibit: &Exhibit, tour: &Tour<'_>) -> Result<Fate, String> {
        let changed = exhibit.patch.apply(top()).map_err(|what| format!("{} does not apply: {what}", exhibit.name))?;
        let write = |text: fn(&Changed) -> &str| {
            let mut files = changed.iter();
            let written =
                files.try_for_each(|file| write_if_changed(&self.tree.join(&file.file), text(file).as_bytes()));
            written.map_err(|error| format!("the copy cannot be written: {error}"))
        };
        write(|file| &file.after)?;
        let fate = self.build(tour).and_then(|program| run_seeds(&program, tour, exhibit.patch.header("family")));
        write(|file| &file.before)?;
        fate.map_err(|what| format!("{}: {what}", exhibit.name))
    }

    /// Builds the simulation of the copy; answers its program.
    fn build(&self, tour: &Tour<'_>) -> Result<PathBuf, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // Built for some minutes of seeds: what is optimised for hours takes longer to build than to run.
        let of_ours = |setting: &str| format!("profile.{}.package.dynaferry.{setting}", tour.profile);
        let output = Command::new(cargo)
            .args(["test", "--test", "sim", "--no-run", "--locked", "--message-format=json", "--profile", tour.profile])
            .args(["--config", &of_ours("opt-level=1"), "--config", &of_ours("debug=false")])
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", "1")
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| format!("cargo cannot be run: {error}"))?;
        let messages = String::from_utf8_lossy(&output.stdout);
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let messages: Vec<_> = messages.collect();
        let mut programs = messages.iter().filter(|message| message.pointer("/target/name") == Some(&"sim".into()));
        let program = programs.find_map(|message| message.get("executable")?.as_str().map(PathBuf::from));
        match program.filter(|_| output.status.success()) {
            Some(program) => Ok(program),
            None => {
                let said = messages.iter().filter_map(|message| message.pointer("/message/rendered")?.as_str());
                let said: String = said.chain([&*String::from_utf8_lossy(&output.stderr)]).collect();
                Err(format!("it cannot be built:\n{said}"))
            }
        }
    }
}

/// Makes a folder like another one. What is the same is not touched, so that little is built anew.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)?.collect::<io::Result<Vec<_>>>()? {
        let is_gone = !from.join(entry.file_name()).exists();
        match entry.file_type()?.is_dir() {
            true if is_gone => fs::remove_dir_all(entry.path())?,
            false if is_gone => fs::remove_file(entry.path())?,
            _ => {}
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if NOT_COPIED.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            mirror(&entry.path(), &copy)?;
        } else if copy.file_name().is_some_and(|name| name != "Cargo.toml") {
            write_if_changed(&copy, &fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|known| known == bytes) { Ok(()) } else { fs::write(path, bytes) }
}

fn without_program(manifest: &str) -> String {
    let tables = manifest.split("\n[").filter(|table| !table.starts_with("[bin]]"));
    tables.collect::<Vec<_>>().join("\n[")
}

/// Runs seeds until one fails, all of them of one family where the exhibit asks for that.
fn run_seeds(program: &Path, tour: &Tour<'_>, family: Option<&str>) -> Result<Fate, String> {
    let mut command = Command::new(program);
    command.args(family.iter().flat_map(|family| ["--family", family]));
    command.args(["--fail-fast", "--seeds", &tour.seeds.to_string()]);
    if let Some(jobs) = tour.jobs {
        command.args(["--jobs", &jobs.to_string()]);
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    let (sender, lines) = std::sync::mpsc::channel();
    if let Some(out) = child.stdout.take() {
        std::thread::spawn(move || {
            io::BufRead::lines(io::BufReader::new(out))
                .try_for_each(|line| line.ok().and_then(|line| sender.send(line).ok()))
        });
    }
    let mut told = String::new();
    loop {
        match lines.recv_timeout(LONGEST_SILENCE) {
            Ok(line) => told.extend([line.as_str(), "\n"]),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                // It is ours, and it does not end by itself.
                drop(child.kill());
                drop(child.wait());
                return Ok(Fate::Killed(seeds_of(&told) + 1, "hangs".to_owned()));
            }
        }
    }
    let status = child.wait().map_err(|error| format!("{} was lost: {error}", program.display()))?;
    match first_failure(&told) {
        Some((seed, check)) => Ok(Fate::Killed(seed + 1, check)),
        None if status.success() => Ok(Fate::Survived(tour.seeds)),
        None => Err(format!("the run ended with {status}, and no seed failed:\n{told}")),
    }
}

/// How many seeds had run when something was said for the last time.
fn seeds_of(told: &str) -> u64 {
    let counts = told.lines().filter(|line| line.contains(" seeds, ")).filter_map(|line| line.split(' ').next());
    counts.filter_map(|count| count.parse().ok()).max().unwrap_or(0)
}

/// The lowest seed that failed, and the first check that it failed. Seeds are begun in order, and all that were begun
/// are finished, so no lower one would have failed.
fn first_failure(told: &str) -> Option<(u64, String)> {
    let mut failures = told.split("FAILED seed ").skip(1).filter_map(|failure| {
        let seed = failure.split(':').next()?.parse().ok()?;
        let mut checks = failure.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(" after "));
        let (check, _) = checks.find(|(check, _)| !check.contains(' '))?;
        Some((seed, check.to_owned()))
    });
    let first = failures.next()?;
    Some(failures.fold(first, |least, next| if next.0 < least.0 { next } else { least }))
}

fn row(exhibit: &Exhibit, fate: &Fate) -> String {
    let (seeds, check) = match fate {
        Fate::Killed(seeds, check) => (seeds.to_string(), check.as_str()),
        Fate::Survived(seeds) => (format!("**survived {seeds}**"), "–"),
    };
    let case = exhibit.header("case");
    let (defect, by) = (exhibit.header("defect"), exhibit.header("shipped by"));
    format!("| {case} | {defect} | {by} | {seeds} | {check} | `{}` |", exhibit.name)
}

/// The last column.
fn name_of(row: &str) -> Option<&str> {
    row.rsplit('`').nth(1)
}

/// The rows of the page as it is.
fn read_rows() -> Vec<String> {
    let page = fs::read_to_string(top().join(PAGE)).unwrap_or_default();
    page.lines().filter(|line| line.starts_with("| ") && name_of(line).is_some()).map(str::to_owned).collect()
}

fn write_page(exhibits: &[Exhibit], rows: &[String]) -> io::Result<()> {
    let measured = |exhibit: &&Exhibit| rows.iter().find(|row| name_of(row) == Some(exhibit.name.as_str()));
    let rows: Vec<&String> = exhibits.iter().filter_map(|exhibit| measured(&exhibit)).collect();
    let seeds = |row: &&&String| row.split('|').nth(4).and_then(|cell| cell.trim().parse::<u64>().ok());
    let mut killed: Vec<u64> = rows.iter().filter_map(|row| seeds(&row)).collect();
    killed.sort_unstable();
    let median = killed.get(killed.len() / 2).copied().unwrap_or_default();
    let most = killed.last().copied().unwrap_or_default();
    let counts = format!(
        "{} defects, {} measured, {} killed; seeds until killed: median {median}, most {most}.",
        exhibits.len(),
        rows.len(),
        killed.len()
    );
    let mut page = format!("{INTRODUCTION}\n{counts}\n\n");
    page.push_str("| case | defect | shipped by | seeds until killed | by | patch |\n|---|---|---|---|---|---|\n");
    rows.iter().for_each(|row| page.extend([row.as_str(), "\n"]));
    write_if_changed(&top().join(PAGE), page.as_bytes())?;
    let readme = fs::read_to_string(top().join(README))?;
    let [begin, end] = MARKS;
    let parts = readme.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) = parts.ok_or_else(|| io::Error::other(format!("{README} lacks the marks of the museum")))?;
    write_if_changed(&top().join(README), format!("{before}{begin}{counts}\n{end}{after}").as_bytes())
}
