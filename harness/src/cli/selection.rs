//! The flags by which cases are chosen, the same for `list` and `run`.

use clap::ValueEnum;
use hodei_harness::catalogue::{Catalogue, Layer, Profile, Selection};
use hodei_harness::expression::{Expression, ExpressionError};
use hodei_harness::quarantine::Quarantine;

/// What `--help` says of expressions.
pub(super) const TERMS: &str = "Terms of an expression (-E):
  layer(full-job)  profile(core)  feature(multi-node)  exclusive  quarantined  all  none
  id(full-job.*)   test(quota)    requirement(HU-10.4)  guards(argo#2711)

They are put together with `and`, `or`, `not` (or &, |, !) and parentheses. A text is compared as its
first sign says: =equal, ~contains, #glob, /regex/; without one an id as a glob, a test by what it
contains, all else as equal. A backslash makes a character plain: id(=a\\)).";

/// Which profiles are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProfileChoice {
    /// What every cluster must keep
    Core,
    /// What only some clusters can show: nodes that go, an API that fails
    Extended,
    /// Both
    All,
}

#[derive(Debug, clap::Args)]
pub(super) struct SelectionArgs {
    /// Only cases of this layer; may be repeated
    #[arg(long, value_name = "LAYER")]
    layer: Vec<Layer>,
    /// Only cases that this expression chooses: 'layer(full-job) and not exclusive'
    #[arg(long, short = 'E', value_name = "EXPR")]
    expression: Option<String>,
}

impl SelectionArgs {
    /// Whether an expression says which cases are meant.
    pub(super) const fn has_expression(&self) -> bool {
        self.expression.is_some()
    }

    pub(super) fn selection(self) -> Result<Selection, ExpressionError> {
        let expression = self.expression.as_deref().map(Expression::parse).transpose()?;
        Ok(Selection { layers: self.layer, expression, ..Selection::default() })
    }
}

/// The profiles of a choice, none for all; `named`: whether the cases are named.
pub(super) fn profiles(choice: Option<ProfileChoice>, named: bool) -> Vec<Profile> {
    match choice {
        Some(ProfileChoice::All) => Vec::new(),
        // A case that was named is wanted, whichever its profile.
        None if named => Vec::new(),
        None | Some(ProfileChoice::Core) => vec![Profile::Core],
        Some(ProfileChoice::Extended) => vec![Profile::Extended],
    }
}

/// Says which terms match nothing, though others do: a name that was mistyped, perhaps.
pub(super) fn tell_idle_terms(
    catalogue: &Catalogue,
    selection: &Selection,
    quarantine: &Quarantine,
) {
    for term in catalogue.idle_terms(selection, quarantine) {
        eprintln!("note: {term} matches no case");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_is_the_default_unless_a_case_is_named() {
        assert_eq!(profiles(None, false), [Profile::Core]);
        assert_eq!(profiles(None, true), []);
        assert_eq!(profiles(Some(ProfileChoice::Core), true), [Profile::Core]);
        assert_eq!(profiles(Some(ProfileChoice::Extended), false), [Profile::Extended]);
        assert_eq!(profiles(Some(ProfileChoice::All), false), []);
    }
}
