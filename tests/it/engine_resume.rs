//! Runs of started engines that are taken up again: what was never sent is measured, what was measured is kept.

use std::{
    fs::{self, File},
    process::Stdio,
};

use kvbench::record::{Manifest, RequestRow, manifest::Status};

use crate::engine::{GOOD, POLL, Place, SLOW, begun};

/// Breaks one method while a file is there.
const BREAKS: &str =
    "case \"$*\" in *quarter*) if [ -e broken ]; then echo 'no such kernel'; exit 7; fi;; esac";

#[test]
fn cells_that_were_never_sent_are_measured_on_resume_and_no_other_is() {
    let place = Place::new(&format!("{BREAKS}\n{GOOD}"), "");
    let broken = place.folder.path().join("broken");
    fs::write(&broken, "").unwrap();
    let (output, said) = place.run();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("were never sent; measure them with: kvbench run --resume"), "{said}");
    assert_eq!(Manifest::read(&place.run_folder()).unwrap().status, Status::Incomplete);
    let of = |rows: &[RequestRow], less: bool| {
        let rows = rows.iter().filter(|row| (row.method == "less") == less).cloned();
        rows.collect::<Vec<_>>()
    };
    let before = place.rows();
    assert!(of(&before, true).iter().all(|row| row.err.is_some() && row.sent_ns.is_none()));
    fs::remove_file(&broken).unwrap();
    let (_, said) = place.resume();
    let after = place.rows();
    assert_eq!(of(&after, false), of(&before, false), "measured once, times and all: {said}");
    let less = of(&after, true);
    assert_eq!(less.len(), 8, "{said}");
    assert!(less.iter().all(|row| row.err.is_none()), "{said}");
    let manifest = Manifest::read(&place.run_folder()).unwrap();
    assert_eq!((manifest.status, manifest.proofs.len()), (Status::Complete, 6));
    // The first start's log is still there and holds nothing of the second's.
    let log = |name: &str| fs::read_to_string(place.run_folder().join("engines").join(name));
    let first = log("fake_less_r0.log").unwrap();
    assert!(first.contains("no such kernel") && first.matches("$ ").count() == 1, "{first}");
    assert!(!log("fake_less_r0.2.log").unwrap().contains("no such kernel"));
}

/// The supervisor and an engine that takes its time to end live on after kvbench.
#[test]
fn what_outlives_kvbench_does_not_hold_the_runs_lock() {
    let place = Place::new(&format!("trap '' TERM\n{SLOW}"), "");
    let mut child = begun(&place);
    let lock = place.run_folder().join("lock");
    assert!(File::open(&lock).unwrap().try_lock().is_err(), "kvbench holds it");
    child.kill().unwrap();
    child.wait().unwrap();
    File::open(&lock).unwrap().try_lock().unwrap();
    place.wait_for(|n| n == 0);
}

#[test]
fn kill_9_of_kvbench_keeps_what_was_learned_of_finished_cells() {
    let place = Place::new(GOOD, "");
    let mut child = place.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let results = place.folder.path().join("results");
    let n_blocks = || {
        let run = fs::read_dir(&results).ok()?.next()?.ok()?.path();
        Some(fs::read_to_string(run.join("cells.jsonl")).ok()?.lines().count())
    };
    // Once the second block is finished, all that belongs to the first is over.
    while n_blocks().unwrap_or(0) < 2 {
        std::thread::sleep(POLL);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    place.wait_for(|n| n == 0);
    let manifest = Manifest::read(&place.run_folder()).unwrap();
    assert_eq!(manifest.status, Status::Running);
    let first = &manifest.cells[0].id;
    assert!(manifest.proofs.iter().any(|proof| &proof.cell_id == first), "{:?}", manifest.proofs);
    assert!(manifest.client_health.iter().any(|health| &health.cell_id == first));
    assert!(!manifest.schedules.is_empty() && manifest.engines.contains_key("fake_base_r0"));
    let (_, said) = place.resume();
    let manifest = Manifest::read(&place.run_folder()).unwrap();
    assert_eq!(manifest.status, Status::Complete, "{said}");
    assert_eq!(place.rows().len(), 24);
}
