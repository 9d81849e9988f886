use super::*;
use crate::{
    analyse::{judge, tests::served_run},
    record::manifest::{ClientFacts, ProofFacts},
};

const CELL: &str = "example/srv/fp16/chat/closed-2/0";

fn health(verdict: Verdict) -> ClientFacts {
    ClientFacts {
        cell_id: CELL.to_owned(),
        verdict,
        reasons: vec!["p99 lag".to_owned()],
        measured: serde_json::Value::Null,
    }
}

fn proven(verdict: Verdict, reasons: &[&str]) -> ProofFacts {
    let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
    ProofFacts { cell_id: CELL.to_owned(), verdict, reasons, salt: None }
}

fn of(
    change: impl Fn(&mut RunData),
    edit: impl Fn(&mut RequestRow),
) -> (CellVerdict, Vec<SummaryRow>) {
    let mut data = served_run(&[CELL], 4, edit);
    data.manifest.client_health = vec![health(Verdict::Valid)];
    data.manifest.proofs = vec![proven(Verdict::Valid, &[])];
    change(&mut data);
    let judgement = judge(&data).unwrap();
    (judgement.cells[0].clone(), judgement.summary)
}

#[test]
fn a_good_cell_is_valid_and_its_rows_say_so() {
    let (cell, summary) = of(|_| (), |_| ());
    assert_eq!((cell.verdict, cell.reasons.as_slice()), (Verdict::Valid, [].as_slice()));
    let ids: Vec<&str> = summary.iter().map(|row| row.cell_id.as_str()).collect();
    assert!(ids.contains(&CELL) && ids.contains(&"example/srv/fp16/chat/closed-2/*"), "{ids:?}");
    assert!(summary.iter().all(|row| row.verdict.as_deref() == Some("VALID")));
    assert!(summary.iter().all(|row| row.definition.is_some()), "{summary:?}");
}

#[test]
fn each_reason_is_joined_and_the_worst_wins() {
    let suspect = |change: &dyn Fn(&mut RunData), edit: &dyn Fn(&mut RequestRow), text: &str| {
        let (cell, _) = of(change, edit);
        assert_eq!(cell.verdict, Verdict::Suspect, "{text}: {cell:?}");
        assert!(cell.reasons.iter().any(|reason| reason.contains(text)), "{text}: {cell:?}");
    };
    let (same, any) = (|_: &mut RunData| (), |_: &mut RequestRow| ());
    suspect(
        &same,
        &|row| row.output_tokens = row.output_tokens.filter(|_| row.request_id > 0),
        "1 of 4 good requests have no token count",
    );
    suspect(
        &same,
        &|row| row.cached_tokens = Some(row.request_id),
        "3 of 4 good requests had prompt tokens in a prefix cache",
    );
    suspect(
        &same,
        &|row| row.err = (row.request_id == 0).then(|| "timeout: 10.0.0.1".to_owned()),
        "1 of 4 requests failed (timeout)",
    );
    suspect(&same, &|row| row.due_ns -= 50_000_000, "left up to 5");
    suspect(
        &|data| data.manifest.client_health.clear(),
        &any,
        "nothing tells whether the client kept up",
    );
    suspect(&|data| data.finished.clear(), &any, "is unfinished");
    let proof = |data: &mut RunData| {
        data.manifest.proofs = vec![proven(Verdict::Suspect, &["no version"])];
    };
    suspect(&proof, &any, "engine: no version");
    suspect(&|data| data.manifest.proofs.clear(), &any, "no proof of configuration");
    let (cell, summary) = of(
        |data| data.manifest.client_health = vec![health(Verdict::Invalid)],
        |row| row.cached_tokens = Some(1),
    );
    assert_eq!((cell.verdict, cell.reasons[0].as_str()), (Verdict::Invalid, "client: p99 lag"));
    assert_eq!(cell.reasons.len(), 2);
    assert!(summary.iter().all(|row| row.verdict.as_deref() == Some("INVALID")));
}

#[test]
fn a_cell_that_was_never_sent_says_how_to_measure_it() {
    let never = |row: &mut RequestRow| {
        (row.sent_ns, row.attempt, row.err) = (None, 0, Some("Fake did not start".to_owned()));
    };
    let (cell, _) = of(
        |data| {
            data.finished.clear();
            data.manifest.proofs.clear();
            data.manifest.client_health.clear();
        },
        never,
    );
    assert_eq!(cell.verdict, Verdict::Invalid);
    let said = cell.reasons.join("; ");
    assert!(said.contains("never sent: `kvbench run --resume`"), "{said}");
    assert!(!said.contains("nothing tells"), "nobody had to be proven: {said}");
}

#[test]
fn a_cut_answer_is_said_and_does_not_make_a_cell_suspect() {
    let (cell, _) = of(|_| (), |row| row.finish_reason = Some("length".to_owned()));
    assert_eq!(cell.verdict, Verdict::Valid);
    assert_eq!(cell.reasons, ["4 of 4 answers were cut at their limit: longer than counted"]);
}

#[test]
fn a_cell_of_failures_is_invalid_and_one_without_rows_suspect() {
    let (cell, _) = of(|_| (), |row| row.err = Some("refused".to_owned()));
    assert_eq!(cell.verdict, Verdict::Invalid);
    let mut data = served_run(&[CELL], 4, |_| ());
    let other = "example/srv/int8/chat/closed-2/0";
    data.manifest.cells = crate::record::manifest::example("r", &[CELL, other]).cells;
    let cells = judge(&data).unwrap().cells;
    assert_eq!((cells[1].cell_id.as_str(), cells[1].verdict), (other, Verdict::Suspect));
    assert_eq!(doubtful(&cells).len(), 2, "no client health on the first");
}
