//! Where the parts of one head's cache lie. The semantics are each method's, the layout is kvbench's own: chosen so
//! that codes unpack by mask and shift and meet the query in 8-bit integer dot products.
//!
//! | part | layout |
//! |---|---|
//! | key codes, 2 or 4 bits | token-major; byte `i` of a row holds channels `i`, `i + row_bytes`, ... from its low bits |
//! | key scales and minima | per channel: `[group][scale D, min D]`; per token: `[scale n, min n]`, n rounded up to 32; points: `[scale n]` |
//! | value codes, 2 or 4 bits | blocks of 32 tokens by 8 channels; 32 bytes = 8 channels by 4 tokens, 4 more tokens a plane |
//! | value codes, 8 bits | blocks of 32 tokens by 8 channels; 16 bytes = 8 channels by 2 tokens |
//! | value scales and minima | `[block of 32 tokens][group of channels][scale 32, min 32]` |
//! | fp16, bf16 and e4m3 rows | token-major |
//! | scales of e4m3 rows | f32, one a token, in two halves of the scales' array |
//!
//! Quantised tokens are padded to a multiple of 32; padding is not counted in `bytes_moved`. What GEAR keeps beside its codes
//! lies in [`super::gear::Extras`]: how many outliers of V a head has depends on the data.

use half::{
    bf16, f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};

use super::gear::Extras;
use crate::method::{Gear, Method};

/// Tokens in a block of packed values.
pub(crate) const BLOCK: usize = 32;

/// What codes of keys mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// A scale and a minimum per channel and so many tokens.
    PerChannel(usize),
    /// A scale and a minimum per token.
    PerToken,
    /// TurboQuant's points in the turned space, a scale per token.
    Points,
}

/// How the compressed part is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Nothing is quantised: all rows are fp16.
    Half,
    /// All rows are bf16, in the place of fp16 ones.
    Brain,
    /// e4m3 bytes.
    Fp8 {
        /// Whether each row has an f32 scale, or all have scale 1.
        scaled: bool,
    },
    /// Asymmetric integers.
    Int {
        /// 2, 4 or 8.
        bits: usize,
        /// What a key's codes mean.
        keys: Keys,
        /// Channels that share a scale of one token's value.
        value_group: usize,
    },
}

impl Codec {
    /// The codec of a method at a head dimension.
    pub(crate) fn of(method: &Method, d: usize) -> Codec {
        match *method {
            Method::Int8 => Codec::Int { bits: 8, keys: Keys::PerToken, value_group: d },
            Method::Int4 => Codec::Int { bits: 4, keys: Keys::PerToken, value_group: d },
            Method::Turboquant4 => Codec::Int { bits: 4, keys: Keys::Points, value_group: d },
            Method::Bf16 => Codec::Brain,
            Method::Fp8 => Codec::Fp8 { scaled: false },
            Method::Fp8TokenHead => Codec::Fp8 { scaled: true },
            Method::Kivi { bits, group, .. } | Method::Gear(Gear { bits, group, .. }) => {
                let keys = Keys::PerChannel(group);
                Codec::Int { bits: bits as usize, keys, value_group: group }
            }
            _ => Codec::Half,
        }
    }

    fn bits(self) -> usize {
        match self {
            Codec::Half | Codec::Brain => 16,
            Codec::Fp8 { .. } => 8,
            Codec::Int { bits, .. } => bits,
        }
    }
}

/// Byte and shift of the code of a value, from the start of its 32 tokens.
#[inline(always)]
pub(crate) fn value_code_at(bits: usize, channel: usize, token: usize) -> (usize, usize) {
    let block = channel / 8 * BLOCK * bits;
    if bits == 8 {
        return (block + token / 2 * 16 + channel % 8 * 2 + token % 2, 0);
    }
    let (quad, planes) = (token / 4, 8 / bits);
    (block + quad / planes * 32 + channel % 8 * 4 + token % 4, quad % planes * bits)
}

