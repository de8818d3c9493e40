//! What stands between a cluster and the first case: the binaries, Postgres with its template,
//! and the proof of the way to this host. What does not depend on each other is done at once.

use std::collections::BTreeSet;

use super::{Nextest, RunRequest};
use crate::bootstrap::Bootstrapped;
use crate::environment::{Environment, HostRoute};
use crate::failure::Result;
use crate::feature::Feature;
use crate::host_route;
use crate::paths::Paths;
use crate::postgres::{PostgresOptions, PostgresServer, ensure_template};
use crate::probe::in_namespace;
use crate::progress::{Progress, Stage};
use crate::run_dir::RunDir;

/// Returns the environment of the cases.
pub(super) async fn prepare(
    paths: &Paths,
    request: &RunRequest,
    (up, features): (&Bootstrapped, &BTreeSet<Feature>),
    nextest: &Nextest,
    run: &RunDir,
    postgres: &mut Option<PostgresServer>,
    progress: &Progress,
) -> Result<Environment> {
    let journal = run.journal(None);
    let programs = progress.stage("server, CLI and cases", async |stage| {
        nextest.build(&paths.log("suites-build"), &stage).await
    });
    let started = progress.stage("postgres", async |_| {
        let options = PostgresOptions {
            choice: &request.postgres,
            image: &up.postgres_image,
            name: format!("hodei-e2e-postgres-{}", run.id.short()),
            run: run.id.to_string(),
            durable: false,
            directory: std::env::temp_dir().join(format!("hodei-e2e-postgres-{}", run.id.short())),
        };
        PostgresServer::start(&options, &journal).await
    });
    let routed = progress
        .stage("way from pods to this host", async |stage| prove_route(up, run, &stage).await);
    let (programs, started, route) = tokio::join!(programs, started, routed);
    // Kept even if something else failed, so that the clean-up finds it.
    let server = postgres.insert(started?);
    let (programs, route) = (programs?, route?);
    let access = progress
        .stage("template database", async |stage| {
            ensure_template(server.admin_url(), &programs.server, &stage).await
        })
        .await?;
    let environment = Environment {
        version: Environment::current_version(),
        run: Some(run.clone()),
        state: paths.state().to_path_buf(),
        workspace: paths.workspace().to_path_buf(),
        cluster: up.cluster.clone(),
        features: features.clone(),
        worker_image: up.worker_image.clone(),
        postgres: access,
        host: route,
        programs,
        keep: request.keep,
    };
    Ok(environment)
}

/// Finds the route and proves it from a namespace of its own.
pub(crate) async fn prove_route(
    up: &Bootstrapped,
    run: &RunDir,
    stage: &Stage,
) -> Result<HostRoute> {
    let route = host_route::resolve(&up.cluster, stage).await?;
    in_namespace(&up.cluster, run, "route", async |namespace| {
        let image = &up.worker_image;
        host_route::prove(&route, &up.cluster, image, namespace, &run.id, stage).await
    })
    .await?;
    stage.note(format!("{} is {}", route.hostname, route.address));
    Ok(route)
}
