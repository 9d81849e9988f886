//! What is on this machine: drivers, engines, limits, clocks. Looks and never changes anything, never panics.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::{
    execute::clock::now,
    kernel::cuda::nvrtc::{Nvrtc, Tools},
    record::env,
};

/// Engines that kvbench can measure, by the program that starts each.
pub const ENGINES: [(&str, &str); 6] = [
    ("vLLM", "vllm"),
    ("LMDeploy", "lmdeploy"),
    ("SGLang", "sglang"),
    ("llama.cpp", "llama-server"),
    ("TensorRT-LLM", "trtllm-serve"),
    ("TGI", "text-generation-launcher"),
];

/// What the NVIDIA driver says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDriver {
    /// Newest CUDA version the driver supports, as `major.minor`; `None` if it does not tell.
    pub version: Option<String>,
    /// Name and memory in bytes of each device.
    pub devices: Vec<(String, Option<u64>)>,
}

/// Asks the CUDA driver.
///
/// # Errors
/// There is no driver library, or it does not start: the message says which.
pub fn cuda() -> anyhow::Result<CudaDriver> {
    use cudarc::driver::{result, sys};
    // SAFETY: only tries to open the library; cudarc panics on any other call where it is missing, hence this guard.
    let present = unsafe { sys::is_culib_present() };
    anyhow::ensure!(present, "no NVIDIA driver: libcuda.so.1 is not there");
    let failed = |error: result::DriverError| anyhow::anyhow!("NVIDIA driver: {:?}", error.0);
    result::init().map_err(failed)?;
    let mut version = 0;
    // SAFETY: the driver is initialised and `version` is a valid place for one int.
    let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    let count = result::device::get_count().map_err(failed)?;
    Ok(CudaDriver {
        version: status.result().ok().map(|()| cuda_version(version)),
        devices: (0..count).map(cuda_device).collect::<Result<_, _>>().map_err(failed)?,
    })
}

fn cuda_device(ordinal: i32) -> Result<(String, Option<u64>), cudarc::driver::result::DriverError> {
    use cudarc::driver::result::device;
    let device = device::get(ordinal)?;
    // SAFETY: `device` comes from `device::get`.
    let memory = unsafe { device::total_mem(device) };
    Ok((device::get_name(device)?, memory.ok().map(|bytes| bytes as u64)))
}

/// 12040 is 12.4.
fn cuda_version(code: i32) -> String {
    format!("{}.{}", code / 1000, code % 1000 / 10)
}

/// Where the tools of the CUDA kernels are looked for first, and where compiled kernels are kept.
pub fn tools() -> Tools {
    let cache = env::folder("KVBENCH_KERNEL_CACHE");
    Tools {
        nvrtc_dir: env::folder("KVBENCH_NVRTC_DIR"),
        cache_dir: cache.or_else(|| Some(env::cache_folder()?.join("kernels"))),
    }
}

/// Version of NVRTC, which compiles CUDA kernels, and where it lies.
///
/// # Errors
/// The library is missing or does not answer.
pub fn nvrtc() -> anyhow::Result<String> {
    let nvrtc = Nvrtc::find(&tools())?;
    Ok(format!("{} ({})", nvrtc.version_text(), nvrtc.path.display()))
}

/// NVML's driver version and the number of devices.
///
/// # Errors
/// NVML is missing or does not answer.
pub fn nvml() -> anyhow::Result<(String, u32)> {
    let nvml = nvml_wrapper::Nvml::init()?;
    Ok((nvml.sys_driver_version()?, nvml.device_count()?))
}

/// The first program of that name in `path` (the value of `PATH`).
pub fn program(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Soft and hard limit of open files; `None` where the system does not tell.
pub fn open_file_limit() -> Option<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that outlives the call.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (status == 0).then_some((limit.rlim_cur, limit.rlim_max))
}

/// Bytes an unprivileged process can still write below `folder`, or below its nearest parent that exists.
pub fn disk_free_bytes(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let absolute = std::path::absolute(folder).ok()?;
    let existing = absolute.ancestors().find(|folder| folder.exists())?;
    let name = std::ffi::CString::new(existing.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `name` ends with NUL and `stat` is a valid place; it is read only where the call succeeded.
    let status = unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) };
    if status != 0 {
        return None;
    }
    // SAFETY: statvfs returned 0, so it filled `stat`.
    let stat = unsafe { stat.assume_init() };
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// The kernel's clock source, such as `tsc`.
pub fn clock_source() -> Option<String> {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// What one look at the monotonic clock costs and the smallest step it was seen to make, both in ns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockCost {
    /// Mean of many looks.
    pub read_ns: f64,
    /// Smallest difference above zero; `None` if the clock never moved.
    pub step_ns: Option<u64>,
}

/// Measures the clock over some ten thousand looks: about a millisecond.
pub fn clock_cost() -> ClockCost {
    const LOOKS: u32 = 20_000;
    let began = now();
    let mut last = began;
    let mut step_ns: Option<u64> = None;
    for _ in 0..LOOKS {
        let at = now();
        let step = u64::try_from((at - last).as_nanos()).unwrap_or(u64::MAX);
        if step > 0 {
            step_ns = Some(step_ns.map_or(step, |least| least.min(step)));
        }
        last = at;
    }
    ClockCost { read_ns: (last - began).as_nanos() as f64 / f64::from(LOOKS), step_ns }
}

/// Memory that can be allocated without swapping; `None` where the system does not tell.
pub fn available_memory() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let host = Some(system.available_memory()).filter(|&bytes| bytes > 0)?;
    // Inside a container the control group may allow less than the machine has.
    let group = system.cgroup_limits().map(|limits| limits.free_memory).filter(|&free| free > 0);
    Some(group.map_or(host, |free| free.min(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_only_programs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vllm");
        std::fs::write(&file, "text").unwrap();
        assert_eq!(program("vllm", folder.path().as_os_str()), None, "not executable");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        assert_eq!(program("vllm", folder.path().as_os_str()), Some(file));
        assert_eq!(program("lmdeploy", folder.path().as_os_str()), None);
    }

    #[test]
    fn version_codes() {
        assert_eq!(cuda_version(12040), "12.4");
        assert_eq!(cuda_version(13000), "13.0");
    }

    #[test]
    fn a_missing_folder_has_the_space_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        assert!(disk_free_bytes(&folder.path().join("not/there")).is_some());
    }

    #[test]
    fn asking_for_what_is_missing_is_an_error_not_a_panic() {
        // On a machine with a GPU these succeed; where they do not, they say why.
        let errors = [cuda().err(), nvrtc().err(), nvml().err()];
        assert!(errors.iter().flatten().all(|error| !error.to_string().is_empty()));
        assert!(clock_cost().read_ns.is_finite());
        assert!(open_file_limit().is_some_and(|(soft, hard)| soft <= hard));
        assert!(available_memory().is_none_or(|bytes| bytes > 0));
    }
}
