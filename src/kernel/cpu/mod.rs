//! Kernels on the CPU.
