//! Timing on the device's own clock: a graph of launches over rotated copies, replayed between two events.

use std::sync::Arc;

use anyhow::Result;

use super::device::{Device, Graph};

/// The graphs of one kernel, by (first copy, launches). A kernel's window is fixed after its warm-up, so few are made.
#[derive(Default)]
pub(crate) struct Rotation {
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

impl Rotation {
    /// Nanoseconds of `launches` launches from copy `first` on; `launch` queues one on the copy it is given. The first
    /// replay of a new graph is not timed: it uploads the graph.
    ///
    /// # Errors
    /// A refused launch.
    pub(crate) fn time(
        &mut self,
        device: &Arc<dyn Device>,
        (first, launches): (usize, usize),
        mut launch: impl FnMut(usize) -> Result<()>,
    ) -> Result<Option<i64>> {
        let key = (first, launches);
        if let Some((_, held)) = self.graphs.iter().find(|(known, _)| *known == key) {
            return device.replay(held.graph);
        }
        let graph = device.capture(&mut || (first..first + launches).try_for_each(&mut launch))?;
        self.graphs.push((key, Held { device: Arc::clone(device), graph }));
        device.replay(graph)?;
        device.replay(graph)
    }
}
