//! How an expression is read: `or` below `and` below `not`, parentheses, and predicates whose
//! arguments say by their first sign how they compare.
//!
//! An operand that is expected and not there is an error at its place, never a reason to try
//! something else, so that the first thing wrong is what is told.

use std::ops::Range;

use globset::{GlobBuilder, GlobSet};
use miette::LabeledSpan;
use regex::RegexBuilder;
use serde::Deserialize;
use serde::de::value::{Error as Unknown, StrDeserializer};
use winnow::Parser;
use winnow::combinator::{alt, eof, opt, preceded, repeat, separated};
use winnow::error::{ErrMode, ModalResult, ParserError};
use winnow::stream::{LocatingSlice, Location, Stateful};
use winnow::token::{any, none_of, one_of, take_while};

use super::{DEEPEST, ExpressionError, Field, Matcher, Node, Predicate, REGEX_SIZE, Term};

const TERMS: &str = "there are id(…), test(…), requirement(…), guards(…), layer(…), profile(…), \
                     feature(…), exclusive, quarantined, all, none";

/// The text, and how deep in parentheses and `not`s the place is.
type Input<'i> = Stateful<LocatingSlice<&'i str>, usize>;
type Read<T> = ModalResult<T, Problem>;

/// What is wrong, where, and what there is instead.
#[derive(Debug)]
struct Problem {
    span: Range<usize>,
    says: String,
    help: Option<&'static str>,
}

impl<'i> ParserError<Input<'i>> for Problem {
    type Inner = Self;

    fn from_input(input: &Input<'i>) -> Self {
        Self { span: here(input), says: "not understood".into(), help: None }
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

pub(super) fn parse(text: &str) -> Result<Node, ExpressionError> {
    let mut input = Stateful { input: LocatingSlice::new(text), state: 0 };
    whole(&mut input).map_err(|error| {
        let from_input = |_| Problem::from_input(&input);
        let Problem { span, says, help } = error.into_inner().unwrap_or_else(from_input);
        // A place is shown by the character that is there, and so is the end.
        let text = format!("{text} ");
        let width = text[span.start..].chars().next().map_or(0, char::len_utf8);
        let span = span.start..span.end.max(span.start + width);
        ExpressionError {
            message: "the expression is not understood".into(),
            text,
            labels: vec![LabeledSpan::new_with_span(Some(says), span)],
            help: help.map(str::to_owned),
        }
    })
}

fn whole(input: &mut Input<'_>) -> Read<Node> {
    let node = any_of(input)?;
    space(input)?;
    match opt(eof).parse_next(input)? {
        Some(_) => Ok(node),
        None => cut(here(input), "expected `and`, `or` or the end"),
    }
}

fn any_of(input: &mut Input<'_>) -> Read<Node> {
    let nodes: Vec<Node> = separated(1.., all_of, operator("or", '|')).parse_next(input)?;
    Ok(one_or(nodes, Node::Any))
}

fn all_of(input: &mut Input<'_>) -> Read<Node> {
    let nodes: Vec<Node> = separated(1.., operand, operator("and", '&')).parse_next(input)?;
    Ok(one_or(nodes, Node::All))
}

fn one_or(mut nodes: Vec<Node>, of: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(only) if nodes.is_empty() => only,
        last => {
            nodes.extend(last);
            of(nodes)
        }
    }
}

fn operator<'i>(word: &'static str, sign: char) -> impl Parser<Input<'i>, (), ErrMode<Problem>> {
    let spelled = name.verify(move |read: &str| read == word).void();
    (space, alt((sign.void(), spelled))).void()
}

fn operand(input: &mut Input<'_>) -> Read<Node> {
    space(input)?;
    let at = input.current_token_start();
    if opt('(').parse_next(input)?.is_some() {
        return deeper(input, at, |input| {
            let node = any_of(input)?;
            space(input)?;
            close(input, "expected `and`, `or` or `)`")?;
            Ok(node)
        });
    }
    if opt('!').parse_next(input)?.is_some() {
        return deeper(input, at, operand).map(|node| Node::Not(Box::new(node)));
    }
    match opt(name).parse_next(input)? {
        Some("not") => deeper(input, at, operand).map(|node| Node::Not(Box::new(node))),
        Some(word) => {
            let predicate = predicate(word, at, input)?;
            Ok(Node::Term(Term { span: at..input.current_token_start(), predicate }))
        }
        None => cut_with(at..at, "expected a term", TERMS),
    }
}

fn deeper<'i>(
    input: &mut Input<'i>,
    at: usize,
    read: impl FnOnce(&mut Input<'i>) -> Read<Node>,
) -> Read<Node> {
    if input.state == DEEPEST {
        return cut(at..at, format!("this is more than {DEEPEST} deep"));
    }
    input.state += 1;
    let node = read(input);
    input.state -= 1;
    node
}

