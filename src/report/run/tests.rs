use super::*;
use crate::{
    analyse::{
        Comparison, Engines, Estimate, KernelPoint, ParallelPoint, RequestPoint, SummaryRow,
        Warning, judgement::Better,
    },
    record::manifest::{Status, Verdict, example},
    report::{Format, render},
};

const METHODS: [&str; 5] = ["fp16", "fp16-aa", "int8", "kivi-4", "<b>evil|</b>"];

fn estimate(value: f64) -> Estimate {
    Estimate { value, interval: Some((value * 0.95, value * 1.06)), n: 20 }
}

fn point(workload: &str, load: &str, method: &str) -> Point {
    Point {
        target: "cpu".into(),
        workload: workload.into(),
        load: load.into(),
        method: method.into(),
    }
}

/// Made-up numbers, for the shape of a report only.
fn kernel(slot: usize, op: &str, batch: i64, kv_len: i64) -> KernelPoint {
    let ideal = 1.0 + slot.saturating_sub(1) as f64;
    let speedup = 1.0 + (ideal - 1.0) * 0.5;
    let bytes = (batch * kv_len * 16_384) as f64 / ideal;
    let duration_ms = bytes * ideal / speedup / 9e6;
    let is_baseline = slot == 0;
    KernelPoint {
        point: point(&format!("{op}-b{batch}-kv{kv_len}"), "launch", METHODS[slot]),
        op: op.into(),
        model_shape: "llama-2-7b".into(),
        device: "A CPU".into(),
        backend: "cpu-avx2".into(),
        tensor_parallel: 1,
        hidden: 4096,
        batch,
        q_len: 1,
        kv_len,
        kv_tokens: batch * kv_len,
        n_samples: 20,
        n_repeats: 3,
        verified: true,
        max_rel_err: Some(1e-4),
        err: None,
        duration_ms: Some(estimate(duration_ms)),
        duration_p10_p90_ms: Some((duration_ms * 0.9, duration_ms * 1.2)),
        tokens_per_s: Some(estimate(batch as f64 / duration_ms * 1e3)),
        bytes_moved: Some(bytes as i64),
        gb_per_s: Some(bytes / duration_ms / 1e6),
        read_gb_per_s: Some(10.0),
        bandwidth_fraction: Some(0.9),
        gflop_per_s: None,
        limit_fraction: None,
        bound: None,
        n_discarded: 0,
        speedup: (!is_baseline).then(|| estimate(speedup)),
        cpu_speedup: None,
        ideal_speedup: (!is_baseline).then_some(ideal),
        captured_fraction: (slot > 1).then_some(0.5),
        noise_floor: Some(0.02),
        within_noise: (!is_baseline).then_some(slot == 1),
    }
}

pub(in crate::report) fn kernels() -> Judgement {
    let mut points = Vec::new();
    for op in ["decode", "prefill", "compress"] {
        for (batch, kv_len) in [(1, 1024), (1, 4096), (1, 8192), (4, 1024), (4, 4096), (4, 8192)] {
            points.extend((0..METHODS.len()).map(|slot| kernel(slot, op, batch, kv_len)));
        }
    }
    let mut broken = kernel(2, "decode", 8, 8192);
    (broken.err, broken.verified, broken.duration_ms) = (Some("out of memory".into()), false, None);
    broken.duration_p10_p90_ms = None;
    (broken.tokens_per_s, broken.speedup, broken.captured_fraction) = (None, None, None);
    points.push(broken);
    judgement(points, vec![Warning::Drift { ratio: 1.5 }, Warning::OneRepeat])
}

fn judgement(kernels: Vec<KernelPoint>, warnings: Vec<Warning>) -> Judgement {
    let verdict = warnings.iter().map(Warning::severity).max().unwrap_or(Verdict::Valid);
    Judgement {
        summary: vec![],
        kernels,
        parallel: vec![],
        requests: vec![],
        searches: vec![],
        comparisons: vec![],
        steady: vec![],
        texts: vec![],
        cells: vec![],
        engines: Engines::default(),
        warm_ups: vec![],
        clients: vec![],
        lengths: vec![],
        forced: vec![],
        quality: crate::analyse::quality::Quality::default(),
        warnings,
        verdict,
    }
}

