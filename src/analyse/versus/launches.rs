//! Launches of kernels to one number a repeat.

use std::collections::BTreeMap;

use super::{
    metric::{Metric, OF_OP},
    side::{Cell, Repeat},
};
use crate::{
    analyse::Better,
    stats::{TimeOrdered, median},
    units::NS_PER_MS,
};

/// Timed launches of one operation in one repeat of a cell, by shape, in the order of time.
#[derive(Debug, Default)]
pub(super) struct Launches {
    shapes: BTreeMap<String, Shape>,
}

#[derive(Debug, Default)]
struct Shape {
    wall_ns: Vec<f64>,
    cpu_ns: Vec<f64>,
}

impl Launches {
    pub(super) fn add(&mut self, shape: String, wall_ns: i64, cpu_ns: Option<i64>) {
        let own = self.shapes.entry(shape).or_default();
        own.wall_ns.push(wall_ns as f64);
        own.cpu_ns.extend(cpu_ns.map(|ns| ns as f64));
    }

    /// Puts what these launches say into their cell. `probe_ns` is the median of the bandwidth probe in the same repeat.
    pub(super) fn reduce(&self, op: &str, repeat: i64, probe_ns: Option<f64>, cell: &mut Cell) {
        cell.shapes.extend(self.shapes.keys().cloned());
        let wall = self.middle(|shape| &shape.wall_ns);
        let cpu = self.middle(|shape| &shape.cpu_ns);
        let n = self.shapes.values().map(|shape| shape.wall_ns.len()).sum();
        let values = [
            wall.map(|(ns, within)| (ns / NS_PER_MS, within)),
            cpu.map(|(ns, within)| (ns / NS_PER_MS, within)),
            // The probe takes part in every round, so what slows the machine slows both.
            wall.zip(probe_ns).map(|((ns, within), probe)| (ns / probe, within)),
        ];
        for ((what, unit), value) in OF_OP.iter().zip(values) {
            if let Some((value, within)) = value {
                let name = format!("{op}_{what}");
                // Only plain times have a definition of their own.
                let of = if *what == "ms_p50" { format!("{op}_duration") } else { String::new() };
                let metric = Metric::new(name, unit, Better::Lower, &of);
                cell.add(metric, Repeat { repeat, value, n, within });
            }
        }
    }

    /// Geometric mean over shapes of their medians, so that each shape counts alike, and the variance of its logarithm.
    fn middle(&self, of: impl Fn(&Shape) -> &Vec<f64>) -> Option<(f64, Option<f64>)> {
        let (mut logs, mut variances) = (Vec::new(), Some(0.0));
        for shape in self.shapes.values() {
            let ordered = TimeOrdered::new(of(shape))?;
            let median = ordered.quantile(0.5);
            logs.push(median.ln());
            let own = ordered.variance_of_quantile(0.5).map(|own| own / (median * median));
            variances = variances.zip(own).map(|(sum, own)| sum + own);
        }
        let n = logs.len() as f64;
        let value = crate::stats::mean(&logs)?.exp();
        Some((value, variances.map(|sum| sum / (n * n))))
    }
}

/// Target, workload, load and repeat: what is measured together.
pub(super) type Block = (String, String, String, i64);

/// Medians of the probe by block.
pub(super) fn medians(probes: BTreeMap<Block, Vec<f64>>) -> BTreeMap<Block, f64> {
    probes.into_iter().filter_map(|(block, mut ns)| Some((block, median(&mut ns)?))).collect()
}
