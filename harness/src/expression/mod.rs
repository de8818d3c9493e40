//! Selection by expression: `layer(full-job) and not (exclusive or id(*.soak))`. What it means for
//! a case is here, how it is read is `parse`'s; which cases are then run is `catalogue`'s.

mod parse;

use std::fmt;
use std::ops::Range;

use globset::GlobSet;
use miette::LabeledSpan;
use regex::Regex;

use crate::catalogue::{Case, Layer, Profile};
use crate::feature::Feature;

/// Bytes of an expression.
pub const LONGEST: usize = 4096;
/// Parentheses and `not`s within each other.
pub const DEEPEST: usize = 64;
/// Bytes of a compiled regular expression.
const REGEX_SIZE: usize = 1 << 20;

/// An expression that was understood, with its text.
#[derive(Debug, Clone)]
pub struct Expression {
    text: String,
    root: Node,
}

#[derive(Debug, Clone)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Term(Term),
}

/// One predicate, and where in the text it is.
#[derive(Debug, Clone)]
struct Term {
    span: Range<usize>,
    predicate: Predicate,
}

#[derive(Debug, Clone)]
enum Predicate {
    All,
    None,
    Exclusive,
    Quarantined,
    Layer(Layer),
    Profile(Profile),
    Feature(Feature),
    Text(Field, Matcher),
}

/// What of a case a text is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    Test,
    Requirement,
    Guards,
}

#[derive(Debug, Clone)]
enum Matcher {
    Equal(String),
    Contains(String),
    Glob(String, GlobSet),
    Regex(Regex),
}

/// What is wrong with an expression, and where; or which of its terms chose nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[error("{message}")]
pub struct ExpressionError {
    message: String,
    #[source_code]
    text: String,
    #[label(collection)]
    labels: Vec<LabeledSpan>,
    #[help]
    help: Option<String>,
}

impl Expression {
    /// Understands an expression.
    ///
    /// # Errors
    /// What is wrong, and where; also a text of more than [`LONGEST`] bytes, or one nested more
    /// than [`DEEPEST`] deep.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > LONGEST {
            return Err(ExpressionError {
                message: format!("the expression has {} bytes", text.len()),
                text: String::new(),
                labels: Vec::new(),
                help: Some(format!("at most {LONGEST} are read; name cases with --case instead")),
            });
        }
        Ok(Self { text: text.to_owned(), root: parse::parse(text)? })
    }

    /// Whether it chooses `case`; `quarantined` says whether that is.
    #[must_use]
    pub fn chooses(&self, case: &Case, quarantined: bool) -> bool {
        self.root.chooses(case, quarantined)
    }

    /// The terms that match none of `cases`, as they are written.
    #[must_use]
    pub fn idle_terms(&self, cases: &[(&Case, bool)]) -> Vec<&str> {
        let idle = self.idle(cases).into_iter();
        idle.map(|term| &self.text[term.span.clone()]).collect()
    }

    /// Why it chooses none of `cases`.
    #[must_use]
    pub fn explain_nothing(&self, cases: &[(&Case, bool)]) -> ExpressionError {
        let idle = self.idle(cases);
        let label = |span: &Range<usize>, says: &str| {
            LabeledSpan::new_with_span(Some(says.to_owned()), span.clone())
        };
        let (labels, help) = if idle.is_empty() {
            let whole = label(&(0..self.text.len()), "no case is in all of this");
            (vec![whole], "each term matches some case; `or` takes those of either side".to_owned())
        } else {
            let labels = idle.iter().map(|term| label(&term.span, "matches no case")).collect();
            (labels, "`hodei-e2e list` has all cases, `hodei-e2e list --help` all terms".to_owned())
        };
        let message = "the expression chooses no case".to_owned();
        ExpressionError { message, text: self.text.clone(), labels, help: Some(help) }
    }

    fn idle(&self, cases: &[(&Case, bool)]) -> Vec<&Term> {
        let mut terms = Vec::new();
        self.root.terms(&mut terms);
        let matches_any = |term: &&Term| {
            cases.iter().any(|(case, quarantined)| term.predicate.matches(case, *quarantined))
        };
        // `none` is written to match nothing.
        terms.retain(|term| !matches_any(term) && !matches!(term.predicate, Predicate::None));
        terms
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Expression {}

impl Node {
    fn chooses(&self, case: &Case, quarantined: bool) -> bool {
        match self {
            Self::Any(nodes) => nodes.iter().any(|node| node.chooses(case, quarantined)),
            Self::All(nodes) => nodes.iter().all(|node| node.chooses(case, quarantined)),
            Self::Not(node) => !node.chooses(case, quarantined),
            Self::Term(term) => term.predicate.matches(case, quarantined),
        }
    }

    fn terms<'a>(&'a self, found: &mut Vec<&'a Term>) {
        match self {
            Self::Any(nodes) | Self::All(nodes) => nodes.iter().for_each(|node| node.terms(found)),
            Self::Not(node) => node.terms(found),
            Self::Term(term) => found.push(term),
        }
    }

    /// How strongly its parts hold together.
    const fn strength(&self) -> u8 {
        match self {
            Self::Any(_) => 0,
            Self::All(_) => 1,
            Self::Not(_) => 2,
            Self::Term(_) => 3,
        }
    }

    /// Writes it, in parentheses if its parts hold together less than `within` asks for.
    fn write(&self, f: &mut fmt::Formatter<'_>, within: u8) -> fmt::Result {
        let (open, close) = if self.strength() < within { ("(", ")") } else { ("", "") };
        f.write_str(open)?;
        match self {
            Self::Any(nodes) => join(f, nodes, " or ", 1)?,
            Self::All(nodes) => join(f, nodes, " and ", 2)?,
            Self::Not(node) => {
                f.write_str("not ")?;
                node.write(f, 2)?;
            }
            Self::Term(term) => write!(f, "{}", term.predicate)?,
        }
        f.write_str(close)
    }
}

