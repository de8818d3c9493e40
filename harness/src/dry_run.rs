//! What a run would do, said without doing it: what is brought up, which cases run in which order,
//! which do not and why, and how long it may take.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::bootstrap::{Standing, Step};
use crate::bounded::visible;
use crate::catalogue::Case;
use crate::feature::{self, Feature};
use crate::quarantine::Quarantine;
use crate::schedule::{Order, Schedule, makespan};

/// What is known of a run beforehand.
#[derive(Debug)]
pub struct DryRun<'a> {
    /// What is brought up.
    pub steps: Vec<Step>,
    /// Features of the cluster.
    pub features: BTreeSet<Feature>,
    /// The chosen cases.
    pub cases: Vec<&'a Case>,
    /// Those that passed in the run that is resumed.
    pub taken_over: BTreeSet<String>,
    /// Those of them that are in quarantine.
    pub quarantine: &'a Quarantine,
    /// How nextest runs them.
    pub schedule: &'a Schedule,
    /// Cases at a time; the schedule decides otherwise.
    pub threads: Option<usize>,
    /// How often.
    pub rounds: u32,
    /// Seconds that a case took in earlier runs, where that is known.
    pub seconds: BTreeMap<String, f64>,
}

impl DryRun<'_> {
    /// For a person.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a String cannot fail");
        visible(&text).into_owned()
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "Nothing is started and nothing is changed.\n\nbring up")?;
        for Step { name, standing, says } in &self.steps {
            let (sign, said) = match standing {
                Standing::There => ("✓", ""),
                Standing::ToDo => ("▸", "to do: "),
                Standing::Fails => ("✗", "would fail: "),
                Standing::Unknown => ("?", ""),
            };
            writeln!(text, "  {sign} {name:14}  {said}{says}")?;
        }
        let (lacking, here): (Vec<&Case>, Vec<&Case>) =
            self.cases.iter().partition(|case| feature::lacking(case, &self.features).is_some());
        let (taken, run): (Vec<&Case>, Vec<&Case>) =
            here.into_iter().partition(|case| self.taken_over.contains(&case.id));
        let (order, lanes) = (self.schedule.order(&run), self.schedule.lanes(self.threads));
        self.section(text, &format!("side by side, {lanes} at a time"), &order.beside)?;
        self.section(text, "after those, each alone", &order.alone)?;
        self.section(text, "not run again: passed in the run that is resumed", &taken)?;
        self.lacking(text, &lacking)?;
        self.summary(text, &order, lanes)
    }

    fn section(&self, text: &mut String, title: &str, cases: &[&Case]) -> std::fmt::Result {
        if cases.is_empty() {
            return Ok(());
        }
        writeln!(text, "\n{title} ({})", cases.len())?;
        let widest = cases.iter().map(|case| case.id.len()).max().unwrap_or_default();
        for case in cases {
            let took = self.seconds.get(&case.id).map(|seconds| format!("{seconds:.1} s"));
            let took = took.unwrap_or_else(|| "–".into());
            let why = self.quarantine.of(&case.id).map(|why| format!("  {why}"));
            writeln!(text, "  {:widest$}  {took:>8}{}", case.id, why.unwrap_or_default())?;
        }
        Ok(())
    }

    fn lacking(&self, text: &mut String, cases: &[&Case]) -> std::fmt::Result {
        if cases.is_empty() {
            return Ok(());
        }
        writeln!(text, "\nnot run, so that the run is inconclusive ({})", cases.len())?;
        for case in cases {
            let why = feature::lacking(case, &self.features).unwrap_or_default();
            writeln!(text, "  {}: {}", case.id, why.trim_start_matches("not run: "))?;
        }
        Ok(())
    }

    fn summary(&self, text: &mut String, order: &Order<'_>, lanes: usize) -> std::fmt::Result {
        let run = || order.beside.iter().chain(&order.alone);
        let unknown = run().filter(|case| !self.seconds.contains_key(&case.id)).count();
        let count = run().count();
        write!(text, "\n{count} of {} chosen case(s) run", self.cases.len())?;
        if self.rounds > 1 {
            write!(text, ", in {} rounds", self.rounds)?;
        }
        writeln!(text)?;
        if unknown < count {
            let seconds = |case: &Case| self.seconds.get(&case.id).copied().unwrap_or_default();
            let all = makespan(order, lanes, seconds) * f64::from(self.rounds.max(1));
            write!(text, "estimate: {all:.0} s for the cases, by the median of earlier passes")?;
            match unknown {
                0 => writeln!(text)?,
                some => writeln!(text, "; {some} case(s) have none and are not counted")?,
            }
        }
        let deadlines = run().filter_map(|case| self.schedule.deadline(case));
        match deadlines.max() {
            Some(longest) => {
                writeln!(
                    text,
                    "deadline: a case that hangs is ended, at the latest after {longest:?}"
                )
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::catalogue::Catalogue;

    #[test]
    fn what_a_run_would_do_is_said() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let case = |(id, exclusive, features): &(&str, bool, &str)| {
            let mark = if *exclusive { "exclusive_" } else { "" };
            format!(
                "[[case]]\nid = \"infra.{id}\"\ntitle = \"T\"\nlayer = \"infra\"\nprofile = \"core\"\n\
                 requirement = \"R\"\nexclusive = {exclusive}\nfeatures = [{features}]\n\
                 test = \"infra::test_{mark}{id}\"\n"
            )
        };
        let cases = [
            ("z", false, ""),
            ("soak", true, ""),
            ("moved", true, "\"multi-node\""),
            ("a", false, ""),
            ("done", false, ""),
        ];
        let catalogue = Catalogue::parse(&cases.iter().map(case).collect::<String>()).unwrap();
        let entry = "[[quarantine]]\ncase = \"infra.a\"\nowner = \"jane\"\nreason = \"slow disk\"\nexpires = 2026-03-31\n";
        let quarantine = Quarantine::parse(entry, &catalogue).unwrap();
        let seconds = [("infra.a", 2.0), ("infra.soak", 61.5)];
        let dry = DryRun {
            steps: vec![
                Step::new("engine", Standing::There, "docker 28"),
                Step::new("cluster", Standing::ToDo, "mine is made, with 1 node(s)"),
                Step::new("worker image", Standing::Unknown, "known once the worker is compiled"),
            ],
            features: BTreeSet::new(),
            cases: catalogue.cases.iter().collect(),
            taken_over: ["infra.done".to_owned()].into(),
            quarantine: &quarantine,
            schedule: &Schedule::read(workspace).unwrap(),
            threads: None,
            rounds: 2,
            seconds: seconds.map(|(id, seconds)| (id.to_owned(), seconds)).into(),
        };
        insta::assert_snapshot!("dry_run", dry.render());
    }
}