fn predicate(word: &str, at: usize, input: &mut Input<'_>) -> Read<Predicate> {
    let flag = match word {
        "all" => Some(Predicate::All),
        "none" => Some(Predicate::None),
        "exclusive" => Some(Predicate::Exclusive),
        "quarantined" => Some(Predicate::Quarantined),
        _ => None,
    };
    if let Some(flag) = flag {
        opt((space, '(', space, ')')).parse_next(input)?;
        return Ok(flag);
    }
    let read: fn(&mut Input<'_>) -> Read<Predicate> = match word {
        "layer" => |input| named(input).map(Predicate::Layer),
        "profile" => |input| named(input).map(Predicate::Profile),
        "feature" => |input| named(input).map(Predicate::Feature),
        "id" => |input| matcher(Field::Id, input),
        "test" => |input| matcher(Field::Test, input),
        "requirement" => |input| matcher(Field::Requirement, input),
        "guards" => |input| matcher(Field::Guards, input),
        _ => return cut_with(at..here(input).start, format!("there is no term {word:?}"), TERMS),
    };
    space(input)?;
    if opt('(').parse_next(input)?.is_none() {
        return cut(here(input), format!("expected `(` after {word}"));
    }
    space(input)?;
    let predicate = read(input)?;
    space(input)?;
    close(input, "expected `)`")?;
    Ok(predicate)
}

/// One of the names that the catalogue knows.
fn named<T: for<'de> Deserialize<'de>>(input: &mut Input<'_>) -> Read<T> {
    opt('=').parse_next(input)?;
    let (name, span) = text(input)?;
    let known = T::deserialize(StrDeserializer::<Unknown>::new(&name));
    known.or_else(|unknown| cut(span, unknown.to_string()))
}

fn matcher(field: Field, input: &mut Input<'_>) -> Read<Predicate> {
    let sign = opt(one_of(['=', '~', '#', '/'])).parse_next(input)?;
    let matcher = match (sign, field) {
        (Some('/'), _) => regex(input)?,
        (Some('~'), _) | (None, Field::Test) => Matcher::Contains(text(input)?.0),
        (Some('#'), _) | (None, Field::Id) => glob(input)?,
        (_, _) => Matcher::Equal(text(input)?.0),
    };
    Ok(Predicate::Text(field, matcher))
}

fn glob(input: &mut Input<'_>) -> Read<Matcher> {
    let (text, span) = text(input)?;
    let glob = GlobBuilder::new(&text).backslash_escape(true).build();
    match glob.and_then(|glob| GlobSet::new([glob])) {
        Ok(set) => Ok(Matcher::Glob(text, set)),
        Err(error) => cut(span, error.kind().to_string()),
    }
}

fn regex(input: &mut Input<'_>) -> Read<Matcher> {
    let from = input.current_token_start();
    let escaped = preceded('\\', any).map(|c| match c {
        '/' => "/".to_owned(),
        other => format!("\\{other}"),
    });
    let plain = none_of(['/', '\\']).map(String::from);
    let parts: Vec<String> = repeat(0.., alt((escaped, plain))).parse_next(input)?;
    let span = from..input.current_token_start();
    if opt('/').parse_next(input)?.is_none() {
        return cut(span, "this regular expression has no `/` at its end");
    }
    match RegexBuilder::new(&parts.concat()).size_limit(REGEX_SIZE).build() {
        Ok(regex) => Ok(Matcher::Regex(regex)),
        Err(error) => {
            let said = error.to_string();
            let last = said.lines().last().unwrap_or_default();
            cut(span, last.trim_start_matches("error: "))
        }
    }
}

/// The text up to the `)`, without space around it; a backslash makes any character plain.
fn text(input: &mut Input<'_>) -> Read<(String, Range<usize>)> {
    space(input)?;
    let from = input.current_token_start();
    let escaped = preceded('\\', any).map(|c| (c, true));
    let plain = none_of([')', '\\']).map(|c| (c, false));
    let mut read: Vec<(char, bool)> = repeat(0.., alt((escaped, plain))).parse_next(input)?;
    while read.pop_if(|(c, escaped)| c.is_whitespace() && !*escaped).is_some() {}
    if read.is_empty() {
        return cut(from..from, "expected a text");
    }
    Ok((read.into_iter().map(|(c, _)| c).collect(), from..input.current_token_start()))
}

/// A text that [`text`] reads as what it is.
pub(super) fn escape(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut escaped = String::new();
    for (index, c) in text.chars().enumerate() {
        let at_an_end = index == 0 || index == last;
        if matches!(c, ')' | '\\') || c.is_whitespace() && at_an_end {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// A pattern that may stand between two slashes.
pub(super) fn escape_regex(pattern: &str) -> String {
    let mut escaped = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '/' => escaped.push_str("\\/"),
            '\\' => {
                escaped.push('\\');
                escaped.extend(chars.next());
            }
            c => escaped.push(c),
        }
    }
    escaped
}

fn close(input: &mut Input<'_>, says: &str) -> Read<()> {
    match opt(')').parse_next(input)? {
        Some(_) => Ok(()),
        None => cut(here(input), says),
    }
}

fn name<'i>(input: &mut Input<'i>) -> Read<&'i str> {
    take_while(1.., |c: char| c.is_alphanumeric() || c == '_' || c == '-').parse_next(input)
}

fn space(input: &mut Input<'_>) -> Read<()> {
    take_while(0.., char::is_whitespace).void().parse_next(input)
}

fn here(input: &Input<'_>) -> Range<usize> {
    let at = input.current_token_start();
    at..at
}

fn cut<T>(span: Range<usize>, says: impl Into<String>) -> Read<T> {
    Err(ErrMode::Cut(Problem { span, says: says.into(), help: None }))
}

fn cut_with<T>(span: Range<usize>, says: impl Into<String>, help: &'static str) -> Read<T> {
    Err(ErrMode::Cut(Problem { span, says: says.into(), help: Some(help) }))
}
