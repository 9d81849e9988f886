//! The CUDA sources and what is compiled from them.

/// A source file of `kernels/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Random data, the same as the CPU's.
    Data,
    /// Decode over a GEAR cache.
    DecodeGear,
    /// Decode over 16-bit K and V, and writing such pages.
    DecodeHalf,
    /// Writing a GEAR cache.
    Gear,
    /// H2O's scores and victims.
    H2o,
    /// Decode over a KIVI cache.
    Kivi,
    /// Writing a KIVI cache.
    KiviPack,
    /// Memory probes: read and copy.
    Mem,
    /// Writing caches quantised per token and head.
    Pack,
    /// Decode over caches quantised per token and head.
    Packed,
    /// Causal attention over a prompt and the scores that methods take from it.
    Prefill,
    /// Pooling scores and choosing tokens.
    Select,
}

/// Headers of `kernels/`, by the name sources include them with.
pub(crate) const HEADERS: &[(&str, &str)] = &[
    ("kvb.cuh", include_str!("../../../kernels/kvb.cuh")),
    ("attend.cuh", include_str!("../../../kernels/attend.cuh")),
    ("gear.cuh", include_str!("../../../kernels/gear.cuh")),
    ("kivi.cuh", include_str!("../../../kernels/kivi.cuh")),
    ("kivi_pack.cuh", include_str!("../../../kernels/kivi_pack.cuh")),
    ("kivi_tile.cuh", include_str!("../../../kernels/kivi_tile.cuh")),
    ("packed.cuh", include_str!("../../../kernels/packed.cuh")),
];

impl Source {
    /// Every source.
    pub const ALL: &[Source] = &[
        Source::Data,
        Source::DecodeGear,
        Source::DecodeHalf,
        Source::Gear,
        Source::H2o,
        Source::Kivi,
        Source::KiviPack,
        Source::Mem,
        Source::Pack,
        Source::Packed,
        Source::Prefill,
        Source::Select,
    ];

    /// File name.
    pub fn file(self) -> &'static str {
        match self {
            Source::Data => "data.cu",
            Source::DecodeGear => "decode_gear.cu",
            Source::DecodeHalf => "decode_half.cu",
            Source::Gear => "gear.cu",
            Source::H2o => "h2o.cu",
            Source::Kivi => "kivi.cu",
            Source::KiviPack => "kivi_pack.cu",
            Source::Mem => "mem.cu",
            Source::Pack => "pack.cu",
            Source::Packed => "decode_packed.cu",
            Source::Prefill => "prefill.cu",
            Source::Select => "select.cu",
        }
    }

    /// Text.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Source::Data => include_str!("../../../kernels/data.cu"),
            Source::DecodeGear => include_str!("../../../kernels/decode_gear.cu"),
            Source::DecodeHalf => include_str!("../../../kernels/decode_half.cu"),
            Source::Gear => include_str!("../../../kernels/gear.cu"),
            Source::H2o => include_str!("../../../kernels/h2o.cu"),
            Source::Kivi => include_str!("../../../kernels/kivi.cu"),
            Source::KiviPack => include_str!("../../../kernels/kivi_pack.cu"),
            Source::Mem => include_str!("../../../kernels/mem.cu"),
            Source::Pack => include_str!("../../../kernels/pack.cu"),
            Source::Packed => include_str!("../../../kernels/decode_packed.cu"),
            Source::Prefill => include_str!("../../../kernels/prefill.cu"),
            Source::Select => include_str!("../../../kernels/select.cu"),
        }
    }
}

/// One kernel at one set of template arguments and one head dimension.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance {
    /// Where it is defined.
    pub source: Source,
    /// C++ name expression, such as `decode_half<4, 3, 16>`.
    pub expression: String,
    /// `KVB_D`; sources that do not depend on it get 128.
    pub head_dim: usize,
    /// Elements of K and V that one warp handles in one pass of the main loop (32 tokens at D 128: 8192), for the
    /// instruction count; `None` for kernels without such a loop.
    pub loop_elements: Option<u32>,
}

impl Instance {
    /// An instance of a kernel that does not depend on the head dimension.
    pub(crate) fn new(source: Source, expression: impl Into<String>) -> Self {
        Self { source, expression: expression.into(), head_dim: 128, loop_elements: None }
    }

    /// An instance for a head dimension.
    pub(crate) fn at(source: Source, expression: impl Into<String>, head_dim: usize) -> Self {
        Self { source, expression: expression.into(), head_dim, loop_elements: None }
    }

    /// Says how many elements a pass of the main loop handles; see [`Instance::loop_elements`].
    pub(crate) fn counting(mut self, loop_elements: u32) -> Self {
        self.loop_elements = Some(loop_elements);
        self
    }
}
