use super::super::tests::served;
use super::*;
use crate::{
    analyse::{Judgement, Point, RequestFacts},
    record::manifest::example,
    report::run::plots,
};

/// The page of a run; methods are those of its rows.
fn html(judgement: &Judgement, facts: &[RequestFacts]) -> String {
    let manifest = example("r", &[]);
    let source = Source { manifest: &manifest, judgement, facts, telemetry: &[] };
    let plots = plots(&source);
    Page::new(&source, &plots).html().unwrap()
}

/// Bodies of the groups and rows that belong to a name.
fn owned(html: &str, owner: usize) -> usize {
    html.matches(&format!("data-m=\"{owner}\"")).count()
}

#[test]
fn what_belongs_to_a_method_can_be_hidden_everywhere() {
    let (judgement, facts) = served();
    let html = html(&judgement, &facts);
    // fp16, its control, and three methods, one of which tries to be markup
    assert_eq!(html.matches("<input type=\"checkbox\"").count(), 5);
    assert!(html.contains("data-name=\"&lt;b&gt;evil|&lt;&#x2f;b&gt;\""), "names are escaped");
    let counts: Vec<usize> = (0..6).map(|owner| owned(&html, owner)).collect();
    assert!(counts[1] > 100 && counts[5] == 0, "{counts:?}");
    assert!(counts[1..5].windows(2).all(|two| two[0] == two[1]), "alike: {counts:?}");
    for row in html.lines().filter(|line| line.contains("<td>int8</td>")) {
        assert!(row.starts_with("<tr data-m=\"2\">"), "{row}");
    }
}

#[test]
fn marks_say_value_unit_and_n() {
    let (judgement, facts) = served();
    let html = html(&judgement, &facts);
    let said = "int8 (chat, closed-4): share of requests 100 %; first token after the request was due 210 ms; n 149";
    assert!(
        html.contains(&format!("<title>{said}</title>")),
        "149 good requests of int8 end at 60 + 149 + 1 ms"
    );
    assert!(
        html.contains(
            "output throughput 94.7 [90.0, 100] tokens/s; workload and load chat closed-4; n 20"
        ),
        "9000 / 95"
    );
    assert_eq!(
        html.matches("<title>").count() - 1,
        html.matches("<circle").count(),
        "the first is the page's"
    );
}

fn renamed(point: &Point, n: usize) -> Point {
    let method = if n.is_multiple_of(8) {
        point.method.clone()
    } else {
        format!("{}-v{}", point.method, n % 8)
    };
    Point { method, load: format!("{}.{}", point.load, n / 8), ..point.clone() }
}

/// Pages do not grow with requests, which figures thin to a curve, but with methods and loads: 40 methods at 24 loads here.
#[test]
fn a_page_of_many_cells_stays_small_and_says_what_it_left_out() {
    let (mut judgement, facts) = served();
    let (requests, comparisons) = (judgement.requests.clone(), judgement.comparisons.clone());
    let mut many = Vec::new();
    for n in 1..96 {
        many.extend(
            facts.iter().map(|one| RequestFacts { point: renamed(&one.point, n), ..one.clone() }),
        );
        judgement.requests.extend(requests.iter().map(|one| crate::analyse::RequestPoint {
            point: renamed(&one.point, n),
            ..one.clone()
        }));
        judgement.comparisons.extend(comparisons.iter().map(|one| crate::analyse::Comparison {
            point: renamed(&one.point, n),
            ..one.clone()
        }));
    }
    many.extend(facts);
    let html = html(&judgement, &many);
    assert!(html.len() < 3_000_000, "{} bytes", html.len());
    assert!(html.contains("points, spread evenly"), "it says what it thinned");
}
