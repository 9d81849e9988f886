//! Which tokens are kept: reference index sets, in f64, ascending.
//!
//! GQA rule of H2O and SnapKV: a token's score is the mean over the query heads that share the kv head, so that one
//! set is kept per *kv* head. H2O's own code is for one query head per kv head, where the rule changes nothing.

use super::Pooling;

/// StreamingLLM: the first `sink` and the last `window` of `len` tokens.
pub fn streaming(len: usize, sink: usize, window: usize) -> Vec<usize> {
    let recent = len.saturating_sub(window);
    (0..sink.min(recent)).chain(recent..len).collect()
}

/// H2O after prefill: the `heavy` largest `scores` among tokens older than `recent`, and the last `recent`.
pub fn h2o(scores: &[f64], heavy: usize, recent: usize) -> Vec<usize> {
    top_and_tail(scores, heavy, recent)
}

/// SnapKV: the top `budget - window` of the pooled `scores` among the first `len - window` tokens, and the last
/// `window`; everything when the prompt fits the budget. `scores` covers at least the first `len - window` tokens.
pub fn snapkv(pooled: &[f64], len: usize, window: usize, budget: usize) -> Vec<usize> {
    if len <= budget {
        return (0..len).collect();
    }
    let mut kept = top(&pooled[..len - window], budget - window);
    kept.extend(len - window..len);
    kept
}

/// Indices of the `count` largest scores, ascending; of equal scores the earlier token wins.
pub fn top(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

fn top_and_tail(scores: &[f64], count: usize, tail: usize) -> Vec<usize> {
    let old = scores.len().saturating_sub(tail);
    let mut kept = top(&scores[..old], count);
    kept.extend(old..scores.len());
    kept
}

/// One decode step of H2O: adds the step's attention `row` (mean over the query group) to the accumulated scores and
/// gives the victim, the lowest of the tokens older than `recent`; `None` while there is none. Of equals the earlier.
pub fn h2o_step(accumulated: &mut [f64], row: &[f64], recent: usize) -> Option<usize> {
    for (sum, p) in accumulated.iter_mut().zip(row) {
        *sum += p;
    }
    let old = accumulated.len().saturating_sub(recent);
    (0..old).min_by(|&a, &b| accumulated[a].total_cmp(&accumulated[b]))
}

/// Smooths scores along tokens with stride 1 and `width / 2` of padding, as torch does: the mean counts padding as
/// zeros, the maximum ignores it.
pub fn pool(scores: &[f64], pooling: Pooling, width: usize) -> Vec<f64> {
    let half = width / 2;
    (0..scores.len())
        .map(|i| {
            let near = &scores[i.saturating_sub(half)..(i + half + 1).min(scores.len())];
            match pooling {
                Pooling::Avg => near.iter().sum::<f64>() / width as f64,
                Pooling::Max => near.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            }
        })
        .collect()
}

/// Attention mass of each token: the sum over the queries from `first` on of their causal softmax, mean over heads.
/// `q` is `[heads][len][head_dim]`, `k` is `[len][head_dim]`. H2O takes `first` 0, SnapKV `len - window`.
pub fn column_scores(q: &[f64], k: &[f64], head_dim: usize, first: usize) -> Vec<f64> {
    let len = k.len() / head_dim;
    let heads = q.len() / k.len();
    let mut sums = vec![0.0; len];
    for head in q.chunks(len * head_dim) {
        for row in first..len {
            let query = &head[row * head_dim..(row + 1) * head_dim];
            for (sum, p) in sums.iter_mut().zip(softmax_row(query, &k[..(row + 1) * head_dim])) {
                *sum += p / heads as f64;
            }
        }
    }
    sums
}

/// Softmax of one query over keys `[n][query.len()]`, scaled by `1 / sqrt(head_dim)`.
pub fn softmax_row(query: &[f64], keys: &[f64]) -> Vec<f64> {
    let scale = 1.0 / (query.len() as f64).sqrt();
    let dot = |key: &[f64]| query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() * scale;
    let mut row: Vec<f64> = keys.chunks(query.len()).map(dot).collect();
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|s| *s = (*s - max).exp());
    let sum: f64 = row.iter().sum();
    row.iter_mut().for_each(|p| *p /= sum);
    row
}

/// Attention of one query: softmax-weighted sum of `values`, `[n][head_dim]`.
pub fn attention(query: &[f64], keys: &[f64], values: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; query.len()];
    for (p, value) in softmax_row(query, keys).iter().zip(values.chunks(query.len())) {
        out.iter_mut().zip(value).for_each(|(o, v)| *o += p * v);
    }
    out
}
