//! Whether a model that was read from a file can be asked: a file is anybody's, and what is wrong with it is said on reading, not in a
//! prediction.

use super::{
    Model, QUANTILES, Shift,
    encoder::Encoded,
    model::{Calibration, Inputs, SCHEMA_ENCODER},
    shift::Difference,
};

impl Model {
    /// What is wrong with it, in words that follow "got one with"; `None` of a model that can be asked.
    pub(super) fn fault(&self) -> Option<String> {
        self.shape_fault()
            .or_else(|| {
                let forests = self.forests.iter().enumerate();
                let named = |(at, fault): (usize, String)| format!("forests[{at}]: {fault}");
                forests
                    .filter_map(|(at, forest)| Some((at, forest.fault(self.features.len())?)))
                    .next()
                    .map(named)
            })
            .or_else(|| self.number_fault())
    }

    /// Parts that are missing, or do not go together.
    fn shape_fault(&self) -> Option<String> {
        let (n, expected) = (self.forests.len(), QUANTILES.len());
        if n != expected {
            return Some(format!("{n} forests where there are {expected} quantiles"));
        }
        let names = self.features.iter().map(|(name, ..)| name.as_str());
        if !names.eq(self.names()) {
            return Some("features other than those of its `inputs`".to_owned());
        }
        if self.words.is_some() != (self.inputs != Inputs::PromptLength) {
            return Some("`words` that its `inputs` do not go with".to_owned());
        }
        if self.words.as_ref().is_some_and(|words| !words.is_whole()) {
            return Some("a table of words that is of another size, or not of numbers".to_owned());
        }
        let has_encoder = self.encoder.is_some();
        if has_encoder != (self.schema == SCHEMA_ENCODER) {
            return Some("an `encoder`, or none, that its `schema` does not go with".to_owned());
        }
        if has_encoder && self.inputs == Inputs::PromptLength {
            return Some("an `encoder` that its `inputs` do not go with".to_owned());
        }
        let encoder = || self.encoder.as_ref().and_then(Encoded::fault);
        self.groups.fault().or_else(encoder)
    }

    /// Numbers that are none: `1e300` in a file is infinite here.
    fn number_fault(&self) -> Option<String> {
        let is_range = |low: f32, high: f32| low.is_finite() && high.is_finite() && low <= high;
        if let Some((name, ..)) = self.features.iter().find(|(_, low, high)| !is_range(*low, *high))
        {
            return Some(format!("no range of the feature {name}"));
        }
        let Calibration { low, high, .. } = &self.calibration;
        if [low, high].into_iter().flatten().any(|end| !end.is_finite()) {
            return Some("a calibration that is not finite".to_owned());
        }
        let bad = self.shifts.iter().find(|shift| !is_finite(shift))?;
        Some(format!("a shift of {} that is not finite", bad.method))
    }
}

fn is_finite(shift: &Shift) -> bool {
    let Shift { difference, null, slope, .. } = shift;
    let of = |difference: &Difference| {
        let Difference { mean, low, high, .. } = difference;
        [Some(*mean), *low, *high]
    };
    let slope = slope.as_ref().map(|slope| [slope.slope, slope.centre]);
    let all = of(difference).into_iter().chain(null.iter().flat_map(of)).flatten();
    all.chain(slope.into_iter().flatten()).all(f32::is_finite)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        Length, Sample, gbdt,
        model::{Inputs, Known, Model, Options, Read},
    };

    /// A model of 60 prompts, as JSON.
    fn file() -> Value {
        let sample = |at: u32| Sample {
            prompt: format!("{} number {at}", "word ".repeat(at as usize % 7)),
            family: at as usize,
            task: None,
            max_tokens: 100,
            method: "f16".into(),
            lengths: vec![Length { tokens: 5 + at % 7 * 10, censored: false }],
        };
        let samples: Vec<Sample> = (0..60).map(sample).collect();
        let reads: Vec<Read> = samples.iter().map(|sample| Read::of(&sample.prompt)).collect();
        let both = samples.iter().zip(&reads);
        let known: Vec<Known<'_>> = both.map(|(sample, read)| Known { sample, read }).collect();
        let inputs = Inputs::PromptAndTask;
        let options = Options { baseline: "f16", llm: None, inputs, seed: 1 };
        let mut model = Model::fit(&known, &options).unwrap();
        model.forests[1].trees[0] =
            gbdt::Tree([Some((0, 3.0, 1, 2)), None, None].map(|to| gbdt::Node(0.1, to)).to_vec());
        serde_json::from_str(&model.to_json().unwrap()).unwrap()
    }

    #[test]
    fn a_file_that_cannot_be_asked_is_refused_on_reading() {
        let good = file();
        Model::from_json(&good.to_string(), "m.json").unwrap();
        let nodes = "/forests/1/trees/0";
        let group = format!("/groups/{}/logs/1", good["groups"].as_array().unwrap().len() - 1);
        let bad = [
            (format!("{nodes}/1"), json!([0.1, [0, 3.0, 0, 2]]), "forests[1]: trees[0]: node 1"),
            (format!("{nodes}/0"), json!([0.1, [0, 3.0, 1, 3]]), "trees[0]: node 0"),
            (format!("{nodes}/0"), json!([0.1, [0, 3.0, 0, 0]]), "a child that does not stand"),
            (format!("{nodes}/0"), json!([0.1, [999, 3.0, 1, 2]]), "feature 999 of "),
            (format!("{nodes}/0"), json!([0.1, [0, 1e300, 1, 2]]), "not finite"),
            (format!("{nodes}/2"), json!([1e300, null]), "trees[0]: node 2 has a number"),
            (nodes.to_owned(), json!([]), "trees[0]: no nodes"),
            ("/forests/0/trees".to_owned(), json!([]), "forests[0]: no trees"),
            ("/forests/2/start".to_owned(), json!(-1e300), "forests[2]: a start"),
            ("/words/weights/7".to_owned(), json!(1e300), "table of words"),
            ("/words/mean".to_owned(), json!(1e300), "table of words"),
            ("/features/0/0".to_owned(), json!("ln_moons"), "features other than"),
            ("/features/0/1".to_owned(), json!(1e30), "no range of the feature ln_bytes"),
            ("/calibration/high".to_owned(), json!(1e300), "calibration"),
            (group, json!(1e300), "quantiles of a group"),
            ("/groups".to_owned(), json!([]), "no group of all prompts"),
        ];
        for (place, value, part) in bad {
            let mut file = good.clone();
            *file.pointer_mut(&place).unwrap_or_else(|| panic!("{place}")) = value;
            let said = Model::from_json(&file.to_string(), "m.json").unwrap_err().to_string();
            assert!(said.starts_with("m.json: expected a whole length model, got one with "));
            assert!(said.contains(part) && said.contains("hint:"), "{place}: {said}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        for place in ["/words", "/forests/0"] {
            let mut file = file();
            file.pointer_mut(place).unwrap()["more"] = json!(1);
            let error = Model::from_json(&file.to_string(), "m.json").unwrap_err();
            assert!(format!("{error:#}").contains("unknown field `more`"), "{error:#}");
        }
    }
}
