//! Copies are found, measurements are not.

use rand::RngExt as _;

use super::*;
use crate::stats::seeded;

const HEADER: &str = "batch_size,kv_cache_size,is_prefill,n_kv_head,n_q_head,n_embd,time_stats.attn_decode.mean,\
time_stats.attn_decode.median,time_stats.attn_decode.std,time_stats.attn_prefill.median\n";

/// A profile of 60 rows a phase; `edit` gets (is prefill, time in ms, std) and gives what is written.
fn sheet(name: &str, mut edit: impl FnMut(bool, f64, f64) -> (f64, f64)) -> Sheet {
    let mut text = HEADER.to_owned();
    for step in 1..=60 {
        let (kv, ms, std) = (64 * step, 0.4 + 0.037 * f64::from(step), 0.001 * f64::from(step));
        let (decode, spread) = edit(false, ms, std);
        let (prefill, _) = edit(true, 3.0 * ms, std);
        text += &format!("4,{kv},False,32,32,4096,{decode},{decode},{spread},\n");
        text += &format!("1,{kv},True,32,32,4096,,,,{prefill}\n");
    }
    Sheet::read(text.as_bytes(), name).unwrap()
}

fn plain(name: &str) -> Sheet {
    sheet(name, |_, ms, std| (ms, std))
}

fn flagged(found: &[Finding]) -> Vec<&Finding> {
    found.iter().filter(|finding| finding.flagged).collect()
}

#[test]
fn measurements_with_noise_are_not_flagged() {
    let mut rng = seeded(7);
    // A sum of twelve is near enough to a normal draw; 0.5 % of the value.
    let mut noise = move || 1.0 + 0.005 * ((0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0);
    for factor in [1.0, 0.577, 1.4] {
        let mut noisy = |name: &str, factor: f64| {
            sheet(name, |_, ms, std| {
                let written = |value: f64| (value * 1e3).round() / 1e3;
                (written(factor * ms * noise()), written(std * noise() + 0.0005))
            })
        };
        let found = audit(&[noisy("a", 1.0), noisy("b", factor)], None);
        assert!(flagged(&found).is_empty(), "{factor}: {found:?}");
    }
}

#[test]
fn a_multiple_is_found_by_phase_with_its_spread() {
    let copy =
        sheet("b", |is_prefill, ms, std| (ms * if is_prefill { 1.1777 } else { 0.577 }, std));
    let found = audit(&[plain("a"), copy], None);
    let kinds: Vec<_> = found.iter().map(|it| (it.kind, it.phase.as_deref())).collect();
    let (decode, prefill) = (Some("decode"), Some("prefill"));
    assert_eq!(
        kinds,
        [
            (Kind::ConstantMultiple, decode),
            (Kind::UnscaledSpread, decode),
            (Kind::ConstantMultiple, prefill)
        ]
    );
    assert!((found[0].factor.unwrap() - 0.577).abs() < 1e-9);
    assert_eq!(found[0].columns.len(), 2, "mean and median are one finding");
    assert!((found[2].factor.unwrap() - 1.1777).abs() < 1e-9);
    let said = found[0].sentence();
    assert!(said.contains("those of a times 0.577000 in 60 of 60 rows"), "{said}");
}

#[test]
fn a_rounded_and_touched_up_copy_is_found() {
    let mut row = 0;
    let copy = sheet("b", |_, ms, std| {
        row += 1;
        let touched = if row % 50 == 0 { 1.1 } else { 1.0 };
        ((1.3 * ms * touched * 1e3).round() / 1e3, std)
    });
    let found = audit(&[plain("a"), copy], None);
    let multiple = found.iter().find(|it| it.kind == Kind::ConstantMultiple).unwrap();
    assert!((multiple.factor.unwrap() - 1.3).abs() < 1e-3 && multiple.n_rows < 60, "{multiple:?}");
}

#[test]
fn an_affine_copy_is_found() {
    let copy = sheet("b", |_, ms, std| (1.4 * ms + 0.05, 1.4 * std));
    let found = audit(&[plain("a"), copy], None);
    let affine = found.iter().find(|it| it.kind == Kind::AffineCopy).unwrap();
    assert!((affine.factor.unwrap() - 1.4).abs() < 1e-6, "{affine:?}");
    assert!((affine.offset.unwrap() - 0.05).abs() < 1e-6);
    assert!(found.iter().all(|it| it.kind != Kind::UnscaledSpread), "the spread was scaled");
}

#[test]
fn identity_is_found() {
    let found = audit(&[plain("a"), plain("b")], None);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind, found[0].files.len()), (Kind::IdenticalFiles, 2));
    let other = sheet("b", |is_prefill, ms, std| (if is_prefill { ms * ms } else { ms }, std));
    let found = audit(&[plain("a"), other], None);
    assert_eq!(found[0].kind, Kind::IdenticalColumns);
    assert_eq!(found[0].phase.as_deref(), Some("decode"));
}

