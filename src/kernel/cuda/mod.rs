//! Kernels on an NVIDIA GPU, compiled at run time from `kernels/*.cu`.

pub mod compile;
pub(crate) mod data;
pub(crate) mod device;
#[cfg(test)]
pub(crate) mod emu;
mod mem;
pub mod nvrtc;
pub mod program;
mod sass;
pub(crate) mod timed;

use program::Instance;

/// Every instance that may be launched: what `kvbench kernels build` compiles, what must not spill, what the emulator
/// knows.
pub(crate) fn instances() -> Vec<Instance> {
    [data::instances(), mem::instances()].concat()
}
