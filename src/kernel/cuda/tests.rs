use super::*;
use crate::{
    kernel::Shape,
    method::{Gear, Pooling},
};

const H2O: Method = Method::H2o { heavy: 33, recent: 40 };
const STREAMING: Method = Method::Streaming { sink: 4, window: 60 };
const SNAPKV: Method =
    Method::Snapkv { window: 16, budget: 100, pooling: Pooling::Avg, pool_width: 5 };

/// `heads` are KV heads; `group` query heads share each.
fn spec(
    op: Op,
    method: &Method,
    kv_lens: &[usize],
    (group, heads): (usize, usize),
    (head_dim, page): (usize, usize),
) -> KernelSpec {
    let shape =
        Shape { kv_lens: kv_lens.to_vec(), heads_q: group * heads, heads_kv: heads, head_dim };
    KernelSpec { op, method: method.clone(), shape, seed: 7, page, rotate_bytes: 0 }
}

fn verify(device: &Arc<dyn Device>, spec: &KernelSpec) -> super::super::Verification {
    open(device, spec).unwrap().verify().unwrap()
}

fn assert_passes(device: &Arc<dyn Device>, spec: &KernelSpec) {
    let verification = verify(device, spec);
    assert!(verification.passed(), "{spec:?}: {verification:?}");
}

#[test]
fn decode_of_16_bit_caches_is_right() {
    let Some(device) = emu::device() else { return };
    for method in [Method::Fp16, Method::Bf16, STREAMING, H2O, SNAPKV] {
        // Tails, one token, several tiles a warp, several splits.
        assert_passes(&device, &spec(Op::Decode, &method, &[1, 15, 17, 130], (1, 2), (128, 16)));
        assert_passes(&device, &spec(Op::Decode, &method, &[333], (4, 1), (128, 64)));
        assert_passes(&device, &spec(Op::Decode, &method, &[70, 600], (5, 1), (64, 16)));
        assert_passes(&device, &spec(Op::Decode, &method, &[200], (8, 2), (64, 64)));
    }
}

const HALF: [Method; 5] = [Method::Fp16, Method::Bf16, STREAMING, H2O, SNAPKV];

#[test]
fn pages_of_16_bits_hold_what_the_method_keeps() {
    let Some(device) = emu::device() else { return };
    let max = Method::Snapkv { window: 8, budget: 33, pooling: Pooling::Max, pool_width: 7 };
    for method in HALF.iter().chain([&max]) {
        for (d, page) in [(128, 16), (64, 64)] {
            let lens = [1, 16, 100, 700];
            assert_passes(&device, &spec(Op::Compress, method, &lens, (2, 2), (d, page)));
        }
    }
}

#[test]
fn prefill_is_right() {
    let Some(device) = emu::device() else { return };
    for method in [Method::Fp16, H2O, SNAPKV] {
        assert_passes(&device, &spec(Op::Prefill, &method, &[1, 63, 65], (2, 1), (128, 16)));
        assert_passes(&device, &spec(Op::Prefill, &method, &[200, 64], (5, 1), (64, 16)));
    }
    assert_passes(&device, &spec(Op::Prefill, &kivi(4, 32, 32), &[70], (1, 2), (128, 16)));
}

fn kivi(bits: u32, group: usize, residual: usize) -> Method {
    Method::Kivi { bits, group, residual }
}

#[test]
fn decode_of_kivi_is_right() {
    let Some(device) = emu::device() else { return };
    for bits in [4, 2] {
        // Shorter than the residual; K flushed and V not; tails within a chunk; several pages, chunks a warp and splits.
        for lens in [vec![1, 31, 128, 129], vec![300, 257], vec![1000]] {
            assert_passes(
                &device,
                &spec(Op::Decode, &kivi(bits, 32, 128), &lens, (4, 1), (128, 16)),
            );
        }
        assert_passes(
            &device,
            &spec(Op::Decode, &kivi(bits, 64, 64), &[500, 90], (1, 2), (128, 16)),
        );
        assert_passes(&device, &spec(Op::Decode, &kivi(bits, 128, 128), &[700], (8, 1), (128, 16)));
        assert_passes(
            &device,
            &spec(Op::Decode, &kivi(bits, 32, 32), &[333, 64], (5, 1), (64, 16)),
        );
        assert_passes(&device, &spec(Op::Decode, &kivi(bits, 64, 128), &[400], (2, 1), (64, 16)));
    }
}

