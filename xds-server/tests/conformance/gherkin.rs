//! Reads features in Gherkin: scenarios, outlines with examples, tags. Enough for ours.

/// A scenario, with its examples filled in.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub feature: String,
    pub name: String,
    pub tags: Vec<String>,
    pub steps: Vec<String>,
}

const STEPS: [&str; 5] = ["Given ", "When ", "Then ", "And ", "But "];

#[derive(Default)]
struct Outline {
    name: String,
    tags: Vec<String>,
    steps: Vec<String>,
    /// The rows of its examples, headings first.
    rows: Vec<Vec<String>>,
    has_examples: bool,
}

impl Outline {
    fn scenarios(self, feature: &str, all: &mut Vec<Scenario>) {
        let scenario = |name: String, steps: Vec<String>| Scenario {
            feature: feature.to_owned(),
            name,
            tags: self.tags.clone(),
            steps,
        };
        if !self.has_examples {
            assert!(!self.steps.is_empty(), "{}: no steps", self.name);
            all.push(scenario(self.name.clone(), self.steps.clone()));
            return;
        }
        let (headings, rows) = self.rows.split_first().expect("examples have headings");
        assert!(!rows.is_empty(), "{}: examples without a row", self.name);
        for row in rows {
            assert_eq!(row.len(), headings.len(), "{}: {row:?}", self.name);
            let fill = |text: &String| {
                headings
                    .iter()
                    .zip(row)
                    .fold(text.clone(), |text, (heading, value)| {
                        text.replace(&format!("<{heading}>"), value)
                    })
            };
            let steps: Vec<String> = self.steps.iter().map(fill).collect();
            for step in &steps {
                assert!(
                    !step.contains('<'),
                    "{}: {step}: no such example",
                    self.name
                );
            }
            all.push(scenario(
                format!("{} ({})", self.name, row.join(", ")),
                steps,
            ));
        }
    }
}

/// The scenarios of a feature.
pub fn read(text: &str) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut feature = String::new();
    let mut tags: Vec<String> = Vec::new();
    let mut current: Option<Outline> = None;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('@') {
            tags = line.split_whitespace().map(ToOwned::to_owned).collect();
        } else if let Some(name) = line.strip_prefix("Feature:") {
            name.trim().clone_into(&mut feature);
        } else if let Some(name) = line
            .strip_prefix("Scenario Outline:")
            .or_else(|| line.strip_prefix("Scenario:"))
        {
            let next = Outline {
                name: name.trim().to_owned(),
                tags: std::mem::take(&mut tags),
                ..Outline::default()
            };
            if let Some(outline) = current.replace(next) {
                outline.scenarios(&feature, &mut all);
            }
        } else if let Some(outline) = &mut current {
            if line == "Examples:" {
                outline.has_examples = true;
            } else if let Some(row) = line.strip_prefix('|') {
                let cells = row.trim_end_matches('|').split('|');
                outline
                    .rows
                    .push(cells.map(|cell| cell.trim().to_owned()).collect());
            } else {
                let keyword = STEPS.iter().find_map(|word| line.strip_prefix(word));
                let step = keyword.unwrap_or_else(|| panic!("not a step: {line}"));
                outline.steps.push(step.trim().to_owned());
            }
        }
    }
    if let Some(outline) = current {
        outline.scenarios(&feature, &mut all);
    }
    all
}