/// Byte and shift of the code of a key channel, from the start of its row.
#[inline(always)]
pub(crate) fn key_code_at(bits: usize, d: usize, channel: usize) -> (usize, usize) {
    let row_bytes = d * bits / 8;
    (channel % row_bytes, channel / row_bytes * bits)
}

/// Offsets of one head's cache, in bytes, each at a multiple of 64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// How it is stored.
    pub(crate) codec: Codec,
    /// Head dimension.
    pub(crate) d: usize,
    /// Stored tokens.
    pub(crate) n: usize,
    /// Quantised keys; the rest are fp16.
    pub(crate) kq: usize,
    /// Quantised values; the rest are fp16.
    pub(crate) vq: usize,
    /// Columns of GEAR's factors; 0 for the other methods.
    pub(crate) rank: usize,
    k_codes: usize,
    k_params: usize,
    k_full: usize,
    v_codes: usize,
    v_params: usize,
    v_full: usize,
    /// Bytes of all parts, padding included.
    pub(crate) total: usize,
}

impl Layout {
    /// The cache of a method after `len` tokens.
    pub(crate) fn new(method: &Method, len: usize, d: usize) -> Layout {
        let (codec, n, (kq, vq)) =
            (Codec::of(method, d), method.kept_tokens(len), method.quantised_tokens(len));
        let mut total = 0;
        let mut part = |bytes: usize| {
            let at = total;
            total += bytes.next_multiple_of(64);
            at
        };
        let pad = |n: usize| {
            if matches!(codec, Codec::Int { .. }) { n.next_multiple_of(BLOCK) } else { n }
        };
        let (keys, blocks) = (pad(kq), pad(vq));
        let (k_params, v_params) = param_counts(codec, kq, blocks, d);
        Layout {
            codec,
            d,
            n,
            kq,
            vq,
            rank: if let Method::Gear(gear) = method { gear.rank } else { 0 },
            k_codes: part(keys * d * codec.bits() / 8),
            k_params: part(k_params * 2),
            k_full: part((n - kq) * d * 2),
            v_codes: part(blocks * d * codec.bits() / 8),
            v_params: part(v_params * 2),
            v_full: part((n - vq) * d * 2),
            total,
        }
    }

    /// Bytes of one token's quantised key or value.
    pub(crate) fn row_bytes(&self) -> usize {
        self.d * self.codec.bits() / 8
    }

    /// Value groups of a token.
    pub(crate) fn value_groups(&self) -> usize {
        match self.codec {
            Codec::Int { value_group, .. } => self.d / value_group,
            _ => 0,
        }
    }
}

fn param_counts(codec: Codec, kq: usize, padded_v: usize, d: usize) -> (usize, usize) {
    match codec {
        Codec::Int { keys, value_group, .. } => {
            let keys = match keys {
                Keys::PerChannel(group) => 2 * (kq / group * d),
                Keys::PerToken => 2 * kq.next_multiple_of(BLOCK),
                Keys::Points => kq.next_multiple_of(BLOCK),
            };
            (keys, 2 * padded_v * (d / value_group))
        }
        Codec::Fp8 { scaled: true } => (2 * kq, 2 * padded_v),
        _ => (0, 0),
    }
}

/// One head's cache, readable.
#[derive(Clone, Copy)]
pub(crate) struct HeadRef<'a> {
    bytes: &'a [u8],
    /// Where things are.
    pub(crate) layout: &'a Layout,
    /// GEAR's factors and outliers; empty for the other methods.
    pub(crate) extras: &'a Extras,
}

/// The parts of one head's cache, writable.
pub(crate) struct HeadParts<'a> {
    /// Key codes or e4m3 keys.
    pub(crate) k_codes: &'a mut [u8],
    /// Key scales and minima.
    pub(crate) k_params: &'a mut [f16],
    /// fp16 keys.
    pub(crate) k_full: &'a mut [f16],
    /// Value codes or e4m3 values.
    pub(crate) v_codes: &'a mut [u8],
    /// Value scales and minima.
    pub(crate) v_params: &'a mut [f16],
    /// fp16 values.
    pub(crate) v_full: &'a mut [f16],
    /// GEAR's factors and outliers.
    pub(crate) extras: &'a mut Extras,
}

