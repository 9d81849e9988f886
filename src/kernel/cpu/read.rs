//! [`Op::Read`](crate::kernel::Op::Read): a wrapping sum over a buffer as large as the fp16 cache of the shape, or as
//! `rotate_bytes` if that is more. It is the bandwidth that all else is judged by. Counted operations: none.

use rayon::prelude::*;

use super::{
    Plan,
    arena::Arena,
    simd::{Job, Simd},
};
use crate::kernel::{Kernel, Op, Verification, Work};

/// Bytes a task sums.
const CHUNK: usize = 4 << 20;

/// A prepared read.
pub(crate) struct Read {
    plan: Plan,
    arena: Arena,
    sum: u32,
}

struct Sum<'a>(&'a [u8]);

impl Job for Sum<'_> {
    type Out = u32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u32 {
        // SAFETY: chunks start at a multiple of 4 and are a multiple of 512 bytes long.
        unsafe { s.sum_words(self.0.as_ptr().cast(), self.0.len() / 4) }
    }
}

impl Read {
    /// Fills the buffer with words that differ.
    pub(crate) fn new(plan: Plan) -> anyhow::Result<Read> {
        let shape = &plan.spec.shape;
        let tokens: usize = shape.kv_lens.iter().sum();
        let fp16 = tokens * shape.heads_kv * shape.head_dim * 4;
        let bytes = fp16.max(plan.spec.rotate_bytes as usize).next_multiple_of(CHUNK);
        let mut arena = Arena::zeroed(bytes)?;
        arena.bytes_mut().par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
            for (j, word) in chunk.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *word = ((i * CHUNK / 4 + j) as u32).wrapping_mul(2_654_435_761).to_le_bytes();
            }
        });
        Ok(Read { plan, arena, sum: 0 })
    }
}

impl Kernel for Read {
    fn op(&self) -> Op {
        Op::Read
    }

    fn work(&self) -> Work {
        Work { bytes_moved: self.arena.bytes().len() as u64, flops: 0 }
    }

    /// The sum is exact or wrong: the error is 0 or 1.
    fn verify(&mut self) -> anyhow::Result<Verification> {
        self.launch(0)?;
        let words = self.arena.bytes().as_chunks::<4>().0;
        let expected = words.iter().fold(0_u32, |sum, w| sum.wrapping_add(u32::from_le_bytes(*w)));
        Ok(Verification { max_rel_err: if self.sum == expected { 0.0 } else { 1.0 }, gate: 0.0 })
    }

    fn copies(&self) -> usize {
        1
    }

    fn launch(&mut self, _copy: usize) -> anyhow::Result<()> {
        let isa = self.plan.isa;
        let sum = |chunk| isa.dispatch(Sum(chunk));
        let sums = self.arena.bytes().par_chunks(CHUNK).with_max_len(1).map(sum);
        self.sum = sums.reduce(|| 0, u32::wrapping_add);
        Ok(())
    }

    fn resident_bytes(&self) -> u64 {
        self.arena.bytes().len() as u64
    }
}
