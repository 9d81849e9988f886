use super::{Observation, Phase, eval, measured, split::Split};
use std::{fs::File, path::PathBuf};
#[test]
fn probe() {
    let folder =
        PathBuf::from(std::env::var_os("KVBENCH_SHARED").unwrap()).join("artifact/throughput");
    let of = |method: &str| {
        let path = folder.join(format!("llama-7b-{method}.csv"));
        measured::read(File::open(&path).unwrap(), "x", None).unwrap()
    };
    let seen: Vec<Observation> = ["fp16", "kivi", "h2o"].into_iter().flat_map(of).collect();
    let held = eval::held_out(&seen);
    for split in Split::ALL {
        for phase in [Phase::Decode, Phase::Prefill] {
            let mut c = [[0usize; 2]; 5];
            for h in held.iter().filter(|h| h.split == split && h.work.phase == phase) {
                let (Some(m), Some(cov)) = (&h.model, h.is_covered()) else { continue };
                let d = m.place.distance;
                let at = if d <= 1.0 {
                    0
                } else if d <= 1.3 {
                    1
                } else if d <= 2.05 {
                    2
                } else if d < 3.0 {
                    3
                } else {
                    4
                };
                c[at][0] += usize::from(cov);
                c[at][1] += 1;
            }
            std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("PROBE {split:?} {phase:?}: in, <=1.3, <=2, <3, <=4: {c:?}\n").as_bytes(),
            )
            .unwrap();
        }
    }
}
