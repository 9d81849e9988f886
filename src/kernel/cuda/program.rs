//! The CUDA sources and what is compiled from them.

/// A source file of `kernels/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Random data, the same as the CPU's.
    Data,
    /// Memory probes: read and copy.
    Mem,
}

/// Headers of `kernels/`, by the name sources include them with.
pub(crate) const HEADERS: &[(&str, &str)] =
    &[("kvb.cuh", include_str!("../../../kernels/kvb.cuh"))];

impl Source {
    /// Every source.
    pub const ALL: &[Source] = &[Source::Data, Source::Mem];

    /// File name.
    pub fn file(self) -> &'static str {
        match self {
            Source::Data => "data.cu",
            Source::Mem => "mem.cu",
        }
    }

    /// Text.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Source::Data => include_str!("../../../kernels/data.cu"),
            Source::Mem => include_str!("../../../kernels/mem.cu"),
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
}

impl Instance {
    /// An instance of a kernel that does not depend on the head dimension.
    pub(crate) fn new(source: Source, expression: impl Into<String>) -> Self {
        Self { source, expression: expression.into(), head_dim: 128 }
    }

    /// An instance for a head dimension.
    pub(crate) fn at(source: Source, expression: impl Into<String>, head_dim: usize) -> Self {
        Self { source, expression: expression.into(), head_dim }
    }
}
