//! What saturation searches found: a table of answers, a table of probes, and a figure of the part on time by rate.

use super::{Looks, Plot, slug, tables::columns};
use crate::{
    analyse::{Rate, Reason, Saturation},
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Reference, Scale, Series},
        table::{Table, Value},
    },
};

fn place(search: &Saturation) -> Vec<Value> {
    let p = &search.point;
    let words = [&p.target, &p.workload, &p.load, &p.method].map(|word| Value::Text(word.clone()));
    words.into_iter().chain([Value::Int(search.repeat)]).collect()
}

const PLACE: [(&str, &str); 5] =
    [("target", ""), ("workload", ""), ("load", ""), ("method", ""), ("repeat", "")];

/// The highest sustained rate of each search.
pub(super) fn answers(searches: &[Saturation]) -> Table {
    let more = [
        ("sustained", "1/s"),
        ("overloaded", "1/s"),
        ("probes", ""),
        ("undecided", ""),
        ("end", ""),
    ];
    let title =
        "Saturation: the highest Poisson rate at which the wanted part of the requests met the SLO";
    let mut table = Table::new(title, columns(&[&PLACE[..], &more[..]].concat()));
    let row = |search: &Saturation| {
        let undecided = search.probes.iter().filter(|probe| !probe.decided).count();
        let answer = [
            Value::maybe(search.rate_per_s),
            Value::maybe(search.overloaded_per_s),
            Value::count(search.probes.len()),
            Value::count(undecided),
            Value::Text(end(search.reason).to_owned()),
        ];
        place(search).into_iter().chain(answer).collect()
    };
    table.rows = searches.iter().map(row).collect();
    table
}

fn end(reason: Option<Reason>) -> &'static str {
    match reason {
        Some(Reason::Found) => "found",
        Some(Reason::NeverOverloaded) => "never overloaded",
        Some(Reason::NeverSustained) => "never sustained",
        Some(Reason::NothingAnswered) => "nothing answered",
        None => "unfinished",
    }
}

/// What each probe saw.
pub(super) fn probes(searches: &[Saturation]) -> Table {
    let more = [
        ("rate", "1/s"),
        ("n", ""),
        ("on_time", ""),
        ("failed", ""),
        ("part", "%"),
        ("sustained", ""),
        ("decided", ""),
    ];
    let mut table = Table::new(
        "Probes of the saturation search, in order; 95 % Wilson intervals",
        columns(&[&PLACE[..], &more[..]].concat()),
    );
    let row = |search: &Saturation, probe: &Rate| {
        let yes = |is: bool| Value::Text(if is { "yes" } else { "no" }.to_owned());
        let (low, high) = probe.interval.unzip();
        let percent = |part: f64| 100.0 * part;
        let seen = [
            Value::Float(probe.rate_per_s),
            Value::count(probe.n),
            Value::count(probe.n_good),
            Value::count(probe.n_failed),
            Value::estimate(probe.part().map(percent), low.map(percent), high.map(percent)),
            yes(probe.sustained),
            yes(probe.decided),
        ];
        place(search).into_iter().chain(seen).collect::<Vec<_>>()
    };
    for search in searches {
        table.rows.extend(search.probes.iter().map(|probe| row(search, probe)));
    }
    table
}

/// One figure a target, workload and load; one series a method and repeat.
pub(super) fn plots(searches: &[Saturation], looks: &Looks) -> Vec<Plot> {
    let key =
        |s: &Saturation| (s.point.target.clone(), s.point.workload.clone(), s.point.load.clone());
    let places = super::distinct(searches.iter().map(key));
    let draw = |place: &(String, String, String)| {
        let here: Vec<&Saturation> = searches.iter().filter(|s| key(s) == *place).collect();
        plot(place, &here, looks)
    };
    places.iter().map(draw).collect()
}

fn plot(place: &(String, String, String), here: &[&Saturation], looks: &Looks) -> Plot {
    let point = |probe: &Rate| {
        let (low, high) = probe.interval.unzip();
        probe.part().map(|y| (Point { x: probe.rate_per_s, y, low, high }, probe.n))
    };
    let wanted = here.first().map(|search| Reference::horizontal("wanted", search.attainment));
    let mut panel = Panel {
        label: format!("{}, {}, {}", place.0, place.1, place.2),
        references: wanted.into_iter().collect(),
        ..Panel::default()
    };
    for search in here {
        let mut probes: Vec<(Point, usize)> = search.probes.iter().filter_map(point).collect();
        probes.sort_by(|a, b| a.0.x.total_cmp(&b.0.x));
        let (points, n) = probes.into_iter().unzip();
        let (name, slot) = (search.point.method.clone(), looks.slot(&search.point.method));
        panel.push_counted(Series { name, slot, kind: Kind::Line, points }, n);
    }
    let figure = Figure::single(
        "Requests on time by rate",
        "Part of the requests that met every limit of the SLO, counted from when they were due. Bars: 95 % Wilson intervals.",
        Axis::new("Poisson rate", "1/s", Scale::Log10),
        Axis::from_zero("part on time", ""),
        panel,
    );
    Plot { name: slug(&["saturation", &place.0, &place.1, &place.2]), figure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::Point;

    #[test]
    fn a_search_is_two_tables_and_a_figure() {
        let rate = |rate_per_s, n_good, sustained, decided| Rate {
            rate_per_s,
            n_good,
            n: 100,
            n_failed: 0,
            interval: Some((0.8 * n_good as f64 / 100.0, 1.0)),
            sustained,
            decided,
        };
        let point = Point {
            target: "srv".into(),
            workload: "w".into(),
            load: "sat-slo0.9".into(),
            method: "fp16".into(),
        };
        let search = Saturation {
            point,
            repeat: 0,
            attainment: 0.9,
            rate_per_s: Some(2.0),
            overloaded_per_s: Some(4.0),
            reason: Some(Reason::Found),
            probes: vec![rate(4.0, 50, false, true), rate(2.0, 91, true, false)],
        };
        let answers = answers(std::slice::from_ref(&search));
        assert_eq!(
            answers.rows[0][5..],
            [
                Value::Float(2.0),
                Value::Float(4.0),
                Value::Int(2),
                Value::Int(1),
                Value::Text("found".into()),
            ]
        );
        let probes = probes(std::slice::from_ref(&search));
        assert_eq!(probes.rows.len(), 2);
        assert_eq!(probes.columns.len(), probes.rows[0].len());
        let looks = Looks { baseline: "fp16".into(), methods: vec!["fp16".into()] };
        let plots = plots(&[search], &looks);
        assert_eq!(plots[0].name, "saturation-srv-w-sat-slo0.9");
        let xs: Vec<f64> = plots[0].figure.panels[0].series[0].points.iter().map(|p| p.x).collect();
        assert_eq!(xs, [2.0, 4.0], "from left to right");
        plots[0].figure.check().expect("can be drawn");
    }
}
