//! `cargo xtask test`: everything that must hold, in the order in which it fails fastest, and an honest count at the end.

mod failures;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use self::failures::Failures;
use crate::{
    cluster, layering, proto,
    run::{cargo, root, succeed},
};

/// A part of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Formatting, clippy, docs, layering, generated code.
    Lint,
    /// Unit and property tests of the crates.
    Unit,
    /// Integration tests of the crates: against the kernel, in namespaces of their own.
    Kernel,
    /// The built program from outside: languages, behaviour, clean-up, bounds.
    E2e,
}

/// What the runs have counted.
#[derive(Debug, Default)]
struct Count {
    passed: u32,
    failed: u32,
    /// Tests marked `ignore`: they print figures and check nothing.
    measurements: u32,
    skipped: Vec<String>,
    failures: Failures,
}

/// Runs `parts`, or all.
#[expect(clippy::print_stdout, reason = "a report for people and for CI")]
pub(crate) fn run(parts: &[Part]) -> Result<()> {
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    let mut count = Count::default();
    let start = Instant::now();
    if wanted(Part::Lint) {
        lint()?;
    }
    if wanted(Part::Unit) {
        step("unit and property tests");
        tests(&["--workspace", "--exclude", "mirrord-tests", "--lib", "--bins"], &[], &mut count)?;
    }
    if wanted(Part::Kernel) {
        step("integration tests");
        // The local pods' tests start the example of that name.
        succeed(&mut cargo(&["build", "--quiet", "--package", "mirrord-session", "--examples"]))?;
        let kernel = ["--workspace", "--exclude", "mirrord-tests", "--test", "*"];
        cluster::stopped_after(|| tests(&kernel, &[], &mut count))?;
    }
    if wanted(Part::E2e) {
        step("build the program (release)");
        succeed(&mut cargo(&["build", "--quiet", "--release"]))?;
        let stage = Stage::new()?;
        step("victims");
        succeed(Command::new("tests/victims/build.sh").arg(&stage.victims).current_dir(root()))?;
        step("end-to-end tests");
        let built = [("MIRRORD_TUI_BIN", &*stage.program), ("MIRRORD_TUI_VICTIMS", &*stage.victims)];
        cluster::stopped_after(|| tests(&["--package", "mirrord-tests"], &built, &mut count))?;
    }
    for line in count.failures.said().iter().chain(&count.skipped) {
        println!("{line}");
    }
    println!(
        "{} passed, {} failed, {} skipped; {} measurements left out (`cargo test -- --ignored` runs them)",
        count.passed,
        count.failed,
        count.skipped.len(),
        count.measurements,
    );
    println!("took {:.0?}", start.elapsed());
    if count.failed > 0 { bail!("{} tests failed", count.failed) } else { Ok(()) }
}

fn lint() -> Result<()> {
    step("formatting");
    succeed(&mut cargo(&["fmt", "--all", "--check"]))?;
    step("generated code");
    proto::run(true)?;
    step("layering");
    layering::check()?;
    step("clippy");
    let all = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    succeed(&mut cargo(&all))?;
    step("docs");
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    // No crate is published: the readers of these pages have the source, and a module's page may name its private parts.
    succeed(doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"))
}

/// Copies of what the tests run, at a place that an ordinary user can reach as well.
pub(crate) struct Stage {
    folder: PathBuf,
    pub(crate) program: PathBuf,
    victims: PathBuf,
}

impl Stage {
    pub(crate) fn new() -> Result<Self> {
        let folder = std::env::var_os("MIRRORD_TUI_TEST_CACHE")
            .map_or_else(|| PathBuf::from("/var/tmp/mirrord-tui-test"), PathBuf::from);
        let victims = folder.join("victims");
        fs::create_dir_all(&victims).with_context(|| format!("make {}", victims.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let mut stage = Self { folder, program: PathBuf::new(), victims };
        stage.program =
            stage.also("mirrord-tui").context("copy the program to where every user can run it")?;
        Ok(stage)
    }

    /// Copies another program of the release build.
    pub(crate) fn also(&self, name: &str) -> Result<PathBuf> {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        let (built, copy) = (target.join("release").join(name), self.folder.join(name));
        if built.exists() {
            // A new inode: the old one may still be running somewhere.
            drop(fs::remove_file(&copy));
            fs::copy(&built, &copy).with_context(|| format!("copy {}", built.display()))?;
        }
        Ok(copy)
    }
}

/// Runs `cargo test`; shows the results, keeps what failed tests have said and puts all else into `target/test.log`.
#[expect(clippy::print_stdout, reason = "a report for people and for CI")]
fn tests(which: &[&str], environment: &[(&str, &Path)], count: &mut Count) -> Result<()> {
    // Apart from the run, whose list of test files is worth showing.
    succeed(cargo(&["test", "--quiet", "--no-run"]).args(which))?;
    let mut command = cargo(&["test", "--no-fail-fast"]);
    command.args(which).args(["--", "--show-output"]).envs(environment.iter().copied());
    command.stdout(Stdio::piped());
    let mut child = command.spawn().context("start cargo test")?;
    let log = root().join("target/test.log");
    // With CARGO_TARGET_DIR set the build makes no such folder here.
    fs::create_dir_all(root().join("target"))?;
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("open {}", log.display()))?;
    for line in BufReader::new(child.stdout.take().context("cargo test has no stdout")?).lines() {
        let line = line?;
        writeln!(file, "{line}")?;
        if line.starts_with("test result:")
            || line.contains("... FAILED")
            || line.contains("has been running for")
        {
            println!("{line}");
        }
        if let Some(skipped) = line.strip_prefix("skipped: ") {
            count.skipped.push(format!("skipped: {skipped}"));
        }
        count.add(&line);
        count.failures.take(&line);
    }
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

impl Count {
    /// Adds a line such as `test result: ok. 5 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, line: &str) {
        // The runners of kernel tests, one process per test: `test NAME as uid N ... ok (12 ms)`.
        if line.starts_with("test ") && line.ends_with(" ms)") {
            self.passed += u32::from(line.contains("... ok ("));
            self.failed += u32::from(line.contains("... FAILED ("));
        }
        // A test that runs itself again as another user shows the inner run's result as well: those filter all but one test.
        if !line.contains(" 0 filtered out") {
            return;
        }
        let Some(numbers) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in numbers.1.split("; ") {
            match part.split_once(' ').map(|(number, what)| (number.parse().unwrap_or(0), what)) {
                Some((number, "passed")) => self.passed += number,
                Some((number, "failed")) => self.failed += number,
                Some((number, "ignored")) => self.measurements += number,
                _ => {}
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "a report for people and for CI")]
fn step(what: &str) {
    println!("== {what}");
}
