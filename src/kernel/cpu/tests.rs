use super::*;
use crate::{
    kernel::check,
    method::{Gear, Method, Pooling},
};

fn methods() -> Vec<Method> {
    vec![
        Method::Fp16,
        Method::Int8,
        Method::Int4,
        Method::Fp8,
        Method::Bf16,
        Method::Fp8TokenHead,
        Method::Turboquant4,
        Method::Kivi { bits: 4, group: 32, residual: 128 },
        Method::Kivi { bits: 2, group: 32, residual: 128 },
        Method::Kivi { bits: 4, group: 64, residual: 64 },
        Method::Kivi { bits: 2, group: 8, residual: 32 },
        gear(2, 64, 64, 4, 0.02),
        gear(4, 32, 128, 2, 0.02),
        gear(2, 8, 8, 6, 0.1),
        gear(4, 16, 48, 8, 0.0),
        Method::Streaming { sink: 4, window: 60 },
        Method::H2o { heavy: 33, recent: 40 },
        Method::Snapkv { window: 16, budget: 100, pooling: Pooling::Avg, pool_width: 5 },
        Method::Snapkv { window: 8, budget: 33, pooling: Pooling::Max, pool_width: 7 },
    ]
}

fn gear(bits: u32, group: usize, residual: usize, rank: usize, outliers: f64) -> Method {
    Method::Gear(Gear { bits, group, residual, rank, flush_rank: 2, iterations: 3, outliers })
}

fn spec(
    op: Op,
    method: Method,
    kv_lens: &[usize],
    group: usize,
    heads_kv: usize,
    head_dim: usize,
) -> KernelSpec {
    let shape = Shape { kv_lens: kv_lens.to_vec(), heads_q: group * heads_kv, heads_kv, head_dim };
    KernelSpec { op, method, shape, seed: 7, page: 16, rotate_bytes: 0 }
}

fn assert_passes(spec: &KernelSpec, isa: Isa) {
    let verification = open_on(spec, isa).unwrap().verify().unwrap();
    assert!(verification.passed(), "{isa:?} {spec:?}: {verification:?}");
}

#[test]
fn decode_is_right_at_every_length() {
    for method in methods() {
        for isa in Isa::available() {
            for lens in [vec![1, 31, 32, 33], vec![127, 128, 129, 300], vec![1000]] {
                assert_passes(&spec(Op::Decode, method.clone(), &lens, 1, 1, 128), isa);
            }
        }
    }
}

#[test]
fn decode_is_right_for_groups_and_head_dims() {
    for method in methods() {
        for isa in Isa::available() {
            for group in [1, 4, 5, 8] {
                assert_passes(&spec(Op::Decode, method.clone(), &[150, 40], group, 2, 64), isa);
            }
            assert_passes(&spec(Op::Decode, method.clone(), &[257], 2, 1, 256), isa);
        }
    }
}

#[test]
fn head_dim_96() {
    for method in methods().into_iter().filter(|m| m.check_head_dim(96).is_ok()) {
        for isa in Isa::available() {
            assert_passes(&spec(Op::Decode, method.clone(), &[200], 3, 1, 96), isa);
            assert_passes(&spec(Op::Prefill, method.clone(), &[70], 3, 1, 96), isa);
            assert_passes(&spec(Op::Compress, method.clone(), &[200], 3, 1, 96), isa);
        }
    }
}

#[test]
fn compress_matches_the_reference_round_trip() {
    for method in methods() {
        for isa in Isa::available() {
            for (lens, d) in [(vec![1, 31, 32, 33, 300], 64), (vec![127, 128, 129, 1000], 128)] {
                assert_passes(&spec(Op::Compress, method.clone(), &lens, 1, 2, d), isa);
            }
        }
    }
}

#[test]
fn prefill_is_right() {
    for method in methods() {
        for isa in Isa::available() {
            assert_passes(&spec(Op::Prefill, method.clone(), &[1, 15, 33, 129], 2, 1, 64), isa);
            assert_passes(&spec(Op::Prefill, method.clone(), &[150], 5, 1, 128), isa);
        }
    }
}

#[test]
fn read_sums_every_word() {
    for isa in Isa::available() {
        assert_passes(&spec(Op::Read, Method::Fp16, &[5000], 1, 2, 128), isa);
    }
}

