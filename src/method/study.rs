//! The error of a method against attention that was not compressed, on seeded data of two kinds.
//!
//! Random data is the worst case, since attention averages values that look like noise: the numbers rank methods and check
//! them against [`super::closed_form`]; they are no measure of a model's quality.

use half::f16;
use rand::{Rng, RngExt};
use rand_distr::{Distribution as _, StandardNormal};
use rayon::prelude::*;

use super::{Method, closed_form::Errors, select};

/// Kind of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Independent standard normals.
    Normal,
    /// As real layers are: four key channels far off centre and twice as wide, values of uneven size, and queries that seek
    /// eight tokens each.
    Outlier,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Normal, Kind::Outlier];

    /// Name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Normal => "normal",
            Kind::Outlier => "outlier",
        }
    }
}

/// Heads of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// KV heads.
    pub kv: usize,
    /// Query heads of a KV head.
    pub group: usize,
    /// Head dimension.
    pub d: usize,
}

/// One layer's data, values of fp16: `[len][d]` a KV head, and the queries of the newest token, `[d]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    heads: Heads,
    k: Vec<Vec<f64>>,
    v: Vec<Vec<f64>>,
    /// The queries of each KV head.
    queries: Vec<Vec<Vec<f64>>>,
    /// What the queries of a query head have in common, and how large the rest is in each channel.
    sought: Vec<Vec<Vec<f64>>>,
    spread: Vec<f64>,
    prompt_seed: u64,
}

/// Key channels that are off centre in [`Kind::Outlier`], by how much, and how large queries are there.
const LOUD_CHANNELS: usize = 4;
const LOUD_OFFSET: f64 = 8.0;
const LOUD_QUERY: f64 = 0.3;
/// Standard deviation of the logarithm of a value's size, and tokens that a query seeks.
const SIZE_SPREAD: f64 = 0.4;
const SOUGHT: usize = 8;

fn rounded(x: f64) -> f64 {
    f16::from_f64(x).to_f64()
}

fn normal(rng: &mut impl Rng) -> f64 {
    StandardNormal.sample(rng)
}

fn normals(rng: &mut impl Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| normal(rng)).collect()
}

impl Layer {
    /// Draws a layer of `len` tokens.
    pub fn draw(rng: &mut impl Rng, kind: Kind, heads: Heads, len: usize) -> Self {
        let Heads { kv, group, d } = heads;
        let mut k: Vec<Vec<f64>> = (0..kv).map(|_| normals(rng, len * d)).collect();
        let mut v: Vec<Vec<f64>> = (0..kv).map(|_| normals(rng, len * d)).collect();
        let mut spread = vec![1.0; d];
        let mut sought = vec![vec![vec![0.0; d]; group]; kv];
        if kind == Kind::Outlier {
            let loud: Vec<usize> = (0..LOUD_CHANNELS)
                .map(|i| (i * d / LOUD_CHANNELS + rng.random_range(0..d / 4)) % d)
                .collect();
            for &channel in &loud {
                spread[channel] = LOUD_QUERY;
                for head in &mut k {
                    let offset = if rng.random::<bool>() { LOUD_OFFSET } else { -LOUD_OFFSET };
                    head.chunks_mut(d).for_each(|row| row[channel] = row[channel] * 2.0 + offset);
                }
            }
            for row in v.iter_mut().flat_map(|head| head.chunks_mut(d)) {
                let size = (SIZE_SPREAD * normal(rng)).exp();
                row.iter_mut().for_each(|x| *x *= size);
            }
            for (head, sought) in k.iter().zip(&mut sought) {
                sought.iter_mut().for_each(|common| *common = mean_of_some(rng, head, d));
            }
        }
        k.iter_mut().chain(&mut v).flatten().for_each(|x| *x = rounded(*x));
        let mut layer =
            Self { heads, k, v, queries: Vec::new(), sought, spread, prompt_seed: rng.random() };
        layer.queries =
            (0..kv).map(|head| (0..group).map(|g| layer.query(rng, head, g)).collect()).collect();
        layer
    }

    fn query(&self, rng: &mut impl Rng, head: usize, group: usize) -> Vec<f64> {
        let own = normals(rng, self.heads.d);
        let parts = own.iter().zip(&self.spread).zip(&self.sought[head][group]);
        parts.map(|((x, spread), common)| rounded(x * spread + common)).collect()
    }

