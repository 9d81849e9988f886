//! Attention under each compression method, on a device. Layer 2: knows methods and units, no clock.
//!
//! A [`Kernel`] is prepared once (data made, cache compressed), verified against f64 attention over what its
//! cache really stores, and then launched; [`crate::execute`] holds the clock.

use crate::method::Method;

pub mod allreduce;
pub(crate) mod check;
pub mod cpu;
pub mod cuda;
pub(crate) mod data;
pub mod roofline;

/// What is timed.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Causal attention of `q_len = kv_len` prompt tokens, plus what the method adds to a prefill's attention
    /// (H2O's column sums, SnapKV's window scores), without writing the cache.
    Prefill,
    /// One decode step: one query token per sequence over the compressed cache of `kv_len` tokens.
    Decode,
    /// Bulk compression of a prompt's K and V at prefill: quantise and pack, or select and gather.
    Compress,
    /// What one more token costs the cache: quantise and write its K and V (or evict for it). Device kernels only. Rotation
    /// is over whole caches, so the few lines that a launch touches may lie in L2: a lower bound.
    Append,
    /// Quantising a full residual of half-precision tokens (KIVI, GEAR). Device kernels only.
    Flush,
    /// Read-only stream over a buffer larger than the last-level cache: the bandwidth all else is judged by.
    Read,
    /// Copy of one buffer into another, both larger than the last-level cache; bytes read and written both count.
    Copy,
}

impl Op {
    /// The name used in cell ids and in the `op` column.
    pub fn name(self) -> &'static str {
        match self {
            Op::Prefill => "prefill",
            Op::Decode => "decode",
            Op::Compress => "compress",
            Op::Append => "append",
            Op::Flush => "flush",
            Op::Read => "read",
            Op::Copy => "copy",
        }
    }
}

/// One attention layer at a model's head shape. `kv_lens` has one entry per sequence: a replayed batch is ragged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Tokens in the cache (decode) or in the prompt (prefill, compress) of each sequence; its length is the batch.
    pub kv_lens: Vec<usize>,
    /// Query heads.
    pub heads_q: usize,
    /// KV heads (`num_kv_heads`); divides `heads_q`.
    pub heads_kv: usize,
    /// Head dimension D.
    pub head_dim: usize,
}

/// What one launch moves and computes, counted from the stored cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Bytes that one launch must read or write at least once: cache with scales and indices, q and output.
    pub bytes_moved: u64,
    /// Multiplications and additions of the attention itself.
    pub flops: u64,
}

/// The outcome of checking a kernel before it may be timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verification {
    /// Relative L2 `|o - ref| / |ref|` against f64 over the stored (dequantised, kept) cache; NaN fails.
    pub max_rel_err: f64,
    /// The gate it was held to.
    pub gate: f64,
}

impl Verification {
    /// Whether the kernel may be timed.
    pub fn passed(&self) -> bool {
        self.max_rel_err <= self.gate
    }
}

/// A prepared kernel. Data live in `copies()` rotated buffers so that a launch never finds its cache in the LLC.
pub trait Kernel: Send {
    /// Which operation this is.
    fn op(&self) -> Op;
    /// Exact counts for one launch.
    fn work(&self) -> Work;
    /// Runs once with poisoned outputs and compares with f64. Deterministic for a given seed.
    ///
    /// # Errors
    /// The device refused: out of memory, a launch failed.
    fn verify(&mut self) -> anyhow::Result<Verification>;
    /// Number of rotated copies of the data.
    fn copies(&self) -> usize;
    /// Runs once on copy `copy % copies()`. Must be called inside the device's thread pool.
    ///
    /// # Errors
    /// The device refused the launch.
    fn launch(&mut self, copy: usize) -> anyhow::Result<()>;
    /// Runs `launches` times from copy `first` on and returns nanoseconds by the device's own clock for all of them
    /// together; `None` where the device has no clock of its own (CPU), so that the caller's counts.
    ///
    /// # Errors
    /// The device refused a launch.
    fn timed(&mut self, first: usize, launches: usize) -> anyhow::Result<Option<i64>> {
        (first..first + launches).try_for_each(|copy| self.launch(copy))?;
        Ok(None)
    }
    /// Lane instructions of one launch's main loop, from the machine code; `None` where they cannot be counted (CPU, no
    /// disassembler, no such loop).
    fn lane_instructions(&self) -> Option<u64> {
        None
    }
    /// Bytes this kernel keeps allocated, all copies together.
    fn resident_bytes(&self) -> u64;
}

/// What to prepare.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelSpec {
    /// The operation.
    pub op: Op,
    /// The method; ignored by [`Op::Read`].
    pub method: Method,
    /// The layer's shape.
    pub shape: Shape,
    /// Seed of the random data; the same seed gives the same q, K, V whatever the method.
    pub seed: u64,
    /// Tokens of a page, 16 or 64, on devices whose cache is paged; the CPU's is not.
    pub page: usize,
    /// Rotation: at least this many bytes of distinct data are cycled through.
    pub rotate_bytes: u64,
}
