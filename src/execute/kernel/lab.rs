//! What a kernel backend needs from the machine, as values and functions: tests hand in their own.

use rayon::ThreadPool;

use super::step::Lengths;
use crate::{
    kernel::{Kernel, KernelSpec},
    scenario::Workload,
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
}
