//! Caches quantised per (token, KV head): INT8 and INT4 as LMDeploy, FP8 with scale 1 and per token and head, and TurboQuant
//! at 4 bits, as vLLM. The layout is `kernels/packed.cuh`'s.

use std::sync::Arc;

use anyhow::{Result, bail};
use half::f16;

use super::{
    GROUP_MAX,
    base::{Base, Rows},
    data::{Ragged, grid},
    device::{Arg, Buffer, Device, Function, Launch},
    paged::{Pages, Workspace, copies, scale_log2, splits},
    program::{Instance, Source},
    timed::Prepared,
};
use crate::{
    kernel::{KernelSpec, Op, Verification, Work, data::Place},
    method::{Method, turbo},
};

const WARPS: usize = 4;
/// Tiles of 16 tokens that each warp keeps in flight.
const STAGES: usize = 4;
const TILE: usize = 16;
const PACK_THREADS: u32 = 128;
/// Blocks that share an SM's registers.
const RESIDENT: usize = 4;

/// Storage format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Int8,
    Int4,
    Fp8,
    Fp8Row,
    Turbo,
}

impl Format {
    const ALL: [Format; 5] =
        [Format::Int8, Format::Int4, Format::Fp8, Format::Fp8Row, Format::Turbo];

    /// Of a method.
    ///
    /// # Errors
    /// A method without such a format.
    pub(crate) fn of(method: &Method) -> Result<Self> {
        Ok(match method {
            Method::Int8 => Format::Int8,
            Method::Int4 => Format::Int4,
            Method::Fp8 => Format::Fp8,
            Method::Fp8TokenHead => Format::Fp8Row,
            Method::Turboquant4 => Format::Turbo,
            other => bail!(
                "expected int8, int4, fp8, fp8-token-head or turboquant4, got {}",
                other.label()
            ),
        })
    }

    /// Name in the kernels.
    fn name(self) -> &'static str {
        match self {
            Format::Int8 => "Int8",
            Format::Int4 => "Int4",
            Format::Fp8 => "Fp8",
            Format::Fp8Row => "Fp8Row",
            Format::Turbo => "Turbo",
        }
    }

    fn bits(self) -> usize {
        if matches!(self, Format::Int4 | Format::Turbo) { 4 } else { 8 }
    }

    /// Bytes of the scales of a row of V.
    fn scale_bytes(self) -> usize {
        if self == Format::Fp8 { 0 } else { 4 }
    }

    /// Bytes of the scales of a row of K.
    fn key_scale_bytes(self) -> usize {
        if self == Format::Turbo { 2 } else { self.scale_bytes() }
    }

    fn decode(self, page: usize, d: usize) -> Instance {
        let expression = format!("decode_packed<{}, {WARPS}, {STAGES}, {page}>", self.name());
        Instance::at(Source::Packed, expression, d).counting((2 * TILE * d) as u32)
    }

    /// One more token.
    pub(crate) fn append(self, page: usize, d: usize) -> Instance {
        Instance::at(Source::Pack, format!("append_row<{}, {page}>", self.name()), d)
    }

    fn pack(self, page: usize, d: usize) -> Instance {
        Instance::at(Source::Pack, format!("pack_rows<{}, {page}>", self.name()), d)
    }

    /// Shared memory of a decode block: the stages of all warps, or what `finish` needs.
    fn smem_bytes(self, d: usize) -> usize {
        let scales = self.key_scale_bytes() + self.scale_bytes();
        let stage = TILE * (2 * d * self.bits() / 8 + scales);
        // TurboQuant's turned queries lie behind the stages.
        let turned = if self == Format::Turbo { GROUP_MAX * d * 2 } else { 0 };
        (WARPS * STAGES * stage + turned).max((WARPS * (8 * d + 16) + 4) * 4)
    }
}

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    let mut all = Vec::new();
    for d in [64, 128] {
        for page in [16, 64] {
            for format in Format::ALL {
                all.push(format.decode(page, d));
                all.push(format.pack(page, d));
                all.push(format.append(page, d));
            }
        }
    }
    all
}

