//! How close each method comes to the shortest time that its launch can take, and what stands in its way.

use super::{Group, Looks, Plot, Sweep, distinct};
use crate::{
    analyse::KernelPoint,
    report::figure::{Axis, Figure, Kind, Note, Panel, Point, Reference, Series},
};

/// What the letters beside the markers stand for.
const LETTERS: &str = "Letters: what bounds the launch: M memory, I issuing instructions, C compute, L launching. \
                       At 1.0 it would take the shortest time that its bytes, instructions and arithmetic allow.";

impl Group<'_> {
    /// `None` where no point has a known limit, as on every CPU.
    pub(super) fn limit(&self, looks: &Looks) -> Option<Plot> {
        let known: Vec<&KernelPoint> = self.grid().filter(|k| k.limit_fraction.is_some()).collect();
        let lengths = distinct(known.iter().map(|k| k.kv_len)).len();
        let batches = distinct(known.iter().map(|k| k.batch)).len();
        let sweep = if lengths == 1 && batches > 1 { Sweep::Batch } else { Sweep::KvLen };
        let mut facets = distinct(known.iter().map(|k| sweep.facet(k)));
        facets.sort_unstable();
        let panel = |facet: &i64| limit_panel(&known, sweep, *facet, looks);
        let figure = Figure {
            title: self.title("Decode, fraction of its own limit"),
            caption: self.caption(LETTERS),
            x: sweep.axis(self.op),
            y: Axis::from_zero("fraction of own limit", ""),
            panels: facets.iter().map(panel).collect(),
        };
        (!known.is_empty()).then(|| Plot { name: self.name("limit"), figure })
    }
}

fn limit_panel(known: &[&KernelPoint], sweep: Sweep, facet: i64, looks: &Looks) -> Panel {
    let here: Vec<&KernelPoint> =
        known.iter().copied().filter(|k| sweep.facet(k) == facet).collect();
    let references = vec![Reference::horizontal("own limit", 1.0)];
    let mut panel = Panel { label: sweep.label(facet), references, ..Panel::default() };
    for name in looks.order(here.iter().map(|k| &k.point)) {
        let slot = looks.slot(&name);
        let mut mine: Vec<&KernelPoint> =
            here.iter().copied().filter(|k| k.point.method == name).collect();
        mine.sort_by_key(|k| sweep.x(k));
        let place = |k: &KernelPoint| Some(Point::new(sweep.x(k) as f64, k.limit_fraction?));
        let note = |k: &&KernelPoint| {
            let letter = k.bound?.name().get(..1)?.to_uppercase();
            Some(Note { at: place(k)?, slot, text: letter })
        };
        panel.notes.extend(mine.iter().filter_map(note));
        let points = mine.iter().filter_map(|k| place(k)).collect();
        panel.series.push(Series { name, slot, kind: Kind::Line, points });
    }
    panel
}
