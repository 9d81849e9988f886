//! KV-cache compression methods: what each keeps, at which precision, and what it costs in bytes.
//!
//! Pure: no clock, no file, no device. The kernels of [`crate::kernel`] are proven against this module: [`quant`]
//! holds the published round trips in f64, [`select`] the published index sets.
//!
//! StreamingLLM caches K before the rotary embedding and rotates it at *cache* positions in every step. Positions are
//! a matter of the model: the data of our kernels carry no rotary embedding for any method, so nothing is rotated for
//! StreamingLLM either. What its decode kernel measures is the attention over `sink + window` tokens; the `2 D` or so
//! operations per kept token that the rotation would add are not in its time and not in its count.

use serde::{Deserialize, Serialize};

pub mod gear;
pub mod quant;
pub mod select;
pub mod turbo;

pub use gear::Gear;

/// One method with its parameters. A value of this type is valid: see [`Method::check`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Half precision, nothing removed: the baseline. 4 D bytes per token and kv head.
    Fp16,
    /// Asymmetric INT8, fp16 scale and minimum per (token, kv head), as LMDeploy `quant_policy 8`.
    Int8,
    /// Asymmetric INT4, fp16 scale and minimum per (token, kv head), as LMDeploy `quant_policy 4`.
    Int4,
    /// FP8 e4m3, scale 1 (uncalibrated), as vLLM `--kv-cache-dtype fp8`.
    Fp8,
    /// bfloat16, nothing removed: 4 D bytes per token and kv head, three bits less of mantissa than fp16.
    Bf16,
    /// FP8 e4m3 with one f32 scale per (token, kv head) and side, as vLLM `--kv-cache-dtype fp8_per_token_head`.
    Fp8TokenHead,
    /// KIVI (arXiv 2402.02750): K per channel in groups of tokens, V per token in groups of channels.
    Kivi {
        /// Code width: 2 or 4.
        bits: u32,
        /// Group size g: tokens of one channel (K), channels of one token (V).
        group: usize,
        /// Residual length R, a multiple of `group`: the newest tokens stay fp16.
        residual: usize,
    },
    /// GEAR (arXiv 2403.05527): KIVI's quantisation, a low-rank term and a few exact outliers; see [`gear`].
    Gear(Gear),
    /// TurboQuant (arXiv 2504.19874) at 4 bits as vLLM's `turboquant_4bit_nc`; see [`turbo`].
    Turboquant4,
    /// StreamingLLM (arXiv 2309.17453): the first `sink` tokens and the last `window` tokens.
    Streaming {
        /// Sink tokens.
        sink: usize,
        /// Recent tokens.
        window: usize,
    },
    /// H2O (arXiv 2306.14048): `heavy` tokens with the largest accumulated attention and the last `recent`.
    H2o {
        /// Heavy hitters kept per kv head.
        heavy: usize,
        /// Recent tokens always kept.
        recent: usize,
    },
    /// SnapKV (arXiv 2404.14469): at prefill, the `budget` prompt tokens the last `window` queries attend to.
    Snapkv {
        /// Observation window w: the last queries of the prompt; always kept.
        window: usize,
        /// Tokens kept of the prompt, window included.
        budget: usize,
        /// How scores are smoothed along tokens.
        pooling: Pooling,
        /// Width of the pooling kernel, odd.
        pool_width: usize,
    },
}

/// Pooling of SnapKV's scores along the token axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Mean over the pooling kernel (upstream default).
    Avg,
    /// Maximum over the pooling kernel (upstream's LongBench setting).
    Max,
}

/// Bytes of one fp16 number.
const HALF: u64 = 2;
/// Bytes of H2O's accumulated score, f32, per kept token and kv head.
const H2O_SCORE: u64 = 4;

impl Method {
    /// Whether the parameters make sense on their own; [`Method::check_head_dim`] adds what depends on the model.
    ///
    /// # Errors
    /// The parameter, what was expected and what was given.
    pub fn check(&self) -> Result<(), String> {
        match *self {
            Method::Fp16
            | Method::Bf16
            | Method::Int8
            | Method::Int4
            | Method::Fp8
            | Method::Turboquant4
            | Method::Fp8TokenHead => Ok(()),
            Method::Gear(gear) => gear.check(),
            Method::Kivi { bits, group, residual } => check_kivi(bits, group, residual),
            Method::Streaming { sink: _, window } => at_least_one("window", window),
            Method::H2o { heavy, recent } => {
                at_least_one("heavy", heavy)?;
                at_least_one("recent", recent)
            }
            Method::Snapkv { window, budget, pooling: _, pool_width } => {
                check_snapkv(window, budget, pool_width)
            }
        }
    }

