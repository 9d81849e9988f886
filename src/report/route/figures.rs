//! Pictures of a router's run.

use super::{Judged, is_oracle, paper, tables, words};
use crate::{
    analyse::{Estimate, route::Summary},
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Reference, Scale, Series},
        run::{Plot, dodge, slug},
    },
    route::{LengthKnowledge, PolicySpec, Rule},
};

/// Most lines of one panel: more cannot be told apart.
const LINES_MAX: usize = 8;

/// Every figure for which there are numbers.
pub(super) fn plots(judged: &Judged) -> Vec<Plot> {
    let mut out = Vec::new();
    out.extend(over_load(judged, "e2e-mean", "Mean E2E by load", |cell| cell.e2e_mean_s));
    out.extend(over_load(judged, "e2e-p99", "99th percentile of E2E by load", |cell| {
        cell.e2e_p99_s
    }));
    out.extend(gain_over_load(judged));
    out.extend(harm(judged));
    out.extend(shares(judged));
    out.extend(table_8(judged));
    out
}

fn point(x: f64, estimate: Estimate) -> Point {
    let (low, high) = estimate.interval.unzip();
    Point { x, y: estimate.value, low, high }
}

/// Policies that could be run, as many as can be told apart; the controls first, so that they are never left out.
fn drawn(judged: &Judged) -> Vec<&PolicySpec> {
    let design = &judged.design;
    let is_control = |name: &String| {
        [&design.round_robin, &design.shortest_queue, &design.least_memory].contains(&name)
    };
    let usable = |spec: &&PolicySpec| !is_oracle(spec);
    let (mut first, rest): (Vec<&PolicySpec>, Vec<&PolicySpec>) =
        design.policies.iter().filter(usable).partition(|spec| is_control(&spec.name));
    // Later policies of a file are its subject.
    let skipped = (first.len() + rest.len()).saturating_sub(LINES_MAX);
    first.extend(rest.into_iter().skip(skipped));
    first
}

/// Colour of a policy, the same in every picture: those that are drawn as lines first.
fn slot(judged: &Judged, policy: &str) -> usize {
    let lines = drawn(judged);
    let is_other = |spec: &&PolicySpec| !lines.iter().any(|drawn| drawn.name == spec.name);
    let others = judged.design.policies.iter().filter(is_other);
    let mut all = lines.iter().copied().chain(others);
    all.position(|spec| spec.name == policy).unwrap_or(judged.design.policies.len())
}

/// Where a cell stands on the axis of loads: rho where it is known, the rate else.
fn x_of(cell: &Summary) -> Option<f64> {
    cell.world.and_then(|world| world.rho.or(world.rate_per_s))
}

fn x_axis(judged: &Judged) -> Axis {
    let is_rho = judged.sweep().all(|cell| cell.world.is_some_and(|world| world.rho.is_some()));
    if is_rho {
        Axis::new(
            "offered load, of what as many engines of the baseline keep up with",
            "",
            Scale::Linear,
        )
    } else {
        Axis::new("arrivals", "1/s", Scale::Linear)
    }
}

fn lines(judged: &Judged, of: impl Fn(&Summary) -> Option<Estimate>) -> Vec<Series> {
    let line = |spec: &PolicySpec| {
        let cells = judged.sweep().filter(|cell| cell.key.policy == spec.name);
        let mut points: Vec<Point> =
            cells.filter_map(|cell| Some(point(x_of(cell)?, of(cell)?))).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        let slot = slot(judged, &spec.name);
        Series { name: spec.name.clone(), slot, kind: Kind::Line, points }
    };
    let all = drawn(judged).into_iter().map(line);
    all.filter(|series| series.points.len() > 1).collect()
}

fn sweep_caption(judged: &Judged) -> String {
    let head = &judged.head;
    format!(
        "Pool {}, trace {}, predictors {}. Means over {} seeds, bars: 95 % bootstrap intervals over seeds. Simulated engines.",
        head.pool,
        head.trace,
        head.skill,
        judged.n_seeds()
    )
}

fn name(judged: &Judged, what: &str) -> String {
    slug(&[what, &judged.head.pool, &judged.head.trace])
}

