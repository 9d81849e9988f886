//! Engines that kvbench starts: they come up, are asked what they are, and nothing of them is left behind, however it ends.
//!
//! The engine is the server of known timing behind a shell script, so that it can be made to fail.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use kvbench::record::{Manifest, RequestRow};

pub(crate) const POLL: Duration = Duration::from_millis(20);

/// A folder with an engine `fake` and a scenario that starts it.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    /// `engine` is the body of a shell script; its first argument is the port, and `$KVBENCH` this program.
    pub(crate) fn new(engine: &str, scenario: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("fake");
        fs::write(
            &script,
            format!("#!/bin/sh\nKVBENCH={}\n{engine}\n", env!("CARGO_BIN_EXE_kvbench")),
        )
        .unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let text =
            SCENARIO.replace("{script}", script.to_str().unwrap()).replace("{more}", scenario);
        fs::write(folder.path().join("engine.toml"), text).unwrap();
        Self { folder }
    }

    pub(crate) fn command(&self) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_kvbench")))
    }

    pub(crate) fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).env("KVBENCH_TEST_MARK", self.mark());
        command.args(["run", "engine.toml", "--out", "results"]).env_remove("KVBENCH_API_KEY");
        command
    }

    /// Stands in the environment of everything that the run starts.
    fn mark(&self) -> String {
        self.folder.path().display().to_string()
    }

    pub(crate) fn run(&self) -> (Output, String) {
        let output = self.command().output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        self.nothing_left();
        (output, said)
    }

    /// Goes on with the run.
    pub(crate) fn resume(&self) -> (Output, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvbench"));
        command.current_dir(self.folder.path()).env("KVBENCH_TEST_MARK", self.mark());
        command.args(["run", "--resume"]).arg(self.run_folder()).env_remove("KVBENCH_API_KEY");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        self.nothing_left();
        (output, said)
    }

    /// Changes the scenario; a text that is not there would change nothing.
    #[track_caller]
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let file = self.folder.path().join("engine.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from:?} not in {text}");
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
    }

    pub(crate) fn run_folder(&self) -> PathBuf {
        let entries = fs::read_dir(self.folder.path().join("results")).unwrap();
        entries.map(|entry| entry.unwrap().path()).next().unwrap()
    }

    pub(crate) fn rows(&self) -> Vec<RequestRow> {
        super::serve::measured(&self.run_folder())
    }

    /// Processes of the run that still live.
    fn living(&self) -> Vec<String> {
        let wanted = format!("KVBENCH_TEST_MARK={}", self.mark());
        let carries = |folder: &Path| {
            let environ = fs::read(folder.join("environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
        };
        let alive = |folder: &Path| {
            let stat = fs::read_to_string(folder.join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
        };
        let folders = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let name =
            |folder: &PathBuf| fs::read_to_string(folder.join("cmdline")).unwrap_or_default();
        folders
            .filter(|folder| carries(folder) && alive(folder))
            .map(|folder| name(&folder))
            .collect()
    }

    #[track_caller]
    pub(crate) fn nothing_left(&self) {
        // What was killed stays in /proc until the kernel has got round to it; what was not stays for good.
        let gone = || {
            std::thread::sleep(POLL);
            self.living().is_empty()
        };
        if !(0..500).any(|_| gone()) {
            panic!("left behind: {:?}", self.living());
        }
    }

    /// Until so many processes of the run live; a test that hangs here has found what it looks for.
    pub(crate) fn wait_for(&self, wanted: impl Fn(usize) -> bool) {
        while !wanted(self.living().len()) {
            std::thread::sleep(POLL);
        }
    }
}

const SCENARIO: &str = r#"
name = "engine"
repeats = 2
baseline = "base"
[engine.fake]
title = "Fake"
endpoints = ["completions"]
launch = ["{script}", "{port}", "{host}", "{model}"]
health = { path = "/health", timeout_s = 60 }
stop = { grace_s = 2 }
[engine.fake.tells]
version.json = { path = "/version", pointer = "/version" }
[engine.fake.kv]
half = { flags = ["--kv", "half"] }
quarter = { flags = ["--kv", "quarter"] }
[method.base.engine]
kv = "half"
[method.less.engine]
kv = "quarter"
[workload.words.synthetic]
n_requests = 4
prompt_tokens = { fixed = 4 }
output_tokens = { fixed = 3 }
[load.two.closed]
concurrency = [2]
[target.fake.engine]
engine = "fake"
model = "m"
endpoint = "completions"
warmup_requests = 1
{more}
"#;

/// A worker of its own that leaves the process group, as engines' do, beside the server.
pub(crate) const GOOD: &str = "setsid sleep 1000 &\nexec $KVBENCH serve-known --mode independent --ttft-ms 1 --itl-ms 1 --port $1";

#[test]
fn every_configuration_is_started_measured_and_ended() {
    let place = Place::new(GOOD, "");
    let (output, said) = place.run();
    // 1 is a client that a busy machine starved, which these tests do not measure: rows say whether anything failed.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    assert!(place.rows().iter().all(|row| row.err.is_none()), "{said}");
    let rows = place.rows();
    // base, less and base-aa, two repeats, four requests.
    assert_eq!(rows.len(), 24);
    assert!(rows.iter().all(|row| row.err.is_none()), "{rows:?}");
    let of = |method: &str, repeat| {
        let mine = rows.iter().filter(|row| row.method == method && row.repeat == repeat);
        mine.map(|row| row.prompt_sha256.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("base", 0), of("less", 0), "same prompts in the same order");
    assert_ne!(of("base", 0), of("base", 1), "a repeat has its own");
    interleaved(&rows);
    for label in ["fake (Fake) base words two-2 r0", "fake (Fake) less words two-2 r1"] {
        assert!(said.contains(label), "{label:?} not in {said}");
    }
    let manifest = Manifest::read(&place.run_folder()).unwrap();
    let engine = &manifest.engines["fake_less_r1"]["proof"];
    assert_eq!(engine["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(engine["listener"], "engine", "the listener is checked: {engine}");
    assert!(engine["command"].as_str().unwrap().contains("--kv quarter"), "{engine}");
    assert_eq!(manifest.proofs.len(), 6);
    assert!(place.run_folder().join("engines/fake_base_r0.log").exists());
}

/// Forth in the first repeat, back in the second.
fn interleaved(rows: &[RequestRow]) {
    let mut order: Vec<(i64, String, i64)> = Vec::new();
    let mut by_time: Vec<&RequestRow> = rows.iter().collect();
    by_time.sort_by_key(|row| row.due_ns);
    for row in by_time {
        if order
            .last()
            .is_none_or(|(repeat, method, _)| (*repeat, method) != (row.repeat, &row.method))
        {
            order.push((row.repeat, row.method.clone(), row.due_ns));
        }
    }
    let order: Vec<(i64, &str)> =
        order.iter().map(|(repeat, method, _)| (*repeat, method.as_str())).collect();
    assert_eq!(
        order,
        [(0, "base"), (0, "less"), (0, "base-aa"), (1, "base-aa"), (1, "less"), (1, "base")]
    );
}

#[test]
fn an_engine_that_dies_at_once_is_quoted() {
    let place = Place::new("echo loading weights; echo 'CUDA out of memory' >&2; exit 7", "");
    let (output, said) = place.run();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let rows = place.rows();
    assert_eq!(rows.len(), 6, "a row a cell");
    let err = rows[0].err.as_deref().unwrap();
    for part in ["Fake did not start", "exit code 7", "CUDA out of memory"] {
        assert!(err.contains(part), "{part:?} not in {err}");
    }
}

#[test]
fn an_engine_that_is_never_healthy_is_given_up() {
    let place = Place::new(
        "echo still loading; exec sleep 1000",
        "start_timeout_s = 0.5\nmethods = [\"base\"]",
    );
    let (output, said) = place.run();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let err = place.rows()[0].err.clone().unwrap();
    assert!(err.contains("was not ready after") && err.contains("still loading"), "{err}");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let place = Place::new(GOOD, "program = \"/no/such/program\"");
    let (output, said) = place.run();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let err = place.rows()[0].err.clone().unwrap();
    assert!(err.contains("/no/such/program") && err.contains("hint: install it"), "{err}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let place = Place::new(GOOD, &format!("port = {port}"));
    let (output, said) = place.run();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let err = place.rows()[0].err.clone().unwrap();
    assert!(err.contains(&format!("port {port} of 127.0.0.1 cannot be used")), "{err}");
}

/// The server goes away after the first answers of the second configuration.
#[test]
fn an_engine_that_is_killed_in_a_run_fails_its_requests_only() {
    let dying = "case \"$*\" in *quarter*) ( sleep 0.7; kill -9 $$ ) & esac\n\
                 exec $KVBENCH serve-known --mode independent --ttft-ms 400 --itl-ms 1 --port $1";
    let place = Place::new(dying, "");
    let (output, said) = place.run();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let rows = place.rows();
    let failed =
        |method: &str| rows.iter().filter(|row| row.method == method && row.err.is_some()).count();
    assert_eq!((failed("base"), failed("base-aa")), (0, 0));
    assert!(failed("less") > 0);
}

#[test]
fn what_is_not_told_is_null_and_any_server_is_asked_its_version() {
    let place = Place::new(GOOD, "");
    let file = place.folder.path().join("engine.toml");
    let text = fs::read_to_string(&file).unwrap();
    let line = "version.json = { path = \"/version\", pointer = \"/version\" }";
    assert!(text.contains(line));
    // The server of known timing tells it at /version, where kvbench asks any server.
    fs::write(&file, text.replace(line, "model.json = { path = \"/nowhere\", pointer = \"/x\" }"))
        .unwrap();
    let (output, said) = place.run();
    // 1 is a client that a busy machine starved, which these tests do not measure: rows say whether anything failed.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    assert!(place.rows().iter().all(|row| row.err.is_none()), "{said}");
    let manifest = Manifest::read(&place.run_folder()).unwrap();
    let proof = &manifest.engines["fake_base_r0"]["proof"];
    assert_eq!(proof["version_source"], "server");
    assert!(proof["tells"]["model"].is_null(), "absent, not empty: {proof}");
}

pub(crate) fn begun(place: &Place) -> Child {
    let child = place.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // kvbench, the supervisor, the server and its worker.
    place.wait_for(|n| n >= 4);
    child
}

pub(crate) const SLOW: &str = "setsid sleep 1000 &\nexec $KVBENCH serve-known --mode independent --ttft-ms 1 --itl-ms 1000 --port $1";

#[test]
fn kill_9_of_kvbench_leaves_nothing_behind() {
    let place = Place::new(SLOW, "");
    let mut child = begun(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    place.wait_for(|n| n == 0);
}

#[test]
fn ctrl_c_ends_the_engine_with_the_run() {
    let place = Place::new(SLOW, "drain_s = 0.1");
    let mut child = begun(&place);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    place.nothing_left();
}
