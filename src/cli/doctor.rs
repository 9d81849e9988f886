//! `kvbench doctor`: what is on this machine, and what to do about what is not.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    cli::ui::Ui,
    execute::probe,
    record::env::Machine,
    report::{Column, Table, Value, render},
    units::human_bytes,
};

/// Streams a load test may hold open; each needs a socket, and a few files are open besides.
const STREAMS: u64 = 2000;
/// Rows and pictures of a run need some megabytes.
const DISK_LEAST: u64 = 64 << 20;
const DISK_GOOD: u64 = 1 << 30;
/// The quickstart's blocks fit into this.
const MEMORY_GOOD: u64 = 4 << 30;
/// A clock slower than this is visible in kernels of a few tens of microseconds.
const CLOCK_NS_GOOD: f64 = 200.0;

/// What is here, and the remedy for what is missing.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Folder that results go to, for the space left on its disk.
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub out: PathBuf,
    /// Measure the load client instead: our own server of known timing in a second process tells how far to trust it.
    #[arg(long)]
    pub client: bool,
    #[command(flatten)]
    client_args: super::doctor_client::ClientArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    /// As it should be.
    Ok,
    /// Works, but not well.
    Warn,
    /// Not there; only some uses need it.
    Missing,
    /// kvbench cannot be used like this.
    Fail,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Missing => "missing",
            Status::Fail => "fail",
        }
    }
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    check: &'static str,
    status: Status,
    found: String,
    remedy: String,
}

impl Finding {
    fn new(check: &'static str, status: Status, found: impl Into<String>, remedy: &str) -> Self {
        let remedy = if status == Status::Ok { String::new() } else { remedy.to_owned() };
        Self { check, status, found: found.into(), remedy }
    }
}

/// Prints the table; exit 1 only if kvbench cannot be used here.
///
/// # Errors
/// The table cannot be written.
pub fn run(args: &DoctorArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    if args.client {
        return super::doctor_client::run(&args.client_args, ui);
    }
    let findings = examine(&args.out, &std::env::var_os("PATH").unwrap_or_default());
    ui.out(&render(&table(&findings), ui.format, ui.color))?;
    let failed = findings.iter().any(|finding| finding.status == Status::Fail);
    Ok(ExitCode::from(u8::from(failed)))
}

fn examine(out: &Path, path: &OsString) -> Vec<Finding> {
    let machine = Machine::read();
    let mut findings = vec![cpu(&machine), simd(&machine), cache(&machine)];
    findings.push(memory(machine.memory_bytes, probe::available_memory()));
    findings.extend([cuda(), nvml(), nvrtc()]);
    findings.extend(probe::ENGINES.map(|(name, program)| engine(name, program, path)));
    findings.push(open_files(probe::open_file_limit()));
    findings.extend([clock_source(), clock_cost(probe::clock_cost())]);
    findings.push(disk(out, probe::disk_free_bytes(out)));
    findings.push(build(&machine));
    findings
}

fn table(findings: &[Finding]) -> Table {
    let columns = ["check", "status", "found", "remedy"].map(|name| Column::new(name, ""));
    let mut table = Table::new("What is on this machine", columns.to_vec());
    table.rows = findings.iter().map(row).collect();
    table
}

fn row(finding: &Finding) -> Vec<Value> {
    let remedy = &finding.remedy;
    vec![
        Value::Text(finding.check.to_owned()),
        Value::Text(finding.status.name().to_owned()),
        Value::Text(finding.found.clone()),
        if remedy.is_empty() { Value::Missing } else { Value::Text(remedy.clone()) },
    ]
}

fn cpu(machine: &Machine) -> Finding {
    let model = machine.cpu_model.as_deref().unwrap_or("unknown model");
    let remedy = "timing needs a core for the load client beside the one that is measured";
    match machine.cpus {
        Some(1) => Finding::new("cpu", Status::Warn, format!("{model}, 1 core"), remedy),
        Some(n) => Finding::new("cpu", Status::Ok, format!("{model}, {n} cores"), remedy),
        None => Finding::new("cpu", Status::Warn, format!("{model}, cores unknown"), remedy),
    }
}