fn over_load(
    judged: &Judged,
    what: &str,
    title: &str,
    of: impl Fn(&Summary) -> Option<Estimate>,
) -> Option<Plot> {
    let panel = Panel { series: lines(judged, of), ..Panel::default() };
    let axis = Axis::new("seconds from arrival to last token", "s", Scale::Log10);
    let caption = sweep_caption(judged);
    (!panel.series.is_empty()).then(|| Plot {
        name: name(judged, what),
        figure: Figure::single(title, &caption, x_axis(judged), axis, panel),
    })
}

fn gain_over_load(judged: &Judged) -> Option<Plot> {
    let mut series = lines(judged, |cell| cell.speedups.shortest_queue);
    series.retain(|series| series.name != judged.design.shortest_queue);
    let references = vec![Reference::horizontal("join shortest queue", 1.0)];
    let panel = Panel { series, references, ..Panel::default() };
    let axis = Axis::new("speed-up of mean E2E", "x", Scale::Log10);
    let caption = sweep_caption(judged);
    (!panel.series.is_empty()).then(|| Plot {
        name: name(judged, "speedup"),
        figure: Figure::single(
            "Speed-up over join shortest queue by load",
            &caption,
            x_axis(judged),
            axis,
            panel,
        ),
    })
}

/// Harm against speed, a policy a point.
fn harm(judged: &Judged) -> Option<Plot> {
    let series: Vec<Series> = judged
        .at(&judged.head)
        .filter_map(|cell| {
            let (speed, harmed) = (cell.speedups.round_robin?, cell.harmed?);
            Some(Series {
                name: cell.key.policy.clone(),
                slot: slot(judged, &cell.key.policy),
                kind: Kind::Points,
                points: vec![point(speed.value, hundred(harmed))],
            })
        })
        .collect();
    let any = series.iter().any(|series| series.points.iter().any(|point| point.y > 0.0));
    let head = &judged.head;
    let caption = format!(
        "Pool {}, trace {}, load {}, predictors {}. To the right faster, below less harm; bars: 95 % intervals over seeds.",
        head.pool, head.trace, head.load, head.skill
    );
    any.then(|| Plot {
        name: name(judged, "harm"),
        figure: Figure::single(
            "Answers that a method breaks, and speed",
            &caption,
            Axis::new("speed-up of mean E2E over round robin", "x", Scale::Log10),
            Axis::from_zero("requests sent to a method that breaks their answer", "%"),
            Panel { series, ..Panel::default() },
        ),
    })
}

/// Where requests went: of each method the shares that policies sent there. Names of policies are long and many, so they stand in the
/// legend; those of methods are few.
fn shares(judged: &Judged) -> Option<Plot> {
    let lines = drawn(judged);
    let is_drawn = |cell: &&Summary| lines.iter().any(|spec| spec.name == cell.key.policy);
    let cells: Vec<&Summary> = judged.at(&judged.head).filter(is_drawn).collect();
    let methods: std::collections::BTreeSet<&String> =
        cells.iter().flat_map(|cell| cell.by_method.keys()).collect();
    let series = cells.iter().enumerate().map(|(place, cell)| {
        let at = |(n, method): (usize, &&String)| {
            let shown = hundred(*cell.by_method.get(*method)?);
            Some(point(dodge(n, place, cells.len()), shown))
        };
        Series {
            name: cell.key.policy.clone(),
            slot: slot(judged, &cell.key.policy),
            kind: Kind::Points,
            points: methods.iter().enumerate().filter_map(at).collect(),
        }
    });
    let names = methods.iter().map(|method| breakable(method)).collect();
    let head = &judged.head;
    let caption = format!(
        "Pool {}, trace {}, load {}, predictors {}. Bars: 95 % intervals over {} seeds.",
        head.pool,
        head.trace,
        head.load,
        head.skill,
        judged.n_seeds()
    );
    (methods.len() > 1).then(|| Plot {
        name: name(judged, "shares"),
        figure: Figure::single(
            "Where requests went",
            &caption,
            Axis::new("method", "", Scale::Category(names)),
            Axis::from_zero("share of requests", "%"),
            Panel { series: series.collect(), ..Panel::default() },
        ),
    })
}

