//! What a kernel backend needs from the machine, as values and functions: tests hand in their own.

use rayon::ThreadPool;

use super::step::Lengths;
use crate::{
    execute::probe,
    kernel::{Kernel, KernelSpec, cpu},
    plan::Arrival,
    record::env::Machine,
    scenario::Workload,
    units::human_bytes,
    workload,
};

/// Prepares a kernel.
pub type Open = dyn Fn(&KernelSpec) -> anyhow::Result<Box<dyn Kernel>> + Send + Sync;
/// Makes the pool that kernels run in; `None` = all cores.
pub type MakePool = dyn Fn(Option<usize>) -> anyhow::Result<ThreadPool> + Send + Sync;
/// Bytes that can be allocated now; `None` where the system does not tell.
pub type Available = dyn Fn() -> Option<u64> + Send + Sync;
/// Lengths of a workload's requests in order, by workload, batch size and seed.
pub type ReadLengths = dyn Fn(&Workload, usize, u64) -> anyhow::Result<Vec<Lengths>> + Send + Sync;

/// A machine with kernels.
pub struct Lab {
    /// Device as the machine names it.
    pub device: String,
    /// Implementation, such as `cpu-avx2`.
    pub backend: String,
    /// Last-level cache.
    pub llc_bytes: u64,
    /// Name of an NVIDIA GPU that is there but not used, for a notice.
    pub idle_gpu: Option<String>,
    /// Why a target that asks for CUDA cannot be measured.
    pub cuda_missing: String,
    /// See [`Open`].
    pub open: Box<Open>,
    /// See [`MakePool`].
    pub pool: Box<MakePool>,
    /// See [`Available`].
    pub available: Box<Available>,
    /// See [`ReadLengths`].
    pub lengths: Box<ReadLengths>,
    /// What the user should know about this lab, said once a run.
    pub notices: Vec<String>,
}

/// Assumed last-level cache where the system does not tell: larger than most, so that rotation errs on the cold side.
const LLC_ASSUMED: u64 = 64 << 20;

impl Lab {
    /// This machine's CPU, its kernels on the fastest instruction set it has.
    pub fn cpu() -> Self {
        let device = Machine::read().cpu_model.unwrap_or_else(|| "unknown CPU".to_owned());
        let llc_bytes = cpu::llc_bytes();
        let mut lab = Self::here(
            device,
            cpu::isa().backend().to_owned(),
            llc_bytes.unwrap_or(LLC_ASSUMED),
            Box::new(cpu::open),
            Box::new(cpu::pool),
        );
        lab.notices.extend(llc_bytes.is_none().then(|| {
            format!(
                "the size of the last-level cache is unknown; {} is assumed",
                human_bytes(LLC_ASSUMED)
            )
        }));
        lab
    }

    /// This machine, with the CPU's kernels: `backend` names their implementation.
    pub fn here(
        device: String,
        backend: String,
        llc_bytes: u64,
        open: Box<Open>,
        pool: Box<MakePool>,
    ) -> Self {
        let cuda = probe::cuda();
        Self {
            device,
            backend,
            llc_bytes,
            idle_gpu: cuda.as_ref().ok().and_then(|driver| Some(driver.devices.first()?.0.clone())),
            cuda_missing: cuda_missing(cuda.as_ref()),
            open,
            pool,
            available: Box::new(probe::available_memory),
            lengths: Box::new(lengths),
            notices: Vec::new(),
        }
    }
}

/// Why `device = "cuda"` cannot be measured.
fn cuda_missing(cuda: Result<&probe::CudaDriver, &anyhow::Error>) -> String {
    let got = match cuda {
        Ok(driver) if driver.devices.is_empty() => "a driver without a device".to_owned(),
        Ok(_) => {
            "a driver and a device, but this version of kvbench has no CUDA kernels".to_owned()
        }
        Err(error) => error.to_string(),
    };
    format!(
        "device: expected CUDA, got {got}\n  hint: device = \"cpu\" or \"auto\"; see kvbench doctor"
    )
}

/// The requests' own lengths; an answer without one is as long as it may get.
fn lengths(workload: &Workload, batch: usize, seed: u64) -> anyhow::Result<Vec<Lengths>> {
    let requests = workload::build(workload, &Arrival::Closed { concurrency: batch }, seed)?;
    let lengths = |request: &workload::Request| Lengths {
        prompt: request.prompt_tokens_est as usize,
        answer: request.answer_tokens_est.unwrap_or(request.max_tokens).min(request.max_tokens)
            as usize,
    };
    Ok(requests.iter().map(lengths).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::LengthDist;

    #[test]
    fn lengths_are_the_workloads() {
        let workload = Workload::Synthetic {
            n_requests: 3,
            prompt_tokens: LengthDist::Fixed(20),
            output_tokens: LengthDist::Fixed(7),
        };
        let lengths = lengths(&workload, 2, 1).unwrap();
        assert_eq!(lengths.len(), 3);
        assert!(lengths.iter().all(|l| l.answer == 7 && l.prompt > 0), "{lengths:?}");
    }

    #[test]
    fn what_cuda_lacks_is_named() {
        let driver = probe::CudaDriver { version: None, devices: vec![("H200".into(), None)] };
        assert!(cuda_missing(Ok(&driver)).contains("no CUDA kernels"));
        let absent = anyhow::anyhow!("no NVIDIA driver");
        assert!(cuda_missing(Err(&absent)).contains("got no NVIDIA driver"));
    }
}
