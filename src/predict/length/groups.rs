//! T0: what is known of an answer's length before its prompt is read. A task and a `max_tokens` have quantiles of their own where at least
//! 20 prompts stand behind them; else the task's are taken, and else those of all prompts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    QUANTILES, Sample,
    censor::{self, Curve},
};

/// Prompts below which a group is not trusted.
pub const GROUP_MIN: usize = 20;

/// Quantiles of a group of prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Task, `None` for all of them.
    pub task: Option<String>,
    /// `max_tokens`, `None` for all of them.
    pub max_tokens: Option<u32>,
    /// Prompts.
    pub n_prompts: usize,
    /// The quantiles of [`QUANTILES`] on the scale of [`super::to_log`]. One that lies among cut answers is the longest seen.
    pub logs: [f32; 3],
}

/// Groups from the narrowest to all prompts, which is always there and last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Groups(Vec<Group>);

impl Groups {
    /// Quantiles of all groups that are large enough.
    pub fn fit(samples: &[&Sample]) -> Self {
        let mut members: BTreeMap<(Option<&str>, Option<u32>), Vec<&Sample>> = BTreeMap::new();
        for sample in samples {
            if let Some(task) = sample.task.as_deref() {
                members.entry((Some(task), Some(sample.max_tokens))).or_default().push(sample);
                members.entry((Some(task), None)).or_default().push(sample);
            }
        }
        let mut groups: Vec<Group> = members
            .into_iter()
            .filter(|(_, members)| members.len() >= GROUP_MIN)
            .map(|((task, max_tokens), members)| group(task, max_tokens, &members))
            .collect();
        groups.push(group(None, None, samples));
        Self(groups)
    }

    /// The narrowest group that a request belongs to. `None` only of a file that has lost its last group.
    pub fn of(&self, task: Option<&str>, max_tokens: Option<u32>) -> Option<&Group> {
        let find = |task: Option<&str>, max_tokens: Option<u32>| {
            self.0
                .iter()
                .find(move |group| group.task.as_deref() == task && group.max_tokens == max_tokens)
        };
        let narrow = task.filter(|_| max_tokens.is_some()).and_then(|_| find(task, max_tokens));
        narrow.or_else(|| task.and_then(|_| find(task, None))).or_else(|| find(None, None))
    }

    /// What is wrong with the groups of a file, in words.
    pub(super) fn fault(&self) -> Option<String> {
        if self.of(None, None).is_none() {
            return Some("no group of all prompts".to_owned());
        }
        let is_bad = |group: &Group| !group.logs.iter().all(|log| log.is_finite());
        let bad = self.0.iter().position(is_bad)?;
        Some(format!("quantiles of a group ({bad}) that are not finite"))
    }

    /// Tasks that have a group.
    pub fn tasks(&self) -> Vec<&str> {
        let tasks = self.0.iter().filter(|group| group.max_tokens.is_none());
        tasks.filter_map(|group| group.task.as_deref()).collect()
    }
}

fn group(task: Option<&str>, max_tokens: Option<u32>, members: &[&Sample]) -> Group {
    let logs = QUANTILES.map(|q| {
        let seen: Vec<_> = members.iter().flat_map(|sample| censor::seen(sample, q)).collect();
        let longest = seen.iter().map(|seen| seen.value).fold(0.0, f64::max);
        Curve::of(seen).quantile(q).unwrap_or(longest) as f32
    });
    Group { task: task.map(str::to_owned), max_tokens, n_prompts: members.len(), logs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::length::{Length, to_log};

    fn sample(task: &str, max_tokens: u32, tokens: u32) -> Sample {
        Sample {
            prompt: String::new(),
            family: 0,
            task: Some(task.into()),
            max_tokens,
            method: "m".into(),
            lengths: vec![Length { tokens, censored: tokens >= max_tokens }],
        }
    }

    #[test]
    fn a_small_group_falls_back() {
        let mut samples: Vec<Sample> = (0..40).map(|i| sample("chat", 100, 10 + i)).collect();
        samples.extend((0..5).map(|_| sample("chat", 50, 50)));
        samples.extend((0..30).map(|_| sample("yesno", 100, 1)));
        let groups = Groups::fit(&samples.iter().collect::<Vec<_>>());
        let key = |task, max| {
            let group = groups.of(task, max).unwrap();
            (group.task.as_deref().map(str::to_owned), group.max_tokens, group.n_prompts)
        };
        assert_eq!(key(Some("chat"), Some(100)), (Some("chat".into()), Some(100), 40));
        assert_eq!(key(Some("chat"), Some(50)), (Some("chat".into()), None, 45));
        assert_eq!(key(Some("other"), Some(50)), (None, None, 75));
        assert_eq!(key(None, None), (None, None, 75));
        let yes = groups.of(Some("yesno"), None).unwrap();
        assert!((f64::from(yes.logs[2]) - to_log(1)).abs() < 1e-6);
        assert_eq!(groups.tasks(), ["chat", "yesno"]);
    }
}
