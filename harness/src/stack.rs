//! The stack for hands-on use that `up` leaves and `down` takes: Postgres, a server on the usual
//! ports, a provider, the production namespaces, and the context that `hodei` finds by itself.
//! Server and CLI are a release build, as the worker in its image is: benchmarks measure this stack.
//!
//! Everything it makes is in a journal of its own, beside those of the runs.

mod context;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::bootstrap::Bootstrapped;
use crate::case::{Clients, namespace};
use crate::cluster::ready;
use crate::environment::{Environment, HostRoute, Keep, PostgresAccess, Programs};
use crate::failure::{Classify, FailureClass, HarnessError, Result};
use crate::feature::{self, Feature};
use crate::journal::{Journal, Resource, State};
use crate::paths::{Paths, ensure_private_dir};
use crate::postgres::{self, PostgresChoice, PostgresOptions, PostgresServer};
use crate::process::Command;
use crate::progress::{Progress, Stage};
use crate::reap::{self, Kept};
use crate::run_dir::RunDir;
use crate::runner::{Profile, compile_programs};
use crate::server_process::{Lifetime, ServerOptions, ServerProcess, http_client};

/// Ports of the stack's server: gRPC and REST.
const PORTS: (u16, u16) = (50051, 8080);
/// Namespace and account of the control plane, as the manifests have them.
const CONTROL_PLANE: &str = "hodei-system";
/// Namespace of the workers, as the manifests have it.
pub const WORKERS: &str = "hodei-jobs-workers";
/// The stack's provider.
pub const PROVIDER: &str = "kind";
/// The stack's server outlives a day's work.
const TOKEN_VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);
/// Applying manifests through kubectl on a busy machine.
const APPLY_DEADLINE: Duration = Duration::from_secs(120);

/// Where a person finds the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackAddress {
    /// gRPC.
    pub grpc: String,
    /// REST, health and metrics.
    pub rest: String,
    /// The file by which `hodei` finds both.
    pub context: PathBuf,
}

/// Brings the stack up, or finds it up.
///
/// # Errors
/// What failed, with its class; what was made is in the stack's journal, and `down` removes it.
pub async fn start_stack(
    paths: &Paths,
    up: &Bootstrapped,
    choice: &PostgresChoice,
    progress: &Progress,
) -> Result<StackAddress> {
    let (grpc, rest) =
        (format!("http://127.0.0.1:{}", PORTS.0), format!("http://127.0.0.1:{}", PORTS.1));
    let context = context::path()?;
    let address = StackAddress { grpc, rest, context };
    let log = paths.log("stack-build");
    let programs = progress
        .stage("server and CLI", async |stage| {
            compile_programs(paths.workspace(), Profile::Release, None, &log, &stage).await
        })
        .await?;
    let stamp = stamp(up, &programs)?;
    if is_up(paths, &address, &stamp).await {
        progress.say("✓ stack (reused)");
        return Ok(address);
    }
    progress.stage("earlier stack", async |stage| stop_stack(paths, &stage).await).await?;
    context::check(&address.context)?;
    let run = stack_dir(paths)?;
    let route = progress
        .stage("way from pods to this host", async |stage| {
            crate::runner::prove_route(up, &run, &stage).await
        })
        .await?;
    let access = progress
        .stage("postgres", async |stage| start_postgres(up, choice, &run, &programs, &stage).await)
        .await?;
    let features = feature::detect(up, &[], &run, progress).await?;
    let environment = standing_environment(paths, (up, features), access, route, programs);
    progress
        .stage("server and provider", async |stage| {
            start_server(up, &environment, &run, &stage).await
        })
        .await?;
    context::write(&address)?;
    environment.save(&Environment::standing_path(paths.state()))?;
    crate::paths::write_atomically(&run.path.join("stamp"), stamp.as_bytes(), 0o600)?;
    Ok(address)
}

