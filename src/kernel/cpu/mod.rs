//! Kernels on the CPU: prefill, decode and compress for every method, and a read probe.
//!
//! The semantics are the methods', the memory layout is kvbench's own (`layout`). Work is spread by rayon over
//! (sequence, kv head), and in decode over parts of a head's cache where heads are few. All query heads of a group are
//! served by one pass over their kv head's tile.

use crate::kernel::{Kernel, KernelSpec, Op, Shape};

mod arena;
mod bulk;
mod caches;
pub(super) mod compress;
mod decode;
mod dequantise;
mod gear;
mod layout;
mod math;
pub(super) mod prefill;
mod quantised;
mod read;
mod simd;
mod step;
#[cfg(test)]
mod tests;
mod tile;
mod turbo;

pub use simd::{Isa, isa};

/// What a kernel needs to know about itself.
#[derive(Debug, Clone)]
struct Plan {
    spec: KernelSpec,
    isa: Isa,
}

impl Plan {
    /// Copies so that distinct data reach `rotate_bytes`.
    fn copies(&self, bytes_per_copy: u64) -> usize {
        self.spec.rotate_bytes.div_ceil(bytes_per_copy.max(1)).max(1) as usize
    }

    fn cache_bytes(&self) -> u64 {
        let Shape { kv_lens, heads_kv, head_dim, .. } = &self.spec.shape;
        let one = |&len: &usize| self.spec.method.cache_bytes(len, *heads_kv, *head_dim);
        kv_lens.iter().map(one).sum()
    }
}

/// Prepares a kernel on the fastest instruction set of this machine.
///
/// # Errors
/// A shape or method that cannot be run: what was expected and what was given.
pub fn open(spec: &KernelSpec) -> anyhow::Result<Box<dyn Kernel>> {
    open_on(spec, isa())
}

/// Prepares a kernel on a given instruction set.
///
/// # Errors
/// As [`open`], and an instruction set that this machine does not have.
pub fn open_on(spec: &KernelSpec, isa: Isa) -> anyhow::Result<Box<dyn Kernel>> {
    check_spec(spec)?;
    if !isa.is_available() {
        anyhow::bail!("isa: expected one this machine has, got {isa:?}");
    }
    let plan = Plan { spec: spec.clone(), isa };
    Ok(match spec.op {
        Op::Read => Box::new(read::Read::new(plan)?),
        Op::Decode => Box::new(step::Step::new(plan)?),
        Op::Compress => Box::new(bulk::Bulk::new(plan)?),
        Op::Prefill => Box::new(prefill::Prefill::new(plan)?),
        Op::Append | Op::Flush | Op::Copy => anyhow::bail!(
            "op: expected prefill, decode, compress or read on the CPU, got {}\n  hint: device = \"cuda\" has it",
            spec.op.name()
        ),
    })
}

fn check_spec(spec: &KernelSpec) -> anyhow::Result<()> {
    let Shape { kv_lens, heads_q, heads_kv, head_dim } = &spec.shape;
    spec.method.check().map_err(anyhow::Error::msg)?;
    spec.method.check_head_dim(*head_dim).map_err(anyhow::Error::msg)?;
    let family = spec.method.family();
    if !FAMILIES.contains(&family) {
        anyhow::bail!(
            "method: expected one of {} on the CPU, got {family}\n  hint: device = \"cuda\" has it",
            FAMILIES.join(", ")
        );
    }
    if kv_lens.is_empty() || kv_lens.contains(&0) {
        anyhow::bail!("kv_lens: expected at least one length, each at least 1, got {kv_lens:?}");
    }
    if *heads_kv == 0 || *heads_q == 0 || !heads_q.is_multiple_of(*heads_kv) {
        anyhow::bail!("heads_q: expected a multiple of heads_kv {heads_kv}, got {heads_q}");
    }
    if *head_dim == 0 || !head_dim.is_multiple_of(32) || *head_dim > decode::D_MAX {
        anyhow::bail!(
            "head_dim: expected a multiple of 32 up to {}, got {head_dim}\n  hint: the CPU kernels cover 64, 96, 128, 256",
            decode::D_MAX
        );
    }
    Ok(())
}

/// Whether the CPU can run this operation at this method and shape.
///
/// # Errors
/// Why not.
pub fn supports(spec: &KernelSpec) -> anyhow::Result<()> {
    check_spec(spec)
}

/// Bytes of the last-level cache, summed over the instances that hold the CPUs we see; `None` where /sys does not tell
/// (other systems, some sandboxes): the caller must then name a size and say that it assumed one.
pub fn llc_bytes() -> Option<u64> {
    let mut found: std::collections::BTreeMap<String, (u32, u64)> =
        std::collections::BTreeMap::new();
    for cpu in std::fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        for index in std::fs::read_dir(cpu.path().join("cache")).into_iter().flatten().flatten() {
            let read = |name| std::fs::read_to_string(index.path().join(name)).ok();
            let fields = (read("level"), read("size"), read("shared_cpu_list"));
            if let (Some(level), Some(size), Some(shared)) = fields
                && let (Ok(level), Some(size)) = (level.trim().parse(), parse_size(size.trim()))
            {
                found.insert(format!("{} {}", level, shared.trim()), (level, size));
            }
        }
    }
    let top = found.values().map(|(level, _)| *level).max()?;
    Some(found.values().filter(|(level, _)| *level == top).map(|(_, size)| size).sum())
}

fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok().map(|n| n * factor)
}

/// Worker threads for launches: `None` = one per core that this process may use.
///
/// # Errors
/// When the system refuses threads, or `Some(0)`.
pub fn pool(threads: Option<usize>) -> anyhow::Result<rayon::ThreadPool> {
    if threads == Some(0) {
        anyhow::bail!("threads: expected at least 1, got 0");
    }
    let builder = rayon::ThreadPoolBuilder::new().thread_name(|i| format!("kvbench-{i}"));
    Ok(builder.num_threads(threads.unwrap_or(0)).build()?)
}

/// One line of `kvbench kernels list`: an operation for a method's family and what implements it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Operation.
    pub op: Op,
    /// Family of methods, see [`crate::method::Method::family`]; `read` for the probe.
    pub method: &'static str,
    /// Backends of this machine, fastest first.
    pub backends: Vec<&'static str>,
}

/// Families of methods with CPU kernels.
const FAMILIES: [&str; 12] = [
    "fp16",
    "bf16",
    "int8",
    "int4",
    "fp8",
    "fp8-token-head",
    "kivi",
    "gear",
    "turboquant4",
    "streaming",
    "h2o",
    "snapkv",
];

/// Every CPU kernel.
pub fn registry() -> Vec<Listed> {
    let mut backends: Vec<_> = Isa::available().into_iter().map(Isa::backend).collect();
    backends.dedup();
    let line = |op, method| Listed { op, method, backends: backends.clone() };
    let ops = [Op::Prefill, Op::Compress, Op::Decode];
    let mut all: Vec<Listed> = ops
        .into_iter()
        .flat_map(|op| FAMILIES.map(|m| (op, m)))
        .map(|(op, m)| line(op, m))
        .collect();
    all.push(line(Op::Read, "read"));
    all
}
