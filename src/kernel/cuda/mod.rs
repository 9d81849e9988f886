//! Kernels on an NVIDIA GPU, compiled at run time from `kernels/*.cu`.

pub(crate) mod device;
pub mod program;
