//! A KIVI cache on the device: its pools, how they are written, and reading them back. The layout is `kernels/kivi.cuh`'s.

use std::sync::Arc;

use anyhow::{Result, ensure};
use half::f16;

use super::{
    data::{Ragged, grid},
    device::{Arg, Buffer, Device, Function, Launch},
    half_cache::Heads,
    paged::Pages,
    program::{Instance, Source},
};
use crate::method::Method;

/// Tokens of a page, of a chunk and of a tile.
pub(crate) const PAGE: usize = 128;
const CHUNK: usize = 32;
const TILE: usize = 16;
/// Threads of a packing block, and what they keep in shared memory: the codes of one tile.
const THREADS: u32 = 128;

/// KIVI's parameters, as far as there are kernels for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Params {
    /// Code width.
    pub(crate) bits: usize,
    /// Group size.
    pub(crate) group: usize,
    /// Residual length R.
    pub(crate) residual: usize,
}

impl Params {
    /// Of a method.
    ///
    /// # Errors
    /// Another method, or a group size without kernels.
    pub(crate) fn of(method: &Method) -> Result<Self> {
        let Method::Kivi { bits, group, residual } = *method else {
            anyhow::bail!("expected KIVI, got {}", method.label())
        };
        ensure!(
            [32, 64, 128].contains(&group),
            "group: expected 32, 64 or 128 on CUDA, got {group}\n  hint: device = \"cpu\" covers the others"
        );
        Ok(Self { bits: bits as usize, group, residual })
    }

    /// Template arguments.
    fn arguments(self) -> String {
        format!("{}, {}", self.bits, self.group)
    }

    /// An instance of a kernel of `<BITS, GS, ..>`.
    pub(crate) fn instance(self, source: Source, name: &str, rest: &str, d: usize) -> Instance {
        Instance::at(source, format!("{name}<{}{rest}>", self.arguments()), d)
    }

    /// All parameters with kernels at a head dimension.
    pub(crate) fn all(d: usize) -> Vec<Params> {
        let groups = [32, 64, 128].into_iter().filter(move |&group| group <= d);
        let with = |group| [4, 2].map(|bits| Params { bits, group, residual: 128 });
        groups.flat_map(with).collect()
    }
}

/// Kernels that write such caches.
pub(crate) fn instances() -> Vec<Instance> {
    let mut all = Vec::new();
    for d in [64, 128] {
        all.push(Instance::at(Source::KiviPack, "pack_kivi_rings", d));
        for params in Params::all(d) {
            let names = ["pack_kivi_k", "pack_kivi_v", "append_kivi", "flush_kivi"];
            all.extend(names.map(|name| params.instance(Source::KiviPack, name, "", d)));
        }
    }
    all
}

/// See the module's docs.
pub(crate) struct KiviCache {
    device: Arc<dyn Device>,
    params: Params,
    heads: Heads,
    /// Tokens of each sequence.
    pub(crate) lens: Ragged,
    /// Pages of each sequence.
    pub(crate) pages: Pages,
    kc: Buffer,
    ks: Buffer,
    vc: Buffer,
    vs: Buffer,
    kr: Buffer,
    vr: Buffer,
    functions: [Function; 3],
}

