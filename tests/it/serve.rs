//! The engine target from the outside: `kvbench run` against the server of known timing in a second process.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use kvbench::record::{RequestRow, parquet::read_rows};

/// The rows of a run folder that were measured; warm-ups are rows too.
pub(super) fn measured(dir: &Path) -> Vec<RequestRow> {
    let mut rows = read_rows::<RequestRow>(dir).unwrap();
    rows.retain(|row| !row.warmup);
    rows
}

/// Two targets of one server that is asked for completions, fp16 at the one and fp8 at the other: for runs whose answers a test then
/// writes itself.
pub(super) fn fp16_and_fp8(url: &str) -> String {
    let target = |name: &str, method: &str| {
        format!(
            "[target.{name}.engine]\nurl = \"{url}\"\nendpoint = \"completions\"\nmodel = \"known\"\nmethod = \"{method}\"\n"
        )
    };
    format!("{}{}[method.fp16.fp16]\n[method.fp8.fp8]\n", target("a", "fp16"), target("b", "fp8"))
}

/// Runs a scenario in a folder of its own; what the program said, and the run's folder, which lives as long as the first.
pub(super) fn run_scenario(
    text: &str,
    env: &[(&str, &Path)],
) -> (tempfile::TempDir, Output, PathBuf) {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("scenario.toml");
    std::fs::write(&file, text).unwrap();
    let out = work.path().join("results");
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
        .args(["run", file.to_str().unwrap(), "--out", out.to_str().unwrap()])
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let folder = std::fs::read_dir(&out).unwrap_or_else(|_| panic!("{said}")).next().unwrap();
    let folder = folder.unwrap().path();
    (work, output, folder)
}

/// The server; it ends with its standard input, so also when the test panics.
pub(super) struct Server {
    child: Child,
    pub(super) address: String,
}

impl Server {
    pub(super) fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvbench"))
            .args(["serve-known", "--mode", "independent", "--ttft-ms", "5", "--itl-ms", "1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

fn scenario(url: &str) -> String {
    format!(
        r#"
name = "served"
seed = 3
repeats = 2
baseline = "fp16"
[slo]
ttft_ms = 10000
[target.a.engine]
url = "{url}"
endpoint = "chat"
model = "known"
method = "fp16"
[target.b.engine]
url = "{url}"
endpoint = "completions"
model = "known"
method = "fp8"
[method.fp16.fp16]
[method.fp8.fp8]
[workload.chat.dataset]
path = "datasets/tiny-sharegpt.json"
format = "sharegpt"
n_requests = 6
max_tokens = 12
[load.loop.closed]
concurrency = [3]
[load.arrive.poisson]
rate = [200]
"#
    )
}

fn run(url: &str, key: &str) -> (std::process::Output, tempfile::TempDir, PathBuf) {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("served.toml");
    std::fs::write(&file, scenario(url)).unwrap();
    let out = work.path().join("results");
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("KVBENCH_API_KEY", key)
        .args(["run", file.to_str().unwrap(), "--out", out.to_str().unwrap()])
        .output()
        .unwrap();
    let dir = std::fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
    (output, work, dir)
}

fn everything_written(dir: &std::path::Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(everything_written(&path));
        } else {
            bytes.extend(std::fs::read(path).unwrap());
        }
    }
    bytes
}

/// On a busy machine the client may find itself starved; then the verdict is INVALID and the exit code must say so.
fn exit_code_fits(output: &std::process::Output, dir: &std::path::Path) {
    let manifest = kvbench::record::Manifest::read(dir).unwrap();
    let invalid = manifest.verdict == Some(kvbench::record::manifest::Verdict::Invalid);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), manifest.n_failed),
        (Some(i32::from(invalid)), 0),
        "{stderr}"
    );
}

#[test]
fn a_server_is_driven_and_judged() {
    let server = Server::start();
    let (output, _work, dir) = run(&format!("http://{}", server.address), "");
    exit_code_fits(&output, &dir);
    let rows = measured(&dir);
    assert_eq!(rows.len(), 2 * 2 * 2 * 6, "targets, loads, repeats, requests");
    for row in &rows {
        assert_eq!(row.err, None);
        assert_eq!((row.output_tokens, row.token_source.as_deref()), (Some(12), Some("usage")));
        assert_eq!(row.chunk_ns.len(), 12);
        assert!(row.sent_ns.unwrap() >= row.due_ns && row.first_token_ns >= row.sent_ns);
    }
    let prompts = |target: &str| {
        let mut of: Vec<_> = rows.iter().filter(|row| row.target == target).collect();
        of.sort_by_key(|row| (row.cell_id.replace(&row.method, ""), row.request_id));
        of.iter().map(|row| row.prompt_sha256.clone()).collect::<Vec<_>>()
    };
    assert_eq!(prompts("a"), prompts("b"), "every method gets the same prompts in the same order");
    let of_repeat = |repeat: i64| {
        let load = rows.iter().filter(|row| row.target == "a" && row.load.starts_with("loop"));
        load.filter(|row| row.repeat == repeat)
            .map(|row| &row.prompt_sha256)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_ne!(
        of_repeat(0),
        of_repeat(1),
        "a repeat must not find its prompts in the prefix cache"
    );
    let report = std::fs::read_to_string(dir.join("report.md")).unwrap();
    assert!(report.to_lowercase().contains("ttft") && dir.join("plots").exists());
}

#[test]
fn the_api_key_is_written_nowhere() {
    let server = Server::start();
    let key = "sk-very-secret-1234567";
    let (output, _work, dir) = run(&format!("http://{}", server.address), key);
    exit_code_fits(&output, &dir);
    let mut written = everything_written(&dir);
    written.extend(output.stdout);
    written.extend(output.stderr);
    assert_eq!(memchr::memmem::find(&written, key.as_bytes()), None);
}

#[test]
fn a_server_that_is_not_there_is_rows_with_the_reason() {
    let (output, _work, dir) = run("http://127.0.0.1:9", "");
    assert_eq!(output.status.code(), Some(1));
    let rows = measured(&dir);
    assert!(!rows.is_empty());
    for row in rows {
        assert!(row.err.unwrap().contains("127.0.0.1:9"));
        assert_eq!(row.output_tokens, None);
    }
}