pub(in crate::report) fn served() -> (Judgement, Vec<RequestFacts>) {
    let mut judgement = judgement(vec![], vec![]);
    let mut facts = Vec::new();
    for (slot, method) in METHODS.iter().enumerate() {
        for load in ["closed-4", "poisson-2"] {
            let place = point("chat", load, method);
            let latency = |i: usize| (slot + 1) as f64 * 20.0 + i as f64;
            facts.extend((0..150).map(|i| fact(&place, i, latency(i))));
            judgement.requests.push(request_point(&place, latency(75)));
            if slot > 0 {
                let baseline = point("chat", load, "fp16");
                let ratio = estimate(latency(75) / 95.0);
                let (metric, statistic) = ("e2e_due".to_owned(), "mean");
                judgement.comparisons.push(Comparison {
                    point: place,
                    baseline,
                    metric,
                    statistic,
                    ratio,
                    better: Better::Lower,
                    paired: true,
                    within_noise: Some(slot == 1),
                });
            }
        }
    }
    (judgement, facts)
}

fn fact(place: &Point, i: usize, latency: f64) -> RequestFacts {
    RequestFacts {
        cell_id: "c".into(),
        point: place.clone(),
        repeat: 0,
        request_id: i as i64,
        failed: i == 7,
        ttft_ms: Some(latency),
        ttft_due_ms: Some(latency + 1.0),
        e2e_ms: Some(latency * 9.0),
        e2e_due_ms: Some(latency * 9.0 + 1.0),
        tpot_ms: None,
        itl_ms: vec![],
        icl_ms: vec![],
        queue_delay_ms: Some(0.0),
        prompt_tokens: Some(10),
        output_tokens: Some(100 + (i % 40) as i64),
        answer_tokens: Some(100 + (i % 40) as i64),
        within_slo: None,
    }
}

fn request_point(place: &Point, middle: f64) -> RequestPoint {
    let row = SummaryRow {
        cell_id: "c".into(),
        metric: "ttft_due".into(),
        definition: Some("ttft.first_content.from_due".into()),
        unit: "ms".into(),
        n: 149,
        mean: middle,
        ci_low: None,
        ci_high: None,
        p50: Some(middle),
        p90: Some(middle),
        p95: Some(middle),
        p99: None,
        verdict: None,
    };
    RequestPoint {
        point: place.clone(),
        n_repeats: 1,
        n_requests: 150,
        n_failed: 1,
        failures: [("timeout".to_owned(), 1)].into(),
        n_retried: 0,
        n_truncated: 0,
        prompt_tokens: None,
        output_tokens: None,
        duration_s: Some(30.0),
        requests_per_s: Some(estimate(300.0 / middle)),
        output_tokens_per_s: Some(estimate(9000.0 / middle)),
        goodput_per_s: None,
        metrics: vec![row],
    }
}

pub(in crate::report) fn telemetry() -> Vec<TelemetryRow> {
    let row = |i: i64| TelemetryRow {
        t_ns: i * 100_000_000,
        device: "host".into(),
        host_cpu_pct: Some(50.0 + (i % 7) as f64),
        mem_used_bytes: Some((3 << 30) + i * 1_000_000),
        source: "sysinfo".into(),
        ..TelemetryRow::default()
    };
    (0..1500).map(row).collect()
}

fn names(plots: &[Plot]) -> Vec<&str> {
    plots.iter().map(|plot| plot.name.as_str()).collect()
}