impl KiviCache {
    /// Empty, poisoned pools for `lens[seq]` tokens and one more each.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        params: Params,
        heads: Heads,
        lens: &[usize],
        seed: u64,
    ) -> Result<Self> {
        let slots: Vec<usize> = lens.iter().map(|n| n + 1).collect();
        let pages = Pages::new(device, &slots, PAGE, seed)?;
        let (d, ph) = (heads.d, pages.n_pages * heads.kv);
        let pool = |bytes: usize| Buffer::poisoned(device, (ph * bytes) as u64);
        let codes = PAGE * d * params.bits / 8;
        let scales = 4 * PAGE * d / params.group;
        let ring = lens.len() * heads.kv * params.residual * d * 2;
        let function = |name| device.function(&params.instance(Source::KiviPack, name, "", d));
        let rings = Instance::at(Source::KiviPack, "pack_kivi_rings", d);
        Ok(Self {
            device: Arc::clone(device),
            params,
            heads,
            lens: Ragged::new(device, lens)?,
            kc: pool(codes)?,
            ks: pool(scales)?,
            vc: pool(codes)?,
            vs: pool(scales)?,
            kr: Buffer::poisoned(device, ring as u64)?,
            vr: Buffer::poisoned(device, ring as u64)?,
            functions: [
                function("pack_kivi_k")?,
                function("pack_kivi_v")?,
                device.function(&rings)?,
            ],
            pages,
        })
    }

    /// Arguments `kc, ks, vc, vs, kr, vr`.
    pub(crate) fn pools(&self) -> [Arg; 6] {
        self.buffers().map(Buffer::arg)
    }

    fn buffers(&self) -> [&Buffer; 6] {
        [&self.kc, &self.ks, &self.vc, &self.vs, &self.kr, &self.vr]
    }

    /// Fills everything with NaN.
    ///
    /// # Errors
    /// The driver refused.
    pub(crate) fn poison(&self) -> Result<()> {
        self.buffers().iter().try_for_each(|buffer| buffer.fill(0xFF))
    }

    /// Queues the writing of a prompt: raw K and V `[seq][head][token][d]`.
    ///
    /// # Errors
    /// A launch was refused.
    pub(crate) fn pack(&self, k: &Buffer, v: &Buffer) -> Result<()> {
        let (lens, starts) = (self.lens.lens.arg(), self.lens.starts.arg());
        let [kc, ks, vc, vs, ..] = self.pools();
        let residual = Arg::I32(i32::try_from(self.params.residual)?);
        let maxp = Arg::I32(i32::try_from(self.pages.maxp)?);
        let bt = self.pages.arg();
        let longest = self.lens.longest();
        let launch = |blocks: usize| Launch {
            grid: grid(blocks, self.heads.kv, self.lens.host.len()),
            block: THREADS,
            smem_bytes: TILE * self.heads.d,
        };
        let [pack_k, pack_v, _] = self.functions;
        let k_args = [k.arg(), lens, starts, bt, kc, ks, maxp, residual];
        self.device.launch(pack_k, launch(longest.div_ceil(self.params.group)), &k_args)?;
        let v_args = [v.arg(), lens, starts, bt, vc, vs, maxp, residual];
        self.device.launch(pack_v, launch(longest.div_ceil(CHUNK)), &v_args)?;
        self.pack_rings(k, v)
    }

    /// Queues the writing of the half-precision residuals alone.
    ///
    /// # Errors
    /// The launch was refused.
    pub(crate) fn pack_rings(&self, k: &Buffer, v: &Buffer) -> Result<()> {
        let [.., kr, vr] = self.pools();
        let residual = self.params.residual;
        let (lens, starts) = (self.lens.lens.arg(), self.lens.starts.arg());
        let args = [k.arg(), v.arg(), lens, starts, kr, vr, Arg::I32(i32::try_from(residual)?)];
        let grid = grid(residual.div_ceil(4), self.heads.kv, self.lens.host.len());
        let launch = Launch { grid, block: THREADS, smem_bytes: 0 };
        self.device.launch(self.functions[2], launch, &args)
    }

    /// Everything stored of one (sequence, KV head) when it has `len` tokens, of which `(nk, nv)` of K and of V are
    /// quantised: `[token][d]` each.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn stored(
        &self,
        (seq, head): (usize, usize),
        len: usize,
        (nk, nv): (usize, usize),
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let d = self.heads.d;
        let (mut k, mut v) = (Vec::with_capacity(len * d), Vec::with_capacity(len * d));
        for from in (0..nk.max(nv)).step_by(PAGE) {
            let page = self.page(seq, head, from)?;
            for token in from..nk.min(from + PAGE) {
                k.extend((0..d).map(|channel| page.key(token % PAGE, channel)));
            }
            for token in from..nv.min(from + PAGE) {
                v.extend((0..d).map(|channel| page.value(token % PAGE, channel)));
            }
        }
        let row = |ring: &Buffer, token: usize| -> Result<Vec<f16>> {
            let first = (seq * self.heads.kv + head) * self.params.residual;
            ring.read(((first + token % self.params.residual) * d * 2) as u64, d)
        };
        for token in nk..len {
            k.extend(row(&self.kr, token)?.iter().map(|x| x.to_f64()));
        }
        for token in nv..len {
            v.extend(row(&self.vr, token)?.iter().map(|x| x.to_f64()));
        }
        Ok((k, v))
    }

    fn page(&self, seq: usize, head: usize, token: usize) -> Result<Page> {
        let ph = self.pages.of(seq, token) * self.heads.kv + head;
        let d = self.heads.d;
        let (codes, scales) = (PAGE * d * self.params.bits / 8, 4 * PAGE * d / self.params.group);
        let words = |pool: &Buffer| pool.read::<u32>((ph * codes) as u64, codes / 4);
        let halves = |pool: &Buffer| pool.read::<f16>((ph * scales) as u64, scales / 2);
        Ok(Page {
            params: self.params,
            d,
            kc: words(&self.kc)?,
            vc: words(&self.vc)?,
            ks: halves(&self.ks)?,
            vs: halves(&self.vs)?,
        })
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffers().map(Buffer::bytes).iter().sum::<u64>() + self.pages.bytes()
    }
}

