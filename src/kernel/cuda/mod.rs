//! Kernels on an NVIDIA GPU, compiled at run time from `kernels/*.cu` for the device's own architecture.
//!
//! `device` is what they need of a GPU: `driver` is the real one, `emu` (tests) runs the same sources on the CPU, so that
//! layouts, arguments, splits and checks are tested without a GPU. Quantisation semantics are the methods', the memory
//! layout is kvbench's own.

use std::sync::Arc;

use anyhow::Result;

use super::{Kernel, KernelSpec, Op};
use crate::method::Method;

mod base;
pub mod compile;
pub(crate) mod data;
pub(crate) mod device;
mod driver;
#[cfg(test)]
pub(crate) mod emu;
mod gear;
mod gear_cache;
mod gear_pack;
mod h2o;
mod half_cache;
mod half_decode;
mod half_pack;
mod half_step;
mod kivi;
mod kivi_cache;
mod kivi_step;
mod mem;
pub mod nvrtc;
mod packed;
mod packed_step;
pub(crate) mod paged;
mod prefill;
pub mod program;
mod sass;
mod select;
pub(crate) mod timed;

use device::Device;
pub use device::Limits;
use half_decode::HalfDecode;
use half_pack::HalfPack;
use program::Instance;
use timed::{Prepared, Timed};

/// Every instance that may be launched: what `kvbench kernels build` compiles, what must not spill, what the emulator
/// knows.
pub fn instances() -> Vec<Instance> {
    [
        data::instances(),
        mem::instances(),
        half_cache::instances(),
        half_decode::instances(),
        gear::instances(),
        gear_pack::instances(),
        h2o::instances(),
        kivi::instances(),
        kivi_cache::instances(),
        packed::instances(),
        prefill::instances(),
        select::instances(),
    ]
    .concat()
}

/// A GPU with a compiler for it.
#[derive(Clone)]
pub struct Gpu {
    device: Arc<dyn Device>,
    compiler: String,
}

impl Gpu {
    /// The first GPU of this machine.
    ///
    /// # Errors
    /// No driver, no device or no NVRTC: what is missing and the remedy.
    pub fn first(tools: &nvrtc::Tools) -> Result<Self> {
        let driver = driver::Driver::first(tools)?;
        let nvrtc = driver.compiler().nvrtc();
        let compiler = format!("NVRTC {} ({})", nvrtc.version_text(), nvrtc.path.display());
        Ok(Self { device: Arc::new(driver), compiler })
    }

    /// What it is.
    pub fn limits(&self) -> &Limits {
        self.device.limits()
    }

    /// What compiles the kernels, and where it was found.
    pub fn compiler(&self) -> &str {
        &self.compiler
    }

    /// Device memory that can be allocated now.
    pub fn free_bytes(&self) -> Option<u64> {
        self.device.free_bytes()
    }

    /// Prepares a kernel.
    ///
    /// # Errors
    /// A shape or method without a kernel, too little memory, a compiler error.
    pub fn open(&self, spec: &KernelSpec) -> Result<Box<dyn Kernel>> {
        open(&self.device, spec)
    }
}

