//! KV-cache compression methods: what each keeps, at which precision, and what it costs in bytes.
//!
//! Pure: no clock, no file, no device. The kernels of [`crate::kernel`] are proven against this module.

use serde::{Deserialize, Serialize};

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
    /// KIVI (arXiv 2402.02750): K per channel in groups of tokens, V per token in groups of channels.
    Kivi {
        /// Code width: 2 or 4.
        bits: u32,
        /// Group size g: tokens of one channel (K), channels of one token (V).
        group: usize,
        /// Residual length R, a multiple of `group`: the newest tokens stay fp16.
        residual: usize,
    },
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