/// Pools with their page table.
pub(crate) struct Cache {
    format: Format,
    d: usize,
    heads_kv: usize,
    /// Tokens of each sequence.
    pub(crate) lens: Ragged,
    /// Pages of each sequence, with room for one token more.
    pub(crate) pages: Pages,
    /// `kc, ks, vc, vs`.
    pub(crate) pools: [Buffer; 4],
    pack: Function,
}

impl Cache {
    /// Empty, poisoned pools.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(base: &Base, format: Format, copy: usize) -> Result<Self> {
        let (device, spec) = (&base.device, &base.spec);
        let (d, page) = (base.heads.d, spec.page);
        let slots: Vec<usize> = spec.shape.kv_lens.iter().map(|len| len + 1).collect();
        let pages = Pages::new(device, &slots, page, spec.seed ^ copy as u64)?;
        let tokens = pages.n_pages * base.heads.kv * page;
        let pool = |bytes: usize| Buffer::poisoned(device, (tokens * bytes) as u64);
        let (codes, scales) = (d * format.bits() / 8, format.scale_bytes());
        let key_scales = format.key_scale_bytes();
        Ok(Self {
            format,
            d,
            heads_kv: base.heads.kv,
            lens: Ragged::new(device, &spec.shape.kv_lens)?,
            pools: [pool(codes)?, pool(key_scales)?, pool(codes)?, pool(scales)?],
            pack: device.function(&format.pack(page, d))?,
            pages,
        })
    }

    /// Queues the writing of a prompt.
    ///
    /// # Errors
    /// The launch was refused.
    pub(crate) fn pack(&self, device: &Arc<dyn Device>, [k, v]: &[Buffer; 2]) -> Result<()> {
        let mut args = vec![k.arg(), v.arg(), self.lens.lens.arg(), self.lens.starts.arg()];
        args.push(self.pages.arg());
        args.extend(self.pools.iter().map(Buffer::arg));
        args.push(Arg::I32(i32::try_from(self.pages.maxp)?));
        let blocks = self.lens.longest().div_ceil(TILE);
        let launch = Launch {
            grid: grid(blocks, self.heads_kv, self.lens.host.len()),
            block: PACK_THREADS,
            smem_bytes: TILE * self.d,
        };
        device.launch(self.pack, launch, &args)
    }

    /// Everything stored of one (sequence, KV head) with `len` tokens: `[token][d]` each.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn stored(&self, at: Place, len: usize) -> Result<Rows> {
        let (mut k, mut v) = (Vec::new(), Vec::new());
        for token in (0..len).step_by(TILE) {
            let page = self.pages.of(at.seq, token) * self.heads_kv + at.head;
            let tile = page * (self.pages.page / TILE) + token % self.pages.page / TILE;
            let rows = TILE.min(len - token);
            k.extend(self.tile(tile, rows, false)?);
            v.extend(self.tile(tile, rows, true)?);
        }
        Ok((k, v))
    }

    /// The first `rows` tokens of a tile.
    fn tile(&self, tile: usize, rows: usize, is_v: bool) -> Result<Vec<f64>> {
        let turned = self.format == Format::Turbo && !is_v;
        let words = self.words(tile, is_v)?;
        let affine = self.affine(tile, is_v)?;
        let number = |code| match self.format {
            Format::Turbo if turned => turbo_point(code),
            Format::Int8 | Format::Int4 | Format::Turbo => f64::from(code),
            Format::Fp8 | Format::Fp8Row => from_e4m3(code),
        };
        let value = |n: usize, d: usize| {
            let at = if is_v { (d % 16, n) } else { (n, d % 16) };
            number(self.code(&words, d / 16, at, turned)) * affine[n].0 + affine[n].1
        };
        let mut all: Vec<f64> = (0..rows)
            .flat_map(|n| (0..self.d).map(move |d| (n, d)))
            .map(|(n, d)| value(n, d))
            .collect();
        if turned {
            all.chunks_mut(self.d).for_each(turbo::rotate);
        }
        Ok(all)
    }

    fn words(&self, tile: usize, is_v: bool) -> Result<Vec<u32>> {
        let bytes = TILE * self.d * self.format.bits() / 8;
        let [kc, _, vc, _] = &self.pools;
        (if is_v { vc } else { kc }).read((tile * bytes) as u64, bytes / 4)
    }

    /// Scale and minimum of each token of a tile.
    fn affine(&self, tile: usize, is_v: bool) -> Result<Vec<(f64, f64)>> {
        let [_, ks, _, vs] = &self.pools;
        let (scales, bytes) = if is_v {
            (vs, self.format.scale_bytes())
        } else {
            (ks, self.format.key_scale_bytes())
        };
        let place = (tile * TILE * bytes) as u64;
        Ok(match (self.format, is_v) {
            (Format::Fp8, _) => vec![(1.0, 0.0); TILE],
            (Format::Fp8Row, _) => {
                let scales = scales.read::<f32>(place, TILE)?;
                scales.into_iter().map(|scale| (f64::from(scale), 0.0)).collect()
            }
            (Format::Turbo, false) => {
                let scales = scales.read::<f16>(place, TILE)?;
                scales.into_iter().map(|scale| (scale.to_f64(), 0.0)).collect()
            }
            (Format::Int8 | Format::Int4 | Format::Turbo, _) => {
                let pairs = scales.read::<f16>(place, 2 * TILE)?;
                pairs.chunks(2).map(|pair| (pair[0].to_f64(), pair[1].to_f64())).collect()
            }
        })
    }

    /// The code at row and column of fragment `f`.
    fn code(&self, words: &[u32], f: usize, (row, col): (usize, usize), turned: bool) -> u32 {
        let (lane, r, j) = (row % 8 * 4 + col % 8 / 2, row / 8, col / 8);
        let (word, shift) = match self.format {
            _ if turned => (f, ((j * 2 + r) * 2 + col % 2) * 4),
            Format::Int4 | Format::Turbo => (f, r * 8 + j * 4 + col % 2 * 16),
            Format::Int8 | Format::Fp8 | Format::Fp8Row => (f * 2 + r, j * 8 + col % 2 * 16),
        };
        words[(word / 4 * 32 + lane) * 4 + word % 4] >> shift & ((1 << self.format.bits()) - 1)
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.pools.iter().map(Buffer::bytes).sum::<u64>() + self.pages.bytes()
    }
}