fn simd(machine: &Machine) -> Finding {
    let features = &machine.cpu_features;
    let has = |name: &str| features.iter().any(|feature| feature == name);
    let good = has("avx2") && has("f16c") && has("fma");
    let found = if features.is_empty() { "none".to_owned() } else { features.join(" ") };
    let remedy = "without avx2, fma and f16c the portable kernels run: true, but slow; use another machine for timing";
    Finding::new("simd", if good { Status::Ok } else { Status::Warn }, found, remedy)
}

fn cache(machine: &Machine) -> Finding {
    let remedy =
        "its size is not in /sys; a large default is assumed when buffers are rotated past it";
    match machine.llc_bytes {
        Some(bytes) => Finding::new("last-level cache", Status::Ok, human_bytes(bytes), ""),
        None => Finding::new("last-level cache", Status::Warn, "unknown", remedy),
    }
}

fn memory(total: Option<u64>, available: Option<u64>) -> Finding {
    let said = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), human_bytes);
    let found = format!("{} available of {}", said(available), said(total));
    let good = available.is_some_and(|bytes| bytes >= MEMORY_GOOD);
    let remedy = "large shapes will be refused or measured in turn: close programs or lower batch and kv_len";
    Finding::new("memory", if good { Status::Ok } else { Status::Warn }, found, remedy)
}

fn cuda() -> Finding {
    const CHECK: &str = "NVIDIA driver";
    match probe::cuda() {
        Ok(driver) if driver.devices.is_empty() => {
            Finding::new(CHECK, Status::Missing, "driver without a device", "check nvidia-smi")
        }
        Ok(driver) => Finding::new(CHECK, Status::Ok, devices(&driver), ""),
        Err(error) => Finding::new(
            CHECK,
            Status::Missing,
            error.to_string(),
            "only GPUs need it: install the driver (libcuda.so.1), or pass the GPU into the container",
        ),
    }
}

fn devices(driver: &probe::CudaDriver) -> String {
    let name = |(name, memory): &(String, Option<u64>)| match memory {
        Some(bytes) => format!("{name} ({})", human_bytes(*bytes)),
        None => name.clone(),
    };
    let devices: Vec<String> = driver.devices.iter().map(name).collect();
    let version = driver.version.as_deref().unwrap_or("unknown");
    format!(
        "CUDA {version}: {}; this version of kvbench has no CUDA kernels yet",
        devices.join(", ")
    )
}

fn nvml() -> Finding {
    match probe::nvml() {
        Ok((version, count)) => {
            Finding::new("NVML", Status::Ok, format!("driver {version}, {count} devices"), "")
        }
        Err(error) => Finding::new(
            "NVML",
            Status::Missing,
            error.to_string(),
            "telemetry is then the host's CPU and memory; power needs libnvidia-ml.so.1, which comes with the driver",
        ),
    }
}

fn nvrtc() -> Finding {
    match probe::nvrtc() {
        Ok(version) => Finding::new("NVRTC", Status::Ok, version, ""),
        Err(error) => Finding::new(
            "NVRTC",
            Status::Missing,
            error.to_string(),
            "only CUDA kernels need it: pip install nvidia-cuda-nvrtc==13.0.88, or set KVBENCH_NVRTC_DIR to the folder of libnvrtc.so",
        ),
    }
}

fn engine(name: &'static str, program: &str, path: &OsString) -> Finding {
    match probe::program(program, path) {
        Some(file) => Finding::new(name, Status::Ok, file.display().to_string(), ""),
        None => Finding::new(
            name,
            Status::Missing,
            format!("no `{program}` on PATH"),
            "not needed: an engine target is a URL, on this machine or another",
        ),
    }
}