#[test]
fn kivi_stores_what_the_paper_says() {
    let Some(device) = emu::device() else { return };
    for bits in [4, 2] {
        for (group, d) in [(32, 128), (64, 128), (128, 128), (32, 64), (64, 64)] {
            let lens = [1, 127, 128, 129, 300];
            assert_passes(
                &device,
                &spec(Op::Compress, &kivi(bits, group, 128), &lens, (1, 2), (d, 16)),
            );
        }
    }
}

#[test]
fn one_more_token_is_kept_as_the_method_says() {
    let Some(device) = emu::device() else { return };
    for (d, page) in [(128, 16), (64, 64)] {
        // The first token of a page, of a tile, within a tile; budgets not yet reached, just reached, passed.
        let lens = [1, 15, 16, 64, 73, 100, 300];
        for method in HALF.iter().chain(&PACKED) {
            assert_passes(&device, &spec(Op::Append, method, &lens, (1, 2), (d, page)));
        }
    }
}

fn gear(bits: u32, group: usize, (rank, flush_rank): (usize, usize), outliers: f64) -> Method {
    let residual = group.max(64);
    Method::Gear(Gear { bits, group, residual, rank, flush_rank, iterations: 3, outliers })
}

#[test]
fn gear_stores_what_the_paper_says() {
    let Some(device) = emu::device() else { return };
    for (bits, group, d) in [(4, 32, 128), (2, 64, 128), (2, 128, 128), (2, 32, 64), (4, 64, 64)] {
        // Shorter than a residual, exactly one, a rest; a page and more; K's outliers begin at 100 tokens.
        let method = gear(bits, group, (4, 2), 0.02);
        let lens = [1, 63, 128, 300];
        assert_passes(&device, &spec(Op::Compress, &method, &lens, (1, 3), (d, 16)));
    }
    for (ranks, outliers) in [((2, 2), 0.0), ((8, 2), 0.3), ((6, 4), 0.05)] {
        let method = gear(2, 64, ranks, outliers);
        assert_passes(&device, &spec(Op::Compress, &method, &[200, 70], (1, 2), (128, 16)));
    }
}

#[test]
fn decode_of_gear_is_right() {
    let Some(device) = emu::device() else { return };
    for (bits, group, d) in [(4, 32, 128), (2, 64, 128), (2, 32, 64), (4, 64, 64), (4, 128, 128)] {
        // A group that starts within a page; several warps and splits; more outliers than are fetched ahead.
        for (lens, outliers) in
            [(vec![1, 63, 64, 200], 0.02), (vec![700, 400], 0.1), (vec![300], 0.0)]
        {
            let method = gear(bits, group, (4, 2), outliers);
            assert_passes(&device, &spec(Op::Decode, &method, &lens, (4, 1), (d, 16)));
        }
    }
    assert_passes(
        &device,
        &spec(Op::Decode, &gear(2, 64, (8, 2), 0.02), &[300], (5, 2), (128, 16)),
    );
}

#[test]
fn a_step_leaves_gears_cache_as_the_paper_says() {
    let Some(device) = emu::device() else { return };
    for (bits, group, d) in [(4, 32, 128), (2, 64, 64), (2, 128, 128)] {
        let method = gear(bits, group, (4, 2), 0.05);
        for op in [Op::Append, Op::Flush] {
            assert_passes(&device, &spec(op, &method, &[20, 128, 300], (1, 2), (d, 16)));
        }
    }
}

const PACKED: [Method; 5] =
    [Method::Int8, Method::Int4, Method::Fp8, Method::Fp8TokenHead, Method::Turboquant4];

#[test]
fn decode_of_packed_caches_is_right() {
    let Some(device) = emu::device() else { return };
    for method in PACKED {
        assert_passes(&device, &spec(Op::Decode, &method, &[1, 15, 17, 130], (1, 2), (128, 16)));
        assert_passes(&device, &spec(Op::Decode, &method, &[700], (4, 1), (128, 64)));
        assert_passes(&device, &spec(Op::Decode, &method, &[70, 600], (5, 1), (64, 16)));
        assert_passes(&device, &spec(Op::Decode, &method, &[200], (8, 2), (64, 64)));
    }
}

#[test]
fn packed_caches_store_what_the_reference_says() {
    let Some(device) = emu::device() else { return };
    for method in PACKED {
        for (d, page) in [(128, 16), (64, 64)] {
            let lens = [1, 16, 33, 150];
            assert_passes(&device, &spec(Op::Compress, &method, &lens, (1, 2), (d, page)));
        }
    }
}