/// Takes the stack down; one that is not up is a success.
///
/// # Errors
/// Something of it could not be removed.
pub async fn stop_stack(paths: &Paths, stage: &Stage) -> Result<()> {
    context::remove(&context::path()?)?;
    let mut failed = Vec::new();
    for run in RunDir::all(&paths.state().join("stack"))? {
        stage.line(run.id.as_str());
        for one in reap::remove_outstanding(&run, Kept::Remove).await? {
            failed.extend(
                one.error.map(|error| format!("{}: {}", one.what, crate::case::explain(&error))),
            );
        }
        if failed.is_empty() {
            std::fs::remove_dir_all(&run.path)
                .infrastructure("remove", run.path.display().to_string())?;
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let cause = failed.join("\n");
    Err(HarnessError::new(FailureClass::Infrastructure, "take down", "the stack", cause))
}

fn stack_dir(paths: &Paths) -> Result<RunDir> {
    // Its lock is not kept: the stack outlives this process, and only `down` removes it.
    RunDir::create(&paths.state().join("stack")).map(|(run, _lock)| run)
}

/// Changes whenever the stack has to be made again.
fn stamp(up: &Bootstrapped, programs: &Programs) -> Result<String> {
    let digest = crate::digest::Inputs::new()
        .add_path(&programs.server)?
        .add("worker", &up.worker_image.id)
        .add("cluster", &up.cluster.context)
        .add_path(&up.cluster.kubeconfig)?;
    Ok(digest.tag())
}

async fn is_up(paths: &Paths, address: &StackAddress, stamp: &str) -> bool {
    let Ok(runs) = RunDir::all(&paths.state().join("stack")) else { return false };
    let current = runs
        .iter()
        .any(|run| std::fs::read_to_string(run.path.join("stamp")).is_ok_and(|text| text == stamp));
    let Ok(http) = http_client() else { return false };
    let ready = http.get(format!("{}/readyz", address.rest)).send().await;
    current && address.context.exists() && ready.is_ok_and(|answer| answer.status().is_success())
}

async fn start_postgres(
    up: &Bootstrapped,
    choice: &PostgresChoice,
    run: &RunDir,
    programs: &Programs,
    stage: &Stage,
) -> Result<PostgresAccess> {
    let options = PostgresOptions {
        choice,
        image: &up.postgres_image,
        name: format!("hodei-stack-postgres-{}", run.id.short()),
        run: run.id.to_string(),
        durable: true,
        directory: std::env::temp_dir().join(format!("hodei-stack-postgres-{}", run.id.short())),
    };
    let server = PostgresServer::start(&options, &run.journal(None)).await?;
    let access = postgres::ensure_template(server.admin_url(), &programs.server, stage).await;
    server.leave_running();
    access
}

fn standing_environment(
    paths: &Paths,
    (up, features): (&Bootstrapped, BTreeSet<Feature>),
    postgres: PostgresAccess,
    host: HostRoute,
    programs: Programs,
) -> Environment {
    Environment {
        version: Environment::current_version(),
        run: None,
        state: paths.state().to_path_buf(),
        workspace: paths.workspace().to_path_buf(),
        cluster: up.cluster.clone(),
        features,
        worker_image: up.worker_image.clone(),
        postgres,
        host,
        programs,
        keep: Keep::Nothing,
    }
}

async fn start_server(
    up: &Bootstrapped,
    environment: &Environment,
    run: &RunDir,
    stage: &Stage,
) -> Result<()> {
    let journal = run.journal(None);
    stage.line("deploy/kubernetes/install.sh");
    Command::new(environment.workspace.join("deploy/kubernetes/install.sh"))
        .arg("--kubeconfig")
        .arg(&up.cluster.kubeconfig)
        .args(["--context", &up.cluster.context])
        .deadline(APPLY_DEADLINE)
        .run(stage)
        .await
        .infrastructure("apply", "the manifests of deploy/kubernetes")?;
    let private = run.path.join("private");
    ensure_private_dir(&private)?;
    let client = ready::client(&up.cluster).await?;
    let kubeconfig =
        namespace::write_kubeconfig(&client, &up.cluster, CONTROL_PLANE, &private, TOKEN_VALIDITY)
            .await?;
    let database = create_database(environment, run, &journal).await?;
    let options = ServerOptions {
        program: environment.programs.server.clone(),
        database,
        advertised_host: environment.host.hostname.clone(),
        listen: environment.host.listen,
        directory: run.path.clone(),
        arguments: Vec::new(),
        environment: BTreeMap::new(),
        ports: Some(PORTS),
        lifetime: Lifetime::Detached,
    };
    stage.line("hodei-server");
    let server = ServerProcess::start(options, &journal).await?;
    let host = &environment.host;
    let provider = json!({"type": "kubernetes", "name": PROVIDER, "config": {
        "namespace": WORKERS,
        "kubeconfig": kubeconfig,
        "image": up.worker_image.reference,
        "image_pull_policy": "Never",
        "host_aliases": [{"ip": host.address.to_string(), "hostnames": [host.hostname]}],
        "default_cpu_request": "50m",
        "default_memory_request": "64Mi",
        "default_cpu_limit": "1",
        "default_memory_limit": "512Mi",
    }});
    Clients::of(&server)?.post("/api/providers", &provider).await?;
    Ok(())
}

async fn create_database(
    environment: &Environment,
    run: &RunDir,
    journal: &Journal,
) -> Result<crate::environment::SecretUrl> {
    let name = format!("hodei_stack_{}", run.id.short());
    let admin_url = environment.postgres.admin_url.expose().to_owned();
    let entry = journal.intend(Resource::Database { admin_url, name: name.clone() })?;
    let url = postgres::create_database(&environment.postgres, &name).await?;
    journal.mark(entry, State::Created)?;
    Ok(url)
}