    /// Whether the method can run at this head dimension: value groups must tile it, a Hadamard matrix must exist.
    ///
    /// # Errors
    /// The parameter, what was expected and what was given.
    pub fn check_head_dim(&self, head_dim: usize) -> Result<(), String> {
        match *self {
            Method::Kivi { group, .. } | Method::Gear(Gear { group, .. })
                if !head_dim.is_multiple_of(group) =>
            {
                Err(format!("group: expected a divisor of head_dim {head_dim}, got {group}"))
            }
            Method::Turboquant4 if !head_dim.is_power_of_two() => Err(format!(
                "head_dim: expected a power of two for TurboQuant's rotation, got {head_dim}"
            )),
            _ => Ok(()),
        }
    }

    /// Short name with the parameters that change the result: `kivi4-g32-r128`, `streaming-4-508`.
    pub fn label(&self) -> String {
        match self {
            Method::Fp16 => "fp16".into(),
            Method::Int8 => "int8".into(),
            Method::Int4 => "int4".into(),
            Method::Fp8 => "fp8".into(),
            Method::Bf16 => "bf16".into(),
            Method::Fp8TokenHead => "fp8-token-head".into(),
            Method::Kivi { bits, group, residual } => format!("kivi{bits}-g{group}-r{residual}"),
            Method::Gear(gear) => gear.label(),
            Method::Turboquant4 => "turboquant4".into(),
            Method::Streaming { sink, window } => format!("streaming-{sink}-{window}"),
            Method::H2o { heavy, recent } => format!("h2o-{heavy}-{recent}"),
            Method::Snapkv { window, budget, .. } => format!("snapkv-{budget}-w{window}"),
        }
    }

