//! Choosing tokens by score on the device: pooling and the exact set of the largest.

use std::sync::Arc;

use anyhow::Result;

use super::{
    data::{Ragged, grid},
    device::{Arg, Buffer, Device, Function, Launch},
    program::{Instance, Source},
};
use crate::method::{Method, Pooling};

const THREADS: usize = 256;
/// Histogram, state and warp sums of `select_top`.
const SMEM_BYTES: usize = (256 + 4 + 8) * 4;

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    ["pool_scores", "select_top"].map(instance).to_vec()
}

fn instance(name: &str) -> Instance {
    Instance::new(Source::Select, name)
}

/// How a method chooses: the largest scores among all but the newest tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Tokens taken by score.
    pub(crate) count: usize,
    /// Newest tokens taken without.
    pub(crate) tail: usize,
}

impl Rule {
    /// Of a method; `None` for those that choose without scores.
    pub(crate) fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::H2o { heavy, recent } => Some(Self { count: heavy, tail: recent }),
            Method::Snapkv { window, budget, .. } => {
                Some(Self { count: budget - window, tail: window })
            }
            _ => None,
        }
    }
}

/// The chooser of one shape: token numbers `[seq][KV head][stride]`, ascending.
pub(crate) struct Chooser {
    device: Arc<dyn Device>,
    top: Function,
    pool: Function,
    rule: Rule,
    heads_kv: usize,
    /// Chosen tokens.
    pub(crate) index: Buffer,
    /// Slots of a row.
    pub(crate) stride: usize,
}

impl Chooser {
    /// Room for `kept[seq]` tokens each.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        rule: Rule,
        heads_kv: usize,
        kept: &[usize],
    ) -> Result<Self> {
        let stride = kept.iter().copied().max().unwrap_or(1).max(1);
        let bytes = (kept.len() * heads_kv * stride * 4) as u64;
        Ok(Self {
            device: Arc::clone(device),
            top: device.function(&instance("select_top"))?,
            pool: device.function(&instance("pool_scores"))?,
            rule,
            heads_kv,
            index: Buffer::poisoned(device, bytes)?,
            stride,
        })
    }

    /// Queues the choice from f32 scores `[seq][KV head][token]`.
    ///
    /// # Errors
    /// The launch was refused.
    pub(crate) fn queue(&self, scores: &Buffer, lens: &Ragged) -> Result<()> {
        let mut args = vec![scores.arg(), lens.lens.arg(), lens.starts.arg(), self.index.arg()];
        for n in [self.rule.count, self.rule.tail, self.stride] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        let grid = grid(1, self.heads_kv, lens.host.len());
        let launch = Launch { grid, block: THREADS as u32, smem_bytes: SMEM_BYTES };
        self.device.launch(self.top, launch, &args)
    }

    /// Queues SnapKV's smoothing from `scores` to `pooled`.
    ///
    /// # Errors
    /// The launch was refused.
    pub(crate) fn smooth(
        &self,
        (scores, pooled): (&Buffer, &Buffer),
        lens: &Ragged,
        (pooling, width): (Pooling, usize),
    ) -> Result<()> {
        let mut args = vec![scores.arg(), lens.lens.arg(), lens.starts.arg(), pooled.arg()];
        for n in [self.rule.tail, width, usize::from(pooling == Pooling::Max)] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        let grid = grid(lens.longest().div_ceil(THREADS), self.heads_kv, lens.host.len());
        self.device.launch(self.pool, Launch { grid, block: THREADS as u32, smem_bytes: 0 }, &args)
    }

    /// What was chosen for one (sequence, KV head) with `kept` tokens.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn chosen(&self, head: usize, kept: usize) -> Result<Vec<usize>> {
        let row = self.index.read::<i32>((head * self.stride * 4) as u64, kept)?;
        // A negative number is none that was ever written: it must not pass for a token.
        Ok(row.into_iter().map(|token| usize::try_from(token).unwrap_or(usize::MAX)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::cuda::emu, method::select};

    /// Scores with few values: of equals the earlier token is taken, in blocks of 256 and across them.
    #[test]
    fn ties_go_to_the_earlier_token() {
        let Some(device) = emu::device() else { return };
        let lens = [900, 40];
        let rule = Rule { count: 300, tail: 25 };
        let ragged = Ragged::new(&device, &lens).unwrap();
        let scores: Vec<f32> = (0..2 * 940_i32).map(|i| (i * 7 % 5) as f32 - 2.0).collect();
        let chooser = Chooser::new(&device, rule, 2, &[325, 40]).unwrap();
        chooser.queue(&Buffer::of(&device, &scores).unwrap(), &ragged).unwrap();
        for (seq, &len) in lens.iter().enumerate() {
            for head in 0..2 {
                let first = ragged.start(seq) * 2 + head * len;
                let row: Vec<f64> = scores[first..][..len].iter().map(|&x| f64::from(x)).collect();
                let expected = select::h2o(&row, rule.count, rule.tail);
                assert_eq!(chooser.chosen(seq * 2 + head, expected.len()).unwrap(), expected);
            }
        }
    }
}