#[test]
fn a_step_leaves_kivis_cache_as_the_paper_says() {
    let Some(device) = emu::device() else { return };
    for (bits, group, d) in [(4, 32, 128), (2, 32, 64), (2, 128, 128), (4, 64, 64)] {
        let method = kivi(bits, group, 128);
        // Nothing displaced yet; the first row; a new chunk; within a chunk; a residual that becomes full.
        let lens = [100, 128, 160, 297, 255];
        assert_passes(&device, &spec(Op::Append, &method, &lens, (1, 2), (d, 16)));
        assert_passes(&device, &spec(Op::Flush, &method, &[20, 128, 300], (1, 2), (d, 16)));
    }
}

#[test]
fn a_group_that_does_not_fit_is_refused_with_a_remedy() {
    let Some(device) = emu::device() else { return };
    let wide = spec(Op::Decode, &Method::Fp16, &[8], (16, 1), (128, 16));
    let error = open(&device, &wide).err().unwrap().to_string();
    assert!(error.contains("at most 8 query heads") && error.contains("hint:"), "{error}");
    let odd = spec(Op::Decode, &Method::Fp16, &[8], (1, 1), (96, 16));
    assert!(open(&device, &odd).err().unwrap().to_string().contains("64 or 128"));
}

/// Bugs that kernels have. Each must fail the verification that a measured kernel has to pass.
mod mutants {
    use super::*;

    fn caught(file: &str, find: &str, replace: &str, spec: &KernelSpec) {
        let Some(device) = emu::mutant(file, find, replace) else { return };
        // What cannot even be read back was seen as well.
        let Ok(verification) = open(&device, spec).unwrap().verify() else { return };
        assert!(!verification.passed(), "`{replace}` was not seen: {verification:?}");
    }

    #[test]
    fn of_16_bit_decode() {
        let fp16 = spec(Op::Decode, &Method::Fp16, &[600, 45], (4, 1), (128, 16));
        let half = |find, replace| caught("decode_half.cu", find, replace, &fp16);
        half("k * 2 + (lane >> 4)", "k * 2 + 1 - (lane >> 4)");
        half("s[0][j] = token < L ? raw", "s[0][j] = token <= L ? raw");
        half(
            "return tile < end ? pages[tile / (PAGE / TILE)]",
            "return tile < end ? pages[tile / (PAGE / TILE) / 2]",
        );
        let shared = |find, replace| caught("attend.cuh", find, replace, &fp16);
        shared("A.l[0] *= r[0]; A.l[1] *= r[1];", "A.l[1] *= r[1];");
        shared("o += f * ldcg(po", "o += ldcg(po");
    }

    #[test]
    fn of_kivi() {
        let four = spec(Op::Decode, &kivi(4, 32, 128), &[700], (4, 1), (128, 16));
        let decode = |find, replace| caught("kivi.cu", find, replace, &four);
        decode("z[0] *= r[0]; z[1] *= r[1];\n      #pragma", "z[1] *= r[1];\n      #pragma");
        let tile = |find, replace| caught("kivi_tile.cuh", find, replace, &four);
        tile("c0[1] = c0[2] = c0[3] = 0.f;", "c0[1] = c0[2] = c0[3] = 1.f;");
        tile("ring + (size_t)(token % R) * D", "ring + (size_t)((token + 16) % R) * D");
        decode("among(k1, nv, len)", "among(k1, nv - 1, len)");
        let append = spec(Op::Append, &kivi(4, 32, 128), &[300], (1, 1), (128, 16));
        caught(
            "kivi_pack.cu",
            "i = old / 16 % 2, n = old % 16;",
            "i = old / 16 % 2, n = (old + 1) % 16;",
            &append,
        );
        let pack = spec(Op::Compress, &kivi(2, 32, 128), &[300], (1, 1), (128, 16));
        caught("kivi_pack.cuh", "return (u32)rintf(fminf(", "return (u32)(fminf(", &pack);
        caught(
            "kivi.cuh",
            "(token % 8 / 2) * 4 + token / 8 * 2",
            "(token % 8 / 2) * 4 + token / 8",
            &pack,
        );
    }