#[test]
fn many_heads_are_sampled_first_and_last_included() {
    let places = check::sample(&spec(Op::Decode, Method::Fp16, &[1; 4], 1, 32, 128));
    assert_eq!(places.len(), check::MAX_HEADS);
    assert_eq!((places[0].seq, places[0].head), (0, 0));
    assert_eq!((places[7].seq, places[7].head), (3, 31));
}

#[test]
fn copies_reach_the_rotation() {
    let mut spec =
        spec(Op::Decode, Method::Kivi { bits: 2, group: 32, residual: 32 }, &[64], 1, 1, 64);
    spec.rotate_bytes = 20_000;
    let mut kernel = open(&spec).unwrap();
    assert!(kernel.copies() as u64 * kernel.work().bytes_moved >= 20_000);
    for copy in 0..kernel.copies() + 1 {
        kernel.launch(copy).unwrap();
    }
    assert!(kernel.resident_bytes() >= 20_000);
}

#[test]
fn work_counts_the_cache() {
    let kernel = open(&spec(Op::Decode, Method::Fp16, &[100, 50], 4, 2, 64)).unwrap();
    let work = kernel.work();
    assert_eq!(work.bytes_moved, 150 * 2 * 64 * 4 + 2 * 2 * 2 * 8 * 64);
    assert_eq!(work.flops, 4 * 64 * 150 * 8);
}

#[test]
fn a_bad_spec_is_refused_with_its_key() {
    let refused = |spec: KernelSpec| open(&spec).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        refused(spec(Op::Decode, Method::Fp16, &[], 1, 1, 128)).starts_with("kv_lens: expected")
    );
    assert!(
        refused(spec(Op::Decode, Method::Fp16, &[5], 1, 1, 100)).starts_with("head_dim: expected")
    );
    let kivi = Method::Kivi { bits: 3, group: 32, residual: 32 };
    assert!(refused(spec(Op::Decode, kivi, &[5], 1, 1, 128)).starts_with("bits: expected"));
    assert!(pool(Some(0)).is_err());
}

#[test]
fn sizes_of_caches_parse() {
    assert_eq!(parse_size("32768K"), Some(32 << 20));
    assert_eq!(parse_size("1M"), Some(1 << 20));
    assert_eq!(parse_size("12Q"), None);
}

#[test]
fn registry_names_every_op_and_family() {
    assert_eq!(registry().len(), 3 * FAMILIES.len() + 1);
    assert!(registry().iter().all(|line| line.backends.contains(&"cpu-portable")));
}

/// Kernels that are wrong in the ways kernels are wrong must not pass the gate.
mod mutants {
    use half::f16;

    use super::*;
    use crate::{
        kernel::{
            check::Error,
            cpu::{
                caches::Caches,
                decode::{Decode, Part, merge},
                gear::Extras,
                layout::HeadRef,
            },
            data::{Data, Kind, Place},
        },
        method::select,
    };

    const LEN: usize = 700;
    const D: usize = 128;
    const AT: Place = Place { copy: 0, seq: 0, head: 0 };

    struct Head {
        caches: Caches,
        q: Vec<f32>,
        expected: Vec<f64>,
        method: Method,
    }

    fn head(method: Method) -> Head {
        let data = Data::new(11);
        let shape = Shape { kv_lens: vec![LEN], heads_q: 1, heads_kv: 1, head_dim: D };
        let mut caches = Caches::empty(&method, &shape, 1).unwrap();
        caches.fill(isa(), &method, &shape, &data);
        let query = data.rows_f64(Kind::Query, AT, 1, D);
        let (k, v) = caches.head(AT).dequantise();
        let expected = select::attention(&query, &k, &v);
        let q = query.iter().map(|x| *x as f32 / (D as f32).sqrt()).collect();
        Head { caches, q, expected, method }
    }

    fn decode(head: HeadRef<'_>, q: &[f32], lo: usize, hi: usize) -> Part {
        isa().dispatch(Decode { head, q, lo, hi, keep_scores: false })
    }

    impl Head {
        fn part(&self, q: &[f32], lo: usize, hi: usize) -> Part {
            decode(self.caches.head(AT), q, lo, hi)
        }

