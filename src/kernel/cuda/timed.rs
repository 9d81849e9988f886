//! A prepared kernel as the rest of kvbench sees it, timed on the device's own clock: a graph of launches over rotated
//! copies, replayed between two events.

use std::sync::Arc;

use anyhow::Result;

use super::device::{Device, Graph};
use crate::kernel::{Kernel, Op, Verification, Work};

/// What one operation under one method has to tell; [`Timed`] makes a [`Kernel`] of it.
pub(crate) trait Prepared: Send {
    /// Which operation this is.
    fn op(&self) -> Op;
    /// Exact counts for one launch.
    fn work(&self) -> Work;
    /// Poisons the outputs, runs copy 0 and compares with f64.
    ///
    /// # Errors
    /// The device refused.
    fn verify(&mut self) -> Result<Verification>;
    /// Rotated copies.
    fn copies(&self) -> usize;
    /// Queues one launch on copy `copy`, which is below `copies()`.
    ///
    /// # Errors
    /// The device refused.
    fn queue(&self, copy: usize) -> Result<()>;
    /// Bytes kept on the device.
    fn resident_bytes(&self) -> u64;
    /// See [`Kernel::lane_instructions`].
    fn lane_instructions(&self) -> Option<u64> {
        None
    }
}

/// A prepared kernel and its graphs, by (first copy, launches): a kernel's window is fixed after its warm-up, so that there
/// are no more of them than copies.
pub(crate) struct Timed<P> {
    prepared: P,
    device: Arc<dyn Device>,
    graphs: Vec<((usize, usize), Held)>,
}

struct Held {
    device: Arc<dyn Device>,
    graph: Graph,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.device.forget(self.graph);
    }
}

/// Most graphs kept; beyond, the oldest is freed.
const GRAPHS_MAX: usize = 64;

impl<P: Prepared> Timed<P> {
    /// Wraps.
    pub(crate) fn new(device: &Arc<dyn Device>, prepared: P) -> Self {
        Self { prepared, device: Arc::clone(device), graphs: Vec::new() }
    }

    fn capture(&mut self, first: usize, launches: usize) -> Result<Graph> {
        let (prepared, copies) = (&self.prepared, self.prepared.copies());
        let graph = self.device.capture(&mut || {
            (first..first + launches).try_for_each(|copy| prepared.queue(copy % copies))
        })?;
        if self.graphs.len() == GRAPHS_MAX {
            self.graphs.remove(0);
        }
        self.graphs.push(((first, launches), Held { device: Arc::clone(&self.device), graph }));
        Ok(graph)
    }
}

impl<P: Prepared> Kernel for Timed<P> {
    fn op(&self) -> Op {
        self.prepared.op()
    }

    fn work(&self) -> Work {
        self.prepared.work()
    }

    fn verify(&mut self) -> Result<Verification> {
        self.prepared.verify()
    }

    fn copies(&self) -> usize {
        self.prepared.copies()
    }

    fn launch(&mut self, copy: usize) -> Result<()> {
        self.prepared.queue(copy % self.prepared.copies())?;
        self.device.sync()
    }

    fn timed(&mut self, first: usize, launches: usize) -> Result<Option<i64>> {
        let first = first % self.prepared.copies();
        let known = self.graphs.iter().find(|(key, _)| *key == (first, launches));
        if let Some((_, held)) = known {
            return self.device.replay(held.graph);
        }
        let graph = self.capture(first, launches)?;
        self.device.replay(graph)
    }

    fn lane_instructions(&self) -> Option<u64> {
        self.prepared.lane_instructions()
    }

    fn resident_bytes(&self) -> u64 {
        self.prepared.resident_bytes()
    }
}
