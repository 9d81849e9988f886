//! Kernels that are slowed down on purpose, so that what judges runs can be tested on a regression of known size.

use std::{sync::Arc, time::Duration};

use super::Lab;
use crate::{
    execute::clock::now,
    kernel::{Kernel, Op, Verification, Work, cpu},
};

/// A kernel after each of whose launches the thread spins, until it has taken `factor` times as long.
struct Slowed {
    inner: Box<dyn Kernel>,
    factor: f64,
}

impl Kernel for Slowed {
    fn op(&self) -> Op {
        self.inner.op()
    }

    fn work(&self) -> Work {
        self.inner.work()
    }

    fn verify(&mut self) -> anyhow::Result<Verification> {
        self.inner.verify()
    }

    fn copies(&self) -> usize {
        self.inner.copies()
    }

    fn launch(&mut self, copy: usize) -> anyhow::Result<()> {
        let started = now();
        self.inner.launch(copy)?;
        let until =
            started + Duration::from_secs_f64(started.elapsed().as_secs_f64() * self.factor);
        while now() < until {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn lane_instructions(&self) -> Option<u64> {
        self.inner.lane_instructions()
    }

    fn resident_bytes(&self) -> u64 {
        self.inner.resident_bytes()
    }
}

impl Lab {
    /// This machine's CPU, whose kernels take `factor` times as long. The read-bandwidth probe does not: it says how fast the
    /// machine is, and the machine is not slower.
    #[must_use]
    pub fn cpu_slowed(factor: f64) -> Arc<Self> {
        let mut lab = Self::cpu();
        lab.open = Box::new(move |spec| {
            let inner = cpu::open(spec)?;
            let slow = spec.op != Op::Read;
            Ok(if slow { Box::new(Slowed { inner, factor }) } else { inner })
        });
        Arc::new(lab)
    }
}
