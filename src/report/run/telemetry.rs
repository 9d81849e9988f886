//! Figures of the machine over time.

use super::{Plot, distinct};
use crate::{
    record::TelemetryRow,
    report::figure::{Axis, Figure, Kind, Panel, Point, Scale, Series},
    units::ns_to_s,
};

/// Most samples drawn: more cannot be seen.
const POINTS_MAX: usize = 600;

/// A quantity over time.
struct Quantity {
    name: &'static str,
    title: &'static str,
    axis: &'static str,
    unit: &'static str,
    of: fn(&TelemetryRow) -> Option<f64>,
}

const QUANTITIES: [Quantity; 4] = [
    Quantity {
        name: "power",
        title: "Board power",
        axis: "board power",
        unit: "W",
        of: |t| t.power_w,
    },
    Quantity {
        name: "sm-util",
        title: "SM utilisation",
        axis: "SM utilisation",
        unit: "%",
        of: |t| t.sm_util_pct,
    },
    Quantity {
        name: "host-cpu",
        title: "CPU utilisation of the host",
        axis: "CPU utilisation, all cores",
        unit: "%",
        of: |t| t.host_cpu_pct,
    },
    Quantity {
        name: "memory",
        title: "Memory in use",
        axis: "memory in use",
        unit: "GiB",
        of: |t| t.mem_used_bytes.map(|b| b as f64 / f64::from(1 << 30)),
    },
];

pub(super) fn plots(rows: &[TelemetryRow]) -> Vec<Plot> {
    QUANTITIES.iter().filter_map(|quantity| quantity.plot(rows)).collect()
}

impl Quantity {
    fn plot(&self, rows: &[TelemetryRow]) -> Option<Plot> {
        let series = distinct(rows.iter().map(|row| row.device.as_str()))
            .into_iter()
            .enumerate()
            .map(|(slot, device)| {
                let mine = rows.iter().filter(|row| row.device == device);
                let all: Vec<Point> = mine
                    .filter_map(|row| {
                        Some(Point::new(
                            ns_to_s(row.t_ns),
                            (self.of)(row).filter(|v| v.is_finite())?,
                        ))
                    })
                    .collect();
                let stride = all.len().div_ceil(POINTS_MAX).max(1);
                Series {
                    name: device.to_owned(),
                    slot,
                    kind: Kind::Line,
                    points: all.into_iter().step_by(stride).collect(),
                }
            });
        let series: Vec<Series> = series.filter(|series| !series.points.is_empty()).collect();
        let sources = distinct(
            rows.iter().filter(|row| (self.of)(row).is_some()).map(|row| row.source.as_str()),
        )
        .join(", ");
        let caption = format!(
            "As {sources} reported while the run went on; long runs are thinned to {POINTS_MAX} samples."
        );
        let x = Axis::new("time since the run began", "s", Scale::Linear);
        let panel = Panel { series, ..Panel::default() };
        let is_empty = panel.series.is_empty();
        let figure =
            Figure::single(self.title, &caption, x, Axis::from_zero(self.axis, self.unit), panel);
        (!is_empty).then(|| Plot { name: self.name.to_owned(), figure })
    }
}
