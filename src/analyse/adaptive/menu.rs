//! The fastest choice within a permitted loss: a knapsack with one pick a group.
//!
//! A price on time does most of it: each group takes what is best when a saved request is worth so much, and the highest price is
//! sought that stays within the loss (Everett 1963, "Generalized Lagrange Multiplier Method"). That is optimal for the loss it
//! uses; what it leaves over, which is much where groups are few, is then spent on whatever still saves time, the largest
//! saving first.

/// Prices tried: the last two differ by less than scores can tell.
const PRICES: usize = 40;
/// Logarithms of the lowest and the highest price: from a millionth of a point to far above any score.
const LOG_PRICES: (f64, f64) = (-18.0, 10.0);

/// A group.
pub(super) struct Dish {
    /// Requests.
    pub(super) n: f64,
    /// What each candidate gains a request; less than 0 for a loss.
    pub(super) gains: Vec<f64>,
}

/// Groups, and what each candidate saves of a request's time.
pub(super) struct Menu {
    pub(super) dishes: Vec<Dish>,
    pub(super) saved: Vec<f64>,
}

impl Menu {
    /// A candidate or the baseline for each group; `loss` is permitted in all.
    pub(super) fn fastest(&self, loss: f64) -> Vec<Option<usize>> {
        let mut best = self.at_price(0.0);
        let (mut low, mut high) = LOG_PRICES;
        for _ in 0..PRICES {
            let middle = f64::midpoint(low, high);
            let picks = self.at_price(middle.exp());
            if self.gain(&picks) + loss >= 0.0 {
                (best, low) = (picks, middle);
            } else {
                high = middle;
            }
        }
        self.fill(best, loss)
    }

    fn at_price(&self, price: f64) -> Vec<Option<usize>> {
        let pick = |dish: &Dish| {
            let worth = |by: usize| dish.gains[by] + price * self.saved[by];
            let best = (0..self.saved.len()).max_by(|a, b| worth(*a).total_cmp(&worth(*b)));
            best.filter(|by| worth(*by) > 0.0)
        };
        self.dishes.iter().map(pick).collect()
    }

    fn fill(&self, mut picks: Vec<Option<usize>>, loss: f64) -> Vec<Option<usize>> {
        let mut left = self.gain(&picks) + loss;
        let time = |pick: Option<usize>| pick.map_or(0.0, |by| self.saved[by]);
        let mut options = Vec::new();
        for (group, dish) in self.dishes.iter().enumerate() {
            let saving = |by: usize| dish.n * (self.saved[by] - time(picks[group]));
            options.extend((0..self.saved.len()).map(|by| (saving(by), group, by)));
        }
        options.retain(|(saving, ..)| *saving > 0.0);
        options.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, group, by) in options {
            let dish = &self.dishes[group];
            let gain = |pick: Option<usize>| pick.map_or(0.0, |by| dish.gains[by]);
            let cost = dish.n * (gain(picks[group]) - gain(Some(by)));
            if self.saved[by] > time(picks[group]) && cost <= left {
                left -= cost;
                picks[group] = Some(by);
            }
        }
        picks
    }

    fn gain(&self, picks: &[Option<usize>]) -> f64 {
        let one =
            |(dish, pick): (&Dish, &Option<usize>)| pick.map_or(0.0, |by| dish.n * dish.gains[by]);
        self.dishes.iter().zip(picks).map(one).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One group: the second candidate is faster a point lost, but too dear; the first one fits and is taken.
    #[test]
    fn what_no_price_reaches_is_still_found() {
        let dish = Dish { n: 100.0, gains: vec![-0.0172, -0.0431] };
        let menu = Menu { dishes: vec![dish], saved: vec![0.17, 0.47] };
        assert_eq!(menu.fastest(1.0), [None]);
        assert_eq!(menu.fastest(2.0), [Some(0)]);
        assert_eq!(menu.fastest(4.4), [Some(1)]);
    }

    /// Against every choice of small menus: never over the loss, and within a tenth of the best time in the mean.
    #[test]
    fn small_menus_are_nearly_optimal() {
        let mut rng = crate::stats::seeded(5);
        let mut uniform = || rand::RngExt::random::<f64>(&mut rng);
        let (mut found, mut best) = (0.0, 0.0);
        for _ in 0..200 {
            let mut dish = || Dish {
                n: (1.0 + 9.0 * uniform()).floor(),
                gains: (0..2).map(|_| uniform() - 0.7).collect(),
            };
            let dishes: Vec<Dish> = (0..5).map(|_| dish()).collect();
            let menu = Menu { dishes, saved: vec![0.2, 0.5] };
            let time = |picks: &[Option<usize>]| -> f64 {
                let one = |(dish, pick): (&Dish, &Option<usize>)| {
                    pick.map_or(0.0, |by| dish.n * menu.saved[by])
                };
                menu.dishes.iter().zip(picks).map(one).sum()
            };
            let loss = 2.0;
            let picks = menu.fastest(loss);
            assert!(menu.gain(&picks) + loss >= 0.0);
            found += time(&picks);
            let all = (0..3_usize.pow(5)).map(|code| -> Vec<Option<usize>> {
                (0..5).map(|at| (code / 3_usize.pow(at) % 3).checked_sub(1)).collect()
            });
            let fits = all.filter(|picks| menu.gain(picks) + loss >= 0.0);
            best += fits.map(|picks| time(&picks)).fold(0.0, f64::max);
        }
        assert!(found <= best && found > 0.9 * best, "{found} {best}");
    }
}