/// Prepares a kernel on a device.
pub(crate) fn open(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Box<dyn Kernel>> {
    supports(spec)?;
    let method = &spec.method;
    Ok(match spec.op {
        Op::Read | Op::Copy => timed(device, mem::Probe::new(device, spec)?),
        Op::Prefill => timed(device, prefill::Prefill::new(device, spec)?),
        Op::Decode if keeps_values(method) => timed(device, HalfDecode::new(device, spec)?),
        Op::Compress if keeps_values(method) => timed(device, HalfPack::new(device, spec)?),
        Op::Append if keeps_values(method) => {
            timed(device, half_step::HalfStep::new(device, spec)?)
        }
        Op::Append if is_packed(method) => {
            timed(device, packed_step::PackedStep::new(device, spec)?)
        }
        Op::Decode if is_kivi(method) => timed(device, kivi::KiviDecode::new(device, spec)?),
        Op::Compress if is_kivi(method) => timed(device, kivi::KiviPack::new(device, spec)?),
        Op::Append | Op::Flush if is_kivi(method) => {
            timed(device, kivi_step::KiviStep::new(device, spec)?)
        }
        Op::Decode if is_gear(method) => timed(device, gear::GearDecode::new(device, spec)?),
        Op::Compress if is_gear(method) => timed(device, gear::GearPack::new(device, spec)?),
        Op::Append | Op::Flush if is_gear(method) => {
            timed(device, gear::GearStep::new(device, spec)?)
        }
        Op::Decode if is_packed(method) => timed(device, packed::PackedDecode::new(device, spec)?),
        Op::Compress if is_packed(method) => timed(device, packed::PackedPack::new(device, spec)?),
        op => anyhow::bail!(
            "{}: expected a method with a CUDA kernel for it, got {}\n  hint: `kvbench kernels list` shows those there are",
            op.name(),
            method.family()
        ),
    })
}

fn timed(device: &Arc<dyn Device>, prepared: impl Prepared + 'static) -> Box<dyn Kernel> {
    Box::new(Timed::new(device, prepared))
}

/// Families of methods with kernels.
const FAMILIES: [&str; 12] = [
    "fp16",
    "bf16",
    "int8",
    "int4",
    "fp8",
    "fp8-token-head",
    "turboquant4",
    "kivi",
    "gear",
    "streaming",
    "h2o",
    "snapkv",
];

/// Operations and families of methods with a kernel here.
pub fn registry() -> Vec<(Op, &'static str)> {
    let ops = [Op::Prefill, Op::Compress, Op::Decode, Op::Append].into_iter();
    let methods = ops.flat_map(|op| FAMILIES.map(|family| (op, family)));
    let steps = ["kivi", "gear"].map(|family| (Op::Flush, family));
    methods.chain(steps).chain([Op::Read, Op::Copy].map(|op| (op, "any"))).collect()
}

/// Methods whose cache holds 16-bit values as they are.
fn keeps_values(method: &Method) -> bool {
    !method.is_quantised()
}

/// Methods with one scale a (token, KV head), or none.
fn is_packed(method: &Method) -> bool {
    matches!(
        method,
        Method::Int8 | Method::Int4 | Method::Fp8 | Method::Fp8TokenHead | Method::Turboquant4
    )
}

fn is_kivi(method: &Method) -> bool {
    matches!(method, Method::Kivi { .. })
}

fn is_gear(method: &Method) -> bool {
    matches!(method, Method::Gear(_))
}

/// Most query heads of one KV head: they share the eight columns of a tensor-core instruction.
const GROUP_MAX: usize = 8;

/// Whether there is a kernel for this shape.
///
/// # Errors
/// What was expected and what was given.
pub fn supports(spec: &KernelSpec) -> Result<()> {
    let shape = &spec.shape;
    spec.method.check().map_err(anyhow::Error::msg)?;
    spec.method.check_head_dim(shape.head_dim).map_err(anyhow::Error::msg)?;
    let (heads_q, heads_kv) = (shape.heads_q, shape.heads_kv);
    anyhow::ensure!(
        !shape.kv_lens.is_empty() && !shape.kv_lens.contains(&0),
        "kv_lens: expected at least one length, each at least 1, got {:?}",
        shape.kv_lens
    );
    anyhow::ensure!(
        heads_kv > 0 && heads_q > 0 && heads_q.is_multiple_of(heads_kv),
        "heads_q: expected a multiple of heads_kv {heads_kv}, got {heads_q}"
    );
    anyhow::ensure!(
        heads_q / heads_kv <= GROUP_MAX,
        "heads_q: expected at most {GROUP_MAX} query heads a KV head on CUDA, got {}\n  hint: device = \"cpu\" has no \
         such limit",
        heads_q / heads_kv
    );
    anyhow::ensure!(
        [64, 128].contains(&shape.head_dim),
        "head_dim: expected 64 or 128 on CUDA, got {}\n  hint: device = \"cpu\" covers the others",
        shape.head_dim
    );
    Ok(())
}

#[cfg(test)]
mod tests;
