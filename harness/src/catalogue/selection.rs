//! Which cases are wanted: by flags, which together narrow, and by an expression.

use super::{Case, Catalogue, Layer, Profile};
use crate::expression::{Expression, ExpressionError};
use crate::failure::{FailureClass, HarnessError};
use crate::quarantine::Quarantine;

/// Which cases are wanted; an empty list does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of these layers.
    pub layers: Vec<Layer>,
    /// With these ids.
    pub cases: Vec<String>,
    /// Of these profiles.
    pub profiles: Vec<Profile>,
    /// Chosen by this.
    pub expression: Option<Expression>,
}

/// Why a selection means no case.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SelectError {
    /// An id is unknown, or what is asked for together excludes each other.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Request(#[from] HarnessError),
    /// The expression chooses nothing of the catalogue.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Expression(#[from] ExpressionError),
}

impl SelectError {
    /// The same among the harness's other errors, without the place in the expression.
    #[must_use]
    pub fn into_error(self) -> HarnessError {
        match self {
            Self::Request(error) => error,
            Self::Expression(error) => {
                HarnessError::new(FailureClass::Harness, "select", "cases", error)
            }
        }
    }
}

impl Catalogue {
    /// The cases that a selection means, in order.
    ///
    /// # Errors
    /// A case is asked for by an id that does not exist, or nothing is selected.
    pub fn select(
        &self,
        selection: &Selection,
        quarantine: &Quarantine,
    ) -> Result<Vec<&Case>, SelectError> {
        for id in &selection.cases {
            self.case(id)?;
        }
        let by_flags = |case: &&Case| {
            (selection.layers.is_empty() || selection.layers.contains(&case.layer))
                && (selection.cases.is_empty() || selection.cases.contains(&case.id))
                && (selection.profiles.is_empty() || selection.profiles.contains(&case.profile))
        };
        let by_expression = |case: &&Case| match &selection.expression {
            Some(expression) => expression.chooses(case, quarantine.of(&case.id).is_some()),
            None => true,
        };
        let chosen: Vec<_> = self.cases.iter().filter(by_flags).filter(by_expression).collect();
        if !chosen.is_empty() {
            return Ok(chosen);
        }
        let cause = match &selection.expression {
            Some(expression) => match self.cases.iter().filter(by_expression).count() {
                0 => return Err(expression.explain_nothing(&self.with(quarantine)).into()),
                some => format!("the expression chooses {some}, none of which the other flags do"),
            },
            None => "no case is in all of what was asked for".to_owned(),
        };
        Err(HarnessError::new(FailureClass::Harness, "select", "cases", cause).into())
    }

    /// The terms of the selection's expression that match no case at all: a name that was mistyped,
    /// perhaps.
    #[must_use]
    pub fn idle_terms<'a>(
        &self,
        selection: &'a Selection,
        quarantine: &Quarantine,
    ) -> Vec<&'a str> {
        let expression = selection.expression.as_ref();
        expression.map(|one| one.idle_terms(&self.with(quarantine))).unwrap_or_default()
    }

    /// Each case, and whether it is in quarantine.
    fn with(&self, quarantine: &Quarantine) -> Vec<(&Case, bool)> {
        self.cases.iter().map(|case| (case, quarantine.of(&case.id).is_some())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::TWO;
    use super::*;

    #[test]
    fn a_selection_narrows_and_an_unknown_case_is_an_error() {
        let catalogue = Catalogue::parse(TWO).unwrap();
        let ids = |selection: Selection| -> Vec<String> {
            let chosen = catalogue.select(&selection, &Quarantine::default()).unwrap();
            chosen.iter().map(|case| case.id.clone()).collect()
        };
        assert_eq!(ids(Selection::default()).len(), 2);
        let layers = vec!["full_job".parse().unwrap()];
        assert_eq!(ids(Selection { layers, ..Default::default() }), ["full-job.echo"]);
        let wrong = Selection { cases: vec!["infra.node".into()], ..Default::default() };
        let refused = |selection| {
            catalogue.select(selection, &Quarantine::default()).unwrap_err().into_error()
        };
        let error = refused(&wrong);
        assert!(error.help.unwrap().contains("infra.nodes"));
        let none = Selection {
            cases: vec!["infra.nodes".into()],
            profiles: vec![Profile::Extended],
            ..Default::default()
        };
        assert!(refused(&none).source.to_string().contains("in all of what"));
        let expression = || Expression::parse("id(*.echo) or requirement(HU-10.4)").ok();
        let both = Selection { expression: expression(), ..Default::default() };
        assert_eq!(ids(both), ["full-job.echo"]);
        let profiles = vec![Profile::Core];
        let apart = Selection { expression: expression(), profiles, ..Default::default() };
        assert!(refused(&apart).source.to_string().contains("chooses 1, none"));
        assert_eq!(catalogue.idle_terms(&apart, &Quarantine::default()), [""; 0]);
    }
}
