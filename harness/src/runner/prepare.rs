//! What stands between a cluster and the first case: the binaries, Postgres with its template,
//! and the proof of the way to this host. What does not depend on each other is done at once.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use super::{Nextest, RunRequest};
use crate::bootstrap::Bootstrapped;
use crate::cluster::ready;
use crate::environment::{Environment, HostRoute, Programs};
use crate::failure::{Classify, FailureClass, Result};
use crate::host_route;
use crate::journal::{Resource, State};
use crate::paths::Paths;
use crate::postgres::{PostgresOptions, PostgresServer, ensure_template};
use crate::progress::{Progress, Stage};
use crate::run_dir::{RUN_LABEL, RunDir};

pub(super) async fn prepare(
    paths: &Paths,
    request: &RunRequest,
    up: &Bootstrapped,
    nextest: &Nextest,
    run: &RunDir,
    postgres: &mut Option<PostgresServer>,
    progress: &Progress,
) -> Result<()> {
    let journal = run.journal(None);
    let binaries = progress.stage("server, CLI and cases", async |stage| {
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
    let (binaries, started, route) = tokio::join!(binaries, started, routed);
    // Kept even if something else failed, so that the clean-up finds it.
    let server = postgres.insert(started?);
    let (binaries, route) = (binaries?, route?);
    let programs = Programs { server: binaries.join("hodei-server"), cli: binaries.join("hodei") };
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
        worker_image: up.worker_image.clone(),
        postgres: access,
        host: route,
        programs,
        keep: request.keep,
    };
    environment.save(&run.environment())
}

/// Finds the route and proves it from a namespace of its own.
pub(crate) async fn prove_route(
    up: &Bootstrapped,
    run: &RunDir,
    stage: &Stage,
) -> Result<HostRoute> {
    let route = host_route::resolve(&up.cluster, stage).await?;
    let journal = run.journal(None);
    let name = format!("hodei-e2e-{}-route", run.id.short());
    let subject = || format!("namespace {name}");
    let entry = journal.intend(Resource::Namespace {
        kubeconfig: up.cluster.kubeconfig.clone(),
        context: up.cluster.context.clone(),
        name: name.clone(),
    })?;
    let namespace: Namespace = serde_json::from_value(
        json!({"metadata": {"name": name, "labels": {RUN_LABEL: run.id.as_str()}}}),
    )
    .classify(FailureClass::Harness, "make", subject())?;
    let api = Api::<Namespace>::all(ready::client(&up.cluster).await?);
    api.create(&PostParams::default(), &namespace).await.infrastructure("create", subject())?;
    journal.mark(entry, State::Created)?;
    let proved =
        host_route::prove(&route, &up.cluster, &up.worker_image, &name, &run.id, stage).await;
    // It takes seconds to go; the end of the run sees that it has.
    api.delete(&name, &DeleteParams::default()).await.infrastructure("delete", subject())?;
    journal.mark(entry, State::Removing)?;
    stage.note(format!("{} is {}", route.hostname, route.address));
    proved.map(|()| route)
}