    #[test]
    fn of_gear() {
        let method = gear(2, 64, (4, 2), 0.1);
        let step = spec(Op::Decode, &method, &[400], (2, 2), (128, 16));
        let decode = |find, replace| caught("decode_gear.cu", find, replace, &step);
        decode("z[2] *= r[0]; z[3] *= r[1];", "z[2] *= r[0];");
        decode("(i * rank + g) * 16 + t * 4", "(i * rank + g) * 16 + t * 2");
        decode(
            "scatter<false>(tile, (const u32*)(st + L::VE)",
            "scatter<true>(tile, (const u32*)(st + L::VE)",
        );
        decode("u32 from = i ? now.k.y : 0u", "u32 from = i ? now.k.y + 1u : 0u");
        let pack = spec(Op::Compress, &method, &[400], (1, 2), (128, 16));
        let gear = |find, replace| caught("gear.cu", find, replace, &pack);
        gear("top_before++ < e.top_ties", "top_before++ <= e.top_ties");
        gear(
            "means[j.base / heads + token] = all / (float)width",
            "means[j.base / heads + token] = all",
        );
        gear("error[row * D + d] = 0;", "");
        gear("inv[i * RANK + c] = R[i][i] > 0.f", "inv[i * RANK + c] = i == c && R[i][i] > 0.f");
    }

    #[test]
    fn of_packed_caches() {
        let int8 = spec(Op::Decode, &Method::Int8, &[600], (4, 1), (128, 16));
        let decode = |find, replace| caught("decode_packed.cu", find, replace, &int8);
        decode("row_of<F>(kr, g + 8 * r)", "row_of<F>(kr, g)");
        decode("low[0] = low[0] * r[0] +", "low[0] = low[0] +");
        decode("int n = 2 * t + (i & 1)", "int n = 2 * t");
        let turbo = spec(Op::Decode, &Method::Turboquant4, &[600], (4, 1), (128, 16));
        let turned = |find, replace| caught("decode_packed.cu", find, replace, &turbo);
        turned("0x8A41361Cu", "0x8A41461Cu");
        turned("<< 1, MSB, hi)", "<< 0, MSB, hi)");
        turned("prmt(lo, hi, 0x7362u)", "prmt(lo, hi, 0x5140u)");
        let keys = spec(Op::Compress, &Method::Turboquant4, &[300], (1, 1), (128, 16));
        caught("pack.cu", "f2h(length / sqrtf(chosen))", "f2h(length)", &keys);
        caught("pack.cu", "0.7996641f", "0.6996641f", &keys);
        let append = spec(Op::Append, &Method::Int8, &[73, 35], (1, 2), (128, 16));
        caught("pack.cu", "n ? *place : 0u", "0u", &append);
        caught("pack.cu", "(IS_V ? col : row) != n", "(IS_V ? row : row) != n", &append);
        let fp8 = spec(Op::Compress, &Method::Fp8, &[300], (1, 1), (128, 16));
        caught("pack.cu", "if (n == 16) { n = 8; ++e; }", "", &fp8);
    }

    #[test]
    fn of_prefill_and_selection() {
        let h2o = spec(Op::Prefill, &H2O, &[150], (2, 1), (64, 16));
        let prefill = |find, replace| caught("prefill.cu", find, replace, &h2o);
        prefill("token <= r && token < L ?", "token < r && token < L ?");
        prefill("m[i] = mx[i]; l[i] *= r;", "m[i] = mx[i];");
        prefill("column <= r) sum", "column < r) sum");
        let chosen = spec(Op::Compress, &SNAPKV, &[700], (2, 1), (64, 16));
        caught("select.cu", "state[2] + before < left", "state[2] + before + 1u < left", &chosen);
        caught("select.cu", "to[count + i] = old + i", "to[count + i] = old + i - 1", &chosen);
    }

    #[test]
    fn of_streaming_and_h2o() {
        let streaming = spec(Op::Decode, &STREAMING, &[300], (2, 1), (128, 16));
        caught("decode_half.cu", "SINKS && token < sinks ?", "SINKS && token < 0 ?", &streaming);
        let h2o = spec(Op::Decode, &H2O, &[300], (2, 1), (128, 16));
        caught("h2o.cu", "if (p < oldest_recent &&", "if (p > oldest_recent &&", &h2o);
        caught("h2o.cu", "mass * mean", "mass", &h2o);
        let append = spec(Op::Append, &STREAMING, &[300], (1, 2), (128, 16));
        caught("decode_half.cu", "rope, positions[b]));", "rope, positions[b] - 1));", &append);
    }
}
