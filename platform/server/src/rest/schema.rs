//! Schemas of the domain's types, which know nothing of OpenAPI. States come from the machines
//! themselves, so that a new one is in the document at once.

use hodei_core::{attempt::AttemptState, job::JobState, worker::WorkerState};
use utoipa::openapi::{
    Object, ObjectBuilder, Schema,
    schema::{ArrayBuilder, OneOfBuilder, SchemaType, Type},
};

fn names<const N: usize>(names: [&'static str; N]) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).build()
}

pub(super) fn job_state() -> Object {
    names(JobState::ALL.map(JobState::as_str))
}

pub(super) fn attempt_state() -> Object {
    names(AttemptState::ALL.map(AttemptState::as_str))
}

pub(super) fn worker_state() -> Object {
    names(WorkerState::ALL.map(WorkerState::as_str))
}

fn object<const N: usize>(required: [(&str, Object); N]) -> Object {
    let fields = required.into_iter().fold(ObjectBuilder::new(), |object, (name, field)| {
        object.property(name, field).required(name)
    });
    fields.build()
}

fn of(kind: Type) -> Object {
    ObjectBuilder::new().schema_type(kind).build()
}

/// How a command ended: one of four forms, or nothing yet.
pub(super) fn outcome() -> Schema {
    let how = |field| object([(field, of(Type::Integer)), ("out_of_memory", of(Type::Boolean))]);
    OneOfBuilder::new()
        .item(object([("exited", how("code"))]))
        .item(object([("signalled", how("signal"))]))
        .item(object([("not_run", object([("reason", of(Type::String))]))]))
        .item(names(["cancelled"]))
        .item(of(Type::Null))
        .into()
}

/// A command, or a script.
pub(super) fn run() -> Schema {
    let words = ArrayBuilder::new().items(of(Type::String));
    let command = ObjectBuilder::new().property("command", words).required("command");
    OneOfBuilder::new().item(command).item(object([("script", of(Type::String))])).into()
}

/// Kubernetes quantities; `null` for the provider's default.
pub(super) fn resources() -> Object {
    let quantity = || {
        let kind = SchemaType::from_iter([Type::String, Type::Null]);
        ObjectBuilder::new().schema_type(kind).build()
    };
    object(["cpu_request", "cpu_limit", "memory_request", "memory_limit"].map(|n| (n, quantity())))
}

/// How many further attempts a job gets.
pub(super) fn retry() -> Object {
    object([("infrastructure", of(Type::Integer)), ("command", of(Type::Integer))])
}
