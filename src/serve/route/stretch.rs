//! What one engine did in a stretch of time: a row of `route_engines`, as far as a proxy can know it.

use super::{app::App, gauges::Gauges};
use crate::record::RouteEngineRow;

/// What was counted in the present stretch, and what its end is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stretch {
    /// Requests that the engine began to answer.
    pub(super) n_requests: u64,
    /// Most tokens that lay in its cache when it was asked; `None` where it does not tell or nobody said how many it holds.
    kv_tokens_most: Option<u64>,
    /// Its count of preemptions as it was told last in an earlier stretch, and in this one.
    preempted_before: Option<u64>,
    preempted: Option<u64>,
    /// Preemptions until its count began anew, as that of an engine does which is started again.
    preempted_until: u64,
}

impl Stretch {
    /// What an engine says of itself; `room` is how many tokens its cache holds.
    pub(super) fn told(&mut self, gauges: &Gauges, room: Option<u64>) {
        if let (Some(usage), Some(room)) = (gauges.kv_usage, room) {
            let tokens = (usage * room as f64).round() as u64;
            self.kv_tokens_most = Some(self.kv_tokens_most.map_or(tokens, |most| most.max(tokens)));
        }
        let Some(now) = gauges.preempted.map(|n| n as u64) else { return };
        let last = self.preempted.or(self.preempted_before);
        if let Some(last) = last.filter(|last| now < *last) {
            self.preempted_until += last - self.preempted_before.unwrap_or(last).min(last);
            self.preempted_before = Some(0);
        }
        // The first number of all is where counting begins: what was before is not this proxy's.
        self.preempted_before.get_or_insert(now);
        self.preempted = Some(now);
    }

    /// Preemptions in this stretch; `None` where the engine did not tell.
    fn n_preempted(&self) -> Option<u64> {
        let since = self.preempted?.saturating_sub(self.preempted_before?);
        Some(self.preempted_until + since)
    }

    /// Ends the stretch and begins the next.
    pub(super) fn end(&mut self) -> Self {
        let next =
            Self { preempted_before: self.preempted.or(self.preempted_before), ..Self::default() };
        std::mem::replace(self, next)
    }
}

/// Ends a stretch that began at `began_ns`: one row an engine goes to the log. Returns where the next one begins.
pub(super) fn write(app: &App, began_ns: i64) -> i64 {
    let ended_ns = app.clock.now_ns();
    for (engine, stretch) in app.proxy.engines.iter().zip(app.desk.stretches()) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        app.log.engine(RouteEngineRow {
            pool: app.proxy.name.clone(),
            trace: "live".to_owned(),
            load: "live".to_owned(),
            skill: String::new(),
            policy: app.proxy.policy.name.clone(),
            seed: 0,
            engine: engine.name.clone(),
            method: app.proxy.methods[engine.method].clone(),
            began_ns,
            ended_ns,
            busy_ns: None,
            n_steps: None,
            n_requests: count(stretch.n_requests),
            n_preempted: stretch.n_preempted().map(count),
            kv_tokens_most: stretch.kv_tokens_most.map(count),
        });
    }
    ended_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preempted(n: f64) -> Gauges {
        Gauges { preempted: Some(n), ..Gauges::default() }
    }

    #[test]
    fn preemptions_are_counted_from_the_first_number_and_over_a_restart() {
        let mut stretch = Stretch::default();
        assert_eq!(stretch.end().n_preempted(), None, "nothing was told");
        stretch.told(&preempted(7.0), None);
        assert_eq!(stretch.n_preempted(), Some(0), "7 were before");
        stretch.told(&preempted(9.0), None);
        assert_eq!(stretch.end().n_preempted(), Some(2));
        stretch.told(&preempted(10.0), None);
        stretch.told(&preempted(3.0), None);
        stretch.told(&preempted(4.0), None);
        assert_eq!(stretch.end().n_preempted(), Some(1 + 4), "it was started again after 10");
        assert_eq!(stretch.end().n_preempted(), None, "it fell silent");
        stretch.told(&preempted(6.0), None);
        assert_eq!(stretch.end().n_preempted(), Some(2), "the silence is in it");
    }

    #[test]
    fn the_fullest_moment_counts_where_the_cache_has_a_size() {
        let told = |usage| Gauges { kv_usage: Some(usage), ..Gauges::default() };
        let mut stretch = Stretch::default();
        stretch.told(&told(0.5), None);
        assert_eq!(stretch.kv_tokens_most, None);
        for usage in [0.25, 0.5, 0.0] {
            stretch.told(&told(usage), Some(1000));
        }
        assert_eq!(stretch.end().kv_tokens_most, Some(500));
        assert_eq!(stretch.kv_tokens_most, None);
    }
}
