//! Which of an engine's samples are which of our metrics.

use std::collections::{BTreeMap, BTreeSet};

use super::Sample;
use crate::scenario::{MetricName, MetricsSpec, Scale, SourceName};

/// One value of one of our metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Ours.
    pub name: MetricName,
    /// Labels of the sample, as a JSON object with sorted keys; `{}` for none.
    pub labels: String,
    /// The engine's name, with filter and scale where there are such.
    pub source: String,
    /// The value on our scale; `None` where the engine said NaN or infinity, or the scale is unknown.
    pub value: Option<f64>,
}

/// Our metrics in samples that were taken together, and which of our names they hold.
pub fn pick(spec: &MetricsSpec, samples: &[Sample<'_>]) -> (Vec<Reading>, BTreeSet<MetricName>) {
    let (mut readings, mut found) = (Vec::new(), BTreeSet::new());
    for (name, sources) in &spec.names {
        // Within one answer one spelling is taken: a family under its old and its new name must not count twice.
        let mut matches =
            sources.iter().map(|source| (source, matching(source, samples).collect::<Vec<_>>()));
        let Some((source, these)) = matches.find(|(_, these)| !these.is_empty()) else { continue };
        found.insert(*name);
        readings.extend(these.into_iter().map(|sample| Reading {
            name: *name,
            labels: labels(sample),
            source: source.to_string(),
            value: scaled(source, sample, samples).filter(|value| value.is_finite()),
        }));
    }
    (readings, found)
}

fn matching<'s, 'a>(
    source: &'s SourceName,
    samples: &'s [Sample<'a>],
) -> impl Iterator<Item = &'s Sample<'a>> {
    samples.iter().filter(|sample| {
        sample.name == source.family
            && source.labels.iter().all(|(key, value)| sample.label(key) == Some(value))
    })
}

/// The sample's value on our scale.
fn scaled(source: &SourceName, sample: &Sample<'_>, samples: &[Sample<'_>]) -> Option<f64> {
    let value = match &source.value_label {
        None => sample.value,
        Some(label) => sample.label(label)?.parse().ok()?,
    };
    match &source.scale {
        None => Some(value),
        Some(Scale::Times(factor)) => Some(value * factor),
        Some(Scale::TimesFamily(family)) => Some(value * partner(family, sample, samples)?),
        Some(Scale::PerFamily(family)) => Some(value / partner(family, sample, samples)?),
    }
}

/// The value of `family` that belongs to a sample: that with the same labels, else the only one there is.
fn partner(family: &str, sample: &Sample<'_>, samples: &[Sample<'_>]) -> Option<f64> {
    let mut all = samples.iter().filter(|other| other.name == family);
    let same = all.clone().find(|other| other.labels == sample.labels);
    let only = all.next().filter(|_| all.next().is_none());
    same.or(only).map(|other| other.value)
}

fn labels(sample: &Sample<'_>) -> String {
    let sorted: BTreeMap<&str, &str> =
        sample.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
    serde_json::json!(sorted).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::engine::metrics::{fixtures, parse_prometheus};

    fn read(names: &[(MetricName, &[&str])], text: &str) -> Vec<Reading> {
        pick(&fixtures::spec(names), &parse_prometheus(text).0).0
    }

    fn values(readings: &[Reading]) -> Vec<Option<f64>> {
        readings.iter().map(|reading| reading.value).collect()
    }

    #[test]
    fn the_first_source_that_is_there_is_taken() {
        let names: &[(MetricName, &[&str])] = &[(MetricName::KvUsage, &["new", "old * 0.01"])];
        assert_eq!(values(&read(names, "old 50\n")), [Some(0.5)]);
        let both = read(names, "old 50\nnew 0.6\n");
        assert_eq!((values(&both), both[0].source.as_str()), (vec![Some(0.6)], "new"));
        assert!(read(names, "other 1\n").is_empty());
    }

    #[test]
    fn filters_choose_and_labels_are_kept_sorted() {
        let text = "b{way=\"in\",engine=\"0\"} 1\nb{way=\"out\",engine=\"0\"} 2\nb{way=\"in\",engine=\"1\"} 3\n";
        let read = read(&[(MetricName::OffloadReadBytesTotal, &["b{way=\"in\"}"])], text);
        assert_eq!(values(&read), [Some(1.0), Some(3.0)]);
        assert_eq!(read[0].labels, r#"{"engine":"0","way":"in"}"#);
        assert_eq!(read[0].source, r#"b{way="in"}"#);
    }

    #[test]
    fn a_scale_may_be_another_family_with_the_same_labels() {
        let names: &[(MetricName, &[&str])] = &[
            (MetricName::KvUsage, &["used / most"]),
            (MetricName::KvUsedTokens, &["used * block"]),
        ];
        let text = "used{e=\"0\"} 2\nused{e=\"1\"} 3\nmost{e=\"0\"} 4\nmost{e=\"1\"} 0\nblock 16\n";
        // Three of nothing is unknown; one block size serves both engines.
        assert_eq!(values(&read(names, text)), [Some(0.5), None, Some(32.0), Some(48.0)]);
        assert_eq!(values(&read(&names[..1], "used{e=\"0\"} 2\n")), [None]);
    }

    #[test]
    fn a_label_may_hold_the_value() {
        let names: &[(MetricName, &[&str])] = &[(MetricName::KvCapacityTokens, &["info[size]"])];
        assert_eq!(values(&read(names, "info{size=\"4096\"} 1\n")), [Some(4096.0)]);
        assert_eq!(values(&read(names, "info{size=\"None\"} 1\n")), [None]);
    }

    #[test]
    fn a_number_that_is_none_is_unknown_but_not_absent() {
        let (readings, found) =
            pick(&fixtures::spec(&[(MetricName::Running, &["r"])]), &parse_prometheus("r NaN\n").0);
        assert_eq!(values(&readings), [None]);
        assert_eq!(found, [MetricName::Running].into());
    }

    /// The run that was made to preempt: 8 blocks of 128 tokens for 8 requests of 400 tokens.
    #[test]
    fn preemptions_of_the_recorded_run_are_found() {
        let Some(text) = fixtures::recorded("vllm/metrics_preempt.txt") else { return };
        let read = read(&[(MetricName::PreemptionsTotal, &["vllm:num_preemptions_total"])], &text);
        assert_eq!(values(&read), [Some(10.0)]);
    }
}
