//! Pages, splits and the place where splits meet: what every decode kernel needs.

use std::sync::Arc;

use anyhow::Result;
use half::f16;

use super::device::{Arg, Buffer, Device, Limits};

/// A shuffled page table: neighbours in a sequence are not neighbours in memory, as in an engine that has run for a while.
pub(crate) struct Pages {
    /// Tokens of a page.
    pub(crate) page: usize,
    /// Pages of the longest sequence: the stride of the table.
    pub(crate) maxp: usize,
    /// Pages of the pool; one more than are used, so that a wrong index meets poison.
    pub(crate) n_pages: usize,
    host: Vec<i32>,
    table: Buffer,
}

impl Pages {
    /// Pages for `slots[seq]` tokens each, at least one page a sequence.
    ///
    /// # Errors
    /// Out of memory, or more pages than an `int` counts.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        slots: &[usize],
        page: usize,
        seed: u64,
    ) -> Result<Self> {
        let counts: Vec<usize> = slots.iter().map(|&n| n.div_ceil(page).max(1)).collect();
        let (used, maxp) =
            (counts.iter().sum::<usize>(), counts.iter().copied().max().unwrap_or(1));
        let mut free = shuffled(used + 1, seed)?;
        let mut host = vec![-1; counts.len() * maxp];
        for (seq, &count) in counts.iter().enumerate() {
            let own = free.split_off(free.len() - count);
            host[seq * maxp..][..count].copy_from_slice(&own);
        }
        let table = Buffer::of(device, &host)?;
        Ok(Self { page, maxp, n_pages: used + 1, host, table })
    }

    /// Argument `bt`.
    pub(crate) fn arg(&self) -> Arg {
        self.table.arg()
    }

    /// Page that holds `token` of `seq`.
    pub(crate) fn of(&self, seq: usize, token: usize) -> usize {
        self.host[seq * self.maxp + token / self.page].unsigned_abs() as usize
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.table.bytes()
    }
}

fn shuffled(n: usize, seed: u64) -> Result<Vec<i32>> {
    let mut order: Vec<i32> = (0..i32::try_from(n)?).collect();
    let mut state = seed | 1;
    for i in (1..n).rev() {
        // Any scattering will do; a multiplicative generator needs no dependency here.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    Ok(order)
}

/// Fewest tokens of a block: below, merging costs more than another block brings.
const TOKENS_PER_BLOCK: usize = 256;
/// Blocks wanted a resident slot, so that the last wave is short beside the others.
const WAVES: usize = 2;

/// How many blocks share one (sequence, KV head): enough to fill the GPU twice, but at least 256 tokens each.
/// `heads`: sequences times KV heads; `resident`: blocks that fit on one SM.
pub(crate) fn splits(limits: &Limits, heads: usize, longest: usize, resident: usize) -> usize {
    let wanted = (WAVES * limits.n_sm * resident).div_ceil(heads.max(1));
    wanted.clamp(1, longest.div_ceil(TOKENS_PER_BLOCK).max(1))
}

/// Where the splits of a decode step meet, and its output. Layouts: `struct Merge` of attend.cuh.
pub(crate) struct Workspace {
    /// Blocks a (sequence, KV head).
    pub(crate) splits: usize,
    po: Buffer,
    pml: Buffer,
    count: Buffer,
    out: Buffer,
    lse: Buffer,
    /// Query heads of a KV head times D.
    row: usize,
}

impl Workspace {
    /// `heads`: sequences times KV heads.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        heads: usize,
        (group, d): (usize, usize),
        splits: usize,
    ) -> Result<Self> {
        let row = group * d;
        let partials = heads * splits * group;
        let count = Buffer::poisoned(device, (heads * 4) as u64)?;
        count.fill(0)?;
        Ok(Self {
            splits,
            po: Buffer::poisoned(device, (partials * d * 4) as u64)?,
            pml: Buffer::poisoned(device, (partials * 8) as u64)?,
            count,
            out: Buffer::poisoned(device, (heads * row * 2) as u64)?,
            lse: Buffer::poisoned(device, (heads * group * 4) as u64)?,
            row,
        })
    }

    /// Arguments `po, pml, count, out, lse`.
    pub(crate) fn args(&self) -> [Arg; 5] {
        [&self.po, &self.pml, &self.count, &self.out, &self.lse].map(Buffer::arg)
    }

    /// Argument `lse`.
    pub(crate) fn lse(&self) -> Arg {
        self.lse.arg()
    }

    /// Fills everything with NaN but the counters, which are zero between launches.
    ///
    /// # Errors
    /// The driver refused.
    pub(crate) fn poison(&self) -> Result<()> {
        [&self.po, &self.pml, &self.out, &self.lse].iter().try_for_each(|buffer| buffer.fill(0xFF))
    }

    /// Output rows of one (sequence, KV head): `[group][d]`.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn output(&self, head: usize) -> Result<Vec<f16>> {
        self.out.read((head * self.row * 2) as u64, self.row)
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        [&self.po, &self.pml, &self.count, &self.out, &self.lse].map(Buffer::bytes).iter().sum()
    }
}

/// `1 / sqrt(D)` in the log2 units of the kernels' scores.
pub(crate) fn scale_log2(d: usize) -> f32 {
    (std::f64::consts::LOG2_E / (d as f64).sqrt()) as f32
}

/// Copies of `bytes` each so that `rotate_bytes` distinct bytes are cycled through.
pub(crate) fn copies(rotate_bytes: u64, bytes: u64) -> usize {
    usize::try_from(rotate_bytes.div_ceil(bytes.max(1))).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cuda::emu;

    #[test]
    fn pages_are_scattered_and_belong_to_one_sequence() {
        let Some(device) = emu::device() else { return };
        let pages = Pages::new(&device, &[100, 1, 33], 16, 3).unwrap();
        let mut seen: Vec<usize> = (0..7).map(|p| pages.of(0, p * 16)).collect();
        assert_ne!(seen, (0..7).collect::<Vec<_>>(), "in order");
        seen.push(pages.of(1, 0));
        seen.extend((0..3).map(|p| pages.of(2, p * 16)));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!((seen.len(), pages.maxp, pages.n_pages), (11, 7, 12));
    }

    #[test]
    fn splits_fill_the_gpu_but_stay_long() {
        let limits = Limits {
            name: String::new(),
            arch: String::new(),
            n_sm: 132,
            l2_bytes: 0,
            smem_block_bytes: 0,
            smem_sm_bytes: 0,
            sm_clock_khz: None,
        };
        assert_eq!(splits(&limits, 256, 4096, 2), 3);
        assert_eq!(splits(&limits, 8, 1024, 2), 4, "256 tokens a block");
        assert_eq!(splits(&limits, 4096, 4096, 2), 1);
        assert_eq!(splits(&limits, 1, 1, 2), 1);
    }
}