impl<'a> HeadRef<'a> {
    /// A view of `bytes`, which start at a multiple of 64.
    pub(crate) fn new(bytes: &'a [u8], layout: &'a Layout, extras: &'a Extras) -> Self {
        assert!(bytes.len() >= layout.total && bytes.as_ptr().addr().is_multiple_of(64));
        Self { bytes, layout, extras }
    }

    /// Key codes or e4m3 keys.
    #[inline(always)]
    pub(crate) fn k_codes(&self) -> &'a [u8] {
        &self.bytes[self.layout.k_codes..self.layout.k_params]
    }
    /// Key scales and minima.
    #[inline(always)]
    pub(crate) fn k_params(&self) -> &'a [f16] {
        halves(&self.bytes[self.layout.k_params..self.layout.k_full])
    }
    /// fp16 keys.
    #[inline(always)]
    pub(crate) fn k_full(&self) -> &'a [f16] {
        halves(&self.bytes[self.layout.k_full..self.layout.v_codes])
    }
    /// Value codes or e4m3 values.
    #[inline(always)]
    pub(crate) fn v_codes(&self) -> &'a [u8] {
        &self.bytes[self.layout.v_codes..self.layout.v_params]
    }
    /// Value scales and minima.
    #[inline(always)]
    pub(crate) fn v_params(&self) -> &'a [f16] {
        halves(&self.bytes[self.layout.v_params..self.layout.v_full])
    }
    /// fp16 values.
    #[inline(always)]
    pub(crate) fn v_full(&self) -> &'a [f16] {
        halves(&self.bytes[self.layout.v_full..self.layout.total])
    }
}

impl<'a> HeadParts<'a> {
    /// Splits `bytes`, which start at a multiple of 64.
    pub(crate) fn new(bytes: &'a mut [u8], layout: &Layout, extras: &'a mut Extras) -> Self {
        assert!(bytes.len() >= layout.total && bytes.as_ptr().addr().is_multiple_of(64));
        let (k_codes, rest) = bytes.split_at_mut(layout.k_params);
        let (k_params, rest) = rest.split_at_mut(layout.k_full - layout.k_params);
        let (k_full, rest) = rest.split_at_mut(layout.v_codes - layout.k_full);
        let (v_codes, rest) = rest.split_at_mut(layout.v_params - layout.v_codes);
        let (v_params, rest) = rest.split_at_mut(layout.v_full - layout.v_params);
        Self {
            k_codes,
            k_params: halves_mut(k_params),
            k_full: halves_mut(k_full),
            v_codes,
            v_params: halves_mut(v_params),
            v_full: halves_mut(&mut rest[..layout.total - layout.v_full]),
            extras,
        }
    }
}

/// The bits of fp16 numbers as bf16.
#[inline(always)]
pub(crate) fn brain(x: &[f16]) -> &[bf16] {
    x.reinterpret_cast().reinterpret_cast()
}

/// Scale of row `t` of e4m3 rows.
#[inline(always)]
pub(crate) fn row_scale(params: &[f16], t: usize) -> f32 {
    let [low, high] = [params[2 * t], params[2 * t + 1]].map(|x| u32::from(x.to_bits()));
    f32::from_bits(high << 16 | low)
}

/// Keeps the scale of row `t` of e4m3 rows.
#[inline(always)]
pub(crate) fn set_row_scale(params: &mut [f16], t: usize, scale: f32) {
    let bits = scale.to_bits();
    params[2 * t] = f16::from_bits(bits as u16);
    params[2 * t + 1] = f16::from_bits((bits >> 16) as u16);
}

fn halves(bytes: &[u8]) -> &[f16] {
    assert!(bytes.as_ptr().addr().is_multiple_of(2));
    // SAFETY: aligned as asserted, and every bit pattern is an f16.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 2) }
}

fn halves_mut(bytes: &mut [u8]) -> &mut [f16] {
    assert!(bytes.as_ptr().addr().is_multiple_of(2));
    // SAFETY: aligned as asserted, every bit pattern is an f16, and the borrow is unique.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / 2) }
}