    /// Family without parameters, as in a list of kernels.
    pub fn family(&self) -> &'static str {
        match self {
            Method::Fp16 => "fp16",
            Method::Int8 => "int8",
            Method::Int4 => "int4",
            Method::Fp8 => "fp8",
            Method::Bf16 => "bf16",
            Method::Fp8TokenHead => "fp8-token-head",
            Method::Kivi { .. } => "kivi",
            Method::Gear(_) => "gear",
            Method::Turboquant4 => "turboquant4",
            Method::Streaming { .. } => "streaming",
            Method::H2o { .. } => "h2o",
            Method::Snapkv { .. } => "snapkv",
        }
    }

    /// Storage type of the cache: the `dtype` column. Methods that only remove tokens store `f16`.
    pub fn dtype(&self) -> String {
        match self {
            Method::Int8 => "int8".into(),
            Method::Int4 => "int4".into(),
            Method::Fp8 => "fp8-e4m3".into(),
            Method::Kivi { bits, group, .. } => format!("kivi{bits}-g{group}"),
            Method::Gear(Gear { bits, group, .. }) => format!("gear{bits}-g{group}"),
            Method::Turboquant4 => "turboquant4".into(),
            Method::Bf16 => "bf16".into(),
            Method::Fp8TokenHead => "fp8-e4m3-token-head".into(),
            Method::Fp16
            | Method::Streaming { .. }
            | Method::H2o { .. }
            | Method::Snapkv { .. } => "f16".into(),
        }
    }

    /// Whether stored values differ from the fp16 originals.
    pub fn is_quantised(&self) -> bool {
        match self {
            Method::Int8
            | Method::Int4
            | Method::Fp8
            | Method::Fp8TokenHead
            | Method::Turboquant4
            | Method::Gear(_)
            | Method::Kivi { .. } => true,
            Method::Fp16
            | Method::Bf16
            | Method::Streaming { .. }
            | Method::H2o { .. }
            | Method::Snapkv { .. } => false,
        }
    }

    /// Bytes per *stored* token and kv head (K and V), scales included, without KIVI's residual: what a long sequence
    /// tends to. H2O adds its f32 score, GEAR its low-rank rows and outliers. Multiply by [`Method::kept_tokens`], or use [`Method::cache_bytes`].
    pub fn bytes_per_token_head(&self, head_dim: usize) -> f64 {
        let d = head_dim as f64;
        let fp16 = 2.0 * HALF as f64 * d;
        match *self {
            Method::Fp16 | Method::Bf16 | Method::Streaming { .. } | Method::Snapkv { .. } => fp16,
            Method::Fp8TokenHead => 2.0 * (d + 4.0),
            Method::H2o { .. } => fp16 + H2O_SCORE as f64,
            Method::Fp8 => 2.0 * d,
            Method::Int8 => 2.0 * (d + 4.0),
            Method::Int4 => 2.0 * (d / 2.0 + 4.0),
            Method::Kivi { bits, group, .. } => affine_bytes(bits, group, d),
            Method::Gear(gear) => affine_bytes(gear.bits, gear.group, d) + gear.extra_bytes(d),
            // K: codes and an fp16 norm; V: codes, an fp16 scale and minimum.
            Method::Turboquant4 => d + 6.0,
        }
    }

    /// Tokens in the cache after a prompt of `kv_len` tokens.
    pub fn kept_tokens(&self, kv_len: usize) -> usize {
        match *self {
            Method::Streaming { sink, window } => kv_len.min(sink + window),
            Method::H2o { heavy, recent } => kv_len.min(heavy + recent),
            Method::Snapkv { budget, .. } => kv_len.min(budget),
            _ => kv_len,
        }
    }

    /// Quantised tokens of (K, V) after `kv_len` tokens; the others are fp16. KIVI flushes K whole when its residual
    /// reaches R, so K has `floor(L / R) * R` quantised tokens; V moves one token a step and has `L - R`. GEAR flushes both
    /// whole.
    pub fn quantised_tokens(&self, kv_len: usize) -> (usize, usize) {
        match *self {
            Method::Int8
            | Method::Int4
            | Method::Fp8
            | Method::Fp8TokenHead
            | Method::Turboquant4 => (kv_len, kv_len),
            Method::Gear(Gear { residual, .. }) => {
                let whole = kv_len / residual * residual;
                (whole, whole)
            }
            Method::Kivi { residual, .. } => {
                (kv_len / residual * residual, kv_len.saturating_sub(residual))
            }
            _ => (0, 0),
        }
    }

    /// Exact bytes of one sequence's cache, all KV heads of a layer: codes, scales and minima, half-precision residuals,
    /// low-rank factors and outliers, H2O's scores.
    pub fn cache_bytes(&self, kv_len: usize, heads_kv: usize, head_dim: usize) -> u64 {
        let (d, kept) = (head_dim as u64, self.kept_tokens(kv_len) as u64);
        let head = match *self {
            Method::Fp16 | Method::Bf16 | Method::Streaming { .. } | Method::Snapkv { .. } => {
                2 * HALF * d * kept
            }
            Method::Fp8TokenHead => 2 * (d + 4) * kept,
            Method::H2o { .. } => (2 * HALF * d + H2O_SCORE) * kept,
            Method::Fp8 => 2 * d * kept,
            Method::Int8 => 2 * (d + 2 * HALF) * kept,
            Method::Int4 => 2 * (d / 2 + 2 * HALF) * kept,
            Method::Turboquant4 => (d + 3 * HALF) * kept,
            Method::Kivi { bits, group, .. } | Method::Gear(Gear { bits, group, .. }) => {
                self.residual_bytes(kept, d, u64::from(bits), group as u64)
            }
        };
        let extra = match self {
            Method::Gear(gear) => {
                gear.layer_bytes(self.quantised_tokens(kv_len).0, heads_kv, head_dim)
            }
            _ => 0,
        };
        head * heads_kv as u64 + extra
    }

    /// Groups of quantised tokens and the half-precision rest of one head.
    fn residual_bytes(&self, len: u64, d: u64, bits: u64, group: u64) -> u64 {
        let (k, v) = self.quantised_tokens(len as usize);
        let quantised = (k + v) as u64;
        let scales = quantised * d / group * 2 * HALF;
        quantised * d * bits / 8 + scales + (2 * len - quantised) * d * HALF
    }

    /// fp16 bytes over this method's bytes: how much faster a decode step can be at best when only bytes count.
    pub fn ideal_speedup(&self, kv_len: usize, heads_kv: usize, head_dim: usize) -> f64 {
        Method::Fp16.cache_bytes(kv_len, heads_kv, head_dim) as f64
            / self.cache_bytes(kv_len, heads_kv, head_dim) as f64
    }
}

/// Bytes of a token's codes, scales and minima, K and V.
fn affine_bytes(bits: u32, group: usize, d: f64) -> f64 {
    2.0 * d * (f64::from(bits) / 8.0 + 4.0 / group as f64)
}

fn at_least_one(name: &str, value: usize) -> Result<(), String> {
    if value == 0 { Err(format!("{name}: expected at least 1, got 0")) } else { Ok(()) }
}

fn check_kivi(bits: u32, group: usize, residual: usize) -> Result<(), String> {
    if bits != 2 && bits != 4 {
        return Err(format!("bits: expected 2 or 4, got {bits}"));
    }
    if !group.is_power_of_two() || !(8..=128).contains(&group) {
        return Err(format!("group: expected a power of two from 8 to 128, got {group}"));
    }
    if residual == 0 || !residual.is_multiple_of(group) {
        return Err(format!("residual: expected a multiple of group {group}, got {residual}"));
    }
    Ok(())
}

fn check_snapkv(window: usize, budget: usize, pool_width: usize) -> Result<(), String> {
    at_least_one("window", window)?;
    if budget <= window {
        return Err(format!("budget: expected more than window {window}, got {budget}"));
    }
    if pool_width.is_multiple_of(2) {
        return Err(format!("pool_width: expected an odd number, got {pool_width}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