#[test]
fn a_kernel_run_has_the_figures_it_has_rows_for() {
    let (manifest, judgement, telemetry) = (example("r", &[]), kernels(), telemetry());
    let source =
        Source { manifest: &manifest, judgement: &judgement, facts: &[], telemetry: &telemetry };
    let plots = plots(&source);
    let expected = [
        "decode-kv-len-cpu-llama-2-7b",
        "decode-batch-cpu-llama-2-7b",
        "decode-speedup-cpu-llama-2-7b",
        "prefill-kv-len-cpu-llama-2-7b",
        "compress-kv-len-cpu-llama-2-7b",
        "host-cpu",
        "memory",
    ];
    assert_eq!(names(&plots), expected);
    let panel = &plots[0].figure.panels[1];
    assert_eq!(
        (panel.label.as_str(), panel.series.len(), panel.references.len()),
        ("batch 4", 5, 5)
    );
    // ceiling of fp16 at batch 4, 1024 tokens: 4 tokens over (4 * 1024 * 16384 B / 10 GB/s)
    let (x, ceiling) = panel.references[0].points[0];
    assert!(
        (x - 1024.0).abs() < 1e-9 && (ceiling - 4.0 / (67_108_864.0 / 1e10)).abs() < 1e-6,
        "{x} {ceiling}"
    );
    assert!(plots[5].figure.panels[0].series[0].points.len() <= 600);
}

#[test]
fn a_served_run_has_distributions_without_failed_requests() {
    let (judgement, facts) = served();
    let manifest = example("r", &[]);
    let source =
        Source { manifest: &manifest, judgement: &judgement, facts: &facts, telemetry: &[] };
    let plots = plots(&source);
    assert_eq!(
        names(&plots),
        ["ttft", "e2e", "schedule-lag", "output-length", "throughput"],
        "nobody measured tpot"
    );
    let curve = &plots[0].figure.panels[0].series[0];
    assert_eq!(
        (curve.name.as_str(), curve.points.len()),
        ("fp16", 150),
        "149 good requests and the start"
    );
    assert_eq!(plots[0].figure.panels[1].label, "chat, poisson-2");
}

#[test]
fn the_finding_says_what_the_rows_say() {
    let text = words::finding(&kernels(), "fp16").join("\n");
    let expected = "On this machine (cpu-avx2), one attention layer of llama-2-7b: at batch 4, kv_len 8192, <b>evil|</b> decodes \
                    2.50x [2.38, 2.65] as fast as fp16; the ratio of bytes would allow 4.00x, so it captures 50 % of that gain. \
                    The slowest of the 3 methods there, int8 decodes 1.50x [1.42, 1.59] as fast as fp16; the ratio of bytes \
                    would allow 2.00x, so it captures 50 % of that gain.";
    assert_eq!(text, expected);
    let served = words::finding(&served().0, "fp16");
    assert_eq!(served.len(), 6, "three methods at two loads; the control is no method");
    assert!(
        served[0].starts_with(
            "int8 at chat, closed-4: a request takes 1.42x [1.35, 1.51] as long as with fp16."
        ),
        "{}",
        served[0]
    );
    let nothing = words::finding(&judgement(vec![], vec![]), "fp16");
    assert!(nothing[0].starts_with("No method could be compared"));
}

#[test]
fn the_report_is_whole_and_safe() {
    let mut manifest = example("r", &["example/cpu/fp16/w/launch/0"]);
    manifest.status = Status::Interrupted;
    manifest.scenario.text = "name = \"</pre><script>\"\n```\n".into();
    let (judgement, telemetry) = (kernels(), telemetry());
    let source =
        Source { manifest: &manifest, judgement: &judgement, facts: &[], telemetry: &telemetry };
    let files = build_from(&source).unwrap().0;
    let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths[..4],
        [
            "report.md",
            "report.html",
            "plots/decode-kv-len-cpu-llama-2-7b.png",
            "plots/decode-kv-len-cpu-llama-2-7b.svg"
        ]
    );
    assert_eq!(paths.len(), 2 + 2 * 7);
    let [md, html] = [0, 1].map(|n| String::from_utf8(files[n].1.clone()).unwrap());
    for text in [&md, &html] {
        for part in [
            "SUSPECT",
            "Partial",
            "one attention layer",
            "do not predict those of a GPU",
            "read bandwidth moved 1.5x",
            "out of memory",
            "sha256 00",
        ] {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("<b>evil"), "a name must not become markup");
    }
    let asks = |what: &str| html.matches(what).count();
    assert_eq!((asks("<script"), asks("</script"), asks("src=")), (1, 1, 0), "our script alone");
    assert_eq!(asks("href="), asks("href=\"#"), "one file: links lead to its own parts");
    assert_eq!(asks("<svg role=\"img\""), 7);
    assert!(
        md.contains("````toml")
            && md
                .contains("![Decode throughput by length](plots/decode-kv-len-cpu-llama-2-7b.png)")
    );
}

