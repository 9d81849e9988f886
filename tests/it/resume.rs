//! `kill -9` at a random moment, then `--resume`: the same cells, no duplicates, and rows equal to those of an
//! uninterrupted run in everything but time. `KVBENCH_KILLS` sets how often (3 unless told).

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use kvbench::record::{KernelRow, parquet::read_rows};
use rand::{RngExt as _, SeedableRng as _};

/// Fixed sample counts: a stop rule that looks at times would make the number of rows a matter of time.
const SCENARIO: &str = r#"
name = "resume"
seed = 7
repeats = 2
baseline = "fp16"

[timing]
warmup = 1
min_samples = 4
max_samples = 4
rotate_llc = 0.01

[target.cpu.kernel]
model = "tiny"
device = "cpu"

[model.tiny]
num_layers = 1
num_heads = 4
num_kv_heads = 2
head_dim = 64

[method.fp16.fp16]
[method.int8.int8]
[method.kivi-4.kivi]
bits = 4
group = 32
residual = 64

[workload.grid.shapes]
ops = ["decode", "compress"]
batch = [1, 2]
kv_len = [128, 256]
"#;

fn kvbench(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvbench"));
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn only_folder(parent: &Path) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(parent).ok()?.map(|entry| entry.unwrap().path());
    let first = entries.next();
    assert!(entries.next().is_none(), "{}: more than one run", parent.display());
    first
}

/// Every kernel row without its times and without the run's name.
fn timeless(dir: &Path) -> Vec<KernelRow> {
    read_rows::<KernelRow>(dir)
        .unwrap()
        .into_iter()
        .map(|row| KernelRow {
            run_id: String::new(),
            t_ns: None,
            duration_ns: None,
            thread_cpu_ns: None,
            launches: None,
            ..row
        })
        .collect()
}

fn kill_after(scenario: &str, out: &Path, wait: Duration) {
    let mut child = kvbench(&["run", scenario, "--out", out.to_str().unwrap()]).spawn().unwrap();
    std::thread::sleep(wait);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_run_resumes_to_the_same_rows() {
    let work = tempfile::tempdir().unwrap();
    let scenario = work.path().join("resume.toml");
    std::fs::write(&scenario, SCENARIO).unwrap();
    let scenario = scenario.to_str().unwrap();
    let whole_dir = work.path().join("whole");
    let started = std::time::SystemTime::now();
    assert!(
        kvbench(&["run", scenario, "--out", whole_dir.to_str().unwrap()])
            .status()
            .unwrap()
            .success()
    );
    let whole_ms = started.elapsed().unwrap().as_millis() as u64;
    let whole = timeless(&only_folder(&whole_dir).unwrap());
    assert!(!whole.is_empty() && whole.iter().all(|row| row.verified && row.err.is_none()));

    let kills: u64 = std::env::var("KVBENCH_KILLS").ok().map_or(3, |n| n.parse().unwrap());
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(kills);
    let mut resumed = 0;
    for kill in 0..kills {
        let out = work.path().join(format!("killed-{kill}"));
        let wait_ms = rng.random_range(0..=whole_ms);
        kill_after(scenario, &out, Duration::from_millis(wait_ms));
        let Some(dir) = only_folder(&out).filter(|dir| dir.join("manifest.json").exists()) else {
            println!("kill {kill}: after {wait_ms} ms there was no run yet");
            continue;
        };
        assert!(
            kvbench(&["run", "--resume", dir.to_str().unwrap()]).status().unwrap().success(),
            "{wait_ms} ms"
        );
        assert_eq!(timeless(&dir), whole, "killed after {wait_ms} ms");
        resumed += 1;
        println!(
            "kill {kill}: after {wait_ms} of {whole_ms} ms, resumed, equal in everything but time"
        );
    }
    assert!(resumed > 0, "no kill came late enough to test anything");
}