#[test]
fn impossible_values_are_found() {
    let still = sheet("still", |is_prefill, ms, _| (if is_prefill { 5.0 } else { ms }, 0.0));
    let kinds: Vec<Kind> = flagged(&audit(&[still], None)).iter().map(|it| it.kind).collect();
    assert!(kinds.contains(&Kind::NoSpread) && kinds.contains(&Kind::Constant), "{kinds:?}");
    let mut row = 0;
    let odd = sheet("odd", |_, ms, std| {
        row += 1;
        (
            match row {
                1 => -1.0,
                3 => 0.0,
                5 => f64::NAN,
                _ => ms,
            },
            std,
        )
    });
    let found = audit(&[odd], None);
    let impossible: usize =
        found.iter().filter(|it| it.kind == Kind::Impossible).map(|it| it.n_rows).sum();
    assert!(impossible >= 3, "{found:?}");
    assert!(flagged(&audit(&[plain("a")], None)).is_empty());
}

#[test]
fn rows_faster_than_memory_are_found() {
    // The longest row: 4 * 3840 tokens of 32 * 128 * 4 bytes, 252 MB in 2.62 ms, 96 GB/s.
    let found = audit(&[plain("a")], Some(90.0));
    assert_eq!(flagged(&found)[0].kind, Kind::TooFast);
    assert!((found[0].factor.unwrap() - 96.05 / 90.0).abs() < 0.01, "{found:?}");
    assert!(flagged(&audit(&[plain("a")], Some(100.0))).is_empty());
    let bare = Sheet::read(&b"x,t_ms\n1,2.345\n"[..], "bare").unwrap();
    let found = audit(&[bare], Some(100.0));
    assert_eq!((found[0].kind, found[0].flagged), (Kind::NotChecked, false));
}

/// Throughput of a method; `edit` gets tokens per second.
fn throughput(name: &str, method: &str, edit: impl Fn(u32, f64) -> f64) -> Sheet {
    let mut text = "model,method,bsz,prompt_len,stage,thr\n".to_owned();
    for step in 1..=30_u32 {
        for stage in ["prefill", "decode"] {
            let thr = edit(step, 1234.567 + 17.31 * f64::from(step * step));
            text += &format!("llama,{method},{step},256,{stage},{thr}\n");
        }
    }
    Sheet::read(text.as_bytes(), name).unwrap()
}

/// A method that was multiplied out of another has no row in common with it while `method` counts.
#[test]
fn a_copy_under_the_name_of_another_method_is_found() {
    let own = throughput("a", "None-16", |_, thr| thr);
    let found = audit(&[own.clone(), throughput("b", "KIVI-4", |_, thr| 1.3 * thr)], None);
    let factors: Vec<f64> = flagged(&found).iter().filter_map(|it| it.factor).collect();
    assert!(factors.len() == 2 && factors.iter().all(|it| (it - 1.3).abs() < 1e-9), "{found:?}");
    let noted = found.iter().find(|it| it.kind == Kind::JoinedWithout).unwrap();
    assert_eq!((&noted.columns[..], noted.n_rows), (&["method".to_owned()][..], 60));
    let noise = |step: u32, thr: f64| thr * (1.3 + 0.01 * f64::from(step * 7919 % 13));
    let found = audit(&[own, throughput("b", "KIVI-4", noise)], None);
    assert_eq!((flagged(&found).len(), not_compared(&found)), (0, 0), "{found:?}");
}

#[test]
fn what_cannot_be_compared_is_said() {
    let other = Sheet::read(&b"batch_size,t_ms\n99,2.345\n"[..], "other").unwrap();
    let found = audit(&[plain("a"), other], None);
    assert_eq!((found[0].kind, found[0].flagged), (Kind::NothingJoined, false));
    assert_eq!(not_compared(&found), 1);
    let rows = "batch_size,t_ms\n1,2.345\n2,3.456\n";
    let [one, two] = [("one", 1), ("two", 3)].map(|(name, at)| {
        Sheet::read(rows.replace("3.456", &format!("{at}.456")).as_bytes(), name).unwrap()
    });
    let found = audit(&[one, two], None);
    assert_eq!((found[0].kind, found[0].n_rows, not_compared(&found)), (Kind::TooFewJoined, 2, 1));
    let error = Sheet::read(&b"a,b\n1,2\n"[..], "words").unwrap_err().to_string();
    assert!(error.contains("words: expected a column of measurements"), "{error}");
}
