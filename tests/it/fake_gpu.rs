//! The whole CUDA path without a GPU: a driver of our own (`kernels/emu/fake_cuda.cpp`) takes the place of libcuda.so.1 and
//! runs the emulated kernels. Everything else is real: NVRTC compiles, modules are found by their mangled names, graphs are
//! captured and replayed, rows are written. Times mean nothing there, and the device's name says so.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use kvbench::{
    kernel::cuda::{instances, nvrtc, program::Instance},
    record::{KernelRow, parquet::read_rows},
};

/// Head dimension of the emulated kernels.
const HEAD_DIM: usize = 128;

/// Paths of a built driver.
struct Fake {
    folder: PathBuf,
    kernels: String,
}

/// Built once; `None`, with a printed line, where a compiler is missing. With `KVBENCH_NVRTC_DIR` set (CI) nothing may be
/// missing.
fn fake() -> Option<&'static Fake> {
    static BUILT: OnceLock<Option<Fake>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let told = std::env::var_os("KVBENCH_NVRTC_DIR").map(PathBuf::from);
            let tools = nvrtc::Tools { nvrtc_dir: told.clone(), cache_dir: None };
            let missing = match (nvrtc::Nvrtc::find(&tools), Command::new("g++").arg("-v").output())
            {
                (Err(error), _) => format!("{error:#}"),
                (_, Err(error)) => format!("g++: {error}"),
                _ => return Some(build()),
            };
            assert!(told.is_none(), "{missing}");
            println!("skipped: {missing}");
            None
        })
        .as_ref()
}

fn build() -> Fake {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake-cuda");
    fs::create_dir_all(&folder).unwrap();
    let emu = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/emu");
    compile(&emu.join("fake_cuda.cpp"), &folder.join("libcuda.so.1"), &[]);
    let all: Vec<Instance> = instances().into_iter().filter(|i| i.head_dim == HEAD_DIM).collect();
    let sources: BTreeSet<&str> = all.iter().map(|instance| instance.source.file()).collect();
    let libraries: Vec<String> = sources
        .iter()
        .map(|source| {
            let entries = all.iter().filter(|instance| instance.source.file() == *source);
            let text: String =
                entries.map(|i| format!("KVB_ENTRY(\"{0}\", {0}),\n", i.expression)).collect();
            let main = folder.join(format!("{source}.cpp"));
            let text = format!(
                "#define KVB_EMU 1\n#define KVB_EMU_MANGLED 1\n#define KVB_D {HEAD_DIM}\n#include \"{source}\"\n\
                 static const emu::Entry entries[] = {{\n{text}}};\n#include \"entry.h\"\n"
            );
            fs::write(&main, text).unwrap();
            let library = folder.join(format!("{source}.so"));
            compile(&main, &library, &[emu.parent().unwrap(), &emu]);
            library.display().to_string()
        })
        .collect();
    Fake { folder, kernels: libraries.join(":") }
}

fn compile(source: &Path, library: &Path, includes: &[&Path]) {
    let mut command = Command::new("g++");
    command.args(["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-ffp-contract=off"]);
    command.args(["-fno-gnu-unique", "-Wl,-Bsymbolic"]);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("f16c") {
        command.arg("-mf16c");
    }
    includes.iter().for_each(|path| {
        command.arg("-I").arg(path);
    });
    let output = command.arg(source).arg("-o").arg(library).arg("-ldl").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Fake {
    /// kvbench on a machine whose driver is the fake one.
    fn kvbench(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("kvbench"));
        command
            .env("LD_LIBRARY_PATH", &self.folder)
            .env("KVB_FAKE_KERNELS", &self.kernels)
            .env("KVBENCH_KERNEL_CACHE", self.folder.join("cache"));
        command
    }
}

#[test]
fn doctor_sees_the_driver() {
    let Some(fake) = fake() else { return };
    let output = fake.kvbench().args(["doctor", "--format", "json"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("emulated GPU (times mean nothing)"), "{text}");
}

const SCENARIO: &str = r#"
name = "fake"
seed = 7
repeats = 1
baseline = "fp16"

[timing]
warmup = 1
min_samples = 3
max_samples = 3
rotate_llc = 0.0

[target.gpu.kernel]
model = "tiny"
device = "auto"

[model.tiny]
num_layers = 1
num_heads = 4
num_kv_heads = 2
head_dim = 128

[method.fp16.fp16]
[method.kivi-2.kivi]
bits = 2
group = 32
residual = 128
[method.h2o.h2o]
heavy = 32
recent = 32

[workload.decode.shapes]
ops = ["decode"]
batch = [2]
kv_len = [200]
"#;

fn rows(results: &Path) -> Vec<KernelRow> {
    let run = fs::read_dir(results).unwrap().next().unwrap().unwrap().path();
    read_rows(&run).unwrap()
}

#[test]
fn a_scenario_runs_on_the_device() {
    let Some(fake) = fake() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (scenario, results) = (dir.path().join("fake.toml"), dir.path().join("results"));
    fs::write(&scenario, SCENARIO).unwrap();
    let run = |command: &mut Command| {
        let output = command.arg("run").arg(&scenario).arg("--out").arg(&results).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, log) = run(&mut fake.kvbench());
    assert_eq!(code, Some(0), "{log}");
    let all = rows(&results);
    assert!(all.iter().all(|row| row.backend == "cuda-sm_90a" && row.timer == "device"), "{log}");
    for method in ["fp16", "fp16-aa", "kivi-2", "h2o"] {
        let own: Vec<_> = all.iter().filter(|row| row.method == method).collect();
        assert_eq!(own.len(), 3, "{method}: {log}");
        assert!(own.iter().all(|row| row.verified && row.err.is_none() && row.launches > Some(0)));
    }
    let probes = |op: &str| all.iter().filter(|row| row.method == "probe" && row.op == op).count();
    assert_eq!((probes("read"), probes("copy")), (3, 3));
}

/// One kernel cannot be launched: its cell is a row with the reason, the others are measured, exit code 1.
#[test]
fn a_kernel_that_the_device_refuses_is_a_row() {
    let Some(fake) = fake() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (scenario, results) = (dir.path().join("fake.toml"), dir.path().join("results"));
    fs::write(&scenario, SCENARIO).unwrap();
    let mut command = fake.kvbench();
    command.env("KVB_FAKE_FAIL", "decode_kivi").arg("run").arg(&scenario);
    let output = command.arg("--out").arg(&results).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let all = rows(&results);
    let failed: Vec<_> = all.iter().filter(|row| row.err.is_some()).collect();
    assert!(failed.len() == 1 && failed[0].method == "kivi-2", "{failed:?}");
    assert!(
        failed[0].err.as_ref().unwrap().contains("a kernel failed while it ran")
            || failed[0].err.as_ref().unwrap().contains("launch"),
        "{failed:?}"
    );
    assert!(all.iter().any(|row| row.method == "h2o" && row.duration_ns.is_some()));
}

#[test]
fn too_little_device_memory_is_said_before_anything_is_allocated() {
    let Some(fake) = fake() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (scenario, results) = (dir.path().join("fake.toml"), dir.path().join("results"));
    fs::write(&scenario, SCENARIO).unwrap();
    let mut command = fake.kvbench();
    command.env("KVB_FAKE_MEMORY", "300000").arg("run").arg(&scenario);
    let output = command.arg("--out").arg(&results).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let err = |row: &KernelRow| row.err.clone().unwrap_or_default();
    assert!(rows(&results).iter().all(|row| err(row).contains("memory: expected at most")));
}
