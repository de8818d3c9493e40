//! The OpenAPI document. Paths and bodies come from the handlers; what all of them share is added here.

use axum::{http::header, response::IntoResponse};
use utoipa::{
    OpenApi,
    openapi::{
        self, Content, HeaderBuilder, PathItem, Ref, RefOr, Response, ResponseBuilder,
        path::Operation,
        schema::{ObjectBuilder, Type},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use super::problem::{MEDIA_TYPE, ProblemBody};

const TOKEN: &str = "token";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hodei",
        description = "The REST face of hodei-server: providers, workers, jobs to look at, health and metrics. \
            Jobs are submitted over gRPC."
    ),
    components(schemas(ProblemBody)),
    tags(
        (name = "providers", description = "Where workers come from"),
        (name = "jobs", description = "Jobs, to look at"),
        (name = "workers", description = "Workers, to look at and to drain"),
        (name = "operations", description = "Health, metrics, and this document"),
    )
)]
pub(super) struct Document;

/// Paths that need no token.
pub(super) const OPEN: [&str; 3] = ["/healthz", "/readyz", "/api/openapi.json"];
/// Paths on which requests are not counted.
const UNCOUNTED: [&str; 2] = ["/healthz", "/readyz"];

fn problem(description: &str) -> ResponseBuilder {
    let schema = RefOr::Ref(Ref::from_schema_name("ProblemBody"));
    ResponseBuilder::new().description(description).content(MEDIA_TYPE, Content::new(Some(schema)))
}

fn too_many() -> Response {
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
    let retry_after = HeaderBuilder::new()
        .schema(Some(seconds))
        .description(Some("After how many seconds to try again"));
    problem("Too many requests of this client").header("Retry-After", retry_after.build()).build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete, &mut item.put, &mut item.patch]
        .into_iter()
        .flatten()
}

/// Adds what holds for many paths: the token, and the answers that come before a handler is reached.
pub(super) fn complete(mut document: openapi::OpenApi) -> openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            let responses = &mut operation.responses.responses;
            if !UNCOUNTED.contains(&path.as_str()) {
                responses.insert("429".to_owned(), too_many().into());
            }
            if OPEN.contains(&path.as_str()) {
                continue;
            }
            responses.insert("401".to_owned(), problem("No token, or a wrong one").build().into());
            if path != "/metrics" {
                let away = problem("The database does not answer; try again").build();
                responses.insert("503".to_owned(), away.into());
            }
            operation.security =
                Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(TOKEN, [])]);
        }
    }
    let mut scheme = Http::new(HttpAuthScheme::Bearer);
    scheme.description = Some(
        "The token of --api-token-file. Without one only clients of the server's machine are served."
            .to_owned(),
    );
    let components = document.components.get_or_insert_default();
    components.security_schemes.insert(TOKEN.to_owned(), RefOr::T(SecurityScheme::Http(scheme)));
    document
}

/// The document as it is served and kept in docs/openapi.json.
pub(super) fn text(document: &openapi::OpenApi) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(document)? + "\n")
}

/// This document. It holds no secrets, so it needs no token.
#[utoipa::path(
    get, path = "/api/openapi.json", operation_id = "getOpenApi", tag = "operations",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub(super) async fn serve() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], super::document())
}