fn open_files(limit: Option<(u64, u64)>) -> Finding {
    const CHECK: &str = "open files";
    let Some((soft, hard)) = limit else {
        return Finding::new(CHECK, Status::Warn, "unknown", "check `ulimit -n`");
    };
    let said = |limit: u64| {
        if limit == libc::RLIM_INFINITY { "unlimited".to_owned() } else { limit.to_string() }
    };
    let found = format!("soft {}, hard {}", said(soft), said(hard));
    let (status, remedy) = if soft >= STREAMS + 100 {
        (Status::Ok, String::new())
    } else if hard >= STREAMS + 100 {
        (Status::Warn, format!("for {STREAMS} streams: ulimit -n {}", 2 * STREAMS))
    } else {
        (Status::Warn, format!("for {STREAMS} streams: raise the hard limit in limits.conf"))
    };
    Finding::new(CHECK, status, found, &remedy)
}

fn clock_source() -> Finding {
    const CHECK: &str = "clock source";
    let remedy = "reading the clock enters the kernel or the host: as root, write `tsc` to \
                  /sys/devices/system/clocksource/clocksource0/current_clocksource";
    match probe::clock_source() {
        Some(name) => {
            let fast = ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"];
            let good = fast.contains(&name.as_str());
            Finding::new(CHECK, if good { Status::Ok } else { Status::Warn }, name, remedy)
        }
        None => Finding::new(CHECK, Status::Warn, "unknown", "see the cost of the clock below"),
    }
}

fn clock_cost(cost: probe::ClockCost) -> Finding {
    let step = cost.step_ns.map_or_else(|| "unknown".to_owned(), |ns| format!("{ns} ns"));
    let found = format!("{:.0} ns a look, smallest step {step}", cost.read_ns);
    let good = cost.read_ns <= CLOCK_NS_GOOD && cost.step_ns.is_some_and(|ns| ns <= 1000);
    let remedy =
        "times below some tens of microseconds are coarse here: use a machine with a tsc clock";
    Finding::new("clock cost", if good { Status::Ok } else { Status::Warn }, found, remedy)
}

fn disk(out: &Path, free: Option<u64>) -> Finding {
    const CHECK: &str = "disk for results";
    let Some(free) = free else {
        return Finding::new(CHECK, Status::Warn, "unknown", "check `df`");
    };
    let status = match free {
        DISK_GOOD.. => Status::Ok,
        DISK_LEAST.. => Status::Warn,
        _ => Status::Fail,
    };
    let found = format!("{} free at {}", human_bytes(free), out.display());
    Finding::new(CHECK, status, found, "free some space, or give another folder with `--out`")
}

fn build(machine: &Machine) -> Finding {
    let good = machine.profile == "release";
    let found = format!("{} {}", machine.profile, env!("CARGO_PKG_VERSION"));
    let remedy = "numbers of a debug build mean nothing: cargo run --release";
    Finding::new("build", if good { Status::Ok } else { Status::Warn }, found, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_the_streams_names_the_remedy() {
        assert_eq!(open_files(Some((1 << 20, 1 << 20))).status, Status::Ok);
        let soft = open_files(Some((1024, 4096)));
        assert_eq!(
            (soft.status, soft.remedy.as_str()),
            (Status::Warn, "for 2000 streams: ulimit -n 4000")
        );
        assert!(open_files(Some((1024, 1024))).remedy.contains("hard limit"));
    }

    #[test]
    fn only_a_full_disk_makes_kvbench_unusable() {
        let status = |free| disk(Path::new("results"), free).status;
        assert_eq!(status(Some(1 << 40)), Status::Ok);
        assert_eq!(status(Some(DISK_LEAST)), Status::Warn);
        assert_eq!(status(Some(0)), Status::Fail);
        assert_eq!(status(None), Status::Warn);
    }

    #[test]
    fn every_finding_that_is_not_ok_has_a_remedy() {
        let findings = examine(Path::new("results"), &OsString::from("/nowhere"));
        assert!(findings.iter().all(|f| (f.status == Status::Ok) == f.remedy.is_empty()));
        let engines = findings.iter().filter(|f| f.found.contains("on PATH")).count();
        assert_eq!(engines, probe::ENGINES.len());
        let table = table(&findings);
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
    }
}
