//! A head's cache back in f64, by the plainest route: what kernels are held against.

use half::{bf16, f16};

use super::{
    gear::Extras,
    layout::{BLOCK, Codec, HeadRef, Keys, key_code_at, row_scale, value_code_at},
};
use crate::method::turbo;

impl HeadRef<'_> {
    /// Keys and values as stored, dequantised, `[n][d]` each: what a kernel's attention is checked against.
    pub(crate) fn dequantise(&self) -> (Vec<f64>, Vec<f64>) {
        let (d, n) = (self.layout.d, self.layout.n);
        let at = |i: usize| (i / d, i % d);
        let mut k: Vec<f64> = (0..n * d).map(|i| self.key(at(i).0, at(i).1)).collect();
        let mut v: Vec<f64> = (0..n * d).map(|i| self.value(at(i).0, at(i).1)).collect();
        if let Codec::Int { keys: Keys::Points, .. } = self.layout.codec {
            k.chunks_mut(d).for_each(turbo::rotate);
        }
        if self.layout.rank > 0 {
            let Extras { keys, values } = self.extras;
            keys.add_to(&mut k[..self.layout.kq * d], d, self.layout.rank);
            values.add_to(&mut v[..self.layout.vq * d], d, self.layout.rank);
        }
        (k, v)
    }

    fn full(&self, x: f16) -> f64 {
        match self.layout.codec {
            Codec::Brain => bf16::from_bits(x.to_bits()).to_f64(),
            _ => x.to_f64(),
        }
    }

    fn fp8_scale(&self, params: &[f16], token: usize) -> f64 {
        match self.layout.codec {
            Codec::Fp8 { scaled: true } => f64::from(row_scale(params, token)),
            _ => 1.0,
        }
    }

    fn key(&self, token: usize, channel: usize) -> f64 {
        let (d, kq) = (self.layout.d, self.layout.kq);
        if token >= kq {
            return self.full(self.k_full()[(token - kq) * d + channel]);
        }
        let Codec::Int { bits, keys, .. } = self.layout.codec else {
            return fp8(self.k_codes()[token * d + channel])
                * self.fp8_scale(self.k_params(), token);
        };
        let (byte, shift) = key_code_at(bits, d, channel);
        let code = code(self.k_codes()[token * d * bits / 8 + byte], shift, bits);
        let params = self.k_params();
        let (scale, min) = match keys {
            Keys::PerChannel(g) => (token / g * 2 * d + channel, token / g * 2 * d + d + channel),
            Keys::Points => return turbo::points()[code as usize] * params[token].to_f64(),
            Keys::PerToken => (token, kq.next_multiple_of(BLOCK) + token),
        };
        code * params[scale].to_f64() + params[min].to_f64()
    }

    fn value(&self, token: usize, channel: usize) -> f64 {
        let (d, vq) = (self.layout.d, self.layout.vq);
        if token >= vq {
            return self.full(self.v_full()[(token - vq) * d + channel]);
        }
        let Codec::Int { bits, value_group, .. } = self.layout.codec else {
            return fp8(self.v_codes()[token * d + channel])
                * self.fp8_scale(self.v_params(), token);
        };
        let (byte, shift) = value_code_at(bits, channel, token % BLOCK);
        let block = token / BLOCK * BLOCK * d * bits / 8;
        let code = code(self.v_codes()[block + byte], shift, bits);
        let group = token / BLOCK * self.layout.value_groups() + channel / value_group;
        let scale = group * 2 * BLOCK + token % BLOCK;
        code * self.v_params()[scale].to_f64() + self.v_params()[scale + BLOCK].to_f64()
    }
}

fn fp8(byte: u8) -> f64 {
    super::simd::portable::fp8_as_f16(byte).to_f64() * 256.0
}

fn code(byte: u8, shift: usize, bits: usize) -> f64 {
    f64::from(u32::from(byte) >> shift & ((1 << bits) - 1))
}
