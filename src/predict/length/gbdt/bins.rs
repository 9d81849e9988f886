//! Features in few bins, so that a split is found by one pass over a small table of sums.

/// Most bins of a feature: an index fits into a byte, and finer cuts only follow noise.
pub(super) const BINS_MAX: usize = 48;

/// Features by column.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    /// One vector a feature; all as long as there are rows. Values are finite.
    pub columns: Vec<Vec<f32>>,
}

/// Columns as bin numbers, with where the bins meet.
#[derive(Debug)]
pub(super) struct Binned {
    /// Of each feature the largest value of every bin but the last, rising. Without any, the feature is constant.
    pub(super) cuts: Vec<Vec<f32>>,
    /// Bin by feature and row.
    pub(super) codes: Vec<Vec<u8>>,
    pub(super) n_rows: usize,
}

impl Columns {
    /// Columns of these rows, which are of one length.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a [f32]>) -> Self {
        let mut columns: Vec<Vec<f32>> = Vec::new();
        for row in rows {
            columns.resize_with(row.len(), Vec::new);
            columns.iter_mut().zip(row).for_each(|(column, value)| column.push(*value));
        }
        Self { columns }
    }

    /// Rows.
    pub fn n_rows(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }
}

impl Binned {
    pub(super) fn of(columns: &Columns) -> Self {
        let cuts: Vec<Vec<f32>> = columns.columns.iter().map(|column| cuts(column)).collect();
        let code = |(column, cuts): (&Vec<f32>, &Vec<f32>)| {
            column.iter().map(|value| bin(cuts, *value)).collect()
        };
        let codes = columns.columns.iter().zip(&cuts).map(code).collect();
        Self { cuts, codes, n_rows: columns.n_rows() }
    }
}

/// Values at even ranks, each once; the largest value of all is no cut, because nothing lies above it.
fn cuts(column: &[f32]) -> Vec<f32> {
    let mut sorted = column.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let distinct = sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()).count();
    let mut cuts: Vec<f32> = if distinct <= BINS_MAX {
        sorted.clone()
    } else {
        (1..BINS_MAX).map(|bin| sorted[bin * sorted.len() / BINS_MAX]).collect()
    };
    cuts.dedup_by(|a, b| a.total_cmp(b).is_eq());
    let largest = sorted.last().copied();
    cuts.retain(|cut| largest.is_some_and(|largest| *cut < largest));
    cuts
}

fn bin(cuts: &[f32], value: f32) -> u8 {
    u8::try_from(cuts.partition_point(|cut| *cut < value)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_part_where_a_threshold_parts() {
        let column: Vec<f32> = (0..1000_u16).map(|i| f32::from(i % 300)).collect();
        let binned = Binned::of(&Columns { columns: vec![column.clone(), vec![3.0; 1000]] });
        assert!(binned.cuts[0].len() < BINS_MAX && binned.cuts[0].len() > 40);
        for (row, value) in column.iter().enumerate() {
            for (at, cut) in binned.cuts[0].iter().enumerate() {
                assert_eq!(value <= cut, usize::from(binned.codes[0][row]) <= at);
            }
        }
        assert!(binned.cuts[1].is_empty(), "a constant feature cannot be split");
    }
}