/// The point of a code of TurboQuant's keys: its rank by magnitude, the sign in bit 3.
fn turbo_point(code: u32) -> f64 {
    let size = turbo::points()[turbo::POINTS / 2 + (code & 7) as usize];
    if code & 8 == 0 { size } else { -size }
}

fn from_e4m3(code: u32) -> f64 {
    let (exponent, mantissa) = ((code >> 3 & 15).cast_signed(), f64::from(code & 7) / 8.0);
    let size = if exponent == 0 {
        mantissa * f64::powi(2.0, -6)
    } else {
        (1.0 + mantissa) * f64::powi(2.0, exponent - 7)
    };
    if code & 0x80 == 0 { size } else { -size }
}

/// A prepared decode step.
pub(crate) struct PackedDecode {
    base: Base,
    function: Function,
    caches: Vec<(Cache, Buffer)>,
    work: Workspace,
}

impl PackedDecode {
    /// Makes data and caches.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let (base, format) = (Base::new(device, spec)?, Format::of(&spec.method)?);
        let shape = &spec.shape;
        let (d, heads) = (shape.head_dim, shape.kv_lens.len() * shape.heads_kv);
        let longest = shape.kv_lens.iter().copied().max().unwrap_or(1);
        let room = device.limits().resident(format.smem_bytes(d));
        let n_splits = splits(device.limits(), heads, longest, room.clamp(1, RESIDENT));
        let work = Workspace::new(device, heads, (shape.heads_q / shape.heads_kv, d), n_splits)?;
        let function = device.function(&format.decode(spec.page, d))?;
        let mut caches = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, base.cache_bytes()) {
            let cache = Cache::new(&base, format, copy)?;
            cache.pack(device, &base.raw(copy, &cache.lens)?)?;
            let q = base.queries(copy)?;
            device.sync()?;
            caches.push((cache, q));
        }
        Ok(Self { base, function, caches, work })
    }
}

