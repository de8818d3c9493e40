//! The flags by which cases are chosen, the same for `list` and `run`.

use hodei_harness::catalogue::{Catalogue, Layer, Selection};
use hodei_harness::expression::{Expression, ExpressionError};
use hodei_harness::quarantine::Quarantine;

/// What `--help` says of expressions.
pub(super) const TERMS: &str = "Terms of an expression (-E):
  layer(full-job)  profile(core)  feature(multi-node)  exclusive  quarantined  all  none
  id(full-job.*)   test(quota)    requirement(HU-10.4)  guards(argo#2711)

They are put together with `and`, `or`, `not` (or &, |, !) and parentheses. A text is compared as its
first sign says: =equal, ~contains, #glob, /regex/; without one an id as a glob, a test by what it
contains, all else as equal. A backslash makes a character plain: id(=a\\)).";

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
