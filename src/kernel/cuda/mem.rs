//! The memory probes: read and copy bandwidth.

use std::sync::Arc;

use anyhow::Result;

use super::{
    data::grid,
    device::{Arg, Buffer, Device, Function, Launch},
    program::{Instance, Source},
    timed::Prepared,
};
use crate::kernel::{KernelSpec, Op, Verification, Work};

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    vec![Instance::new(Source::Mem, "read_words"), Instance::new(Source::Mem, "copy_words")]
}

/// Blocks of 256 threads that reside on one SM.
const BLOCKS_PER_SM: usize = 8;
const THREADS: u32 = 256;
/// Beyond this a longer stream shows no other bandwidth, and making and checking it takes seconds of a lent GPU.
const MOST_BYTES: u64 = 512 << 20;
/// Bytes of a warp sum each: shared memory of `read_words`.
const WARP_SUMS: usize = 32;

/// Streams over one buffer (read), or copies it into a second (copy).
pub(crate) struct Probe {
    device: Arc<dyn Device>,
    op: Op,
    function: Function,
    input: Buffer,
    output: Buffer,
    n_words: usize,
    n_blocks: usize,
}

impl Probe {
    /// A buffer as large as the rotation, or as the fp16 cache of the shape up to [`MOST_BYTES`] if that is more: one copy is
    /// its own rotation.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let shape = &spec.shape;
        let tokens: usize = shape.kv_lens.iter().sum();
        let cache = (tokens * shape.heads_kv * shape.head_dim * 4) as u64;
        let n_words = cache.min(MOST_BYTES).max(spec.rotate_bytes).div_ceil(16).max(1) as usize;
        let words: Vec<u64> = (0..n_words as u64 * 2).map(|i| i.wrapping_mul(ODD)).collect();
        let n_blocks = device.limits().n_sm * BLOCKS_PER_SM;
        let (name, out) = match spec.op {
            Op::Copy => ("copy_words", n_words * 16),
            _ => ("read_words", n_blocks * 4),
        };
        Ok(Self {
            device: Arc::clone(device),
            op: spec.op,
            function: device.function(&Instance::new(Source::Mem, name))?,
            input: Buffer::of(device, &words)?,
            output: Buffer::poisoned(device, out as u64)?,
            n_words,
            n_blocks,
        })
    }

    fn checks(&self) -> Result<bool> {
        if self.op == Op::Copy {
            let words = self.n_words * 2;
            return Ok(self.output.read::<u64>(0, words)? == self.input.read::<u64>(0, words)?);
        }
        let sum = |words: Vec<u32>| words.into_iter().fold(0, u32::wrapping_add);
        let expected = sum(self.input.read(0, self.n_words * 4)?);
        Ok(sum(self.output.read(0, self.n_blocks)?) == expected)
    }
}

/// Knuth's multiplier, so that the words differ and no memory compresses them.
const ODD: u64 = 0x9E37_79B9_7F4A_7C15;

impl Prepared for Probe {
    fn op(&self) -> Op {
        self.op
    }

    fn work(&self) -> Work {
        let bytes = self.n_words as u64 * 16;
        let sides = if self.op == Op::Copy { 2 } else { 1 };
        Work { bytes_moved: bytes * sides, flops: 0 }
    }

    fn verify(&mut self) -> Result<Verification> {
        self.output.fill(0xFF)?;
        self.queue(0)?;
        let max_rel_err = if self.checks()? { 0.0 } else { 1.0 };
        Ok(Verification { max_rel_err, gate: 0.0 })
    }

    fn copies(&self) -> usize {
        1
    }

    fn queue(&self, _copy: usize) -> Result<()> {
        let launch =
            Launch { grid: grid(self.n_blocks, 1, 1), block: THREADS, smem_bytes: WARP_SUMS };
        let n = Arg::U64(self.n_words as u64);
        let (input, output) = (self.input.arg(), self.output.arg());
        let args = if self.op == Op::Copy { [input, output, n] } else { [input, n, output] };
        self.device.launch(self.function, launch, &args)
    }

    fn resident_bytes(&self) -> u64 {
        self.input.bytes() + self.output.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::{
            Kernel as _, Shape,
            cuda::{emu, timed::Timed},
        },
        method::Method,
    };

    fn spec(op: Op) -> KernelSpec {
        let shape = Shape { kv_lens: vec![37, 12], heads_q: 2, heads_kv: 2, head_dim: 64 };
        KernelSpec { op, method: Method::Fp16, shape, seed: 1, page: 16, rotate_bytes: 0 }
    }

    #[test]
    fn probes_read_and_copy_every_word() {
        let Some(device) = emu::device() else { return };
        for op in [Op::Read, Op::Copy] {
            let mut probe = Timed::new(&device, Probe::new(&device, &spec(op)).unwrap());
            assert!(probe.verify().unwrap().passed(), "{op:?}");
            assert_eq!(probe.timed(0, 3).unwrap(), None, "the emulator has no clock");
        }
    }

    #[test]
    fn a_probe_that_skips_words_is_caught() {
        let find = "v[i] = at < n ? ldg_nc(in + at)";
        let replace = "v[i] = at + 1 < n ? ldg_nc(in + at)";
        let Some(device) = emu::mutant("mem.cu", find, replace) else { return };
        assert!(!Probe::new(&device, &spec(Op::Read)).unwrap().verify().unwrap().passed());
    }
}