/// One page of one KV head on the host.
struct Page {
    params: Params,
    d: usize,
    kc: Vec<u32>,
    vc: Vec<u32>,
    ks: Vec<f16>,
    vs: Vec<f16>,
}

impl Page {
    /// The code at row and column of fragment `f` of a tile: rows are tokens of K and channels of V.
    fn code(&self, codes: &[u32], token: usize, f: usize, (row, col): (usize, usize)) -> f64 {
        let bits = self.params.bits;
        let (per_word, words) = (4 / bits, self.d / 16 * bits / 4);
        let (chunk, tile) = (token / CHUNK, token / TILE % 2);
        let lane = row % 8 * 4 + col % 8 / 2;
        let at = tile * words + f / per_word;
        let word = codes[chunk * CHUNK * self.d * bits / 32 + (at / 4 * 32 + lane) * 4 + at % 4];
        let shift = row / 8 * 8 + ((f % per_word) * 2 + col / 8) * bits + col % 2 * 16;
        f64::from(word >> shift & ((1 << bits) - 1))
    }

    fn key(&self, token: usize, channel: usize) -> f64 {
        let first = token / self.params.group * 2 * self.d;
        let at =
            channel % 8 / 2 * (self.d / 4) + channel / 16 * 4 + channel % 16 / 8 * 2 + channel % 2;
        let (scale, min) = (self.ks[first + at], self.ks[first + self.d + at]);
        let place = (token % TILE, channel % 16);
        self.code(&self.kc, token, channel / 16, place) * scale.to_f64() + min.to_f64()
    }

    fn value(&self, token: usize, channel: usize) -> f64 {
        let groups = self.d / self.params.group;
        let n = token % TILE;
        let at = (token / TILE % 2 * groups + channel / self.params.group) * TILE
            + n % 8 / 2 * 4
            + n / 8 * 2
            + n % 2;
        let first = token / CHUNK * 64 * groups;
        let (scale, min) = (self.vs[first + at], self.vs[first + 2 * groups * TILE + at]);
        let place = (channel % 16, n);
        self.code(&self.vc, token, channel / 16, place) * scale.to_f64() + min.to_f64()
    }
}
