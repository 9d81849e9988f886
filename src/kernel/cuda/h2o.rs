//! H2O's state beside the cache: accumulated scores, positions, and the victim of the next eviction.

use std::sync::Arc;

use anyhow::Result;

use super::{
    data::{Ragged, grid},
    device::{Arg, Buffer, Device, Function, Launch},
    paged::Workspace,
    program::{Instance, Source},
};
use crate::{
    kernel::{KernelSpec, check::Error, data::Place},
    method::{Method, select},
};

const THREADS: u32 = 256;
/// Score, position and slot of each thread's best victim.
const SMEM_BYTES: usize = THREADS as usize * 12;

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    vec![instance()]
}

fn instance() -> Instance {
    Instance::new(Source::H2o, "h2o_update")
}

/// See the module's docs. Layouts are those of `kernels/h2o.cu`.
pub(crate) struct Scores {
    device: Arc<dyn Device>,
    function: Function,
    raw: Buffer,
    acc: Buffer,
    positions: Buffer,
    newest: Buffer,
    victims: Buffer,
    slots: usize,
    kept: Vec<usize>,
    heads_kv: usize,
    recent: usize,
}

impl Scores {
    /// `positions` and `acc` are `[seq][KV head][slots]`.
    ///
    /// # Errors
    /// Out of memory, no compiler, a method other than H2O.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        spec: &KernelSpec,
        (positions, acc): (&[i32], &[f32]),
        slots: usize,
    ) -> Result<Self> {
        let Method::H2o { recent, .. } = spec.method else {
            anyhow::bail!("expected H2O, got {}", spec.method.label())
        };
        let shape = &spec.shape;
        let newest: Vec<i32> =
            shape.kv_lens.iter().map(|&len| i32::try_from(len - 1)).collect::<Result<_, _>>()?;
        let raw = (shape.kv_lens.len() * shape.heads_q * slots * 4) as u64;
        Ok(Self {
            device: Arc::clone(device),
            function: device.function(&instance())?,
            raw: Buffer::poisoned(device, raw)?,
            acc: Buffer::of(device, acc)?,
            positions: Buffer::of(device, positions)?,
            newest: Buffer::of(device, &newest)?,
            victims: Buffer::poisoned(device, (shape.kv_lens.len() * shape.heads_kv * 4) as u64)?,
            slots,
            kept: shape.kv_lens.iter().map(|&len| spec.method.kept_tokens(len)).collect(),
            heads_kv: shape.heads_kv,
            recent,
        })
    }

    /// Where decode writes its raw scores.
    pub(crate) fn raw(&self) -> Arg {
        self.raw.arg()
    }

    /// Slots of a row.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Queues accumulation and the search for victims, after a decode that wrote raw scores.
    ///
    /// # Errors
    /// The launch was refused.
    pub(crate) fn queue(&self, spec: &KernelSpec, work: &Workspace, kept: &Ragged) -> Result<()> {
        let shape = &spec.shape;
        let mut args = vec![
            self.raw.arg(),
            work.lse(),
            self.acc.arg(),
            self.positions.arg(),
            kept.lens.arg(),
            self.newest.arg(),
            self.victims.arg(),
        ];
        for n in [shape.heads_q / shape.heads_kv, self.slots, self.recent] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        args.push(Arg::F32(shape.heads_kv as f32 / shape.heads_q as f32));
        let grid = grid(1, shape.heads_kv, shape.kv_lens.len());
        self.device.launch(
            self.function,
            Launch { grid, block: THREADS, smem_bytes: SMEM_BYTES },
            &args,
        )
    }

    /// All accumulated scores.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn accumulated(&self) -> Result<Vec<f32>> {
        self.acc.read(0, self.kept.len() * self.heads_kv * self.slots)
    }

    /// Scores against f64, `row` being the step's attention; the victim up to ties, by the value of its score.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn check(
        &self,
        at: Place,
        before: &[f32],
        row: &[f64],
        error: &mut Error,
    ) -> Result<()> {
        let head = at.seq * self.heads_kv + at.head;
        let (first, kept) = (head * self.slots, self.kept[at.seq]);
        let mut expected: Vec<f64> =
            before[first..first + kept].iter().map(|&x| f64::from(x)).collect();
        let victim = select::h2o_step(&mut expected, row, self.recent);
        error.add_f32(&self.acc.read::<f32>((first * 4) as u64, kept)?, &expected);
        let found = self.victims.read::<i32>((head * 4) as u64, 1)?[0];
        match (usize::try_from(found).ok(), victim) {
            (None, None) => {}
            (Some(a), Some(b)) => error.add_scalar(expected.get(a).copied(), expected[b]),
            _ => error.fail(),
        }
        Ok(())
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        [&self.raw, &self.acc, &self.positions, &self.newest, &self.victims]
            .map(Buffer::bytes)
            .iter()
            .sum()
    }
}
