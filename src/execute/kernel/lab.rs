//! What a kernel backend needs from the machine, as values and functions: tests hand in their own.

use std::sync::Arc;

use rayon::ThreadPool;

use super::step::Lengths;
use crate::{
    execute::{
        probe,
        telemetry::{GpuState, NvmlState},
    },
    kernel::{
        Kernel, KernelSpec, Op, cpu,
        cuda::{self, Gpu},
    },
    plan::Arrival,
    record::env::Machine,
    scenario::{Device, Workload},
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

/// Clock, power and throttling of the device now; `None` where it does not tell.
pub type ReadState = dyn Fn() -> Option<GpuState> + Send + Sync;

/// A machine with kernels.
pub struct Lab {
    /// Device as the machine names it.
    pub device: String,
    /// Implementation, such as `cpu-avx2`.
    pub backend: String,
    /// What the driver says of the device; `None` on a CPU.
    pub limits: Option<cuda::Limits>,
    /// Last-level cache.
    pub llc_bytes: u64,
    /// Why there is no such device here; `None` where there is one.
    pub missing: Option<String>,
    /// Operations and families of methods that it has kernels for.
    pub kernels: Vec<(Op, &'static str)>,
    /// What measures the memory in every round.
    pub probes: Vec<Op>,
    /// Least rotation in sizes of the cache, whatever the scenario says.
    pub rotate_least: f64,
    /// Tells clock, power and throttling right after a sample, where the device does.
    pub state: Option<Box<ReadState>>,
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

/// Rotation on a GPU, in sizes of its L2: fewer and part of the cache is found there again.
const ROTATE_L2: f64 = 5.0;

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
        Self {
            device,
            backend,
            limits: None,
            llc_bytes,
            missing: None,
            kernels: cpu::registry().into_iter().map(|line| (line.op, line.method)).collect(),
            probes: vec![Op::Read],
            rotate_least: 0.0,
            state: None,
            open,
            pool,
            available: Box::new(probe::available_memory),
            lengths: Box::new(lengths),
            notices: Vec::new(),
        }
    }

    /// The first NVIDIA GPU with its kernels, or what is missing for it.
    pub fn gpu() -> Self {
        match Gpu::first(&probe::tools()) {
            Ok(gpu) => Self::of_gpu(gpu),
            Err(error) => Self::absent(format!("{error:#}")),
        }
    }

    fn of_gpu(gpu: Gpu) -> Self {
        let limits = gpu.limits().clone();
        let (opener, asked) = (gpu.clone(), gpu.clone());
        let reader = NvmlState::first();
        Self {
            device: limits.name.clone(),
            backend: format!("cuda-{}", limits.arch),
            llc_bytes: limits.l2_bytes,
            limits: Some(limits),
            missing: None,
            kernels: cuda::registry(),
            probes: vec![Op::Read, Op::Copy],
            rotate_least: ROTATE_L2,
            state: reader.map(|reader| Box::new(move || reader.read()) as Box<ReadState>),
            open: Box::new(move |spec| opener.open(spec)),
            // One thread launches; the device does the rest.
            pool: Box::new(|_| cpu::pool(Some(1))),
            available: Box::new(move || asked.free_bytes()),
            lengths: Box::new(lengths),
            notices: vec![format!("kernels are compiled by {}", gpu.compiler())],
        }
    }

    fn absent(why: String) -> Self {
        let refusal = why.clone();
        let open = Box::new(move |_: &KernelSpec| anyhow::bail!("{refusal}"));
        let pool = Box::new(|_| cpu::pool(Some(1)));
        let lab = Self::here("no GPU".to_owned(), "cuda".to_owned(), 0, open, pool);
        Self { missing: Some(why), ..lab }
    }
}

/// The two devices that kernels run on.
#[derive(Clone)]
pub struct Labs {
    /// The CPU.
    pub cpu: Arc<Lab>,
    /// The GPU, or why there is none.
    pub gpu: Arc<Lab>,
}

impl Labs {
    /// This machine's.
    pub fn here() -> Self {
        Self { cpu: Arc::new(Lab::cpu()), gpu: Arc::new(Lab::gpu()) }
    }

    /// Which one measures a target: `auto` takes the GPU where there is one.
    pub fn choose(&self, device: Device) -> &Arc<Lab> {
        match device {
            Device::Cpu => &self.cpu,
            Device::Cuda => &self.gpu,
            Device::Auto if self.gpu.missing.is_none() => &self.gpu,
            Device::Auto => &self.cpu,
        }
    }
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
            tokens: None,
        };
        let lengths = lengths(&workload, 2, 1).unwrap();
        assert_eq!(lengths.len(), 3);
        assert!(lengths.iter().all(|l| l.answer == 7 && l.prompt > 0), "{lengths:?}");
    }

    #[test]
    fn auto_takes_the_gpu_where_there_is_one() {
        let cpu = Arc::new(Lab::cpu());
        let without = Labs { cpu: cpu.clone(), gpu: Arc::new(Lab::absent("no driver".into())) };
        assert!(Arc::ptr_eq(without.choose(Device::Auto), &cpu));
        assert_eq!(without.choose(Device::Cuda).missing.as_deref(), Some("no driver"));
        let with = Labs { cpu: cpu.clone(), gpu: Arc::new(Lab::cpu()) };
        assert!(Arc::ptr_eq(with.choose(Device::Auto), &with.gpu));
        assert!(Arc::ptr_eq(with.choose(Device::Cpu), &cpu));
    }
}
