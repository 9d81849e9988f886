//! What the machine says about itself and what its wall clock shows. The only place that reads the wall clock.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The machine kvbench ran on. What could not be read is `None` or empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Host name.
    pub hostname: Option<String>,
    /// CPU model as `/proc/cpuinfo` names it.
    pub cpu_model: Option<String>,
    /// Logical CPUs this process may use.
    pub cpus: Option<usize>,
    /// SIMD features that the kernels care about.
    pub cpu_features: Vec<String>,
    /// Size of the last-level cache that CPU 0 sees.
    pub llc_bytes: Option<u64>,
    /// Installed memory.
    pub memory_bytes: Option<u64>,
    /// Kernel name and release.
    pub kernel: Option<String>,
    /// Operating system and architecture kvbench was built for.
    pub platform: String,
    /// Build profile of kvbench: `release` or `debug`.
    pub profile: String,
}

impl Machine {
    /// Reads `/proc` and `/sys`.
    pub fn read() -> Self {
        Self {
            hostname: line("/proc/sys/kernel/hostname"),
            cpu_model: proc_field("/proc/cpuinfo", "model name"),
            cpus: std::thread::available_parallelism().ok().map(usize::from),
            cpu_features: cpu_features(),
            llc_bytes: llc_bytes(),
            memory_bytes: proc_field("/proc/meminfo", "MemTotal").and_then(|text| kib(&text)),
            kernel: line("/proc/sys/kernel/osrelease").map(|release| format!("Linux {release}")),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        }
    }
}

/// The wall clock.
///
/// # Errors
/// The clock shows a time before 1970.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall_clock() -> anyhow::Result<Timestamp> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("wall clock: before 1970\n  hint: set the clock")?;
    let ns = i128::try_from(since.as_nanos()).context("wall clock: out of range")?;
    Timestamp::from_nanosecond(ns).context("wall clock: out of range")
}

/// RFC 3339 in UTC with nanoseconds, for `origin` and `ended` of the manifest.
pub fn rfc3339(at: Timestamp) -> String {
    at.to_string()
}

/// As in the name of a run folder: `20261124T013000Z`.
pub fn stamp(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Nanoseconds from a manifest's `origin` to `now`: where the clock of a resumed run starts.
///
/// # Errors
/// `origin` is not RFC 3339.
pub fn ns_since(origin: &str, now: Timestamp) -> anyhow::Result<i64> {
    let origin: Timestamp =
        origin.parse().with_context(|| format!("origin: expected RFC 3339, got `{origin}`"))?;
    i64::try_from(now.as_nanosecond() - origin.as_nanosecond())
        .context("origin: more than 292 years away")
}

/// Git revision of a working directory, with `-dirty` where tracked files differ; `None` without git or repository.
pub fn git_revision(dir: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(dir).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let revision = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { revision } else { format!("{revision}-dirty") })
}

/// Folder that an environment variable names; `None` where it is unset or empty.
pub fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The user's folder for things that can be made again, by the XDG base directory rules; `None` without a home.
pub fn cache_folder() -> Option<PathBuf> {
    let own = folder("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    own.or_else(|| Some(folder("HOME")?.join(".cache"))).map(|path| path.join("kvbench"))
}

fn line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// First value of `key : value` or `key: value`.
fn proc_field(path: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values
        .into_iter()
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().to_owned())
}

/// `24051234 kB` or `32768K` to bytes.
fn kib(text: &str) -> Option<u64> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let scale = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "kb" | "k" => 1024,
        "m" => 1024 * 1024,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(scale)
}

fn llc_bytes() -> Option<u64> {
    let caches = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let size = |entry: std::io::Result<std::fs::DirEntry>| {
        let folder = entry.ok()?.path();
        let level: u32 = line(folder.join("level").to_str()?)?.parse().ok()?;
        Some((level, kib(&line(folder.join("size").to_str()?)?)?))
    };
    caches.filter_map(size).max().map(|(_, bytes)| bytes)
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    let detected = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bw", std::arch::is_x86_feature_detected!("avx512bw")),
        ("avx512vl", std::arch::is_x86_feature_detected!("avx512vl")),
        ("avx512dq", std::arch::is_x86_feature_detected!("avx512dq")),
        ("avx512vbmi", std::arch::is_x86_feature_detected!("avx512vbmi")),
    ];
    detected.iter().filter(|(_, present)| *present).map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_sorts_and_needs_no_escaping() {
        let at: Timestamp = "2026-11-24T02:30:00+01:00".parse().unwrap();
        assert_eq!(stamp(at), "20261124T013000Z");
        assert_eq!(rfc3339(at), "2026-11-24T01:30:00Z");
    }

    #[test]
    fn a_resumed_clock_starts_where_the_origin_puts_it() {
        let now: Timestamp = "2026-11-24T01:30:01.000000005Z".parse().unwrap();
        assert_eq!(ns_since("2026-11-24T01:30:00Z", now).unwrap(), 1_000_000_005);
        assert!(ns_since("yesterday", now).is_err());
    }

    #[test]
    fn sizes_of_proc_and_sys() {
        assert_eq!(kib("32768K"), Some(32768 * 1024));
        assert_eq!(kib("24051234 kB"), Some(24_051_234 * 1024));
        assert_eq!(kib("24051234"), None, "without a unit it is unknown, not bytes");
    }

    #[test]
    fn a_linux_machine_knows_its_memory() {
        let machine = Machine::read();
        if cfg!(target_os = "linux") {
            assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{machine:?}");
        }
    }
}