/// Of one to percent.
fn hundred(share: Estimate) -> Estimate {
    let hundred = |x: f64| 100.0 * x;
    let interval = share.interval.map(|(low, high)| (hundred(low), hundred(high)));
    Estimate { value: hundred(share.value), interval, n: share.n }
}

/// A name that may be broken where its last part begins that says how it was run: `h2o-512-as-run` stands in two lines, whole.
fn breakable(name: &str) -> String {
    match name.strip_suffix("-as-run") {
        Some(method) => format!("{method} as-run"),
        None => name.to_owned(),
    }
}

/// A policy of the comparison with the paper: what it is called, its cell's rule, and what that knows of lengths if it asks for them.
const BESIDE: [(&str, Rule, LengthKnowledge); 5] = [
    ("w/ Both, simulated", Rule::EarliestFinish, LengthKnowledge::Predicted),
    ("its rule, one length for all", Rule::EarliestFinish, LengthKnowledge::Constant),
    ("same mix, least memory, no predictor", Rule::LeastMemory, LengthKnowledge::Constant),
    (
        "same mix, join shortest queue, no predictor",
        Rule::JoinShortestQueue,
        LengthKnowledge::Constant,
    ),
    ("marginal cost", Rule::MarginalCost, LengthKnowledge::Predicted),
];

/// The paper's gains beside the simulation's and the controls'.
fn table_8(judged: &Judged) -> Option<Plot> {
    let mut methods: Vec<&str> = Vec::new();
    for (method, cell) in tables::mixed(judged) {
        if tables::of_paper(judged, &cell.key.pool, method).is_some() && !methods.contains(&method)
        {
            methods.push(method);
        }
    }
    let panels = [
        panel_8(
            judged,
            &methods,
            "over four engines of the method",
            |column| column.own_s,
            |cell| cell.speedups.own_pool_least_memory,
        ),
        panel_8(
            judged,
            &methods,
            "over four engines without compression",
            |_| paper::FP16_S,
            |cell| cell.speedups.all_baseline_least_memory,
        ),
    ];
    let caption = format!(
        "Mean E2E of four engines under least memory over that of one engine without compression and three of the method. Black: {}. The others: simulated, {} seeds, bars: 95 % intervals.",
        words::paper_place(),
        judged.n_seeds()
    );
    let names = methods.iter().map(|method| breakable(method)).collect();
    (!methods.is_empty()).then(|| Plot {
        name: "table-8".to_owned(),
        figure: Figure {
            title: "The paper's gains, and those of the same mix without predictors".to_owned(),
            caption,
            x: Axis::new("method", "", Scale::Category(names)),
            y: Axis::from_zero("speed-up of mean E2E", "x"),
            panels: panels.to_vec(),
        },
    })
}

fn panel_8(
    judged: &Judged,
    methods: &[&str],
    label: &str,
    own_s: impl Fn(paper::Column) -> f64,
    of: impl Fn(&Summary) -> Option<Estimate>,
) -> Panel {
    let n = BESIDE.len() + 1;
    let theirs = methods.iter().enumerate().filter_map(|(place, method)| {
        let column = paper::column(method)?;
        Some(Point::new(dodge(place, 0, n), own_s(column) / column.both_s))
    });
    let mut series = vec![Series {
        name: "w/ Both, the paper".to_owned(),
        slot: 0,
        kind: Kind::Points,
        points: theirs.collect(),
    }];
    for (slot, (name, rule, length)) in BESIDE.iter().enumerate() {
        let points = methods.iter().enumerate().filter_map(|(place, method)| {
            let cell = tables::mixed(judged).find(|(own, cell)| {
                let spec = judged.spec(&cell.key.policy);
                own == method
                    && spec.is_some_and(|s| {
                        s.rule == *rule
                            && (!rule.asks_lengths() || s.length == *length)
                            && s.guard.is_none()
                            && !is_oracle(s)
                    })
            });
            Some(point(dodge(place, slot + 1, n), of(cell?.1)?))
        });
        let points: Vec<Point> = points.collect();
        if !points.is_empty() {
            let name = (*name).to_owned();
            series.push(Series { name, slot: slot + 1, kind: Kind::Points, points });
        }
    }
    Panel {
        label: label.to_owned(),
        series,
        references: vec![Reference::horizontal("no gain", 1.0)],
        ..Panel::default()
    }
}