impl Prepared for PackedDecode {
    fn op(&self) -> Op {
        Op::Decode
    }

    fn work(&self) -> Work {
        self.base.decode_work()
    }

    fn verify(&mut self) -> Result<Verification> {
        self.work.poison()?;
        self.queue(0)?;
        self.base.check_decode(&self.work, |at, len| self.caches[0].0.stored(at, len))
    }

    fn copies(&self) -> usize {
        self.caches.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let (cache, q) = &self.caches[copy];
        let shape = &self.base.spec.shape;
        let mut args = vec![q.arg()];
        args.extend(cache.pools.iter().map(Buffer::arg));
        args.extend([cache.pages.arg(), cache.lens.lens.arg()]);
        args.extend(self.work.args());
        for n in [shape.heads_q / shape.heads_kv, cache.pages.maxp] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        args.push(Arg::F32(scale_log2(shape.head_dim)));
        let launch = Launch {
            grid: grid(self.work.splits, shape.heads_kv, shape.kv_lens.len()),
            block: (WARPS * 32) as u32,
            smem_bytes: cache.format.smem_bytes(shape.head_dim),
        };
        self.base.device.launch(self.function, launch, &args)
    }

    fn resident_bytes(&self) -> u64 {
        let caches: u64 = self.caches.iter().map(|(cache, q)| cache.bytes() + q.bytes()).sum();
        caches + self.work.bytes()
    }

    fn lane_instructions(&self) -> Option<u64> {
        self.base.lane_instructions(self.function)
    }
}

/// Compressing a prompt.
pub(crate) struct PackedPack {
    base: Base,
    caches: Vec<(Cache, [Buffer; 2])>,
}

impl PackedPack {
    /// Makes data and empty caches.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let (base, format) = (Base::new(device, spec)?, Format::of(&spec.method)?);
        let mut caches = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, base.cache_bytes()) {
            let cache = Cache::new(&base, format, copy)?;
            let raw = base.raw(copy, &cache.lens)?;
            caches.push((cache, raw));
        }
        Ok(Self { base, caches })
    }
}

impl Prepared for PackedPack {
    fn op(&self) -> Op {
        Op::Compress
    }

    fn work(&self) -> Work {
        self.base.compress_work()
    }

    fn verify(&mut self) -> Result<Verification> {
        self.caches[0].0.pools.iter().try_for_each(|pool| pool.fill(0xFF))?;
        self.queue(0)?;
        self.base.check_stored(|at, len| self.caches[0].0.stored(at, len))
    }

    fn copies(&self) -> usize {
        self.caches.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let (cache, raw) = &self.caches[copy];
        cache.pack(&self.base.device, raw)
    }

    fn resident_bytes(&self) -> u64 {
        let one = |(cache, [k, v]): &(Cache, [Buffer; 2])| cache.bytes() + k.bytes() + v.bytes();
        self.caches.iter().map(one).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::quant;

    #[test]
    fn every_e4m3_code_is_a_number_the_reference_keeps() {
        for code in (0..=0x7E).chain(0x80..=0xFE) {
            let value = from_e4m3(code);
            assert!((quant::fp8_e4m3(value) - value).abs() < 1e-12, "{code:#x}");
        }
        assert!((from_e4m3(0x7E) - quant::FP8_MAX).abs() < 1e-12);
    }
}