fn join(f: &mut fmt::Formatter<'_>, nodes: &[Node], between: &str, within: u8) -> fmt::Result {
    for (index, node) in nodes.iter().enumerate() {
        f.write_str(if index == 0 { "" } else { between })?;
        node.write(f, within)?;
    }
    Ok(())
}

impl Predicate {
    fn matches(&self, case: &Case, quarantined: bool) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Exclusive => case.exclusive,
            Self::Quarantined => quarantined,
            Self::Layer(layer) => case.layer == *layer,
            Self::Profile(profile) => case.profile == *profile,
            Self::Feature(feature) => case.features.contains(feature),
            Self::Text(Field::Id, matcher) => matcher.matches(&case.id),
            Self::Text(Field::Test, matcher) => matcher.matches(&case.test),
            Self::Text(Field::Requirement, matcher) => matcher.matches(&case.requirement),
            Self::Text(Field::Guards, matcher) => {
                case.guards.iter().any(|bug| matcher.matches(bug))
            }
        }
    }
}

impl Field {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Test => "test",
            Self::Requirement => "requirement",
            Self::Guards => "guards",
        }
    }
}

impl Matcher {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Equal(wanted) => text == wanted,
            Self::Contains(part) => text.contains(part.as_str()),
            Self::Glob(_, set) => set.is_match(text),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

/// As it is read again: with each matcher's sign, and parentheses only where they matter.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.write(f, 0)
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::None => f.write_str("none"),
            Self::Exclusive => f.write_str("exclusive"),
            Self::Quarantined => f.write_str("quarantined"),
            Self::Layer(layer) => write!(f, "layer({layer})"),
            Self::Profile(profile) => write!(f, "profile({})", profile.as_str()),
            Self::Feature(feature) => write!(f, "feature({feature})"),
            Self::Text(field, matcher) => write!(f, "{}({matcher})", field.as_str()),
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal(text) => write!(f, "={}", parse::escape(text)),
            Self::Contains(text) => write!(f, "~{}", parse::escape(text)),
            Self::Glob(text, _) => write!(f, "#{}", parse::escape(text)),
            Self::Regex(regex) => write!(f, "/{}/", parse::escape_regex(regex.as_str())),
        }
    }
}

#[cfg(test)]
mod tests;
