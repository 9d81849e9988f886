//! Random q, K, V and scores on the device, bit for bit those of [`crate::kernel::data`].

use std::sync::Arc;

use anyhow::Result;

use super::{
    device::{Arg, Buffer, Device, Function, Launch},
    program::{Instance, Source},
};
use crate::kernel::data::{BLOCK, Data, Kind};

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    vec![rows_instance(), scores_instance()]
}

fn rows_instance() -> Instance {
    Instance::new(Source::Data, "fill_rows")
}

fn scores_instance() -> Instance {
    Instance::new(Source::Data, "fill_scores")
}

/// Rows a block of `fill_rows` writes: one a warp.
const ROWS_PER_BLOCK: usize = 8;

/// Lengths of a ragged batch on the device: `lens[seq]`, and `starts[seq]` tokens of all sequences before.
pub(crate) struct Ragged {
    /// Host copy.
    pub(crate) host: Vec<usize>,
    /// `int lens[seq]`.
    pub(crate) lens: Buffer,
    /// `int starts[seq]`.
    pub(crate) starts: Buffer,
}

impl Ragged {
    /// Uploads lengths.
    ///
    /// # Errors
    /// Out of memory, or more tokens than an `int` counts.
    pub(crate) fn new(device: &Arc<dyn Device>, lens: &[usize]) -> Result<Self> {
        let starts = lens.iter().scan(0, |sum, len| {
            *sum += len;
            Some(*sum - len)
        });
        let starts: Vec<i32> = starts.map(i32::try_from).collect::<Result<_, _>>()?;
        let ints: Vec<i32> =
            lens.iter().map(|&len| i32::try_from(len)).collect::<Result<_, _>>()?;
        let (lens_at, starts) = (Buffer::of(device, &ints)?, Buffer::of(device, &starts)?);
        Ok(Self { host: lens.to_vec(), lens: lens_at, starts })
    }

    /// Tokens of all sequences.
    pub(crate) fn tokens(&self) -> usize {
        self.host.iter().sum()
    }

    /// Tokens of the longest sequence.
    pub(crate) fn longest(&self) -> usize {
        self.host.iter().copied().max().unwrap_or(0)
    }

    /// Tokens of the sequences before `seq`.
    pub(crate) fn start(&self, seq: usize) -> usize {
        self.host[..seq].iter().sum()
    }
}

/// Makes random data on a device.
pub(crate) struct Random {
    device: Arc<dyn Device>,
    /// The same data on the host, for references.
    pub(crate) host: Data,
    block: Buffer,
    rows: Function,
    scores: Function,
    seed: u64,
}

impl Random {
    /// Uploads the block of normals.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, seed: u64) -> Result<Self> {
        let host = Data::new(seed);
        let block = Buffer::of(device, host.block())?;
        let (rows, scores) =
            (device.function(&rows_instance())?, device.function(&scores_instance())?);
        Ok(Self { device: Arc::clone(device), host, block, rows, scores, seed })
    }

    /// fp16 rows of all sequences and heads: `[seq][head][token][d]`, sequence `s` starting at `starts[s] * heads * d`.
    /// Row (seq, head, token) is `Data::row(kind, Place { copy, seq, head }, token, d)`. For queries of one token each give
    /// a ragged batch of ones: then the layout is `[seq][head][d]`.
    ///
    /// # Errors
    /// Out of memory, a refused launch.
    pub(crate) fn rows(
        &self,
        kind: Kind,
        copy: usize,
        (lens, heads, d): (&Ragged, usize, usize),
    ) -> Result<Buffer> {
        let out = Buffer::poisoned(&self.device, (lens.tokens() * heads * d * 2) as u64)?;
        let grid = grid(lens.longest().div_ceil(ROWS_PER_BLOCK), heads, lens.host.len());
        let args = [
            self.block.arg(),
            out.arg(),
            lens.lens.arg(),
            lens.starts.arg(),
            Arg::U64(self.seed),
            Arg::I32(kind as i32),
            Arg::I32(i32::try_from(copy)?),
            Arg::I32(i32::try_from(BLOCK)?),
            Arg::I32(i32::try_from(d)?),
        ];
        self.device.launch(self.rows, Launch { grid, block: 256, smem_bytes: 0 }, &args)?;
        Ok(out)
    }

    /// f32 eviction scores `[seq][head][token]`, as `Data::scores`.
    ///
    /// # Errors
    /// Out of memory, a refused launch.
    pub(crate) fn scores(&self, copy: usize, lens: &Ragged, heads: usize) -> Result<Buffer> {
        let out = Buffer::poisoned(&self.device, (lens.tokens() * heads * 4) as u64)?;
        let grid = grid(lens.longest().div_ceil(256), heads, lens.host.len());
        let args = [
            out.arg(),
            lens.lens.arg(),
            lens.starts.arg(),
            Arg::U64(self.seed),
            Arg::I32(Kind::Score as i32),
            Arg::I32(i32::try_from(copy)?),
        ];
        self.device.launch(self.scores, Launch { grid, block: 256, smem_bytes: 0 }, &args)?;
        Ok(out)
    }
}

/// A grid from sizes.
pub(crate) fn grid(x: usize, y: usize, z: usize) -> [u32; 3] {
    [x, y, z].map(|n| u32::try_from(n).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernel::{cuda::emu, data::Place};

    #[test]
    fn the_device_makes_the_same_data_as_the_host() {
        let Some(device) = emu::device() else { return };
        let random = Random::new(&device, 42).unwrap();
        let lens = Ragged::new(&device, &[5, 17]).unwrap();
        let (heads, d) = (3, 64);
        let keys = random.rows(Kind::Key, 2, (&lens, heads, d)).unwrap();
        let keys: Vec<f16> = keys.read(0, 22 * heads * d).unwrap();
        let scores: Vec<f32> = random.scores(2, &lens, heads).unwrap().read(0, 22 * heads).unwrap();
        for (seq, &len) in lens.host.iter().enumerate() {
            for head in 0..heads {
                let at = Place { copy: 2, seq, head };
                let first = lens.start(seq) * heads + head * len;
                assert_eq!(scores[first..][..len], random.host.scores(at, len));
                for token in 0..len {
                    let row = &keys[(first + token) * d..][..d];
                    assert_eq!(row, random.host.row(Kind::Key, at, token, d));
                }
            }
        }
    }
}
