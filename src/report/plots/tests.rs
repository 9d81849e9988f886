use super::*;
use crate::{
    analyse::{Judgement, RequestFacts},
    record::{Manifest, TelemetryRow, manifest::example},
    report::{
        figure::{self, Size},
        palette::slot_of,
        run::tests::{kernels, served, telemetry},
    },
};

/// A run in pieces that figures borrow.
struct Run {
    manifest: Manifest,
    judgement: Judgement,
    facts: Vec<RequestFacts>,
    telemetry: Vec<TelemetryRow>,
    in_flight: Vec<InFlight>,
}

impl Run {
    fn of_kernels() -> Self {
        let cells = ["example/cpu/fp16/w/launch/0", "example/cpu/gear-4/w/launch/0"];
        let mut judgement = kernels();
        for k in &mut judgement.kernels {
            k.gflop_per_s =
                k.duration_ms.map(|ms| (k.batch * k.kv_len * 16_384) as f64 / ms.value / 1e6);
        }
        Self {
            manifest: example("r1", &cells),
            judgement,
            facts: vec![],
            telemetry: telemetry(),
            in_flight: vec![],
        }
    }

    fn of_requests() -> Self {
        let (judgement, facts) = served();
        let cells = [
            "example/cpu/fp16/chat/closed-4/0",
            "example/cpu/int8/chat/closed-4/0",
            "example/cpu/h2o/chat/closed-4/0",
        ];
        let curve = InFlight {
            method: "int8".into(),
            steps: vec![(0.5, 4), (3.0, 2), (4.0, 0)],
            n: 20,
            n_left_out: 1,
        };
        let telemetry = telemetry();
        Self {
            manifest: example("r2", &cells),
            judgement,
            facts,
            telemetry,
            in_flight: vec![curve],
        }
    }

    fn judged(&self) -> Judged<'_> {
        Judged {
            source: Source {
                manifest: &self.manifest,
                judgement: &self.judgement,
                facts: &self.facts,
                telemetry: &self.telemetry,
            },
            in_flight: &self.in_flight,
            peak_gflop_per_s: None,
            fronts: &[],
            found: None,
        }
    }
}

fn one(kind: Kind, run: &Run) -> Sheet {
    let mut sheets = sheets(kind, &[run.judged()]);
    assert_eq!(sheets.len(), 1, "{kind:?}");
    sheets.remove(0)
}

#[test]
fn fig1_has_prefill_with_filling_and_decode_both_ways() {
    let run = Run::of_kernels();
    let sheet = one(Kind::Fig1, &run);
    let titles: Vec<&str> = sheet.parts.iter().map(|part| part.title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "Prefill with filling of the cache, by length",
            "Prefill with filling of the cache, by batch",
            "Decode, by length",
            "Decode, by batch"
        ]
    );
    let (prefill, compress) = {
        let of = |op: &str| {
            let mut kernels = run.judgement.kernels.iter();
            let same = |k: &&crate::analyse::KernelPoint| {
                k.op == op && (k.batch, k.kv_len) == (4, 8192) && k.point.method == "int8"
            };
            kernels.find(same).unwrap().duration_ms.unwrap()
        };
        (of("prefill"), of("compress"))
    };
    let panel = sheet.parts[0].panels.iter().find(|panel| panel.label == "batch 4").unwrap();
    let series = panel.series.iter().find(|series| series.name == "int8").unwrap();
    let drawn = series.points.last().unwrap();
    let rate = 4.0 * 8192.0 / (prefill.value + compress.value) * 1e3;
    assert!(
        (drawn.y / rate - 1.0).abs() < 1e-12 && drawn.low < Some(rate) && drawn.high > Some(rate)
    );
    assert_eq!(series.slot, slot_of("int8"));
    let caption = &sheet.caption;
    assert!(caption.contains("n = 20 launches a point. n = 3 repeats."), "{caption}");
    assert!(
        caption.contains("int8 decode at batch 8 and 8192 tokens (out of memory)"),
        "{caption}"
    );
    assert!(
        caption.contains("Not shown: gear-4 (nothing of this kind was measured)."),
        "{caption}"
    );
    assert!(caption.contains("Run r1 by kvbench 0.0.0, SUSPECT: "), "{caption}");
}

#[test]
fn runs_of_other_shapes_share_fig1_and_runs_of_the_same_do_not() {
    let (mut prefill, mut decode) = (Run::of_kernels(), Run::of_kernels());
    prefill.judgement.kernels.retain(|k| k.op != "decode");
    decode.judgement.kernels.retain(|k| k.op == "decode");
    decode.manifest.run_id = "r9".into();
    let together = sheets(Kind::Fig1, &[prefill.judged(), decode.judged()]);
    assert_eq!((together.len(), together[0].parts.len()), (1, 4));
    assert!(together[0].caption.contains("Run r1") && together[0].caption.contains("Run r9"));
    let twice = sheets(Kind::Fig1, &[decode.judged(), Run::of_kernels().judged()]);
    let names: Vec<&str> = twice.iter().map(|sheet| sheet.name.as_str()).collect();
    assert_eq!(names, ["fig1-r9", "fig1-r1"]);
}