#[test]
fn headline_tables_hold_only_what_there_is() {
    let served = served().0;
    let titles = |judgement: &Judgement| {
        tables::headline(judgement).iter().map(|t| t.title.clone()).collect::<Vec<_>>()
    };
    assert_eq!(titles(&served), ["Served requests", "Served requests against the baseline"]);
    assert_eq!(titles(&kernels()).len(), 2);
    let csv = render(&tables::headline(&kernels())[0], Format::Csv, false);
    let header = "target,op,workload,load,method,batch,kv_len,n,duration,duration_ci_low,duration_ci_high,duration_p10,duration_p90,of_limit,bound,tokens_per_s,tokens_per_s_ci_low,tokens_per_s_ci_high,\
                  speedup,speedup_ci_low,speedup_ci_high,ideal,captured,gb_per_s,of_bandwidth,noise,discarded,verified";
    assert_eq!(csv.lines().next(), Some(header));
    let broken = csv.lines().find(|line| line.contains("decode-b8")).unwrap();
    let expected =
        "cpu,decode,decode-b8-kv8192,launch,int8,8,8192,20,,,,,,,,,,,,,,2.0,,6.75,90.0,beyond,,NO";
    assert_eq!(broken, expected, "unknown stays empty");
}

#[test]
fn a_narrow_table_says_what_it_folded() {
    let narrow = tables::narrow(&tables::headline(&kernels())[1]);
    assert_eq!(
        narrow.title,
        "Prefill and compression, one attention layer (not a model); target cpu, load launch, verified yes"
    );
    let names: Vec<&str> = narrow.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "op",
            "workload",
            "method",
            "tokens_per_s",
            "speedup",
            "ideal",
            "captured",
            "of_bandwidth",
            "noise"
        ]
    );
    assert!(narrow.rows.iter().all(|row| row.len() == names.len()));
    let decode = tables::narrow(&tables::headline(&kernels())[0]);
    assert!(
        decode.columns.iter().any(|c| c.name == "verified"),
        "a kernel that failed its check stays in sight"
    );
}

/// One point of int8 on two ranks.
fn parallel(communication_ms: Option<f64>) -> ParallelPoint {
    let sum = communication_ms.map(|added| estimate(1.0 + added));
    ParallelPoint {
        point: point("decode-b1-kv1024-tp2", "launch", "int8"),
        op: "decode".into(),
        batch: 1,
        kv_len: 1024,
        tensor_parallel: 2,
        measured_ms: Some(estimate(1.0)),
        communication_ms,
        total_ms: sum,
        speedup_over_one: sum,
        speedup: Some(estimate(1.5)),
        speedup_total: sum,
    }
}

#[test]
fn what_is_modelled_is_said_to_be() {
    let table = |communication_ms| {
        let mut judgement = kernels();
        judgement.parallel.push(parallel(communication_ms));
        render(&tables::headline(&judgement)[2], Format::Md, false)
    };
    let with = table(Some(0.25));
    let header = "| measured (ms) | communication, modelled (ms) | measured + modelled (ms) |";
    assert!(with.contains(header) && with.contains("| 0.250 | 1.25 ["), "{with}");
    assert!(!with.contains("not included"), "{with}");
    let without = table(None);
    assert!(without.contains("communication is not included for cpu: no link"), "{without}");
    assert!(without.contains("1.00 [0.950, 1.06] |  |  |  | 1.50 ["), "{without}");
}