        /// Whether a step over these factors and outliers would pass for one over its own.
        fn passes_with(&self, extras: &Extras) -> bool {
            let mut head = self.caches.head(AT);
            head.extras = extras;
            self.passes(&[decode(head, &self.q, 0, LEN)])
        }

        fn passes(&self, parts: &[Part]) -> bool {
            let mut error = Error::default();
            let out: Vec<f16> = merge(parts, D).0.into_iter().map(f16::from_f32).collect();
            error.add_vector(&out, &self.expected);
            error.verification(&self.method).passed()
        }
    }

    fn heads() -> impl Iterator<Item = Head> {
        let kivi = |bits| Method::Kivi { bits, group: 32, residual: 128 };
        let gear = gear(2, 64, 64, 4, 0.02);
        [
            Method::Fp16,
            Method::Int8,
            Method::Int4,
            Method::Fp8,
            Method::Bf16,
            Method::Fp8TokenHead,
            Method::Turboquant4,
            kivi(4),
            kivi(2),
            gear,
        ]
        .into_iter()
        .map(head)
    }

    #[test]
    fn the_honest_kernel_passes_whole_and_in_parts() {
        for head in heads() {
            assert!(head.passes(&[head.part(&head.q, 0, LEN)]));
            assert!(head.passes(&[head.part(&head.q, 0, 256), head.part(&head.q, 256, LEN)]));
        }
    }

    #[test]
    fn a_forgotten_token_is_caught() {
        for head in heads() {
            assert!(!head.passes(&[head.part(&head.q, 0, LEN - 1)]), "{}", head.method.label());
        }
    }

    #[test]
    fn a_forgotten_or_doubled_tile_is_caught() {
        for head in heads() {
            assert!(!head.passes(&[head.part(&head.q, 128, LEN)]));
            assert!(!head.passes(&[head.part(&head.q, 0, LEN), head.part(&head.q, 0, 128)]));
        }
    }

    #[test]
    fn a_scale_that_is_off_is_caught() {
        for head in heads() {
            let q: Vec<f32> = head.q.iter().map(|x| x * 1.01).collect();
            assert!(!head.passes(&[head.part(&q, 0, LEN)]), "{}", head.method.label());
        }
    }

    #[test]
    fn a_missing_rescale_is_caught() {
        for head in heads() {
            let mut parts = [head.part(&head.q, 0, 256), head.part(&head.q, 256, LEN)];
            parts[1].max[0] = parts[0].max[0];
            assert!(!head.passes(&parts), "{}", head.method.label());
        }
    }

    #[test]
    fn a_nan_is_caught() {
        for head in heads() {
            let mut part = head.part(&head.q, 0, LEN);
            part.out[3] = f32::NAN;
            assert!(!head.passes(&[part]));
        }
    }
    #[test]
    fn a_forgotten_or_misplaced_part_of_gear_is_caught() {
        let head = head(gear(2, 64, 64, 4, 0.02));
        let own = head.caches.head(AT).extras;
        assert!(head.passes_with(own));
        let broken = |change: fn(&mut Extras)| {
            let mut extras = own.clone();
            change(&mut extras);
            head.passes_with(&extras)
        };
        assert!(!broken(|x| x.keys.b.fill(f16::ZERO)), "low-rank term of K");
        assert!(!broken(|x| x.values.b.fill(f16::ZERO)), "low-rank term of V");
        assert!(!broken(|x| x.keys.differences.fill(f16::ZERO)), "outliers of K");
        assert!(!broken(|x| x.values.differences.fill(f16::ZERO)), "outliers of V");
        assert!(!broken(|x| x.keys.a.rotate_right(1)), "K one token late");
        assert!(!broken(|x| x.values.a.rotate_right(1)), "V one token late");
        assert!(!broken(|x| x.keys.b.rotate_right(1)), "K one channel on");
        assert!(
            !broken(|x| x.values.places.iter_mut().for_each(|p| *p ^= 1 << 8)),
            "tokens swapped"
        );
        assert!(!broken(|x| x.keys.places.iter_mut().for_each(|p| *p ^= 1)), "channels swapped");
    }
}