    /// Tokens of the layer.
    pub fn len(&self) -> usize {
        self.k.first().map_or(0, |head| head.len() / self.heads.d)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Outputs of the newest token's queries over these keys and values, head after head.
    fn outputs(&self, k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<f64> {
        let of_head = |head: usize| {
            let each = |q: &Vec<f64>| select::attention(q, &k[head], &v[head]);
            self.queries[head].iter().flat_map(each).collect::<Vec<f64>>()
        };
        (0..self.heads.kv).flat_map(of_head).collect()
    }

    /// Outputs over the layer as it is.
    pub fn exact(&self) -> Vec<f64> {
        self.outputs(&self.k, &self.v)
    }

    /// Relative L2 errors of a method against `exact`, the outputs of [`Layer::exact`].
    pub fn errors<R: Rng + rand::SeedableRng>(&self, method: &Method, exact: &[f64]) -> Errors {
        let (mut k, mut v) = (self.k.clone(), self.v.clone());
        method.round_trip_layer(&mut k, &mut v, self.heads.d);
        let (key, value) = (
            relative(k.iter().flatten(), self.k.iter().flatten()),
            relative(v.iter().flatten(), self.v.iter().flatten()),
        );
        let kept: Vec<Option<Vec<usize>>> =
            (0..self.heads.kv).into_par_iter().map(|head| self.kept::<R>(method, head)).collect();
        for (head, kept) in kept.into_iter().enumerate() {
            let Some(kept) = kept else { continue };
            for side in [&mut k[head], &mut v[head]] {
                let row = |&t: &usize| side[t * self.heads.d..][..self.heads.d].to_vec();
                *side = kept.iter().flat_map(row).collect();
            }
        }
        let output = self.outputs(&k, &v);
        Errors { output: relative(output.iter(), exact.iter()), key, value }
    }

    /// Tokens that the method keeps of a head; `None`: all.
    fn kept<R: Rng + rand::SeedableRng>(&self, method: &Method, head: usize) -> Option<Vec<usize>> {
        let len = self.len();
        match *method {
            Method::Streaming { sink, window } => Some(select::streaming(len, sink, window)),
            Method::H2o { heavy, recent } => {
                let scores = self.prompt_scores::<R>(head, 0);
                Some(select::h2o(&scores, heavy, recent))
            }
            Method::Snapkv { window, budget, pooling, pool_width } if len > budget => {
                let scores = self.prompt_scores::<R>(head, len - window);
                let pooled = select::pool(&scores[..len - window], pooling, pool_width);
                Some(select::snapkv(&pooled, len, window, budget))
            }
            _ => None,
        }
    }

    /// Attention mass of each token from the prompt's queries from `first` on; those before are not drawn.
    fn prompt_scores<R: Rng + rand::SeedableRng>(&self, head: usize, first: usize) -> Vec<f64> {
        let (d, len) = (self.heads.d, self.len());
        let mut rng = R::seed_from_u64(self.prompt_seed ^ head as u64);
        let mut rows = vec![0.0; self.heads.group * len * d];
        for (group, rows) in rows.chunks_mut(len * d).enumerate() {
            for row in rows.chunks_mut(d).skip(first) {
                row.copy_from_slice(&self.query(&mut rng, head, group));
            }
        }
        select::column_scores(&rows, &self.k[head], d, first)
    }
}

fn mean_of_some(rng: &mut impl Rng, head: &[f64], d: usize) -> Vec<f64> {
    let mut mean = vec![0.0; d];
    for _ in 0..SOUGHT {
        let token = rng.random_range(0..head.len() / d);
        let row = &head[token * d..][..d];
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x / SOUGHT as f64);
    }
    mean
}

fn relative<'a>(
    got: impl Iterator<Item = &'a f64>,
    expected: impl Iterator<Item = &'a f64>,
) -> f64 {
    let (mut wrong, mut size) = (0.0, 0.0);
    for (got, expected) in got.zip(expected) {
        wrong += (got - expected).powi(2);
        size += expected.powi(2);
    }
    (wrong / size).sqrt()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::method::{Gear, Pooling, closed_form};

    const HEADS: Heads = Heads { kv: 2, group: 2, d: 64 };

    fn layer(kind: Kind, seed: u64, len: usize) -> Layer {
        Layer::draw(&mut ChaCha8Rng::seed_from_u64(seed), kind, HEADS, len)
    }

    fn gear(outliers: f64) -> Method {
        let (bits, group, residual, iterations) = (2, 64, 64, 3);
        Method::Gear(Gear { bits, group, residual, rank: 4, flush_rank: 2, iterations, outliers })
    }

    /// Every method on normals is as far off as its formula says, within what 4 outputs of 64 channels scatter.
    #[test]
    fn measured_errors_meet_the_closed_form() {
        let snapkv =
            Method::Snapkv { window: 16, budget: 256, pooling: Pooling::Avg, pool_width: 5 };
        for method in [
            Method::Bf16,
            Method::Int8,
            Method::Int4,
            Method::Fp8,
            Method::Fp8TokenHead,
            Method::Turboquant4,
            Method::Kivi { bits: 4, group: 32, residual: 128 },
            Method::Kivi { bits: 2, group: 32, residual: 128 },
            gear(0.02),
            gear(0.0),
            Method::Streaming { sink: 4, window: 252 },
            Method::H2o { heavy: 128, recent: 128 },
            snapkv,
        ] {
            let layer = layer(Kind::Normal, 11, 1024);
            let got = layer.errors::<ChaCha8Rng>(&method, &layer.exact());
            let formula = closed_form::expected(&method, 1024, HEADS.d);
            for (name, got, formula, slack) in [
                ("output", got.output, formula.output, 0.25),
                ("key", got.key, formula.key, 0.05),
                ("value", got.value, formula.value, 0.05),
            ] {
                let close = (got - formula).abs() <= slack * formula + 1e-12;
                assert!(close, "{} {name}: measured {got}, formula {formula}", method.label());
            }
        }
    }

    #[test]
    fn outliers_hurt_and_gear_helps() {
        let layer = layer(Kind::Outlier, 5, 512);
        let exact = layer.exact();
        let of = |method: &Method| layer.errors::<ChaCha8Rng>(method, &exact).output;
        let normal = self::layer(Kind::Normal, 5, 512);
        let int4 = normal.errors::<ChaCha8Rng>(&Method::Int4, &normal.exact()).output;
        assert!(of(&Method::Int4) > 1.5 * int4, "loud channels must hurt a scale a token");
        assert!(of(&gear(0.02)) < of(&gear(0.0)));
        assert!(of(&Method::Fp16).abs() < 1e-12);
    }

    #[test]
    fn what_queries_seek_is_kept_by_h2o() {
        let layer = layer(Kind::Outlier, 6, 512);
        let exact = layer.exact();
        let of = |method: &Method| layer.errors::<ChaCha8Rng>(method, &exact).output;
        let h2o = of(&Method::H2o { heavy: 64, recent: 64 });
        let streaming = of(&Method::Streaming { sink: 4, window: 124 });
        assert!(h2o < 0.8 * streaming, "{h2o} {streaming}");
    }
}