#[test]
fn a_run_without_what_a_figure_needs_gives_none() {
    let (kernels, mut served) = (Run::of_kernels(), Run::of_requests());
    for kind in [Kind::Cdf, Kind::Lengths, Kind::Negatives] {
        assert!(sheets(kind, &[kernels.judged()]).is_empty(), "{kind:?}");
    }
    served.telemetry.clear();
    served.in_flight.clear();
    for kind in [Kind::Roofline, Kind::Timeline, Kind::Lengths, Kind::Negatives] {
        assert!(sheets(kind, &[served.judged()]).is_empty(), "{kind:?}");
    }
}

#[test]
fn bands_hold_their_curves() {
    let sheet = one(Kind::Cdf, &Run::of_requests());
    assert_eq!(sheet.parts.len(), 2, "no TPOT was measured");
    for panel in sheet.parts.iter().flat_map(|part| &part.panels) {
        let (bands, curves): (Vec<_>, Vec<_>) =
            panel.series.iter().partition(|series| series.kind == figure::Kind::Band);
        assert_eq!((bands.len(), curves.len()), (5, 5));
        for (band, curve) in bands.iter().zip(&curves) {
            assert_eq!(band.slot, curve.slot);
            for (b, c) in band.points.iter().zip(&curve.points) {
                assert!(b.low <= Some(c.y) && b.high >= Some(c.y) && b.high <= Some(100.0));
            }
            // 149 independent requests: sqrt(ln(40) / 298) = 11.1 %.
            let widest =
                band.points.iter().map(|p| p.high.unwrap() - p.low.unwrap()).fold(0.0, f64::max);
            assert!(widest >= 22.2, "{widest}");
        }
    }
    let caption = &sheet.caption;
    assert!(caption.contains("n = 149 good requests a curve."), "{caption}");
    assert!(
        caption.contains("10 of 1500 requests failed") && caption.contains("One repeat"),
        "{caption}"
    );
    assert!(caption.contains("Not shown: h2o"), "{caption}");
}

#[test]
fn a_timeline_has_requests_and_the_machine_over_one_range() {
    let sheet = one(Kind::Timeline, &Run::of_requests());
    let titles: Vec<&str> = sheet.parts.iter().map(|part| part.title.as_str()).collect();
    assert_eq!(titles, ["Requests in flight", "CPU utilisation of the host", "Memory in use"]);
    assert!(sheet.stacked && sheet.caption.contains("1 requests without a known start or end"));
    assert_eq!(one(Kind::Timeline, &Run::of_kernels()).parts.len(), 2);
}

#[test]
fn a_roofline_has_no_point_above_its_data() {
    let run = Run::of_kernels();
    let sheet = one(Kind::Roofline, &run);
    let panels = &sheet.parts[0].panels;
    let labels: Vec<&str> = panels.iter().map(|panel| panel.label.as_str()).collect();
    assert_eq!(labels, ["decode", "prefill", "compress"]);
    for reference in panels.iter().flat_map(|panel| &panel.references) {
        // 10 GB/s at every intensity, and no peak, since none is known.
        assert!(reference.points.iter().all(|(x, y)| (y / x - 10.0).abs() < 1e-9), "{reference:?}");
    }
    let mut judged = run.judged();
    judged.peak_gflop_per_s = Some(20.0);
    let with_peak = &sheets(Kind::Roofline, &[judged])[0].parts[0].panels[0].references;
    assert!(with_peak.iter().flat_map(|r| &r.points).all(|(_, y)| *y <= 20.0 + 1e-9));
}

#[test]
fn every_sheet_is_drawn_at_both_widths_in_every_form() {
    let (kernels, served) = (Run::of_kernels(), Run::of_requests());
    for (kind, run) in [(Kind::Fig1, &kernels), (Kind::Cdf, &served), (Kind::Timeline, &served)] {
        let sheet = one(kind, run);
        for size in [Size::Column, Size::Page] {
            assert!(
                crate::report::print::svg(&sheet, size).unwrap().trim_end().ends_with("</svg>")
            );
            assert!(crate::report::print::pdf(&sheet, size).unwrap().starts_with(b"%PDF"));
        }
    }
}

#[test]
fn captions_are_set_by_latex_as_they_stand() {
    let mut sheet = one(Kind::Cdf, &Run::of_requests());
    sheet.caption = "95 % of {a_b} & $1 <2> ~^\\ #3".into();
    let tex = latex(&sheet, Size::Page, "cdf.pdf");
    assert!(tex.contains(
        "\\caption{95 \\% of \\{a\\_b\\} \\& \\$1 \\textless{}2\\textgreater{} \\textasciitilde{}\\textasciicircum{}\\textbackslash{} \\#3}"
    ));
    assert!(
        tex.contains("\\begin{figure*}")
            && tex.contains("\\includegraphics[width=\\textwidth]{cdf.pdf}")
    );
    assert!(
        latex(&sheet, Size::Column, "cdf.svg")
            .contains("\\includesvg[width=\\columnwidth]{cdf.svg}")
    );
    assert_eq!(plain(&sheet), format!("{}\n", sheet.caption));
}

#[test]
fn n_is_told_once_where_all_are_alike() {
    let words = |curves: &[(&str, usize)]| {
        caption::n_words("pairs", curves.iter().map(|(name, n)| ((*name).to_owned(), *n)))
    };
    assert_eq!(words(&[("a", 5), ("b", 5)]), "n = 5 pairs.");
    assert_eq!(words(&[("a", 5), ("b", 7), ("a", 6)]), "n (pairs): a 5 to 6, b 7.");
    assert_eq!(words(&[]), "");
}