#[test]
fn degrees_do_not_share_a_figure_or_a_sentence() {
    let mut judgement = kernels();
    let fewer_heads = |k: &KernelPoint| KernelPoint { tensor_parallel: 2, ..k.clone() };
    let on_two: Vec<KernelPoint> = judgement.kernels.iter().map(fewer_heads).collect();
    let finding = words::finding(&judgement, "fp16");
    judgement.kernels.splice(0..0, on_two.clone());
    assert_eq!(words::finding(&judgement, "fp16"), finding);
    let manifest = example("r", &[]);
    let source = Source { manifest: &manifest, judgement: &judgement, facts: &[], telemetry: &[] };
    let plots = plots(&source);
    assert_eq!(plots[0].name, "decode-kv-len-cpu-llama-2-7b-tp2");
    assert!(plots[0].figure.title.ends_with("one of 2 ranks"));
    assert_eq!(plots[3].name, "decode-kv-len-cpu-llama-2-7b");
    assert_eq!(plots[3].figure.panels[0].series[0].points.len(), 3, "one point a length");
    judgement.kernels = on_two;
    let alone = words::finding(&judgement, "fp16").remove(0);
    assert!(alone.contains("one of 2 ranks of one attention layer of llama-2-7b"), "{alone}");
}

/// As if on a GPU: launches that are bound by something known.
fn limited() -> Judgement {
    use crate::kernel::roofline::Bound;
    let bounds = [Bound::Launch, Bound::Memory, Bound::Issue, Bound::Compute];
    let mut judgement = kernels();
    for (n, k) in judgement.kernels.iter_mut().enumerate().filter(|(_, k)| k.op == "decode") {
        let slot = METHODS.iter().position(|method| *method == k.point.method).unwrap_or(0);
        let longer = (k.kv_len as f64 / 1024.0).log2() * 0.08;
        k.limit_fraction = Some(0.35 + 0.06 * slot as f64 + longer + 0.05 * k.batch as f64 / 4.0);
        k.bound = Some(bounds[(n / METHODS.len() + usize::from(slot > 2)) % 4]);
        k.backend = "cuda-sm_90".into();
    }
    judgement
}

fn limit_plot(judgement: &Judgement) -> Option<Plot> {
    let manifest = example("r", &[]);
    let source = Source { manifest: &manifest, judgement, facts: &[], telemetry: &[] };
    plots(&source).into_iter().find(|plot| plot.name.starts_with("decode-limit"))
}

#[test]
fn the_limit_is_drawn_where_it_is_known() {
    let plot = limit_plot(&limited()).unwrap();
    assert_eq!(plot.name, "decode-limit-cpu-llama-2-7b");
    let [one, four] = &plot.figure.panels[..] else { panic!("expected two batches") };
    assert_eq!((one.label.as_str(), four.label.as_str()), ("batch 1", "batch 4"));
    assert_eq!((one.series.len(), one.notes.len()), (5, 15), "a letter a point");
    assert_eq!((one.notes[0].text.as_str(), one.notes[1].text.as_str()), ("L", "M"));
    assert_eq!((one.notes[0].at, one.notes[0].slot), (one.series[0].points[0], 0));
    assert!(plot.figure.ys().iter().all(|y| (0.0..=1.0).contains(y)));
    let svg = crate::report::svg(&plot.figure).unwrap();
    assert!(svg.contains("own limit") && svg.contains("\nI\n"), "letters are drawn");
    assert_eq!(limit_plot(&kernels()), None, "a CPU has no known limit");
    let mut one_length = limited();
    one_length.kernels.retain(|k| k.kv_len == 8192);
    let figure = limit_plot(&one_length).unwrap().figure;
    assert_eq!((figure.x.label.as_str(), figure.panels.len()), ("sequences in the batch", 1));
}
